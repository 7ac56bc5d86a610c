//! Simplifying scalar expressions by equality saturation (Willsey et al., 2021), with `egg`.
//!
//! Derivatives and fused operators repeat themselves; each node of an expression is a pass over the elements. [`run`]
//! gives every operator of a graph the cheapest equal expression that is found: all laws are applied to all terms at once
//! until nothing new comes of it or a limit is reached, then the cheapest of all that is equal is read off.
//!
//! - `laws`: what is equal to what, as a table.
//! - `cost`: what an expression costs.
//! - `term`, `extract`: expressions as `egg` sees them, and back.
//!
//! What does not change:
//! - **What decides.** A comparison, `floor`, `sign`, `not` and a condition keep their inputs bit by bit, and so does the
//!   expression of a fold that compares, so that which element is the largest does not depend on it.
//! - **Forms.** A product of operands and a look-up, `select(x == index, e, 0)`, are found by the cost model and the
//!   kernels at the root and stay there.
//! - **What is hidden.** A choice hides what it refuses, be it infinite or no number, and goes on hiding it.
//! - **What layouts read off.** Where an expression is linear in operands, or non-decreasing in one, so is its successor.
//!
//! Limits count nodes and rounds, never time: same expression in, same expression out.

mod cost;
mod extract;
mod laws;
mod term;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::graph::{Graph, Kind};
use crate::rule::{Reduce, Rule};
use crate::scalar::{Binary, Degree, Expr, Node};
use crate::text::print_expr;

/// Expressions with fewer nodes have nothing to gain, and ones with more are sums over many operands.
const SIZES: std::ops::RangeInclusive<usize> = 4..=120;
/// Terms in all classes together.
const TERMS: usize = 2000;
/// Rounds of all laws.
const ROUNDS: usize = 10;

/// Why no more laws were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The expression is too small or too large to be tried.
    Size,
    /// Nothing new came of another round: the expression is the cheapest that the laws can give, as far as the choice
    /// among equal ones went.
    Saturated,
    /// The limit of terms.
    Terms,
    /// The limit of rounds.
    Rounds,
}

/// An expression and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simplified {
    /// The expression; never costs more than what it came from.
    pub expr: Expr,
    /// Why the search stopped.
    pub stop: StopReason,
}

/// The cheapest expression found that is equal to this one.
///
/// ```
/// use partita_ir::formula::{lit, x};
/// use partita_ir::rewrite::simplify;
/// let cube_slope = (x(0) + x(0)) * x(0) + x(0) * x(0);
/// assert_eq!(simplify(&cube_slope.expr()).expr, (x(0) * x(0) * lit(3.0)).expr());
/// ```
pub fn simplify(expr: &Expr) -> Simplified {
    simplify_where(expr, &|_| false)
}

/// The same, where `steady` says which operands are one number for the whole loop: what only depends on those costs
/// nothing.
pub fn simplify_where(expr: &Expr, steady: &dyn Fn(usize) -> bool) -> Simplified {
    if !SIZES.contains(&expr.nodes.len()) {
        return Simplified { expr: expr.clone(), stop: StopReason::Size };
    }
    let mut placed = term::Placed::new(expr, steady);
    let stop = saturate(&mut placed.classes);
    let better = extract::better(expr, &placed, steady)
        .filter(|found| cost::cost(found, steady) <= cost::cost(expr, steady) && keeps_promises(expr, found));
    Simplified { expr: better.unwrap_or_else(|| expr.clone()), stop }
}

fn saturate(classes: &mut term::Classes) -> StopReason {
    for _ in 0..ROUNDS {
        let found: Vec<_> = laws::REWRITES.iter().map(|law| law.search(classes)).collect();
        let mut changed = false;
        for (law, matches) in laws::REWRITES.iter().zip(&found) {
            changed |= !law.apply(classes, matches).is_empty();
            if classes.total_size() > TERMS {
                classes.rebuild();
                return StopReason::Terms;
            }
        }
        classes.rebuild();
        if !changed {
            return StopReason::Saturated;
        }
    }
    StopReason::Rounds
}

/// Whether all that a layout may read off the one expression holds of the other.
fn keeps_promises(before: &Expr, after: &Expr) -> bool {
    let operands = before.nodes.iter().filter_map(|node| match node {
        Node::Operand(n) => Some(*n),
        _ => None,
    });
    let operands: Vec<usize> = operands.collect();
    let rank = |degree: Degree| match degree {
        Degree::Zero => 0,
        Degree::Free => 1,
        Degree::Linear => 2,
        Degree::Other => 3,
    };
    let degree = |member: &dyn Fn(usize) -> bool| {
        let (old, new) = (before.degree(member), after.degree(member));
        // a constant 0 is linear too, anything else free is not
        rank(new) <= rank(old) && !(old == Degree::Linear && new == Degree::Free)
    };
    let alone = operands.iter().all(|a| degree(&|n| n == *a));
    let pairs = operands.iter().all(|a| operands.iter().all(|b| a >= b || degree(&|n| n == *a || n == *b)));
    let rising = |expr: &Expr, n: usize| [Reduce::Max, Reduce::Min].map(|op| expr.non_decreasing(n, op));
    let rises = operands.iter().all(|n| rising(before, *n).iter().zip(rising(after, *n)).all(|(old, new)| !old || new));
    alone && pairs && rises && degree(&|_| true) && hides_no_less(before, after)
}

/// Choices on the way to an operand, as (condition, whether it holds).
type Guards = BTreeSet<(String, bool)>;

/// For each operand the choices under which its value reaches the root, other than through a condition or comparison.
fn reached(expr: &Expr) -> BTreeMap<usize, BTreeSet<Guards>> {
    let mut of_node: Vec<BTreeMap<usize, BTreeSet<Guards>>> = Vec::with_capacity(expr.nodes.len());
    for node in &expr.nodes {
        let mut reads: BTreeMap<usize, BTreeSet<Guards>> = BTreeMap::new();
        match node {
            Node::Operand(n) => drop(reads.insert(*n, BTreeSet::from([Guards::new()]))),
            Node::Select(condition, a, b) => {
                let words = print_expr(&Expr { nodes: expr.nodes.clone(), root: *condition }.pruned());
                for (side, holds) in [(a, true), (b, false)] {
                    for (operand, ways) in &of_node[*side as usize] {
                        for way in ways.iter().filter(|way| !way.contains(&(words.clone(), !holds))) {
                            let mut way = way.clone();
                            way.insert((words.clone(), holds));
                            reads.entry(*operand).or_default().insert(way);
                        }
                    }
                }
            }
            Node::Binary(Binary::Lt | Binary::Le | Binary::Eq | Binary::Ne, ..) => {}
            _ => {
                for (operand, ways) in node.inputs().flat_map(|input| of_node[input as usize].clone()) {
                    reads.entry(operand).or_default().extend(ways);
                }
            }
        }
        of_node.push(reads);
    }
    of_node.swap_remove(expr.root as usize)
}

/// Whether whatever reaches the root of the one expression reaches that of the other. Laws hold where their left sides
/// are finite; a choice around one of them may have hidden where it was not, and must go on hiding it.
fn hides_no_less(before: &Expr, after: &Expr) -> bool {
    let chooses = |expr: &Expr| expr.nodes.iter().any(|node| matches!(node, Node::Select(..)));
    if !chooses(before) {
        return true;
    }
    let old = reached(before);
    reached(after)
        .iter()
        .all(|(operand, ways)| ways.iter().all(|way| old.get(operand).is_some_and(|known| known.iter().any(|fewer| fewer.is_subset(way)))))
}

/// Expressions with the operands that are steady, and what they became.
type Memory = HashMap<(Expr, Vec<usize>), Expr>;

/// What was simplified before: a search compiles one model many times. Nothing iterates over it.
static KNOWN: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

/// The rule with a simpler expression, and which of its operands it still reads the values of. Operands that the
/// expression no longer reads are dropped.
pub fn simplify_rule(rule: &Rule) -> (Rule, Vec<usize>) {
    let all: Vec<usize> = (0..rule.operands.len()).collect();
    let compares = matches!(rule.reduce, Some(Reduce::Max | Reduce::Min | Reduce::ArgMax));
    if compares || !SIZES.contains(&rule.expr.nodes.len()) {
        return (rule.clone(), all);
    }
    let steady: Vec<usize> = all.iter().copied().filter(|n| Rule::factors_of(&rule.operands[*n]).next().is_none()).collect();
    // a lock that was poisoned holds whole entries all the same
    let memory = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (rule.expr.clone(), steady);
    let known = memory().get(&key).cloned();
    let expr = known.unwrap_or_else(|| {
        let expr = simplify_where(&key.0, &|n| key.1.contains(&n)).expr;
        memory().insert(key, expr.clone());
        expr
    });
    let kept: Vec<usize> = all.into_iter().filter(|n| expr.reads(*n) || !rule.expr.reads(*n)).collect();
    let operands = kept.iter().map(|n| rule.operands[*n].clone()).collect();
    let position = |n: usize| kept.iter().position(|known| *known == n).expect("what is read is kept");
    let mut renamed = expr;
    for node in &mut renamed.nodes {
        if let Node::Operand(n) = node {
            *n = position(*n);
        }
    }
    let simpler = Rule { operands, expr: renamed, ..rule.clone() };
    if simpler.unwalked().is_empty() {
        (simpler, kept)
    } else {
        // a fold over a factor that nothing walks any more would be no legal rule
        (rule.clone(), (0..rule.operands.len()).collect())
    }
}

/// Simplifies every operator of a graph.
pub fn run(graph: &mut Graph) {
    for op in &mut graph.ops {
        if let Kind::Map(rule) = &op.kind {
            let (simpler, kept) = simplify_rule(rule);
            op.operands = kept.iter().map(|n| op.operands[*n]).collect();
            op.kind = Kind::Map(simpler);
        }
    }
}
