//! What shares nothing with the rest is searched first, and decided.

use super::alone::Alone;
use super::branch::{Branch, THOROUGH};
use super::model::{Model, NEVER};
use super::reduce::{components, decide, part, reduce};

/// Table entries that may be looked at for each part.
const BUDGET: u64 = 50_000_000;

/// The model without its small parts, as far as the best of them was found, and the table entries looked at. No model if
/// one of them has no answer.
///
/// The best of the whole is made of the best of its parts. The largest one is left, and those that are too hard.
pub fn decide_islands(mut model: Model, goes_on: &dyn Fn() -> bool) -> (Option<Model>, u64) {
    let mut parts = components(&model);
    parts.sort_by_key(Vec::len);
    parts.pop();
    let (mut choices, mut spent) = (Vec::new(), 0);
    for places in parts.into_iter().filter(|_| model.is_exact()) {
        let mut host = Alone::new(NEVER / 2 - 1, BUDGET, goes_on);
        let done = Branch::new(part(&model, &places), Vec::new(), THOROUGH).run(&mut host);
        spent += host.spent;
        match host.found {
            None if done => return (None, spent),
            Some(named) if done => {
                let place = |v: usize| {
                    let var = &model.vars[v];
                    (v, var.options.iter().position(|option| *option == named[var.id]).expect("names stay"))
                };
                choices.extend(places.into_iter().map(place));
            }
            _ => {}
        }
    }
    if choices.is_empty() {
        return (Some(model), spent);
    }
    decide(&mut model, &choices);
    (reduce(model), spent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout_problem::{Problem, ProblemBuilder, brute_force, small};

    /// Two problems side by side, each with limits of its own.
    fn beside(a: &Problem, b: &Problem) -> Problem {
        let mut builder = ProblemBuilder::new("both", a.limits.iter().chain(&b.limits).copied().collect());
        for (problem, limits) in [(a, 0), (b, a.limits.len() as u32)] {
            for node in 0..problem.nodes() {
                let spans: Vec<_> =
                    problem.spans(node).iter().map(|span| crate::layout_problem::Span { limit: span.limit + limits, ..*span }).collect();
                let bytes: Vec<u64> = (0..spans.len()).flat_map(|k| problem.bytes(node, k).to_vec()).collect();
                builder.add_node(problem.cost(node), &spans, &bytes).expect("it was a node");
            }
        }
        for (problem, nodes) in [(a, 0), (b, a.nodes() as u32)] {
            for edge in problem.edges() {
                builder.add_edge(edge.a + nodes, edge.b + nodes, problem.table(edge.table)).expect("it was an edge");
            }
        }
        builder.finish().expect("both were problems")
    }

    #[test]
    fn the_best_of_the_parts_is_part_of_the_best() {
        let mut decided = 0;
        for seed in 0..1_000 {
            let problem = beside(&small(2 * seed), &small(2 * seed + 1));
            let Some(model) = Model::new(&problem) else { continue };
            let best = [2 * seed, 2 * seed + 1].map(|seed| brute_force(&small(seed)).map(|(cost, _)| cost));
            let before = model.vars.len();
            let (left, _) = decide_islands(model, &|| true);
            let Some(left) = left else {
                assert!(best.contains(&None), "seed {seed}");
                continue;
            };
            decided += usize::from(left.vars.len() < before);
            let mut host = Alone::new(NEVER / 2 - 1, u64::MAX, &|| true);
            assert!(Branch::new(left, Vec::new(), THOROUGH).run(&mut host));
            let cost = host.found.map(|named| problem.total(&named[..problem.nodes()]).expect("it is allowed"));
            assert_eq!(cost, best[0].zip(best[1]).map(|(a, b)| a + b), "seed {seed}");
        }
        assert!(decided > 300, "{decided}");
    }
}
