//! The layout of everything in one mesh, chosen together: `assembly` makes the graph of a training step a layout
//! [`Problem`], the layout solver answers it.

mod assembly;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use partita_ir::boxing::{Shape, Step};
use partita_ir::dtype::DType;
use partita_ir::graph::{Def, Graph, Kind, PhaseKind};
use partita_ir::id::{Id, LoopId, OpId, ValueId};
use partita_ir::layout::{Layout, Mesh, Share};
use partita_ir::signature::{Signature, SizedRule};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::cost;
use crate::layout_problem::{FORBIDDEN, Problem, ProblemBuilder};
use crate::layout_solver::{Answer, Options, Stop, solve};
use crate::mesh::MeshPlan;
use crate::strategy::Constraints;
use assembly::assemble;

/// Every layout decision of a step on one mesh.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Layouts {
    /// The signature of every primitive.
    pub signatures: BTreeMap<OpId, Signature>,
    /// The layout at rest of every leaf, of every carried value at entry and exit of its repeat, of what a repeat takes and
    /// of what it collects.
    pub rest: BTreeMap<ValueId, Layout>,
    /// The layout of the copy that the readers of a value in a phase share.
    pub copies: Vec<(ValueId, PhaseKind, Layout)>,
}

impl Layouts {
    /// The layout that a value is produced or rests in.
    pub fn of(&self, graph: &Graph, value: ValueId) -> Layout {
        match &graph.value(value).def {
            Def::Leaf(_) | Def::Carried(..) | Def::Taken(..) => self.rest[&value].clone(),
            Def::Result(op, n) => match &graph.op(*op).kind {
                Kind::Map(_) => {
                    let rule = SizedRule::of(graph, *op).expect("a primitive has a rule");
                    rule.result_layout(&self.signatures[op])
                }
                Kind::Repeat(repeat) => self.rest[&repeat.carried.get(*n).map_or(value, |carried| carried.arg)].clone(),
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
    /// Neither layouts nor a proof that there are none.
    #[error("no layouts of all operators that go together under the pins were found in {WORK} units of work")]
    NoneFound,
}

/// Units of work of the layout solver (about a microsecond each) that the layouts of one mesh may take. A limit of work,
/// not of time: the plan is the same on every machine. Layouts that are not proven by then are taken as they are.
const WORK: u64 = 10_000_000;

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
    /// What products are multiplied in.
    pub product: DType,
}

/// The layouts of a whole step.
#[derive(Clone, Debug, PartialEq)]
pub struct Solved {
    /// The cheapest that were found.
    pub layouts: Layouts,
    /// Nanoseconds of a step that they cost.
    pub cost: i128,
    /// No layouts cost less.
    pub lower_bound: Option<i128>,
    /// Why the search ended.
    pub stop: Stop,
}

impl Task<'_> {
    /// The cheapest layouts of the whole step.
    pub fn solve(&self) -> Result<Solved, LayoutError> {
        let assembled = assemble(self, false, &mut |signatures| signatures)?;
        let (choice, Answer { cost, lower_bound, stop, .. }) = chosen(&assembled.problem)?;
        Ok(Solved { layouts: assembled.layouts(&choice), cost: cost.expect("a choice has a cost"), lower_bound, stop })
    }

    /// The problem that [`solve`](Self::solve) solves, or, for measurements, the one in which every iteration of a repeat
    /// has nodes of its own.
    pub fn problem(&self, unroll: bool) -> Result<Problem, LayoutError> {
        Ok(assemble(self, unroll, &mut |signatures| signatures)?.problem)
    }

    /// Nanoseconds of a step that layouts cost. `None` if they are not among those that may be chosen.
    pub fn cost(&self, layouts: &Layouts) -> Option<i128> {
        let assembled = assemble(self, false, &mut |signatures| signatures).ok()?;
        assembled.problem.total(&assembled.choice(layouts)?)
    }

    /// Layouts drawn at random (by `draw`, which gives a number below its argument) among those that go together:
    /// every operator any of `most` of its signatures. For tests of what any plan must satisfy.
    pub fn sample(&self, most: usize, draw: &mut dyn FnMut(usize) -> usize) -> Result<Layouts, LayoutError> {
        let mut thin = |mut signatures: Vec<Signature>| {
            while signatures.len() > most {
                signatures.swap_remove(draw(signatures.len()));
            }
            signatures
        };
        let assembled = assemble(self, false, &mut thin)?;
        let problem = &assembled.problem;
        let mut random = ProblemBuilder::new(problem.name.clone(), Vec::new());
        for node in 0..problem.nodes() {
            let costs: Vec<i64> = problem.cost(node).iter().map(|_| draw(1_000_000) as i64).collect();
            random.add_node(&costs, &[], &[]).expect("a node like the problem's");
        }
        for edge in problem.edges() {
            let table: Vec<i64> = problem.table(edge.table).iter().map(|cost| if *cost < FORBIDDEN { 0 } else { FORBIDDEN }).collect();
            random.add_edge(edge.a, edge.b, &table).expect("an edge like the problem's");
        }
        let (choice, _) = chosen(&random.finish().expect("nothing holds memory"))?;
        Ok(assembled.layouts(&choice))
    }
}

/// The best choice of the work limit, and what is known of it.
fn chosen(problem: &Problem) -> Result<(Vec<u32>, Answer), LayoutError> {
    let options = Options { work: Some(WORK), ..Options::default() };
    let mut answer = solve(problem, options, &AtomicBool::new(false), &mut |_, _, _| ());
    match answer.choice.take() {
        Some(choice) => Ok((choice, answer)),
        None if answer.stop == Stop::Infeasible => Err(LayoutError::NoneTogether),
        None => Err(LayoutError::NoneFound),
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
