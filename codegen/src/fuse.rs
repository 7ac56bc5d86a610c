//! Fusion: an elementwise operator whose result is read where it is made disappears into its readers.
//!
//! One rule composes with another by substitution: the producer's factors become what the reader reads the value by,
//! its expression takes the operand's place. So a fused operator is an operator like any other, and what it computes
//! on a shard is what the two computed, since the layouts between them agree.

use std::collections::BTreeMap;

use partita_ir::graph::Graph;
use partita_ir::id::ValueId;
use partita_ir::layout::Mesh;
use partita_ir::rewrite::simplify_rule;
use partita_ir::rule::{DimAccess, Rule, Term};
use partita_ir::scalar::{Binary, Expr, Node, NodeId, Unary};

use crate::lowered::{Lowered, readings};

/// A fused operator reads at most so many tensors.
const MOST_OPERANDS: usize = 8;
/// And its expression has at most so many nodes.
const MOST_NODES: usize = 80;
/// An expression with at most so many nodes is computed again in each of several readers.
const CHEAP_NODES: usize = 12;

/// Fuses what can be fused.
pub fn fuse(graph: &Graph, mesh: &Mesh, mut lowered: Vec<Lowered>) -> Vec<Lowered> {
    // backwards, so that a chain ends in its last reader
    let mut at = lowered.len();
    while at > 0 {
        at -= 1;
        let counts = readings(graph, &lowered);
        let value = lowered[at].result;
        let readers: Vec<usize> =
            (0..lowered.len()).filter(|index| lowered[*index].operands.iter().any(|(read, _)| *read == value)).collect();
        let seen: usize = readers.iter().map(|index| lowered[*index].operands.iter().filter(|(read, _)| *read == value).count()).sum();
        if readers.is_empty() || seen != counts.get(&value).copied().unwrap_or(0) {
            continue;
        }
        let producer = lowered[at].clone();
        if producer.rule.reduce.is_some() || (readers.len() > 1 && !is_cheap(&producer.rule)) {
            continue;
        }
        let fused: Option<Vec<Lowered>> = readers.iter().map(|reader| into(graph, mesh, &producer, &lowered[*reader])).collect();
        if let Some(fused) = fused {
            for (reader, with) in readers.iter().zip(fused) {
                lowered[*reader] = with;
            }
            lowered.remove(at);
        }
    }
    for op in &mut lowered {
        // what nothing was fused into is as simple as it gets
        if graph.op(op.op).rule() != Some(&op.rule) {
            let (rule, kept) = simplify_rule(&op.rule);
            op.operands = kept.iter().map(|n| op.operands[*n].clone()).collect();
            op.rule = rule;
        }
    }
    lowered
}

fn is_cheap(rule: &Rule) -> bool {
    let dear = |node: &Node| {
        matches!(
            node,
            Node::Random { .. }
                | Node::Binary(Binary::Pow | Binary::Div, ..)
                | Node::Unary(
                    Unary::Exp
                        | Unary::Log
                        | Unary::Tanh
                        | Unary::Sin
                        | Unary::Cos
                        | Unary::Sigmoid
                        | Unary::Erf
                        | Unary::Sqrt
                        | Unary::Rsqrt,
                    _
                )
        )
    };
    rule.operands.len() <= 1 && rule.expr.nodes.len() <= CHEAP_NODES && !rule.expr.nodes.iter().any(dear)
}

/// The reader with the producer inside, if that is legal and worth it.
fn into(graph: &Graph, mesh: &Mesh, producer: &Lowered, reader: &Lowered) -> Option<Lowered> {
    if producer.phase != reader.phase || producer.within != reader.within || reader.gemm {
        return None;
    }
    let shape = graph.shape(producer.result);
    let mut out = reader.clone();
    while let Some(n) = out.operands.iter().position(|(value, _)| *value == producer.result) {
        if !out.operands[n].1.same_shards(&producer.layout, &shape, mesh) {
            return None;
        }
        // each element once: an operand that some factor does not walk would be computed again and again
        let walked: Vec<usize> = Rule::factors_of(&out.rule.operands[n]).collect();
        if (0..out.rule.factors.len()).any(|factor| !walked.contains(&factor)) {
            return None;
        }
        let places = substitution(producer, &out.rule.operands[n], &out, &shape)?;
        out = substitute(producer, &out, n, &places);
        if out.operands.len() > MOST_OPERANDS || out.rule.expr.nodes.len() > MOST_NODES {
            return None;
        }
    }
    // what the producer does not depend on must not be lost from a fold
    if !out.rule.unwalked().is_empty() {
        return None;
    }
    Some(out)
}

/// What each factor of the producer is in terms of the reader's.
fn substitution(producer: &Lowered, access: &[DimAccess], reader: &Lowered, shape: &[u64]) -> Option<BTreeMap<usize, DimAccess>> {
    let mut places = BTreeMap::new();
    for ((made, read), size) in producer.rule.result.iter().zip(access).zip(shape) {
        if !read.is_exact(*size, &|factor| reader.factors[factor]) {
            return None;
        }
        match made.terms[..] {
            [term] => drop(places.insert(term.factor, read.clone())),
            _ => {
                // a merged axis on both sides, of the same factors
                let alike = made.terms.len() == read.terms.len()
                    && made
                        .terms
                        .iter()
                        .zip(&read.terms)
                        .all(|(a, b)| a.stride == b.stride && producer.factors[a.factor] == reader.factors[b.factor]);
                if !alike {
                    return None;
                }
                for (a, b) in made.terms.iter().zip(&read.terms) {
                    places.insert(a.factor, DimAccess::factor(b.factor));
                }
            }
        }
    }
    Some(places)
}

fn substitute(producer: &Lowered, reader: &Lowered, n: usize, places: &BTreeMap<usize, DimAccess>) -> Lowered {
    let mut out = reader.clone();
    out.operands.remove(n);
    out.rule.operands.remove(n);
    // the producer's operands join the reader's; the same reading of the same value is one
    let mut position_of: Vec<usize> = Vec::new();
    for ((value, layout), access) in producer.operands.iter().zip(&producer.rule.operands) {
        let access: Vec<DimAccess> = access
            .iter()
            .map(|dim| DimAccess {
                terms: dim
                    .terms
                    .iter()
                    .flat_map(|term| {
                        places[&term.factor]
                            .terms
                            .iter()
                            .map(move |inner| Term { factor: inner.factor, stride: inner.stride * term.stride })
                    })
                    .collect(),
                offset: dim.offset,
            })
            .collect();
        let known: Option<usize> =
            out.operands.iter().zip(&out.rule.operands).position(|((other, other_layout), other_access): (&(ValueId, _), _)| {
                other == value && other_layout == layout && *other_access == access
            });
        position_of.push(known.unwrap_or_else(|| {
            out.operands.push((*value, layout.clone()));
            out.rule.operands.push(access);
            out.operands.len() - 1
        }));
    }
    let mut expr = Expr::default();
    let inner = inline(&mut expr, &producer.rule.expr, &position_of, places);
    let root = expr.graft(
        &reader.rule.expr,
        &mut |expr, operand| match operand.cmp(&n) {
            std::cmp::Ordering::Equal => inner,
            std::cmp::Ordering::Less => expr.push(Node::Operand(operand)),
            std::cmp::Ordering::Greater => expr.push(Node::Operand(operand - 1)),
        },
        &|factor| factor,
    );
    expr.root = root;
    out.rule.expr = expr.pruned();
    out
}

/// The producer's expression with its operands renumbered and its factors replaced.
fn inline(expr: &mut Expr, of: &Expr, position_of: &[usize], places: &BTreeMap<usize, DimAccess>) -> NodeId {
    let mut placed: Vec<NodeId> = Vec::with_capacity(of.nodes.len());
    for node in &of.nodes {
        let at = |id: NodeId| placed[id as usize];
        let id = match node {
            Node::Operand(n) => expr.push(Node::Operand(position_of[*n])),
            Node::Index(factor) => {
                let mut sum = expr.literal(0.0);
                for term in &places[factor].terms {
                    let (index, stride) = (expr.push(Node::Index(term.factor)), expr.literal(term.stride as f64));
                    let scaled = expr.binary(Binary::Mul, index, stride);
                    sum = expr.binary(Binary::Add, sum, scaled);
                }
                sum
            }
            // row-major over the parts of a merged axis is row-major over the axis
            Node::Random { salt, factors } => {
                let factors = factors.iter().flat_map(|factor| places[factor].terms.iter().map(|term| term.factor)).collect();
                expr.push(Node::Random { salt: *salt, factors })
            }
            Node::Unary(op, a) => expr.unary(*op, at(*a)),
            Node::Binary(op, a, b) => expr.binary(*op, at(*a), at(*b)),
            Node::Select(c, a, b) => expr.select(at(*c), at(*a), at(*b)),
            Node::Const(value) => expr.push(Node::Const(*value)),
        };
        placed.push(id);
    }
    placed[of.root as usize]
}
