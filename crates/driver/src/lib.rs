//! The driver: knows what state every server is in and takes it to the next.
//!
//! A request becomes a [`command::Command`]; the [`conductor`] loads the node, asks `lifecycle` what the command means,
//! commits node, flow and history together, and lets the node's flow run. A flow ([`flow`]) is a saved list of steps
//! with a cursor; each step is an [`effect`], safe to run twice. Agents are reached through [`agents`].

pub mod command;
pub mod fault;
