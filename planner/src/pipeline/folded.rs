//! Schedules whose stages run down the ranks in chunk 0 and back up in chunk 1.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::order::{Piece, Placement, Times, Work, WorkKind};
use crate::units::Seconds;

/// DualPipeV (DualPipe of DeepSeek-V3, 2024, cut in half so that each stage lies on one rank only): the forward pass of
/// one chunk runs beside the backward pass of the other. Needs two micro-batches a rank at least.
///
/// Rank r of p fills the pipeline, gives the first input gradients, overlaps in the middle, and drains; in the second
/// half of the last 2 (r + 1) backward passes the weight gradients are put off to the end.
pub fn dual_pipe(ranks: u64, rank: u64, micro_batches: u64) -> Vec<Work> {
    let below = ranks - rank - 1;
    let mut list = List::default();
    for _ in 0..2 * below {
        list.push(WorkKind::Forward, 0);
    }
    for _ in 0..=rank {
        list.push(WorkKind::Forward, 0);
        list.push(WorkKind::Forward, 1);
    }
    for _ in 0..below {
        list.push(WorkKind::Input, 1);
        list.push_weight();
        list.push(WorkKind::Forward, 1);
    }
    for turn in 0..micro_batches + rank + 1 - 2 * ranks {
        if turn == 0 && below == 0 {
            // the first backward pass of all: every other rank waits for it, so nothing slows it down
            list.push(WorkKind::Forward, 0);
            list.push(WorkKind::Backward, 1);
        } else {
            list.push_both(0);
        }
        list.push_both(1);
    }
    for _ in 0..below {
        list.push(WorkKind::Backward, 1);
        list.push_both(1);
    }
    for turn in 0..2 * (rank + 1) {
        let kind = if turn <= rank { WorkKind::Backward } else { WorkKind::Input };
        list.push(kind, u32::from(turn % 2 == 0));
    }
    for _ in 0..below {
        list.push_weight();
        list.push(WorkKind::Input, 0);
    }
    while list.push_weight() {}
    list.work
}

/// A rank's work in the making. Each chunk takes micro-batches in their order.
#[derive(Default)]
struct List {
    work: Vec<Work>,
    /// By chunk: the next micro-batch to run forward.
    forward: [u64; 2],
    /// By chunk: the next micro-batch to run back.
    backward: [u64; 2],
    /// Pieces that have an input gradient and no weight gradient, in order.
    weights: VecDeque<Piece>,
}

impl List {
    fn push(&mut self, kind: WorkKind, chunk: u32) {
        let next = if kind == WorkKind::Forward { &mut self.forward } else { &mut self.backward };
        let piece = take(next, chunk);
        if kind == WorkKind::Input {
            self.weights.push_back(piece);
        }
        self.work.push(Work::new(kind, piece));
    }

    /// The forward pass of a chunk beside the backward pass of the other.
    fn push_both(&mut self, chunk: u32) {
        let backward = take(&mut self.backward, 1 - chunk);
        self.work.push(Work::new(WorkKind::Both { backward }, take(&mut self.forward, chunk)));
    }

    /// The weight gradient that waits longest. Gives whether there was one.
    fn push_weight(&mut self) -> bool {
        let piece = self.weights.pop_front();
        self.work.extend(piece.map(|piece| Work::new(WorkKind::Weight, piece)));
        piece.is_some()
    }
}

fn take(next: &mut [u64; 2], chunk: u32) -> Piece {
    let micro_batch = next[chunk as usize];
    next[chunk as usize] += 1;
    Piece { chunk, micro_batch }
}

/// ZB-V (Qi et al., 2024, arXiv 2401.10241): as many pieces held on each rank as 1F1B holds on rank 0, weight gradients
/// where a rank would wait.
///
/// The order is found by running the step: whoever can start something first does, as a [`Rule`] says. Which rule is
/// best depends on the times, so all are tried. With equal times and two micro-batches a rank the step is as short as
/// can be, `6 m + p - 1` units, and a rank waits for max(3, p - 3) units of it at most, where the paper has none. The
/// more the times differ, the longer it waits.
pub fn zero_bubble(ranks: u64, micro_batches: u64, times: &Times) -> Vec<Vec<Work>> {
    let long_enough = micro_batches.min(3 * ranks);
    let mut rules: Vec<(Lengths, Rule)> = Rule::all().map(|rule| (Greedy::run(ranks, long_enough, times, rule).lengths(), rule)).collect();
    rules.sort_by(|(a, _), (b, _)| a.compare(b));
    let full = rules.iter().take(FINALISTS).map(|(_, rule)| Greedy::run(ranks, micro_batches, times, *rule));
    let best = full.min_by(|a, b| a.lengths().compare(&b.lengths()));
    best.map_or(Vec::new(), |best| best.ranks.into_iter().map(|rank| rank.work).collect())
}

/// How many of the rules that are best on a short step are tried on the whole one, whose end can differ.
const FINALISTS: usize = 8;

/// What a step is judged by: how long it is, then the largest bubble of a rank.
struct Lengths {
    span: Seconds,
    bubble: Seconds,
}

impl Lengths {
    fn compare(&self, other: &Self) -> Ordering {
        self.span.total_cmp(&other.span).then(self.bubble.total_cmp(&other.bubble))
    }
}

/// What a rank does first of all that can start at the same time, and how much of it may be held.
#[derive(Clone, Copy)]
struct Rule {
    /// Input gradients and forward passes by chunk, most urgent first.
    urgent: [(WorkKind, u32); 4],
    /// Pieces of each chunk that a rank may hold, by ranks and rank, at least one. Of chunk 0 it is less than the 2 p of
    /// both, and so some rank can always go on: of the first micro-batch that is not yet forward on all stages, all
    /// before it can be done and give up what they hold, and then nothing is in the way of its next forward pass.
    hold: [fn(u64, u64) -> u64; 2],
    /// How long a rank waits for something else before it does a weight gradient, in times of a weight gradient.
    patience: f64,
}

impl Rule {
    /// The rules that are tried. They were found by search, and their order decides between equals.
    fn all() -> impl Iterator<Item = Rule> {
        use WorkKind::{Forward, Input};
        const URGENT: [[(WorkKind, u32); 4]; 4] = [
            [(Input, 0), (Forward, 1), (Forward, 0), (Input, 1)],
            [(Input, 0), (Forward, 1), (Input, 1), (Forward, 0)],
            [(Forward, 1), (Input, 0), (Input, 1), (Forward, 0)],
            [(Input, 0), (Input, 1), (Forward, 1), (Forward, 0)],
        ];
        const HOLD: [[fn(u64, u64) -> u64; 2]; 7] = [
            // a smaller first burst: the forward passes after it come earlier, and so does the end of long pipelines
            [|p, r| (3 * p - r) / 2, |_, r| 3 + 3 * r / 2],
            [|p, r| (7 * p - 3 * r) / 4, |_, r| 3 + 3 * r / 2],
            [|p, r| 2 * p - 1 - r, |p, _| 2 * p],
            [|p, r| 2 * p - 1 - r, |_, r| r + 2],
            [|p, r| 2 * p - 1 - r, |_, r| 2 * r + 1],
            [|p, r| 2 * p - 1 - r, |_, r| 2 * r + 2],
            [|p, _| 2 * p - 1, |p, _| 2 * p],
        ];
        const PATIENCE: [f64; 3] = [0.0, 0.3, 0.6];
        let pairs = URGENT.into_iter().flat_map(|urgent| HOLD.into_iter().map(move |hold| (urgent, hold)));
        pairs.flat_map(|(urgent, hold)| PATIENCE.into_iter().map(move |patience| Rule { urgent, hold, patience }))
    }
}

/// What a rank can do next.
#[derive(Clone, Copy)]
struct Choice {
    start: Seconds,
    kind: WorkKind,
    chunk: u32,
}

#[derive(Clone, Default)]
struct RankState {
    now: Seconds,
    first: Option<Seconds>,
    busy: Seconds,
    /// By chunk: pieces between the start of their forward pass and the end of their weight gradient.
    held: [u64; 2],
    weights: VecDeque<Piece>,
    work: Vec<Work>,
}

/// A step that is ordered while it runs.
struct Greedy<'a> {
    placement: Placement,
    micro_batches: u64,
    times: &'a Times,
    rule: Rule,
    /// By stage: when the forward pass of each micro-batch ends, as far as they are done.
    forward: Vec<Vec<Seconds>>,
    /// By stage: when the input gradient of each micro-batch ends, as far as they are done.
    input: Vec<Vec<Seconds>>,
    ranks: Vec<RankState>,
}

impl<'a> Greedy<'a> {
    fn run(ranks: u64, micro_batches: u64, times: &'a Times, rule: Rule) -> Self {
        let placement = Placement::Fold { ranks };
        let none = vec![Vec::new(); placement.stages() as usize];
        let states = vec![RankState::default(); ranks as usize];
        let mut greedy = Self { placement, micro_batches, times, rule, forward: none.clone(), input: none, ranks: states };
        let mut choices: Vec<Option<Choice>> = (0..greedy.ranks.len()).map(|rank| greedy.choice(rank)).collect();
        loop {
            let able = choices.iter().enumerate().filter_map(|(rank, choice)| Some((rank, (*choice)?)));
            let first = able.min_by(|(_, a), (_, b)| a.start.total_cmp(&b.start));
            let Some((rank, choice)) = first else { return greedy };
            greedy.take(rank, choice);
            // a result is of use to the rank itself and to its neighbours
            for near in rank.saturating_sub(1)..(rank + 2).min(choices.len()) {
                choices[near] = greedy.choice(near);
            }
        }
    }

    fn lengths(&self) -> Lengths {
        let none = Lengths { span: Seconds::ZERO, bubble: Seconds::ZERO };
        self.ranks.iter().fold(none, |Lengths { span, bubble }, rank| {
            let own = rank.now - rank.first.unwrap_or(rank.now);
            Lengths { span: span.max(rank.now), bubble: bubble.max(own - rank.busy) }
        })
    }

    fn stage(&self, rank: usize, chunk: u32) -> usize {
        self.placement.stage(rank as u64, chunk) as usize
    }

    /// When what the next forward pass or input gradient of a chunk needs is there, if that is known.
    fn is_there(&self, rank: usize, kind: WorkKind, chunk: u32) -> Option<Seconds> {
        let stage = self.stage(rank, chunk);
        let done = if kind == WorkKind::Forward { &self.forward } else { &self.input };
        let next = done[stage].len();
        if next as u64 == self.micro_batches {
            return None;
        }
        if kind == WorkKind::Forward {
            return if stage == 0 { Some(Seconds::ZERO) } else { self.forward[stage - 1].get(next).copied() };
        }
        let ran = *self.forward[stage].get(next)?;
        if stage + 1 == done.len() { Some(ran) } else { done[stage + 1].get(next).map(|time| time.max(ran)) }
    }

    /// What a rank does next: what can start first, and of that the most urgent.
    fn choice(&self, rank: usize) -> Option<Choice> {
        let state = &self.ranks[rank];
        let p = self.placement.ranks();
        let mut best: Option<Choice> = None;
        for (kind, chunk) in self.rule.urgent {
            let most = self.rule.hold[chunk as usize](p, rank as u64);
            let is_full = state.held.iter().sum::<u64>() >= 2 * p || state.held[chunk as usize] >= most;
            if kind == WorkKind::Forward && is_full {
                continue;
            }
            let Some(there) = self.is_there(rank, kind, chunk) else { continue };
            let start = there.max(state.now);
            if best.is_none_or(|best| start < best.start) {
                best = Some(Choice { start, kind, chunk });
            }
        }
        let until = state.now + self.times.weight * self.rule.patience;
        match state.weights.front() {
            Some(piece) if best.is_none_or(|best| until < best.start) => {
                Some(Choice { start: state.now, kind: WorkKind::Weight, chunk: piece.chunk })
            }
            _ => best,
        }
    }

    fn take(&mut self, rank: usize, choice: Choice) {
        let Choice { start, kind, chunk } = choice;
        let stage = self.stage(rank, chunk);
        let state = &mut self.ranks[rank];
        let next = |done: &[Seconds]| Piece { chunk, micro_batch: done.len() as u64 };
        let (takes, piece) = match kind {
            WorkKind::Forward => {
                let piece = next(&self.forward[stage]);
                state.held[chunk as usize] += 1;
                self.forward[stage].push(start + self.times.forward);
                (self.times.forward, piece)
            }
            WorkKind::Weight => {
                let piece = state.weights.pop_front().expect("a weight gradient is chosen where one waits");
                state.held[chunk as usize] -= 1;
                (self.times.weight, piece)
            }
            _ => {
                let piece = next(&self.input[stage]);
                state.weights.push_back(piece);
                self.input[stage].push(start + self.times.input);
                (self.times.input, piece)
            }
        };
        state.first.get_or_insert(start);
        state.busy += takes;
        state.now = start + takes;
        state.work.push(Work::new(kind, piece));
    }
}
