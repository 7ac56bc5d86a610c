//! What can go wrong with files of parameters.

use std::path::{Path, PathBuf};

/// Why parameters could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The bytes are no safetensors file, or one that was cut.
    #[error("{} is no complete safetensors file: {why}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The first thing wrong.
        why: String,
    },
    /// The file lacks a tensor.
    #[error("{} has no tensor `{name}`{}", path.display(), did_you_mean(.near, *.tensors))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Names in the file that look like it, the most alike first.
        near: Vec<String>,
        /// How many tensors the file has.
        tensors: usize,
    },
    /// The tensor has another shape.
    #[error("`{name}` has shape {found:?} in {} and {wanted:?} in the model", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<u64>,
        /// The shape that was asked for.
        wanted: Vec<u64>,
    },
    /// The tensor has elements that do not convert.
    #[error("`{name}` holds {found} in {} and cannot be read as {wanted}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its element type in the file, as safetensors calls it.
        found: String,
        /// The element type that was asked for.
        wanted: String,
    },
    /// Intervals or a buffer that do not fit a tensor.
    #[error("the part {intervals:?} of `{name}` {shape:?} {why}")]
    Part {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The part.
        intervals: Vec<Vec<(u64, u64)>>,
        /// What does not fit.
        why: String,
    },
    /// Tensors that cannot be declared together in one file.
    #[error("cannot write a file with the tensor `{name}`: {why}")]
    Declaration {
        /// The tensor.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// A file was finished before all of it was written.
    #[error("`{name}` of {} was not written in full: {written} of {elements} elements", path.display())]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// The first such tensor.
        name: String,
        /// Elements that were written (more than it has, if some were written twice).
        written: u64,
        /// Elements that it has.
        elements: u64,
    },
    /// A checkpoint of another run.
    #[error("the checkpoint {} is not one of this run: {}", path.display(), differences.join("; "))]
    Incompatible {
        /// The checkpoint.
        path: PathBuf,
        /// What differs, a sentence each.
        differences: Vec<String>,
    },
}

impl StoreError {
    /// For `map_err`: what was being done to which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io { action, path, source }
    }
}

fn did_you_mean(near: &[String], tensors: usize) -> String {
    match near {
        [] => format!(" (it has {tensors})"),
        near => {
            format!(" (it has {tensors}); did you mean {}?", near.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or "))
        }
    }
}
