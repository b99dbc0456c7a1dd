//! Documents from what is stored: node, port, history entry. Secrets are masked here and nowhere else.

use super::resource::Resource;
use super::versions::{self, AVAILABLE, BOOT_MODE, Field, INSPECT_WAIT, Kind, NODE_FIELDS, PORT_FIELDS};
use crate::conductor::offered;
use crate::fault::Fault;
use jiff::Timestamp;
use jiff::fmt::StdFmtWrite;
use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::Offset;
use lifecycle::provision::State;
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
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
    Value::String(Time(time).to_string())
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

/// Parts of keys whose values are secrets, by their first letter (after oslo.utils `strutils`, and what drivers add).
const fn secrets(first: u8) -> &'static [&'static str] {
    match first.to_ascii_lowercase() {
        b'a' => &["admin_pass", "adminpass", "auth_key", "authorization"],
        b'c' => &["configdrive", "community", "credential"],
        b'e' => &["encrypted_key"],
        b'n' => &["new_pass"],
        b'p' => &["password", "passwd", "passphrase", "pswd", "private_key", "priv_key"],
        b's' => &["secret", "sslkey"],
        b't' => &["token"],
        _ => &[],
    }
}

/// A copy in which secrets are [`MASK`].
pub(super) fn masked(object: &Map<String, Value>) -> Value {
    value_of(&Masked(object))
}

/// What is serialised by this file always is a value: all keys are texts.
fn value_of(document: &impl Serialize) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

/// An object in which secrets are [`MASK`] when it is written.
struct Masked<'a>(&'a Map<String, Value>);

impl Serialize for Masked<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            if !value.is_null() && is_secret(key) {
                map.serialize_entry(key, MASK)?;
            } else if let Some(shown) = offered::shown(key, value) {
                map.serialize_entry(key, &MaskedValue(&shown))?;
            } else {
                map.serialize_entry(key, &MaskedValue(value))?;
            }
        }
        map.end()
    }
}

/// Whether a key has a part of [`secrets`]. A list asks this of every key of a thousand nodes.
fn is_secret(key: &str) -> bool {
    let key = key.as_bytes();
    (0..key.len()).any(|at| {
        let rest = &key[at..];
        let begins =
            |part: &&str| rest.get(..part.len()).is_some_and(|rest| rest.eq_ignore_ascii_case(part.as_bytes()));
        secrets(key[at]).iter().any(begins)
    })
}

/// A value in which secrets are [`MASK`] when it is written.
struct MaskedValue<'a>(&'a Value);

impl Serialize for MaskedValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(object) => Masked(object).serialize(serializer),
            Value::Array(list) => {
                let mut sequence = serializer.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|value| sequence.serialize_element(&MaskedValue(value)))?;
                sequence.end()
            }
            Value::String(text) => masked_url(text).serialize(serializer),
            other => other.serialize(serializer),
        }
    }
}

/// Hides a password inside a URL: `https://user:password@host/`.
fn masked_url(text: &str) -> Cow<'_, str> {
    let masked = text.split_once("://").and_then(|(scheme, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let (user, host) = authority.rsplit_once('@')?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:{MASK}@{host}{}", &rest[authority.len()..]))
    });
    masked.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// A provision state by the name that the version has for it.
fn state(state: State, version: Version) -> Option<State> {
    match state {
        State::Available if !versions::has(version, AVAILABLE) => None,
        State::InspectWait if !versions::has(version, INSPECT_WAIT) => Some(State::Inspecting),
        state => Some(state),
    }
}

/// A time as [`time`] has it.
struct Time(Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Half the time of a pattern, which is read anew each time.
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(0));
        let printed = PRINTER.print_timestamp_with_offset(&self.0, Offset::UTC, StdFmtWrite(formatter));
        printed.map_err(|_| std::fmt::Error)
    }
}

/// Links as [`links`] has them.
struct Links<'a> {
    base: &'a str,
    path: std::fmt::Arguments<'a>,
}

impl Serialize for Links<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Link<'a> {
            href: std::fmt::Arguments<'a>,
            rel: &'a str,
        }
        let Self { base, path } = self;
        let mut list = serializer.serialize_seq(Some(2))?;
        list.serialize_element(&Link { href: format_args!("{base}/v1/{path}"), rel: "self" })?;
        list.serialize_element(&Link { href: format_args!("{base}/{path}"), rel: "bookmark" })?;
        list.end()
    }
}

/// The fields of a node that a version has and that are asked for, in the order of their names.
pub(super) fn node_fields(version: Version, wanted: &Wanted) -> Vec<&'static str> {
    let fields = NODE_FIELDS.iter().filter(|field| versions::has(version, field.since));
    let mut fields: Vec<_> = fields.map(|field| field.name).filter(|name| wanted.has(name)).collect();
    fields.sort_unstable();
    fields
}

/// The document of a node, which is written field by field, without a copy of the node: there are lists of a thousand.
pub(super) struct NodeDocument<'a> {
    pub(super) context: Context<'a>,
    pub(super) node: &'a Node,
    /// As [`node_fields`] chose them.
    pub(super) fields: &'a [&'static str],
    /// Laid over `driver_internal_info` while a step runs.
    pub(super) progress: Option<Value>,
}

impl Serialize for NodeDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { context, node, fields, progress } = self;
        let mut document = serializer.serialize_map(Some(fields.len()))?;
        for name in *fields {
            let field = NodeField { context: *context, node, name, progress: progress.as_ref() };
            document.serialize_entry(name, &field)?;
        }
        document.end()
    }
}

/// One field of a node.
struct NodeField<'a> {
    context: Context<'a>,
    node: &'a Node,
    name: &'a str,
    progress: Option<&'a Value>,
}

impl Serialize for NodeField<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { context, node, name, progress } = *self;
        let uuid = node.uuid;
        let links = |path: std::fmt::Arguments<'_>, to: S| Links { base: context.base, path }.serialize(to);
        match name {
            "uuid" => node.uuid.serialize(serializer),
            "created_at" => Time(node.created_at).serialize(serializer),
            "updated_at" => node.updated_at.map(Time).serialize(serializer),
            "automated_clean" => node.automated_clean.serialize(serializer),
            "clean_step" => node.clean_step.serialize(serializer),
            "conductor_group" => node.conductor_group.serialize(serializer),
            "deploy_step" => node.deploy_step.serialize(serializer),
            "description" => node.description.serialize(serializer),
            "driver" => node.driver.serialize(serializer),
            "driver_info" => Masked(&node.driver_info).serialize(serializer),
            "driver_internal_info" => match progress {
                None => Masked(&node.driver_internal_info).serialize(serializer),
                Some(progress) => {
                    let mut info = masked(&node.driver_internal_info);
                    if let Some(info) = info.as_object_mut() {
                        info.insert("progress".to_owned(), progress.clone());
                    }
                    info.serialize(serializer)
                }
            },
            "extra" => node.extra.serialize(serializer),
            "fault" => node.fault.serialize(serializer),
            "inspection_finished_at" => node.inspection_finished_at.map(Time).serialize(serializer),
            "inspection_started_at" => node.inspection_started_at.map(Time).serialize(serializer),
            "instance_info" => Masked(&node.instance_info).serialize(serializer),
            "instance_uuid" => node.instance_uuid.serialize(serializer),
            "last_error" => node.last_error.serialize(serializer),
            "lessee" => node.lessee.serialize(serializer),
            "maintenance" => node.maintenance.serialize(serializer),
            "maintenance_reason" => node.maintenance_reason.serialize(serializer),
            "name" => node.name.serialize(serializer),
            "network_data" => node.network_data.serialize(serializer),
            "owner" => node.owner.serialize(serializer),
            "power_state" => node.power_state.serialize(serializer),
            "properties" => node.properties.serialize(serializer),
            "protected" => node.protected.serialize(serializer),
            "protected_reason" => node.protected_reason.serialize(serializer),
            "provision_state" => state(node.provision_state, context.version).serialize(serializer),
            "provision_updated_at" => node.provision_updated_at.map(Time).serialize(serializer),
            "reservation" => node.reservation.serialize(serializer),
            "resource_class" => node.resource_class.serialize(serializer),
            "retired" => node.retired.serialize(serializer),
            "retired_reason" => node.retired_reason.serialize(serializer),
            "service_step" => node.service_step.serialize(serializer),
            "target_power_state" => node.target_power_state.serialize(serializer),
            "target_provision_state" => node.target_provision_state.serialize(serializer),
            "traits" => node.traits.serialize(serializer),
            "conductor" => context.hostname.serialize(serializer),
            "links" => links(format_args!("nodes/{uuid}"), serializer),
            "ports" => links(format_args!("nodes/{uuid}/ports"), serializer),
            "states" => links(format_args!("nodes/{uuid}/states"), serializer),
            "portgroups" => links(format_args!("nodes/{uuid}/portgroups"), serializer),
            "volume" => links(format_args!("nodes/{uuid}/volume"), serializer),
            name => match (name.strip_suffix("_interface"), node.attributes.get(name), name) {
                (Some(interface), _, _) => node.interfaces.get(interface).serialize(serializer),
                (None, Some(value), _) => value.serialize(serializer),
                (None, None, "console_enabled" | "disable_power_off") => false.serialize(serializer),
                (None, None, "raid_config" | "target_raid_config") => serializer.serialize_map(Some(0))?.end(),
                (None, None, _) => serializer.serialize_unit(),
            },
        }
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
    let field = |name: &str| (name.to_owned(), value_of(&NodeField { context, node, name, progress: None }));
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
                value_of(&MaskedValue(value))
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
    fn a_key_is_secret_for_a_part_of_it_in_whatever_case() {
        let parts = (0..=255).flat_map(|first| secrets(first).iter().map(move |part| (first, *part)));
        for (first, part) in parts.filter(|(first, _)| !first.is_ascii_uppercase()) {
            assert_eq!(first, part.as_bytes()[0], "{part}");
            for key in [part.to_owned(), part.to_ascii_uppercase(), format!("a_{part}_b"), format!("ssp{part}")] {
                assert!(is_secret(&key), "{key}");
            }
            assert!(!is_secret(&part[1..]) && !is_secret(&part[..part.len() - 1]), "{part}");
        }
        for key in ["", "p", "redfish_address", "deploy_kernel", "agent_url", "größe", "ſecret"] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn times_are_in_utc_with_whole_seconds_and_an_offset() {
        let seconds = [-62_135_596_800, -1, 0, 951_782_399, 1_700_000_000, 4_102_444_799, 253_402_207_000];
        for time in seconds.iter().flat_map(|second| [0, 1, 999_999_999].map(|part| Timestamp::new(*second, part))) {
            // One before 1970 with a part of a second has that part with the other sign.
            let Ok(time) = time else { continue };
            assert_eq!(Time(time).to_string(), time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string());
        }
        assert_eq!(Time(Timestamp::UNIX_EPOCH).to_string(), "1970-01-01T00:00:00+00:00");
    }

    #[test]
    fn every_field_appears_with_its_version() {
        let mut node = Node::new(Uuid::nil(), "fake-hardware", Timestamp::UNIX_EPOCH);
        node.provision_state = State::Available;
        let at = |version| {
            let context = Context { version: Version(version), base: "http://localhost", hostname: "here" };
            let fields = node_fields(context.version, &Wanted::All);
            object(value_of(&NodeDocument { context, node: &node, fields: &fields, progress: None }))
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
