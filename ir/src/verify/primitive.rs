//! Whether rules fit their operands and results.

use super::structure::{LIMIT, product};
use super::{Code, Place, Report};
use crate::graph::{Kind, Op};
use crate::id::{Id, OpId};
use crate::rule::{DimAccess, Reduce, Rule};
use crate::scalar::{Expr, Node};

pub(super) fn check(report: &mut Report<'_>) {
    for (index, op) in report.graph.ops.iter().enumerate() {
        if let Kind::Map(rule) = &op.kind {
            primitive(report, Place::Op(OpId::new(index)), op, rule);
        }
    }
}

fn primitive(report: &mut Report<'_>, at: Place, op: &Op, rule: &Rule) {
    let graph = report.graph;
    expression(report, at, &rule.expr, rule);
    let (reads, operands, results) = (rule.operands.len(), op.operands.len(), op.results.len());
    let text = || format!("its rule reads {reads} operands; it has {operands} and {results} results");
    if !report.check(reads == operands && results == 1, Code::Arity, at, text) {
        return;
    }
    // the accesses beside the values that they walk, the result's last
    let accesses: Vec<_> = rule.operands.iter().zip(op.operands.iter().copied()).chain([(&rule.result, op.result())]).collect();
    for (access, value) in &accesses {
        let rank = graph.value(*value).ty.dims.len();
        let name = &graph.value(*value).name;
        report
            .check(access.len() == rank, Code::Rank, at, || format!("it walks {} dimensions of `{name}`, which has {rank}", access.len()));
    }
    let named: Vec<usize> = accesses.iter().flat_map(|(access, _)| Rule::factors_of(access)).collect();
    let mut in_range = true;
    for &factor in &named {
        in_range &= factor_range(report, at, factor, rule);
    }
    if !in_range {
        return;
    }
    for factor in rule.unwalked() {
        let name = &graph.axis(rule.factors[factor]).name;
        report.check(false, Code::FactorUnused, at, || format!("nothing reads factor {factor} `{name}`"));
    }
    let sizes = graph.factor_sizes(rule);
    let dims: Vec<&DimAccess> = accesses.iter().flat_map(|(access, _)| access.iter()).collect();
    let small = product(sizes.iter().copied()).is_some() && dims.iter().all(|dim| reach_is_small(dim, &sizes));
    if report.check(small, Code::TooLarge, at, || "its loop or an index that it reads is 2^62 or more".to_owned()) {
        result(report, at, op, rule, &sizes);
    }
    reduction(report, at, rule, &sizes);
}

/// Whether no index that the access can reach, nor the product of its factors, overflows.
fn reach_is_small(dim: &DimAccess, sizes: &[u64]) -> bool {
    let steps = dim.terms.iter().map(|term| i128::from(term.stride).abs() * i128::from(sizes[term.factor]));
    let reach = steps.fold(i128::from(dim.offset).abs(), i128::saturating_add);
    reach < i128::from(LIMIT) && product(dim.terms.iter().map(|term| sizes[term.factor])).is_some()
}

fn result(report: &mut Report<'_>, at: Place, op: &Op, rule: &Rule, sizes: &[u64]) {
    let graph = report.graph;
    let value = graph.value(op.result());
    report.check(value.ty.dtype.is_float(), Code::ResultFloat, at, || format!("its result `{}` is of type {}", value.name, value.ty.dtype));
    let kept: Vec<usize> = Rule::factors_of(&rule.result).collect();
    for (position, factor) in kept.iter().enumerate() {
        report.check(!kept[..position].contains(factor), Code::FactorTwice, at, || format!("its result walks factor {factor} twice"));
    }
    for (dim, axis) in rule.result.iter().zip(&value.ty.dims) {
        let holds = dim.is_exact(graph.size(*axis), &|factor| sizes[factor]);
        report.check(holds, Code::ResultExact, at, || {
            let axis = graph.axis(*axis);
            format!("its factors do not walk `{}` of size {} of its result exactly", axis.name, axis.size)
        });
    }
}

fn reduction(report: &mut Report<'_>, at: Place, rule: &Rule, sizes: &[u64]) {
    let reduced = rule.reduced();
    let graph = report.graph;
    report.check(rule.reduce.is_some() != reduced.is_empty(), Code::Reduce, at, || match rule.reduce {
        Some(reduce) => format!("it reduces by {}, but its result has every factor", reduce.word()),
        None => {
            let names: Vec<_> = reduced.iter().map(|factor| format!("`{}`", graph.axis(rule.factors[*factor]).name)).collect();
            format!("its result lacks factors {}, but nothing says how they are reduced", names.join(", "))
        }
    });
    if let Some(reduce) = rule.reduce.filter(|reduce| reduce.is_tuple()) {
        let single = rule.result.last().and_then(|dim| if let [term] = dim.terms[..] { Some(sizes[term.factor]) } else { None });
        let holds = single.is_some_and(|size| reduce != Reduce::ArgMax || size == 1 + reduced.len() as u64);
        report.check(holds, Code::Tuple, at, || format!("the last dimension of its result cannot hold the tuples of {}", reduce.word()));
    }
}

fn expression(report: &mut Report<'_>, at: Place, expr: &Expr, rule: &Rule) {
    let count = expr.nodes.len();
    report.check((expr.root as usize) < count, Code::Expression, at, || format!("the root is node {} of {count}", expr.root));
    for (position, node) in expr.nodes.iter().enumerate() {
        for input in node.inputs() {
            report.check((input as usize) < position, Code::Expression, at, || format!("node {position} reads node {input}"));
        }
        match node {
            Node::Operand(n) => {
                report.check(*n < rule.operands.len(), Code::Expression, at, || format!("node {position} reads operand {n}"));
            }
            Node::Index(n) => {
                factor_range(report, at, *n, rule);
            }
            Node::Random { factors, .. } => {
                for factor in factors {
                    factor_range(report, at, *factor, rule);
                }
            }
            Node::Const(_) | Node::Unary(..) | Node::Binary(..) | Node::Select(..) => {}
        }
    }
}

fn factor_range(report: &mut Report<'_>, at: Place, factor: usize, rule: &Rule) -> bool {
    let count = rule.factors.len();
    report.check(factor < count, Code::FactorRange, at, || format!("it names factor {factor} of {count}"))
}
