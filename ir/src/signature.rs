//! Signatures: what the sharding rule of an operator admits, on one mesh axis and on many.
//!
//! Nothing here knows an operator by name. From the rule alone follow, on one mesh axis:
//! - *replicate*: every operand and the result B;
//! - *split* a factor: operands that walk it S, the others B; the result S, or P(op) if the factor is folded by op.
//!   A dimension that is not walked exactly (a slice, a window) is S through the window of the factor: ranks hold what
//!   their part of it needs, given all of the dimension's other factors, which then stay whole. The components of a tuple
//!   cannot be split, nor a factor that walks a tensor twice;
//! - *pass* P(op): an expression that is linear in some operands together passes P(sum) of all of them through a sum
//!   or no fold; one that is non-decreasing in an operand passes its P(max) and P(min) through the same fold, through
//!   none, and through a look-up; a pure move passes every P. Rounding is not linear: an operator whose result is of a
//!   narrower type than an operand passes no P(sum) of it, be it a cast; it is non-decreasing, and P(max) passes.
//!
//! On a mesh of several axes a signature is any choice for each of them, with an order in which splits of one factor
//! nest.

use serde::{Deserialize, Serialize};

use crate::axis::Role;
use crate::graph::Graph;
use crate::id::OpId;
use crate::layout::{Layout, Mesh, Partition, Share, Split, Window};
use crate::rule::{DimAccess, Reduce, Rule};
use crate::scalar::{Binary, Degree, Expr, Node, NodeId, Real};

/// What an operator does on one mesh axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// All ranks do the same.
    Replicate,
    /// Ranks deal out this factor.
    Split {
        /// The factor of the rule.
        factor: usize,
        /// How it is dealt out.
        partition: Partition,
    },
    /// The operands in the set are P(op), the others B, and so the result is P(op).
    Pass {
        /// The reduction that is pending.
        op: Reduce,
        /// The operands that are P, ascending.
        operands: Vec<usize>,
    },
}

/// A choice for every mesh axis of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signature {
    /// One choice for each mesh axis.
    pub choices: Vec<Choice>,
    /// Mesh axes in the order in which splits of one dimension nest, outermost first.
    pub order: Vec<usize>,
}

/// A rule with the sizes that its graph gives it.
#[derive(Clone, Debug)]
pub struct SizedRule<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Sizes of the factors.
    pub factors: Vec<u64>,
    /// Shapes of the operands.
    pub operands: Vec<Vec<u64>>,
    /// Whether each operand holds floating-point numbers.
    pub floats: Vec<bool>,
    /// Whether each operand is rounded to a narrower type on its way into the result.
    pub narrowed: Vec<bool>,
    /// Shape of the result.
    pub result: Vec<u64>,
}

/// Why a factor is not dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whole {
    /// An operand is read along it in two dimensions at once.
    Twice,
    /// The factor numbers the parts of a tuple, which are merged together.
    Component,
}

impl std::fmt::Display for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Whole::Twice => "an operand is read along it in two dimensions at once; shards that follow a diagonal would lift this",
            Whole::Component => "it numbers the parts of a tuple, which are merged together; no rule lifts this",
        })
    }
}

impl<'a> SizedRule<'a> {
    /// The rule of a primitive of a graph.
    pub fn of(graph: &'a Graph, op: OpId) -> Option<Self> {
        let op = graph.op(op);
        let rule = op.rule()?;
        let result = graph.value(op.result()).ty.dtype;
        Some(Self {
            rule,
            factors: graph.factor_sizes(rule),
            operands: op.operands.iter().map(|operand| graph.shape(*operand)).collect(),
            floats: op.operands.iter().map(|operand| graph.value(*operand).ty.dtype.is_float()).collect(),
            narrowed: op.operands.iter().map(|operand| result.narrows(graph.value(*operand).ty.dtype)).collect(),
            result: graph.shape(op.result()),
        })
    }

    fn exact(&self, access: &DimAccess, dim: u64) -> bool {
        access.is_exact(dim, &|factor| self.factors[factor])
    }

    /// Whether ranks may deal out this factor.
    pub fn can_split(&self, factor: usize) -> bool {
        self.whole(factor).is_none()
    }

    /// Why ranks may not deal out this factor, unless they may.
    pub fn whole(&self, factor: usize) -> Option<Whole> {
        let component = self.rule.reduce.is_some_and(Reduce::is_tuple)
            && self.rule.result.last().is_some_and(|dim| dim.terms.iter().any(|term| term.factor == factor));
        if component {
            return Some(Whole::Component);
        }
        let twice = self.rule.operands.iter().any(|access| Rule::factors_of(access).filter(|walked| *walked == factor).count() > 1);
        twice.then_some(Whole::Twice)
    }

    /// Every choice that the rule admits on one mesh axis, replication first.
    pub fn choices(&self) -> Vec<Choice> {
        let mut choices = vec![Choice::Replicate];
        for factor in (0..self.factors.len()).filter(|factor| self.can_split(*factor)) {
            choices.push(Choice::Split { factor, partition: Partition::Balanced });
        }
        choices.extend(self.passes());
        choices
    }

    fn passes(&self) -> Vec<Choice> {
        let rule = self.rule;
        let candidates: Vec<usize> = (0..rule.operands.len()).filter(|n| self.floats[*n] && rule.expr.reads(*n)).collect();
        let mut passes = Vec::new();
        // zeros are a sum of zeros: what a repeat collects begins so
        if rule.operands.is_empty() && rule.expr == Expr::constant(0.0) {
            passes.push(Choice::Pass { op: Reduce::Sum, operands: Vec::new() });
            return passes;
        }
        if rule.is_move() {
            let keeps_components = rule.result.last() == rule.operands[0].last() && self.result.last() == self.operands[0].last();
            let has_components = self.result.last() >= Some(&2);
            let padded = !rule.operands[0].iter().zip(&self.operands[0]).all(|(dim, size)| self.stays_inside(dim, *size));
            let unrounded = |op: Reduce| !self.narrowed[0] || matches!(op, Reduce::Max | Reduce::Min);
            let tuples = |op: Reduce| !op.is_tuple() || keeps_components && has_components;
            for (op, _) in Reduce::ALL.iter().filter(|(op, _)| tuples(*op) && unrounded(*op)) {
                // what lies outside reads 0 on every rank, whose merge must be 0
                if !padded || matches!(op, Reduce::Sum | Reduce::Max | Reduce::Min | Reduce::ArgMax) {
                    passes.push(Choice::Pass { op: *op, operands: vec![0] });
                }
            }
            return passes.into_iter().filter(|_| !candidates.is_empty()).collect();
        }
        if matches!(rule.reduce, None | Some(Reduce::Sum)) {
            let unrounded: Vec<usize> = candidates.iter().copied().filter(|n| !self.narrowed[*n]).collect();
            for operands in subsets(&unrounded) {
                if rule.expr.degree(&|n| operands.contains(&n)) == Degree::Linear {
                    passes.push(Choice::Pass { op: Reduce::Sum, operands });
                }
            }
        }
        for op in [Reduce::Max, Reduce::Min] {
            if rule.reduce.is_none() || rule.reduce == Some(op) || self.only_looks_up() {
                for operands in subsets(&candidates) {
                    if passes_extreme(&rule.expr, op, &operands) {
                        passes.push(Choice::Pass { op, operands });
                    }
                }
            }
        }
        if rule.reduce == Some(Reduce::LogSumExp) && rule.expr == Expr::operand(0) && !self.narrowed[0] {
            passes.push(Choice::Pass { op: Reduce::LogSumExp, operands: vec![0] });
        }
        passes
    }

    /// The factor that a one-hot contraction only looks up: the expression is 0 unless the factor's index equals
    /// something that does not change along it.
    pub fn looked_up(&self) -> Option<usize> {
        let expr = &self.rule.expr;
        let node = |id: NodeId| &expr.nodes[id as usize];
        let Node::Select(condition, _, other) = node(expr.root) else { return None };
        let Node::Const(Real(0.0)) = node(*other) else { return None };
        let Node::Binary(Binary::Eq, a, b) = node(*condition) else { return None };
        [(*a, *b), (*b, *a)].into_iter().find_map(|(place, along)| {
            let Node::Index(factor) = *node(along) else { return None };
            let place = Expr { nodes: expr.nodes.clone(), root: place }.pruned();
            let walks = |n: usize| place.reads(n) && Rule::factors_of(&self.rule.operands[n]).any(|walked| walked == factor);
            (!place.walks(factor) && !(0..self.rule.operands.len()).any(walks)).then_some(factor)
        })
    }

    /// Whether all that is folded is a look-up: of the sum at most one term is not 0.
    fn only_looks_up(&self) -> bool {
        self.rule.reduce == Some(Reduce::Sum) && self.looked_up().is_some_and(|factor| self.rule.reduced() == [factor])
    }

    fn stays_inside(&self, access: &DimAccess, dim: u64) -> bool {
        let reach: i64 = access.terms.iter().map(|term| term.stride * (self.factors[term.factor] as i64 - 1)).sum();
        access.offset >= 0 && access.offset + reach < dim as i64
    }

    /// What an index of a factor needs of a dimension that is not exact.
    fn window(&self, access: &DimAccess, factor: usize) -> Window {
        let others = access.terms.iter().filter(|term| term.factor != factor);
        let (mut first, mut reach) = (access.offset, 1);
        for term in others {
            let span = term.stride * (self.factors[term.factor] as i64 - 1);
            first += span.min(0);
            reach += span.unsigned_abs();
        }
        let stride = access.terms.iter().find(|term| term.factor == factor).map_or(0, |term| term.stride);
        Window { stride, first, reach }
    }

    fn layout(&self, access: &[DimAccess], shape: &[u64], signature: &Signature, pending: &dyn Fn(&Choice) -> Option<Reduce>) -> Layout {
        let mut shares = vec![Share::Broadcast; signature.choices.len()];
        let mut depths = vec![0; access.len()];
        for &axis in &signature.order {
            let choice = &signature.choices[axis];
            if let Some(op) = pending(choice) {
                shares[axis] = Share::Partial(op);
            } else if let Choice::Split { factor, partition } = choice {
                let found = access
                    .iter()
                    .enumerate()
                    .find_map(|(dim, access)| access.terms.iter().find(|term| term.factor == *factor).map(|term| (dim, term.stride)));
                if let Some((dim, stride)) = found {
                    let (size, depth) = (self.factors[*factor], depths[dim]);
                    let split = if self.exact(&access[dim], shape[dim]) {
                        let inner = u64::try_from(stride).expect("an exact access has positive strides");
                        Split::new(dim, size, inner, depth, *partition)
                    } else {
                        Split { window: Some(self.window(&access[dim], *factor)), ..Split::new(dim, size, 1, depth, *partition) }
                    };
                    depths[dim] += 1;
                    shares[axis] = Share::Split(split);
                }
            }
        }
        Layout(shares)
    }

    /// The layout that operand `n` must have.
    pub fn operand_layout(&self, n: usize, signature: &Signature) -> Layout {
        self.layout(&self.rule.operands[n], &self.operands[n], signature, &|choice| match choice {
            Choice::Pass { op, operands } if operands.contains(&n) => Some(*op),
            _ => None,
        })
    }

    /// The layout that the result has.
    pub fn result_layout(&self, signature: &Signature) -> Layout {
        self.layout(&self.rule.result, &self.result, signature, &|choice| match choice {
            Choice::Pass { op, .. } => Some(*op),
            Choice::Split { factor, .. } if !self.rule.keeps(*factor) => self.rule.reduce,
            _ => None,
        })
    }

    /// Whether choices for several axes go together: a value carries one pending reduction at a time, and what is
    /// pending on one axis must pass the fold that another axis has split. Passing P over two axes with different
    /// operands is legal: with what is P over the one axis held, the expression is linear (non-decreasing) in the other.
    /// Of a dimension that is not exact one factor is split.
    pub fn compatible(&self, choices: &[Choice]) -> bool {
        let split: Vec<usize> =
            choices.iter().filter_map(|choice| if let Choice::Split { factor, .. } = choice { Some(*factor) } else { None }).collect();
        let alone =
            self.rule.operands.iter().zip(&self.operands).flat_map(|(access, shape)| access.iter().zip(shape)).all(|(dim, size)| {
                let mut walked = split.iter().filter(|factor| dim.terms.iter().any(|term| term.factor == **factor));
                let first = walked.next();
                walked.all(|factor| Some(factor) == first) || self.exact(dim, *size)
            });
        if !alone {
            return false;
        }
        let pending = |choice: &Choice| match choice {
            Choice::Pass { op, .. } => Some(*op),
            Choice::Split { factor, .. } if !self.rule.keeps(*factor) => self.rule.reduce,
            _ => None,
        };
        let mut ops = choices.iter().filter_map(pending);
        let Some(first) = ops.next() else { return true };
        // what is merged together stays together
        let apart = |choice: &Choice| match choice {
            Choice::Split { factor, .. } => self.rule.result.last().is_some_and(|dim| dim.terms.iter().any(|term| term.factor == *factor)),
            _ => false,
        };
        ops.all(|op| op == first) && !(first.is_tuple() && choices.iter().any(apart))
    }

    /// How many points of the loop space the busiest rank walks.
    pub fn largest_work(&self, signature: &Signature, mesh: &Mesh) -> f64 {
        let mut sizes = self.factors.clone();
        for &axis in &signature.order {
            if let Choice::Split { factor, partition } = &signature.choices[axis] {
                sizes[*factor] = partition.largest(sizes[*factor], mesh.axes[axis].size);
            }
        }
        sizes.iter().map(|size| *size as f64).product()
    }
}

/// The partition that a factor of this role gets on an axis whose preference is `preferred`.
pub fn partition_for(role: Role, preferred: Partition) -> Partition {
    match (role, preferred) {
        (Role::Seq, Partition::Zigzag) => Partition::Zigzag,
        (Role::Batch, Partition::Chunk(length)) => Partition::Chunk(length),
        _ => Partition::Balanced,
    }
}

/// The non-empty subsets of `items`; of more than 6 only single ones and the whole.
fn subsets(items: &[usize]) -> Vec<Vec<usize>> {
    if items.len() > 6 {
        let singles = items.iter().map(|item| vec![*item]);
        return singles.chain([items.to_vec()]).collect();
    }
    (1u32..1 << items.len())
        .map(|mask| items.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, item)| *item).collect())
        .collect()
}

/// Whether P(op) of `operands` passes the expression: it is an `op` of parts, or a choice between parts by what is not
/// P, and each part is non-decreasing in at most one of them.
fn passes_extreme(expr: &Expr, op: Reduce, operands: &[usize]) -> bool {
    let joins = if op == Reduce::Max { Binary::Max } else { Binary::Min };
    let of_set = |root: NodeId| -> Vec<usize> {
        let part = Expr { nodes: expr.nodes.clone(), root }.pruned();
        operands.iter().copied().filter(|n| part.reads(*n)).collect()
    };
    let mut parts = vec![expr.root];
    let mut seen = Vec::new();
    while let Some(part) = parts.pop() {
        match expr.nodes[part as usize] {
            Node::Binary(join, a, b) if join == joins => parts.extend([a, b]),
            Node::Select(condition, a, b) if of_set(condition).is_empty() => parts.extend([a, b]),
            _ => match of_set(part)[..] {
                [] => {}
                [n] if (Expr { nodes: expr.nodes.clone(), root: part }).non_decreasing(n, op) => seen.push(n),
                _ => return false,
            },
        }
    }
    operands.iter().all(|n| seen.contains(n))
}
