//! The training step as one graph: count, seed, forward, backward, update.
//!
//! The loss is (sum, count) over the whole batch: the count of valid targets is known before the first backward pass,
//! whose seed is its inverse. Norms, clipping, the schedule and the optimizer are operators like any other, over
//! logical parameters (each instance of a repeated block is one), so no layout and no runtime code can change them.
//! What a model's own states become is worked out in the update phase too. All of it is built in the type of the
//! arithmetic; [`crate::precision`] gives values their types at the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::build::Builder;
use crate::experts;
use crate::formula::{lit, x};
use crate::grad::{Recompute, differentiate};
use crate::graph::{Assign, Class, Def, Graph, Kind, Leaf, LossTerm, PhaseKind, Supplied};
use crate::id::{Id, LoopId, OpId, ValueId};
use crate::precision;
use crate::rewrite;
use crate::rule::Reduce;
use crate::scalar::Expr;
use crate::train::Train;

mod scale;
mod states;
mod update;

use scale::Scale;
use states::States;
use update::Update;

/// What can be chosen about the step's graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Options {
    /// What backward computes again.
    pub recompute: Recompute,
    /// Keep the gradients of the several uses of a parameter apart until the update, so that they meet once a step
    /// and not once a micro-batch: right where the uses live on different stages.
    pub meet_in_update: bool,
    /// Samples are exchanged with experts on other ranks: what experts are given is kept for the backward pass.
    pub exchange: bool,
}

/// Why a model cannot be trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// It has no loss.
    NoLoss,
    /// Its count of targets depends on parameters.
    CountDepends(ValueId),
}

impl std::fmt::Display for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StepError::NoLoss => f.write_str("the model has no loss: add `loss cross_entropy[...](logits, targets)`"),
            StepError::CountDepends(value) => {
                write!(f, "the count of valid targets depends on {value}, which is more than the batch's data decides")
            }
        }
    }
}
impl std::error::Error for StepError {}

/// The training step of a model (a graph with one forward phase and a loss).
pub fn training_step(model: &Graph, train: &Train, options: Options) -> Result<Graph, StepError> {
    if model.loss.is_empty() {
        return Err(StepError::NoLoss);
    }
    let mut b = Builder::resume(model.clone(), train.precision.accumulate);
    if options.exchange {
        experts::keep_what_is_exchanged(&mut b.graph);
    }
    let states = States::taken_from(&mut b.graph);
    let terms = std::mem::take(&mut b.graph.loss);
    let counts = count_phase(&mut b, &terms)?;
    let counts: Vec<ValueId> = terms.iter().zip(counts).map(|(term, count)| total(&mut b, term, "count", count)).collect();
    let scale = train.loss_scale.map(|scale| Scale::new(&mut b, scale));
    let seeds: Vec<(ValueId, ValueId)> = b.classed(Class::Loss, |b| {
        let mut seed = |weight: f64, count: ValueId| {
            let share = lit(weight) / x(0).max(lit(1.0));
            let (read, share) = match &scale {
                None => (Vec::new(), share),
                Some(scale) => {
                    let (read, factor) = scale.read(1);
                    (read, share * factor)
                }
            };
            b.map("seed", &[&[count], &read[..]].concat(), &[], None, share.expr())
        };
        terms.iter().zip(&counts).map(|(term, count)| (term.sum, seed(term.weight, *count))).collect()
    });
    b.end_phase(PhaseKind::Seed);
    let frozen = b.graph.params().filter(|param| train.is_frozen(&b.graph.value(*param).name)).collect();
    let gradients = differentiate(&mut b, &seeds, &frozen, options.recompute, !options.meet_in_update);
    for (term, count) in terms.iter().zip(&counts) {
        let sum = total(&mut b, term, "sum", term.sum);
        let mean = (x(0) / x(1).max(lit(1.0))).expr();
        let mean = b.classed(Class::Loss, |b| b.map(&term.name, &[sum, *count], &[], None, mean));
        b.graph.reports.push((term.name.clone(), mean));
    }
    drop_slopes(&mut b.graph);
    update_phase(&mut b, train, &gradients, states, scale);
    rewrite::run(&mut b.graph);
    precision::assign(&mut b.graph, &train.precision, &gradients.into_values().flatten().collect());
    Ok(compact(&b.graph))
}

/// Takes out of the operators what only their derivatives needed. One that would not read an operand any more stays.
fn drop_slopes(graph: &mut Graph) {
    for op in &mut graph.ops {
        let Kind::Map(rule) = &mut op.kind else { continue };
        let plain = rule.expr.without_slopes();
        if (0..op.operands.len()).all(|n| plain.reads(n)) {
            rule.expr = plain;
        }
    }
}

/// The sum over all micro-batches of a part of a term of the loss.
fn total(b: &mut Builder, term: &LossTerm, part: &str, value: ValueId) -> ValueId {
    b.leaf(&format!("{}.{part}", term.name), &[], Leaf::Accumulated(value))
}

/// Copies what the counts need into a phase of its own.
fn count_phase(b: &mut Builder, terms: &[LossTerm]) -> Result<Vec<ValueId>, StepError> {
    fn copy(b: &mut Builder, value: ValueId) -> Result<ValueId, StepError> {
        match b.graph.value(value).def.clone() {
            Def::Leaf(Leaf::Input(_)) => Ok(value),
            Def::Result(op, _) if b.graph.op(op).rule().is_some() => {
                let op = b.graph.op(op).clone();
                let operands = op.operands.iter().map(|operand| copy(b, *operand)).collect::<Result<Vec<_>, _>>()?;
                let rule = op.rule().expect("a primitive").clone();
                let (name, dims) = (b.graph.value(value).name.clone(), b.dims(value));
                b.span = op.span;
                Ok(b.classed(op.class, |b| b.rule(&name, rule, &operands, &dims)))
            }
            _ => Err(StepError::CountDepends(value)),
        }
    }
    let counts = terms.iter().map(|term| copy(b, term.count)).collect::<Result<_, _>>()?;
    b.end_phase(PhaseKind::Count);
    Ok(counts)
}

fn update_phase(b: &mut Builder, train: &Train, gradients: &BTreeMap<ValueId, Vec<ValueId>>, states: States, scale: Option<Scale>) {
    b.class = Class::Optimizer;
    b.composite = None;
    b.span = None;
    let step = b.leaf("step", &[], Leaf::Supplied(Supplied::StepNumber));
    let lr = b.map("lr", &[step], &[], None, update::learning_rate(train).expr());
    let outer: Vec<ValueId> = gradients.keys().copied().filter(|param| b.graph.value(*param).within.is_none()).collect();
    let loops: BTreeSet<LoopId> = gradients.keys().filter_map(|param| b.graph.value(*param).within).collect();
    let inside = |b: &Builder, id: LoopId| -> Vec<ValueId> {
        gradients.keys().copied().filter(|param| b.graph.value(*param).within == Some(id)).collect()
    };
    // the gradients at rest between micro-batches, and the norm of all of them together
    let mut totals: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let unscale = scale.as_ref().map(|scale| scale.inverse(b));
    let square = |b: &mut Builder, total: ValueId| match unscale {
        None => b.map("square", &[total], &[], Some(Reduce::Sum), (x(0) * x(0)).expr()),
        Some(inverse) => {
            let one = x(0) * x(1);
            b.map("square", &[total, inverse], &[], Some(Reduce::Sum), (one.clone() * one).expr())
        }
    };
    let mut squares = Vec::new();
    for param in &outer {
        let total = gradient_at_rest(b, *param, &gradients[param]);
        squares.push(square(b, total));
        totals.insert(*param, total);
    }
    let mut norm = match squares[..] {
        [] => b.map("zero", &[], &[], None, Expr::constant(0.0)),
        _ => b.map("squares", &squares, &[], None, Expr::sum(squares.len())),
    };
    for id in &loops {
        let so_far = b.begin_repeat_over(*id, &[norm])[0];
        let mut squares = vec![so_far];
        for param in inside(b, *id) {
            let total = gradient_at_rest(b, param, &gradients[&param]);
            squares.push(square(b, total));
            totals.insert(param, total);
        }
        let next = b.map("squares", &squares, &[], None, Expr::sum(squares.len()));
        norm = b.end_repeat(&[next], false)[0];
    }
    let norm = b.map("grad_norm", &[norm], &[], None, x(0).sqrt().expr());
    b.graph.reports.push(("grad_norm".into(), norm));
    b.graph.reports.push(("lr".into(), lr));
    let clip = train.clip.map(|limit| {
        let ratio = lit(limit) / (x(0) + lit(1e-6));
        b.map("clip", &[norm], &[], None, ratio.min(lit(1.0)).expr())
    });
    let factor = match (clip, unscale) {
        (Some(clip), Some(inverse)) => Some(b.map("clip", &[clip, inverse], &[], None, (x(0) * x(1)).expr())),
        (clip, unscale) => clip.or(unscale),
    };
    let guard = scale.map(|scale| scale.guard(b, norm));
    let params: Vec<ValueId> = gradients.keys().copied().collect();
    let update = Update::new(b, train, step, lr, factor, guard, &params);
    for param in outer {
        update.of(b, param, totals[&param]);
    }
    for id in loops {
        b.begin_repeat_over(id, &[]);
        for param in inside(b, id) {
            update.of(b, param, totals[&param]);
        }
        b.end_repeat(&[], false);
    }
    states.update(b, update.guard.as_ref());
    b.end_phase(PhaseKind::Update);
}

/// The gradient of a parameter, whole when the last micro-batch is done.
fn gradient_at_rest(b: &mut Builder, param: ValueId, parts: &[ValueId]) -> ValueId {
    let name = b.graph.value(param).name.clone();
    let dims = b.dims(param);
    let rest: Vec<ValueId> = parts
        .iter()
        .enumerate()
        .map(|(n, part)| {
            let suffix = if n == 0 { String::new() } else { format!(".{n}") };
            b.leaf(&format!("{name}.grad{suffix}"), &dims, Leaf::Accumulated(*part))
        })
        .collect();
    match rest[..] {
        [only] => only,
        _ => b.map("meet", &rest, &dims, None, Expr::sum(rest.len())),
    }
}

/// The graph without what nothing needs: not for an assignment, a report or the loss.
pub fn compact(graph: &Graph) -> Graph {
    let live = Live::of(graph);
    let mut out = Graph {
        name: graph.name.clone(),
        axes: graph.axes.clone(),
        composites: graph.composites.clone(),
        loops: graph.loops.clone(),
        ..Graph::default()
    };
    let mut values: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for value in live.values.iter().copied() {
        values.insert(value, ValueId::new(values.len()));
    }
    let ops: BTreeMap<OpId, OpId> = live.ops.iter().enumerate().map(|(new, old)| (*old, OpId::new(new))).collect();
    let keep_ops = |list: &[OpId]| list.iter().filter_map(|op| ops.get(op).copied()).collect::<Vec<_>>();
    // carried values and slices that nothing needs leave their repeat
    let mut positions: BTreeMap<(OpId, usize), usize> = BTreeMap::new();
    let mut entries: BTreeMap<ValueId, usize> = BTreeMap::new();
    for old in &live.ops {
        let mut op = graph.op(*old).clone();
        if let Kind::Repeat(repeat) = &mut op.kind {
            let kept: Vec<usize> = (0..repeat.carried.len()).filter(|n| values.contains_key(&repeat.carried[*n].arg)).collect();
            for (new, old_position) in kept.iter().enumerate() {
                positions.insert((*old, *old_position), new);
            }
            let first = repeat.carried.len();
            repeat.carried = kept.iter().map(|n| repeat.carried[*n]).collect();
            op.results = kept.iter().map(|n| op.results[*n]).collect();
            repeat.body = keep_ops(&repeat.body);
            repeat.taken.retain(|slice| values.contains_key(&slice.each));
            for (new, slice) in repeat.taken.iter().enumerate() {
                entries.insert(slice.each, new);
            }
            for (n, slice) in repeat.collected.iter().enumerate().filter(|(_, slice)| values.contains_key(&slice.whole)) {
                positions.insert((*old, first + n), op.results.len());
                op.results.push(slice.whole);
            }
            repeat.collected.retain(|slice| values.contains_key(&slice.whole));
            for slice in repeat.taken.iter_mut().chain(&mut repeat.collected) {
                (slice.whole, slice.each) = (values[&slice.whole], values[&slice.each]);
            }
            for carried in &mut repeat.carried {
                for value in [&mut carried.init, &mut carried.arg, &mut carried.next] {
                    *value = values[value];
                }
            }
        }
        op.operands.iter_mut().chain(&mut op.results).for_each(|value| *value = values[value]);
        out.ops.push(op);
    }
    for old in values.keys() {
        let mut value = graph.value(*old).clone();
        match &mut value.def {
            Def::Leaf(Leaf::Accumulated(source)) => *source = values[source],
            Def::Leaf(Leaf::State { of, .. }) => *of = of.and_then(|of| values.get(&of).copied()),
            Def::Leaf(_) => {}
            Def::Taken(op, n) => (*op, *n) = (ops[op], entries[old]),
            Def::Result(op, n) | Def::Carried(op, n) => {
                *n = positions.get(&(*op, *n)).copied().unwrap_or(*n);
                *op = ops[op];
            }
        }
        out.values.push(value);
    }
    out.phases = graph.phases.clone();
    out.phases.iter_mut().for_each(|phase| phase.ops = keep_ops(&phase.ops));
    out.assigns = graph.assigns.iter().map(|assign| Assign { target: values[&assign.target], value: values[&assign.value] }).collect();
    out.reports = graph.reports.iter().map(|(name, value)| (name.clone(), values[value])).collect();
    let term = |term: &LossTerm| LossTerm { sum: values[&term.sum], count: values[&term.count], ..term.clone() };
    out.loss = graph.loss.iter().map(term).collect();
    out
}

#[derive(Default)]
struct Live {
    values: BTreeSet<ValueId>,
    ops: BTreeSet<OpId>,
}

impl Live {
    fn of(graph: &Graph) -> Live {
        let mut live = Live::default();
        let mut todo: Vec<ValueId> = graph.assigns.iter().flat_map(|assign| [assign.target, assign.value]).collect();
        todo.extend(graph.reports.iter().map(|(_, value)| *value));
        todo.extend(graph.loss.iter().flat_map(|loss| [loss.sum, loss.count]));
        // bodies' operators belong to a repeat, which then is needed too
        let mut owner: BTreeMap<OpId, OpId> = BTreeMap::new();
        for (index, op) in graph.ops.iter().enumerate() {
            if let Kind::Repeat(repeat) = &op.kind {
                owner.extend(repeat.body.iter().map(|inner| (*inner, OpId::new(index))));
            }
        }
        while let Some(value) = todo.pop() {
            if !live.values.insert(value) {
                continue;
            }
            match &graph.value(value).def {
                Def::Leaf(Leaf::Accumulated(source)) => todo.push(*source),
                Def::Leaf(Leaf::State { of, .. }) => todo.extend(*of),
                Def::Leaf(_) => {}
                Def::Taken(op, n) => {
                    live.ops.insert(*op);
                    let Kind::Repeat(repeat) = &graph.op(*op).kind else { unreachable!("a repeat takes entries") };
                    todo.push(repeat.taken[*n].whole);
                }
                Def::Result(op, n) | Def::Carried(op, n) => {
                    live.ops.insert(*op);
                    live.ops.extend(owner.get(op));
                    match &graph.op(*op).kind {
                        Kind::Map(_) => todo.extend(&graph.op(*op).operands),
                        Kind::Repeat(repeat) => match repeat.carried.get(*n) {
                            Some(carried) => todo.extend([carried.init, carried.arg, carried.next, graph.op(*op).results[*n]]),
                            None => todo.push(repeat.collected[*n - repeat.carried.len()].each),
                        },
                    }
                }
            }
        }
        live
    }
}
