//! `partita`: a model file and a cluster file in, the fastest plan that fits and its programs out, and a run of them.
//!
//! - [`arguments`]: what the command line takes;
//! - [`check`], [`fmt`], [`plan`], [`compile`], [`run`], [`inspect`], [`profile`], [`solve`]: a file a subcommand;
//! - [`described`]: a plan as other programs read it (JSON), [`traffic`]: what its ranks send one another;
//! - [`text`]: the same as people read it, [`table`]: columns, numbers and emphasis;
//! - [`failure`]: diagnostics and exit codes.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0; 1 for bad input of any kind; 2 for wrong usage.

mod arguments;
mod check;
mod compile;
mod described;
mod estimated;
mod failure;
mod fmt;
mod inspect;
mod plan;
mod profile;
mod run;
mod solve;
mod table;
mod text;
mod traffic;

use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Check(check) => check::check(check, &arguments.shown),
        Command::Fmt(fmt) => fmt::fmt(fmt, &arguments.shown),
        Command::Plan(plan) => plan::plan(plan, &arguments.shown),
        Command::Compile(compile) => compile::compile(compile, &arguments.shown),
        Command::Run(run) => run::run(run, &arguments.shown),
        Command::Solve(solve) => solve::solve(solve, &arguments.shown),
        Command::Profile(profile) => profile::profile(profile, &arguments.shown),
        Command::Inspect(inspect) => inspect::inspect(inspect, &arguments.shown),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => failure.show(&arguments.shown),
    }
}
