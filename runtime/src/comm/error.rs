//! What can go wrong between ranks.

use partita_ir::dtype::DType;
use partita_ir::rule::Reduce;

/// Why a call of a communicator failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommError {
    /// Some rank failed, so the run is over.
    #[error("the run was stopped: {reason}")]
    Poisoned {
        /// What the rank that failed first said.
        reason: String,
    },
    /// This rank waited for one that has ended.
    #[error("rank {rank} ended while others waited for it")]
    Departed {
        /// The rank that is gone.
        rank: usize,
    },
    /// Members of a group called different collectives, or one with different arguments.
    #[error("ranks of the group {ranks:?} disagree: rank {first} calls {first_call}, rank {second} calls {second_call}")]
    Disagree {
        /// The group.
        ranks: Vec<usize>,
        /// A member.
        first: usize,
        /// What it called.
        first_call: String,
        /// Another member.
        second: usize,
        /// What that one called.
        second_call: String,
    },
    /// A reduction that is not defined on these elements.
    #[error("{op} of rows of {row} {dtype} is not supported", op = .op.word())]
    Unsupported {
        /// The reduction.
        op: Reduce,
        /// Element type.
        dtype: DType,
        /// Elements per row.
        row: usize,
    },
    /// A list of ranks that is no group of the calling rank.
    #[error("{ranks:?} is no group of rank {rank} in a world of {size}: {why}")]
    BadGroup {
        /// The list.
        ranks: Vec<usize>,
        /// The caller.
        rank: usize,
        /// Ranks of the world.
        size: usize,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A buffer or an exchange that does not fit.
    #[error("{0}")]
    DoesNotFit(String),
}
