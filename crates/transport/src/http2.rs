//! HTTP/2 for gRPC, over TLS 1.3: one connection to one server ([`connect`]), and a server that knows the certificate of its
//! peer ([`serve`]). Peers that fall silent are found by pings.

use crate::body::Held;
use crate::client::{Trust, tls_config};
use crate::guests::Guests;
use crate::impatient::Impatient;
use crate::server::Peer;
use crate::tls::{Identity, TlsError};
use http::{Request, Response, Uri};
use http_body::Body;
/// The body of a request that a server takes, and of an answer that a client gets.
pub use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::{CertificateDer, ServerName};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::{Service, ServiceExt as _};

/// How both sides agree on HTTP/2 (RFC 9113, 3.2).
const ALPN: &[u8] = b"h2";
/// After this much silence the peer is pinged …
pub const PING_INTERVAL: Duration = Duration::from_secs(15);
/// … and the connection is given up when it does not answer in this time.
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that may be under way unread in one stream, and in a connection. A stream that nobody reads does not take the
/// whole connection from the others.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The same for a peer without a certificate, whose calls are short.
const STRANGER_STREAM_WINDOW: u32 = 32 << 10;
const STRANGER_CONNECTION_WINDOW: u32 = 64 << 10;
/// Calls at once of a peer without a certificate.
const STRANGER_STREAMS: u32 = 2;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not of the expected form.
    #[error("{url:?} is not of the form https://<host>:<port>")]
    Url {
        /// What was given.
        url: String,
    },
    /// What we would present or believe cannot be used.
    #[error("set up TLS for {authority}")]
    Setup {
        /// Host and port.
        authority: String,
        /// Cause.
        #[source]
        source: TlsError,
    },
    /// Nobody there, or refused.
    #[error("connect to {authority}")]
    Tcp {
        /// Host and port.
        authority: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The peer is not who it should be, or does not want us.
    #[error("TLS with {authority}")]
    Tls {
        /// Host and port.
        authority: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The peer speaks something else.
    #[error("{authority} does not speak HTTP/2")]
    Protocol {
        /// Host and port.
        authority: String,
    },
    /// HTTP/2 did not begin.
    #[error("begin HTTP/2 with {authority}")]
    Http {
        /// Host and port.
        authority: String,
        /// Cause.
        #[source]
        source: hyper::Error,
    },
    /// It took too long.
    #[error("{authority} was not reached within {} s", .after.as_secs())]
    Timeout {
        /// Host and port.
        authority: String,
        /// The deadline.
        after: Duration,
    },
}

/// A body whose bytes are counted as they come.
pub struct Counted {
    body: Incoming,
    bytes: Arc<AtomicU64>,
}

impl Counted {
    /// Adds what comes of `body` to `bytes`.
    pub fn new(body: Incoming, bytes: Arc<AtomicU64>) -> Self {
        Self { body, bytes }
    }
}

impl Body for Counted {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len);
            self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A connection, as a service for gRPC clients. Clones share it.
pub struct Channel<B> {
    sender: SendRequest<B>,
    arrived: Arc<AtomicU64>,
}

impl<B> Clone for Channel<B> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), arrived: Arc::clone(&self.arrived) }
    }
}

impl<B: Body + Send + 'static> Service<Request<B>> for Channel<B> {
    type Response = Response<Counted>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Counted>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (answer, arrived) = (self.sender.send_request(request), Arc::clone(&self.arrived));
        Box::pin(async move { Ok(answer.await?.map(|body| Counted::new(body, arrived))) })
    }
}

/// A connection that has been made; it ends with this value.
pub struct Connection<B> {
    /// For requests.
    pub channel: Channel<B>,
    /// Scheme and authority of requests.
    pub origin: Uri,
    /// Bytes that have come of answers, those of messages that are not complete included.
    pub arrived: Arc<AtomicU64>,
    _driver: AbortOnDropHandle<()>,
}

/// Connects to `url`, `https://<host>:<port>`, and presents `identity` if there is one. Only servers with a certificate of
/// `authority`, PEM, are believed.
pub async fn connect<B>(
    url: &str,
    authority: &str,
    identity: Option<&Identity>,
    within: Duration,
) -> Result<Connection<B>, ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let malformed = || ConnectError::Url { url: url.to_owned() };
    let origin: Uri = url.parse().map_err(|_| malformed())?;
    let named = origin.authority().filter(|_| origin.scheme_str() == Some("https") && origin.path() == "/");
    let name = named.ok_or_else(malformed)?.to_string();
    let host = origin.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = origin.port_u16().unwrap_or(443);
    let server = ServerName::try_from(host.clone()).map_err(|_| malformed())?;
    let setup = |source| ConnectError::Setup { authority: name.clone(), source };
    let mut config = tls_config(&Trust::Only(authority.to_owned()), identity).map_err(setup)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let connecting = async {
        let tcp = dial(&host, port).await.map_err(|source| ConnectError::Tcp { authority: name.clone(), source })?;
        let tls = TlsConnector::from(Arc::new(config)).connect(server, tcp).await;
        let tls = tls.map_err(|source| ConnectError::Tls { authority: name.clone(), source })?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(ConnectError::Protocol { authority: name.clone() });
        }
        hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|source| ConnectError::Http { authority: name.clone(), source })
    };
    let connected = tokio::time::timeout(within, connecting).await;
    let (sender, connection) =
        connected.map_err(|_| ConnectError::Timeout { authority: name.clone(), after: within })??;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "HTTP/2 connection ended");
        }
    });
    let arrived = Arc::new(AtomicU64::new(0));
    let channel = Channel { sender, arrived: Arc::clone(&arrived) };
    Ok(Connection { channel, origin, arrived, _driver: AbortOnDropHandle::new(driver) })
}

/// Connects to the first address of `host` that answers.
async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// How [`serve`] behaves.
#[derive(Clone)]
pub struct Settings {
    /// From [`Identity::session_config`].
    pub tls: Arc<rustls::ServerConfig>,
    /// Connections at once of peers with a certificate; more are closed as they come.
    pub connections: usize,
    /// Connections at once of peers without one; more are closed as they come, and take no place of the others. As many
    /// handshakes may be under way beside them; more wait to be accepted.
    pub strangers: usize,
    /// Connections at once from one address; more are closed as they come.
    pub connections_per_peer: Option<usize>,
    /// Calls at once in one connection.
    pub streams: u32,
    /// Deadline for a TLS handshake, and for the first call after it.
    pub handshake_timeout: Duration,
    /// How long a connection may be without an open call; one without a certificate lasts no longer than this after its
    /// first call.
    pub idle_timeout: Duration,
    /// How long calls that are open may take once the server is told to stop.
    pub drain_timeout: Duration,
}

/// Extension of every request: the certificate with which the peer proved who it is, if it did. Its chain has been verified.
#[derive(Debug, Clone)]
pub struct PeerCertificate(pub Option<CertificateDer<'static>>);

/// Serves `service` on `listener` over HTTP/2 until `stop` is cancelled. Requests have the extensions [`Peer`] and
/// [`PeerCertificate`].
pub async fn serve<S, B>(listener: TcpListener, service: S, settings: Settings, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let handshakes = Arc::new(Semaphore::new(settings.strangers));
    let places = Places {
        known: Arc::new(Semaphore::new(settings.connections)),
        strangers: Arc::new(Semaphore::new(settings.strangers)),
    };
    let guests = Arc::new(Guests::default());
    let acceptor = TlsAcceptor::from(Arc::clone(&settings.tls));
    let open = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = async {
            let slot = Arc::clone(&handshakes).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (handshake, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        let (Ok(handshake), Ok((stream, peer))) = (handshake, accepted) else {
            // Out of file descriptors or an aborted connection: neither ends the server.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(guest) = guests.admit(peer.ip(), settings.connections_per_peer) else {
            tracing::debug!(%peer, cap = settings.connections_per_peer, "too many connections of one address");
            continue;
        };
        // Sessions are not idle, whatever is said on them: none makes room for another one.
        let staying = Arc::new(guest).call();
        let (acceptor, service, settings) = (acceptor.clone(), service.clone(), settings.clone());
        let (places, stop) = (places.clone(), stop.clone());
        open.spawn(async move {
            let accepted = accepted_tls(stream, peer, &acceptor, settings.handshake_timeout).await;
            drop(handshake);
            if let Some(stream) = accepted {
                one(stream, peer, service, &settings, &places, stop).await;
            }
            drop(staying);
        });
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(settings.drain_timeout, open.wait()).await.is_err() {
        tracing::debug!("calls were still open when the server stopped");
    }
}

/// The places that there are for connections.
#[derive(Clone)]
struct Places {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

type Tls = tokio_rustls::server::TlsStream<Impatient<TcpStream>>;

async fn accepted_tls(stream: TcpStream, peer: SocketAddr, acceptor: &TlsAcceptor, within: Duration) -> Option<Tls> {
    let _ = stream.set_nodelay(true);
    let stream = Impatient::new(stream, PING_INTERVAL + PING_TIMEOUT);
    match tokio::time::timeout(within, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
    }
    None
}

/// The calls of a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Calls {
    /// Since it was made.
    begun: u64,
    /// Of them, those that have not ended.
    open: usize,
}

/// A call; it ends with this value.
struct Call(Arc<watch::Sender<Calls>>);

impl Call {
    fn begin(calls: &Arc<watch::Sender<Calls>>) -> Self {
        calls.send_modify(|calls| *calls = Calls { begun: calls.begun + 1, open: calls.open + 1 });
        Self(Arc::clone(calls))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|calls| calls.open -= 1);
    }
}

/// Returns when a connection was not used, or not any more, or by a stranger for too long.
async fn overstayed(mut calls: watch::Receiver<Calls>, is_stranger: bool, settings: &Settings) {
    if tokio::time::timeout(settings.handshake_timeout, calls.wait_for(|calls| calls.begun > 0)).await.is_err() {
        return;
    }
    if is_stranger {
        // Who has not proved who it is may do so, and then comes again.
        return tokio::time::sleep(settings.idle_timeout).await;
    }
    loop {
        let Ok(begun) = calls.wait_for(|calls| calls.open == 0).await.map(|calls| calls.begun) else { return };
        let again = calls.wait_for(|calls| calls.begun != begun);
        if tokio::time::timeout(settings.idle_timeout, again).await.is_err() {
            return;
        }
    }
}

/// One connection, to its end.
async fn one<S, B>(
    stream: Tls,
    peer: SocketAddr,
    service: S,
    settings: &Settings,
    places: &Places,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let presented = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let is_stranger = presented.is_none();
    let places = if is_stranger { &places.strangers } else { &places.known };
    let Ok(_place) = Arc::clone(places).try_acquire_owned() else {
        return tracing::debug!(%peer, is_stranger, "there is no room for more connections of its kind");
    };
    let (stream_window, connection_window, streams) = match is_stranger {
        true => (STRANGER_STREAM_WINDOW, STRANGER_CONNECTION_WINDOW, STRANGER_STREAMS.min(settings.streams)),
        false => (STREAM_WINDOW, CONNECTION_WINDOW, settings.streams),
    };
    let calls = Arc::new(watch::Sender::new(Calls::default()));
    let seen = calls.subscribe();
    let certificate = PeerCertificate(presented.map(|certificate| certificate.clone().into_owned()));
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let call = Call::begin(&calls);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(certificate.clone());
        let answer = service.clone().oneshot(request);
        async move { answer.await.map(|answer| answer.map(|body| Held::new(body, call))) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_concurrent_streams(streams)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = overstayed(seen, is_stranger, settings) => return tracing::debug!(%peer, "the connection was not used, or not any more, or by a stranger for too long"),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(settings.drain_timeout, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    use std::convert::Infallible;

    /// An authority, PEM, and two identities of it: a server's and a client's.
    fn identities() -> (String, Identity, Identity) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let make = || {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
            let key = KeyPair::generate().unwrap();
            Identity::from_pem(params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        (pem, make(), make())
    }

    /// A server of one word, and a guard that stops it.
    async fn serving(server: &Identity, pem: &str, idle: u64) -> (String, tokio_util::sync::DropGuard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let settings = Settings {
            tls: server.session_config(pem).unwrap(),
            connections: 1,
            strangers: 1,
            connections_per_peer: None,
            streams: 4,
            handshake_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_millis(idle),
            drain_timeout: Duration::from_millis(100),
        };
        let service = tower::service_fn(async |_: Request<Incoming>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"here"))))
        });
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, service, settings, stop.clone()));
        (url, stop.drop_guard())
    }

    type Dialled = Connection<Full<Bytes>>;

    async fn dial(url: &str, pem: &str, identity: Option<&Identity>) -> Dialled {
        connect(url, pem, identity, Duration::from_secs(20)).await.unwrap()
    }

    /// Asks; whether there was an answer rather than the end of the connection.
    async fn answered(connection: &Dialled) -> bool {
        let mut channel = connection.channel.clone();
        let request = Request::post(connection.origin.clone()).body(Full::new(Bytes::new())).unwrap();
        let asked = async {
            std::future::poll_fn(|context| channel.poll_ready(context)).await.ok()?;
            channel.call(request).await.ok()?.into_body().collect().await.ok()
        };
        let answer = tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap();
        answer.is_some_and(|answer| answer.to_bytes() == "here")
    }

    /// Waits until the server ends the connection.
    async fn ended(connection: &Dialled) -> bool {
        let gone = async {
            while !connection.channel.sender.is_closed() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.is_ok()
    }

    #[tokio::test]
    async fn strangers_take_no_place_of_those_who_have_proved_who_they_are() {
        let (pem, server, client) = identities();
        let (url, _stop) = serving(&server, &pem, 60_000).await;
        let stranger = dial(&url, &pem, None).await;
        assert!(answered(&stranger).await);
        assert!(!answered(&dial(&url, &pem, None).await).await, "one more than there is room for");
        let known = dial(&url, &pem, Some(&client)).await;
        assert!(answered(&known).await);
        assert!(!answered(&dial(&url, &pem, Some(&client)).await).await);
        assert!(answered(&stranger).await && answered(&known).await);
    }

    #[tokio::test]
    async fn a_connection_on_which_no_call_is_open_is_closed() {
        let (pem, server, client) = identities();
        let (url, _stop) = serving(&server, &pem, 500).await;
        for identity in [None, Some(&client)] {
            let connection = dial(&url, &pem, identity).await;
            assert!(answered(&connection).await);
            assert!(ended(&connection).await);
        }
    }
}
