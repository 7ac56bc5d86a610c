//! The cotangent of one operand: terms of the loop, summed where the operand is read.
//!
//! A dimension that its factors walk exactly is written as it is read. Any other gets a factor `i` of its own, which
//! walks it whole and must equal `Σ stride · factor + offset`. This is met in one of two ways:
//!
//! - *solved* for a factor `f`: `(i - offset - others) / stride` takes its place, and what is no index of `f` does not
//!   count. With stride 1 the gradient of a window is a window. With a larger one, operands that walk `f` are dilated
//!   before: zeros stand between their elements.
//! - *looked up*: the terms count where `i` is what is read, which is a one-hot contraction.

use std::collections::BTreeMap;

use super::{Pass, drop_factors};
use crate::axis::{Axis, Role};
use crate::formula::{Formula, index, lit, x};
use crate::id::ValueId;
use crate::rule::{DimAccess, Reduce, Rule, Term};
use crate::scalar::{Binary, Expr, Node, NodeId, Unary};

/// A factor as the others give it: `form / stride`.
struct Solution {
    factor: usize,
    stride: i64,
    form: DimAccess,
}

impl Pass<'_> {
    /// The sum of `terms`, which are `weight · ∂expr/∂x_n`, over the factors that operand `n` lacks, written where operand
    /// `n` is read.
    pub(super) fn operand_gradient(&mut self, wide: &Rule, values: &[ValueId], n: usize, terms: &Expr) -> ValueId {
        let dims = self.b.dims(values[n]);
        let mut rule = Rule { expr: terms.clone(), result: wide.operands[n].clone(), ..wide.clone() };
        let mut values = values.to_vec();
        let mut replaced = Vec::new();
        for (position, axis) in dims.iter().enumerate() {
            let access = rule.result[position].clone();
            let walked = |factor: usize| Rule::factors_of(&rule.result[..position]).any(|known| known == factor);
            let twice = access.terms.iter().any(|term| walked(term.factor));
            let sizes = |factor: usize| self.b.graph.size(rule.factors[factor]);
            if !twice && access.is_exact(self.b.graph.size(*axis), &sizes) {
                continue;
            }
            let whole = rule.factors.len();
            let solution = self.solution(&rule, &values, position, whole, &|factor| wide.keeps(factor));
            rule.factors.push(*axis);
            match solution {
                Some(solution) => {
                    replaced.push(solution.factor);
                    self.solve(&mut rule, &mut values, &solution);
                }
                None => {
                    let read = affine(&access);
                    rule.expr = index(whole).equal(read).select(body(&rule.expr, values.len()), lit(0.0)).expr();
                }
            }
            rule.result[position] = DimAccess::factor(whole);
        }
        let (rule, operands) = self.tidy(rule, &values, &replaced);
        self.b.rule("grad", rule, &operands, &dims)
    }

    /// A factor of a dimension of the result for which it can be solved, `whole` being the index there: rather one that
    /// the operator `keeps`, and of those the longest.
    fn solution(&self, rule: &Rule, values: &[ValueId], position: usize, whole: usize, keeps: &dyn Fn(usize) -> bool) -> Option<Solution> {
        let access = &rule.result[position];
        let size = |factor: usize| self.b.graph.size(rule.factors[factor]);
        let alone = |factor: usize| Rule::factors_of(&rule.result).filter(|known| *known == factor).count() == 1;
        let mut candidates: Vec<&Term> = access.terms.iter().filter(|term| term.stride != 0 && alone(term.factor)).collect();
        candidates.sort_by_key(|term| (!keeps(term.factor), std::cmp::Reverse(size(term.factor))));
        candidates.into_iter().find_map(|&Term { factor, stride }| {
            let others = access.terms.iter().filter(|term| term.factor != factor);
            let mut terms = vec![Term { factor: whole, stride: 1 }];
            terms.extend(others.map(|term| Term { factor: term.factor, stride: -term.stride }));
            let solution = Solution { factor, stride, form: DimAccess { terms, offset: -access.offset } };
            let drawn = rule.expr.nodes.iter().any(|node| matches!(node, Node::Random { factors, .. } if factors.contains(&factor)));
            let read = (0..values.len()).filter(|n| rule.expr.reads(*n));
            let fits = read.into_iter().all(|n| {
                let apart = rule.operands[n].iter().filter(|dim| !solution.divides(dim));
                let shape = self.b.graph.shape(values[n]);
                apart.clone().all(|dim| *dim == DimAccess::factor(factor)) && apart.count() <= 1
                    // what lies behind the factor's end would be read too
                    && rule.operands[n].iter().zip(&shape).all(|(dim, whole)| solution.divides(dim) || *whole == size(factor))
            });
            (fits && !drawn).then_some(solution)
        })
    }

    /// Puts a solution in the place of its factor.
    fn solve(&mut self, rule: &mut Rule, values: &mut [ValueId], solution: &Solution) {
        let Solution { factor, stride, form } = solution;
        let (size, apart) = (self.b.graph.size(rule.factors[*factor]), stride.unsigned_abs());
        let mut counted = false;
        for n in (0..values.len()).filter(|n| rule.expr.reads(*n)).collect::<Vec<_>>() {
            let shape = self.b.graph.shape(values[n]);
            // where the factor alone walks an operand, there are zeros outside it, and between its indices once it is dilated
            let alone = rule.operands[n].iter().zip(&shape).position(|(dim, whole)| *dim == DimAccess::factor(*factor) && *whole == size);
            counted |= alone.is_some() && vanishes(&rule.expr, n);
            for (position, dim) in rule.operands[n].iter_mut().enumerate() {
                if solution.divides(dim) {
                    *dim = solution.placed(dim);
                } else {
                    values[n] = self.dilated(values[n], position, apart);
                    *dim = scaled(form, stride.signum());
                }
            }
        }
        let place = affine(form) / lit(*stride as f64);
        let inside = {
            let bounds = lit(0.0).at_most(place.clone()) * place.clone().at_most(lit(size as f64 - 1.0));
            if apart == 1 { bounds } else { bounds * place.clone().unary(Unary::Floor).equal(place.clone()) }
        };
        let place = if *stride == 1 { affine(form) } else { place };
        let indexed = indexed(&rule.expr, *factor, &place.expr());
        rule.expr = if counted { indexed } else { inside.select(body(&indexed, values.len()), lit(0.0)).expr() };
    }

    /// `value` with `apart - 1` zeros behind each index of a dimension.
    fn dilated(&mut self, value: ValueId, dim: usize, apart: u64) -> ValueId {
        let dims = self.b.dims(value);
        let Axis { name, size, role } = self.b.graph.axis(dims[dim]).clone();
        let gap = self.b.axis(&format!("{name}.gap"), apart, Role::None);
        let long = self.b.axis(&format!("{name}.dilated"), size * apart, role);
        let mut rule = Rule {
            factors: [&dims[..], &[gap]].concat(),
            operands: vec![(0..dims.len()).map(DimAccess::factor).collect()],
            result: (0..dims.len()).map(DimAccess::factor).collect(),
            reduce: None,
            expr: index(dims.len()).equal(lit(0.0)).select(x(0), lit(0.0)).expr(),
        };
        rule.result[dim] = DimAccess::merged(&[dim, dims.len()], &|factor| if factor == dim { size } else { apart });
        let mut out = dims;
        out[dim] = long;
        self.b.rule("dilated", rule, &[value], &out)
    }

    /// Drops operands that are not read and factors that nothing walks: a sum over such a factor is a product with
    /// its size, unless another factor has `replaced` it.
    fn tidy(&self, mut rule: Rule, values: &[ValueId], replaced: &[usize]) -> (Rule, Vec<ValueId>) {
        let read: Vec<usize> = (0..values.len()).filter(|n| rule.expr.reads(*n)).collect();
        let mut expr = Expr::default();
        let renamed: BTreeMap<usize, usize> = read.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let mut root = expr.graft(&rule.expr, &mut |expr, n| expr.push(Node::Operand(renamed[&n])), &|factor| factor);
        rule.operands = read.iter().map(|n| rule.operands[*n].clone()).collect();
        expr.root = root;
        rule.expr = expr.clone();
        let gone = rule.unwalked();
        for factor in gone.iter().filter(|factor| !replaced.contains(factor)) {
            let size = expr.literal(self.b.graph.size(rule.factors[*factor]) as f64);
            root = expr.binary(Binary::Mul, root, size);
        }
        expr.root = root;
        rule.expr = expr.pruned();
        let rule = drop_factors(&rule, &gone);
        let rule = Rule { reduce: if rule.reduced().is_empty() { None } else { Some(Reduce::Sum) }, ..rule };
        (rule, read.iter().map(|n| values[*n]).collect())
    }
}

impl Solution {
    /// How many elements of a dimension one index of the factor is.
    fn step(&self, dim: &DimAccess) -> i64 {
        dim.terms.iter().filter(|term| term.factor == self.factor).map(|term| term.stride).sum()
    }

    /// Whether the dimension needs no division by the stride.
    fn divides(&self, dim: &DimAccess) -> bool {
        self.step(dim) % self.stride == 0
    }

    /// The dimension with the solution in the factor's place.
    fn placed(&self, dim: &DimAccess) -> DimAccess {
        let moved = scaled(&self.form, self.step(dim) / self.stride);
        let mut terms: Vec<Term> = dim.terms.iter().filter(|term| term.factor != self.factor).copied().collect();
        for new in moved.terms {
            match terms.iter_mut().find(|known| known.factor == new.factor) {
                Some(known) => known.stride += new.stride,
                None => terms.push(new),
            }
        }
        terms.retain(|term| term.stride != 0);
        DimAccess { terms, offset: dim.offset + moved.offset }
    }
}

fn scaled(form: &DimAccess, by: i64) -> DimAccess {
    let terms = form.terms.iter().map(|term| Term { stride: term.stride * by, ..*term }).collect();
    DimAccess { terms, offset: form.offset * by }
}

/// An access as a number.
fn affine(form: &DimAccess) -> Formula {
    let scaled = |term: &Term| if term.stride == 1 { index(term.factor) } else { lit(term.stride as f64) * index(term.factor) };
    let terms = form.terms.iter().map(scaled);
    let constant = (form.offset != 0 || form.terms.is_empty()).then(|| lit(form.offset as f64));
    terms.chain(constant).reduce(|sum, term| sum + term).expect("there is a term or a constant")
}

/// An expression as a formula.
fn body(expr: &Expr, operands: usize) -> Formula {
    Formula::graft(expr, (0..operands).map(x).collect())
}

/// The expression with `place` for the index of a factor.
fn indexed(expr: &Expr, factor: usize, place: &Expr) -> Expr {
    let mut out = Expr::default();
    let mut placed: Vec<NodeId> = Vec::new();
    for node in &expr.nodes {
        let at = |id: NodeId| placed[id as usize];
        let id = match node {
            Node::Index(known) if *known == factor => {
                out.graft(place, &mut |_, _| unreachable!("a place reads no operand"), &|factor| factor)
            }
            Node::Unary(op, a) => out.unary(*op, at(*a)),
            Node::Binary(op, a, b) => out.binary(*op, at(*a), at(*b)),
            Node::Select(c, a, b) => out.select(at(*c), at(*a), at(*b)),
            leaf => out.push(leaf.clone()),
        };
        placed.push(id);
    }
    out.root = placed[expr.root as usize];
    out.pruned()
}

/// Whether the expression is 0 wherever operand `n` is, whatever finite numbers the others are: a product with it, or a
/// choice of such.
fn vanishes(expr: &Expr, n: usize) -> bool {
    let mut zero: Vec<bool> = Vec::with_capacity(expr.nodes.len());
    for node in &expr.nodes {
        let of = |id: NodeId| zero[id as usize];
        zero.push(match node {
            Node::Operand(m) => *m == n,
            Node::Const(value) => value.0 == 0.0,
            Node::Index(_) | Node::Random { .. } => false,
            Node::Unary(Unary::Neg, a) => of(*a),
            Node::Binary(Binary::Mul, a, b) => of(*a) || of(*b),
            Node::Binary(Binary::Add | Binary::Sub, a, b) | Node::Select(_, a, b) => of(*a) && of(*b),
            Node::Binary(Binary::Lt | Binary::Le | Binary::Eq | Binary::Ne, ..) => false,
            // of numbers that were never meant for them, these may be no finite number
            Node::Unary(..) | Node::Binary(..) => return false,
        });
    }
    zero[expr.root as usize]
}
