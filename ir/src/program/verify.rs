//! The verifier of programs: reports everything that is wrong with one, and never panics.
//!
//! A program without violations runs to its end on any machine with enough memory: it stays inside its arenas, reads
//! nothing that was not written, and its ranks do not wait for one another for ever. Each bullet is one check and one
//! [`Code`].
//!
//! Structure (nothing else is checked while one of these fails):
//! - `mesh`: sizes are at least 1, ranks at most [`MAX_RANKS`]; axes of time make up the micro-batches.
//! - `stages`: there is a role for each stage, in order, with 1 to all micro-batches in flight.
//! - `id_range`: every buffer, kernel, boxing, factor and mesh axis that is named exists.
//! - `layout`: a layout has a share for each mesh axis, and its splits walk dimensions that exist, in canonical order.
//! - `too_large`: elements of a tensor stay below 2^62, and the pieces of its shards, of all ranks and micro-batches
//!   together, below 2^24.
//! - `sections`: the phases of a role stand in order of execution, each at most once.
//!
//! Kernels and boxings:
//! - `kernel`: its lists are as long as its rule's, and its rule is legal, as [`crate::verify`] says of operators.
//! - `kernel_type`: it computes in floats from what is stored: f32, f64, i32 and the types of the program's precision.
//! - `kernel_split`: each mesh axis of ranks or time splits a factor at most once, and only a factor that no operand
//!   walks in a dimension that is not exact.
//! - `boxing`: it changes layouts along its axes of ranks only, by one reduction, and no rank needs one outside its group.
//!
//! Instructions:
//! - `operands`: a kernel's operands and result are of its types and shapes, and its shards of them are what they hold.
//! - `in_place`: a kernel that writes where it reads does so element by element; one that adds is a sum.
//! - `boxed`: a boxing's buffers hold its layouts; an all-reduce is in place, anything else is not.
//! - `copied`: both ends of a copy are of one type and size on every rank, and two buffers.
//! - `loaded`: inputs are i32 of (batch, seq), loaded where micro-batches run.
//!
//! Leaves and results:
//! - `leaf`: a leaf lasts, is floating point, whole where it is P, and the step's number is a scalar.
//! - `owner`: every parameter and state is owned by one role, of one type and shape in all, and named once in each.
//! - `report`: reports are floating-point scalars that each rank holds.
//!
//! Memory:
//! - `size`: a buffer's bytes are those of its largest shard.
//! - `arena`: buffers lie on cache lines, inside the arena, saved ones with all their copies.
//! - `overlap`: buffers that are alive together share no byte.
//! - `region`: a passing buffer is used in one section, a saved one in forward and backward only.
//! - `unwritten`: what is read was written before.
//!
//! Time:
//! - `turns`: every micro-batch goes forward once, then backward once, and no two in flight share a copy.
//! - `peer`: messages go to another stage that exists.
//! - `message`: a message is received as what it was sent, of the same micro-batch, and all messages are received.
//! - `deadlock`: with channels of [`Program::channel_capacity`] messages no stage waits for ever.

mod instructions;
mod memory;
mod order;
mod shards;
mod specs;
mod structure;

use std::fmt;

use super::Program;
use shards::Shards;

/// More ranks than threads of one process can be.
pub const MAX_RANKS: u64 = 1 << 16;

codes! {
    Mesh "mesh"
    Stages "stages"
    IdRange "id_range"
    Layout "layout"
    TooLarge "too_large"
    Sections "sections"
    Kernel "kernel"
    KernelType "kernel_type"
    KernelSplit "kernel_split"
    Boxing "boxing"
    Operands "operands"
    InPlace "in_place"
    Boxed "boxed"
    Copied "copied"
    Loaded "loaded"
    Leaf "leaf"
    Owner "owner"
    Report "report"
    Size "size"
    Arena "arena"
    Overlap "overlap"
    Region "region"
    Unwritten "unwritten"
    Turns "turns"
    Peer "peer"
    Message "message"
    Deadlock "deadlock"
}

/// One thing that is wrong with a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which check failed.
    pub code: Code,
    /// Where: a stage, kernel or boxing with its number.
    pub at: String,
    /// What is wrong, with names and numbers.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.at, self.text, self.code.word())
    }
}

/// Everything that is wrong with `program`, in a fixed order; nothing if it is legal.
pub fn verify(program: &Program) -> Vec<Violation> {
    let mut report = Report { program, found: Vec::new() };
    structure::check(&mut report);
    // the other checks look things up by the ids and compute with the sizes
    if report.found.is_empty() {
        let mut shards = Shards::new(program);
        specs::kernels(&mut report);
        instructions::check(&mut report, &mut shards);
        memory::check(&mut report, &mut shards);
        order::check(&mut report, &mut shards);
        specs::boxings(&mut report, &shards);
    }
    report.found
}

/// The program under test and what was found so far.
struct Report<'a> {
    program: &'a Program,
    found: Vec<Violation>,
}

impl Report<'_> {
    /// Reports unless `holds`; gives `holds` back.
    fn check(&mut self, holds: bool, code: Code, at: impl FnOnce() -> String, text: impl FnOnce() -> String) -> bool {
        if !holds {
            self.found.push(Violation { code, at: at(), text: text() });
        }
        holds
    }
}
