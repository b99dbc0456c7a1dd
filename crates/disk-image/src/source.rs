//! Where an image comes from: a stream of bytes that can be opened again at any offset.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use transport::client::ClientError;

mod file;
mod http;

pub use file::FileSource;
pub(crate) use file::percent_decode;
pub use http::{HttpSource, content_range};

/// Something that can be read from any offset, several times.
pub trait Source: Send + Sync {
    /// The address for people, without query and credentials.
    fn name(&self) -> &str;

    /// The file that is read, if it is one of this machine.
    fn file(&self) -> Option<PathBuf> {
        None
    }

    /// Opens the stream at byte `at`. When `known` is given, the content must still be the one that had this
    /// identity; otherwise the error is [`SourceError::Changed`].
    fn open<'a>(&'a self, at: u64, known: Option<&'a Identity>) -> BoxFuture<'a, Result<Opened, SourceError>>;
}

/// An open stream.
pub struct Opened {
    /// What is being read.
    pub identity: Identity,
    /// The bytes, from the offset that was asked for. An error is a break: the stream may be opened again behind
    /// the last byte that came.
    pub stream: BoxStream<'static, io::Result<Bytes>>,
}

/// What tells one version of a content from another (RFC 9110, section 8.8).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Bytes in all, where the other side says so.
    pub length: Option<u64>,
    /// Entity tag, as sent.
    pub etag: Option<String>,
    /// Date of the last change, as sent.
    pub modified: Option<String>,
    /// How the server says that it packed the bytes on the way (`Content-Encoding`). The digest is that of the file.
    pub coding: Option<String>,
}

impl Identity {
    /// What a resumed request may be bound to: a strong entity tag, else the date.
    pub fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|tag| !tag.starts_with("W/"));
        strong.or(self.modified.as_deref())
    }

    /// What differs from `other`, among what both know.
    fn difference(&self, other: &Self) -> Option<String> {
        fn differ<T: PartialEq + std::fmt::Display>(what: &str, one: Option<T>, other: Option<T>) -> Option<String> {
            let (one, other) = (one?, other?);
            (one != other).then(|| format!("{what} was {one}, is now {other}"))
        }
        differ("its length", self.length, other.length)
            .or_else(|| differ("its entity tag", self.etag.as_deref(), other.etag.as_deref()))
            .or_else(|| differ("its date", self.modified.as_deref(), other.modified.as_deref()))
    }
}

/// What to do about a failed attempt to open or read a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same request may succeed later.
    Again,
    /// Only a new start at byte 0 can succeed.
    FromStart,
    /// Nothing that this side can do.
    Nothing,
}

/// Why a source does not give bytes.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The address is not one that images are read from.
    #[error("{url:?} is not an image address: {reason}")]
    Address {
        /// As given.
        url: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A file outside every allowed folder.
    #[error("{path} may not be read: images are only read from below {roots}")]
    NotAllowed {
        /// As given.
        path: String,
        /// The allowed folders.
        roots: String,
    },
    /// The file cannot be opened or is not a regular file.
    #[error("open {path}")]
    File {
        /// Its path.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The server answered with something else than the bytes.
    #[error("{url} answered {status}{}", hint(*.status))]
    Status {
        /// URL without query.
        url: String,
        /// HTTP status.
        status: u16,
        /// How long the server wants to be left alone (`Retry-After`).
        after: Option<Duration>,
    },
    /// The reply contradicts itself or the request.
    #[error("{url} sent a reply that cannot be used: {reason}")]
    Reply {
        /// URL without query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection, or none that gave a reply.
    #[error("reach {url}")]
    Connection {
        /// URL without query.
        url: String,
        /// Cause.
        #[source]
        source: Box<ClientError>,
    },
    /// The content is no longer the one that was begun with.
    #[error("{url} changed while it was read: {difference}")]
    Changed {
        /// Its name.
        url: String,
        /// What differs.
        difference: String,
    },
    /// The server cannot continue in the middle.
    #[error("{url} cannot be continued at byte {at}: {reason}")]
    NoResume {
        /// URL without query.
        url: String,
        /// Where it should go on.
        at: u64,
        /// Why not.
        reason: &'static str,
    },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => " (credentials are missing or wrong)",
        403 => " (this machine may not read it; a signed address may have expired)",
        404 | 410 => " (there is no such image)",
        _ => "",
    }
}

impl SourceError {
    /// What to do about it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Address { .. } | Self::NotAllowed { .. } | Self::File { .. } | Self::Changed { .. } => {
                Remedy::Nothing
            }
            Self::Reply { .. } => Remedy::Nothing,
            // 408 request timeout, 425 too early, 429 too many requests: the server asks for another try.
            Self::Status { status: 408 | 425 | 429 | 500..=599, .. } => Remedy::Again,
            Self::Status { .. } => Remedy::Nothing,
            Self::Connection { source, .. } => match **source {
                // No time heals a certificate; the clock was set before.
                ClientError::Connection { untrusted: true, .. } => Remedy::Nothing,
                _ => Remedy::Again,
            },
            Self::NoResume { .. } => Remedy::FromStart,
        }
    }
}

/// What images may be read with.
#[derive(Clone, Default)]
pub struct Access {
    /// The client for http and https. `None`: one with public roots.
    pub client: Option<transport::client::Client>,
    /// Value of the `Authorization` header. It goes to the origin of the image's own URL and to no other.
    pub authorization: Option<::http::HeaderValue>,
    /// Folders from which `file://` images may be read; empty means none.
    pub file_roots: Vec<PathBuf>,
}

/// The source behind an address: `http://`, `https://` or `file:///`.
pub fn from_url(url: &str, access: &Access) -> Result<Arc<dyn Source>, SourceError> {
    let bad = |reason: &str| SourceError::Address { url: shown(url), reason: reason.to_owned() };
    match url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
        Some("http" | "https") => Ok(Arc::new(HttpSource::new(url, access)?)),
        Some("file") => Ok(Arc::new(FileSource::from_url(url, &access.file_roots)?)),
        _ => Err(bad("it must start with http://, https:// or file:///")),
    }
}

/// Whether two http or https addresses have the same scheme, host and port, and so may have the same credentials.
pub fn same_origin(one: &str, other: &str) -> bool {
    let uri = |url: &str| url.parse::<::http::Uri>().ok().filter(|uri| uri.authority().is_some());
    matches!((uri(one), uri(other)), (Some(one), Some(other)) if http::same_origin(&one, &other))
}

/// An address as it may be shown: no query, no credentials, no more than fits in a line.
pub(crate) fn shown(url: &str) -> String {
    let text = url.split(['?', '#']).next().unwrap_or_default();
    let text = match text.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
            let host = host.rsplit('@').next().unwrap_or_default();
            path.map_or(format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
        }
        None => text.to_owned(),
    };
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_an_address_are_not_shown() {
        assert_eq!(shown("https://user:pw@host:1/a/b.raw?sig=secret#x"), "https://host:1/a/b.raw");
        assert_eq!(shown("http://host"), "http://host");
    }

    #[test]
    fn a_weak_entity_tag_is_no_validator_but_a_date_is() {
        let weak = Identity { etag: Some("W/\"a\"".into()), ..Identity::default() };
        assert_eq!(weak.validator(), None);
        let dated = Identity { modified: Some("Sun, 22 Nov 2026 10:00:00 GMT".into()), ..weak };
        assert_eq!(dated.validator(), Some("Sun, 22 Nov 2026 10:00:00 GMT"));
    }

    #[test]
    fn no_time_heals_a_certificate() {
        let failed = |untrusted| SourceError::Connection {
            url: "https://host/x".into(),
            source: Box::new(ClientError::Connection {
                method: ::http::Method::GET,
                url: "https://host/x".into(),
                reason: "invalid peer certificate: Expired".into(),
                unsent: true,
                untrusted,
            }),
        };
        assert_eq!((failed(true).remedy(), failed(false).remedy()), (Remedy::Nothing, Remedy::Again));
    }

    #[test]
    fn addresses_of_ipv6_have_brackets() {
        let source = from_url("http://[fd00::1]:8080/a?sig=x", &Access::default()).unwrap();
        assert_eq!(source.name(), "http://[fd00::1]:8080/a");
        assert!(same_origin("http://[FD00::1]/a", "http://[fd00::1]:80/b"));
    }

    #[test]
    fn an_address_of_another_kind_is_refused_by_name() {
        let error = from_url("ftp://host/x", &Access::default()).err().unwrap();
        insta::assert_snapshot!(error, @r#""ftp://host/x" is not an image address: it must start with http://, https:// or file:///"#);
    }
}
