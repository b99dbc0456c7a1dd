//! Volumes: how nodes reach remote ones, and which.

use super::request::Call;
use super::resource::{Resource, anything};
use super::versions::{VOLUME_CONNECTOR_FIELDS, VOLUME_TARGET_FIELDS, VOLUMES};
use super::{Api, document, reply};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use store::{RecordKind, Store};

pub(super) const CONNECTOR: Resource = Resource {
    kind: RecordKind::VolumeConnector,
    path: "volume/connectors",
    list: "connectors",
    fields: VOLUME_CONNECTOR_FIELDS,
    short: &["uuid", "node_uuid", "type", "connector_id"],
    detail: Some(VOLUMES),
    filters: &[("node", VOLUMES)],
    named: false,
    defaults: || json!({}),
    check: anything,
};

pub(super) const TARGET: Resource = Resource {
    kind: RecordKind::VolumeTarget,
    path: "volume/targets",
    list: "targets",
    fields: VOLUME_TARGET_FIELDS,
    short: &["uuid", "node_uuid", "volume_type", "boot_index", "volume_id"],
    detail: Some(VOLUMES),
    filters: &[("node", VOLUMES)],
    named: false,
    defaults: || json!({}),
    check: index,
};

fn index(_: &Call, fields: &Map<String, Value>) -> Result<(), Fault> {
    match fields.get("boot_index").and_then(Value::as_i64) {
        Some(..0) => Err(Fault::Invalid("boot_index of a volume target must not be negative".to_owned())),
        _ => Ok(()),
    }
}

impl<S: Store> Api<S> {
    /// `GET /v1/volume` and `GET /v1/nodes/<node>/volume`
    pub(super) async fn show_volume(&self, mut call: Call, of_node: bool) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let path = if of_node { format!("nodes/{}/volume", self.node(&call).await?.uuid) } else { "volume".to_owned() };
        let links = |part: &str| document::links(&call.base, &format!("{path}/{part}"));
        let document = json!({"links": links(""), "connectors": links("connectors"), "targets": links("targets")});
        Ok(reply::json(StatusCode::OK, &document))
    }
}
