//! `GET /v1/nodes/<node>/progress`: how far a node is. An addition of ours; Ironic has no such document.

use super::request::Call;
use super::{Api, reply};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use store::Store;

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/progress`
    pub(super) async fn show_progress(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let report = self.conductor.report(&call.node()?).await?;
        Ok(reply::json(StatusCode::OK, &report.document()))
    }
}
