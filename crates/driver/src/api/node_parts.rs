//! What hangs off a node: validation, inventory, history, traits, ports.

use super::document;
use super::request::{Arguments, Call, short};
use super::{Api, list, reply};
use crate::command::Command;
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use store::{NodeFilter, Page, PortFilter, Store};

/// Most traits of a node, and their longest name; Ironic's.
const MAX_TRAITS: usize = 50;
const MAX_TRAIT: usize = 255;

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/validate`
    pub(super) async fn validate_node(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let validation = self.conductor.validate(&call.node()?).await?;
        let interface = |(name, result): (&'static str, Result<(), String>)| {
            let entry = match result {
                Ok(()) => json!({"result": true}),
                Err(reason) => json!({"result": false, "reason": reason}),
            };
            (name.to_owned(), entry)
        };
        let document: Map<String, Value> = validation.0.into_iter().map(interface).collect();
        Ok(reply::json(StatusCode::OK, &Value::Object(document)))
    }

    /// `GET /v1/nodes/<node>/inventory`. Clients rely on 404 to find out that a node was never inspected.
    pub(super) async fn show_inventory(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let node = self.node(&call).await?;
        let inventory = self.conductor.store().inventory(node.uuid).await?.ok_or_else(|| {
            Fault::NotFound(format!("Inspection inventory record for node {} was not found.", node.uuid))
        })?;
        let document = json!({"inventory": inventory.inventory, "plugin_data": inventory.plugin_data});
        Ok(reply::json(StatusCode::OK, &document))
    }

    /// `GET /v1/nodes/<node>/history`
    pub(super) async fn list_history(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let original = std::mem::take(&mut query.original);
        let detail = query.flag("detail")?.unwrap_or_default();
        let page = list::page(&mut query)?;
        query.finish()?;
        if page.sort_key.as_deref().is_some_and(|key| key != "created_at") {
            return Err(Fault::Invalid("History is sorted by created_at.".to_owned()));
        }
        let node = self.node(&call).await?;
        let mut entries = self.conductor.store().history(node.uuid).await?;
        if page.direction == store::SortDirection::Descending {
            entries.reverse();
        }
        let start = match page.marker {
            None => 0,
            Some(marker) => {
                let found = entries.iter().position(|entry| entry.uuid == marker);
                found.ok_or_else(|| Fault::NotFound(format!("Node history {marker} could not be found.")))? + 1
            }
        };
        let entries: Vec<_> = entries.into_iter().skip(start).take(page.limit.unwrap_or(usize::MAX)).collect();
        let last = entries.last().map(|entry| entry.uuid);
        let documents =
            entries.iter().map(|entry| document::history(self.context(&call), &node, entry, detail)).collect();
        let path = format!("nodes/{}/history", node.uuid);
        let document = list::document(&call, &original, "history", &path, &page, documents, last);
        Ok(reply::json(StatusCode::OK, &document))
    }

    /// `GET /v1/nodes/<node>/history/<entry>`
    pub(super) async fn show_history(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let node = self.node(&call).await?;
        let wanted = call.segment(1);
        let entries = self.conductor.store().history(node.uuid).await?;
        let entry = entries.iter().find(|entry| entry.uuid.to_string() == wanted);
        let entry =
            entry.ok_or_else(|| Fault::NotFound(format!("Node history {} could not be found.", short(wanted))))?;
        Ok(reply::json(StatusCode::OK, &document::history(self.context(&call), &node, entry, true)))
    }

    /// `GET /v1/nodes/<node>/traits`
    pub(super) async fn show_traits(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let node = self.node(&call).await?;
        Ok(reply::json(StatusCode::OK, &json!({"traits": node.traits})))
    }

    /// `PUT /v1/nodes/<node>/traits`
    pub(super) async fn replace_traits(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.set_traits(&call, read_traits(&call)?).await
    }

    /// `DELETE /v1/nodes/<node>/traits`
    pub(super) async fn clear_traits(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.set_traits(&call, Vec::new()).await
    }

    /// `PUT /v1/nodes/<node>/traits/<trait>`
    pub(super) async fn add_trait(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut traits = self.node(&call).await?.traits;
        traits.push(call.segment(1).to_owned());
        let location = format!("{}/v1/nodes/{}/traits/{}", call.base, call.segment(0), call.segment(1));
        Ok(reply::located(self.set_traits(&call, traits).await?, &location))
    }

    /// `DELETE /v1/nodes/<node>/traits/<trait>`
    pub(super) async fn remove_trait(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let node = self.node(&call).await?;
        let name = call.segment(1);
        if !node.traits.iter().any(|known| known == name) {
            let name = short(name);
            return Err(Fault::NotFound(format!("Node {} doesn't have a trait '{name}'", node.uuid)));
        }
        let rest = node.traits.into_iter().filter(|known| known != name).collect();
        self.set_traits(&call, rest).await
    }

    async fn set_traits(&self, call: &Call, traits: Vec<String>) -> Result<Response<Body>, Fault> {
        self.conductor.command(&call.node()?, Command::Traits(check_traits(traits)?)).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// `GET /v1/nodes/<node>/ports`, by UUID and by name (which the reference answers with 404).
    pub(super) async fn list_node_ports(&self, mut call: Call, detail: bool) -> Result<Response<Body>, Fault> {
        let node = self.node(&call).await?;
        let query = std::mem::take(&mut call.query);
        let path = format!("nodes/{}/ports{}", node.uuid, if detail { "/detail" } else { "" });
        let filter = PortFilter { node: Some(node.uuid), ..PortFilter::default() };
        self.ports_document(&call, query, filter, detail, &path).await
    }

    /// `GET /v1/nodes/<node>/children`
    pub(super) async fn list_children(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let node = self.node(&call).await?;
        let filter = NodeFilter { parent_node: Some(node.uuid), ..NodeFilter::default() };
        let children = self.conductor.store().nodes(&filter, &Page::default()).await?;
        let children: Vec<_> = children.into_iter().map(|child| child.uuid).collect();
        let href = format!("{}/v1/nodes?parent_node={}", call.base, node.uuid);
        let document = json!({"children": children, "links": {"rel": "children", "href": href}});
        Ok(reply::json(StatusCode::OK, &document))
    }
}

/// Reads the body `{"traits": […]}`.
pub(super) fn read_traits(call: &Call) -> Result<Vec<String>, Fault> {
    let invalid = || Fault::Invalid("Schema error for traits: 'traits' must be a list of strings".to_owned());
    let mut body = Arguments::new(call.object(false)?);
    let Some(Value::Array(list)) = body.take("traits") else { return Err(invalid()) };
    body.finish()?;
    let text = |item| if let Value::String(text) = item { Ok(text) } else { Err(invalid()) };
    list.into_iter().map(text).collect()
}

/// Traits in their order, each once; refuses what is none and what is too many.
pub(super) fn check_traits(mut traits: Vec<String>) -> Result<Vec<String>, Fault> {
    traits.sort();
    traits.dedup();
    if traits.len() > MAX_TRAITS {
        return Err(Fault::Invalid(format!("There cannot be more than {MAX_TRAITS} traits")));
    }
    match traits.iter().find(|name| !is_trait(name)) {
        None => Ok(traits),
        Some(bad) => Err(Fault::Invalid(format!(
            "Invalid trait \"{}\": a custom trait is CUSTOM_ followed by A-Z, 0-9 and _, a standard one begins with \
             another upper-case word and _",
            short(bad)
        ))),
    }
}

/// Whether a text is the name of a trait (os-traits): upper-case words joined by `_`, at least two.
pub(crate) fn is_trait(name: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= MAX_TRAIT
        && name.bytes().all(byte)
        && name.split_once('_').is_some_and(|(first, rest)| !first.is_empty() && !rest.is_empty())
}
