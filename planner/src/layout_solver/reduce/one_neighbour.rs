//! *One neighbour*: a variable with at most one link is taken out if for each option of its neighbour one of its options is
//! the best in every respect.
//!
//! Given the option of the neighbour, nothing but memory ties the variable to the rest. If one of the options that may be
//! taken then is as cheap as any (its own cost and the link's together) and keeps no more than any in every row, exchanging
//! the variable's option for that one makes no answer worse. So the variable follows from its neighbour, which takes over
//! cost and memory. Without holds there always is such an option: trees fold up from their leaves. A variable without a
//! link is decided in the same way.

use super::graph::Graph;
use super::steps::follows;
use super::stretches::{kept, no_more};
use crate::layout_solver::model::{Hold, NEVER, Step, Var, is_never, plus};

/// Takes one variable out if it can be.
pub fn take(graph: &mut Graph<'_>, v: usize) -> bool {
    match graph.neighbours(v).as_slice() {
        [] => decide(graph, v),
        [other] => follow(graph, v, *other),
        _ => false,
    }
}

fn decide(graph: &mut Graph<'_>, v: usize) -> bool {
    let var = graph.var(v);
    let Some(option) = best(&var.costs, &kept(var)) else { return false };
    let (cost, holds) = (var.costs[option], var.holds.clone());
    graph.note(Step::Decided { var: var.id, option: var.options[option] });
    graph.pay(cost);
    holds.iter().for_each(|hold| graph.fill(hold.from, hold.to, hold.bytes[option]));
    true
}

fn follow(graph: &mut Graph<'_>, v: usize, other: usize) -> bool {
    let Some(table) = graph.table(other, v) else { return false };
    let var = graph.var(v);
    let rows: Vec<Vec<i64>> = table.chunks_exact(var.costs.len()).map(|row| with_own(var, row)).collect();
    let kept = kept(var);
    let Some(map) = rows.iter().map(|costs| best(costs, &kept)).collect::<Option<Vec<usize>>>() else { return false };
    let moved = |hold: &Hold| Hold { bytes: map.iter().map(|option| hold.bytes[*option]).collect(), ..*hold };
    let holds: Vec<Hold> = var.holds.iter().map(moved).collect();
    graph.note(follows(var, graph.var(other), &map));
    graph.cut(v, other);
    let into = graph.var_mut(other);
    let costs = rows.iter().zip(&map).map(|(costs, option)| costs[*option]);
    into.costs.iter_mut().zip(costs).for_each(|(sum, cost)| *sum = plus(*sum, cost));
    into.holds.extend(holds);
    true
}

fn with_own(var: &Var, row: &[i64]) -> Vec<i64> {
    var.costs.iter().zip(row).map(|(own, cost)| plus(*own, *cost)).collect()
}

/// The first option that costs and keeps no more than any that is not forbidden; any if all are.
fn best(costs: &[i64], kept: &[Vec<i64>]) -> Option<usize> {
    let least = costs.iter().copied().min().unwrap_or(NEVER);
    let beats_all = |option: &usize| {
        let mut others = costs.iter().zip(kept).filter(|(cost, _)| !is_never(**cost));
        costs[*option] == least && others.all(|(_, others)| no_more(&kept[*option], others))
    };
    (0..costs.len()).find(beats_all)
}

#[cfg(test)]
mod tests {
    use super::super::check::{check, loose_tree, series_parallel};
    use super::super::graph::Graph;
    use super::take;
    use crate::layout_solver::model::Model;

    #[test]
    fn what_follows_from_its_neighbour_goes() {
        let one = |model: &mut Model| {
            Graph::work(model, take);
            Some(())
        };
        let fired = (0..3000).filter(|seed| check(&loose_tree(*seed), one)).count();
        assert!(fired > 2000, "{fired}");
        let fired = (0..1000).filter(|seed| check(&series_parallel(*seed), one)).count();
        assert!(fired > 300, "{fired}");
    }
}
