//! Parameters, gradients and optimizer state of a pipeline rank: what they take of its memory, what data-parallel ranks send
//! of them, and the update.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::graph::{Graph, Init, Leaf, PhaseKind};
use partita_ir::id::{Id, ValueId};
use partita_ir::layout::Layout;
use partita_ir::signature::SizedRule;

use super::sections::{Chosen, Place, bodies};
use super::stack::{Recipe, Regather, Stack};
use super::step::{MemoryBreakdown, On, Prepared, Times, Weights};
use crate::collective::{self, Collective, Spread};
use crate::mesh::{AxisUse, MeshPlan};

impl Prepared {
    /// Weights of a pipeline rank.
    fn rank_weights(&self, rank: usize) -> Held {
        let count = self.chunks.len();
        let mut held = Held::default();
        for chunk in (0..count).filter(|chunk| self.rank_of(*chunk) == rank) {
            for (id, iterations) in &self.chunks[chunk] {
                let weights = self.weights.get(&Place::Loop(Id::new(*id))).copied().unwrap_or_default();
                held.add(weights.elements, *iterations);
                held.states += weights.states * iterations;
            }
            let outer = [(chunk == 0, Place::Before), (chunk + 1 == count, Place::After)];
            for (_, place) in outer.into_iter().filter(|(here, _)| *here) {
                let weights = self.weights.get(&place).copied().unwrap_or_default();
                // a table that is read at both ends lives at both where they are apart
                let copies = if place == Place::After && count > 1 { self.copies } else { 0.0 };
                let elements = weights.elements + copies;
                held.add(elements, f64::from(u8::from(elements > 0.0)));
                held.states += weights.states;
            }
        }
        held
    }

    fn data_axes(&self) -> Vec<usize> {
        (0..self.mesh.uses.len()).filter(|axis| matches!(self.mesh.uses[*axis], AxisUse::Data | AxisUse::Context)).collect()
    }

    pub(super) fn recipe(&self, stack: &Stack) -> Recipe {
        stack.recipe(&self.setup.precision)
    }

    /// Bytes of the optimizer for each parameter: recipes speak of Adam's two moments.
    fn optimizer_bytes(&self, recipe: &Recipe) -> f64 {
        recipe.optimizer + recipe.moment * (self.moments - 2.0)
    }

    /// Data-parallel ranks, and those among them that share shards.
    fn sharers(&self) -> (f64, f64) {
        let all = self.setup.degrees.dp * self.setup.degrees.cp;
        let sharing = if self.setup.zero == 0 { 1 } else { self.setup.zero_group.unwrap_or(all).min(all) };
        (all as f64, sharing as f64)
    }

    /// Transfers of gradients and parameters, one a layer, and the update.
    pub(super) fn data(&self, on: &On<'_>, stack: &Stack, rank: usize, times: &Times) -> Data {
        let zero = self.setup.zero;
        let recipe = self.recipe(stack);
        let Held { elements, layers, .. } = self.rank_weights(rank);
        let (all, sharing) = self.sharers();
        let mut out = Data::default();
        if all > 1.0 {
            let axes = self.data_axes();
            let everyone = self.spreads(on, &axes);
            // those that share shards, and those that hold the same shard
            let (within, across) = if sharing < all {
                let group = self.mesh.mesh.group(0, &axes);
                let of = |ranks: Vec<u64>| vec![Spread::new(&on.cluster, &ranks)];
                let strided = group.iter().copied().step_by(sharing as usize).collect();
                (of(group[..sharing as usize].to_vec()), of(strided))
            } else {
                (everyone.clone(), Vec::new())
            };
            let each = |spreads: &[Spread], ranks: f64, kind: Collective, bytes: f64| {
                let received = bytes / layers.max(1.0) * (ranks - 1.0) / ranks * if kind == Collective::AllReduce { 2.0 } else { 1.0 };
                let once = spreads.iter().map(|spread| collective::seconds(spread, kind, received).0).fold(0.0, f64::max);
                (once + ranks * stack.ring_us * 1e-6) * layers
            };
            let gradients = elements * recipe.gradient_sent;
            let reduce = if zero == 0 || zero == 1 && stack.regather == Regather::Broadcast {
                each(&everyone, all, Collective::AllReduce, gradients)
            } else {
                let between = if sharing < all { each(&across, all / sharing, Collective::AllReduce, gradients / sharing) } else { 0.0 };
                each(&within, sharing, Collective::ReduceScatter, gradients) + between
            };
            let gather = each(&within, sharing, Collective::AllGather, elements * recipe.parameter_sent);
            let (forward, back) = (times.forward, times.backward + times.weights);
            let m = self.mesh.micro_batches as f64;
            out.hide(stack, reduce, back, if zero >= 2 { m } else { 1.0 });
            match zero {
                0 => {}
                1 if stack.regather == Regather::Broadcast => out.exposed += gather + sharing * stack.broadcast_ms * 1e-3,
                1 => out.hide(stack, gather, forward, 1.0),
                2 => out.hide(stack, gather, forward, m),
                _ => {
                    out.hide(stack, gather, forward, m);
                    if !stack.keeps_gathered {
                        out.hide(stack, gather, back, m);
                    }
                }
            }
        }
        let shard = if zero == 0 { 1.0 } else { sharing };
        let bytes = elements / shard * (2.0 * self.optimizer_bytes(&recipe) + recipe.gradient + recipe.parameter) * stack.optimizer_passes;
        out.optimizer = bytes / on.cluster.device.memory_rate().0;
        out
    }

    /// What a pipeline rank holds at its peak.
    pub(super) fn memory(&self, stack: &Stack, rank: usize, activations: f64) -> MemoryBreakdown {
        let recipe = self.recipe(stack);
        let (_, sharing) = self.sharers();
        let Held { elements, largest, states, .. } = self.rank_weights(rank);
        let shard = |from: u8| if self.setup.zero >= from { sharing } else { 1.0 };
        let gathered = if self.setup.zero >= 3 { 2.0 * largest * recipe.parameter_sent } else { 0.0 };
        let places = self.sections.iter().filter(|section| match section.place {
            Place::Before => self.rank_of(0) == rank,
            Place::After => self.rank_of(self.chunks.len() - 1) == rank,
            Place::Loop(_) => true,
        });
        MemoryBreakdown {
            parameters: (elements + states) * recipe.parameter / shard(3) + gathered,
            gradients: elements * recipe.gradient / shard(2),
            optimizer: elements * self.optimizer_bytes(&recipe) / shard(1),
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

/// Weights of a pipeline rank, on the busiest tensor rank.
#[derive(Default)]
struct Held {
    elements: f64,
    /// How many layers; what is outside of loops counts as one each.
    layers: f64,
    /// Elements of the largest.
    largest: f64,
    /// Elements of the model's own states, and of parameters that stay as they are.
    states: f64,
}

impl Held {
    fn add(&mut self, elements: f64, layers: f64) {
        self.elements += elements * layers;
        self.layers += layers;
        self.largest = self.largest.max(elements);
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
    for (at, body) in bodies(graph, PhaseKind::Forward) {
        for op in body {
            let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
            for (n, operand) in graph.op(op).operands.iter().enumerate() {
                if let Some(signature) = chosen.signatures.get(&op) {
                    needed.entry(*operand).or_insert_with(|| rule.operand_layout(n, signature));
                    place.entry(*operand).or_insert(at);
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
        if !is_trained(graph, param) {
            weights.states += layout.largest_shard(&graph.shape(param), &mesh.mesh) as f64;
            continue;
        }
        weights.elements += layout.largest_shard(&graph.shape(param), &mesh.mesh) as f64;
        weights.tensors += 1.0;
        if *at == Place::Before && behind.contains(&param) {
            copies += layout.largest_shard(&graph.shape(param), &mesh.mesh) as f64;
        }
    }
    (out, copies)
}
