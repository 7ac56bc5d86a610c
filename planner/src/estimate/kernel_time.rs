//! The time of one kernel.

use partita_ir::dtype::DType;

use super::constants::Reach;
use super::sections::{Kernel, Work};
use super::stack::Stack;
use crate::cluster::Cluster;

/// Sides of the tiles that matrix products are made of, and what each reaches of the largest (fewer elements are used from each
/// that is loaded).
const TILES: [(f64, f64, f64); 3] = [(128.0, 256.0, 1.0), (256.0, 128.0, 1.0), (128.0, 128.0, 0.92)];

/// What prices kernels.
pub struct Pricing<'a> {
    /// The device and its cores.
    pub cluster: &'a Cluster,
    /// What it reaches.
    pub reach: &'a Reach,
    /// What executes.
    pub stack: &'a Stack,
    /// The type that products compute in.
    pub dtype: DType,
}

impl Pricing<'_> {
    /// `max(work, traffic, issue)`: a roofline, its work in whole waves of whole tiles, and no sooner than the host issues the next.
    pub fn seconds(&self, kernel: &Kernel) -> f64 {
        let device = &self.cluster.device;
        let share = self.cluster.cores_per_rank().min(1.0);
        let rate = device.memory_rate().0 * self.reach.memory * share;
        let scores = if kernel.scores && kernel.work == Work::Stream { self.reach.scores } else { 1.0 };
        let passes = if kernel.work == Work::Stream { self.stack.stream_passes } else { 1.0 };
        let traffic = kernel.bytes * scores * passes / rate;
        let work = match kernel.work {
            Work::Stream => 0.0,
            Work::Flash { flops, backward } => {
                let sixteen = if self.dtype == DType::F32 { DType::F32 } else { DType::Bf16 };
                let back = if backward { self.reach.attention_backward } else { 1.0 };
                flops / (device.peak(sixteen).0 * share * self.reach.attention(self.stack.attention) * back)
            }
            Work::Gemm { m, n, k, batch, weight } => self.gemm([m, n, k, batch], weight) / share,
        };
        work.max(traffic).max(self.stack.issue_us * 1e-6).max(device.launch().0)
    }

    /// `waves · tile · (k + ramp) / (peak / units · reach)`, of the best tile.
    fn gemm(&self, [m, n, k, batch]: [f64; 4], weight: bool) -> f64 {
        let device = &self.cluster.device;
        let sixteen = if matches!(self.dtype, DType::Fp8 | DType::Fp4) && !weight { DType::Bf16 } else { self.dtype };
        let peak = device.peak(sixteen).0 * self.reach.of_gemm(sixteen);
        if device.kind == "cpu-core" {
            return 2.0 * m * n * k * batch / peak;
        }
        let units = device.compute_units as f64;
        // batched products have short sides; the matrices of a batch fill the device together
        let aligned = batch <= 1.0 || [m, n, k].iter().all(|side| side % 8.0 == 0.0);
        let seconds = TILES.iter().map(|(rows, columns, reached)| {
            let tiles = (m / rows).ceil() * (n / columns).ceil() * batch;
            let waves = (tiles / units).ceil();
            waves * 2.0 * rows * columns * (k + self.reach.ramp_k) / (peak / units * reached)
        });
        let best = seconds.fold(f64::INFINITY, f64::min);
        if aligned { best } else { best / self.reach.misaligned }
    }
}
