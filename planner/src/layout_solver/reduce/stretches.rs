//! What the options of a variable keep in all its holds together.

use crate::layout_solver::model::{Hold, Var};

/// Calls `visit` with the first row, one past the last row and the bytes by option of every stretch of rows in which the
/// same holds of the variable are kept, in order.
pub fn stretches(var: &Var, mut visit: impl FnMut(usize, usize, &[i64])) {
    if let [hold] = var.holds.as_slice() {
        return visit(hold.from, hold.to, &hold.bytes);
    }
    let ends = |(at, hold): (usize, &Hold)| [(hold.from, at, true), (hold.to, at, false)];
    let mut ends: Vec<(usize, usize, bool)> = var.holds.iter().enumerate().flat_map(ends).collect();
    ends.sort_unstable();
    let mut bytes = vec![0; var.costs.len()];
    let (mut open, mut from) = (0, 0);
    for (row, at, begins) in ends {
        if open > 0 && from < row {
            visit(from, row, &bytes);
        }
        from = row;
        for (sum, held) in bytes.iter_mut().zip(&var.holds[at].bytes) {
            *sum += if begins { *held } else { -*held };
        }
        open = if begins { open + 1 } else { open - 1 };
    }
}

/// What each option keeps, stretch by stretch.
pub fn kept(var: &Var) -> Vec<Vec<i64>> {
    let mut kept = vec![Vec::new(); var.costs.len()];
    stretches(var, |_, _, bytes| kept.iter_mut().zip(bytes).for_each(|(kept, bytes)| kept.push(*bytes)));
    kept
}

/// Whether an option that keeps `a` keeps no more than one that keeps `b`, in any row.
pub fn no_more(a: &[i64], b: &[i64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a <= b)
}
