//! runtime
pub mod comm;
pub mod data;
pub mod kernel;
mod mapped;
pub mod measure;
pub mod pool;
pub mod run;
pub mod store;
mod wait;
