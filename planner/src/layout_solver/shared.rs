//! What the workers of one search share: the best answer, the bound, the prices, and when to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::branch::Prices;
use super::model::{Model, NEVER};
use super::{Options, Stop};
use crate::layout_problem::Problem;

/// Table entries that are one unit of work.
const UNIT: u64 = 500;

/// An answer.
#[derive(Clone, Debug)]
pub struct Best {
    /// Its cost in units.
    pub cost: i128,
    /// The option of every variable of the root model there ever was, by names; those of the nodes come first.
    pub named: Vec<u32>,
}

#[derive(Default)]
struct Known {
    best: Option<Arc<Best>>,
    bound: Option<i128>,
    prices: Arc<Prices>,
    over: Option<Stop>,
}

/// What workers share.
pub struct Shared<'a> {
    /// The problem.
    pub problem: &'a Problem,
    /// The whole of it, reduced.
    pub root: &'a Model,
    options: Options,
    interrupted: &'a AtomicBool,
    began: Instant,
    /// How long it took to reduce the whole.
    reducing: Duration,
    known: Mutex<Known>,
    entries: AtomicU64,
    /// What starts and ends, by limit and time; at one time what ends comes first.
    events: Vec<Event>,
}

/// The start or the end of a span.
struct Event {
    limit: usize,
    starts: bool,
    node: usize,
    span: usize,
}

fn events(problem: &Problem) -> Vec<Event> {
    let mut events = Vec::new();
    for node in 0..problem.nodes() {
        for (k, span) in problem.spans(node).iter().enumerate().filter(|(_, span)| span.start < span.end) {
            for (time, starts) in [(span.start, true), (span.end, false)] {
                events.push((time, Event { limit: span.limit as usize, starts, node, span: k }));
            }
        }
    }
    // every limit is back at 0 when the next one begins
    events.sort_by_key(|(time, event)| (event.limit, *time, event.starts));
    events.into_iter().map(|(_, event)| event).collect()
}

impl<'a> Shared<'a> {
    /// Nothing known yet.
    pub fn new(problem: &'a Problem, root: &'a Model, options: Options, interrupted: &'a AtomicBool, began: Instant) -> Self {
        let known = Mutex::new(Known::default());
        Self {
            problem,
            root,
            options,
            interrupted,
            began,
            reducing: began.elapsed(),
            known,
            entries: AtomicU64::new(0),
            events: events(problem),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // what is known stays true if a worker panics
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The best answer so far.
    pub fn best(&self) -> Option<Arc<Best>> {
        self.known().best.clone()
    }

    /// No answer costs less, in units.
    pub fn bound(&self) -> Option<i128> {
        self.known().bound
    }

    /// The prices of the root's rows.
    pub fn prices(&self) -> Arc<Prices> {
        Arc::clone(&self.known().prices)
    }

    /// Since the search began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether there is time left to reduce the whole once more.
    pub fn has_time_to_reduce(&self) -> bool {
        self.options.deadline.is_none_or(|deadline| Instant::now() + self.reducing < deadline)
    }

    /// Other prices.
    pub fn publish(&self, prices: Prices) {
        self.known().prices = Arc::new(prices);
    }

    /// Keeps an answer that is better and fits. Gives its cost if it is allowed.
    pub fn offer(&self, named: Vec<u32>) -> Option<i128> {
        let strategies = &named[..self.problem.nodes()];
        let cost = self.problem.total(strategies)?;
        if self.best().is_none_or(|best| cost < best.cost) && self.fits(strategies) {
            let mut known = self.known();
            if known.best.as_ref().is_none_or(|best| cost < best.cost) {
                known.best = Some(Arc::new(Best { cost, named }));
            }
        }
        Some(cost)
    }

    /// Whether the memory of a choice fits at every time.
    fn fits(&self, strategies: &[u32]) -> bool {
        let mut used = 0i128;
        self.events.iter().all(|event| {
            let bytes = i128::from(self.problem.bytes(event.node, event.span)[strategies[event.node] as usize]);
            used += if event.starts { bytes } else { -bytes };
            used <= i128::from(self.problem.limits[event.limit])
        })
    }

    /// Remembers a bound in grains. If no answer can be better than the best, the search is over.
    pub fn know(&self, bound: i64) {
        let shift = self.root.shift;
        // costs are whole units: what is above a unit is the next one at least
        let bound = if shift >= 0 { -((-i128::from(bound)) >> shift) } else { i128::from(bound) << -shift };
        let mut known = self.known();
        known.bound = known.bound.max(Some(bound));
        if known.best.as_ref().is_some_and(|best| known.bound >= Some(best.cost)) {
            known.over.get_or_insert(Stop::Optimal);
        }
    }

    /// Everything was searched.
    pub fn finish(&self) {
        self.known().over.get_or_insert(Stop::Optimal);
    }

    /// The most that a better answer may cost, in grains.
    pub fn limit(&self) -> i64 {
        let Some(best) = self.best() else { return NEVER };
        let (better, shift) = (best.cost - 1, self.root.shift);
        let grains = if shift >= 0 { better << shift } else { better >> -shift };
        grains.clamp(-i128::from(NEVER), i128::from(NEVER)) as i64
    }

    /// Counts table entries that were looked at.
    pub fn works(&self, entries: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
    }

    /// Why the search is over, if it is.
    pub fn over(&self) -> Option<Stop> {
        let stop = if self.interrupted.load(Ordering::Relaxed) {
            Some(Stop::Interrupted)
        } else if self.options.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(Stop::TimeLimit)
        } else if self.options.work.is_some_and(|work| self.entries.load(Ordering::Relaxed) / UNIT >= work) {
            Some(Stop::WorkLimit)
        } else {
            None
        };
        let mut known = self.known();
        if known.over.is_none() {
            known.over = stop;
        }
        known.over
    }
}
