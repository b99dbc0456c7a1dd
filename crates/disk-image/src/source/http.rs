//! Images over HTTP and HTTPS, continued with `Range` and `If-Range` (RFC 9110, sections 13.1.5 and 14).

use super::{Access, Identity, Opened, Source, SourceError};
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http_body_util::{BodyDataStream, Full};
use hyper::body::Incoming;
use std::io;
use std::time::Duration;
use transport::client::{Client, Settings};

/// How many redirections are followed.
const REDIRECTIONS: usize = 5;

/// An image on an HTTP server.
///
/// Redirections are followed, from https only to https, and the `Authorization` header stays with the origin of the
/// first address. A resumed read starts at the first address again: what it redirects to may have expired.
pub struct HttpSource {
    name: String,
    uri: Uri,
    client: Client,
    authorization: Option<HeaderValue>,
}

impl HttpSource {
    /// The source behind an http or https URL.
    pub fn new(url: &str, access: &Access) -> Result<Self, SourceError> {
        let name = super::shown(url);
        let bad = |reason: String| SourceError::Address { url: super::shown(url), reason };
        let uri: Uri = url.parse().map_err(|error: ::http::uri::InvalidUri| bad(error.to_string()))?;
        let authority = uri.authority().ok_or_else(|| bad("it names no host".into()))?;
        if authority.as_str().contains('@') {
            return Err(bad("credentials do not belong into an address; give them as authorization".into()));
        }
        let client = match &access.client {
            Some(client) => client.clone(),
            None => Client::new(Settings::default()).map_err(|error| bad(error.to_string()))?,
        };
        Ok(Self { name, uri, client, authorization: access.authorization.clone() })
    }

    fn request(&self, uri: &Uri, at: u64, known: Option<&Identity>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("ferric/", env!("CARGO_PKG_VERSION"))));
        // The digest covers the file as it is stored, so no encoding on the way is wanted.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if at > 0 {
            headers.insert(header::RANGE, HeaderValue::from_str(&format!("bytes={at}-")).unwrap_or(EVERYTHING));
            let validator = known.and_then(Identity::validator).and_then(|value| HeaderValue::from_str(value).ok());
            if let Some(validator) = validator {
                headers.insert(header::IF_RANGE, validator);
            }
        }
        if let Some(authorization) = self.authorization.as_ref().filter(|_| same_origin(uri, &self.uri)) {
            let mut value = authorization.clone();
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        request
    }

    async fn follow(&self, at: u64, known: Option<&Identity>) -> Result<Response<Incoming>, SourceError> {
        let mut uri = self.uri.clone();
        for _ in 0..=REDIRECTIONS {
            let reply = self.client.open(self.request(&uri, at, known)).await;
            let reply =
                reply.map_err(|source| SourceError::Connection { url: self.name.clone(), source: Box::new(source) })?;
            if !matches!(reply.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(reply);
            }
            uri = self.redirected(&uri, text(reply.headers(), header::LOCATION))?;
        }
        Err(self.reply(format!("more than {REDIRECTIONS} redirections")))
    }

    fn redirected(&self, from: &Uri, location: Option<String>) -> Result<Uri, SourceError> {
        let location = location.ok_or_else(|| self.reply("a redirection without an address".into()))?;
        let to = resolve(from, &location)
            .ok_or_else(|| self.reply(format!("a redirection to {:?}", super::shown(&location))))?;
        if from.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
            return Err(self.reply(format!("a redirection from https to {}", super::shown(&location))));
        }
        Ok(to)
    }

    fn reply(&self, reason: String) -> SourceError {
        SourceError::Reply { url: self.name.clone(), reason }
    }

    fn changed(&self, difference: String) -> SourceError {
        SourceError::Changed { url: self.name.clone(), difference }
    }

    /// Checks the head of a reply against what was asked for, and says what is being read.
    fn accept(&self, reply: &Response<Incoming>, at: u64, known: Option<&Identity>) -> Result<Identity, SourceError> {
        let headers = reply.headers();
        let mut identity = Identity {
            length: None,
            etag: text(headers, header::ETAG),
            modified: text(headers, header::LAST_MODIFIED),
            coding: text(headers, header::CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity")),
        };
        match reply.status() {
            StatusCode::OK => {
                identity.length = text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
                if at > 0 {
                    return Err(match known.and_then(|known| known.difference(&identity)) {
                        Some(difference) => self.changed(difference),
                        None => SourceError::NoResume {
                            url: self.name.clone(),
                            at,
                            reason: "the server does not do byte ranges",
                        },
                    });
                }
            }
            StatusCode::PARTIAL_CONTENT if at > 0 => {
                let range = text(headers, header::CONTENT_RANGE).unwrap_or_default();
                let (start, length) =
                    content_range(&range).ok_or_else(|| self.reply(format!("206 with the Content-Range {range:?}")))?;
                if start != at {
                    return Err(self.reply(format!("it starts at byte {start}, byte {at} was asked for")));
                }
                identity.length = length;
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(self.changed(format!("it now ends before byte {at}")));
            }
            status => {
                let (url, status) = (self.name.clone(), status.as_u16());
                return Err(SourceError::Status { url, status, after: retry_after(headers) });
            }
        }
        match known.and_then(|known| known.difference(&identity)) {
            Some(difference) => Err(self.changed(difference)),
            None => Ok(identity),
        }
    }
}

/// What a range header that cannot be written would mean; digits always can.
const EVERYTHING: HeaderValue = HeaderValue::from_static("bytes=0-");

impl Source for HttpSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn open<'a>(&'a self, at: u64, known: Option<&'a Identity>) -> BoxFuture<'a, Result<Opened, SourceError>> {
        async move {
            let reply = self.follow(at, known).await?;
            let identity = self.accept(&reply, at, known)?;
            let stream = BodyDataStream::new(reply.into_body()).map(|chunk| chunk.map_err(io::Error::other)).boxed();
            Ok(Opened { identity, stream })
        }
        .boxed()
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|value| value.trim().to_owned())
}

/// How many seconds a server wants to be left alone (RFC 9110, section 10.2.3). The other form of it, a date, is of no
/// use where clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    Some(Duration::from_secs(text(headers, header::RETRY_AFTER)?.parse().ok()?))
}

/// First byte and full length of a `Content-Range` such as `bytes 5-9/10`; the length may be unknown, `*` (RFC 9110,
/// section 14.4). `None` for anything else.
pub fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (unit, range) = value.split_once(' ')?;
    let (range, length) = range.split_once('/').filter(|_| unit.eq_ignore_ascii_case("bytes"))?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    let length = if length == "*" { None } else { Some(length.trim().parse().ok()?) };
    Some((start, length))
}

pub(super) fn same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().or(if uri.scheme_str() == Some("https") { Some(443) } else { Some(80) });
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

/// A `Location` relative to the address that sent it (RFC 3986, section 5.2).
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let location = location.split('#').next()?;
    let (path, query) = location.find('?').map_or((location, ""), |at| location.split_at(at));
    let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let absolute = match path {
        // A colon is one of a scheme unless a slash stands before it.
        _ if path.split('/').next()?.contains(':') => location.to_owned(),
        _ if path.starts_with("//") => format!("{scheme}:{location}"),
        "" => format!("{scheme}://{authority}{}{query}", from.path()),
        _ if path.starts_with('/') => format!("{scheme}://{authority}{}{query}", without_dots(path)),
        _ => format!("{scheme}://{authority}{}{query}", without_dots(&format!("{folder}/{path}"))),
    };
    let uri: Uri = absolute.parse().ok()?;
    let usable = matches!(uri.scheme_str(), Some("http" | "https")) && !uri.authority()?.as_str().contains('@');
    usable.then_some(uri)
}

/// An absolute path without `.` and `..` (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let (mut kept, mut last) = (Vec::new(), "");
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
        last = segment;
    }
    let folder = if matches!(last, "." | "..") { "/" } else { "" };
    format!("/{}{folder}", kept.join("/")).replacen("//", "/", usize::from(kept.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(content_range("Bytes 0-9/10"), Some((0, Some(10))));
        assert_eq!(content_range("bytes */10"), None);
        assert_eq!(content_range("lines 1-2/3"), None);
    }

    #[test]
    fn redirections_are_resolved_against_their_sender() {
        let from: Uri = "https://host:8443/a/b?x=1".parse().unwrap();
        let to = |location: &str| resolve(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/c?y=2").as_deref(), Some("https://host:8443/c?y=2"));
        assert_eq!(to("c").as_deref(), Some("https://host:8443/a/c"));
        assert_eq!(to("?y=2").as_deref(), Some("https://host:8443/a/b?y=2"));
        assert_eq!(to("../c/./d?e=..").as_deref(), Some("https://host:8443/c/d?e=.."));
        assert_eq!(to("../../..").as_deref(), Some("https://host:8443/"));
        assert_eq!(to("/c/d/..").as_deref(), Some("https://host:8443/c/"));
        assert_eq!(to("/sign?next=https://other/c").as_deref(), Some("https://host:8443/sign?next=https://other/c"));
        assert_eq!(to("//other/c").as_deref(), Some("https://other/c"));
        assert_eq!(to("http://other/c#d").as_deref(), Some("http://other/c"));
        assert_eq!(to("ftp://other/c"), None);
        assert_eq!(to("https://user@other/c"), None);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |one: &str, other: &str| same_origin(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("https://Host/a", "https://host:443/b"));
        assert!(!same("https://host/a", "http://host/a"));
        assert!(!same("http://host/a", "http://host:8080/a"));
        assert!(!same("http://host/a", "http://host.evil/a"));
    }

    #[test]
    fn nobody_is_redirected_from_https_to_http() {
        let source = HttpSource::new("https://host/x", &Access::default()).unwrap();
        let to = |location: &str| source.redirected(&source.uri, Some(location.to_owned()));
        assert!(to("https://other/x").is_ok());
        assert!(matches!(to("http://host/x"), Err(SourceError::Reply { .. })));
        assert!(matches!(source.redirected(&source.uri, None), Err(SourceError::Reply { .. })));
    }

    #[test]
    fn seconds_to_wait_are_read_and_dates_are_not() {
        let after = |value: &str| {
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(value).unwrap())]))
        };
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        for other in ["-1", "soon", "Mon, 23 Nov 2026 10:00:00 GMT", "99999999999999999999"] {
            assert_eq!(after(other), None, "{other}");
        }
    }

    #[test]
    fn credentials_in_an_address_are_refused_without_being_shown() {
        let error = HttpSource::new("http://user:secret@host/x", &Access::default()).err().unwrap();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
