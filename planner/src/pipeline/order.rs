//! The work of a step and the order in which each rank does it.

use std::fmt;

use super::folded::folded;
use super::straight;
use crate::pins::ScheduleKind;

/// The most pieces that the orders of one step may have: more are a mistake, and would not fit in memory.
const MOST_PIECES: u128 = 1 << 22;

/// One micro-batch in one chunk of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Piece {
    /// Which of the rank's chunks of the model, from 0.
    pub chunk: u32,
    /// Which micro-batch of the step, from 0.
    pub micro_batch: u64,
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "micro-batch {} in chunk {}", self.micro_batch, self.chunk)
    }
}

/// What every piece goes through once, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The forward pass.
    Forward,
    /// The gradient of the inputs.
    Input,
    /// The gradient of the weights.
    Weight,
}

impl Pass {
    /// All three.
    pub const ALL: [Pass; 3] = [Pass::Forward, Pass::Input, Pass::Weight];
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Pass::Forward => "forward pass",
            Pass::Input => "input gradient",
            Pass::Weight => "weight gradient",
        })
    }
}

/// What is done with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkKind {
    /// The forward pass.
    Forward,
    /// The gradients of inputs and of weights together: the stage before waits for both.
    Backward,
    /// The gradient of the inputs only, which the stage before waits for.
    Input,
    /// The gradient of the weights only, which nobody waits for.
    Weight,
    /// The forward pass, with the whole backward pass of another piece beside it.
    Both {
        /// The piece whose backward pass it is.
        backward: Piece,
    },
}

impl WorkKind {
    /// What it is, in words.
    pub fn words(self) -> &'static str {
        match self {
            WorkKind::Forward => "forward pass",
            WorkKind::Backward => "backward pass",
            WorkKind::Input => "gradient of the inputs",
            WorkKind::Weight => "gradient of the weights",
            WorkKind::Both { .. } => "forward pass (with a backward pass beside it)",
        }
    }
}

/// A thing that a rank does without a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Work {
    /// What is done.
    pub kind: WorkKind,
    /// With what; of [`WorkKind::Both`], what runs forward.
    pub piece: Piece,
}

impl Work {
    /// The piece that goes through a pass in it.
    pub fn piece_of(&self, pass: Pass) -> Option<Piece> {
        match (self.kind, pass) {
            (WorkKind::Both { backward }, Pass::Input | Pass::Weight) => Some(backward),
            (WorkKind::Forward | WorkKind::Both { .. }, Pass::Forward)
            | (WorkKind::Backward | WorkKind::Input, Pass::Input)
            | (WorkKind::Backward | WorkKind::Weight, Pass::Weight) => Some(self.piece),
            _ => None,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let piece = self.piece;
        match self.kind {
            WorkKind::Forward => write!(f, "forward pass of {piece}"),
            WorkKind::Backward => write!(f, "backward pass of {piece}"),
            WorkKind::Input => write!(f, "input gradient of {piece}"),
            WorkKind::Weight => write!(f, "weight gradient of {piece}"),
            WorkKind::Both { backward } => write!(f, "forward pass of {piece} beside the backward pass of {backward}"),
        }
    }
}

/// How the stages of the model lie on the ranks of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Round and round: `stage = chunk * ranks + rank`.
    Round {
        /// Ranks of the pipeline.
        ranks: u64,
        /// Chunks of each rank.
        chunks: u32,
    },
    /// Down and back up: chunk 0 of rank r is stage r, chunk 1 is stage `2 * ranks - 1 - r`.
    Fold {
        /// Ranks of the pipeline.
        ranks: u64,
    },
}

impl Placement {
    /// Where the stages of a schedule lie. Gives none where the schedule cannot have that many chunks.
    pub fn of(kind: ScheduleKind, ranks: u64, chunks: u64) -> Option<Placement> {
        let chunks = u32::try_from(chunks).ok()?;
        match kind {
            ScheduleKind::Interleaved => (chunks > 0).then_some(Placement::Round { ranks, chunks }),
            ScheduleKind::ZbV | ScheduleKind::DualPipeV => (chunks == 2).then_some(Placement::Fold { ranks }),
            ScheduleKind::GPipe | ScheduleKind::OneFOneB | ScheduleKind::ZbH1 | ScheduleKind::ZbH2 => {
                (chunks == 1).then_some(Placement::Round { ranks, chunks })
            }
        }
    }

    /// Ranks of the pipeline.
    pub fn ranks(self) -> u64 {
        match self {
            Placement::Round { ranks, .. } | Placement::Fold { ranks } => ranks,
        }
    }

    /// Chunks of each rank.
    pub fn chunks(self) -> u32 {
        match self {
            Placement::Round { chunks, .. } => chunks,
            Placement::Fold { .. } => 2,
        }
    }

    /// Stages of the model.
    pub fn stages(self) -> u64 {
        self.ranks() * u64::from(self.chunks())
    }

    /// The stage that is a chunk of a rank.
    pub fn stage(self, rank: u64, chunk: u32) -> u64 {
        match self {
            Placement::Fold { ranks } if chunk == 1 => 2 * ranks - 1 - rank,
            Placement::Round { ranks, .. } | Placement::Fold { ranks } => u64::from(chunk) * ranks + rank,
        }
    }

    /// The rank that a stage lies on.
    pub fn rank(self, stage: u64) -> u64 {
        match self {
            Placement::Fold { ranks } if stage >= ranks => 2 * ranks - 1 - stage,
            Placement::Round { ranks, .. } | Placement::Fold { ranks } => stage % ranks,
        }
    }
}

/// What every rank of a pipeline does in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Where the stages lie.
    pub placement: Placement,
    /// Micro-batches of the step.
    pub micro_batches: u64,
    /// The work of each rank, first to last.
    pub ranks: Vec<Vec<Work>>,
}

/// Why there are no orders.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A pipeline of no ranks, or a step of no micro-batches.
    #[error("a pipeline needs at least one rank and one micro-batch, not {ranks} and {micro_batches}")]
    Nothing {
        /// Ranks asked for.
        ranks: u64,
        /// Micro-batches asked for.
        micro_batches: u64,
    },
    /// A number of chunks that the schedule does not have.
    #[error("schedule {kind} cannot have {chunks} chunks per rank")]
    Chunks {
        /// The schedule.
        kind: ScheduleKind,
        /// Chunks asked for.
        chunks: u64,
    },
    /// More pieces than can be listed.
    #[error("{ranks} ranks of {chunks} chunks and {micro_batches} micro-batches are more work than can be listed")]
    TooMany {
        /// Ranks asked for.
        ranks: u64,
        /// Chunks asked for.
        chunks: u64,
        /// Micro-batches asked for.
        micro_batches: u64,
    },
}

/// The order of work of each rank. Equal arguments give equal orders, every piece goes through every pass exactly once,
/// and no rank waits for ever, for any number of ranks and micro-batches. Orders do not depend on times.
///
/// # Errors
/// No ranks, no micro-batches, far too many of both, or chunks that the schedule does not have.
pub fn orders(kind: ScheduleKind, ranks: u64, micro_batches: u64, chunks: u64) -> Result<Orders, OrderError> {
    if ranks == 0 || micro_batches == 0 {
        return Err(OrderError::Nothing { ranks, micro_batches });
    }
    let placement = Placement::of(kind, ranks, chunks).ok_or(OrderError::Chunks { kind, chunks })?;
    // some schedules are cut out of those of 2 ranks - 1 micro-batches, or of whole rounds of the ranks
    let pieces = u128::from(ranks) * u128::from(chunks) * (u128::from(micro_batches) + 2 * u128::from(ranks));
    if pieces > MOST_PIECES {
        return Err(OrderError::TooMany { ranks, chunks, micro_batches });
    }
    let m = micro_batches;
    let order = |rank| match kind {
        ScheduleKind::GPipe => straight::gpipe(m),
        ScheduleKind::OneFOneB => straight::one_f_one_b(ranks, rank, m),
        ScheduleKind::Interleaved => straight::interleaved(ranks, rank, m, placement.chunks()),
        ScheduleKind::ZbH1 => straight::zero_bubble(ranks - rank, rank, m),
        ScheduleKind::ZbH2 => straight::zero_bubble(2 * (ranks - rank) - 1, 2 * rank, m),
        ScheduleKind::ZbV => folded(ranks, rank, m, false),
        ScheduleKind::DualPipeV => folded(ranks, rank, m, true),
    };
    Ok(Orders { placement, micro_batches, ranks: (0..ranks).map(order).collect() })
}
