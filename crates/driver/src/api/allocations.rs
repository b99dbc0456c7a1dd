//! Allocations: a claim on a node of a resource class. It is answered at once, and the node is found afterwards.

use super::document;
use super::request::{self, Call, node_ident, short};
use super::resource::{Resource, of};
use super::versions::{ALLOCATION_BACKFILL, ALLOCATION_FIELDS};
use super::{Api, list, reply};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use store::{Node, Page, Record, RecordFilter, RecordKind, Store};
use uuid::Uuid;

pub(super) const RESOURCE: Resource = Resource {
    kind: RecordKind::Allocation,
    path: "allocations",
    list: "allocations",
    fields: ALLOCATION_FIELDS,
    short: &[],
    detail: None,
    filters: &[("node", 1), ("resource_class", 1), ("state", 1), ("owner", 60)],
    named: true,
    defaults: || json!({"state": "allocating"}),
    check,
};

/// Most nodes that an allocation may be limited to.
const MAX_CANDIDATES: usize = 1000;

fn check(_: &Call, fields: &Map<String, Value>) -> Result<(), Fault> {
    let traits = fields.get("traits").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let traits = traits.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    super::node_parts::check_traits(traits).map(drop)
}

impl<S: Store> Api<S> {
    /// `POST /v1/allocations`
    pub(super) async fn create_allocation(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut body = call.object(true)?;
        let node = self.allocated_already(&call, body.remove("node").filter(|node| !node.is_null())).await?;
        let mut fields = request::created(&call, "allocation", ALLOCATION_FIELDS, body)?;
        if let Some(class) = node.as_ref().and_then(|node| node.resource_class.clone()) {
            fields.entry("resource_class").or_insert(Value::String(class));
        }
        if fields.get("resource_class").and_then(Value::as_str).is_none_or(str::is_empty) && node.is_none() {
            return Err(Fault::Invalid("The resource_class field is mandatory when not backfilling".to_owned()));
        }
        if let Some(Value::Array(candidates)) = fields.get("candidate_nodes") {
            let candidates = self.candidates(candidates).await?;
            fields.insert("candidate_nodes".to_owned(), json!(candidates));
        }
        let instance = node.as_ref().and_then(|node| node.instance_uuid);
        let mut record = Record::new(RecordKind::Allocation, instance.unwrap_or_else(Uuid::new_v4), Timestamp::now());
        record.node = node.map(|node| node.uuid);
        self.add_record(&call, of(RecordKind::Allocation), record, fields).await
    }

    /// The node of an allocation for what is in use already.
    async fn allocated_already(&self, call: &Call, node: Option<Value>) -> Result<Option<Node>, Fault> {
        let Some(node) = node else { return Ok(None) };
        let Value::String(ident) = node else {
            return Err(Fault::Invalid("Schema error for allocation: node must be a string".to_owned()));
        };
        if !call.has(ALLOCATION_BACKFILL) {
            let why = "Cannot set node when creating an allocation in this API version".to_owned();
            return Err(Fault::Invalid(why));
        }
        self.node_of_body(&ident).await.map(Some)
    }

    /// A node that a body names by UUID or name; one that is not there is the body's fault.
    async fn node_of_body(&self, ident: &str) -> Result<Node, Fault> {
        let missing = || Fault::Invalid(format!("Node {} could not be found.", short(ident)));
        let ident = node_ident(ident, true).map_err(|_| missing())?;
        match self.find_node(&ident).await {
            Err(Fault::NotFound(_)) => Err(missing()),
            node => node,
        }
    }

    /// The UUIDs of candidates, in their order.
    async fn candidates(&self, candidates: &[Value]) -> Result<Vec<Uuid>, Fault> {
        if candidates.len() > MAX_CANDIDATES {
            return Err(Fault::Invalid(format!("An allocation has at most {MAX_CANDIDATES} candidate nodes")));
        }
        let mut nodes = Vec::with_capacity(candidates.len());
        for ident in candidates.iter().filter_map(Value::as_str) {
            nodes.push(self.node_of_body(ident).await?.uuid);
        }
        Ok(nodes)
    }

    /// `GET /v1/nodes/<node>/allocation`
    pub(super) async fn show_node_allocation(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let wanted = list::wanted(&mut query, ALLOCATION_FIELDS, call.version)?;
        query.finish()?;
        let record = self.allocation_of_node(&call).await?;
        let resource = of(RecordKind::Allocation);
        Ok(reply::json(StatusCode::OK, &document::record(self.context(&call), resource, &record, &wanted)))
    }

    /// `DELETE /v1/nodes/<node>/allocation`
    pub(super) async fn delete_node_allocation(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let record = self.allocation_of_node(&call).await?;
        self.conductor.delete_record(record).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    async fn allocation_of_node(&self, call: &Call) -> Result<Record, Fault> {
        // A node that is not there is a mistake of the request; 404 is for a node without an allocation, as Ironic has it.
        let node = self.node(call).await.map_err(|fault| match fault {
            Fault::NotFound(text) => Fault::Invalid(text),
            other => other,
        })?;
        let filter = RecordFilter { node: Some(node.uuid), ..RecordFilter::default() };
        let found = self.conductor.store().records(RecordKind::Allocation, &filter, &Page::default()).await?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| Fault::NotFound(format!("Allocation for node {} was not found", short(call.segment(0)))))
    }
}
