//! Which signatures an operator may have under the pins.
//!
//! Constraints speak of axis roles and operator classes only.

use std::collections::BTreeSet;

use partita_ir::axis::Role;
use partita_ir::experts::{Expertise, expertise};
use partita_ir::graph::{Class, Def, Graph, Leaf, PhaseKind};
use partita_ir::id::{Id, OpId, ValueId};
use partita_ir::layout::Partition;
use partita_ir::rule::Reduce;
use partita_ir::signature::{Choice, Signature, SizedRule, partition_for};

use crate::mesh::{AxisUse, ExpertUse, MeshPlan};

/// What the pins say about operators inside a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Constraints {
    /// Sequence parallelism of norms and dropout on tensor axes: required, forbidden (norms, dropout and residuals
    /// replicated), or free.
    pub sp: Option<bool>,
    /// Whether tensor axes must split the weights of contractions (a pinned or chosen tp above 1).
    pub split_weights: bool,
    /// Whether samples are brought to experts by exchanging them, and not by gathering all samples (a pinned ep).
    pub exchange: bool,
    /// Whether only even splits are allowed.
    pub even: bool,
    /// The reductions that some operator of the graph may leave pending.
    pub pending: Vec<Reduce>,
}

/// The reductions that occur in a graph.
pub fn pending(graph: &Graph) -> Vec<Reduce> {
    let mut found: Vec<Reduce> = graph.ops.iter().filter_map(|op| op.rule().and_then(|rule| rule.reduce)).collect();
    found.sort();
    found.dedup();
    found
}

/// Whether a value is a parameter, perhaps moved.
pub fn is_weight(graph: &Graph, value: ValueId) -> bool {
    weight(graph, value).is_some()
}

/// The parameter that a value is, perhaps moved.
fn weight(graph: &Graph, value: ValueId) -> Option<ValueId> {
    match &graph.value(value).def {
        Def::Leaf(Leaf::Param(_)) => Some(value),
        Def::Result(op, _) => {
            let op = graph.op(*op);
            if op.rule().is_some_and(partita_ir::rule::Rule::is_move) { weight(graph, op.operands[0]) } else { None }
        }
        _ => None,
    }
}

/// The parameters that are experts' own.
pub fn of_experts(graph: &Graph) -> BTreeSet<ValueId> {
    let works = |op: &OpId| SizedRule::of(graph, *op).is_some_and(|rule| matches!(expertise(graph, &rule), Expertise::Works { .. }));
    let all = (0..graph.ops.len()).map(OpId::new).filter(works);
    all.flat_map(|op| graph.op(op).operands.iter().filter_map(|operand| weight(graph, *operand))).collect()
}

/// The factors of some roles that ranks may deal out.
fn of_role(graph: &Graph, rule: &SizedRule<'_>, wanted: impl Fn(Role) -> bool) -> Vec<usize> {
    (0..rule.factors.len()).filter(|factor| wanted(graph.axis(rule.rule.factors[*factor]).role) && rule.can_split(*factor)).collect()
}

/// The signatures of an operator of a phase under the constraints, in a fixed order; never empty, except where a
/// constraint cannot be met.
pub fn signatures(graph: &Graph, op: OpId, phase: PhaseKind, mesh: &MeshPlan, constraints: &Constraints) -> Vec<Signature> {
    let Some(rule) = SizedRule::of(graph, op) else { return Vec::new() };
    let mut all = rule.choices();
    // a reduction that no operator leaves pending is not passed on either
    all.retain(|choice| !matches!(choice, Choice::Pass { op, .. } if !constraints.pending.contains(op)));
    let running = phase.per_micro_batch();
    let per_axis: Vec<Vec<Choice>> = (0..mesh.uses.len())
        .map(|axis| {
            let allowed = on_axis(graph, op, &rule, &all, running, mesh, axis, constraints);
            if constraints.even {
                allowed.into_iter().filter(|choice| is_even(&rule, choice, mesh.mesh.axes[axis].size)).collect()
            } else {
                allowed
            }
        })
        .collect();
    let mut combined: Vec<Vec<Choice>> = vec![Vec::new()];
    for choices in &per_axis {
        combined = combined
            .into_iter()
            .flat_map(|so_far| choices.iter().map(move |choice| [&so_far[..], std::slice::from_ref(choice)].concat()))
            .collect();
    }
    combined.retain(|choices| rule.compatible(choices) && weights_are_split(graph, op, &rule, choices, running, mesh, constraints));
    let order = |choices: &[Choice]| if running { mesh.running_order() } else { resting_order(graph, &rule, mesh, choices) };
    combined.into_iter().map(|choices| Signature { order: order(&choices), choices }).collect()
}

/// The order in which splits nest of an operator on what is at rest: experts lie as they do while a micro-batch runs.
fn resting_order(graph: &Graph, rule: &SizedRule<'_>, mesh: &MeshPlan, choices: &[Choice]) -> Vec<usize> {
    let of_experts = |axis: usize| matches!(&choices[axis], Choice::Split { factor, .. } if is_expert(graph, rule, *factor));
    let mut order = mesh.running_order();
    order.sort_by_key(|axis| mesh.uses[*axis] != AxisUse::Tensor && !(mesh.owns_experts(*axis) && of_experts(*axis)));
    order
}

fn is_expert(graph: &Graph, rule: &SizedRule<'_>, factor: usize) -> bool {
    graph.axis(rule.rule.factors[factor]).role == Role::Expert
}

fn is_even(rule: &SizedRule<'_>, choice: &Choice, parts: u64) -> bool {
    match choice {
        Choice::Split { factor, partition: Partition::Chunk(_) } => rule.factors[*factor] > 0,
        Choice::Split { factor, partition: Partition::Zigzag } => rule.factors[*factor].is_multiple_of(2 * parts),
        Choice::Split { factor, .. } => rule.factors[*factor].is_multiple_of(parts),
        _ => true,
    }
}

#[expect(clippy::too_many_arguments, reason = "one place where every constraint meets")]
fn on_axis(
    graph: &Graph,
    op: OpId,
    rule: &SizedRule<'_>,
    all: &[Choice],
    running: bool,
    mesh: &MeshPlan,
    axis: usize,
    constraints: &Constraints,
) -> Vec<Choice> {
    let class = graph.op(op).class;
    let expertise = if running && mesh.uses[axis] != AxisUse::Micro { expertise(graph, rule) } else { Expertise::None };
    let splits_of = |factors: &[usize]| -> Vec<Choice> {
        factors
            .iter()
            .map(|factor| {
                let role = graph.axis(rule.rule.factors[*factor]).role;
                Choice::Split { factor: *factor, partition: partition_for(role, mesh.partitions[axis]) }
            })
            .collect()
    };
    let unsplit = || all.iter().filter(|choice| !matches!(choice, Choice::Split { .. })).cloned().collect::<Vec<_>>();
    let splits = |allowed: &dyn Fn(usize) -> bool| -> Vec<Choice> {
        let allowed = |choice: &&Choice| !matches!(choice, Choice::Split { factor, .. } if !allowed(*factor));
        all.iter().filter(allowed).cloned().collect()
    };
    let is_sample = |factor: usize| graph.axis(rule.rule.factors[factor]).role == Role::Batch;
    // experts tile the ranks again; where their tiling is that of everything else there is nothing more to say
    let same = matches!((mesh.uses[axis], mesh.experts[axis]), (AxisUse::Data, ExpertUse::Data) | (AxisUse::Tensor, ExpertUse::Tensor));
    match (&expertise, mesh.experts[axis]) {
        (Expertise::Works { experts, .. }, ExpertUse::Expert) => return splits_of(experts),
        (Expertise::Works { given, .. }, ExpertUse::Data) if !same => {
            return if given.is_empty() { unsplit() } else { splits_of(given) };
        }
        (Expertise::Works { experts, .. }, ExpertUse::Tensor) if !same => {
            return splits(&|factor| !is_sample(factor) && !experts.contains(&factor));
        }
        // whoever routes may do so where the samples are or where the experts are
        (Expertise::Routes | Expertise::Inside, _) if !same => {
            let samples = of_role(graph, rule, |role| role == Role::Batch);
            if mesh.uses[axis] != AxisUse::Data || samples.is_empty() {
                return splits(&|factor| !is_sample(factor));
            }
            let mut choices = splits_of(&samples);
            if !(constraints.exchange && expertise == Expertise::Routes) {
                choices.extend(splits_of(&of_role(graph, rule, |role| role == Role::Expert)));
            }
            return choices;
        }
        _ => {}
    }
    match mesh.uses[axis] {
        AxisUse::Micro if !running => vec![Choice::Replicate],
        AxisUse::Data | AxisUse::Micro if running => {
            let batch = of_role(graph, rule, |role| role == Role::Batch);
            if batch.is_empty() { unsplit() } else { splits_of(&batch) }
        }
        AxisUse::Context if running => {
            let positions = of_role(graph, rule, Role::is_context);
            if positions.is_empty() { unsplit() } else { splits_of(&positions) }
        }
        AxisUse::Tensor if running => {
            let positions = of_role(graph, rule, |role| role == Role::Seq);
            match (constraints.sp, class) {
                (Some(true), Class::Norm | Class::Dropout) if !positions.is_empty() => splits_of(&positions),
                (Some(false), Class::Norm | Class::Dropout | Class::Residual) => vec![Choice::Replicate],
                // samples are dealt out by data parallelism alone
                _ => splits(&|factor| !is_sample(factor)),
            }
        }
        _ => all.to_vec(),
    }
}

/// With tensor parallelism every weight of a contraction enters it split over the tensor axes: over all of them, or,
/// where the factors that could be split are smaller than the axes together, over at least one.
fn weights_are_split(
    graph: &Graph,
    op: OpId,
    rule: &SizedRule<'_>,
    choices: &[Choice],
    running: bool,
    mesh: &MeshPlan,
    constraints: &Constraints,
) -> bool {
    let node = graph.op(op);
    if !constraints.split_weights || !running || node.class != Class::Contraction {
        return true;
    }
    // the weights of experts are split over their own tensor axes
    let works = matches!(expertise(graph, rule), Expertise::Works { .. });
    let splits_weights = |axis: &usize| match works {
        true => mesh.uses[*axis] != AxisUse::Micro && mesh.experts[*axis] == ExpertUse::Tensor,
        false => mesh.uses[*axis] == AxisUse::Tensor,
    };
    let tensor: Vec<usize> = (0..mesh.uses.len()).filter(splits_weights).collect();
    node.operands.iter().enumerate().filter(|(_, operand)| is_weight(graph, **operand)).all(|(n, _)| {
        let walks = |factor: usize| rule.rule.operands[n].iter().any(|dim| dim.terms.iter().any(|term| term.factor == factor));
        let split = tensor.iter().filter(|axis| matches!(&choices[**axis], Choice::Split { factor, .. } if walks(*factor))).count();
        // a head axis that is smaller than the axes together is the reason to refine them
        let small = (0..rule.factors.len()).any(|factor| {
            let whole: u64 = tensor.iter().map(|axis| mesh.mesh.axes[*axis].size).product();
            walks(factor) && graph.axis(rule.rule.factors[factor]).role == Role::Head && rule.factors[factor] < whole
        });
        let needed = if small { tensor.len().min(1) } else { tensor.len() };
        split >= needed
    })
}
