//! The planner.

pub mod catalogue;
pub mod cluster;
pub mod collective;
pub mod cost;
pub mod coupling;
pub mod estimate;
pub mod evaluate;
pub mod layout_problem;
pub mod layout_solver;
pub mod layouts;
pub mod mesh;
mod nearest;
pub mod pins;
pub mod pipeline;
pub mod plan;
pub mod price;
pub mod search;
pub mod stages;
pub mod strategy;
pub mod units;
pub mod verify;
