//! Kernels: which operators of a body run as one, as the stack fuses them.
//!
//! An operator is a matrix product, part of a flash attention, or streams through memory. Streaming operators are fused with
//! each other only, and never around a matrix product: each has a depth, the matrix products before it, and only equal depths
//! meet. So groups of a body can be run one after the other.

use std::collections::BTreeMap;

use partita_ir::axis::Role;
use partita_ir::graph::{Class, Def, Graph, Leaf};
use partita_ir::id::{CompositeId, Id, OpId, ValueId};
use partita_ir::scalar::{Binary, Expr, Node};
use partita_ir::signature::SizedRule;

use super::stack::{Attention, Fusion, Stack};
use crate::cost;

/// What kind of kernel a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A matrix product, alone or with others that one call does with it.
    Gemm,
    /// A flash attention, forward or backward.
    Flash,
    /// Anything that streams through memory.
    Stream,
}

/// Operators that run as one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What it is.
    pub kind: Kind,
    /// In order of execution.
    pub ops: Vec<OpId>,
}

/// Values that are another value under another name: moves that keep every element.
pub struct Aliases(BTreeMap<ValueId, ValueId>);

impl Aliases {
    /// Of a whole graph.
    pub fn of(graph: &Graph) -> Self {
        let mut known: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for (index, op) in graph.ops.iter().enumerate() {
            if is_alias(graph, OpId::new(index)) {
                let source = op.operands[0];
                known.insert(op.result(), source);
            }
        }
        Self(known)
    }

    /// What a value is another name of; itself if it is none.
    pub fn root(&self, mut value: ValueId) -> ValueId {
        while let Some(source) = self.0.get(&value) {
            value = *source;
        }
        value
    }
}

/// Whether an operator only renames its operand.
pub fn is_alias(graph: &Graph, op: OpId) -> bool {
    let node = graph.op(op);
    node.rule().is_some_and(|rule| rule.is_move() && rule.reduce.is_none())
        && graph.elements(node.result()) == graph.elements(node.operands[0])
}

/// What a group is made from.
struct Part<'a> {
    op: OpId,
    kind: Kind,
    depth: usize,
    rule: SizedRule<'a>,
}

/// The groups of one body (operators of one phase that run together), in order of their first operator. Operators that only
/// rename are in none.
pub fn groups(graph: &Graph, aliases: &Aliases, body: &[OpId], stack: &Stack) -> Vec<Group> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut at: BTreeMap<ValueId, usize> = BTreeMap::new();
    for &op in body.iter().filter(|op| !is_alias(graph, **op)) {
        let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
        let flash = graph.op(op).composite.is_some_and(|id| is_flash(graph, id, stack));
        let kind = match (flash, is_product(&rule)) {
            (true, _) => Kind::Flash,
            (false, true) => Kind::Gemm,
            (false, false) => Kind::Stream,
        };
        let barrier = kind != Kind::Stream;
        let before = graph.op(op).operands.iter().filter_map(|value| at.get(&aliases.root(*value))).map(|part| &parts[*part]);
        let composite = graph.op(op).composite;
        let one = |part: &Part<'_>| part.kind == Kind::Flash && kind == Kind::Flash && graph.op(part.op).composite == composite;
        let depth = before.map(|part| part.depth + usize::from((barrier || part.kind != Kind::Stream) && !one(part))).max().unwrap_or(0);
        at.insert(graph.op(op).result(), parts.len());
        parts.push(Part { op, kind, depth, rule });
    }
    let mut sets = Sets::new(parts.len());
    for n in 0..parts.len() {
        let producers: Vec<usize> =
            graph.op(parts[n].op).operands.iter().filter_map(|value| at.get(&aliases.root(*value)).copied()).collect();
        let composite = graph.op(parts[n].op).composite;
        match parts[n].kind {
            // one kernel of the whole composite
            Kind::Flash => {
                if let Some(first) = (0..n).find(|m| parts[*m].kind == Kind::Flash && graph.op(parts[*m].op).composite == composite) {
                    sets.join(first, n);
                }
            }
            Kind::Gemm => {
                let shared = |m: &usize| parts[*m].kind == Kind::Gemm && together(graph, aliases, &parts[*m], &parts[n]);
                if let Some(first) = (0..n).filter(|_| stack.merge_gemms).find(shared) {
                    sets.join(first, n);
                }
            }
            Kind::Stream => {
                if stack.merge_gemms
                    && is_sum(&parts[n].rule.rule.expr)
                    && producers.len() > 1
                    && producers.iter().all(|m| parts[*m].kind == Kind::Gemm)
                {
                    producers.windows(2).for_each(|pair| sets.join(pair[0], pair[1]));
                    sets.join(producers[0], n);
                    continue;
                }
                let sum = is_sum(&parts[n].rule.rule.expr) && producers.len() > 1;
                let composite_of = |m: &usize| graph.op(parts[*m].op).composite;
                let one = sum
                    && producers.iter().all(|m| {
                        composite_of(m).is_some() && composite_of(m) == composite_of(&producers[0]) && parts[*m].kind != Kind::Gemm
                    });
                if one {
                    producers.iter().for_each(|m| sets.join(*m, n));
                    if parts[producers[0]].kind == Kind::Flash {
                        parts[n].kind = Kind::Flash;
                        parts[n].depth = parts[producers[0]].depth;
                    }
                    continue;
                }
                for &m in &producers {
                    let same_group = producers.iter().filter(|other| sets.root(**other) == sets.root(m)).count();
                    if fuse(graph, &parts[m], &parts[n], same_group, stack) {
                        sets.join(m, n);
                    }
                }
            }
        }
    }
    let mut found: BTreeMap<usize, Group> = BTreeMap::new();
    for (n, part) in parts.iter().enumerate() {
        let root = sets.root(n);
        let group = found.entry(root).or_insert(Group { kind: parts[root].kind, ops: Vec::new() });
        group.ops.push(part.op);
        if part.kind == Kind::Gemm {
            group.kind = Kind::Gemm;
        }
    }
    found.into_values().collect()
}

/// Whether a rule is a matrix product with rows and columns: each operand has a dimension that the result keeps and the other
/// operand lacks. Products that are only summed over samples (of gains and their like) stream.
pub fn is_product(rule: &SizedRule<'_>) -> bool {
    let walks = |n: usize, factor: usize| rule.rule.operands[n].iter().any(|dim| dim.terms.iter().any(|term| term.factor == factor));
    let own = |n: usize| (0..rule.factors.len()).any(|factor| rule.rule.keeps(factor) && walks(n, factor) && !walks(1 - n, factor));
    cost::is_gemm(rule) && own(0) && own(1)
}

/// Whether a composite is one kernel that never writes its inner values: flash attention, where the stack has it.
pub fn is_flash(graph: &Graph, id: CompositeId, stack: &Stack) -> bool {
    let name = &graph.composites[id.index()].name;
    stack.attention != Attention::Unfused && (name == "attention" || name == "attention_grad")
}

/// Matrix products of one operand with several weights, which stacks do as one: queries, keys and values; gate and up.
fn together(graph: &Graph, aliases: &Aliases, a: &Part<'_>, b: &Part<'_>) -> bool {
    let first = |part: &Part<'_>| aliases.root(graph.op(part.op).operands[0]);
    let is_param = |value: ValueId| matches!(graph.leaf(value), Some(Leaf::Param(_)));
    let attention = |part: &Part<'_>| graph.op(part.op).class == Class::Attention;
    first(a) == first(b) && !is_param(first(a)) && !attention(a) && !attention(b) && a.depth.abs_diff(b.depth) <= 2
}

/// Whether consumer `b` of `a`, both streaming, joins its kernel. `same_group` of its operands come from that kernel.
fn fuse(graph: &Graph, a: &Part<'_>, b: &Part<'_>, same_group: usize, stack: &Stack) -> bool {
    // a bias is added as a product is written
    if a.kind == Kind::Gemm {
        return stack.epilogue && is_scaled_by_weights(graph, b) && b.rule.rule.reduce.is_none() && is_linear(&b.rule.rule.expr);
    }
    if a.kind != Kind::Stream || a.depth != b.depth {
        return false;
    }
    let (op_a, op_b) = (graph.op(a.op), graph.op(b.op));
    if op_a.class == Class::Attention && has_random(&b.rule.rule.expr) {
        return false;
    }
    if op_a.composite.is_some() && op_a.composite == op_b.composite || is_sum(&b.rule.rule.expr) && same_group > 1 {
        return true;
    }
    let norm = |class: Class| class == Class::Norm;
    if norm(op_a.class) && is_scaled_by_weights(graph, b) || norm(op_b.class) && is_scaled_by_weights(graph, a) {
        return !gives_weights(graph, b);
    }
    match stack.fusion {
        Fusion::Eager => false,
        Fusion::Pointwise => {
            let reduces = |part: &Part<'_>| part.rule.rule.reduce.is_some() || norm(graph.op(part.op).class);
            !reduces(a) && !reduces(b) && op_a.class != Class::Loss && op_b.class != Class::Loss
        }
        Fusion::Compiled => !gives_weights(graph, b) || !gives_weights(graph, a),
    }
}

/// Whether all operands but one are parameters.
fn is_scaled_by_weights(graph: &Graph, part: &Part<'_>) -> bool {
    let operands = &graph.op(part.op).operands;
    let params = operands.iter().filter(|value| matches!(graph.leaf(**value), Some(Leaf::Param(_)))).count();
    params > 0 && params + 1 == operands.len()
}

/// Whether the result has no samples: the gradient of a weight.
fn gives_weights(graph: &Graph, part: &Part<'_>) -> bool {
    let value = graph.value(graph.op(part.op).result());
    matches!(value.def, Def::Result(..)) && !value.ty.dims.iter().any(|axis| graph.axis(*axis).role == Role::Batch)
}

/// A sum of operands and nothing else.
pub fn is_sum(expr: &Expr) -> bool {
    expr.nodes.iter().all(|node| matches!(node, Node::Operand(_) | Node::Binary(Binary::Add, ..))) && expr.nodes.len() > 2
}

fn is_linear(expr: &Expr) -> bool {
    expr.nodes.iter().all(|node| matches!(node, Node::Operand(_) | Node::Const(_) | Node::Binary(Binary::Add | Binary::Mul, ..)))
}

/// Whether an expression draws at random.
pub fn has_random(expr: &Expr) -> bool {
    expr.nodes.iter().any(|node| matches!(node, Node::Random { .. }))
}

/// Disjoint sets; a set's root is its first member.
struct Sets(Vec<usize>);

impl Sets {
    fn new(n: usize) -> Self {
        Self((0..n).collect())
    }

    fn root(&self, mut n: usize) -> usize {
        while self.0[n] != n {
            n = self.0[n];
        }
        n
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}
