//! Compiled programs: what code generation writes and the runtime reads. One role a stage; ranks of a stage run the
//! same instructions on shards whose sizes follow from the layouts and their coordinates.

pub mod verify;

use serde::{Deserialize, Serialize};

use crate::boxing::Step;
use crate::dtype::DType;
use crate::graph::{Init, PhaseKind, Source};
use crate::layout::{Layout, Mesh, Partition};
use crate::precision::Precision;
use crate::rule::Rule;

/// Index of a buffer in its role.
pub type BufferId = usize;

/// A compiled training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Version of this format.
    pub format: u32,
    /// Name of the model.
    pub model: String,
    /// One line that says what the plan is.
    pub strategy: String,
    /// Final value of everything that can be set.
    pub settings: Vec<(String, String)>,
    /// The types of floating-point values.
    pub precision: Precision,
    /// Samples of a step.
    pub batch: u64,
    /// Positions of a sample: up to the last that an input looks at.
    pub seq: u64,
    /// Size of the vocabulary of the inputs.
    pub vocab: u64,
    /// Micro-batches of a step.
    pub micro_batches: u64,
    /// The mesh of every stage.
    pub mesh: Mesh,
    /// Expected seconds of a step.
    pub predicted_seconds: f64,
    /// Kernels, by index.
    pub kernels: Vec<KernelSpec>,
    /// Boxing steps, by index.
    pub boxings: Vec<BoxingSpec>,
    /// One role a stage. Rank `r` is rank `r mod ranks of the mesh` of stage `r div ranks of the mesh`.
    pub roles: Vec<Role>,
}

impl Program {
    /// Elements of an image along each of its axes, if the program reads any.
    pub fn image(&self) -> Option<Vec<u64>> {
        self.roles.iter().find_map(|role| {
            role.sections.iter().flat_map(|section| &section.instructions).find_map(|instruction| match instruction {
                Instruction::Load { buffer, source: Source::Pixels } => role.buffers.get(*buffer)?.shape.get(1..).map(<[u64]>::to_vec),
                _ => None,
            })
        })
    }

    /// Whether its inputs are images or their labels, and not tokens.
    pub fn reads_images(&self) -> bool {
        let sections = self.roles.iter().flat_map(|role| &role.sections);
        sections
            .flat_map(|section| &section.instructions)
            .any(|instruction| matches!(instruction, Instruction::Load { source: Source::Pixels | Source::Labels, .. }))
    }

    /// Messages that a channel between two stages holds before its sender waits: enough for a pipeline that is full.
    pub fn channel_capacity(&self) -> usize {
        self.roles.len() + 1
    }
}

/// A rule with what is needed to run it on a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelSpec {
    /// A name for people.
    pub name: String,
    /// The rule.
    pub rule: Rule,
    /// Global sizes of its factors.
    pub factors: Vec<u64>,
    /// For each mesh axis the factor that it splits.
    pub splits: Vec<Option<(usize, Partition)>>,
    /// Mesh axes in the order in which splits nest.
    pub order: Vec<usize>,
    /// Element types of the operands.
    pub operands: Vec<DType>,
    /// Global shapes of the operands.
    pub shapes: Vec<Vec<u64>>,
    /// Element type of the result; what is computed in follows from it, see [`DType::arithmetic`].
    pub result: DType,
    /// Whether it is a matrix product, for counting.
    pub gemm: bool,
}

/// A boxing step of tensors of one shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BoxingSpec {
    /// The step.
    pub step: Step,
    /// Global shape.
    pub shape: Vec<u64>,
    /// Element type.
    pub dtype: DType,
}

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// For the whole run, or the whole step.
    Lasting,
    /// From forward to backward of one micro-batch: one copy for each that is in flight.
    Saved,
    /// Within one section.
    Passing,
}

/// A tensor of a role, local to each rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// A name for people.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Global shape.
    pub shape: Vec<u64>,
    /// Layout.
    pub layout: Layout,
    /// Bytes of the largest shard, over ranks and micro-batches.
    pub bytes: u64,
    /// Where it lies.
    pub region: Region,
    /// Byte offset in the arena; of the first copy if it is saved.
    pub offset: u64,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instruction {
    /// Runs a kernel.
    Kernel {
        /// Which.
        kernel: usize,
        /// Iteration of its loop, for random numbers.
        iteration: u64,
        /// What it reads.
        operands: Vec<BufferId>,
        /// What it writes.
        result: BufferId,
        /// Whether micro-batches after the first add to the result.
        accumulate: bool,
    },
    /// Runs a boxing step. With `from == to`, in place.
    Box {
        /// Which.
        boxing: usize,
        /// Before.
        from: BufferId,
        /// After.
        to: BufferId,
    },
    /// Copies, or with `accumulate` adds for micro-batches after the first.
    Copy {
        /// From.
        from: BufferId,
        /// To.
        to: BufferId,
        /// Whether to add.
        accumulate: bool,
    },
    /// Copies an entry of a tensor along its first dimension, which every rank has whole.
    Take {
        /// The tensor.
        from: BufferId,
        /// The entry.
        to: BufferId,
        /// Which.
        at: u64,
    },
    /// Copies to an entry of a tensor along its first dimension, which every rank has whole.
    Put {
        /// The entry.
        from: BufferId,
        /// The tensor.
        to: BufferId,
        /// Which.
        at: u64,
    },
    /// Loads the micro-batch's part of an input.
    Load {
        /// Into.
        buffer: BufferId,
        /// Which input.
        source: Source,
    },
    /// Sends to the rank with the same coordinates in another stage.
    Send {
        /// What.
        buffer: BufferId,
        /// To which stage.
        stage: u64,
        /// On which channel.
        channel: u64,
    },
    /// Receives from the rank with the same coordinates in another stage.
    Receive {
        /// Into.
        buffer: BufferId,
        /// From which stage.
        stage: u64,
        /// On which channel.
        channel: u64,
    },
}

impl Instruction {
    /// Buffers that it reads.
    pub fn reads(&self) -> Vec<BufferId> {
        match self {
            Instruction::Kernel { operands, result, accumulate, .. } => {
                operands.iter().copied().chain(accumulate.then_some(*result)).collect()
            }
            Instruction::Box { from, .. } | Instruction::Take { from, .. } | Instruction::Put { from, .. } => vec![*from],
            Instruction::Copy { from, to, accumulate } => [*from].into_iter().chain(accumulate.then_some(*to)).collect(),
            Instruction::Send { buffer, .. } => vec![*buffer],
            Instruction::Load { .. } | Instruction::Receive { .. } => Vec::new(),
        }
    }

    /// The buffer that it writes.
    pub fn writes(&self) -> Option<BufferId> {
        match self {
            Instruction::Kernel { result, .. } => Some(*result),
            Instruction::Box { to, .. } | Instruction::Copy { to, .. } | Instruction::Take { to, .. } | Instruction::Put { to, .. } => {
                Some(*to)
            }
            Instruction::Load { buffer, .. } | Instruction::Receive { buffer, .. } => Some(*buffer),
            Instruction::Send { .. } => None,
        }
    }

    /// Calls `rename` on every buffer that it names.
    pub fn rename(&mut self, rename: &dyn Fn(BufferId) -> BufferId) {
        match self {
            Instruction::Kernel { operands, result, .. } => {
                operands.iter_mut().for_each(|id| *id = rename(*id));
                *result = rename(*result);
            }
            Instruction::Box { from, to, .. }
            | Instruction::Copy { from, to, .. }
            | Instruction::Take { from, to, .. }
            | Instruction::Put { from, to, .. } => {
                *from = rename(*from);
                *to = rename(*to);
            }
            Instruction::Load { buffer, .. } | Instruction::Send { buffer, .. } | Instruction::Receive { buffer, .. } => {
                *buffer = rename(*buffer);
            }
        }
    }
}

/// What a leaf of the graph is to the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeafKind {
    /// A parameter.
    Param(Init),
    /// A value of the model's own that is kept from step to step.
    State(Init),
    /// A state that begins as the parameter of this name, before that is rounded: drawn as it is, or read with it.
    Copy {
        /// How the parameter begins.
        init: Init,
        /// Its name.
        of: String,
    },
    /// A value that training keeps for itself, as the optimizer does for a parameter.
    Moment(Init),
    /// The number of the step, from 1.
    StepNumber,
}

/// A leaf instance that lies in a role's arena.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeafSpec {
    /// Its name in checkpoints.
    pub name: String,
    /// What it is.
    pub kind: LeafKind,
    /// Where it lies.
    pub buffer: BufferId,
    /// Whether this role is the one that saves it; another only mirrors it.
    pub owner: bool,
}

/// A turn of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// The forward pass of a micro-batch.
    Forward(u64),
    /// The backward pass of a micro-batch.
    Backward(u64),
}

/// The instructions of a phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The phase.
    pub phase: PhaseKind,
    /// Its instructions.
    pub instructions: Vec<Instruction>,
}

/// What the ranks of one stage do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// The stage.
    pub stage: u64,
    /// Buffers, by id.
    pub buffers: Vec<Buffer>,
    /// Bytes of the arena of each rank.
    pub arena_bytes: u64,
    /// Bytes between the copies of saved buffers.
    pub saved_stride: u64,
    /// Copies of saved buffers: micro-batches in flight at once.
    pub in_flight: u64,
    /// The phases, in order.
    pub sections: Vec<Section>,
    /// The order of forward and backward passes.
    pub turns: Vec<Turn>,
    /// Parameters, states and the like.
    pub leaves: Vec<LeafSpec>,
    /// Scalars that the run reports, by name; the same on every rank of the stage.
    pub reports: Vec<(String, BufferId)>,
    /// Gradients at rest after the last backward pass, by parameter: for inspection.
    pub gradients: Vec<(String, BufferId)>,
}

impl Role {
    /// The instructions of a phase.
    pub fn section(&self, phase: PhaseKind) -> &[Instruction] {
        self.sections.iter().find(|section| section.phase == phase).map_or(&[], |section| &section.instructions)
    }
}
