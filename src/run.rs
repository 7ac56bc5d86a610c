//! `partita run`: trains with compiled programs, on threads of this machine.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::Path;

use partita_ir::program::Program;
use partita_planner::units::{Bytes, Seconds};
use partita_runtime::run::{RunError, RunOptions, RunSummary, StepReport, run as run_program};
use serde::Serialize;

use crate::arguments::{Format, RunArguments, Shown};
use crate::compile::PROGRAM;
use crate::failure::{Failure, note, print, read, write};
use crate::inspect::{not_compiled, version};
use crate::table::{count, grouped, heading};
use crate::text::short;

/// A terminal shows every step of a run of at most this many.
const ALL_SHOWN: u64 = 40;
/// Least width of the column of a term of the loss.
const TERM: usize = 9;

/// The programs in a directory of `partita compile`.
pub fn program(folder: &Path) -> Result<Program, Failure> {
    let path = folder.join(PROGRAM);
    if !path.exists() {
        return Err(not_compiled(folder));
    }
    let refuse = |why: String| {
        let message = format!("{} is no program of this version: {why}", path.display());
        Failure::told("partita::program::unreadable", message, Some("compile the model again".to_owned()))
    };
    let format = partita_codegen::FORMAT;
    let other = |found: u32| refuse(format!("it has format {found}, and this version reads {format}"));
    let content = read(&path)?;
    let program: Program = serde_json::from_str(&content).map_err(|error| match version(&content) {
        Some(found) if found != format => other(found),
        _ => refuse(error.to_string()),
    })?;
    if program.format == format { Ok(program) } else { Err(other(program.format)) }
}

/// What `--format json` prints at the end.
#[derive(Serialize)]
struct Finished {
    #[serde(flatten)]
    summary: RunSummary,
    /// Steps that were run.
    steps: u64,
    /// Loss of the first and of the last of them.
    losses: Option<(f64, f64)>,
    /// Seconds that the plan expected of a step.
    predicted_seconds: f64,
    /// Median seconds of a step, the first one of several left out.
    measured_seconds: Option<f64>,
}

pub fn run(arguments: &RunArguments, shown: &Shown) -> Result<(), Failure> {
    let program = program(&arguments.directory)?;
    let options = RunOptions {
        steps: arguments.steps,
        data: arguments.data.clone(),
        seed: arguments.seed,
        threads: arguments.threads.map(|threads| threads as usize),
        init: arguments.init.clone(),
        init_partial: arguments.init_partial,
        save: arguments.save.clone(),
        gradients: arguments.gradients.clone(),
        checkpoint: arguments.checkpoint.clone(),
        every: arguments.every.unwrap_or(0),
        resume: arguments.resume,
        profile: arguments.profile,
    };
    let mut log = arguments.log.as_deref().map(|path| Log::new(path, arguments.resume)).transpose()?;
    let text = arguments.format == Format::Text && !shown.quiet;
    let mut steps = Steps { shown: text, sparse: !shown.verbose && std::io::stdout().is_terminal(), ..Steps::default() };
    let summary = run_program(&program, &options, &mut |report| {
        if steps.seconds.is_empty() && text {
            steps.print(&beginning(&program, &options, report, shown));
        }
        if let Some(log) = &mut log {
            log.write(report);
        }
        steps.add(report, &options);
    })
    .map_err(|error| stopped(error, &program))?;
    if let Some(log) = &mut log {
        log.end();
    }
    for damaged in &summary.damaged {
        note(shown, &format!("warning: a damaged checkpoint was passed over: {damaged}"));
    }
    // what training could do without ends the command with an error, but only now
    if let Some(failure) = log.and_then(|log| log.trouble).or(steps.trouble) {
        return Err(failure);
    }
    let finished = Finished {
        steps: steps.seconds.len() as u64,
        losses: steps.losses,
        predicted_seconds: program.predicted_seconds,
        measured_seconds: median(&steps.seconds),
        summary,
    };
    match arguments.format {
        Format::Json => print(&(serde_json::to_string_pretty(&finished).expect("a summary is plain data") + "\n")),
        Format::Text if shown.quiet => Ok(()),
        Format::Text => print(&ending(&finished, arguments, shown)),
    }
}

fn stopped(error: RunError, program: &Program) -> Failure {
    let help = error.help().map(str::to_owned);
    if let RunError::Program(violations) = &error {
        // one of a kind says what is the matter; a damaged file breaks a check many times over
        let mut codes = Vec::new();
        let telling = violations.iter().filter(|violation| {
            !codes.contains(&violation.code) && codes.len() < 5 && {
                codes.push(violation.code);
                true
            }
        });
        let mut words: Vec<String> = telling.map(ToString::to_string).collect();
        if violations.len() > words.len() {
            words.push(format!("and {} more", violations.len() - words.len()));
        }
        return Failure::told(error.code(), format!("the program of `{}` may not run: {}", program.model, words.join("; ")), help);
    }
    Failure::told(error.code(), &error, help)
}

/// The steps so far, and their lines on the terminal.
#[derive(Default)]
struct Steps {
    shown: bool,
    sparse: bool,
    seconds: Vec<f64>,
    losses: Option<(f64, f64)>,
    trouble: Option<Failure>,
}

impl Steps {
    fn print(&mut self, text: &str) {
        if self.trouble.is_none() {
            self.trouble = print(text).err();
        }
    }

    fn add(&mut self, report: &StepReport, options: &RunOptions) {
        let first = self.seconds.is_empty();
        self.seconds.push(report.seconds);
        self.losses = Some((self.losses.map_or(report.loss, |losses| losses.0), report.loss));
        let all = !self.sparse || options.steps <= ALL_SHOWN;
        if self.shown && (all || first || report.step.is_multiple_of(options.steps.div_ceil(ALL_SHOWN)) || report.step == options.steps) {
            self.print(&line(report));
        }
    }
}

/// A file of one line of JSON a step. It is replaced when the first step is done, so that a run that cannot begin leaves
/// the old one; a run that resumes keeps the lines of the steps before its own.
struct Log {
    path: std::path::PathBuf,
    resume: bool,
    file: Option<std::fs::File>,
    trouble: Option<Failure>,
}

impl Log {
    fn new(path: &Path, resume: bool) -> Result<Log, Failure> {
        let fail = |error: std::io::Error| Failure::file("write", path, &error);
        // a file that cannot be written is told before any work is done
        let existed = path.exists();
        OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
        if !existed {
            std::fs::remove_file(path).map_err(fail)?;
        }
        Ok(Log { path: path.to_owned(), resume, file: None, trouble: None })
    }

    fn write(&mut self, report: &StepReport) {
        if self.trouble.is_some() {
            return;
        }
        if self.file.is_none() {
            match self.begin(report.step) {
                Ok(file) => self.file = Some(file),
                Err(failure) => self.trouble = Some(failure),
            }
        }
        if let Some(file) = &mut self.file {
            let line = serde_json::to_string(report).expect("a report is plain data") + "\n";
            if let Err(error) = file.write_all(line.as_bytes()) {
                self.trouble = Some(Failure::file("write", &self.path, &error));
            }
        }
    }

    /// A run of no steps leaves an empty log, unless it resumed.
    fn end(&mut self) {
        if self.file.is_none() && self.trouble.is_none() && !self.resume {
            self.trouble = self.begin(0).err();
        }
    }

    fn begin(&self, first: u64) -> Result<std::fs::File, Failure> {
        let fail = |error: std::io::Error| Failure::file("write", &self.path, &error);
        let old = if self.resume && self.path.is_file() { std::fs::read_to_string(&self.path).map_err(fail)? } else { String::new() };
        let before = |line: &&str| {
            let value = serde_json::from_str::<serde_json::Value>(line).ok();
            value.and_then(|value| value["step"].as_u64()).is_some_and(|step| step < first)
        };
        let kept: String = old.lines().filter(before).flat_map(|line| [line, "\n"]).collect();
        write(&self.path, kept.as_bytes())?;
        OpenOptions::new().append(true).open(&self.path).map_err(fail)
    }
}

fn beginning(program: &Program, options: &RunOptions, report: &StepReport, shown: &Shown) -> String {
    let color = shown.colored(std::io::stdout().is_terminal());
    let ranks = report.comm_bytes.len() as u64;
    let mut out = heading(&format!("{}: {} on {}", program.model, short(&program.strategy), count(ranks, "rank")), color);
    if report.step > 1 {
        out += &format!("  resumed after step {}\n", report.step - 1);
    }
    out += &format!("  {:>6}  {:>9}  {:>10}  {:>9}  {:>9}  {:>10}", "step", "loss", "grad norm", "seconds", "predicted", "tokens/s");
    out.extend(report.terms.keys().map(|name| format!("  {name:>TERM$}")));
    out.push('\n');
    if options.steps < report.step { String::new() } else { out }
}

fn line(report: &StepReport) -> String {
    let mut out = format!(
        "  {:>6}  {:>9.4}  {:>10.4}  {:>9.4}  {:>9.4}  {:>10}",
        report.step,
        report.loss,
        report.grad_norm,
        report.seconds,
        report.predicted_seconds,
        grouped(report.tokens_per_second as u64)
    );
    for (name, value) in &report.terms {
        let width = name.chars().count().max(TERM);
        out += &format!("  {value:>width$.4}");
    }
    if report.skipped {
        out += "  skipped: overflow";
        out.extend(report.loss_scale.map(|scale| format!(" at scale {scale}")));
    }
    out + "\n"
}

/// The middle of the steps' seconds. The first step of several is left out: it meets cold memory.
fn median(seconds: &[f64]) -> Option<f64> {
    let mut warm = seconds.get(1..).filter(|rest| !rest.is_empty()).unwrap_or(seconds).to_vec();
    warm.sort_by(f64::total_cmp);
    let (middle, even) = (warm.len() / 2, warm.len().is_multiple_of(2));
    let upper = *warm.get(middle)?;
    Some(if even { (warm[middle - 1] + upper) / 2.0 } else { upper })
}

fn ending(finished: &Finished, arguments: &RunArguments, shown: &Shown) -> String {
    let summary = &finished.summary;
    let mut out = String::new();
    if summary.first_step > arguments.steps && arguments.resume {
        out += &format!("nothing to do: the checkpoint is of step {} and `--steps` is {}\n", summary.first_step - 1, arguments.steps);
    }
    let mut line = |name: &str, text: String| out += &format!("{name:<8}{text}\n");
    if let Some((first, last)) = finished.losses {
        line("loss", format!("{first:.4} to {last:.4} in {}", count(finished.steps, "step")));
    }
    if summary.skipped_steps > 0 {
        line("skipped", format!("{}, in which a gradient overflowed", count(summary.skipped_steps, "step")));
    }
    if let Some(measured) = finished.measured_seconds {
        let predicted = finished.predicted_seconds;
        let rest = if finished.steps > 1 { ", the median without the first" } else { "" };
        line("step", format!("{} predicted, {} measured ({:.2} times{rest})", Seconds(predicted), Seconds(measured), measured / predicted));
    }
    let planned: u64 = summary.arena_bytes.iter().sum();
    let (before, peak) = summary.anonymous_bytes;
    if peak > 0 {
        let ranks = count(summary.arena_bytes.len() as u64, "rank");
        line("memory", format!("{} planned for {ranks}, {} measured", Bytes(planned), Bytes(peak.saturating_sub(before))));
    }
    for (what, path) in [("saved", &arguments.save), ("grads", &arguments.gradients), ("kept in", &arguments.checkpoint)] {
        if let Some(path) = path {
            line(what, path.display().to_string());
        }
    }
    if !summary.profile.is_empty() {
        out += "\n";
        out += &profile(summary, shown);
    }
    out
}

/// Where the time of rank 0 went, most first.
fn profile(summary: &RunSummary, shown: &Shown) -> String {
    let mut rows: Vec<&(String, f64, u64)> = summary.profile.iter().collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = rows.iter().map(|row| row.1).sum();
    let most = if shown.verbose { usize::MAX } else { 30 };
    let mut out = heading(&format!("time of rank 0, {} in all", Seconds(total)), shown.colored(std::io::stdout().is_terminal()));
    for (name, seconds, calls) in rows.into_iter().take(most) {
        out += &format!("  {:>5.1} %  {:>10}  {calls:>6} ×  {name}\n", 100.0 * seconds / total, Seconds(*seconds).to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_leaves_out_the_first_of_several() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 3.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(1.5));
    }
}
