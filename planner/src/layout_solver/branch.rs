//! Exact search: branch and bound, each part with a dual of its own.
//!
//! A part of the problem is a model with fewer options. Its dual starts where its parent's ended, costs as they were moved
//! and prices as they were, so that few passes suffice. Options that cannot be part of a better answer go, and what that
//! decides is reduced. If anything is left, the options of one variable are dealt out to smaller parts. What is undecided
//! is mostly memory: so parts are made by what options keep, of a variable whose priced memory is least settled.
//!
//! Parts are searched depth first, the most promising first; now and then the search goes on with the part of the least
//! bound, for it is that one which holds the bound of the whole back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::dual::{Dual, Pace};
use super::model::Model;
use super::reduce::{fit, keep, reduce};

/// How prices move where a dual starts from another's messages and prices.
pub const PACE: Pace = Pace { step: 0.1, present: 0.5, patience: 12, shorten: 0.7 };

/// Passes between two looks at what came of them.
const PASSES: u64 = 8;

/// Variables that are tried before one is divided: in a search that has the time to be thorough, and in one that has not.
pub const THOROUGH: usize = 8;
/// See [`THOROUGH`].
pub const QUICK: usize = 2;

/// A part whose bound has risen by the whole gap has so many fewer parts within it, as a power of two.
const STEEP: f64 = 10.0;

/// Parts that are searched depth first before the part of the least bound is taken.
const DIVE: u64 = 200;

/// Table entries of all parts that wait, beyond which it stays with depth first.
const MOST_WAITING: usize = 40_000_000;

/// To reduce a model takes about as long as to look at each of its entries so many times.
const REDUCING: u64 = 40;

/// The prices of rows, by their names, in order.
pub type Prices = Vec<(usize, f64)>;

/// What a search needs of its surroundings.
pub trait Host {
    /// Takes note of a choice of options of a model.
    fn offer(&mut self, model: &Model, choice: &[usize]);
    /// The most that a better answer may cost, in grains.
    fn limit(&self) -> i64;
    /// Counts table entries that were looked at; says whether to go on at all.
    fn works(&mut self, entries: u64) -> bool;
    /// Whether to stop when a part is done.
    fn pauses(&self) -> bool {
        false
    }
}

/// A part that waits.
struct Part {
    model: Arc<Model>,
    prices: Arc<Prices>,
    /// The options of one variable that this part is about, as marks; all if there is none.
    only: Option<(usize, Vec<bool>)>,
    /// No choice in it costs less.
    bound: i64,
}

/// A search, which may be stopped and go on.
pub struct Branch {
    waiting: Vec<Part>,
    explored: u64,
    tried: usize,
}

impl Branch {
    /// Of a whole model, with prices to start from, and how many variables to try before one is divided.
    pub fn new(model: Model, prices: Prices, tried: usize) -> Self {
        let part = Part { model: Arc::new(model), prices: Arc::new(prices), only: None, bound: i64::MIN };
        Self { waiting: vec![part], explored: 0, tried }
    }

    /// Searches until all is known, which it says, or the host stops it.
    pub fn run(&mut self, host: &mut dyn Host) -> bool {
        while let Some(part) = self.next() {
            if part.bound > host.limit() {
                continue;
            }
            self.explored += 1;
            if let Some(rest) = self.explore(part, host) {
                self.waiting.push(rest);
                return false;
            }
            if host.pauses() {
                return self.waiting.is_empty();
            }
        }
        true
    }

    /// The least that a choice in what was not searched may cost; none if all was.
    pub fn bound(&self) -> Option<i64> {
        self.waiting.iter().map(|part| part.bound).min()
    }

    fn next(&mut self) -> Option<Part> {
        if self.explored.is_multiple_of(DIVE) && self.explored > 0 {
            let least = (0..self.waiting.len()).min_by_key(|at| self.waiting[*at].bound)?;
            if self.waiting.iter().map(|part| part.model.size()).sum::<usize>() < MOST_WAITING {
                let part = self.waiting.remove(least);
                self.waiting.push(part);
            }
        }
        self.waiting.pop()
    }

    /// Bounds a part and lets what is left of it wait in smaller parts. Gives the part back if it was stopped.
    fn explore(&mut self, part: Part, host: &mut dyn Host) -> Option<Part> {
        let Part { model, mut prices, only, mut bound } = part;
        let mut model = Arc::unwrap_or_clone(model);
        if let Some((v, options)) = only {
            restrict(&mut model, v, options);
        }
        loop {
            host.works(REDUCING * model.size() as u64);
            let reduced = Arc::new(reduce(model)?);
            if reduced.vars.is_empty() {
                host.offer(&reduced, &[]);
                return None;
            }
            let mut dual = Dual::new(&reduced, PACE, of_rows(&reduced, &prices));
            let settled = settle(&mut dual, &reduced, host);
            bound = bound.max(dual.bound());
            if bound > host.limit() {
                return None;
            }
            prices = Arc::new(dual.priced_rows());
            match settled {
                Settled::Stopped => return Some(Part { model: Arc::new(dual.moved()), prices, only: None, bound }),
                Settled::Smaller(marks) => {
                    let mut next = dual.moved();
                    keep(&mut next, &marks);
                    model = next;
                }
                Settled::Still => {
                    let choice = dual.rounded();
                    host.offer(&reduced, &choice);
                    self.divide(&reduced, &mut dual, prices, bound, host);
                    return None;
                }
            }
        }
    }

    /// Makes parts of the options of one variable: of those that promise most, the one whose parts rise most when tried.
    fn divide(&mut self, model: &Model, dual: &mut Dual, prices: Arc<Prices>, bound: i64, host: &mut dyn Host) {
        let (value, dearer) = dual.dearer();
        let moved = Arc::new(dual.moved());
        let limit = host.limit();
        let mut best: Option<(f64, usize, Vec<Class>)> = None;
        let candidates = unsettled(model, dual, self.tried);
        for (v, by_memory) in &candidates {
            let mut classes = classes(model, dual, *v, *by_memory, &dearer);
            for class in &mut classes {
                class.bound = bound.max(value + class.bound);
                if candidates.len() > 1 && class.bound <= limit {
                    class.bound = class.bound.max(tried_bound(&moved, &prices, *v, &class.marks, host));
                }
            }
            classes.retain(|class| class.bound <= limit);
            // how large a tree these parts may be the roots of
            let gap = (limit - bound).max(1) as f64;
            let size: f64 = classes.iter().map(|class| (-STEEP * (class.bound - bound) as f64 / gap).exp2()).sum();
            if best.as_ref().is_none_or(|(least, ..)| size < *least) {
                best = Some((size, *v, classes));
            }
        }
        let (_, v, mut classes) = best.expect("there is a variable to divide");
        classes.sort_by_key(|class| std::cmp::Reverse(class.bound));
        for Class { bound, marks } in classes {
            let (model, prices) = (Arc::clone(&moved), Arc::clone(&prices));
            self.waiting.push(Part { model, prices, only: Some((v, marks)), bound });
        }
    }
}

/// Options of a variable that become a part.
struct Class {
    bound: i64,
    marks: Vec<bool>,
}

/// The options of a variable by what they keep, or one by one, each with the least by which it raises the bound.
fn classes(model: &Model, dual: &Dual, v: usize, by_memory: bool, dearer: &[i64]) -> Vec<Class> {
    let mut classes: BTreeMap<Vec<i64>, Class> = BTreeMap::new();
    for (option, o) in dual.options(v).enumerate() {
        let keeps = model.vars[v].holds.iter().map(|hold| hold.bytes[option]);
        let name = if by_memory { keeps.collect() } else { vec![option as i64] };
        let class = classes.entry(name).or_insert_with(|| Class { bound: i64::MAX, marks: vec![false; model.vars[v].costs.len()] });
        class.bound = class.bound.min(dearer[o]);
        class.marks[option] = true;
    }
    classes.into_values().collect()
}

/// Leaves a variable only the options that are marked.
fn restrict(model: &mut Model, v: usize, options: Vec<bool>) {
    let mut marks: Vec<Vec<bool>> = model.vars.iter().map(|var| vec![true; var.costs.len()]).collect();
    marks[v] = options;
    keep(model, &marks);
}

/// The bound after few passes with only some options of a variable.
fn tried_bound(model: &Model, prices: &Prices, v: usize, only: &[bool], host: &mut dyn Host) -> i64 {
    let mut part = model.clone();
    restrict(&mut part, v, only.to_vec());
    let Some(part) = fit(part) else { return i64::MAX };
    host.works((4 + 2 * PASSES) * part.size() as u64);
    let part = Arc::new(part);
    let mut dual = Dual::new(&part, PACE, of_rows(&part, prices));
    for _ in 0..PASSES {
        dual.iterate(host.limit());
        if dual.bound() > host.limit() {
            break;
        }
    }
    dual.bound()
}

/// What came of passes over a model.
enum Settled {
    /// The host stopped it.
    Stopped,
    /// So many options are of no use that it is worth taking them out: marks of those that are left.
    Smaller(Vec<Vec<bool>>),
    /// The bound hardly rises any more, or is above the limit.
    Still,
}

fn settle(dual: &mut Dual, model: &Model, host: &mut dyn Host) -> Settled {
    let mut last = i64::MIN;
    for round in 1u32.. {
        for _ in 0..PASSES {
            dual.iterate(host.limit());
            if dual.bound() > host.limit() {
                return Settled::Still;
            }
        }
        if !host.works(PASSES * 2 * model.size() as u64) {
            return Settled::Stopped;
        }
        let (value, dearer) = dual.dearer();
        let limit = host.limit();
        let useful = |o: usize| dearer[o] <= limit - value;
        let left = (0..dearer.len()).filter(|o| useful(*o)).count();
        if left * 10 <= dearer.len() * 9 || left < dearer.len() && round.is_multiple_of(8) {
            return Settled::Smaller((0..model.vars.len()).map(|v| dual.options(v).map(useful).collect()).collect());
        }
        if round >= 2 && dual.bound() - last <= (limit - dual.bound()) / 30 {
            return Settled::Still;
        }
        last = dual.bound();
    }
    unreachable!("the bound does not rise for ever")
}

/// The prices of a model's rows.
pub fn of_rows(model: &Model, prices: &Prices) -> Vec<f64> {
    let mut known = prices.iter().peekable();
    let of_row = |id: &usize| {
        while known.next_if(|(row, _)| row < id).is_some() {}
        known.next_if(|(row, _)| row == id).map_or(0.0, |(_, price)| *price)
    };
    model.row_ids.iter().map(of_row).collect()
}

/// Variables to divide, the most promising first: those whose priced memory varies most over the options they were given
/// lately, or, if all memory is settled, that whose options change most. And whether it is for its memory.
fn unsettled(model: &Model, dual: &Dual, most: usize) -> Vec<(usize, bool)> {
    let mut sums = vec![0.0];
    dual.prices().iter().for_each(|price| sums.push(sums[sums.len() - 1] + price));
    let shares = |v: usize| {
        let shares = &dual.shares()[dual.options(v)];
        let all: f64 = shares.iter().sum();
        shares.iter().map(move |share| share / all)
    };
    let memory = |v: usize| -> f64 {
        let of_hold = |bytes: &[i64]| {
            let mean: f64 = bytes.iter().zip(shares(v)).map(|(bytes, share)| *bytes as f64 * share).sum();
            bytes.iter().zip(shares(v)).map(|(bytes, share)| (*bytes as f64 - mean).abs() * share).sum::<f64>()
        };
        let priced = |from: usize, to: usize| sums[to] - sums[from];
        let holds = model.vars[v].holds.iter().filter(|hold| priced(hold.from, hold.to) > 0.0);
        holds.map(|hold| priced(hold.from, hold.to) * of_hold(&hold.bytes)).sum()
    };
    let changes = |v: usize| 1.0 - shares(v).fold(0.0, f64::max);
    let ordered = |of: &dyn Fn(usize) -> f64| {
        let mut all: Vec<(f64, usize)> = (0..model.vars.len()).map(|v| (of(v), v)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all
    };
    let by_memory = ordered(&memory);
    if by_memory[0].0 > 0.0 {
        return by_memory.into_iter().filter(|(spread, _)| *spread > 0.0).take(most).map(|(_, v)| (v, true)).collect();
    }
    ordered(&changes).into_iter().take(most).map(|(_, v)| (v, false)).collect()
}
