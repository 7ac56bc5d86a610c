//! Schedules whose stages go round the ranks.

use super::order::{Piece, Work, WorkKind};

fn of_only_chunk(kind: WorkKind, micro_batch: u64) -> Work {
    Work { kind, piece: Piece { chunk: 0, micro_batch } }
}

/// GPipe (Huang et al., 2019): all forward, then all backward.
pub fn gpipe(micro_batches: u64) -> Vec<Work> {
    let all = |kind| (0..micro_batches).map(move |micro_batch| of_only_chunk(kind, micro_batch));
    all(WorkKind::Forward).chain(all(WorkKind::Backward)).collect()
}

/// 1F1B (PipeDream-Flush; Narayanan et al., 2019 and 2021): rank r of p runs p - r - 1 forward passes ahead, then
/// alternates.
pub fn one_f_one_b(ranks: u64, rank: u64, micro_batches: u64) -> Vec<Work> {
    let all: Vec<Piece> = (0..micro_batches).map(|micro_batch| Piece { chunk: 0, micro_batch }).collect();
    in_turn(&all, &all, ranks - rank - 1)
}

/// Interleaved 1F1B (Narayanan et al., 2021, section 2.2): micro-batches go through chunk after chunk in groups of as
/// many as there are ranks, and rank r runs `2 (p - r - 1) + (v - 1) p` forward passes ahead.
///
/// A last group that is smaller would let ranks wait for each other for ever: the count of passes ahead holds for full
/// groups only. So the order is that of a full group, without the micro-batches that do not exist. To leave some out
/// keeps an order legal, since no micro-batch waits for another one's result. The bubble is then larger than the
/// `(p - 1) (F + B + W)` of full groups, times of a chunk, but the step takes no longer than with the group filled up.
pub fn interleaved(ranks: u64, rank: u64, micro_batches: u64, chunks: u32) -> Vec<Work> {
    if chunks == 1 {
        return one_f_one_b(ranks, rank, micro_batches);
    }
    let groups = micro_batches.div_ceil(ranks);
    let through = |chunk_of: &dyn Fn(u32) -> u32| -> Vec<Piece> {
        let mut pieces = Vec::new();
        for group in 0..groups {
            for turn in 0..chunks {
                let chunk = chunk_of(turn);
                pieces.extend((group * ranks..(group + 1) * ranks).map(|micro_batch| Piece { chunk, micro_batch }));
            }
        }
        pieces
    };
    let ahead = 2 * (ranks - rank - 1) + u64::from(chunks - 1) * ranks;
    let mut order = in_turn(&through(&|turn| turn), &through(&|turn| chunks - 1 - turn), ahead);
    order.retain(|work| work.piece.micro_batch < micro_batches);
    order
}

/// Some forward passes ahead, then one forward and one backward in turn, then the backward passes that are left.
fn in_turn(forward: &[Piece], backward: &[Piece], ahead: u64) -> Vec<Work> {
    let ahead = usize::try_from(ahead).map_or(forward.len(), |ahead| ahead.min(forward.len()));
    let (first, rest) = forward.split_at(ahead);
    let mut rest = rest.iter();
    let mut order: Vec<Work> = first.iter().map(|piece| Work { kind: WorkKind::Forward, piece: *piece }).collect();
    for piece in backward {
        order.extend(rest.next().map(|piece| Work { kind: WorkKind::Forward, piece: *piece }));
        order.push(Work { kind: WorkKind::Backward, piece: *piece });
    }
    order
}

/// ZB-H1 and ZB-H2 (Qi et al., 2024, section 2): 1F1B with the weight gradient apart and `delay` micro-batches late, so
/// that it runs where a rank would wait for its neighbours at the end of the step.
///
/// H1 on rank r of p: p - r forward passes first, r late: every rank holds p micro-batches. H2: 2 (p - r) - 1 first, 2 r
/// late: every rank holds 2 p - 1, and with equal times none waits between its first and its last work.
pub fn zero_bubble(first: u64, delay: u64, micro_batches: u64) -> Vec<Work> {
    let first = first.min(micro_batches);
    let mut order: Vec<Work> = (0..first).map(|micro_batch| of_only_chunk(WorkKind::Forward, micro_batch)).collect();
    for micro_batch in 0..micro_batches {
        order.push(of_only_chunk(WorkKind::Input, micro_batch));
        if micro_batch >= delay {
            order.push(of_only_chunk(WorkKind::Weight, micro_batch - delay));
        }
        if first + micro_batch < micro_batches {
            order.push(of_only_chunk(WorkKind::Forward, first + micro_batch));
        }
    }
    let late = delay.min(micro_batches);
    order.extend((micro_batches - late..micro_batches).map(|micro_batch| of_only_chunk(WorkKind::Weight, micro_batch)));
    order
}
