//! HTTP/2 for gRPC, over TLS 1.3: one connection to one server ([`connect`]), and a server that knows the certificate of its
//! peer ([`serve`]). Peers that fall silent are found by pings.

use crate::client::{Trust, tls_config};
use crate::impatient::Impatient;
use crate::server::{Peer, Peers};
use crate::tls::{Identity, TlsError};
use http::{Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::{CertificateDer, ServerName};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::{Notify, Semaphore};
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

/// How long a connection without a certificate lasts after its first call.
const STRANGER: Duration = Duration::from_secs(60);

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

/// A connection, as a service for gRPC clients. Clones share it.
pub struct Channel<B>(SendRequest<B>);

impl<B> Clone for Channel<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Body + Send + 'static> Service<Request<B>> for Channel<B> {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A connection that has been made; it ends with this value.
pub struct Connection<B> {
    /// For requests.
    pub channel: Channel<B>,
    /// Scheme and authority of requests.
    pub origin: Uri,
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
    Ok(Connection { channel: Channel(sender), origin, _driver: AbortOnDropHandle::new(driver) })
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
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Connections at once from one address; more are closed as they come.
    pub connections_per_peer: Option<usize>,
    /// Calls at once in one connection.
    pub streams: u32,
    /// Deadline for a TLS handshake, and for the first call after it.
    pub handshake_timeout: Duration,
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
    let slots = Arc::new(Semaphore::new(settings.connections));
    let peers = Arc::new(Peers::default());
    let acceptor = TlsAcceptor::from(Arc::clone(&settings.tls));
    let open = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        let (Ok(slot), Ok((stream, peer))) = (slot, accepted) else {
            // Out of file descriptors or an aborted connection: neither ends the server.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(place) = peers.admit(peer.ip(), settings.connections_per_peer) else {
            tracing::debug!(%peer, cap = settings.connections_per_peer, "too many connections of one address");
            continue;
        };
        let connection = one(stream, peer, acceptor.clone(), service.clone(), settings.clone(), stop.clone());
        open.spawn(async move {
            connection.await;
            drop((slot, place));
        });
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(settings.drain_timeout, open.wait()).await.is_err() {
        tracing::debug!("calls were still open when the server stopped");
    }
}

/// One connection, to its end.
async fn one<S, B>(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    service: S,
    settings: Settings,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let _ = stream.set_nodelay(true);
    let stream = Impatient::new(stream, PING_INTERVAL + PING_TIMEOUT);
    let stream = match tokio::time::timeout(settings.handshake_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
    };
    let presented = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    // Who has not proved who it is may do so, and then comes again.
    let stay = presented.is_none().then_some(STRANGER);
    let asked = Arc::new(Notify::new());
    let first = Arc::clone(&asked);
    let certificate = PeerCertificate(presented.map(|certificate| certificate.clone().into_owned()));
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        first.notify_one();
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(certificate.clone());
        service.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(settings.streams)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let overstayed = async {
        if tokio::time::timeout(settings.handshake_timeout, asked.notified()).await.is_err() {
            return;
        }
        match stay {
            Some(stay) => tokio::time::sleep(stay).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = overstayed => return tracing::debug!(%peer, "the connection was not used, or by a stranger for too long"),
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
