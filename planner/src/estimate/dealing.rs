//! The layouts that a foreign stack has inside its pins: which logical axes each mesh axis deals out.
//!
//! Data axes deal out samples, context axes positions. Tensor axes deal out what a block has inside: heads, and the axes of
//! weights that are not on its residual stream (the feed-forward's, the vocabulary); operators that walk neither are
//! replicated, or deal out positions with sequence parallelism. That is the column and row parallelism of Megatron-LM (Shoeybi
//! et al. 2019; Korthikanti et al. 2022), read off the graph.
//!
//! Work of experts follows their own tiling: their axes deal out experts, their tensor axes what an expert has inside, the
//! rest what experts are given. Routing stays with the samples, so that what lies between is an all-to-all (GShard, Lepikhin
//! et al. 2021).

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::axis::Role;
use partita_ir::experts::{Expertise, expertise};
use partita_ir::graph::{Class, Graph, Kind, PhaseKind};
use partita_ir::id::{AxisId, OpId, ValueId};
use partita_ir::layout::{Layout, Partition, Share};
use partita_ir::rule::Reduce;
use partita_ir::signature::{Choice, Signature, SizedRule, partition_for};

use crate::layouts::primitives;
use crate::mesh::{AxisUse, ExpertUse, MeshPlan};

/// The signature of every operator that runs once a micro-batch.
pub fn signatures(graph: &Graph, mesh: &MeshPlan, sp: bool) -> BTreeMap<OpId, Signature> {
    let (at_experts, given) = at_experts(graph);
    let dealing = Dealing { graph, mesh, sp, inner: inner_axes(graph), at_experts, given };
    let order = micro_first(mesh);
    let mut out: BTreeMap<OpId, Signature> = BTreeMap::new();
    let mut layouts: BTreeMap<ValueId, Layout> = BTreeMap::new();
    for (op, phase, _) in primitives(graph) {
        if !matches!(phase, PhaseKind::Forward | PhaseKind::Backward) {
            continue;
        }
        let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
        let mut left = rule.factors.clone();
        let mut choices = vec![Choice::Replicate; mesh.uses.len()];
        for &axis in &order {
            let sum = super::groups::is_sum(&rule.rule.expr);
            let passed = if sum { pending(graph, op, &rule, &layouts, axis) } else { None };
            choices[axis] = passed.unwrap_or_else(|| match dealing.factor(op, &rule, axis, &left) {
                Some(factor) => {
                    left[factor] = left[factor].div_ceil(mesh.mesh.axes[axis].size);
                    let role = graph.axis(rule.rule.factors[factor]).role;
                    Choice::Split { factor, partition: partition_for(role, partition(mesh, axis)) }
                }
                None => pending(graph, op, &rule, &layouts, axis).unwrap_or(Choice::Replicate),
            });
        }
        let choices = if rule.compatible(&choices) { choices } else { without_passes(choices) };
        let signature = Signature { choices, order: order.clone() };
        layouts.insert(graph.op(op).result(), rule.result_layout(&signature));
        out.insert(op, signature);
    }
    out
}

/// Mesh axes in the order in which splits nest: micro-batches outermost, so that ranks which exchange samples with experts hold
/// the same micro-batch of the whole batch.
fn micro_first(mesh: &MeshPlan) -> Vec<usize> {
    let mut order = mesh.running_order();
    order.sort_by_key(|axis| mesh.uses[*axis] != AxisUse::Micro);
    order
}

/// How a mesh axis deals out what it deals out. A micro-batch is that of all data ranks.
fn partition(mesh: &MeshPlan, axis: usize) -> Partition {
    let data = (0..mesh.uses.len()).filter(|axis| mesh.uses[*axis] == AxisUse::Data);
    match mesh.partitions[axis] {
        Partition::Chunk(samples) => Partition::Chunk(samples * data.map(|axis| mesh.mesh.axes[axis].size).product::<u64>()),
        other => other,
    }
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
    let with_heads = |dims: &[AxisId]| dims.iter().any(|axis| role(axis) == Role::Head);
    // what each head has inside stays whole
    let params = || graph.params().map(|param| &graph.value(param).ty.dims);
    let of_heads: BTreeSet<AxisId> = params().filter(|dims| with_heads(dims)).flatten().copied().collect();
    let left = |axis: &AxisId| {
        stream.contains(axis) || of_heads.contains(axis) || matches!(role(axis), Role::Batch | Role::Expert) || role(axis).is_context()
    };
    for dims in params() {
        if with_heads(dims) {
            inner.extend(dims.iter().copied().filter(|axis| role(axis) == Role::Head));
        } else {
            inner.extend(dims.iter().copied().filter(|axis| !left(axis)));
        }
    }
    inner
}

/// The operators that run where experts are, and the axes of the places that tokens have there. What stays inside of experts
/// goes where it is joined to their work; what walks positions that experts are not given routes, and stays with the samples.
fn at_experts(graph: &Graph) -> (BTreeSet<OpId>, BTreeSet<AxisId>) {
    let (mut works, mut gives, mut inside) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let mut given = BTreeSet::new();
    let makers = |op: OpId| graph.op(op).operands.iter().filter_map(|value| graph.def_op(*value));
    let role = |axis: &AxisId| graph.axis(*axis).role;
    for (op, ..) in primitives(graph) {
        let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
        match expertise(graph, &rule) {
            Expertise::Works { given: factors, .. } => {
                works.insert(op);
                gives.extend(makers(op));
                given.extend(factors.iter().map(|factor| rule.rule.factors[*factor]));
            }
            Expertise::Inside => inside.push((op, rule)),
            Expertise::Routes | Expertise::None => {}
        }
    }
    inside.retain(|(_, rule)| rule.rule.factors.iter().all(|axis| role(axis) != Role::Seq || given.contains(axis)));
    loop {
        let joined = |(op, _): &(OpId, _)| gives.contains(op) || makers(*op).any(|made| works.contains(&made));
        let (near, far): (Vec<_>, Vec<_>) = inside.into_iter().partition(joined);
        if near.is_empty() {
            given.retain(|axis| !matches!(role(axis), Role::Batch | Role::Seq));
            return (works, given);
        }
        gives.extend(near.iter().flat_map(|(op, _)| makers(*op)));
        works.extend(near.iter().map(|(op, _)| *op));
        inside = far;
    }
}

/// What decides which factor of an operator a mesh axis deals out.
struct Dealing<'a> {
    graph: &'a Graph,
    mesh: &'a MeshPlan,
    sp: bool,
    inner: BTreeSet<AxisId>,
    at_experts: BTreeSet<OpId>,
    given: BTreeSet<AxisId>,
}

impl Dealing<'_> {
    /// The factor of an operator that a mesh axis deals out; `left` has the sizes that the axes before have left.
    fn factor(&self, op: OpId, rule: &SizedRule<'_>, axis: usize, left: &[u64]) -> Option<usize> {
        let first =
            |wanted: &dyn Fn(AxisId) -> bool| (0..left.len()).find(|factor| wanted(rule.rule.factors[*factor]) && rule.can_split(*factor));
        let walks = |axes: &BTreeSet<AxisId>| rule.rule.factors.iter().any(|factor| axes.contains(factor));
        let with_role = |role: Role| first(&|axis| self.graph.axis(axis).role == role);
        let given = || first(&|axis| self.given.contains(&axis));
        let inner = || {
            let parts = self.mesh.mesh.axes[axis].size;
            let mut walked = (0..left.len()).filter(|factor| self.inner.contains(&rule.rule.factors[*factor]) && rule.can_split(*factor));
            walked.find(|factor| left[*factor] >= parts)
        };
        let used = self.mesh.uses[axis];
        let at_experts = self.at_experts.contains(&op) && used != AxisUse::Micro;
        let for_experts = if at_experts { Some(self.mesh.experts[axis]) } else { None };
        match (used, for_experts) {
            (_, Some(ExpertUse::Expert)) => with_role(Role::Expert),
            (_, Some(ExpertUse::Tensor)) => inner(),
            (AxisUse::Data | AxisUse::Micro, _) => with_role(Role::Batch),
            // constants of positions are the same everywhere
            _ if rule.rule.operands.is_empty() => None,
            (AxisUse::Context, _) => given().or_else(|| first(&|axis| self.graph.axis(axis).role.is_context())),
            (AxisUse::Tensor, _) if walks(&self.given) => match self.mesh.experts[axis] {
                // each of them has a part of every expert, and needs all that it is given
                ExpertUse::Tensor => None,
                ExpertUse::Data | ExpertUse::Expert => given(),
            },
            (AxisUse::Tensor, _) => {
                let loss = self.graph.op(op).class == Class::Loss;
                inner().or_else(|| if self.sp && !loss && !walks(&self.inner) { with_role(Role::Seq) } else { None })
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
