//! The fastest plan under a stack that the pins leave: every candidate is estimated, none is compiled.

use std::collections::BTreeMap;

use partita_ir::axis::Role;
use partita_ir::grad::Recompute;
use partita_ir::graph::{Graph, Leaf};
use partita_ir::step::{Options, training_step};

use super::constants::reach;
use super::dealing;
use super::sections::Chosen;
use super::stack::{Attention, Stack};
use super::step::{Estimate, Prepared, Setup};
use crate::cluster::Cluster;
use crate::coupling::coupled;
use crate::mesh::{Degrees, ExpertDegrees, MeshPlan};
use crate::pins::{PinError, Pins, ScheduleKind};
use crate::plan::recompute_word;
use crate::search::{Considered, Model, SearchError, check_coupled, experts, tilings};

/// What is decided of a candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decisions {
    /// Degrees of parallelism.
    pub degrees: Degrees,
    /// Chunks of the model on each pipeline rank.
    pub vpp: u64,
    /// Sequence parallelism on tensor ranks.
    pub sp: bool,
    /// ZeRO stage.
    pub zero: u8,
    /// Data-parallel ranks that share shards.
    pub zero_group: Option<u64>,
    /// What backward computes again.
    pub recompute: Recompute,
    /// Order of micro-batches.
    pub schedule: ScheduleKind,
}

impl Decisions {
    /// What the graph of the step depends on.
    pub fn options(&self) -> Options {
        let Degrees { pp, .. } = self.degrees;
        Options { recompute: self.recompute, meet_in_update: pp > 1, exchange: self.degrees.tiling().ep > 1 }
    }

    /// One line: `dp=8 tp=4 cp=1 pp=12 …`.
    pub fn strategy(&self) -> String {
        let d = self.degrees;
        let mut words = vec![format!("dp={}", d.dp), format!("tp={}", d.tp), format!("cp={}", d.cp), format!("pp={}", d.pp)];
        if d.pp > 1 {
            words.push(format!("vpp={}", self.vpp));
        }
        if let Some(ExpertDegrees { ep, etp }) = d.experts {
            words.extend([format!("ep={ep}"), format!("etp={etp}")]);
        }
        words.push(format!("mbs={}", d.mbs));
        words.push(format!("zero={}", self.zero));
        words.extend(self.zero_group.map(|group| format!("zero-group={group}")));
        if d.tp > 1 {
            words.push(format!("sp={}", self.sp));
        }
        words.push(format!("recompute={}", recompute_word(self.recompute)));
        if d.pp > 1 {
            words.push(format!("schedule={}", self.schedule.word()));
        }
        words.join(" ")
    }
}

/// Moments of a memory curve, at most.
const MOMENTS: usize = 32;

/// The plan that was chosen.
#[derive(Debug)]
pub struct Picked {
    /// What was decided.
    pub decisions: Decisions,
    /// What it takes.
    pub estimate: Estimate,
    /// Whether the fullest rank's device has that much memory.
    pub fits: bool,
    /// Micro-batches of a step.
    pub micro_batches: u64,
    /// Iterations of each loop in each chunk of the model, in order.
    pub chunks: Vec<BTreeMap<String, u64>>,
    /// What each pipeline rank holds over a step: (seconds, bytes).
    pub memory_curves: Vec<Vec<(f64, f64)>>,
    /// What a person would want to know.
    pub warnings: Vec<String>,
    /// The others, fastest first.
    pub others: Vec<Considered>,
}

/// The fastest candidate that fits. A single candidate is told whether it fits or not.
pub fn choose(model: &Model<'_>, cluster: &Cluster, stack: &Stack, pins: &Pins) -> Result<Picked, SearchError> {
    let ranks = cluster.ranks();
    pins.check(ranks)?;
    pins.unsupported_when_estimated()?;
    let experts = experts(model.graph);
    pins.check_experts(experts)?;
    let coupled = coupled(model.graph, &model.train)?;
    let mut candidates = candidates(model, cluster, stack, pins, experts, coupled.is_some());
    check_coupled(model, coupled, &mut candidates, |decisions| decisions.degrees)?;
    if candidates.is_empty() {
        return Err(SearchError::NoDegrees { ranks });
    }
    let mut graphs: BTreeMap<Options, Graph> = BTreeMap::new();
    let mut first_error = None;
    let mut estimated: Vec<(Decisions, Estimate, Prepared)> = Vec::new();
    for decisions in &candidates {
        let key = decisions.options();
        if let std::collections::btree_map::Entry::Vacant(entry) = graphs.entry(key) {
            entry.insert(step_graph(model, stack, key)?);
        }
        match prepare(model, cluster, stack, decisions, &graphs[&key]) {
            Ok(prepared) => {
                let estimate = prepared.estimate(cluster, stack, &reach);
                estimated.push((*decisions, estimate, prepared));
            }
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    estimated.sort_by(|a, b| a.1.step_seconds.total_cmp(&b.1.step_seconds));
    let fits = |estimate: &Estimate| estimate.memory_full <= 1.0;
    let best = match estimated.iter().position(|(_, estimate, _)| fits(estimate)) {
        Some(best) => best,
        None if estimated.len() == 1 && candidates.len() == 1 => 0,
        None => {
            let smallest = estimated.iter().min_by(|a, b| a.1.memory_full.total_cmp(&b.1.memory_full));
            return Err(match (smallest, first_error) {
                (Some((decisions, estimate, _)), _) => SearchError::DoesNotFit {
                    strategy: decisions.strategy(),
                    needed: estimate.memory_reserved_bytes as u64,
                    memory: cluster.device.memory_bytes,
                },
                (None, Some(error)) => error,
                (None, None) => SearchError::NoDegrees { ranks },
            });
        }
    };
    let chosen_seconds = estimated[best].1.step_seconds;
    let others = estimated.iter().enumerate().filter(|(at, _)| *at != best).map(|(_, (decisions, estimate, _))| Considered {
        strategy: decisions.strategy(),
        step_seconds: estimate.step_seconds,
        lost: if fits(estimate) {
            format!("{:.1} % slower", 100.0 * (estimate.step_seconds / chosen_seconds - 1.0))
        } else {
            format!("does not fit: {:.0} % of the memory", 100.0 * estimate.memory_full)
        },
    });
    let others = others.collect();
    let (decisions, estimate, prepared) = estimated.swap_remove(best);
    let graph = &graphs[&decisions.options()];
    let mut warnings = warnings(model, graph, stack, &decisions, &prepared, estimate.memory_full);
    if let Some(mbs) = pins.mbs.filter(|mbs| *mbs > decisions.degrees.mbs) {
        warnings.insert(0, format!("mbs={mbs} is more than the {} sequences that a data rank has", decisions.degrees.mbs));
    }
    Ok(Picked {
        fits: fits(&estimate),
        micro_batches: prepared.micro_batches(),
        chunks: prepared.cut.chunks(graph),
        memory_curves: prepared.memory_curves(cluster, stack, &reach, MOMENTS),
        decisions,
        estimate,
        warnings,
        others,
    })
}

/// The training step as a stack runs it: one that writes scores to memory saves them unless it recomputes.
pub fn step_graph(model: &Model<'_>, stack: &Stack, options: Options) -> Result<Graph, SearchError> {
    let mut graph = model.graph.clone();
    if stack.attention == Attention::Unfused && options.recompute == Recompute::None {
        graph.composites.iter_mut().for_each(|composite| composite.recompute = false);
    }
    Ok(training_step(&graph, &model.train, options)?)
}

/// Lays out the work of a candidate.
pub fn prepare(model: &Model<'_>, cluster: &Cluster, stack: &Stack, decisions: &Decisions, graph: &Graph) -> Result<Prepared, SearchError> {
    let degrees = decisions.degrees;
    let mesh = MeshPlan::new(degrees, model.train.batch, graph, degrees.cp > 1).ok_or_else(|| PinError::no_common_tiling(degrees))?;
    let signatures = dealing::signatures(graph, &mesh, decisions.sp);
    let setup = Setup {
        degrees,
        vpp: decisions.vpp,
        sp: decisions.sp,
        zero: decisions.zero,
        zero_group: decisions.zero_group,
        schedule: decisions.schedule,
        precision: model.train.precision,
    };
    let carried = BTreeMap::new();
    Prepared::new(graph, &mesh, cluster, stack, Chosen { signatures: &signatures, carried: &carried }, setup)
}

/// Most sequences of a micro-batch that an open search tries.
const MOST_SEQUENCES: u64 = 32;

/// Every candidate that the pins leave, in a fixed order.
fn candidates(model: &Model<'_>, cluster: &Cluster, stack: &Stack, pins: &Pins, experts: Option<u64>, coupled: bool) -> Vec<Decisions> {
    let ranks = cluster.ranks();
    let divisors: Vec<u64> = (1..=ranks).filter(|n| ranks.is_multiple_of(*n)).collect();
    let layers: u64 = model.graph.loops.iter().map(|repeated| repeated.count).sum();
    let domain = cluster.levels.first().map_or(1, |level| level.count);
    let seq = sequence(model.graph);
    // an open degree: tensor parallelism inside a node, context parallelism of long sequences, no more stages than layers
    let open = |pin: Option<u64>, sensible: &dyn Fn(u64) -> bool| -> Vec<u64> {
        divisors.iter().copied().filter(|n| pin.map_or_else(|| sensible(*n), |pin| pin == *n)).collect()
    };
    let mut out = Vec::new();
    for pp in open(pins.pp, &|n| n <= layers.max(1)) {
        for tp in open(pins.tp, &|n| n <= domain) {
            for cp in open(pins.cp, &|n| n == 1 || seq / n >= 4096) {
                let rest = pp * tp * cp;
                if !ranks.is_multiple_of(rest) || pins.dp.is_some_and(|dp| dp != ranks / rest) {
                    continue;
                }
                let dp = ranks / rest;
                let local = model.train.batch.div_ceil(dp).max(1);
                let sizes: Vec<u64> = match pins.mbs {
                    Some(mbs) => vec![mbs],
                    None if coupled => vec![local],
                    None => (0..).map(|bit| 1 << bit).take_while(|mbs| *mbs <= local.min(MOST_SEQUENCES)).collect(),
                };
                for mbs in sizes {
                    for experts in tilings(dp * cp * tp, tp, pins, experts) {
                        let degrees = Degrees { dp, cp, tp, pp, mbs: mbs.min(local), experts };
                        out.extend(variants(stack, pins, degrees, layers));
                    }
                }
            }
        }
    }
    out
}

/// What else may be chosen at these degrees.
fn variants(stack: &Stack, pins: &Pins, degrees: Degrees, layers: u64) -> Vec<Decisions> {
    let pieces = match (pins.vpp, pins.schedule) {
        (Some(vpp), _) => vec![vpp],
        (None, Some(ScheduleKind::ZbV | ScheduleKind::DualPipeV)) => vec![2],
        (None, None | Some(ScheduleKind::Interleaved)) if degrees.pp > 1 => {
            [1, 2, 4].into_iter().filter(|vpp| *vpp == 1 || layers.is_multiple_of(degrees.pp * vpp)).collect()
        }
        _ => vec![1],
    };
    let sps = match pins.sp {
        Some(sp) => vec![sp],
        None if degrees.tp > 1 => vec![true, false],
        None => vec![false],
    };
    let shards = degrees.dp * degrees.cp > 1;
    let zeros = match pins.zero {
        Some(zero) => vec![zero],
        None if shards => vec![1, 3],
        None => vec![0],
    };
    let recomputes = match pins.recompute {
        Some(recompute) => vec![recompute],
        None if stack.attention == Attention::Unfused => vec![Recompute::None, Recompute::Selective, Recompute::Full],
        None => vec![Recompute::None, Recompute::Full],
    };
    let mut out = Vec::new();
    for &vpp in &pieces {
        let usual = if vpp > 1 { ScheduleKind::Interleaved } else { ScheduleKind::OneFOneB };
        let schedule = pins.schedule.unwrap_or(usual);
        for &sp in &sps {
            for &zero in &zeros {
                for &recompute in &recomputes {
                    let zero_group = pins.zero_group.filter(|group| zero > 0 && *group < degrees.dp * degrees.cp);
                    out.push(Decisions { degrees, vpp, sp, zero, zero_group, recompute, schedule });
                }
            }
        }
    }
    out
}

/// Positions of the inputs; 1 where they have none.
fn sequence(graph: &Graph) -> u64 {
    let mut inputs = graph.leaves(|leaf| matches!(leaf, Leaf::Input(_))).flat_map(|value| graph.value(value).ty.dims.iter());
    inputs.find(|axis| graph.axis(**axis).role == Role::Seq).map_or(1, |axis| graph.size(*axis))
}

/// Tokens of a step.
pub fn tokens(model: &Model<'_>) -> u64 {
    model.train.batch * sequence(model.graph)
}

fn warnings(model: &Model<'_>, graph: &Graph, stack: &Stack, decisions: &Decisions, prepared: &Prepared, full: f64) -> Vec<String> {
    let mut out = Vec::new();
    let degrees = decisions.degrees;
    let chunks = degrees.pp * decisions.vpp;
    for (id, repeated) in graph.loops.iter().enumerate().filter(|(_, repeated)| !repeated.count.is_multiple_of(chunks)) {
        let held: Vec<String> =
            (0..chunks).map(|chunk| prepared.cut.of_iteration[id].iter().filter(|at| **at == chunk).count().to_string()).collect();
        out.push(format!("{} iterations of `{}` do not divide into {chunks} chunks: {}", repeated.count, repeated.name, held.join(" ")));
    }
    let batch = model.train.batch;
    if !batch.is_multiple_of(degrees.dp * degrees.mbs) {
        out.push(format!(
            "a batch of {batch} does not divide into dp={} times mbs={}: the last micro-batch is smaller, or some ranks have none",
            degrees.dp, degrees.mbs
        ));
    }
    let heads = graph.axes.iter().filter(|axis| axis.role == Role::Head && axis.size % degrees.tp != 0 && axis.size < degrees.tp);
    for axis in heads {
        out.push(format!("tp={} is more than the {} of `{}`: tensor ranks hold the same of them", degrees.tp, axis.size, axis.name));
    }
    if decisions.schedule != ScheduleKind::OneFOneB && degrees.pp == 1 && decisions.schedule != ScheduleKind::GPipe {
        out.push(format!("schedule={} means nothing at pp=1", decisions.schedule));
    }
    if full > 1.0 {
        out.push(format!("does not fit: {:.0} % of the device's memory", 100.0 * full));
    } else if full > 0.95 {
        out.push(format!("{:.0} % of the device's memory: an allocator may run out by fragmentation", 100.0 * full));
    }
    if !stack.has_recipe(&model.train.precision) {
        out.push(format!("stack {} has no recipe for {}: that of another precision is taken", stack.name, model.train.precision));
    }
    out
}
