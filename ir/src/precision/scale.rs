//! The factor that keeps small gradients above the smallest number of half precision.

use serde::{Deserialize, Serialize};

/// What the loss is multiplied by before it is differentiated. Gradients are divided by it; where one of them is no finite
/// number the step changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossScale {
    /// Always this.
    Static(f64),
    /// Found as training goes (Micikevicius et al., 2018; the numbers of PyTorch's `GradScaler`).
    Dynamic {
        /// At the first step.
        start: f64,
        /// Steps without an overflow after which it grows.
        interval: u64,
        /// The factor by which it grows.
        growth: f64,
        /// The factor by which an overflow lowers it.
        backoff: f64,
    },
}

impl LossScale {
    /// As PyTorch begins.
    pub fn dynamic() -> Self {
        LossScale::Dynamic { start: 65536.0, interval: 2000, growth: 2.0, backoff: 0.5 }
    }
}
