//! The layout problem of a training step on one mesh.
//!
//! Nodes: every operator with its signatures; every leaf with the layouts it may rest in; every carried value of a
//! repeat with the layout that it has at entry and exit; and, for a value that several operators of a phase read, the
//! shared copy that they are boxed from. Edges: the boxings between them. Costs are whole nanoseconds of a step.
//!
//! Repeats are planned once: what is in them is one node that costs what all iterations do together. Unrolled, every
//! iteration has nodes of its own. The choice of a rolled problem, made alike at all iterations, costs no more there.
//! It costs less only where iterations read one value from outside the loop: unrolled they share one copy of it.
//!
//! Nothing is said of memory: a problem has no limits and its nodes hold nothing. Whether a plan fits is measured on its
//! compiled program.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use partita_ir::axis::Role;
use partita_ir::graph::{Graph, Kind, Leaf, PhaseKind, Repeat};
use partita_ir::id::{LoopId, OpId, ValueId};
use partita_ir::layout::{Layout, Mesh, Partition, Share, Split};
use partita_ir::rule::Reduce;
use partita_ir::signature::{Signature, SizedRule, partition_for};

use super::{Boxings, LayoutError, Layouts, Task, accumulated};
use crate::cost;
use crate::layout_problem::{FORBIDDEN, Problem, ProblemBuilder};
use crate::mesh::AxisUse;
use crate::strategy::{of_experts, signatures};

/// A problem with what its nodes stand for.
pub struct Assembled {
    pub problem: Problem,
    nodes: Vec<Node>,
}

impl Assembled {
    /// The layouts that a choice is.
    pub fn layouts(&self, choice: &[u32]) -> Layouts {
        let mut layouts = Layouts::default();
        for (node, s) in self.nodes.iter().zip(choice) {
            let s = *s as usize;
            match node.what {
                What::Op(op) => drop(layouts.signatures.insert(op, node.signatures[s].clone())),
                What::Rest(value) => drop(layouts.rest.insert(value, node.provides[s].clone())),
                What::Copy(value, phase) => layouts.copies.push((value, phase, node.provides[s].clone())),
            }
        }
        layouts.copies.sort();
        layouts
    }

    /// The choice that layouts are. `None` if they are no choice of this problem.
    pub fn choice(&self, layouts: &Layouts) -> Option<Vec<u32>> {
        let of_node = |node: &Node| match node.what {
            What::Op(op) => node.signatures.iter().position(|signature| Some(signature) == layouts.signatures.get(&op)),
            What::Rest(value) => node.provides.iter().position(|layout| Some(layout) == layouts.rest.get(&value)),
            What::Copy(value, phase) => {
                let (.., copy) = layouts.copies.iter().find(|(v, p, _)| (*v, *p) == (value, phase))?;
                node.provides.iter().position(|layout| layout == copy)
            }
        };
        self.nodes.iter().map(|node| of_node(node).and_then(|s| u32::try_from(s).ok())).collect()
    }
}

/// Makes the problem of a task. `thin` may take signatures away from each operator.
pub fn assemble(task: &Task<'_>, unroll: bool, thin: &mut dyn FnMut(Vec<Signature>) -> Vec<Signature>) -> Result<Assembled, LayoutError> {
    let mut assembly = Assembly::new(task, unroll);
    assembly.operators(thin)?;
    assembly.taken();
    assembly.carried();
    assembly.collected();
    assembly.leaves();
    assembly.assigns();
    assembly.copies();
    Ok(assembly.finish())
}

/// Nanoseconds of something done so often: whole ones of each time, so that a sum over iterations is a multiple.
fn nanoseconds(seconds: f64, times: u64) -> i64 {
    if seconds.is_infinite() {
        return FORBIDDEN;
    }
    let once = (seconds * 1e9).round() as i64;
    // what takes 30 years is not forbidden
    once.saturating_mul(i64::try_from(times).unwrap_or(i64::MAX)).min(FORBIDDEN - 1)
}

/// A value at an iteration of its loop; at 0 if it is in none, or if repeats are planned once.
type Instance = (ValueId, u64);

struct Node {
    what: What,
    /// Cost of each strategy.
    costs: Vec<i64>,
    /// Signatures, for an operator.
    signatures: Rc<[Signature]>,
    /// Layout of what it provides, for each strategy.
    provides: Rc<[Layout]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Op(OpId),
    Rest(ValueId),
    Copy(ValueId, PhaseKind),
}

/// A reading of a value: by which node, in which layout for each of its strategies, how often a step.
struct Reading {
    value: Instance,
    reader: usize,
    needs: Rc<[Layout]>,
    times: u64,
    phase: PhaseKind,
    /// Whether the reader takes what it needs each time, so that a shared copy may serve several.
    shareable: bool,
}

struct Assembly<'a> {
    task: &'a Task<'a>,
    graph: &'a Graph,
    mesh: &'a Mesh,
    unroll: bool,
    nodes: Vec<Node>,
    /// The node that provides each value.
    source: BTreeMap<Instance, usize>,
    /// The node of the copy that readers of a phase share.
    shared: BTreeMap<(Instance, PhaseKind), usize>,
    readings: Vec<Reading>,
    /// The parameters of experts.
    owned: BTreeSet<ValueId>,
}

impl<'a> Assembly<'a> {
    fn new(task: &'a Task<'a>, unroll: bool) -> Self {
        let (nodes, readings) = (Vec::new(), Vec::new());
        let (source, shared) = (BTreeMap::new(), BTreeMap::new());
        let owned = of_experts(task.graph);
        Self { owned, task, graph: task.graph, mesh: &task.mesh.mesh, unroll, nodes, source, shared, readings }
    }

    /// Instances that have nodes of their own.
    fn iterations(&self, within: Option<LoopId>) -> u64 {
        if self.unroll { self.graph.iterations(within) } else { 1 }
    }

    /// How often a step what a node within a loop stands for is done.
    fn times(&self, phase: PhaseKind, within: Option<LoopId>) -> u64 {
        let micro = if phase.per_micro_batch() { self.task.mesh.micro_batches } else { 1 };
        micro.saturating_mul(if self.unroll { 1 } else { self.graph.iterations(within) })
    }

    /// The instance of a value that is read at an iteration.
    fn at(&self, value: ValueId, iteration: u64) -> Instance {
        (value, if self.graph.value(value).within.is_some() { iteration } else { 0 })
    }

    fn rest(&mut self, value: ValueId, provides: Rc<[Layout]>) -> usize {
        self.nodes.push(Node { what: What::Rest(value), costs: vec![0; provides.len()], signatures: Rc::new([]), provides });
        self.nodes.len() - 1
    }

    /// The layouts of a set, or B alone where there are none.
    fn or_broadcast(&self, layouts: BTreeSet<Layout>) -> Rc<[Layout]> {
        if layouts.is_empty() { Rc::new([Layout::broadcast(self.mesh)]) } else { layouts.into_iter().collect() }
    }

    /// The layouts in which a value, at any iteration, is read so far.
    fn needed(&self, value: ValueId) -> impl Iterator<Item = &Layout> {
        self.readings.iter().filter(move |reading| reading.value.0 == value).flat_map(|reading| reading.needs.iter())
    }

    /// The layouts in which a value may be provided; the same ones at every iteration.
    fn provided(&self, value: ValueId) -> &[Layout] {
        self.source.get(&(value, 0)).map_or(&[], |node| &self.nodes[*node].provides)
    }

    fn operators(&mut self, thin: &mut dyn FnMut(Vec<Signature>) -> Vec<Signature>) -> Result<(), LayoutError> {
        let graph = self.graph;
        let task = self.task;
        for phase in &graph.phases {
            let mut found = Vec::new();
            graph.visit(&phase.ops, &mut |op, within| found.push((op, within)));
            for (op, within) in found {
                let rule = SizedRule::of(graph, op).expect("visited operators are primitives");
                let signatures: Rc<[Signature]> = thin(signatures(graph, op, phase.kind, task.mesh, &task.constraints)).into();
                if signatures.is_empty() {
                    return Err(self.no_signature(op));
                }
                let times = self.times(phase.kind, within);
                let cost_of = |signature: &Signature| {
                    let work = cost::work(graph, op, &rule, signature, self.mesh);
                    nanoseconds(cost::compute_seconds(task.cluster, task.product, work), times)
                };
                let costs: Vec<i64> = signatures.iter().map(cost_of).collect();
                let provides: Rc<[Layout]> = signatures.iter().map(|signature| rule.result_layout(signature)).collect();
                let needs = |n: usize| signatures.iter().map(|signature| rule.operand_layout(n, signature)).collect::<Rc<[Layout]>>();
                let operands: Vec<(ValueId, Rc<[Layout]>)> =
                    graph.op(op).operands.iter().enumerate().map(|(n, operand)| (*operand, needs(n))).collect();
                for iteration in 0..self.iterations(within) {
                    let id = self.nodes.len();
                    let (costs, signatures, provides) = (costs.clone(), Rc::clone(&signatures), Rc::clone(&provides));
                    self.nodes.push(Node { what: What::Op(op), costs, signatures, provides });
                    self.source.insert(self.at(graph.op(op).result(), iteration), id);
                    for (operand, needs) in &operands {
                        let (value, needs) = (self.at(*operand, iteration), Rc::clone(needs));
                        self.readings.push(Reading { value, reader: id, needs, times, phase: phase.kind, shareable: true });
                    }
                }
            }
        }
        Ok(())
    }

    fn no_signature(&self, op: OpId) -> LayoutError {
        let rule = SizedRule::of(self.graph, op).expect("a primitive");
        let name = self.graph.value(self.graph.op(op).result()).name.clone();
        let because = if self.task.constraints.even {
            let sizes: Vec<String> =
                rule.rule.factors.iter().map(|axis| format!("{} = {}", self.graph.axis(*axis).name, self.graph.size(*axis))).collect();
            format!(": with `--even` its axes ({}) would have to divide", sizes.join(", "))
        } else {
            String::new()
        };
        LayoutError::NoSignature { op, name, because }
    }

    /// The scans of a phase, with the number of nodes that each of their values has.
    fn scans(&self) -> Vec<(PhaseKind, &'a Repeat, u64)> {
        let graph = self.graph;
        let repeats = graph.phases.iter().flat_map(|phase| phase.ops.iter().map(move |op| (phase.kind, graph.op(*op))));
        let scans = repeats.filter_map(|(phase, op)| match &op.kind {
            Kind::Repeat(repeat) if repeat.is_scan() => Some((phase, repeat)),
            _ => None,
        });
        scans.map(|(phase, repeat)| (phase, repeat, self.iterations(Some(repeat.over)))).collect()
    }

    /// Entries that repeats take: in layouts in which they are read, or that the whole tensor's are.
    fn taken(&mut self) {
        for (_, repeat, count) in self.scans() {
            for slice in &repeat.taken {
                let mut layouts: BTreeSet<Layout> = self.needed(slice.each).cloned().collect();
                layouts.extend(self.provided(slice.whole).iter().filter_map(Layout::entry));
                let provides = self.or_broadcast(layouts);
                for iteration in 0..count {
                    let id = self.rest(slice.each, Rc::clone(&provides));
                    self.source.insert((slice.each, iteration), id);
                }
            }
        }
    }

    /// Tensors that repeats collect: in the layouts of what they are made of, or in which they are read.
    fn collected(&mut self) {
        for (phase, repeat, count) in self.scans() {
            let times = self.times(phase, Some(repeat.over));
            for slice in &repeat.collected {
                let mut layouts: BTreeSet<Layout> = self.needed(slice.whole).filter(|layout| layout.entry().is_some()).cloned().collect();
                layouts.extend(self.provided(slice.each).iter().map(Layout::stacked));
                let provides = self.or_broadcast(layouts);
                let id = self.rest(slice.whole, Rc::clone(&provides));
                self.source.insert((slice.whole, 0), id);
                let needs: Rc<[Layout]> =
                    provides.iter().map(|layout| layout.entry().expect("every rank has the first dimension whole")).collect();
                for iteration in 0..count {
                    let (value, needs) = (self.at(slice.each, iteration), Rc::clone(&needs));
                    self.readings.push(Reading { value, reader: id, needs, times, phase, shareable: true });
                }
            }
        }
        // a tensor is boxed once, before its first entry is taken
        for (phase, repeat, count) in self.scans() {
            let times = self.times(phase, None);
            for slice in &repeat.taken {
                for iteration in 0..count {
                    let reader = self.source[&(slice.each, iteration)];
                    let needs: Rc<[Layout]> = self.nodes[reader].provides.iter().map(Layout::stacked).collect();
                    self.readings.push(Reading { value: (slice.whole, 0), reader, needs, times, phase, shareable: true });
                }
            }
        }
    }

    /// Carried values of repeats: what the body provides at the end of an iteration is what it reads at the start of the
    /// next. The repeat's result rests as the last iteration's carried value does.
    fn carried(&mut self) {
        let graph = self.graph;
        for phase in &graph.phases {
            for op in phase.ops.iter().map(|op| graph.op(*op)) {
                let Kind::Repeat(repeat) = &op.kind else { continue };
                let count = self.iterations(Some(repeat.over));
                let (once, each) = (self.times(phase.kind, None), self.times(phase.kind, Some(repeat.over)));
                for (carried, result) in repeat.carried.iter().zip(&op.results) {
                    let needed = self.needed(carried.arg).chain(self.needed(*result));
                    let mut layouts: BTreeSet<Layout> = needed.filter(|layout| !layout.is_windowed()).cloned().collect();
                    for value in [carried.next, carried.init] {
                        layouts.extend(self.provided(value).iter().cloned());
                    }
                    let provides = self.or_broadcast(layouts);
                    for iteration in (0..count).map(|passed| repeat.iteration(passed, count)) {
                        let id = self.rest(carried.arg, Rc::clone(&provides));
                        self.source.insert((carried.arg, iteration), id);
                        self.source.insert((*result, 0), id);
                    }
                }
                for carried in &repeat.carried {
                    let mut before = (self.at(carried.init, 0), once);
                    for iteration in (0..count).map(|passed| repeat.iteration(passed, count)) {
                        let reader = self.source[&(carried.arg, iteration)];
                        self.read_at_rest(before, reader, phase.kind);
                        before = (self.at(carried.next, iteration), each);
                        if iteration == repeat.iteration(count - 1, count) {
                            self.read_at_rest(before, reader, phase.kind);
                        }
                    }
                }
            }
        }
    }

    /// A carried value takes in another, so often.
    fn read_at_rest(&mut self, (value, times): (Instance, u64), reader: usize, phase: PhaseKind) {
        let needs = Rc::clone(&self.nodes[reader].provides);
        self.readings.push(Reading { value, reader, needs, times, phase, shareable: true });
    }

    fn leaves(&mut self) {
        let graph = self.graph;
        for value in graph.leaves(|_| true).collect::<Vec<_>>() {
            let Some(leaf) = graph.leaf(value) else { continue };
            let within = graph.value(value).within;
            let provides = self.or_broadcast(self.resting(value, leaf));
            for iteration in 0..self.iterations(within) {
                let id = self.rest(value, Rc::clone(&provides));
                self.source.insert((value, iteration), id);
                if let Leaf::Accumulated(from) = leaf {
                    let phase = self.phase_of(*from);
                    let (value, times) = (self.at(*from, iteration), self.times(phase, within));
                    self.readings.push(Reading { value, reader: id, needs: Rc::clone(&provides), times, phase, shareable: false });
                }
            }
        }
    }

    /// The layouts that a leaf may rest in.
    fn resting(&self, value: ValueId, leaf: &Leaf) -> BTreeSet<Layout> {
        let zero = self.task.zero;
        match leaf {
            // a state of the model's own is read as a parameter is
            Leaf::Param(_) | Leaf::State { of: None, .. } => {
                let layouts = self.needed(value).map(|layout| self.at_rest(value, layout, zero >= 3));
                layouts.filter(|layout| self.keeps_experts(value, value, layout)).collect()
            }
            Leaf::State { of: Some(of), .. } => {
                // moments of its rows or columns have other axes than the parameter
                let alike = *of != value && self.graph.value(value).ty.dims == self.graph.value(*of).ty.dims;
                let others = alike.then_some(*of).into_iter().flat_map(|of| self.needed(of));
                let layouts = self.needed(value).chain(others).map(|layout| self.at_rest(value, layout, zero >= 1));
                layouts.filter(|layout| !alike || self.keeps_experts(*of, value, layout)).collect()
            }
            Leaf::Accumulated(from) => {
                let splits = zero >= 2 && !self.graph.value(value).ty.dims.is_empty();
                // what is pending while it is summed is a sum too
                let adds = |share: &Share| !matches!(share, Share::Partial(op) if *op != Reduce::Sum);
                let usable = self.provided(*from).iter().filter(|layout| self.accumulates(layout) && layout.0.iter().all(adds));
                usable
                    .map(|layout| {
                        let whole = accumulated(layout, self.mesh);
                        if splits { self.split_over_data(value, &whole) } else { whole }
                    })
                    .collect()
            }
            Leaf::Input(_) => BTreeSet::from([self.of_input(value)]),
            Leaf::Progress(_) | Leaf::Supplied(_) => BTreeSet::from([Layout::broadcast(self.mesh)]),
        }
    }

    fn assigns(&mut self) {
        let graph = self.graph;
        for assign in &graph.assigns {
            let within = graph.value(assign.target).within;
            let times = self.times(PhaseKind::Update, within);
            for iteration in 0..self.iterations(within) {
                let reader = self.source[&(assign.target, iteration)];
                let (value, needs) = (self.at(assign.value, iteration), Rc::clone(&self.nodes[reader].provides));
                self.readings.push(Reading { value, reader, needs, times, phase: PhaseKind::Update, shareable: false });
            }
        }
    }

    fn phase_of(&self, value: ValueId) -> PhaseKind {
        let graph = self.graph;
        let Some(op) = graph.def_op(value) else { return PhaseKind::Forward };
        let holds = |ops: &[OpId]| {
            ops.iter().any(|top| *top == op || matches!(&graph.op(*top).kind, Kind::Repeat(repeat) if repeat.body.contains(&op)))
        };
        graph.phases.iter().find(|phase| holds(&phase.ops)).map_or(PhaseKind::Forward, |phase| phase.kind)
    }

    /// Values that several readers of a phase take in other layouts than their source's get a copy that they share.
    fn copies(&mut self) {
        let mut groups: BTreeMap<(Instance, PhaseKind), Vec<usize>> = BTreeMap::new();
        for (index, reading) in self.readings.iter().enumerate().filter(|(_, reading)| reading.shareable) {
            groups.entry((reading.value, reading.phase)).or_default().push(index);
        }
        for ((value, phase), members) in groups {
            if members.len() < 2 {
                continue;
            }
            let mut layouts: BTreeSet<Layout> = self.nodes[self.source[&value]].provides.iter().cloned().collect();
            for member in &members {
                layouts.extend(self.readings[*member].needs.iter().filter(|layout| !layout.is_windowed()).cloned());
            }
            let provides: Rc<[Layout]> = layouts.into_iter().collect();
            let times = members.iter().map(|member| self.readings[*member].times).max().unwrap_or(0);
            let id = self.nodes.len();
            self.shared.insert((value, phase), id);
            self.readings.push(Reading { value, reader: id, needs: Rc::clone(&provides), times, phase, shareable: false });
            let what = What::Copy(value.0, phase);
            self.nodes.push(Node { what, costs: vec![0; provides.len()], signatures: Rc::new([]), provides });
        }
    }

    /// The node that a reading takes its value from: the shared copy of its phase if there is one, else the source.
    fn provider(&self, reading: &Reading) -> usize {
        let copy = self.shared.get(&(reading.value, reading.phase)).filter(|_| reading.shareable);
        *copy.unwrap_or_else(|| &self.source[&reading.value])
    }

    /// Readings become boxings, and all of it the problem.
    fn finish(mut self) -> Assembled {
        let boxings = Boxings::new(self.task.cluster, self.mesh);
        let mut edges = Vec::new();
        for reading in &self.readings {
            let from = self.provider(reading);
            let table = self.boxing_costs(&boxings, from, reading);
            if from == reading.reader {
                // a value that is carried as it is
                let node = &mut self.nodes[from];
                let n = node.costs.len();
                node.costs.iter_mut().enumerate().for_each(|(s, cost)| *cost = cost.saturating_add(table[s * n + s]).min(FORBIDDEN));
            } else {
                edges.push((from, reading.reader, table));
            }
        }
        let mut builder = ProblemBuilder::new(self.graph.name.clone(), Vec::new());
        for node in &self.nodes {
            builder.add_node(&node.costs, &[], &[]).expect("every node has strategies, and costs are not negative");
        }
        let id = |node: usize| u32::try_from(node).expect("fewer than 2^32 nodes");
        for (from, to, table) in &edges {
            builder.add_edge(id(*from), id(*to), table).expect("a table has an entry for each pair of strategies");
        }
        Assembled { problem: builder.finish().expect("nothing holds memory"), nodes: self.nodes }
    }

    /// What the boxing of a reading costs, for every strategy of the node that it takes its value from and of its reader.
    fn boxing_costs(&self, boxings: &Boxings<'_>, from: usize, reading: &Reading) -> Vec<i64> {
        let (value, _) = reading.value;
        let dims = self.graph.shape(value);
        let bytes = self.graph.value(value).ty.dtype.bytes(8) as f64 / 8.0;
        let reader = self.nodes[reading.reader].what;
        let accumulates = matches!(reader, What::Rest(value) if matches!(self.graph.leaf(value), Some(Leaf::Accumulated(_))));
        let mut costs = Vec::with_capacity(self.nodes[from].provides.len() * reading.needs.len());
        for provided in self.nodes[from].provides.iter() {
            for needed in reading.needs.iter() {
                let seconds = if !accumulates {
                    boxings.seconds(&dims, provided, needed, bytes)
                } else if self.accumulates(provided) {
                    boxings.seconds(&dims, &accumulated(provided, self.mesh), needed, bytes)
                } else {
                    f64::INFINITY
                };
                costs.push(nanoseconds(seconds, reading.times));
            }
        }
        costs
    }

    /// Whether a value of this layout can be summed over micro-batches: P(sum) over time, or the same each time.
    fn accumulates(&self, layout: &Layout) -> bool {
        let sums = |share: &Share| matches!(share, Share::Broadcast | Share::Partial(Reduce::Sum));
        layout.0.iter().zip(&self.mesh.axes).all(|(share, axis)| !axis.time || sums(share))
    }

    /// Batches arrive dealt out over data, micro-batch and context axes.
    fn of_input(&self, value: ValueId) -> Layout {
        let dims = &self.graph.value(value).ty.dims;
        let mut depths = vec![0; dims.len()];
        let shares = (0..self.task.mesh.uses.len()).map(|axis| {
            let wanted = match self.task.mesh.uses[axis] {
                AxisUse::Data | AxisUse::Micro => |role| role == Role::Batch,
                AxisUse::Context => Role::is_context,
                AxisUse::Tensor => return Share::Broadcast,
            };
            let Some(dim) = dims.iter().position(|axis| wanted(self.graph.axis(*axis).role)) else { return Share::Broadcast };
            let partition = partition_for(self.graph.axis(dims[dim]).role, self.task.mesh.partitions[axis]);
            depths[dim] += 1;
            Share::Split(Split::new(dim, self.graph.size(dims[dim]), 1, depths[dim] - 1, partition))
        });
        Layout(shares.collect())
    }

    /// The layout at rest that goes with a layout in use: its tensor axes and experts, and data and context axes B or all
    /// S.
    fn at_rest(&self, value: ValueId, used: &Layout, split: bool) -> Layout {
        let mut rest = Layout::broadcast(self.mesh);
        let mut depths = vec![0; self.graph.value(value).ty.dims.len()];
        for axis in self.task.mesh.running_order() {
            if (self.task.mesh.uses[axis] == AxisUse::Tensor || self.owns_experts(value, used, axis))
                && let Some(share) = used.split_on(axis).filter(|share| share.window.is_none())
            {
                rest.0[axis] = Share::Split(Split { depth: depths[share.dim], ..share });
                depths[share.dim] += 1;
            }
        }
        if split { self.split_over_data(value, &rest) } else { rest }
    }

    /// Whether a layout of a value deals out experts over a mesh axis that is for that.
    fn owns_experts(&self, value: ValueId, layout: &Layout, axis: usize) -> bool {
        let expert = |split: &Split| self.graph.axis(self.graph.value(value).ty.dims[split.dim]).role == Role::Expert;
        self.task.mesh.owns_experts(axis) && layout.split_on(axis).as_ref().is_some_and(expert)
    }

    /// Whether a layout of a value that belongs to a parameter leaves every expert's part where the expert is.
    fn keeps_experts(&self, param: ValueId, value: ValueId, layout: &Layout) -> bool {
        let kept = |axis: usize| !self.task.mesh.owns_experts(axis) || self.owns_experts(value, layout, axis);
        !self.owned.contains(&param) || (0..self.task.mesh.uses.len()).all(kept)
    }

    /// The layout with data and context axes S, innermost, along the dimension that gives the smallest largest shard.
    fn split_over_data(&self, value: ValueId, rest: &Layout) -> Layout {
        let shape = self.graph.shape(value);
        let shards =
            |axis: &usize| matches!(self.task.mesh.uses[*axis], AxisUse::Data | AxisUse::Context) && !self.owns_experts(value, rest, *axis);
        let sharding: Vec<usize> = self.task.mesh.resting_order().into_iter().filter(shards).collect();
        let candidates = (0..shape.len()).map(|dim| {
            let mut layout = rest.clone();
            sharding.iter().for_each(|axis| layout.0[*axis] = Share::Broadcast);
            // what tensor axes do comes first; what they have left pending stays
            layout.renumber();
            for (depth, axis) in (layout.splits(dim).len()..).zip(&sharding) {
                let partition = Partition::Balanced;
                layout.0[*axis] = Share::Split(Split::new(dim, shape[dim], 1, depth, partition));
            }
            layout
        });
        let size = |layout: &Layout| layout.largest_shard(&shape, self.mesh);
        candidates.min_by_key(size).unwrap_or_else(|| rest.clone())
    }
}

#[cfg(test)]
mod tests {
    use partita_ir::dtype::DType;
    use partita_ir::layout::MeshAxis;
    use partita_ir::precision::Precision;
    use partita_ir::sample;
    use partita_ir::step::{Options, training_step};
    use partita_ir::train::{Optimizer, Schedule, Train};

    use super::*;
    use crate::cluster::Cluster;
    use crate::mesh::{ExpertUse, MeshPlan};
    use crate::strategy::{Constraints, pending};

    #[test]
    fn unrolled_carried_values_come_from_the_iteration_before() {
        let text = "name = \"two\"\n[device]\nkind = \"cpu-core\"\n[[level]]\nname = \"threads\"\ncount = 2\n";
        let cluster = Cluster::parse(text, "two.toml").unwrap();
        let mesh = MeshPlan {
            mesh: Mesh { axes: vec![MeshAxis { name: "tensor".into(), size: 2, time: false }] },
            uses: vec![AxisUse::Tensor],
            experts: vec![ExpertUse::Tensor],
            partitions: vec![Partition::Balanced],
            micro_batches: 3,
        };
        let optimizer = Optimizer::Sgd { momentum: 0.9, decay: 0.0 };
        let train = Train {
            optimizer,
            lr: 0.1,
            schedule: Schedule::Constant,
            clip: Some(1.0),
            batch: 4,
            precision: Precision::F32,
            loss_scale: None,
            groups: Vec::new(),
        };
        let (mut forward, mut reversed) = (0, 0);
        for seed in 0..40 {
            let options = sample::Options { ..sample::Options::default() };
            let graph = training_step(&sample::graph(seed, options), &train, Options::default()).unwrap();
            let constraints = Constraints { pending: pending(&graph), ..Constraints::default() };
            let task = Task { graph: &graph, mesh: &mesh, cluster: &cluster, constraints, zero: 0, product: DType::F32 };
            let mut assembly = Assembly::new(&task, true);
            assembly.operators(&mut |signatures| signatures).unwrap();
            assembly.carried();
            let ops = graph.phases.iter().flat_map(|phase| &phase.ops).map(|op| graph.op(*op));
            for (op, repeat) in ops.filter_map(|op| if let Kind::Repeat(repeat) = &op.kind { Some((op, repeat)) } else { None }) {
                let count = graph.iterations(Some(repeat.over));
                let (first, last) = if repeat.reversed { (count - 1, 0) } else { (0, count - 1) };
                for (n, carried) in repeat.carried.iter().enumerate() {
                    assert_eq!(assembly.source[&(op.results[n], 0)], assembly.source[&(carried.arg, last)]);
                    for iteration in 0..count {
                        let before = if repeat.reversed { iteration + 1 } else { iteration.wrapping_sub(1) };
                        let mut want = vec![if iteration == first { (carried.init, 0) } else { assembly.at(carried.next, before) }];
                        if iteration == last {
                            want.push(assembly.at(carried.next, last));
                        }
                        let node = assembly.source[&(carried.arg, iteration)];
                        let read = assembly.readings.iter().filter(|reading| reading.reader == node);
                        assert_eq!(read.map(|reading| reading.value).collect::<Vec<_>>(), want, "seed {seed}, iteration {iteration}");
                    }
                    *if repeat.reversed { &mut reversed } else { &mut forward } += usize::from(count > 1);
                }
            }
        }
        assert!(forward > 10 && reversed > 10, "{forward} forward, {reversed} reversed");
    }

    #[test]
    fn nanoseconds_are_whole_ones_of_each_time() {
        assert_eq!((nanoseconds(1.4e-9, 3), nanoseconds(1.6e-9, 3), nanoseconds(0.0, 7)), (3, 6, 0));
        assert_eq!(nanoseconds(f64::INFINITY, 1), FORBIDDEN);
        assert_eq!(nanoseconds(1e30, u64::MAX), FORBIDDEN - 1, "slow is not forbidden");
    }
}
