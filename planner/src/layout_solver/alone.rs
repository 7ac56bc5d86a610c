//! A search by itself, which keeps the best choice that it finds.

use super::branch::Host;
use super::model::{Model, is_never};
use super::slack::fits;

/// What a search of a small model knows.
pub struct Alone<'a> {
    limit: i64,
    /// The best choice, by names.
    pub found: Option<Vec<u32>>,
    left: u64,
    /// Table entries looked at.
    pub spent: u64,
    goes_on: &'a dyn Fn() -> bool,
}

impl<'a> Alone<'a> {
    /// For choices that cost at most `limit` grains, with a budget of table entries.
    pub fn new(limit: i64, budget: u64, goes_on: &'a dyn Fn() -> bool) -> Self {
        Self { limit, found: None, left: budget, spent: 0, goes_on }
    }
}

impl Host for Alone<'_> {
    fn offer(&mut self, model: &Model, choice: &[usize]) {
        let cost = model.cost(choice);
        if cost <= self.limit && !is_never(cost) && fits(model, choice) {
            self.limit = cost - model.grain();
            self.found = Some(model.named(choice));
        }
    }

    fn limit(&self) -> i64 {
        self.limit
    }

    fn works(&mut self, entries: u64) -> bool {
        self.spent += entries;
        self.left = self.left.saturating_sub(entries);
        self.left > 0 && (self.goes_on)()
    }
}
