//! Folding buffers of bytes: the loops inside reductions.
//!
//! Buffers hold elements in the machine's byte order and need no alignment. Elements of 16 bits travel as such and are
//! merged as f32: who merges makes them [`wide`], and rounds once when all are in.
#![allow(unsafe_code, reason = "calls loops compiled for AVX2 once the processor is known to have it")]

use half::{bf16, f16};
use partita_ir::dtype::DType;
use partita_ir::rule::Reduce;

use super::CommError;

/// Bytes of an element. Types of less than a byte are not exchanged.
pub(super) fn width(dtype: DType) -> Result<usize, CommError> {
    match dtype {
        DType::F64 => Ok(8),
        DType::F32 | DType::I32 => Ok(4),
        DType::Bf16 | DType::Fp16 => Ok(2),
        DType::Fp8 => Ok(1),
        DType::Fp4 => Err(CommError::DoesNotFit(format!("elements of {dtype} share bytes and are not exchanged one by one"))),
    }
}

/// The type that elements are merged in: their own, but f32 for those of 16 bits.
pub(super) fn wide(dtype: DType) -> DType {
    if matches!(dtype, DType::Bf16 | DType::Fp16) { DType::F32 } else { dtype }
}

/// Elements of 16 bits as f32; `to` is twice as long.
pub(super) fn widen(dtype: DType, from: &[u8], to: &mut [u8]) {
    let pairs = from.as_chunks::<2>().0.iter().zip(to.as_chunks_mut::<4>().0);
    match dtype {
        DType::Bf16 => pairs.for_each(|(from, to)| *to = bf16::from_ne_bytes(*from).to_f32().to_ne_bytes()),
        DType::Fp16 => pairs.for_each(|(from, to)| *to = f16::from_ne_bytes(*from).to_f32().to_ne_bytes()),
        _ => unreachable!("{dtype} is merged as it is"),
    }
}

/// The nearest elements of 16 bits; `to` is half as long.
pub(super) fn narrow(dtype: DType, from: &[u8], to: &mut [u8]) {
    let pairs = from.as_chunks::<4>().0.iter().zip(to.as_chunks_mut::<2>().0);
    match dtype {
        DType::Bf16 => pairs.for_each(|(from, to)| *to = bf16::from_f32(f32::from_ne_bytes(*from)).to_ne_bytes()),
        DType::Fp16 => pairs.for_each(|(from, to)| *to = f16::from_f32(f32::from_ne_bytes(*from)).to_ne_bytes()),
        _ => unreachable!("{dtype} is merged as it is"),
    }
}

/// Whether rows of `row` elements can be reduced with `op`.
pub(super) fn check(op: Reduce, dtype: DType, row: usize) -> Result<(), CommError> {
    let shape = if op.is_tuple() { row >= 2 } else { row >= 1 };
    let element = match dtype {
        DType::F64 | DType::F32 | DType::Bf16 | DType::Fp16 => true,
        DType::I32 => matches!(op, Reduce::Sum | Reduce::Max | Reduce::Min),
        DType::Fp8 | DType::Fp4 => false,
    };
    if shape && element { Ok(()) } else { Err(CommError::Unsupported { op, dtype, row }) }
}

/// An element as bytes and as the number that tuples and rare types are folded in.
trait Element<const N: usize>: Copy {
    fn get(bytes: [u8; N]) -> Self;
    fn put(self) -> [u8; N];
    fn real(self) -> f64;
    fn from_real(real: f64) -> Self;
}

macro_rules! element {
    ($type:ty, $bytes:literal, $real:expr, $from_real:expr) => {
        impl Element<$bytes> for $type {
            #[inline(always)]
            fn get(bytes: [u8; $bytes]) -> Self {
                <$type>::from_ne_bytes(bytes)
            }
            #[inline(always)]
            fn put(self) -> [u8; $bytes] {
                self.to_ne_bytes()
            }
            fn real(self) -> f64 {
                $real(self)
            }
            fn from_real(real: f64) -> Self {
                $from_real(real)
            }
        }
    };
}
element!(f64, 8, |x| x, |x| x);
element!(f32, 4, f64::from, |x: f64| x as f32);
element!(i32, 4, f64::from, |x: f64| x as i32);
element!(bf16, 2, bf16::to_f64, bf16::from_f64);
element!(f16, 2, f16::to_f64, f16::from_f64);

/// `into[i] = f(into[i], from[i])`.
#[inline(always)]
fn zip<const N: usize, T: Element<N>>(into: &mut [u8], from: &[u8], f: impl Fn(T, T) -> T) {
    for (a, b) in into.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
        *a = f(T::get(*a), T::get(*b)).put();
    }
}

/// The folds that are worth a vector loop. Returns whether this was one.
#[inline(always)]
fn lanes(op: Reduce, dtype: DType, into: &mut [u8], from: &[u8]) -> bool {
    match (op, dtype) {
        (Reduce::Sum, DType::F32) => zip(into, from, |a: f32, b| a + b),
        (Reduce::Max, DType::F32) => zip(into, from, f32::max),
        (Reduce::Min, DType::F32) => zip(into, from, f32::min),
        (Reduce::Sum, DType::F64) => zip(into, from, |a: f64, b| a + b),
        (Reduce::Max, DType::F64) => zip(into, from, f64::max),
        (Reduce::Min, DType::F64) => zip(into, from, f64::min),
        (Reduce::Sum, DType::I32) => zip(into, from, i32::wrapping_add),
        (Reduce::Max, DType::I32) => zip(into, from, i32::max),
        (Reduce::Min, DType::I32) => zip(into, from, i32::min),
        _ => return false,
    }
    true
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn lanes_avx2(op: Reduce, dtype: DType, into: &mut [u8], from: &[u8]) -> bool {
    lanes(op, dtype, into, from)
}

/// Any other fold, row by row in f64, rounded to the element type after each.
fn rows<const N: usize, T: Element<N>>(op: Reduce, row: usize, into: &mut [u8], from: &[u8]) {
    let read = |bytes: &[u8], out: &mut Vec<f64>| {
        out.clear();
        out.extend(bytes.as_chunks::<N>().0.iter().map(|x| T::get(*x).real()));
    };
    let (mut a, mut b) = (Vec::with_capacity(row), Vec::with_capacity(row));
    for (into, from) in into.chunks_exact_mut(row * N).zip(from.chunks_exact(row * N)) {
        read(into, &mut a);
        read(from, &mut b);
        op.merge(&mut a, &b);
        into.as_chunks_mut::<N>().0.iter_mut().zip(&a).for_each(|(x, real)| *x = T::from_real(*real).put());
    }
}

/// Folds `from` into `into`, which are equally long and hold whole rows. The pair was checked by [`check`].
pub(super) fn merge(op: Reduce, dtype: DType, row: usize, into: &mut [u8], from: &[u8]) {
    debug_assert_eq!(into.len(), from.len());
    #[cfg(target_arch = "x86_64")]
    let done = if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, the only thing that the function asks for.
        unsafe { lanes_avx2(op, dtype, into, from) }
    } else {
        lanes(op, dtype, into, from)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = lanes(op, dtype, into, from);
    if done {
        return;
    }
    match dtype {
        DType::F64 => rows::<8, f64>(op, row, into, from),
        DType::F32 => rows::<4, f32>(op, row, into, from),
        DType::Bf16 => rows::<2, bf16>(op, row, into, from),
        DType::Fp16 => rows::<2, f16>(op, row, into, from),
        DType::I32 | DType::Fp8 | DType::Fp4 => unreachable!("`check` refuses {} of {dtype}", op.word()),
    }
}

fn fill_rows<const N: usize, T: Element<N>>(op: Reduce, row: usize, target: &mut [u8]) {
    let mut identity = vec![0.0; row];
    op.identity(&mut identity);
    let pattern: Vec<[u8; N]> = identity.iter().map(|real| T::from_real(*real).put()).collect();
    target.chunks_exact_mut(row * N).for_each(|chunk| chunk.copy_from_slice(pattern.as_flattened()));
}

/// Writes the identity of `op` over `target`. The pair was checked by [`check`].
pub(super) fn fill(op: Reduce, dtype: DType, row: usize, target: &mut [u8]) {
    match dtype {
        // all bits 0 is zero in every type
        _ if op == Reduce::Sum => target.fill(0),
        DType::F64 => fill_rows::<8, f64>(op, row, target),
        DType::F32 => fill_rows::<4, f32>(op, row, target),
        DType::Bf16 => fill_rows::<2, bf16>(op, row, target),
        DType::Fp16 => fill_rows::<2, f16>(op, row, target),
        // infinities become the smallest and the largest integer
        DType::I32 => fill_rows::<4, i32>(op, row, target),
        DType::Fp8 | DType::Fp4 => unreachable!("`check` refuses {} of {dtype}", op.word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_and_plain_folds_agree() {
        let numbers =
            |salt: u64| -> Vec<u8> { (0..37).flat_map(|n| (partita_ir::random::uniform(salt, n) as f32 - 0.5).to_ne_bytes()).collect() };
        for op in [Reduce::Sum, Reduce::Max, Reduce::Min] {
            let (mut fast, mut slow, from) = (numbers(1), numbers(1), numbers(2));
            merge(op, DType::F32, 1, &mut fast, &from);
            rows::<4, f32>(op, 1, &mut slow, &from);
            assert_eq!(fast, slow, "{op:?}");
        }
    }

    #[test]
    fn identities_change_nothing() {
        for (op, row) in [(Reduce::Sum, 1), (Reduce::Max, 1), (Reduce::LogSumExp, 1), (Reduce::ArgMax, 2), (Reduce::Softmax, 3)] {
            for dtype in [DType::F32, DType::F64, DType::Bf16, DType::Fp16] {
                let width = width(dtype).unwrap();
                let mut value = vec![0u8; row * width * 4];
                fill(Reduce::Min, DType::I32, 1, &mut []);
                for (n, chunk) in value.chunks_exact_mut(width).enumerate() {
                    let x = n as f32 * 0.25 - 1.0;
                    match dtype {
                        DType::F64 => chunk.copy_from_slice(&f64::from(x).to_ne_bytes()),
                        DType::F32 => chunk.copy_from_slice(&x.to_ne_bytes()),
                        DType::Bf16 => chunk.copy_from_slice(&bf16::from_f32(x).to_ne_bytes()),
                        _ => chunk.copy_from_slice(&f16::from_f32(x).to_ne_bytes()),
                    }
                }
                let mut folded = vec![0u8; value.len()];
                fill(op, dtype, row, &mut folded);
                merge(op, dtype, row, &mut folded, &value);
                assert_eq!(folded, value, "{op:?} {dtype}");
            }
        }
    }

    #[test]
    fn integers_fill_with_their_limits() {
        let mut target = [0u8; 8];
        fill(Reduce::Max, DType::I32, 1, &mut target);
        assert_eq!(target[..4], i32::MIN.to_ne_bytes());
        fill(Reduce::Min, DType::I32, 1, &mut target);
        assert_eq!(target[4..], i32::MAX.to_ne_bytes());
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        assert!(check(Reduce::Softmax, DType::I32, 3).is_err());
        assert!(check(Reduce::ArgMax, DType::F32, 1).is_err());
        assert!(check(Reduce::Sum, DType::F32, 0).is_err());
        assert!(check(Reduce::Sum, DType::Fp8, 1).is_err());
    }
}
