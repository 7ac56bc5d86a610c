//! A plan as other programs read it: what `--format json` prints and `plan.json` holds.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::id::ValueId;
use partita_ir::layout::{Layout, MeshAxis, Share, Split};
use partita_ir::program::{Instruction, LeafKind, Program};
use partita_ir::signature::{Choice, SizedRule, Whole};
use partita_planner::cluster::Cluster;
use partita_planner::estimate::step::model_flops;
use partita_planner::plan::Plan;
use partita_planner::units::Bytes;
use partita_runtime::run::prepare::{View, extents};
use serde::{Deserialize, Serialize};

use crate::plan::Planned;
use crate::traffic::traffic;

/// Version of the format of [`Described`].
pub const FORMAT: u32 = 1;

/// Other plans that are shown.
const OTHERS: usize = 20;

/// Everything about a plan that `plan`, `compile` and `inspect` print.
#[derive(Debug, Serialize, Deserialize)]
pub struct Described {
    /// Version of this format: [`FORMAT`].
    pub format: u32,
    pub model: String,
    pub cluster: String,
    /// One line that says what the plan is.
    pub strategy: String,
    pub settings: BTreeMap<String, String>,
    pub degrees: BTreeMap<String, u64>,
    pub zero: u8,
    pub recompute: String,
    pub schedule: String,
    pub micro_batches: u64,
    /// (name, size) of the axes of each stage's mesh, outermost first.
    pub mesh: Vec<(String, u64)>,
    /// For each stage how many iterations of each loop it has.
    pub stages: Vec<BTreeMap<String, u64>>,
    /// Axes whose pieces differ in size.
    #[serde(default)]
    pub uneven: Vec<Uneven>,
    pub step_seconds: f64,
    pub tokens_per_second: f64,
    /// US dollars for the devices, by the cluster's `usd_per_hour`.
    #[serde(default)]
    pub usd_per_step: f64,
    pub compute_seconds: f64,
    pub boxing_seconds: f64,
    pub bubble_seconds: f64,
    /// Of the peak in the precision of products; attention counted in full, recomputation not at all.
    #[serde(default)]
    pub mfu: f64,
    /// What the search, and with it `considered`, took this step for; there if the figures above are from the curves of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searched_seconds: Option<f64>,
    /// Bytes of the fullest rank.
    pub memory_bytes: u64,
    /// The same: programs have their buffers, and no allocator beside them.
    #[serde(default)]
    pub memory_reserved_bytes: u64,
    /// Whether a device has as much.
    #[serde(default)]
    pub fits: bool,
    /// The part of a step in which the busiest stage waits for others.
    #[serde(default)]
    pub bubble_fraction: f64,
    /// Seconds by kind.
    #[serde(default)]
    pub breakdown: BTreeMap<String, f64>,
    /// Bytes of the fullest rank by kind of buffer.
    #[serde(default)]
    pub memory_breakdown: BTreeMap<String, u64>,
    /// Operators that some ranks run as a whole since a factor of theirs cannot be dealt out.
    #[serde(default)]
    pub replicated: Vec<Replicated>,
    /// What a person would want to know.
    #[serde(default)]
    pub warnings: Vec<String>,
    pub ranks: Vec<RankFigures>,
    /// What crosses between ranks in a step.
    pub communication: Vec<Communication>,
    /// Layouts of parameters at rest.
    pub parameters: Vec<LayoutLine>,
    /// Layouts of what operators make, in order.
    pub operators: Vec<LayoutLine>,
    /// Other plans, fastest first.
    pub considered: Vec<ConsideredLine>,
    /// How many there were.
    pub considered_in_all: u64,
}

/// An axis that does not divide.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Uneven {
    pub axis: String,
    pub size: u64,
    /// Mesh axes, outermost split first.
    pub over: Vec<String>,
    /// Elements of each piece, in the order of ranks.
    pub pieces: Vec<u64>,
}

/// An operator with a factor that stays whole.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Replicated {
    pub operator: String,
    pub factor: String,
    /// Why it stays whole, and what would lift that.
    pub reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct RankFigures {
    /// Bytes of parameters at rest.
    pub parameter_bytes: u64,
    /// FLOPs of matrix products in a step.
    pub gemm_flops: u64,
    /// Bytes of the arena.
    pub memory_bytes: u64,
    /// Bytes received in a step.
    pub comm_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Communication {
    pub phase: String,
    pub kind: String,
    pub axes: String,
    /// The value that moves, iterations of its loop counted together.
    pub value: String,
    /// Executions in a step, over all stages.
    pub count: u64,
    /// Shape of the value.
    pub shape: Vec<u64>,
    /// Bytes received by all ranks in a step.
    pub bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LayoutLine {
    pub name: String,
    pub shape: String,
    pub layout: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ConsideredLine {
    pub strategy: String,
    pub step_seconds: f64,
    pub lost: String,
}

/// Describes a plan with its programs.
pub fn describe(planned: &Planned) -> Described {
    let Planned { plan, program, others, cluster, fits, searched_seconds, .. } = planned;
    let graph = &plan.graph;
    let traffic = traffic(program);
    let ranks: Vec<RankFigures> = (0..plan.ranks() as usize)
        .map(|rank| {
            let view = View::new(program, rank);
            let parameters = view.role.leaves.iter().filter(|leaf| matches!(leaf.kind, LeafKind::Param(_)));
            RankFigures {
                parameter_bytes: parameters.map(|leaf| view.place(leaf.buffer, 0).bytes as u64).sum(),
                gemm_flops: gemm_flops(&view),
                memory_bytes: view.role.arena_bytes,
                comm_bytes: traffic.iter().map(|line| line.received[rank]).sum(),
            }
        })
        .collect();
    let communication = traffic.iter().map(|line| Communication {
        phase: line.phase.word().into(),
        kind: line.kind.into(),
        axes: line.axes.clone(),
        value: line.value.clone(),
        count: line.count,
        shape: line.shape.clone(),
        bytes: line.received.iter().sum(),
    });
    let operators = partita_planner::layouts::primitives(graph).into_iter().map(|(op, phase, _)| {
        let value = graph.op(op).result();
        layout_line(plan, value, format!("{} {} {}", phase.word(), graph.op(op).class.word(), graph.value(value).name))
    });
    let considered = others.iter().take(OTHERS).map(|other| ConsideredLine {
        strategy: other.strategy.clone(),
        step_seconds: other.step_seconds,
        lost: other.lost.clone(),
    });
    let d = plan.degrees;
    Described {
        format: FORMAT,
        model: plan.model.clone(),
        cluster: plan.cluster.clone(),
        strategy: plan.strategy(),
        settings: plan.settings.iter().cloned().collect(),
        degrees: [("dp", d.dp), ("tp", d.tp), ("cp", d.cp), ("pp", d.pp), ("mbs", d.mbs)].map(|(name, n)| (name.to_owned(), n)).into(),
        zero: plan.zero,
        recompute: partita_planner::plan::recompute_word(plan.recompute).into(),
        schedule: plan.schedule.word().into(),
        micro_batches: program.micro_batches,
        mesh: program.mesh.axes.iter().map(|axis| (axis.name.clone(), axis.size)).collect(),
        stages: plan.cut.chunks(graph),
        uneven: uneven(plan),
        step_seconds: plan.predicted.step_seconds,
        tokens_per_second: plan.predicted.tokens as f64 / plan.predicted.step_seconds,
        usd_per_step: plan.predicted.usd_per_step,
        compute_seconds: plan.predicted.compute_seconds,
        boxing_seconds: plan.predicted.boxing_seconds,
        bubble_seconds: plan.predicted.bubble_seconds,
        mfu: model_flops(graph) / plan.predicted.step_seconds / peak(cluster, plan),
        searched_seconds: *searched_seconds,
        memory_bytes: ranks.iter().map(|rank| rank.memory_bytes).max().unwrap_or(0),
        memory_reserved_bytes: ranks.iter().map(|rank| rank.memory_bytes).max().unwrap_or(0),
        fits: *fits,
        bubble_fraction: plan.predicted.bubble_seconds / plan.predicted.step_seconds,
        breakdown: [
            ("compute", plan.predicted.compute_seconds),
            ("exposed", plan.predicted.boxing_seconds),
            ("hidden", 0.0),
            ("bubble", plan.predicted.bubble_seconds),
        ]
        .map(|(kind, seconds)| (kind.to_owned(), seconds))
        .into(),
        memory_breakdown: memory_breakdown(program),
        replicated: replicated(plan),
        warnings: warnings(plan, cluster, *fits),
        ranks,
        communication: communication.collect(),
        parameters: graph.params().map(|value| layout_line(plan, value, graph.value(value).name.clone())).collect(),
        operators: operators.collect(),
        considered: considered.collect(),
        considered_in_all: others.len() as u64,
    }
}

/// FLOP/s of all ranks together, at the plan's precision.
fn peak(cluster: &Cluster, plan: &Plan) -> f64 {
    let of = |rank: u64| cluster.device_of(rank).peak(plan.train.precision.product).0;
    (0..plan.ranks()).map(of).sum::<f64>() * cluster.cores_per_rank().min(1.0)
}

/// Bytes of the fullest rank by kind; a model's own states are with its parameters, and temporaries are what is left, gaps between buffers among them.
fn memory_breakdown(program: &Program) -> BTreeMap<String, u64> {
    let Some(role) = program.roles.iter().max_by_key(|role| role.arena_bytes) else { return BTreeMap::new() };
    let of = |wanted: &dyn Fn(&LeafKind) -> bool| -> u64 {
        role.leaves.iter().filter(|leaf| wanted(&leaf.kind)).map(|leaf| role.buffers[leaf.buffer].bytes).sum()
    };
    let parameters = of(&|kind| matches!(kind, LeafKind::Param(_) | LeafKind::State(_)));
    let gradients: u64 = role.gradients.iter().map(|(_, buffer)| role.buffers[*buffer].bytes).sum();
    let optimizer = of(&|kind| matches!(kind, LeafKind::Moment(_) | LeafKind::Copy { .. }));
    let activations = role.saved_stride * role.in_flight;
    let temporaries = role.arena_bytes.saturating_sub(parameters + gradients + optimizer + activations);
    let parts = [
        ("parameters", parameters),
        ("gradients", gradients),
        ("optimizer", optimizer),
        ("activations", activations),
        ("temporaries", temporaries),
    ];
    parts.map(|(kind, bytes)| (kind.to_owned(), bytes)).into()
}

/// What a person would want to know of a plan.
fn warnings(plan: &Plan, cluster: &Cluster, fits: bool) -> Vec<String> {
    let mut out = Vec::new();
    for repeated in plan.graph.loops.iter().filter(|repeated| !repeated.count.is_multiple_of(plan.cut.stages)) {
        out.push(format!("{} iterations of `{}` do not divide into {} stages", repeated.count, repeated.name, plan.cut.stages));
    }
    if !fits {
        out.push(format!("does not fit into the {} of a device", Bytes(cluster.device.memory_bytes)));
    }
    out
}

/// The operators that a mesh axis does not split and that have a factor which none can, each with its factors once.
fn replicated(plan: &Plan) -> Vec<Replicated> {
    let (graph, mesh) = (&plan.graph, &plan.mesh.mesh);
    let mut found = BTreeSet::new();
    for (op, signature) in &plan.layouts.signatures {
        let whole = |(choice, axis): (&Choice, &MeshAxis)| axis.size > 1 && matches!(choice, Choice::Replicate);
        let Some(rule) = SizedRule::of(graph, *op).filter(|_| signature.choices.iter().zip(&mesh.axes).any(whole)) else { continue };
        for (factor, size) in rule.factors.iter().enumerate() {
            if let Some(reason) = rule.whole(factor).filter(|reason| *size > 1 && *reason != Whole::Component) {
                let name = |axis| graph.axis(axis).name.clone();
                let (operator, factor) = (graph.value(graph.op(*op).result()).name.clone(), name(rule.rule.factors[factor]));
                found.insert(Replicated { operator, factor, reason: reason.to_string() });
            }
        }
    }
    found.into_iter().collect()
}

/// The axes that some operator deals out in pieces of different sizes, each once.
fn uneven(plan: &Plan) -> Vec<Uneven> {
    let (graph, mesh) = (&plan.graph, &plan.mesh.mesh);
    let mut found = BTreeSet::new();
    for (op, signature) in &plan.layouts.signatures {
        let rule = graph.op(*op).rule().expect("signatures are of primitives");
        for (factor, axis) in rule.factors.iter().enumerate() {
            let size = graph.size(*axis);
            let mut layout = Layout::broadcast(mesh);
            let mut over = Vec::new();
            for &at in signature.order.iter().filter(|at| !mesh.axes[**at].time) {
                match signature.choices[at] {
                    Choice::Split { factor: split, partition } if split == factor => {
                        layout.0[at] = Share::Split(Split::new(0, size, 1, over.len(), partition));
                        over.push(at);
                    }
                    _ => {}
                }
            }
            let group = mesh.group(0, &over);
            let pieces: Vec<u64> = group.iter().map(|rank| layout.local_shape(&[size], mesh, &mesh.coordinates(*rank, 0))[0]).collect();
            if pieces.iter().any(|piece| *piece != pieces[0]) {
                let over = over.iter().map(|at| mesh.axes[*at].name.clone()).collect();
                found.insert(Uneven { axis: graph.axis(*axis).name.clone(), size, over, pieces });
            }
        }
    }
    found.into_iter().collect()
}

/// A value with its shape and layout in words: `S(ffn)@tensor`, splits outermost first, or `B`.
fn layout_line(plan: &Plan, value: ValueId, name: String) -> LayoutLine {
    let graph = &plan.graph;
    let dims = &graph.value(value).ty.dims;
    let shape: Vec<String> = dims.iter().map(|axis| format!("{} {}", graph.axis(*axis).name, graph.size(*axis))).collect();
    let layout = plan.layouts.of(graph, value);
    let mut shares: Vec<(usize, String)> = Vec::new();
    for (share, axis) in layout.0.iter().zip(&plan.mesh.mesh.axes) {
        match share {
            Share::Broadcast => {}
            Share::Partial(reduce) => shares.push((usize::MAX, format!("P({})@{}", reduce.word(), axis.name))),
            Share::Split(split) => {
                // a strided split deals out a factor of a merged axis
                let strided = if split.inner > 1 { format!(" /{}", split.inner) } else { String::new() };
                let dim = &graph.axis(dims[split.dim]).name;
                let dealt = match split.partition {
                    partita_ir::layout::Partition::Zigzag => " zigzag",
                    _ => "",
                };
                shares.push((split.depth, format!("S({dim}{strided}{dealt})@{}", axis.name)));
            }
        }
    }
    shares.sort_by_key(|(depth, _)| *depth);
    let words: Vec<String> = shares.into_iter().map(|(_, word)| word).collect();
    let layout = if words.is_empty() { "B".to_owned() } else { words.join(" ") };
    LayoutLine { name, shape: shape.join(", "), layout }
}

/// The description as JSON.
pub fn json(described: &Described) -> String {
    serde_json::to_string_pretty(described).expect("a description is plain data") + "\n"
}

/// FLOPs of a rank's matrix products in a step.
fn gemm_flops(view: &View<'_>) -> u64 {
    let mut total = 0.0;
    for section in &view.role.sections {
        let moments = if section.phase.per_micro_batch() { view.program.micro_batches } else { 1 };
        for instruction in &section.instructions {
            if let Instruction::Kernel { kernel, .. } = instruction
                && view.program.kernels[*kernel].gemm
            {
                for moment in 0..moments {
                    total += 2.0 * extents(view, *kernel, moment).iter().map(|extent| extent.count() as f64).product::<f64>();
                }
            }
        }
    }
    total as u64
}
