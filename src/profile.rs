//! `partita profile`: measures this machine and writes a cluster file with curves.

use std::path::Path;
use std::time::Instant;

use partita_ir::boxing::StepKind;
use partita_planner::cluster::Cluster;
use partita_planner::cluster::curves::{Curve, Curves, LIES};
use partita_runtime::measure::{Effort, Measured, levels, measure};

use crate::arguments::{ProfileArguments, Shown};
use crate::failure::{Failure, note, print, write};

pub fn profile(arguments: &ProfileArguments, shown: &Shown) -> Result<(), Failure> {
    let started = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let effort = if arguments.quick { Effort::quick() } else { Effort::whole() };
    let measured = measure(&levels(cores), &effort, &mut |round, ranks, threads| {
        note(shown, &format!("round {} of {}: {ranks} busy rank(s) of {threads} thread(s)", round + 1, effort.rounds));
    });
    let text = file(&measured, &effort, cores, arguments.ranks.unwrap_or(cores as u64));
    Cluster::parse(&text, "profile").expect("a profile is a cluster file");
    let gpu = if Path::new("/dev/nvidia0").exists() { "there is a GPU, which is not measured yet" } else { "no GPU was found" };
    note(shown, &format!("{gpu}: the curves are those of CPU ranks"));
    note(shown, &format!("measured in {:.1} s", started.elapsed().as_secs_f64()));
    match &arguments.output {
        None => print(&text),
        Some(path) => {
            write(path, text.as_bytes())?;
            note(shown, &format!("written to {}", path.display()));
            Ok(())
        }
    }
}

/// The cluster file.
fn file(measured: &[Measured], effort: &Effort, cores: usize, ranks: u64) -> String {
    let alone = &measured[0];
    let full = measured.iter().rfind(|m| m.threads == 1 && m.ranks <= cores).unwrap_or(alone);
    let peak = alone.matmul.iter().flatten().flatten().flatten().copied().fold(0.0, f64::max);
    let stream = full.reuse.last().map_or(1.0, |(_, seconds)| 1_048_576.0 / seconds / 1e9);
    let memory = memory_bytes() / ranks;
    let mut out = format!(
        "# This machine as `partita profile` found it, {cores} cores. Measure again on another one.\nname = \"profile\"\n\n[device]\n\
         kind = \"cpu-core\"\ncores = {cores}              # what the ranks share in all\n\
         memory_bytes = {memory}    # of a rank: the machine's, over {ranks}\n\
         flops = {{ f32 = {:.3e}, f64 = {:.3e} }}\nmemory_gb_per_s = {stream:.2}\nlaunch_us = {:.3}\n",
        peak,
        peak / 2.0,
        alone.kernel * 1e6,
    );
    if let Some(((_, latency), (bytes, seconds))) = measured.iter().find_map(|m| m.send.first().zip(m.send.last())) {
        out += &format!("link_gb_per_s = {:.2}\nlink_latency_us = {:.2}\n", *bytes as f64 / seconds / 1e9, latency * 1e6);
    }
    out += &format!("\n[[level]]\nname = \"threads\"\ncount = {ranks}\n");
    for measured in measured {
        out += &format!("\n{}", curves(measured, effort).to_toml());
    }
    out
}

fn curves(measured: &Measured, effort: &Effort) -> Curves {
    let curve = |points: &[(u64, f64)]| Curve::rising(points.iter().map(|(bytes, seconds)| (*bytes, seconds * 1e6)));
    let giga = |grid: &Vec<Vec<Vec<f64>>>| -> Vec<Vec<Vec<f64>>> {
        grid.iter().map(|plane| plane.iter().map(|row| row.iter().map(|rate| rate / 1e9).collect()).collect()).collect()
    };
    let named = measured.collectives.iter().map(|(kind, points)| {
        let name = match kind {
            StepKind::AllReduce => "all_reduce",
            StepKind::AllGather => "all_gather",
            StepKind::ReduceScatter => "reduce_scatter",
            _ => "all_to_all",
        };
        (name, points)
    });
    let send = (!measured.send.is_empty()).then_some(("send", &measured.send));
    Curves {
        ranks: measured.ranks as u64,
        threads: measured.threads as u64,
        kernel_us: Some(measured.kernel * 1e6),
        row_ns: Some(measured.row * 1e9),
        block_ns: Some(measured.block * 1e9),
        step_ns: Some(measured.step * 1e9),
        lane_ns: measured.lanes.iter().map(|(step, seconds)| (step.word().to_owned(), seconds * 1e9)).collect(),
        sizes: effort.sizes.clone(),
        matmul: LIES.iter().zip(&measured.matmul).map(|(lies, grid)| ((*lies).to_owned(), giga(grid))).collect(),
        times: [("reuse", &measured.reuse)]
            .into_iter()
            .chain(named)
            .chain(send)
            .map(|(key, points)| (key.to_owned(), curve(points)))
            .collect(),
    }
}

/// Memory of the machine; 4 GiB where the system does not say.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    total.map_or(4 << 30, |kib| kib * 1024)
}
