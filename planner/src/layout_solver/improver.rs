//! The worker that makes answers better: it chooses one region of the best answer after the other anew, exactly.
//!
//! A region is some variables around one, or some that keep memory at one time. With everything else held it is a small
//! problem with a limit: branch and bound finds something cheaper, or that there is nothing, or gives up after a budget.
//! Regions grow while they are searched to the end, and shrink when they are given up; budgets grow while nothing is found.
//! Some of the time goes to trees, which may be large (see `incumbent`).

use std::sync::Arc;

use super::alone::Alone;
use super::branch::{Branch, Host, Prices, QUICK, of_rows};
use super::dice::Dice;
use super::incumbent::Incumbent;
use super::model::Var;
use super::shared::Shared;

/// Variables of the first region.
const FIRST: f64 = 12.0;

/// Table entries that may be spent on a region: at first and at least, at most.
const BUDGETS: (f64, f64) = (2e6, 4e8);

/// What a tree or a region costs beside the entries that are looked at.
const OVERHEAD: u64 = 2_000;

/// Work on trees for each of work on regions.
const TREES: f64 = 0.05;

/// A worker.
pub struct Improver<'a> {
    shared: &'a Shared<'a>,
    dice: Dice,
    incumbent: Option<Incumbent<'a>>,
    /// Its cost in units.
    cost: i128,
    prices: Arc<Prices>,
    size: f64,
    budget: f64,
    /// Table entries looked at in trees and in regions.
    trees: f64,
    regions: f64,
}

impl<'a> Improver<'a> {
    /// Of the best answer, by chance of a seed.
    pub fn new(shared: &'a Shared<'a>, seed: u64) -> Self {
        let dice = Dice::new(seed);
        let (cost, prices) = (i128::MAX, Arc::default());
        Self { shared, dice, incumbent: None, cost, prices, size: FIRST, budget: BUDGETS.0, trees: 0.0, regions: 0.0 }
    }

    /// Whether there is an answer to be made better.
    pub fn has_answer(&self) -> bool {
        self.shared.best().is_some()
    }

    /// Works for about so many table entries, if there is an answer. Gives how many it was.
    pub fn step(&mut self, entries: u64) -> u64 {
        let mut spent = 0;
        while spent < entries && self.shared.over().is_none() {
            let Some(mut incumbent) = self.adopted() else { return spent };
            let before = incumbent.choice.clone();
            let now = if self.trees <= TREES * self.regions { self.tree(&mut incumbent) } else { self.region(&mut incumbent) };
            if incumbent.choice != before {
                self.commit(&mut incumbent, &before);
            }
            self.incumbent = Some(incumbent);
            self.shared.works(now);
            spent += now;
        }
        spent
    }

    /// The best answer, with the latest prices.
    fn adopted(&mut self) -> Option<Incumbent<'a>> {
        let (root, prices) = (self.shared.root, self.shared.prices());
        if let Some((cost, choice)) = self.better() {
            match &mut self.incumbent {
                Some(incumbent) => incumbent.become_like(&choice),
                None => self.incumbent = Some(Incumbent::new(root, choice, &of_rows(root, &prices))),
            }
            self.cost = cost;
        }
        if !Arc::ptr_eq(&prices, &self.prices) {
            self.incumbent.iter_mut().for_each(|incumbent| incumbent.reprice(&of_rows(root, &prices)));
            self.prices = prices;
        }
        self.incumbent.take()
    }

    /// What other workers have found that is better than what this one has.
    fn better(&self) -> Option<(i128, Vec<usize>)> {
        let best = self.shared.best().filter(|best| best.cost < self.cost)?;
        let place = |var: &Var| var.options.iter().position(|option| *option == best.named[var.id]);
        Some((best.cost, self.shared.root.vars.iter().map(place).collect::<Option<_>>()?))
    }

    /// Offers what has become better than `before`, with what other workers have found meanwhile if both go together.
    fn commit(&mut self, incumbent: &mut Incumbent<'a>, before: &[usize]) {
        let root = self.shared.root;
        if let Some((_, theirs)) = self.better() {
            let mine = incumbent.choice.clone();
            let both = theirs.iter().zip(&mine).zip(before).map(|((theirs, mine), before)| if mine == before { *theirs } else { *mine });
            incumbent.become_like(&both.collect::<Vec<usize>>());
            let least = root.cost(&theirs).min(root.cost(&mine));
            if !incumbent.is_allowed() || root.cost(&incumbent.choice) > least {
                incumbent.become_like(&mine);
            }
        }
        self.cost = self.shared.offer(root.named(&incumbent.choice)).unwrap_or(i128::MAX);
    }

    /// Chooses the options along a tree anew. Gives the table entries looked at.
    fn tree(&mut self, incumbent: &mut Incumbent<'_>) -> u64 {
        let before = incumbent.work;
        // as many small ones as large ones
        let most = self.shared.root.vars.len() as f64;
        let size = most.powf(self.dice.below(1 << 20) as f64 / (1 << 20) as f64) as usize;
        incumbent.tree_move(1 + size, &mut self.dice);
        let spent = incumbent.work - before + OVERHEAD + self.shared.root.vars.len() as u64;
        self.trees += spent as f64;
        spent
    }

    /// Chooses one region anew. Gives the table entries looked at.
    fn region(&mut self, incumbent: &mut Incumbent<'_>) -> u64 {
        let root = self.shared.root;
        let size = self.size as usize;
        let around = self.dice.below(2) == 0 || root.rows.is_empty();
        let region = if around { incumbent.around(size, &mut self.dice) } else { incumbent.beside(size, &mut self.dice) };
        let (part, prices) = incumbent.part(&region);
        let now: Vec<usize> = region.iter().map(|v| incumbent.choice[*v]).collect();
        let goes_on = || self.shared.over().is_none();
        let mut host = Alone::new(part.cost(&now) - part.grain(), self.budget as u64, &goes_on);
        host.works(OVERHEAD + part.size() as u64);
        if Branch::new(part, prices, QUICK).run(&mut host) {
            self.size = (self.size * 1.02).min(root.vars.len() as f64);
            if region.len() == root.vars.len() && host.found.is_none() && root.is_exact() {
                self.shared.finish();
            }
        } else {
            self.size = (self.size * 0.95).max(4.0);
        }
        if let Some(options) = &host.found {
            region.iter().zip(options).for_each(|(v, option)| incumbent.set(*v, *option as usize));
            self.budget = (self.budget * 0.7).max(BUDGETS.0);
        } else {
            self.budget = (self.budget * 1.02).min(BUDGETS.1);
        }
        self.regions += host.spent as f64;
        host.spent
    }
}
