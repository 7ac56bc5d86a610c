//! The layout problem: one strategy for every node, so that the costs of nodes and edges are least and no memory limit
//! is exceeded at any time.
//!
//! A **node** has strategies, each with a cost. While a **span** of time lasts, a node holds bytes of one limit, how
//! many depends on its strategy. An **edge** joins two nodes and costs what its **table** says for their two
//! strategies; several edges between one pair add up. A cost of [`FORBIDDEN`] and more may not be chosen.
//!
//! The public instances of the ASPLOS 2025 contest on intra-operator parallelism are such problems with one limit and
//! at most one span per node. Nothing here knows what a tensor is.
//!
//! - [`problem`]: the data, how it is built, and what a choice costs and holds.
//! - [`mod@read`], [`mod@write`]: the contest's files, with an extension for several spans and limits.
//! - [`mod@generate`]: problems of the same character as the public ones, of any size; [`mod@small`]: tiny ones.
//! - [`brute`]: the best choice by trying all.

pub mod brute;
pub mod generate;
mod json;
pub mod problem;
pub mod read;
pub mod small;
pub mod write;

pub use brute::brute_force;
pub use generate::{GenerateOptions, generate};
pub use problem::{Edge, FORBIDDEN, Problem, ProblemBuilder, ProblemError, Span};
pub use read::ReadError;
pub use small::small;
