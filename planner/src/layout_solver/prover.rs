//! The worker that raises the bound: the dual of the whole, then branch and bound.

use std::sync::Arc;

use super::branch::{Branch, Host, Prices, THOROUGH, of_rows};
use super::dive::dive;
use super::dual::{Dual, PACES};
use super::incumbent::Incumbent;
use super::model::{Model, Var};
use super::reduce::{keep, reduce};
use super::shared::Shared;

/// Passes in one step.
const PASSES: u64 = 10;

/// Passes between two answers.
const BETWEEN: u64 = 50;

/// Passes over which a bound must have risen.
const WHILE: u64 = 150;

/// By how much, as a part of the gap.
const RISE: f64 = 0.01;

/// What has more options and table entries is not divided into parts: each of them would take too long, and too much room.
const LARGE: usize = 1_000_000;

/// A worker.
pub struct Prover<'a> {
    shared: &'a Shared<'a>,
    phase: Phase,
}

enum Phase {
    /// Passes over the dual of the whole.
    Whole(Box<Whole>),
    /// Parts of it.
    Parts(Branch),
    /// Nothing is left to be searched.
    Over,
}

struct Whole {
    model: Arc<Model>,
    dual: Dual,
    pace: usize,
    passes: u64,
    /// The bound some passes ago.
    before: i64,
    /// At this many passes an answer is made.
    next_answer: u64,
}

impl<'a> Prover<'a> {
    /// Of the whole problem.
    pub fn new(shared: &'a Shared<'a>) -> Self {
        let model = Model { trail: Vec::new(), ..shared.root.clone() };
        let phase = if model.vars.is_empty() {
            shared.offer(shared.root.named(&[]));
            shared.finish();
            Phase::Over
        } else {
            Phase::Whole(Box::new(Whole::new(model, &Vec::new(), 0)))
        };
        Self { shared, phase }
    }

    /// Whether it has tried all paces on the whole, and little more is to be expected.
    pub fn is_stuck(&self) -> bool {
        matches!(&self.phase, Phase::Whole(whole) if whole.pace >= PACES.len())
    }

    /// Works for about so many table entries. Gives how many it was.
    pub fn step(&mut self, entries: u64) -> u64 {
        let mut host = Step { shared: self.shared, left: entries, spent: 0 };
        match &mut self.phase {
            Phase::Whole(whole) => {
                let mut next = None;
                while next.is_none() && host.left > 0 && self.shared.over().is_none() {
                    next = whole.pass(&mut host);
                }
                if let Some(next) = next {
                    self.phase = next;
                }
            }
            Phase::Parts(branch) => {
                if branch.run(&mut host) {
                    self.phase = Phase::Over;
                    self.shared.finish();
                } else if let Some(bound) = branch.bound() {
                    self.shared.know(bound);
                }
            }
            Phase::Over => self.shared.finish(),
        }
        self.shared.works(host.spent);
        host.spent
    }
}

impl Whole {
    fn new(model: Model, prices: &Prices, pace: usize) -> Self {
        let model = Arc::new(model);
        let dual = Dual::new(&model, PACES[pace % PACES.len()], of_rows(&model, prices));
        Self { model, dual, pace, passes: 0, before: i64::MIN, next_answer: PASSES }
    }

    /// Some passes; the next phase if this one has come to its end.
    fn pass(&mut self, host: &mut Step<'_>) -> Option<Phase> {
        let shared = host.shared;
        for _ in 0..PASSES {
            self.dual.iterate(host.limit());
            if !host.works(2 * self.model.size() as u64 + 100) {
                break;
            }
        }
        self.passes += PASSES;
        shared.know(self.dual.bound());
        if self.dual.bound() > host.limit() {
            shared.finish();
            return Some(Phase::Over);
        }
        if self.passes >= self.next_answer {
            self.next_answer = self.passes + BETWEEN;
            self.publish(shared);
            self.answer(host);
        }
        if !self.passes.is_multiple_of(WHILE) {
            return None;
        }
        self.publish(shared);
        let risen = self.dual.bound().saturating_sub(self.before) as f64;
        self.before = self.dual.bound();
        let gap = host.limit().saturating_sub(self.before) as f64;
        let marks = self.useful(host);
        let (all, left) = (marks.iter().flatten().count(), marks.iter().flatten().filter(|useful| **useful).count());
        let still = risen < RISE * gap || self.dual.is_stuck();
        if left * 20 > all * 19 && !still || !shared.has_time_to_reduce() {
            return None;
        }
        if marks.iter().any(|marks| !marks.contains(&true)) {
            shared.finish();
            return Some(Phase::Over);
        }
        let mut next = self.dual.moved();
        keep(&mut next, &marks);
        let Some(next) = reduce(next) else {
            shared.finish();
            return Some(Phase::Over);
        };
        let prices = self.dual.priced_rows();
        let pace = self.pace + usize::from(still);
        let is_ready = still && (pace >= PACES.len() || left * 4 < all) && next.size() <= LARGE;
        if is_ready || next.vars.is_empty() {
            return Some(Phase::Parts(Branch::new(next, prices, THOROUGH)));
        }
        let Whole { passes, next_answer, .. } = *self;
        Some(Phase::Whole(Box::new(Whole { passes, next_answer, ..Whole::new(next, &prices, pace) })))
    }

    /// For each option whether it may be part of a better answer.
    fn useful(&mut self, host: &mut Step<'_>) -> Vec<Vec<bool>> {
        let (value, dearer) = self.dual.dearer();
        host.works(2 * self.model.size() as u64);
        let limit = host.limit();
        (0..self.model.vars.len()).map(|v| self.dual.options(v).map(|o| dearer[o] <= limit - value).collect()).collect()
    }

    fn publish(&self, shared: &Shared<'_>) {
        shared.publish(self.dual.priced_rows());
    }

    /// Answers from the dual: rounded and made to fit, and by a dive. As long as there is none, also the leanest.
    fn answer(&mut self, host: &mut Step<'_>) {
        let rounded = self.dual.rounded();
        let lean = host.shared.best().is_none().then(|| leanest(&self.model));
        for choice in lean.into_iter().chain([rounded]) {
            let mut incumbent = Incumbent::new(&self.model, choice, self.dual.prices());
            let stops = || host.shared.over().is_some();
            if incumbent.repair(500, &stops) && incumbent.is_allowed() {
                host.offer(&self.model, &incumbent.choice);
                incumbent.descend(&stops);
                host.offer(&self.model, &incumbent.choice);
            }
            host.works(incumbent.work);
        }
        // reductions are not interrupted
        if host.shared.has_time_to_reduce() {
            let prices = self.dual.priced_rows();
            dive(&mut self.dual, &self.model, &prices, host);
        }
    }
}

/// For each variable the option that keeps least over all rows, the cheapest of several.
fn leanest(model: &Model) -> Vec<usize> {
    let kept = |var: &Var, option: usize| -> i128 {
        var.holds.iter().map(|hold| i128::from(hold.bytes[option]) * (hold.to - hold.from) as i128).sum()
    };
    let of_var = |var: &Var| (0..var.costs.len()).min_by_key(|option| (kept(var, *option), var.costs[*option]));
    model.vars.iter().map(|var| of_var(var).expect("a variable has options")).collect()
}

/// One step's use of what is shared.
struct Step<'a> {
    shared: &'a Shared<'a>,
    left: u64,
    spent: u64,
}

impl Host for Step<'_> {
    fn offer(&mut self, model: &Model, choice: &[usize]) {
        // a part knows what it took out itself; what the whole had taken out before follows
        let mut named = model.named(choice);
        named.truncate(model.names);
        self.shared.root.follow(&mut named);
        self.shared.offer(named);
    }

    fn limit(&self) -> i64 {
        self.shared.limit()
    }

    fn works(&mut self, entries: u64) -> bool {
        self.spent += entries;
        self.left = self.left.saturating_sub(entries);
        self.shared.over().is_none()
    }

    fn pauses(&self) -> bool {
        self.left == 0
    }
}
