//! What each kind of act of rank 0 is expected to take beside what it takes: `acts PLAN PROFILE.toml [STEPS]`.
//!
//! For a prediction of `partita profile` that misses: which kernels it misses by.

use std::collections::BTreeMap;
use std::path::Path;

use partita_ir::program::Program;
use partita_planner::cluster::Cluster;
use partita_planner::price;
use partita_runtime::run::work::named;
use partita_runtime::run::{RunOptions, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, plan, profile, rest @ ..] = &arguments[..] else { return Err("acts PLAN PROFILE.toml [STEPS]".into()) };
    let steps = rest.first().map_or(Ok(10u64), |steps| steps.parse())?.max(1);
    let program: Program = serde_json::from_slice(&std::fs::read(Path::new(plan).join("program.json"))?)?;
    let cluster = Cluster::parse(&std::fs::read_to_string(profile)?, profile).map_err(|error| error.to_string())?;
    let ranks = program.mesh.ranks() * program.roles.len() as u64;
    let mut found: BTreeMap<String, (f64, f64, u64)> = BTreeMap::new();
    for (name, act) in named(&program, 0)? {
        let entry = found.entry(name).or_default();
        entry.0 += price::alone(&act, &cluster, ranks, ranks).ok_or("no curves in the cluster file")?;
        entry.2 += 1;
    }
    let mut seconds = Vec::new();
    let summary = run(&program, &RunOptions { steps, profile: true, ..RunOptions::default() }, &mut |report| seconds.push(report.seconds))?;
    for (name, all, _) in &summary.profile {
        found.entry(name.clone()).or_default().1 += all / steps as f64;
    }
    let mut rows: Vec<(&String, &(f64, f64, u64))> = found.iter().collect();
    rows.sort_by(|a, b| (b.1.1 - b.1.0).abs().total_cmp(&(a.1.1 - a.1.0).abs()));
    println!("{:>10} {:>10} {:>6}", "expected", "measured", "times");
    for (name, (expected, measured, times)) in rows {
        println!("{:8.1}us {:8.1}us {times:6} {name}", expected * 1e6, measured * 1e6);
    }
    let sum = |part: fn(&(f64, f64, u64)) -> f64| found.values().map(part).sum::<f64>() * 1e3;
    seconds.sort_by(f64::total_cmp);
    println!(
        "in all {:.2} ms expected, {:.2} ms measured; a step {:.2} ms",
        sum(|at| at.0),
        sum(|at| at.1),
        seconds[seconds.len() / 2] * 1e3
    );
    Ok(())
}
