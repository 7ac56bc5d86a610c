//! The kinds of steps. Each picks what it reads from the pool, and gives nothing if the pool has nothing that fits.

use super::{Sampler, order};
use crate::axis::Role;
use crate::formula::{Formula, index, lit, random, x};
use crate::graph::Init;
use crate::id::{AxisId, Id, ValueId};
use crate::library::{Pointwise, Scores};
use crate::rule::{DimAccess, Reduce, Rule, Term};
use crate::scalar::{Binary, Expr, Unary};

/// Every kind; those that stand twice come twice as often.
pub(super) const STEPS: &[fn(&mut Sampler) -> Option<ValueId>] = &[
    contraction,
    contraction,
    contraction,
    elementwise,
    elementwise,
    linear,
    folded_expression,
    folded_expression,
    fold,
    softmax,
    layer_norm,
    rms_norm,
    gather,
    dropout,
    attention,
    attention,
    rotary,
    merge,
    split,
    slice,
    pad,
    concat,
    one_hot,
    take,
    transpose,
    window,
    argmax,
    softmax_fold,
    order::ordered,
    order::experts,
    state,
];

/// A product of two or three values, one of them often a new parameter, summed over some axes.
fn contraction(s: &mut Sampler) -> Option<ValueId> {
    let first = s.pick(&|_, dims| !dims.is_empty())?;
    let mut operands = vec![first];
    let dims = s.b.dims(first);
    if s.dice.chance(0.7) {
        let mut weight = s.dice.some(&dims, 0.5);
        if s.dice.chance(0.7) {
            weight.push(s.fresh_axis("n", 1, 7));
        }
        operands.push(s.param(&weight));
    } else {
        operands.push(s.pick(&|_, _| true)?);
    }
    if s.dice.chance(0.1) {
        operands.push(s.pick(&|_, _| true)?);
    }
    let union = s.b.union_dims(&operands);
    let mut out = s.dice.subset(&union, 0.7);
    if s.dice.chance(0.3) {
        s.dice.shuffle(&mut out);
    }
    if !s.fits(&union, &out) {
        return None;
    }
    let reduced: Vec<AxisId> = union.iter().copied().filter(|axis| !out.contains(axis)).collect();
    if s.dice.chance(0.5) {
        return Some(s.b.einsum("contraction", &operands, &out));
    }
    let scale = 1.0 / (s.count(&reduced) as f64).sqrt();
    let product = Formula::graft(&Expr::product(operands.len()), (0..operands.len()).map(x).collect());
    Some(s.b.map("scaled", &operands, &out, Some(Reduce::Sum), (product * lit(scale)).expr()))
}

/// One to three values whose axes together are few enough, and these axes.
fn several(s: &mut Sampler) -> Option<(Vec<ValueId>, Vec<AxisId>)> {
    let mut operands = vec![s.pick(&|_, _| true)?];
    for _ in 0..s.dice.below(3) {
        let value = if s.dice.chance(0.3) {
            let dims = s.b.union_dims(&operands);
            let dims = s.dice.subset(&dims, 0.5);
            s.param(&dims)
        } else {
            s.pick(&|_, _| true)?
        };
        operands.push(value);
    }
    let union = s.b.union_dims(&operands);
    s.fits(&union, &union).then_some((operands, union))
}

/// A value made longer along an axis, at one end or both.
fn pad(s: &mut Sampler) -> Option<ValueId> {
    let (value, axis) = value_and_axis(s, &|_, _| true)?;
    let (before, after) = (s.dice.below(3), s.dice.below(3));
    let size = s.b.graph.size(axis) + before + after;
    let wider = s.axis_of("wide", size, Role::None);
    let dims: Vec<AxisId> = s.b.dims(value).into_iter().map(|dim| if dim == axis { wider } else { dim }).collect();
    if !s.fits(&dims, &dims) {
        return None;
    }
    let fill = if s.dice.chance(0.5) { 0.0 } else { s.dice.real(-1.0, 1.0) };
    Some(s.b.pad("pad", value, (axis, wider), before as i64, fill))
}

/// Two or three values of the same axes but one, one behind the other.
fn concat(s: &mut Sampler) -> Option<ValueId> {
    let (first, part) = value_and_axis(s, &|_, _| true)?;
    let others: Vec<AxisId> = s.b.dims(first).into_iter().filter(|axis| *axis != part).collect();
    let mut parts = vec![(first, part)];
    for _ in 0..s.dice.between(1, 2) {
        if s.dice.chance(0.4) {
            parts.push((first, part));
        } else {
            let own = s.fresh_axis("part", 1, 4);
            let mut dims = [&others[..], &[own]].concat();
            s.dice.shuffle(&mut dims);
            parts.push((s.param(&dims), own));
        }
    }
    let size = parts.iter().map(|(_, part)| s.b.graph.size(*part)).sum();
    let whole = s.axis_of("whole", size, Role::None);
    let dims = [&others[..], &[whole]].concat();
    s.fits(&dims, &dims).then(|| s.b.concat("concat", &parts, whole))
}

/// Tokens, or places computed of indices, as 0 and 1: times a value, as nothing but a parameter has a gradient.
fn one_hot(s: &mut Sampler) -> Option<ValueId> {
    let value = s.pick(&|_, dims| !dims.is_empty())?;
    let dims = s.b.dims(value);
    let along = *s.dice.choose(&dims)?;
    let hot = if s.dice.chance(0.5) && !dims.contains(&s.vocab) && dims.contains(&s.batch) && dims.contains(&s.seq) {
        let place = Pointwise { expr: Expr::operand(0), operands: vec![(s.tokens, vec![s.batch, s.seq])] };
        let (batch, seq, vocab) = (s.batch, s.seq, s.vocab);
        s.b.one_hot("one_hot", &place, &[batch, seq], vocab)
    } else {
        let axis = s.fresh_axis("hot", 1, 5);
        let of = (index(along.index()) * lit(3.0)).binary(Binary::Sub, lit(4.0)).unary(Unary::Abs);
        let place = Pointwise { expr: of.expr(), operands: Vec::new() };
        s.b.one_hot("one_hot", &place, &[along], axis)
    };
    let union = s.b.union_dims(&[value, hot]);
    s.fits(&union, &union).then(|| s.b.elementwise("hot", &[value, hot], (x(0) * (x(1) + lit(0.5))).expr()))
}

/// A random function of one to three values, element by element.
fn elementwise(s: &mut Sampler) -> Option<ValueId> {
    let (operands, dims) = several(s)?;
    let expr = all_read(s, operands.len(), dims.len());
    Some(s.b.elementwise("elementwise", &operands, expr.expr()))
}

/// A sum of values with signs and factors: what partial sums pass through.
fn linear(s: &mut Sampler) -> Option<ValueId> {
    let (operands, _) = several(s)?;
    let expr = (1..operands.len()).fold(x(0), |sum, n| if s.dice.chance(0.5) { sum + x(n) } else { sum - x(n) * lit(0.5) });
    let expr = if s.dice.chance(0.3) { -expr } else { expr };
    Some(s.b.elementwise("linear", &operands, expr.expr()))
}

/// A fold of a random function: what a user's own operator may be.
fn folded_expression(s: &mut Sampler) -> Option<ValueId> {
    let (operands, union) = several(s)?;
    let out = s.dice.subset(&union, 0.6);
    let expr = all_read(s, operands.len(), union.len());
    let reduce = reduction(s);
    let points = s.count(&union) / s.count(&out);
    let expr = if reduce == Reduce::Sum { expr * lit(1.0 / points as f64) } else { expr };
    Some(s.b.map("rule", &operands, &out, Some(reduce), expr.expr()))
}

fn reduction(s: &mut Sampler) -> Reduce {
    let smooth = [Reduce::Sum, Reduce::Sum, Reduce::LogSumExp];
    let all = [Reduce::Sum, Reduce::Max, Reduce::Min, Reduce::LogSumExp];
    let from = if s.options.kinks { &all[..] } else { &smooth[..] };
    *s.dice.choose(from).expect("there are reductions")
}

/// A bounded function that reads all operands, so that none is lost.
fn all_read(s: &mut Sampler, operands: usize, factors: usize) -> Formula {
    (0..operands).fold(lit(0.0), |sum, n| {
        let other = s.dice.below(operands as u64) as usize;
        let term = function(s, n, other, factors);
        sum + term
    })
}

/// A function of operands `n` and `other`, of draws and of the indices of `factors` factors.
fn function(s: &mut Sampler, n: usize, other: usize, factors: usize) -> Formula {
    let (a, b) = (x(n), x(other));
    let factor = |s: &mut Sampler| s.dice.below(factors as u64) as usize;
    let kind = s.dice.below(if s.options.kinks { 19 } else { 15 });
    match kind {
        0 => a.tanh(),
        1 => a * b.sigmoid(),
        2 => (lit(1.0) + a.clone() * a).sqrt(),
        3 => a / (lit(1.0) + b.clone() * b),
        4 => (lit(1.0) + a.clone() * a).log(),
        5 => a.unary(Unary::Sin) - b.unary(Unary::Cos) * lit(0.5),
        6 => a.unary(Unary::Erf),
        7 => a.tanh().exp() * (lit(2.0) + b.clone() * b).rsqrt(),
        8 => (lit(1.0) + a.clone() * a).pow(lit(s.dice.real(-0.5, 0.8))),
        9 => a * lit(s.dice.real(-1.0, 1.0)) + b.tanh(),
        10 => a.unary(Unary::Neg) * b.tanh(),
        // the rest depends on where the element is
        11 if factors > 0 => a * (index(factor(s)) * lit(0.7)).unary(Unary::Sin),
        12 if factors > 0 => {
            let (i, j) = (factor(s), factor(s));
            index(i).at_most(index(j) + lit(1.0)).select(a, b * lit(0.5))
        }
        13 | 14 => {
            let named = s.dice.subset(&(0..factors).collect::<Vec<_>>(), 0.8);
            let salt = s.dice.below(1 << 20);
            a * (lit(0.5) + random(salt, named))
        }
        15 => a.unary(Unary::Abs),
        16 => a.max(b),
        17 => a.clone().below(b.clone()).select(a.tanh(), b.binary(Binary::Min, lit(0.3))),
        // a derivative that is not its own
        18 => a.clone().tanh().sloped(a * b),
        _ => a + lit(s.dice.real(-1.0, 1.0)),
    }
}

fn fold(s: &mut Sampler) -> Option<ValueId> {
    let value = s.pick(&|_, dims| !dims.is_empty())?;
    let dims = s.b.dims(value);
    let axes = s.dice.some(&dims, 0.4);
    let reduce = reduction(s);
    Some(s.b.fold("fold", reduce, value, &axes))
}

/// A value and one of its axes that `wanted` accepts.
fn value_and_axis(s: &mut Sampler, wanted: &dyn Fn(&Sampler, AxisId) -> bool) -> Option<(ValueId, AxisId)> {
    let value = s.pick(&|s, dims| dims.iter().any(|axis| wanted(s, *axis)))?;
    let axes: Vec<AxisId> = s.b.dims(value).into_iter().filter(|axis| wanted(s, *axis)).collect();
    let axis = *s.dice.choose(&axes)?;
    Some((value, axis))
}

fn softmax(s: &mut Sampler) -> Option<ValueId> {
    let (value, axis) = value_and_axis(s, &|_, _| true)?;
    Some(s.b.softmax(value, axis))
}

fn layer_norm(s: &mut Sampler) -> Option<ValueId> {
    let (value, axis) = value_and_axis(s, &|_, _| true)?;
    Some(s.b.layer_norm(value, axis, 0.1))
}

fn rms_norm(s: &mut Sampler) -> Option<ValueId> {
    let (value, axis) = value_and_axis(s, &|_, _| true)?;
    Some(s.b.rms_norm(value, axis, 0.1))
}

fn gather(s: &mut Sampler) -> Option<ValueId> {
    let mut dims = vec![s.vocab];
    for _ in 0..s.dice.below(3) {
        dims.push(s.fresh_axis("n", 1, 5));
    }
    s.dice.shuffle(&mut dims);
    let table = s.param(&dims);
    let axes = [&dims[..], &[s.batch, s.seq]].concat();
    if !s.fits(&axes, &axes) {
        return None;
    }
    if s.dice.chance(0.3) {
        // by what is computed of tokens and positions
        let place = (x(0) + index(s.seq.index()) - lit(1.0)).unary(Unary::Abs).expr();
        let dims = [s.batch, s.seq];
        let place = Pointwise { expr: place, operands: vec![(s.tokens, dims.to_vec())] };
        return Some(s.b.gather_at("gathered", table, &place, &dims, s.vocab));
    }
    Some(s.b.gather("gathered", table, s.tokens, s.vocab))
}

fn dropout(s: &mut Sampler) -> Option<ValueId> {
    let value = s.pick(&|_, dims| !dims.is_empty())?;
    let salt = s.dice.below(1 << 20);
    Some(s.b.dropout(value, 0.25, salt))
}

/// Attention with projections of one value; sometimes grouped, causal, rotated, capped, biased, masked, with dropout.
fn attention(s: &mut Sampler) -> Option<ValueId> {
    let (batch, seq) = (s.batch, s.seq);
    let value = s.pick(&|_, dims| dims.len() == 3 && dims.contains(&batch) && dims.contains(&seq))?;
    let hidden = s.b.dims(value).into_iter().find(|axis| *axis != batch && *axis != seq)?;
    let heads = s.dice.between(1, 3);
    let head = s.axis_of("head", heads, Role::Head);
    let half = s.dice.between(1, 2);
    let dim = s.axis_of("dim", 2 * half, Role::None);
    let width = s.fresh_axis("width", 1, 3);
    let past = s.axis_of("past", s.b.graph.size(seq), Role::Seq);
    let group = s.dice.chance(0.4).then(|| s.axis_of("group", 2, Role::Head));
    let queries = [Some(head), group].into_iter().flatten();
    let query_dims: Vec<AxisId> = [batch].into_iter().chain(queries.clone()).chain([seq, dim]).collect();
    let query_weight: Vec<AxisId> = [hidden].into_iter().chain(queries).chain([dim]).collect();
    let factors = [&query_dims[..], &[past, hidden, width]].concat();
    if !s.fits(&factors, &query_dims) {
        return None;
    }
    let project = |s: &mut Sampler, weight: &[AxisId], dims: &[AxisId]| {
        let weight = s.param(weight);
        s.b.einsum("projection", &[value, weight], dims)
    };
    let mut query = project(s, &query_weight, &query_dims);
    let mut key = project(s, &[hidden, head, dim], &[batch, head, seq, dim]);
    let values = project(s, &[hidden, head, width], &[batch, head, seq, width]);
    if s.dice.chance(0.4) {
        query = s.b.rotary(query, seq, dim, 100.0, 2 * half);
        key = s.b.rotary(key, seq, dim, 100.0, 2 * half);
    }
    let key = s.b.slice("past", key, seq, 0, past);
    let values = s.b.slice("past", values, seq, 0, past);
    let causal = s.dice.chance(0.6).then_some(seq);
    let dropout = s.dice.chance(0.2).then(|| (0.2, s.dice.below(1 << 20)));
    let scale = s.dice.chance(0.2).then_some(0.3);
    let softcap = s.dice.chance(0.3).then_some(0.5);
    let bias = s.dice.chance(0.2).then(|| {
        let slope = s.param(&[head]);
        let distance = index(past.index()) - index(seq.index());
        Pointwise { expr: (x(0) * distance).expr(), operands: vec![(slope, vec![head])] }
    });
    let mask = s.dice.chance(0.4).then(|| score_mask(s, past));
    Some(s.b.attention_by(query, key, values, past, dim, &Scores { scale, softcap, bias, mask, causal, dropout }))
}

/// A window, tokens that are alike, or both. Some rows of the second are hidden whole.
fn score_mask(s: &mut Sampler, past: AxisId) -> Pointwise {
    let width = s.dice.between(1, 3) as f64;
    let near = (index(s.seq.index()) - index(past.index())).below(lit(width));
    let alike = x(0).equal(x(1) + lit(1.0));
    let read = vec![(s.tokens, vec![s.batch, s.seq]), (s.tokens, vec![s.batch, past])];
    match s.dice.below(3) {
        0 => Pointwise { expr: near.expr(), operands: Vec::new() },
        1 => Pointwise { expr: alike.expr(), operands: read },
        _ => Pointwise { expr: near.max(alike).expr(), operands: read },
    }
}

fn rotary(s: &mut Sampler) -> Option<ValueId> {
    let seq = s.seq;
    let even = |s: &Sampler, axis: &AxisId| *axis != seq && s.b.graph.size(*axis).is_multiple_of(2);
    let value = s.pick(&|s, dims| dims.contains(&seq) && dims.iter().any(|axis| even(s, axis)))?;
    let axis = s.b.dims(value).into_iter().find(|axis| even(s, axis))?;
    let turned = 2 * s.dice.between(1, s.b.graph.size(axis) / 2);
    Some(s.b.rotary(value, seq, axis, 50.0, turned))
}

/// Merges two neighbouring axes.
fn merge(s: &mut Sampler) -> Option<ValueId> {
    let value = s.pick(&|_, dims| dims.len() >= 2)?;
    let dims = s.b.dims(value);
    let first = s.dice.below(dims.len() as u64 - 1) as usize;
    let parts = &dims[first..first + 2];
    let size = s.count(parts);
    let merged = s.axis_of("merged", size, Role::None);
    Some(s.b.merge_axes("merge", value, parts, merged))
}

/// Splits an axis in two; one part may be of size 1.
fn split(s: &mut Sampler) -> Option<ValueId> {
    let (value, axis) = value_and_axis(s, &|_, _| true)?;
    let size = s.b.graph.size(axis);
    let divisors: Vec<u64> = (1..=size).filter(|part| size.is_multiple_of(*part)).collect();
    let major = *s.dice.choose(&divisors)?;
    let parts = [s.axis_of("major", major, Role::None), s.axis_of("minor", size / major, Role::None)];
    Some(s.b.split_axis("split", value, axis, &parts))
}

/// A part of an axis; it may begin before it or end after it, where there are zeros.
fn slice(s: &mut Sampler) -> Option<ValueId> {
    let (value, axis) = value_and_axis(s, &|_, _| true)?;
    let size = s.b.graph.size(axis);
    let short = s.fresh_axis("part", 1, size);
    let start = s.dice.between(0, size) as i64 - 1;
    Some(s.b.slice("slice", value, axis, start, short))
}

/// One index of an axis, which goes.
fn take(s: &mut Sampler) -> Option<ValueId> {
    let (value, axis) = value_and_axis(s, &|_, _| true)?;
    let at = s.dice.below(s.b.graph.size(axis)) as i64;
    let dims: Vec<AxisId> = s.b.dims(value).into_iter().filter(|dim| *dim != axis).collect();
    let access = s.b.dims(value).into_iter().map(|dim| match dims.iter().position(|kept| *kept == dim) {
        Some(factor) => DimAccess::factor(factor),
        None => DimAccess { terms: Vec::new(), offset: at },
    });
    let result = (0..dims.len()).map(DimAccess::factor).collect();
    let rule = Rule { factors: dims.clone(), operands: vec![access.collect()], result, reduce: None, expr: Expr::operand(0) };
    Some(s.b.rule("take", rule, &[value], &dims))
}

fn transpose(s: &mut Sampler) -> Option<ValueId> {
    let value = s.pick(&|_, dims| dims.len() >= 2)?;
    let mut dims = s.b.dims(value);
    s.dice.shuffle(&mut dims);
    Some(s.b.map("transpose", &[value], &dims, None, Expr::operand(0)))
}

/// A window along one axis, with stride, dilation and padding: a convolution, a pooling, or a function of what is read and
/// of where.
fn window(s: &mut Sampler) -> Option<ValueId> {
    let (value, axis) = value_and_axis(s, &|_, _| true)?;
    let size = s.b.graph.size(axis);
    let role = s.b.graph.axis(axis).role;
    let length = s.dice.between(1, size);
    let out = s.axis_of("out", length, if role == Role::Batch { Role::None } else { role });
    let tap = s.fresh_axis("tap", 1, 3);
    let dims: Vec<AxisId> = s.b.dims(value).into_iter().map(|dim| if dim == axis { out } else { dim }).collect();
    let at = dims.iter().position(|dim| *dim == out)?;
    let taps = dims.len();
    let factors = [&dims[..], &[tap]].concat();
    if !s.fits(&factors, &dims) {
        return None;
    }
    let mut access: Vec<DimAccess> = (0..dims.len()).map(DimAccess::factor).collect();
    let (stride, dilation) = (s.dice.between(1, 3) as i64, s.dice.between(1, 2) as i64);
    let (dilation, offset) = if s.dice.chance(0.2) { (-dilation, 2) } else { (dilation, -(s.dice.below(3) as i64)) };
    access[at] = DimAccess { terms: vec![Term { factor: at, stride }, Term { factor: taps, stride: dilation }], offset };
    let weight = s.param(&[tap]);
    let place = index(at) * lit(stride as f64) + index(taps) * lit(dilation as f64) + lit(offset as f64);
    let inside = lit(0.0).at_most(place.clone()) * place.at_most(lit(size as f64 - 1.0));
    let (reduce, expr) = match s.dice.below(if s.options.kinks { 5 } else { 4 }) {
        0 | 1 => (Reduce::Sum, x(0) * x(1)),
        2 => (Reduce::Sum, all_read(s, 2, factors.len()) * lit(1.0 / s.b.graph.size(tap) as f64)),
        3 => (Reduce::LogSumExp, x(0) + x(1)),
        _ => (Reduce::Max, inside.select(x(0), lit(f64::NEG_INFINITY)) + x(1) * lit(0.1)),
    };
    // a window that sees nothing has a largest element of -inf
    let sees = |o: i64| (0..s.b.graph.size(tap) as i64).any(|t| (0..size as i64).contains(&(stride * o + dilation * t + offset)));
    if reduce == Reduce::Max && !(0..length as i64).all(sees) {
        return None;
    }
    let result = (0..dims.len()).map(DimAccess::factor).collect();
    let operands = vec![access, vec![DimAccess::factor(taps)]];
    let rule = Rule { factors, operands, result, reduce: Some(reduce), expr: expr.expr() };
    Some(s.b.rule("window", rule, &[value, weight], &dims))
}

/// The largest element and where it is, kept as a pair.
fn argmax(s: &mut Sampler) -> Option<ValueId> {
    if !s.options.kinks {
        return None;
    }
    let (value, axis) = value_and_axis(s, &|_, _| true)?;
    let pair = s.axis_of("pair", 2, Role::None);
    Some(s.b.argmax(value, axis, pair))
}

/// Attention's fold of a new parameter by the scores that a value is.
fn softmax_fold(s: &mut Sampler) -> Option<ValueId> {
    let (score, past) = value_and_axis(s, &|_, _| true)?;
    let dim = s.fresh_axis("dim", 1, 3);
    let packed = s.axis_of("packed", s.b.graph.size(dim) + 1, Role::None);
    let mut dims: Vec<AxisId> = s.b.dims(score).into_iter().filter(|axis| *axis != past).collect();
    dims = s.dice.subset(&dims, 0.3);
    dims.extend([past, dim]);
    let all = [s.b.dims(score), vec![packed]].concat();
    if !s.fits(&all, &all) {
        return None;
    }
    let value = s.param(&dims);
    Some(s.b.softmax_fold(score, value, past, dim, packed))
}

/// A value scaled by a new state, which has some of its axes and no samples.
fn state(s: &mut Sampler) -> Option<ValueId> {
    let value = s.pick(&|_, dims| !dims.is_empty())?;
    let all: Vec<AxisId> = s.b.dims(value).into_iter().filter(|axis| *axis != s.batch).collect();
    let dims = s.dice.subset(&all, 0.6);
    let init = if s.dice.chance(0.5) { Init::Constant(0.5) } else { Init::Normal(0.5) };
    let name = s.name("s");
    let state = s.b.state(&name, &dims, init);
    s.states.push(state);
    Some(s.b.elementwise("stateful", &[value, state], (x(0) * (lit(1.0) + x(1).tanh())).expr()))
}
