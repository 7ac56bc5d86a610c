//! Communicators: how the ranks of a run exchange numbers.
//!
//! A [`Communicator`] is what a rank's program calls: an all-reduce, a general exchange of boxes (every all-gather,
//! reduce-scatter, all-to-all, slice and padding is one, see [`ExchangePlan`]), sends and receives, a barrier. Ranks of
//! one process are threads ([`World::connect`]); other back ends implement the same trait.
//!
//! What every implementation promises:
//! - members of a group call the same collectives of that group in the same order with arguments that agree;
//! - reductions fold in rank order, so all ranks and all runs see the same bits;
//! - a call returns once this rank may overwrite what it passed;
//! - if a rank fails, no other waits for ever: all calls, waiting ones too, end with an error.
//!
//! **Invariant:** nothing here knows layouts, tensors or operators: bytes, element types and boxes alone.

mod channel;
mod error;
mod group;
mod meeting;
mod merge;
mod plan;
#[cfg(test)]
mod tests;
mod world;

pub use error::CommError;
pub use group::Group;
pub use plan::{CopyBox, ExchangePlan, Pull, PullOp};
pub use world::{ThreadCommunicator, World};

use partita_ir::dtype::DType;
use partita_ir::rule::Reduce;

/// One rank's end of the collectives. An error of any call poisons the world: ranks cannot go on after one.
pub trait Communicator: Send {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Ranks of the world.
    fn size(&self) -> usize;

    /// The group of these global ranks: ascending, this one among them. Made once, when a program is prepared, so that
    /// the calls that use it look nothing up.
    fn group(&self, ranks: &[usize]) -> Result<Group, CommError>;

    /// Makes `buffer` of every member the reduction of all, in group order. Elements are `dtype`; `row` of them are
    /// merged together (1 but for the tuples of [`Reduce`]). Returns the bytes that this rank receives when chunks of
    /// whole rows are scattered and gathered: `2 n (p-1)/p` of n bytes if p divides the rows, exact if it does not.
    fn all_reduce(&self, group: &Group, op: Reduce, dtype: DType, row: usize, buffer: &mut [u8]) -> Result<u64, CommError>;

    /// Exposes `source` to the group and fills `target` by `plan`. Returns the bytes pulled from other ranks.
    fn exchange(&self, group: &Group, source: &[u8], target: &mut [u8], plan: &ExchangePlan) -> Result<u64, CommError>;

    /// Returns once every member has called it.
    fn barrier(&self, group: &Group) -> Result<(), CommError>;

    /// Sends a message to `to`. Messages of one channel between two ranks arrive in order. Blocks while as many
    /// messages as the channel holds are unread.
    fn send(&self, to: usize, channel: u64, data: &[u8]) -> Result<(), CommError>;

    /// Receives the next message of `channel` from `from`, which has exactly the length of `data`. Returns its bytes.
    fn receive(&self, from: usize, channel: u64, data: &mut [u8]) -> Result<u64, CommError>;

    /// Bytes of message buffers that the world has allocated so far.
    fn message_bytes(&self) -> u64;
}
