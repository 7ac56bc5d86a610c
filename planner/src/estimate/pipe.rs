//! The pipeline of a step: the orders of its schedule, simulated with the times and bytes of its chunks.

use crate::pins::ScheduleKind;
use crate::pipeline::{Costs, LinkCosts, OrderError, Orders, Pass, Sending, StageCosts, Timeline, Work, orders, simulate};
use crate::units::{Bytes, Seconds};

/// What one micro-batch costs on a chunk of the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChunkCost {
    /// Seconds of its forward pass.
    pub forward: f64,
    /// Seconds of the gradients of its inputs.
    pub input: f64,
    /// Seconds of the gradients of its weights.
    pub weight: f64,
    /// Bytes that its forward pass leaves for its backward pass.
    pub saved: f64,
}

/// A simulated pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Seconds from the first work to the last.
    pub span: f64,
    /// Seconds of work of the busiest rank.
    pub busy: f64,
    /// By rank: the most bytes of activations, the micro-batch of the work in which it is so many, and its pass in words.
    pub peaks: Vec<(f64, String)>,
}

/// The orders of a schedule. One rank has one order whatever the schedule.
pub fn ordered(kind: ScheduleKind, ranks: u64, micro_batches: u64, chunks: u64) -> Result<Orders, OrderError> {
    match kind {
        ScheduleKind::Interleaved if chunks == 1 => orders(ScheduleKind::OneFOneB, ranks, micro_batches, 1),
        _ if ranks == 1 && chunks == 1 => {
            orders(if kind == ScheduleKind::GPipe { kind } else { ScheduleKind::OneFOneB }, 1, micro_batches, 1)
        }
        kind => orders(kind, ranks, micro_batches, chunks),
    }
}

fn timeline(orders: &Orders, chunks: &[ChunkCost], hop: f64, by_itself: bool) -> Timeline {
    let stage = |chunk: &ChunkCost| StageCosts {
        forward: Seconds(chunk.forward),
        input: Seconds(chunk.input),
        weight: Seconds(chunk.weight),
        both: None,
        until_input: Bytes(0),
        until_weight: Bytes(chunk.saved as u64),
    };
    let stages: Vec<StageCosts> = chunks.iter().map(stage).collect();
    let links = vec![LinkCosts { forward: Seconds(hop), backward: Seconds(hop) }; chunks.len() - 1];
    let sending = if by_itself { Sending::Instead } else { Sending::Beside };
    simulate(orders, &Costs { stages: &stages, links: &links, sending }).expect("orders of a schedule run to their end")
}

/// Runs orders. `hop` is the time to send what one chunk hands to the next; a rank that sends by itself does nothing else.
pub fn run(orders: &Orders, chunks: &[ChunkCost], hop: f64, by_itself: bool) -> Run {
    let timeline = timeline(orders, chunks, hop, by_itself);
    let peaks = timeline.ranks.iter().zip(&orders.ranks).map(|(rank, works)| {
        let work = &works[rank.peak.index];
        (rank.peak.stored.0 as f64, format!("in the {} of micro-batch {}", work.kind.words(), work.piece.micro_batch))
    });
    Run { span: timeline.span.0, busy: timeline.ranks.iter().map(|rank| rank.busy.0).fold(0.0, f64::max), peaks: peaks.collect() }
}

/// Bytes of activations by rank over time: (seconds, bytes), the most of each of `points` equal parts of the step in which they change.
pub fn stored(orders: &Orders, chunks: &[ChunkCost], hop: f64, by_itself: bool, points: usize) -> Vec<Vec<(f64, f64)>> {
    let timeline = timeline(orders, chunks, hop, by_itself);
    let part = timeline.span.0 / points.max(1) as f64;
    let of_rank = |(rank, works): (usize, &Vec<Work>)| {
        let saved = |chunk: u32| chunks[orders.placement.stage(rank as u64, chunk) as usize].saved;
        let mut bytes = 0.0;
        let mut curve: Vec<(f64, f64)> = vec![(0.0, 0.0)];
        let mut add = |seconds: f64, bytes: f64| match curve.last_mut() {
            Some(last) if (last.0 / part).floor() == (seconds / part).floor() => last.1 = f64::max(last.1, bytes),
            _ => curve.push((seconds, bytes)),
        };
        for (work, run) in works.iter().zip(&timeline.ranks[rank].runs) {
            if let Some(piece) = work.piece_of(Pass::Forward) {
                bytes += saved(piece.chunk);
                add(run.start.0, bytes);
            }
            if let Some(piece) = work.piece_of(Pass::Weight) {
                bytes -= saved(piece.chunk);
                add(run.end.0, bytes);
            }
        }
        curve
    };
    orders.ranks.iter().enumerate().map(of_rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rank r of 1F1B holds p - r micro-batches once it is full, and nothing in the end.
    #[test]
    fn curves_rise_to_the_peak_and_fall_to_nothing() {
        let orders = ordered(ScheduleKind::OneFOneB, 4, 16, 1).unwrap();
        let chunks = vec![ChunkCost { forward: 1.0, input: 1.0, weight: 1.0, saved: 10.0 }; 4];
        for points in [10, 1000] {
            for (rank, curve) in stored(&orders, &chunks, 0.0, false, points).iter().enumerate() {
                let peak = curve.iter().map(|(_, bytes)| *bytes).fold(0.0, f64::max);
                assert_eq!(peak, 10.0 * (4 - rank) as f64);
                assert!(curve.len() <= points + 1 && curve.windows(2).all(|pair| pair[0].0 < pair[1].0), "{curve:?}");
            }
        }
        let last = stored(&orders, &chunks, 0.0, false, 1000).iter().map(|curve| curve.last().unwrap().1).collect::<Vec<_>>();
        assert_eq!(last, [0.0; 4]);
    }
}
