//! Parameters, gradients and optimizer state of a pipeline rank: what they take of its memory, what data-parallel ranks send
//! of them, and the update.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::axis::Role;
use partita_ir::experts::{Expertise, expertise};
use partita_ir::graph::{Graph, Init, Leaf, PhaseKind};
use partita_ir::id::{Id, ValueId};
use partita_ir::layout::Layout;
use partita_ir::signature::SizedRule;

use super::sections::{Chosen, Place, bodies};
use super::stack::{Recipe, Regather, Stack};
use super::step::{MemoryBreakdown, On, Prepared, Times, Weights};
use crate::collective::{self, Collective, Spread};
use crate::mesh::{AxisUse, ExpertUse, MeshPlan};

impl Prepared {
    /// Weights of a pipeline rank.
    fn rank_weights(&self, rank: usize) -> Held {
        let count = self.chunks.len();
        let mut held = Held::default();
        for chunk in (0..count).filter(|chunk| self.rank_of(*chunk) == rank) {
            for (id, iterations) in &self.chunks[chunk] {
                let weights = self.weights.get(&Place::Loop(Id::new(*id))).copied().unwrap_or_default();
                held.add(weights.elements, weights.experts, *iterations);
                held.states += weights.states * iterations;
            }
            let outer = [(chunk == 0, Place::Before), (chunk + 1 == count, Place::After)];
            for (_, place) in outer.into_iter().filter(|(here, _)| *here) {
                let weights = self.weights.get(&place).copied().unwrap_or_default();
                // a table that is read at both ends lives at both where they are apart
                let copies = if place == Place::After && count > 1 { self.copies } else { 0.0 };
                let elements = weights.elements + copies;
                held.add(elements, weights.experts, f64::from(u8::from(elements + weights.experts > 0.0)));
                held.states += weights.states;
            }
        }
        held
    }

    pub(super) fn recipe(&self, stack: &Stack) -> Recipe {
        stack.recipe(&self.setup.precision)
    }

    /// Bytes of the optimizer for each parameter: recipes speak of Adam's two moments.
    fn optimizer_bytes(&self, recipe: &Recipe) -> f64 {
        recipe.optimizer + recipe.moment * (self.moments - 2.0)
    }

    /// Who has the same weights, of each kind.
    fn sharers(&self, held: &Held) -> [Sharers; 2] {
        let degrees = self.setup.degrees;
        let axes = |held: &dyn Fn(usize) -> bool| -> Vec<usize> { (0..self.mesh.uses.len()).filter(|axis| held(*axis)).collect() };
        let of = |elements: f64, axes: Vec<usize>, all: u64| {
            let sharing = if self.setup.zero == 0 { 1 } else { self.setup.zero_group.unwrap_or(all).min(all) };
            Sharers { elements, axes, all: all as f64, sharing: sharing as f64 }
        };
        let uses = &self.mesh.uses;
        let data = axes(&|axis| matches!(uses[axis], AxisUse::Data | AxisUse::Context));
        let beside = axes(&|axis| uses[axis] != AxisUse::Micro && self.mesh.experts[axis] == ExpertUse::Data);
        [of(held.elements, data, degrees.dp * degrees.cp), of(held.experts, beside, degrees.edp())]
    }

    /// Transfers of gradients and parameters, one a layer, and the update.
    pub(super) fn data(&self, on: &On<'_>, stack: &Stack, rank: usize, times: &Times) -> Data {
        let zero = self.setup.zero;
        let recipe = self.recipe(stack);
        let held = self.rank_weights(rank);
        let mut out = Data::default();
        let (mut reduce, mut gather, mut broadcasts) = (0.0, 0.0, 0.0);
        let sharers = self.sharers(&held);
        for sharers in sharers.iter().filter(|sharers| sharers.all > 1.0 && sharers.elements > 0.0) {
            reduce += self.reduce(on, stack, sharers, held.layers);
            gather += self.gather(on, stack, sharers, held.layers);
            broadcasts += sharers.sharing;
        }
        let (forward, back) = (times.forward, times.backward + times.weights);
        let m = self.mesh.micro_batches as f64;
        out.hide(stack, reduce, back, if zero >= 2 { m } else { 1.0 });
        match zero {
            0 => {}
            1 if stack.regather == Regather::Broadcast => out.exposed += gather + broadcasts * stack.broadcast_ms * 1e-3,
            1 => out.hide(stack, gather, forward, 1.0),
            2 => out.hide(stack, gather, forward, m),
            _ => {
                out.hide(stack, gather, forward, m);
                if !stack.keeps_gathered {
                    out.hide(stack, gather, back, m);
                }
            }
        }
        let updated: f64 = sharers.iter().map(|sharers| sharers.elements / sharers.sharing).sum();
        let bytes = updated * (2.0 * self.optimizer_bytes(&recipe) + recipe.gradient + recipe.parameter) * stack.optimizer_passes;
        out.optimizer = bytes / on.cluster.device.memory_rate().0;
        out
    }

    /// Those that share shards, and those that hold the same shard.
    fn groups(&self, on: &On<'_>, sharers: &Sharers) -> (Vec<Spread>, Vec<Spread>) {
        if sharers.sharing == sharers.all {
            return (self.spreads(on, &sharers.axes), Vec::new());
        }
        let group = self.mesh.mesh.group(0, &sharers.axes);
        let of = |ranks: Vec<u64>| vec![Spread::new(&on.cluster, &ranks)];
        let strided = group.iter().copied().step_by(sharers.sharing as usize).collect();
        (of(group[..sharers.sharing as usize].to_vec()), of(strided))
    }

    /// Seconds to reduce the gradients of weights.
    fn reduce(&self, on: &On<'_>, stack: &Stack, sharers: &Sharers, layers: f64) -> f64 {
        let Sharers { all, sharing, .. } = *sharers;
        let gradients = sharers.elements * self.recipe(stack).gradient_sent;
        if self.setup.zero == 0 || self.setup.zero == 1 && stack.regather == Regather::Broadcast {
            return each(stack, &self.spreads(on, &sharers.axes), all, Collective::AllReduce, gradients, layers);
        }
        let (within, across) = self.groups(on, sharers);
        let between = match sharing < all {
            true => each(stack, &across, all / sharing, Collective::AllReduce, gradients / sharing, layers),
            false => 0.0,
        };
        each(stack, &within, sharing, Collective::ReduceScatter, gradients, layers) + between
    }

    /// Seconds to gather weights.
    fn gather(&self, on: &On<'_>, stack: &Stack, sharers: &Sharers, layers: f64) -> f64 {
        let bytes = sharers.elements * self.recipe(stack).parameter_sent;
        each(stack, &self.groups(on, sharers).0, sharers.sharing, Collective::AllGather, bytes, layers)
    }

    /// What a pipeline rank holds at its peak.
    pub(super) fn memory(&self, stack: &Stack, rank: usize, activations: f64) -> MemoryBreakdown {
        let recipe = self.recipe(stack);
        let held = self.rank_weights(rank);
        let sharers = self.sharers(&held);
        // elements of weights, and of the model's own states with them, that are left where shards begin at a stage
        let left = |from: u8, states: f64| -> f64 {
            let shard = |sharing: f64| if self.setup.zero >= from { sharing } else { 1.0 };
            let [weights, experts] = &sharers;
            (weights.elements + states) / shard(weights.sharing) + experts.elements / shard(experts.sharing)
        };
        let gathered = if self.setup.zero >= 3 { 2.0 * held.largest * recipe.parameter_sent } else { 0.0 };
        let places = self.sections.iter().filter(|section| match section.place {
            Place::Before => self.rank_of(0) == rank,
            Place::After => self.rank_of(self.chunks.len() - 1) == rank,
            Place::Loop(_) => true,
        });
        MemoryBreakdown {
            parameters: left(3, held.states) * recipe.parameter + gathered,
            gradients: left(2, 0.0) * recipe.gradient,
            optimizer: left(1, 0.0) * self.optimizer_bytes(&recipe),
            activations,
            temporaries: places.map(|section| section.alive).fold(0.0, f64::max),
        }
    }
}

/// Seconds that the states of a pipeline rank take of a step.
#[derive(Default)]
pub(super) struct Data {
    pub(super) exposed: f64,
    pub(super) hidden: f64,
    pub(super) optimizer: f64,
}

impl Data {
    /// A transfer that comes `times` times a step, with so much work each time to hide it under.
    fn hide(&mut self, stack: &Stack, seconds: f64, window: f64, times: f64) {
        let shown = if stack.data_overlaps { (stack.data_exposed * seconds).max(seconds - window).min(seconds) } else { seconds };
        self.exposed += shown * times;
        self.hidden += (seconds - shown) * times;
    }
}

/// Ranks that have the same weights.
struct Sharers {
    /// Elements of these weights on each.
    elements: f64,
    /// The mesh axes that the ranks differ on.
    axes: Vec<usize>,
    /// How many ranks.
    all: f64,
    /// How many of them share shards.
    sharing: f64,
}

/// Seconds of a collective over `bytes` in as many pieces as there are layers.
fn each(stack: &Stack, spreads: &[Spread], ranks: f64, kind: Collective, bytes: f64, layers: f64) -> f64 {
    let received = bytes / layers.max(1.0) * (ranks - 1.0) / ranks * if kind == Collective::AllReduce { 2.0 } else { 1.0 };
    let once = spreads.iter().map(|spread| collective::seconds(spread, kind, received).0).fold(0.0, f64::max);
    (once + ranks * stack.ring_us * 1e-6) * layers
}

/// Weights of a pipeline rank, on the busiest tensor rank.
#[derive(Default)]
struct Held {
    /// Elements, those of experts left out.
    elements: f64,
    /// Elements of experts.
    experts: f64,
    /// How many layers; what is outside of loops counts as one each.
    layers: f64,
    /// Elements of the largest layer.
    largest: f64,
    /// Elements of the model's own states, and of parameters that stay as they are.
    states: f64,
}

impl Held {
    fn add(&mut self, elements: f64, experts: f64, layers: f64) {
        self.elements += elements * layers;
        self.experts += experts * layers;
        self.layers += layers;
        self.largest = self.largest.max(elements + experts);
    }
}

/// Whether a step changes a parameter.
fn is_trained(graph: &Graph, param: ValueId) -> bool {
    graph.assigns.iter().any(|assign| assign.target == param)
}

/// Elements of moments for each element of all trained parameters.
pub(super) fn moments(graph: &Graph) -> f64 {
    let elements = |value: ValueId| (graph.elements(value) * graph.iterations(graph.value(value).within)) as f64;
    let params: f64 = graph.params().filter(|param| is_trained(graph, *param)).map(elements).sum();
    let moment = |leaf: &Leaf| matches!(leaf, Leaf::State { init, of: Some(_), .. } if *init != Init::Copy);
    let states = graph.leaves(moment).map(elements);
    states.sum::<f64>() / params.max(1.0)
}

/// Elements of each place's weights on the busiest tensor rank: split as the first operator that reads them needs.
pub(super) fn weights(graph: &Graph, mesh: &MeshPlan, chosen: &Chosen<'_>) -> (BTreeMap<Place, Weights>, f64) {
    let mut behind = BTreeSet::new();
    let mut needed: BTreeMap<ValueId, Layout> = BTreeMap::new();
    let mut place: BTreeMap<ValueId, Place> = BTreeMap::new();
    let mut experts: BTreeSet<ValueId> = BTreeSet::new();
    for (at, body) in bodies(graph, PhaseKind::Forward) {
        for op in body {
            let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
            let own = matches!(expertise(graph, &rule), Expertise::Works { .. } | Expertise::Inside);
            for (n, operand) in graph.op(op).operands.iter().enumerate() {
                if let Some(signature) = chosen.signatures.get(&op) {
                    needed.entry(*operand).or_insert_with(|| rule.operand_layout(n, signature));
                    place.entry(*operand).or_insert(at);
                    if own && graph.value(*operand).ty.dims.iter().any(|axis| graph.axis(*axis).role == Role::Expert) {
                        experts.insert(*operand);
                    }
                    if at == Place::After {
                        behind.insert(*operand);
                    }
                }
            }
        }
    }
    let mut out: BTreeMap<Place, Weights> = BTreeMap::new();
    let mut copies = 0.0;
    let own = |leaf: &Leaf| matches!(leaf, Leaf::State { of: None, .. });
    for state in graph.leaves(own) {
        if let (Some(layout), Some(at)) = (needed.get(&state), place.get(&state)) {
            out.entry(*at).or_default().states += layout.largest_shard(&graph.shape(state), &mesh.mesh) as f64;
        }
    }
    for param in graph.params() {
        let (Some(layout), Some(at)) = (needed.get(&param), place.get(&param)) else { continue };
        let weights = out.entry(*at).or_default();
        let elements = layout.largest_shard(&graph.shape(param), &mesh.mesh) as f64;
        *(if experts.contains(&param) { &mut weights.experts } else { &mut weights.elements }) += elements;
        weights.tensors += 1.0;
        if *at == Place::Before && behind.contains(&param) {
            copies += elements;
        }
    }
    (out, copies)
}
