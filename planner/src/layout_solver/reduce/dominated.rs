//! *Dominated*: an option that costs no less than another whatever the neighbours choose, and keeps no less in any row, is
//! dropped.
//!
//! Where an answer takes it, the other could be taken instead: this costs at most the difference of their own costs plus,
//! over the links, the sum of the largest differences that an option of the neighbour can make. If that is not above zero,
//! and the other keeps no more, the answer becomes no worse. Options of the neighbour with which the worse one is forbidden
//! do not count, for no answer has the two; where only the better one is forbidden it is not better. Of options that
//! dominate each other the first stays.
//!
//! Most pairs are told apart soon: the largest difference over a link is at least the difference of the two least entries,
//! so the worse option must have the larger sum of least entries, and what a link exceeds this by uses up what there is to
//! spare.

use std::collections::BTreeSet;

use super::keep::keep;
use super::stretches::{kept, no_more};
use crate::layout_solver::model::{Link, Model, NEVER, is_never, plus};

/// Drops dominated options. Where one is dropped, the neighbours are looked at again, those of many entries after all others:
/// one that a thousand others are linked to is not looked at a thousand times.
pub fn run(model: &mut Model) {
    let around = model.around();
    let mut alive: Vec<Vec<bool>> = model.vars.iter().map(|var| vec![true; var.costs.len()]).collect();
    let entries: Vec<usize> = around.iter().map(|links| links.iter().map(|id| model.links[*id].costs.len()).sum()).collect();
    let mut todo: BTreeSet<(usize, usize)> = entries.iter().copied().zip(0..).collect();
    while let Some((_, v)) = todo.pop_first() {
        let lost = dominated(model, &around[v], &alive, v);
        if !lost.is_empty() {
            lost.into_iter().for_each(|option| alive[v][option] = false);
            let others = around[v].iter().map(|id| &model.links[*id]).map(|link| link.a + link.b - v);
            todo.extend(others.map(|other| (entries[other], other)));
        }
    }
    keep(model, &alive);
}

/// What the options that are left of a variable cost over one link, with those that are left at its other end.
struct Costs {
    entries: Vec<i64>,
    columns: usize,
    /// The least entry of each option.
    least: Vec<i64>,
}

impl Costs {
    fn new(link: &Link, v: usize, alive: &[Vec<bool>]) -> Self {
        let columns = alive[link.b].len();
        let left = |v: usize| (0..alive[v].len()).filter(move |option| alive[v][*option]);
        let entries: Vec<i64> = if link.a == v {
            let others: Vec<usize> = left(link.b).collect();
            left(v).flat_map(|s| others.iter().map(move |t| link.costs[s * columns + t])).collect()
        } else {
            let others: Vec<usize> = left(link.a).collect();
            left(v).flat_map(|s| others.iter().map(move |t| link.costs[t * columns + s])).collect()
        };
        let columns = left(link.a + link.b - v).count();
        let least = entries.chunks_exact(columns).map(|row| row.iter().copied().min().unwrap_or(NEVER)).collect();
        Self { entries, columns, least }
    }

    fn of(&self, option: usize) -> &[i64] {
        &self.entries[option * self.columns..][..self.columns]
    }
}

/// The options of a variable that are left and dominated by others that stay.
fn dominated(model: &Model, around: &[usize], alive: &[Vec<bool>], v: usize) -> Vec<usize> {
    let var = &model.vars[v];
    let options: Vec<usize> = (0..var.costs.len()).filter(|option| alive[v][*option]).collect();
    if options.len() < 2 {
        return Vec::new();
    }
    let kept = kept(var);
    let costs: Vec<Costs> = around.iter().map(|id| Costs::new(&model.links[*id], v, alive)).collect();
    let least = |(place, option): (usize, &usize)| costs.iter().fold(var.costs[*option], |sum, link| plus(sum, link.least[place]));
    let least: Vec<i64> = options.iter().enumerate().map(least).collect();
    let mut left: Vec<usize> = (0..options.len()).collect();
    left.sort_by_key(|place| least[*place]);
    let mut lost = Vec::new();
    for worse in (0..options.len()).rev().filter(|place| !is_never(least[*place])) {
        let cheaper = left.iter().take_while(|better| least[**better] <= least[worse]);
        let mut better = cheaper.filter(|better| **better != worse && no_more(&kept[options[**better]], &kept[options[worse]]));
        if better.any(|better| costs_no_more(&costs, *better, worse, least[worse] - least[*better])) {
            left.retain(|place| *place != worse);
            lost.push(options[worse]);
        }
    }
    lost
}

/// Whether taking one option instead of another never costs more, if the sum of its least costs is lower by `spare`.
fn costs_no_more(costs: &[Costs], better: usize, worse: usize, mut spare: i64) -> bool {
    for link in costs {
        let between_least = link.least[better] - link.least[worse];
        let mut most = between_least;
        for (then, now) in link.of(better).iter().zip(link.of(worse)).filter(|(_, now)| !is_never(**now)) {
            if is_never(*then) || then - now > between_least + spare {
                return false;
            }
            most = most.max(then - now);
        }
        spare -= most - between_least;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::check::{check, small, tight};
    use super::run;

    #[test]
    fn dominated_options_are_not_needed() {
        let one = |model: &mut _| {
            run(model);
            Some(())
        };
        let fired = (0..3000).filter(|seed| check(&small(*seed), one)).count();
        assert!(fired > 1500, "{fired}");
        let fired = (0..1000).filter(|seed| check(&tight(*seed), one)).count();
        assert!(fired > 300, "{fired}");
    }
}
