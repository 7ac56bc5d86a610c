//! What the ranks of a program do in a step, as sizes: all that a price needs to know of it.
//!
//! The runtime gives it for its own kernels and collectives, the planner prices it by a device's curves.

use crate::boxing::StepKind;

/// One thing that a rank does.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Runs a kernel.
    Kernel(KernelWork),
    /// Copies or fills within the rank; bytes read and written.
    Move(u64),
    /// A collective of these ranks, which all must have come to it.
    Collective {
        /// Its kind; never a local one.
        kind: StepKind,
        /// Ranks, ascending.
        members: Vec<usize>,
        /// Bytes of the buffer that is reduced; of an exchange those that this rank reads and writes.
        bytes: u64,
    },
    /// Sends to a rank on a channel.
    Send {
        /// To whom.
        to: usize,
        /// On which channel.
        channel: u64,
        /// Bytes of the message.
        bytes: u64,
    },
    /// Waits for a message of a channel and takes it.
    Receive {
        /// From whom.
        from: usize,
        /// On which channel.
        channel: u64,
        /// Bytes of the message.
        bytes: u64,
    },
}

/// What a kernel does on one rank, once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelWork {
    /// Matrix products that it is, if it is one.
    pub matmul: Option<Matmul>,
    /// Bytes of elements that it reads and writes, each once; 0 of matrix products.
    pub bytes: u64,
    /// Its operands and its result, where the memory of a whole step is known.
    pub reuse: Vec<Reuse>,
    /// Rows of lanes that it starts.
    pub rows: u64,
    /// Blocks of lanes that it runs its steps over.
    pub blocks: u64,
    /// Steps that it runs over blocks, all told.
    pub steps: u64,
    /// Steps over lanes by kind, and on how many lanes.
    pub lanes: Vec<(LaneStep, u64)>,
    /// Whether it is too small for more than one thread.
    pub serial: bool,
}

/// Memory that an act uses, and how much else its rank used since it last did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    /// Bytes of it.
    pub bytes: u64,
    /// Bytes of everything that was used since, itself among it.
    pub distance: u64,
}

/// Matrix products of one shape: (m k), (k n) -> (m n), the result contiguous along n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matmul {
    /// Sizes along m, n and k.
    pub sizes: [u64; 3],
    /// How many of them.
    pub calls: u64,
    /// Whether the left matrix is contiguous along m, not k.
    pub left_turned: bool,
    /// Whether the right matrix is contiguous along k, not n.
    pub right_turned: bool,
}

macro_rules! lane_steps {
    ($($(#[$doc:meta])* $name:ident $word:literal)*) => {
        /// Kinds of steps over lanes, by what they cost.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum LaneStep { $($(#[$doc])* $name),* }
        impl LaneStep {
            /// Every kind with its word.
            pub const ALL: &'static [(LaneStep, &'static str)] = &[$((LaneStep::$name, $word)),*];
        }
    };
}

lane_steps! {
    /// A sum, product and the like.
    Arithmetic "arithmetic"
    /// A comparison, or a choice by one.
    Choose "choose"
    /// The number of the row or the column.
    Index "index"
    /// A quotient or a square root.
    Divide "divide"
    /// `e^x`.
    Exp "exp"
    /// A sigmoid.
    Sigmoid "sigmoid"
    /// A logarithm.
    Log "log"
    /// A hyperbolic tangent.
    Tanh "tanh"
    /// The error function.
    Erf "erf"
    /// A sine or a cosine.
    Sine "sine"
    /// A power whose exponent is no small constant.
    Power "power"
    /// A random draw.
    Draw "draw"
    /// A copy of neighbouring elements of an operand: of another type, or with gaps.
    Read "read"
    /// A copy of elements of an operand that lie far apart.
    ReadFar "read_far"
    /// Folding the lanes of a block to one number.
    Fold "fold"
    /// Moving an element to where neighbours are others.
    Turn "turn"
}

impl LaneStep {
    /// The word that cluster files use.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }
}
