//! Element types.

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
