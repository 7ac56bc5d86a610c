//! The expected time of a plan: the work and the boxings of every stage under the schedule.

use std::collections::BTreeMap;
use std::rc::Rc;

use partita_ir::boxing::Shape;
use partita_ir::dtype::DType;
use partita_ir::graph::{Graph, Leaf, PhaseKind};
use partita_ir::id::{Id, OpId, ValueId};
use partita_ir::layout::Layout;
use partita_ir::signature::SizedRule;

use crate::cluster::Cluster;
use crate::cost;
use crate::layouts::{Boxings, Layouts, accumulated, primitives};
use crate::mesh::MeshPlan;
use crate::plan::Predicted;
use crate::stages::{CutError, PartSeconds, StageCut};

/// Seconds of one execution.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seconds {
    /// Computing.
    pub compute: f64,
    /// Boxing.
    pub boxing: f64,
}

impl Seconds {
    fn add(&mut self, other: Seconds) {
        self.compute += other.compute;
        self.boxing += other.boxing;
    }
    fn total(self) -> f64 {
        self.compute + self.boxing
    }
}

/// Seconds of one execution of every primitive, with the boxings of what it reads, of accumulations and assignments.
/// Products are of type `product`.
pub fn per_operator(graph: &Graph, mesh: &MeshPlan, cluster: &Cluster, layouts: &Layouts, product: DType) -> BTreeMap<OpId, Seconds> {
    let boxings = Boxings::new(cluster, &mesh.mesh);
    let copies: BTreeMap<(ValueId, PhaseKind), &Layout> = layouts.copies.iter().map(|(v, p, l)| ((*v, *p), l)).collect();
    let boxed = |value: ValueId, from: &Layout, to: &Layout| {
        let ty = &graph.value(value).ty;
        boxings.seconds(&graph.shape(value), from, to, ty.dtype.bytes(8) as f64 / 8.0)
    };
    let mut paid: Vec<(ValueId, PhaseKind)> = Vec::new();
    let mut out = BTreeMap::new();
    for (op, phase, _) in primitives(graph) {
        let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
        let signature = &layouts.signatures[&op];
        let work = cost::work(graph, op, &rule, signature, &mesh.mesh);
        let mut seconds = Seconds { compute: cost::compute_seconds(cluster, product, work), boxing: 0.0 };
        for (n, operand) in graph.op(op).operands.iter().enumerate() {
            let needed = rule.operand_layout(n, signature);
            let from = layouts.of(graph, *operand);
            match copies.get(&(*operand, phase)) {
                Some(copy) => {
                    if !paid.contains(&(*operand, phase)) {
                        paid.push((*operand, phase));
                        seconds.boxing += boxed(*operand, &from, copy);
                    }
                    seconds.boxing += boxed(*operand, copy, &needed);
                }
                None => seconds.boxing += boxed(*operand, &from, &needed),
            }
        }
        out.insert(op, seconds);
    }
    for leaf in graph.leaves(|leaf| matches!(leaf, Leaf::Accumulated(_))).collect::<Vec<_>>() {
        if let Some(Leaf::Accumulated(from)) = graph.leaf(leaf)
            && let Some(op) = graph.def_op(*from).and_then(|op| out.get_mut(&op))
        {
            op.boxing += boxed(*from, &accumulated(&layouts.of(graph, *from), &mesh.mesh), &layouts.of(graph, leaf));
        }
    }
    for assign in &graph.assigns {
        if let Some(op) = graph.def_op(assign.value).and_then(|op| out.get_mut(&op)) {
            op.boxing += boxed(assign.value, &layouts.of(graph, assign.value), &layouts.of(graph, assign.target));
        }
    }
    out
}

/// The cut into stages and the step's time. `t = Σ t_s + (m − 1) max t_s + update` for GPipe and 1F1B alike, t_s being
/// one micro-batch's forward and backward on stage s with what it sends on.
///
/// Stage s lives on the ranks from `s · ranks of the mesh`. In a mixed cluster it is timed on the devices and links of the groups that
/// they lie in, and the cut gives faster stages more. Not seen: all stages have the layouts that are best where the slowest device of
/// all is everywhere; within a stage each rank has as much to do, however fast it is; every rank may fill no more than the smallest memory.
pub fn evaluate(
    graph: &Graph,
    mesh: &MeshPlan,
    cluster: &Cluster,
    layouts: &Layouts,
    product: DType,
    stages: u64,
    tokens: u64,
) -> Result<(StageCut, Predicted), CutError> {
    let ranks = mesh.mesh.ranks();
    let mut seconds: Vec<Rc<BTreeMap<OpId, Seconds>>> = Vec::new();
    let mut seen_before = None;
    for stage in 0..stages {
        let seen = cluster.around(&(stage * ranks..(stage + 1) * ranks));
        let known = seconds.last().filter(|_| seen_before.as_ref() == Some(&seen)).cloned();
        seconds.push(known.unwrap_or_else(|| Rc::new(per_operator(graph, mesh, &seen, layouts, product))));
        seen_before = Some(seen);
    }
    // with all iterations on the first of two stages, what comes after the loops is alone on the second
    let probe_homes = StageCut::of_units(graph, 2, &[], &[]).homes(graph);
    let of_parts = |seconds: &Rc<BTreeMap<OpId, Seconds>>| {
        let mut on = PartSeconds { iteration: vec![0.0; graph.loops.len()], before: 0.0, after: 0.0 };
        for (op, _, within) in primitives(graph).into_iter().filter(|(_, phase, _)| phase.per_micro_batch()) {
            let total = seconds[&op].total();
            match within {
                Some(id) => on.iteration[id.index()] += total,
                None if probe_homes.ops.get(&(op, 0)).copied().flatten() == Some(0) => on.before += total,
                None => on.after += total,
            }
        }
        on
    };
    let cut = StageCut::balanced(graph, &seconds.iter().map(of_parts).collect::<Vec<_>>())?;
    let homes = cut.homes(graph);
    let n = stages as usize;
    let (mut micro, mut once) = (vec![Seconds::default(); n], vec![Seconds::default(); n]);
    for (op, phase, within) in primitives(graph) {
        for step in 0..graph.iterations(within) {
            let home = homes.ops.get(&(op, step)).copied().flatten().unwrap_or(0) as usize;
            let list = if phase.per_micro_batch() { &mut micro } else { &mut once };
            list[home].add(seconds[home][&op]);
        }
    }
    let slowest = (0..n).max_by(|a, b| micro[*a].total().total_cmp(&micro[*b].total())).unwrap_or(0);
    let m = mesh.micro_batches as f64;
    let hop = stage_hop(graph, mesh, cluster, layouts, stages);
    let fill: f64 = micro.iter().map(|s| s.total()).sum::<f64>() - micro[slowest].total() + 2.0 * hop * (stages - 1) as f64;
    let update = once.iter().map(|s| s.total()).fold(0.0, f64::max);
    let step_seconds = m * micro[slowest].total() + fill + update;
    let predicted = Predicted {
        step_seconds,
        usd_per_step: step_seconds / 3600.0 * cluster.usd_per_hour(&(0..ranks * stages)),
        compute_seconds: m * micro[slowest].compute + once[slowest].compute,
        boxing_seconds: m * micro[slowest].boxing + once[slowest].boxing,
        bubble_seconds: fill,
        tokens,
    };
    Ok((cut, predicted))
}

/// Seconds to hand a carried value to the next stage.
fn stage_hop(graph: &Graph, mesh: &MeshPlan, cluster: &Cluster, layouts: &Layouts, stages: u64) -> f64 {
    if stages == 1 {
        return 0.0;
    }
    let ranks = mesh.mesh.ranks();
    let link = cluster.link(ranks, stages);
    let mut largest = 0.0f64;
    for op in graph.phase(PhaseKind::Forward) {
        if let partita_ir::graph::Kind::Repeat(repeat) = &graph.op(*op).kind {
            for carried in &repeat.carried {
                let shape = graph.shape(carried.arg);
                let held = Shape { dims: &shape, mesh: &mesh.mesh };
                let elements = layouts.of(graph, carried.arg).largest_shard(held.dims, held.mesh);
                largest = largest.max(graph.value(carried.arg).ty.dtype.bytes(elements) as f64);
            }
        }
    }
    link.latency.0 + largest / link.rate.0
}
