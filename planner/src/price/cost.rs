//! What one act takes while so many ranks compute.

use partita_ir::boxing::StepKind;
use partita_ir::dtype::DType;
use partita_ir::work::{Act, KernelWork, Reuse};

use crate::cluster::Cluster;
use crate::cluster::curves::Curves;

/// The curves that hold for a number of ranks on a device.
pub(super) struct Costs<'a> {
    cluster: &'a Cluster,
    /// Cores that the ranks share.
    pub cores: u64,
    /// Curves of ranks with as many threads as these have, by ascending number of ranks.
    wide: Vec<&'a Curves>,
    /// Curves of ranks with one thread.
    narrow: Vec<&'a Curves>,
}

impl<'a> Costs<'a> {
    pub(super) fn new(cluster: &'a Cluster, ranks: u64) -> Self {
        let cores = cluster.device.cores.unwrap_or(ranks).max(1);
        // as the runtime shares its cores out
        let threads = (cores / ranks.max(1)).max(1);
        let with = |threads: u64| {
            let all = &cluster.device.curves;
            let nearest = all.iter().map(|curves| curves.threads).min_by_key(|known| known.abs_diff(threads));
            let mut found: Vec<&Curves> = all.iter().filter(|curves| Some(curves.threads) == nearest).collect();
            found.sort_by_key(|curves| curves.ranks);
            found
        };
        Self { cluster, cores, wide: with(threads), narrow: with(1) }
    }

    /// Seconds of an act while `busy` ranks compute, its own among them.
    pub(super) fn seconds(&self, act: &Act, busy: u64) -> f64 {
        match act {
            Act::Kernel(work) => {
                let curves = if work.serial { &self.narrow } else { &self.wide };
                among(curves, busy, &|curves| Some(self.kernel(curves, work))).unwrap_or(0.0)
            }
            Act::Move(bytes) => {
                // moves run on one thread
                among(&self.narrow, busy, &|curves| Some(self.kernel(curves, &KernelWork { bytes: *bytes, ..KernelWork::default() })))
                    .unwrap_or(0.0)
            }
            Act::Collective { kind, members, bytes } => {
                let key = match kind {
                    StepKind::AllReduce => "all_reduce",
                    StepKind::ReduceScatter => "reduce_scatter",
                    StepKind::AllGather => "all_gather",
                    _ => "all_to_all",
                };
                let n = members.len() as u64;
                // a meeting works on as many cores as there are; with others at work it has a share of them
                let crowd = (busy as f64 / self.cores.max(n) as f64).max(1.0);
                crowd * among(&self.narrow, n, &|curves| time(curves, key, *bytes)).unwrap_or_else(|| self.link(*bytes))
            }
            Act::Send { bytes, .. } | Act::Receive { bytes, .. } => {
                let crowd = (busy as f64 / self.cores as f64).max(1.0);
                let both = among(&self.narrow, 2, &|curves| time(curves, "send", *bytes)).unwrap_or_else(|| self.link(*bytes));
                crowd * both / 2.0
            }
        }
    }

    /// `t = latency + bytes / rate` of the device's own link, where there is no curve.
    fn link(&self, bytes: u64) -> f64 {
        let link = self.cluster.link(1, self.cluster.ranks());
        link.latency.0 + bytes as f64 / link.rate.0
    }

    /// `t = kernel + work + Σ bytes · (reuse − nearest)`: the work as it was measured on what lies in the nearest cache, and what operands
    /// and result take longer from where they lie; of a copy, which does no work, all of `reuse`. Work is `calls · flops /
    /// rate(m, n, k)` of matrix products, else `rows · row + blocks · block + steps · step + Σ lanes · lane`. What has no curve is the device's roofline.
    fn kernel(&self, curves: &Curves, work: &KernelWork) -> f64 {
        let device = &self.cluster.device;
        let share = (self.cores as f64 / curves.ranks as f64).min(1.0);
        let start = curves.kernel_us.unwrap_or(device.launch_us) * 1e-6;
        let reuse = curves.times.get("reuse");
        let is_copy = work.matmul.is_none() && work.lanes.is_empty();
        let nearest = reuse.and_then(|curve| curve.level(0.0)).map_or(0.0, |seconds| if is_copy { 0.0 } else { seconds.0 });
        let memory = |used: &Reuse| match reuse.and_then(|curve| curve.level(used.distance as f64)) {
            Some(there) => used.bytes as f64 / MIB * (there.0 - nearest).max(0.0),
            None => used.bytes as f64 / (device.memory_rate().0 * share),
        };
        if let Some(matmul) = &work.matmul {
            let flops = 2.0 * matmul.sizes.iter().map(|size| *size as f64).product::<f64>() * matmul.calls as f64;
            let away: f64 = reuse.map_or(0.0, |_| work.reuse.iter().map(memory).sum());
            return start + flops / curves.matmul(matmul).unwrap_or(device.peak(DType::F32).0 * share) + away;
        }
        // of a table that is looked up not all is read
        let all: u64 = work.reuse.iter().map(|used| used.bytes).sum();
        let away = match work.reuse.is_empty() {
            true => memory(&Reuse { bytes: work.bytes, distance: UNKNOWN }),
            false => work.reuse.iter().map(memory).sum::<f64>() * (work.bytes as f64 / all.max(1) as f64).min(1.0),
        };
        let lanes = work.lanes.iter().map(|(step, lanes)| curves.lane(*step).map_or(0.0, |seconds| seconds.0) * *lanes as f64);
        let starts = [(work.rows, curves.row_ns), (work.blocks, curves.block_ns), (work.steps, curves.step_ns)];
        let starts: f64 = starts.into_iter().map(|(n, ns)| n as f64 * ns.unwrap_or(0.0) * 1e-9).sum();
        start + starts + lanes.sum::<f64>() + away
    }
}

/// Bytes used since, where it is not known: most of what a step reads was made a moment before, or long ago.
const UNKNOWN: u64 = 16 << 20;
const MIB: f64 = 1_048_576.0;

fn time(curves: &Curves, key: &str, bytes: u64) -> Option<f64> {
    curves.times.get(key)?.at(bytes as f64).map(|seconds| seconds.0)
}

/// The time at `ranks` ranks from the curves that have one: linear in the ranks between them, behind the last in proportion.
fn among(curves: &[&Curves], ranks: u64, time: &dyn Fn(&Curves) -> Option<f64>) -> Option<f64> {
    let mut below: Option<(u64, f64)> = None;
    for curves in curves {
        let Some(seconds) = time(curves) else { continue };
        let here = (curves.ranks, seconds);
        if here.0 == ranks {
            return Some(here.1);
        }
        if here.0 > ranks {
            return Some(below.map_or(here.1, |low| low.1 + (here.1 - low.1) * (ranks - low.0) as f64 / (here.0 - low.0) as f64));
        }
        below = Some(here);
    }
    below.map(|low| low.1 * ranks as f64 / low.0 as f64)
}
