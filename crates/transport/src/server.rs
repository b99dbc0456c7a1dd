//! Serving a router: plain or TLS, with caps on connections, deadlines for heads of requests and graceful shutdown.

use crate::body::{Held, Watched};
use crate::guests::{Guest, Guests};
use crate::impatient::Impatient;
use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Requests at once in a connection of HTTP/2.
#[cfg(feature = "both")]
const STREAMS: u32 = 64;

/// How a server behaves.
#[derive(Clone)]
pub struct Settings {
    /// Present this; plain HTTP without.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Connections at once. One more takes the place of the one that has been idle for the longest time, and waits when
    /// none is.
    pub connections: usize,
    /// Connections at once from one address. One more takes the place of an idle one likewise, and is closed as it comes when
    /// none is. `None` is no cap of its own: behind a proxy all clients have one address.
    pub connections_per_peer: Option<usize>,
    /// Deadline for a TLS handshake, and for the head of the first request after it.
    pub head_timeout: Duration,
    /// How long a connection may be idle after an answer, the arrival of the next head included.
    pub idle_timeout: Duration,
    /// How long a peer may read nothing of what is written to it.
    pub write_timeout: Duration,
    /// How long open requests may take once the server is told to stop.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tls: None,
            connections: 1024,
            connections_per_peer: None,
            head_timeout: Duration::from_secs(5),
            // Longer than our own client keeps a connection: else it would send into one that is just being closed.
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Extension of every request: the peer's address. Never an identity.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Serves `router` on `listener` until `stop` is cancelled; then finishes open requests within the drain time.
pub async fn serve(listener: TcpListener, router: Router, settings: Settings, stop: CancellationToken) {
    run::<false>(listener, router, settings, stop).await;
}

/// As [`serve`], for clients of HTTP/2 as well: those that begin with it (RFC 9113, 3.3), or choose it in TLS where the
/// settings offer it.
#[cfg(feature = "both")]
pub async fn serve_both(listener: TcpListener, router: Router, settings: Settings, stop: CancellationToken) {
    run::<true>(listener, router, settings, stop).await;
}

async fn run<const BOTH: bool>(listener: TcpListener, router: Router, settings: Settings, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(settings.connections));
    let guests = Arc::new(Guests::default());
    let graceful = GracefulShutdown::new();
    let acceptor = settings.tls.clone().map(TlsAcceptor::from);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors or an aborted connection: neither ends the server.
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if slots.available_permits() == 0 {
            guests.make_room();
        }
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            () = stop.cancelled() => break,
        };
        let Ok(slot) = slot else { break };
        let Some(guest) = guests.admit(peer.ip(), settings.connections_per_peer) else {
            tracing::debug!(%peer, cap = settings.connections_per_peer, "too many connections of one address");
            continue;
        };
        let guest = Arc::new(guest);
        let connection = Connection {
            router: router.clone(),
            acceptor: acceptor.clone(),
            head_timeout: settings.head_timeout,
            idle_timeout: settings.idle_timeout,
            write_timeout: settings.write_timeout,
            watcher: graceful.watcher(),
            guest: Arc::clone(&guest),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = connection.run::<BOTH>(stream, peer) => {}
                () = guest.dismissed() => tracing::debug!(%peer, "an idle connection made room for another one"),
            }
            drop(slot);
        });
    }
    // Whoever connects now is refused and looks elsewhere, in place of waiting for an answer that never comes.
    drop(listener);
    if tokio::time::timeout(settings.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still open when the server stopped");
    }
}

struct Connection {
    router: Router,
    acceptor: Option<TlsAcceptor>,
    head_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    watcher: hyper_util::server::graceful::Watcher,
    guest: Arc<Guest>,
}

impl Connection {
    async fn run<const BOTH: bool>(self, stream: TcpStream, peer: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let unread = Arc::new(AtomicBool::new(false));
        let stream = Impatient::new(stream, self.write_timeout).lingering(Arc::clone(&unread));
        match self.acceptor.clone() {
            None => self.http::<BOTH, _>(stream, peer, unread).await,
            Some(acceptor) => match tokio::time::timeout(self.head_timeout, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.http::<BOTH, _>(stream, peer, unread).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
            },
        }
    }

    /// `unread` tells the stream whether a body was left unread.
    async fn http<const BOTH: bool, S>(self, stream: S, peer: SocketAddr, unread: Arc<AtomicBool>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (router, guest) = (self.router, self.guest);
        let asked = Arc::new(Notify::new());
        let first = Arc::clone(&asked);
        let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
            first.notify_one();
            let call = guest.call();
            let mut request = request.map(|body| Watched::new(body, Arc::clone(&unread)));
            request.extensions_mut().insert(Peer(peer));
            let answer = router.clone().oneshot(request);
            async move { answer.await.map(|answer| answer.map(|body| Held::new(body, call))) }
        });
        let io = TokioIo::new(stream);
        // hyper counts its time for a head from the end of the answer before: it is the deadline of idle connections as well.
        #[cfg(feature = "both")]
        if BOTH {
            let mut builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(self.idle_timeout);
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .keep_alive_interval(crate::http2::PING_INTERVAL)
                .keep_alive_timeout(crate::http2::PING_TIMEOUT);
            let connection = self.watcher.watch(builder.serve_connection(io, service).into_owned());
            return first_head(connection, &asked, self.head_timeout, peer).await;
        }
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.idle_timeout);
        let connection = self.watcher.watch(builder.serve_connection(io, service));
        first_head(connection, &asked, self.head_timeout, peer).await;
    }
}

/// Runs a connection to its end, or until the time for its first head is over.
async fn first_head<E: std::fmt::Display>(
    connection: impl Future<Output = Result<(), E>>,
    asked: &Notify,
    within: Duration,
    peer: SocketAddr,
) {
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        head = tokio::time::timeout(within, asked.notified()) => match head {
            Ok(()) => connection.await,
            Err(_) => {
                tracing::debug!(%peer, "the head of the first request timed out");
                return;
            }
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, Client, ClientError, Trust};
    use crate::tls::{Curve, Identity, Making};
    use axum::routing::get;
    use bytes::Bytes;
    use http_body_util::Full;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::SystemTime;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;

    async fn start(identity: &Identity) -> (u16, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let settings = Settings { tls: Some(identity.server_config("1.3").unwrap()), ..Settings::default() };
        let router = Router::new().route("/", get(async || "here"));
        tokio::spawn(serve(listener, router, settings, stop.clone()));
        (port, stop)
    }

    async fn fetch(port: u16, trust: Trust) -> Result<client::Reply, ClientError> {
        let client = Client::new(client::Settings { trust, ..client::Settings::default() }).unwrap();
        let request = http::Request::get(format!("https://127.0.0.1:{port}/?agent_token=secret"));
        client.send(request.body(Full::new(Bytes::new())).unwrap()).await
    }

    #[tokio::test]
    async fn a_generated_identity_is_believed_by_those_who_pinned_it_and_by_nobody_else() {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let identity = Identity::generate("node", address, SystemTime::now()).unwrap();
        let other = Identity::generate("node", address, SystemTime::now()).unwrap();
        let (port, stop) = start(&identity).await;
        let reply = fetch(port, Trust::Only(identity.certificate.clone())).await.unwrap();
        assert_eq!(&reply.body[..], b"here");
        assert!(fetch(port, Trust::Anybody).await.is_ok());
        for trust in [Trust::Public, Trust::Only(other.certificate)] {
            let error = fetch(port, trust).await.unwrap_err();
            assert!(matches!(error, ClientError::Connection { untrusted: true, .. }), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        stop.cancel();
    }

    #[tokio::test]
    async fn clients_are_turned_away_without_a_certificate_where_one_is_asked_for() {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let make = |curve| Identity::make("node", address, SystemTime::now(), Making { curve, ..Making::default() });
        let (server, driver, stranger) = (make(Curve::P521), make(Curve::P256), make(Curve::P256));
        let (server, driver, stranger) = (server.unwrap(), driver.unwrap(), stranger.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = server.server_config_for("1.3", Some(&driver.certificate)).unwrap();
        let stop = CancellationToken::new();
        let settings = Settings { tls: Some(tls), ..Settings::default() };
        tokio::spawn(serve(listener, Router::new().route("/", get(async || "here")), settings, stop.clone()));
        let ask = async |identity: Option<Identity>| {
            let trust = Trust::Only(server.certificate.clone());
            let client = Client::new(client::Settings { trust, identity, ..client::Settings::default() }).unwrap();
            let request = http::Request::get(format!("https://127.0.0.1:{port}/"));
            client.send(request.body(Full::new(Bytes::new())).unwrap()).await
        };
        assert_eq!(ask(Some(driver)).await.unwrap().status, 200);
        assert!(ask(None).await.is_err());
        assert!(ask(Some(stranger)).await.is_err());
        stop.cancel();
    }

    /// Serves one page with `settings`; the address, and what stops it.
    async fn serving(settings: Settings) -> (SocketAddr, tokio_util::sync::DropGuard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, Router::new().route("/", get(async || "here")), settings, stop.clone()));
        (address, stop.drop_guard())
    }

    /// Asks on an open connection; whether there was an answer rather than an end.
    async fn answered(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 4096];
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let length = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await.unwrap();
        asked.is_ok() && length.is_ok_and(|length| answer[..length].starts_with(b"HTTP/1.1 200"))
    }

    /// Waits for the server to end a connection on which nothing is said.
    async fn ended(stream: &mut TcpStream) -> bool {
        // A TLS server may say why.
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await.is_ok()
    }

    #[tokio::test]
    async fn connections_that_never_ask_are_ended_and_free_their_place_for_others() {
        let identity = Identity::generate("node", IpAddr::V4(Ipv4Addr::LOCALHOST), SystemTime::now()).unwrap();
        for tls in [None, Some(identity.server_config("1.3").unwrap())] {
            let head_timeout = Duration::from_millis(200);
            let idle_timeout = Duration::from_secs(60);
            let plain = tls.is_none();
            let settings = Settings { tls, connections: 2, head_timeout, idle_timeout, ..Settings::default() };
            let (address, _stop) = serving(settings).await;
            let mut idle = Vec::new();
            for begun in [&b""[..], b"GET / HTTP/1.1\r\nHos"] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(begun).await.unwrap();
                idle.push(stream);
            }
            let mut waiting = TcpStream::connect(address).await.unwrap();
            assert!(!plain || answered(&mut waiting).await, "the third found no place");
            for stream in &mut idle {
                assert!(ended(stream).await);
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_asked_may_be_idle_for_longer_than_a_first_head_may_take() {
        let settings = |head: u64, idle: u64| Settings {
            head_timeout: Duration::from_millis(head),
            idle_timeout: Duration::from_millis(idle),
            ..Settings::default()
        };
        let (address, _stop) = serving(settings(200, 60_000)).await;
        let mut kept = TcpStream::connect(address).await.unwrap();
        assert!(answered(&mut kept).await);
        // When a silent one that came later is ended, the deadline of the first head is over for both.
        assert!(ended(&mut TcpStream::connect(address).await.unwrap()).await);
        assert!(answered(&mut kept).await);

        let (address, _stop) = serving(settings(60_000, 200)).await;
        let mut kept = TcpStream::connect(address).await.unwrap();
        assert!(answered(&mut kept).await);
        assert!(ended(&mut kept).await);
    }

    /// Serves `/`, and a page that never comes, `/never`, which tells that it was asked for.
    async fn waiting(settings: Settings) -> (SocketAddr, Arc<Notify>, tokio_util::sync::DropGuard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let tell = Arc::clone(&asked);
        let never = get(async move || {
            tell.notify_one();
            std::future::pending::<()>().await;
        });
        let router = Router::new().route("/", get(async || "here")).route("/never", never);
        tokio::spawn(serve(listener, router, settings, stop.clone()));
        (address, asked, stop.drop_guard())
    }

    #[tokio::test]
    async fn who_comes_takes_the_place_of_the_longest_idle_and_of_nobody_who_is_busy() {
        let share = Settings { connections_per_peer: Some(2), ..Settings::default() };
        let all = Settings { connections: 2, ..Settings::default() };
        for settings in [share, all] {
            let has_share = settings.connections_per_peer.is_some();
            let (address, asked, _stop) = waiting(settings).await;
            let never = async || {
                let mut busy = TcpStream::connect(address).await.unwrap();
                busy.write_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
                tokio::time::timeout(Duration::from_secs(10), asked.notified()).await.unwrap();
                busy
            };
            let mut busy = vec![never().await];
            let mut idle = Vec::new();
            for _ in 0..20 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                assert!(answered(&mut stream).await);
                idle.push(stream);
            }
            let mut last = idle.pop().unwrap();
            for stream in &mut idle {
                assert!(ended(stream).await);
            }
            assert!(answered(&mut last).await);
            busy.push(never().await);
            assert!(ended(&mut last).await);
            if has_share {
                assert!(ended(&mut TcpStream::connect(address).await.unwrap()).await);
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
                assert!(answered(&mut socket.connect(address).await.unwrap()).await);
            }
            for stream in &mut busy {
                let nothing = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0])).await;
                assert!(nothing.is_err(), "a connection with an open call was ended: {nothing:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_comes_before_the_body_was_read_reaches_a_client_that_still_sends() {
        let identity = Identity::generate("node", IpAddr::V4(Ipv4Addr::LOCALHOST), SystemTime::now()).unwrap();
        for tls in [None, Some(identity.server_config("1.3").unwrap())] {
            let is_tls = tls.is_some();
            let (address, _stop) = serving(Settings { tls, ..Settings::default() }).await;
            let stream = TcpStream::connect(address).await.unwrap();
            let answer = match is_tls {
                false => sent_whole(stream).await,
                true => {
                    let config = client::tls_config(&Trust::Only(identity.certificate.clone()), None).unwrap();
                    let name = rustls_pki_types::ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
                    sent_whole(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
                        .await
                }
            };
            assert!(answer.starts_with("HTTP/1.1 405"), "TLS: {is_tls}: {answer:?}");
        }
    }

    /// Sends a request whose body is more than any buffer takes, and reads only then.
    async fn sent_whole(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> String {
        let body = vec![b'x'; 32 << 20];
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_of_a_long_answer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(Notify::new());
        let told = Arc::clone(&ended);
        let endless = get(async move || {
            let end = EndOf(told.clone());
            let pieces = std::iter::repeat_with(move || {
                let _held = &end;
                Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 16]))
            });
            axum::body::Body::from_stream(futures::stream::iter(pieces))
        });
        let settings = Settings { write_timeout: Duration::from_millis(300), ..Settings::default() };
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, Router::new().route("/", endless), settings, stop.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        tokio::time::timeout(Duration::from_secs(20), ended.notified()).await.unwrap();
        stop.cancel();
    }

    /// Tells when it is dropped.
    struct EndOf(Arc<Notify>);

    impl Drop for EndOf {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
}
