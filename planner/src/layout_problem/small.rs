//! Tiny random problems, to compare a solver with [`brute_force`](super::brute_force).

use partita_ir::random::{DrawContext, salt_of, stream, uniform};

use super::problem::{FORBIDDEN, Problem, ProblemBuilder, Span};

/// A problem of 2 to 8 nodes of 1 to 4 strategies: edges in parallel and in both directions, forbidden and negative
/// entries, up to three limits that are loose, tight or cannot be kept, up to two spans per node.
pub fn small(seed: u64) -> Problem {
    let stream = stream(DrawContext { seed, ..DrawContext::default() }, salt_of("small"));
    let mut drawn = 0;
    // uniform from 0 to below `end`
    let mut below = |end: u64| {
        drawn += 1;
        (uniform(stream, drawn) * end as f64) as u64
    };
    let nodes = 2 + below(7);
    let limits = [0, 1, 1, 1, 2, 3][below(6) as usize];
    let forbidden_percent = [0, 10, 30, 60][below(4) as usize];
    let negative = below(3) == 0;
    let mut builder = ProblemBuilder::new(format!("small-{seed}"), vec![0; limits]);
    let mut sizes = Vec::new();
    for _ in 0..nodes {
        let strategies = 1 + below(4) as usize;
        let costs: Vec<i64> = (0..strategies).map(|_| cost(&mut below, forbidden_percent / 4, negative)).collect();
        let n_spans = if limits == 0 { 0 } else { [0, 1, 1, 1, if limits > 1 { 2 } else { 1 }][below(5) as usize] };
        let mut spans = Vec::new();
        for _ in 0..n_spans {
            let start = below(6);
            spans.push(Span { limit: below(limits as u64) as u32, start, end: start + 1 + below(4) });
        }
        let bytes: Vec<u64> = (0..n_spans * strategies).map(|_| below(12)).collect();
        builder.add_node(&costs, &spans, &bytes).expect("small nodes obey the rules");
        sizes.push(strategies);
    }
    for _ in 0..below(2 * nodes + 1) {
        let a = below(nodes);
        let b = (a + 1 + below(nodes - 1)) % nodes;
        let entries = sizes[a as usize] * sizes[b as usize];
        let table: Vec<i64> = (0..entries).map(|_| cost(&mut below, forbidden_percent, negative)).collect();
        builder.add_edge(a as u32, b as u32, &table).expect("small edges obey the rules");
    }
    let mut problem = builder.finish().expect("small bytes stay small");
    // what some choice uses can be kept, unless all such choices are forbidden; less perhaps not
    let choice: Vec<u32> = sizes.iter().map(|strategies| below(*strategies as u64) as u32).collect();
    let scale = [1, 2, 2, 2, 3, 4][below(6) as usize];
    problem.limits = problem.peaks(&choice).iter().map(|peak| peak * scale / 2).collect();
    problem
}

fn cost(below: &mut impl FnMut(u64) -> u64, forbidden_percent: u64, negative: bool) -> i64 {
    if below(100) < forbidden_percent { FORBIDDEN } else { below(20) as i64 - if negative { 10 } else { 0 } }
}

#[cfg(test)]
mod tests {
    use super::super::brute_force;
    use super::*;

    #[test]
    fn every_kind_of_problem_comes() {
        let problems: Vec<Problem> = (0..400).map(small).collect();
        let count = |holds: &dyn Fn(&Problem) -> bool| problems.iter().filter(|problem| holds(problem)).count();
        assert!(count(&|problem| brute_force(problem).is_none()) > 20, "none of whose choices is feasible");
        assert!(count(&|problem| brute_force(problem).is_some()) > 200, "with an answer");
        assert!(count(&|problem| brute_force(problem).is_some_and(|(total, _)| total < 0)) > 20, "of negative cost");
        assert!(count(&|problem| problem.limits.is_empty()) > 20, "without a limit");
        assert!(count(&|problem| problem.limits.len() > 1) > 50, "of several limits");
        assert!(count(&|problem| (0..problem.nodes()).any(|node| problem.spans(node).len() > 1)) > 20, "of several spans");
        let parallel = |problem: &Problem| {
            let mut pairs: Vec<_> = problem.edges().iter().map(|edge| (edge.a.min(edge.b), edge.a.max(edge.b))).collect();
            pairs.sort_unstable();
            pairs.windows(2).any(|pair| pair[0] == pair[1])
        };
        assert!(count(&parallel) > 50, "with parallel edges");
        let unlimited = |problem: &Problem| {
            let mut problem = problem.clone();
            problem.limits.fill(u64::MAX);
            problem
        };
        let binds = |problem: &Problem| brute_force(problem).is_some_and(|best| brute_force(&unlimited(problem)) != Some(best));
        assert!(count(&binds) > 40, "whose limit changes the answer");
    }
}
