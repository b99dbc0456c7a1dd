//! Documents from what is stored: node, port, history entry. Secrets are masked here and nowhere else.

use super::resource::Resource;
use super::versions::{self, AVAILABLE, BOOT_MODE, Field, INSPECT_WAIT, Kind, NODE_FIELDS, PORT_FIELDS};
use crate::fault::Fault;
use jiff::Timestamp;
use lifecycle::provision::State;
use serde_json::{Map, Value, json};
use store::{JournalEntry, Node, Port, Record};
use wire::ironic::Version;
use wire::ramdisk::MASK;

/// What documents need besides what is stored.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) version: Version,
    /// Scheme and host for links.
    pub(super) base: &'a str,
    /// The conductor.
    pub(super) hostname: &'a str,
}

/// Which fields are asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    /// All that the version has.
    All,
    /// These, and `links`.
    Only(Vec<String>),
}

impl Wanted {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => name == "links" || names.iter().any(|wanted| wanted == name),
        }
    }

    /// Checks names of a request: unknown ones are named, newer ones refused.
    pub(super) fn check(names: Vec<String>, fields: &[Field], version: Version) -> Result<Self, Fault> {
        let unknown: Vec<&str> =
            names.iter().filter(|name| versions::find(fields, name).is_none()).map(String::as_str).take(10).collect();
        if !unknown.is_empty() {
            return Err(Fault::Invalid(format!("Field(s) \"{}\" are not valid.", unknown.join(", "))));
        }
        let newer =
            |name: &String| versions::find(fields, name).is_some_and(|field| !versions::has(version, field.since));
        if names.iter().any(newer) { Err(Fault::not_acceptable()) } else { Ok(Self::Only(names)) }
    }
}

/// A time as Ironic writes it: UTC, with its offset.
pub(super) fn time(time: Timestamp) -> Value {
    Value::String(time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string())
}

pub(super) fn maybe_time(value: Option<Timestamp>) -> Value {
    value.map_or(Value::Null, time)
}

/// A `self` and a `bookmark` link; the latter leaves the version out.
pub(super) fn links(base: &str, path: &str) -> Value {
    json!([
        {"rel": "self", "href": format!("{base}/v1/{path}")},
        {"rel": "bookmark", "href": format!("{base}/{path}")},
    ])
}

/// Parts of keys whose values are secrets (after oslo.utils `strutils`, and what drivers add).
const SECRET: &[&str] = &[
    "password",
    "passwd",
    "admin_pass",
    "adminpass",
    "new_pass",
    "passphrase",
    "pswd",
    "secret",
    "token",
    "configdrive",
    "private_key",
    "encrypted_key",
    "auth_key",
    "priv_key",
    "sslkey",
    "community",
    "credential",
    "authorization",
];

/// A copy in which secrets are [`MASK`].
pub(super) fn masked(object: &Map<String, Value>) -> Value {
    let entry = |(key, value): (&String, &Value)| {
        let lower = key.to_ascii_lowercase();
        let secret = !value.is_null() && SECRET.iter().any(|part| lower.contains(part));
        (key.clone(), if secret { Value::String(MASK.to_owned()) } else { masked_value(value) })
    };
    Value::Object(object.iter().map(entry).collect())
}

fn masked_value(value: &Value) -> Value {
    match value {
        Value::Object(object) => masked(object),
        Value::Array(list) => Value::Array(list.iter().map(masked_value).collect()),
        Value::String(text) => Value::String(masked_url(text)),
        other => other.clone(),
    }
}

/// Hides a password inside a URL: `https://user:password@host/`.
fn masked_url(text: &str) -> String {
    let masked = text.split_once("://").and_then(|(scheme, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let (user, host) = authority.rsplit_once('@')?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:{MASK}@{host}{}", &rest[authority.len()..]))
    });
    masked.unwrap_or_else(|| text.to_owned())
}

/// A provision state by the name that the version has for it.
fn state(state: State, version: Version) -> Value {
    match state {
        State::Available if !versions::has(version, AVAILABLE) => Value::Null,
        State::InspectWait if !versions::has(version, INSPECT_WAIT) => json!(State::Inspecting),
        state => json!(state),
    }
}

/// The document of a node. `progress` is laid over its `driver_internal_info` while a step runs.
pub(super) fn node(context: Context<'_>, node: &Node, wanted: &Wanted, progress: Option<Value>) -> Value {
    let mut document = Map::new();
    for field in NODE_FIELDS.iter().filter(|field| versions::has(context.version, field.since)) {
        if wanted.has(field.name) {
            document.insert(field.name.to_owned(), node_field(context, node, field.name, progress.as_ref()));
        }
    }
    Value::Object(document)
}

fn node_field(context: Context<'_>, node: &Node, name: &str, progress: Option<&Value>) -> Value {
    let resource = |part: &str| links(context.base, &format!("nodes/{}{part}", node.uuid));
    match name {
        "uuid" => json!(node.uuid),
        "created_at" => time(node.created_at),
        "updated_at" => maybe_time(node.updated_at),
        "automated_clean" => json!(node.automated_clean),
        "clean_step" => node.clean_step.clone(),
        "conductor_group" => json!(node.conductor_group),
        "deploy_step" => node.deploy_step.clone(),
        "description" => json!(node.description),
        "driver" => json!(node.driver),
        "driver_info" => masked(&node.driver_info),
        "driver_internal_info" => {
            let mut info = masked(&node.driver_internal_info);
            if let (Some(progress), Some(info)) = (progress, info.as_object_mut()) {
                info.insert("progress".to_owned(), progress.clone());
            }
            info
        }
        "extra" => json!(node.extra),
        "fault" => json!(node.fault),
        "inspection_finished_at" => maybe_time(node.inspection_finished_at),
        "inspection_started_at" => maybe_time(node.inspection_started_at),
        "instance_info" => masked(&node.instance_info),
        "instance_uuid" => json!(node.instance_uuid),
        "last_error" => json!(node.last_error),
        "lessee" => json!(node.lessee),
        "maintenance" => json!(node.maintenance),
        "maintenance_reason" => json!(node.maintenance_reason),
        "name" => json!(node.name),
        "network_data" => json!(node.network_data),
        "owner" => json!(node.owner),
        "power_state" => json!(node.power_state),
        "properties" => json!(node.properties),
        "protected" => json!(node.protected),
        "protected_reason" => json!(node.protected_reason),
        "provision_state" => state(node.provision_state, context.version),
        "provision_updated_at" => maybe_time(node.provision_updated_at),
        "reservation" => json!(node.reservation),
        "resource_class" => json!(node.resource_class),
        "retired" => json!(node.retired),
        "retired_reason" => json!(node.retired_reason),
        "service_step" => node.service_step.clone(),
        "target_power_state" => json!(node.target_power_state),
        "target_provision_state" => json!(node.target_provision_state),
        "traits" => json!(node.traits),
        "conductor" => json!(context.hostname),
        "links" => resource(""),
        "ports" => resource("/ports"),
        "states" => resource("/states"),
        "portgroups" => resource("/portgroups"),
        "volume" => resource("/volume"),
        "console_enabled" | "disable_power_off" => node.attributes.get(name).cloned().unwrap_or(json!(false)),
        "raid_config" | "target_raid_config" | "health" if !node.attributes.contains_key(name) => {
            if name == "health" {
                Value::Null
            } else {
                json!({})
            }
        }
        name => match name.strip_suffix("_interface") {
            Some(interface) => json!(node.interfaces.get(interface)),
            None => node.attributes.get(name).cloned().unwrap_or_default(),
        },
    }
}

/// The states of a node.
pub(super) fn states(context: Context<'_>, node: &Node) -> Value {
    let names = [
        "console_enabled",
        "last_error",
        "power_state",
        "provision_state",
        "provision_updated_at",
        "target_power_state",
        "target_provision_state",
    ];
    let later = [("raid_config", 12), ("target_raid_config", 12), ("boot_mode", BOOT_MODE), ("secure_boot", BOOT_MODE)];
    let later = later.iter().filter(|(_, since)| versions::has(context.version, *since)).map(|(name, _)| *name);
    let field = |name: &str| (name.to_owned(), node_field(context, node, name, None));
    Value::Object(names.into_iter().chain(later).map(field).collect())
}

/// The document of a port.
pub(super) fn port(context: Context<'_>, port: &Port, wanted: &Wanted) -> Value {
    let mut document = Map::new();
    for field in PORT_FIELDS.iter().filter(|field| versions::has(context.version, field.since)) {
        if wanted.has(field.name) {
            document.insert(field.name.to_owned(), port_field(context, port, field.name));
        }
    }
    Value::Object(document)
}

fn port_field(context: Context<'_>, port: &Port, name: &str) -> Value {
    match name {
        "uuid" => json!(port.uuid),
        "created_at" => time(port.created_at),
        "updated_at" => maybe_time(port.updated_at),
        "address" => json!(port.address),
        "extra" => json!(port.extra),
        "internal_info" => masked(&port.internal_info),
        "local_link_connection" => json!(port.local_link_connection),
        "physical_network" => json!(port.physical_network),
        "pxe_enabled" => json!(port.pxe_enabled),
        "node_uuid" => json!(port.node_uuid),
        "name" => json!(port.name),
        "links" => links(context.base, &format!("ports/{}", port.uuid)),
        "is_smartnic" => port.attributes.get(name).cloned().unwrap_or(json!(false)),
        "available_for_dynamic_portgroup" => port.attributes.get(name).cloned().unwrap_or(json!(true)),
        name => port.attributes.get(name).cloned().unwrap_or_default(),
    }
}

/// The document of a record.
pub(super) fn record(context: Context<'_>, resource: &Resource, record: &Record, wanted: &Wanted) -> Value {
    let path = format!("{}/{}", resource.path, record.uuid);
    let value = |field: &Field| match field.name {
        "uuid" => json!(record.uuid),
        "created_at" => time(record.created_at),
        "updated_at" => maybe_time(record.updated_at),
        "node_uuid" => json!(record.node),
        "links" => links(context.base, &path),
        name @ ("nodes" | "ports") => links(context.base, &format!("{path}/{name}")),
        // Who may not know what a rule does may not read it either.
        "actions" | "conditions" if record.fields.get("sensitive") == Some(&Value::Bool(true)) => Value::Null,
        name => match (record.fields.get(name), field.create) {
            (Some(value), _) if matches!(name, "steps" | "properties" | "internal_info" | "actions") => {
                masked_value(value)
            }
            (Some(value), _) => value.clone(),
            (None, kind) => kind.map_or(Value::Null, Kind::empty),
        },
    };
    let chosen = resource.fields.iter().filter(|field| versions::has(context.version, field.since));
    let chosen = chosen.filter(|field| wanted.has(field.name));
    Value::Object(chosen.map(|field| (field.name.to_owned(), value(field))).collect())
}

/// Longest text of an event in a list without details.
const SHORT_EVENT: usize = 255;

/// The document of a history entry.
pub(super) fn history(context: Context<'_>, node: &Node, entry: &JournalEntry, detail: bool) -> Value {
    let short = |text: &str| -> String {
        if detail || text.chars().count() <= SHORT_EVENT {
            return text.to_owned();
        }
        text.chars().take(SHORT_EVENT - 3).chain("...".chars()).collect()
    };
    let href = format!("{}/v1/nodes/{}/history/{}", context.base, node.uuid, entry.uuid);
    let mut document = json!({
        "uuid": entry.uuid,
        "created_at": time(entry.created_at),
        "severity": entry.severity,
        "event": short(&entry.event),
        "links": [{"rel": "self", "href": href}],
    });
    if detail {
        document["event_type"] = json!(entry.event_type);
        document["conductor"] = json!(entry.conductor);
        document["user"] = Value::Null;
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }

    #[test]
    fn secrets_are_masked_at_any_depth_and_whatever_their_type() {
        let info = object(json!({
            "redfish_password": "canary",
            "redfish_username": "admin",
            "redfish_address": "https://admin:canary@bmc.example.org/redfish?x=a@b",
            "agent_secret_token": "canary",
            "agent_secret_token_pregenerated": true,
            "snmp_community": "canary",
            "nested": {"list": [{"Auth_Token": "canary", "fine": 1}]},
            "configdrive": {"user_data": "canary"},
            "image_source": "http://images.example.org/debian.raw.zst",
            "deploy_token": null,
        }));
        let masked = masked(&info);
        assert!(!masked.to_string().contains("canary"), "{masked}");
        insta::assert_json_snapshot!(masked);
    }

    #[test]
    fn every_field_appears_with_its_version() {
        let mut node = Node::new(Uuid::nil(), "fake-hardware", Timestamp::UNIX_EPOCH);
        node.provision_state = State::Available;
        let at = |version| {
            let context = Context { version: Version(version), base: "http://localhost", hostname: "here" };
            object(super::node(context, &node, &Wanted::All, None))
        };
        let mut before = at(1);
        assert_eq!(before["provision_state"], Value::Null);
        for version in 2..=Version::MAX.0 {
            let now = at(version);
            for name in now.keys().filter(|name| !before.contains_key(*name)) {
                assert_eq!(versions::find(NODE_FIELDS, name).map(|field| field.since), Some(version), "{name}");
            }
            assert!(before.keys().all(|name| now.contains_key(name)), "nothing goes in 1.{version}");
            before = now;
        }
        assert_eq!(before.len(), NODE_FIELDS.len());
    }
}
