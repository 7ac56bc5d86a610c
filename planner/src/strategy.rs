//! Which signatures an operator may have under the pins.
//!
//! Constraints speak of axis roles and operator classes only.

use partita_ir::axis::Role;
use partita_ir::graph::{Class, Def, Graph, Leaf, PhaseKind};
use partita_ir::id::{OpId, ValueId};
use partita_ir::layout::Partition;
use partita_ir::rule::Reduce;
use partita_ir::signature::{Choice, Signature, SizedRule, partition_for};

use crate::mesh::{AxisUse, MeshPlan};

/// What the pins say about operators inside a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Constraints {
    /// Sequence parallelism of norms and dropout on tensor axes: required, forbidden (norms, dropout and residuals
    /// replicated), or free.
    pub sp: Option<bool>,
    /// Whether tensor axes must split the weights of contractions (a pinned or chosen tp above 1).
    pub split_weights: bool,
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
    match &graph.value(value).def {
        Def::Leaf(Leaf::Param(_)) => true,
        Def::Result(op, _) => {
            let op = graph.op(*op);
            op.rule().is_some_and(partita_ir::rule::Rule::is_move) && is_weight(graph, op.operands[0])
        }
        _ => false,
    }
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
    let order = if running { mesh.running_order() } else { mesh.resting_order() };
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
    combined.into_iter().map(|choices| Signature { choices, order: order.clone() }).collect()
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
                _ => all
                    .iter()
                    .filter(|choice| match choice {
                        Choice::Split { factor, .. } => graph.axis(rule.rule.factors[*factor]).role != Role::Batch,
                        _ => true,
                    })
                    .cloned()
                    .collect(),
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
    let tensor: Vec<usize> = (0..mesh.uses.len()).filter(|axis| mesh.uses[*axis] == AxisUse::Tensor).collect();
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
