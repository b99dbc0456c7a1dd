//! The load: HTTP/1.1 requests over plain TCP, from some connections at once (closed loop: the next request when the
//! answer is there) or at a given rate (open loop: when its time has come, whatever became of the others).

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The microversion of all requests.
const VERSION: &str = "1.81";
/// What is not answered after this is an error.
const LIMIT: Duration = Duration::from_secs(60);

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: String,
    /// The status of a good answer.
    pub(super) status: u16,
}

impl Ask {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: String::new(), status: 200 }
    }

    pub(super) fn post(path: impl Into<String>, body: &serde_json::Value, status: u16) -> Self {
        Self { method: Method::POST, path: path.into(), body: body.to_string(), status }
    }
}

/// The requests of a load, by their number.
pub(super) type Asks = Arc<dyn Fn(usize) -> Ask + Send + Sync>;

/// How a load is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) connections: usize,
    /// Whether a connection carries more than one request.
    pub(super) keep_alive: bool,
    pub(super) time: Duration,
    /// Requests a second in open loop; closed loop when unset.
    pub(super) rate: Option<u32>,
    /// Most requests.
    pub(super) most: Option<usize>,
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// Seconds from the first request to the last answer.
    pub(super) seconds: f64,
    /// Seconds that good answers took, in order of size.
    pub(super) latencies: Vec<f64>,
    /// What the others were; the first of them.
    pub(super) errors: usize,
    pub(super) first_error: Option<String>,
    /// Numbers of the requests that were answered well, with the moment at which each was sent.
    pub(super) done: Vec<(usize, jiff::Timestamp)>,
}

impl Taken {
    pub(super) fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.latencies.extend(other.latencies);
        self.latencies.sort_by(f64::total_cmp);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.done.extend(other.done);
    }

    /// Good answers a second.
    pub(super) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.latencies.len() as f64 / self.seconds } else { 0.0 }
    }

    /// The latency in milliseconds that so many of a hundred did not exceed.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * percent / 100).copied().unwrap_or(f64::NAN) * 1000.0
    }
}

/// A connection that is opened when it is needed.
struct Connection {
    to: SocketAddr,
    keep_alive: bool,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    async fn ask(&mut self, ask: &Ask) -> Result<()> {
        let mut sender = match self.open.take() {
            Some(sender) if sender.is_ready() => sender,
            _ => {
                let stream = TcpStream::connect(self.to).await.context("connect")?;
                stream.set_nodelay(true)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender
            }
        };
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(&ask.path)
            .header(header::HOST, self.to.to_string())
            .header(header::ACCEPT, "application/json")
            .header("X-OpenStack-Ironic-API-Version", VERSION);
        if !ask.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if !self.keep_alive {
            request = request.header(header::CONNECTION, "close");
        }
        let response = sender.send_request(request.body(Full::from(ask.body.clone()))?).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut kept = Vec::new();
        while let Some(frame) = body.frame().await {
            if let (true, Some(data)) = (status != ask.status, frame?.data_ref()) {
                kept.extend_from_slice(data);
            }
        }
        ensure!(
            status == ask.status,
            "{} {} was answered {status}: {}",
            ask.method,
            ask.path,
            String::from_utf8_lossy(&kept)
        );
        self.open = self.keep_alive.then_some(sender);
        Ok(())
    }
}

/// Makes a load; numbers begin with `first`.
pub(super) async fn run(to: SocketAddr, shape: Shape, first: usize, asks: &Asks) -> Taken {
    let next = Arc::new(AtomicUsize::new(first));
    let all = Arc::new(Mutex::new(Taken::default()));
    let start = Instant::now();
    let workers: Vec<_> = (0..shape.connections.max(1))
        .map(|_| {
            let (next, all, asks) = (next.clone(), all.clone(), asks.clone());
            tokio::spawn(async move {
                let mut connection = Connection { to, keep_alive: shape.keep_alive, open: None };
                let mut own = Taken::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if shape.most.is_some_and(|most| number - first >= most) {
                        break;
                    }
                    let mut begun = Instant::now();
                    if let Some(rate) = shape.rate {
                        // Late is late: the time counts from when the request should have been sent.
                        let due = start + Duration::from_secs_f64((number - first) as f64 / f64::from(rate));
                        tokio::time::sleep_until(due.into()).await;
                        begun = due;
                    }
                    if begun.duration_since(start) >= shape.time {
                        break;
                    }
                    let (ask, sent) = (asks(number), jiff::Timestamp::now());
                    match timeout(LIMIT, connection.ask(&ask)).await.context("no answer").flatten() {
                        Ok(()) => {
                            own.latencies.push(begun.elapsed().as_secs_f64());
                            own.done.push((number, sent));
                        }
                        Err(error) => {
                            own.errors += 1;
                            own.first_error.get_or_insert_with(|| format!("{error:#}"));
                        }
                    }
                }
                all.lock().unwrap_or_else(PoisonError::into_inner).add(own);
            })
        })
        .collect();
    for worker in workers {
        // A worker that panicked has taken its numbers along: that is an error.
        if let Err(error) = worker.await {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.errors += 1;
            all.first_error.get_or_insert_with(|| error.to_string());
        }
    }
    let mut taken = std::mem::take(&mut *all.lock().unwrap_or_else(PoisonError::into_inner));
    taken.seconds = start.elapsed().as_secs_f64();
    taken
}
