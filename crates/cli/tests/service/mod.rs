//! An in-process service that answers with what was recorded from Ironic 39 (`ci/record/ironic_api.py`), and keeps what it
//! was asked.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, Method};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

/// The node that the recordings are about.
pub(crate) const NODE: &str = "11111111-1111-4111-8111-111111111111";

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A reply of Ironic's, by the file and the name of its recording.
pub(crate) fn recorded(file: &str, name: &str) -> Response {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../driver/testdata/ironic/{file}.json"));
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let exchange = document["exchanges"].as_array().unwrap().iter().find(|exchange| exchange["name"] == name);
    let reply = &exchange.unwrap_or_else(|| panic!("no {name:?} in {file}"))["response"];
    let body = if reply["body"].is_null() { String::new() } else { reply["body"].to_string() };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        http::StatusCode::from_u16(u16::try_from(reply["status"].as_u64().unwrap()).unwrap()).unwrap();
    for (name, value) in reply["headers"].as_object().into_iter().flatten() {
        if name.to_ascii_lowercase().starts_with("x-openstack-ironic") {
            let name: http::HeaderName = name.parse().unwrap();
            response.headers_mut().insert(name, value.as_str().unwrap().parse().unwrap());
        }
    }
    response
}

/// The recorded node with other values in some fields.
pub(crate) fn node(fields: Value) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../driver/testdata/ironic/nodes.json");
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let exchanges = document["exchanges"].as_array().unwrap();
    let found = exchanges.iter().find(|exchange| exchange["name"] == "a node at 1.115").unwrap();
    let mut node = found["response"]["body"].clone();
    node.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    node
}

/// A reply with a document.
pub(crate) fn json(document: &Value) -> Response {
    Response::new(Body::from(document.to_string()))
}

/// The service.
pub(crate) struct Service {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

impl Service {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let log: Arc<Mutex<Vec<Asked>>> = asked.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (log, answer) = (log.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let asked = Asked {
                    method: head.method,
                    target: head.uri.to_string(),
                    headers: head.headers,
                    body: serde_json::from_slice(&body).unwrap_or_default(),
                };
                log.lock().unwrap().push(asked.clone());
                answer(&asked)
            }
        });
        runtime.spawn(transport::server::serve(listener, router, transport::server::Settings::default(), stop.clone()));
        Self { url, asked, stop, _runtime: runtime }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// `ferric` with this service, and nothing else of its surroundings.
    pub(crate) fn ferric(&self, arguments: &[&str]) -> Command {
        let mut command = ferric(arguments);
        command.env("FERRIC_URL", &self.url);
        command
    }

    /// What it said, without the port that chance has chosen.
    pub(crate) fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.ferric(arguments).output().unwrap();
        said(&output, &self.url)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// `ferric` without surroundings.
pub(crate) fn ferric(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferric"));
    command.env_clear().env("HOME", "/nonexistent").stdin(std::process::Stdio::null()).args(arguments);
    command
}

/// Exit code, standard output, standard error.
pub(crate) fn said(output: &Output, url: &str) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(url, "http://SERVICE");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}
