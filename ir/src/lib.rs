//! What a tensor, operator, sharding rule, graph, mesh and layout are.
pub mod axis;
pub mod boxing;
pub mod build;
pub mod dtype;
pub mod formula;
pub mod grad;
pub mod graph;
pub mod id;
pub mod interpret;
pub mod layout;
pub mod library;
pub mod random;
pub mod rule;
pub mod scalar;
pub mod signature;
pub mod step;
pub mod train;
