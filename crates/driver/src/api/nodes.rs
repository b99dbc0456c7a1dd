//! Nodes: create, list, show, patch, delete.

use super::document::{self, Context, Wanted};
use super::request::{self, Call, Query, short};
use super::versions::{DETAIL, ENROLL, NODE_CONDUCTOR, NODE_FIELDS, NODE_FILTERS, RESET_INTERFACES};
use super::{Api, list, patch, reply};
use crate::command::Command;
use crate::fault::Fault;
use crate::tag::Tag;
use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use lifecycle::provision::State;
use serde_json::{Map, Value};
use store::{Node, NodeFilter, RecordKind, Store, StoreError};
use uuid::Uuid;

/// Fields of a list without details.
const SHORT: &[&str] = &["instance_uuid", "maintenance", "power_state", "provision_state", "uuid", "name"];

/// What a node can be set aside for.
const FAULTS: &[&str] = &["power failure", "clean failure", "rescue abort failure", "service failure"];

/// Filters for which the empty text is a value, or a mistake.
const NEVER_EMPTY: &[&str] = &[
    "conductor_group",
    "associated",
    "fault",
    "include_children",
    "instance_uuid",
    "maintenance",
    "provision_state",
    "retired",
    "sharded",
];

impl<S: Store> Api<S> {
    /// `POST /v1/nodes`
    pub(super) async fn create_node(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut fields = request::created(&call, "node", NODE_FIELDS, call.object(true)?)?;
        for (name, value) in &mut fields {
            self.need_place(name, value).await?;
        }
        let mut node = new_node(fields);
        if !call.has(ENROLL) {
            node.provision_state = State::Available;
        }
        let node = self.conductor.create_node(node).await?;
        let location = format!("{}/v1/nodes/{}", call.base, node.uuid);
        let fields = document::node_fields(call.version, &Wanted::All);
        let document = self.node_document(self.context(&call), &node, &fields);
        let response = reply::located(reply::json(StatusCode::CREATED, &document), &location);
        Ok(reply::tagged(response, Tag::new(node.created_at, node.version)))
    }

    /// `GET /v1/nodes`, `GET /v1/nodes/detail`
    pub(super) async fn list_nodes(&self, mut call: Call, detail: bool) -> Result<Response<Body>, Fault> {
        let query = std::mem::take(&mut call.query);
        let path = if detail { "nodes/detail" } else { "nodes" };
        self.nodes_document(&call, query, NodeFilter::default(), detail, path).await
    }

    /// A list of nodes that match `filter` and what the query adds to it.
    pub(super) async fn nodes_document(
        &self,
        call: &Call,
        mut query: Query,
        filter: NodeFilter,
        detail: bool,
        path: &str,
    ) -> Result<Response<Body>, Fault> {
        let original = std::mem::take(&mut query.original);
        let wanted = list::wanted_of_list(&mut query, NODE_FIELDS, call, detail, SHORT, Some(DETAIL))?;
        let page = list::page(&mut query)?;
        // There is one conductor, so either all nodes are its own or none of them is.
        let elsewhere = match query.take("conductor").filter(|name| !name.is_empty()) {
            None => false,
            Some(name) => {
                call.need(NODE_CONDUCTOR)?;
                name != self.conductor.hostname()
            }
        };
        let filter = node_filter(call, &mut query, filter)?;
        query.finish()?;
        if let Some(chassis) = filter.chassis_uuid {
            self.conductor.store().record(RecordKind::Chassis, chassis).await?;
        }
        let nodes = if elsewhere { Vec::new() } else { self.conductor.store().nodes(&filter, &page).await? };
        let last = nodes.last().map(|node| node.uuid);
        let fields = document::node_fields(call.version, &wanted);
        let document = list::document(call, &original, "nodes", path, &page, nodes, last);
        let (api, version, base) = (self.clone(), call.version, call.base.clone());
        Ok(document.answer(move |node, to| {
            let context = Context { version, base: &base, hostname: api.conductor.hostname() };
            serde_json::to_writer(to, &api.node_document(context, node, &fields))
        }))
    }

    /// `GET /v1/nodes/<node>`
    pub(super) async fn show_node(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let wanted = list::wanted(&mut query, NODE_FIELDS, call.version)?;
        query.finish()?;
        let node = self.conductor.find_shared(&call.node()?).await?;
        let fields = document::node_fields(call.version, &wanted);
        Ok(reply::tagged(
            reply::json(StatusCode::OK, &self.node_document(self.context(&call), &node, &fields)),
            Tag::new(node.created_at, node.version),
        ))
    }

    /// `PATCH /v1/nodes/<node>`
    pub(super) async fn patch_node(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let reset = query.flag("reset_interfaces")?;
        query.finish()?;
        if reset.is_some() {
            call.need(RESET_INTERFACES)?;
        }
        let ident = call.node()?;
        let mut operations = patch::read(&call, "node", NODE_FIELDS)?;
        let reset_interfaces = reset.unwrap_or_default();
        if reset_interfaces && !operations.iter().any(|operation| operation.path.first().is_some_and(|r| r == "driver"))
        {
            return Err(Fault::Invalid(
                "The reset_interfaces parameter can only be used when changing the node's driver.".to_owned(),
            ));
        }
        for operation in operations.iter_mut().filter(|operation| operation.path.len() == 1) {
            if let Some(value) = &mut operation.value {
                self.need_place(&operation.path[0], value).await?;
            }
        }
        let expected = call.expected_tags();
        let node = self.conductor.command(&ident, Command::Patch { operations, reset_interfaces, expected }).await?;
        let fields = document::node_fields(call.version, &Wanted::All);
        let document = self.node_document(self.context(&call), &node, &fields);
        Ok(reply::tagged(reply::json(StatusCode::OK, &document), Tag::new(node.created_at, node.version)))
    }

    /// Checks that the chassis or the node that a node shall be part of is there. A parent may be named; what is kept is its
    /// UUID.
    async fn need_place(&self, field: &str, value: &mut Value) -> Result<(), Fault> {
        let Some(text) = value.as_str() else { return Ok(()) };
        if field == "parent_node" && text.is_empty() {
            *value = Value::Null;
            return Ok(());
        }
        if field == "parent_node" {
            let unknown = || {
                let text = short(text);
                Fault::Invalid(format!("Unable to apply the requested parent_node: Node {text} could not be found."))
            };
            let parent = match request::node_ident(text, true) {
                Ok(ident) => self.find_node(&ident).await,
                Err(_) => return Err(unknown()),
            };
            *value = match parent {
                Err(Fault::NotFound(_)) => return Err(unknown()),
                parent => parent?.uuid.to_string().into(),
            };
            return Ok(());
        }
        let Ok(uuid) = Uuid::try_parse(text) else { return Ok(()) };
        match field {
            "chassis_uuid" => match self.conductor.store().record(RecordKind::Chassis, uuid).await {
                Err(StoreError::NotFound { .. }) => Err(Fault::Invalid(format!("Chassis {uuid} could not be found."))),
                found => Ok(found.map(drop)?),
            },
            _ => Ok(()),
        }
    }

    /// `DELETE /v1/nodes/<node>`
    pub(super) async fn delete_node(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.conductor.delete_node(&call.node()?).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }
}

/// The node of a checked creation.
fn new_node(fields: Map<String, Value>) -> Node {
    let mut node = Node::new(Uuid::new_v4(), "", Timestamp::now());
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("uuid", Value::String(text)) => node.uuid = Uuid::try_parse(&text).unwrap_or(node.uuid),
            ("instance_uuid", Value::String(text)) => node.instance_uuid = Uuid::try_parse(&text).ok(),
            ("driver", Value::String(text)) => node.driver = text,
            ("name", Value::String(text)) => node.name = Some(text),
            ("resource_class", Value::String(text)) => node.resource_class = Some(text),
            ("description", Value::String(text)) => node.description = Some(text),
            ("owner", Value::String(text)) => node.owner = Some(text),
            ("lessee", Value::String(text)) => node.lessee = Some(text),
            ("conductor_group", Value::String(text)) => node.conductor_group = text.to_lowercase(),
            ("retired_reason", Value::String(text)) => node.retired_reason = Some(text),
            ("automated_clean", Value::Bool(flag)) => node.automated_clean = Some(flag),
            ("maintenance", Value::Bool(flag)) => node.maintenance = flag,
            ("retired", Value::Bool(flag)) => node.retired = flag,
            ("driver_info", Value::Object(object)) => node.driver_info = object,
            ("instance_info", Value::Object(object)) => node.instance_info = object,
            ("properties", Value::Object(object)) => node.properties = object,
            ("extra", Value::Object(object)) => node.extra = object,
            ("network_data", Value::Object(object)) => node.network_data = object,
            (name, value) => match (name.strip_suffix("_interface"), value) {
                (Some(interface), Value::String(implementation)) => {
                    node.interfaces.insert(interface.to_owned(), implementation);
                }
                (_, value) => {
                    node.attributes.insert(name.to_owned(), value);
                }
            },
        }
    }
    node
}

/// Takes the filters of a list of nodes. Nodes that are part of another are listed when they are asked for.
fn node_filter(call: &Call, query: &mut Query, mut filter: NodeFilter) -> Result<NodeFilter, Fault> {
    let mut children = false;
    for (name, since) in NODE_FILTERS {
        // An empty text is no filter, so that clients can send all of them; but the group without a name is `""`, and
        // what has to be one of a few words cannot be none.
        let given = query.take(name).filter(|text| !text.is_empty() || NEVER_EMPTY.contains(name));
        let Some(text) = given else { continue };
        call.need(*since)?;
        let mut one = Query::of(name, text.clone());
        match *name {
            "instance_uuid" => filter.instance_uuid = one.uuid(name)?,
            "chassis_uuid" => filter.chassis_uuid = one.uuid(name)?,
            "parent_node" => filter.parent_node = one.uuid(name)?,
            "associated" => filter.associated = one.flag(name)?,
            "maintenance" => filter.maintenance = one.flag(name)?,
            "retired" => filter.retired = one.flag(name)?,
            "sharded" => filter.sharded = one.flag(name)?,
            "include_children" => children = one.flag(name)?.unwrap_or_default(),
            "provision_state" => filter.provision_state = Some(state(&text)?),
            "driver" => filter.driver = Some(text),
            "resource_class" => filter.resource_class = Some(text),
            "fault" => filter.fault = Some(fault(text)?),
            "conductor_group" => filter.conductor_group = Some(text.to_lowercase()),
            "owner" => filter.owner = Some(text),
            "lessee" => filter.lessee = Some(text),
            "project" => filter.project = Some(text),
            "shard" => filter.shards = Some(text.split(',').map(str::to_owned).collect()),
            "instance_name" => filter.instance_name = Some(text),
            _ => filter.description_contains = Some(text),
        }
    }
    if children {
        filter.parent_node = None;
    } else if filter.parent_node.is_none() {
        filter.child = Some(false);
    }
    Ok(filter)
}

fn fault(text: String) -> Result<String, Fault> {
    if FAULTS.contains(&text.as_str()) {
        return Ok(text);
    }
    let known = FAULTS.join(", ");
    Err(Fault::Invalid(format!("Unrecognized fault \"{}\" is specified, allowed faults are {known}", short(&text))))
}

fn state(text: &str) -> Result<State, Fault> {
    text.parse().map_err(|_| Fault::Invalid(format!("Provision state \"{}\" is not valid", short(text))))
}
