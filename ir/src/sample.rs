//! Random graphs for the property tests of every crate: small, legal, and decided by a seed alone.
//!
//! Every model embeds tokens, applies steps of many kinds to a pool of values, perhaps inside repeats, and ends in a
//! loss that everything else flows into. Values stay of moderate size, so that comparisons and finite differences work.

mod dice;
mod order;
mod steps;

use std::collections::BTreeMap;

use crate::axis::Role;
use crate::build::Builder;
use crate::dtype::DType;
use crate::formula::{Formula, lit, x};
use crate::graph::{Def, Graph, Init, Leaf, Source};
use crate::id::{AxisId, Id, ValueId};
use crate::interpret::{Tensor, initial_leaves};
use crate::rule::{DimAccess, Reduce};
use crate::scalar::{Binary, Expr};

use dice::Dice;

/// The target that no loss counts.
pub const IGNORE: f64 = -100.0;

/// Most points of one operator's loop and most elements of one value.
const POINTS: u64 = 12_000;
const ELEMENTS: u64 = 1_500;

/// What graphs may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Steps outside repeats between the embedding and the loss.
    pub steps: usize,
    /// Whether there may be repeats.
    pub repeats: bool,
    /// Whether there may be functions with kinks: max, min, abs, argmax.
    pub kinks: bool,
    /// Whether no operator but the loss brings samples together, as micro-batches need it.
    pub apart: bool,
    /// Type of floating-point values.
    pub float: DType,
}

impl Default for Options {
    /// Everything.
    fn default() -> Self {
        Self { steps: 6, repeats: true, kinks: true, apart: false, float: DType::F64 }
    }
}

impl Options {
    /// What finite differences can check.
    pub fn smooth() -> Self {
        Self { kinks: false, ..Self::default() }
    }
}

/// The model of this seed: one forward phase and a loss that depends on its parameters.
///
/// ```
/// use partita_ir::{sample, verify::verify};
/// let graph = sample::graph(7, sample::Options::default());
/// assert!(verify(&graph).is_empty() && !graph.loss.is_empty());
/// ```
pub fn graph(seed: u64, options: Options) -> Graph {
    let mut sampler = Sampler::new(seed, options);
    let hidden = sampler.fresh_axis("hidden", 1, 7);
    let table = sampler.param(&[sampler.vocab, hidden]);
    let tokens = sampler.tokens;
    let embedded = sampler.b.gather("embedded", table, tokens, sampler.vocab);
    sampler.made(embedded);
    for _ in 0..options.steps {
        if options.repeats && sampler.dice.chance(0.15) {
            sampler.repeat();
        } else {
            sampler.step();
        }
    }
    sampler.finish(hidden)
}

/// Leaves for a run of a graph: parameters and states as they begin, and random tokens, a few of them out of range, a
/// few targets [`IGNORE`].
pub fn leaves(graph: &Graph, seed: u64) -> BTreeMap<(ValueId, u64), Tensor> {
    let mut dice = Dice::new(seed ^ 0x70CE);
    let vocab = graph.axes.iter().filter(|axis| axis.role == Role::Vocab).map(|axis| axis.size).max().unwrap_or(2);
    let mut leaves = initial_leaves(graph, seed);
    for (index, value) in graph.values.iter().enumerate() {
        let Def::Leaf(Leaf::Input(source)) = value.def else { continue };
        let id = ValueId::new(index);
        let tensor = Tensor::from_fn(graph.shape(id), |_| match source {
            Source::Tokens if dice.chance(0.05) => vocab as f64,
            Source::NextTokens if dice.chance(0.1) => IGNORE,
            Source::Pixels => dice.real(0.0, 1.0),
            _ => dice.below(vocab) as f64,
        });
        leaves.insert((id, 0), tensor);
    }
    leaves
}

/// A graph that grows by random steps.
struct Sampler {
    b: Builder,
    dice: Dice,
    options: Options,
    batch: AxisId,
    seq: AxisId,
    vocab: AxisId,
    tokens: ValueId,
    /// Values that a step may read here.
    pool: Vec<ValueId>,
    /// Those of them that nothing reads yet.
    unread: Vec<ValueId>,
    /// States of this scope, which nothing updates yet.
    states: Vec<ValueId>,
    named: usize,
}

impl Sampler {
    fn new(seed: u64, options: Options) -> Self {
        let mut dice = Dice::new(seed);
        let mut b = Builder::new(&format!("sample{seed}"), options.float);
        let mut axis = |name, low, high, role| b.axis(name, dice.between(low, high), role);
        let batch = axis("batch", 1, 4, Role::Batch);
        let seq = axis("seq", 1, 7, Role::Seq);
        let vocab = axis("vocab", 2, 7, Role::Vocab);
        let tokens = b.input("tokens", &[batch, seq], Source::Tokens);
        Self { b, dice, options, batch, seq, vocab, tokens, pool: Vec::new(), unread: Vec::new(), states: Vec::new(), named: 0 }
    }

    /// A name that nothing else has.
    fn name(&mut self, stem: &str) -> String {
        self.named += 1;
        format!("{stem}{}", self.named)
    }

    fn fresh_axis(&mut self, stem: &str, low: u64, high: u64) -> AxisId {
        let size = self.dice.between(low, high);
        self.axis_of(stem, size, Role::None)
    }

    fn axis_of(&mut self, stem: &str, size: u64, role: Role) -> AxisId {
        let name = self.name(stem);
        self.b.axis(&name, size, role)
    }

    /// A parameter whose contraction over all its axes but the last keeps magnitudes.
    fn param(&mut self, dims: &[AxisId]) -> ValueId {
        let fan = self.count(&dims[..dims.len().saturating_sub(1)]).max(2);
        let std = 1.0 / (fan as f64).sqrt();
        let init = if self.dice.chance(0.5) { Init::Normal(std) } else { Init::Uniform(1.7 * std) };
        let name = self.name("w");
        self.b.param(&name, dims, init)
    }

    fn count(&self, dims: &[AxisId]) -> u64 {
        dims.iter().map(|axis| self.b.graph.size(*axis)).product()
    }

    /// Whether an operator that walks `factors` and gives `dims` is small enough.
    fn fits(&self, factors: &[AxisId], dims: &[AxisId]) -> bool {
        self.count(factors) <= POINTS && self.count(dims) <= ELEMENTS
    }

    /// A new value enters the pool.
    fn made(&mut self, value: ValueId) {
        self.pool.push(value);
        self.unread.push(value);
    }

    /// A value of the pool that `wanted` accepts, more often one that nothing reads yet. It counts as read.
    fn pick(&mut self, wanted: &dyn Fn(&Self, &[AxisId]) -> bool) -> Option<ValueId> {
        let fitting = |from: &[ValueId]| -> Vec<ValueId> {
            from.iter().copied().filter(|value| wanted(self, &self.b.graph.value(*value).ty.dims)).collect()
        };
        let (unread, all) = (fitting(&self.unread), fitting(&self.pool));
        let from = if !unread.is_empty() && self.dice.chance(0.7) { unread } else { all };
        let value = *self.dice.choose(&from)?;
        self.unread.retain(|known| *known != value);
        Some(value)
    }

    /// Adds an operator or composite of a random kind. Kinds that fit nothing in the pool are passed over.
    fn step(&mut self) {
        for _ in 0..40 {
            let kind = *self.dice.choose(steps::STEPS).expect("there are steps");
            let unread = self.unread.clone();
            let mark = self.b.mark();
            if let Some(value) = kind(self)
                && !(self.options.apart && self.couples(mark.ops))
            {
                return self.made(value);
            }
            // what it had picked is still unread, and what it had made is gone
            self.unread = unread;
            self.b.rewind(mark);
            let values = self.b.graph.values.len();
            self.states.retain(|state| state.index() < values);
        }
    }

    /// Whether an operator since number `first` brings samples together or tells them apart by their parameters.
    fn couples(&self, first: usize) -> bool {
        let graph = &self.b.graph;
        graph.ops[first..].iter().any(|op| {
            let rule = op.rule().expect("steps are primitives");
            let read = rule.operands.iter().zip(&op.operands).map(|(access, value)| (access, *value));
            let mut all = read.chain([(&rule.result, op.result())]);
            let of_batch = |value: ValueId| graph.value(value).ty.dims.iter().position(|axis| *axis == self.batch);
            all.any(|(access, value)| {
                let param = matches!(graph.leaf(value), Some(Leaf::Param(_)));
                of_batch(value).is_some_and(|dim| {
                    let [term] = access[dim].terms[..] else { return true };
                    // element by element: the result walks the same factor along the same axis
                    let kept = of_batch(op.result()).is_some_and(|dim| rule.result[dim] == DimAccess::factor(term.factor));
                    param || !kept || access[dim] != DimAccess::factor(term.factor)
                })
            })
        })
    }

    /// A value of the pool with one of its axes first, which is not that of samples and not long.
    fn along(&mut self) -> Option<(ValueId, AxisId)> {
        let goes = |s: &Self, axis: AxisId| axis != s.batch && s.b.graph.size(axis) <= 7;
        let value = self.pick(&|s, dims| dims.iter().any(|axis| goes(s, *axis)))?;
        let dims = self.b.dims(value);
        let axes: Vec<AxisId> = dims.iter().copied().filter(|axis| goes(self, *axis)).collect();
        let axis = *self.dice.choose(&axes)?;
        Some((self.axis_first(value, axis), axis))
    }

    fn axis_first(&mut self, value: ValueId, axis: AxisId) -> ValueId {
        let dims = self.b.dims(value);
        if dims[0] == axis {
            return value;
        }
        let dims = [vec![axis], dims.into_iter().filter(|dim| *dim != axis).collect()].concat();
        self.b.map("turned", &[value], &dims, None, Expr::operand(0))
    }

    /// Adds a repeat of a few steps that carries one or two values. It may go along tensors: take their entries, and
    /// collect what it makes.
    fn repeat(&mut self) {
        let scanned = if self.dice.chance(0.5) { self.along() } else { None };
        let mut taken: Vec<ValueId> = scanned.iter().map(|(value, _)| *value).collect();
        if let Some((_, axis)) = scanned
            && self.dice.chance(0.4)
            && let Some(other) = self.pick(&|_, dims| dims.contains(&axis))
        {
            taken.push(self.axis_first(other, axis));
        }
        let mut inits = Vec::new();
        for _ in 0..self.dice.between(1, 2) {
            inits.extend(self.pick(&|_, _| true));
        }
        inits.dedup();
        let outside = (self.pool.clone(), std::mem::take(&mut self.unread), std::mem::take(&mut self.states));
        let name = self.name("layer");
        let count = scanned.map_or_else(|| self.dice.between(1, 3), |(_, axis)| self.b.graph.size(axis));
        let args = self.b.begin_repeat(&name, count, &inits);
        args.iter().for_each(|arg| self.made(*arg));
        for whole in taken {
            let each = self.b.take(whole);
            self.made(each);
        }
        for _ in 0..self.dice.between(1, 4) {
            self.step();
        }
        let mut nexts = Vec::new();
        for (position, arg) in args.iter().enumerate() {
            // all that nothing read flows on in the last carried value, the others move a little
            let from = if position + 1 == args.len() { std::mem::take(&mut self.unread) } else { Vec::new() };
            let parts = [vec![*arg], from.into_iter().filter(|value| value != arg).collect()].concat();
            let dims = self.b.dims(*arg);
            nexts.push(self.join(&parts, &dims));
        }
        self.update_states();
        if self.dice.chance(if scanned.is_some() { 0.8 } else { 0.2 }) {
            self.collect(count, scanned.map(|(_, axis)| axis));
        }
        let reversed = self.dice.chance(0.2);
        let results = self.b.end_repeat(&nexts, reversed);
        (self.pool, self.unread, self.states) = outside;
        results.into_iter().for_each(|result| self.made(result));
    }

    /// Collects a value of the body of the open repeat, along its own axis if that is free.
    fn collect(&mut self, count: u64, along: Option<AxisId>) {
        let within = self.b.within();
        let inside = |value: &ValueId| self.b.graph.value(*value).within == within && self.b.graph.elements(*value) * count <= ELEMENTS;
        let made: Vec<ValueId> = self.pool.iter().copied().filter(inside).collect();
        let Some(each) = self.dice.choose(&made).copied() else { return };
        let axis = match along.filter(|axis| !self.b.dims(each).contains(axis)) {
            Some(axis) => axis,
            None => self.axis_of("entry", count, Role::None),
        };
        self.b.collect(each, axis);
    }

    /// One value over `dims` that all of `parts` flow into: further axes are folded away, missing ones broadcast.
    fn join(&mut self, parts: &[ValueId], dims: &[AxisId]) -> ValueId {
        let mut terms = Vec::new();
        for part in parts {
            let kept: Vec<AxisId> = self.b.dims(*part).into_iter().filter(|axis| dims.contains(axis)).collect();
            let folded: Vec<AxisId> = self.b.dims(*part).into_iter().filter(|axis| !dims.contains(axis)).collect();
            if folded.is_empty() {
                terms.push(*part);
            } else if self.dice.chance(0.5) {
                let weight = self.param(&folded);
                terms.push(self.b.einsum("joined", &[*part, weight], &kept));
            } else {
                let mean = x(0) * lit(1.0 / self.count(&folded) as f64);
                terms.push(self.b.map("mean", &[*part], &kept, Some(Reduce::Sum), mean.expr()));
            }
        }
        let bounded = (1..terms.len()).fold(x(0).tanh(), |sum, n| sum + x(n).tanh());
        let expr = if self.dice.chance(0.3) { Expr::sum(terms.len()) } else { bounded.expr() };
        self.b.map("join", &terms, dims, None, expr)
    }

    /// What the states of this scope become: a function of a mean of some value of the scope, over the whole batch.
    fn update_states(&mut self) {
        for state in std::mem::take(&mut self.states) {
            let value = *self.dice.choose(&self.pool).expect("something was made before a state");
            let dims = self.b.dims(state);
            let folded: Vec<AxisId> = self.b.dims(value).into_iter().filter(|axis| !dims.contains(axis)).collect();
            let kept: Vec<AxisId> = self.b.dims(value).into_iter().filter(|axis| dims.contains(axis)).collect();
            let term = if self.dice.chance(0.5) { x(0) } else { x(0) * x(0) };
            let reduce = if self.options.kinks && !self.options.apart && self.dice.chance(0.2) { Reduce::Max } else { Reduce::Sum };
            let scale = if reduce == Reduce::Sum { 1.0 / self.count(&folded) as f64 } else { 1.0 };
            let seen = self.b.map("seen", &[value], &kept, Some(reduce), (term * lit(scale)).expr());
            let next = x(0) * lit(0.7) + if self.dice.chance(0.5) { x(1) } else { x(1).tanh() } * lit(0.3);
            let next = self.b.map("next", &[state, seen], &dims, None, next.expr());
            self.b.update(state, next);
        }
    }

    /// All that nothing read flows into a loss.
    fn finish(mut self, hidden: AxisId) -> Graph {
        self.update_states();
        let dims = [self.batch, self.seq, hidden];
        let rest = std::mem::take(&mut self.unread);
        let last = self.join(&rest, &dims);
        let targets = self.b.input("targets", &[self.batch, self.seq], Source::NextTokens);
        let weight = self.param(&[hidden, self.vocab]);
        let mut out = [self.batch, self.seq, self.vocab];
        if self.dice.chance(0.3) {
            self.dice.shuffle(&mut out);
        }
        let logits = self.b.einsum("logits", &[last, weight], &out);
        let (sum, count) = if self.dice.chance(0.8) {
            self.b.cross_entropy(logits, targets, self.vocab, IGNORE)
        } else {
            let valid = |n: usize| -> Formula { x(n).binary(Binary::Ne, lit(IGNORE)) };
            let squares = valid(1).select(x(0) * x(0), lit(0.0));
            let sum = self.b.map("squares", &[logits, targets], &[], Some(Reduce::Sum), squares.expr());
            (sum, self.b.map("count", &[targets], &[], Some(Reduce::Sum), valid(0).expr()))
        };
        self.b.loss(sum, count);
        self.b.finish()
    }
}
