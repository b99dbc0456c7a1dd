//! Benchmarks: ours beside a named peer in the same run. They print; they do not judge.

pub mod boot;
