//! The agent: PID 1 of the ramdisk, lookup, heartbeat, REST API and the steps.
//!
//! `main.rs` picks the real parts; everything else is here. [`Agent::builder`] puts an agent together from a machine,
//! settings and hardware managers, so that a vendor can build one with a manager of its own.

pub mod api;
pub mod checksum;
pub mod command;
pub mod config;
pub mod contain;
pub mod container;
pub mod extension;
pub mod external;
mod files;
mod firmware;
mod health;
pub mod logs;
mod maintenance;
pub mod manager;
mod memory;
pub mod net;
mod nvram;
pub mod partition;
pub mod pid1;
pub mod prepare;
mod program;
pub mod ramdisk;
pub mod rescue;
pub mod root_disk;
pub mod session;
pub mod standalone;
pub mod state;
pub mod write;

pub use builder::Builder;
pub use command::Dispatcher;
pub use config::Settings;
pub use state::{Agent, Shared, Token};

mod builder;
