//! The search over plans: degrees, micro-batches, ZeRO, recompute; inside each, the layouts of everything.

use partita_ir::axis::Role;
use partita_ir::experts::{Expertise, expertise};
use partita_ir::grad::Recompute;
use partita_ir::graph::{Graph, PhaseKind, Span};
use partita_ir::id::AxisId;
use partita_ir::signature::SizedRule;
use partita_ir::step::{Options, StepError, training_step};
use partita_ir::train::Train;

use crate::cluster::Cluster;
use crate::coupling::{Coupled, coupled};
use crate::evaluate::evaluate;
use crate::layouts::{LayoutError, Task, primitives};
use crate::mesh::{Degrees, ExpertDegrees, MeshPlan};
use crate::pins::{PinError, Pins, ScheduleKind};
use crate::plan::Plan;
use crate::stages::CutError;
use crate::strategy::{Constraints, pending};

/// A model as the planner is given it.
pub struct Model<'a> {
    /// Its name.
    pub name: &'a str,
    /// One forward phase and a loss.
    pub graph: &'a Graph,
    /// How it is trained.
    pub train: Train,
    /// Final value of everything that can be set.
    pub settings: &'a [(String, String)],
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A pin cannot be.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The model cannot be trained.
    #[error("{0}")]
    Step(#[from] StepError),
    /// No layouts meet the pins.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The model cannot be cut so.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// The pipeline has no such order.
    #[error(transparent)]
    Order(#[from] crate::pipeline::OrderError),
    /// Plans were found, but none fits into memory.
    #[error(
        "no plan fits: the smallest ({strategy}) takes {needed} bytes on its fullest rank and a device has {memory}; use more ranks, or a smaller micro-batch or model"
    )]
    DoesNotFit {
        /// The plan that needs least.
        strategy: String,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes of a device.
        memory: u64,
    },
    /// Samples are brought together, and the pins make several micro-batches of them.
    #[error(
        "`{name}` brings the samples of a micro-batch together, so a step has one micro-batch, and mbs={mbs} makes several of a batch of {batch}"
    )]
    Coupled {
        /// The operator that does.
        name: String,
        /// Where the model file says so.
        span: Option<Span>,
        /// Sequences of a micro-batch as pinned.
        mbs: u64,
        /// Samples of a step.
        batch: u64,
    },
    /// Nothing to choose from.
    #[error("no combination of dp, tp, cp and pp, and of ep and etp for experts, makes {ranks} ranks under these pins")]
    NoDegrees {
        /// Ranks of the cluster.
        ranks: u64,
    },
}

/// Exact memory of the fullest rank of a plan, in bytes, as its programs will allocate it.
pub type MemoryOf<'a> = &'a dyn Fn(&Plan) -> u64;

/// A plan that was considered.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// Its strategy in words.
    pub strategy: String,
    /// Expected seconds of a step.
    pub step_seconds: f64,
    /// Why it is not the answer: slower, or does not fit.
    pub lost: String,
}

/// The fastest plan that fits, and the others that were considered, fastest first. The only plan that the pins leave is given even if
/// it does not fit.
pub fn search(model: &Model<'_>, cluster: &Cluster, pins: &Pins, memory: MemoryOf<'_>) -> Result<(Plan, Vec<Considered>), SearchError> {
    let ranks = cluster.ranks();
    pins.check(ranks)?;
    pins.unsupported()?;
    let mut plans: Vec<Plan> = Vec::new();
    let mut first_error: Option<SearchError> = None;
    let experts = experts(model.graph);
    pins.check_experts(experts)?;
    let coupled = coupled(model.graph, &model.train)?;
    let mut degrees = degrees(ranks, pins, model.train.batch, experts, coupled.is_some());
    check_coupled(model, coupled, &mut degrees, |degrees| *degrees)?;
    if degrees.is_empty() {
        return Err(SearchError::NoDegrees { ranks });
    }
    let mut smallest: Option<(u64, String)> = None;
    // what saves memory at a price is only tried where what comes before it does not fit
    for saving in 0..3 {
        let mut found = Vec::new();
        for &degree in &degrees {
            for (zero, recompute) in variants(pins, degree, saving) {
                match plan_one(model, cluster, pins, degree, zero, recompute) {
                    Ok(plan) => found.push(plan),
                    Err(error) => drop(first_error.get_or_insert(error)),
                }
            }
        }
        found.sort_by(|a, b| a.predicted.step_seconds.total_cmp(&b.predicted.step_seconds));
        plans.extend(found);
        let limit = cluster.device.memory_bytes;
        for (at, plan) in plans.iter().enumerate() {
            let needed = memory(plan);
            if needed <= limit {
                let best = plan.predicted.step_seconds;
                let others = plans.iter().enumerate().filter(|(other, _)| *other != at).map(|(other, plan)| Considered {
                    strategy: plan.strategy(),
                    step_seconds: plan.predicted.step_seconds,
                    lost: if other < at {
                        format!("does not fit: {} bytes of {limit}", memory(plan))
                    } else {
                        format!("{:.1} % slower", 100.0 * (plan.predicted.step_seconds / best - 1.0))
                    },
                });
                let others = others.collect();
                return Ok((plan.clone(), others));
            }
            if smallest.as_ref().is_none_or(|(least, _)| needed < *least) {
                smallest = Some((needed, plan.strategy()));
            }
        }
    }
    // what is pinned throughout is shown as it is
    if plans.len() == 1 {
        return Ok((plans.remove(0), Vec::new()));
    }
    match (smallest, first_error) {
        (Some((needed, strategy)), _) => Err(SearchError::DoesNotFit { strategy, needed, memory: cluster.device.memory_bytes }),
        (None, Some(error)) => Err(error),
        (None, None) => Err(SearchError::NoDegrees { ranks }),
    }
}

/// Leaves candidates of one micro-batch, where an operator brings samples together.
pub(crate) fn check_coupled<T>(
    model: &Model<'_>,
    coupled: Option<Coupled>,
    candidates: &mut Vec<T>,
    degrees: impl Fn(&T) -> Degrees,
) -> Result<(), SearchError> {
    let (Some(Coupled { name, span }), Some(mbs)) = (coupled, candidates.first().map(|first| degrees(first).mbs)) else { return Ok(()) };
    let batch = model.train.batch;
    candidates.retain(|candidate| degrees(candidate).mbs >= batch.div_ceil(degrees(candidate).dp));
    if candidates.is_empty() {
        return Err(SearchError::Coupled { name, span, mbs, batch });
    }
    Ok(())
}

/// ZeRO stages and recompute settings at a level of saving: 0 none, 1 states and gradients, 2 everything.
fn variants(pins: &Pins, degrees: Degrees, saving: usize) -> Vec<(u8, Recompute)> {
    let shards = degrees.dp * degrees.cp > 1;
    let zeros: Vec<u8> = match (pins.zero, saving) {
        (Some(zero), _) => vec![zero],
        (None, 0) if shards => vec![0, 1],
        (None, 0) => vec![0],
        (None, _) if shards => vec![1, 3],
        (None, _) => vec![0],
    };
    let recomputes = match (pins.recompute, saving) {
        (Some(recompute), _) => vec![recompute],
        (None, 0 | 1) => vec![Recompute::None],
        (None, _) => vec![Recompute::Full],
    };
    if saving > 0 && pins.zero.is_some() && pins.recompute.is_some() {
        return Vec::new();
    }
    zeros.iter().flat_map(|zero| recomputes.iter().map(|recompute| (*zero, *recompute))).collect()
}

/// Every way to make the ranks under the pins, in a fixed order.
fn degrees(ranks: u64, pins: &Pins, batch: u64, experts: Option<u64>, coupled: bool) -> Vec<Degrees> {
    let divisors: Vec<u64> = (1..=ranks).filter(|n| ranks.is_multiple_of(*n)).collect();
    let allowed = |pin: Option<u64>, value: u64| pin.is_none_or(|pin| pin == value);
    let mut out = Vec::new();
    for &pp in divisors.iter().filter(|n| allowed(pins.pp, **n) && pins.unsupported_in(**n).is_ok()) {
        for &tp in divisors.iter().filter(|n| allowed(pins.tp, **n)) {
            for &cp in divisors.iter().filter(|n| allowed(pins.cp, **n)) {
                let rest = pp * tp * cp;
                if rest > ranks || !ranks.is_multiple_of(rest) || !allowed(pins.dp, ranks / rest) {
                    continue;
                }
                let dp = ranks / rest;
                let local = batch.div_ceil(dp).max(1);
                let sizes = match pins.mbs {
                    Some(mbs) => vec![mbs],
                    None if pp == 1 || coupled => vec![local],
                    None => (0..).map(|bit| 1 << bit).take_while(|mbs| *mbs <= local).collect(),
                };
                let tilings = tilings(dp * cp * tp, tp, pins, experts);
                let all = sizes.into_iter().flat_map(|mbs| tilings.iter().map(move |experts| (mbs, *experts)));
                out.extend(all.map(|(mbs, experts)| Degrees { dp, cp, tp, pp, mbs, experts }));
            }
        }
    }
    out
}

/// The ways in which so many experts may tile the ranks of a stage.
pub fn tilings(ranks: u64, tp: u64, pins: &Pins, experts: Option<u64>) -> Vec<Option<ExpertDegrees>> {
    let Some(experts) = experts else { return vec![None] };
    let etps = pins.etp.map_or_else(|| if tp == 1 { vec![1] } else { vec![tp, 1] }, |etp| vec![etp]);
    let mut out = Vec::new();
    for etp in etps.into_iter().filter(|etp| ranks.is_multiple_of(*etp)) {
        let rest = ranks / etp;
        let open = |ep: &u64| rest.is_multiple_of(*ep) && pins.ep.map_or_else(|| experts.is_multiple_of(*ep), |pin| pin == *ep);
        out.extend((1..=rest).filter(open).map(|ep| Some(ExpertDegrees { ep, etp })));
    }
    out
}

/// The number of experts of a model: of those that each work with what is their own.
pub fn experts(graph: &Graph) -> Option<u64> {
    let works = |(op, ..): (partita_ir::id::OpId, _, _)| {
        let rule = SizedRule::of(graph, op)?;
        let Expertise::Works { experts, .. } = expertise(graph, &rule) else { return None };
        Some(experts.iter().map(|factor| rule.factors[*factor]).product())
    };
    primitives(graph).into_iter().find_map(works)
}

/// The plan for these decisions, its layouts chosen.
fn plan_one(
    model: &Model<'_>,
    cluster: &Cluster,
    pins: &Pins,
    degrees: Degrees,
    zero: u8,
    recompute: Recompute,
) -> Result<Plan, SearchError> {
    let skeleton = skeleton(model, pins, degrees, zero, recompute)?;
    let task = task(&skeleton, cluster, pins);
    let layouts = task.solve()?.layouts;
    finish(skeleton, cluster, layouts)
}

/// A plan without layouts and prediction: the training step, the mesh, the decisions.
pub fn skeleton(model: &Model<'_>, pins: &Pins, degrees: Degrees, zero: u8, recompute: Recompute) -> Result<Plan, SearchError> {
    let graph =
        training_step(model.graph, &model.train, Options { recompute, meet_in_update: degrees.pp > 1, exchange: degrees.tiling().ep > 1 })?;
    // causal attention loads contiguous shards of positions unevenly
    let mesh = MeshPlan::new(degrees, model.train.batch, &graph, degrees.cp > 1 && !pins.even)
        .ok_or_else(|| PinError::no_common_tiling(degrees))?;
    let degrees = Degrees { mbs: degrees.mbs.min(model.train.batch.div_ceil(degrees.dp)).max(1), ..degrees };
    Ok(Plan {
        model: model.name.to_owned(),
        settings: model.settings.to_vec(),
        cluster: String::new(),
        train: model.train.clone(),
        degrees,
        zero,
        recompute,
        schedule: pins.schedule.unwrap_or(ScheduleKind::OneFOneB),
        mesh,
        cut: crate::stages::StageCut::default(),
        graph,
        layouts: crate::layouts::Layouts::default(),
        predicted: crate::plan::Predicted::default(),
    })
}

/// The search for the layouts of a plan.
pub fn task<'a>(plan: &'a Plan, cluster: &'a Cluster, pins: &Pins) -> Task<'a> {
    let constraints = Constraints {
        sp: pins.sp,
        split_weights: plan.degrees.tp > 1 || plan.degrees.tiling().etp > 1,
        exchange: pins.ep.is_some_and(|ep| ep > 1),
        even: pins.even,
        pending: pending(&plan.graph),
    };
    Task { graph: &plan.graph, mesh: &plan.mesh, cluster, constraints, zero: plan.zero, product: plan.train.precision.product }
}

/// The plan with these layouts, cut into stages and timed.
pub fn finish(mut plan: Plan, cluster: &Cluster, layouts: crate::layouts::Layouts) -> Result<Plan, SearchError> {
    let tokens = tokens(&plan.graph, plan.train.batch);
    let (cut, predicted) = evaluate(&plan.graph, &plan.mesh, cluster, &layouts, plan.train.precision.product, plan.degrees.pp, tokens)?;
    plan.cluster = cluster.name.clone();
    plan.layouts = layouts;
    plan.cut = cut;
    plan.predicted = predicted;
    Ok(plan)
}

/// Tokens of a step: samples times positions of the inputs.
fn tokens(graph: &Graph, batch: u64) -> u64 {
    let inputs = graph.leaves(|leaf| matches!(leaf, partita_ir::graph::Leaf::Input(_)));
    let seq = |axis: &AxisId| graph.axis(*axis).role == Role::Seq;
    let positions = inputs.flat_map(|value| graph.value(value).ty.dims.iter()).find(|axis| seq(axis)).map_or(1, |axis| graph.size(*axis));
    debug_assert!(graph.phases.iter().any(|phase| phase.kind == PhaseKind::Update));
    batch * positions
}
