//! From operators with layouts to the instructions of one stage.
//!
//! Repeats are unrolled. A value that is read in a layout other than its own is boxed where it is first read in a
//! phase, and the boxed copy serves later readers of the phase. A value that another stage reads is sent, in its own
//! layout, when it is made.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::boxing::StepKind;
use partita_ir::graph::{Carried, Def, Graph, Init, Kind, Leaf, PhaseKind, Repeat, Slice};
use partita_ir::id::{Id, LoopId, OpId, ValueId};
use partita_ir::layout::{Layout, Share};
use partita_ir::program::{BoxingSpec, Buffer, BufferId, Instruction, KernelSpec, LeafKind, LeafSpec, Region, Section};
use partita_planner::cluster::Cluster;
use partita_planner::layouts::{Boxings, accumulated};
use partita_planner::plan::Plan;
use partita_planner::stages::Homes;

use crate::lowered::Lowered;

/// A value at an iteration.
pub type Instance = (ValueId, u64);

/// What all stages share while they are emitted.
pub struct Shared<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Boxing costs.
    pub boxings: Boxings<'a>,
    /// Operators by id.
    pub lowered: BTreeMap<OpId, Lowered>,
    /// Operators that were fused away.
    pub homes: Homes,
    /// Kernels so far.
    pub kernels: Vec<KernelSpec>,
    /// Kernel of an operator.
    kernel_of: BTreeMap<OpId, usize>,
    /// Boxing steps so far.
    pub steps: Vec<BoxingSpec>,
    /// Channels by (instance, from, to, phase).
    channels: BTreeMap<(Instance, u64, u64, PhaseKind), u64>,
    /// Shared copies by value and phase.
    copies: BTreeMap<(ValueId, PhaseKind), Layout>,
    /// For each repeat's carried values: the repeat.
    carried_by: BTreeMap<ValueId, (OpId, usize)>,
    /// Entries that a repeat takes, and tensors that it collects: with its loop.
    taken: BTreeMap<ValueId, (Slice, LoopId)>,
    collected: BTreeMap<ValueId, (Slice, LoopId)>,
}

impl<'a> Shared<'a> {
    /// Prepares to emit a plan.
    pub fn new(plan: &'a Plan, cluster: &'a Cluster, lowered: Vec<Lowered>) -> Self {
        let graph = &plan.graph;
        let (mut carried_by, mut taken, mut collected) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (index, op) in graph.ops.iter().enumerate() {
            if let Kind::Repeat(repeat) = &op.kind {
                for (n, (carried, result)) in repeat.carried.iter().zip(&op.results).enumerate() {
                    carried_by.insert(carried.arg, (OpId::new(index), n));
                    carried_by.insert(*result, (OpId::new(index), n));
                }
                taken.extend(repeat.taken.iter().map(|slice| (slice.each, (*slice, repeat.over))));
                collected.extend(repeat.collected.iter().map(|slice| (slice.whole, (*slice, repeat.over))));
            }
        }
        Self {
            plan,
            boxings: Boxings::new(cluster, &plan.mesh.mesh),
            lowered: lowered.into_iter().map(|op| (op.op, op)).collect(),
            homes: plan.cut.homes(graph),
            kernels: Vec::new(),
            kernel_of: BTreeMap::new(),
            steps: Vec::new(),
            channels: BTreeMap::new(),
            copies: plan.layouts.copies.iter().map(|(value, phase, layout)| ((*value, *phase), layout.clone())).collect(),
            carried_by,
            taken,
            collected,
        }
    }

    fn graph(&self) -> &'a Graph {
        &self.plan.graph
    }

    fn repeat(&self, op: OpId) -> &'a Repeat {
        match &self.graph().op(op).kind {
            Kind::Repeat(repeat) => repeat,
            Kind::Map(_) => unreachable!("{op} carries values"),
        }
    }

    /// The instance that a carried value or a repeat's result is a boxed copy of, and the layout of that copy.
    fn carried_source(&self, (value, iteration): Instance) -> Option<(Instance, Layout)> {
        let (op, n) = *self.carried_by.get(&value)?;
        let repeat = self.repeat(op);
        let Carried { init, arg, next } = repeat.carried[n];
        let count = self.graph().loops[repeat.over.index()].count;
        let (first, last) = (repeat.iteration(0, count), repeat.iteration(count - 1, count));
        let layout = self.plan.layouts.rest[&arg].clone();
        let within = |value: ValueId, at: u64| if self.graph().value(value).within.is_some() { at } else { 0 };
        let source = if value != arg {
            (next, within(next, last))
        } else if iteration == first {
            (init, 0)
        } else {
            let before = if repeat.reversed { iteration + 1 } else { iteration - 1 };
            (next, within(next, before))
        };
        Some((source, layout))
    }

    /// The loop iteration whose stage makes the boxed copy of a carried instance, if its source has no home.
    fn carried_home(&self, (value, iteration): Instance) -> u64 {
        let (op, _) = self.carried_by[&value];
        let repeat = self.repeat(op);
        let count = self.graph().loops[repeat.over.index()].count;
        let at = if self.graph().value(value).within.is_some() { iteration } else { repeat.iteration(count - 1, count) };
        self.plan.cut.of(repeat.over, at)
    }

    /// The stage that makes an instance; `None` if every stage makes its own.
    pub fn home(&self, instance: Instance) -> Option<u64> {
        if let Some((source, _)) = self.carried_source(instance) {
            return Some(self.home(source).unwrap_or_else(|| self.carried_home(instance)));
        }
        let (value, iteration) = instance;
        // a scan is not cut
        if let Some((_, over)) = self.taken.get(&value).or_else(|| self.collected.get(&value)) {
            return Some(self.plan.cut.of(*over, 0));
        }
        match &self.graph().value(value).def {
            Def::Leaf(Leaf::Accumulated(from)) => self.home((*from, iteration)),
            Def::Leaf(_) => self.homes.leaves.get(&instance).copied(),
            Def::Result(op, _) => self.homes.ops.get(&(*op, iteration)).copied().flatten(),
            Def::Carried(..) | Def::Taken(..) => unreachable!("values of a repeat have a source"),
        }
    }

    fn channel(&mut self, instance: Instance, from: u64, to: u64, phase: PhaseKind) -> u64 {
        let next = self.channels.len() as u64;
        *self.channels.entry((instance, from, to, phase)).or_insert(next)
    }

    fn kernel(&mut self, op: OpId) -> usize {
        if let Some(known) = self.kernel_of.get(&op) {
            return *known;
        }
        let lowered = &self.lowered[&op];
        let graph = self.graph();
        let spec = KernelSpec {
            name: graph.value(lowered.result).name.clone(),
            rule: lowered.rule.clone(),
            factors: lowered.factors.clone(),
            splits: lowered.splits.clone(),
            order: lowered.order.clone(),
            operands: lowered.operands.iter().map(|(value, _)| graph.value(*value).ty.dtype).collect(),
            shapes: lowered.operands.iter().map(|(value, _)| graph.shape(*value)).collect(),
            result: graph.value(lowered.result).ty.dtype,
            gemm: lowered.gemm,
        };
        self.kernels.push(spec);
        self.kernel_of.insert(op, self.kernels.len() - 1);
        self.kernels.len() - 1
    }

    fn step(&mut self, spec: BoxingSpec) -> usize {
        if let Some(known) = self.steps.iter().position(|known| *known == spec) {
            return known;
        }
        self.steps.push(spec);
        self.steps.len() - 1
    }

    /// Instances of operators of a phase in order of execution, whether or not they were fused away.
    pub fn schedule(&self, phase: PhaseKind) -> Vec<Event> {
        let graph = self.graph();
        let mut events = Vec::new();
        for &op in graph.phase(phase) {
            match &graph.op(op).kind {
                Kind::Map(_) => events.push(Event::Op((op, 0))),
                Kind::Repeat(repeat) => {
                    let count = graph.loops[repeat.over.index()].count;
                    let at = |n: u64| repeat.iteration(n, count);
                    // what enters the repeat is boxed by the stage that made it
                    events.extend(repeat.carried.iter().map(|carried| Event::HandOn((carried.arg, at(0)))));
                    for n in 0..count {
                        events.extend(repeat.taken.iter().map(|slice| Event::Take((slice.each, at(n)))));
                        events.extend(repeat.body.iter().map(|inner| Event::Op((*inner, at(n)))));
                        // what the iteration hands on is boxed by the stage that made it
                        for (carried, result) in repeat.carried.iter().zip(&graph.op(op).results) {
                            events.push(Event::HandOn(if n + 1 < count { (carried.arg, at(n + 1)) } else { (*result, 0) }));
                        }
                        events.extend(repeat.collected.iter().map(|slice| Event::Put(slice.whole, at(n))));
                    }
                }
            }
        }
        events
    }

    /// What an event reads.
    fn reads(&self, event: Event) -> Vec<Instance> {
        match event {
            Event::Op((op, iteration)) => match self.lowered.get(&op) {
                Some(lowered) => lowered.operands.iter().map(|(value, _)| self.at(*value, iteration)).collect(),
                None => Vec::new(),
            },
            Event::HandOn(instance) => self.carried_source(instance).map(|(source, _)| source).into_iter().collect(),
            Event::Take((each, _)) => vec![(self.taken[&each].0.whole, 0)],
            Event::Put(whole, iteration) => vec![self.at(self.collected[&whole].0.each, iteration)],
        }
    }

    /// The instance of a value that an operator at an iteration reads.
    pub fn at(&self, value: ValueId, iteration: u64) -> Instance {
        (value, if self.graph().value(value).within.is_some() { iteration } else { 0 })
    }

    fn event_home(&self, event: Event) -> Option<u64> {
        match event {
            Event::Op((op, iteration)) => self.homes.ops.get(&(op, iteration)).copied().flatten(),
            Event::HandOn(instance) | Event::Take(instance) => self.home(instance),
            Event::Put(whole, _) => self.home((whole, 0)),
        }
    }

    /// Instances that a stage reads though another makes them: (instance, maker, phase in which it is handed over).
    pub fn crossings(&self) -> BTreeMap<u64, BTreeSet<(Instance, u64, PhaseKind)>> {
        let mut crossings: BTreeMap<u64, BTreeSet<(Instance, u64, PhaseKind)>> = BTreeMap::new();
        for phase in &self.graph().phases {
            for event in self.schedule(phase.kind) {
                let Some(reader) = self.event_home(event) else { continue };
                let mut todo = self.reads(event);
                while let Some(instance) = todo.pop() {
                    match self.home(instance) {
                        Some(maker) if maker != reader => {
                            if let Some(kind) = self.handed_over(instance, phase.kind) {
                                crossings.entry(reader).or_default().insert((instance, maker, kind));
                            }
                        }
                        Some(_) => {}
                        // made where it is read, from what that needs
                        None => {
                            if let Some(op) = self.graph().def_op(instance.0) {
                                todo.extend(self.reads(Event::Op((op, instance.1))));
                            }
                        }
                    }
                }
            }
        }
        crossings
    }

    /// The phase in which an instance goes to another stage that reads it in `phase`; `None` for what each stage
    /// keeps a mirror of.
    fn handed_over(&self, (value, _): Instance, phase: PhaseKind) -> Option<PhaseKind> {
        match self.graph().leaf(value) {
            Some(Leaf::Accumulated(_)) => Some(phase),
            Some(_) => None,
            None => Some(self.phase_of(value)),
        }
    }

    fn phase_of(&self, value: ValueId) -> PhaseKind {
        let Some(op) = self.graph().def_op(value).or(self.carried_by.get(&value).map(|(op, _)| *op)) else { return PhaseKind::Forward };
        if let Some(lowered) = self.lowered.get(&op) {
            return lowered.phase;
        }
        let phases = &self.graph().phases;
        phases.iter().find(|phase| phase.ops.contains(&op)).map_or(PhaseKind::Forward, |phase| phase.kind)
    }
}

/// Something to emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A primitive at an iteration.
    Op((OpId, u64)),
    /// The boxing of what an iteration carries on.
    HandOn(Instance),
    /// The entry of a tensor that an iteration takes.
    Take(Instance),
    /// What an iteration adds to a tensor that its repeat collects.
    Put(ValueId, u64),
}

/// The instructions of one stage as they grow.
pub struct Stage<'s, 'a> {
    shared: &'s mut Shared<'a>,
    stage: u64,
    /// Buffers.
    pub buffers: Vec<Buffer>,
    /// Leaves of this stage.
    pub leaves: Vec<LeafSpec>,
    /// Finished sections.
    pub sections: Vec<Section>,
    /// What is held, by instance: in its own layout for all phases, in others for one.
    own: BTreeMap<Instance, BufferId>,
    boxed: BTreeMap<Instance, Vec<(Layout, BufferId)>>,
    /// How many entries of what a repeat collects are not there yet.
    missing: BTreeMap<ValueId, u64>,
    phase: PhaseKind,
    out: Vec<Instruction>,
    incoming: BTreeSet<(Instance, u64, PhaseKind)>,
    outgoing: BTreeMap<Instance, Vec<(u64, PhaseKind)>>,
}

impl<'s, 'a> Stage<'s, 'a> {
    /// Begins a stage, given what crosses between stages.
    pub fn new(shared: &'s mut Shared<'a>, stage: u64, crossings: &BTreeMap<u64, BTreeSet<(Instance, u64, PhaseKind)>>) -> Self {
        let mut outgoing: BTreeMap<Instance, Vec<(u64, PhaseKind)>> = BTreeMap::new();
        for (reader, all) in crossings {
            for (instance, maker, phase) in all {
                if *maker == stage {
                    outgoing.entry(*instance).or_default().push((*reader, *phase));
                }
            }
        }
        let incoming = crossings.get(&stage).cloned().unwrap_or_default();
        Self {
            shared,
            stage,
            buffers: Vec::new(),
            leaves: Vec::new(),
            sections: Vec::new(),
            own: BTreeMap::new(),
            boxed: BTreeMap::new(),
            missing: BTreeMap::new(),
            phase: PhaseKind::Count,
            out: Vec::new(),
            incoming,
            outgoing,
        }
    }

    fn graph(&self) -> &'a Graph {
        self.shared.graph()
    }

    fn buffer(&mut self, name: String, value: ValueId, layout: Layout, region: Region) -> BufferId {
        let graph = self.graph();
        let shape = graph.shape(value);
        let dtype = graph.value(value).ty.dtype;
        let mesh = &self.shared.plan.mesh.mesh;
        let moments = self.shared.plan.mesh.micro_batches;
        let largest = (0..mesh.ranks())
            .flat_map(|rank| (0..moments).map(move |moment| (rank, moment)))
            .map(|(rank, moment)| layout.local_shape(&shape, mesh, &mesh.coordinates(rank, moment)).iter().product::<u64>())
            .max()
            .unwrap_or(0);
        self.buffers.push(Buffer { name, dtype, shape, layout, bytes: dtype.bytes(largest), region, offset: 0 });
        self.buffers.len() - 1
    }

    fn name(&self, (value, iteration): Instance) -> String {
        self.graph().instance_name(value, iteration)
    }

    /// Emits every phase.
    pub fn emit(&mut self) {
        let phases: Vec<PhaseKind> = self.graph().phases.iter().map(|phase| phase.kind).collect();
        for phase in phases {
            self.phase = phase;
            self.boxed.clear();
            // what rests here and is read elsewhere goes out before anything else
            let resting: Vec<Instance> = self
                .outgoing
                .iter()
                .filter(|((value, _), to)| {
                    matches!(self.graph().leaf(*value), Some(Leaf::Accumulated(_))) && to.iter().any(|(_, kind)| *kind == phase)
                })
                .map(|(instance, _)| *instance)
                .collect();
            for instance in resting {
                self.own(instance);
                self.send(instance);
            }
            for event in self.shared.schedule(phase) {
                if self.shared.event_home(event) == Some(self.stage) {
                    match event {
                        Event::Op(op) => self.op(op),
                        Event::HandOn(instance) => {
                            if let Def::Carried(..) | Def::Result(..) = self.graph().value(instance.0).def {
                                self.own(instance);
                                self.send(instance);
                                self.accumulate(instance);
                            }
                        }
                        Event::Take(instance) => {
                            self.own(instance);
                            self.accumulate(instance);
                        }
                        Event::Put(whole, iteration) => self.put(whole, iteration),
                    }
                }
            }
            if phase == PhaseKind::Update {
                self.assign();
                self.report();
            }
            let late: Vec<Instance> = self.incoming.iter().filter(|(_, _, kind)| *kind == phase).map(|(instance, ..)| *instance).collect();
            for instance in late {
                self.own(instance);
            }
            let instructions = std::mem::take(&mut self.out);
            self.sections.push(Section { phase, instructions });
        }
    }

    fn op(&mut self, (op, iteration): (OpId, u64)) {
        let Some(lowered) = self.shared.lowered.get(&op) else { return };
        let instance = self.shared.at(lowered.result, iteration);
        if !self.own.contains_key(&instance) {
            self.compute(op, iteration);
            self.send(instance);
        }
        self.accumulate(instance);
    }

    fn compute(&mut self, op: OpId, iteration: u64) -> BufferId {
        let lowered = self.shared.lowered[&op].clone();
        let operands: Vec<BufferId> = lowered
            .operands
            .iter()
            .map(|(value, layout)| {
                let instance = self.shared.at(*value, iteration);
                self.obtain(instance, layout)
            })
            .collect();
        let kernel = self.shared.kernel(op);
        let instance = self.shared.at(lowered.result, iteration);
        let region = if self.phase == PhaseKind::Seed { Region::Lasting } else { Region::Passing };
        let result = self.buffer(self.name(instance), lowered.result, lowered.layout.clone(), region);
        let iteration = if lowered.within.is_some() { iteration } else { 0 };
        self.out.push(Instruction::Kernel { kernel, iteration, operands, result, accumulate: false });
        self.own.insert(instance, result);
        result
    }

    /// Puts the value of an iteration in its place in what the repeat collects; when all are there, that is sent.
    fn put(&mut self, whole: ValueId, iteration: u64) {
        let (slice, over) = self.shared.collected[&whole];
        let layout = self.shared.plan.layouts.rest[&whole].clone();
        let entry = layout.entry().expect("every rank has the first dimension of what is collected whole");
        let from = self.obtain(self.shared.at(slice.each, iteration), &entry);
        let instance = (whole, 0);
        let to = match self.own.get(&instance) {
            Some(held) => *held,
            None => self.buffer(self.name(instance), whole, layout, Region::Passing),
        };
        self.own.insert(instance, to);
        self.out.push(Instruction::Put { from, to, at: iteration });
        let missing = self.missing.entry(whole).or_insert_with(|| self.shared.plan.graph.iterations(Some(over)));
        *missing -= 1;
        if *missing == 0 {
            self.send(instance);
            self.accumulate(instance);
        }
    }

    fn send(&mut self, instance: Instance) {
        let Some(readers) = self.outgoing.get(&instance).cloned() else { return };
        let now = self.phase;
        for (stage, phase) in readers.into_iter().filter(|(_, phase)| *phase == now) {
            let buffer = self.own(instance);
            let channel = self.shared.channel(instance, self.stage, stage, phase);
            self.out.push(Instruction::Send { buffer, stage, channel });
        }
    }

    /// Adds a value to the accumulators that collect it over micro-batches.
    fn accumulate(&mut self, (value, iteration): Instance) {
        let graph = self.graph();
        let leaves: Vec<ValueId> = graph.leaves(|leaf| matches!(leaf, Leaf::Accumulated(from) if *from == value)).collect();
        for leaf in leaves {
            let produced = self.shared.plan.layouts.of(graph, value);
            let mesh = &self.shared.plan.mesh.mesh;
            let summed = produced.0.iter().zip(&mesh.axes).any(|(share, axis)| axis.time && matches!(share, Share::Partial(_)));
            let rest = self.shared.plan.layouts.rest[&leaf].clone();
            // the boxing works on layouts that agree on time; what is pending there is the accumulator's sum
            let from = self.own((value, iteration));
            let whole = accumulated(&produced, mesh);
            let boxed = self.box_from(value, from, &whole, &rest, &format!("{}.sum", self.name((value, iteration))));
            let to = self.own((leaf, iteration));
            self.out.push(Instruction::Copy { from: boxed, to, accumulate: summed });
        }
    }

    fn assign(&mut self) {
        let graph = self.graph();
        for assign in &graph.assigns {
            let iterations = graph.iterations(graph.value(assign.target).within);
            for iteration in 0..iterations {
                let target = (assign.target, iteration);
                if self.shared.home(target) == Some(self.stage) {
                    let rest = self.shared.plan.layouts.rest[&assign.target].clone();
                    let value = self.shared.at(assign.value, iteration);
                    let from = self.obtain(value, &rest);
                    let to = self.own(target);
                    self.out.push(Instruction::Copy { from, to, accumulate: false });
                }
            }
        }
        // mirrors on other stages follow
        let kept: Vec<ValueId> = graph.leaves(|leaf| matches!(leaf, Leaf::Param(_) | Leaf::State { of: None, .. })).collect();
        for leaf in kept {
            let Some(home) = self.shared.home((leaf, 0)) else { continue };
            if graph.value(leaf).within.is_some() {
                continue;
            }
            let mirrors = self.mirrors(leaf, home);
            for stage in mirrors {
                let channel = self.shared.channel((leaf, 0), home, stage, PhaseKind::Update);
                let instruction = if home == self.stage {
                    Instruction::Send { buffer: self.own((leaf, 0)), stage, channel }
                } else if stage == self.stage {
                    Instruction::Receive { buffer: self.own((leaf, 0)), stage: home, channel }
                } else {
                    continue;
                };
                self.out.push(instruction);
            }
        }
    }

    /// The stages other than its home that read a parameter or state while micro-batches run.
    fn mirrors(&self, param: ValueId, home: u64) -> BTreeSet<u64> {
        let mut stages = BTreeSet::new();
        for phase in PhaseKind::ALL.iter().map(|row| row.0).filter(|phase| phase.per_micro_batch()) {
            for event in self.shared.schedule(phase) {
                if self.shared.reads(event).contains(&(param, 0)) {
                    stages.extend(self.shared.event_home(event).filter(|stage| *stage != home));
                }
            }
        }
        stages
    }

    fn report(&mut self) {
        let last = self.shared.plan.cut.stages - 1;
        for (_, value) in &self.graph().reports.clone() {
            if self.shared.home((*value, 0)).unwrap_or(last) == self.stage {
                let whole = Layout::broadcast(&self.shared.plan.mesh.mesh);
                self.obtain((*value, 0), &whole);
            }
        }
    }

    /// The reports that this stage holds.
    pub fn reports(&mut self) -> Vec<(String, BufferId)> {
        let last = self.shared.plan.cut.stages - 1;
        let whole = Layout::broadcast(&self.shared.plan.mesh.mesh);
        let mut out = Vec::new();
        for (name, value) in &self.graph().reports.clone() {
            if self.shared.home((*value, 0)).unwrap_or(last) == self.stage {
                out.push((name.clone(), self.obtain((*value, 0), &whole)));
            }
        }
        assert!(self.out.is_empty(), "reports were emitted with the update");
        out
    }

    /// The gradients at rest on this stage, by parameter instance.
    pub fn gradients(&self) -> Vec<(String, BufferId)> {
        let graph = self.graph();
        let is_gradient =
            |value: ValueId| matches!(graph.leaf(value), Some(Leaf::Accumulated(of)) if self.shared.phase_of(*of) == PhaseKind::Backward);
        self.own.iter().filter(|((value, _), _)| is_gradient(*value)).map(|(instance, buffer)| (self.name(*instance), *buffer)).collect()
    }

    /// The buffer that holds an instance in its own layout; computed, received, loaded or laid out if need be.
    fn own(&mut self, instance: Instance) -> BufferId {
        if let Some(held) = self.own.get(&instance) {
            return *held;
        }
        let (value, iteration) = instance;
        let graph = self.graph();
        let incoming = self.incoming.iter().find(|(known, ..)| *known == instance).copied();
        if let Some((_, maker, phase)) = incoming {
            let layout = self.shared.plan.layouts.of(graph, value);
            let buffer = self.buffer(self.name(instance), value, layout, Region::Passing);
            let channel = self.shared.channel(instance, maker, self.stage, phase);
            self.out.push(Instruction::Receive { buffer, stage: maker, channel });
            self.own.insert(instance, buffer);
            return buffer;
        }
        if let Some((slice, _)) = self.shared.taken.get(&value).copied() {
            let layout = self.shared.plan.layouts.rest[&value].clone();
            let from = self.obtain((slice.whole, 0), &layout.stacked());
            let to = self.buffer(self.name(instance), value, layout, Region::Passing);
            self.out.push(Instruction::Take { from, to, at: iteration });
            self.own.insert(instance, to);
            return to;
        }
        if let Some((source, layout)) = self.shared.carried_source(instance) {
            let buffer = self.obtain(source, &layout);
            self.own.insert(instance, buffer);
            return buffer;
        }
        if let Some(op) = graph.def_op(value) {
            return self.compute(op, iteration);
        }
        let layout = self.shared.plan.layouts.rest[&value].clone();
        let name = self.name(instance);
        let leaf = graph.leaf(value).expect("neither computed nor carried").clone();
        let buffer = match leaf {
            Leaf::Input(source) => {
                let buffer = self.buffer(name, value, layout, Region::Passing);
                self.out.push(Instruction::Load { buffer, source });
                if self.phase == PhaseKind::Count {
                    // each phase of a micro-batch loads for itself: they do not run back to back
                    self.boxed.entry(instance).or_default().push((self.buffers[buffer].layout.clone(), buffer));
                    return buffer;
                }
                buffer
            }
            Leaf::Accumulated(_) => self.buffer(name, value, layout, Region::Lasting),
            Leaf::Param(init) => self.rest(instance, name, layout, LeafKind::Param(init)),
            Leaf::State { init: Init::Copy, of: Some(of), .. } => {
                let (init, drawn_by) = graph.begins(of).expect("a state goes with a parameter");
                self.rest(instance, name, layout, LeafKind::Copy { init, of: graph.instance_name(drawn_by, iteration) })
            }
            Leaf::State { init, of: None, .. } => self.rest(instance, name, layout, LeafKind::State(init)),
            Leaf::State { init, of: Some(_), .. } => self.rest(instance, name, layout, LeafKind::Moment(init)),
            Leaf::Progress(begin) => self.rest(instance, name, layout, LeafKind::Moment(Init::Constant(begin))),
            Leaf::Supplied(_) => self.rest(instance, name, layout, LeafKind::StepNumber),
        };
        self.own.insert(instance, buffer);
        buffer
    }

    fn rest(&mut self, instance: Instance, name: String, layout: Layout, kind: LeafKind) -> BufferId {
        let owner = self.shared.home(instance).is_none_or(|home| home == self.stage) && kind != LeafKind::StepNumber;
        let buffer = self.buffer(name.clone(), instance.0, layout, Region::Lasting);
        self.leaves.push(LeafSpec { name, kind, buffer, owner });
        buffer
    }

    /// The buffer that holds an instance in this layout.
    fn obtain(&mut self, instance: Instance, needed: &Layout) -> BufferId {
        let (value, _) = instance;
        let shape = self.graph().shape(value);
        let plan = self.shared.plan;
        let mesh = &plan.mesh.mesh;
        if let Some((_, held)) =
            self.boxed.get(&instance).and_then(|all| all.iter().find(|(layout, _)| layout.same_shards(needed, &shape, mesh)))
        {
            return *held;
        }
        let own = self.own(instance);
        let own_layout = self.buffers[own].layout.clone();
        if own_layout.same_shards(needed, &shape, mesh) {
            return own;
        }
        let shared_copy = self.shared.copies.get(&(value, self.phase)).cloned();
        let (from, from_layout) = match shared_copy {
            Some(copy) if !copy.same_shards(needed, &shape, mesh) && !copy.same_shards(&own_layout, &shape, mesh) => {
                (self.obtain(instance, &copy), copy)
            }
            _ => (own, own_layout),
        };
        let buffer = self.box_from(value, from, &from_layout, needed, &self.name(instance));
        self.boxed.entry(instance).or_default().push((needed.clone(), buffer));
        buffer
    }

    /// Emits the boxing of a buffer and gives the buffer that holds the result.
    fn box_from(&mut self, value: ValueId, from: BufferId, before: &Layout, after: &Layout, name: &str) -> BufferId {
        let graph = self.graph();
        let shape = graph.shape(value);
        let dtype = graph.value(value).ty.dtype;
        let bytes = dtype.bytes(8) as f64 / 8.0;
        let steps = self.shared.boxings.steps(&shape, before, after, bytes).expect("the plan only asks for boxings that exist");
        let mut at = from;
        for step in steps {
            let to = self.buffer(format!("{name} {}", step.kind.word()), value, step.to.clone(), Region::Passing);
            let reduces = step.kind == StepKind::AllReduce;
            let boxing = self.shared.step(BoxingSpec { step, shape: shape.clone(), dtype });
            if reduces {
                self.out.push(Instruction::Copy { from: at, to, accumulate: false });
                self.out.push(Instruction::Box { boxing, from: to, to });
            } else {
                self.out.push(Instruction::Box { boxing, from: at, to });
            }
            at = to;
        }
        at
    }
}

/// The loops' identifiers are positions.
pub fn loop_name(graph: &Graph, id: LoopId) -> &str {
    &graph.loops[id.index()].name
}
