//! `partita run`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::Path;

use partita_ir::program::Program;
use partita_planner::units::{Bytes, Seconds};
use partita_runtime::run::{RunOptions, RunSummary, StepReport, run as run_program};

use crate::arguments::{Format, RunArguments, Shown};
use crate::check::grouped;
use crate::failure::{Failure, print, read};

/// The programs in a directory of `partita compile`.
fn program(folder: &Path) -> Result<Program, Failure> {
    let path = folder.join("program.json");
    let help = "give a directory that `partita compile … -o DIR` wrote";
    if !path.exists() {
        return Err(Failure::Words(format!("there is no program in `{}`\n  help: {help}", folder.display())));
    }
    let program: Program = serde_json::from_str(&read(&path)?)
        .map_err(|error| Failure::Words(format!("`{}` is not a program of this version: {error}\n  help: {help}", path.display())))?;
    if program.format != partita_codegen::FORMAT {
        return Err(Failure::Words(format!(
            "`{}` has format {}, and this version reads {}\n  help: compile again",
            path.display(),
            program.format,
            partita_codegen::FORMAT
        )));
    }
    Ok(program)
}

/// The log, with the lines of steps that a resumed run does again taken out.
fn log(path: &Path, keep_before: Option<u64>) -> Result<BufWriter<File>, Failure> {
    let fail = |error: std::io::Error| Failure::file("write", path, &error);
    let mut kept = String::new();
    if let (Some(first), true) = (keep_before, path.exists()) {
        for line in BufReader::new(File::open(path).map_err(fail)?).lines() {
            let line = line.map_err(fail)?;
            let step = serde_json::from_str::<serde_json::Value>(&line).ok().and_then(|value| value["step"].as_u64());
            if step.is_some_and(|step| step < first) {
                kept += &line;
                kept.push('\n');
            }
        }
    }
    crate::failure::write(path, kept.as_bytes())?;
    OpenOptions::new().append(true).open(path).map(BufWriter::new).map_err(fail)
}

pub fn run(arguments: &RunArguments, shown: &Shown) -> Result<(), Failure> {
    let program = program(&arguments.directory)?;
    let options = RunOptions {
        steps: arguments.steps,
        data: arguments.data.clone(),
        seed: arguments.seed,
        threads: arguments.threads.map(|threads| threads as usize),
        init: arguments.init.clone(),
        save: arguments.save.clone(),
        gradients: arguments.gradients.clone(),
        checkpoint: arguments.checkpoint.clone(),
        every: arguments.every.unwrap_or(0),
        resume: arguments.resume,
        profile: arguments.profile,
    };
    let mut writer: Option<BufWriter<File>> = None;
    let mut trouble: Option<Failure> = None;
    if let (Some(path), false) = (&arguments.log, arguments.resume) {
        writer = Some(log(path, None)?);
    }
    let text = arguments.format == Format::Text && !shown.quiet;
    if text {
        print(&format!("{}: {}\n  step      loss    grad norm   seconds  predicted  tokens/s\n", program.model, program.strategy))?;
    }
    let sparse = !shown.verbose && arguments.steps > 40 && std::io::stdout().is_terminal();
    let summary = run_program(&program, &options, &mut |report| {
        if let (Some(path), None, None) = (&arguments.log, &writer, &trouble) {
            match log(path, Some(report.step)) {
                Ok(opened) => writer = Some(opened),
                Err(failure) => trouble = Some(failure),
            }
        }
        if let Some(out) = &mut writer {
            let line = serde_json::to_string(report).expect("a report is plain data");
            if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
                trouble = Some(Failure::Words(format!("cannot write the log: {error}")));
                writer = None;
            }
        }
        let show = !sparse || report.step % 5 == 0 || report.step == 1 || report.step == arguments.steps;
        if text && show {
            if let Err(failure) = print(&line(report)) {
                trouble = Some(failure);
            }
        }
    })
    .map_err(Failure::new)?;
    if let Some(failure) = trouble {
        return Err(failure);
    }
    for damaged in &summary.damaged {
        eprintln!("warning: a damaged checkpoint was passed over: {damaged}");
    }
    match arguments.format {
        Format::Json => print(&(serde_json::to_string_pretty(&summary).expect("a summary is plain data") + "\n")),
        Format::Text if shown.quiet => Ok(()),
        Format::Text => print(&ending(&summary, arguments)),
    }
}

fn line(report: &StepReport) -> String {
    format!(
        "  {:>4}  {:>8.4}  {:>10.4}  {:>8}  {:>9}  {:>8}\n",
        report.step,
        report.loss,
        report.grad_norm,
        format!("{:.3}", report.seconds),
        format!("{:.3}", report.predicted_seconds),
        grouped(report.tokens_per_second as u64)
    )
}

fn ending(summary: &RunSummary, arguments: &RunArguments) -> String {
    let mut out = String::new();
    let arenas: u64 = summary.arena_bytes.iter().sum();
    let grown = summary.anonymous_bytes.1.saturating_sub(summary.anonymous_bytes.0);
    if summary.first_step > arguments.steps {
        out += &format!("nothing to do: the checkpoint is at step {} of {}\n", summary.first_step - 1, arguments.steps);
    }
    out += &format!("memory: {} planned for {} ranks, {} measured\n", Bytes(arenas), summary.arena_bytes.len(), Bytes(grown));
    if !summary.profile.is_empty() {
        let mut rows: Vec<&(String, f64, u64)> = summary.profile.iter().collect();
        rows.sort_by(|a, b| b.1.total_cmp(&a.1));
        let total: f64 = rows.iter().map(|row| row.1).sum();
        out += &format!("where the time of rank 0 went, {} in all\n", Seconds(total));
        for (name, seconds, calls) in rows.into_iter().take(60) {
            out += &format!("  {:>5.1} %  {:>10}  {calls:>6} ×  {name}\n", 100.0 * seconds / total, Seconds(*seconds).to_string());
        }
    }
    out
}
