//! Sums of which one index counts: gathers and scatters, found in the expression.
//!
//! `Σ_v select(x == index(v), e, 0)` where `x` does not depend on `v` is `e` at `v = x`, or 0 where no such index is
//! local. The same expression with `v` kept and others summed adds `e` to row `x` of the result.

use partita_ir::rule::{Reduce, Rule};
use partita_ir::scalar::{Binary, Expr, Node, NodeId, Real};

use super::nest::{Class, Nest, Place};

/// A sum of which one index counts.
pub struct Choice {
    /// The loop over `v`.
    pub loop_index: usize,
    /// Which index counts.
    pub index: Expr,
    /// What is summed there.
    pub value: Expr,
}

impl Choice {
    /// The choice that a rule makes, if it does and something is summed.
    pub fn of(rule: &Rule, nest: &Nest) -> Option<Self> {
        let reduced = nest.loops.iter().any(|l| l.class == Class::Reduced);
        if !matches!(rule.reduce, None | Some(Reduce::Sum)) || !reduced {
            return None;
        }
        let nodes = &rule.expr.nodes;
        let Node::Select(condition, value, other) = nodes[rule.expr.root as usize] else { return None };
        let Node::Const(Real(0.0)) = nodes[other as usize] else { return None };
        let Node::Binary(Binary::Eq, a, b) = nodes[condition as usize] else { return None };
        [(a, b), (b, a)].into_iter().find_map(|(index, along)| {
            let Node::Index(factor) = nodes[along as usize] else { return None };
            let Place::Loop(loop_index) = nest.places[factor] else { return None };
            let sub = |root: NodeId| Expr { nodes: nodes.clone(), root }.pruned();
            let index = sub(index);
            let constant = matches!(index.nodes[index.root as usize], Node::Const(_));
            let free = !depends(&index, nest, loop_index);
            (free && !constant).then(|| Self { loop_index, index, value: sub(value) })
        })
    }
}

/// Whether an expression changes along a loop.
pub fn depends(expr: &Expr, nest: &Nest, loop_index: usize) -> bool {
    let along = &nest.loops[loop_index];
    expr.nodes.iter().any(|node| match node {
        Node::Operand(n) => !nest.is_uniform(*n, along),
        Node::Index(factor) => matches!(nest.places[*factor], Place::Loop(index) if index == loop_index),
        Node::Random { salt, factors } => {
            nest.draws.iter().any(|draw| draw.salt == *salt && draw.factors == *factors && (along.step(draw.counter) != 0))
        }
        _ => false,
    })
}
