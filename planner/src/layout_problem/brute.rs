//! The best choice by trying all: for tests, and for problems of a few nodes.

use super::problem::Problem;

/// The cheapest feasible choice and its cost, or `None` if no choice is feasible. Of equally cheap choices it is the
/// first in the order of the nodes' strategies.
///
/// It tries every choice, so the strategies of all nodes multiplied should be a few million at most.
pub fn brute_force(problem: &Problem) -> Option<(i128, Vec<u32>)> {
    let mut choice = vec![0; problem.nodes()];
    let mut best: Option<(i128, Vec<u32>)> = None;
    loop {
        if let Some(total) = problem.total(&choice)
            && best.as_ref().is_none_or(|(least, _)| total < *least)
            && problem.is_feasible(&choice)
        {
            best = Some((total, choice.clone()));
        }
        // the next choice, as a number whose last digit is the last node's strategy
        let node = (0..problem.nodes()).rev().find(|node| choice[*node] as usize + 1 < problem.strategies(*node));
        let Some(node) = node else { return best };
        choice[node] += 1;
        choice[node + 1..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::{FORBIDDEN, ProblemBuilder, Span};
    use super::*;

    #[test]
    fn the_cheapest_feasible_choice_wins() {
        let mut builder = ProblemBuilder::new("p", vec![10]);
        let span = Span { limit: 0, start: 0, end: 1 };
        let a = builder.add_node(&[0, 5, 9], &[span], &[8, 4, 1]).unwrap();
        let b = builder.add_node(&[0, 7], &[span], &[6, 2]).unwrap();
        // 0 + 0 needs 14 bytes, 0 + 7 fits, 5 + 0 fits and is cheaper but for its forbidden pair
        builder.add_edge(a, b, &[0, 1, FORBIDDEN, 0, 0, 0]).unwrap();
        let problem = builder.finish().unwrap();
        assert_eq!(brute_force(&problem), Some((8, vec![0, 1])));
        let mut tight = problem;
        tight.limits = vec![2];
        assert_eq!(brute_force(&tight), None);
        assert_eq!(brute_force(&ProblemBuilder::new("", vec![]).finish().unwrap()), Some((0, vec![])));
    }
}
