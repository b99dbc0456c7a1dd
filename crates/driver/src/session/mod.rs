//! The driver's side of `ferric.agent.v1`: agents dial in, so nothing has to reach into their network.
//!
//! | file | what is in it |
//! |---|---|
//! | `authority.rs` | who is believed: the authority of this driver, certificates for nodes |
//! | `service.rs` | the three calls, and the listener that takes them |
//! | `calls.rs` | calls of which there is one at a time |
//! | `connection.rs` | one connection of a session, from hello to its end |
//! | `telemetry.rs` | the log of an agent |
//!
//! What is remembered of a session as long as it may be resumed is in [`crate::agents::stream`]; who may have one is decided
//! in `conductor/session.rs`. docs/session.md tells how a session goes.

pub mod authority;
mod calls;
mod connection;
mod service;
mod telemetry;

pub use connection::state_of;
pub use service::{Listening, serve};
pub use telemetry::check as check_batch;
