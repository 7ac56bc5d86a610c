//! What a plan takes on a cluster under a software stack: time and memory, worked out from the graph of its training step.
//!
//! - [`dealing`]: the layouts of a foreign stack inside its pins;
//! - [`groups`], [`sections`]: kernels, what moves, and what is saved for the backward pass, a micro-batch at a time;
//! - [`kernel_time`], [`constants`]: the time of a kernel and what devices reach;
//! - [`pipe`]: the simulation of the pipeline;
//! - [`stack`]: what the engine that executes the plan fuses, overlaps and stores;
//! - [`step`]: everything put together;
//! - [`choose`]: the fastest candidate that the pins leave.

pub mod choose;
pub mod constants;
pub mod dealing;
pub mod groups;
pub mod kernel_time;
pub mod pipe;
pub mod sections;
pub mod stack;
mod states;
pub mod step;

#[cfg(test)]
mod tests;
