//! What breaks the rules of a session, and how it is told to the other side.

/// What kind of end it is: `ferric.agent.v1.Reason`, with the gRPC status that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The sender stops or starts anew.
    GoingAway,
    /// A frame could not be read, or may not stand where it stood.
    Malformed,
    /// A number was skipped, or something was acknowledged that was never sent.
    Sequence,
    /// A frame or a document is longer than it may be.
    TooLarge,
    /// More frames than there is room for.
    Flood,
    /// Nothing came for too long.
    Silent,
    /// The same node has a newer connection.
    Superseded,
    /// Certificate and hello do not belong together, or the certificate has run out.
    Identity,
    /// A reason that this version does not know, by its number.
    Other(i32),
}

impl Reason {
    /// The gRPC status code (grpc.github.io, "Status codes and their use in gRPC") with which a driver ends the call.
    pub fn grpc_code(self) -> tonic::Code {
        match self {
            Self::GoingAway => tonic::Code::Unavailable,
            Self::Malformed => tonic::Code::InvalidArgument,
            Self::Sequence => tonic::Code::OutOfRange,
            Self::TooLarge | Self::Flood => tonic::Code::ResourceExhausted,
            Self::Silent => tonic::Code::DeadlineExceeded,
            Self::Superseded => tonic::Code::Aborted,
            Self::Identity => tonic::Code::PermissionDenied,
            Self::Other(_) => tonic::Code::Unknown,
        }
    }
}

/// Why a connection ends, told by one side or the other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Violation {
    /// What kind.
    pub reason: Reason,
    /// One sentence: what came, and what would have been right.
    pub text: String,
}

impl Violation {
    /// One of that kind.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// A frame that cannot be read.
    pub(crate) fn malformed(text: impl Into<String>) -> Self {
        Self::new(Reason::Malformed, text)
    }

    /// The status with which a driver ends the call.
    pub fn to_status(&self) -> tonic::Status {
        tonic::Status::new(self.reason.grpc_code(), self.text.clone())
    }
}
