//! Floating-point numbers of any type that is held, as bytes.

use half::{bf16, f16};
use partita_ir::dtype::DType;

/// Expands `go` for the type that is called `dtype`: with it, its bytes, and the ways to f64 and back.
macro_rules! by_type {
    ($dtype:expr, $go:ident) => {
        match $dtype {
            DType::F64 => $go!(f64, 8, |x: f64| x, |x: f64| x),
            DType::F32 => $go!(f32, 4, f64::from, |x: f64| x as f32),
            DType::Bf16 => $go!(bf16, 2, bf16::to_f64, bf16::from_f64),
            DType::Fp16 => $go!(f16, 2, f16::to_f64, f16::from_f64),
            DType::I32 | DType::Fp8 | DType::Fp4 => unreachable!("no float of type {} is held", $dtype),
        }
    };
}

/// The elements of a buffer.
pub fn read(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    macro_rules! go {
        ($type:ty, $width:literal, $to_f64:expr, $from_f64:expr) => {
            bytes.as_chunks::<$width>().0.iter().map(|x| $to_f64(<$type>::from_ne_bytes(*x))).collect()
        };
    }
    by_type!(dtype, go)
}

/// Writes a number, rounded, where one of this type has room.
pub fn put(dtype: DType, slot: &mut [u8], value: f64) {
    macro_rules! go {
        ($type:ty, $width:literal, $to_f64:expr, $from_f64:expr) => {
            slot.copy_from_slice(&<$type>::to_ne_bytes($from_f64(value)))
        };
    }
    by_type!(dtype, go);
}

/// Adds a buffer to another, each sum rounded once.
pub fn add(dtype: DType, from: &[u8], to: &mut [u8]) {
    macro_rules! go {
        ($type:ty, $width:literal, $to_f64:expr, $from_f64:expr) => {
            for (to, from) in to.as_chunks_mut::<$width>().0.iter_mut().zip(from.as_chunks::<$width>().0) {
                *to = (<$type>::from_ne_bytes(*to) + <$type>::from_ne_bytes(*from)).to_ne_bytes();
            }
        };
    }
    if dtype == DType::I32 {
        for (to, from) in to.as_chunks_mut::<4>().0.iter_mut().zip(from.as_chunks::<4>().0) {
            *to = i32::from_ne_bytes(*to).wrapping_add(i32::from_ne_bytes(*from)).to_ne_bytes();
        }
        return;
    }
    by_type!(dtype, go);
}
