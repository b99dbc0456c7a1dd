//! Shards: how many nodes each has.

use super::request::Call;
use super::{Api, reply};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::Store;

impl<S: Store> Api<S> {
    /// `GET /v1/shards`. Nodes without a shard are counted under the name "None".
    pub(super) async fn list_shards(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let shards = self.conductor.store().shards().await?;
        let entry = |(name, count): (Option<String>, u64)| json!({"name": name.unwrap_or_else(|| "None".to_owned()), "count": count});
        let shards: Vec<Value> = shards.into_iter().map(entry).collect();
        Ok(reply::json(StatusCode::OK, &json!({"shards": shards})))
    }
}
