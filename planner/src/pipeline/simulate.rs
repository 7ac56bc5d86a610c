//! When each work of given orders runs, and how much it keeps stored.
//!
//! A rank does one work at a time, in its order, each as soon as what it needs is there. Bytes are stored from the start
//! of a forward pass; what only the input gradient reads goes when that ends, the rest when the weight gradient ends.

use std::collections::VecDeque;
use std::fmt;

use super::order::{Orders, Piece, Work, WorkKind};
use crate::units::{Bytes, Seconds};

/// What one micro-batch costs on one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageCosts {
    /// Time of the forward pass.
    pub forward: Seconds,
    /// Time of the gradient of the inputs.
    pub input: Seconds,
    /// Time of the gradient of the weights.
    pub weight: Seconds,
    /// Time of this stage's forward pass with the backward pass of the rank's other chunk beside it.
    pub both: Seconds,
    /// What a forward pass leaves stored until the input gradient is done.
    pub until_input: Bytes,
    /// What a forward pass leaves stored until the weight gradient is done, beside `until_input`.
    pub until_weight: Bytes,
}

/// What the sends of one micro-batch over the boundary between two stages cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkCosts {
    /// Time to send the outputs to the next stage.
    pub forward: Seconds,
    /// Time to send their gradient back.
    pub backward: Seconds,
}

/// What a rank does while it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Computes: sends run beside it, over each boundary and way one after the other.
    Beside,
    /// Nothing: the sender is held up after the work, and the receiver for as long before the work that needs it, at
    /// the same time where it is free. A sender does not wait for the receiver.
    Instead,
}

/// What the work of a step costs.
#[derive(Clone, Copy, Debug)]
pub struct Costs<'a> {
    /// By stage.
    pub stages: &'a [StageCosts],
    /// By boundary, the first between stages 0 and 1. Where both stages lie on one rank nothing is sent.
    pub links: &'a [LinkCosts],
    /// What a rank does while it sends.
    pub sending: Sending,
}

/// One work in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// The work.
    pub work: Work,
    /// When it starts, from the start of the step.
    pub start: Seconds,
    /// When it ends.
    pub end: Seconds,
}

/// The most bytes that a rank stores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// How many.
    pub stored: Bytes,
    /// The first work of the rank's order during which it is so many.
    pub index: usize,
    /// When that work starts.
    pub at: Seconds,
}

/// A rank's step.
#[derive(Clone, Debug, PartialEq)]
pub struct RankTimeline {
    /// Its work, first to last.
    pub runs: Vec<Run>,
    /// The time of its work together, without sends.
    pub busy: Seconds,
    /// `end of its last work - start of its first work - busy`: the time that it waits or sends in between. That is the
    /// bubble of Qi et al., 2024, where ranks start their next step as they end this one; the waits before the first
    /// work and after the last are not in it.
    pub bubble: Seconds,
    /// The most that it stores.
    pub peak: Peak,
}

/// A micro-batch on its way between two stages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// The stage whose result it is.
    pub from: u64,
    /// The stage that needs it: the next one for outputs, the one before for gradients.
    pub to: u64,
    /// Which micro-batch.
    pub micro_batch: u64,
    /// When the send starts.
    pub start: Seconds,
    /// When it ends.
    pub end: Seconds,
}

/// A step in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// By rank.
    pub ranks: Vec<RankTimeline>,
    /// Sends, by start, then by stage.
    pub transfers: Vec<Transfer>,
    /// From the start of the step to the end of its last work.
    pub span: Seconds,
}

impl Timeline {
    /// The largest bubble of a rank. For the schedules of Qi et al., 2024, and those before them it is rank 0's, which
    /// the formulas give.
    pub fn bubble(&self) -> Seconds {
        self.ranks.iter().fold(Seconds::ZERO, |most, rank| most.max(rank.bubble))
    }

    /// The most bytes that a rank stores.
    pub fn peak(&self) -> Bytes {
        self.ranks.iter().fold(Bytes::ZERO, |most, rank| most.max(rank.peak.stored))
    }
}

/// A result that a work waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// The forward pass of a micro-batch on a stage.
    Forward {
        /// The stage.
        stage: u64,
        /// The micro-batch.
        micro_batch: u64,
    },
    /// The input gradient of a micro-batch on a stage.
    Input {
        /// The stage.
        stage: u64,
        /// The micro-batch.
        micro_batch: u64,
    },
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Needed::Forward { stage, micro_batch } => write!(f, "forward of micro-batch {micro_batch} on stage {stage}"),
            Needed::Input { stage, micro_batch } => write!(f, "input gradient of micro-batch {micro_batch} on stage {stage}"),
        }
    }
}

/// What every piece goes through once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The forward pass.
    Forward,
    /// The gradient of the inputs.
    Input,
    /// The gradient of the weights.
    Weight,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Pass::Forward => "forward pass",
            Pass::Input => "input gradient",
            Pass::Weight => "weight gradient",
        })
    }
}

/// A rank that cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The rank.
    pub rank: usize,
    /// Where it is in its order.
    pub index: usize,
    /// The work that it waits with.
    pub work: Work,
    /// What the work needs.
    pub needs: Needed,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} at work {} with the {} for the {}", self.rank, self.index, self.work, self.needs)
    }
}

/// Why orders have no timeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// Costs or orders for another number of stages or ranks than the placement has.
    #[error("{placed} {what} are placed, but {given} are given")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many the placement has.
        placed: u64,
        /// How many there are.
        given: usize,
    },
    /// A piece that the placement or the step does not have.
    #[error("rank {rank}: there is no {piece}")]
    NoSuch {
        /// The rank.
        rank: usize,
        /// The piece.
        piece: Piece,
    },
    /// A pass of a piece that is there twice.
    #[error("rank {rank}: the {work} does again what was done before")]
    Twice {
        /// The rank.
        rank: usize,
        /// The second work.
        work: Work,
    },
    /// A pass of pieces that is not there.
    #[error("rank {rank} does the {pass} of {done} pieces, not of all {all}")]
    Missing {
        /// The rank.
        rank: usize,
        /// Which pass.
        pass: Pass,
        /// How many it does.
        done: u64,
        /// How many there are to do.
        all: u64,
    },
    /// Ranks that wait for ever.
    #[error("ranks wait for each other: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Deadlock(Vec<Waiting>),
}

/// A result at a stage that needs it: receiving can start at `from` and takes `takes` of the receiver's time.
#[derive(Clone, Copy)]
struct Arrival {
    from: Seconds,
    takes: Seconds,
}

/// What is known of a micro-batch on a stage.
#[derive(Clone, Copy, Default)]
struct State {
    inputs: Option<Arrival>,
    gradient: Option<Arrival>,
    /// By [`Pass`].
    done: [bool; 3],
}

/// A rank on its way through its order.
struct Rank {
    now: Seconds,
    runs: Vec<Run>,
    busy: Seconds,
    stored: Bytes,
    peak: Peak,
    /// How many pieces so far, by [`Pass`].
    done: [u64; 3],
}

/// Runs orders with the costs of stages and sends. Takes time proportional to the work.
///
/// # Errors
/// Counts that do not agree, orders that do not do every pass of every piece once, and orders that wait for ever.
pub fn simulate(orders: &Orders, costs: &Costs<'_>) -> Result<Timeline, SimulationError> {
    let placement = orders.placement;
    let count = |what, placed, given: usize| {
        if given as u64 == placed { Ok(()) } else { Err(SimulationError::Count { what, placed, given }) }
    };
    count("ranks", placement.ranks(), orders.ranks.len())?;
    count("stages", placement.stages(), costs.stages.len())?;
    count("boundaries", placement.stages().saturating_sub(1), costs.links.len())?;

    let mut step = Step::new(orders, costs);
    let mut ready: VecDeque<usize> = (0..orders.ranks.len()).collect();
    while let Some(rank) = ready.pop_front() {
        step.go_on(rank, &mut ready)?;
    }
    step.finish()
}

struct Step<'a> {
    orders: &'a Orders,
    costs: &'a Costs<'a>,
    /// By stage, then micro-batch.
    states: Vec<State>,
    ranks: Vec<Rank>,
    /// By boundary, forward and backward: when its last send ends.
    free: Vec<[Seconds; 2]>,
    transfers: Vec<Transfer>,
}

impl<'a> Step<'a> {
    fn new(orders: &'a Orders, costs: &'a Costs<'a>) -> Self {
        let none = Peak { stored: Bytes::ZERO, index: 0, at: Seconds::ZERO };
        let at_start = |order: &Vec<Work>| Rank {
            now: Seconds::ZERO,
            runs: Vec::with_capacity(order.len()),
            busy: Seconds::ZERO,
            stored: Bytes::ZERO,
            peak: none,
            done: [0; 3],
        };
        Self {
            orders,
            costs,
            states: vec![State::default(); costs.stages.len() * orders.micro_batches as usize],
            ranks: orders.ranks.iter().map(at_start).collect(),
            free: vec![[Seconds::ZERO; 2]; costs.links.len()],
            transfers: Vec::new(),
        }
    }

    fn state(&mut self, stage: usize, micro_batch: u64) -> &mut State {
        &mut self.states[stage * self.orders.micro_batches as usize + micro_batch as usize]
    }

    /// The stage of a piece of a rank.
    fn stage(&self, rank: usize, piece: Piece) -> Result<usize, SimulationError> {
        let placement = self.orders.placement;
        if piece.chunk >= placement.chunks() || piece.micro_batch >= self.orders.micro_batches {
            return Err(SimulationError::NoSuch { rank, piece });
        }
        Ok(placement.stage(rank as u64, piece.chunk) as usize)
    }

    /// Does a rank's work until it has to wait. Ranks that may go on thanks to it join `ready`.
    fn go_on(&mut self, rank: usize, ready: &mut VecDeque<usize>) -> Result<(), SimulationError> {
        let order = &self.orders.ranks[rank];
        while let Some(work) = order.get(self.ranks[rank].runs.len()) {
            let Ok(arrivals) = self.arrivals(rank, work)? else { break };
            self.run(rank, work, arrivals, ready)?;
        }
        Ok(())
    }

    /// What a work receives before it starts, or what it has to wait for.
    fn arrivals(&mut self, rank: usize, work: &Work) -> Result<Result<[Option<Arrival>; 2], Needed>, SimulationError> {
        let mut arrivals = [None; 2];
        if let Some(piece) = work.forward() {
            let stage = self.stage(rank, piece)?;
            let inputs = self.state(stage, piece.micro_batch).inputs;
            if inputs.is_none() && stage > 0 {
                return Ok(Err(Needed::Forward { stage: stage as u64 - 1, micro_batch: piece.micro_batch }));
            }
            arrivals[0] = inputs;
        }
        if let Some(piece) = work.input() {
            let stage = self.stage(rank, piece)?;
            let State { done, gradient, .. } = *self.state(stage, piece.micro_batch);
            if !done[Pass::Forward as usize] {
                return Ok(Err(Needed::Forward { stage: stage as u64, micro_batch: piece.micro_batch }));
            }
            if gradient.is_none() && stage + 1 < self.costs.stages.len() {
                return Ok(Err(Needed::Input { stage: stage as u64 + 1, micro_batch: piece.micro_batch }));
            }
            arrivals[1] = gradient;
        } else if let Some(piece) = work.weight() {
            let stage = self.stage(rank, piece)?;
            if !self.state(stage, piece.micro_batch).done[Pass::Input as usize] {
                return Ok(Err(Needed::Input { stage: stage as u64, micro_batch: piece.micro_batch }));
            }
        }
        Ok(Ok(arrivals))
    }

    /// Does a work for which everything is there.
    fn run(
        &mut self,
        rank: usize,
        work: &Work,
        arrivals: [Option<Arrival>; 2],
        ready: &mut VecDeque<usize>,
    ) -> Result<(), SimulationError> {
        let start = received(self.ranks[rank].now, arrivals);
        let (mut takes, mut stores, mut frees) = (Seconds::ZERO, Bytes::ZERO, Bytes::ZERO);
        if let Some(piece) = work.forward() {
            let costs = self.mark(rank, work, piece, Pass::Forward)?;
            stores = costs.until_input + costs.until_weight;
            takes = costs.forward;
        }
        if let Some(piece) = work.input() {
            let costs = self.mark(rank, work, piece, Pass::Input)?;
            frees += costs.until_input;
            takes += costs.input;
        }
        if let Some(piece) = work.weight() {
            let costs = self.mark(rank, work, piece, Pass::Weight)?;
            frees += costs.until_weight;
            takes += costs.weight;
        }
        if matches!(work.kind, WorkKind::Both { .. }) {
            takes = self.costs.stages[self.stage(rank, work.piece())?].both;
        }
        let end = start + takes;
        let this = &mut self.ranks[rank];
        this.stored += stores;
        if this.stored > this.peak.stored {
            this.peak = Peak { stored: this.stored, index: this.runs.len(), at: start };
        }
        this.stored -= frees;
        this.runs.push(Run { work: *work, start, end });
        this.busy += takes;
        this.now = end;
        if let Some(piece) = work.forward() {
            self.pass_on(rank, piece, true, end, ready)?;
        }
        if let Some(piece) = work.input() {
            self.pass_on(rank, piece, false, end, ready)?;
        }
        Ok(())
    }

    /// Notes that a pass of a piece is done, and gives the costs of its stage.
    fn mark(&mut self, rank: usize, work: &Work, piece: Piece, pass: Pass) -> Result<StageCosts, SimulationError> {
        let stage = self.stage(rank, piece)?;
        if std::mem::replace(&mut self.state(stage, piece.micro_batch).done[pass as usize], true) {
            return Err(SimulationError::Twice { rank, work: *work });
        }
        self.ranks[rank].done[pass as usize] += 1;
        Ok(self.costs.stages[stage])
    }

    /// Hands a result that is there at `end` to the stage that needs it.
    fn pass_on(
        &mut self,
        rank: usize,
        piece: Piece,
        forward: bool,
        end: Seconds,
        ready: &mut VecDeque<usize>,
    ) -> Result<(), SimulationError> {
        let from = self.stage(rank, piece)?;
        let to = if forward { Some(from + 1).filter(|to| *to < self.costs.stages.len()) } else { from.checked_sub(1) };
        let Some(to) = to else { return Ok(()) };
        let receiver = self.orders.placement.rank(to as u64) as usize;
        let arrival = if receiver == rank {
            Arrival { from: end, takes: Seconds::ZERO }
        } else {
            let boundary = from.min(to);
            let link = self.costs.links[boundary];
            let time = if forward { link.forward } else { link.backward };
            let free = &mut self.free[boundary][usize::from(!forward)];
            let (start, arrival) = match self.costs.sending {
                Sending::Beside => {
                    let start = end.max(*free);
                    (start, Arrival { from: start + time, takes: Seconds::ZERO })
                }
                Sending::Instead => {
                    let start = self.ranks[rank].now;
                    self.ranks[rank].now = start + time;
                    (start, Arrival { from: start, takes: time })
                }
            };
            *free = start + time;
            let transfer = Transfer { from: from as u64, to: to as u64, micro_batch: piece.micro_batch, start, end: start + time };
            self.transfers.push(transfer);
            ready.push_back(receiver);
            arrival
        };
        let state = self.state(to, piece.micro_batch);
        *(if forward { &mut state.inputs } else { &mut state.gradient }) = Some(arrival);
        Ok(())
    }

    /// The timeline, if all is done.
    fn finish(mut self) -> Result<Timeline, SimulationError> {
        let orders = self.orders;
        let mut waiting = Vec::new();
        for (rank, order) in orders.ranks.iter().enumerate() {
            let index = self.ranks[rank].runs.len();
            if let Some(work) = order.get(index)
                && let Err(needs) = self.arrivals(rank, work)?
            {
                waiting.push(Waiting { rank, index, work: *work, needs });
            }
        }
        if !waiting.is_empty() {
            return Err(SimulationError::Deadlock(waiting));
        }
        let all = u64::from(orders.placement.chunks()) * orders.micro_batches;
        for (rank, Rank { done, .. }) in self.ranks.iter().enumerate() {
            // each is done once at most, so the counts say which are not done at all
            for (pass, done) in [Pass::Forward, Pass::Input, Pass::Weight].into_iter().zip(*done) {
                if done != all {
                    return Err(SimulationError::Missing { rank, pass, done, all });
                }
            }
        }
        self.transfers.sort_by(|a, b| a.start.total_cmp(&b.start).then((a.from, a.to).cmp(&(b.from, b.to))));
        let ranks: Vec<RankTimeline> = self.ranks.into_iter().map(Rank::finish).collect();
        let ends = ranks.iter().filter_map(|rank| rank.runs.last()).map(|run| run.end);
        let span = ends.fold(Seconds::ZERO, Seconds::max);
        Ok(Timeline { ranks, transfers: self.transfers, span })
    }
}

impl Rank {
    fn finish(self) -> RankTimeline {
        let own = self.runs.last().map_or(Seconds::ZERO, |last| last.end - self.runs[0].start);
        RankTimeline { runs: self.runs, busy: self.busy, bubble: own - self.busy, peak: self.peak }
    }
}

/// When a rank that is free at `now` has received what its next work needs, in the order in which it was sent.
fn received(now: Seconds, mut arrivals: [Option<Arrival>; 2]) -> Seconds {
    arrivals.sort_by(|a, b| a.map_or(0.0, |a| a.from.0).total_cmp(&b.map_or(0.0, |b| b.from.0)));
    arrivals.into_iter().flatten().fold(now, |now, arrival| now.max(arrival.from) + arrival.takes)
}
