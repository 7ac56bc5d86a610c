//! Experts: which operators work for them, read off the rules.
//!
//! Experts are an axis like others, of a role of its own. An operator that multiplies what each expert is given with what
//! is its own *works*; others *route*, where samples meet experts, or stay *inside*.

use crate::axis::Role;
use crate::graph::{Class, Def, Graph, Kind, Op, PhaseKind, Value};
use crate::id::{Id, OpId, ValueId};
use crate::rule::{DimAccess, Reduce, Rule};
use crate::scalar::Expr;
use crate::signature::SizedRule;

/// How an operator stands to experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expertise {
    /// It walks none.
    None,
    /// It brings to experts or fetches from them, or says who goes where: not all that it reads and writes walks experts.
    Routes,
    /// All that it reads and writes walks experts, and none of it is an expert's own.
    Inside,
    /// It is a product that each expert does with what is its own: its experts, and what they are given (the samples and
    /// their places), as factors.
    Works {
        /// The factors that are experts.
        experts: Vec<usize>,
        /// The factors that walk what experts are given, but not what is their own.
        given: Vec<usize>,
    },
}

/// How an operator stands to experts, which is read off its rule.
pub fn expertise(graph: &Graph, rule: &SizedRule<'_>) -> Expertise {
    let of_role = |role: Role| -> Vec<usize> {
        (0..rule.factors.len()).filter(|factor| graph.axis(rule.rule.factors[*factor]).role == role && rule.can_split(*factor)).collect()
    };
    let experts = of_role(Role::Expert);
    if experts.is_empty() {
        return Expertise::None;
    }
    let accesses = || rule.rule.operands.iter().chain([&rule.rule.result]);
    let walked =
        |factor: usize| -> Vec<bool> { accesses().map(|access| Rule::factors_of(access).any(|walked| walked == factor)).collect() };
    if !experts.iter().any(|expert| walked(*expert).iter().all(|walks| *walks)) {
        return Expertise::Routes;
    }
    let samples = of_role(Role::Batch);
    let given = |factor: &usize| samples.first().is_some_and(|sample| walked(*factor) == walked(*sample));
    let given: Vec<usize> = (0..rule.factors.len()).filter(given).collect();
    let own = samples.first().is_none_or(|sample| walked(*sample).iter().any(|walks| !walks));
    let product = rule.rule.operands.len() == 2 && rule.rule.reduce == Some(Reduce::Sum) && rule.rule.expr == Expr::product(2);
    if product && own { Expertise::Works { experts, given } } else { Expertise::Inside }
}

/// Puts an operator that only copies between what routes and what works for experts. What is exchanged with experts so is
/// a value, which is kept for the backward pass as any other and not exchanged again.
pub fn keep_what_is_exchanged(graph: &mut Graph) {
    let mut copies: Vec<(OpId, OpId, ValueId)> = Vec::new();
    let mut found: Vec<OpId> = Vec::new();
    graph.visit(graph.phase(PhaseKind::Forward), &mut |op, _| found.push(op));
    for op in found {
        for n in 0..graph.op(op).operands.len() {
            let value = graph.op(op).operands[n];
            let made = graph.def_op(value).and_then(|made| SizedRule::of(graph, made));
            let routed = made.is_some_and(|made| expertise(graph, &made) == Expertise::Routes);
            let works = |rule: SizedRule<'_>| matches!(expertise(graph, &rule), Expertise::Works { .. });
            if !routed || !SizedRule::of(graph, op).is_some_and(works) {
                continue;
            }
            let known = copies.iter().find(|(_, _, copied)| *copied == value).map(|(_, copy, _)| *copy);
            let copy = known.unwrap_or_else(|| {
                let copy = copy_of(graph, value);
                copies.push((op, copy, value));
                copy
            });
            graph.ops[op.index()].operands[n] = graph.op(copy).result();
        }
    }
    let place = |list: &mut Vec<OpId>| {
        for (reader, copy, _) in &copies {
            if let Some(at) = list.iter().position(|op| op == reader) {
                list.insert(at, *copy);
            }
        }
    };
    graph.phases.iter_mut().for_each(|phase| place(&mut phase.ops));
    for op in &mut graph.ops {
        if let Kind::Repeat(repeat) = &mut op.kind {
            place(&mut repeat.body);
        }
    }
}

/// A new operator that copies a value, in no list yet.
fn copy_of(graph: &mut Graph, value: ValueId) -> OpId {
    let (op, result) = (OpId::new(graph.ops.len()), ValueId::new(graph.values.len()));
    let source = graph.value(value).clone();
    let access: Vec<DimAccess> = (0..source.ty.dims.len()).map(DimAccess::factor).collect();
    let rule =
        Rule { factors: source.ty.dims.clone(), operands: vec![access.clone()], result: access, reduce: None, expr: Expr::operand(0) };
    let span = graph.def_op(value).and_then(|made| graph.op(made).span);
    graph.values.push(Value { name: format!("{}.given", source.name), def: Def::Result(op, 0), ..source });
    graph.ops.push(Op { kind: Kind::Map(rule), operands: vec![value], results: vec![result], class: Class::Other, composite: None, span });
    op
}
