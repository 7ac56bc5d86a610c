//! The layout solver: one strategy for every node of a [`Problem`], the cheapest that memory allows, with a bound.
//!
//! - `model`, `reduce`: the problem with everything taken out that can be decided exactly.
//! - `dual`: a lower bound, and the prices of memory.
//! - `branch`: the optimum, where that is within reach.
//! - `incumbent`, `region`: good answers and better ones.
//! - `prover`, `improver`: the workers that use them, and `shared`, what they share.
//!
//! The same problem, work limit and seed give the same answer for any number of threads, unless a time limit or an
//! interruption ends the search.

mod alone;
mod branch;
mod dice;
mod dive;
mod dual;
mod improver;
mod incumbent;

mod islands;
mod lanes;
mod model;
mod prover;
mod reduce;
mod region;
mod shared;
mod slack;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::layout_problem::Problem;
use improver::Improver;
use model::Model;
use prover::Prover;
use shared::Shared;

/// How long to search.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// When to stop at the latest.
    pub deadline: Option<Instant>,
    /// Units of work, about a microsecond each, after which to stop; the same for every machine.
    pub work: Option<u64>,
    /// Threads that search; 0 is 1. With a work limit one thread does all.
    pub threads: usize,
    /// Decides what chance decides.
    pub seed: u64,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// No answer is cheaper.
    Optimal,
    /// The time was up.
    TimeLimit,
    /// The work was done.
    WorkLimit,
    /// There is no answer.
    Infeasible,
    /// Somebody asked for it.
    Interrupted,
}

/// What a search knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The strategy of each node; none if no answer that fits was found.
    pub choice: Option<Vec<u32>>,
    /// Its cost.
    pub cost: Option<i128>,
    /// No answer costs less. None where nothing is known.
    pub lower_bound: Option<i128>,
    /// Why it ended.
    pub stop: Stop,
}

/// The best answer so far, seen every now and then: (elapsed, cost, bound).
pub type Progress<'a> = &'a mut (dyn FnMut(Duration, Option<i128>, Option<i128>) + Send);

/// Table entries that a worker looks at in one go, at least and at most; of a small problem not many times as many as it has.
const STEP: (u64, u64) = (20_000, 10_000_000);

/// Solves a problem. Stops early when `interrupted` is set.
pub fn solve(problem: &Problem, options: Options, interrupted: &AtomicBool, progress: Progress<'_>) -> Answer {
    let began = Instant::now();
    let infeasible = Answer { choice: None, cost: None, lower_bound: None, stop: Stop::Infeasible };
    let goes_on = || !interrupted.load(Ordering::Relaxed) && options.deadline.is_none_or(|deadline| Instant::now() < deadline);
    let Some(whole) = Model::new(problem).and_then(reduce::reduce) else { return infeasible };
    let (root, spent) = islands::decide_islands(whole, &goes_on);
    let Some(root) = root else { return infeasible };
    let shared = Shared::new(problem, &root, options, interrupted, began);
    shared.works(spent);
    let helpers = if options.work.is_some() { 0 } else { options.threads.saturating_sub(1) };
    std::thread::scope(|scope| {
        for helper in 0..helpers as u64 {
            let shared = &shared;
            scope.spawn(move || improve(shared, options.seed.wrapping_add(helper + 1)));
        }
        prove(&shared, options.seed, helpers > 0, progress);
    });
    let stop = shared.over().expect("the search is over");
    let best = shared.best();
    match (stop, best) {
        (Stop::Optimal, None) => infeasible,
        (Stop::Optimal, Some(best)) => answer(problem, &best, Some(best.cost), stop),
        // what is cut off for costing no less than the best answer may leave a bound above it
        (_, Some(best)) => answer(problem, &best, shared.bound().map(|bound| bound.min(best.cost)), stop),
        (_, None) => Answer { choice: None, cost: None, lower_bound: shared.bound(), stop },
    }
}

fn answer(problem: &Problem, best: &shared::Best, lower_bound: Option<i128>, stop: Stop) -> Answer {
    Answer { choice: Some(best.named[..problem.nodes()].to_vec()), cost: Some(best.cost), lower_bound, stop }
}

/// Proves and improves in turn until the search is over.
fn prove(shared: &Shared<'_>, seed: u64, helped: bool, progress: Progress<'_>) {
    let (mut prover, mut improver) = (Prover::new(shared), Improver::new(shared, seed));
    let step = (100 * shared.root.size() as u64).clamp(STEP.0, STEP.1);
    let (mut proven, mut improved) = (0, 0);
    let mut seen = Duration::ZERO;
    while shared.over().is_none() {
        // with a helper, that one does the improving, unless there is little more to be proven
        let share = match (prover.is_stuck(), helped) {
            (true, _) => 0.25,
            (false, true) => 8.0,
            (false, false) => 1.5,
        };
        if proven as f64 <= share * improved as f64 || !improver.has_answer() {
            proven += prover.step(step);
        } else {
            improved += improver.step(step);
        }
        let elapsed = shared.elapsed();
        if elapsed > seen + (seen / 20).max(Duration::from_millis(200)) {
            seen = elapsed;
            progress(elapsed, shared.best().map(|best| best.cost), shared.bound());
        }
    }
    progress(shared.elapsed(), shared.best().map(|best| best.cost), shared.bound());
}

/// Improves until the search is over.
fn improve(shared: &Shared<'_>, seed: u64) {
    let mut improver = Improver::new(shared, seed);
    while shared.over().is_none() {
        if improver.step(STEP.1) == 0 {
            // no answer yet
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout_problem::{FORBIDDEN, GenerateOptions, ProblemBuilder, brute_force, generate, small};

    #[test]
    fn small_problems_are_solved_and_proven() {
        let (mut feasible, mut none) = (0, 0);
        for seed in 0..10_000 {
            let problem = small(seed);
            let options = Options { work: Some(1_000_000), ..Options::default() };
            let answer = solve(&problem, options, &AtomicBool::new(false), &mut |_, _, _| ());
            match brute_force(&problem) {
                None => {
                    assert_eq!((answer.stop, answer.choice), (Stop::Infeasible, None), "seed {seed}");
                    none += 1;
                }
                Some((cost, _)) => {
                    assert_eq!((answer.stop, answer.cost, answer.lower_bound), (Stop::Optimal, Some(cost), Some(cost)), "seed {seed}");
                    let choice = answer.choice.expect("an optimum is a choice");
                    assert!(problem.is_feasible(&choice) && problem.total(&choice) == Some(cost), "seed {seed}");
                    feasible += 1;
                }
            }
        }
        assert!(feasible > 2_000 && none > 500, "{feasible} feasible, {none} not");
    }

    fn run(problem: &Problem, work: u64, threads: usize) -> Answer {
        let options = Options { work: Some(work), threads, ..Options::default() };
        solve(problem, options, &AtomicBool::new(false), &mut |_, _, _| ())
    }

    #[test]
    fn however_early_it_stops_the_bound_holds_and_the_answer_fits() {
        let (mut stopped, mut answered) = (0, 0);
        for seed in 0..2_000 {
            let problem = small(seed);
            let answer = run(&problem, seed % 7, 1);
            let best = brute_force(&problem).map(|(cost, _)| cost);
            stopped += usize::from(answer.stop == Stop::WorkLimit);
            if let Some(choice) = &answer.choice {
                assert!(problem.is_feasible(choice) && problem.total(choice) == answer.cost, "seed {seed}");
                answered += 1;
            }
            assert!(answer.stop != Stop::Infeasible || best.is_none(), "seed {seed}");
            if let Some(best) = best {
                assert!(answer.lower_bound.is_none_or(|bound| bound <= best), "seed {seed}");
                assert!(answer.stop != Stop::Optimal || answer.cost == Some(best), "seed {seed}");
            }
        }
        assert!(stopped > 30 && answered > 500, "{stopped} stopped, {answered} answered");
    }

    #[test]
    fn work_decides_and_threads_do_not() {
        let problem = generate(&GenerateOptions { nodes: 300, ..GenerateOptions::default() });
        for work in [100, 3_000, 30_000] {
            let once = run(&problem, work, 1);
            assert_eq!(once, run(&problem, work, 1), "twice");
            assert_eq!(once, run(&problem, work, 4), "on 4 threads");
        }
    }

    /// Costs for which no sum fits into 64 bits.
    #[test]
    fn huge_costs_are_compared_exactly() {
        let mut proven = 0;
        for seed in 0..300 {
            let plain = small(seed);
            let mut builder = ProblemBuilder::new("huge", plain.limits.clone());
            let huge = |cost: i64| if cost >= FORBIDDEN { cost } else { FORBIDDEN - 1_000_000 + cost % 1_000_000 };
            for node in 0..plain.nodes() {
                let spans = plain.spans(node);
                let bytes: Vec<u64> = (0..spans.len()).flat_map(|k| plain.bytes(node, k).to_vec()).collect();
                let costs: Vec<i64> = plain.cost(node).iter().map(|cost| huge(*cost)).collect();
                builder.add_node(&costs, spans, &bytes).expect("it was a node");
            }
            for edge in plain.edges() {
                let table: Vec<i64> = plain.table(edge.table).iter().map(|cost| huge(*cost)).collect();
                builder.add_edge(edge.a, edge.b, &table).expect("it was an edge");
            }
            let problem = builder.finish().expect("it was a problem");
            let (answer, best) = (run(&problem, 20_000, 1), brute_force(&problem).map(|(cost, _)| cost));
            assert!(answer.lower_bound.is_none_or(|bound| best.is_some_and(|best| bound <= best)), "seed {seed}");
            if [Stop::Optimal, Stop::Infeasible].contains(&answer.stop) {
                assert_eq!(answer.cost, best, "seed {seed}");
                proven += 1;
            }
        }
        assert!(proven > 200, "{proven}");
    }
}
