//! What brings samples together before the loss: statistics of a batch (batch norm), losses that balance experts. What
//! such a model computes depends on which samples share a micro-batch, so a step has one micro-batch.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::axis::Role;
use partita_ir::graph::{Graph, Kind, PhaseKind, Repeat, Span};
use partita_ir::id::{OpId, ValueId};
use partita_ir::rule::{Reduce, Rule};
use partita_ir::scalar::Expr;
use partita_ir::signature::{Choice, SizedRule};
use partita_ir::step::{Options, StepError, training_step};
use partita_ir::train::Train;

/// An operator that brings samples together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coupled {
    /// The name of its result.
    pub name: String,
    /// Where the model says so.
    pub span: Option<Span>,
}

/// What brings samples together in the training step of a model. What a step computes once, of sums over the whole batch, does
/// not: updates of states.
pub fn coupled(model: &Graph, train: &Train) -> Result<Option<Coupled>, StepError> {
    let step = training_step(model, train, Options::default())?;
    let told = |op: OpId| Coupled { name: step.value(step.op(op).result()).name.clone(), span: step.op(op).span };
    Ok(couples_samples(&step).map(told))
}

/// The first operator of the forward pass that folds samples together for another one to read, as more than a sum of
/// what each gives.
pub fn couples_samples(graph: &Graph) -> Option<OpId> {
    let mut walk = Walk { graph, folds: BTreeMap::new(), zeros: BTreeSet::new() };
    graph.phase(PhaseKind::Forward).iter().find_map(|op| walk.op(*op))
}

/// What is known of the values so far.
struct Walk<'a> {
    graph: &'a Graph,
    /// Folds over samples, each with the operator that folds.
    folds: BTreeMap<ValueId, (Reduce, OpId)>,
    /// Zeros, which are a sum over samples as well: what a repeat adds up begins so.
    zeros: BTreeSet<ValueId>,
}

impl Walk<'_> {
    fn op(&mut self, id: OpId) -> Option<OpId> {
        let op = self.graph.op(id);
        match &op.kind {
            Kind::Repeat(repeat) => self.repeat(repeat, &op.results),
            Kind::Map(rule) => self.map(id, rule),
        }
    }

    fn map(&mut self, id: OpId, rule: &Rule) -> Option<OpId> {
        let (graph, op) = (self.graph, self.graph.op(id));
        let sized = SizedRule::of(graph, id).expect("a primitive has a rule");
        let samples = |factor: &usize| graph.axis(rule.factors[*factor]).role == Role::Batch;
        if rule.operands.is_empty() && rule.expr == Expr::constant(0.0) {
            self.zeros.insert(op.result());
        } else if let Some((reduce, by)) = op.operands.iter().find_map(|operand| self.folds.get(operand).copied()) {
            let partial = |n: &usize| self.folds.contains_key(&op.operands[*n]) || self.zeros.contains(&op.operands[*n]);
            let pass = Choice::Pass { op: reduce, operands: (0..op.operands.len()).filter(partial).collect() };
            if (0..rule.factors.len()).any(|factor| samples(&factor)) || !sized.choices().contains(&pass) {
                return Some(by);
            }
            self.folds.insert(op.result(), (reduce, by));
        } else if let Some(reduce) = rule.reduce.filter(|_| rule.reduced().iter().any(samples)) {
            self.folds.insert(op.result(), (reduce, id));
        }
        None
    }

    fn repeat(&mut self, repeat: &Repeat, results: &[ValueId]) -> Option<OpId> {
        // what begins as 0 is one more part of a sum, unless the body makes something else of it
        let mut sums: BTreeSet<ValueId> =
            repeat.carried.iter().filter(|carried| self.zeros.contains(&carried.init)).map(|carried| carried.arg).collect();
        loop {
            let mut body = Walk { graph: self.graph, folds: self.folds.clone(), zeros: &self.zeros | &sums };
            for carried in &repeat.carried {
                if let Some(fold) = self.folds.get(&carried.init) {
                    body.folds.insert(carried.arg, *fold);
                }
            }
            let found = repeat.body.iter().find_map(|op| body.op(*op));
            let before = sums.len();
            let adds = |value: ValueId| body.folds.contains_key(&value) || body.zeros.contains(&value);
            sums.retain(|arg| repeat.carried.iter().any(|carried| carried.arg == *arg && adds(carried.next)));
            if found.is_some() || sums.len() == before {
                for (carried, result) in repeat.carried.iter().zip(results) {
                    if let Some(fold) = body.folds.get(&carried.next).copied() {
                        body.folds.insert(*result, fold);
                    }
                }
                *self = body;
                return found;
            }
        }
    }
}
