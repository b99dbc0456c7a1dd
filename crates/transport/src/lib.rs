//! One server stack and one client stack, so that limits, deadlines and TLS are decided in one place.
//!
//! - [`server`]: serves an axum router on a listener, plain or TLS, with a cap on connections and graceful shutdown.
//! - [`client`]: requests with a deadline, a chosen [`client::Trust`] and capped replies; never follows a redirect.
//! - [`http2`]: what gRPC needs: a connection of its own, and a server that knows its peer's certificate.
//! - [`proxy`]: connections through a proxy, where a request has to take one.
//! - [`tls`]: identities (given or generated) and what a server or client makes of them.
//! - [`body`]: bodies read under a cap.

pub mod body;
pub mod client;
mod guests;
pub mod http2;
mod impatient;
pub mod proxy;
pub mod server;
pub mod tls;
