//! The session of `ferric.agent.v1`, which the agent dials: what its frames say once they have been checked
//! ([`FromAgent`], [`FromDriver`]), how both sides number, acknowledge and repeat them ([`link`]), and what breaks the rules
//! ([`Violation`]). The messages as they travel are in [`crate::rpc`]; docs/session.md tells how a session goes.

mod convert;
pub mod link;
mod violation;

pub use link::{Link, Receipt};
pub use violation::{Reason, Violation};

use bytes::Bytes;
use hardware::Progress;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Highest minor version of the package that this build knows.
pub const PROTOCOL_MINOR: u32 = 0;
/// Longest JSON document in a frame, bytes: what the agent's REST API takes as a body.
pub const DOCUMENT_LIMIT: usize = 32 << 20;
/// Longest frame, bytes: a document and everything beside it.
pub const FRAME_LIMIT: usize = DOCUMENT_LIMIT + (64 << 10);
/// Longest text that is no document, bytes.
pub const TEXT_LIMIT: usize = 4096;
/// Lines in a [`crate::rpc::LogBatch`] at most.
pub const LOG_LINES: usize = 512;
/// Bytes of lines in a batch at most.
pub const LOG_BYTES: usize = 64 << 10;

/// The key of the lookup reply's `config` that offers a session; a real Ironic has none.
pub const OFFER_KEY: &str = "ferric_session";

/// Where a driver takes sessions: the value of [`OFFER_KEY`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// `https://<host>:<port>`, nothing behind it.
    pub url: String,
    /// The authority of the server's certificate, PEM. No other is believed.
    pub ca: String,
}

/// The only name in an agent's certificate, a URI.
pub fn node_uri(node: Uuid) -> String {
    format!("ferric:node:{node}")
}

/// The callback URL in a heartbeat over REST of an agent that does not listen: it can be reached by its session alone.
pub fn callback_url(session: Uuid) -> String {
    format!("{CALLBACK_SCHEME}:{session}")
}

/// Scheme of [`callback_url`].
pub const CALLBACK_SCHEME: &str = "ferric-session";

/// A frame. `seq` is 0 for bodies that are not numbered.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame<B> {
    /// Number of the body.
    pub seq: u64,
    /// Everything up to here has been received.
    pub ack: u64,
    /// What it says.
    pub body: B,
}

/// What a body has to tell for [`Link`].
pub trait Body: Clone {
    /// Whether it is numbered, acknowledged and repeated.
    fn is_numbered(&self) -> bool;
    /// About how many bytes it takes.
    fn size(&self) -> usize;
    /// A bare acknowledgement.
    fn acknowledgement() -> Self;
}

/// What an agent says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromAgent {
    /// Who it is, first on a connection.
    Hello(Hello),
    /// A command was accepted, has ended, or is listed.
    Command {
        /// `wire::agent::CommandResult` as JSON.
        document: Bytes,
        /// Bytes of a result that is too long and left out of it.
        omitted: u64,
    },
    /// A command was not accepted.
    Refused(Refused),
    /// How far a command is.
    Progress {
        /// The command.
        id: Uuid,
        /// How far.
        progress: Progress,
    },
    /// It lives.
    Heartbeat(Heartbeat),
    /// The end of a list, and its length.
    Listed(u32),
    /// Nothing but the acknowledgement of the frame.
    Ack,
    /// It ends the connection.
    Close(Violation),
    /// Something that this version does not know.
    Unknown,
}

/// What a driver says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromDriver {
    /// The answer to [`Hello`].
    Welcome(Welcome),
    /// A command to carry out.
    Command(Command),
    /// A command whose arguments cannot be read, with its refusal. Never sent.
    Unreadable(Refused),
    /// A command is to stop at its next safe point.
    Cancel(Uuid),
    /// Nothing but the acknowledgement of the frame.
    Ack,
    /// It ends the connection.
    Close(Violation),
    /// Something that this version does not know.
    Unknown,
}

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The node.
    pub node: Uuid,
    /// Made by the agent at its start.
    pub session: Uuid,
    /// Number of the last frame received; 0 for none.
    pub last_received: u64,
    /// Highest minor version that it knows.
    pub protocol_minor: u32,
    /// What it reports over REST.
    pub agent_version: String,
    /// Version of the program.
    pub ferric_version: String,
}

/// The answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Whether the driver remembers the session.
    pub resumed: bool,
    /// Number of the last frame received; 0 for none.
    pub last_received: u64,
    /// Highest minor version that it knows.
    pub protocol_minor: u32,
    /// Version of the program.
    pub driver_version: String,
    /// Seconds after which a heartbeat is missed.
    pub heartbeat_timeout: u32,
}

/// A command to carry out.
#[derive(Clone, PartialEq)]
pub struct Command {
    /// Chosen by the driver.
    pub id: Uuid,
    /// `<extension>.<command>`.
    pub name: String,
    /// Arguments by name.
    pub params: Map<String, Value>,
}

/// Arguments may be secrets, and are long.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A command that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The command.
    pub id: Uuid,
    /// HTTP status with which REST refuses it.
    pub status: u16,
    /// Why, in REST's words.
    pub faultstring: String,
}

/// The agent lives, or has something to tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heartbeat {
    /// `start`, `end` or `error`.
    pub status: Option<String>,
    /// Text for the status.
    pub message: Option<String>,
}

impl Body for FromAgent {
    fn is_numbered(&self) -> bool {
        !matches!(self, Self::Hello(_) | Self::Ack | Self::Close(_))
    }

    fn size(&self) -> usize {
        match self {
            Self::Command { document, .. } => document.len(),
            Self::Refused(refused) => refused.faultstring.len(),
            Self::Progress { progress, .. } => progress.stage.len() + progress.stalled.as_ref().map_or(0, String::len),
            _ => 0,
        }
    }

    fn acknowledgement() -> Self {
        Self::Ack
    }
}

impl Body for FromDriver {
    fn is_numbered(&self) -> bool {
        !matches!(self, Self::Welcome(_) | Self::Ack | Self::Close(_))
    }

    fn size(&self) -> usize {
        match self {
            // What they take in memory is near enough to what they take as text.
            Self::Command(command) => command.name.len() + weight(&command.params),
            _ => 0,
        }
    }

    fn acknowledgement() -> Self {
        Self::Ack
    }
}

/// About how long a JSON object is as text. Depth is capped where it was read.
fn weight(map: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len() + 2,
            Value::Array(items) => items.iter().map(|item| of(item) + 1).sum::<usize>() + 2,
            Value::Object(map) => weight(map),
            Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        }
    }
    map.iter().map(|(key, value)| key.len() + 4 + of(value)).sum::<usize>() + 2
}
