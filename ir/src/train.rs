//! How a model is trained: the `train` section of a model file, as data.

use serde::{Deserialize, Serialize};

use crate::precision::{LossScale, Precision};

/// Everything that a training step needs besides the graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// In which types it computes.
    pub precision: Precision,
    /// What the loss is multiplied by while gradients are computed.
    pub loss_scale: Option<LossScale>,
    /// Parameters that are trained otherwise; no parameter is in two groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
}

/// Parameters that are trained alike, and otherwise than the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Their names in the graph; of a repeated block without the iteration.
    pub params: Vec<String>,
    /// Whether they stay as they begin: no gradient, no state, no share of the norm that clipping looks at.
    pub frozen: bool,
    /// What the learning rate is multiplied by.
    pub lr_factor: f64,
    /// Their update rule.
    pub optimizer: Optimizer,
}

impl Train {
    /// The group of a parameter, if it is in one.
    pub fn group(&self, param: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.params.iter().any(|name| name == param))
    }

    /// Whether a parameter stays as it begins.
    pub fn is_frozen(&self, param: &str) -> bool {
        self.group(param).is_some_and(|group| group.frozen)
    }
}

impl Default for Train {
    /// What a model without a `train` section gets.
    fn default() -> Self {
        Self {
            optimizer: Optimizer::adamw(),
            lr: 3e-4,
            schedule: Schedule::Constant,
            clip: Some(1.0),
            batch: 8,
            precision: Precision::F32,
            loss_scale: None,
            groups: Vec::new(),
        }
    }
}

/// An update rule. `g` is the clipped gradient, `p` the parameter; unless a rule says otherwise `decay` is decoupled from the gradient
/// and acts on every parameter: `p -= lr · decay · p`. Norms are of whole logical parameters: each instance of a repeated block is one.
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
    /// Adam (Kingma and Ba, 2015), with bias correction; `decay · p` is added to the gradient.
    Adam {
        /// Decay rate of the first moment.
        beta1: f64,
        /// Decay rate of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Weight decay.
        decay: f64,
    },
    /// Adafactor (Shazeer and Stern, 2018), as PyTorch has it: second moments of rows and columns, no first moment. The axes of a parameter of
    /// more than one are cut, in order, into rows and columns where the two are shortest together. The rate is
    /// `min(lr, 1/√t) · max(floor, rms(p))`, divided by `max(1, rms(update) / limit)`.
    Adafactor {
        /// At step t the part `t^-power` of the second moment is new.
        power: f64,
        /// The mean of the rows is no less, the variance no less than its square.
        eps: f64,
        /// The least that the rate is multiplied by.
        floor: f64,
        /// The root mean square of an update above which it is shortened.
        limit: f64,
        /// Weight decay.
        decay: f64,
    },
    /// LAMB (You et al., 2020): AdamW's direction `u`, decay included, times `‖p‖ / ‖u‖` where both are above 0; the ratio of vectors is 1.
    Lamb {
        /// Decay rate of the first moment.
        beta1: f64,
        /// Decay rate of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Weight decay.
        decay: f64,
    },
    /// LARS (You et al., 2017): `m = momentum · m + rate · (g + decay · p); p -= lr · m`, where the rate is
    /// `trust · ‖p‖ / (‖g‖ + decay · ‖p‖ + eps)` where both norms are above 0; vectors have a rate of 1 and no decay.
    Lars {
        /// Share of the last step's direction that is kept.
        momentum: f64,
        /// Length of a step beside the parameter's.
        trust: f64,
        /// Weight decay.
        decay: f64,
        /// Added to the norm of the gradient.
        eps: f64,
    },
    /// Lion (Chen et al., 2023): `p -= lr · sign(beta1 · m + (1 − beta1) · g); m = beta2 · m + (1 − beta2) · g`.
    Lion {
        /// Share of the momentum in the direction.
        beta1: f64,
        /// Share of the momentum that is kept.
        beta2: f64,
        /// Weight decay.
        decay: f64,
    },
    /// Muon (Jordan et al., 2024): Nesterov's momentum, made orthogonal by five Newton-Schulz steps and as long as AdamW's steps
    /// (`0.2 √max(rows, columns)`, Liu et al., 2025). Rows and columns are cut as Adafactor's. Vectors and tables of a vocabulary take
    /// AdamW's update with the betas and eps given.
    Muon {
        /// Share of the momentum that is kept.
        momentum: f64,
        /// AdamW's first decay rate, of what is no matrix.
        beta1: f64,
        /// AdamW's second decay rate.
        beta2: f64,
        /// AdamW's eps.
        eps: f64,
        /// Weight decay, of all.
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

    /// The same rule with another weight decay.
    #[must_use]
    pub fn with_decay(mut self, value: f64) -> Self {
        match &mut self {
            Optimizer::Sgd { decay, .. }
            | Optimizer::AdamW { decay, .. }
            | Optimizer::Adam { decay, .. }
            | Optimizer::Adafactor { decay, .. }
            | Optimizer::Lamb { decay, .. }
            | Optimizer::Lars { decay, .. }
            | Optimizer::Lion { decay, .. }
            | Optimizer::Muon { decay, .. } => *decay = value,
        }
        self
    }

    /// The word that model files use.
    pub fn word(&self) -> &'static str {
        match self {
            Optimizer::Sgd { .. } => "sgd",
            Optimizer::AdamW { .. } => "adamw",
            Optimizer::Adam { .. } => "adam",
            Optimizer::Adafactor { .. } => "adafactor",
            Optimizer::Lamb { .. } => "lamb",
            Optimizer::Lars { .. } => "lars",
            Optimizer::Lion { .. } => "lion",
            Optimizer::Muon { .. } => "muon",
        }
    }
}

/// The factor on the learning rate, step by step. Curves rise linearly over `warmup` steps first, and those that fall to `min` keep it
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
    /// `√(warmup / step)` after the rise (Vaswani et al., 2017).
    InverseSqrt {
        /// Steps of the rise.
        warmup: u64,
    },
    /// Warm-up, stable, decay (Hu et al., 2024): 1 until the last `decay` steps, then a straight line to `min`.
    Wsd {
        /// Steps of the rise.
        warmup: u64,
        /// Step at which the fall ends, the rise included.
        steps: u64,
        /// Steps of the fall.
        decay: u64,
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
            Schedule::InverseSqrt { .. } => "inverse_sqrt",
            Schedule::Wsd { .. } => "wsd",
        }
    }

    /// The factor on the learning rate at `step`, counted from 1.
    pub fn factor(&self, step: u64) -> f64 {
        let rises = |warmup: u64| (step < warmup).then(|| step as f64 / warmup as f64);
        let progress = |start: u64, end: u64| {
            if step >= end { 1.0 } else { step.saturating_sub(start) as f64 / (end - start) as f64 }
        };
        let fall = |left: f64, min: f64| min + (1.0 - min) * left;
        match *self {
            Schedule::Constant => 1.0,
            Schedule::Cosine { warmup, steps, min } => {
                rises(warmup).unwrap_or_else(|| fall(0.5 * (1.0 + (std::f64::consts::PI * progress(warmup, steps)).cos()), min))
            }
            Schedule::Linear { warmup, steps, min } => rises(warmup).unwrap_or_else(|| fall(1.0 - progress(warmup, steps), min)),
            Schedule::InverseSqrt { warmup } => rises(warmup).unwrap_or_else(|| (warmup.max(1) as f64 / step as f64).sqrt()),
            Schedule::Wsd { warmup, steps, decay, min } => rises(warmup).unwrap_or_else(|| fall(1.0 - progress(steps - decay, steps), min)),
        }
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
        let inverse = Schedule::InverseSqrt { warmup: 4 };
        near(inverse.factor(2), 0.5);
        near(inverse.factor(4), 1.0);
        near(inverse.factor(64), 0.25);
        near(Schedule::InverseSqrt { warmup: 0 }.factor(4), 0.5);
        let wsd = Schedule::Wsd { warmup: 10, steps: 100, decay: 20, min: 0.1 };
        for (step, factor) in [(5, 0.5), (10, 1.0), (80, 1.0), (90, 0.55), (100, 0.1), (1000, 0.1)] {
            near(wsd.factor(step), factor);
        }
    }
}
