//! Changing a node's attributes: RFC 6902 operations on the part of the node that may be changed.

use super::change::{Draft, locked};
use super::verbs::set_maintenance;
use super::{Conductor, allocations};
use crate::command::{NodeIdent, PatchOperation};
use crate::fault::Fault;
use crate::hardware_type::{Enabled, Interface};
use crate::tag::Tag;
use lifecycle::provision::State;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use store::{Node, Store};
use uuid::Uuid;

/// Attributes that are kept for later API versions and have no field of their own.
const KEPT: [&str; 5] = ["chassis_uuid", "disable_power_off", "instance_name", "parent_node", "shard"];

impl<S: Store> Conductor<S> {
    pub(super) async fn patch(
        self: &Arc<Self>,
        ident: &NodeIdent,
        operations: &[PatchOperation],
        reset_interfaces: bool,
        expected: Option<&[Tag]>,
    ) -> Result<Node, Fault> {
        let uuid = self.find_shared(ident).await?.uuid;
        let (node, _, ()) = self
            .change(uuid, |draft| match expected {
                Some(expected) if !expected.contains(&Tag::new(draft.node.created_at, draft.node.version)) => {
                    Err(Fault::changed(expected, Tag::new(draft.node.created_at, draft.node.version)))
                }
                _ => apply(draft, operations, reset_interfaces, &self.settings.hardware),
            })
            .await?;
        Ok(Arc::unwrap_or_clone(node))
    }

    /// Replaces the traits of a node; they may change in any state, but not while the node is worked on.
    pub(super) async fn set_traits(self: &Arc<Self>, ident: &NodeIdent, traits: Vec<String>) -> Result<Node, Fault> {
        let uuid = self.find_shared(ident).await?.uuid;
        let set = |draft: &mut Draft| {
            if draft.node.reservation.is_some() {
                return Err(locked(&draft.node, draft.flow.as_ref()));
            }
            draft.node.traits.clone_from(&traits);
            Ok(())
        };
        let (node, _, ()) = self.change(uuid, set).await?;
        Ok(Arc::unwrap_or_clone(node))
    }
}

fn apply(
    draft: &mut Draft,
    operations: &[PatchOperation],
    reset_interfaces: bool,
    enabled: &Enabled,
) -> Result<(), Fault> {
    gate(draft)?;
    let node = &draft.node;
    let mut document = document_of(node);
    let defaults = document_of(&Node::new(node.uuid, &node.driver, node.created_at));
    let strange = |operation: &&PatchOperation| operation.path.first().is_none_or(|root| !document.contains_key(root));
    if let Some(operation) = operations.iter().find(strange) {
        let known = document.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let shown = operation.path.join("/");
        return Err(Fault::Invalid(format!("Cannot patch /{shown}. Only the following can be updated: {known}")));
    }
    crate::patch::apply(&mut document, operations)?;
    for (name, value) in defaults {
        document.entry(name).or_insert(value);
    }
    let mut changed = draft.node.clone();
    write_back(&mut changed, &document)?;
    for (reason, of, set) in
        [("protected_reason", "protected", changed.protected), ("retired_reason", "retired", changed.retired)]
    {
        let given = |operation: &&PatchOperation| {
            operation.path.first().is_some_and(|root| root == reason)
                && operation.value.as_ref().is_some_and(|value| value.as_str().is_some_and(|text| !text.is_empty()))
        };
        if !set && operations.iter().any(|operation| given(&operation)) {
            return Err(Fault::Invalid(format!("The {reason} field can only be set when {of} is True")));
        }
    }
    // Until clients know the field, an instance's name is where they have always put it.
    let display = changed.instance_info.get("display_name").filter(|name| name.as_str().is_some_and(|n| !n.is_empty()));
    if let Some(display) = display.cloned()
        && !changed.attributes.contains_key("instance_name")
        && operations.iter().any(|operation| operation.path.first().is_some_and(|root| root == "instance_info"))
    {
        changed.attributes.insert("instance_name".to_owned(), display);
    }
    check(&draft.node, &mut changed, operations, reset_interfaces, enabled)?;
    if changed.instance_uuid.is_none() {
        allocations::release(&mut changed, &mut draft.records);
    }
    draft.node = changed;
    Ok(())
}

/// Whether a node may be changed at all now.
fn gate(draft: &Draft) -> Result<(), Fault> {
    let node = &draft.node;
    if node.reservation.is_some() || node.target_power_state.is_some() {
        return Err(locked(node, draft.flow.as_ref()));
    }
    if !node.provision_state.allows_patch(node.target_provision_state.is_some(), u16::MAX) {
        return Err(Fault::Conflict(format!(
            "Node {} can not be updated while a state transition is in progress (it is in state \"{}\").",
            node.uuid, node.provision_state
        )));
    }
    Ok(())
}

/// The attributes that may be changed.
pub(super) fn document_of(node: &Node) -> Map<String, Value> {
    let document = json!({
        "automated_clean": node.automated_clean, "conductor_group": node.conductor_group,
        "description": node.description, "driver": node.driver, "driver_info": node.driver_info, "extra": node.extra,
        "instance_info": node.instance_info, "instance_uuid": node.instance_uuid, "lessee": node.lessee,
        "maintenance": node.maintenance, "name": node.name, "network_data": node.network_data, "owner": node.owner,
        "properties": node.properties, "protected": node.protected, "protected_reason": node.protected_reason,
        "resource_class": node.resource_class, "retired": node.retired, "retired_reason": node.retired_reason,
    });
    let mut document = document.as_object().cloned().unwrap_or_default();
    for interface in Interface::ALL {
        let chosen = node.interfaces.get(interface.as_str());
        document.insert(format!("{}_interface", interface.as_str()), json!(chosen));
    }
    for key in KEPT {
        document.insert(key.to_owned(), node.attributes.get(key).cloned().unwrap_or(Value::Null));
    }
    document
}

/// Reads one attribute back.
struct Reader<'a>(&'a Map<String, Value>);

impl Reader<'_> {
    fn wrong(key: &str, wanted: &str, found: &Value) -> Fault {
        let found: String = found.to_string().chars().take(80).collect();
        Fault::Invalid(format!("Invalid input for field/attribute {key}. Value: '{found}'. It must be {wanted}."))
    }

    fn text(&self, key: &str) -> Result<Option<String>, Fault> {
        match &self.0[key] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            other => Err(Self::wrong(key, "a text or null", other)),
        }
    }

    fn map(&self, key: &str) -> Result<Map<String, Value>, Fault> {
        match &self.0[key] {
            Value::Null => Ok(Map::new()),
            Value::Object(map) => Ok(map.clone()),
            other => Err(Self::wrong(key, "an object", other)),
        }
    }

    /// A flag, also as the text that command lines send.
    fn flag(&self, key: &str) -> Result<Option<bool>, Fault> {
        match &self.0[key] {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(*flag)),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            other => Err(Self::wrong(key, "true or false", other)),
        }
    }

    fn uuid(&self, key: &str) -> Result<Option<Uuid>, Fault> {
        let text = self.text(key)?;
        text.map(|text| text.parse().map_err(|_| Self::wrong(key, "a UUID", &Value::from(text)))).transpose()
    }
}

pub(super) fn write_back(node: &mut Node, document: &Map<String, Value>) -> Result<(), Fault> {
    let read = Reader(document);
    node.automated_clean = read.flag("automated_clean")?;
    node.conductor_group = read.text("conductor_group")?.unwrap_or_default().to_ascii_lowercase();
    node.description = read.text("description")?;
    node.driver = read.text("driver")?.ok_or_else(|| Reader::wrong("driver", "a text", &Value::Null))?;
    node.driver_info = read.map("driver_info")?;
    node.extra = read.map("extra")?;
    node.instance_info = read.map("instance_info")?;
    node.instance_uuid = read.uuid("instance_uuid")?;
    node.lessee = read.text("lessee")?;
    let maintenance = read.flag("maintenance")?.unwrap_or_default();
    if maintenance != node.maintenance {
        set_maintenance(node, maintenance, None);
    }
    node.name = read.text("name")?.filter(|name| !name.is_empty());
    node.network_data = read.map("network_data")?;
    node.owner = read.text("owner")?;
    node.properties = read.map("properties")?;
    node.protected = read.flag("protected")?.unwrap_or_default();
    node.protected_reason = read.text("protected_reason")?.filter(|_| node.protected);
    node.resource_class = read.text("resource_class")?;
    node.retired = read.flag("retired")?.unwrap_or_default();
    node.retired_reason = read.text("retired_reason")?.filter(|_| node.retired);
    for interface in Interface::ALL {
        match read.text(&format!("{}_interface", interface.as_str()))? {
            Some(chosen) => drop(node.interfaces.insert(interface.as_str().to_owned(), chosen)),
            None => drop(node.interfaces.remove(interface.as_str())),
        }
    }
    for key in KEPT {
        match &document[key] {
            Value::Null => drop(node.attributes.remove(key)),
            value => drop(node.attributes.insert(key.to_owned(), value.clone())),
        }
    }
    Ok(())
}

/// What may change in which state.
fn check(
    before: &Node,
    after: &mut Node,
    operations: &[PatchOperation],
    reset_interfaces: bool,
    enabled: &Enabled,
) -> Result<(), Fault> {
    let state = before.provision_state;
    if before.instance_uuid.is_some() && after.instance_uuid.is_some() && before.instance_uuid != after.instance_uuid {
        return Err(Fault::Conflict(format!(
            "Node {} is associated with an instance; remove instance_uuid first.",
            before.uuid
        )));
    }
    if after.protected && !before.protected && !matches!(state, State::Active | State::Rescue) {
        let text = format!("Node {} can only be protected while it is active or in rescue.", before.uuid);
        return Err(Fault::Conflict(text));
    }
    if after.retired && !before.retired && state == State::Available {
        let text = format!("Node {} can not be retired while it is available; manage it first.", before.uuid);
        return Err(Fault::Conflict(text));
    }
    if before.driver != after.driver && reset_interfaces {
        // Those that this request names stay.
        let named = |interface: &Interface| {
            let field = format!("{}_interface", interface.as_str());
            operations.iter().any(|operation| operation.path.first() == Some(&field))
        };
        for interface in Interface::ALL.iter().filter(|interface| !named(interface)) {
            after.interfaces.remove(interface.as_str());
        }
    } else if reset_interfaces {
        return Err(Fault::Invalid("reset_interfaces goes with a change of the driver only.".to_owned()));
    }
    enabled.compose(after)?;
    let recomposed = before.driver != after.driver || before.interfaces != after.interfaces;
    let reclassed = before.resource_class.is_some() && before.resource_class != after.resource_class;
    if (recomposed || reclassed) && !state.allows_interface_change(before.maintenance || after.maintenance) {
        let what = if recomposed { "driver and interfaces" } else { "resource_class" };
        return Err(Fault::Conflict(format!(
            "Can not change {what} of node {} while it is in provision state \"{state}\"; it can be in enroll, \
             manageable, inspecting, inspect wait or available, or have maintenance set.",
            before.uuid
        )));
    }
    Ok(())
}
