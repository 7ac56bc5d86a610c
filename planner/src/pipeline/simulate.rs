//! When each work of given orders runs, and how much it keeps stored.
//!
//! A rank does one work at a time, in its order, each as soon as what it needs is there. Bytes are stored from the start
//! of a forward pass; what only the input gradient reads goes when that ends, the rest when the weight gradient ends.

use std::fmt;

use super::order::{Orders, Pass, Piece, Work, WorkKind};
use crate::units::{Bytes, Seconds};

/// What one micro-batch costs on one stage, that is in one chunk of one rank. A backward pass that is not split takes
/// `input + weight`.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct StageCosts {
    /// Time of the forward pass.
    pub forward: Seconds,
    /// Time of the gradient of the inputs.
    pub input: Seconds,
    /// Time of the gradient of the weights.
    pub weight: Seconds,
    /// Time of this stage's forward pass with the backward pass of the rank's other chunk beside it, where a schedule has
    /// that; if it is not given, the sum of both.
    pub both: Option<Seconds>,
    /// What a forward pass leaves stored until the input gradient is done.
    pub until_input: Bytes,
    /// What a forward pass leaves stored until the weight gradient is done, beside `until_input`.
    pub until_weight: Bytes,
}

/// What the sends of one micro-batch over the boundary between two stages cost.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct LinkCosts {
    /// Time to send the outputs to the next stage.
    pub forward: Seconds,
    /// Time to send their gradient back.
    pub backward: Seconds,
}

/// What a rank does while it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Computes: sends run beside it, over each boundary and way one after the other. Not seen: two boundaries between
    /// the same ranks may share a link.
    Beside,
    /// Nothing: the sender is held up after the work, and the receiver for as long before the work that needs it, at
    /// the same time where it is free. A sender does not wait for the receiver.
    Instead,
}

/// What the work of a step costs.
#[derive(Clone, Copy, Debug)]
pub struct Costs<'a> {
    /// By stage, see [`Placement::stage`](super::Placement::stage).
    pub stages: &'a [StageCosts],
    /// By boundary, the first between stages 0 and 1. Where both stages lie on one rank nothing is sent.
    pub links: &'a [LinkCosts],
    /// What a rank does while it sends.
    pub sending: Sending,
}

/// When a work runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// When it starts, from the start of the step.
    pub start: Seconds,
    /// When it ends.
    pub end: Seconds,
}

/// The most bytes that a rank stores.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Peak {
    /// How many.
    pub stored: Bytes,
    /// The first work of the rank's order during which it is so many.
    pub index: usize,
    /// When that work starts.
    pub at: Seconds,
}

/// A rank's step.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RankTimeline {
    /// When each work of its order runs.
    pub runs: Vec<Run>,
    /// The time of its work together, without sends.
    pub busy: Seconds,
    /// `end of its last work - start of its first work - busy`: the time that it waits or sends in between. That is the
    /// bubble of Qi et al., 2024, where ranks start their next step as they end this one; the waits before the first
    /// work and after the last are not in it.
    pub bubble: Seconds,
    /// Of `span - busy`: the time in which what it needs was made and on its way, or in which it sent and did nothing.
    pub exposed: Seconds,
    /// The most that it stores.
    pub peak: Peak,
}

/// A step in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// By rank.
    pub ranks: Vec<RankTimeline>,
    /// From the start of the step to the end of its last work.
    pub span: Seconds,
}

impl Timeline {
    /// The largest bubble of a rank.
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
pub struct Needed {
    /// What gives it.
    pub pass: Pass,
    /// On which stage.
    pub stage: usize,
    /// Of which micro-batch.
    pub micro_batch: u64,
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
        let Waiting { rank, index, work, needs: Needed { pass, stage, micro_batch } } = self;
        write!(f, "rank {rank} at work {index} with the {work} for the {pass} of micro-batch {micro_batch} on stage {stage}")
    }
}

/// Why orders have no timeline.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SimulationError {
    /// Costs or orders for more or less than the placement and the step have.
    #[error("there must be {needed} {what}, not {given}")]
    Count {
        /// What is counted.
        what: String,
        /// How many there must be.
        needed: u64,
        /// How many there are.
        given: usize,
    },
    /// A time that is negative or not finite.
    #[error("the {what} cannot be {seconds} seconds")]
    Time {
        /// Which time.
        what: String,
        /// What it is.
        seconds: f64,
    },
    /// Times or bytes whose sum is out of range.
    #[error("the costs of {micro_batches} micro-batches together are more than can be counted")]
    TooMuch {
        /// Micro-batches of the step.
        micro_batches: u64,
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
    /// Ranks that wait for ever.
    #[error("ranks wait for each other: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Deadlock(Vec<Waiting>),
}

/// Runs orders with the costs of stages and sends. Takes time proportional to the work.
///
/// # Errors
/// Counts that do not agree, times that are none, orders that do not do every pass of every piece once, and orders that
/// wait for ever.
pub fn simulate(orders: &Orders, costs: &Costs<'_>) -> Result<Timeline, SimulationError> {
    check_orders(orders)?;
    check_costs(orders, costs)?;
    let mut step = Step::new(orders, costs);
    while let Some(rank) = step.ready.pop() {
        step.go_on(rank)?;
    }
    step.finish()
}

fn check_count(what: impl fmt::Display, needed: u64, given: usize) -> Result<(), SimulationError> {
    if given as u64 == needed { Ok(()) } else { Err(SimulationError::Count { what: what.to_string(), needed, given }) }
}

/// Every rank has as many of each pass as it has pieces, and no others.
fn check_orders(orders: &Orders) -> Result<(), SimulationError> {
    let Orders { placement, micro_batches, .. } = *orders;
    check_count("ranks", placement.ranks(), orders.ranks.len())?;
    let pieces = u64::from(placement.chunks()).saturating_mul(micro_batches);
    for (rank, order) in orders.ranks.iter().enumerate() {
        let mut given = [0; 3];
        for (pass, piece) in order.iter().flat_map(|work| Pass::ALL.map(|pass| (pass, work.piece_of(pass)))) {
            let Some(piece) = piece else { continue };
            if piece.chunk >= placement.chunks() || piece.micro_batch >= micro_batches {
                return Err(SimulationError::NoSuch { rank, piece });
            }
            given[pass as usize] += 1;
        }
        for pass in Pass::ALL {
            check_count(format_args!("works of rank {rank} with a {pass}"), pieces, given[pass as usize])?;
        }
    }
    Ok(())
}

/// There are costs of every stage and boundary, and even their sum over the step is a number.
fn check_costs(orders: &Orders, costs: &Costs<'_>) -> Result<(), SimulationError> {
    let (stages, micro_batches) = (orders.placement.stages(), orders.micro_batches);
    check_count("stages with costs", stages, costs.stages.len())?;
    check_count("boundaries with costs", stages.saturating_sub(1), costs.links.len())?;
    let mut seconds = 0.0;
    let mut add = |what: &str, place: usize, time: Seconds| {
        seconds += time.0;
        if time.0.is_finite() && time.0 >= 0.0 {
            Ok(())
        } else {
            Err(SimulationError::Time { what: format!("{what} {place}"), seconds: time.0 })
        }
    };
    let mut bytes = 0;
    for (stage, costs) in costs.stages.iter().enumerate() {
        add("forward pass on stage", stage, costs.forward)?;
        add("input gradient on stage", stage, costs.input)?;
        add("weight gradient on stage", stage, costs.weight)?;
        add("overlapped pair on stage", stage, costs.both.unwrap_or_default())?;
        bytes += u128::from(costs.until_input.0) + u128::from(costs.until_weight.0);
    }
    for (boundary, costs) in costs.links.iter().enumerate() {
        add("send forward over boundary", boundary, costs.forward)?;
        add("send back over boundary", boundary, costs.backward)?;
    }
    // a send can hold up both of its ranks
    let is_finite = (seconds * 2.0 * micro_batches as f64).is_finite();
    let fits = bytes.checked_mul(u128::from(micro_batches)).is_some_and(|bytes| bytes <= u128::from(u64::MAX));
    if is_finite && fits { Ok(()) } else { Err(SimulationError::TooMuch { micro_batches }) }
}

/// A result at a stage that needs it.
#[derive(Clone, Copy)]
struct Arrival {
    /// When the work that gave it ended.
    made: Seconds,
    /// When receiving it can start.
    from: Seconds,
    /// How long the receiver does nothing else.
    takes: Seconds,
}

/// What is known of a micro-batch on a stage.
#[derive(Clone, Copy, Default)]
struct State {
    /// What the forward pass and the input gradient need of other stages.
    arrivals: [Option<Arrival>; 2],
    /// By [`Pass`].
    done: [bool; 3],
}

/// A rank on its way through its order.
#[derive(Clone, Default)]
struct Rank {
    now: Seconds,
    stored: Bytes,
    timeline: RankTimeline,
}

struct Step<'a> {
    orders: &'a Orders,
    costs: &'a Costs<'a>,
    /// By stage, then micro-batch.
    states: Vec<State>,
    ranks: Vec<Rank>,
    /// By boundary, forward and backward: when its last send ends.
    free: Vec<[Seconds; 2]>,
    /// Ranks that may be able to go on.
    ready: Vec<usize>,
}

impl<'a> Step<'a> {
    fn new(orders: &'a Orders, costs: &'a Costs<'a>) -> Self {
        let mut ranks = vec![Rank::default(); orders.ranks.len()];
        for (rank, order) in ranks.iter_mut().zip(&orders.ranks) {
            rank.timeline.runs.reserve_exact(order.len());
        }
        Self {
            orders,
            costs,
            states: vec![State::default(); costs.stages.len() * orders.micro_batches as usize],
            ranks,
            free: vec![[Seconds::ZERO; 2]; costs.links.len()],
            ready: (0..orders.ranks.len()).collect(),
        }
    }

    /// The stage that a piece of a rank runs on.
    fn stage(&self, rank: usize, piece: Piece) -> usize {
        self.orders.placement.stage(rank as u64, piece.chunk) as usize
    }

    fn state(&mut self, stage: usize, micro_batch: u64) -> &mut State {
        &mut self.states[stage * self.orders.micro_batches as usize + micro_batch as usize]
    }

    /// The stage whose result a pass on a stage needs.
    fn before(&self, pass: Pass, stage: usize) -> Option<usize> {
        match pass {
            Pass::Forward => stage.checked_sub(1),
            Pass::Input => Some(stage + 1).filter(|next| *next < self.costs.stages.len()),
            Pass::Weight => None,
        }
    }

    /// Does a rank's work until it has to wait.
    fn go_on(&mut self, rank: usize) -> Result<(), SimulationError> {
        let order = &self.orders.ranks[rank];
        while let Some(work) = order.get(self.ranks[rank].timeline.runs.len()) {
            let Ok(arrivals) = self.arrivals(rank, work) else { break };
            self.run(rank, work, arrivals)?;
        }
        Ok(())
    }

    /// What a work receives before it starts, or what it has to wait for.
    fn arrivals(&mut self, rank: usize, work: &Work) -> Result<[Option<Arrival>; 2], Needed> {
        let mut arrivals = [None; 2];
        for (pass, own) in [(Pass::Forward, None), (Pass::Input, Some(Pass::Forward)), (Pass::Weight, Some(Pass::Input))] {
            let Some(piece) = work.piece_of(pass) else { continue };
            let (stage, micro_batch) = (self.stage(rank, piece), piece.micro_batch);
            let before = self.before(pass, stage);
            let state = self.state(stage, micro_batch);
            // a whole backward pass gives its own input gradient before its weight gradient
            let own = own.filter(|_| pass == Pass::Input || work.kind == WorkKind::Weight);
            if let Some(pass) = own.filter(|own| !state.done[*own as usize]) {
                return Err(Needed { pass, stage, micro_batch });
            }
            if let Some(stage) = before {
                let arrival = state.arrivals[pass as usize].ok_or(Needed { pass, stage, micro_batch })?;
                arrivals[pass as usize] = Some(arrival);
            }
        }
        Ok(arrivals)
    }

    /// Does a work for which everything is there. Ranks that may go on thanks to it become ready.
    fn run(&mut self, rank: usize, work: &Work, arrivals: [Option<Arrival>; 2]) -> Result<(), SimulationError> {
        let (mut takes, mut stores, mut frees) = (Seconds::ZERO, Bytes::ZERO, Bytes::ZERO);
        for pass in Pass::ALL {
            let Some(piece) = work.piece_of(pass) else { continue };
            let stage = self.stage(rank, piece);
            if std::mem::replace(&mut self.state(stage, piece.micro_batch).done[pass as usize], true) {
                return Err(SimulationError::Twice { rank, work: *work });
            }
            let costs = &self.costs.stages[stage];
            match pass {
                Pass::Forward => {
                    takes += costs.forward;
                    stores += costs.until_input + costs.until_weight;
                }
                Pass::Input => {
                    takes += costs.input;
                    frees += costs.until_input;
                }
                Pass::Weight => {
                    takes += costs.weight;
                    frees += costs.until_weight;
                }
            }
        }
        if let WorkKind::Both { .. } = work.kind {
            takes = self.costs.stages[self.stage(rank, work.piece)].both.unwrap_or(takes);
        }

        let this = &mut self.ranks[rank];
        let start = this.receive(arrivals);
        let end = start + takes;
        this.now = end;
        this.stored += stores;
        if this.stored > this.timeline.peak.stored {
            this.timeline.peak = Peak { stored: this.stored, index: this.timeline.runs.len(), at: start };
        }
        this.stored -= frees;
        this.timeline.busy += takes;
        this.timeline.runs.push(Run { start, end });

        for pass in [Pass::Forward, Pass::Input] {
            if let Some(piece) = work.piece_of(pass) {
                self.send(rank, piece, pass, end);
            }
        }
        Ok(())
    }

    /// Hands what a pass `made` to the stage that needs it.
    fn send(&mut self, rank: usize, piece: Piece, pass: Pass, made: Seconds) {
        let from = self.stage(rank, piece);
        let to = match pass {
            Pass::Forward => self.before(Pass::Input, from),
            _ => self.before(Pass::Forward, from),
        };
        let Some(to) = to else { return };
        let receiver = self.orders.placement.rank(to as u64) as usize;
        let mut arrival = Arrival { made, from: made, takes: Seconds::ZERO };
        if receiver != rank {
            let boundary = from.min(to);
            let link = self.costs.links[boundary];
            let takes = if pass == Pass::Forward { link.forward } else { link.backward };
            match self.costs.sending {
                Sending::Beside => {
                    let free = &mut self.free[boundary][pass as usize];
                    arrival.from = made.max(*free) + takes;
                    *free = arrival.from;
                }
                Sending::Instead => {
                    let sender = &mut self.ranks[rank];
                    arrival = Arrival { made, from: sender.now, takes };
                    sender.now += takes;
                    sender.timeline.exposed += takes;
                }
            }
            self.ready.push(receiver);
        }
        self.state(to, piece.micro_batch).arrivals[pass as usize] = Some(arrival);
    }

    fn finish(mut self) -> Result<Timeline, SimulationError> {
        let mut waiting = Vec::new();
        for rank in 0..self.ranks.len() {
            let index = self.ranks[rank].timeline.runs.len();
            if let Some(work) = self.orders.ranks[rank].get(index)
                && let Err(needs) = self.arrivals(rank, work)
            {
                waiting.push(Waiting { rank, index, work: *work, needs });
            }
        }
        if !waiting.is_empty() {
            return Err(SimulationError::Deadlock(waiting));
        }
        let mut span = Seconds::ZERO;
        let mut ranks: Vec<RankTimeline> = self.ranks.into_iter().map(|rank| rank.timeline).collect();
        for rank in &mut ranks {
            if let [first, .., last] = rank.runs[..] {
                // rounding may leave less than nothing
                rank.bubble = (last.end - first.start - rank.busy).max(Seconds::ZERO);
                span = span.max(last.end);
            }
        }
        Ok(Timeline { ranks, span })
    }
}

impl Rank {
    /// Receives what the next work needs, in the order in which it was sent, and gives when the work can start.
    fn receive(&mut self, mut arrivals: [Option<Arrival>; 2]) -> Seconds {
        if let [Some(a), Some(b)] = arrivals
            && b.from < a.from
        {
            arrivals.reverse();
        }
        for arrival in arrivals.into_iter().flatten() {
            let there = self.now.max(arrival.from) + arrival.takes;
            self.timeline.exposed += there - there.min(self.now.max(arrival.made));
            self.now = there;
        }
        self.now
    }
}
