//! *Implied*: a row that cannot be overfull while another is not goes.
//!
//! From one row to another the use of memory rises by at most the sum, over the variables, of the most that any of their
//! options keeps more there. If this is no more than what the capacity rises by, then what fits into the first row fits into
//! the second. Each row is compared with the nearest row before it that stays, then each of those left with the nearest row
//! after it that stays. A row that implied another may go later; then the one that implies it implies both.

use super::rows::keep_rows;
use super::stretches::stretches;
use crate::layout_solver::model::Model;

/// Drops rows that others imply.
pub fn run(model: &mut Model) {
    let uses = Uses::new(model);
    let mut needed = vec![true; model.rows.len()];
    uses.compare(0..needed.len(), &uses.forward, &model.rows, &mut needed);
    uses.compare((0..needed.len()).rev(), &uses.backward, &model.rows, &mut needed);
    keep_rows(model, &needed);
}

/// What each variable keeps, as far as it changes from row to row.
struct Uses {
    vars: usize,
    /// What the options of a variable keep in some rows; nothing at all for a variable without a hold there.
    bytes: Vec<Vec<i64>>,
    /// For each row the variables that keep something else in it than in the row before, and what, by its place in `bytes`;
    /// of several for one variable the last counts.
    forward: Vec<Vec<(usize, usize)>>,
    /// The same for the row after.
    backward: Vec<Vec<(usize, usize)>>,
}

impl Uses {
    fn new(model: &Model) -> Self {
        const NOTHING: usize = 0;
        let n = model.rows.len();
        let none = vec![Vec::new(); n + 1];
        let mut uses = Self { vars: model.vars.len(), bytes: vec![Vec::new()], forward: none.clone(), backward: none };
        for (v, var) in model.vars.iter().enumerate() {
            let first = uses.bytes.len();
            let mut ranges = Vec::new();
            stretches(var, |from, to, bytes| {
                ranges.push((from, to));
                uses.bytes.push(bytes.to_vec());
            });
            for (index, (from, to)) in ranges.iter().enumerate() {
                uses.forward[*from].push((v, first + index));
                uses.forward[*to].push((v, NOTHING));
            }
            for (index, (from, to)) in ranges.iter().enumerate().rev() {
                uses.backward[*to - 1].push((v, first + index));
                // nothing is before the first row
                uses.backward[from.checked_sub(1).unwrap_or(n)].push((v, NOTHING));
            }
        }
        uses
    }

    /// Goes through the rows in an order and unmarks those that the last one that stays implies.
    fn compare(&self, order: impl Iterator<Item = usize>, changes: &[Vec<(usize, usize)>], capacities: &[i64], needed: &mut [bool]) {
        // what each variable keeps in the row that stays and in this one, and the most it rises by
        let mut uses = vec![(0, 0, 0); self.vars];
        let mut changed = Vec::new();
        let mut risen = 0;
        let mut stays: Option<i64> = None;
        for row in order {
            for (v, now) in &changes[row] {
                let (before, _, rise) = uses[*v];
                let most = most_more(&self.bytes[*now], &self.bytes[before]);
                uses[*v] = (before, *now, most);
                risen += most - rise;
                changed.push(*v);
            }
            if !needed[row] {
                continue;
            }
            needed[row] = stays.is_none_or(|capacity| capacity.saturating_add(risen) > capacities[row]);
            if needed[row] {
                stays = Some(capacities[row]);
                changed.drain(..).for_each(|v| uses[v] = (uses[v].1, uses[v].1, 0));
                risen = 0;
            }
        }
    }
}

/// The most that an option keeps more in one row than in another.
fn most_more(now: &[i64], before: &[i64]) -> i64 {
    let most = match (now, before) {
        (now, []) => now.iter().copied().max(),
        ([], before) => before.iter().map(|bytes| -bytes).max(),
        (now, before) => now.iter().zip(before).map(|(now, before)| now - before).max(),
    };
    most.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::check::{check, tight};
    use super::run;
    use crate::layout_solver::model::{Hold, Model, Var};

    #[test]
    fn rows_that_others_imply_are_not_needed() {
        let one = |model: &mut _| {
            run(model);
            Some(())
        };
        let fired = (0..3000).filter(|seed| check(&tight(*seed), one)).count();
        assert!(fired > 2500, "{fired}");
    }

    /// The second row keeps at most one byte more than the first: it is implied if its capacity is larger by one.
    #[test]
    fn what_ends_between_two_rows_counts() {
        for (capacities, left) in [([5, 6], vec![5]), ([5, 5], vec![5, 5])] {
            let var = |row, bytes: [i64; 2]| {
                let hold = Hold { from: row, to: row + 1, bytes: bytes.to_vec() };
                Var { id: row, options: vec![0, 1], costs: vec![0, 0], holds: vec![hold] }
            };
            let vars = vec![var(0, [4, 6]), var(1, [5, 3])];
            let mut model = Model { vars, rows: capacities.to_vec(), row_ids: vec![0, 1], names: 2, ..Model::default() };
            run(&mut model);
            assert_eq!(model.rows, left);
        }
    }
}
