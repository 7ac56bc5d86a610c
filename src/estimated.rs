//! An estimated plan as other programs and people read it.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use partita_planner::cluster::Cluster;
use partita_planner::estimate::choose::{Picked, tokens};
use partita_planner::estimate::stack::Stack;
use partita_planner::plan::recompute_word;
use partita_planner::search::Model;
use partita_planner::units::{Bytes, Seconds};
use serde::Serialize;

use crate::arguments::Shown;
use crate::described::{ConsideredLine, FORMAT};
use crate::table::{count, grouped, heading, table};

/// Other plans that are shown.
const OTHERS: usize = 20;

/// What `plan` prints of an estimate.
#[derive(Debug, Serialize)]
pub struct Estimated {
    format: u32,
    model: String,
    cluster: String,
    stack: String,
    strategy: String,
    settings: BTreeMap<String, String>,
    degrees: BTreeMap<String, u64>,
    zero: u8,
    sp: bool,
    recompute: String,
    schedule: String,
    devices: u64,
    micro_batches: u64,
    /// For each stage of the model (with vpp, of each of its pieces), in order, how many iterations of each loop it has.
    stages: Vec<BTreeMap<String, u64>>,
    step_seconds: f64,
    tokens_per_second: f64,
    /// Of the peak in the precision of products; attention counted in full, recomputation not at all.
    mfu: f64,
    /// The live peak of the fullest rank.
    memory_bytes: u64,
    /// What the device shows as taken.
    memory_reserved_bytes: u64,
    /// Memory of a device.
    device_memory_bytes: u64,
    fits: bool,
    bubble_fraction: f64,
    /// Seconds by kind; those that are hidden are under others.
    breakdown: BTreeMap<&'static str, f64>,
    /// Bytes by kind.
    memory_breakdown: BTreeMap<&'static str, u64>,
    /// The pipeline rank that is fullest, and when.
    memory_peak: String,
    /// By pipeline rank: (seconds, bytes) where what it holds changes.
    memory_curves: Vec<Vec<(f64, u64)>>,
    usd_per_step: f64,
    warnings: Vec<String>,
    considered: Vec<ConsideredLine>,
    considered_in_all: u64,
}

/// Two digits behind the point, or four of what is less than a cent.
fn dollars(usd: f64) -> String {
    if usd < 0.01 { format!("{usd:.6}") } else { format!("{usd:.2}") }
}

impl Estimated {
    pub fn new(model: &Model<'_>, cluster: &Cluster, stack: &Stack, picked: &Picked) -> Self {
        let (decisions, estimate) = (&picked.decisions, &picked.estimate);
        let d = decisions.degrees;
        let b = &estimate.breakdown;
        let m = &estimate.memory;
        let whole = |bytes: f64| bytes.round() as u64;
        let considered = picked.others.iter().take(OTHERS).map(|other| ConsideredLine {
            strategy: other.strategy.clone(),
            step_seconds: other.step_seconds,
            lost: other.lost.clone(),
        });
        Self {
            format: FORMAT,
            model: model.name.to_owned(),
            cluster: cluster.name.clone(),
            stack: stack.name.clone(),
            strategy: decisions.strategy(),
            settings: model.settings.iter().cloned().collect(),
            degrees: [("dp", d.dp), ("tp", d.tp), ("cp", d.cp), ("pp", d.pp), ("vpp", decisions.vpp), ("mbs", d.mbs)]
                .map(|(name, n)| (name.to_owned(), n))
                .into(),
            zero: decisions.zero,
            sp: decisions.sp,
            recompute: recompute_word(decisions.recompute).into(),
            schedule: decisions.schedule.word().into(),
            devices: cluster.ranks(),
            micro_batches: picked.micro_batches,
            stages: picked.chunks.clone(),
            step_seconds: estimate.step_seconds,
            tokens_per_second: tokens(model) as f64 / estimate.step_seconds,
            mfu: estimate.mfu,
            memory_bytes: whole(estimate.memory_bytes),
            memory_reserved_bytes: whole(estimate.memory_reserved_bytes),
            device_memory_bytes: whole(estimate.memory_reserved_bytes / estimate.memory_full),
            fits: picked.fits,
            bubble_fraction: estimate.bubble_fraction,
            breakdown: BTreeMap::from([
                ("gemm", b.gemm),
                ("attention", b.attention),
                ("streaming", b.streaming),
                ("tensor_exposed", b.tensor_exposed),
                ("tensor_hidden", b.tensor_hidden),
                ("context_exposed", b.context_exposed),
                ("context_hidden", b.context_hidden),
                ("data_exposed", b.data_exposed),
                ("data_hidden", b.data_hidden),
                ("bubble", b.bubble),
                ("optimizer", b.optimizer),
                ("host", b.host),
            ]),
            memory_breakdown: BTreeMap::from([
                ("parameters", whole(m.parameters)),
                ("gradients", whole(m.gradients)),
                ("optimizer", whole(m.optimizer)),
                ("activations", whole(m.activations)),
                ("temporaries", whole(m.temporaries)),
                ("reserve", whole(estimate.memory_reserved_bytes - estimate.memory_bytes)),
            ]),
            memory_peak: format!("pipeline rank {}, {}", estimate.fullest_stage, estimate.peak_moment),
            memory_curves: picked
                .memory_curves
                .iter()
                .map(|curve| curve.iter().map(|(seconds, bytes)| (*seconds, whole(*bytes))).collect())
                .collect(),
            usd_per_step: estimate.step_seconds / 3600.0 * cluster.usd_per_hour(&(0..cluster.ranks())),
            warnings: picked.warnings.clone(),
            considered: considered.collect(),
            considered_in_all: picked.others.len() as u64,
        }
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("an estimate is plain data") + "\n"
    }

    pub fn text(&self, shown: &Shown) -> String {
        let color = shown.colored(std::io::stdout().is_terminal());
        let mut out = heading(&format!("{} on {}: {}", self.model, self.cluster, self.strategy), color);
        let mut line = |name: &str, text: String| out += &format!("  {name:<10}{text}\n");
        line("stack", format!("{}, estimated: nothing was compiled", self.stack));
        line("devices", grouped(self.devices));
        if self.micro_batches > 1 {
            line("batch", format!("{} micro-batches of {} a data rank", self.micro_batches, count(self.degrees["mbs"], "sequence")));
        }
        let rate = grouped(self.tokens_per_second as u64);
        line(
            "step",
            format!("{}: {rate} tokens/s, MFU {:.1} %, {} $", Seconds(self.step_seconds), 100.0 * self.mfu, dollars(self.usd_per_step)),
        );
        let fits = if self.fits { "fits" } else { "does NOT fit" };
        line(
            "memory",
            format!(
                "{} live, {} with the reserve, of {}: {fits}",
                Bytes(self.memory_bytes),
                Bytes(self.memory_reserved_bytes),
                Bytes(self.device_memory_bytes)
            ),
        );
        for (n, warning) in self.warnings.iter().enumerate() {
            line(if n == 0 { "warnings" } else { "" }, warning.clone());
        }
        if shown.quiet {
            return out;
        }
        let mut sections = vec![out];
        let of_step = |seconds: f64| format!("{:.1} %", 100.0 * seconds / self.step_seconds);
        let rows = self.breakdown.iter().filter(|(_, seconds)| **seconds > 0.0);
        let rows = rows.map(|(name, seconds)| {
            let share = if name.ends_with("hidden") { "hidden".to_owned() } else { of_step(*seconds) };
            vec![name.replace('_', " "), Seconds(*seconds).to_string(), share]
        });
        sections.push(heading("time of the busiest rank", color) + &table(&["kind", ">time", ">of the step"], rows));
        let rows = self.memory_breakdown.iter().filter(|(_, bytes)| **bytes > 0);
        let rows = rows.map(|(name, bytes)| vec![(*name).to_owned(), Bytes(*bytes).to_string()]);
        sections.push(heading(&format!("memory, {}", self.memory_peak), color) + &table(&["kind", ">bytes"], rows));
        if !self.considered.is_empty() {
            let rows = self.considered.iter().take(if shown.verbose { OTHERS } else { 5 });
            let rows = rows.map(|other| vec![other.strategy.clone(), Seconds(other.step_seconds).to_string(), other.lost.clone()]);
            let title = format!("also considered, {} in all", self.considered_in_all);
            sections.push(heading(&title, color) + &table(&["plan", ">step", "why not"], rows));
        }
        sections.join("\n")
    }
}
