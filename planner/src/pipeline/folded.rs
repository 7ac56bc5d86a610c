//! Schedules whose stages run down the ranks in chunk 0 and back up in chunk 1.

use std::collections::VecDeque;

use super::order::{Piece, Work, WorkKind};

/// ZB-V (Qi et al., 2024, arXiv 2401.10241, section 6) and, with `overlap`, DualPipeV (DualPipe of DeepSeek-V3, 2024, cut
/// in half so that each stage lies on one rank only). Both run one chunk forward and the other back in turn, DualPipeV at
/// the same time.
///
/// Written F f for the forward passes of chunks 0 and 1, B b for the input gradients of chunks 1 and 0, and W for the
/// weight gradient that waits longest, rank r of p with d = p - r - 1 ranks below it does in ZB-V
///
/// ```text
/// F^2d  (F f)^(r+1)  (B W f)^d  (B W F b W f)^(m+r+1-2p)  (B W b W f)^d  (B b)^(r+1)  (W b)^d  W^(p+r)
/// ```
///
/// Every rank holds 2 p pieces at most, as much as 1F1B on rank 0. With times F = B = W no rank waits between its first
/// and its last work. With W <= F <= B, which is usual since attention has no weight gradient, rank 0 waits longest,
/// `2 (p - 1) (B - W)`, and the step takes `2 m (F + B + W) + (p - 1) max(B, 2 (B - W))`.
///
/// No order that holds 2 p pieces a rank beats `2 m (F + B + W) + (p - 1) B`: the last rank starts after p - 1 forward
/// passes and has 2 p more to do at most until its first gradient, which follows 2 p forward passes and p - 1 gradients.
/// Nor can rank 0 wait less than `(p - 1) (F + B - 2 W) - W`: all but 2 p pieces are done on the last rank when the last
/// forward pass leaves it, and p - 1 forward passes, 2 p input gradients and a weight gradient follow.
///
/// Between p and 2 p - 1 micro-batches a step is that of 2 p - 1 without those that do not exist, and up to p it is
/// [`few`]. DualPipeV is not defined for less than 2 p, and then is ZB-V.
pub fn folded(ranks: u64, rank: u64, micro_batches: u64, overlap: bool) -> Vec<Work> {
    if micro_batches <= ranks && micro_batches < 2 * ranks - 1 {
        return few(ranks, rank, micro_batches);
    }
    let below = ranks - rank - 1;
    let mut list = List { overlap: overlap && micro_batches >= 2 * ranks, micro_batches, ..List::default() };
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
    for turn in 0..micro_batches.max(2 * ranks - 1) + rank + 1 - 2 * ranks {
        if list.overlap && turn == 0 && below == 0 {
            // the first backward pass of all: every other rank waits for it, so nothing slows it down
            list.push(WorkKind::Forward, 0);
            list.push(WorkKind::Backward, 1);
        } else {
            list.push_both(0);
        }
        list.push_both(1);
    }
    for _ in 0..below {
        list.push_backward(1);
        list.push_both(1);
    }
    for turn in 0..2 * (rank + 1) {
        let kind = if list.overlap && turn <= rank { WorkKind::Backward } else { WorkKind::Input };
        list.push(kind, u32::from(turn % 2 == 0));
    }
    for _ in 0..below {
        list.push_weight();
        list.push(WorkKind::Input, 0);
    }
    while list.push_weight() {}
    list.work
}

/// ZB-V of p micro-batches at most, all of which a rank can hold. If all takes one unit of time, every forward pass and
/// input gradient has a unit to itself in which all that it needs is there, and weight gradients go where units are left.
fn few(ranks: u64, rank: u64, micro_batches: u64) -> Vec<Work> {
    let below = ranks - rank - 1;
    let units = |k: u64| {
        [
            (rank + k + k.saturating_sub(2 * below), WorkKind::Forward, 0),
            (ranks + below + 2 * k, WorkKind::Forward, 1),
            (2 * ranks + rank + 2 * k, WorkKind::Input, 1),
            (3 * ranks + below + 2 * k, WorkKind::Input, 0),
        ]
    };
    let mut units: Vec<_> = (0..micro_batches).flat_map(units).collect();
    units.sort_unstable_by_key(|(unit, ..)| *unit);
    let mut list = List { micro_batches, ..List::default() };
    let mut next = 0;
    for (unit, kind, chunk) in units {
        for _ in next..unit {
            list.push_weight();
        }
        list.push(kind, chunk);
        next = unit + 1;
    }
    while list.push_weight() {}
    list.work
}

/// A rank's work in the making. Each chunk takes micro-batches in their order, and those that do not exist leave nothing.
#[derive(Default)]
struct List {
    overlap: bool,
    micro_batches: u64,
    work: Vec<Work>,
    /// By chunk: the next micro-batch to run forward.
    forward: [u64; 2],
    /// By chunk: the next micro-batch to run back.
    backward: [u64; 2],
    /// Pieces that have an input gradient and no weight gradient, in order.
    weights: VecDeque<Piece>,
}

impl List {
    fn add(&mut self, kind: WorkKind, piece: Piece) {
        if piece.micro_batch < self.micro_batches {
            self.work.push(Work { kind, piece });
        }
    }

    /// The next forward pass, input gradient or whole backward pass of a chunk.
    fn push(&mut self, kind: WorkKind, chunk: u32) {
        let next = if kind == WorkKind::Forward { &mut self.forward } else { &mut self.backward };
        let piece = take(next, chunk);
        if kind == WorkKind::Input {
            self.weights.push_back(piece);
        }
        self.add(kind, piece);
    }

    /// The weight gradient that waits longest. Gives whether there was one.
    fn push_weight(&mut self) -> bool {
        let piece = self.weights.pop_front();
        piece.inspect(|piece| self.add(WorkKind::Weight, *piece)).is_some()
    }

    /// A backward pass: where nothing runs beside it, so that its input gradient can leave before its weight gradient.
    fn push_backward(&mut self, chunk: u32) {
        if self.overlap {
            self.push(WorkKind::Backward, chunk);
        } else {
            self.push(WorkKind::Input, chunk);
            self.push_weight();
        }
    }

    /// The backward pass of the other chunk and the forward pass of this one.
    fn push_both(&mut self, chunk: u32) {
        if self.overlap {
            let backward = take(&mut self.backward, 1 - chunk);
            let piece = take(&mut self.forward, chunk);
            self.add(WorkKind::Both { backward }, piece);
        } else {
            self.push_backward(1 - chunk);
            self.push(WorkKind::Forward, chunk);
        }
    }
}

fn take(next: &mut [u64; 2], chunk: u32) -> Piece {
    let micro_batch = next[chunk as usize];
    next[chunk as usize] += 1;
    Piece { chunk, micro_batch }
}
