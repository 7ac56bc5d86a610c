//! From the program of a role to what one rank does: every size, offset, group and kernel decided before the first step.

use std::collections::BTreeMap;
use std::sync::Arc;

use partita_ir::boxing::{Shape, StepKind};
use partita_ir::dtype::DType;
use partita_ir::graph::{PhaseKind, Source};
use partita_ir::layout::{Intervals, Layout, Share, Split, count};
use partita_ir::program::{BoxingSpec, BufferId, Instruction, Program, Region, Role};
use partita_ir::rule::{DimAccess, Reduce};
use partita_ir::scalar::Node;

use super::RunError;
use crate::comm::{Communicator, CopyBox, ExchangePlan, Group, Pull, PullOp};
use crate::kernel::{Extent, Kernel, LaunchSpec};

/// A buffer's place for one micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Byte offset in the arena.
    pub offset: usize,
    /// Bytes that this rank uses of it.
    pub bytes: usize,
}

/// One thing to do.
pub enum Act {
    /// Runs a kernel.
    Kernel {
        /// It.
        kernel: Arc<Kernel>,
        /// What it reads.
        operands: Vec<Place>,
        /// What it writes.
        result: Place,
        /// Iteration, for random numbers.
        iteration: u64,
        /// Whether it adds.
        accumulate: bool,
    },
    /// All-reduces a buffer in place.
    AllReduce {
        /// Among these.
        group: Group,
        /// The reduction.
        op: Reduce,
        /// Elements.
        dtype: DType,
        /// Elements merged together.
        row: usize,
        /// The buffer.
        place: Place,
        /// Its name among the kinds of steps.
        kind: StepKind,
    },
    /// Exchanges boxes.
    Exchange {
        /// Among these.
        group: Group,
        /// What is pulled.
        plan: ExchangePlan,
        /// From this buffer of each.
        from: Place,
        /// Into this one.
        to: Place,
        /// What the step is called.
        kind: StepKind,
    },
    /// Copies or adds.
    Copy {
        /// From.
        from: Place,
        /// To.
        to: Place,
        /// Element type.
        dtype: DType,
        /// Whether it adds.
        accumulate: bool,
    },
    /// Loads data.
    Load {
        /// Into.
        place: Place,
        /// Which input.
        source: Source,
        /// Element type.
        dtype: DType,
        /// Samples of the batch.
        samples: Intervals,
        /// The part of each: positions, or the axes of an image.
        part: Vec<Intervals>,
    },
    /// Sends to a rank.
    Send {
        /// To whom.
        to: usize,
        /// On which channel.
        channel: u64,
        /// What.
        place: Place,
    },
    /// Receives from a rank.
    Receive {
        /// From whom.
        from: usize,
        /// On which channel.
        channel: u64,
        /// Into.
        place: Place,
    },
}

/// What one rank does in a step.
pub struct Prepared {
    /// Acts of each section, by phase and micro-batch (0 for phases that run once).
    pub sections: BTreeMap<(PhaseKind, u64), Vec<Act>>,
    /// Temporary memory of kernels.
    pub scratch_bytes: usize,
    /// FLOPs of the matrix products of a step.
    pub gemm_flops: u64,
}

/// A rank's view of its role.
pub struct View<'a> {
    /// The program.
    pub program: &'a Program,
    /// The role.
    pub role: &'a Role,
    /// Rank within the stage.
    pub rank: u64,
}

impl<'a> View<'a> {
    /// The view of a global rank.
    pub fn new(program: &'a Program, rank: usize) -> Self {
        let per_stage = program.mesh.ranks();
        let stage = rank as u64 / per_stage;
        let role = program.roles.iter().find(|role| role.stage == stage).expect("there is a role for each stage");
        Self { program, role, rank: rank as u64 % per_stage }
    }

    fn global(&self, rank: u64) -> usize {
        (self.role.stage * self.program.mesh.ranks() + rank) as usize
    }

    /// The part of a buffer's tensor that the rank holds at a micro-batch.
    pub fn shard(&self, buffer: BufferId, moment: u64) -> Vec<Intervals> {
        let buffer = &self.role.buffers[buffer];
        buffer.layout.shard(&buffer.shape, &self.program.mesh, &self.program.mesh.coordinates(self.rank, moment))
    }

    /// Where a buffer lies at a micro-batch.
    pub fn place(&self, id: BufferId, moment: u64) -> Place {
        let buffer = &self.role.buffers[id];
        let elements: u64 = self.shard(id, moment).iter().map(|held| count(held)).product();
        let copy = if buffer.region == Region::Saved { moment % self.role.in_flight } else { 0 };
        Place { offset: (buffer.offset + copy * self.role.saved_stride) as usize, bytes: buffer.dtype.bytes(elements) as usize }
    }

    /// Whether this rank is the one that writes its shard of a buffer to a file: the first of those that hold the same.
    pub fn is_first_holder(&self, id: BufferId) -> bool {
        let at = self.program.mesh.coordinates(self.rank, 0);
        let layout = &self.role.buffers[id].layout;
        layout.0.iter().zip(at).all(|(share, coordinate)| !matches!(share, Share::Broadcast) || coordinate == 0)
    }
}

/// Prepares a rank.
pub fn prepare(view: &View<'_>, communicator: &dyn Communicator) -> Result<Prepared, RunError> {
    let mut kernels: BTreeMap<(usize, Vec<Intervals>), Arc<Kernel>> = BTreeMap::new();
    let mut sections = BTreeMap::new();
    let mut prepared = Prepared { sections: BTreeMap::new(), scratch_bytes: 0, gemm_flops: 0 };
    for section in &view.role.sections {
        let moments = if section.phase.per_micro_batch() { view.program.micro_batches } else { 1 };
        for moment in 0..moments {
            let mut acts = Vec::with_capacity(section.instructions.len());
            for instruction in &section.instructions {
                let act = act(view, communicator, instruction, moment, &mut kernels)?;
                if let Act::Kernel { kernel, .. } = &act {
                    prepared.scratch_bytes = prepared.scratch_bytes.max(kernel.scratch_bytes() as usize);
                    prepared.gemm_flops += kernel.flops();
                }
                acts.push(act);
            }
            sections.insert((section.phase, moment), acts);
        }
    }
    prepared.sections = sections;
    Ok(prepared)
}

fn act(
    view: &View<'_>,
    communicator: &dyn Communicator,
    instruction: &Instruction,
    moment: u64,
    kernels: &mut BTreeMap<(usize, Vec<Intervals>), Arc<Kernel>>,
) -> Result<Act, RunError> {
    let place = |id: BufferId| view.place(id, moment);
    Ok(match instruction {
        Instruction::Kernel { kernel, iteration, operands, result, accumulate } => Act::Kernel {
            kernel: kernel_at(view, *kernel, moment, kernels),
            operands: operands.iter().map(|id| place(*id)).collect(),
            result: place(*result),
            iteration: *iteration,
            accumulate: *accumulate && moment > 0,
        },
        Instruction::Box { boxing, from, to } => boxing_act(view, communicator, &view.program.boxings[*boxing], *from, *to, moment)?,
        Instruction::Copy { from, to, accumulate } => {
            Act::Copy { from: place(*from), to: place(*to), dtype: view.role.buffers[*from].dtype, accumulate: *accumulate && moment > 0 }
        }
        Instruction::Take { from, to, at } => {
            let to = place(*to);
            Act::Copy { from: entry(place(*from), *at, to.bytes), to, dtype: view.role.buffers[*from].dtype, accumulate: false }
        }
        Instruction::Put { from, to, at } => {
            let from = place(*from);
            Act::Copy { from, to: entry(place(*to), *at, from.bytes), dtype: view.role.buffers[*to].dtype, accumulate: false }
        }
        Instruction::Load { buffer, source } => {
            let mut shard = view.shard(*buffer, moment).into_iter();
            let (samples, part) = (shard.next().unwrap_or_default(), shard.collect());
            Act::Load { place: place(*buffer), source: *source, dtype: view.role.buffers[*buffer].dtype, samples, part }
        }
        Instruction::Send { buffer, stage, channel } => {
            Act::Send { to: (stage * view.program.mesh.ranks() + view.rank) as usize, channel: *channel, place: place(*buffer) }
        }
        Instruction::Receive { buffer, stage, channel } => {
            Act::Receive { from: (stage * view.program.mesh.ranks() + view.rank) as usize, channel: *channel, place: place(*buffer) }
        }
    })
}

/// Where entry `at` of a tensor lies, along its first dimension.
fn entry(whole: Place, at: u64, bytes: usize) -> Place {
    Place { offset: whole.offset + at as usize * bytes, bytes }
}

/// The part of a rule's factors that a rank walks at a micro-batch.
pub fn extents(view: &View<'_>, kernel: usize, moment: u64) -> Vec<Extent> {
    let spec = &view.program.kernels[kernel];
    let mesh = &view.program.mesh;
    let at = mesh.coordinates(view.rank, moment);
    spec.factors
        .iter()
        .enumerate()
        .map(|(factor, &size)| {
            let mut layout = Layout::broadcast(mesh);
            let mut depth = 0;
            for &axis in &spec.order {
                if let Some((_, partition)) = spec.splits[axis].filter(|(split, _)| *split == factor) {
                    layout.0[axis] = Share::Split(Split::new(0, size, 1, depth, partition));
                    depth += 1;
                }
            }
            Extent { size, intervals: layout.shard(&[size], mesh, &at).remove(0) }
        })
        .collect()
}

fn kernel_at(view: &View<'_>, kernel: usize, moment: u64, kernels: &mut BTreeMap<(usize, Vec<Intervals>), Arc<Kernel>>) -> Arc<Kernel> {
    let spec = &view.program.kernels[kernel];
    let mut extents = extents(view, kernel, moment);
    // where a factor's indices do not matter, shards of one size share a kernel
    let sizes = |factor: usize| spec.factors[factor];
    let dims = || spec.rule.operands.iter().zip(&spec.shapes).flat_map(|(access, shape)| access.iter().zip(shape));
    for (factor, extent) in extents.iter_mut().enumerate() {
        let seen = |(dim, size): (&DimAccess, &u64)| dim.terms.iter().any(|term| term.factor == factor) && !dim.is_exact(*size, &sizes);
        let matters = dims().any(seen)
            || spec.rule.expr.nodes.iter().any(|node| match node {
                Node::Index(known) => *known == factor,
                Node::Random { factors, .. } => factors.contains(&factor),
                _ => false,
            });
        if !matters {
            let held = extent.count();
            extent.intervals = if held == 0 { Vec::new() } else { vec![(0, held)] };
        }
    }
    let key = (kernel, extents.iter().map(|extent| extent.intervals.clone()).collect());
    let prepare = || {
        Arc::new(Kernel::prepare(&LaunchSpec {
            rule: &spec.rule,
            extents,
            operand_dtypes: &spec.operands,
            operand_shapes: spec.shapes.clone(),
            result: spec.result,
        }))
    };
    Arc::clone(kernels.entry(key).or_insert_with(prepare))
}

fn boxing_act(
    view: &View<'_>,
    communicator: &dyn Communicator,
    spec: &BoxingSpec,
    from: BufferId,
    to: BufferId,
    moment: u64,
) -> Result<Act, RunError> {
    let mesh = &view.program.mesh;
    let step = &spec.step;
    let members: Vec<u64> = if step.kind.is_local() { vec![view.rank] } else { mesh.group(view.rank, &step.axes) };
    let ranks: Vec<usize> = members.iter().map(|rank| view.global(*rank)).collect();
    let group = communicator.group(&ranks)?;
    let pending = step.from.0.iter().chain(&step.to.0).find_map(|share| if let Share::Partial(op) = share { Some(*op) } else { None });
    let row = match pending {
        Some(op) if op.is_tuple() => spec.shape.last().copied().unwrap_or(1) as usize,
        _ => 1,
    };
    if step.kind == StepKind::AllReduce {
        let op = pending.unwrap_or(Reduce::Sum);
        return Ok(Act::AllReduce { group, op, dtype: spec.dtype, row, place: view.place(to, moment), kind: step.kind });
    }
    let shape = Shape { dims: &spec.shape, mesh };
    let merges = step
        .axes
        .iter()
        .any(|axis| matches!((step.from.0[*axis], step.to.0[*axis]), (Share::Partial(_), other) if !matches!(other, Share::Partial(_))));
    let becomes_partial =
        step.axes.iter().any(|axis| matches!(step.to.0[*axis], Share::Partial(_)) && step.from.0[*axis] != step.to.0[*axis]);
    let here = step.to.shard(&spec.shape, mesh, &mesh.coordinates(view.rank, moment));
    let pulls: Vec<Pull> = shape
        .pulls(step, view.rank, moment)
        .into_iter()
        .map(|pull| {
            let held = step.from.shard(&spec.shape, mesh, &mesh.coordinates(pull.rank, moment));
            Pull {
                from: members.iter().position(|rank| *rank == pull.rank).expect("pulls stay in the group"),
                op: if merges { PullOp::Merge(pending.unwrap_or(Reduce::Sum)) } else { PullOp::Copy },
                boxes: copy_boxes(&held, &here, &pull.region),
            }
        })
        .collect();
    let fill = (merges || becomes_partial).then(|| pending.unwrap_or(Reduce::Sum));
    let plan = ExchangePlan::new(spec.dtype, row, fill, &pulls)?;
    Ok(Act::Exchange { group, plan, from: view.place(from, moment), to: view.place(to, moment), kind: step.kind })
}

/// The boxes that move `region` from a dense shard to another.
fn copy_boxes(source: &[Intervals], target: &[Intervals], region: &[Intervals]) -> Vec<CopyBox> {
    let strides = |shard: &[Intervals]| -> Vec<u64> {
        let mut stride = 1;
        let mut out: Vec<u64> = shard
            .iter()
            .rev()
            .map(|held| {
                let here = stride;
                stride *= count(held);
                here
            })
            .collect();
        out.reverse();
        out
    };
    let (source_strides, target_strides) = (strides(source), strides(target));
    // by dimension: runs that are contiguous in both shards, as (source position, target position, length)
    let runs: Vec<Vec<(u64, u64, u64)>> = region
        .iter()
        .enumerate()
        .map(|(dim, wanted)| {
            let position = |shard: &[(u64, u64)], index: u64| {
                let before: u64 = shard.iter().map(|(start, end)| end.min(&index).saturating_sub(*start)).sum();
                before
            };
            wanted.iter().map(|(start, end)| (position(&source[dim], *start), position(&target[dim], *start), end - start)).collect()
        })
        .collect();
    let mut boxes = vec![CopyBox {
        source_offset: 0,
        target_offset: 0,
        sizes: Vec::new(),
        source_strides: source_strides.clone(),
        target_strides: target_strides.clone(),
    }];
    for (dim, runs) in runs.iter().enumerate() {
        boxes = boxes
            .into_iter()
            .flat_map(|base| {
                let (from, to) = (source_strides[dim], target_strides[dim]);
                runs.iter().map(move |(source, target, length)| {
                    let mut next = base.clone();
                    next.source_offset += source * from;
                    next.target_offset += target * to;
                    next.sizes.push(*length);
                    next
                })
            })
            .collect();
    }
    boxes
}
