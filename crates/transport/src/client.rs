//! Requests: a deadline on each, a chosen trust, no redirects followed, replies read under a cap.

use crate::body::{self, BodyError};
use crate::proxy::{Connector, Proxies};
use crate::tls::{self, Identity, TlsError};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Whose certificates a client believes.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The public roots (Mozilla's list).
    #[default]
    Public,
    /// Only these certificates, PEM. A server's own self-signed certificate is a good one.
    Only(String),
    /// The public roots and these, PEM.
    PublicAnd(String),
    /// Anybody. Only where an operator asked for it.
    Anybody,
}

/// Why a request brought no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not an absolute http or https URL.
    #[error("{url:?} is not an http or https URL")]
    Url {
        /// What was given.
        url: String,
    },
    /// Nobody there, refused, TLS failed, or the connection broke.
    #[error("{method} {url}: {reason}")]
    Connection {
        /// Method.
        method: Method,
        /// URL without query, which may hold a secret.
        url: String,
        /// The whole chain of causes.
        reason: String,
        /// Whether the connection was never made, so that the peer has not seen the request.
        unsent: bool,
        /// Whether the peer's certificate is not believed: it will not be the next time either.
        untrusted: bool,
    },
    /// No reply in time.
    #[error("{method} {url}: no answer within {} s", .after.as_secs())]
    Timeout {
        /// Method.
        method: Method,
        /// URL without query.
        url: String,
        /// The deadline.
        after: Duration,
    },
    /// The reply could not be read.
    #[error("reply of {url}")]
    Body {
        /// URL without query.
        url: String,
        /// Cause.
        #[source]
        source: BodyError,
    },
    /// The reply is not the JSON that was expected.
    #[error("reply of {url} is not understood: {reason}")]
    Json {
        /// URL without query.
        url: String,
        /// Why.
        reason: String,
    },
}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// URL without query, for messages.
    pub url: String,
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON, with capped depth.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        wire::json::read(&self.body)
            .map_err(|error| ClientError::Json { url: self.url.clone(), reason: error.to_string() })
    }

    /// The body as text, cut to what fits in a message.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(500).collect()
    }
}

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whom to trust.
    pub trust: Trust,
    /// Shown to servers that ask who the client is.
    pub identity: Option<Identity>,
    /// Through whom requests go; checked by [`Proxies::check`].
    pub proxies: Proxies,
    /// Seconds to make a connection.
    pub connect_timeout: Duration,
    /// Seconds until the head of a reply, and again for its body, in [`Client::send`].
    pub timeout: Duration,
    /// Largest body that [`Client::send`] reads, bytes.
    pub body_limit: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trust: Trust::Public,
            identity: None,
            proxies: Proxies::default(),
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
            body_limit: 4 << 20,
        }
    }
}

/// A body that is made while it is sent, so that it is never held whole.
pub type Streamed = UnsyncBoxBody<Bytes, std::io::Error>;

/// A client. Cheap to clone; connections are kept for reuse.
#[derive(Debug, Clone)]
pub struct Client {
    inner: hyper_util::client::legacy::Client<HttpsConnector<Connector>, Streamed>,
    connector: Connector,
    settings: Arc<Settings>,
}

impl Client {
    /// A client with these settings.
    pub fn new(settings: Settings) -> Result<Self, TlsError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(settings.connect_timeout));
        http.set_nodelay(true);
        let through = Connector::new(http, &settings.proxies);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(&settings.trust, settings.identity.as_ref())?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(through.clone());
        let inner = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(2)
            .build(connector);
        Ok(Self { inner, connector: through, settings: Arc::new(settings) })
    }

    /// The same client, connections included, with another [`Settings::timeout`].
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Self {
        let settings = Settings { timeout, ..Settings::clone(&self.settings) };
        Self { settings: Arc::new(settings), ..self.clone() }
    }

    /// Sends a request and returns the head; the body streams, without a deadline of its own.
    pub async fn open(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        self.open_streamed(request.map(|body| body.map_err(|never| match never {}).boxed_unsync())).await
    }

    /// The same with a body that streams; the deadline of the reply's head is that of the request's body, too.
    pub async fn open_streamed(&self, mut request: Request<Streamed>) -> Result<Response<Incoming>, ClientError> {
        let method = request.method().clone();
        let url = without_query(request.uri());
        if request.uri().authority().is_none() || !matches!(request.uri().scheme_str(), Some("http" | "https")) {
            return Err(ClientError::Url { url: request.uri().to_string() });
        }
        if let Some(authorization) = self.connector.authorization(request.uri()) {
            request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization);
        }
        match tokio::time::timeout(self.settings.timeout, self.inner.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let (unsent, untrusted) = (error.is_connect(), is_untrusted(&error));
                Err(ClientError::Connection { method, url, reason: chain(&error), unsent, untrusted })
            }
            Err(_) => Err(ClientError::Timeout { method, url, after: self.settings.timeout }),
        }
    }

    /// Sends a request and reads the whole reply, within the deadline and the cap of the settings.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, ClientError> {
        let url = without_query(request.uri());
        let method = request.method().clone();
        let response = self.open(request).await?;
        self.read(method, url, response).await
    }

    /// The same with a body that streams.
    pub async fn send_streamed(&self, request: Request<Streamed>) -> Result<Reply, ClientError> {
        let url = without_query(request.uri());
        let method = request.method().clone();
        let response = self.open_streamed(request).await?;
        self.read(method, url, response).await
    }

    async fn read(&self, method: Method, url: String, response: Response<Incoming>) -> Result<Reply, ClientError> {
        let (head, incoming) = response.into_parts();
        let reading = body::read(incoming, self.settings.body_limit);
        match tokio::time::timeout(self.settings.timeout, reading).await {
            Ok(Ok(body)) => Ok(Reply { url, status: head.status, headers: head.headers, body }),
            Ok(Err(source)) => Err(ClientError::Body { url, source }),
            Err(_) => Err(ClientError::Timeout { method, url, after: self.settings.timeout }),
        }
    }
}

/// Tickets that a client keeps to resume TLS sessions: 8 of a server (`rustls`, `MAX_TLS13_TICKETS_PER_SERVER`), and a client
/// talks to few. The room for them is taken at once, and there is a client for each BMC.
const TICKETS: usize = 4 * 8;

/// The roots of [`Trust::Public`].
static PUBLIC: LazyLock<Arc<rustls::RootCertStore>> =
    LazyLock::new(|| Arc::new(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()));

/// The TLS settings of a client with this trust, and an identity where servers ask for one: TLS 1.2 and 1.3, HTTP/1.1.
pub fn tls_config(trust: &Trust, identity: Option<&Identity>) -> Result<rustls::ClientConfig, TlsError> {
    let builder = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(TlsError::Setup)?;
    let own = |mut roots: rustls::RootCertStore, pem: &str| -> Result<_, TlsError> {
        tls::add(&mut roots, "trusted certificate", pem)?;
        Ok(Arc::new(roots))
    };
    let roots = match trust {
        Trust::Anybody => Arc::new(rustls::RootCertStore::empty()),
        Trust::Public => Arc::clone(&PUBLIC),
        Trust::Only(pem) => own(rustls::RootCertStore::empty(), pem)?,
        Trust::PublicAnd(pem) => own(rustls::RootCertStore::clone(&PUBLIC), pem)?,
    };
    let builder = if matches!(trust, Trust::Anybody) {
        let verifier = Arc::new(tls::AcceptAny(tls::provider()));
        builder.dangerous().with_custom_certificate_verifier(verifier)
    } else {
        builder.with_root_certificates(roots)
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.parts()?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::Setup)?
        }
    };
    config.resumption = rustls::client::Resumption::in_memory_sessions(TICKETS);
    Ok(config)
}

/// The URL without its query, which may hold a token.
pub fn without_query(uri: &Uri) -> String {
    let text = uri.to_string();
    text.split('?').next().unwrap_or_default().to_owned()
}

/// Whether a certificate that is not believed is behind an error.
fn is_untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref() {
        return matches!(error, rustls::Error::InvalidCertificate(_));
    }
    match error.downcast_ref::<std::io::Error>() {
        // What lies within an error of I/O is not its cause, but stands in its place.
        Some(error) => error.get_ref().is_some_and(|within| is_untrusted(within)),
        None => error.source().is_some_and(is_untrusted),
    }
}

/// An error with all its causes, joined by `: `.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_client_with_another_time_shares_connections_and_keeps_to_its_own_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        // One connection, whose second request is never answered.
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let _ = stream.read(&mut head).await.unwrap();
            std::future::pending::<()>().await;
        });
        let client = Client::new(Settings::default()).unwrap();
        let ask = || Request::get(&url).body(Full::default()).unwrap();
        assert_eq!(&client.send(ask()).await.unwrap().body[..], b"ok");
        let after = Duration::from_millis(50);
        let error = client.within(after).send(ask()).await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout { after: told, .. } if told == after), "{error}");
    }
}
