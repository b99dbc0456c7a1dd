//! What agents ask: lookup, heartbeat, inspection. The checks and their order are Ironic's; what depends on the node is
//! the conductor's.

use super::request::{self, Arguments, Call};
use super::versions::{AGENT_STATUS, AGENT_TOKEN, AGENT_VERIFY_CA, AGENT_VERSION, CONTINUE_INSPECTION};
use super::{Api, document, list, reply};
use crate::command::LookupRequest;
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::Store;
use wire::ironic::Version;
use wire::ramdisk::{Heartbeat, Lookup};

/// Most addresses of a lookup that are looked at; a machine has fewer.
const MAX_ADDRESSES: usize = 256;

impl<S: Store> Api<S> {
    /// `GET /v1/lookup`
    pub(super) async fn lookup(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let addresses = query.take("addresses").map(|text| list::names(&text)).unwrap_or_default();
        let node = query.uuid("node_uuid")?;
        query.finish()?;
        // An address that is none is left out: some drivers of the ramdisk report odd ones.
        let addresses: Vec<String> =
            addresses.iter().filter_map(|text| request::mac(text)).take(MAX_ADDRESSES).collect();
        if addresses.is_empty() && node.is_none() {
            return Err(Fault::Invalid(
                "At least one of 'addresses' and 'node_uuid' parameters is required".to_owned(),
            ));
        }
        let lookup = LookupRequest { addresses, node, token: call.has(AGENT_TOKEN), peer: call.peer };
        let found = self.conductor.lookup(lookup).await.map_err(|fault| match fault {
            // One text whatever the reason, so that nobody learns which nodes there are and what state they are in.
            Fault::NotFound(_) => Fault::nothing_here(),
            other => other,
        })?;
        Ok(reply::json(StatusCode::OK, &lookup_document(&call, found)))
    }

    /// `POST /v1/heartbeat/<node>`, or with `node_ident` in the body.
    pub(super) async fn heartbeat(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut body = Arguments::new(call.object(false)?);
        let ident = match call.segments.is_empty() {
            true => request::node_ident(&body.required("node_ident")?, true),
            false => call.node(),
        };
        let ident = ident.map_err(|fault| Fault::Invalid(fault.to_string()))?;
        let heartbeat = Heartbeat {
            callback_url: body.required("callback_url")?,
            agent_version: body.text("agent_version")?,
            agent_token: body.text("agent_token")?,
            agent_verify_ca: body.text("agent_verify_ca")?,
            agent_status: body.text("agent_status")?,
            agent_status_message: body.text("agent_status_message")?,
        };
        body.finish()?;
        let newer = |given: bool, since: u16, text: &str| {
            if given && !call.has(since) { Err(Fault::Invalid(text.to_owned())) } else { Ok(()) }
        };
        newer(heartbeat.agent_version.is_some(), AGENT_VERSION, "Field \"agent_version\" not recognised")?;
        let status = heartbeat.agent_status.is_some() || heartbeat.agent_status_message.is_some();
        newer(status, AGENT_STATUS, "Fields \"agent_status\" and \"agent_status_message\" not recognised.")?;
        let certificate = heartbeat.agent_verify_ca.is_some();
        newer(certificate, AGENT_VERIFY_CA, "Field \"agent_verify_ca\" not recognised in this version")?;
        self.conductor.heartbeat(&ident, call.version, heartbeat).await?;
        Ok(reply::empty(StatusCode::ACCEPTED))
    }

    /// `POST /v1/continue_inspection`. An agent of today sends no version header, which means 1.1; whoever sends one
    /// has to know the route.
    pub(super) async fn continue_inspection(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let node = query.uuid("node_uuid")?;
        query.finish()?;
        let knows = call.has(CONTINUE_INSPECTION);
        if !knows && (call.version != Version::MIN || node.is_some()) {
            return Err(Fault::NotFound(format!("API version 1.{CONTINUE_INSPECTION} or newer is required")));
        }
        let body = call.object(false)?;
        check_inventory(body.get("inventory"))?;
        let found = self.conductor.continue_inspection(body, node, knows).await.map_err(|fault| match fault {
            Fault::NotFound(_) => Fault::nothing_here(),
            other => other,
        })?;
        if knows {
            return Ok(reply::json(StatusCode::ACCEPTED, &lookup_document(&call, found)));
        }
        Ok(reply::json(StatusCode::ACCEPTED, &json!({"uuid": found.node.uuid})))
    }
}

/// A lookup reply with the links of its node.
fn lookup_document(call: &Call, mut lookup: Lookup) -> Lookup {
    let links = document::links(&call.base, &format!("nodes/{}", lookup.node.uuid));
    lookup.node.other.insert("links".to_owned(), links);
    lookup
}

/// The least that an inventory has to be.
fn check_inventory(inventory: Option<&Value>) -> Result<(), Fault> {
    let invalid = |why: &str| Err(Fault::Invalid(format!("Schema error for data: {why}")));
    let Some(inventory) = inventory else { return invalid("'inventory' is a required property") };
    let Some(inventory) = inventory.as_object() else { return invalid("inventory must be an object") };
    for name in ["bmc_address", "bmc_v6address"] {
        if inventory.get(name).is_some_and(|value| !value.is_string() && !value.is_null()) {
            return invalid(&format!("inventory.{name} must be a string or null"));
        }
    }
    let Some(interfaces) = inventory.get("interfaces").and_then(Value::as_array) else {
        return invalid("inventory.interfaces is a required property and must be a list");
    };
    if interfaces.is_empty() {
        return invalid("inventory.interfaces must not be empty");
    }
    let addressed = |interface: &Value| interface.get("mac_address").is_some_and(Value::is_string);
    if interfaces.iter().all(addressed) {
        return Ok(());
    }
    invalid("mac_address of each of inventory.interfaces is a required property and must be a string")
}
