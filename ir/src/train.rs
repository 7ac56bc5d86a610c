//! How a model is trained: the `train` section of a model file, as data.

use serde::{Deserialize, Serialize};

use crate::dtype::DType;

/// Everything that a training step needs besides the graph.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// The update rule.
    pub optimizer: Optimizer,
    /// Learning rate before the schedule's factor.
    pub lr: f64,
    /// How the learning rate changes from step to step.
    pub schedule: Schedule,
    /// Largest norm of the gradient of all parameters together; a longer one is scaled down to it. `None`: never.
    pub clip: Option<f64>,
    /// Samples of a step, over all ranks and micro-batches.
    pub batch: u64,
    /// Element type of floating-point values.
    pub precision: DType,
}

impl Default for Train {
    /// What a model without a `train` section gets.
    fn default() -> Self {
        Self { optimizer: Optimizer::adamw(), lr: 3e-4, schedule: Schedule::Constant, clip: Some(1.0), batch: 8, precision: DType::F32 }
    }
}

/// An update rule. `decay` is decoupled from the gradient and acts on every parameter: `p -= lr · decay · p`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Gradient descent with momentum: `m = momentum · m + g; p -= lr · m`.
    Sgd {
        /// Share of the last step's direction that is kept; 0 for plain descent.
        momentum: f64,
        /// Weight decay.
        decay: f64,
    },
    /// AdamW (Loshchilov and Hutter, 2019), with bias correction.
    AdamW {
        /// Decay rate of the first moment.
        beta1: f64,
        /// Decay rate of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Weight decay.
        decay: f64,
    },
}

impl Optimizer {
    /// AdamW as models use it that say nothing else.
    pub fn adamw() -> Self {
        Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1 }
    }

    /// SGD as models use it that say nothing else.
    pub fn sgd() -> Self {
        Optimizer::Sgd { momentum: 0.9, decay: 0.0 }
    }

    /// The word that model files use.
    pub fn word(&self) -> &'static str {
        match self {
            Optimizer::Sgd { .. } => "sgd",
            Optimizer::AdamW { .. } => "adamw",
        }
    }
}

/// The factor on the learning rate, step by step. Both curves rise linearly over `warmup` steps first, and keep `min`
/// after `steps`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Always 1.
    Constant,
    /// Half a cosine from 1 to `min` (Loshchilov and Hutter, 2017).
    Cosine {
        /// Steps of the rise.
        warmup: u64,
        /// Step at which the fall ends, the rise included.
        steps: u64,
        /// Last factor, a fraction of the learning rate.
        min: f64,
    },
    /// A straight line from 1 to `min`.
    Linear {
        /// Steps of the rise.
        warmup: u64,
        /// Step at which the fall ends, the rise included.
        steps: u64,
        /// Last factor, a fraction of the learning rate.
        min: f64,
    },
}

impl Schedule {
    /// The word that model files use.
    pub fn word(&self) -> &'static str {
        match self {
            Schedule::Constant => "constant",
            Schedule::Cosine { .. } => "cosine",
            Schedule::Linear { .. } => "linear",
        }
    }

    /// The factor on the learning rate at `step`, counted from 1.
    pub fn factor(&self, step: u64) -> f64 {
        let (warmup, steps, min) = match *self {
            Schedule::Constant => return 1.0,
            Schedule::Cosine { warmup, steps, min } | Schedule::Linear { warmup, steps, min } => (warmup, steps, min),
        };
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let progress = if step >= steps { 1.0 } else { (step - warmup) as f64 / (steps - warmup) as f64 };
        let left = match self {
            Schedule::Cosine { .. } => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            _ => 1.0 - progress,
        };
        min + (1.0 - min) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_rise_fall_and_stay() {
        let cosine = Schedule::Cosine { warmup: 10, steps: 110, min: 0.1 };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        near(cosine.factor(1), 0.1);
        near(cosine.factor(10), 1.0);
        near(cosine.factor(60), 0.55);
        near(cosine.factor(110), 0.1);
        near(cosine.factor(100_000), 0.1);
        let linear = Schedule::Linear { warmup: 0, steps: 100, min: 0.0 };
        near(linear.factor(25), 0.75);
        near(linear.factor(100), 0.0);
        near(Schedule::Linear { warmup: 5, steps: 5, min: 0.5 }.factor(5), 0.5);
        near(Schedule::Constant.factor(7), 1.0);
    }
}
