//! Predictions beside published runs: `make validate` writes `docs/validation/`.
//!
//! Arguments: none for the whole report; `--refit` prints constants as a fit on all usable rows gives them; the name of a row
//! prints what it is predicted from.

mod fit;
mod plot;
mod report;
mod rows;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use report::{Met, Report};
use rows::{Case, Row};

fn main() -> ExitCode {
    let data = std::env::var_os("PARTITA_DATA").map_or_else(|| Path::new("../shared/data").to_path_buf(), Into::into);
    let path = data.join("measured_runs.jsonl");
    if !path.exists() {
        println!("skipped: there is no {} (PARTITA_DATA names another folder)", path.display());
        return ExitCode::SUCCESS;
    }
    match validate(&path, std::env::args().nth(1).as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn validate(path: &Path, argument: Option<&str>) -> Result<(), String> {
    let rows = rows::read(path)?;
    let mut refused = Vec::new();
    let mut cases = |wanted: &dyn Fn(&Row) -> bool| -> Vec<Case> {
        let made = rows.iter().filter(|row| wanted(row)).filter_map(|row| match rows::case(row, Path::new("models")) {
            Ok(case) => Some(case),
            Err(why) => {
                refused.push((row.id.clone(), why));
                None
            }
        });
        made.collect()
    };
    let usable = cases(&Row::is_usable);
    let apart = cases(&Row::is_apart);
    let experts = cases(&Row::is_of_experts);
    let memory = cases(&Row::ran_out);
    if let Some(id) = argument.filter(|argument| !argument.starts_with("--")) {
        let all = usable.iter().chain(&apart).chain(&experts).chain(&memory);
        let case = all.into_iter().find(|case| case.row.id == id).ok_or_else(|| format!("no row `{id}` that is predicted"))?;
        explain(case);
        return Ok(());
    }
    let all: Vec<&Case> = usable.iter().collect();
    let values = fit::values(&all);
    let refitted = fit::fit(&all, &values);
    if argument == Some("--refit") {
        for ((knob, value), refitted) in fit::KNOBS.iter().zip(&values).zip(&refitted) {
            println!("{:24} {value:9.4} {refitted:9.4}", knob.name);
        }
        return Ok(());
    }
    if argument == Some("--leave") {
        let source = std::env::args().nth(2).unwrap_or_default();
        let (of, others): (Vec<&Case>, Vec<&Case>) = all.iter().partition(|case| case.row.source == source);
        let fitted = fit::fit(&others, &fit::priors());
        for ((knob, value), fitted) in fit::KNOBS.iter().zip(&values).zip(&fitted) {
            println!("{:24} {value:9.4} {fitted:9.4}", knob.name);
        }
        for case in of {
            let estimate = fit::estimate(case, Some(&fitted));
            let off = estimate.step_seconds / case.row.step_time_s.unwrap_or(f64::NAN) - 1.0;
            println!(
                "{} {} {} {:?} {:+.1} %",
                case.row.id,
                case.row.model,
                case.cluster.device.kind,
                case.row.recompute_class,
                off * 100.0
            );
        }
        return Ok(());
    }
    let sources: BTreeSet<&str> = usable.iter().map(|case| case.row.source.as_str()).collect();
    let left_out = sources.into_iter().map(|source| {
        let (of, others): (Vec<&Case>, Vec<&Case>) = all.iter().partition(|case| case.row.source == source);
        let fitted = fit::fit(&others, &fit::priors());
        let known = of.iter().any(|case| others.iter().any(|other| other.row.stack == case.row.stack));
        let offs = of.iter().map(|case| fit::estimate(case, Some(&fitted)).step_seconds / case.row.step_time_s.unwrap_or(f64::NAN) - 1.0);
        (source.to_owned(), report::errors(offs), known)
    });
    let left_out = left_out.collect();
    let met = |cases: &'static [Case]| cases.iter().map(|case| Met { case, estimate: fit::estimate(case, None) }).collect::<Vec<_>>();
    // the cases live as long as the program
    let [usable, apart, experts, memory] = [usable, apart, experts, memory].map(|cases| &*cases.leak());
    let report =
        Report { usable: met(usable), apart: met(apart), experts: met(experts), memory: met(memory), refused, values, refitted, left_out };
    let folder = Path::new("docs/validation");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).map_err(|error| format!("{}: {error}", folder.join(name).display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let text = report.text();
    write("README.md", &text)?;
    write("scatter.svg", &plot::scatter(&report.usable))?;
    let bars = text.split("## Bars").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
    println!("{}\nwritten to {}", bars.trim(), folder.display());
    Ok(())
}

/// What a prediction is made of.
fn explain(case: &Case) {
    for section in &case.prepared.sections {
        println!("{:?} {:?}: saves {:.1} MB, {:.1} MB more alive", section.phase, section.place, section.saved / 1e6, section.alive / 1e6);
        for kernel in &section.kernels {
            println!("   {:?} {:.1} MB{}", kernel.work, kernel.bytes / 1e6, if kernel.for_weights { ", of weights" } else { "" });
        }
        for step in &section.moves {
            println!("   {step:?}");
        }
    }
    println!("{:?}", case.prepared.weights);
    println!("{:#?}", fit::estimate(case, None));
}
