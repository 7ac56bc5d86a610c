//! The expected time of a compiled step, from what its ranks do and the curves of their machine.
//!
//! Ranks go through their acts as the runtime does: a collective begins when all its members have come, a receive when the message
//! was sent. An act takes what the curves say for the number of ranks that compute at that moment, so its speed changes when others
//! begin to wait or to work. *Not seen*: other element types than f32, full channels, in which order the system runs ranks that
//! outnumber the cores, what an earlier kernel left in the caches.

mod cost;

use std::collections::BTreeMap;

use partita_ir::work::Act;

use crate::cluster::Cluster;
use cost::Costs;

/// Steps that are gone through: the last finds the pipeline as it is in the middle of a run.
const STEPS: usize = 3;
/// The part of an act that is nothing.
const DONE: f64 = 1e-9;

/// Seconds of a step of the slowest rank; the parts sum to the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// The step.
    pub step: f64,
    /// Of these, kernels and copies.
    pub compute: f64,
    /// Of these, collectives, sends and receives at work.
    pub communication: f64,
    /// Of these, waiting for other ranks.
    pub waiting: f64,
}

/// Prices a step in which rank r does `acts[r]`; none where the cluster has no curves, or ranks that are not threads of one machine.
pub fn step(acts: &[Vec<Act>], cluster: &Cluster) -> Option<Price> {
    let alone = cluster.groups.is_empty() && cluster.levels.iter().filter(|level| level.count > 1).count() <= 1;
    (alone && !cluster.device.curves.is_empty()).then(|| {
        let mut run = Run::new(acts, Costs::new(cluster, acts.len() as u64));
        while run.advance() {}
        let longest = |a: &&Price, b: &&Price| a.step.total_cmp(&b.step);
        run.last.iter().max_by(longest).copied().unwrap_or_default()
    })
}

/// Seconds of an act of one of `ranks` ranks while `busy` of them work; none where the cluster has no curves.
pub fn alone(act: &Act, cluster: &Cluster, ranks: u64, busy: u64) -> Option<f64> {
    (!cluster.device.curves.is_empty()).then(|| Costs::new(cluster, ranks).seconds(act, busy))
}

/// Something under way: one rank's act, or a collective of several.
struct Running<'a> {
    ranks: Vec<usize>,
    act: &'a Act,
    /// The part that is left, from 1.
    left: f64,
}

struct Run<'a> {
    acts: &'a [Vec<Act>],
    costs: Costs<'a>,
    /// The next act of each rank, counted over all steps.
    at: Vec<usize>,
    running: Vec<Running<'a>>,
    /// Messages sent and not received, by sender, receiver and channel.
    messages: BTreeMap<(usize, usize, u64), u64>,
    /// What the ranks spent in their present step, and in the one before.
    now: Vec<Price>,
    last: Vec<Price>,
}

impl<'a> Run<'a> {
    fn new(acts: &'a [Vec<Act>], costs: Costs<'a>) -> Self {
        let n = acts.len();
        let none = vec![Price::default(); n];
        let mut run = Run { acts, costs, at: vec![0; n], running: Vec::new(), messages: BTreeMap::new(), now: none.clone(), last: none };
        (0..n).for_each(|rank| run.begin(rank));
        run
    }

    fn act(&self, rank: usize) -> Option<&'a Act> {
        let acts = &self.acts[rank];
        if acts.is_empty() || self.at[rank] >= STEPS * acts.len() { None } else { acts.get(self.at[rank] % acts.len()) }
    }

    fn is_running(&self, rank: usize) -> bool {
        self.running.iter().any(|running| running.ranks.contains(&rank))
    }

    /// Begins the next act of a rank if nothing is missing.
    fn begin(&mut self, rank: usize) {
        let Some(act) = self.act(rank).filter(|_| !self.is_running(rank)) else { return };
        let ranks = match act {
            Act::Collective { members, .. } => {
                let here = |member: &usize| matches!(self.act(*member), Some(Act::Collective { members: theirs, .. }) if theirs == members);
                if !members.iter().all(here) {
                    return;
                }
                members.clone()
            }
            Act::Receive { from, channel, .. } => {
                match self.messages.get_mut(&(*from, rank, *channel)) {
                    Some(sent) if *sent > 0 => *sent -= 1,
                    _ => return,
                }
                vec![rank]
            }
            _ => vec![rank],
        };
        self.running.push(Running { ranks, act, left: 1.0 });
    }

    /// Goes on to the next moment at which something ends. False when nothing is left.
    fn advance(&mut self) -> bool {
        let cores = self.costs.cores as usize;
        let busy: usize = self.running.iter().map(|running| if running.ranks.len() > 1 { running.ranks.len().min(cores) } else { 1 }).sum();
        let takes: Vec<f64> = self.running.iter().map(|running| self.costs.seconds(running.act, busy as u64)).collect();
        let next = self.running.iter().zip(&takes).map(|(running, takes)| running.left * takes);
        let Some(passed) = next.min_by(f64::total_cmp) else { return false };
        for rank in 0..self.acts.len() {
            if self.act(rank).is_none() {
                continue;
            }
            let doing = self.running.iter().find(|running| running.ranks.contains(&rank));
            let price = &mut self.now[rank];
            price.step += passed;
            *match doing.map(|running| running.act) {
                None => &mut price.waiting,
                Some(Act::Kernel(_) | Act::Move(_)) => &mut price.compute,
                Some(_) => &mut price.communication,
            } += passed;
        }
        let mut ended = Vec::new();
        let mut left = Vec::new();
        for (mut running, takes) in std::mem::take(&mut self.running).into_iter().zip(takes) {
            running.left -= if takes > 0.0 { passed / takes } else { 1.0 };
            if running.left <= DONE { ended.push(running) } else { left.push(running) }
        }
        self.running = left;
        for running in ended {
            if let Act::Send { to, channel, .. } = running.act {
                *self.messages.entry((running.ranks[0], *to, *channel)).or_default() += 1;
            }
            for rank in running.ranks {
                self.at[rank] += 1;
                if self.at[rank].is_multiple_of(self.acts[rank].len()) {
                    self.last[rank] = std::mem::take(&mut self.now[rank]);
                }
            }
        }
        (0..self.acts.len()).for_each(|rank| self.begin(rank));
        true
    }
}

#[cfg(test)]
mod tests;
