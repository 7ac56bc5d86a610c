//! Reductions of one block of lanes to a number, and of many blocks lane by lane.
//!
//! Sums of a block run in 32 lanes side by side, which is fast and accurate at once: a block of 1024 is 32 short
//! sums. Across blocks the callers add in f64. A NaN is never the larger or the smaller, as in IEEE maxNum.

use super::{Isa, Lane};

/// Lanes that run side by side within a block.
const SIDE: usize = 32;

/// Folds a block in [`SIDE`] lanes, then those in a tree.
#[inline(always)]
fn side_by_side<T: Lane>(lanes: &[T], identity: T, mut take: impl FnMut(T, T) -> T, mut join: impl FnMut(T, T) -> T) -> T {
    let mut sums = [identity; SIDE];
    let chunks = lanes.chunks_exact(SIDE);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..SIDE {
            sums[i] = take(sums[i], chunk[i]);
        }
    }
    for (sum, lane) in sums.iter_mut().zip(rest) {
        *sum = take(*sum, *lane);
    }
    let mut width = SIDE / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] = join(sums[i], sums[i + width]);
        }
        width /= 2;
    }
    sums[0]
}

#[inline(always)]
pub fn sum<T: Lane, I: Isa>(lanes: &[T]) -> f64 {
    side_by_side(lanes, T::ZERO, |a, b| a + b, |a, b| a + b).to_f64()
}

#[inline(always)]
pub fn largest<T: Lane, I: Isa>(lanes: &[T]) -> T {
    let larger = |a: T, b: T| if b > a { b } else { a };
    side_by_side(lanes, T::NEG_INFINITY, larger, larger)
}

#[inline(always)]
pub fn smallest<T: Lane, I: Isa>(lanes: &[T]) -> T {
    let smaller = |a: T, b: T| if b < a { b } else { a };
    side_by_side(lanes, T::INFINITY, smaller, smaller)
}

#[inline(always)]
pub fn sum_exp<T: Lane, I: Isa>(lanes: &[T], shift: T) -> f64 {
    side_by_side(lanes, T::ZERO, |sum, x| sum + (x - shift).exp::<I>(), |a, b| a + b).to_f64()
}

#[inline(always)]
pub fn add<T: Lane, I: Isa>(into: &mut [T], lanes: &[T]) {
    for (sum, lane) in into.iter_mut().zip(lanes) {
        *sum = *sum + *lane;
    }
}

#[inline(always)]
pub fn widen<T: Lane, I: Isa>(into: &mut [f64], lanes: &[T]) {
    for (sum, lane) in into.iter_mut().zip(lanes) {
        *sum += lane.to_f64();
    }
}

#[inline(always)]
pub fn raise<T: Lane, I: Isa>(into: &mut [T], lanes: &[T]) {
    for (best, lane) in into.iter_mut().zip(lanes) {
        *best = if *lane > *best { *lane } else { *best };
    }
}

#[inline(always)]
pub fn lower<T: Lane, I: Isa>(into: &mut [T], lanes: &[T]) {
    for (best, lane) in into.iter_mut().zip(lanes) {
        *best = if *lane < *best { *lane } else { *best };
    }
}

#[inline(always)]
pub fn log_add<T: Lane, I: Isa>(largest: &mut [T], sum: &mut [T], lanes: &[T]) {
    for ((m, s), x) in largest.iter_mut().zip(sum.iter_mut()).zip(lanes) {
        let high = if *x > *m { *x } else { *m };
        // while nothing but −∞ was seen the shift is 0, for −∞ − −∞ is no number
        let shift = if high > T::NEG_INFINITY { high } else { T::ZERO };
        *s = *s * (*m - shift).exp::<I>() + (*x - shift).exp::<I>();
        *m = high;
    }
}

#[inline(always)]
pub fn add_weighted<T: Lane, I: Isa>(into: &mut [f64], lanes: &[T], weight: f64) {
    for (sum, lane) in into.iter_mut().zip(lanes) {
        *sum += weight * lane.to_f64();
    }
}
