//! Pipeline schedules: which rank does what in which order, and what that costs in time and memory.
//!
//! - [`order`]: the work of a step, where stages lie, and [`orders`], the schedules by their kinds.
//! - `straight`: the schedules whose stages go round the ranks: GPipe, 1F1B, interleaved 1F1B, ZB-H1, ZB-H2.
//! - `folded`: the schedules whose stages run down the ranks and back up: ZB-V, DualPipeV.
//! - [`simulate()`]: the times of given orders, stage by stage unequal, what waits for sends, and the bytes stored.
//!
//! A model is `stages` that follow one another, a step is `micro_batches` that each run through all of them forward
//! and back. Neither tensors nor clusters appear here: durations and bytes come in as numbers.
//!
//! ```
//! use partita_planner::pins::ScheduleKind;
//! use partita_planner::pipeline::{Costs, LinkCosts, Sending, StageCosts, orders, simulate};
//! use partita_planner::units::{Bytes, Seconds};
//!
//! // four ranks, eight micro-batches, and as long for each gradient as for the forward pass
//! let orders = orders(ScheduleKind::OneFOneB, 4, 8, 1)?;
//! let second = Seconds(1.0);
//! let stage = StageCosts { forward: second, input: second, weight: second, until_weight: Bytes(1), ..StageCosts::default() };
//! let link = LinkCosts::default();
//! let timeline = simulate(&orders, &Costs { stages: &[stage; 4], links: &[link; 3], sending: Sending::Beside })?;
//!
//! // the first rank waits while the three others run forward and back once, and holds four micro-batches
//! assert_eq!(timeline.bubble(), second * 9.0);
//! assert_eq!(timeline.peak(), Bytes(4));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod folded;
pub mod order;
pub mod simulate;
mod straight;
#[cfg(test)]
mod tests;

pub use order::{OrderError, Orders, Pass, Piece, Placement, Work, WorkKind, orders};
pub use simulate::{Costs, LinkCosts, RankTimeline, Sending, SimulationError, StageCosts, Timeline, simulate};
