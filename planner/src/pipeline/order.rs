//! The work of a step and the order in which each rank does it.

use std::fmt;

use super::{folded, straight};
use crate::pins::ScheduleKind;
use crate::units::Seconds;

/// The most pieces that the orders of one step may have: more are a mistake, and would not fit in memory.
const MOST_PIECES: u128 = 1 << 28;

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

/// What is done with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkKind {
    /// The forward pass.
    Forward,
    /// The gradients of inputs and of weights together.
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

/// A thing that a rank does without a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Work {
    /// What is done.
    pub kind: WorkKind,
    /// With which chunk; of [`WorkKind::Both`], that of the forward pass.
    pub chunk: u32,
    /// With which micro-batch; of [`WorkKind::Both`], that of the forward pass.
    pub micro_batch: u64,
}

impl Work {
    /// Something done with a piece.
    pub fn new(kind: WorkKind, piece: Piece) -> Self {
        Self { kind, chunk: piece.chunk, micro_batch: piece.micro_batch }
    }

    /// The piece that the work is named by.
    pub fn piece(&self) -> Piece {
        Piece { chunk: self.chunk, micro_batch: self.micro_batch }
    }

    /// The piece that runs forward in it.
    pub fn forward(&self) -> Option<Piece> {
        matches!(self.kind, WorkKind::Forward | WorkKind::Both { .. }).then(|| self.piece())
    }

    /// The piece whose input gradient it gives.
    pub fn input(&self) -> Option<Piece> {
        match self.kind {
            WorkKind::Backward | WorkKind::Input => Some(self.piece()),
            WorkKind::Both { backward } => Some(backward),
            WorkKind::Forward | WorkKind::Weight => None,
        }
    }

    /// The piece whose weight gradient it gives.
    pub fn weight(&self) -> Option<Piece> {
        match self.kind {
            WorkKind::Backward | WorkKind::Weight => Some(self.piece()),
            WorkKind::Both { backward } => Some(backward),
            WorkKind::Forward | WorkKind::Input => None,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            WorkKind::Forward => write!(f, "forward of {}", self.piece()),
            WorkKind::Backward => write!(f, "backward of {}", self.piece()),
            WorkKind::Input => write!(f, "input gradient of {}", self.piece()),
            WorkKind::Weight => write!(f, "weight gradient of {}", self.piece()),
            WorkKind::Both { backward } => write!(f, "forward of {} beside backward of {backward}", self.piece()),
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

/// How long one piece takes on a usual stage. The folded zero-bubble schedule chooses its order by these; the others
/// have one order for all times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// The forward pass.
    pub forward: Seconds,
    /// The gradient of the inputs.
    pub input: Seconds,
    /// The gradient of the weights.
    pub weight: Seconds,
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
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
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
    /// A time that is negative or not finite.
    #[error("{0:?} are not times to order work by")]
    Times(Times),
}

/// The order of work of each rank. Equal arguments give equal orders, every piece runs forward and back exactly once,
/// and no rank waits for ever, for any number of ranks and micro-batches. DualPipeV with less than two micro-batches a
/// rank has nothing to overlap: its order is then that of ZB-V, which has the same stages on each rank.
///
/// # Errors
/// No ranks, no micro-batches, far too many of both, chunks that the schedule does not have, or times that are none.
pub fn orders(kind: ScheduleKind, ranks: u64, micro_batches: u64, chunks: u64, times: &Times) -> Result<Orders, OrderError> {
    if ranks == 0 || micro_batches == 0 {
        return Err(OrderError::Nothing { ranks, micro_batches });
    }
    let placement = Placement::of(kind, ranks, chunks).ok_or(OrderError::Chunks { kind, chunks })?;
    // micro-batches are filled up to whole rounds of the ranks, so both count
    let pieces = u128::from(ranks) * u128::from(chunks) * (u128::from(micro_batches) + u128::from(ranks));
    if pieces > MOST_PIECES {
        return Err(OrderError::TooMany { ranks, chunks, micro_batches });
    }
    if [times.forward, times.input, times.weight].iter().any(|time| !time.0.is_finite() || time.0 < 0.0) {
        return Err(OrderError::Times(*times));
    }
    let of_each = |order: &dyn Fn(u64) -> Vec<Work>| (0..ranks).map(order).collect();
    let m = micro_batches;
    let ranks = match kind {
        ScheduleKind::GPipe => of_each(&|_| straight::gpipe(m)),
        ScheduleKind::OneFOneB => of_each(&|rank| straight::one_f_one_b(ranks, rank, m)),
        ScheduleKind::Interleaved => of_each(&|rank| straight::interleaved(ranks, rank, m, placement.chunks())),
        ScheduleKind::ZbH1 => of_each(&|rank| straight::zero_bubble(ranks - rank, rank, m)),
        ScheduleKind::ZbH2 => of_each(&|rank| straight::zero_bubble(2 * (ranks - rank) - 1, 2 * rank, m)),
        ScheduleKind::ZbV => folded::zero_bubble(ranks, m, times),
        ScheduleKind::DualPipeV if m < 2 * ranks => folded::zero_bubble(ranks, m, times),
        ScheduleKind::DualPipeV => of_each(&|rank| folded::dual_pipe(ranks, rank, m)),
    };
    Ok(Orders { placement, micro_batches, ranks })
}
