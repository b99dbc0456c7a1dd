//! `GET /v1/nodes/<node>/erasures`: signed records of what was erased. An addition of ours; Ironic has no such resource.

use super::document::{links, time};
use super::readings::wanted;
use super::request::{Call, short};
use super::{Api, list, reply};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use store::{Record, Store};
use uuid::Uuid;

/// Fields of a record; the first seven are those of a list without details. `record` is what is signed.
const FIELDS: &[&str] =
    &["uuid", "created_at", "step", "device", "method", "outcome", "links", "node_uuid", "record", "signature"];

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/erasures`
    pub(super) async fn list_erasures(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let original = std::mem::take(&mut query.original);
        let page = list::page(&mut query)?;
        let fields = wanted(&mut query, FIELDS, &FIELDS[..7])?;
        query.finish()?;
        let node = self.conductor.node_of_erasures(&call.node()?).await?;
        let records = self.conductor.erasures(node, &page).await?;
        let last = records.last().map(|record| record.uuid);
        let documents = records.iter().map(|record| document(&call, node, record, &fields)).collect();
        let path = format!("nodes/{node}/erasures");
        let document = list::document(&call, &original, "erasures", &path, &page, documents, last);
        Ok(reply::json(StatusCode::OK, &document))
    }

    /// `GET /v1/nodes/<node>/erasures/<record>`
    pub(super) async fn show_erasure(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let fields = wanted(&mut query, FIELDS, FIELDS)?;
        query.finish()?;
        let node = self.conductor.node_of_erasures(&call.node()?).await?;
        let name = call.segment(1);
        let uuid = Uuid::try_parse(name);
        let uuid =
            uuid.map_err(|_| Fault::NotFound(format!("Node {node} has no record of an erasure {}.", short(name))))?;
        let record = self.conductor.erasure(node, uuid).await?;
        Ok(reply::json(StatusCode::OK, &document(&call, node, &record, &fields)))
    }

    /// `GET /v1/erasures/key`: what signatures are checked with.
    pub(super) fn show_erasure_key(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let key = self.conductor.erasure_key();
        let document = json!({"algorithm": "ed25519", "key_id": key.id(), "public_key": key.public_pem()});
        Ok(reply::json(StatusCode::OK, &document))
    }
}

fn document(call: &Call, node: Uuid, record: &Record, fields: &[&str]) -> Value {
    let value = |name: &str| match name {
        "uuid" => json!(record.uuid),
        "created_at" => time(record.created_at),
        "links" => links(&call.base, &format!("nodes/{node}/erasures/{}", record.uuid)),
        name => record.fields.get(name).cloned().unwrap_or_default(),
    };
    Value::Object(fields.iter().map(|name| ((*name).to_owned(), value(name))).collect::<Map<_, _>>())
}
