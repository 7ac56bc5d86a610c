//! Operators with their layouts decided: what fusion works on and emission reads.

use std::collections::BTreeMap;

use partita_ir::graph::{Graph, PhaseKind};
use partita_ir::id::{LoopId, OpId, ValueId};
use partita_ir::layout::{Layout, Partition};
use partita_ir::rule::Rule;
use partita_ir::signature::{Choice, SizedRule};
use partita_planner::cost;
use partita_planner::layouts::primitives;
use partita_planner::plan::Plan;

/// A primitive restricted to shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// The operator that it computes the result of.
    pub op: OpId,
    /// Its phase.
    pub phase: PhaseKind,
    /// Its loop.
    pub within: Option<LoopId>,
    /// The rule, perhaps with others fused into it.
    pub rule: Rule,
    /// Global sizes of its factors.
    pub factors: Vec<u64>,
    /// What it reads, and in which layout.
    pub operands: Vec<(ValueId, Layout)>,
    /// What it writes.
    pub result: ValueId,
    /// The layout of the result.
    pub layout: Layout,
    /// For each mesh axis the factor that it splits.
    pub splits: Vec<Option<(usize, Partition)>>,
    /// Mesh axes in the order in which splits nest.
    pub order: Vec<usize>,
    /// Whether it is a matrix product.
    pub gemm: bool,
}

/// Every primitive of a plan in order of execution.
pub fn lower(plan: &Plan) -> Vec<Lowered> {
    let graph = &plan.graph;
    primitives(graph)
        .into_iter()
        .map(|(op, phase, within)| {
            let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
            let signature = &plan.layouts.signatures[&op];
            let node = graph.op(op);
            Lowered {
                op,
                phase,
                within,
                rule: rule.rule.clone(),
                factors: rule.factors.clone(),
                operands: node.operands.iter().enumerate().map(|(n, value)| (*value, rule.operand_layout(n, signature))).collect(),
                result: node.result(),
                layout: rule.result_layout(signature),
                splits: signature
                    .choices
                    .iter()
                    .map(|choice| match choice {
                        Choice::Split { factor, partition } => Some((*factor, *partition)),
                        _ => None,
                    })
                    .collect(),
                order: signature.order.clone(),
                gemm: cost::is_gemm(&rule),
            }
        })
        .collect()
}

/// How often each value is read: by operators, carried values, accumulations, assignments and reports.
pub fn readings(graph: &Graph, lowered: &[Lowered]) -> BTreeMap<ValueId, usize> {
    let mut counts = BTreeMap::new();
    let mut add = |value: ValueId| *counts.entry(value).or_insert(0) += 1;
    lowered.iter().flat_map(|op| op.operands.iter()).for_each(|(value, _)| add(*value));
    other_readings(graph).into_iter().for_each(&mut add);
    counts
}

/// What is read by other than primitives.
fn other_readings(graph: &Graph) -> Vec<ValueId> {
    use partita_ir::graph::{Kind, Leaf};
    let mut values = Vec::new();
    for op in &graph.ops {
        if let Kind::Repeat(repeat) = &op.kind {
            values.extend(repeat.carried.iter().flat_map(|carried| [carried.init, carried.next]));
            values.extend(repeat.taken.iter().map(|slice| slice.whole));
            values.extend(repeat.collected.iter().map(|slice| slice.each));
        }
    }
    for leaf in graph.leaves(|_| true) {
        if let Some(Leaf::Accumulated(from)) = graph.leaf(leaf) {
            values.push(*from);
        }
    }
    values.extend(graph.assigns.iter().map(|assign| assign.value));
    values.extend(graph.reports.iter().map(|(_, value)| *value));
    values
}
