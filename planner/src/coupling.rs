//! What brings samples together before the loss: statistics of a batch (batch norm), losses that balance experts. What
//! such a model computes depends on which samples share a micro-batch, so a step has one micro-batch.

use std::collections::BTreeMap;

use partita_ir::axis::Role;
use partita_ir::graph::{Graph, Kind, PhaseKind};
use partita_ir::id::{OpId, ValueId};
use partita_ir::rule::Reduce;
use partita_ir::signature::{Choice, SizedRule};

/// The first operator of the forward pass that folds samples together for another one to read, as more than a sum of
/// what each gives.
pub fn couples_samples(graph: &Graph) -> Option<OpId> {
    // what is a fold over samples, with the operator that folds
    let mut pending: BTreeMap<ValueId, (Reduce, OpId)> = BTreeMap::new();
    let mut ops = Vec::new();
    for top in graph.phase(PhaseKind::Forward) {
        ops.push(*top);
        if let Kind::Repeat(repeat) = &graph.op(*top).kind {
            ops.extend(&repeat.body);
        }
    }
    for id in ops {
        let Some(rule) = SizedRule::of(graph, id) else {
            if let Kind::Repeat(repeat) = &graph.op(id).kind {
                for (carried, result) in repeat.carried.iter().zip(&graph.op(id).results) {
                    if let Some(fold) = pending.get(&carried.init).copied() {
                        pending.extend([(carried.arg, fold), (*result, fold)]);
                    }
                }
            }
            continue;
        };
        let op = graph.op(id);
        let samples = |factor: &usize| graph.axis(rule.rule.factors[*factor]).role == Role::Batch;
        let read: Vec<usize> = (0..op.operands.len()).filter(|n| pending.contains_key(&op.operands[*n])).collect();
        if let Some(first) = read.first() {
            let (reduce, by) = pending[&op.operands[*first]];
            let pass = Choice::Pass { op: reduce, operands: read };
            if (0..rule.factors.len()).any(|factor| samples(&factor)) || !rule.choices().contains(&pass) {
                return Some(by);
            }
            pending.insert(op.result(), (reduce, by));
        } else if let Some(reduce) = rule.rule.reduce.filter(|_| rule.rule.reduced().iter().any(samples)) {
            pending.insert(op.result(), (reduce, id));
        }
    }
    None
}
