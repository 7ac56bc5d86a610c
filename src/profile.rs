//! `partita profile`: measures this machine and writes a cluster file with curves.

use std::time::Instant;

use partita_ir::boxing::StepKind;
use partita_ir::dtype::DType;
use partita_planner::catalogue::KINDS;
use partita_planner::cluster::Cluster;
use partita_planner::cluster::curves::{Curve, Curves, LIES};
use partita_planner::estimate::constants::{Reach, reach};
use partita_planner::estimate::kernel_time::Pricing;
use partita_planner::estimate::sections::{Kernel, Work};
use partita_planner::estimate::stack::Stack;
use partita_runtime::measure::gpu::{self, Gpu};
use partita_runtime::measure::{Effort, Measured, levels, measure};

use crate::arguments::{ProfileArguments, Shown};
use crate::failure::{Failure, note, print, write};

pub fn profile(arguments: &ProfileArguments, shown: &Shown) -> Result<(), Failure> {
    let started = Instant::now();
    let text = if gpu::is_there() && !arguments.cpu {
        note(shown, "measuring the GPU");
        let measured = gpu::measure().map_err(|why| {
            Failure::told(
                "partita::profile::gpu",
                format!("the GPU cannot be measured: {why}"),
                Some("`--cpu` measures the CPU alone".to_owned()),
            )
        })?;
        of_gpu(&measured, arguments.ranks)?
    } else {
        of_cpu(arguments, shown)
    };
    Cluster::parse(&text, "profile").expect("a profile is a cluster file");
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

fn of_cpu(arguments: &ProfileArguments, shown: &Shown) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let effort = if arguments.quick { Effort::quick() } else { Effort::whole() };
    let measured = measure(&levels(cores), &effort, &mut |round, ranks, threads| {
        note(shown, &format!("round {} of {}: {ranks} busy rank(s) of {threads} thread(s)", round + 1, effort.rounds));
    });
    file(&measured, &effort, cores, arguments.ranks.unwrap_or(cores as u64))
}

/// The cluster file of a GPU: its kind in the catalogue, and what it reaches of that one's peaks.
fn of_gpu(measured: &Gpu, ranks: Option<u64>) -> Result<String, Failure> {
    let Some(kind) = kind(&measured.name, measured.memory_bytes) else {
        let known = format!("kinds: {}; `--cpu` measures the CPU", KINDS.join(", "));
        return Err(Failure::told("partita::profile::gpu", format!("the catalogue has no `{}`", measured.name), Some(known)));
    };
    let count = ranks.unwrap_or(measured.count);
    let level = format!("[[level]]\nname = \"node\"\ncount = {count}\n");
    let plain = Cluster::parse(&format!("name = \"profile\"\n[device]\nkind = \"{kind}\"\n{level}"), "profile")
        .expect("kinds of the catalogue are known");
    // what products would take if tiles and waves were all that is lost
    let ideal = Reach { gemm: 1.0, ..reach(&plain.device) };
    let stack = Stack::named("partita").expect("there is a stack of this name");
    let pricing = Pricing { cluster: &plain, reach: &ideal, stack: &stack, dtype: DType::Bf16 };
    let mut reached: Vec<f64> = measured
        .products
        .iter()
        .map(|([m, n, k], seconds)| {
            let [m, n, k] = [*m, *n, *k].map(|size| size as f64);
            let work = Work::Gemm { m, n, k, batch: 1.0, weight: true };
            pricing.seconds(&Kernel { work, bytes: 0.0, for_weights: false, scores: false }) / seconds
        })
        .collect();
    reached.sort_by(f64::total_cmp);
    let gemm = reached.get(reached.len() / 2).map_or(1.0, |reached| reached.min(1.0));
    let memory = (measured.memory / plain.device.memory_rate().0).min(1.0);
    Ok(format!(
        "# {} as `partita profile` found it: large bf16 products, copies and launches of one device. Links are those of the catalogue.\n\
         name = \"profile\"\n\n[device]\nkind = \"{kind}\"\nmemory_bytes = {}\ncompute_units = {}\nlaunch_us = {:.3}\n\
         reach = {{ gemm = {gemm:.3}, memory = {memory:.3} }}\n\n{level}",
        measured.name,
        measured.memory_bytes,
        measured.compute_units,
        measured.launch * 1e6,
    ))
}

/// The catalogue's word for a device as its driver names it.
fn kind(name: &str, memory_bytes: u64) -> Option<&'static str> {
    let of_memory = |small, large, at: u64| if memory_bytes >> 30 < at { small } else { large };
    let has = |word: &str| name.contains(word);
    // cards for PCIe have other peaks than those of the catalogue
    if has("PCIe") {
        return None;
    }
    let kinds = [
        ("GB300", "gb300"),
        ("GB200", "gb200"),
        ("B300", "b300"),
        ("B200", "b200"),
        ("H200", "h200"),
        ("H800", "h800"),
        ("H100", "h100"),
        ("A800", "a800"),
        ("A100", of_memory("a100-40gb", "a100-80gb", 60)),
        ("V100", of_memory("v100-16gb", "v100-32gb", 24)),
        ("RTX 4090", "rtx4090"),
    ];
    kinds.iter().find(|(word, _)| has(word)).map(|(_, kind)| *kind)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str, memory_gib: u64) -> Gpu {
        let products = vec![([8192, 8192, 8192], 2.0 * 8192.0f64.powi(3) / 600e12), ([4096, 4096, 16_384], 1e-3)];
        let name = name.to_owned();
        Gpu { name, count: 8, memory_bytes: memory_gib << 30, compute_units: 132, launch: 2.1e-6, memory: 2.9e12, products }
    }

    #[test]
    fn a_gpu_is_its_kind_and_what_it_reaches() {
        let text = of_gpu(&gpu("NVIDIA H100 80GB HBM3", 79), None).unwrap_or_else(|_| panic!("an H100 is known"));
        let cluster = Cluster::parse(&text, "x").unwrap_or_else(|error| panic!("{text}\n{error}"));
        assert_eq!((cluster.device.kind.as_str(), cluster.ranks()), ("h100", 8));
        let reached = reach(&cluster.device);
        // 600 of 989.4 TFLOP/s, tiles and waves aside
        assert!(reached.gemm > 0.6 && reached.gemm < 0.65, "{}", reached.gemm);
        assert!((reached.memory - 2.9 / 3.352).abs() < 0.01, "{}", reached.memory);
        assert!(of_gpu(&gpu("NVIDIA H100 PCIe", 80), None).is_err());
        for (name, memory, expected) in [
            ("Tesla V100-SXM2-16GB", 16, "v100-16gb"),
            ("NVIDIA A100-SXM4-40GB", 40, "a100-40gb"),
            ("NVIDIA A100-SXM4-80GB", 80, "a100-80gb"),
            ("NVIDIA GB200", 186, "gb200"),
            ("NVIDIA GeForce RTX 4090", 24, "rtx4090"),
        ] {
            assert_eq!(kind(name, memory << 30), Some(expected), "{name}");
        }
    }
}
