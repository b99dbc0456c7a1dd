//! What all records have in common: create, list, show, patch, delete by the tables of a [`Resource`]. A file of a kind of
//! record says what only that kind has.

use super::document::{self, Wanted};
use super::request::{self, Call, Query, node_ident, short};
use super::versions::{Field, NODE_NAMES};
use super::{
    Api, allocations, chassis, deploy_templates, inspection_rules, list, patch, portgroups, reply, runbooks, volumes,
};
use crate::fault::Fault;
use crate::tag::Tag;
use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use store::{Record, RecordFilter, RecordKind, Store};
use uuid::Uuid;

/// What a route does with records of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Create,
    List,
    ListDetail,
    Show,
    Patch,
    Delete,
}

/// A kind of record as the API has it.
pub(super) struct Resource {
    pub(super) kind: RecordKind,
    /// Where it lies under `/v1`, such as `volume/connectors`.
    pub(super) path: &'static str,
    /// The key of a list.
    pub(super) list: &'static str,
    pub(super) fields: &'static [Field],
    /// Fields of a list without details; all when there are none.
    pub(super) short: &'static [&'static str],
    /// The version that brought `detail` of a list; unset where there is none.
    pub(super) detail: Option<u16>,
    /// Filters of the list: texts of fields, `node`, `address`.
    pub(super) filters: &'static [(&'static str, u16)],
    /// Whether it can be addressed by name.
    pub(super) named: bool,
    /// What fields are when nobody sets them.
    pub(super) defaults: fn() -> Value,
    /// What the table cannot say of the fields of a creation or a patch.
    pub(super) check: fn(&Call, &Map<String, Value>) -> Result<(), Fault>,
}

/// The resource of a kind.
pub(super) fn of(kind: RecordKind) -> &'static Resource {
    match kind {
        RecordKind::Allocation => &allocations::RESOURCE,
        RecordKind::Chassis => &chassis::RESOURCE,
        RecordKind::DeployTemplate => &deploy_templates::RESOURCE,
        RecordKind::InspectionRule => &inspection_rules::RESOURCE,
        RecordKind::Portgroup => &portgroups::RESOURCE,
        RecordKind::Erasure => const { &unrouted(RecordKind::Erasure) },
        RecordKind::Reading => const { &unrouted(RecordKind::Reading) },
        RecordKind::Runbook => &runbooks::RESOURCE,
        RecordKind::VolumeConnector => &volumes::CONNECTOR,
        RecordKind::VolumeTarget => &volumes::TARGET,
    }
}

/// A kind of record that no route of this file leads to: the conductor alone makes, changes and removes such records, and
/// a file of their own serves them.
const fn unrouted(kind: RecordKind) -> Resource {
    Resource {
        kind,
        path: "",
        list: "",
        fields: &[],
        short: &[],
        detail: None,
        filters: &[],
        named: false,
        defaults: || json!({}),
        check: anything,
    }
}

/// Nothing to check but the table.
pub(super) fn anything(_: &Call, _: &Map<String, Value>) -> Result<(), Fault> {
    Ok(())
}

impl Resource {
    /// What it is called in messages.
    pub(super) fn name(&self) -> &'static str {
        self.kind.as_str()
    }

    /// Gives the fields that nobody set their defaults.
    fn complete(&self, fields: &mut Map<String, Value>) {
        if let Value::Object(defaults) = (self.defaults)() {
            for (name, value) in defaults {
                fields.entry(name).or_insert(value);
            }
        }
    }

    /// Reads how a record is named in a path.
    fn ident<'a>(&self, text: &'a str) -> Result<Ident<'a>, Fault> {
        if let Ok(uuid) = Uuid::try_parse(text) {
            return Ok(Ident::Uuid(uuid));
        }
        match (self.named, request::is_name(text)) {
            (true, true) => Ok(Ident::Name(text)),
            (true, false) if self.kind == RecordKind::Portgroup => {
                Err(Fault::BadPath(format!("Expected a logical name or UUID but received {}.", short(text))))
            }
            (true, false) => {
                Err(Fault::Invalid(format!("Expected a logical name or UUID but received {}.", short(text))))
            }
            (false, _) => Err(Fault::Invalid(format!("Expected a UUID but received {}.", short(text)))),
        }
    }
}

enum Ident<'a> {
    Uuid(Uuid),
    Name(&'a str),
}

impl<S: Store> Api<S> {
    /// Every route of records.
    pub(super) async fn record(&self, mut call: Call, deed: Deed, kind: RecordKind) -> Result<Response<Body>, Fault> {
        let resource = of(kind);
        match deed {
            Deed::Create if kind == RecordKind::Allocation => self.create_allocation(call).await,
            Deed::Create => self.create_record(call, resource).await,
            Deed::List | Deed::ListDetail => {
                let detail = deed == Deed::ListDetail;
                let query = std::mem::take(&mut call.query);
                let path = if detail { format!("{}/detail", resource.path) } else { resource.path.to_owned() };
                self.list_records(&call, query, resource, RecordFilter::default(), detail, &path).await
            }
            Deed::Show => self.show_record(call, resource).await,
            Deed::Patch => self.patch_record(call, resource).await,
            Deed::Delete => self.delete_record(call, resource).await,
        }
    }

    /// The record that the path names.
    pub(super) async fn find_record(&self, call: &Call, resource: &Resource) -> Result<Record, Fault> {
        let found = match resource.ident(call.ident())? {
            Ident::Uuid(uuid) => self.conductor.store().record(resource.kind, uuid).await,
            Ident::Name(name) => self.conductor.store().record_by_name(resource.kind, name).await,
        };
        Ok(found?)
    }

    async fn create_record(&self, mut call: Call, resource: &'static Resource) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let fields = request::created(&call, resource.name(), resource.fields, call.object(true)?)?;
        let record = Record::new(resource.kind, Uuid::new_v4(), Timestamp::now());
        self.add_record(&call, resource, record, fields).await
    }

    /// Adds a record with checked fields, and answers with it.
    pub(super) async fn add_record(
        &self,
        call: &Call,
        resource: &Resource,
        mut record: Record,
        mut fields: Map<String, Value>,
    ) -> Result<Response<Body>, Fault> {
        let uuid_of = |value: Option<Value>| value.as_ref().and_then(Value::as_str).and_then(|text| text.parse().ok());
        if let Some(uuid) = uuid_of(fields.remove("uuid")) {
            record.uuid = uuid;
        }
        if let Some(node) = uuid_of(fields.remove("node_uuid")) {
            self.need_node(node).await?;
            record.node = Some(node);
        }
        resource.complete(&mut fields);
        (resource.check)(call, &fields)?;
        record.fields = fields;
        let record = self.conductor.create_record(record).await?;
        let location = format!("{}/v1/{}/{}", call.base, resource.path, record.uuid);
        let document = document::record(self.context(call), resource, &record, &Wanted::All);
        let response = reply::json(StatusCode::CREATED, &document);
        Ok(reply::tagged(reply::located(response, &location), Tag::new(record.created_at, record.version)))
    }

    /// A list of records that match `filter`, and what the query adds to it.
    pub(super) async fn list_records(
        &self,
        call: &Call,
        mut query: Query,
        resource: &Resource,
        mut filter: RecordFilter,
        detail: bool,
        path: &str,
    ) -> Result<Response<Body>, Fault> {
        let original = std::mem::take(&mut query.original);
        let wanted = list::wanted_of_list(&mut query, resource.fields, call, detail, resource.short, resource.detail)?;
        let page = list::page(&mut query)?;
        for (name, since) in resource.filters {
            let Some(text) = query.take(name).filter(|text| !text.is_empty() || *name == "address") else { continue };
            call.need(*since)?;
            match *name {
                "node" => filter.node = Some(self.filtered_node(call, &text, resource.kind).await?),
                "address" => {
                    let address = request::mac(&text).ok_or_else(|| request::not_mac(&text))?;
                    filter.equal.push(("address", address));
                }
                name => filter.equal.push((name, text)),
            }
        }
        query.finish()?;
        let records = self.conductor.store().records(resource.kind, &filter, &page).await?;
        let last = records.last().map(|record| record.uuid);
        let document = |record| document::record(self.context(call), resource, record, &wanted);
        let entries = records.iter().map(document).collect();
        let document = list::document(call, &original, resource.list, path, &page, entries, last);
        Ok(reply::json(StatusCode::OK, &document))
    }

    /// The node of a filter. For allocations one that is not there is a mistake of the request, as Ironic has it.
    async fn filtered_node(&self, call: &Call, text: &str, kind: RecordKind) -> Result<Uuid, Fault> {
        match self.find_node(&node_ident(text, call.has(NODE_NAMES))?).await {
            Ok(node) => Ok(node.uuid),
            Err(Fault::NotFound(text)) if kind == RecordKind::Allocation => Err(Fault::Invalid(text)),
            Err(fault) => Err(fault),
        }
    }

    /// The records of a kind that belong to the node that the path names.
    pub(super) async fn list_records_of_node(
        &self,
        mut call: Call,
        kind: RecordKind,
        detail: bool,
    ) -> Result<Response<Body>, Fault> {
        let resource = of(kind);
        let node = self.node(&call).await?;
        let query = std::mem::take(&mut call.query);
        let filter = RecordFilter { node: Some(node.uuid), ..RecordFilter::default() };
        let mut path = format!("nodes/{}/{}", node.uuid, resource.path);
        if detail {
            path.push_str("/detail");
        }
        self.list_records(&call, query, resource, filter, detail, &path).await
    }

    async fn show_record(&self, mut call: Call, resource: &Resource) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let wanted = list::wanted(&mut query, resource.fields, call.version)?;
        query.finish()?;
        let record = self.find_record(&call, resource).await?;
        let document = document::record(self.context(&call), resource, &record, &wanted);
        Ok(reply::tagged(reply::json(StatusCode::OK, &document), Tag::new(record.created_at, record.version)))
    }

    async fn patch_record(&self, mut call: Call, resource: &Resource) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let name = resource.name();
        let mut record = self.find_record(&call, resource).await?;
        let operations = patch::read(&call, name, resource.fields)?;
        call.check_tag(Tag::new(record.created_at, record.version))?;
        let mut fields = record.fields.clone();
        if let Some(node) = record.node {
            fields.insert("node_uuid".to_owned(), json!(node));
        }
        // What is not set is empty, and a patch may add to it.
        for field in resource.fields {
            if let Some(kind) = field.patch.filter(|kind| kind.has_parts()) {
                fields.entry(field.name).or_insert_with(|| kind.empty());
            }
        }
        patch::apply(&mut fields, &operations)?;
        for field in resource.fields {
            let Some(kind) = field.patch else { continue };
            let value = request::check(name, field, kind, fields.remove(field.name).unwrap_or_default())?;
            if !value.is_null() {
                fields.insert(field.name.to_owned(), value);
            }
        }
        resource.complete(&mut fields);
        (resource.check)(&call, &fields)?;
        if resource.fields.iter().any(|field| field.name == "node_uuid" && field.patch.is_some()) {
            let node = fields.remove("node_uuid").as_ref().and_then(Value::as_str).and_then(|text| text.parse().ok());
            if let Some(node) = node.filter(|node| record.node != Some(*node)) {
                self.need_node(node).await?;
            }
            record.node = node;
        } else {
            fields.remove("node_uuid");
        }
        record.fields = fields;
        let record = self.conductor.update_record(record).await?;
        let document = document::record(self.context(&call), resource, &record, &Wanted::All);
        Ok(reply::tagged(reply::json(StatusCode::OK, &document), Tag::new(record.created_at, record.version)))
    }

    async fn delete_record(&self, mut call: Call, resource: &Resource) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let record = self.find_record(&call, resource).await?;
        call.check_tag(Tag::new(record.created_at, record.version))?;
        self.conductor.delete_record(record).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }
}
