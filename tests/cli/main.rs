//! The command line from outside: the program itself is run, on the models and clusters of the repository.
//!
//! - [`usage`]: help, exit code 2, colours, pipes that close;
//! - [`bad_input`]: everything that ends with exit code 1 and a diagnostic;
//! - [`precision`]: runs in 16 bits and with a scaled loss;
//! - [`pins`]: which pins are taken, refused, and impossible;
//! - [`damaged`]: programs that may not run, by the program verifier and through the command line;
//! - [`agreement`]: every plan gives the losses of one rank;
//! - [`checkpoints`]: runs that are killed, resumed, resumed elsewhere;
//! - [`figures`]: what plans say beside what runs count;
//! - [`mixed`]: clusters of several kinds of devices;
//! - [`operators`]: an operator that only a model file knows;
//! - [`solve`]: layout problems;
//! - [`stacks`]: plans that are estimated;
//! - [`states`]: what a model keeps from step to step;
//! - [`emitted`]: the layout problems of plans;
//! - [`formatting`]: model files formatted, and checked for other programs;
//! - [`house`]: who may depend on whom.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]
#![allow(dead_code, reason = "support is shared with the tests of another crate, which use all of it")]

mod agreement;
mod bad_input;
mod checkpoints;
mod damaged;
mod emitted;
mod figures;
mod formatting;
mod house;
mod mixed;
mod operators;
mod pins;
mod precision;
mod profile;
mod solve;
mod stacks;
mod states;
mod support;
mod usage;
