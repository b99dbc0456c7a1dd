//! The driver: knows what state every server is in and takes it to the next.
//!
//! A request becomes a [`command::Command`]; the [`conductor`] loads the node, asks `lifecycle` what the command means,
//! commits node, flow and history together, and lets the node's flow run. A flow ([`flow`]) is a saved list of actions
//! with a cursor; each action is safe to be run twice ([`effect`]). Agents are reached through [`agents`]. What happens
//! on a heartbeat is in `conductor/heartbeat.rs`.

pub mod agents;
pub mod api;
pub mod command;
pub mod conductor;
pub mod config;
pub mod effect;
pub mod erasure;
pub mod events;
pub mod fault;
pub mod flow;
pub mod hardware_type;
pub mod logs;
pub mod metrics;
mod patch;
pub mod rules;
pub mod session;
pub mod tag;
