//! Vendor passthru: calls that a vendor's interface takes as they are. Such calls reach accounts and firmware of BMCs past
//! every check of ours, so there are none, and whoever asks for one is told so.

use super::request::{Call, short};
use super::{Api, reply};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::json;
use store::Store;

fn refused(method: &str) -> Fault {
    Fault::Invalid(format!("No handler for method {}: vendor passthru is not offered.", short(method)))
}

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/vendor_passthru/methods`
    pub(super) async fn list_node_vendor_methods(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.node(&call).await?;
        Ok(reply::json(StatusCode::OK, &json!({})))
    }

    /// Any method of HTTP on `/v1/nodes/<node>/vendor_passthru/<method>`. The query is the vendor's.
    pub(super) async fn node_vendor_passthru(&self, call: Call) -> Result<Response<Body>, Fault> {
        self.node(&call).await?;
        Err(refused(call.segment(1)))
    }

    /// `GET /v1/drivers/<driver>/vendor_passthru/methods`
    pub(super) fn list_driver_vendor_methods(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.driver(&call)?;
        Ok(reply::json(StatusCode::OK, &json!({})))
    }

    /// Any method of HTTP on `/v1/drivers/<driver>/vendor_passthru/<method>`.
    pub(super) fn driver_vendor_passthru(&self, call: Call) -> Result<Response<Body>, Fault> {
        self.driver(&call)?;
        Err(refused(call.segment(1)))
    }

    /// `GET /v1/drivers/<driver>/raid/logical_disk_properties`. No hardware type has a RAID interface by default.
    pub(super) fn show_raid_properties(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let kind = self.driver(&call)?;
        Err(Fault::NotFound(format!(
            "Driver {} does not support get_raid_logical_disk_properties (disabled or not implemented).",
            kind.name
        )))
    }
}
