//! Ports: create, list, show, patch, delete.

use super::document::{self, Wanted};
use super::request::{self, Call, Query, short};
use super::versions::{DETAIL, NODE_NAMES, PORT_FIELDS, PORT_FILTERS, PORT_NODE_IDENT, PORTGROUP_MEMBERS};
use super::{Api, list, patch, reply};
use crate::fault::Fault;
use crate::tag::Tag;
use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use store::{Page, Port, PortFilter, RecordKind, Store, StoreError};
use uuid::Uuid;

/// Fields of a list without details.
const SHORT: &[&str] = &["uuid", "address"];

impl<S: Store> Api<S> {
    /// `POST /v1/ports`
    pub(super) async fn create_port(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut body = call.object(true)?;
        self.resolve_node_ident(&call, &mut body).await?;
        let fields = request::created(&call, "port", PORT_FIELDS, body)?;
        let Some(node) = fields.get("node_uuid").and_then(Value::as_str).and_then(|text| Uuid::try_parse(text).ok())
        else {
            return Err(Fault::Invalid("Schema error for port: 'node_uuid' is a required property".to_owned()));
        };
        self.need_node(node).await?;
        self.need_portgroup(node, fields.get("portgroup_uuid")).await?;
        let uuid = fields.get("uuid").and_then(Value::as_str).and_then(|text| Uuid::try_parse(text).ok());
        let mut port = Port::new(uuid.unwrap_or_else(Uuid::new_v4), node, "", Timestamp::now());
        set(&mut port, fields);
        let port = self.conductor.create_port(port).await?;
        let location = format!("{}/v1/ports/{}", call.base, port.uuid);
        let document = document::port(self.context(&call), &port, &Wanted::All);
        let response = reply::json(StatusCode::CREATED, &document);
        Ok(reply::tagged(reply::located(response, &location), Tag::new(port.created_at, port.version)))
    }

    /// `GET /v1/ports`, `GET /v1/ports/detail`
    pub(super) async fn list_ports(&self, mut call: Call, detail: bool) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        // `node` takes a name as well; `node_uuid` is its older form.
        let named = query.take("node").map(|text| request::node_ident(&text, call.has(NODE_NAMES))).transpose()?;
        let node = match (query.uuid("node_uuid")?, named) {
            (Some(uuid), _) => Some(self.conductor.store().node(uuid).await?.uuid),
            (None, Some(ident)) => Some(self.find_node(&ident).await?.uuid),
            (None, None) => None,
        };
        let path = if detail { "ports/detail" } else { "ports" };
        let mut filter = PortFilter { node, ..PortFilter::default() };
        if let Some(portgroup) = query.take("portgroup") {
            call.need(PORTGROUP_MEMBERS)?;
            filter.portgroup = Some(self.portgroup(&portgroup).await?);
        }
        self.ports_document(&call, query, filter, detail, path).await
    }

    /// A list of ports that match `filter` and what the query adds to it.
    pub(super) async fn ports_document(
        &self,
        call: &Call,
        mut query: Query,
        mut filter: PortFilter,
        detail: bool,
        path: &str,
    ) -> Result<Response<Body>, Fault> {
        let original = std::mem::take(&mut query.original);
        let wanted = list::wanted_of_list(&mut query, PORT_FIELDS, call, detail, SHORT, Some(DETAIL))?;
        let page = list::page(&mut query)?;
        let address = query.take("address").map(|text| request::mac(&text).ok_or_else(|| request::not_mac(&text)));
        filter.addresses = address.transpose()?.map(|address| vec![address]);
        for (name, since) in PORT_FILTERS {
            let Some(text) = query.take(name).filter(|text| !text.is_empty()) else { continue };
            call.need(*since)?;
            match *name {
                "shard" => filter.shards = Some(text.split(',').map(str::to_owned).collect()),
                "conductor_groups" => {
                    filter.conductor_groups = Some(text.split(',').map(|name| name.trim().to_lowercase()).collect());
                }
                _ => filter.name = Some(text),
            }
        }
        query.finish()?;
        let ports = self.conductor.store().ports(&filter, &page).await?;
        let last = ports.last().map(|port| port.uuid);
        let entries = ports.iter().map(|port| document::port(self.context(call), port, &wanted)).collect();
        Ok(reply::json(StatusCode::OK, &list::document(call, &original, "ports", path, &page, entries, last)))
    }

    /// A portgroup by UUID or name.
    async fn portgroup(&self, text: &str) -> Result<Uuid, Fault> {
        let store = self.conductor.store();
        let found = match Uuid::try_parse(text) {
            Ok(uuid) => store.record(RecordKind::Portgroup, uuid).await,
            Err(_) => store.record_by_name(RecordKind::Portgroup, text).await,
        };
        Ok(found?.uuid)
    }

    /// The portgroup that a port shall be part of: one of the port's node, or it is the body's fault.
    async fn need_portgroup(&self, node: Uuid, portgroup: Option<&Value>) -> Result<(), Fault> {
        let Some(uuid) = portgroup.and_then(Value::as_str).and_then(|text| Uuid::try_parse(text).ok()) else {
            return Ok(());
        };
        match self.conductor.store().record(RecordKind::Portgroup, uuid).await {
            Ok(record) if record.node == Some(node) => Ok(()),
            Ok(_) => {
                Err(Fault::Invalid(format!("Port can not be part of portgroup {uuid}, which is of another node.")))
            }
            Err(StoreError::NotFound { .. }) => Err(Fault::Invalid(format!("Portgroup {uuid} could not be found."))),
            Err(error) => Err(error.into()),
        }
    }

    /// The port that the path names by UUID or name.
    async fn find_port(&self, call: &Call) -> Result<Port, Fault> {
        let ident = call.ident();
        if let Ok(uuid) = Uuid::try_parse(ident) {
            return Ok(self.conductor.store().port(uuid).await?);
        }
        if !request::is_name(ident) {
            return Err(Fault::Invalid(format!("Expected a logical name or UUID but received {}.", short(ident))));
        }
        let filter = PortFilter { name: Some(ident.to_owned()), ..PortFilter::default() };
        let mut found = self.conductor.store().ports(&filter, &Page::default()).await?;
        match (found.pop(), found.is_empty()) {
            (Some(port), true) => Ok(Arc::unwrap_or_clone(port)),
            (None, _) => Err(Fault::NotFound(format!("Port {} could not be found.", short(ident)))),
            (Some(_), false) => {
                Err(Fault::Conflict(format!("There are several ports called {}; use a UUID.", short(ident))))
            }
        }
    }

    /// `GET /v1/ports/<port>`
    pub(super) async fn show_port(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let wanted = list::wanted(&mut query, PORT_FIELDS, call.version)?;
        query.finish()?;
        let port = self.find_port(&call).await?;
        let document = document::port(self.context(&call), &port, &wanted);
        Ok(reply::tagged(reply::json(StatusCode::OK, &document), Tag::new(port.created_at, port.version)))
    }

    /// `PATCH /v1/ports/<port>`
    pub(super) async fn patch_port(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let operations = patch::read(&call, "port", PORT_FIELDS)?;
        let port = self.find_port(&call).await?;
        call.check_tag(Tag::new(port.created_at, port.version))?;
        let mut fields = Map::new();
        for field in PORT_FIELDS.iter().filter(|field| field.patch.is_some()) {
            let value = document::port(self.context(&call), &port, &Wanted::Only(vec![field.name.to_owned()]));
            if let Some(value) = value.get(field.name).filter(|value| !value.is_null()) {
                fields.insert(field.name.to_owned(), value.clone());
            }
        }
        patch::apply(&mut fields, &operations)?;
        let node = fields.get("node_uuid").and_then(Value::as_str).and_then(|text| Uuid::try_parse(text).ok());
        let Some(node) = node else {
            return Err(Fault::Invalid("Schema error for patch of port: node_uuid cannot be removed".to_owned()));
        };
        if node != port.node_uuid {
            self.need_node(node).await?;
        }
        self.need_portgroup(node, fields.get("portgroup_uuid")).await?;
        let mut changed = Port::new(port.uuid, node, &port.address, port.created_at);
        changed.version = port.version;
        changed.internal_info = port.internal_info;
        // What this version does not know is not touched.
        changed.attributes = port.attributes;
        for field in PORT_FIELDS.iter().filter(|field| field.patch.is_some() && call.has(field.since)) {
            changed.attributes.remove(field.name);
        }
        for (older, keep) in
            [("local_link_connection", 19), ("physical_network", 34), ("pxe_enabled", 19), ("name", 88)]
        {
            if !call.has(keep) {
                match older {
                    "local_link_connection" => changed.local_link_connection = port.local_link_connection.clone(),
                    "physical_network" => changed.physical_network = port.physical_network.clone(),
                    "pxe_enabled" => changed.pxe_enabled = port.pxe_enabled,
                    _ => changed.name = port.name.clone(),
                }
            }
        }
        changed.updated_at = Some(Timestamp::now());
        set(&mut changed, fields);
        let port = self.conductor.update_port(changed).await?;
        let document = document::port(self.context(&call), &port, &Wanted::All);
        Ok(reply::tagged(reply::json(StatusCode::OK, &document), Tag::new(port.created_at, port.version)))
    }

    /// `DELETE /v1/ports/<port>`
    pub(super) async fn delete_port(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let uuid = port_uuid(&call)?;
        if call.expected_tags().is_some() {
            let port = self.conductor.store().port(uuid).await?;
            call.check_tag(Tag::new(port.created_at, port.version))?;
        }
        self.conductor.delete_port(uuid).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// Turns `node_ident` of a creation into `node_uuid`.
    async fn resolve_node_ident(&self, call: &Call, body: &mut Map<String, Value>) -> Result<(), Fault> {
        let Some(ident) = body.remove("node_ident") else { return Ok(()) };
        call.need(PORT_NODE_IDENT)?;
        let Value::String(text) = ident else {
            return Err(Fault::Invalid("Schema error for port: node_ident must be a string".to_owned()));
        };
        if body.contains_key("node_uuid") {
            return Err(Fault::Invalid("Schema error for port: give node_uuid or node_ident, not both".to_owned()));
        }
        let missing = |_| Fault::Invalid(format!("Node {} could not be found.", short(&text)));
        let ident = request::node_ident(&text, true).map_err(missing)?;
        let node = match self.find_node(&ident).await {
            Err(fault @ Fault::NotFound(_)) => return Err(missing(fault)),
            node => node?,
        };
        body.insert("node_uuid".to_owned(), json!(node.uuid));
        Ok(())
    }
}

fn port_uuid(call: &Call) -> Result<Uuid, Fault> {
    let text = call.ident();
    Uuid::try_parse(text).map_err(|_| Fault::Invalid(format!("Expected a UUID but received {}.", short(text))))
}

/// Puts checked fields into a port.
fn set(port: &mut Port, fields: Map<String, Value>) {
    for (name, value) in fields {
        match (name.as_str(), value) {
            (_, Value::Null) | ("uuid" | "node_uuid", _) => {}
            ("address", Value::String(text)) => port.address = text,
            ("name", Value::String(text)) => port.name = Some(text),
            ("physical_network", Value::String(text)) => port.physical_network = Some(text),
            ("pxe_enabled", Value::Bool(flag)) => port.pxe_enabled = flag,
            ("extra", Value::Object(object)) => port.extra = object,
            ("local_link_connection", Value::Object(object)) => port.local_link_connection = object,
            (_, value) => {
                port.attributes.insert(name, value);
            }
        }
    }
}
