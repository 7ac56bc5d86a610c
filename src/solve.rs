//! `partita solve`: the cheapest strategies of a layout problem, with a bound.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use partita_planner::layout_problem::Problem;
use partita_planner::layout_solver::{Answer, Options, Stop, solve as solve_problem};
use serde::Serialize;

use crate::arguments::{Format, Shown, SolveArguments};
use crate::failure::{Failure, note, print};
use crate::table::heading;

/// What `--format json` prints.
#[derive(Serialize)]
struct Solved {
    cost: Option<i128>,
    lower_bound: Option<i128>,
    gap: Option<f64>,
    stop: Stop,
    seconds: f64,
    choice: Option<Vec<u32>>,
}

pub fn solve(arguments: &SolveArguments, shown: &Shown) -> Result<(), Failure> {
    let began = Instant::now();
    let problem = Problem::read(&arguments.file).map_err(|error| {
        let help = Some(error.help.clone()).filter(|help| !help.is_empty());
        let place = if error.path.is_empty() { error.file.clone() } else { format!("{}: {}", error.file, error.path) };
        Failure::told(error.code, format!("{place}: {}", error.message), help)
    })?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&interrupted);
    // without a handler Ctrl-C ends the program as it always does
    let _ = ctrlc::set_handler(move || stop.store(true, Ordering::Relaxed));
    let limit = arguments.time_limit.map(Duration::from_secs_f64);
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = arguments.threads.map_or_else(cores, |threads| threads as usize);
    let margin = |limit: Duration| limit.mul_f64(0.02).max(Duration::from_millis(40)).min(limit / 4);
    let options =
        Options { deadline: limit.map(|limit| began + limit - margin(limit)), work: arguments.work, threads, seed: arguments.seed };
    let mut progress = |_: Duration, cost, bound| note(shown, &line(began.elapsed(), cost, bound));
    let answer = solve_problem(&problem, options, &interrupted, &mut progress);
    let seconds = began.elapsed().as_secs_f64();
    // people read of no answer on stderr
    let printed = match arguments.format {
        Format::Text if answer.choice.is_none() => String::new(),
        Format::Json => {
            let gap = gap(answer.cost, answer.lower_bound);
            let Answer { choice, cost, lower_bound, stop } = answer.clone();
            serde_json::to_string(&Solved { cost, lower_bound, gap, stop, seconds, choice }).expect("an answer is plain data") + "\n"
        }
        Format::Text => text(&problem, &answer, seconds, shown),
    };
    print(&printed)?;
    match answer.stop {
        _ if answer.choice.is_some() => Ok(()),
        Stop::Infeasible => Err(Failure::told(
            "partita::solve::infeasible",
            format!("no choice of {} fits: every one needs a forbidden pair or more memory than there is", arguments.file.display()),
            None,
        )),
        _ => Err(Failure::told(
            "partita::solve::nothing_found",
            format!("no choice that fits was found in {seconds:.1} s"),
            Some("give it more time with `--time-limit` or `--work`".to_owned()),
        )),
    }
}

/// How far the cost may be above the optimum, as a part of it.
fn gap(cost: Option<i128>, bound: Option<i128>) -> Option<f64> {
    let (cost, bound) = (cost?, bound?);
    Some(if cost == bound { 0.0 } else { (cost - bound) as f64 / cost as f64 })
}

fn number(value: Option<i128>) -> String {
    value.map_or_else(|| "none yet".to_owned(), |value| value.to_string())
}

fn line(elapsed: Duration, cost: Option<i128>, bound: Option<i128>) -> String {
    let apart = gap(cost, bound).map_or_else(String::new, |gap| format!("  gap {:.2} %", 100.0 * gap));
    format!("{:>7.1} s  cost {}  bound {}{apart}", elapsed.as_secs_f64(), number(cost), number(bound))
}

fn text(problem: &Problem, answer: &Answer, seconds: f64, shown: &Shown) -> String {
    let color = shown.colored(std::io::stdout().is_terminal());
    let mut out = heading(&format!("{}: {} nodes, {} edges", problem.name, problem.nodes(), problem.edges().len()), color);
    let mut row = |name: &str, value: String| out += &format!("  {name:<10}{value}\n");
    row("cost", number(answer.cost));
    row("bound", number(answer.lower_bound));
    if let Some(gap) = gap(answer.cost, answer.lower_bound) {
        row("gap", format!("{:.3} %", 100.0 * gap));
    }
    let why = match answer.stop {
        Stop::Optimal => "no answer is cheaper",
        Stop::TimeLimit => "the time was up",
        Stop::WorkLimit => "the work was done",
        Stop::Infeasible => "there is no answer",
        Stop::Interrupted => "interrupted",
    };
    row("stop", format!("{why}, after {seconds:.1} s"));
    out
}
