//! Connections through a proxy: `CONNECT` for https, the absolute form of the request line for http (RFC 9112, 3.2.2).

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tower::Service;

/// Through whom requests go. Addresses may hold a user and a password, so they are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Hosts that are asked directly: names with their sub-domains, addresses, networks, with commas between them; `*` for all.
    pub except: String,
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (http, https) = (self.http.is_some(), self.https.is_some());
        f.debug_struct("Proxies").field("http", &http).field("https", &https).field("except", &self.except).finish()
    }
}

/// An address of a proxy that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the proxy for {scheme} is not an address as http://host:3128")]
pub struct ProxyError {
    /// Of which requests.
    pub scheme: &'static str,
}

impl Proxies {
    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    /// Checks the addresses: a proxy is spoken to in plain HTTP.
    pub fn check(&self) -> Result<(), ProxyError> {
        for (scheme, address) in [("http", &self.http), ("https", &self.https)] {
            let usable = |text: &String| {
                let uri: Option<Uri> = text.parse().ok();
                uri.is_some_and(|uri| {
                    uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
                })
            };
            if !address.as_ref().is_none_or(usable) {
                return Err(ProxyError { scheme });
            }
        }
        Ok(())
    }

    fn matcher(&self) -> Matcher {
        let mut builder = Matcher::builder();
        if let Some(http) = &self.http {
            builder = builder.http(http.clone());
        }
        if let Some(https) = &self.https {
            builder = builder.https(https.clone());
        }
        builder.no(self.except.clone()).build()
    }
}

/// Connects directly or through a proxy, as the target wants it.
#[derive(Clone)]
pub(crate) struct Connector {
    direct: HttpConnector,
    matcher: Option<Arc<Matcher>>,
}

impl Connector {
    pub(crate) fn new(direct: HttpConnector, proxies: &Proxies) -> Self {
        Self { direct, matcher: (!proxies.is_empty()).then(|| Arc::new(proxies.matcher())) }
    }

    fn intercept(&self, target: &Uri) -> Option<Intercept> {
        self.matcher.as_ref().and_then(|matcher| matcher.intercept(target))
    }

    /// What a request in plain HTTP has to tell its proxy; a tunnel tells it when it is made.
    pub(crate) fn authorization(&self, target: &Uri) -> Option<HeaderValue> {
        let plain = target.scheme_str() == Some("http");
        self.intercept(target).filter(|_| plain).and_then(|proxy| proxy.basic_auth().cloned())
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("proxies", &self.matcher.is_some()).finish_non_exhaustive()
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let mut direct = self.direct.clone();
        let proxy = self.intercept(&target);
        Box::pin(async move {
            let Some(proxy) = proxy else {
                return Ok(Stream { inner: direct.call(target).await?, proxied: false });
            };
            if target.scheme_str() == Some("https") {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                return Ok(Stream { inner: tunnel.call(target).await?, proxied: false });
            }
            Ok(Stream { inner: direct.call(proxy.uri().clone()).await?, proxied: true })
        })
    }
}

/// A connection that knows whether its requests name the whole URL.
#[derive(Debug)]
pub(crate) struct Stream {
    inner: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.inner.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, Client};
    use bytes::Bytes;
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A proxy that answers one request itself and returns its head.
    async fn proxy(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://user:secret@{}", listener.local_addr().unwrap());
        let heard = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        (url, heard)
    }

    async fn ask(proxies: Proxies, url: &str) -> Result<client::Reply, client::ClientError> {
        let client = Client::new(client::Settings { proxies, ..client::Settings::default() }).unwrap();
        client.send(http::Request::get(url).body(Full::new(Bytes::new())).unwrap()).await
    }

    #[tokio::test]
    async fn http_requests_name_the_whole_url_to_the_proxy_and_log_in_there() {
        let (url, heard) = proxy("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
        let reply = ask(Proxies { http: Some(url), ..Proxies::default() }, "http://image.invalid/a?b").await.unwrap();
        assert_eq!(&reply.body[..], b"hi");
        let head = heard.await.unwrap().to_lowercase();
        assert!(head.starts_with("get http://image.invalid/a?b http/1.1\r\n"), "{head}");
        assert!(head.contains("proxy-authorization: basic dxnlcjpzzwnyzxq="), "{head}");
    }

    #[tokio::test]
    async fn https_requests_go_through_a_tunnel_or_not_at_all() {
        let (url, heard) = proxy("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        let proxies = Proxies { https: Some(url), ..Proxies::default() };
        let error = ask(proxies.clone(), "https://image.invalid/a").await.unwrap_err();
        assert!(!format!("{error} {proxies:?}").contains("secret"), "{error}");
        let head = heard.await.unwrap();
        assert!(head.starts_with("CONNECT image.invalid:443 HTTP/1.1\r\n"), "{head}");
    }

    #[tokio::test]
    async fn hosts_that_are_excepted_and_other_schemes_are_asked_directly() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}/a", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.unwrap();
                assert!(head[..length].starts_with(b"GET /a HTTP/1.1"));
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            }
        });
        let nobody = Some("http://127.0.0.1:1".to_owned());
        for proxies in [
            Proxies { http: nobody.clone(), except: "example.com, 127.0.0.0/8".to_owned(), ..Proxies::default() },
            Proxies { http: nobody.clone(), except: "127.0.0.1".to_owned(), ..Proxies::default() },
            Proxies { https: nobody.clone(), ..Proxies::default() },
        ] {
            assert_eq!(ask(proxies, &origin).await.unwrap().status, 204);
        }
        let error = ask(Proxies { http: nobody, ..Proxies::default() }, &origin).await.unwrap_err();
        assert!(matches!(error, client::ClientError::Connection { .. }), "{error}");
    }

    #[test]
    fn an_address_that_is_none_is_named_without_itself() {
        for wrong in ["", "host:3128", "ftp://host", "http://", "socks5://host", "user:secret@host"] {
            let proxies = Proxies { https: Some(wrong.to_owned()), ..Proxies::default() };
            assert_eq!(proxies.check(), Err(ProxyError { scheme: "https" }), "{wrong}");
        }
        let good = Proxies { http: Some("http://user:secret@[fd00::1]:3128".to_owned()), ..Proxies::default() };
        assert_eq!(good.check(), Ok(()));
    }
}
