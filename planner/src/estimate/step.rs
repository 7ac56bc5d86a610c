//! A step from its sections: stages, schedule, data-parallel transfers, optimizer; and the memory of the fullest rank.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use partita_ir::graph::{Graph, PhaseKind};
use partita_ir::id::Id;
use partita_ir::precision::Precision;
use partita_ir::signature::SizedRule;

use super::constants::Reach;
use super::groups::is_product;
use super::kernel_time::Pricing;
use super::pipe::{self, ChunkCost};
use super::sections::{Chosen, Context, Place, Section, Work};
use super::stack::Stack;
use super::states;
use crate::cluster::{Cluster, Device};
use crate::collective::{self, Collective, Spread};
use crate::layouts::primitives;
use crate::mesh::{AxisUse, Degrees, MeshPlan};
use crate::pins::ScheduleKind;
use crate::pipeline::Orders;
use crate::search::SearchError;
use crate::stages::{PartSeconds, StageCut};

/// A plan as far as time and memory depend on it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Degrees of parallelism.
    pub degrees: Degrees,
    /// Chunks of the model on each pipeline rank.
    pub vpp: u64,
    /// Whether tensor ranks deal out positions between products.
    pub sp: bool,
    /// ZeRO stage.
    pub zero: u8,
    /// Data-parallel ranks that share shards; all of them if absent.
    pub zero_group: Option<u64>,
    /// Order of micro-batches.
    pub schedule: ScheduleKind,
    /// The types that it computes in.
    pub precision: Precision,
}

/// Weights of a place, on the busiest tensor rank.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weights {
    /// Elements (of one iteration), those of experts left out.
    pub elements: f64,
    /// Elements that are experts' own: they lie on the experts' tiling of the ranks.
    pub experts: f64,
    /// Tensors.
    pub tensors: f64,
    /// Elements of the model's own states beside them, which have no gradient and no optimizer.
    pub states: f64,
}

/// A plan with its work laid out, before any price.
pub struct Prepared {
    /// Work of a micro-batch.
    pub sections: Vec<Section>,
    /// Weights by place.
    pub weights: BTreeMap<Place, Weights>,
    /// Elements of moments for each element of the weights.
    pub(super) moments: f64,
    /// Elements of weights that live before the blocks and are read behind them too.
    pub(super) copies: f64,
    /// The cut into chunks.
    pub cut: StageCut,
    /// Iterations of each loop in each chunk.
    pub(super) chunks: Vec<BTreeMap<usize, f64>>,
    /// The plan.
    pub setup: Setup,
    pub(super) mesh: MeshPlan,
    /// Who does what in which order.
    orders: Orders,
    /// Bytes handed from stage to stage in each direction.
    hop_bytes: f64,
    /// Tensor ranks that hold the same of them.
    senders: f64,
    /// Floating-point operations of a step without recomputation, the masked half of attention counted, over all ranks.
    pub model_flops: f64,
    spreads: RefCell<BTreeMap<(usize, Vec<usize>), Vec<Spread>>>,
}

/// Seconds of a step, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Breakdown {
    /// Matrix products.
    pub gemm: f64,
    /// Attention kernels.
    pub attention: f64,
    /// Kernels that stream through memory.
    pub streaming: f64,
    /// Tensor-parallel collectives that nothing hides.
    pub tensor_exposed: f64,
    /// Those that are hidden.
    pub tensor_hidden: f64,
    /// Context-parallel transfers that nothing hides.
    pub context_exposed: f64,
    /// Those that are hidden.
    pub context_hidden: f64,
    /// Transfers of gradients and parameters that nothing hides.
    pub data_exposed: f64,
    /// Those that are hidden.
    pub data_hidden: f64,
    /// Waiting for the pipeline to fill and drain, its sends among it.
    pub bubble: f64,
    /// The optimizer.
    pub optimizer: f64,
    /// What the host takes.
    pub host: f64,
}

/// Bytes of the fullest rank, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MemoryBreakdown {
    /// Parameters, those gathered for the moment among them.
    pub parameters: f64,
    /// Gradients.
    pub gradients: f64,
    /// Master copy and moments.
    pub optimizer: f64,
    /// Saved for the backward pass, all micro-batches in flight.
    pub activations: f64,
    /// Alive for a moment.
    pub temporaries: f64,
}

impl MemoryBreakdown {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.parameters + self.gradients + self.optimizer + self.activations + self.temporaries
    }
}

/// What a plan takes.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Estimate {
    /// Seconds of a step.
    pub step_seconds: f64,
    /// Model FLOP/s over the peak of the precision, attention counted in full, recomputation not.
    pub mfu: f64,
    /// The part of a step in which the busiest rank waits for others of its pipeline.
    pub bubble_fraction: f64,
    /// Where the time of the busiest rank goes.
    pub breakdown: Breakdown,
    /// The live peak of the fullest rank.
    pub memory_bytes: f64,
    /// What the device shows as taken.
    pub memory_reserved_bytes: f64,
    /// The part of its device's memory that this is: more than 1 does not fit.
    pub memory_full: f64,
    /// Of the live peak.
    pub memory: MemoryBreakdown,
    /// The pipeline rank that is fullest.
    pub fullest_stage: u64,
    /// When it is.
    pub peak_moment: String,
}

/// Times of one chunk and micro-batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) forward: f64,
    pub(super) backward: f64,
    pub(super) weights: f64,
    kinds: Breakdown,
}

impl Times {
    fn add(&mut self, other: &Times, times: f64) {
        self.forward += times * other.forward;
        self.backward += times * other.backward;
        self.weights += times * other.weights;
        let (a, b) = (&mut self.kinds, &other.kinds);
        for (to, from) in [
            (&mut a.gemm, b.gemm),
            (&mut a.attention, b.attention),
            (&mut a.streaming, b.streaming),
            (&mut a.tensor_exposed, b.tensor_exposed),
            (&mut a.tensor_hidden, b.tensor_hidden),
            (&mut a.context_exposed, b.context_exposed),
            (&mut a.context_hidden, b.context_hidden),
        ] {
            *to += times * from;
        }
    }

    fn total(&self) -> f64 {
        self.forward + self.backward + self.weights
    }
}

impl Prepared {
    /// Lays out the work of a training step.
    pub fn new(
        graph: &Graph,
        mesh: &MeshPlan,
        cluster: &Cluster,
        stack: &Stack,
        chosen: Chosen<'_>,
        setup: Setup,
    ) -> Result<Self, SearchError> {
        let (weights, copies) = states::weights(graph, mesh, &chosen);
        let context = Context::new(graph, mesh, stack, chosen);
        let sections = context.sections();
        let stages = setup.degrees.pp * setup.vpp;
        // a rough weight of a section: what cuts into stages are balanced by
        let rough = |place: Place| -> f64 {
            let of = sections.iter().filter(|section| section.place == place).flat_map(|section| &section.kernels);
            of.map(|kernel| match kernel.work {
                Work::Gemm { m, n, k, batch, .. } => 2.0 * m * n * k * batch,
                Work::Flash { flops, .. } => 1.5 * flops,
                Work::Stream => 80.0 * kernel.bytes,
            })
            .sum()
        };
        let iteration: Vec<f64> = (0..graph.loops.len()).map(|id| rough(Place::Loop(Id::new(id)))).collect();
        // foreign stacks cut by layers, and count what comes before and after as one each where that does not divide
        let even = graph.loops.iter().all(|repeated| repeated.count.is_multiple_of(stages));
        let layer = iteration.iter().copied().fold(0.0, f64::max);
        let (before, after) = match (stack.name == "partita", even) {
            (true, _) => (rough(Place::Before), rough(Place::After)),
            (false, true) => (0.0, 0.0),
            (false, false) => (layer, layer),
        };
        let orders = pipe::ordered(setup.schedule, setup.degrees.pp, mesh.micro_batches, setup.vpp)?;
        let on_chunk = |chunk: u64| {
            // faster devices get more
            let rank = orders.placement.rank(chunk);
            let ranks = mesh.mesh.ranks();
            let slow = match cluster.groups.is_empty() {
                true => 1.0,
                false => 1.0 / cluster.around(&(rank * ranks..(rank + 1) * ranks)).device.peak(setup.precision.product).0,
            };
            PartSeconds { iteration: iteration.iter().map(|work| work * slow).collect(), before: before * slow, after: after * slow }
        };
        let on: Vec<PartSeconds> = (0..stages).map(on_chunk).collect();
        let cut = StageCut::balanced_with(graph, &on, stack.name != "partita")?;
        let chunks = (0..stages)
            .map(|stage| {
                let held = cut.of_iteration.iter().enumerate();
                held.map(|(id, of)| (id, of.iter().filter(|at| **at == stage).count() as f64)).collect()
            })
            .collect();
        let model_flops = model_flops(graph);
        let hop_bytes = hop_bytes(graph, &context);
        let senders = if setup.sp { 1.0 } else { setup.degrees.tp as f64 };
        Ok(Self {
            sections,
            weights,
            moments: states::moments(graph),
            copies,
            cut,
            chunks,
            setup,
            mesh: mesh.clone(),
            orders,
            hop_bytes,
            senders,
            model_flops,
            spreads: RefCell::default(),
        })
    }

    pub(super) fn spreads(&self, on: &On<'_>, axes: &[usize]) -> Vec<Spread> {
        let mut known = self.spreads.borrow_mut();
        known.entry((on.seen, axes.to_vec())).or_insert_with(|| Spread::of_axes(&on.cluster, &self.mesh.mesh, axes)).clone()
    }

    fn collective(&self, on: &On<'_>, axes: &[usize], kind: Collective, received: f64) -> f64 {
        if axes.is_empty() {
            return 0.0;
        }
        self.spreads(on, axes).iter().map(|spread| collective::seconds(spread, kind, received).0).fold(0.0, f64::max)
    }

    /// Micro-batches of a step.
    pub fn micro_batches(&self) -> u64 {
        self.mesh.micro_batches
    }

    /// Forgets how groups lie: for another cluster of the same shape.
    pub fn forget(&self) {
        self.spreads.borrow_mut().clear();
    }

    fn place_times(&self, on: &On<'_>, stack: &Stack, place: Place) -> Times {
        let pricing = Pricing { cluster: &on.cluster, reach: &on.reach, stack, dtype: self.setup.precision.product };
        let mut times = Times::default();
        for section in self.sections.iter().filter(|section| section.place == place) {
            let backward = section.phase == PhaseKind::Backward;
            for kernel in &section.kernels {
                let seconds = pricing.seconds(kernel);
                match (backward, kernel.for_weights) {
                    (false, _) => times.forward += seconds,
                    (true, false) => times.backward += seconds,
                    (true, true) => times.weights += seconds,
                }
                match kernel.work {
                    Work::Gemm { .. } => times.kinds.gemm += seconds,
                    Work::Flash { .. } => times.kinds.attention += seconds,
                    Work::Stream => times.kinds.streaming += seconds,
                }
            }
            for step in &section.moves {
                // ranks come late from what they do on the network: not where there is none
                let network = on.cluster.levels.iter().skip(1).any(|level| level.count > 1);
                let wait = if step.for_use == AxisUse::Tensor && network {
                    stack.tensor_wait_ms * 1e-3 * (self.setup.degrees.tp - 1) as f64
                } else {
                    0.0
                };
                let packing = step.packed / (on.cluster.device.memory_rate().0 * on.reach.memory);
                let seconds = self.collective(on, &step.axes, step.collective, step.received) + wait + packing;
                let kinds = &mut times.kinds;
                let (part, exposed, hidden) = match step.for_use {
                    AxisUse::Context => (stack.context_exposed, &mut kinds.context_exposed, &mut kinds.context_hidden),
                    AxisUse::Tensor => (stack.tensor_exposed, &mut kinds.tensor_exposed, &mut kinds.tensor_hidden),
                    AxisUse::Data | AxisUse::Micro => (1.0, &mut kinds.tensor_exposed, &mut kinds.tensor_hidden),
                };
                *exposed += seconds * part;
                *hidden += (seconds * (1.0 - part)).max(0.0);
                *(if backward { &mut times.backward } else { &mut times.forward }) += seconds * part;
            }
        }
        times
    }

    /// What each pipeline rank runs on: on a cluster of one kind the same for all.
    fn on<'a>(&self, cluster: &'a Cluster, reach: &dyn Fn(&Device) -> Reach) -> Vec<On<'a>> {
        let ranks = self.mesh.mesh.ranks();
        let pp = if cluster.groups.is_empty() { 1 } else { self.setup.degrees.pp };
        let seen = (0..pp).map(|rank| {
            let cluster = cluster.around(&(rank * ranks..(rank + 1) * ranks));
            On { reach: reach(&cluster.device), cluster, seen: rank as usize }
        });
        seen.collect()
    }

    /// Times of each chunk of the model, for one micro-batch.
    fn chunk_times(&self, on: &[On<'_>], stack: &Stack) -> Vec<Times> {
        let count = self.chunks.len();
        // by what is seen: before the first block, an iteration of each, behind
        let places: Vec<(Times, Vec<Times>, Times)> = on
            .iter()
            .map(|on| {
                let times = |place| self.place_times(on, stack, place);
                let loops = (0..self.chunks[0].len()).map(|id| times(Place::Loop(Id::new(id)))).collect();
                (times(Place::Before), loops, times(Place::After))
            })
            .collect();
        (0..count)
            .map(|chunk| {
                let (before, loops, after) = &places[self.rank_of(chunk).min(on.len() - 1)];
                let mut times = Times::default();
                if chunk == 0 {
                    times.add(before, 1.0);
                }
                if chunk + 1 == count {
                    times.add(after, 1.0);
                }
                self.chunks[chunk].iter().for_each(|(id, iterations)| times.add(&loops[*id], *iterations));
                times
            })
            .collect()
    }

    /// What the pipeline simulates.
    fn chunk_costs(&self, times: &[Times]) -> Vec<ChunkCost> {
        let cost = |(chunk, times): (usize, &Times)| ChunkCost {
            forward: times.forward,
            input: times.backward,
            weight: times.weights,
            saved: self.saved(chunk),
        };
        times.iter().enumerate().map(cost).collect()
    }

    /// What each pipeline rank holds over a step: `points` moments at most, (seconds, bytes), and all that its states take throughout.
    pub fn memory_curves(&self, cluster: &Cluster, stack: &Stack, reach: &dyn Fn(&Device) -> Reach, points: usize) -> Vec<Vec<(f64, f64)>> {
        let costs = self.chunk_costs(&self.chunk_times(&self.on(cluster, reach), stack));
        let curves = pipe::stored(&self.orders, &costs, self.hop(cluster, stack), stack.blocking_sends, points);
        let with_states = |(rank, curve): (usize, Vec<(f64, f64)>)| {
            let states = self.memory(stack, rank, 0.0).total();
            curve.into_iter().map(|(seconds, bytes)| (seconds, bytes + states)).collect()
        };
        curves.into_iter().enumerate().map(with_states).collect()
    }

    /// Everything under prices; `reach` says what a device reaches.
    pub fn estimate(&self, cluster: &Cluster, stack: &Stack, reach: &dyn Fn(&Device) -> Reach) -> Estimate {
        let setup = &self.setup;
        let on = self.on(cluster, reach);
        let of_rank = |rank: usize| &on[rank.min(on.len() - 1)];
        let chunk_times = self.chunk_times(&on, stack);
        let (pp, m) = (setup.degrees.pp as usize, self.mesh.micro_batches as f64);
        let mut rank_times = vec![Times::default(); pp];
        chunk_times.iter().enumerate().for_each(|(chunk, times)| rank_times[self.rank_of(chunk)].add(times, 1.0));
        let slowest = (0..pp).max_by(|a, b| rank_times[*a].total().total_cmp(&rank_times[*b].total())).unwrap_or(0);
        let data = self.data(of_rank(slowest), stack, slowest, &rank_times[slowest]);
        let run = pipe::run(&self.orders, &self.chunk_costs(&chunk_times), self.hop(cluster, stack), stack.blocking_sends);
        let fill = run.span - run.busy;
        let mut kinds = Breakdown::default();
        let mut total = Times::default();
        total.add(&rank_times[slowest], m);
        kinds.clone_from(&total.kinds);
        kinds.bubble = fill;
        kinds.data_exposed = data.exposed;
        kinds.data_hidden = data.hidden;
        kinds.optimizer = data.optimizer;
        kinds.host = stack.step_ms * 1e-3;
        let step_seconds = run.span + data.exposed + data.optimizer + kinds.host;
        // the rank that is fullest beside what its device has
        let reserved = |held: &MemoryBreakdown| held.total() * (1.0 + stack.fragmentation) + stack.context_mib * 1_048_576.0;
        let held: Vec<MemoryBreakdown> = (0..pp).map(|rank| self.memory(stack, rank, run.peaks[rank].0)).collect();
        let full = |rank: usize| reserved(&held[rank]) / of_rank(rank).cluster.device.memory_bytes as f64;
        let fullest = (0..pp).max_by(|a, b| full(*a).total_cmp(&full(*b))).unwrap_or(0);
        // ranks are counted once for each stage that is seen alone, or all at once
        let of_stages =
            |rank: usize| on[rank].cluster.device.peak(setup.precision.product).0 * (self.mesh.mesh.ranks() * setup.degrees.pp) as f64;
        let peak = (0..on.len()).map(of_stages).sum::<f64>() / on.len() as f64;
        Estimate {
            step_seconds,
            mfu: self.model_flops / step_seconds / peak,
            bubble_fraction: fill / step_seconds,
            breakdown: kinds,
            memory_bytes: held[fullest].total(),
            memory_reserved_bytes: reserved(&held[fullest]),
            memory_full: full(fullest),
            memory: held[fullest],
            fullest_stage: fullest as u64,
            peak_moment: run.peaks[fullest].1.clone(),
        }
    }

    /// The pipeline rank that a chunk lives on.
    pub(super) fn rank_of(&self, chunk: usize) -> usize {
        self.orders.placement.rank(chunk as u64) as usize
    }

    /// Seconds to hand what a repeat carries to the next stage; tensor ranks that hold the same may send a part each.
    fn hop(&self, cluster: &Cluster, stack: &Stack) -> f64 {
        if self.setup.degrees.pp == 1 {
            return 0.0;
        }
        let link = cluster.link(self.mesh.mesh.ranks(), self.setup.degrees.pp);
        let parts = if stack.sends_parts { self.senders } else { 1.0 };
        link.latency.0 + self.hop_bytes / parts / link.rate.0
    }

    /// Bytes that one micro-batch leaves on a chunk for its backward pass.
    fn saved(&self, chunk: usize) -> f64 {
        let forward = self.sections.iter().filter(|section| section.phase == PhaseKind::Forward);
        forward
            .map(|section| match section.place {
                Place::Before if chunk == 0 => section.saved,
                Place::After if chunk + 1 == self.chunks.len() => section.saved,
                Place::Loop(id) => section.saved * self.chunks[chunk].get(&id.index()).copied().unwrap_or(0.0),
                _ => 0.0,
            })
            .sum()
    }
}

/// What a pipeline rank runs on.
pub(super) struct On<'a> {
    /// The cluster as it sees it.
    pub(super) cluster: Cow<'a, Cluster>,
    /// What its device reaches.
    reach: Reach,
    /// Which of those that differ this is.
    seen: usize,
}

/// `3 ·` the products of the forward pass over the whole batch, nothing left out for masks.
pub fn model_flops(graph: &Graph) -> f64 {
    let forward = primitives(graph).into_iter().filter(|(_, phase, _)| *phase == PhaseKind::Forward);
    let flops = forward.map(|(op, _, within)| {
        let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
        let points: f64 = rule.factors.iter().map(|size| *size as f64).product();
        if is_product(&rule) { 2.0 * points * graph.iterations(within) as f64 } else { 0.0 }
    });
    3.0 * flops.sum::<f64>()
}

/// Bytes of what repeats carry, on the busiest rank.
fn hop_bytes(graph: &Graph, context: &Context<'_>) -> f64 {
    let mut most = 0.0f64;
    for op in graph.phase(PhaseKind::Forward) {
        if let partita_ir::graph::Kind::Repeat(repeat) = &graph.op(*op).kind {
            most = most.max(repeat.carried.iter().map(|carried| context.value_bytes(carried.arg)).sum());
        }
    }
    most
}
