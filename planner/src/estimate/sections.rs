//! The work of a micro-batch on the busiest rank, section by section: what runs before, in and after each repeated block,
//! forward and backward, as kernels with their local shapes, and the values that must move in between.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::axis::Role;
use partita_ir::boxing::{Shape, Step, StepKind};
use partita_ir::graph::{Class, Def, Graph, Kind as OpKind, Leaf, PhaseKind};
use partita_ir::id::{Id, LoopId, OpId, ValueId};
use partita_ir::layout::{Layout, Share};
use partita_ir::scalar::{Binary, Node};
use partita_ir::signature::{Choice, Signature, SizedRule};

use super::groups::{Aliases, Group, Kind, groups, has_random};
use super::stack::Stack;
use crate::collective::Collective;
use crate::mesh::{AxisUse, MeshPlan};

/// Where a section lies in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Ahead of the first repeated block.
    Before,
    /// In each iteration of a loop.
    Loop(LoopId),
    /// Behind the first repeated block, and in none.
    After,
}

/// What a kernel does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// `batch` matrix products of m × k and k × n.
    Gemm {
        /// Rows of the result.
        m: f64,
        /// Its columns.
        n: f64,
        /// What is summed over.
        k: f64,
        /// How many.
        batch: f64,
        /// Whether one operand is a weight of a repeated block, which low-precision recipes round.
        weight: bool,
    },
    /// Flash attention.
    Flash {
        /// Floating-point operations, the masked half of a causal one left out.
        flops: f64,
        /// Whether it is the backward pass.
        backward: bool,
    },
    /// Memory traffic alone.
    Stream,
}

/// One kernel on the busiest rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kernel {
    /// What it does.
    pub work: Work,
    /// Bytes that it reads and writes.
    pub bytes: f64,
    /// Whether it computes the gradient of weights (which zero-bubble schedules put off).
    pub for_weights: bool,
    /// Whether it passes over scores of attention that were written to memory.
    pub scores: bool,
}

/// A collective on the busiest rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Which.
    pub collective: Collective,
    /// The mesh axes that it runs along.
    pub axes: Vec<usize>,
    /// What they are for.
    pub for_use: AxisUse,
    /// Bytes that each rank receives.
    pub received: f64,
    /// Bytes that it reads and writes to put parts together, or apart, that do not lie in one piece.
    pub packed: f64,
}

/// One section.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Forward or backward.
    pub phase: PhaseKind,
    /// Where.
    pub place: Place,
    /// Its kernels, in order.
    pub kernels: Vec<Kernel>,
    /// What moves.
    pub moves: Vec<Move>,
    /// Bytes that the backward pass reads of what this section makes (forward sections).
    pub saved: f64,
    /// The most bytes that are alive beside what is saved.
    pub alive: f64,
}

/// Statistics of a kernel are values this many times smaller than what enters it.
const FEW: f64 = 16.0;

/// Layouts of everything that runs once a micro-batch.
pub struct Chosen<'a> {
    /// Of operators.
    pub signatures: &'a BTreeMap<OpId, Signature>,
    /// Of carried values, where they are not as the operator that gives them leaves them.
    pub carried: &'a BTreeMap<ValueId, Layout>,
}

/// What all sections are worked out from.
pub struct Context<'a> {
    graph: &'a Graph,
    mesh: &'a MeshPlan,
    stack: &'a Stack,
    chosen: Chosen<'a>,
    aliases: Aliases,
    /// Operators that read a value under any of its names.
    readers: BTreeMap<ValueId, Vec<OpId>>,
    /// Values that a repeat or the step takes on.
    kept: BTreeSet<ValueId>,
    /// Repeats of the forward pass.
    forward: BTreeSet<OpId>,
    /// The phase of each operator, and the body that it is in.
    home: BTreeMap<OpId, (PhaseKind, Place)>,
}

impl<'a> Context<'a> {
    /// Of a training step.
    pub fn new(graph: &'a Graph, mesh: &'a MeshPlan, stack: &'a Stack, chosen: Chosen<'a>) -> Self {
        let aliases = Aliases::of(graph);
        let mut readers: BTreeMap<ValueId, Vec<OpId>> = BTreeMap::new();
        for (index, op) in graph.ops.iter().enumerate() {
            for operand in &op.operands {
                readers.entry(aliases.root(*operand)).or_default().push(OpId::new(index));
            }
        }
        let mut kept = BTreeSet::new();
        let mut home = BTreeMap::new();
        for phase in &graph.phases {
            for (place, body) in bodies(graph, phase.kind) {
                home.extend(body.into_iter().map(|op| (op, (phase.kind, place))));
            }
            for op in &phase.ops {
                if let OpKind::Repeat(repeat) = &graph.op(*op).kind {
                    kept.extend(repeat.carried.iter().flat_map(|carried| [carried.next, carried.init]).map(|value| aliases.root(value)));
                    let slices = repeat.taken.iter().map(|slice| slice.whole).chain(repeat.collected.iter().map(|slice| slice.each));
                    kept.extend(slices.map(|value| aliases.root(value)));
                }
            }
        }
        for value in graph.leaves(|leaf| matches!(leaf, Leaf::Accumulated(_))) {
            if let Some(Leaf::Accumulated(source)) = graph.leaf(value) {
                kept.insert(aliases.root(*source));
            }
        }
        let forward = graph.phase(PhaseKind::Forward).iter().copied().filter(|op| graph.op(*op).rule().is_none()).collect();
        Self { graph, mesh, stack, chosen, aliases, readers, kept, forward, home }
    }

    /// Every section of a micro-batch.
    pub fn sections(&self) -> Vec<Section> {
        let mut grouped: Vec<(PhaseKind, Place, Vec<OpId>, Vec<Group>)> = Vec::new();
        for phase in [PhaseKind::Forward, PhaseKind::Backward] {
            for (place, body) in bodies(self.graph, phase) {
                let groups = groups(self.graph, &self.aliases, &body, self.stack);
                grouped.push((phase, place, body, groups));
            }
        }
        let saved = self.saved(&grouped);
        let mut sections: Vec<Section> = grouped
            .iter()
            .map(|(phase, place, body, groups)| Section {
                phase: *phase,
                place: *place,
                kernels: groups.iter().flat_map(|group| self.kernels(group, *phase, *place)).collect(),
                moves: self.moves(body, *place),
                saved: if *phase == PhaseKind::Forward { self.saved_bytes(&saved, body, *place) } else { 0.0 },
                alive: self.alive(groups, &saved),
            })
            .collect();
        if self.stack.reruns_blocks {
            for (_, place, body, groups) in grouped.iter().filter(|body| body.0 == PhaseKind::Forward) {
                let left = self.not_run_again(&self.checkpointed(body));
                let back = sections.iter_mut().find(|section| section.phase == PhaseKind::Backward && section.place == *place);
                if let Some(back) = back.filter(|_| !left.is_empty()) {
                    let again = groups.iter().filter(|group| group.ops.iter().all(|op| left.contains(op)));
                    back.kernels.extend(again.flat_map(|group| self.kernels(group, PhaseKind::Forward, *place)));
                    back.moves.extend(self.moves_of(&left));
                }
            }
        }
        sections
    }

    /// What is run again as a whole for the backward pass: a block, or the attention in it that is not one kernel.
    fn checkpointed(&self, body: &[OpId]) -> Vec<OpId> {
        let whole = self.is_recomputed(body);
        let inside = |op: &OpId| {
            let composite = self.graph.op(*op).composite;
            composite.is_some_and(|id| self.graph.composites[id.index()].recompute && !super::groups::is_flash(self.graph, id, self.stack))
        };
        body.iter().copied().filter(|op| whole || inside(op)).collect()
    }

    /// The operators of a checkpointed forward body that the backward pass has no need of: products that it does not run again, and
    /// what follows them.
    fn not_run_again(&self, body: &[OpId]) -> Vec<OpId> {
        let product = |op: OpId| super::groups::is_product(&self.rule(op));
        let is_grad = |op: OpId| self.graph.value(self.graph.op(op).result()).name == "grad";
        let backward = self.home.iter().filter(|(_, home)| home.0 == PhaseKind::Backward).map(|(op, _)| *op);
        let mut again: Vec<OpId> = backward.filter(|op| product(*op) && !is_grad(*op)).collect();
        let mut left: Vec<OpId> = Vec::new();
        for op in body.iter().copied() {
            let same = |other: &OpId| self.graph.op(*other).rule() == self.graph.op(op).rule();
            let missing = product(op)
                && match again.iter().position(same) {
                    Some(at) => {
                        again.remove(at);
                        false
                    }
                    None => true,
                };
            let made = |value: &ValueId| left.iter().any(|earlier| self.graph.op(*earlier).result() == self.aliases.root(*value));
            if missing || self.graph.op(op).operands.iter().any(made) {
                left.push(op);
            }
        }
        left
    }

    /// The collectives that the readers of what these operators make cause, in their own body.
    fn moves_of(&self, ops: &[OpId]) -> Vec<Move> {
        let mut moves = Vec::new();
        for op in ops {
            let value = self.graph.op(*op).result();
            let Some(from) = self.layout(value) else { continue };
            let readers = self.readers.get(&value).into_iter().flatten();
            let inside = readers.filter(|reader| self.home.get(reader).is_some_and(|home| home == &self.home[op]));
            let needed: BTreeSet<Layout> = inside
                .flat_map(|reader| {
                    let rule = self.rule(*reader);
                    let operands =
                        self.graph.op(*reader).operands.iter().enumerate().filter(|(_, operand)| self.aliases.root(**operand) == value);
                    operands.map(|(n, _)| rule.operand_layout(n, self.signature(*reader))).collect::<Vec<_>>()
                })
                .collect();
            let dims = self.graph.shape(value);
            moves.extend(needed.iter().filter(|to| **to != from).flat_map(|to| self.steps(value, &dims, &from, to)));
        }
        moves
    }

    fn rule(&self, op: OpId) -> SizedRule<'a> {
        SizedRule::of(self.graph, op).expect("a primitive has a rule")
    }

    fn signature(&self, op: OpId) -> &Signature {
        &self.chosen.signatures[&op]
    }

    /// Bytes of an element of a value while it is worked with.
    fn element_bytes(&self, value: ValueId) -> f64 {
        let value = self.graph.value(value);
        let role = |role: Role| value.ty.dims.iter().any(|axis| self.graph.axis(*axis).role == role);
        if role(Role::Vocab) && role(Role::Batch) && value.ty.dtype.is_float() {
            return self.stack.logits_bytes;
        }
        // kernels of other stacks keep their statistics to themselves: what lies between kernels is as wide as parameters
        let held = self.graph.params().next().filter(|_| value.ty.dtype.is_float()).map_or(value, |param| self.graph.value(param));
        held.ty.dtype.bytes(8) as f64 / 8.0
    }

    /// Bytes that the busiest rank holds of the result of an operator.
    fn result_bytes(&self, op: OpId) -> f64 {
        let rule = self.rule(op);
        let layout = rule.result_layout(self.signature(op));
        layout.largest_shard(&rule.result, &self.mesh.mesh) as f64 * self.element_bytes(self.graph.op(op).result())
    }

    /// Bytes of any value of a micro-batch on the busiest rank.
    pub fn value_bytes(&self, value: ValueId) -> f64 {
        match self.layout(value) {
            Some(layout) => layout.largest_shard(&self.graph.shape(value), &self.mesh.mesh) as f64 * self.element_bytes(value),
            None => 0.0,
        }
    }

    /// The layout that a value is made in; `None` for leaves, which lie as they are needed.
    fn layout(&self, value: ValueId) -> Option<Layout> {
        let whole = |mut layout: Layout| {
            layout.0.iter_mut().filter(|share| matches!(share, Share::Partial(_))).for_each(|share| *share = Share::Broadcast);
            layout
        };
        if let Some(layout) = self.chosen.carried.get(&value) {
            return Some(layout.clone());
        }
        match &self.graph.value(value).def {
            Def::Leaf(_) => None,
            Def::Carried(op, n) | Def::Result(op, n) | Def::Taken(op, n) => {
                match (&self.graph.value(value).def, &self.graph.op(*op).kind) {
                    (_, OpKind::Map(_)) => Some(self.rule(*op).result_layout(self.chosen.signatures.get(op)?)),
                    // what is dealt out along a scan is brought together for it
                    (Def::Taken(..), OpKind::Repeat(repeat)) => {
                        let layout = self.layout(repeat.taken[*n].whole).map(whole)?;
                        Some(Layout(layout.0.iter().map(|share| share.entry().unwrap_or(Share::Broadcast)).collect()))
                    }
                    (_, OpKind::Repeat(repeat)) => match repeat.carried.get(*n) {
                        Some(carried) => self.layout(carried.next).map(whole),
                        None => self.layout(repeat.collected[*n - repeat.carried.len()].each).map(|layout| whole(layout).stacked()),
                    },
                }
            }
        }
    }

    /// Sizes of the factors of an operator on the busiest rank.
    fn local(&self, op: OpId) -> (SizedRule<'a>, Vec<f64>) {
        let rule = self.rule(op);
        let mut sizes = rule.factors.clone();
        let signature = self.signature(op);
        for &axis in &signature.order {
            if let Choice::Split { factor, partition } = &signature.choices[axis] {
                sizes[*factor] = partition.largest(sizes[*factor], self.mesh.mesh.axes[axis].size);
            }
        }
        (rule, sizes.into_iter().map(|size| size as f64).collect())
    }

    fn gives_weights(&self, op: OpId) -> bool {
        !self.graph.value(self.graph.op(op).result()).ty.dims.iter().any(|axis| self.graph.axis(*axis).role == Role::Batch)
    }

    /// The kernels that a group is: one, and one more where a flash attention runs again.
    fn kernels(&self, group: &Group, phase: PhaseKind, place: Place) -> Vec<Kernel> {
        let backward = phase == PhaseKind::Backward;
        let kernel = |work, ops: &[OpId]| {
            let scores = |op: &OpId| self.graph.op(*op).class == Class::Attention;
            Kernel {
                work,
                bytes: self.traffic(ops, group),
                for_weights: backward && ops.iter().all(|op| self.gives_weights(*op)),
                scores: ops.iter().any(scores) && group.kind != Kind::Flash,
            }
        };
        let whole = |work| vec![kernel(work, &group.ops)];
        match group.kind {
            Kind::Stream => whole(Work::Stream),
            Kind::Gemm => whole(self.gemm(group, place)),
            Kind::Flash if backward => {
                let (again, own) = self.flash_backward(group);
                let kernels = [(again, PhaseKind::Forward), (own, phase)];
                kernels.iter().filter(|(ops, _)| !ops.is_empty()).map(|(ops, phase)| kernel(self.flash(ops, *phase), ops)).collect()
            }
            Kind::Flash => whole(self.flash(&group.ops, phase)),
        }
    }

    fn gemm(&self, group: &Group, place: Place) -> Work {
        let (mut all, mut weight) = ([0.0; 4], false);
        let summed = group.ops.iter().any(|op| super::groups::is_sum(&self.rule(*op).rule.expr));
        for op in group.ops.iter().filter(|op| super::groups::is_product(&self.rule(**op))) {
            let (rule, sizes) = self.local(*op);
            let walks =
                |n: usize, factor: usize| rule.rule.operands[n].iter().any(|dim| dim.terms.iter().any(|term| term.factor == factor));
            let mut shape = [1.0; 4];
            for (factor, size) in sizes.iter().enumerate() {
                let slot = match (walks(0, factor), walks(1, factor), rule.rule.keeps(factor)) {
                    (true, true, true) => 3,
                    (_, _, false) => 2,
                    (true, false, true) => 0,
                    _ => 1,
                };
                shape[slot] *= size;
            }
            let grows = if summed { 2 } else { 1 };
            for (slot, (total, size)) in all.iter_mut().zip(shape).enumerate() {
                *total = if slot == grows { *total + size } else { size };
            }
            let params = self.graph.op(*op).operands.iter().any(|value| matches!(self.graph.leaf(*value), Some(Leaf::Param(_))));
            weight |= params || self.gives_weights(*op);
        }
        let [m, n, k, batch] = all;
        Work::Gemm { m, n, k, batch, weight: weight && matches!(place, Place::Loop(_)) }
    }

    fn flash(&self, ops: &[OpId], phase: PhaseKind) -> Work {
        let (mut flops, mut causal) = (0.0, false);
        for op in ops {
            let (rule, sizes) = self.local(*op);
            if super::groups::is_product(&rule) {
                flops += 2.0 * sizes.iter().product::<f64>();
            }
            let nodes = &rule.rule.expr.nodes;
            let index = |id: u32| matches!(nodes[id as usize], Node::Index(_));
            causal |= nodes.iter().any(|node| matches!(node, Node::Binary(Binary::Lt | Binary::Le, a, b) if index(*a) && index(*b)));
        }
        Work::Flash { flops: if causal { flops / 2.0 } else { flops }, backward: phase == PhaseKind::Backward }
    }

    /// A flash attention of the backward pass: the forward kernel, if its result is needed again, and its own, which works the
    /// scores out again all the same.
    fn flash_backward(&self, group: &Group) -> (Vec<OpId>, Vec<OpId>) {
        let result = |op: &OpId| self.graph.op(*op).result();
        let is_again = |op: &OpId| self.graph.value(result(op)).name != "grad";
        let again: Vec<OpId> = group.ops.iter().copied().filter(is_again).collect();
        if again.iter().filter(|op| super::groups::is_product(&self.rule(**op))).count() < 2 {
            return (Vec::new(), group.ops.clone());
        }
        let reads = |op: &OpId, value: ValueId| self.graph.op(*op).operands.iter().any(|operand| self.aliases.root(*operand) == value);
        let inner = |op: &OpId| !is_again(op) || group.ops.iter().any(|reader| reads(reader, result(op)));
        (again, group.ops.iter().copied().filter(inner).collect())
    }

    /// Bytes that operators of a group read from outside of it and write for outside. Of a table that is only looked up, the rows that are
    /// touched; a weight's gradient is added to what is there.
    fn traffic(&self, ops: &[OpId], group: &Group) -> f64 {
        let inside: BTreeSet<OpId> = group.ops.iter().copied().collect();
        let made: BTreeSet<ValueId> = group.ops.iter().map(|op| self.graph.op(*op).result()).collect();
        let mut read: BTreeMap<ValueId, f64> = BTreeMap::new();
        let mut written = 0.0;
        for op in ops {
            let rule = self.rule(*op);
            let result = self.result_bytes(*op);
            let looked_up = rule.looked_up();
            for (n, operand) in self.graph.op(*op).operands.iter().enumerate() {
                let root = self.aliases.root(*operand);
                if made.contains(&root) {
                    continue;
                }
                let held = rule.operand_layout(n, self.signature(*op)).largest_shard(&rule.operands[n], &self.mesh.mesh) as f64;
                let walks = |factor: usize| rule.rule.operands[n].iter().any(|dim| dim.terms.iter().any(|term| term.factor == factor));
                let mut bytes = held * self.element_bytes(root);
                if looked_up.is_some_and(|factor| walks(factor) && !rule.rule.keeps(factor)) {
                    bytes = bytes.min(result);
                }
                let known = read.entry(root).or_default();
                *known = known.max(bytes);
            }
            let outside = |reader: &OpId| !inside.contains(reader);
            let value = self.graph.op(*op).result();
            if self.kept.contains(&value) || self.readers.get(&value).is_some_and(|readers| readers.iter().any(outside)) {
                written += if self.kept.contains(&value) && self.gives_weights(*op) { 2.0 * result } else { result };
            }
        }
        read.values().sum::<f64>() + written
    }

    /// The forward values that the backward pass reads. What is inside a fused kernel is worked out again from what enters it.
    fn saved(&self, grouped: &[(PhaseKind, Place, Vec<OpId>, Vec<Group>)]) -> BTreeSet<ValueId> {
        let forward = |op: &OpId| self.home.get(op).is_some_and(|home| home.0 == PhaseKind::Forward);
        let mut group_of: BTreeMap<OpId, &Group> = BTreeMap::new();
        for (.., groups) in grouped.iter().filter(|body| body.0 == PhaseKind::Forward) {
            groups.iter().for_each(|group| group_of.extend(group.ops.iter().map(|op| (*op, group))));
        }
        let mut todo: Vec<ValueId> = Vec::new();
        for (index, op) in self.graph.ops.iter().enumerate() {
            if self.home.get(&OpId::new(index)).is_some_and(|home| home.0 == PhaseKind::Backward) {
                todo.extend(op.operands.iter().map(|value| self.aliases.root(*value)));
            }
        }
        let mut saved = BTreeSet::new();
        let mut seen = BTreeSet::new();
        // statistics inside a kernel, with what enters it
        let mut small: Vec<(ValueId, Vec<ValueId>)> = Vec::new();
        while let Some(value) = todo.pop() {
            if !seen.insert(value) {
                continue;
            }
            match &self.graph.value(value).def {
                Def::Leaf(_) => {}
                Def::Carried(op, _) | Def::Taken(op, _) if self.forward.contains(op) => drop(saved.insert(value)),
                Def::Carried(..) | Def::Taken(..) => {}
                Def::Result(op, _) if group_of.contains_key(op) => {
                    let group = group_of[op];
                    let outside = |reader: &OpId| forward(reader) && !group.ops.contains(reader);
                    let visible = self.kept.contains(&value) || self.readers.get(&value).is_some_and(|readers| readers.iter().any(outside));
                    if visible || group.kind == Kind::Flash {
                        saved.insert(value);
                    } else if group.kind == Kind::Gemm {
                        let last = group.ops.iter().map(|op| self.graph.op(*op).result()).max().unwrap_or(value);
                        saved.insert(last);
                    } else {
                        let made = |value: &ValueId| group.ops.iter().any(|op| self.graph.op(*op).result() == *value);
                        let operands = group.ops.iter().flat_map(|op| &self.graph.op(*op).operands);
                        let entering: Vec<ValueId> =
                            operands.map(|operand| self.aliases.root(*operand)).filter(|value| !made(value)).collect();
                        let bytes: f64 = entering.iter().map(|value| self.value_bytes(*value)).sum();
                        if FEW * self.value_bytes(value) < bytes {
                            small.push((value, entering));
                        } else {
                            todo.extend(entering);
                        }
                    }
                }
                Def::Result(op, _) if self.forward.contains(op) => drop(saved.insert(value)),
                Def::Result(..) => {}
            }
        }
        // they come out of what enters if that is there anyway, and are written beside it if not
        for (value, entering) in small {
            let kept = |value: &ValueId| saved.contains(value) || self.layout(*value).is_none();
            if !entering.iter().all(kept) {
                saved.insert(value);
            }
        }
        saved
    }

    /// Bytes of what a forward body makes for the backward pass, masks of dropout among it.
    fn saved_bytes(&self, saved: &BTreeSet<ValueId>, body: &[OpId], place: Place) -> f64 {
        let made = body.iter().map(|op| self.graph.op(*op).result()).filter(|value| saved.contains(value));
        let mut bytes: f64 = made.map(|value| self.value_bytes(value)).sum();
        for value in saved {
            // what a repeat carries is kept once an iteration; its last result is what follows reads
            match &self.graph.value(*value).def {
                Def::Carried(op, _) | Def::Taken(op, _) => {
                    if matches!(&self.graph.op(*op).kind, OpKind::Repeat(repeat) if Place::Loop(repeat.over) == place) {
                        bytes += self.value_bytes(*value);
                    }
                }
                Def::Result(op, _) if self.graph.op(*op).rule().is_none() && place == Place::After => bytes += self.value_bytes(*value),
                _ => {}
            }
        }
        if self.stack.dropout_masks {
            let inside = |id| super::groups::is_flash(self.graph, id, self.stack) || self.graph.composites[id.index()].recompute;
            let masked = |op: &&OpId| !self.graph.op(**op).composite.is_some_and(inside) && has_random(&self.rule(**op).rule.expr);
            // without saved inner values there are no masks either: they are drawn again
            let again = matches!(place, Place::Loop(_)) && self.is_recomputed(body);
            if !again {
                for op in body.iter().filter(masked) {
                    let result = self.graph.op(*op).result();
                    bytes += self.result_bytes(*op) / self.element_bytes(result);
                }
            }
        }
        bytes
    }

    /// Whether the backward pass runs the body's products again.
    fn is_recomputed(&self, body: &[OpId]) -> bool {
        let Some((_, place)) = body.first().map(|op| self.home[op]) else { return false };
        let products = |phase: PhaseKind| {
            let of = self.home.iter().filter(|(_, home)| **home == (phase, place)).map(|(op, _)| *op);
            of.filter(|op| super::groups::is_product(&self.rule(*op)) && self.graph.op(*op).class == Class::Contraction).count()
        };
        products(PhaseKind::Backward) > 2 * products(PhaseKind::Forward)
    }

    /// The most bytes that are alive at once beside what is saved, the groups run in order.
    fn alive(&self, groups: &[Group], saved: &BTreeSet<ValueId>) -> f64 {
        let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
        for (n, group) in groups.iter().enumerate() {
            for op in &group.ops {
                last.extend(self.graph.op(*op).operands.iter().map(|value| (self.aliases.root(*value), n)));
            }
        }
        let (mut alive, mut most) = (BTreeMap::<ValueId, f64>::new(), 0.0f64);
        for (n, group) in groups.iter().enumerate() {
            for op in &group.ops {
                let value = self.graph.op(*op).result();
                let outside = |reader: &OpId| !group.ops.contains(reader);
                let leaves = self.kept.contains(&value) || self.readers.get(&value).is_some_and(|readers| readers.iter().any(outside));
                if leaves && !saved.contains(&value) && !self.gives_weights(*op) {
                    alive.insert(value, self.result_bytes(*op));
                }
            }
            most = most.max(alive.values().sum());
            alive.retain(|value, _| self.kept.contains(value) || last.get(value).is_some_and(|last| *last > n));
        }
        most
    }

    /// The collectives of a body: each value once for each layout that it is needed in. Parameters and their gradients are
    /// not among them (see [`super::weights`]).
    fn moves(&self, body: &[OpId], place: Place) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut done: BTreeSet<(ValueId, Layout)> = BTreeSet::new();
        let mut add = |value: ValueId, from: &Layout, to: &Layout| {
            let dims = self.graph.shape(value);
            if from == to || dims.is_empty() || !done.insert((self.aliases.root(value), to.clone())) {
                return;
            }
            moves.extend(self.steps(value, &dims, from, to));
        };
        for op in body {
            let rule = self.rule(*op);
            for (n, operand) in self.graph.op(*op).operands.iter().enumerate() {
                if let Some(from) = self.layout(*operand) {
                    add(*operand, &from, &rule.operand_layout(n, self.signature(*op)));
                }
            }
        }
        for op in &self.graph.ops {
            if let OpKind::Repeat(repeat) = &op.kind {
                for carried in &repeat.carried {
                    let inside = Place::Loop(repeat.over) == place && body.iter().any(|op| repeat.body.contains(op));
                    let Some(to) = self.layout(carried.arg) else { continue };
                    if inside && let Some(from) = self.layout(carried.next) {
                        add(carried.next, &from, &to);
                    }
                    let made_here = self.graph.def_op(carried.init).is_some_and(|op| body.contains(&op));
                    if made_here && let Some(from) = self.layout(carried.init) {
                        add(carried.init, &from, &to);
                    }
                }
            }
        }
        moves
    }

    fn steps(&self, value: ValueId, dims: &[u64], from: &Layout, to: &Layout) -> Vec<Move> {
        let mesh = &self.mesh.mesh;
        let shape = Shape { dims, mesh };
        let timely = mesh.axes.iter().enumerate().all(|(axis, a)| !a.time || from.0[axis] == to.0[axis]);
        // fewest bytes; the price of each is worked out later
        let bytes = |step: &Step| shape.received(step) + 1.0;
        let Some(steps) = timely.then(|| shape.boxing(from, to, &bytes)).flatten() else { return Vec::new() };
        let moves = steps.iter().filter_map(|step| {
            let collective = match step.kind {
                StepKind::Slice | StepKind::Keep | StepKind::Pad => return None,
                StepKind::AllReduce => Collective::AllReduce,
                StepKind::ReduceScatter => Collective::ReduceScatter,
                StepKind::AllGather => Collective::AllGather,
                StepKind::AllToAll | StepKind::Exchange => Collective::AllToAll,
            };
            // an exchange with experts waits for itself whatever else its axes are for
            let exchange = collective == Collective::AllToAll && step.axes.iter().all(|axis| self.mesh.owns_experts(*axis));
            let uses = step.axes.iter().map(|axis| self.mesh.uses[*axis]);
            let for_use = uses.max().filter(|_| !exchange).unwrap_or(AxisUse::Data);
            let received = shape.received(step) * self.element_bytes(value);
            let packed = if self.stack.packs { self.packed(step, dims) * self.element_bytes(value) } else { 0.0 };
            Some(Move { collective, axes: step.axes.clone(), for_use, received, packed })
        });
        moves.collect()
    }

    /// Elements that a rank copies before a collective, and behind it: all of a side whose parts are along a dimension that does not
    /// lead, since collectives take and leave parts one behind the other.
    fn packed(&self, step: &Step, dims: &[u64]) -> f64 {
        let mesh = &self.mesh.mesh;
        let side = |layout: &Layout, other: &Layout| -> f64 {
            let scattered = step.axes.iter().filter_map(|axis| layout.split_on(*axis)).any(|split| {
                let local = other.local_shape(dims, mesh, &vec![0; mesh.axes.len()]);
                local[..split.dim].iter().product::<u64>() > 1
            });
            if scattered { 2.0 * other.largest_shard(dims, mesh) as f64 } else { 0.0 }
        };
        // parts of `to` are cut out of what is there before, parts of `from` make up what is there behind
        side(&step.to, &step.from) + side(&step.from, &step.to)
    }
}

/// The bodies of a phase: what runs outside of repeats on either side of the first, and each repeat's own.
pub fn bodies(graph: &Graph, phase: PhaseKind) -> Vec<(Place, Vec<OpId>)> {
    let ops = graph.phase(phase);
    let is_repeat = |op: &OpId| graph.op(*op).rule().is_none();
    let first = ops.iter().position(is_repeat).unwrap_or(ops.len());
    let (near, far) = if phase == PhaseKind::Backward { (Place::After, Place::Before) } else { (Place::Before, Place::After) };
    let mut out = vec![(near, ops[..first].to_vec())];
    for op in ops {
        if let OpKind::Repeat(repeat) = &graph.op(*op).kind {
            out.push((Place::Loop(repeat.over), repeat.body.clone()));
        }
    }
    out.push((far, ops[first..].iter().copied().filter(|op| !is_repeat(op)).collect()));
    out
}
