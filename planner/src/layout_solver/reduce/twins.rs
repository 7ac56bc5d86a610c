//! *Twins*: of variables without holds that have equal costs and equal links to the same neighbours, all take what the
//! first takes.
//!
//! Given the options of the neighbours all of them face the same costs, so an option that is best for one is best for each.
//! The first stands for all: its costs and links count once for each. Two that are linked to each other are no twins,
//! for each has a neighbour that the other has not: itself. Groups of twins may be each other's neighbours: counting every
//! link of each group in turn keeps those of the others equal.

use std::cmp::Ordering;

use super::keep::drop_vars;
use super::oriented::entries;
use super::steps::follows;
use crate::layout_solver::model::{Model, is_never};

/// Lets twins follow the first of them.
pub fn run(model: &mut Model) {
    let around = model.around();
    let whole = &*model;
    // in order of their places, as the links are sorted
    let others = |v: usize| around[v].iter().map(move |id| &whole.links[*id]).map(move |link| link.a + link.b - v);
    let alike = |v: &usize, w: &usize| {
        let (one, two) = (&whole.vars[*v], &whole.vars[*w]);
        let tables = |v: usize| around[v].iter().flat_map(move |id| entries(&whole.links[*id], v, whole.vars[v].costs.len()));
        let neighbours = others(*v).cmp(others(*w)).then_with(|| one.costs.cmp(&two.costs));
        neighbours.then_with(|| tables(*v).cmp(tables(*w)))
    };
    let mut places: Vec<usize> = (0..model.vars.len()).filter(|v| model.vars[*v].holds.is_empty()).collect();
    places.sort_by(alike);
    let groups: Vec<Vec<usize>> = places.chunk_by(|v, w| alike(v, w) == Ordering::Equal).map(<[usize]>::to_vec).collect();
    let mut gone = vec![false; model.vars.len()];
    for group in groups.iter().filter(|group| group.len() > 1) {
        let (first, rest) = (group[0], &group[1..]);
        let same: Vec<usize> = (0..model.vars[first].costs.len()).collect();
        model.trail.extend(rest.iter().map(|v| follows(&model.vars[*v], &model.vars[first], &same)));
        rest.iter().for_each(|v| gone[*v] = true);
        multiply(&mut model.vars[first].costs, group.len());
        around[first].iter().for_each(|id| multiply(&mut model.links[*id].costs, group.len()));
    }
    if gone.contains(&true) {
        model.links.retain(|link| !gone[link.a] && !gone[link.b]);
        drop_vars(model, &gone);
    }
}

fn multiply(costs: &mut [i64], times: usize) {
    costs.iter_mut().filter(|cost| !is_never(**cost)).for_each(|cost| *cost *= times as i64);
}

#[cfg(test)]
mod tests {
    use super::super::check::{check, twins};
    use super::run;

    #[test]
    fn twins_take_the_same() {
        let one = |model: &mut _| {
            run(model);
            Some(())
        };
        let fired = (0..3000).filter(|seed| check(&twins(*seed), one)).count();
        assert!(fired > 1500, "{fired}");
    }
}
