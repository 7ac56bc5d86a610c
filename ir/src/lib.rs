//! What a tensor, operator, sharding rule, graph, mesh and layout are.
//!
//! # Values and operators
//!
//! A **value** is a dense tensor: an element type and a list of named axes, outermost first. Booleans, indices and
//! floats are one kind of number; integer tensors (tokens) are only read.
//!
//! An **operator** is a [`rule::Rule`], a loop over named factors. At each point of the factors, each operand is read
//! at an affine index per dimension (outside the tensor it is 0), a scalar expression is evaluated, and points that
//! fall on the same element of the result are folded by a reduction, in row-major order. That is all: matrix product,
//! gather (a one-hot contraction), softmax's pieces, rotary embedding, dropout and reshapes are rules. A **composite**
//! is a label on several operators; it has no meaning of its own.
//!
//! A **repeat** runs its body once per iteration of a **loop** and carries values from one to the next. Inside, values
//! and parameters have one instance per iteration, and a later repeat over the same loop reads the instance of the
//! iteration that it is at; that is how a backward pass meets its forward pass. A repeat may be a **scan**: at each
//! iteration it takes the entry of a tensor along its first axis, and makes one of another. The gradient of the one is the
//! other.
//!
//! # Graphs and steps
//!
//! A **graph** is arenas of axes, values, operators, loops and composites, cut into **phases** in this order: `count`,
//! `forward` and `backward` run once per micro-batch, `seed` and `update` once a step. A **leaf** is what nothing
//! computes: an input, a parameter, a state, a scalar that the run supplies, or the sum over micro-batches of a value.
//! At the end of a step the assignments take place all at once. The loss is (sum, count) over the whole batch.
//!
//! A draw depends on the seed, the step, the operator's salt, the iteration and the global element, and the first
//! value of a parameter on the seed, its name and the element. So no layout and no schedule can change them.
//!
//! What all of this computes is defined by [`interpret`], in f64; what is legal by [`verify`], rule by rule; how it is
//! written down by [`text`].
//!
//! # Meshes and layouts
//!
//! A **mesh** is a named grid of ranks. A **layout** says for each axis of the mesh what it does to a tensor: S deals
//! out the indices of a factor of one dimension, B gives every rank all, P leaves a reduction over ranks to be done. A
//! **shard** follows from the layout alone: in every dimension an ordered list of intervals of global indices. The
//! rule of an operator decides which layouts of operands and result fit together, its **signatures**; a **boxing**
//! turns one layout of a tensor into another.
//!
//! **Invariant:** nothing in this crate knows a model, a parameter or a device, and nothing outside [`library`] and the
//! labels that it sets knows operators by name.

#[macro_use]
mod codes;

pub mod axis;
pub mod boxing;
pub mod build;
pub mod dtype;
pub mod experts;
pub mod formula;
pub mod grad;
pub mod graph;
pub mod id;
pub mod interpret;
pub mod layout;
pub mod library;
pub mod precision;
pub mod program;
pub mod random;
pub mod rewrite;
pub mod rule;
pub mod sample;
pub mod scalar;
pub mod signature;
pub mod step;
pub mod text;
pub mod train;
pub mod verify;
mod whole;
pub mod work;
