//! Portgroups: ports of a node that are one link.

use super::Api;
use super::request::{Call, short};
use super::resource::{Resource, of};
use super::versions::PORTGROUP_FIELDS;
use crate::fault::Fault;
use axum::body::Body;
use http::Response;
use serde_json::{Map, Value, json};
use store::{PortFilter, RecordKind, Store};

pub(super) const RESOURCE: Resource = Resource {
    kind: RecordKind::Portgroup,
    path: "portgroups",
    list: "portgroups",
    fields: PORTGROUP_FIELDS,
    short: &["uuid", "address", "name"],
    detail: Some(1),
    filters: &[("node", 1), ("address", 1)],
    named: true,
    defaults: || json!({"mode": "active-backup", "standalone_ports_supported": true, "internal_info": {}, "dynamic_portgroup": false}),
    check,
};

/// Modes of Linux bonding, by name and by number.
const MODES: &[&str] =
    &["active-backup", "802.3ad", "balance-rr", "balance-xor", "broadcast", "balance-tlb", "balance-alb"];

fn check(_: &Call, fields: &Map<String, Value>) -> Result<(), Fault> {
    let mode = fields.get("mode").and_then(Value::as_str).unwrap_or_default();
    let number = mode.parse::<u8>().is_ok_and(|number| number <= 6);
    if !mode.is_empty() && !number && !MODES.contains(&mode) {
        // Switches have modes of their own; a name is all that is asked for.
        let named =
            mode.len() <= 255 && mode.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !named {
            let known = MODES.join(", ");
            return Err(Fault::Invalid(format!("Invalid mode '{}' of a portgroup; known are: {known}.", short(mode))));
        }
    }
    Ok(())
}

impl<S: Store> Api<S> {
    /// `GET /v1/portgroups/<portgroup>/ports`
    pub(super) async fn list_portgroup_ports(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let portgroup = self.find_record(&call, of(RecordKind::Portgroup)).await?;
        let query = std::mem::take(&mut call.query);
        let filter = PortFilter { portgroup: Some(portgroup.uuid), ..PortFilter::default() };
        self.ports_document(&call, query, filter, false, &format!("portgroups/{}/ports", portgroup.uuid)).await
    }
}
