//! *Two neighbours*: a variable without holds and with exactly two links is replaced by a link between its neighbours.
//!
//! Given the options of both neighbours, it takes its best option and nothing else depends on that: the new link costs what
//! this option and its two links cost together. It is added to the link that the neighbours may have already.
//!
//! Links in series become one, links in parallel are one always, and variables of one link fold up: together these rules
//! reduce every series-parallel graph without holds to its cost. Where the new table would be far larger than what it
//! replaces the variable stays, for it says the same in less.

use super::graph::Graph;
use super::steps::between;
use crate::layout_solver::model::{NEVER, plus};

/// The new table has at most so many times the entries of those that it replaces.
const GROWTH: usize = 4;

/// The new table has at most so many entries.
const LARGEST: usize = 1 << 16;

/// Replaces one variable if it can be.
pub fn take(graph: &mut Graph<'_>, v: usize) -> bool {
    if !graph.var(v).holds.is_empty() {
        return false;
    }
    let &[a, b] = graph.neighbours(v).as_slice() else { return false };
    let (rows, columns, options) = (graph.var(a).costs.len(), graph.var(b).costs.len(), graph.var(v).costs.len());
    let there = if graph.are_linked(a, b) { rows * columns } else { 0 };
    if rows * columns > LARGEST || rows * columns > GROWTH * ((rows + columns) * options + there) {
        return false;
    }
    let (Some(before), Some(after)) = (graph.table(a, v), graph.table(v, b)) else { return false };
    let own = &graph.var(v).costs;
    let (mut costs, mut map) = (vec![NEVER; rows * columns], vec![0; rows * columns]);
    for s in 0..rows {
        let (costs, map) = (&mut costs[s * columns..][..columns], &mut map[s * columns..][..columns]);
        for option in 0..options {
            let so_far = plus(before[s * options + option], own[option]);
            for (t, cost) in after[option * columns..][..columns].iter().enumerate() {
                let cost = plus(so_far, *cost);
                if cost < costs[t] {
                    (costs[t], map[t]) = (cost, option);
                }
            }
        }
    }
    graph.note(between(graph.var(v), [graph.var(a), graph.var(b)], &map));
    graph.cut(v, a);
    graph.cut(v, b);
    graph.join(a, b, costs);
    true
}

#[cfg(test)]
mod tests {
    use super::super::check::{check, series_parallel, small};
    use super::super::graph::Graph;
    use super::super::one_neighbour;
    use super::take;
    use crate::layout_solver::model::Model;

    fn two(model: &mut Model) -> Option<()> {
        Graph::work(model, take);
        Some(())
    }

    #[test]
    fn what_lies_between_two_becomes_a_link() {
        let fired = (0..2000).filter(|seed| check(&small(*seed), two)).count();
        assert!(fired > 400, "{fired}");
        let fired = (0..2000).filter(|seed| check(&series_parallel(*seed), two)).count();
        assert!(fired > 1500, "{fired}");
    }

    #[test]
    fn series_parallel_graphs_fold_up() {
        for seed in 0..500 {
            let fold = |model: &mut Model| {
                Graph::work(model, |graph, v| one_neighbour::take(graph, v) || take(graph, v));
                assert!(model.vars.is_empty() && model.links.is_empty(), "{seed}: {} variables", model.vars.len());
                Some(())
            };
            check(&series_parallel(seed), fold);
        }
    }
}
