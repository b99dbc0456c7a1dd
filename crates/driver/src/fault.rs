//! The faults of the driver: one list, each with its HTTP status; the only HTTP codes in the driver.

use uuid::Uuid;

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
    /// Somebody works on it, or it is in a state in which it must not be changed: try later.
    #[error("{0}")]
    Conflict(String),
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
    #[error("{0}")]
    MethodNotAllowed(String),
    /// The service cannot at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// A bug or a broken database; details are in the log.
    #[error("{0}")]
    Internal(String),
}

impl Fault {
    /// Its HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) | Self::WrongState { .. } => 400,
            Self::Forbidden(_) => 403,
            Self::NotFound(_) => 404,
            Self::MethodNotAllowed(_) => 405,
            Self::NotAcceptable(_) => 406,
            Self::Conflict(_) => 409,
            Self::TooLarge(_) => 413,
            Self::Internal(_) => 500,
            Self::Unavailable(_) => 503,
        }
    }
}
