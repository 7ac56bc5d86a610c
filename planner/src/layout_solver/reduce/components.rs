//! *Components*: parts of the model that share neither links nor rows have nothing to do with each other.
//!
//! A choice for the whole is one for each part, its cost the sum of theirs, and it can be taken if each of them can: the best
//! of the whole is made of the best of the parts.

use petgraph::unionfind::UnionFind;

use crate::layout_solver::model::{Hold, Link, Model};

/// The places of the variables of each part, in order, parts by their first.
pub fn components(model: &Model) -> Vec<Vec<usize>> {
    let mut sets = UnionFind::<usize>::new(model.vars.len());
    for link in &model.links {
        sets.union(link.a, link.b);
    }
    let holds = |(v, hold): (usize, &Hold)| hold.bytes.iter().any(|bytes| *bytes > 0).then_some((hold.from, hold.to, v));
    let mut holds: Vec<(usize, usize, usize)> =
        model.vars.iter().enumerate().flat_map(|(v, var)| var.holds.iter().filter_map(move |hold| holds((v, hold)))).collect();
    holds.sort_unstable();
    // a hold that begins before those so far have ended shares a row with the one that ends last
    let mut last = (0, 0);
    for (from, to, v) in holds {
        if from < last.0 {
            sets.union(v, last.1);
        }
        last = last.max((to, v));
    }
    let mut part_of = vec![None; model.vars.len()];
    let mut parts: Vec<Vec<usize>> = Vec::new();
    for v in 0..model.vars.len() {
        let part = *part_of[sets.find_mut(v)].get_or_insert_with(|| {
            parts.push(Vec::new());
            parts.len() - 1
        });
        parts[part].push(v);
    }
    parts
}

/// The model of some variables, whose places are in order, with the links between them and the rows in which they hold
/// something. Names stay; nothing is decided yet.
pub fn part(model: &Model, places: &[usize]) -> Model {
    let mut vars: Vec<_> = places.iter().map(|v| model.vars[*v].clone()).collect();
    let mut links = Vec::new();
    for (a, v) in places.iter().enumerate() {
        let first = model.links.partition_point(|link| link.a < *v);
        for link in model.links[first..].iter().take_while(|link| link.a == *v) {
            links.extend(places.binary_search(&link.b).map(|b| Link { a, b, costs: link.costs.clone() }));
        }
    }
    let mut held: Vec<(usize, usize)> = vars.iter().flat_map(|var| &var.holds).map(|hold| (hold.from, hold.to)).collect();
    held.sort_unstable();
    held.dedup_by(|next, range| {
        let overlap = next.0 <= range.1;
        if overlap {
            range.1 = range.1.max(next.1);
        }
        overlap
    });
    // for each range of rows by how far its rows move down
    let mut end = 0;
    let moves: Vec<usize> = held
        .iter()
        .map(|(from, to)| {
            end += to - from;
            to - end
        })
        .collect();
    for hold in vars.iter_mut().flat_map(|var| &mut var.holds) {
        let by = moves[held.partition_point(|(from, _)| *from <= hold.from) - 1];
        (hold.from, hold.to) = (hold.from - by, hold.to - by);
    }
    let rows = held.iter().flat_map(|(from, to)| &model.rows[*from..*to]).copied().collect();
    let row_ids = held.iter().flat_map(|(from, to)| &model.row_ids[*from..*to]).copied().collect();
    Model { vars, links, rows, row_ids, constant: 0, shift: model.shift, trail: Vec::new(), names: model.names }
}

#[cfg(test)]
mod tests {
    use super::super::check::{best, is_well_formed, islands, small};
    use super::{components, part};
    use crate::layout_solver::model::Model;

    #[test]
    fn the_best_of_the_parts_is_the_best_of_the_whole() {
        let mut several = 0;
        for seed in 0..3000 {
            let problem = if seed % 3 == 0 { small(seed) } else { islands(seed) };
            let Some(model) = Model::new(&problem) else { continue };
            let parts = components(&model);
            let mut all = parts.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..model.vars.len()) && parts.is_sorted_by_key(|part| part[0]), "{seed}: {parts:?}");
            several += usize::from(parts.len() > 1);
            let (mut cost, mut choice) = (Some(model.constant), vec![0; model.vars.len()]);
            for places in &parts {
                let part = part(&model, places);
                is_well_formed(&part);
                let best = best(&part);
                cost = cost.zip(best.as_ref()).map(|(sum, (cost, _))| sum + cost);
                places.iter().zip(best.map_or(Vec::new(), |(_, choice)| choice)).for_each(|(v, option)| choice[*v] = option);
            }
            assert_eq!(cost, best(&model).map(|(cost, _)| cost), "{seed}");
            if let Some(cost) = cost {
                let named = model.named(&choice);
                assert!(problem.is_feasible(&named), "{seed}");
                assert_eq!(problem.total(&named), Some(i128::from(cost >> model.shift)), "{seed}");
            }
        }
        assert!(several > 1500, "{several}");
    }
}
