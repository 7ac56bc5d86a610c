//! How numbers lie in memory: as they are computed with, or in 16 bits.
//!
//! bfloat16 is the upper half of an f32; half precision is converted by F16C where the processor has it (the `half` crate
//! looks), else by hand. Rounding is to the nearest, ties to even.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use partita_ir::dtype::DType;

/// A type that results and operands are stored in.
pub trait Stored: Copy + Send + Sync + 'static {
    /// How it is called.
    const DTYPE: DType;
    /// The nearest value.
    fn from_f64(value: f64) -> Self;
    /// The same value.
    fn to_f64(self) -> f64;
    /// The sum, rounded once.
    fn plus(self, other: Self) -> Self;
    /// Rounds `from` into `to`, which is as long.
    fn narrow(to: &mut [Self], from: &[f32]);
    /// The values of `from` in `to`, which is as long.
    fn widen(to: &mut [f32], from: &[Self]);
}

macro_rules! native {
    ($type:ty, $dtype:expr) => {
        impl Stored for $type {
            const DTYPE: DType = $dtype;
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
            fn narrow(to: &mut [Self], from: &[f32]) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = <$type>::from(*from));
            }
            fn widen(to: &mut [f32], from: &[Self]) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
            }
        }
    };
}
native!(f32, DType::F32);
native!(f64, DType::F64);

/// An f32 as bfloat16; without branches, so that loops over it become vectors.
#[inline(always)]
fn upper_half(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    // what is no number stays none, quietly
    bf16::from_bits(if value.is_nan() { (bits >> 16 | 0x40) as u16 } else { rounded as u16 })
}

impl Stored for bf16 {
    const DTYPE: DType = DType::Bf16;
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        bf16::from_f64(value)
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(f32::from_bits(u32::from(self.to_bits()) << 16))
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        upper_half(self.to_f32() + other.to_f32())
    }
    fn narrow(to: &mut [Self], from: &[f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = upper_half(*from));
    }
    fn widen(to: &mut [f32], from: &[Self]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = f32::from_bits(u32::from(from.to_bits()) << 16));
    }
}

impl Stored for f16 {
    const DTYPE: DType = DType::Fp16;
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        f16::from_f64(value)
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        f16::from_f32(self.to_f32() + other.to_f32())
    }
    fn narrow(to: &mut [Self], from: &[f32]) {
        to.convert_from_f32_slice(from);
    }
    fn widen(to: &mut [f32], from: &[Self]) {
        from.convert_to_f32_slice(to);
    }
}

/// `count` numbers of type `dtype` (f32 or one of 16 bits), `step` apart from `from` on, as f32.
///
/// # Safety
/// They are valid for reads.
pub unsafe fn widen(dtype: DType, from: *const u8, step: isize, to: &mut [f32]) {
    /// # Safety
    /// That of [`widen`].
    unsafe fn each<S: Stored>(from: *const S, step: isize, to: &mut [f32]) {
        // SAFETY: the contract.
        unsafe {
            if step == 1 {
                S::widen(to, std::slice::from_raw_parts(from, to.len()));
            } else {
                to.iter_mut().enumerate().for_each(|(n, to)| *to = (*from.offset(step * n as isize)).to_f64() as f32);
            }
        }
    }
    // SAFETY: the contract.
    unsafe {
        match dtype {
            DType::F32 => each(from.cast::<f32>(), step, to),
            DType::Bf16 => each(from.cast::<bf16>(), step, to),
            DType::Fp16 => each(from.cast::<f16>(), step, to),
            _ => unreachable!("products widen no {dtype}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_of_16_bits_come_back_and_others_round_as_they_should() {
        fn check<S: Stored + PartialEq + std::fmt::Debug>(from_bits: fn(u16) -> S, from_f32: fn(f32) -> S) {
            let all: Vec<S> = (0..=u16::MAX).map(from_bits).filter(|x| !x.to_f64().is_nan()).collect();
            let (mut wide, mut back) = (vec![0.0; all.len()], all.clone());
            S::widen(&mut wide, &all);
            S::narrow(&mut back, &wide);
            assert_eq!(back, all);
            // between two neighbours, at the tie and beside it
            let between: Vec<f32> =
                wide.windows(2).flat_map(|pair| [0.5, 0.4999, 0.5001].map(|at| pair[0] + (pair[1] - pair[0]) * at)).collect();
            let between: Vec<f32> = between.into_iter().filter(|x| x.is_finite()).collect();
            let mut rounded = vec![all[0]; between.len()];
            S::narrow(&mut rounded, &between);
            assert!(rounded.iter().zip(&between).all(|(got, x)| *got == from_f32(*x)));
            let mut none = [all[0]];
            S::narrow(&mut none, &[f32::NAN]);
            assert!(none[0].to_f64().is_nan());
        }
        check(bf16::from_bits, bf16::from_f32);
        check(f16::from_bits, f16::from_f32);
    }
}
