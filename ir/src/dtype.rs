//! Element types.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// 64-bit floating point.
    F64,
    /// 32-bit floating point.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    Fp16,
    /// 8-bit floating point.
    Fp8,
    /// 4-bit floating point.
    Fp4,
    /// 32-bit signed integers: tokens and other indices. Never differentiated.
    I32,
}

impl DType {
    /// Every type with its word and its bits per element.
    pub const ALL: [(DType, &'static str, u64); 7] = [
        (DType::F64, "f64", 64),
        (DType::F32, "f32", 32),
        (DType::Bf16, "bf16", 16),
        (DType::Fp16, "fp16", 16),
        (DType::Fp8, "fp8", 8),
        (DType::Fp4, "fp4", 4),
        (DType::I32, "i32", 32),
    ];

    fn row(self) -> (DType, &'static str, u64) {
        Self::ALL.into_iter().find(|row| row.0 == self).expect("every type has a row")
    }

    /// The word of this type.
    pub fn word(self) -> &'static str {
        self.row().1
    }

    /// The type that `word` names.
    pub fn from_word(word: &str) -> Option<DType> {
        Self::ALL.into_iter().find(|row| row.1 == word).map(|row| row.0)
    }

    /// Bytes that `count` elements take, rounded up.
    pub fn bytes(self, count: u64) -> u64 {
        (count * self.row().2).div_ceil(8)
    }

    /// What numbers of this type are computed in: themselves, or f32 where they are narrower.
    pub fn arithmetic(self) -> DType {
        if self == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// The nearest number of 16 bits, ties to even, of a type that has 16; other types keep the number as it is.
    pub fn round(self, value: f64) -> f64 {
        match self {
            DType::Bf16 => bf16::from_f64(value).to_f64(),
            DType::Fp16 => f16::from_f64(value).to_f64(),
            _ => value,
        }
    }

    /// Whether some number of type `wider` is none of this one.
    pub fn narrows(self, wider: DType) -> bool {
        let fields = |dtype: DType| match dtype {
            DType::F64 => (11, 52),
            DType::F32 => (8, 23),
            DType::Bf16 => (8, 7),
            DType::Fp16 => (5, 10),
            DType::Fp8 => (4, 3),
            DType::Fp4 => (2, 1),
            // read as indices, which every type is taken to hold
            DType::I32 => (0, 0),
        };
        let ((exponent, mantissa), wider) = (fields(self), fields(wider));
        exponent < wider.0 || mantissa < wider.1
    }

    /// Whether values of this type carry gradients.
    pub fn is_float(self) -> bool {
        self != DType::I32
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_goes_to_the_nearest_and_ties_to_even() {
        for (dtype, value, rounded) in [
            (DType::Bf16, 1.0 + 1.0 / 256.0, 1.0),
            (DType::Bf16, 1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (DType::Bf16, 1e39, f64::INFINITY),
            (DType::Fp16, 1.0 + 1.0 / 2048.0, 1.0),
            (DType::Fp16, 65519.0, 65504.0),
            (DType::Fp16, 65520.0, f64::INFINITY),
            (DType::Fp16, 2f64.powi(-25), 0.0),
            (DType::F32, 0.1, 0.1),
        ] {
            assert_eq!(dtype.round(value), rounded, "{dtype} {value}");
        }
        assert!(DType::Fp16.narrows(DType::Bf16) && DType::Bf16.narrows(DType::Fp16));
        assert!(DType::Bf16.narrows(DType::F32) && !DType::F32.narrows(DType::Bf16) && !DType::F32.narrows(DType::I32));
    }
}
