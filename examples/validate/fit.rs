//! The constants that are fitted on published runs, and the fit: damped least squares on the logarithm of step times.

use partita_planner::estimate::constants::{Reach, reach};
use partita_planner::estimate::stack::Stack;
use partita_planner::estimate::step::Estimate;

use crate::rows::Case;

/// A constant of a device, a link or a stack.
pub struct Knob {
    pub name: &'static str,
    pub meaning: &'static str,
    bounds: (f64, f64),
    /// What is thought of it before any row is seen.
    prior: f64,
    /// The device kinds or stacks that have it.
    of: &'static [&'static str],
    field: for<'a> fn(&'a mut Reach, &'a mut Stack) -> &'a mut f64,
}

const AMPERE: &[&str] = &["a100-40gb", "a100-80gb", "a800"];
const HOPPER: &[&str] = &["h100", "h100-500w", "h800", "h200"];
const ANY: &[&str] = &[];

macro_rules! knobs {
    ($($name:literal, $meaning:literal, $low:literal .. $high:literal, $prior:literal, $of:expr, $field:expr;)*) => {
        pub const KNOBS: &[Knob] = &[$(Knob {
            name: $name,
            meaning: $meaning,
            bounds: ($low, $high),
            prior: $prior,
            of: $of,
            field: $field,
        }),*];
    };
}

// each knob is one number that every row of its devices or stacks shares
knobs! {
    "gemm a100", "of the 16-bit peak that large matrix products reach on A100", 0.5..1.0, 0.75, AMPERE, |reach, _| &mut reach.gemm;
    "gemm h100", "the same on Hopper", 0.4..1.0, 0.65, HOPPER, |reach, _| &mut reach.gemm;
    "gemm fp8 h100", "of the 8-bit peak that they reach on Hopper, casts included", 0.3..1.0, 0.55, HOPPER, |reach, _| &mut reach.gemm_fp8;
    "flash1 a100", "of the 16-bit peak that FlashAttention 1 reaches forward on A100; 0.3 to 0.5 by Dao 2023", 0.3..0.5, 0.4, AMPERE, |reach, _| &mut reach.flash1;
    "flash1 h100", "the same on Hopper", 0.1..0.7, 0.2, HOPPER, |reach, _| &mut reach.flash1;
    "cudnn h100", "the same of cuDNN's attention on Hopper", 0.2..0.95, 0.6, HOPPER, |reach, _| &mut reach.cudnn;
    "attention backward", "what the backward pass of attention reaches of the forward pass", 0.6..1.0, 0.8, ANY, |reach, _| &mut reach.attention_backward;
    "scores", "times the traffic of passes over scores in memory", 0.5..8.0, 2.0, ANY, |reach, _| &mut reach.scores;
    "misaligned", "of the speed that batched products reach where a side is no multiple of 8", 0.05..1.0, 0.25, ANY, |reach, _| &mut reach.misaligned;
    "data exposed", "of gradients' and parameters' transfers that FSDP leaves exposed", 0.0..1.0, 0.3, &["fsdp", "fsdp-compiled"], |_, stack| &mut stack.data_exposed;
    "tensor wait", "milliseconds that ranks of Megatron-DeepSpeed wait for each other at a tensor-parallel collective", 0.0..6.0, 0.0, &["megatron-deepspeed"], |_, stack| &mut stack.tensor_wait_ms;
    "stream passes", "times the traffic of streaming kernels that casts and copies of eager stacks make of it", 1.0..3.0, 1.5, &["fsdp", "internevo", "megatron-deepspeed"], |_, stack| &mut stack.stream_passes;
    "waiting", "microseconds that each rank of a data-parallel group adds to a transfer", 0.0..20.0, 0.0, &["fsdp", "fsdp-compiled"], |_, stack| &mut stack.ring_us;
    "data exposed internevo", "the same of InternEvo's", 0.0..1.0, 0.5, &["internevo"], |_, stack| &mut stack.data_exposed;
    "waiting internevo", "the same in InternEvo", 0.0..40.0, 0.0, &["internevo"], |_, stack| &mut stack.ring_us;
    "broadcast", "milliseconds of each broadcast of InternEvo's ZeRO 1", 0.5..6.0, 1.0, &["internevo"], |_, stack| &mut stack.broadcast_ms;
    "optimizer passes", "times the traffic of one fused pass that an eager optimizer takes", 1.0..20.0, 4.0, &["fsdp"], |_, stack| &mut stack.optimizer_passes;
    "step", "milliseconds of a step of eager FSDP that do not depend on the model", 0.0..100.0, 0.0, &["fsdp"], |_, stack| &mut stack.step_ms;
}

/// A value for each knob.
pub type Values = Vec<f64>;

impl Knob {
    /// Whether a case depends on it.
    fn is_of(&self, case: &Case) -> bool {
        self.of.is_empty() || self.of.contains(&case.cluster.device.kind.as_str()) || self.of.contains(&case.stack.name.as_str())
    }
}

/// The values that the planner has.
pub fn values(cases: &[&Case]) -> Values {
    let of = |knob: &Knob| {
        let case = cases.iter().find(|case| knob.is_of(case)).expect("a knob is of some case");
        let (mut reached, mut stack) = (reach(&case.cluster.device), case.stack.clone());
        *(knob.field)(&mut reached, &mut stack)
    };
    KNOBS.iter().map(of).collect()
}

/// What is thought of each knob before any row is seen: by the literature where it says something (matrix products in
/// stas00/ml-engineering, attention in Dao 2023), an eager optimizer by the kernels that it runs, else the ideal.
pub fn priors() -> Values {
    KNOBS.iter().map(|knob| knob.prior).collect()
}

/// The estimate of a case, with knobs set where values are given.
pub fn estimate(case: &Case, values: Option<&Values>) -> Estimate {
    let (mut reached, mut stack) = (reach(&case.cluster.device), case.stack.clone());
    for (knob, value) in KNOBS.iter().zip(values.into_iter().flatten()).filter(|(knob, _)| knob.is_of(case)) {
        *(knob.field)(&mut reached, &mut stack) = *value;
    }
    case.prepared.estimate(&case.cluster, &stack, &|_| reached.clone())
}

/// Off by, as a logarithm.
fn residual(case: &Case, values: &Values) -> f64 {
    (estimate(case, Some(values)).step_seconds / case.row.step_time_s.unwrap_or(1.0)).ln()
}

fn residuals(cases: &[&Case], values: &Values) -> Vec<f64> {
    cases.iter().map(|case| residual(case, values)).collect()
}

/// A large error counts less than its square.
const SOFT: f64 = 0.05;

/// How much a constant is held to what was thought of it before: decides where rows do not.
const PRIOR: f64 = 0.05;

/// How far a knob is from its prior, in parts of its range.
fn beside_prior(n: usize, value: f64) -> f64 {
    (value - KNOBS[n].prior) / (KNOBS[n].bounds.1 - KNOBS[n].bounds.0)
}

fn loss(residuals: &[f64], values: &Values) -> f64 {
    let rows: f64 = residuals.iter().map(|off| (1.0 + (off / SOFT).powi(2)).sqrt() - 1.0).sum();
    let priors: f64 = values.iter().enumerate().map(|(n, value)| (PRIOR * beside_prior(n, *value) / SOFT).powi(2) / 2.0).sum();
    rows + priors
}

/// Values under which the cases are met best. Knobs that no case depends on stay where they are.
pub fn fit(cases: &[&Case], start: &Values) -> Values {
    let free: Vec<usize> = (0..KNOBS.len()).filter(|n| cases.iter().any(|case| KNOBS[*n].is_of(case))).collect();
    let clamped = |n: usize, value: f64| value.clamp(KNOBS[n].bounds.0, KNOBS[n].bounds.1);
    let span = |n: usize| KNOBS[n].bounds.1 - KNOBS[n].bounds.0;
    let mut at: Values = start.clone();
    let mut damping = 1e-3;
    let mut off = residuals(cases, &at);
    for _ in 0..80 {
        let columns: Vec<Vec<f64>> = free
            .iter()
            .map(|&n| {
                let step = 1e-3 * span(n) * if at[n] + 1e-3 * span(n) > KNOBS[n].bounds.1 { -1.0 } else { 1.0 };
                let mut moved = at.clone();
                moved[n] += step;
                let moved = |(case, off): (&&Case, &f64)| {
                    if KNOBS[n].is_of(case) { (residual(case, &moved) - off) / step * span(n) } else { 0.0 }
                };
                cases.iter().zip(&off).map(moved).collect()
            })
            .collect();
        let weight: Vec<f64> = off.iter().map(|off| 1.0 / (1.0 + (off / SOFT).powi(2)).sqrt()).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).zip(&weight).map(|((a, b), w)| a * b * w).sum::<f64>();
        let mut better = false;
        for _ in 0..8 {
            let mut system: Vec<Vec<f64>> = (0..free.len())
                .map(|i| {
                    let mut row: Vec<f64> = (0..free.len()).map(|j| dot(&columns[i], &columns[j])).collect();
                    row[i] += damping * (row[i] + 1e-3);
                    row[i] += PRIOR * PRIOR;
                    row.push(-dot(&columns[i], &off) - PRIOR * PRIOR * beside_prior(free[i], at[free[i]]));
                    row
                })
                .collect();
            let moves = solve(&mut system);
            let mut next = at.clone();
            free.iter().zip(&moves).for_each(|(&n, step)| next[n] = clamped(n, at[n] + step * span(n)));
            let now = residuals(cases, &next);
            if loss(&now, &next) < loss(&off, &at) * (1.0 - 1e-7) {
                (at, off, better) = (next, now, true);
                damping = (damping * 0.3).max(1e-9);
                break;
            }
            damping *= 4.0;
        }
        if !better {
            break;
        }
    }
    at
}

/// Gaussian elimination with row exchange; each row ends with its right side.
fn solve(rows: &mut [Vec<f64>]) -> Vec<f64> {
    let n = rows.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs())).unwrap_or(column);
        rows.swap(column, pivot);
        let (head, tail) = rows.split_at_mut(column + 1);
        let top = &head[column];
        for row in tail {
            let times = if top[column] == 0.0 { 0.0 } else { row[column] / top[column] };
            (column..=n).for_each(|at| row[at] -= times * top[at]);
        }
    }
    let mut out = vec![0.0; n];
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|at| rows[row][at] * out[at]).sum();
        out[row] = if rows[row][row] == 0.0 { 0.0 } else { (rows[row][n] - known) / rows[row][row] };
    }
    out
}
