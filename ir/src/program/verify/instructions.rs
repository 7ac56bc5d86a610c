//! Instructions and leaves against the buffers that they name.

use std::collections::{BTreeMap, BTreeSet};

use super::shards::Shards;
use super::structure::place;
use super::{Code, Report};
use crate::boxing::StepKind;
use crate::dtype::DType;
use crate::graph::Source;
use crate::layout::{Layout, Share, Split, count};
use crate::program::{Buffer, Instruction, KernelSpec, LeafKind, Program, Region, Role};
use crate::rule::Reduce;

pub(super) fn check(report: &mut Report<'_>, shards: &mut Shards<'_>) {
    let program = report.program;
    let mut fitting = Fitting { program, known: BTreeSet::new() };
    for role in &program.roles {
        for section in &role.sections {
            for (n, instruction) in section.instructions.iter().enumerate() {
                let at = || place(program, role.stage, section.phase.word(), n, instruction);
                let loads = section.phase.per_micro_batch() || !matches!(instruction, Instruction::Load { .. });
                report.check(loads, Code::Loaded, at, || "inputs are of a micro-batch, and this runs once a step".to_owned());
                one(report, shards, &mut fitting, role, &at, instruction);
            }
        }
        leaves(report, role);
    }
    owners(report);
}

fn one(
    report: &mut Report<'_>,
    shards: &mut Shards<'_>,
    fitting: &mut Fitting<'_>,
    role: &Role,
    at: &dyn Fn() -> String,
    instruction: &Instruction,
) {
    let program = report.program;
    let buffer = |id: usize| &role.buffers[id];
    match instruction {
        Instruction::Kernel { kernel, operands, result, accumulate, .. } => {
            let spec = &program.kernels[*kernel];
            if !report.check(operands.len() == spec.operands.len(), Code::Operands, at, || {
                format!("it is given {} operands and reads {}", operands.len(), spec.operands.len())
            }) {
                return;
            }
            // what is wrong with the kernel was said there
            if report.found.iter().any(|found| matches!(found.code, Code::Kernel | Code::KernelType | Code::KernelSplit)) {
                return;
            }
            for (n, id) in operands.iter().enumerate() {
                let (held, shape) = (buffer(*id), &spec.shapes[n]);
                let fits = held.dtype == spec.operands[n] && held.shape == *shape && fitting.fits(shards, *kernel, Some(n), held);
                report.check(fits, Code::Operands, at, || mismatch(held, &format!("operand {n}"), spec.operands[n], shape));
            }
            let held = buffer(*result);
            let shape: Vec<u64> =
                spec.rule.result.iter().map(|dim| dim.terms.iter().map(|term| spec.factors[term.factor]).product()).collect();
            let fits = held.dtype == spec.result && held.shape == shape && fitting.fits(shards, *kernel, None, held);
            report.check(fits, Code::Operands, at, || mismatch(held, "its result", spec.result, &shape));
            let in_place = operands.iter().enumerate().filter(|(_, operand)| *operand == result);
            let element_wise =
                in_place.clone().all(|(n, _)| spec.rule.operands[n] == spec.rule.result && !accumulate && spec.operands[n] == spec.result);
            let adds = !accumulate || matches!(spec.rule.reduce, None | Some(Reduce::Sum));
            report.check(element_wise && adds, Code::InPlace, at, || format!("it cannot write into `{}`", held.name));
        }
        Instruction::Box { boxing, from, to } => {
            let spec = &program.boxings[*boxing];
            for (id, layout) in [(*from, &spec.step.from), (*to, &spec.step.to)] {
                let held = buffer(id);
                let fits = held.dtype == spec.dtype
                    && held.shape == spec.shape
                    && (held.layout == *layout || shards.of_buffer(held) == shards.of(layout, &spec.shape));
                report.check(fits, Code::Boxed, at, || mismatch(held, &format!("its side in layout {layout}"), spec.dtype, &spec.shape));
            }
            let in_place = spec.step.kind == StepKind::AllReduce;
            report.check((from == to) == in_place, Code::Boxed, at, || {
                let must = if in_place { "in place" } else { "from one buffer to another" };
                format!("it runs from `{}` to `{}`, and must run {must}", buffer(*from).name, buffer(*to).name)
            });
        }
        Instruction::Copy { from, to, .. } => {
            let (source, target) = (buffer(*from), buffer(*to));
            let (ours, theirs) = (shards.of_buffer(source), shards.of_buffer(target));
            let sizes = ours.iter().zip(theirs.iter()).all(|(a, b)| a == b || shards.elements(*a) == shards.elements(*b));
            let alike = source.dtype == target.dtype && sizes;
            report.check(alike && from != to, Code::Copied, at, || format!("`{}` cannot be copied to `{}`", source.name, target.name));
        }
        Instruction::Take { from, to, at: index } | Instruction::Put { from, to, at: index } => {
            let (whole, entry) = if matches!(instruction, Instruction::Take { .. }) { (from, to) } else { (to, from) };
            let (whole, entry) = (buffer(*whole), buffer(*entry));
            let along = whole.shape.first().is_some_and(|size| index < size) && whole.shape[1..] == entry.shape;
            let alike = along && whole.dtype == entry.dtype;
            let held = whole
                .layout
                .entry()
                .filter(|_| alike)
                .is_some_and(|layout| layout == entry.layout || shards.of(&layout, &entry.shape) == shards.of_buffer(entry));
            report.check(held, Code::Copied, at, || format!("`{}` is no entry {index} of `{}`", entry.name, whole.name));
        }
        Instruction::Load { buffer: id, source } => {
            let held = buffer(*id);
            let dtype = if source.is_float() { program.precision.accumulate } else { DType::I32 };
            let image = program.image().unwrap_or_default();
            let (rest, fits) = match (source, &held.shape[..]) {
                (Source::Pixels, [_, rest @ ..]) => (image.clone(), *rest == image[..]),
                (Source::Labels, rest) => (Vec::new(), rest.len() == 1),
                // a sample has a token more than positions
                (_, [_, positions]) => (vec![program.seq + 1], source.needs(*positions) <= program.seq + 1),
                _ => (Vec::new(), false),
            };
            let fits = fits && held.dtype == dtype && held.shape.first() == Some(&program.batch);
            let shape = [&[program.batch], &rest[..]].concat();
            report.check(fits, Code::Loaded, at, || mismatch(held, "a sample", dtype, &shape));
        }
        Instruction::Send { .. } | Instruction::Receive { .. } => {}
    }
}

fn mismatch(held: &Buffer, what: &str, dtype: DType, shape: &[u64]) -> String {
    format!(
        "`{}` is {} {:?} in layout {}, and {what} is {dtype} {shape:?} in another or other shards",
        held.name, held.dtype, held.shape, held.layout
    )
}

/// Whether buffers hold what kernels walk, looked up once for each kernel, operand and layout.
struct Fitting<'a> {
    program: &'a Program,
    known: BTreeSet<(usize, Option<usize>, Layout)>,
}

impl Fitting<'_> {
    fn fits(&mut self, shards: &mut Shards<'_>, kernel: usize, operand: Option<usize>, buffer: &Buffer) -> bool {
        let key = (kernel, operand, buffer.layout.clone());
        if self.known.contains(&key) {
            return true;
        }
        let spec = &self.program.kernels[kernel];
        let access = operand.map_or(&spec.rule.result, |n| &spec.rule.operands[n]);
        let sizes = |factor: usize| spec.factors[factor];
        let held = shards.of_buffer(buffer);
        let fits = access.iter().zip(&buffer.shape).enumerate().all(|(dim, (access, size))| {
            let walked = access.terms.iter().map(|term| shards.of(&split(self.program, spec, term.factor), &[sizes(term.factor)]));
            let walked: Vec<_> = walked.collect();
            let exact = access.is_exact(*size, &sizes);
            held.iter().enumerate().all(|(place, held)| {
                let held = &shards.shard(*held)[dim];
                match (exact, &walked[..]) {
                    // what the factors reach must be there, and nothing else
                    (false, walked) => {
                        let extents = |factor: usize| {
                            let term = access.terms.iter().position(|term| term.factor == factor).expect("a factor of this access");
                            (sizes(factor), &shards.shard(walked[term][place])[0][..])
                        };
                        let (first, end) = access.reached(*size, &extents);
                        if first < end { *held == [(first, end)] } else { held.is_empty() }
                    }
                    // one factor makes up the dimension: its very indices
                    (true, [walked]) => shards.shard(walked[place])[0] == *held,
                    (true, walked) => walked.iter().map(|walked| shards.elements(walked[place])).product::<u64>() == count(held),
                }
            })
        });
        if fits {
            self.known.insert(key);
        }
        fits
    }
}

/// How the indices of a factor are dealt out.
fn split(program: &Program, spec: &KernelSpec, factor: usize) -> Layout {
    let mut layout = Layout::broadcast(&program.mesh);
    let mut depth = 0;
    for &axis in &spec.order {
        if let Some((_, partition)) = spec.splits[axis].filter(|(split, _)| *split == factor) {
            layout.0[axis] = Share::Split(Split::new(0, spec.factors[factor], 1, depth, partition));
            depth += 1;
        }
    }
    layout
}

fn leaves(report: &mut Report<'_>, role: &Role) {
    let pending = |buffer: &Buffer| buffer.layout.0.iter().any(|share| matches!(share, Share::Partial(_)));
    for (n, leaf) in role.leaves.iter().enumerate() {
        let at = || format!("stage {}, leaf `{}`", role.stage, leaf.name);
        let held = &role.buffers[leaf.buffer];
        let timely = held.layout.0.iter().zip(&report.program.mesh.axes).all(|(share, axis)| !axis.time || *share == Share::Broadcast);
        let fits = held.dtype.is_float()
            && held.region == Region::Lasting
            && !pending(held)
            && timely
            && (leaf.kind != LeafKind::StepNumber || held.shape.is_empty());
        report.check(fits, Code::Leaf, at, || {
            format!("`{}` is {} {:?} in layout {}, {:?}", held.name, held.dtype, held.shape, held.layout, held.region)
        });
        let first = role.leaves[..n].iter().all(|other| other.name != leaf.name && other.buffer != leaf.buffer);
        report.check(first, Code::Owner, at, || "its name or its buffer is another leaf's of the stage".to_owned());
    }
    for (name, id) in &role.reports {
        let held = &role.buffers[*id];
        let fits = held.dtype.is_float() && held.shape.is_empty();
        report.check(
            fits,
            Code::Report,
            || format!("stage {}, report `{name}`", role.stage),
            || format!("`{}` is {} {:?} in layout {}", held.name, held.dtype, held.shape, held.layout),
        );
    }
    for (name, id) in &role.gradients {
        let held = &role.buffers[*id];
        let fits = held.dtype.is_float();
        report.check(fits, Code::Report, || format!("stage {}, gradient `{name}`", role.stage), || format!("it is {}", held.dtype));
    }
}

/// Parameters and states are saved once, and all roles mean the same tensor.
fn owners(report: &mut Report<'_>) {
    let mut seen: BTreeMap<&str, Vec<(u64, bool, DType, &[u64])>> = BTreeMap::new();
    for role in &report.program.roles {
        for leaf in role.leaves.iter().filter(|leaf| leaf.kind != LeafKind::StepNumber) {
            let held = &role.buffers[leaf.buffer];
            seen.entry(&leaf.name).or_default().push((role.stage, leaf.owner, held.dtype, &held.shape));
        }
    }
    for (name, holders) in seen {
        let owners = holders.iter().filter(|holder| holder.1).count();
        let alike = holders.iter().all(|holder| (holder.2, holder.3) == (holders[0].2, holders[0].3));
        report.check(
            owners == 1 && alike,
            Code::Owner,
            || format!("leaf `{name}`"),
            || {
                let shown: Vec<String> =
                    holders.iter().map(|(stage, _, dtype, shape)| format!("{dtype} {shape:?} on stage {stage}")).collect();
                format!("{owners} stages own it: {}", shown.join(", "))
            },
        );
    }
}
