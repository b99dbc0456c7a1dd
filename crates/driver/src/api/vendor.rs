//! Vendor passthru: calls that a vendor's interface takes as they are. Such calls reach accounts and firmware of BMCs past
//! every check of ours, so there are none, and whoever asks for one is told so.

use super::request::{Call, short};
use super::{Api, reply};
use crate::fault::Fault;
use crate::hardware_type::Interface;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::Store;

/// Refuses a method, which is named by the path or by the query.
fn refused(mut call: Call) -> Fault {
    let method = call.segments.get(1).cloned().or_else(|| call.query.take("method"));
    match method.filter(|method| !method.is_empty()) {
        None => Fault::Invalid("Missing mandatory parameter: method".to_owned()),
        Some(method) => {
            Fault::Invalid(format!("No handler for method {}: vendor passthru is not offered.", short(&method)))
        }
    }
}

/// What a RAID configuration is made of, as Ironic describes it; recorded from there.
const RAID_PROPERTIES: &str = include_str!("raid_properties.json");

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/vendor_passthru/methods`
    pub(super) async fn list_node_vendor_methods(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.node(&call).await?;
        Ok(reply::json(StatusCode::OK, &json!({})))
    }

    /// Any method of HTTP on `/v1/nodes/<node>/vendor_passthru/<method>` or `?method=<method>`. The rest of the query is
    /// the vendor's.
    pub(super) async fn node_vendor_passthru(&self, call: Call) -> Result<Response<Body>, Fault> {
        self.node(&call).await?;
        Err(refused(call))
    }

    /// `GET /v1/drivers/<driver>/vendor_passthru/methods`
    pub(super) fn list_driver_vendor_methods(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.driver(&call)?;
        Ok(reply::json(StatusCode::OK, &json!({})))
    }

    /// Any method of HTTP on `/v1/drivers/<driver>/vendor_passthru/<method>` or `?method=<method>`.
    pub(super) fn driver_vendor_passthru(&self, call: Call) -> Result<Response<Body>, Fault> {
        self.driver(&call)?;
        Err(refused(call))
    }

    /// `GET /v1/drivers/<driver>/raid/logical_disk_properties`, by the type's default RAID interface.
    pub(super) fn show_raid_properties(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let kind = self.driver(&call)?;
        let default = self.conductor.settings().hardware.default_of(kind, Interface::Raid);
        if default.is_some_and(|name| !name.starts_with("no-")) {
            let document: Value = serde_json::from_str(RAID_PROPERTIES)
                .map_err(|error| Fault::Internal(format!("the RAID properties are not JSON: {error}")))?;
            return Ok(reply::json(StatusCode::OK, &document));
        }
        Err(Fault::NotFound(format!(
            "Driver {} does not support get_raid_logical_disk_properties (disabled or not implemented).",
            kind.name
        )))
    }
}
