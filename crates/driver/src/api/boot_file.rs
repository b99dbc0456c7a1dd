//! Boot files: the virtual media of a node, under a path that only its BMC was told. Streamed; BMCs read them in ranges.

use super::{Api, reply, request::Call};
use crate::fault::Fault;
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use std::io::SeekFrom;
use std::path::Path;
use store::Store;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

/// Bytes of a file that are in memory for whoever reads it: a thousand machines may boot at once.
const PIECE: usize = 64 << 10;

/// What of a file is asked for: first byte and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    start: u64,
    length: u64,
    whole: bool,
}

impl<S: Store> Api<S> {
    /// `GET` and `HEAD /boot/<place>/<name>`
    pub(super) async fn boot_file(&self, call: Call) -> Result<Response<Body>, Fault> {
        let place = format!("{}/{}", call.segment(0), call.segment(1));
        let file = self.conductor.boot_file(&place).ok_or(Fault::NoRoute)?;
        let range = call.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        send(&file, range).await
    }
}

/// Answers with a file or a range of it.
async fn send(path: &Path, range: Option<&str>) -> Result<Response<Body>, Fault> {
    let failed = |error: std::io::Error| {
        tracing::error!(%error, file = %path.display(), "read a boot file");
        // A file that was just removed is as good as none.
        Fault::NoRoute
    };
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    let part = part(range, size)?;
    file.seek(SeekFrom::Start(part.start)).await.map_err(failed)?;
    let stream = ReaderStream::with_capacity(file.take(part.length), PIECE);
    let mut response = reply::empty(if part.whole { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT });
    *response.body_mut() = Body::from_stream(stream);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(part.length));
    if !part.whole
        && let Ok(value) =
            HeaderValue::from_str(&format!("bytes {}-{}/{size}", part.start, part.start + part.length - 1))
    {
        headers.insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

/// Reads a `Range` header (RFC 9110, 14.2): one range; what is no range of bytes, or several, is as if there were none.
fn part(range: Option<&str>, size: u64) -> Result<Part, Fault> {
    let whole = Part { start: 0, length: size, whole: true };
    let Some(range) = range.and_then(|range| range.trim().strip_prefix("bytes=")) else { return Ok(whole) };
    let Some((first, last)) = range.split_once('-') else { return Ok(whole) };
    let number = |text: &str| -> Option<u64> {
        let text = text.trim();
        if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
    };
    let out = Fault::Range { length: size };
    let (start, end) = match (first.trim(), last.trim()) {
        ("", "") => return Ok(whole),
        ("", suffix) => match number(suffix) {
            None => return Ok(whole),
            Some(0) => return Err(out),
            Some(suffix) => (size.saturating_sub(suffix), size),
        },
        (first, "") => match number(first) {
            None => return Ok(whole),
            Some(first) => (first, size),
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
            _ => return Ok(whole),
        },
    };
    if start >= end { Err(out) } else { Ok(Part { start, length: end - start, whole: false }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        let some = |start, length| Ok(Part { start, length, whole: false });
        let whole = Ok(Part { start: 0, length: 100, whole: true });
        assert_eq!(part(Some("bytes=0-0"), 100), some(0, 1));
        assert_eq!(part(Some("bytes=10-19"), 100), some(10, 10));
        assert_eq!(part(Some("bytes=90-1000"), 100), some(90, 10));
        assert_eq!(part(Some("bytes=90-"), 100), some(90, 10));
        assert_eq!(part(Some("bytes=-10"), 100), some(90, 10));
        assert_eq!(part(Some("bytes=-1000"), 100), some(0, 100));
        assert_eq!(part(None, 100), whole);
        for odd in ["bytes=", "bytes=-", "bytes=5-1", "bytes=0-1,3-4", "bytes=a-b", "lines=1-2", "bytes=+1-2"] {
            assert_eq!(part(Some(odd), 100), whole, "{odd}");
        }
        for out in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=18446744073709551615-"] {
            assert_eq!(part(Some(out), 100), Err(Fault::Range { length: 100 }), "{out}");
        }
        assert_eq!(part(Some("bytes=0-"), 0), Err(Fault::Range { length: 0 }));
    }

    #[tokio::test]
    async fn a_range_of_a_file_is_sent_and_nothing_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("boot.iso");
        std::fs::write(&path, b"0123456789").unwrap();
        let response = send(&path, Some("bytes=3-5")).await.unwrap();
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(response.headers()[header::CONTENT_RANGE], "bytes 3-5/10");
        let body = transport::body::read(response.into_body(), 100).await.unwrap();
        assert_eq!(&body[..], b"345");
    }
}
