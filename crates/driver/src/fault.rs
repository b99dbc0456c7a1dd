//! The faults of the driver: one list, each with its HTTP status; the only HTTP codes in the driver.

use crate::tag::Tag;
use uuid::Uuid;
use wire::ironic::VersionError;

/// Why a request was not done. The text is for the person who asked: it names the input, the reason and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The request is wrong by itself.
    #[error("{0}")]
    Invalid(String),
    /// The request cannot be done in the node's state.
    #[error(
        "The requested action \"{verb}\" can not be performed on node \"{node}\" while it is in state \"{state}\". \
         Possible now: {allowed}."
    )]
    WrongState {
        /// The verb.
        verb: String,
        /// The node.
        node: Uuid,
        /// Its state.
        state: String,
        /// The verbs that are possible, joined.
        allowed: String,
    },
    /// There is no such thing. Says nothing more than that.
    #[error("{0}")]
    NotFound(String),
    /// No route of this listener has this path.
    #[error("The resource could not be found.")]
    NoRoute,
    /// The path names something in a way in which nothing can be named.
    #[error("{0}")]
    BadPath(String),
    /// The version header.
    #[error(transparent)]
    Version(VersionError),
    /// A part of a file was asked for that the file does not have.
    #[error("the file has {length} bytes; that range is not in it")]
    Range {
        /// Length of the file in bytes.
        length: u64,
    },
    /// Somebody works on it, or it is in a state in which it must not be changed: try later.
    #[error("{0}")]
    Conflict(String),
    /// It is not what the request was made from any more.
    #[error("it was changed since it was read: If-Match says {expected}, now it is {found}; read it again")]
    Changed {
        /// What the request says.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The method is one of the path in newer versions only.
    #[error("{method} is a method of this path since API version 1.{since}")]
    MethodNotYet {
        /// The method.
        method: String,
        /// The version that brought it.
        since: u16,
    },
    /// Nobody said who asks, or not truly.
    #[error("{0}")]
    Unauthorized(String),
    /// Not with the node's present settings (protected).
    #[error("{0}")]
    Forbidden(String),
    /// The version of the request does not have this.
    #[error("{0}")]
    NotAcceptable(String),
    /// The body is larger than this route takes.
    #[error("{0}")]
    TooLarge(String),
    /// The method is not one of the path.
    #[error("{method} is not a method of this path; it has: {allowed}")]
    MethodNotAllowed {
        /// The method.
        method: String,
        /// The methods that the path has, joined.
        allowed: String,
    },
    /// The service cannot at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// A bug or a broken database; details are in the log.
    #[error("{0}")]
    Internal(String),
}

impl Fault {
    /// What a request gets that its version does not have. Ironic's text.
    pub fn not_acceptable() -> Self {
        Self::NotAcceptable("Request not acceptable.".to_owned())
    }

    /// What everything gets that must not tell why there is nothing. Ironic's text.
    pub fn nothing_here() -> Self {
        Self::NotFound("Resource could not be found.".to_owned())
    }

    /// What a change gets that was made from another version than there is.
    pub fn changed(expected: &[Tag], found: Tag) -> Self {
        let expected: Vec<String> = expected.iter().take(10).map(Tag::to_string).collect();
        let expected = if expected.is_empty() { "no version".to_owned() } else { expected.join(", ") };
        Self::Changed { expected, found: found.to_string() }
    }

    /// Its HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) | Self::BadPath(_) | Self::WrongState { .. } => 400,
            Self::Unauthorized(_) => 401,
            Self::Forbidden(_) => 403,
            Self::NotFound(_) | Self::NoRoute => 404,
            Self::MethodNotAllowed { .. } | Self::MethodNotYet { .. } => 405,
            Self::NotAcceptable(_) | Self::Version(_) => 406,
            Self::Conflict(_) => 409,
            Self::Changed { .. } => 412,
            Self::TooLarge(_) => 413,
            Self::Range { .. } => 416,
            Self::Internal(_) => 500,
            Self::Unavailable(_) => 503,
        }
    }

    /// Its gRPC status code (grpc.github.io, "Status codes and their use in gRPC").
    pub fn grpc_code(&self) -> tonic::Code {
        match self {
            Self::Invalid(_) | Self::BadPath(_) | Self::NotAcceptable(_) | Self::Version(_) | Self::TooLarge(_) => {
                tonic::Code::InvalidArgument
            }
            Self::WrongState { .. } | Self::Conflict(_) | Self::Changed { .. } => tonic::Code::FailedPrecondition,
            Self::Unauthorized(_) => tonic::Code::Unauthenticated,
            Self::Forbidden(_) => tonic::Code::PermissionDenied,
            Self::NotFound(_) => tonic::Code::NotFound,
            Self::NoRoute | Self::MethodNotAllowed { .. } | Self::MethodNotYet { .. } => tonic::Code::Unimplemented,
            Self::Range { .. } => tonic::Code::OutOfRange,
            Self::Internal(_) => tonic::Code::Internal,
            Self::Unavailable(_) => tonic::Code::Unavailable,
        }
    }
}
