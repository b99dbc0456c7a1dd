//! Why the service did not do it, and what to do about that.

use crate::exit::Exit;
use http::Method;
use transport::client::ClientError;

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("no answer from {url}: {}", reason(.cause))]
    Unreachable { url: String, named_by: String, cause: Box<ClientError> },
    #[error("{url} does not answer like an Ironic API: {reason}")]
    Understood { url: String, reason: String },
    #[error("read the certificates of {path}")]
    Trust {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("trust what {} vouches for", file(.path.as_deref()))]
    Tls {
        path: Option<String>,
        #[source]
        source: transport::tls::TlsError,
    },
    #[error("no password for user {user:?}")]
    NoPassword { user: String },
    #[error("{url} {}: {text}", denied(.user.as_deref()))]
    Denied { url: String, user: Option<String>, text: String },
    #[error("there is no node {ident:?}")]
    NoNode { ident: String, like: Vec<String> },
    #[error("{text}")]
    NotFound { text: String },
    #[error("{url} does not take this request: {text}")]
    NoRoute { url: String, text: String },
    #[error("{url} does not have this in version {version} of its API: {text}")]
    TooOld { url: String, version: String, text: String },
    #[error("{url} has no {what:?}: that is an addition of Ferric's, and this is an Ironic or an older release")]
    Lacking { what: String, url: String, instead: String },
    #[error("{text}")]
    Refused { status: u16, text: String },
    #[error("{url} failed with {status}: {text}")]
    Broken { url: String, status: u16, text: String },
    /// A reply that goes on broke off.
    #[error("what {url} sends broke off: {reason}")]
    CutOff { url: String, reason: String },
    #[error("a dry run was to send {method} {path}, and did not")]
    ReadOnly { method: Method, path: String },
}

impl ApiError {
    /// How the program ends.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } | Self::Understood { .. } | Self::Broken { .. } | Self::CutOff { .. } => {
                Exit::Service
            }
            Self::Trust { .. } | Self::Tls { .. } | Self::NoPassword { .. } => Exit::Usage,
            Self::Denied { .. } => Exit::Denied,
            Self::NoNode { .. } | Self::NotFound { .. } => Exit::Missing,
            Self::NoRoute { .. } | Self::TooOld { .. } | Self::Lacking { .. } => Exit::Lacking,
            Self::Refused { status: 403, .. } => Exit::Denied,
            Self::Refused { .. } => Exit::Refused,
            Self::ReadOnly { .. } => Exit::Fault,
        }
    }

    /// What to do, when there is something.
    pub(crate) fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { named_by, cause, .. } => unreachable(named_by, cause),
            Self::Understood { .. } => {
                "check --url or FERRIC_URL: host and port of the API, with http or https as it is served".to_owned()
            }
            Self::Trust { .. } => "check --cacert, FERRIC_CACERT or OS_CACERT: a PEM file that you may read".to_owned(),
            Self::Tls { path: Some(_), .. } => {
                "give the certificates themselves: a PEM file with BEGIN CERTIFICATE in it".to_owned()
            }
            Self::NoPassword { .. } => "export FERRIC_PASSWORD, or name a password_file in the context".to_owned(),
            Self::Denied { user: None, .. } => {
                "say who asks: --user NAME, and FERRIC_PASSWORD; or a context with username and password_file"
                    .to_owned()
            }
            Self::Denied { .. } => "check user and password".to_owned(),
            Self::NoNode { like, .. } if like.is_empty() => {
                "`ferric node list` shows the nodes that there are".to_owned()
            }
            Self::NoNode { like, .. } => format!("did you mean {}?", like.join(" or ")),
            Self::Lacking { instead, .. } => instead.clone(),
            Self::Refused { status: 403, text } if text.contains("protected") => {
                "`ferric node set NODE --protected no` allows it".to_owned()
            }
            Self::CutOff { .. } => "ask again; what was shown is not all".to_owned(),
            Self::Broken { .. } => "the log of the service says more; try again in a moment".to_owned(),
            Self::Tls { path: None, .. }
            | Self::NotFound { .. }
            | Self::NoRoute { .. }
            | Self::TooOld { .. }
            | Self::Refused { .. }
            | Self::ReadOnly { .. } => return None,
        })
    }
}

fn file(path: Option<&str>) -> &str {
    path.unwrap_or("this machine")
}

/// What a service does to somebody whom it does not know.
fn denied(user: Option<&str>) -> String {
    user.map_or_else(|| "wants to know who asks".to_owned(), |user| format!("does not let user {user:?} in"))
}

/// Why there was no answer, without what the message says already.
fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Connection { reason, .. } => {
            reason.strip_prefix("client error (Connect): ").unwrap_or(reason).to_owned()
        }
        ClientError::Timeout { after, .. } => format!("none within {} s", after.as_secs()),
        other => transport::client::chain(other),
    }
}

/// Who named an address.
fn named(by: &str) -> String {
    if by.is_empty() { "what is asked when none is set".to_owned() } else { format!("that of {by}") }
}

fn unreachable(named_by: &str, error: &ClientError) -> String {
    match error {
        ClientError::Connection { reason, .. } if reason.contains("not valid for name") => {
            "its certificate is for another name: ask it by that one".to_owned()
        }
        ClientError::Connection { reason, .. } if reason.contains("certificate expired") => {
            "renew its certificate, or set this machine's clock right".to_owned()
        }
        ClientError::Connection { reason, .. } if reason.contains("certificate") => {
            "name the certificates that vouch for it: --cacert FILE, or FERRIC_CACERT".to_owned()
        }
        ClientError::Connection { reason, .. } if reason.contains("corrupt message") => {
            "it speaks no TLS there: http:// instead of https://?".to_owned()
        }
        ClientError::Connection { reason, .. } if reason.contains("invalid HTTP version") => {
            "it speaks no plain HTTP there: https:// instead of http://?".to_owned()
        }
        ClientError::Connection { reason, .. } if reason.contains("dns error") => {
            format!("check the name of the host; the address is {}", named(named_by))
        }
        ClientError::Connection { .. } | ClientError::Timeout { .. } | ClientError::Body { .. } => {
            let named_by = named(named_by);
            format!(
                "is ferricd running there? The address is {named_by}; --url URL or FERRIC_URL names another (`ferric --help`)"
            )
        }
        ClientError::Url { .. } | ClientError::Json { .. } => "check --url or FERRIC_URL".to_owned(),
    }
}
