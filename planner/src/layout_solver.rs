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
use dual::{Dual, Pace};
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
    let mut run = Run { problem, options, interrupted, began: Instant::now(), best: None, bound: None, work: 0, seen: Duration::ZERO };
    let stop = run.search(progress);
    let (cost, choice) = run.best.map_or((None, None), |(cost, choice)| (Some(cost), Some(choice)));
    match (stop, cost) {
        (Stop::Optimal, None) => Answer { choice, cost, lower_bound: None, stop: Stop::Infeasible },
        (Stop::Optimal, _) => Answer { choice, cost, lower_bound: cost, stop },
        // what is cut off for costing no less than the best answer may leave a bound above it
        _ => Answer { choice, cost, lower_bound: cost.map_or(run.bound, |cost| run.bound.map(|bound| bound.min(cost))), stop },
    }
}

/// The least whole number that is not below a bound.
fn whole(bound: f64) -> Option<i128> {
    bound.is_finite().then(|| bound.ceil() as i128)
}

struct Run<'a> {
    problem: &'a Problem,
    options: Options,
    interrupted: &'a AtomicBool,
    began: Instant,
    best: Option<(i128, Vec<u32>)>,
    bound: Option<i128>,
    work: u64,
    seen: Duration,
}

/// What a phase came to.
enum Phase {
    /// The search is over.
    Over(Stop),
    /// So much of the model cannot be better than the best answer that it is worth reducing it again.
    Smaller(Model),
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
        self.best.as_ref().map_or(f64::INFINITY, |(cost, _)| *cost as f64)
    }

    /// Keeps an answer that is better and fits.
    fn offer(&mut self, model: &Model, choice: &[usize]) {
        let strategies = model.strategies(choice, self.problem.nodes());
        let better = |cost: &i128| self.best.as_ref().is_none_or(|(best, _)| cost < best);
        if let Some(cost) = self.problem.total(&strategies).filter(better)
            && self.problem.is_feasible(&strategies)
        {
            self.best = Some((cost, strategies));
        }
    }

    /// Remembers a bound.
    fn know(&mut self, dual: &Dual<'_>) {
        self.bound = self.bound.max(whole(dual.bound));
    }

    fn search(&mut self, progress: Progress<'_>) -> Stop {
        let Some(mut model) = Model::new(self.problem).and_then(reduce::reduce) else { return Stop::Optimal };
        let mut dice = Dice::new(self.options.seed);
        let mut prices = vec![0.0; model.row_ids.last().map_or(0, |id| id + 1)];
        let large = model.links.iter().map(|link| link.costs.len()).sum::<usize>() > dual::LARGE;
        for pace in large.then_some(dual::HASTY).into_iter().chain(dual::PACES.into_iter().cycle()) {
            match self.phase(&model, pace, &mut prices, &mut dice, progress) {
                Phase::Over(stop) => return stop,
                Phase::Smaller(smaller) => match reduce::reduce(smaller) {
                    Some(smaller) => model = smaller,
                    // nothing is better than the best
                    None => return Stop::Optimal,
                },
            }
        }
        unreachable!("paces go round for ever")
    }

    /// Searches a model until all is known, time is up, or much of it is known to be of no use.
    fn phase(&mut self, model: &Model, pace: Pace, prices: &mut [f64], dice: &mut Dice, progress: Progress<'_>) -> Phase {
        if model.vars.is_empty() {
            self.offer(model, &[]);
            return Phase::Over(Stop::Optimal);
        }
        let mut dual = Dual::new(model, pace, prices);
        let entries: u64 = model.links.iter().map(|link| link.costs.len() as u64).sum::<u64>() + model.vars.len() as u64;
        for round in 1u64.. {
            for _ in 0..5 {
                if let Some(stop) = self.stops() {
                    return Phase::Over(stop);
                }
                let target = if self.best.is_some() { self.cost() } else { dual.bound.max(0.0) * 1.1 + 1.0 };
                dual.iterate(target);
                self.know(&dual);
                self.work += 6 * entries;
            }
            if self.bound.is_some_and(|bound| self.best.as_ref().is_some_and(|(cost, _)| bound >= *cost)) {
                return Phase::Over(Stop::Optimal);
            }
            if round % 2 == 1 {
                self.fresh(model, &dual, dice);
            }
            self.better(model, &dual, dice, entries * 20);
            if round % 20 == 0
                && let Some(smaller) = self.smaller(model, &mut dual)
            {
                model.row_ids.iter().zip(&dual.prices).for_each(|(id, price)| prices[*id] = *price);
                return Phase::Smaller(smaller);
            }
            // a part of all work goes to the exact search, where there is hope that it ends
            let near = self.bound.is_some_and(|bound| bound as f64 > 0.995 * self.cost());
            if round.is_power_of_two() && model.vars.len() < 100 || near && round % 40 == 0 {
                // to look at a variable takes as long as some tens of entries
                let looks = self.work / 400 + 20_000;
                self.work += 40 * looks;
                match exact::search(model, &dual, self.cost(), looks, &|| self.stops().is_some()) {
                    Outcome::Done(found) => {
                        if let Some((_, choice)) = found {
                            self.offer(model, &choice);
                        }
                        return Phase::Over(Stop::Optimal);
                    }
                    Outcome::Stopped => {}
                }
            }
            let elapsed = self.began.elapsed();
            if elapsed > self.seen + Duration::from_millis(500) {
                self.seen = elapsed;
                progress(elapsed, self.best.as_ref().map(|(cost, _)| *cost), self.bound);
            }
        }
        unreachable!("rounds do not end by themselves")
    }

    /// The model without the options that cannot be part of a better answer, if that makes it much smaller.
    fn smaller(&mut self, model: &Model, dual: &mut Dual<'_>) -> Option<Model> {
        self.best.as_ref()?;
        let alive = dual.may_be_better(self.cost(), &self.options_of_best(model).unwrap_or_default());
        let (all, left) = (alive.iter().flatten().count(), alive.iter().flatten().filter(|alive| **alive).count());
        if left * 20 > all * 19 && !dual.is_stuck() {
            return None;
        }
        let mut smaller = model.clone();
        // a variable without options means that nothing is better: a forbidden cost says so to the reductions
        for (var, alive) in smaller.vars.iter_mut().zip(&alive) {
            var.costs.iter_mut().zip(alive).filter(|(_, alive)| !**alive).for_each(|(cost, _)| *cost = f64::INFINITY);
        }
        Some(smaller)
    }

    /// The best answer as options of a model, if the model has them all.
    fn options_of_best(&self, model: &Model) -> Option<Vec<usize>> {
        let (_, best) = self.best.as_ref()?;
        let is_best =
            |nodes: &[u32], strategies: &[u32]| nodes.iter().zip(strategies).all(|(node, strategy)| best[*node as usize] == *strategy);
        if model.decided.iter().any(|(node, strategy)| best[*node as usize] != *strategy) {
            return None;
        }
        model.vars.iter().map(|var| var.strategies.iter().position(|strategies| is_best(&var.nodes, strategies))).collect()
    }

    /// A new answer from the dual.
    fn fresh(&mut self, model: &Model, dual: &Dual<'_>, dice: &mut Dice) {
        let mut search = Search::new(model, dual.rounded(), &dual.prices);
        if search.repair(300) && search.is_feasible() {
            search.descend();
            for _ in 0..200 {
                search.tree_move(1 + dice.below(100), dice);
            }
            self.offer(model, &search.choice);
        }
        self.work += search.work;
    }

    /// Tree moves on the best answer.
    fn better(&mut self, model: &Model, dual: &Dual<'_>, dice: &mut Dice, work: u64) {
        let Some(choice) = self.options_of_best(model) else { return };
        let mut search = Search::new(model, choice, &dual.prices);
        for moved in 1.. {
            search.tree_move(1 + dice.below(200), dice);
            if search.work >= work || moved % 64 == 0 && (self.stops().is_some() || moved >= 20_000) {
                break;
            }
        }
        self.work += search.work;
        self.offer(model, &search.choice);
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
