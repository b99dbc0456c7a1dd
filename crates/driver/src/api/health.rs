//! Whether the service runs, whether it takes requests, and what it has counted.

use super::request::Call;
use super::{Api, reply};
use crate::fault::Fault;
use crate::flow::Flow;
use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::{NodeFilter, Page, Store};
use tower::ServiceExt as _;

/// How long the store may take to say that it works.
const LIMIT: Duration = Duration::from_secs(2);

/// `GET /healthz`: whoever answers runs.
pub(super) fn healthy() -> Response<Body> {
    text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".to_owned())
}

fn unready(why: &str) -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", format!("{why}\n"))
}

fn text(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A service for the time until the one in `behind` is there: it runs, and takes no requests yet.
pub fn starting(behind: Arc<OnceLock<Router>>) -> Router {
    Router::new().fallback(move |request: Request<Body>| {
        let behind = behind.clone();
        async move {
            match (behind.get(), request.uri().path()) {
                (Some(router), _) => match router.clone().oneshot(request).await {
                    Ok(response) => response,
                    Err(impossible) => match impossible {},
                },
                (None, "/healthz") => healthy(),
                (None, "/readyz") => unready("the driver starts"),
                (None, _) => reply::fault(&Fault::Unavailable("The driver starts; try again in a moment.".to_owned())),
            }
        }
    })
}

impl<S: Store> Api<S> {
    /// `GET /readyz`
    pub(super) async fn ready(&self) -> Response<Body> {
        if self.conductor.is_stopping() || self.access.draining.is_cancelled() {
            return unready("the driver stops");
        }
        match tokio::time::timeout(LIMIT, self.conductor.store().check()).await {
            Ok(Ok(())) => text(StatusCode::OK, "text/plain; charset=utf-8", "ready\n".to_owned()),
            Ok(Err(error)) => {
                tracing::warn!(error = transport::client::chain(&error), "not ready");
                unready("the store fails")
            }
            Err(_) => unready("the store does not answer"),
        }
    }

    /// `GET /metrics`
    pub(super) async fn metrics(&self, call: Call) -> Result<Response<Body>, Fault> {
        call.query.finish()?;
        let store = self.conductor.store();
        let nodes = store.nodes(&NodeFilter::default(), &Page::default()).await?;
        let flows = store.flows().await?;
        let kinds = flows.into_iter().filter_map(|flow| Some(serde_json::from_value::<Flow>(flow.document).ok()?.kind));
        self.conductor.metrics.connected(self.conductor.sessions().connected(), self.conductor.events().watchers());
        let metrics = self.conductor.metrics.text(&nodes, kinds.map(|kind| kind.as_str()));
        Ok(text(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics))
    }
}
