//! The layout of everything in one mesh, chosen together: the graph of a training step as a [`Problem`].
//!
//! Nodes: every operator with its signatures; every leaf with the layouts it may rest in; every carried value of a
//! repeat with the layout that it has at entry and exit; and, for a value that several operators of a phase read, the
//! shared copy that they are boxed from. Edges: the boxings between them. Repeats are planned once: their costs count
//! once for every iteration.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use partita_ir::axis::Role;
use partita_ir::boxing::{Shape, Step};
use partita_ir::graph::{Def, Graph, Kind, Leaf, PhaseKind};
use partita_ir::id::{Id, LoopId, OpId, ValueId};
use partita_ir::layout::{Layout, Mesh, Share, Split};
use partita_ir::rule::Reduce;
use partita_ir::signature::{Signature, SizedRule, partition_for};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::cost;
use crate::mesh::{AxisUse, MeshPlan};
use crate::solver::{Edge, Problem};
use crate::strategy::{Constraints, signatures};

/// Every layout decision of a step on one mesh.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Layouts {
    /// The signature of every primitive.
    pub signatures: BTreeMap<OpId, Signature>,
    /// The layout at rest of every leaf, and of every carried value at entry and exit of its repeat.
    pub rest: BTreeMap<ValueId, Layout>,
    /// The layout of the copy that the readers of a value in a phase share.
    pub copies: Vec<(ValueId, PhaseKind, Layout)>,
}

impl Layouts {
    /// The layout that a value is produced or rests in.
    pub fn of(&self, graph: &Graph, value: ValueId) -> Layout {
        match &graph.value(value).def {
            Def::Leaf(_) | Def::Carried(..) => self.rest[&value].clone(),
            Def::Result(op, n) => match &graph.op(*op).kind {
                Kind::Map(_) => {
                    let rule = SizedRule::of(graph, *op).expect("a primitive has a rule");
                    rule.result_layout(&self.signatures[op])
                }
                Kind::Repeat(repeat) => self.rest[&repeat.carried[*n].arg].clone(),
            },
        }
    }

    /// The layout that operand `n` of a primitive must have.
    pub fn needed(&self, graph: &Graph, op: OpId, n: usize) -> Layout {
        let rule = SizedRule::of(graph, op).expect("a primitive has a rule");
        rule.operand_layout(n, &self.signatures[&op])
    }
}

/// The layout with P over the axes of time made whole: what an accumulator holds.
pub fn accumulated(layout: &Layout, mesh: &Mesh) -> Layout {
    let shares = layout.0.iter().zip(&mesh.axes).map(|(share, axis)| if axis.time { Share::Broadcast } else { *share });
    Layout(shares.collect())
}

/// Boxings with their costs, computed once each.
pub struct Boxings<'a> {
    cluster: &'a Cluster,
    mesh: &'a Mesh,
    known: RefCell<BTreeMap<(Vec<u64>, Layout, Layout), Option<f64>>>,
}

impl<'a> Boxings<'a> {
    /// For a mesh on a cluster.
    pub fn new(cluster: &'a Cluster, mesh: &'a Mesh) -> Self {
        Self { cluster, mesh, known: RefCell::default() }
    }

    /// The cheapest boxing, or `None` if none can be: time cannot be boxed.
    pub fn steps(&self, dims: &[u64], from: &Layout, to: &Layout, bytes: f64) -> Option<Vec<Step>> {
        let timely = self.mesh.axes.iter().enumerate().all(|(axis, a)| !a.time || from.0[axis] == to.0[axis]);
        let shape = Shape { dims, mesh: self.mesh };
        if timely { shape.boxing(from, to, &|step| cost::step_seconds(self.cluster, &shape, step, bytes)) } else { None }
    }

    /// Seconds of the cheapest boxing; infinite if there is none.
    pub fn seconds(&self, dims: &[u64], from: &Layout, to: &Layout, bytes: f64) -> f64 {
        if from == to {
            return 0.0;
        }
        let key = (dims.to_vec(), from.clone(), to.clone());
        if let Some(known) = self.known.borrow().get(&key) {
            return known.unwrap_or(f64::INFINITY);
        }
        let shape = Shape { dims, mesh: self.mesh };
        let seconds = self
            .steps(dims, from, to, bytes)
            .map(|steps| steps.iter().map(|step| cost::step_seconds(self.cluster, &shape, step, bytes)).sum::<f64>());
        self.known.borrow_mut().insert(key, seconds);
        seconds.unwrap_or(f64::INFINITY)
    }
}

/// Why no layouts were found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// An operator has no signature under the constraints.
    #[error("operator `{name}` ({op}) has no layout that meets the pins{because}")]
    NoSignature {
        /// The operator.
        op: OpId,
        /// Its name.
        name: String,
        /// The reason, if one is known.
        because: String,
    },
    /// Operators have signatures, but none go together.
    #[error("no layouts of all operators go together under the pins: some operator couples samples of different micro-batches")]
    NoneTogether,
}

struct Node {
    what: What,
    /// Cost of each strategy.
    costs: Vec<f64>,
    /// Signatures, for an operator.
    signatures: Vec<Signature>,
    /// Layout of what it provides, for each strategy.
    provides: Vec<Layout>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Op(OpId),
    Rest(ValueId),
    Copy(ValueId, PhaseKind),
}

/// A reading of a value: by whom, in which layout for each of its strategies, how often a step.
struct Reading {
    value: ValueId,
    reader: usize,
    needs: Vec<Layout>,
    times: f64,
    phase: PhaseKind,
    /// Whether the reader takes what it needs each time, so that a shared copy may serve several.
    shareable: bool,
}

/// What the search for layouts is given.
pub struct Task<'a> {
    /// The training step.
    pub graph: &'a Graph,
    /// The mesh.
    pub mesh: &'a MeshPlan,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Constraints on operators.
    pub constraints: Constraints,
    /// ZeRO stage: which of optimizer state (1), gradients (2), parameters (3) rest split over data and context axes.
    pub zero: u8,
}

impl Task<'_> {
    /// The cheapest layouts of the whole step, with their cost in seconds.
    pub fn solve(&self) -> Result<(Layouts, f64), LayoutError> {
        let boxings = Boxings::new(self.cluster, &self.mesh.mesh);
        let (problem, nodes) = self.problem(&boxings, &mut |signatures| signatures)?;
        let answer = problem.solve().ok_or(LayoutError::NoneTogether)?;
        Ok((self.read(&nodes, &answer.choice), answer.cost))
    }

    /// Layouts drawn at random (by `draw`, which gives a number below its argument) among those that go together:
    /// every operator any of `most` of its signatures. For tests of what any plan must satisfy.
    pub fn sample(&self, most: usize, draw: &mut dyn FnMut(usize) -> usize) -> Result<Layouts, LayoutError> {
        let boxings = Boxings::new(self.cluster, &self.mesh.mesh);
        let mut thin = |mut signatures: Vec<Signature>| {
            while signatures.len() > most {
                signatures.swap_remove(draw(signatures.len()));
            }
            signatures
        };
        let (mut problem, nodes) = self.problem(&boxings, &mut thin)?;
        for node in &mut problem.nodes {
            node.iter_mut().for_each(|cost| *cost = draw(1_000_000) as f64);
        }
        for edge in &mut problem.edges {
            edge.costs.iter_mut().filter(|cost| cost.is_finite()).for_each(|cost| *cost = 0.0);
        }
        let answer = problem.solve().ok_or(LayoutError::NoneTogether)?;
        Ok(self.read(&nodes, &answer.choice))
    }

    fn read(&self, nodes: &[Node], choice: &[usize]) -> Layouts {
        let mut layouts = Layouts::default();
        for (node, s) in nodes.iter().zip(choice) {
            match node.what {
                What::Op(op) => drop(layouts.signatures.insert(op, node.signatures[*s].clone())),
                What::Rest(value) => drop(layouts.rest.insert(value, node.provides[*s].clone())),
                What::Copy(value, phase) => layouts.copies.push((value, phase, node.provides[*s].clone())),
            }
        }
        layouts.copies.sort();
        layouts
    }

    fn bytes(&self, value: ValueId) -> f64 {
        self.graph.value(value).ty.dtype.bytes(8) as f64 / 8.0
    }

    fn times(&self, phase: PhaseKind, within: Option<LoopId>) -> f64 {
        let micro = if phase.per_micro_batch() { self.mesh.micro_batches as f64 } else { 1.0 };
        micro * self.graph.iterations(within) as f64
    }

    fn problem(
        &self,
        boxings: &Boxings<'_>,
        thin: &mut dyn FnMut(Vec<Signature>) -> Vec<Signature>,
    ) -> Result<(Problem, Vec<Node>), LayoutError> {
        let graph = self.graph;
        let mut nodes: Vec<Node> = Vec::new();
        let mut source: BTreeMap<ValueId, usize> = BTreeMap::new();
        let mut readings: Vec<Reading> = Vec::new();
        // operators
        for phase in &graph.phases {
            let mut found = Vec::new();
            graph.visit(&phase.ops, &mut |op, within| found.push((op, within)));
            for (op, within) in found {
                let rule = SizedRule::of(graph, op).expect("visited operators are primitives");
                let choices = thin(signatures(graph, op, phase.kind, self.mesh, &self.constraints));
                if choices.is_empty() {
                    return Err(self.no_signature(op));
                }
                let times = self.times(phase.kind, within);
                let dtype = graph.value(graph.op(op).result()).ty.dtype;
                let costs = choices.iter().map(|signature| {
                    let work = cost::work(graph, op, &rule, signature, &self.mesh.mesh);
                    times * cost::compute_seconds(self.cluster, dtype, work)
                });
                let id = nodes.len();
                nodes.push(Node {
                    what: What::Op(op),
                    costs: costs.collect(),
                    provides: choices.iter().map(|signature| rule.result_layout(signature)).collect(),
                    signatures: choices,
                });
                source.insert(graph.op(op).result(), id);
                for (n, operand) in graph.op(op).operands.iter().enumerate() {
                    let needs = nodes[id].signatures.iter().map(|signature| rule.operand_layout(n, signature)).collect();
                    readings.push(Reading { value: *operand, reader: id, needs, times, phase: phase.kind, shareable: true });
                }
            }
        }
        self.carried(&mut nodes, &mut source, &mut readings);
        self.leaves(&mut nodes, &mut source, &mut readings);
        self.copies(&mut nodes, &source, &mut readings);
        // boxings
        let mut problem = Problem { nodes: nodes.iter().map(|node| node.costs.clone()).collect(), edges: Vec::new() };
        for reading in &readings {
            let dims = graph.shape(reading.value);
            let bytes = self.bytes(reading.value);
            let from = self.provider(&nodes, &source, reading);
            let accumulates =
                matches!(nodes[reading.reader].what, What::Rest(value) if matches!(graph.leaf(value), Some(Leaf::Accumulated(_))));
            let mut costs = Vec::with_capacity(nodes[from].provides.len() * reading.needs.len());
            for provided in &nodes[from].provides {
                for needed in &reading.needs {
                    let seconds = if accumulates {
                        if self.accumulates(provided) {
                            boxings.seconds(&dims, &accumulated(provided, &self.mesh.mesh), needed, bytes)
                        } else {
                            f64::INFINITY
                        }
                    } else {
                        boxings.seconds(&dims, provided, needed, bytes)
                    };
                    costs.push(reading.times * seconds);
                }
            }
            problem.edges.push(Edge { a: from, b: reading.reader, costs });
        }
        Ok((problem, nodes))
    }

    /// Whether a value of this layout can be summed over micro-batches: P(sum) over time, or the same each time.
    fn accumulates(&self, layout: &Layout) -> bool {
        let sums = |share: &Share| matches!(share, Share::Broadcast | Share::Partial(Reduce::Sum));
        layout.0.iter().zip(&self.mesh.mesh.axes).all(|(share, axis)| !axis.time || sums(share))
    }

    fn no_signature(&self, op: OpId) -> LayoutError {
        let rule = SizedRule::of(self.graph, op).expect("a primitive");
        let name = self.graph.value(self.graph.op(op).result()).name.clone();
        let because = if self.constraints.even {
            let sizes: Vec<String> =
                rule.rule.factors.iter().map(|axis| format!("{} = {}", self.graph.axis(*axis).name, self.graph.size(*axis))).collect();
            format!(": with `--even` its axes ({}) would have to divide", sizes.join(", "))
        } else {
            String::new()
        };
        LayoutError::NoSignature { op, name, because }
    }

    /// The node that a reading takes its value from: the shared copy of its phase if there is one, else the source.
    fn provider(&self, nodes: &[Node], source: &BTreeMap<ValueId, usize>, reading: &Reading) -> usize {
        let copy = nodes.iter().position(|node| node.what == What::Copy(reading.value, reading.phase));
        match copy {
            Some(copy) if reading.shareable && copy != reading.reader => copy,
            _ => source[&reading.value],
        }
    }

    /// Carried values of repeats: what the body provides at its end is what it reads at its start.
    fn carried(&self, nodes: &mut Vec<Node>, source: &mut BTreeMap<ValueId, usize>, readings: &mut Vec<Reading>) {
        for phase in &self.graph.phases {
            for op in phase.ops.iter().map(|op| self.graph.op(*op)) {
                let Kind::Repeat(repeat) = &op.kind else { continue };
                let ids: Vec<usize> = (nodes.len()..nodes.len() + repeat.carried.len()).collect();
                for (carried, result) in repeat.carried.iter().zip(&op.results) {
                    let mut layouts = BTreeSet::new();
                    for reading in readings.iter().filter(|reading| [carried.arg, *result].contains(&reading.value)) {
                        layouts.extend(reading.needs.iter().cloned());
                    }
                    for value in [carried.next, carried.init] {
                        if let Some(node) = source.get(&value) {
                            layouts.extend(nodes[*node].provides.iter().cloned());
                        }
                    }
                    if layouts.is_empty() {
                        layouts.insert(Layout::broadcast(&self.mesh.mesh));
                    }
                    let provides: Vec<Layout> = layouts.into_iter().collect();
                    source.insert(carried.arg, nodes.len());
                    source.insert(*result, nodes.len());
                    nodes.push(Node { what: What::Rest(carried.arg), costs: vec![0.0; provides.len()], signatures: Vec::new(), provides });
                }
                for (carried, id) in repeat.carried.iter().zip(ids) {
                    let needs = nodes[id].provides.clone();
                    let once = self.times(phase.kind, None);
                    let each = self.times(phase.kind, Some(repeat.over));
                    for (value, times) in [(carried.init, once), (carried.next, each)] {
                        readings.push(Reading { value, reader: id, needs: needs.clone(), times, phase: phase.kind, shareable: true });
                    }
                }
            }
        }
    }

    fn leaves(&self, nodes: &mut Vec<Node>, source: &mut BTreeMap<ValueId, usize>, readings: &mut Vec<Reading>) {
        let graph = self.graph;
        for value in graph.leaves(|_| true).collect::<Vec<_>>() {
            let Some(leaf) = graph.leaf(value) else { continue };
            let needed = || readings.iter().filter(|reading| reading.value == value).flat_map(|reading| reading.needs.iter());
            let layouts: BTreeSet<Layout> = match leaf {
                Leaf::Param(_) => needed().map(|layout| self.at_rest(value, layout, self.zero >= 3)).collect(),
                Leaf::State { of, .. } => {
                    let of = of.unwrap_or(value);
                    let all = readings.iter().filter(|reading| reading.value == of || reading.value == value);
                    all.flat_map(|reading| reading.needs.iter()).map(|layout| self.at_rest(value, layout, self.zero >= 1)).collect()
                }
                Leaf::Accumulated(from) => {
                    let produced = source.get(from).map(|node| nodes[*node].provides.clone()).unwrap_or_default();
                    let splits = self.zero >= 2 && !graph.value(value).ty.dims.is_empty();
                    // what is pending while it is summed is a sum too
                    let adds = |share: &Share| !matches!(share, Share::Partial(op) if *op != Reduce::Sum);
                    let usable = produced.iter().filter(|layout| self.accumulates(layout) && layout.0.iter().all(adds));
                    usable
                        .map(|layout| {
                            let whole = accumulated(layout, &self.mesh.mesh);
                            if splits { self.split_over_data(value, &whole) } else { whole }
                        })
                        .collect()
                }
                Leaf::Input(_) => BTreeSet::from([self.of_input(value)]),
                Leaf::Supplied(_) => BTreeSet::from([Layout::broadcast(&self.mesh.mesh)]),
            };
            let provides: Vec<Layout> =
                if layouts.is_empty() { vec![Layout::broadcast(&self.mesh.mesh)] } else { layouts.into_iter().collect() };
            let id = nodes.len();
            source.insert(value, id);
            if let Leaf::Accumulated(from) = leaf {
                let phase = self.phase_of(*from);
                let times = self.times(phase, graph.value(value).within);
                readings.push(Reading { value: *from, reader: id, needs: provides.clone(), times, phase, shareable: false });
            }
            nodes.push(Node { what: What::Rest(value), costs: vec![0.0; provides.len()], signatures: Vec::new(), provides });
        }
        for assign in &graph.assigns {
            let id = source[&assign.target];
            let times = self.times(PhaseKind::Update, graph.value(assign.target).within);
            let needs = nodes[id].provides.clone();
            readings.push(Reading { value: assign.value, reader: id, needs, times, phase: PhaseKind::Update, shareable: false });
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
    fn copies(&self, nodes: &mut Vec<Node>, source: &BTreeMap<ValueId, usize>, readings: &mut Vec<Reading>) {
        let mut groups: BTreeMap<(ValueId, PhaseKind), Vec<usize>> = BTreeMap::new();
        for (index, reading) in readings.iter().enumerate().filter(|(_, reading)| reading.shareable) {
            groups.entry((reading.value, reading.phase)).or_default().push(index);
        }
        for ((value, phase), members) in groups {
            if members.len() < 2 {
                continue;
            }
            let mut layouts: BTreeSet<Layout> = nodes[source[&value]].provides.iter().cloned().collect();
            for member in &members {
                layouts.extend(readings[*member].needs.iter().cloned());
            }
            let provides: Vec<Layout> = layouts.into_iter().collect();
            let times = members.iter().map(|member| readings[*member].times).fold(0.0, f64::max);
            let id = nodes.len();
            readings.push(Reading { value, reader: id, needs: provides.clone(), times, phase, shareable: false });
            nodes.push(Node { what: What::Copy(value, phase), costs: vec![0.0; provides.len()], signatures: Vec::new(), provides });
        }
    }

    /// Batches arrive dealt out over data, micro-batch and context axes.
    fn of_input(&self, value: ValueId) -> Layout {
        let dims = &self.graph.value(value).ty.dims;
        let mut depths = vec![0; dims.len()];
        let shares = (0..self.mesh.uses.len()).map(|axis| {
            let role = match self.mesh.uses[axis] {
                AxisUse::Data | AxisUse::Micro => Role::Batch,
                AxisUse::Context => Role::Seq,
                AxisUse::Tensor => return Share::Broadcast,
            };
            let Some(dim) = dims.iter().position(|axis| self.graph.axis(*axis).role == role) else { return Share::Broadcast };
            let partition = partition_for(role, self.mesh.partitions[axis]);
            depths[dim] += 1;
            Share::Split(Split { dim, size: self.graph.size(dims[dim]), inner: 1, depth: depths[dim] - 1, partition })
        });
        Layout(shares.collect())
    }

    /// The layout at rest that goes with a layout in use: its tensor axes, and data and context axes B or all S.
    fn at_rest(&self, value: ValueId, used: &Layout, split: bool) -> Layout {
        let mut rest = Layout::broadcast(&self.mesh.mesh);
        let mut depths = vec![0; self.graph.value(value).ty.dims.len()];
        for axis in self.mesh.resting_order() {
            if self.mesh.uses[axis] == AxisUse::Tensor
                && let Some(share) = used.split_on(axis)
            {
                rest.0[axis] = Share::Split(Split { depth: depths[share.dim], ..share });
                depths[share.dim] += 1;
            }
        }
        if split { self.split_over_data(value, &rest) } else { rest }
    }

    /// The layout with data and context axes S, innermost, along the dimension that gives the smallest largest shard.
    fn split_over_data(&self, value: ValueId, rest: &Layout) -> Layout {
        let shape = self.graph.shape(value);
        let candidates = (0..shape.len()).map(|dim| {
            let mut layout = rest.clone();
            for axis in self.mesh.resting_order() {
                if matches!(self.mesh.uses[axis], AxisUse::Data | AxisUse::Context) {
                    layout.0[axis] = Share::Broadcast;
                }
            }
            // what tensor axes do comes first; what they have left pending stays
            layout.renumber();
            let mut depth = layout.splits(dim).len();
            for axis in self.mesh.resting_order() {
                if matches!(self.mesh.uses[axis], AxisUse::Data | AxisUse::Context) {
                    let partition = partita_ir::layout::Partition::Balanced;
                    layout.0[axis] = Share::Split(Split { dim, size: shape[dim], inner: 1, depth, partition });
                    depth += 1;
                }
            }
            layout
        });
        let size = |layout: &Layout| layout.largest_shard(&shape, &self.mesh.mesh);
        candidates.min_by_key(size).unwrap_or_else(|| rest.clone())
    }
}

/// Every primitive with its phase and loop, in order of execution.
pub fn primitives(graph: &Graph) -> Vec<(OpId, PhaseKind, Option<LoopId>)> {
    let mut out = Vec::new();
    for phase in &graph.phases {
        graph.visit(&phase.ops, &mut |op, within| out.push((op, phase.kind, within)));
    }
    debug_assert!(out.iter().all(|(op, ..)| op.index() < graph.ops.len()));
    out
}
