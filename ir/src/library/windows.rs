//! Convolution and pooling: axes seen through windows.

use crate::build::Builder;
use crate::formula::{Formula, index, lit, x};
use crate::graph::Class;
use crate::id::{AxisId, ValueId};
use crate::rule::{Access, DimAccess, Reduce, Rule, Term};
use crate::scalar::Expr;

/// An axis seen through a window: place `o` of `out` sees `axis` at `stride · o + dilation · t - pad` for each `t` of
/// `taps`. Outside the axis there is nothing. `out` may be the axis itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The axis.
    pub axis: AxisId,
    /// What becomes of it.
    pub out: AxisId,
    /// The places of one window.
    pub taps: AxisId,
    /// Elements from one window to the next.
    pub stride: u64,
    /// Elements from one place of a window to the next.
    pub dilation: u64,
    /// Elements that the first window begins before the axis.
    pub pad: u64,
}

impl Window {
    /// How many windows fit on an axis of `size`, `pad` elements beyond it on both sides, for `taps` places each:
    /// `(size + 2 pad - dilation (taps - 1) - 1) / stride + 1`, rounded down; 0 if not even one does.
    pub fn places(size: u64, taps: u64, stride: u64, dilation: u64, pad: u64) -> u64 {
        (size + 2 * pad).checked_sub(dilation * (taps - 1) + 1).map_or(0, |rest| rest / stride + 1)
    }
}

/// A tensor as windows read it.
struct Read {
    factors: Vec<AxisId>,
    access: Access,
    /// Where the index of each window's axis is not within it for sure: 1 inside, 0 outside.
    inside: Option<Formula>,
}

impl Builder {
    /// How `value` is read by a loop over `kept`, then each window's taps, then `others`.
    fn through(&self, value: ValueId, windows: &[Window], kept: &[AxisId], others: &[AxisId]) -> Read {
        let taps: Vec<AxisId> = windows.iter().map(|window| window.taps).collect();
        let factors = [kept, &taps, others].concat();
        let at = |axis: AxisId| factors.iter().position(|factor| *factor == axis).expect("the loop walks every axis of the value");
        let size = |axis: AxisId| self.graph.size(axis) as i64;
        let mut inside: Option<Formula> = None;
        let access = self.dims(value).into_iter().map(|dim| {
            let Some(n) = windows.iter().position(|window| window.axis == dim) else { return DimAccess::factor(at(dim)) };
            let Window { out, stride, dilation, pad, .. } = windows[n];
            let (place, tap) = (at(out), kept.len() + n);
            let (stride, dilation, pad) = (stride as i64, dilation as i64, pad as i64);
            let last = stride * (size(out) - 1) + dilation * (size(factors[tap]) - 1) - pad;
            if pad > 0 || last >= size(dim) {
                let at = index(place) * lit(stride as f64) + index(tap) * lit(dilation as f64);
                let both = lit(pad as f64).at_most(at.clone()) * at.at_most(lit((pad + size(dim) - 1) as f64));
                inside = Some(inside.take().map_or(both.clone(), |others| others * both));
            }
            DimAccess { terms: vec![Term { factor: place, stride }, Term { factor: tap, stride: dilation }], offset: -pad }
        });
        let access = access.collect();
        Read { factors, access, inside }
    }

    /// The convolution of `value` with `weight`, zeros outside. Axes of both are summed over, but for `groups`; the
    /// weight's others take the place of the first that is summed over.
    pub fn conv(&mut self, name: &str, value: ValueId, weight: ValueId, windows: &[Window], groups: Option<AxisId>) -> ValueId {
        let (x_dims, w_dims) = (self.dims(value), self.dims(weight));
        let is_tap = |axis: &AxisId| windows.iter().any(|window| window.taps == *axis);
        let summed: Vec<AxisId> = x_dims.iter().copied().filter(|axis| w_dims.contains(axis) && Some(*axis) != groups).collect();
        let new: Vec<AxisId> = w_dims.iter().copied().filter(|axis| !is_tap(axis) && !x_dims.contains(axis)).collect();
        let mut dims = Vec::new();
        for dim in &x_dims {
            match windows.iter().find(|window| window.axis == *dim) {
                Some(window) => dims.push(window.out),
                None if summed.first() == Some(dim) => dims.extend(&new),
                None if summed.contains(dim) => {}
                None => dims.push(*dim),
            }
        }
        if summed.is_empty() {
            dims.extend(&new);
        }
        let Read { factors, access, .. } = self.through(value, windows, &dims, &summed);
        let taps = dims.len()..dims.len() + windows.len();
        let of_weight = |axis: &AxisId| {
            let tap = windows.iter().position(|window| window.taps == *axis).map(|n| taps.start + n);
            tap.or_else(|| factors.iter().position(|factor| factor == axis)).expect("the loop walks every axis of the weight")
        };
        let operands = vec![access, w_dims.iter().map(|axis| DimAccess::factor(of_weight(axis))).collect()];
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors, operands, result, reduce: Some(Reduce::Sum), expr: Expr::product(2) };
        let class = if self.class == Class::Other { Class::Contraction } else { self.class };
        self.classed(class, |b| b.rule(name, rule, &[value, weight], &dims))
    }

    /// The largest element that each window sees.
    pub fn max_pool(&mut self, name: &str, value: ValueId, windows: &[Window]) -> ValueId {
        self.pool(name, value, windows, Reduce::Max, |inside| match inside {
            Some(inside) => inside.select(x(0), lit(f64::NEG_INFINITY)),
            None => x(0),
        })
    }

    /// The mean over the places of each window, zeros outside.
    pub fn mean_pool(&mut self, name: &str, value: ValueId, windows: &[Window]) -> ValueId {
        let places: u64 = windows.iter().map(|window| self.graph.size(window.taps)).product();
        self.pool(name, value, windows, Reduce::Sum, |_| x(0) * lit(1.0 / places as f64))
    }

    fn pool(
        &mut self,
        name: &str,
        value: ValueId,
        windows: &[Window],
        reduce: Reduce,
        what: impl FnOnce(Option<Formula>) -> Formula,
    ) -> ValueId {
        let seen = |dim: AxisId| windows.iter().find(|window| window.axis == dim).map_or(dim, |window| window.out);
        let dims: Vec<AxisId> = self.dims(value).into_iter().map(seen).collect();
        let Read { factors, access, inside } = self.through(value, windows, &dims, &[]);
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors, operands: vec![access], result, reduce: Some(reduce), expr: what(inside).expr() };
        self.rule(name, rule, &[value], &dims)
    }
}
