//! The conductor with a simulated machine and agent, under a paused clock with the memory store.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it does not expect by panicking, and which kill it was at"
)]

mod children;
mod crash;
mod erasures;
mod failures;
mod firmware;
mod flows;
mod life_cycle;
mod power;
mod protocol;
mod sim;
mod why;
