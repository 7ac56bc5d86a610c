//! runtime
pub mod comm;
pub mod data;
pub mod kernel;
pub mod measure;
mod mapped;
pub mod pool;
pub mod run;
pub mod store;
