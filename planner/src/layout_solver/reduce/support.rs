//! *Support*: an option that is forbidden, or that some link forbids with every option of the other end, is dropped.
//!
//! It is in no answer, since every answer takes some option at the other end. What is dropped supports nothing any more, so
//! the links around a variable that lost an option are looked at again.

use std::collections::BTreeSet;

use super::keep::keep;
use crate::layout_solver::model::{Link, Model, is_never};

/// Drops options without support; `None` if a variable has none left.
pub fn run(model: &mut Model) -> Option<()> {
    let around = model.around();
    let mut alive: Vec<Vec<bool>> = model.vars.iter().map(|var| var.costs.iter().map(|cost| !is_never(*cost)).collect()).collect();
    let mut todo: BTreeSet<usize> = (0..model.links.len()).collect();
    while let Some(id) = todo.pop_first() {
        let link = &model.links[id];
        for v in [link.a, link.b] {
            let lost = unsupported(link, v, &alive);
            if !lost.is_empty() {
                lost.into_iter().for_each(|option| alive[v][option] = false);
                // what the other end lost is not asked of this link again: it supported nothing here
                todo.extend(around[v].iter().filter(|other| **other != id));
            }
        }
    }
    if alive.iter().any(|options| !options.contains(&true)) {
        return None;
    }
    keep(model, &alive);
    Some(())
}

/// The options of one end that are alive and that the link forbids with every option alive at the other.
fn unsupported(link: &Link, v: usize, alive: &[Vec<bool>]) -> Vec<usize> {
    let columns = alive[link.b].len();
    let (other, step, start) = if link.a == v { (link.b, 1, columns) } else { (link.a, columns, 1) };
    let has_support = |option: usize| {
        let entries = link.costs[option * start..].iter().step_by(step);
        entries.zip(&alive[other]).any(|(cost, alive)| *alive && !is_never(*cost))
    };
    (0..alive[v].len()).filter(|option| alive[v][*option] && !has_support(*option)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::check::{check, small};
    use super::run;

    #[test]
    fn options_without_support_are_in_no_answer() {
        let fired = (0..3000).filter(|seed| check(&small(*seed), run)).count();
        assert!(fired > 700, "{fired}");
    }
}
