//! The verifier: reports everything that is wrong with a graph, and never panics.
//!
//! It holds for any graph, before and after differentiation; a pass that gets a graph without violations gives one
//! without. Each bullet is one check, one [`Code`] and one test that breaks exactly it.
//!
//! Arenas:
//! - `id_range`: every axis, value, operator, loop and composite that is named exists. Nothing else is checked while one does not.
//! - `axis_size`: an axis has at least one element.
//! - `loop_count`: a loop has at least one iteration.
//! - `axis_twice`: no axis stands twice in a type.
//! - `too_large`: elements of a type, points of a rule and indices that it reads stay below 2^62.
//! - `span`: a span does not end before it starts.
//!
//! Definitions:
//! - `definition`: a value's `def` and the operator that it names agree, so every value is defined exactly once.
//! - `placement`: every operator stands exactly once in a phase or in a body.
//! - `phase_order`: phases stand in order of execution, each at most once.
//! - `nested_repeat`: a body holds no repeat.
//! - `within`: what a body defines has an instance per iteration of its loop; what other operators define has not.
//!
//! Uses:
//! - `use_before_definition`: an operator reads only leaves and what runs before it.
//! - `scope`: a value with an instance per iteration is read only where an iteration of that loop is known.
//! - `micro_batch`: what runs once a step reads no input and no value of a micro-batch but accumulated ones.
//! - `accumulated_early`: an accumulated value is read only in phases that start when its last micro-batch is done.
//!
//! Rules:
//! - `arity`: a primitive has as many operands as its rule and one result, a repeat no operands and as many results as carried values.
//! - `rank`: an access has one entry for each dimension.
//! - `factor_range`: accesses and expressions name factors that the rule has.
//! - `factor_unused`: the result, an operand or the expression reads every factor.
//! - `factor_twice`: the result walks no factor twice.
//! - `result_exact`: the factors of a result's dimension walk it exactly.
//! - `reduce`: there is a reduction if and only if a factor is not in the result.
//! - `tuple`: the last dimension of a reduced tuple is one factor; `argmax` has one entry more than folded factors.
//! - `expression`: a node reads only earlier nodes and operands that exist, and the root exists.
//! - `result_float`: a primitive's result is floating point; integers are only read.
//! - `carried_type`: init, argument, next and result of a carried value have one type.
//! - `slice`: what a repeat takes or collects has an entry of each iteration along its first axis; results that are
//!   collected stand behind those that are carried.
//!
//! Leaves and the step:
//! - `leaf_name`: the names of leaves differ.
//! - `leaf_float`: parameters, states and supplied scalars are floating point.
//! - `input`: an input is of integers over two axes, and outside loops.
//! - `supplied`: a supplied scalar has no axes and is outside loops.
//! - `state_of`: a state belongs to a parameter of the same loop; one that begins as a copy belongs to one.
//! - `accumulated`: what is accumulated is computed once a micro-batch and has the same axes and loop.
//! - `assign_target`: only parameters and states are assigned, each at most once.
//! - `assign_type`: the next value has the type and loop of its target.
//! - `loss`: the loss's sum and count are computed scalars outside loops.
//! - `report`: reports are computed scalars outside loops, and their names differ.

mod ids;
mod leaves;
mod order;
mod primitive;
mod structure;

use std::fmt;

use crate::graph::Graph;
use crate::id::{AxisId, LoopId, OpId, ValueId};

codes! {
    IdRange "id_range"
    AxisSize "axis_size"
    LoopCount "loop_count"
    AxisTwice "axis_twice"
    TooLarge "too_large"
    Span "span"
    Definition "definition"
    Placement "placement"
    PhaseOrder "phase_order"
    NestedRepeat "nested_repeat"
    Within "within"
    UseBeforeDefinition "use_before_definition"
    Scope "scope"
    MicroBatch "micro_batch"
    AccumulatedEarly "accumulated_early"
    Arity "arity"
    Rank "rank"
    FactorRange "factor_range"
    FactorUnused "factor_unused"
    FactorTwice "factor_twice"
    ResultExact "result_exact"
    Reduce "reduce"
    Tuple "tuple"
    Expression "expression"
    ResultFloat "result_float"
    CarriedType "carried_type"
    Slice "slice"
    LeafName "leaf_name"
    LeafFloat "leaf_float"
    Input "input"
    Supplied "supplied"
    StateOf "state_of"
    Accumulated "accumulated"
    AssignTarget "assign_target"
    AssignType "assign_type"
    Loss "loss"
    Report "report"
}

/// What a violation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The graph as a whole: phases, loss, reports.
    Graph,
    /// An axis.
    Axis(AxisId),
    /// A loop.
    Loop(LoopId),
    /// A value.
    Value(ValueId),
    /// An operator.
    Op(OpId),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Graph => f.write_str("graph"),
            Place::Axis(id) => id.fmt(f),
            Place::Loop(id) => id.fmt(f),
            Place::Value(id) => id.fmt(f),
            Place::Op(id) => id.fmt(f),
        }
    }
}

/// One thing that is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which check failed.
    pub code: Code,
    /// What it is about.
    pub at: Place,
    /// What is wrong, with names and numbers.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.at, self.text, self.code.word())
    }
}

/// Everything that is wrong with `graph`, in a fixed order; nothing if it is legal.
pub fn verify(graph: &Graph) -> Vec<Violation> {
    let mut report = Report { graph, found: Vec::new() };
    ids::check(&mut report);
    // the other checks look things up by these ids
    if report.found.is_empty() {
        structure::check(&mut report);
        primitive::check(&mut report);
        order::check(&mut report);
        leaves::check(&mut report);
    }
    report.found
}

/// The graph under test and what was found so far.
struct Report<'a> {
    graph: &'a Graph,
    found: Vec<Violation>,
}

impl Report<'_> {
    /// Reports unless `holds`; gives `holds` back.
    fn check(&mut self, holds: bool, code: Code, at: Place, text: impl FnOnce() -> String) -> bool {
        if !holds {
            self.found.push(Violation { code, at, text: text() });
        }
        holds
    }
}
