//! Typed indices into the arenas of a [`crate::graph::Graph`].

use serde::{Deserialize, Serialize};

/// A typed index into an arena.
pub trait Id: Copy {
    /// The index with this position.
    fn new(index: usize) -> Self;
    /// The position of this index in its arena.
    fn index(self) -> usize;
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);
        impl Id for $name {
            fn new(index: usize) -> Self {
                Self(u32::try_from(index).expect("an arena holds fewer than 2^32 entries"))
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }
    )*};
}

ids! {
    /// A named axis with its size and role.
    AxisId "@";
    /// A value: what an operator computes or a leaf holds.
    ValueId "%";
    /// An operator.
    OpId "op";
    /// An index domain that repeated blocks iterate over.
    LoopId "loop";
    /// A composite: a named group of primitives.
    CompositeId "composite";
}
