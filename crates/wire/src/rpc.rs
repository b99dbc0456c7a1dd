//! `ferric.agent.v1` as it travels: messages, client and server, generated from proto/ferric/agent/v1/agent.proto by
//! `cargo xtask wire`. What the messages say, checked, is in [`crate::session`].

#![allow(missing_docs, reason = "generated; the comments are the description's")]
#![allow(clippy::all, reason = "generated")]

include!("generated/ferric.agent.v1.rs");

/// `ferric.events.v1`: what happens to nodes, for programs; generated from proto/ferric/events/v1/events.proto.
pub mod events {
    include!("generated/ferric.events.v1.rs");
}

/// The token is not for logs.
impl std::fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollRequest")
            .field("node_uuid", &self.node_uuid)
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}
