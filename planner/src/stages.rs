//! Pipeline stages: which iterations of which loop, and so which operators and leaves, live where.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::graph::{Def, Graph, Kind, Leaf, Op, PhaseKind, Repeat};
use partita_ir::id::{Id, LoopId, OpId, ValueId};
use serde::{Deserialize, Serialize};

/// A cut of the model into stages: for each loop the stage of each iteration, never falling in the order in which the
/// forward pass comes to them ([`path`]).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StageCut {
    /// Number of stages.
    pub stages: u64,
    /// `of_iteration[loop][iteration]`.
    pub of_iteration: Vec<Vec<u64>>,
}

/// What the parts of a model take on the devices of one stage, in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct PartSeconds {
    /// One iteration of each loop.
    pub iteration: Vec<f64>,
    /// What comes before the first loop.
    pub before: f64,
    /// What comes after the last.
    pub after: f64,
}

/// Why a model cannot be cut into so many stages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// There is too little to cut.
    #[error("{stages} stages need at least as many repeated blocks, and the model has {blocks}")]
    TooFew {
        /// Stages asked for.
        stages: u64,
        /// Iterations of all loops.
        blocks: u64,
    },
    /// The forward pass comes to the same iterations again, so that an earlier stage would wait for a later one.
    #[error("{stages} stages cannot be: the forward pass goes through `{name}` twice, and a pipeline does not turn back")]
    Returns {
        /// Stages asked for.
        stages: u64,
        /// The loop.
        name: String,
    },
}

/// The loops whose iterations live on one stage: those of scans.
fn uncut(graph: &Graph) -> BTreeSet<LoopId> {
    let over = |op: &Op| if let Kind::Repeat(repeat) = &op.kind { repeat.is_scan().then_some(repeat.over) } else { None };
    graph.ops.iter().filter_map(over).collect()
}

/// The iterations that the forward pass goes through, in its order: what stages are cut from. A scan is there once. `Err`
/// names a loop that it comes to twice.
pub fn path(graph: &Graph) -> Result<Vec<(LoopId, u64)>, LoopId> {
    let mut path = Vec::new();
    let mut seen = BTreeSet::new();
    let uncut = uncut(graph);
    for op in graph.phase(PhaseKind::Forward) {
        if let Kind::Repeat(repeat) = &graph.op(*op).kind {
            if !seen.insert(repeat.over) {
                return Err(repeat.over);
            }
            let count = if uncut.contains(&repeat.over) { 1 } else { graph.loops[repeat.over.index()].count };
            path.extend((0..count).map(|passed| (repeat.over, repeat.iteration(passed, count))));
        }
    }
    Ok(path)
}

impl StageCut {
    /// The cut whose slowest stage is fastest, given for each stage what the parts of the model take on it. Ties go to the cut
    /// with the later stages fuller.
    pub fn balanced(graph: &Graph, on: &[PartSeconds]) -> Result<Self, CutError> {
        Self::balanced_with(graph, on, false)
    }

    /// The same, where the first and the last stage may also hold only what comes before and after the blocks.
    pub fn balanced_with(graph: &Graph, on: &[PartSeconds], bare_ends: bool) -> Result<Self, CutError> {
        let stages = on.len() as u64;
        let units = match path(graph) {
            Ok(units) => units,
            Err(_) if stages == 1 => Vec::new(),
            Err(id) => return Err(CutError::Returns { stages, name: graph.loops[id.index()].name.clone() }),
        };
        let n = units.len();
        let blocks = n as u64;
        if stages > 1 && blocks + if bare_ends { 2 } else { 0 } < stages {
            return Err(CutError::TooFew { stages, blocks });
        }
        let uncut = uncut(graph);
        let sums = |on: &PartSeconds| {
            let mut sums = vec![0.0];
            for (id, _) in &units {
                let iterations = if uncut.contains(id) { graph.loops[id.index()].count } else { 1 };
                sums.push(sums[sums.len() - 1] + on.iteration[id.index()] * iterations as f64);
            }
            sums
        };
        let sums: Vec<Vec<f64>> = on.iter().map(sums).collect();
        let weight = |stage: usize, from: usize, to: usize| {
            let (sums, on) = (&sums[stage], &on[stage]);
            sums[to] - sums[from] + if from == 0 { on.before } else { 0.0 } + if to == n { on.after } else { 0.0 }
        };
        let p = on.len();
        // best[s][i]: least possible slowest of s stages that hold the first i units
        let mut best = vec![vec![f64::INFINITY; n + 1]; p + 1];
        let mut cut = vec![vec![0usize; n + 1]; p + 1];
        best[0][0] = 0.0;
        for s in 1..=p {
            for i in (if bare_ends { s - 1 } else { s }).min(n)..=n {
                for j in (if bare_ends { s.saturating_sub(2) } else { s - 1 }).min(i)..=i {
                    let bare = bare_ends && p > 2 && (s == 1 || s == p);
                    if (j < i || n == 0 || bare) && best[s - 1][j] < f64::INFINITY {
                        let slowest = best[s - 1][j].max(weight(s - 1, j, i));
                        if slowest < best[s][i] - 1e-12 {
                            best[s][i] = slowest;
                            cut[s][i] = j;
                        }
                    }
                }
            }
        }
        let mut of_unit = vec![0u64; n];
        let mut end = n;
        for s in (1..=p).rev() {
            let start = cut[s][end];
            of_unit[start..end].fill(s as u64 - 1);
            end = start;
        }
        Ok(Self::of_units(graph, stages, &units, &of_unit))
    }

    /// The cut in which the iterations of a [`path`] live on these stages.
    pub fn of_units(graph: &Graph, stages: u64, units: &[(LoopId, u64)], of_unit: &[u64]) -> Self {
        let mut of_iteration: Vec<Vec<u64>> =
            graph.loops.iter().map(|repeated| vec![0; usize::try_from(repeated.count).expect("iterations fit")]).collect();
        let uncut = uncut(graph);
        for ((id, iteration), stage) in units.iter().zip(of_unit) {
            if uncut.contains(id) {
                of_iteration[id.index()].fill(*stage);
            } else {
                of_iteration[id.index()][usize::try_from(*iteration).expect("iterations fit")] = *stage;
            }
        }
        Self { stages, of_iteration }
    }

    /// For each stage how many iterations of each loop it has.
    pub fn chunks(&self, graph: &Graph) -> Vec<BTreeMap<String, u64>> {
        let held = |stage: u64| {
            let loops = graph.loops.iter().zip(&self.of_iteration);
            loops.map(|(repeated, of)| (repeated.name.clone(), of.iter().filter(|at| **at == stage).count() as u64)).collect()
        };
        (0..self.stages).map(held).collect()
    }

    /// The stage of an iteration of a loop.
    pub fn of(&self, within: LoopId, iteration: u64) -> u64 {
        self.of_iteration[within.index()][usize::try_from(iteration).expect("iterations fit")]
    }

    fn last(&self) -> u64 {
        self.stages - 1
    }

    /// The home stage of every instance (operator, iteration). `None`: wherever it is needed, since it reads nothing
    /// that lives on one stage.
    pub fn homes(&self, graph: &Graph) -> Homes {
        let mut homes = Homes { ops: BTreeMap::new(), leaves: BTreeMap::new() };
        let stage_of = |repeat: &Repeat, last: bool| {
            let count = graph.loops[repeat.over.index()].count;
            self.of(repeat.over, repeat.iteration(if last { count - 1 } else { 0 }, count))
        };
        for phase in &graph.phases {
            let repeats: Vec<(usize, &Repeat)> = phase
                .ops
                .iter()
                .enumerate()
                .filter_map(|(at, op)| match &graph.op(*op).kind {
                    Kind::Repeat(repeat) => Some((at, repeat)),
                    Kind::Map(_) => None,
                })
                .collect();
            for (at, &op) in phase.ops.iter().enumerate() {
                match &graph.op(op).kind {
                    Kind::Repeat(repeat) => {
                        let count = graph.loops[repeat.over.index()].count;
                        for iteration in 0..count {
                            for inner in &repeat.body {
                                homes.ops.insert((*inner, iteration), Some(self.of(repeat.over, iteration)));
                            }
                        }
                    }
                    Kind::Map(_) => {
                        let home = match phase.kind {
                            // before a loop: with its first iteration; after the last one: with the last stage
                            PhaseKind::Forward => {
                                let next = repeats.iter().find(|(position, _)| *position > at);
                                Some(next.map_or(self.last(), |(_, repeat)| stage_of(repeat, false)))
                            }
                            PhaseKind::Backward => {
                                let before = repeats.iter().rev().find(|(position, _)| *position < at);
                                Some(before.map_or(self.last(), |(_, repeat)| stage_of(repeat, true)))
                            }
                            PhaseKind::Count | PhaseKind::Seed => Some(self.last()),
                            PhaseKind::Update => self.update_home(graph, op, &homes),
                        };
                        homes.ops.insert((op, 0), home);
                    }
                }
            }
            if phase.kind == PhaseKind::Forward {
                self.leaf_homes(graph, &mut homes);
            }
        }
        homes
    }

    /// Parameters and a model's own states live where they are read first; what goes with a parameter lives with it.
    fn leaf_homes(&self, graph: &Graph, homes: &mut Homes) {
        for (value, leaf) in graph.leaves(|_| true).filter_map(|value| graph.leaf(value).map(|leaf| (value, leaf.clone()))) {
            if let Some(within) = graph.value(value).within {
                for iteration in 0..graph.iterations(Some(within)) {
                    homes.leaves.insert((value, iteration), self.of(within, iteration));
                }
            } else if matches!(leaf, Leaf::Progress(_)) {
                // where the loss is
                homes.leaves.insert((value, 0), self.last());
            } else if matches!(leaf, Leaf::Param(_) | Leaf::State { of: None, .. }) {
                let readers = homes.ops.iter().filter(|((op, _), _)| graph.op(*op).operands.contains(&value));
                let first = readers.filter_map(|(_, home)| *home).min().unwrap_or(0);
                homes.leaves.insert((value, 0), first);
            }
        }
        for value in graph.leaves(|leaf| matches!(leaf, Leaf::State { .. })).collect::<Vec<_>>() {
            if let (Some(Leaf::State { of: Some(of), .. }), None) = (graph.leaf(value), graph.value(value).within) {
                let home = homes.leaves[&(*of, 0)];
                homes.leaves.insert((value, 0), home);
            }
        }
    }

    fn update_home(&self, graph: &Graph, op: OpId, homes: &Homes) -> Option<u64> {
        let operands = &graph.op(op).operands;
        let at_rest =
            operands.iter().filter(|value| matches!(graph.leaf(**value), Some(Leaf::Param(_) | Leaf::State { .. } | Leaf::Progress(_))));
        if let Some(home) = at_rest.filter_map(|value| homes.leaves.get(&(*value, 0)).copied()).min() {
            return Some(home);
        }
        operands.iter().filter_map(|value| self.home(graph, homes, *value, 0)).min()
    }

    /// The home of any value's instance.
    pub fn home(&self, graph: &Graph, homes: &Homes, value: ValueId, iteration: u64) -> Option<u64> {
        match &graph.value(value).def {
            Def::Leaf(Leaf::Accumulated(from)) => self.home(graph, homes, *from, iteration),
            Def::Leaf(_) => homes.leaves.get(&(value, iteration)).copied(),
            Def::Result(op, n) => match &graph.op(*op).kind {
                Kind::Map(_) => homes.ops.get(&(*op, iteration)).copied().flatten(),
                Kind::Repeat(repeat) => {
                    let count = graph.loops[repeat.over.index()].count;
                    let end = repeat.iteration(count - 1, count);
                    let next = repeat.carried.get(*n).and_then(|carried| self.home(graph, homes, carried.next, end));
                    next.or_else(|| Some(self.of(repeat.over, end)))
                }
            },
            Def::Carried(..) | Def::Taken(..) => None,
        }
    }
}

/// Where instances live.
#[derive(Clone, Debug, Default)]
pub struct Homes {
    /// Of operators.
    pub ops: BTreeMap<(OpId, u64), Option<u64>>,
    /// Of leaves that live on one stage.
    pub leaves: BTreeMap<(ValueId, u64), u64>,
}
