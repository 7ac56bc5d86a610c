//! `partita`: a model file and a cluster file in, the fastest plan that fits and its programs out, and a run of them.

mod arguments;
mod check;
mod compile;
mod failure;
mod inspect;
mod plan;
mod report;
mod run;

use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Check(check) => check::check(check, &arguments.shown),
        Command::Plan(plan) => plan::plan(plan, &arguments.shown),
        Command::Compile(compile) => compile::compile(compile, &arguments.shown),
        Command::Run(run) => run::run(run, &arguments.shown),
        Command::Inspect(inspect) => inspect::inspect(inspect, &arguments.shown),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => failure.show(&arguments.shown),
    }
}
