//! What a model's own states become, as operators of the update phase.
//!
//! A model names a value of its forward pass and means what that is for the whole batch, so that no choice of
//! micro-batches changes it. Seen over micro-batches, a value is S (it has samples), P (it is a sum over samples) or B:
//! - P is accumulated, as gradients are;
//! - B is computed again, of what its operands are for the whole batch: a function of sums is one of the whole sums;
//! - S is for nobody to read, but what is made of it in any other way is accumulated too. Layouts then admit one
//!   micro-batch only, whose value it is.

use std::collections::BTreeMap;

use super::scale::Guard;
use crate::axis::Role;
use crate::build::Builder;
use crate::graph::{Assign, Def, Graph, Kind, Leaf, PhaseKind, Repeat};
use crate::id::{LoopId, OpId, ValueId};
use crate::layout::{Layout, Partition, Share, Split};
use crate::rule::Reduce;
use crate::scalar::Expr;
use crate::signature::{Choice, Signature, SizedRule};

/// The assignments of a model, with how micro-batches see its values.
pub(super) struct States {
    assigns: Vec<Assign>,
    seen: BTreeMap<ValueId, Share>,
}

impl States {
    /// The assignments, which the graph then has no longer.
    pub(super) fn taken_from(graph: &mut Graph) -> Self {
        let assigns = std::mem::take(&mut graph.assigns);
        let seen = if assigns.is_empty() { BTreeMap::new() } else { seen(graph) };
        Self { assigns, seen }
    }

    /// Adds the update of every state to the open phase, for steps that take place.
    pub(super) fn update(self, b: &mut Builder, guard: Option<&Guard>) {
        let mut by_loop: BTreeMap<Option<LoopId>, Vec<Assign>> = BTreeMap::new();
        for assign in self.assigns {
            by_loop.entry(b.graph.value(assign.target).within).or_default().push(assign);
        }
        let mut whole = Whole { b, seen: &self.seen, done: BTreeMap::new() };
        for (over, assigns) in by_loop {
            if let Some(over) = over {
                whole.b.begin_repeat_over(over, &[]);
            }
            for assign in assigns {
                let value = whole.assigned(assign);
                let value = guard.map_or(value, |guard| guard.keep(whole.b, assign.target, value));
                whole.b.update(assign.target, value);
            }
            if over.is_some() {
                whole.b.end_repeat(&[], false);
            }
        }
    }
}

/// Values of the forward pass as they are for the whole batch.
struct Whole<'a> {
    b: &'a mut Builder,
    seen: &'a BTreeMap<ValueId, Share>,
    done: BTreeMap<ValueId, Option<ValueId>>,
}

impl Whole<'_> {
    /// The next value of a state: an operator's result, since states change all at once, and one for each iteration of
    /// the state's loop.
    fn assigned(&mut self, Assign { target, value }: Assign) -> ValueId {
        let whole = self.of(value).unwrap_or_else(|| self.accumulated(value));
        let graph = &self.b.graph;
        if graph.leaf(whole).is_none() && graph.value(whole).within == graph.value(target).within {
            return whole;
        }
        let (name, dims) = (graph.value(target).name.clone(), self.b.dims(target));
        self.b.map(&name, &[whole], &dims, None, Expr::operand(0))
    }

    /// The value for the whole batch; `None` if it has samples.
    fn of(&mut self, value: ValueId) -> Option<ValueId> {
        if let Some(known) = self.done.get(&value) {
            return *known;
        }
        let known = if self.b.within().is_some() && self.b.graph.value(value).within.is_none() {
            // what is not of the loop is worked out once, before it
            let Self { b, seen, done } = self;
            b.outside(|b| {
                let mut around = Whole { b, seen, done: std::mem::take(done) };
                let known = around.find(value);
                *done = around.done;
                known
            })
        } else {
            self.find(value)
        };
        self.done.insert(value, known);
        known
    }

    fn find(&mut self, value: ValueId) -> Option<ValueId> {
        let op = match &self.b.graph.value(value).def {
            Def::Leaf(Leaf::Input(_)) => return None,
            Def::Leaf(_) => return Some(value),
            Def::Result(op, _) | Def::Carried(op, _) | Def::Taken(op, _) => self.b.graph.op(*op).clone(),
        };
        match (self.seen[&value], op.rule()) {
            (Share::Split(_), _) => None,
            (Share::Broadcast, Some(rule)) => {
                let operands: Option<Vec<ValueId>> = op.operands.iter().map(|operand| self.of(*operand)).collect();
                let Some(operands) = operands else { return Some(self.accumulated(value)) };
                let (name, dims) = (self.b.graph.value(value).name.clone(), self.b.dims(value));
                Some(self.b.rule(&name, rule.clone(), &operands, &dims))
            }
            _ => Some(self.accumulated(value)),
        }
    }

    fn accumulated(&mut self, value: ValueId) -> ValueId {
        // several values may have one name, and leaves may not
        let (name, dims) = (format!("{}.whole{}", self.b.graph.value(value).name, value.0), self.b.dims(value));
        self.b.leaf(&name, &dims, Leaf::Accumulated(value))
    }
}

/// How micro-batches see the values of the forward pass: the share that each has on an axis along which samples are
/// dealt out, if sums are completed wherever they must be.
fn seen(graph: &Graph) -> BTreeMap<ValueId, Share> {
    let mut seen = BTreeMap::new();
    for value in graph.leaves(|_| true) {
        let dims = &graph.value(value).ty.dims;
        let batch = dims.iter().position(|axis| graph.axis(*axis).role == Role::Batch);
        let share = match (graph.leaf(value), batch) {
            (Some(Leaf::Input(_)), Some(dim)) => Share::Split(Split::new(dim, graph.size(dims[dim]), 1, 0, Partition::Balanced)),
            _ => Share::Broadcast,
        };
        seen.insert(value, share);
    }
    for &id in graph.phase(PhaseKind::Forward) {
        match &graph.op(id).kind {
            Kind::Map(_) => see(graph, id, &mut seen),
            Kind::Repeat(repeat) => see_repeat(graph, id, repeat, &mut seen),
        }
    }
    seen
}

/// What is carried is seen as it enters, or else as the body gives it.
fn see_repeat(graph: &Graph, id: OpId, repeat: &Repeat, seen: &mut BTreeMap<ValueId, Share>) {
    for carried in &repeat.carried {
        seen.insert(carried.arg, seen[&carried.init]);
    }
    for slice in &repeat.taken {
        seen.insert(slice.each, seen[&slice.whole].entry().unwrap_or(Share::Broadcast));
    }
    for _ in 0..=repeat.carried.len() {
        repeat.body.iter().for_each(|inner| see(graph, *inner, seen));
        for carried in &repeat.carried {
            seen.insert(carried.arg, seen[&carried.next]);
        }
    }
    for (carried, result) in repeat.carried.iter().zip(&graph.op(id).results) {
        seen.insert(*result, seen[&carried.arg]);
    }
    for slice in &repeat.collected {
        seen.insert(slice.whole, seen[&slice.each].stacked());
    }
}

fn see(graph: &Graph, id: OpId, seen: &mut BTreeMap<ValueId, Share>) {
    let rule = SizedRule::of(graph, id).expect("bodies hold primitives");
    let operands: Vec<Share> = graph.op(id).operands.iter().map(|operand| seen[operand]).collect();
    let share = if operands.iter().all(|share| *share == Share::Broadcast) { Share::Broadcast } else { result(graph, &rule, &operands) };
    seen.insert(graph.op(id).result(), share);
}

/// How the result of a rule is seen whose operands are seen so: samples stay apart if they can, sums are passed on if
/// they can.
fn result(graph: &Graph, rule: &SizedRule<'_>, operands: &[Share]) -> Share {
    let samples = |share: &Share| matches!(share, Share::Split(_));
    let any_samples = operands.iter().any(samples);
    let fits = |signature: &Signature| {
        operands.iter().enumerate().all(|(n, share)| {
            let Layout(needed) = rule.operand_layout(n, signature);
            match (share, needed[0]) {
                (Share::Broadcast, Share::Partial(_)) | (Share::Partial(_), Share::Split(_)) => false,
                (Share::Broadcast, _) => true,
                // a sum is completed where samples need it
                (Share::Partial(_), Share::Broadcast) => any_samples,
                (share, needed) => *share == needed,
            }
        })
    };
    let wanted = |choice: &Choice| match choice {
        Choice::Replicate => false,
        Choice::Split { factor, .. } => any_samples && graph.axis(rule.rule.factors[*factor]).role == Role::Batch,
        Choice::Pass { op, .. } => !any_samples && *op == Reduce::Sum,
    };
    let signatures = rule.choices().into_iter().filter(wanted).map(|choice| Signature { choices: vec![choice], order: vec![0] });
    signatures.into_iter().find(fits).map_or(Share::Broadcast, |signature| rule.result_layout(&signature).0[0])
}
