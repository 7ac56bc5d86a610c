//! The layouts that a foreign stack has inside its pins: which logical axes each mesh axis deals out.
//!
//! Data axes deal out samples, context axes positions. Tensor axes deal out what a block has inside: heads, and the axes of
//! weights that are not on its residual stream (the feed-forward's, the vocabulary); operators that walk neither are
//! replicated, or deal out positions with sequence parallelism. That is the column and row parallelism of Megatron-LM (Shoeybi
//! et al. 2019; Korthikanti et al. 2022), read off the graph.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::axis::Role;
use partita_ir::graph::{Class, Graph, Kind, PhaseKind};
use partita_ir::id::{AxisId, OpId, ValueId};
use partita_ir::layout::{Layout, Share};
use partita_ir::rule::Reduce;
use partita_ir::signature::{Choice, Signature, SizedRule, partition_for};

use crate::layouts::primitives;
use crate::mesh::{AxisUse, MeshPlan};

/// The signature of every operator that runs once a micro-batch.
pub fn signatures(graph: &Graph, mesh: &MeshPlan, sp: bool) -> BTreeMap<OpId, Signature> {
    let inner = inner_axes(graph);
    let mut out: BTreeMap<OpId, Signature> = BTreeMap::new();
    let mut layouts: BTreeMap<ValueId, Layout> = BTreeMap::new();
    for (op, phase, _) in primitives(graph) {
        if !matches!(phase, PhaseKind::Forward | PhaseKind::Backward) {
            continue;
        }
        let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
        let mut left = rule.factors.clone();
        let choices = (0..mesh.uses.len())
            .map(|axis| {
                let parts = mesh.mesh.axes[axis].size;
                if super::groups::is_sum(&rule.rule.expr)
                    && let Some(pass) = pending(graph, op, &rule, &layouts, axis)
                {
                    return pass;
                }
                let factor = factor(graph, op, &rule, mesh.uses[axis], sp, &inner, &left, parts);
                if let Some(factor) = factor {
                    left[factor] = left[factor].div_ceil(parts);
                    let role = graph.axis(rule.rule.factors[factor]).role;
                    return Choice::Split { factor, partition: partition_for(role, mesh.partitions[axis]) };
                }
                pending(graph, op, &rule, &layouts, axis).unwrap_or(Choice::Replicate)
            })
            .collect::<Vec<_>>();
        let choices = if rule.compatible(&choices) { choices } else { without_passes(choices) };
        let signature = Signature { choices, order: mesh.running_order() };
        layouts.insert(graph.op(op).result(), rule.result_layout(&signature));
        out.insert(op, signature);
    }
    out
}

fn without_passes(choices: Vec<Choice>) -> Vec<Choice> {
    let replicated = |choice| if matches!(choice, Choice::Pass { .. }) { Choice::Replicate } else { choice };
    choices.into_iter().map(replicated).collect()
}

/// Axes that tensor parallelism deals out: heads, and axes of parameters without heads that are not on the stream that
/// repeats carry.
pub fn inner_axes(graph: &Graph) -> BTreeSet<AxisId> {
    let role = |axis: &AxisId| graph.axis(*axis).role;
    let mut stream: BTreeSet<AxisId> = BTreeSet::new();
    for op in graph.phase(PhaseKind::Forward) {
        if let Kind::Repeat(repeat) = &graph.op(*op).kind {
            stream.extend(repeat.carried.iter().flat_map(|carried| &graph.value(carried.arg).ty.dims));
        }
    }
    let mut inner = BTreeSet::new();
    for param in graph.params() {
        let dims = &graph.value(param).ty.dims;
        if dims.iter().any(|axis| role(axis) == Role::Head) {
            inner.extend(dims.iter().copied().filter(|axis| role(axis) == Role::Head));
        } else {
            inner.extend(
                dims.iter().copied().filter(|axis| !stream.contains(axis) && role(axis) != Role::Batch && !role(axis).is_context()),
            );
        }
    }
    inner
}

#[expect(clippy::too_many_arguments, reason = "one place where every rule of dealing meets")]
fn factor(
    graph: &Graph,
    op: OpId,
    rule: &SizedRule<'_>,
    axis_use: AxisUse,
    sp: bool,
    inner: &BTreeSet<AxisId>,
    left: &[u64],
    parts: u64,
) -> Option<usize> {
    let of = |factor: &usize| rule.rule.factors[*factor];
    let with_role = |role: Role| (0..left.len()).find(|factor| graph.axis(of(factor)).role == role && rule.can_split(*factor));
    match axis_use {
        AxisUse::Data | AxisUse::Micro => with_role(Role::Batch),
        // constants of positions are the same everywhere
        _ if rule.rule.operands.is_empty() => None,
        AxisUse::Context => (0..left.len()).find(|factor| graph.axis(of(factor)).role.is_context() && rule.can_split(*factor)),
        AxisUse::Tensor => {
            let mut walked = (0..left.len()).filter(|factor| inner.contains(&of(factor)) && rule.can_split(*factor));
            let loss = graph.op(op).class == Class::Loss;
            match walked.find(|factor| left[*factor] >= parts) {
                Some(factor) => Some(factor),
                None if sp && !loss && !(0..left.len()).any(|factor| inner.contains(&of(&factor))) => with_role(Role::Seq),
                None => None,
            }
        }
    }
}

/// What is pending on an axis in all that is summed stays pending: it is reduced once. So it is with the gradients of weights.
fn pending(graph: &Graph, op: OpId, rule: &SizedRule<'_>, layouts: &BTreeMap<ValueId, Layout>, axis: usize) -> Option<Choice> {
    let sum = super::groups::is_sum(&rule.rule.expr);
    if !sum && rule.rule.factors.iter().any(|factor| graph.axis(*factor).role == Role::Batch) {
        return None;
    }
    let partial = |value: &ValueId| layouts.get(value).is_some_and(|layout| layout.0[axis] == Share::Partial(Reduce::Sum));
    let operands: Vec<usize> = (0..rule.operands.len()).filter(|n| partial(&graph.op(op).operands[*n])).collect();
    if sum && operands.len() < rule.operands.len() {
        return None;
    }
    let choice = Choice::Pass { op: Reduce::Sum, operands };
    rule.choices().contains(&choice).then_some(choice)
}
