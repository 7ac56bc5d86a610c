//! Parameters and checkpoints in files: safetensors, read and written shard by shard.
//!
//! - [`ParameterFile`] reads the part of a tensor that a rank holds, converting floats on the way;
//! - [`Writer`] lets ranks write their parts of one file at the same time, and puts it in place all at once;
//! - [`Checkpoint`] and [`CheckpointWriter`] keep the state of a run in a directory, so that a run that is killed at
//!   any moment loses nothing that was complete.
//!
//! Which part of a tensor is meant is said by a list of intervals `[start, end)` for each dimension; the part is dense
//! and row-major, intervals in the order of the list.
//!
//! **Invariant:** nothing here knows layouts or ranks: names, shapes, element types and intervals alone.

mod boxes;
mod checkpoint;
mod error;
mod read;
mod write;

pub use checkpoint::{Checkpoint, CheckpointMeta, CheckpointWriter, Found, latest};
pub use error::StoreError;
pub use read::ParameterFile;
pub use write::{Declared, Writer, can_write};
