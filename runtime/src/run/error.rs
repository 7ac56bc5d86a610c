//! Why a run ends before its last step.

use std::path::PathBuf;

use partita_ir::precision::Precision;
use partita_ir::program::verify::Violation;

use crate::comm::CommError;
use crate::data::DataError;
use crate::store::StoreError;

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The precision is not run yet.
    #[error("precision {0} multiplies matrices in {product}, which is planned and not run", product = .0.product)]
    Precision(Precision),
    /// The program is not one that may run.
    #[error("the program is damaged: {}{}", .0[0], more(.0.len()))]
    Program(Vec<Violation>),
    /// The ranks need more memory than there is.
    #[error("{ranks} ranks need {} MiB together, and this machine has {} MiB to spare", .needed >> 20, .available >> 20)]
    Memory {
        /// How many.
        ranks: usize,
        /// Bytes of all arenas.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
    },
    /// A rank could not go on.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file of parameters.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing to go on from.
    #[error("there is no checkpoint in {} to resume from{}", folder.display(), damaged.iter().map(|why| format!("; {why}")).collect::<String>())]
    NothingToResume {
        /// The directory of checkpoints.
        folder: PathBuf,
        /// Why those that are there do not count.
        damaged: Vec<String>,
    },
    /// A new run would mix its checkpoints with those of another.
    #[error("{} holds checkpoints already, the newest of step {step}", folder.display())]
    Occupied {
        /// The directory of checkpoints.
        folder: PathBuf,
        /// The newest step in it.
        step: u64,
    },
    /// A rank panicked.
    #[error("rank {rank} stopped: {reason}")]
    Rank {
        /// Which.
        rank: usize,
        /// Its words.
        reason: String,
    },
}

fn more(violations: usize) -> String {
    match violations {
        0 | 1 => String::new(),
        n => format!("; and {} more", n - 1),
    }
}

impl RunError {
    /// Stable code such as `partita::run::precision`.
    pub fn code(&self) -> &'static str {
        match self {
            RunError::Precision(_) => "partita::run::precision",
            RunError::Program(_) => "partita::program::damaged",
            RunError::Memory { .. } => "partita::run::memory",
            RunError::Comm(_) => "partita::run::communication",
            RunError::Data(DataError::Unreadable { .. }) => "partita::data::unreadable",
            RunError::Data(DataError::BytesNeedVocabulary { .. }) => "partita::data::bytes_need_vocabulary",
            RunError::Data(DataError::PartOfToken { .. }) => "partita::data::part_of_token",
            RunError::Data(DataError::TooShort { .. }) => "partita::data::too_short",
            RunError::Data(DataError::OutsideVocabulary { .. }) => "partita::data::outside_vocabulary",
            RunError::Data(DataError::NoSamples { .. }) => "partita::data::no_samples",
            RunError::Data(DataError::Images { .. }) => "partita::data::images",
            RunError::Data(DataError::OutsideClasses { .. }) => "partita::data::outside_classes",
            RunError::Data(DataError::TokensAndImages) => "partita::data::tokens_and_images",
            RunError::Store(StoreError::Io { .. }) => "partita::store::io",
            RunError::Store(StoreError::Corrupt { .. }) => "partita::store::corrupt",
            RunError::Store(StoreError::Missing { .. }) => "partita::store::missing",
            RunError::Store(StoreError::Shape { .. }) => "partita::store::shape",
            RunError::Store(StoreError::Type { .. }) => "partita::store::type",
            RunError::Store(StoreError::Part { .. }) => "partita::store::part",
            RunError::Store(StoreError::Declaration { .. }) => "partita::store::declaration",
            RunError::Store(StoreError::Unwritten { .. }) => "partita::store::unwritten",
            RunError::Store(StoreError::Incompatible { .. }) => "partita::checkpoint::incompatible",
            RunError::NothingToResume { .. } => "partita::checkpoint::nothing_to_resume",
            RunError::Occupied { .. } => "partita::checkpoint::occupied",
            RunError::Rank { .. } => "partita::run::rank",
        }
    }

    /// What would fix it, if that is known.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            RunError::Precision(_) => {
                "f64, f32, bf16 and fp16 are run: plan again with `--set precision=bf16`, which holds the same and multiplies in bf16"
            }
            RunError::Program(_) => "compile the model again; a program is not to be edited by hand",
            RunError::Memory { .. } => "compile for fewer ranks or with a smaller batch, `--pin recompute=full` or `--pin zero=3`",
            RunError::NothingToResume { .. } => "leave out `--resume` to begin anew",
            RunError::Occupied { .. } => {
                "go on from it with `--resume`, or give another directory: a new run would mix its steps with those"
            }
            RunError::Store(StoreError::Incompatible { .. }) => {
                "give the seed and the model of that run, or another directory; the number of ranks and the plan may differ"
            }
            RunError::Store(StoreError::Shape { .. } | StoreError::Missing { .. }) => {
                "the file must come from a model with the same settings (`--set`)"
            }
            RunError::Store(StoreError::Corrupt { .. }) => "take another copy of the file, or write it again",
            RunError::Data(DataError::OutsideVocabulary { .. }) => {
                "tokenise with the model's vocabulary, or compile with a larger `--set vocab=…`"
            }
            RunError::Data(DataError::NoSamples { .. }) => "compile a model with other settings",
            RunError::Data(DataError::Images { .. }) => {
                "write a safetensors file with `images` (U8, samples first, then the axes of the model's `pixels`) and `labels`"
            }
            RunError::Data(DataError::OutsideClasses { .. }) => "compile with more classes, or leave such images out",
            _ => return None,
        })
    }
}
