//! The layout solver: one strategy for every node of a [`Problem`], the cheapest that memory allows, with a bound.
//!
//! - `model`, `reduce`: the problem with everything taken out that can be decided exactly.
//! - `dual`: a lower bound, and the prices of memory.
//! - `search`, `slack`: good answers and better ones.
//! - `exact`: the optimum, where that is within reach.
//!
//! The same problem, options and seed give the same answer, unless a time limit or an interruption ends the search.

mod dual;
mod exact;
mod model;
mod reduce;
mod search;
mod slack;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::layout_problem::Problem;
use dual::Dual;
use exact::Outcome;
use model::Model;
use search::{Dice, Search};

/// How long to search.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// When to stop at the latest.
    pub deadline: Option<Instant>,
    /// Units of work, about a microsecond each, after which to stop; the same for every machine.
    pub work: Option<u64>,
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

/// Entries that are one unit of work.
const UNIT: u64 = 500;

/// The best answer so far, seen every now and then: (elapsed, cost, bound).
pub type Progress<'a> = &'a mut dyn FnMut(Duration, Option<i128>, Option<i128>);

/// Solves a problem. Stops early when `interrupted` is set.
pub fn solve(problem: &Problem, options: Options, interrupted: &AtomicBool, progress: Progress<'_>) -> Answer {
    let began = Instant::now();
    let infeasible = Answer { choice: None, cost: None, lower_bound: None, stop: Stop::Infeasible };
    let Some(model) = Model::new(problem).and_then(reduce::reduce) else { return infeasible };
    let mut run = Run { problem, model: &model, options, interrupted, began, best: None, work: 0, seen: Duration::ZERO };
    let mut dual = Dual::new(&model);
    let stop = run.search(&mut dual, progress);
    let choice = run.best.as_ref().map(|(_, choice)| model.strategies(choice, problem.nodes()));
    let cost = choice.as_ref().map(|choice| problem.total(choice).expect("an answer has no forbidden pair"));
    match stop {
        Stop::Optimal if cost.is_none() => infeasible,
        Stop::Optimal => Answer { choice, cost, lower_bound: cost, stop },
        _ => Answer { choice, cost, lower_bound: whole(dual.bound), stop },
    }
}

/// The least whole number that is not below a bound.
fn whole(bound: f64) -> Option<i128> {
    bound.is_finite().then(|| bound.ceil() as i128)
}

struct Run<'a> {
    problem: &'a Problem,
    model: &'a Model,
    options: Options,
    interrupted: &'a AtomicBool,
    began: Instant,
    best: Option<(f64, Vec<usize>)>,
    work: u64,
    seen: Duration,
}

impl Run<'_> {
    /// Whether to stop now, and why.
    fn stops(&self) -> Option<Stop> {
        if self.interrupted.load(Ordering::Relaxed) {
            Some(Stop::Interrupted)
        } else if self.options.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(Stop::TimeLimit)
        } else if self.options.work.is_some_and(|work| self.work / UNIT >= work) {
            Some(Stop::WorkLimit)
        } else {
            None
        }
    }

    fn cost(&self) -> f64 {
        self.best.as_ref().map_or(f64::INFINITY, |(cost, _)| *cost)
    }

    /// Keeps an answer that is better and fits.
    fn offer(&mut self, choice: &[usize]) {
        let cost = self.model.cost(choice);
        if cost < self.cost() && self.problem.is_feasible(&self.model.strategies(choice, self.problem.nodes())) {
            self.best = Some((cost, choice.to_vec()));
        }
    }

    fn search(&mut self, dual: &mut Dual<'_>, progress: Progress<'_>) -> Stop {
        if self.model.vars.is_empty() {
            self.offer(&[]);
            return Stop::Optimal;
        }
        let entries: u64 = self.model.links.iter().map(|link| link.costs.len() as u64).sum::<u64>() + self.model.vars.len() as u64;
        let mut dice = Dice::new(self.options.seed);
        let mut branches = 2_000;
        for round in 0u64.. {
            if let Some(stop) = self.stops() {
                return stop;
            }
            for _ in 0..5 {
                let target = if self.best.is_some() { self.cost() } else { dual.bound.max(0.0) * 1.1 + 1.0 };
                dual.iterate(target);
                self.work += 6 * entries;
                if self.stops().is_some() {
                    break;
                }
            }
            if round % 2 == 0 {
                self.fresh(dual, &mut dice);
            }
            self.better(dual, &mut dice, entries * 20);
            if whole(dual.bound).is_some_and(|bound| bound as f64 >= self.cost()) {
                return Stop::Optimal;
            }
            // more and more of the time goes to the exact search
            if round.is_power_of_two() {
                match exact::search(self.model, dual, self.cost(), branches) {
                    Outcome::Done(found) => {
                        if let Some((_, choice)) = found {
                            self.offer(&choice);
                        }
                        return Stop::Optimal;
                    }
                    Outcome::Stopped => self.work += branches * 50,
                }
                branches *= 3;
            }
            let elapsed = self.began.elapsed();
            if elapsed > self.seen + Duration::from_millis(500) {
                self.seen = elapsed;
                let cost = self.best.as_ref().map(|(cost, _)| *cost as i128);
                progress(elapsed, cost, whole(dual.bound));
            }
        }
        unreachable!("rounds do not end by themselves")
    }

    /// A new answer from the dual.
    fn fresh(&mut self, dual: &Dual<'_>, dice: &mut Dice) {
        let mut search = Search::new(self.model, dual.rounded(), &dual.prices);
        if search.repair(300) && search.is_feasible() {
            search.descend();
            for _ in 0..200 {
                search.tree_move(1 + dice.below(100), dice);
            }
            self.offer(&search.choice);
        }
        self.work += search.work;
    }

    /// Tree moves on the best answer.
    fn better(&mut self, dual: &Dual<'_>, dice: &mut Dice, work: u64) {
        let Some((_, choice)) = &self.best else { return };
        let mut search = Search::new(self.model, choice.clone(), &dual.prices);
        for moved in 1.. {
            search.tree_move(1 + dice.below(200), dice);
            if search.work >= work || moved % 64 == 0 && (self.stops().is_some() || moved >= 20_000) {
                break;
            }
        }
        self.work += search.work;
        self.offer(&search.choice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout_problem::{brute_force, small};

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
}
