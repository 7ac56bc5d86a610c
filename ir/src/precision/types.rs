//! A recipe in a graph: which value has which type, and the casts between them.
//!
//! A training step is built in the type of the arithmetic. Then, for a recipe with narrower types:
//!
//! - Parameters are of the parameter's type, states of the moments' or the master copy's, what is added up over
//!   micro-batches for a parameter of the gradient's, and so is what such a sum is made of.
//! - A fold that one of its floating-point operands walks whole is a *statistic* of that tensor (the largest of a row, a
//!   sum of squares, the loss): it keeps the type of the arithmetic. A matrix product, a gather, a convolution has no
//!   such operand. Neither is a tuple rounded, whose members may be indices.
//! - What else a micro-batch computes has the parameter's type if some value of that type becomes part of it: the
//!   normalised row is made of a row, the mean of a statistic. What is only compared, or chosen by, becomes no part:
//!   ranks, counts and places are whole numbers, and stay exact.
//! - The phases that run once a step keep the type of the arithmetic, but for what becomes a parameter or state.
//!
//! Every operator computes in the type of the arithmetic and is rounded to its result's. A cast is an operator like any
//! other: the identity, with a result of another type. Where a repeat carries a value from one type into another, one is
//! put in between.

use std::collections::{BTreeMap, BTreeSet};

use super::Precision;
use crate::dtype::DType;
use crate::graph::{Class, Def, Graph, Init, Kind, Leaf, Op, PhaseKind, Type, Value};
use crate::id::{Id, LoopId, OpId, ValueId};
use crate::rule::{DimAccess, Rule};
use crate::scalar::{Binary, Expr, Node, NodeId, Unary};

/// Gives every value of a training step its type. `gradients` are the values that are added up over micro-batches for
/// parameters.
pub(crate) fn assign(graph: &mut Graph, precision: &Precision, gradients: &BTreeSet<ValueId>) {
    if precision.is_uniform() {
        return;
    }
    leaves(graph, precision);
    let sums = sums_of(graph, gradients);
    narrow(graph, precision, &sums);
    for index in 0..graph.values.len() {
        if let Def::Leaf(Leaf::Accumulated(from)) = graph.values[index].def {
            graph.values[index].ty.dtype = graph.value(from).ty.dtype;
        }
    }
    for assign in graph.assigns.clone() {
        graph.values[assign.value.index()].ty.dtype = graph.value(assign.target).ty.dtype;
    }
    slices(graph);
    carried(graph);
}

/// Entries that a scan takes have their tensor's type, and tensors that it collects their entries'.
fn slices(graph: &mut Graph) {
    for op in 0..graph.ops.len() {
        let Kind::Repeat(repeat) = graph.ops[op].kind.clone() else { continue };
        for slice in repeat.taken {
            graph.values[slice.each.index()].ty.dtype = graph.value(slice.whole).ty.dtype;
        }
        for slice in repeat.collected {
            graph.values[slice.whole.index()].ty.dtype = graph.value(slice.each).ty.dtype;
        }
    }
}

fn leaves(graph: &mut Graph, precision: &Precision) {
    for value in &mut graph.values {
        match &value.def {
            Def::Leaf(Leaf::Param(_)) => value.ty.dtype = precision.parameter,
            Def::Leaf(Leaf::State { init: Init::Copy, .. }) => value.ty.dtype = precision.master,
            Def::Leaf(Leaf::State { of: Some(_), .. }) => value.ty.dtype = precision.moments,
            _ => {}
        }
    }
}

/// The gradients, and what plain sums of them are made of.
fn sums_of(graph: &Graph, gradients: &BTreeSet<ValueId>) -> BTreeSet<ValueId> {
    let mut sums = BTreeSet::new();
    let mut todo: Vec<ValueId> = gradients.iter().copied().collect();
    while let Some(value) = todo.pop() {
        if !sums.insert(value) {
            continue;
        }
        let (op, n) = match graph.value(value).def {
            Def::Result(op, n) | Def::Carried(op, n) => (graph.op(op), n),
            Def::Taken(op, n) => {
                if let Kind::Repeat(repeat) = &graph.op(op).kind {
                    todo.push(repeat.taken[n].whole);
                }
                continue;
            }
            Def::Leaf(_) => continue,
        };
        match &op.kind {
            Kind::Repeat(repeat) => match repeat.carried.get(n) {
                Some(carried) => todo.extend([carried.init, carried.arg, carried.next, op.results[n]]),
                None => todo.push(repeat.collected[n - repeat.carried.len()].each),
            },
            Kind::Map(rule) if rule.reduce.is_none() && (rule.expr == Expr::sum(rule.operands.len()) || rule.is_move()) => {
                todo.extend(op.operands.iter().filter(|operand| !matches!(graph.value(**operand).def, Def::Leaf(_))));
            }
            Kind::Map(_) => {}
        }
    }
    sums
}

/// Types of what forward and backward compute.
fn narrow(graph: &mut Graph, precision: &Precision, sums: &BTreeSet<ValueId>) {
    for value in sums {
        graph.values[value.index()].ty.dtype = precision.gradient;
    }
    let mut ops = Vec::new();
    for kind in [PhaseKind::Forward, PhaseKind::Backward] {
        for op in graph.phase(kind) {
            if let Kind::Repeat(repeat) = &graph.op(*op).kind {
                ops.extend(&repeat.body);
            }
            ops.push(*op);
        }
    }
    // a value that becomes narrow makes others narrow, in the next round at the latest
    loop {
        let mut changed = false;
        for op in &ops {
            let op = graph.op(*op).clone();
            let is_narrow = |value: ValueId| graph.value(value).ty.dtype == precision.parameter;
            let becomes: Vec<ValueId> = match &op.kind {
                Kind::Map(rule) if !is_statistic(graph, &op, rule) => {
                    let rounded = (0..op.operands.len()).any(|n| is_narrow(op.operands[n]) && reaches(&rule.expr, n));
                    if rounded { vec![op.result()] } else { Vec::new() }
                }
                Kind::Map(_) => Vec::new(),
                Kind::Repeat(repeat) => {
                    let carried = repeat.carried.iter().zip(&op.results);
                    let narrow = carried.filter(|(carried, _)| is_narrow(carried.init) || is_narrow(carried.next));
                    let taken = repeat.taken.iter().filter(|slice| is_narrow(slice.whole)).map(|slice| slice.each);
                    let collected = repeat.collected.iter().filter(|slice| is_narrow(slice.each)).map(|slice| slice.whole);
                    narrow.flat_map(|(carried, result)| [carried.arg, *result]).chain(taken).chain(collected).collect()
                }
            };
            for value in becomes.into_iter().filter(|value| !sums.contains(value)) {
                let ty = &mut graph.values[value.index()].ty;
                changed |= ty.dtype != precision.parameter;
                ty.dtype = precision.parameter;
            }
        }
        if !changed {
            break;
        }
    }
}

/// Whether operand `n` becomes part of the value, and is not only compared with something or a condition.
fn reaches(expr: &Expr, n: usize) -> bool {
    let mut reached: Vec<bool> = Vec::with_capacity(expr.nodes.len());
    for node in &expr.nodes {
        let at = |id: &NodeId| reached[*id as usize];
        reached.push(match node {
            Node::Operand(operand) => *operand == n,
            Node::Binary(Binary::Lt | Binary::Le | Binary::Eq | Binary::Ne, ..) | Node::Unary(Unary::Not | Unary::Sign, _) => false,
            Node::Select(_, a, b) => at(a) || at(b),
            other => other.inputs().any(|input| at(&input)),
        });
    }
    reached[expr.root as usize]
}

/// Whether an operator folds one tensor (some floating-point operand walks every factor) or into a tuple.
fn is_statistic(graph: &Graph, op: &Op, rule: &Rule) -> bool {
    let whole = |n: usize| {
        let walked: BTreeSet<usize> = Rule::factors_of(&rule.operands[n]).collect();
        walked.len() == rule.factors.len() && graph.value(op.operands[n]).ty.dtype.is_float()
    };
    rule.reduce.is_some_and(|reduce| reduce.is_tuple() || (0..op.operands.len()).any(whole))
}

/// Casts where a repeat begins with, or hands on, a value of another type than it carries.
fn carried(graph: &mut Graph) {
    let repeats: Vec<(PhaseKind, OpId)> = graph.phases.iter().flat_map(|phase| phase.ops.iter().map(|op| (phase.kind, *op))).collect();
    for (phase, id) in repeats {
        let Kind::Repeat(repeat) = graph.op(id).kind.clone() else { continue };
        let mut before: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut repeat = repeat;
        for carried in &mut repeat.carried {
            let dtype = graph.value(carried.arg).ty.dtype;
            if graph.value(carried.init).ty.dtype != dtype {
                let known = before.get(&carried.init).copied().filter(|cast| graph.value(*cast).ty.dtype == dtype);
                let cast = known.unwrap_or_else(|| {
                    let (op, cast) = self::cast(graph, carried.init, dtype, None);
                    let ops = &mut graph.phases.iter_mut().find(|known| known.kind == phase).expect("the repeat is in it").ops;
                    let at = ops.iter().position(|op| *op == id).expect("the repeat is in its phase");
                    ops.insert(at, op);
                    cast
                });
                before.insert(carried.init, cast);
                carried.init = cast;
            }
            if graph.value(carried.next).ty.dtype != dtype {
                let (op, cast) = self::cast(graph, carried.next, dtype, Some(repeat.over));
                repeat.body.push(op);
                carried.next = cast;
            }
        }
        graph.ops[id.index()].kind = Kind::Repeat(repeat);
    }
}

/// A value in another type, made by an operator that is in no list yet.
fn cast(graph: &mut Graph, value: ValueId, dtype: DType, within: Option<LoopId>) -> (OpId, ValueId) {
    let Value { name, ty, .. } = graph.value(value).clone();
    let (op, result) = (OpId::new(graph.ops.len()), ValueId::new(graph.values.len()));
    let access: Vec<DimAccess> = (0..ty.dims.len()).map(DimAccess::factor).collect();
    let rule = Rule { factors: ty.dims.clone(), operands: vec![access.clone()], result: access, reduce: None, expr: Expr::operand(0) };
    graph.ops.push(Op {
        kind: Kind::Map(rule),
        operands: vec![value],
        results: vec![result],
        class: Class::Other,
        composite: None,
        span: None,
    });
    graph.values.push(Value { name, ty: Type { dtype, dims: ty.dims }, def: Def::Result(op, 0), within });
    (op, result)
}
