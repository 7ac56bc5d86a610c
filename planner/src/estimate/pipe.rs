//! The pipeline of a step: the orders of its schedule, simulated with the times and bytes of its chunks.

use crate::pins::ScheduleKind;
use crate::pipeline::{Costs, LinkCosts, OrderError, Orders, Sending, StageCosts, orders, simulate};
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

/// Runs orders. `hop` is the time to send what one chunk hands to the next; a rank that sends by itself does nothing else.
pub fn run(orders: &Orders, chunks: &[ChunkCost], hop: f64, by_itself: bool) -> Run {
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
    let timeline = simulate(orders, &Costs { stages: &stages, links: &links, sending }).expect("orders of a schedule run to their end");
    let peaks = timeline.ranks.iter().zip(&orders.ranks).map(|(rank, works)| {
        let work = &works[rank.peak.index];
        (rank.peak.stored.0 as f64, format!("in the {} of micro-batch {}", work.kind.words(), work.piece.micro_batch))
    });
    Run { span: timeline.span.0, busy: timeline.ranks.iter().map(|rank| rank.busy.0).fold(0.0, f64::max), peaks: peaks.collect() }
}
