//! Links seen from either end.

use crate::layout_solver::model::Link;

/// The costs of a link row by row, with the options of `v` as rows.
pub fn entries(link: &Link, v: usize, options: usize) -> impl Iterator<Item = i64> + '_ {
    let others = link.costs.len() / options;
    let [of_option, of_other] = if link.a == v { [others, 1] } else { [1, options] };
    (0..options).flat_map(move |option| (0..others).map(move |other| link.costs[option * of_option + other * of_other]))
}

/// The same as a table.
pub fn table(link: &Link, v: usize, options: usize) -> Vec<i64> {
    if link.a == v { link.costs.clone() } else { entries(link, v, options).collect() }
}
