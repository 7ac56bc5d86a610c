//! *Rows*: what takes no part in any choice goes.
//!
//! - What all options of a hold keep is kept whatever is chosen: it comes off the capacity. If that makes a capacity
//!   negative there is no answer.
//! - A row that is not overfull even if every variable keeps as much there as it can never forbids anything.
//! - Two holds of one variable in the same rows are one of their sums.

use super::stretches::stretches;
use crate::layout_solver::model::{Hold, Model};

/// Drops rows and what options keep in common; `None` if a row is overfull whatever is chosen.
pub fn run(model: &mut Model) -> Option<()> {
    common(model);
    if model.rows.iter().any(|capacity| *capacity < 0) {
        return None;
    }
    let binds = can_be_overfull(model);
    keep_rows(model, &binds);
    model.vars.iter_mut().for_each(|var| join(&mut var.holds));
    Some(())
}

/// Takes what all options of a hold keep off the capacities.
fn common(model: &mut Model) {
    let mut rises = vec![0; model.rows.len() + 1];
    for var in &mut model.vars {
        join(&mut var.holds);
        for hold in &mut var.holds {
            let least = hold.bytes.iter().copied().min().unwrap_or(0);
            rises[hold.from] += least;
            rises[hold.to] -= least;
            hold.bytes.iter_mut().for_each(|bytes| *bytes -= least);
        }
        var.holds.retain(|hold| hold.from < hold.to && hold.bytes.iter().any(|bytes| *bytes > 0));
    }
    let mut used = 0;
    for (capacity, rise) in model.rows.iter_mut().zip(rises) {
        used += rise;
        *capacity -= used;
    }
}

/// Holds of the same rows become one.
fn join(holds: &mut Vec<Hold>) {
    holds.sort_by_key(|hold| (hold.from, hold.to));
    holds.dedup_by(|next, hold| {
        let same = (next.from, next.to) == (hold.from, hold.to);
        if same {
            hold.bytes.iter_mut().zip(&next.bytes).for_each(|(sum, bytes)| *sum += bytes);
        }
        same
    });
}

fn can_be_overfull(model: &Model) -> Vec<bool> {
    let mut rises = vec![0; model.rows.len() + 1];
    for var in &model.vars {
        stretches(var, |from, to, bytes| {
            let most = bytes.iter().copied().max().unwrap_or(0);
            rises[from] += most;
            rises[to] -= most;
        });
    }
    let mut used = 0;
    let overfull = |(capacity, rise): (&i64, i64)| {
        used += rise;
        used > *capacity
    };
    model.rows.iter().zip(rises).map(overfull).collect()
}

/// Leaves only the rows that are marked, and only holds that have rows.
pub fn keep_rows(model: &mut Model, kept: &[bool]) {
    let mut place = vec![0; kept.len() + 1];
    for (row, kept) in kept.iter().enumerate() {
        place[row + 1] = place[row] + usize::from(*kept);
    }
    for var in &mut model.vars {
        var.holds.iter_mut().for_each(|hold| (hold.from, hold.to) = (place[hold.from], place[hold.to]));
        var.holds.retain(|hold| hold.from < hold.to);
    }
    let mut marks = kept.iter();
    model.rows.retain(|_| *marks.next().expect("one mark a row"));
    let mut marks = kept.iter();
    model.row_ids.retain(|_| *marks.next().expect("one mark a row"));
}

#[cfg(test)]
mod tests {
    use super::super::check::{check, tight};
    use super::run;

    #[test]
    fn rows_that_go_forbid_nothing_more() {
        let fired = (0..3000).filter(|seed| check(&tight(*seed), run)).count();
        assert!(fired > 2500, "{fired}");
    }
}
