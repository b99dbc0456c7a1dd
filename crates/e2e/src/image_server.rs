//! An HTTP server that knows which bytes of which file it has sent, and can be slow.

use crate::lab::GATEWAY;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as RequestPath, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::routing::get;
use bytes::Bytes;
use futures::stream;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

const PORT: u16 = 8080;
const CHUNK: usize = 64 * 1024;
/// How long open transfers may take to notice that the server goes away.
const FAREWELL: Duration = Duration::from_secs(30);

/// One answered GET.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fetch {
    /// Name of the file.
    pub name: String,
    /// What was asked for.
    pub asked: Range<u64>,
    /// How many bytes of that went into the connection.
    pub sent: u64,
}

/// Serves files at `http://10.77.0.1:8080/NAME` with `Range`, `If-Range`, `ETag` and `HEAD` (RFC 9110).
#[derive(Debug)]
pub struct ImageServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Listening,
}

/// A listener and what ends it.
#[derive(Debug)]
struct Listening {
    task: tokio::task::JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    files: Mutex<HashMap<String, PathBuf>>,
    fetches: Mutex<Vec<Fetch>>,
    /// Bytes a second and connection; 0 is as fast as it goes.
    limit: AtomicU64,
    /// Transfers break at once.
    away: AtomicBool,
}

impl Shared {
    fn record(&self, index: usize, bytes: u64) {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetch) = fetches.get_mut(index) {
            fetch.sent += bytes;
        }
    }
}

impl ImageServer {
    /// Starts to listen on the lab's bridge.
    ///
    /// # Errors
    /// When the address is not ours or taken.
    pub async fn start() -> Result<Self> {
        Self::start_at((GATEWAY, PORT).into()).await
    }

    async fn start_at(address: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (listening, address) = Listening::start(address, &shared).await?;
        Ok(Self { shared, address, listening })
    }

    /// Goes away as a server does that is switched off: transfers break, connections are refused.
    ///
    /// # Errors
    /// When a transfer does not end.
    pub async fn go_away(&mut self) -> Result<()> {
        self.shared.away.store(true, Ordering::Relaxed);
        self.listening.stop.take();
        timeout(FAREWELL, &mut self.listening.task).await.context("end the transfers of the image server")??;
        Ok(())
    }

    /// Is there again, at the same address and with the same files.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn come_back(&mut self) -> Result<()> {
        self.shared.away.store(false, Ordering::Relaxed);
        (self.listening, self.address) = Listening::start(self.address, &self.shared).await?;
        Ok(())
    }

    /// Offers `path` under `name` and returns its URL.
    pub fn offer(&self, name: &str, path: &Path) -> String {
        self.shared.files.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), path.to_owned());
        format!("http://{GATEWAY}:{PORT}/{name}")
    }

    /// Limits every connection to `rate` bytes a second; `None` takes the limit away.
    pub fn throttle(&self, rate: Option<u64>) {
        self.shared.limit.store(rate.unwrap_or(0), Ordering::Relaxed);
    }

    /// All GET requests for `name` so far, oldest first.
    #[must_use]
    pub fn fetches(&self, name: &str) -> Vec<Fetch> {
        let fetches = self.shared.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.iter().filter(|fetch| fetch.name == name).cloned().collect()
    }

    /// The first byte range of `name` that was sent more than once.
    #[must_use]
    pub fn sent_twice(&self, name: &str) -> Option<Range<u64>> {
        sent_twice(&self.fetches(name))
    }
}

impl Listening {
    async fn start(address: SocketAddr, shared: &Arc<Shared>) -> Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(address).await.context("listen for image requests")?;
        let address = listener.local_addr()?;
        let app = Router::new().route("/{name}", get(serve)).with_state(Arc::clone(shared));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            // An error of the listener shows in the requests that fail.
            axum::serve(listener, app).with_graceful_shutdown(stopped).await.ok();
        });
        Ok((Self { task, stop: Some(stop) }, address))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn sent_twice(fetches: &[Fetch]) -> Option<Range<u64>> {
    let mut sent: Vec<Range<u64>> = fetches
        .iter()
        .filter(|fetch| fetch.sent > 0)
        .map(|fetch| fetch.asked.start..fetch.asked.start + fetch.sent)
        .collect();
    sent.sort_by_key(|range| range.start);
    sent.windows(2).find(|pair| pair[1].start < pair[0].end).map(|pair| pair[1].start..pair[0].end.min(pair[1].end))
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    RequestPath(name): RequestPath<String>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let path = shared.files.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
    let Some(path) = path else { return plain(StatusCode::NOT_FOUND) };
    match answer(shared, name, &path, &method, &headers).await {
        Ok(response) => response,
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn answer(
    shared: Arc<Shared>,
    name: String,
    path: &Path,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let mut file = File::open(path).await?;
    let meta = file.metadata().await?;
    let size = meta.len();
    let changed = meta.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
    let tag = format!("\"{size:x}-{changed:x}\"");
    let current = headers.get(header::IF_RANGE).is_none_or(|given| given.as_bytes() == tag.as_bytes());
    let asked = headers.get(header::RANGE).filter(|_| current).and_then(|value| byte_range(value, size));
    let (status, range) = match asked {
        Some(Ok(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(Err(Unsatisfiable)) => {
            let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE);
            response.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::from_str(&format!("bytes */{size}"))?);
            return Ok(response);
        }
        None => (StatusCode::OK, 0..size),
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, &tag)
        .header(header::CONTENT_LENGTH, range.end - range.start)
        .header(header::CONTENT_TYPE, "application/octet-stream");
    if status == StatusCode::PARTIAL_CONTENT {
        response = response.header(header::CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    if method == Method::HEAD {
        return Ok(response.body(Body::empty())?);
    }
    file.seek(std::io::SeekFrom::Start(range.start)).await?;
    let index = {
        let mut fetches = shared.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.push(Fetch { name, asked: range.clone(), sent: 0 });
        fetches.len() - 1
    };
    let left = range.end - range.start;
    let state = Sending { shared, file, index, left, sent: 0, since: Instant::now() };
    Ok(response.body(Body::from_stream(stream::try_unfold(state, Sending::next)))?)
}

struct Sending {
    shared: Arc<Shared>,
    file: File,
    index: usize,
    left: u64,
    sent: u64,
    since: Instant,
}

impl Sending {
    async fn next(mut self) -> std::io::Result<Option<(Bytes, Self)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let limit = self.shared.limit.load(Ordering::Relaxed);
        if limit > 0 {
            // Never further ahead than the rate allows since the start, in steps so that a lifted limit is felt soon.
            while self.shared.limit.load(Ordering::Relaxed) == limit
                && !self.shared.away.load(Ordering::Relaxed)
                && self.since.elapsed().as_secs_f64() < self.sent as f64 / limit as f64
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        if self.shared.away.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let mut chunk = vec![0; CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK))];
        self.file.read_exact(&mut chunk).await?;
        self.left -= chunk.len() as u64;
        self.sent += chunk.len() as u64;
        self.shared.record(self.index, chunk.len() as u64);
        Ok(Some((chunk.into(), self)))
    }
}

struct Unsatisfiable;

/// One range of a `Range` header (RFC 9110, section 14.2); anything else is ignored, as the RFC allows.
fn byte_range(value: &HeaderValue, size: u64) -> Option<Result<Range<u64>, Unsatisfiable>> {
    let (first, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", suffix) => size.saturating_sub(suffix.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    Some(if range.start < range.end { Ok(range) } else { Err(Unsatisfiable) })
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    fn fetch(asked: Range<u64>, sent: u64) -> Fetch {
        Fetch { name: "a".into(), asked, sent }
    }

    #[test]
    fn an_overlap_of_sent_bytes_is_found_and_a_resume_is_not_one() {
        assert_eq!(sent_twice(&[fetch(0..100, 40), fetch(40..100, 60)]), None);
        assert_eq!(sent_twice(&[fetch(0..100, 50), fetch(40..100, 60)]), Some(40..50));
        assert_eq!(sent_twice(&[fetch(0..100, 100), fetch(0..100, 0)]), None);
        assert_eq!(sent_twice(&[fetch(60..100, 10), fetch(0..100, 100)]), Some(60..70));
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let read = |text: &'static str| match byte_range(&HeaderValue::from_static(text), 100) {
            Some(Ok(range)) => format!("{range:?}"),
            Some(Err(Unsatisfiable)) => "416".to_owned(),
            None => "whole".to_owned(),
        };
        assert_eq!(read("bytes=0-9"), "0..10");
        assert_eq!(read("bytes=90-"), "90..100");
        assert_eq!(read("bytes=-10"), "90..100");
        assert_eq!(read("bytes=50-500"), "50..100");
        assert_eq!(read("bytes=100-"), "416");
        assert_eq!(read("bytes=0-1,5-6"), "whole");
        assert_eq!(read("lines=1-2"), "whole");
    }

    #[tokio::test]
    async fn a_range_is_served_and_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, (0..=255).collect::<Vec<u8>>()).unwrap();
        let server = ImageServer::start_at(([127, 0, 0, 1], 0).into()).await.unwrap();
        server.offer("image", &path);
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET /image HTTP/1.1\r\nHost: a\r\nRange: bytes=10-19\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.unwrap();
        let head = String::from_utf8_lossy(&reply);
        assert!(head.starts_with("HTTP/1.1 206"), "{head}");
        assert!(head.contains("content-range: bytes 10-19/256"), "{head}");
        assert_eq!(reply[reply.len() - 10..], (10..20).collect::<Vec<u8>>());
        assert_eq!(server.fetches("image"), [Fetch { name: "image".into(), asked: 10..20, sent: 10 }]);
    }

    #[tokio::test]
    async fn a_server_that_goes_away_breaks_transfers_refuses_connections_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, vec![7; 4 << 20]).unwrap();
        let mut server = ImageServer::start_at(([127, 0, 0, 1], 0).into()).await.unwrap();
        server.offer("image", &path);
        server.throttle(Some(64 << 10));
        let address = server.address;
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /image HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut first = [0; 1024];
        stream.read_exact(&mut first).await.unwrap();
        server.go_away().await.unwrap();
        let mut rest = Vec::new();
        // The transfer ends far from its end, by a reset or by a close.
        stream.read_to_end(&mut rest).await.ok();
        assert!(rest.len() < 2 << 20, "{}", rest.len());
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
        server.come_back().await.unwrap();
        tokio::net::TcpStream::connect(address).await.unwrap();
    }
}
