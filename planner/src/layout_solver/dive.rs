//! An answer from the dual: what is settled best is decided, the dual goes on with the rest, until nothing is left.

use std::sync::Arc;

use super::branch::{Branch, Host, PACE, Prices, QUICK, of_rows};
use super::dual::Dual;
use super::model::Model;
use super::reduce::{keep, reduce};

/// Passes over what is left, between decisions.
const PASSES: u64 = 20;

/// The part of the variables that is decided at once, unless that is too much.
const PART: f64 = 0.15;

/// What is smaller is searched exactly, with a budget of so many table entries.
const SMALL: (usize, u64) = (20_000, 20_000_000);

/// Dives from a dual, and offers what it finds.
pub fn dive(dual: &mut Dual, model: &Model, prices: &Prices, host: &mut dyn Host) {
    let mut part = PART;
    let mut next = decided(dual, model, part);
    let mut before: Option<(Arc<Model>, Dual)> = None;
    loop {
        let size = next.size() as u64;
        let Some(left) = reduce(next) else {
            // too much at once
            part /= 2.0;
            if part < 0.03 {
                return;
            }
            next = before.as_mut().map_or_else(|| decided(dual, model, part), |(model, dual)| decided(dual, model, part));
            if !host.works(size) {
                return;
            }
            continue;
        };
        if left.vars.is_empty() {
            host.offer(&left, &[]);
            return;
        }
        if left.size() < SMALL.0 {
            let mut small = Small { host, left: SMALL.1 };
            Branch::new(left, prices.clone(), QUICK).run(&mut small);
            return;
        }
        let left = Arc::new(left);
        let mut dual = Dual::new(&left, PACE, of_rows(&left, prices));
        for _ in 0..PASSES {
            dual.iterate(host.limit());
            if !host.works(2 * left.size() as u64) || dual.bound() > host.limit() {
                return;
            }
        }
        next = decided(&mut dual, &left, part);
        before = Some((left, dual));
    }
}

/// The model with its most settled variables decided.
fn decided(dual: &mut Dual, model: &Model, part: f64) -> Model {
    let (_, dearer) = dual.dearer();
    // by how much the second best option is dearer
    let settled = |v: usize| -> (i64, usize) {
        let dearer = &dearer[dual.options(v)];
        let best = (0..dearer.len()).min_by_key(|option| dearer[*option]).expect("a variable has options");
        let second = (0..dearer.len()).filter(|option| *option != best).map(|option| dearer[option]).min();
        (second.unwrap_or(i64::MAX), best)
    };
    let settled: Vec<(i64, usize)> = (0..model.vars.len()).map(settled).collect();
    let mut order: Vec<usize> = (0..model.vars.len()).collect();
    order.sort_by_key(|v| std::cmp::Reverse(settled[*v].0));
    let most = (part * order.len() as f64).ceil() as usize;
    let mut marks: Vec<Vec<bool>> = model.vars.iter().map(|var| vec![true; var.costs.len()]).collect();
    for v in &order[..most.min(order.len())] {
        let best = settled[*v].1;
        marks[*v].iter_mut().enumerate().for_each(|(option, mark)| *mark = option == best);
    }
    let mut model = dual.moved();
    keep(&mut model, &marks);
    model
}

/// The end of a dive: a search with a budget.
struct Small<'a> {
    host: &'a mut dyn Host,
    left: u64,
}

impl Host for Small<'_> {
    fn offer(&mut self, model: &Model, choice: &[usize]) {
        self.host.offer(model, choice);
    }

    fn limit(&self) -> i64 {
        self.host.limit()
    }

    fn works(&mut self, entries: u64) -> bool {
        self.left = self.left.saturating_sub(entries);
        self.host.works(entries) && self.left > 0
    }
}
