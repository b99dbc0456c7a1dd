//! Chassis: where nodes are. Legacy of the API, kept for the clients that list nodes by it.

use super::Api;
use super::request::Call;
use super::resource::{Resource, anything, of};
use super::versions::CHASSIS_FIELDS;
use crate::fault::Fault;
use axum::body::Body;
use http::Response;
use serde_json::json;
use store::{NodeFilter, RecordKind, Store};

pub(super) const RESOURCE: Resource = Resource {
    kind: RecordKind::Chassis,
    path: "chassis",
    list: "chassis",
    fields: CHASSIS_FIELDS,
    short: &["uuid", "description"],
    detail: Some(1),
    filters: &[],
    named: false,
    defaults: || json!({}),
    check: anything,
};

impl<S: Store> Api<S> {
    /// `GET /v1/chassis/<chassis>/nodes`
    pub(super) async fn list_chassis_nodes(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let chassis = self.find_record(&call, of(RecordKind::Chassis)).await?;
        let query = std::mem::take(&mut call.query);
        let filter = NodeFilter { chassis_uuid: Some(chassis.uuid), ..NodeFilter::default() };
        self.nodes_document(&call, query, filter, false, &format!("chassis/{}/nodes", chassis.uuid)).await
    }
}
