//! Plain requests to the Ironic API, for what the command line does not show.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::time::Duration;

/// The microversion that all requests ask for.
const MICROVERSION: &str = "1.115";
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer that is read.
const MAX_BODY: usize = 16 << 20;

/// A client of one API endpoint.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Api {
    /// A client of the API at `base`, `http://ADDRESS:PORT`.
    #[must_use]
    pub fn new(base: &str) -> Self {
        Self { base: base.to_owned(), client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// One request with a JSON body or none; returns status and JSON body (null if it is empty).
    ///
    /// # Errors
    /// When there is no answer within 30 s or the answer is not JSON.
    pub async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let what = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("X-OpenStack-Ironic-API-Version", MICROVERSION)
            .header("Accept", "application/json")
            .header("Content-Type", "application/json")
            .body(Full::from(body.map(Value::to_string).unwrap_or_default()))?;
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_BODY)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("read the body: {error}"))?
                .to_bytes();
            let value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
            anyhow::Ok((status, value))
        };
        tokio::time::timeout(LIMIT, exchange).await.with_context(|| format!("{what}: no answer"))?.context(what)
    }

    /// GET that must succeed.
    ///
    /// # Errors
    /// When it does not; the error carries status and body.
    pub async fn get(&self, path: &str) -> Result<Value> {
        match self.request(Method::GET, path, None).await? {
            (200, value) => Ok(value),
            (status, value) => bail!("GET {path} gave {status}: {value}"),
        }
    }

    /// GET of text that must succeed.
    ///
    /// # Errors
    /// When it does not, or there is no answer within 30 s.
    pub async fn text(&self, path: &str) -> Result<String> {
        let request = Request::get(format!("{}{path}", self.base))
            .header("X-OpenStack-Ironic-API-Version", MICROVERSION)
            .header("Accept", "text/plain");
        let exchange = async {
            let response = self.client.request(request.body(Full::default())?).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("read the body: {error}"))?
                .to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            if !status.is_success() {
                bail!("it gave {status}: {text}");
            }
            Ok(text)
        };
        let what = format!("GET {path}");
        tokio::time::timeout(LIMIT, exchange).await.with_context(|| format!("{what}: no answer"))?.context(what)
    }

    /// The document of a node.
    ///
    /// # Errors
    /// When there is no such node or no answer.
    pub async fn node(&self, node: &str) -> Result<Value> {
        self.get(&format!("/v1/nodes/{node}")).await
    }
}
