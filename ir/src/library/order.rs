//! Operators of order: ranks, sorts, running sums, and who is the n-th. All are folds of comparisons, so they split like
//! any other: along what they order too, then as P(sum).

use super::{Pointwise, Reads};
use crate::axis::Role;
use crate::build::Builder;
use crate::formula::{Formula, index, lit, x};
use crate::graph::Class;
use crate::id::{AxisId, Id, ValueId};
use crate::rule::{Access, DimAccess, Reduce, Rule};
use crate::scalar::Binary;

impl Builder {
    /// How many entries stand before each one when the entries along `axes` are in descending order; of equal ones the
    /// first stands first. Several axes count as one, the last of them running fastest.
    pub fn rank(&mut self, name: &str, value: ValueId, axes: &[AxisId]) -> ValueId {
        let dims = self.dims(value);
        let (mut factors, own) = (dims.clone(), plain(dims.len()));
        let mut others = own.clone();
        // an entry stands before another of the same value if its index is lower along the first axis that tells
        let mut before = lit(0.0);
        for axis in axes.iter().rev() {
            let at = position(&dims, *axis);
            let other = factors.len();
            factors.push(self.second_name(*axis));
            others[at] = DimAccess::factor(other);
            let (here, there) = (index(at), index(other));
            before = there.clone().equal(here.clone()).select(before, there.below(here));
        }
        let first = x(0).below(x(1)).select(lit(1.0), x(0).equal(x(1)).select(before, lit(0.0)));
        let rule = Rule { factors, operands: vec![own.clone(), others], result: own, reduce: Some(Reduce::Sum), expr: first.expr() };
        self.composite("rank", Class::Other, false, |b| b.rule(name, rule, &[value, value], &dims))
    }

    /// The entries of `value` along `axis` in descending order of `by`, as many as `short` has: its first ones. `by` has
    /// axes of `value` only. With `short` = `axis` it is a sort.
    pub fn top(&mut self, name: &str, value: ValueId, by: ValueId, axis: AxisId, short: AxisId) -> ValueId {
        self.composite("top", Class::Other, false, |b| {
            let order = b.rank("rank", by, &[axis]);
            let of = b.dims(value);
            let dims: Vec<AxisId> = of.iter().map(|dim| if *dim == axis { short } else { *dim }).collect();
            let place = position(&of, axis);
            let mut factors = dims.clone();
            let along = factors.len();
            factors.push(if short == axis { b.second_name(axis) } else { axis });
            let factor = |dim: &AxisId| DimAccess::factor(if *dim == axis { along } else { position(&of, *dim) });
            let (read, ranked): (Access, Access) = (of.iter().map(factor).collect(), b.dims(by).iter().map(factor).collect());
            let expr = x(1).equal(index(place)).select(x(0), lit(0.0)).expr();
            let rule = Rule { factors, operands: vec![read, ranked], result: plain(dims.len()), reduce: Some(Reduce::Sum), expr };
            b.rule(name, rule, &[value, order], &dims)
        })
    }

    /// The sum of the entries along `axis` up to each one, itself included.
    pub fn running_sum(&mut self, name: &str, value: ValueId, axis: AxisId) -> ValueId {
        self.prefix(name, value, axis, x(0), Binary::Le)
    }

    /// `Σ terms(there)` over the entries `there` along `axis` that stand to each entry `here` as `there stands here`.
    fn prefix(&mut self, name: &str, value: ValueId, axis: AxisId, terms: Formula, stands: Binary) -> ValueId {
        let dims = self.dims(value);
        let at = position(&dims, axis);
        let (mut factors, own) = (dims.clone(), plain(dims.len()));
        let other = factors.len();
        factors.push(self.second_name(axis));
        let mut read = own.clone();
        read[at] = DimAccess::factor(other);
        let expr = index(other).binary(stands, index(at)).select(terms, lit(0.0)).expr();
        self.rule(name, Rule { factors, operands: vec![read], result: own, reduce: Some(Reduce::Sum), expr }, &[value], &dims)
    }

    /// Where along `axis` the entry is that meets the condition as number `place` of those that do, from 0; −1 where fewer
    /// do. Axes: the condition's others, then `place`.
    pub fn nth(&mut self, name: &str, condition: ValueId, axis: AxisId, place: AxisId) -> ValueId {
        self.composite("nth", Class::Other, false, |b| {
            let holds = x(0).binary(Binary::Ne, lit(0.0));
            let earlier = b.prefix("earlier", condition, axis, holds.clone(), Binary::Lt);
            let mut dims: Vec<AxisId> = b.dims(condition).into_iter().filter(|dim| *dim != axis).collect();
            dims.push(place);
            let (factors, operands) = b.matched(&[condition, earlier], &dims);
            let along = position(&factors, axis);
            let found = holds.select(index(along) + lit(1.0), lit(0.0));
            let expr = x(1).equal(index(dims.len() - 1)).select(found, lit(0.0)).expr();
            let rule = Rule { factors, operands, result: plain(dims.len()), reduce: Some(Reduce::Sum), expr };
            let found = b.rule("found", rule, &[condition, earlier], &dims);
            b.elementwise(name, &[found], (x(0) - lit(1.0)).expr())
        })
    }

    /// The reverse of a gather: the sum over `summed` of what `place` puts at each position of `axis`. Axes: those of
    /// `value` and of the place that are not summed, `axis` where the first of the summed ones stood.
    pub fn scatter(&mut self, name: &str, value: ValueId, place: &Pointwise, axis: AxisId, summed: &[AxisId]) -> ValueId {
        let of = self.dims(value);
        let mut dims: Vec<AxisId> = of.iter().map(|dim| if *dim == summed[0] { axis } else { *dim }).collect();
        dims.retain(|dim| !summed.contains(dim));
        let factors = [&dims[..], summed].concat();
        let mut reads = Reads { factors: factors.clone(), operands: vec![(value, of)] };
        let expr = reads.formula(place).equal(index(position(&dims, axis))).select(x(0), lit(0.0)).expr();
        let (operands, accesses) = reads.finish();
        let rule = Rule { factors, operands: accesses, result: plain(dims.len()), reduce: Some(Reduce::Sum), expr };
        let class = if self.class == Class::Other { Class::Contraction } else { self.class };
        self.classed(class, |b| b.rule(name, rule, &operands, &dims))
    }

    /// A second name for an axis, for operators that walk it twice. It has no role: pins speak of the first.
    fn second_name(&mut self, axis: AxisId) -> AxisId {
        let (name, size) = (format!("{}.other", self.graph.axis(axis).name), self.graph.size(axis));
        let known = self.graph.axes.iter().position(|known| known.name == name && known.size == size);
        known.map_or_else(|| self.axis(&name, size, Role::None), AxisId::new)
    }
}

/// An access that walks the first `count` factors, one a dimension.
fn plain(count: usize) -> Access {
    (0..count).map(DimAccess::factor).collect()
}

fn position(dims: &[AxisId], axis: AxisId) -> usize {
    dims.iter().position(|dim| *dim == axis).expect("the tensor has the axis")
}
