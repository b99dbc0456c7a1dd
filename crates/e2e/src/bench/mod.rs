//! Benchmarks: ours beside a named peer in the same run.

pub mod boot;
pub mod driver;
