//! Pipeline stages: which iterations of which loop, and so which operators and leaves, live where.

use std::collections::BTreeMap;

use partita_ir::graph::{Def, Graph, Kind, Leaf, PhaseKind};
use partita_ir::id::{Id, LoopId, OpId, ValueId};
use serde::{Deserialize, Serialize};

/// A cut of the model into stages: for each loop the stage of each iteration, never falling.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StageCut {
    /// Number of stages.
    pub stages: u64,
    /// `of_iteration[loop][iteration]`.
    pub of_iteration: Vec<Vec<u64>>,
}

/// Why a model cannot be cut into so many stages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{stages} stages need at least as many repeated blocks, and the model has {blocks}: use pp of at most {blocks}, or more layers")]
pub struct CutError {
    /// Stages asked for.
    pub stages: u64,
    /// Iterations of all loops.
    pub blocks: u64,
}

impl StageCut {
    /// The cut whose slowest stage is fastest, given the seconds of one iteration of each loop, of what comes before
    /// the first loop and of what comes after the last. Ties go to the cut with the later stages fuller.
    pub fn balanced(graph: &Graph, stages: u64, iteration: &[f64], before: f64, after: f64) -> Result<Self, CutError> {
        let units: Vec<(usize, f64)> =
            graph.loops.iter().enumerate().flat_map(|(id, repeated)| (0..repeated.count).map(move |_| (id, iteration[id]))).collect();
        let n = units.len();
        let blocks = n as u64;
        if stages > 1 && blocks < stages {
            return Err(CutError { stages, blocks });
        }
        let mut sums = vec![0.0];
        for (_, seconds) in &units {
            sums.push(sums[sums.len() - 1] + seconds);
        }
        let weight =
            |from: usize, to: usize| sums[to] - sums[from] + if from == 0 { before } else { 0.0 } + if to == n { after } else { 0.0 };
        let p = stages as usize;
        // best[s][i]: least possible slowest of s stages that hold the first i units
        let mut best = vec![vec![f64::INFINITY; n + 1]; p + 1];
        let mut cut = vec![vec![0usize; n + 1]; p + 1];
        best[0][0] = 0.0;
        for s in 1..=p {
            for i in s.min(n)..=n {
                for j in (s - 1).min(i)..=i {
                    if (j < i || n == 0) && best[s - 1][j] < f64::INFINITY {
                        let slowest = best[s - 1][j].max(weight(j, i));
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
        let mut of_iteration = vec![Vec::new(); graph.loops.len()];
        for ((id, _), stage) in units.iter().zip(of_unit) {
            of_iteration[*id].push(stage);
        }
        Ok(Self { stages, of_iteration })
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
        let first_stage = |id: LoopId| self.of(id, 0);
        let last_stage = |id: LoopId| self.of(id, graph.loops[id.index()].count - 1);
        for phase in &graph.phases {
            let loops: Vec<(usize, LoopId)> = phase
                .ops
                .iter()
                .enumerate()
                .filter_map(|(at, op)| match &graph.op(*op).kind {
                    Kind::Repeat(repeat) => Some((at, repeat.over)),
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
                                let next = loops.iter().find(|(position, _)| *position > at);
                                Some(next.map_or(self.last(), |(_, id)| first_stage(*id)))
                            }
                            PhaseKind::Backward => {
                                let before = loops.iter().rev().find(|(position, _)| *position < at);
                                Some(before.map_or(self.last(), |(_, id)| first_stage(*id)))
                            }
                            PhaseKind::Count | PhaseKind::Seed => Some(self.last()),
                            PhaseKind::Update => self.update_home(graph, op, &homes, &last_stage),
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

    /// Parameters live where they are read first; what goes with a parameter lives with it.
    fn leaf_homes(&self, graph: &Graph, homes: &mut Homes) {
        for (value, leaf) in graph.leaves(|_| true).filter_map(|value| graph.leaf(value).map(|leaf| (value, leaf.clone()))) {
            if let Some(within) = graph.value(value).within {
                for iteration in 0..graph.iterations(Some(within)) {
                    homes.leaves.insert((value, iteration), self.of(within, iteration));
                }
            } else if matches!(leaf, Leaf::Param(_)) {
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

    fn update_home(&self, graph: &Graph, op: OpId, homes: &Homes, last_stage: &dyn Fn(LoopId) -> u64) -> Option<u64> {
        let operands = &graph.op(op).operands;
        let at_rest = operands.iter().filter(|value| matches!(graph.leaf(**value), Some(Leaf::Param(_) | Leaf::State { .. })));
        if let Some(home) = at_rest.filter_map(|value| homes.leaves.get(&(*value, 0)).copied()).min() {
            return Some(home);
        }
        operands.iter().filter_map(|value| homes.of_value(graph, *value, 0, last_stage)).min()
    }

    /// The home of any value's instance.
    pub fn home(&self, graph: &Graph, homes: &Homes, value: ValueId, iteration: u64) -> Option<u64> {
        homes.of_value(graph, value, iteration, &|id| self.of(id, graph.loops[id.index()].count - 1))
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

impl Homes {
    fn of_value(&self, graph: &Graph, value: ValueId, iteration: u64, last_stage: &dyn Fn(LoopId) -> u64) -> Option<u64> {
        match &graph.value(value).def {
            Def::Leaf(Leaf::Accumulated(from)) => self.of_value(graph, *from, iteration, last_stage),
            Def::Leaf(_) => self.leaves.get(&(value, iteration)).copied(),
            Def::Result(op, n) => match &graph.op(*op).kind {
                Kind::Map(_) => self.ops.get(&(*op, iteration)).copied().flatten(),
                Kind::Repeat(repeat) => {
                    // the last iteration's value; a reversed repeat ends with iteration 0
                    let end = if repeat.reversed { 0 } else { graph.loops[repeat.over.index()].count - 1 };
                    self.of_value(graph, repeat.carried[*n].next, end, last_stage)
                        .or_else(|| Some(if repeat.reversed { 0 } else { last_stage(repeat.over) }))
                }
            },
            Def::Carried(..) => None,
        }
    }
}
