//! Steps that order what they read: ranks, running sums, and experts that take the samples of their largest scores.

use super::Sampler;
use crate::axis::Role;
use crate::formula::{lit, x};
use crate::id::{AxisId, ValueId};
use crate::library::{Pointwise, silu};

/// An axis of a value along which entries may meet: not the batch's where samples stay apart.
fn value_and_axis(s: &mut Sampler) -> Option<(ValueId, AxisId)> {
    if !s.options.kinks {
        return None;
    }
    let value = s.pick(&|_, dims| dims.len() >= 2)?;
    let axes: Vec<AxisId> = s.b.dims(value).into_iter().filter(|axis| !s.options.apart || *axis != s.batch).collect();
    let axis = *s.dice.choose(&axes)?;
    Some((value, axis))
}

/// A sort, the first entries of one, a running sum, or a value scaled by its rank.
pub(super) fn ordered(s: &mut Sampler) -> Option<ValueId> {
    let (value, axis) = value_and_axis(s)?;
    let dims = s.b.dims(value);
    let walked = [&dims[..], &[axis]].concat();
    if !s.fits(&walked, &dims) {
        return None;
    }
    let size = s.b.graph.size(axis);
    match s.dice.below(4) {
        0 => Some(s.b.top("sorted", value, value, axis, axis)),
        1 => {
            let short = s.fresh_axis("n", 1, size);
            Some(s.b.top("top", value, value, axis, short))
        }
        2 => {
            let sums = s.b.running_sum("sums", value, axis);
            Some(s.b.elementwise("sums", &[sums], (x(0) * lit(1.0 / size as f64)).expr()))
        }
        _ => {
            let rank = s.b.rank("rank", value, &[axis]);
            Some(s.b.elementwise("ranked", &[value, rank], (x(0) * (lit(1.0) / (x(1) + lit(1.0)))).expr()))
        }
    }
}

/// Experts that each take, along an axis, the entries of whom they are among the first, as many as they have places.
pub(super) fn experts(s: &mut Sampler) -> Option<ValueId> {
    let (value, along) = value_and_axis(s)?;
    let dims = s.b.dims(value);
    let hidden = dims.iter().copied().rfind(|axis| *axis != along && *axis != s.batch)?;
    let size = s.dice.between(2, 5);
    let experts = s.axis_of("experts", size, Role::Expert);
    let places = s.b.graph.size(along);
    let slot = s.fresh_axis("slot", 1, places);
    let inner = s.fresh_axis("inner", 1, 4);
    let rest: Vec<AxisId> = dims.iter().copied().filter(|axis| *axis != hidden).collect();
    let scored = [&rest[..], &[experts]].concat();
    let given = [&rest[..], &[experts, slot, hidden, inner]].concat();
    if !s.fits(&given, &given) || !s.fits(&[&scored[..], &[experts]].concat(), &scored) {
        return None;
    }
    let router = s.param(&[hidden, experts]);
    let (up, down) = (s.param(&[experts, hidden, inner]), s.param(&[experts, inner, hidden]));
    let scores = s.b.einsum("scores", &[value, router], &scored);
    let p = s.b.softmax(scores, experts);
    let rank = s.b.rank("rank", p, &[experts]);
    let chosen = s.dice.between(1, 2) as f64;
    let taken = s.b.elementwise("taken", &[rank], x(0).below(lit(chosen)).expr());
    let place = s.b.nth("place", taken, along, slot);
    let gates = s.b.elementwise("gates", &[taken, p], (x(0) * x(1)).expr());
    let y = s.b.gather("given", value, place, along);
    let mut outside: Vec<AxisId> = rest.iter().copied().filter(|axis| *axis != along).collect();
    outside.extend([experts, slot]);
    let h = s.b.einsum("up", &[y, up], &[&outside[..], &[inner]].concat());
    let gate = s.b.gather("gate", gates, place, along);
    let h = s.b.elementwise("h", &[h, gate], (silu(x(0)) * x(1)).expr());
    let y = s.b.einsum("down", &[h, down], &[&outside[..], &[hidden]].concat());
    let read = Pointwise { expr: x(0).expr(), operands: vec![(place, s.b.dims(place))] };
    Some(s.b.scatter("told", y, &read, along, &[experts, slot]))
}
