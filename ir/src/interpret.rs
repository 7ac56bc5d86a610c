//! The interpreter: plain loops in f64, no cleverness. Every back end and every layout is compared with it.
//!
//! What an operator computes is rounded to the type of its result if that has 16 bits: that is what a run in such a type
//! means. Values of f32 keep the digits of f64.
//!
//! It runs the whole batch at once, so a sum over micro-batches is the value itself. It also evaluates one rule on one
//! shard, which is how sharded runs are checked against whole ones. Shapes that do not fit are bugs and panic with the
//! operator; graphs from outside go through [`crate::verify::verify`] first.

use std::collections::BTreeMap;

use crate::graph::{Def, Graph, Kind, Leaf, PhaseKind, Repeat, Supplied};
use crate::id::{Id, LoopId, OpId, ValueId};
use crate::layout::Intervals;
use crate::random::{self, DrawContext};
use crate::rule::{DimAccess, Rule};

/// A dense tensor, row-major.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tensor {
    /// Elements of each dimension, outermost first; none for a scalar.
    pub shape: Vec<u64>,
    /// The elements: as many as the product of the shape.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor of this shape and these elements.
    pub fn new(shape: Vec<u64>, data: Vec<f64>) -> Self {
        let elements: u64 = shape.iter().product();
        assert_eq!(elements, data.len() as u64, "a tensor of shape {shape:?} has {elements} elements");
        Self { shape, data }
    }

    /// A scalar.
    pub fn scalar(value: f64) -> Self {
        Self::new(Vec::new(), vec![value])
    }

    /// The tensor at an index of the first dimension.
    pub fn entry(&self, index: u64) -> Self {
        let shape = self.shape[1..].to_vec();
        let elements = shape.iter().product::<u64>() as usize;
        Self::new(shape, self.data[index as usize * elements..][..elements].to_vec())
    }

    /// The tensor whose element `i`, counted row-major, is `element(i)`.
    pub fn from_fn(shape: Vec<u64>, element: impl FnMut(u64) -> f64) -> Self {
        let elements: u64 = shape.iter().product();
        let data = (0..elements).map(element).collect();
        Self { shape, data }
    }
}

/// The extents of whole factors of these sizes.
pub fn whole(sizes: &[u64]) -> Vec<Intervals> {
    sizes.iter().map(|&size| vec![(0, size)]).collect()
}

/// Evaluates a rule on a shard.
///
/// `extents` are the global indices walked of each factor, `sizes` the factors' global sizes, and `operand_shapes` the
/// operands' global shapes. A dimension that its factors walk exactly ([`DimAccess::is_exact`]) is as local as they
/// are: the tensor holds the row-major product of their local indices. Of any other dimension it holds what they reach
/// ([`DimAccess::reached`]), is read at the global affine index, and gives 0 outside the dimension. The result's
/// dimensions are exact, so they are as local as their factors.
pub fn eval_rule(
    rule: &Rule,
    extents: &[Intervals],
    sizes: &[u64],
    operands: &[&Tensor],
    operand_shapes: &[Vec<u64>],
    ctx: DrawContext,
) -> Tensor {
    assert_eq!(extents.len(), rule.factors.len(), "one extent for each factor of {rule:?}");
    assert_eq!(operands.len(), rule.operands.len(), "one tensor for each operand of {rule:?}");
    let mut walk = Walk::new(rule, extents);
    let reads: Vec<Read<'_>> = rule
        .operands
        .iter()
        .zip(operands)
        .zip(operand_shapes)
        .map(|((access, tensor), shape)| Read::new(rule, access, tensor, shape, &Local { sizes, extents, walk: &walk }))
        .collect();
    let shape = rule.result.iter().map(|dim| dim.terms.iter().map(|term| walk.count(term.factor) as u64).product()).collect();
    let kept: Vec<usize> = Rule::factors_of(&rule.result).collect();
    let reduced = rule.reduced();
    // a tuple is folded row by row, anything else number by number
    let (outer, row) = match rule.reduce {
        Some(reduce) if reduce.is_tuple() => kept.split_at(kept.len() - rule.result.last().map_or(0, |dim| dim.terms.len())),
        _ => (&kept[..], &[][..]),
    };
    let mut numbers = vec![0.0; operands.len()];
    let mut scratch = Vec::new();
    let mut point = |walk: &Walk| -> f64 {
        for (number, read) in numbers.iter_mut().zip(&reads) {
            *number = read.at(walk);
        }
        let draw = |salt: u64, factors: &[usize]| {
            let element = factors.iter().fold(0, |element, &factor| element * sizes[factor] + walk.indices[factor]);
            random::uniform(random::stream(ctx, salt), element)
        };
        rule.expr.eval(&numbers, &walk.indices, &draw, &mut scratch)
    };
    let mut data = Vec::new();
    walk.each(outer, &mut |walk| {
        let Some(reduce) = rule.reduce else {
            data.push(point(walk));
            return;
        };
        let length = row.iter().map(|factor| walk.count(*factor)).product();
        let mut total = vec![0.0; length];
        reduce.identity(&mut total);
        walk.each(&reduced, &mut |walk| {
            let mut other = Vec::with_capacity(length);
            walk.each(row, &mut |walk| other.push(point(walk)));
            reduce.merge(&mut total, &other);
        });
        data.append(&mut total);
    });
    Tensor::new(shape, data)
}

/// Where a loop nest is: for each factor the local position and the global index there.
struct Walk {
    points: Vec<Vec<u64>>,
    positions: Vec<usize>,
    indices: Vec<u64>,
}

impl Walk {
    fn new(rule: &Rule, extents: &[Intervals]) -> Self {
        let points = extents.iter().map(|extent| extent.iter().flat_map(|&(start, end)| start..end).collect()).collect();
        Self { points, positions: vec![0; rule.factors.len()], indices: vec![0; rule.factors.len()] }
    }

    fn count(&self, factor: usize) -> usize {
        self.points[factor].len()
    }

    /// Calls `visit` at each point of `factors` in row-major order, the other factors left where they are.
    fn each(&mut self, factors: &[usize], visit: &mut dyn FnMut(&mut Walk)) {
        let Some((&factor, inner)) = factors.split_first() else { return visit(self) };
        for position in 0..self.count(factor) {
            self.positions[factor] = position;
            self.indices[factor] = self.points[factor][position];
            self.each(inner, visit);
        }
    }
}

/// How one operand is read.
struct Read<'a> {
    tensor: &'a Tensor,
    dims: Vec<ReadDim<'a>>,
}

enum ReadDim<'a> {
    /// Row-major over the local positions of these (factor, count).
    Local(Vec<(usize, usize)>),
    /// At the global index, of a dimension of this size of which the tensor holds what begins at `first`.
    At { access: &'a DimAccess, size: u64, first: u64 },
}

/// The local part of the factors.
struct Local<'a> {
    sizes: &'a [u64],
    extents: &'a [Intervals],
    walk: &'a Walk,
}

impl<'a> Read<'a> {
    fn new(rule: &'a Rule, access: &'a [DimAccess], tensor: &'a Tensor, shape: &[u64], local: &Local<'_>) -> Self {
        let reached = |dim: &DimAccess, size: u64| dim.reached(size, &|factor| (local.sizes[factor], &local.extents[factor]));
        let dims: Vec<ReadDim<'_>> = access
            .iter()
            .zip(shape)
            .map(|(dim, &size)| {
                if dim.is_exact(size, &|factor| local.sizes[factor]) {
                    ReadDim::Local(dim.terms.iter().map(|term| (term.factor, local.walk.count(term.factor))).collect())
                } else {
                    ReadDim::At { access: dim, size, first: reached(dim, size).0 }
                }
            })
            .collect();
        let held: Vec<u64> = dims
            .iter()
            .map(|dim| match dim {
                ReadDim::Local(factors) => factors.iter().map(|(_, count)| *count as u64).product(),
                ReadDim::At { access, size, .. } => {
                    let (first, end) = reached(access, *size);
                    end - first
                }
            })
            .collect();
        assert_eq!(tensor.shape, held, "the shard of an operand of {rule:?}");
        Self { tensor, dims }
    }

    fn at(&self, walk: &Walk) -> f64 {
        let mut offset = 0;
        for (dim, &held) in self.dims.iter().zip(&self.tensor.shape) {
            let index = match dim {
                ReadDim::Local(factors) => factors.iter().fold(0, |at, (factor, count)| at * count + walk.positions[*factor]),
                ReadDim::At { access, size, first } => match u64::try_from(access.index(&walk.indices)) {
                    Ok(index) if index < *size => (index - first) as usize,
                    _ => return 0.0,
                },
            };
            offset = offset * held as usize + index;
        }
        self.tensor.data[offset]
    }
}

/// What a run computed: every value of every iteration.
#[derive(Clone, Debug, Default)]
pub struct Env {
    values: BTreeMap<(ValueId, u64), Tensor>,
    accumulated: BTreeMap<ValueId, ValueId>,
    assigned: BTreeMap<(ValueId, u64), Tensor>,
}

impl Env {
    /// The value at an iteration (0 outside loops), if the run had or computed it. An accumulated leaf that the caller
    /// did not supply is the value that it accumulates.
    pub fn get(&self, value: ValueId, iteration: u64) -> Option<&Tensor> {
        let key = (value, iteration);
        self.values.get(&key).or_else(|| self.values.get(&(*self.accumulated.get(&value)?, iteration)))
    }

    /// Every parameter and state that the step assigns, with its next value.
    pub fn assigned(&self) -> &BTreeMap<(ValueId, u64), Tensor> {
        &self.assigned
    }
}

/// The first value of a parameter or state at an iteration. Panics on any other value.
pub fn initial_leaf(graph: &Graph, value: ValueId, iteration: u64, seed: u64) -> Tensor {
    let Some((init, drawn_by)) = graph.begins(value) else {
        panic!("{value} `{}` is no parameter and no state", graph.value(value).name);
    };
    let stream = init_stream(graph, drawn_by, iteration, seed);
    let dtype = graph.value(value).ty.dtype;
    Tensor::from_fn(graph.shape(value), |element| dtype.round(init.element(stream, element)))
}

/// The stream that [`crate::graph::Init::element`] draws the first value of a parameter from: keyed by its instance's name.
pub fn init_stream(graph: &Graph, value: ValueId, iteration: u64, seed: u64) -> u64 {
    let ctx = DrawContext { seed, step: 0, iteration: 0 };
    random::stream(ctx, random::salt_of(&graph.instance_name(value, iteration)))
}

/// The first values of all parameters and states at all iterations.
pub fn initial_leaves(graph: &Graph, seed: u64) -> BTreeMap<(ValueId, u64), Tensor> {
    let begins = graph.leaves(|leaf| matches!(leaf, Leaf::Param(_) | Leaf::State { .. } | Leaf::Progress(_)));
    begins
        .flat_map(|value| (0..graph.iterations(graph.value(value).within)).map(move |iteration| (value, iteration)))
        .map(|(value, iteration)| ((value, iteration), initial_leaf(graph, value, iteration, seed)))
        .collect()
}

/// Runs all phases of a graph once, on the whole batch. `leaves` holds inputs, parameters and states by iteration (0
/// outside loops); a supplied scalar that it lacks follows from `step`, which counts from 0.
pub fn run(graph: &Graph, leaves: BTreeMap<(ValueId, u64), Tensor>, seed: u64, step: u64) -> Env {
    run_rounded(graph, leaves, seed, step, &|x| x)
}

/// The same with every number that an operator computes passed through `round`: what a graph computes when it is rounded
/// otherwise, for telling whether its numbers depend on that.
pub fn run_rounded(graph: &Graph, leaves: BTreeMap<(ValueId, u64), Tensor>, seed: u64, step: u64, round: &dyn Fn(f64) -> f64) -> Env {
    let mut run = Run { graph, env: Env { values: leaves, ..Env::default() }, seed, step, round };
    for (index, value) in graph.values.iter().enumerate() {
        match value.def {
            Def::Leaf(Leaf::Accumulated(of)) => {
                run.env.accumulated.insert(ValueId::new(index), of);
            }
            Def::Leaf(Leaf::Supplied(Supplied::StepNumber)) => {
                run.env.values.entry((ValueId::new(index), 0)).or_insert_with(|| Tensor::scalar((step + 1) as f64));
            }
            _ => {}
        }
    }
    for (kind, _) in PhaseKind::ALL {
        for &op in graph.phase(kind) {
            match &graph.op(op).kind {
                Kind::Map(rule) => run.map(op, rule, None),
                Kind::Repeat(repeat) => run.repeat(op, repeat),
            }
        }
    }
    for assign in &graph.assigns {
        for iteration in 0..graph.iterations(graph.value(assign.target).within) {
            let next = run.read(assign.value, iteration).clone();
            run.env.assigned.insert((assign.target, iteration), next);
        }
    }
    run.env
}

struct Run<'a> {
    graph: &'a Graph,
    env: Env,
    seed: u64,
    step: u64,
    round: &'a dyn Fn(f64) -> f64,
}

impl Run<'_> {
    /// The value as an operator at this iteration sees it: one with an instance per iteration at the same one.
    fn read(&self, value: ValueId, iteration: u64) -> &Tensor {
        let iteration = if self.graph.value(value).within.is_some() { iteration } else { 0 };
        let name = &self.graph.value(value).name;
        self.env.get(value, iteration).unwrap_or_else(|| panic!("{value} `{name}` at iteration {iteration} has no value yet"))
    }

    fn map(&mut self, op: OpId, rule: &Rule, at: Option<(LoopId, u64)>) {
        let graph = self.graph;
        let iteration = at.map_or(0, |(_, iteration)| iteration);
        let operands = &graph.op(op).operands;
        let tensors: Vec<&Tensor> = operands.iter().map(|operand| self.read(*operand, iteration)).collect();
        let shapes: Vec<Vec<u64>> = operands.iter().map(|operand| graph.shape(*operand)).collect();
        for ((operand, tensor), shape) in operands.iter().zip(&tensors).zip(&shapes) {
            assert_eq!(tensor.shape, *shape, "{op} reads {operand} `{}`", graph.value(*operand).name);
        }
        let sizes = graph.factor_sizes(rule);
        let ctx = DrawContext { seed: self.seed, step: self.step, iteration };
        let mut result = eval_rule(rule, &whole(&sizes), &sizes, &tensors, &shapes, ctx);
        let value = graph.op(op).result();
        let dtype = graph.value(value).ty.dtype;
        result.data.iter_mut().for_each(|x| *x = dtype.round((self.round)(*x)));
        assert_eq!(result.shape, graph.shape(value), "{op} defines {value} `{}`", graph.value(value).name);
        self.env.values.insert((value, iteration), result);
    }

    fn repeat(&mut self, op: OpId, repeat: &Repeat) {
        let count = self.graph.iterations(Some(repeat.over));
        let mut carried: Vec<Tensor> = repeat.carried.iter().map(|carried| self.read(carried.init, 0).clone()).collect();
        for passed in 0..count {
            let iteration = repeat.iteration(passed, count);
            for (entry, tensor) in repeat.carried.iter().zip(carried) {
                self.env.values.insert((entry.arg, iteration), tensor);
            }
            for slice in &repeat.taken {
                let entry = self.read(slice.whole, 0).entry(iteration);
                self.env.values.insert((slice.each, iteration), entry);
            }
            for &inner in &repeat.body {
                let Kind::Map(rule) = &self.graph.op(inner).kind else { panic!("{inner} is a repeat within {op}") };
                self.map(inner, rule, Some((repeat.over, iteration)));
            }
            carried = repeat.carried.iter().map(|entry| self.read(entry.next, iteration).clone()).collect();
        }
        for (&result, tensor) in self.graph.op(op).results.iter().zip(carried) {
            self.env.values.insert((result, 0), tensor);
        }
        for slice in &repeat.collected {
            let shape = self.graph.shape(slice.whole);
            let data = (0..count).flat_map(|iteration| self.read(slice.each, iteration).data.clone()).collect();
            self.env.values.insert((slice.whole, 0), Tensor::new(shape, data));
        }
    }
}
