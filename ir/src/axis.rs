//! Named axes: the factors that sharding rules and pins speak of.

use serde::{Deserialize, Serialize};

/// What an axis means to the people who pin a plan. Pins speak of roles, never of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Samples of a batch (data parallelism, micro-batches).
    Batch,
    /// Positions of a sequence (sequence and context parallelism).
    Seq,
    /// Rows, columns and the like of an image (context parallelism).
    Spatial,
    /// Attention heads.
    Head,
    /// Entries of a vocabulary.
    Vocab,
    /// Experts.
    Expert,
    /// No role.
    #[default]
    None,
}

impl Role {
    /// Every role with the word that the text forms use for it.
    pub const ALL: [(Role, &'static str); 7] = [
        (Role::Batch, "batch"),
        (Role::Seq, "seq"),
        (Role::Spatial, "spatial"),
        (Role::Head, "head"),
        (Role::Vocab, "vocab"),
        (Role::Expert, "expert"),
        (Role::None, "none"),
    ];

    /// Whether context parallelism deals it out.
    pub fn is_context(self) -> bool {
        matches!(self, Role::Seq | Role::Spatial)
    }

    /// The word of this role.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(role, _)| *role == self).map_or("none", |(_, word)| word)
    }

    /// The role that `word` names.
    pub fn from_word(word: &str) -> Option<Role> {
        Self::ALL.iter().find(|(_, name)| *name == word).map(|(role, _)| *role)
    }
}

/// A named axis of a model. Two dimensions with the same axis are matched by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// Name in the model file.
    pub name: String,
    /// Number of elements.
    pub size: u64,
    /// What it means to pins.
    pub role: Role,
}
