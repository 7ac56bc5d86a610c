//! Building graphs: operands are matched by axis, rules follow.

use crate::axis::{Axis, Role};
use crate::dtype::DType;
use crate::formula::{index, lit, x};
use crate::graph::{
    Assign, Carried, Class, Composite, Def, Graph, Init, Kind, Leaf, Loop, LossTerm, Op, Phase, PhaseKind, Repeat, Slice, Source, Span,
    Type, Value,
};
use crate::id::{AxisId, CompositeId, Id, LoopId, OpId, ValueId};
use crate::rule::{Access, DimAccess, Reduce, Rule};
use crate::scalar::Expr;

/// A graph under construction. Operators go to the innermost open repeat, else to the open phase.
#[derive(Debug)]
pub struct Builder {
    /// The graph so far.
    pub graph: Graph,
    /// Element type of floating-point values.
    pub float: DType,
    scopes: Vec<Vec<OpId>>,
    open_loop: Option<Open>,
    /// Class that new operators get.
    pub class: Class,
    /// Composite that new operators belong to.
    pub composite: Option<CompositeId>,
    /// Place in the model file that new operators get.
    pub span: Option<Span>,
}

/// The repeat whose body is open.
#[derive(Debug)]
struct Open {
    over: LoopId,
    /// What enters and what the body sees of it.
    carried: Vec<(ValueId, ValueId)>,
    taken: Vec<Slice>,
    /// Values of the body, and the axis along which they are collected.
    collected: Vec<(ValueId, AxisId)>,
}

/// How far a graph under construction has come.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    axes: usize,
    values: usize,
    /// Operators so far.
    pub ops: usize,
    composites: usize,
    scope: usize,
}

impl Builder {
    /// An empty graph; floating-point values are of type `float`.
    pub fn new(name: &str, float: DType) -> Self {
        let graph = Graph { name: name.to_owned(), ..Graph::default() };
        Self::resume(graph, float)
    }

    /// Goes on with a graph: new operators form a new phase at [`Builder::end_phase`].
    pub fn resume(graph: Graph, float: DType) -> Self {
        Self { graph, float, scopes: vec![Vec::new()], open_loop: None, class: Class::Other, composite: None, span: None }
    }

    /// Closes the open phase.
    pub fn end_phase(&mut self, kind: PhaseKind) {
        let ops = self.scopes.pop().expect("a phase is open");
        self.scopes.push(Vec::new());
        self.graph.phases.push(Phase { kind, ops });
        self.graph.phases.sort_by_key(|phase| phase.kind);
    }

    /// The finished model: one forward phase.
    pub fn finish(mut self) -> Graph {
        self.end_phase(PhaseKind::Forward);
        self.graph
    }

    /// A new axis.
    pub fn axis(&mut self, name: &str, size: u64, role: Role) -> AxisId {
        self.graph.axes.push(Axis { name: name.to_owned(), size, role });
        AxisId::new(self.graph.axes.len() - 1)
    }

    /// The loop whose body is open.
    pub fn within(&self) -> Option<LoopId> {
        self.open_loop.as_ref().map(|open| open.over)
    }

    fn value(&mut self, name: &str, dtype: DType, dims: Vec<AxisId>, def: Def) -> ValueId {
        let within = self.within();
        self.graph.values.push(Value { name: name.to_owned(), ty: Type { dtype, dims }, def, within });
        ValueId::new(self.graph.values.len() - 1)
    }

    /// A leaf of any kind, of the floating-point type.
    pub fn leaf(&mut self, name: &str, dims: &[AxisId], leaf: Leaf) -> ValueId {
        self.value(name, self.float, dims.to_vec(), Def::Leaf(leaf))
    }

    /// A parameter; inside a repeat, one instance per iteration.
    pub fn param(&mut self, name: &str, dims: &[AxisId], init: Init) -> ValueId {
        self.leaf(name, dims, Leaf::Param(init))
    }

    /// A value kept from step to step that belongs to no parameter; inside a repeat, one instance per iteration.
    pub fn state(&mut self, name: &str, dims: &[AxisId], init: Init) -> ValueId {
        self.leaf(name, dims, Leaf::State { init, of: None, slot: String::new() })
    }

    /// Data of the batch.
    pub fn input(&mut self, name: &str, dims: &[AxisId], source: Source) -> ValueId {
        let dtype = if source.is_float() { self.float } else { DType::I32 };
        self.value(name, dtype, dims.to_vec(), Def::Leaf(Leaf::Input(source)))
    }

    /// The dimensions of a value.
    pub fn dims(&self, id: ValueId) -> Vec<AxisId> {
        self.graph.value(id).ty.dims.clone()
    }

    /// How far the graph has come, for [`Builder::rewind`].
    pub fn mark(&self) -> Mark {
        let graph = &self.graph;
        let scope = self.scopes.last().map_or(0, Vec::len);
        Mark { axes: graph.axes.len(), values: graph.values.len(), ops: graph.ops.len(), composites: graph.composites.len(), scope }
    }

    /// Takes out what was added to the open scope since a mark.
    pub fn rewind(&mut self, mark: Mark) {
        self.graph.axes.truncate(mark.axes);
        self.graph.values.truncate(mark.values);
        self.graph.ops.truncate(mark.ops);
        self.graph.composites.truncate(mark.composites);
        self.scopes.last_mut().expect("a scope is open").truncate(mark.scope);
    }

    /// Runs `build` with its operators in a new composite of this name and class.
    pub fn composite<T>(&mut self, name: &str, class: Class, recompute: bool, build: impl FnOnce(&mut Self) -> T) -> T {
        let before = (self.class, self.composite);
        if self.composite.is_none() {
            self.graph.composites.push(Composite { name: name.to_owned(), recompute });
            self.composite = Some(CompositeId::new(self.graph.composites.len() - 1));
        }
        if self.class == Class::Other {
            self.class = class;
        }
        let out = build(self);
        (self.class, self.composite) = before;
        out
    }

    /// Runs `build` with its operators of this class.
    pub fn classed<T>(&mut self, class: Class, build: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.class, class);
        let out = build(self);
        self.class = before;
        out
    }

    /// An operator by its rule; the result has these dimensions.
    pub fn rule(&mut self, name: &str, rule: Rule, operands: &[ValueId], dims: &[AxisId]) -> ValueId {
        let op = OpId::new(self.graph.ops.len());
        let result = self.value(name, self.float, dims.to_vec(), Def::Result(op, 0));
        self.graph.ops.push(Op {
            kind: Kind::Map(rule),
            operands: operands.to_vec(),
            results: vec![result],
            class: self.class,
            composite: self.composite,
            span: self.span,
        });
        self.scopes.last_mut().expect("a scope is open").push(op);
        result
    }

    /// The loop space of operands matched by axis: the result's axes first, then the others in order of appearance,
    /// and where each operand is read.
    pub fn matched(&self, operands: &[ValueId], dims: &[AxisId]) -> (Vec<AxisId>, Vec<Access>) {
        let mut factors = dims.to_vec();
        let mut accesses = Vec::new();
        for operand in operands {
            let mut access = Vec::new();
            for axis in self.dims(*operand) {
                let factor = factors.iter().position(|known| *known == axis).unwrap_or_else(|| {
                    factors.push(axis);
                    factors.len() - 1
                });
                access.push(DimAccess::factor(factor));
            }
            accesses.push(access);
        }
        (factors, accesses)
    }

    /// An operator on operands matched by axis: factors are `dims`, then the operands' other axes in order of
    /// appearance, which `reduce` folds.
    pub fn map(&mut self, name: &str, operands: &[ValueId], dims: &[AxisId], reduce: Option<Reduce>, expr: Expr) -> ValueId {
        let (factors, accesses) = self.matched(operands, dims);
        let reduce = if factors.len() == dims.len() { None } else { reduce.or(Some(Reduce::Sum)) };
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        self.rule(name, Rule { factors, operands: accesses, result, reduce, expr }, operands, dims)
    }

    /// The union of the axes of these values, in order of appearance.
    pub fn union_dims(&self, values: &[ValueId]) -> Vec<AxisId> {
        let mut dims = Vec::new();
        for axis in values.iter().flat_map(|value| self.dims(*value)) {
            if !dims.contains(&axis) {
                dims.push(axis);
            }
        }
        dims
    }

    /// An elementwise operator: the result has the union of the operands' axes.
    pub fn elementwise(&mut self, name: &str, operands: &[ValueId], expr: Expr) -> ValueId {
        let dims = self.union_dims(operands);
        self.map(name, operands, &dims, None, expr)
    }

    /// The contraction of operands over every axis that is not in `dims`.
    pub fn einsum(&mut self, name: &str, operands: &[ValueId], dims: &[AxisId]) -> ValueId {
        let class = if self.class == Class::Other { Class::Contraction } else { self.class };
        let expr = Expr::product(operands.len());
        self.classed(class, |b| b.map(name, operands, dims, Some(Reduce::Sum), expr))
    }

    /// The fold of `value` over `axes`.
    pub fn fold(&mut self, name: &str, reduce: Reduce, value: ValueId, axes: &[AxisId]) -> ValueId {
        let dims: Vec<AxisId> = self.dims(value).into_iter().filter(|axis| !axes.contains(axis)).collect();
        self.map(name, &[value], &dims, Some(reduce), Expr::operand(0))
    }

    /// The same elements under other axes: each entry says which axes (of equal total size) a dimension becomes.
    /// Merging is the inverse: `from` lists the axes that each new dimension is made of.
    pub fn split_axis(&mut self, name: &str, value: ValueId, axis: AxisId, parts: &[AxisId]) -> ValueId {
        let dims: Vec<AxisId> = self.dims(value).into_iter().flat_map(|dim| if dim == axis { parts.to_vec() } else { vec![dim] }).collect();
        let sizes: Vec<u64> = dims.iter().map(|dim| self.graph.size(*dim)).collect();
        let position = |wanted: AxisId| dims.iter().position(|dim| *dim == wanted).expect("the axis was just put there");
        let access = self
            .dims(value)
            .into_iter()
            .map(|dim| {
                let factors: Vec<usize> =
                    if dim == axis { parts.iter().map(|part| position(*part)).collect() } else { vec![position(dim)] };
                DimAccess::merged(&factors, &|factor| sizes[factor])
            })
            .collect();
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors: dims.clone(), operands: vec![access], result, reduce: None, expr: Expr::operand(0) };
        self.rule(name, rule, &[value], &dims)
    }

    /// Merges neighbouring dimensions `parts` into `axis`.
    pub fn merge_axes(&mut self, name: &str, value: ValueId, parts: &[AxisId], axis: AxisId) -> ValueId {
        let factors = self.dims(value);
        let sizes: Vec<u64> = factors.iter().map(|dim| self.graph.size(*dim)).collect();
        let mut dims = Vec::new();
        let mut result = Vec::new();
        for (position, dim) in factors.iter().enumerate() {
            if Some(dim) == parts.first() {
                let merged: Vec<usize> = (position..position + parts.len()).collect();
                dims.push(axis);
                result.push(DimAccess::merged(&merged, &|factor| sizes[factor]));
            } else if !parts.contains(dim) {
                dims.push(*dim);
                result.push(DimAccess::factor(position));
            }
        }
        let access = (0..factors.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors, operands: vec![access], result, reduce: None, expr: Expr::operand(0) };
        self.rule(name, rule, &[value], &dims)
    }

    /// The elements `start ..` of `axis`, as many as the new axis `short` has; the same with `start` 0 and an equal
    /// size renames the axis.
    pub fn slice(&mut self, name: &str, value: ValueId, axis: AxisId, start: i64, short: AxisId) -> ValueId {
        let dims: Vec<AxisId> = self.dims(value).into_iter().map(|dim| if dim == axis { short } else { dim }).collect();
        let mut access: Access = (0..dims.len()).map(DimAccess::factor).collect();
        for (position, dim) in dims.iter().enumerate() {
            if *dim == short {
                access[position].offset = start;
            }
        }
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors: dims.clone(), operands: vec![access], result, reduce: None, expr: Expr::operand(0) };
        self.rule(name, rule, &[value], &dims)
    }

    /// `value` with `before` elements of `fill` in front along `axis`, and as many behind as the new axis `wider` has left.
    pub fn pad(&mut self, name: &str, value: ValueId, (axis, wider): (AxisId, AxisId), before: i64, fill: f64) -> ValueId {
        let dims: Vec<AxisId> = self.dims(value).into_iter().map(|dim| if dim == axis { wider } else { dim }).collect();
        let at = dims.iter().position(|dim| *dim == wider).expect("the value has the axis");
        let mut access: Access = (0..dims.len()).map(DimAccess::factor).collect();
        access[at].offset = -before;
        let end = before + self.graph.size(axis) as i64;
        let inside = lit(before as f64).at_most(index(at)) * index(at).below(lit(end as f64));
        // what is read outside is 0 already
        let expr = if fill == 0.0 { x(0) } else { inside.select(x(0), lit(fill)) };
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors: dims.clone(), operands: vec![access], result, reduce: None, expr: expr.expr() };
        self.rule(name, rule, &[value], &dims)
    }

    /// Values one behind the other: each along its own axis, the result along `whole`. Their other axes are those of the first,
    /// or fewer: such a part is the same along the others.
    pub fn concat(&mut self, name: &str, parts: &[(ValueId, AxisId)], whole: AxisId) -> ValueId {
        let (first, part) = parts[0];
        let dims: Vec<AxisId> = self.dims(first).into_iter().map(|dim| if dim == part { whole } else { dim }).collect();
        let mut start = 0;
        let mut accesses = Vec::new();
        for (value, part) in parts {
            let walk = |dim: AxisId| {
                let wanted = if dim == *part { whole } else { dim };
                let factor = dims.iter().position(|known| *known == wanted).expect("the first part has every other axis");
                DimAccess { offset: if dim == *part { -start } else { 0 }, ..DimAccess::factor(factor) }
            };
            accesses.push(self.dims(*value).into_iter().map(walk).collect());
            start += self.graph.size(*part) as i64;
        }
        // each part is 0 where it is not
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors: dims.clone(), operands: accesses, result, reduce: None, expr: Expr::sum(parts.len()) };
        let operands: Vec<ValueId> = parts.iter().map(|(value, _)| *value).collect();
        self.rule(name, rule, &operands, &dims)
    }

    /// Opens a repeat over a new loop; gives what the body sees of the carried values. Repeats do not nest.
    pub fn begin_repeat(&mut self, name: &str, count: u64, inits: &[ValueId]) -> Vec<ValueId> {
        self.graph.loops.push(Loop { name: name.to_owned(), count });
        let over = LoopId::new(self.graph.loops.len() - 1);
        self.begin_repeat_over(over, inits)
    }

    /// Opens a repeat over a loop that exists.
    pub fn begin_repeat_over(&mut self, over: LoopId, inits: &[ValueId]) -> Vec<ValueId> {
        assert!(self.open_loop.is_none(), "repeats do not nest");
        self.scopes.push(Vec::new());
        self.open_loop = Some(Open { over, carried: Vec::new(), taken: Vec::new(), collected: Vec::new() });
        inits.iter().map(|init| self.carry(*init)).collect()
    }

    /// Adds a carried value to the open repeat and gives what the body sees of it.
    pub fn carry(&mut self, init: ValueId) -> ValueId {
        let Value { name, ty, .. } = self.graph.value(init).clone();
        let carried = self.open_loop.as_ref().map_or(0, |open| open.carried.len());
        let arg = self.value(&name, ty.dtype, ty.dims, Def::Carried(OpId(u32::MAX), carried));
        self.open_loop.as_mut().expect("a repeat is open").carried.push((init, arg));
        arg
    }

    /// What the body of the open repeat sees of a tensor whose first axis goes along the loop: its entry at the iteration.
    pub fn take(&mut self, whole: ValueId) -> ValueId {
        let position = self.open_loop.as_ref().map_or(0, |open| open.taken.len());
        let Value { name, ty, .. } = self.graph.value(whole).clone();
        let each = self.value(&name, ty.dtype, ty.dims[1..].to_vec(), Def::Taken(OpId(u32::MAX), position));
        self.open_loop.as_mut().expect("a repeat is open").taken.push(Slice { whole, each });
        each
    }

    /// Makes a tensor of a value of each iteration of the open repeat, with `axis` first: one more result of the repeat.
    pub fn collect(&mut self, each: ValueId, axis: AxisId) {
        self.open_loop.as_mut().expect("a repeat is open").collected.push((each, axis));
    }

    /// Closes the repeat; `nexts` are what the body hands to the next iteration. Gives the last values, then what was
    /// collected.
    pub fn end_repeat(&mut self, nexts: &[ValueId], reversed: bool) -> Vec<ValueId> {
        let Open { over, carried: args, taken, collected } = self.open_loop.take().expect("a repeat is open");
        let body = self.scopes.pop().expect("a repeat is open");
        assert_eq!(args.len(), nexts.len(), "one next value for each carried one");
        let op = OpId::new(self.graph.ops.len());
        let mut results = Vec::new();
        let mut carried = Vec::new();
        for (position, ((init, arg), next)) in args.into_iter().zip(nexts).enumerate() {
            self.graph.values[arg.index()].def = Def::Carried(op, position);
            carried.push(Carried { init, arg, next: *next });
            let Value { name, ty, .. } = self.graph.value(init).clone();
            results.push(self.value(&name, ty.dtype, ty.dims, Def::Result(op, position)));
        }
        for (position, slice) in taken.iter().enumerate() {
            self.graph.values[slice.each.index()].def = Def::Taken(op, position);
        }
        let mut slices = Vec::new();
        for (each, axis) in collected {
            let Value { name, ty, .. } = self.graph.value(each).clone();
            let dims = [vec![axis], ty.dims].concat();
            let whole = self.value(&name, ty.dtype, dims, Def::Result(op, results.len()));
            results.push(whole);
            slices.push(Slice { whole, each });
        }
        self.graph.ops.push(Op {
            kind: Kind::Repeat(Repeat { over, reversed, body, carried, taken, collected: slices }),
            operands: Vec::new(),
            results: results.clone(),
            class: Class::Other,
            composite: None,
            span: self.span,
        });
        self.scopes.last_mut().expect("a scope is open").push(op);
        results
    }

    /// Runs `build` in the scope around the open repeat, as if before it.
    pub fn outside<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        let inner = self.scopes.pop().expect("a repeat is open");
        let open = self.open_loop.take();
        let out = build(self);
        self.open_loop = open;
        self.scopes.push(inner);
        out
    }

    /// Says what a state becomes at the end of a step: what this value is for the whole batch.
    pub fn update(&mut self, state: ValueId, value: ValueId) {
        self.graph.assigns.push(Assign { target: state, value });
    }

    /// Declares the main term of the loss.
    pub fn loss(&mut self, sum: ValueId, count: ValueId) {
        self.graph.loss.insert(0, LossTerm { name: LossTerm::MAIN.to_owned(), weight: 1.0, sum, count });
    }

    /// The number of points of these axes: a fold, since whoever deals out an axis counts its part only.
    pub fn points(&mut self, name: &str, axes: &[AxisId]) -> ValueId {
        let one = (0..axes.len()).fold(lit(1.0), |one, factor| lit(0.0).at_most(index(factor)).select(one, lit(0.0)));
        let reduce = (!axes.is_empty()).then_some(Reduce::Sum);
        let rule = Rule { factors: axes.to_vec(), operands: Vec::new(), result: Vec::new(), reduce, expr: one.expr() };
        self.rule(name, rule, &[], &[])
    }
}
