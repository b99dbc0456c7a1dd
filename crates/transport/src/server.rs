//! Serving a router: plain or TLS, with a cap on connections, a deadline for request heads and graceful shutdown.

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// How a server behaves.
#[derive(Clone)]
pub struct Settings {
    /// Present this; plain HTTP without.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Deadline for a TLS handshake and for the head of each request.
    pub head_timeout: Duration,
    /// How long open requests may take once the server is told to stop.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tls: None,
            connections: 1024,
            head_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Extension of every request: the peer's address. Never an identity.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub std::net::SocketAddr);

/// Serves `router` on `listener` until `stop` is cancelled; then finishes open requests within the drain time.
pub async fn serve(listener: TcpListener, router: Router, settings: Settings, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(settings.connections));
    let graceful = GracefulShutdown::new();
    let acceptor = settings.tls.clone().map(TlsAcceptor::from);
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            () = stop.cancelled() => break,
        };
        let Ok(slot) = slot else { break };
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
        let connection = Connection {
            router: router.clone(),
            acceptor: acceptor.clone(),
            head_timeout: settings.head_timeout,
            watcher: graceful.watcher(),
        };
        tokio::spawn(async move {
            connection.run(stream, peer).await;
            drop(slot);
        });
    }
    if tokio::time::timeout(settings.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still open when the server stopped");
    }
}

struct Connection {
    router: Router,
    acceptor: Option<TlsAcceptor>,
    head_timeout: Duration,
    watcher: hyper_util::server::graceful::Watcher,
}

impl Connection {
    async fn run(self, stream: TcpStream, peer: std::net::SocketAddr) {
        let _ = stream.set_nodelay(true);
        match self.acceptor.clone() {
            None => self.http(stream, peer).await,
            Some(acceptor) => match tokio::time::timeout(self.head_timeout, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.http(stream, peer).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
            },
        }
    }

    async fn http<S>(self, stream: S, peer: std::net::SocketAddr)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router;
        let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            let router = router.clone();
            async move {
                request.extensions_mut().insert(Peer(peer));
                router.oneshot(request).await
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.head_timeout);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::debug!(%peer, %error, "connection ended");
        }
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
            assert!(matches!(error, ClientError::Connection { .. }));
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
}
