//! What work and communication cost on a cluster. One function a kind; each doc is its formula.

use partita_ir::boxing::{Shape, Step, StepKind};
use partita_ir::dtype::DType;
use partita_ir::graph::Graph;
use partita_ir::id::OpId;
use partita_ir::layout::Mesh;
use partita_ir::rule::Reduce;
use partita_ir::scalar::{Expr, Node};
use partita_ir::signature::{Signature, SizedRule};

use crate::cluster::{Cluster, Part};
use crate::collective::{self, Collective, Spread};

/// What an operator does on the busiest rank, once.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Work {
    /// Floating-point operations of a matrix product (2 per multiply-add), else 0.
    pub gemm_flops: f64,
    /// Bytes read and written.
    pub bytes: f64,
}

/// Whether the rule is a matrix product: a sum of products of two operands (perhaps scaled) over some factor.
pub fn is_gemm(rule: &SizedRule<'_>) -> bool {
    rule.rule.operands.len() == 2
        && rule.rule.reduce == Some(Reduce::Sum)
        && is_product(&rule.rule.expr)
        && rule.rule.operands.iter().all(|access| !access.is_empty())
        && (0..rule.factors.len()).any(|factor| !rule.rule.keeps(factor))
}

/// Whether an expression is the product of operands 0 and 1, in either order, perhaps times a constant.
fn is_product(expr: &Expr) -> bool {
    let mut factors = vec![expr.root];
    let mut operands = Vec::new();
    while let Some(id) = factors.pop() {
        match expr.nodes[id as usize] {
            Node::Binary(partita_ir::scalar::Binary::Mul, a, b) => factors.extend([a, b]),
            Node::Operand(n) => operands.push(n),
            Node::Const(_) => {}
            _ => return false,
        }
    }
    operands.sort_unstable();
    operands == [0, 1]
}

/// Flops are `2 · points` for a matrix product. Bytes are those of the operands' and the result's local parts; of a
/// table that is only looked up, those of the rows that are touched.
pub fn work(graph: &Graph, op: OpId, rule: &SizedRule<'_>, signature: &Signature, mesh: &Mesh) -> Work {
    let node = graph.op(op);
    let dtype = |value| graph.value(value).ty.dtype;
    let result = rule.result_layout(signature).largest_shard(&rule.result, mesh);
    let mut bytes = dtype(node.result()).bytes(result) as f64;
    let lookup = rule.looked_up();
    for (n, operand) in node.operands.iter().enumerate() {
        let walks_lookup =
            lookup.is_some_and(|factor| rule.rule.operands[n].iter().any(|dim| dim.terms.iter().any(|t| t.factor == factor)));
        let held = rule.operand_layout(n, signature).largest_shard(&rule.operands[n], mesh);
        let touched = if walks_lookup && !rule.rule.keeps(lookup.unwrap_or(0)) { held.min(result) } else { held };
        bytes += dtype(*operand).bytes(touched) as f64;
    }
    let gemm_flops = if is_gemm(rule) { 2.0 * rule.largest_work(signature, mesh) } else { 0.0 };
    Work { gemm_flops, bytes }
}

/// `t = launch + max(flops / peak of products in `dtype`, bytes / memory rate)` (roofline), times ranks per core where cores are fewer; of several kinds of
/// devices the slowest's.
pub fn compute_seconds(cluster: &Cluster, dtype: DType, work: Work) -> f64 {
    let on = |part: Part<'_>| {
        let share = part.cores_per_rank().min(1.0);
        let flops = work.gemm_flops / (part.device.peak(dtype).0 * share);
        let bytes = work.bytes / (part.device.memory_rate().0 * share);
        part.device.launch().0 + flops.max(bytes)
    };
    cluster.parts().map(on).fold(0.0, f64::max)
}

/// A local step costs its memory traffic; any other also its [`collective`], that of the slowest group. A step by slice intersections is an
/// all-to-all of what the busiest rank receives.
pub fn step_seconds(cluster: &Cluster, shape: &Shape<'_>, step: &Step, element_bytes: f64) -> f64 {
    let mesh = shape.mesh;
    let touched = (step.from.largest_shard(shape.dims, mesh) + step.to.largest_shard(shape.dims, mesh)) as f64 * element_bytes;
    let memory = compute_seconds(cluster, DType::F32, Work { gemm_flops: 0.0, bytes: touched });
    let kind = match step.kind {
        StepKind::Slice | StepKind::Keep | StepKind::Pad => return memory,
        StepKind::AllReduce => Collective::AllReduce,
        StepKind::ReduceScatter => Collective::ReduceScatter,
        StepKind::AllGather => Collective::AllGather,
        StepKind::AllToAll | StepKind::Exchange => Collective::AllToAll,
    };
    let received = shape.received(step) * element_bytes;
    let seconds = |spread: &Spread| collective::seconds(spread, kind, received).0;
    Spread::of_axes(cluster, mesh, &step.axes).iter().map(seconds).fold(0.0, f64::max) + memory
}
