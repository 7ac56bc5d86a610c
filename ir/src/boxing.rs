//! Boxing: changing a layout into another one. Every pair of layouts of a tensor on a mesh of ranks has a boxing.
//!
//! A boxing is a short list of steps. Each is a collective along some mesh axes, or local. What a step moves is
//! counted from the layouts alone, and the runtime counts the same bytes:
//!
//! | step | from → to | bytes received per rank, of a shard of n bytes before and m after, p ranks |
//! |---|---|---|
//! | all-reduce | P → B | 2 n (p−1)/p |
//! | reduce-scatter | P → S | m (p−1) |
//! | all-gather | S → B | m (p−1)/p |
//! | all-to-all | S(i) → S(j) | m (p−1)/p |
//! | slice, keep, pad | B → S, B → P, S → P | 0 |
//! | exchange | any other pair | its slice intersections, counted |
//!
//! S through a window is a layout to read in: what it holds overlaps and may not be all, so nothing is boxed from it. Into
//! it a halo is an exchange, each rank fetching what its window needs and it lacks.
//!
//! (Sources: Yuan et al., OneFlow, 2021, table of SBP transfers; Thakur et al., 2005, ring algorithms.)

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::layout::{Intervals, Layout, Mesh, Share, count, intersect};
use crate::rule::Reduce;

/// What a step of a boxing is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// P → B.
    AllReduce,
    /// P → S.
    ReduceScatter,
    /// S → B.
    AllGather,
    /// S → S of another dimension.
    AllToAll,
    /// B → S: local.
    Slice,
    /// B → P: local; the first rank keeps the value, the others hold the identity.
    Keep,
    /// S → P: local; padded with the identity.
    Pad,
    /// Any other pair: every rank fetches the slice intersections that it lacks.
    Exchange,
}

impl StepKind {
    /// The name that people know it by.
    pub fn word(self) -> &'static str {
        match self {
            StepKind::AllReduce => "all-reduce",
            StepKind::ReduceScatter => "reduce-scatter",
            StepKind::AllGather => "all-gather",
            StepKind::AllToAll => "all-to-all",
            StepKind::Slice => "slice",
            StepKind::Keep => "keep",
            StepKind::Pad => "pad",
            StepKind::Exchange => "exchange",
        }
    }

    /// Whether no rank needs another.
    pub fn is_local(self) -> bool {
        matches!(self, StepKind::Slice | StepKind::Keep | StepKind::Pad)
    }
}

/// One step of a boxing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    /// What it is.
    pub kind: StepKind,
    /// The mesh axes that it runs along, ascending.
    pub axes: Vec<usize>,
    /// The layout before.
    pub from: Layout,
    /// The layout after.
    pub to: Layout,
}

/// A tensor as boxing sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape<'a> {
    /// Elements of each dimension.
    pub dims: &'a [u64],
    /// The mesh.
    pub mesh: &'a Mesh,
}

impl Shape<'_> {
    /// Elements that the busiest rank receives in this step, under the algorithm of the module's table.
    pub fn received(&self, step: &Step) -> f64 {
        let group: u64 = step.axes.iter().map(|axis| self.mesh.axes[*axis].size).product();
        let p = group as f64;
        let before = || step.from.largest_shard(self.dims, self.mesh) as f64;
        let after = || step.to.largest_shard(self.dims, self.mesh) as f64;
        match step.kind {
            StepKind::AllReduce => 2.0 * before() * (p - 1.0) / p,
            StepKind::ReduceScatter => after() * (p - 1.0),
            StepKind::AllGather | StepKind::AllToAll => after() * (p - 1.0) / p,
            StepKind::Slice | StepKind::Keep | StepKind::Pad => 0.0,
            StepKind::Exchange => {
                let ranks = 0..self.mesh.ranks();
                ranks.map(|rank| self.pulled(step, rank, 0)).max().unwrap_or(0) as f64
            }
        }
    }

    /// Elements that `rank` pulls from other ranks in a step done by slice intersections.
    pub fn pulled(&self, step: &Step, rank: u64, moment: u64) -> u64 {
        let pulls = self.pulls(step, rank, moment);
        pulls.iter().filter(|pull| pull.rank != rank).map(|pull| pull.region.iter().map(|held| count(held)).product::<u64>()).sum()
    }

    /// The ranks, in order, from which `rank` fetches in this step, and which part of the tensor from each. Where the
    /// layout before is P the parts of one region are to be reduced in this order. A region may be empty.
    pub fn pulls(&self, step: &Step, rank: u64, moment: u64) -> Vec<Pull> {
        let here = self.mesh.coordinates(rank, moment);
        let target = step.to.shard(self.dims, self.mesh, &here);
        let mut sources = vec![here.clone()];
        for &axis in &step.axes {
            let only_one = match (step.from.0[axis], step.to.0[axis]) {
                // where the value is not P yet and becomes so, one rank contributes: the first, or each its own slice
                (Share::Broadcast, Share::Partial(_)) if here[axis] != 0 => return Vec::new(),
                (Share::Broadcast, _) | (Share::Split(_), Share::Partial(_)) => true,
                (Share::Partial(a), Share::Partial(b)) => a == b,
                _ => false,
            };
            if !only_one {
                sources = sources
                    .into_iter()
                    .flat_map(|at| {
                        (0..self.mesh.axes[axis].size).map(move |coordinate| {
                            let mut at = at.clone();
                            at[axis] = coordinate;
                            at
                        })
                    })
                    .collect();
            }
        }
        let mut pulls: Vec<Pull> = sources
            .into_iter()
            .map(|at| {
                let held = step.from.shard(self.dims, self.mesh, &at);
                let region = held.iter().zip(&target).map(|(a, b)| intersect(a, b)).collect();
                Pull { rank: self.mesh.rank(&at), region }
            })
            .collect();
        pulls.sort_by_key(|pull| pull.rank);
        pulls
    }

    /// The cheapest boxing by steps, where a step costs `cost(step)`; ties go to the first found. Empty if nothing has
    /// to be done, `None` if what one moment holds would have to come from another, or from what is seen through a window.
    pub fn boxing(&self, from: &Layout, to: &Layout, cost: &dyn Fn(&Step) -> f64) -> Option<Vec<Step>> {
        if from.same_shards(to, self.dims, self.mesh) {
            return Some(Vec::new());
        }
        if from.is_windowed() {
            return None;
        }
        // Dijkstra over layouts in which every axis is as before, as after, or B
        let mut best: BTreeMap<Layout, (f64, Vec<Step>)> = BTreeMap::from([(from.clone(), (0.0, Vec::new()))]);
        let mut done: BTreeSet<Layout> = BTreeSet::new();
        loop {
            let next = best
                .iter()
                .filter(|(layout, _)| !done.contains(layout))
                .min_by(|a, b| a.1.0.total_cmp(&b.1.0))
                .map(|(layout, (spent, steps))| (layout.clone(), *spent, steps.clone()));
            let (at, spent, steps) = next?;
            if at.same_shards(to, self.dims, self.mesh) {
                return Some(steps);
            }
            for step in self.next_steps(&at, from, to) {
                let total = spent + cost(&step);
                if best.get(&step.to).is_none_or(|(known, _)| total < *known) {
                    let mut path = steps.clone();
                    let reached = step.to.clone();
                    path.push(step);
                    best.insert(reached, (total, path));
                }
            }
            done.insert(at);
        }
    }

    fn next_steps(&self, at: &Layout, from: &Layout, to: &Layout) -> Vec<Step> {
        let mut steps = Vec::new();
        for axis in 0..at.0.len() {
            for share in [to.0[axis], Share::Broadcast] {
                if share == at.0[axis] || self.mesh.axes[axis].size == 1 && share != to.0[axis] {
                    continue;
                }
                let mut next = at.clone();
                next.0[axis] = share;
                if let Some(kind) = self.single(at, &next, axis) {
                    steps.push(Step { kind, axes: vec![axis], from: at.clone(), to: next });
                }
            }
        }
        // a pending reduction over several axes at once is one all-reduce
        let partial = at.partial_axes();
        for mask in 1u32..1 << partial.len() {
            let axes: Vec<usize> = partial.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, axis)| *axis).collect();
            if axes.len() > 1 {
                let mut next = at.clone();
                axes.iter().for_each(|axis| next.0[*axis] = Share::Broadcast);
                steps.push(Step { kind: StepKind::AllReduce, axes, from: at.clone(), to: next });
            }
        }
        // what remains, in one exchange
        if at == from {
            let axes = self.moving_axes(at, to);
            let timeless = axes.iter().all(|axis| !self.mesh.axes[*axis].time);
            let alone = axes.len() == 1 && !steps.is_empty();
            if timeless && !alone && self.one_op(at, to) && self.whole_rows(at, to) {
                steps.push(Step { kind: self.joint(at, to, &axes), axes, from: at.clone(), to: to.clone() });
            }
        }
        steps
    }

    /// The mesh axes along which ranks hold different things before and after: those whose share changes, and those
    /// whose split nests inside one that changes.
    fn moving_axes(&self, from: &Layout, to: &Layout) -> Vec<usize> {
        let mut axes: BTreeSet<usize> = (0..from.0.len()).filter(|axis| from.0[*axis] != to.0[*axis]).collect();
        for dim in 0..self.dims.len() {
            let (before, after) = (from.splits(dim), to.splits(dim));
            let same = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
            axes.extend(before[same..].iter().chain(&after[same..]).map(|(axis, _)| *axis));
        }
        axes.into_iter().collect()
    }

    /// The kind of a step that changes one axis, if the layouts on both sides are well formed and it needs no other
    /// axis: a split that is added, changed or taken away is the innermost of its dimension.
    fn single(&self, from: &Layout, to: &Layout, axis: usize) -> Option<StepKind> {
        let rank = self.dims.len();
        let formed = from.is_canonical(rank) && to.is_canonical(rank) && self.one_op(from, to) && self.whole_rows(from, to);
        if self.mesh.axes[axis].time || !formed || from.0[axis].is_windowed() || self.moving_axes(from, to) != [axis] {
            return None;
        }
        Some(match (from.0[axis], to.0[axis]) {
            (Share::Partial(_), Share::Broadcast) => StepKind::AllReduce,
            (Share::Partial(_), Share::Split(_)) => StepKind::ReduceScatter,
            (Share::Partial(_), Share::Partial(_)) => return None,
            (Share::Split(_), Share::Broadcast) => StepKind::AllGather,
            (Share::Split(a), Share::Split(b)) if a.dim == b.dim || b.window.is_some() => StepKind::Exchange,
            (Share::Split(_), Share::Split(_)) => StepKind::AllToAll,
            (Share::Broadcast, Share::Split(_)) => StepKind::Slice,
            (Share::Broadcast, Share::Partial(_)) => StepKind::Keep,
            (Share::Split(_), Share::Partial(_)) => StepKind::Pad,
            (Share::Broadcast, Share::Broadcast) => return None,
        })
    }

    /// The kind of a step that changes several axes at once: what it is on each, if it is the same on all.
    fn joint(&self, from: &Layout, to: &Layout, axes: &[usize]) -> StepKind {
        let all = |wanted: fn(Share, Share) -> bool| axes.iter().all(|axis| wanted(from.0[*axis], to.0[*axis]));
        if all(|a, b| matches!((a, b), (Share::Partial(_), Share::Split(_)))) {
            StepKind::ReduceScatter
        } else if all(|a, b| matches!((a, b), (Share::Split(_), Share::Broadcast))) {
            StepKind::AllGather
        } else {
            StepKind::Exchange
        }
    }

    /// Whether, if a merge of tuples is pending before or after, their components are together both times.
    fn whole_rows(&self, from: &Layout, to: &Layout) -> bool {
        let both = || [from, to].into_iter();
        let tuple = both().flat_map(|layout| &layout.0).any(|share| matches!(share, Share::Partial(op) if op.is_tuple()));
        !tuple || self.dims.is_empty() || both().all(|layout| layout.splits(self.dims.len() - 1).is_empty())
    }

    /// Whether no layout mixes pending reductions, and none is turned into another.
    fn one_op(&self, from: &Layout, to: &Layout) -> bool {
        let ops = |layout: &Layout| -> Vec<Reduce> {
            layout.0.iter().filter_map(|share| if let Share::Partial(op) = share { Some(*op) } else { None }).collect()
        };
        let (before, after) = (ops(from), ops(to));
        let mut all = before.iter().chain(&after);
        let first = all.next().copied();
        all.all(|op| Some(*op) == first)
    }
}

/// What one rank fetches from one other (or from itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// From which rank.
    pub rank: u64,
    /// Which part of the tensor, by dimension.
    pub region: Vec<Intervals>,
}
