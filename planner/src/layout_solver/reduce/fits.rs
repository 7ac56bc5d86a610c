//! *Fits*: an option that overfills a row even if every other variable keeps as little there as it can is dropped.
//!
//! Whatever the others take, they keep no less than that: the option is in no answer. The least of a variable in a row is
//! taken over its options with all their holds together, so the test is made once for every stretch of rows.

use super::keep::keep;
use super::stretches::stretches;
use crate::layout_solver::model::Model;

/// Drops options that do not fit; `None` if a variable has none left.
pub fn run(model: &mut Model) -> Option<()> {
    // by how much the least use of each row rises above that of the row before it
    let mut rises = vec![0; model.rows.len() + 1];
    for var in &model.vars {
        stretches(var, |from, to, bytes| {
            rises[from] += least(bytes);
            rises[to] -= least(bytes);
        });
    }
    let mut used = 0;
    let slack = model.rows.iter().zip(rises).map(|(capacity, rise)| {
        used += rise;
        capacity - used
    });
    let slack = RangeLeast::new(slack.collect());
    let mut alive: Vec<Vec<bool>> = model.vars.iter().map(|var| vec![true; var.costs.len()]).collect();
    for (var, alive) in model.vars.iter().zip(&mut alive) {
        stretches(var, |from, to, bytes| {
            let room = least(bytes) + slack.of(from, to);
            alive.iter_mut().zip(bytes).for_each(|(alive, bytes)| *alive &= *bytes <= room);
        });
    }
    if alive.iter().any(|options| !options.contains(&true)) {
        return None;
    }
    keep(model, &alive);
    Some(())
}

fn least(bytes: &[i64]) -> i64 {
    bytes.iter().copied().min().unwrap_or(0)
}

/// The least of any range of some numbers: level `k` has that of the 2^k numbers from each place on.
struct RangeLeast {
    levels: Vec<Vec<i64>>,
}

impl RangeLeast {
    fn new(numbers: Vec<i64>) -> Self {
        let mut levels = vec![numbers];
        let mut half = 1;
        while let Some(last) = levels.last().filter(|last| last.len() > half) {
            levels.push(last.iter().zip(&last[half..]).map(|(a, b)| *a.min(b)).collect());
            half *= 2;
        }
        Self { levels }
    }

    /// The least of a range that is not empty: two ranges of a power of two cover it.
    fn of(&self, from: usize, to: usize) -> i64 {
        let level = (to - from).ilog2() as usize;
        let numbers = &self.levels[level];
        numbers[from].min(numbers[to - (1 << level)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{check, tight};
    use super::{RangeLeast, run};

    #[test]
    fn options_that_do_not_fit_are_in_no_answer() {
        let fired = (0..3000).filter(|seed| check(&tight(*seed), run)).count();
        assert!(fired > 1000, "{fired}");
    }

    #[test]
    fn the_least_of_every_range() {
        let numbers = [5, -3, 8, 0, 7, 7, -9, 2, 4, 1, 6];
        let ranges = RangeLeast::new(numbers.to_vec());
        for from in 0..numbers.len() {
            for to in from + 1..=numbers.len() {
                assert_eq!(ranges.of(from, to), *numbers[from..to].iter().min().unwrap(), "{from}..{to}");
            }
        }
    }
}
