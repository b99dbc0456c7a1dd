//! A BMC that answers what sushy-emulator was recorded to answer (`ci/record/redfish.py`), and takes changes of it.

use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// The recorded resources by their path, and what was asked that changes anything.
#[derive(Default)]
pub(crate) struct Bmc {
    resources: Map<String, Value>,
    pub(crate) actions: Vec<(String, Value)>,
}

async fn answer(Shared(bmc): Shared<Arc<Mutex<Bmc>>>, method: Method, uri: Uri, body: Bytes) -> Response {
    let mut bmc = bmc.lock().unwrap();
    let path = uri.path();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if method == Method::POST {
        if path.ends_with("/Actions/ComputerSystem.Reset") {
            bmc.actions.push((path.to_owned(), body));
            return StatusCode::NO_CONTENT.into_response();
        }
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    match bmc.resources.get_mut(path) {
        None => StatusCode::NOT_FOUND.into_response(),
        // A link of the emulator that leads nowhere.
        Some(Value::Number(status)) => {
            let status = u16::try_from(status.as_u64().unwrap()).unwrap();
            StatusCode::from_u16(status).unwrap().into_response()
        }
        Some(resource) if method == Method::PATCH => {
            merge(resource, &body);
            StatusCode::NO_CONTENT.into_response()
        }
        Some(resource) => axum::Json(resource.clone()).into_response(),
    }
}

fn merge(resource: &mut Value, change: &Value) {
    match (resource, change) {
        (Value::Object(resource), Value::Object(change)) => {
            for (key, value) in change {
                merge(resource.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (resource, change) => *resource = change.clone(),
    }
}

/// Starts it.
pub(crate) async fn start() -> (Arc<Mutex<Bmc>>, SocketAddr) {
    let path = format!("{}/../bmc/testdata/sushy.json", env!("CARGO_MANIFEST_DIR"));
    let recorded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let resources = recorded["resources"].as_object().unwrap().clone();
    let bmc = Arc::new(Mutex::new(Bmc { resources, ..Bmc::default() }));
    let app = axum::Router::new().fallback(answer).with_state(bmc.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (bmc, address)
}
