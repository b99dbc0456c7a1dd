//! The conductor with a simulated machine and agent, under a paused clock with the memory store.

mod crash;
mod failures;
mod life_cycle;
mod protocol;
mod sim;
