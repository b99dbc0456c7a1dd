//! Parts that the tests share: an agent on a simulated machine, and a client of its REST API.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub mod bench;
pub mod odd;
pub mod stream;

use agent::{Agent, Dispatcher, Settings, Token, api};
use bytes::Bytes;
use hardware_sim::SimMachine;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use transport::client::{self, Client};
use transport::server;

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// An agent on a simulated machine.
pub struct Rig {
    pub machine: Arc<SimMachine>,
    pub agent: Arc<Agent>,
    pub dispatcher: Arc<Dispatcher>,
}

/// Settings that do not make tests wait.
pub fn settings() -> Settings {
    Settings {
        agent_token: Some(Token::new(TOKEN.to_owned())),
        disk_wait_attempts: 1,
        image_retries: 0,
        image_retry_interval: Duration::from_millis(10),
        image_roots: vec![std::env::temp_dir()],
        ..Settings::default()
    }
}

pub fn rig(machine: SimMachine, settings: Settings) -> Rig {
    let machine = Arc::new(machine);
    let (agent, dispatcher) = Agent::builder(Arc::clone(&machine) as _, settings).build().unwrap();
    Rig { machine, agent, dispatcher }
}

/// The REST API of an agent on loopback; stops when dropped.
pub struct Rest {
    base: String,
    /// What the API presents, PEM; plain HTTP without.
    pub certificate: Option<String>,
    client: Client,
    _stop: Option<tokio_util::sync::DropGuard>,
}

/// Status and body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Rest {
    pub async fn serve(dispatcher: &Arc<Dispatcher>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let router = api::router(Arc::clone(dispatcher), false);
        tokio::spawn(server::serve(listener, router, api::serving(), stop.clone()));
        let client = Client::new(client::Settings::default()).unwrap();
        Self { base, certificate: None, client, _stop: Some(stop.drop_guard()) }
    }

    /// The same over TLS 1.3, with an identity as the agent makes it; the client believes that alone.
    pub async fn serve_tls(dispatcher: &Arc<Dispatcher>) -> Self {
        let address = std::net::IpAddr::from([127, 0, 0, 1]);
        let identity = agent::session::identity::generate(address, transport::tls::Making::default()).unwrap();
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let router = api::router(Arc::clone(dispatcher), true);
        let tls = Some(identity.server_config("1.3").unwrap());
        let serving = server::serve(listener, router, server::Settings { tls, ..api::serving() }, stop.clone());
        tokio::spawn(serving);
        let certificate = Some(identity.certificate.clone());
        let trust = client::Trust::Only(identity.certificate);
        let client = Client::new(client::Settings { trust, ..client::Settings::default() }).unwrap();
        Self { base, certificate, client, _stop: Some(stop.drop_guard()) }
    }

    /// A client of an API that somebody else serves.
    pub fn at(base: String) -> Self {
        Self { base, certificate: None, client: Client::new(client::Settings::default()).unwrap(), _stop: None }
    }

    /// Address and port.
    pub fn authority(&self) -> &str {
        self.base.rsplit('/').next().unwrap_or_default()
    }

    /// The status of a GET, if anybody answers.
    pub async fn try_get(&self, path: &str) -> Option<u16> {
        let request = Request::get(format!("{}{path}", self.base)).body(Full::new(Bytes::new())).unwrap();
        self.client.send(request).await.ok().map(|reply| reply.status.as_u16())
    }

    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let (status, _, body) = self.ask(method, path, &[], body).await;
        Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    /// Sends any request; status, headers and bytes of the answer.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (u16, http::HeaderMap, Bytes) {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = self.client.send(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        (reply.status.as_u16(), reply.headers, reply.body)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }

    pub async fn command(&self, name: &str, params: Value, wait: bool) -> Answer {
        let path = format!("/v1/commands/?agent_token={TOKEN}&wait={wait}");
        self.send(Method::POST, &path, json!({"name": name, "params": params}).to_string()).await
    }

    pub async fn list(&self) -> Vec<Value> {
        let answer = self.get(&format!("/v1/commands/?agent_token={TOKEN}")).await;
        answer.body["commands"].as_array().cloned().unwrap_or_default()
    }
}
