//! Records: everything that the API keeps besides nodes and ports. One shape for all kinds, so that a new kind is an
//! entry in two tables and no new code in any store.

use crate::model::{SortValue, text, time};
use jiff::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

/// Kinds of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A claim on a node.
    Allocation,
    /// A place where nodes are.
    Chassis,
    /// Steps that a deployment gains from a trait.
    DeployTemplate,
    /// What was erased and how, signed. It belongs to no node, so that it is there when the node is gone; the field
    /// `node_uuid` says which it was.
    Erasure,
    /// What is done with the findings of an inspection.
    InspectionRule,
    /// Ports of a node that are one.
    Portgroup,
    /// What a BMC told of its machine: BIOS settings and versions of firmware. One a node, with the UUID of the node.
    Reading,
    /// Steps by one name.
    Runbook,
    /// How a node reaches remote volumes.
    VolumeConnector,
    /// A remote volume of a node.
    VolumeTarget,
}

impl RecordKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Allocation,
        Self::Chassis,
        Self::DeployTemplate,
        Self::Erasure,
        Self::InspectionRule,
        Self::Portgroup,
        Self::Reading,
        Self::Runbook,
        Self::VolumeConnector,
        Self::VolumeTarget,
    ];

    /// Its name, as it is stored and as people call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allocation => "allocation",
            Self::Chassis => "chassis",
            Self::DeployTemplate => "deploy template",
            Self::Erasure => "erasure",
            Self::InspectionRule => "inspection rule",
            Self::Portgroup => "portgroup",
            Self::Reading => "reading",
            Self::Runbook => "runbook",
            Self::VolumeConnector => "volume connector",
            Self::VolumeTarget => "volume target",
        }
    }

    /// The fields that it can be sorted by.
    pub const fn sort_keys(self) -> &'static [&'static str] {
        match self {
            Self::Allocation => &[
                "uuid",
                "created_at",
                "updated_at",
                "node_uuid",
                "name",
                "state",
                "resource_class",
                "owner",
                "last_error",
            ],
            Self::Chassis => &["uuid", "created_at", "updated_at", "description"],
            Self::DeployTemplate => &["uuid", "created_at", "updated_at", "name"],
            Self::Erasure => &["uuid", "created_at", "step", "device", "method", "outcome"],
            Self::InspectionRule => {
                &["uuid", "created_at", "updated_at", "description", "phase", "priority", "sensitive"]
            }
            Self::Portgroup => &[
                "uuid",
                "created_at",
                "updated_at",
                "node_uuid",
                "name",
                "address",
                "mode",
                "standalone_ports_supported",
                "physical_network",
                "category",
            ],
            Self::Reading => &["uuid", "created_at", "updated_at", "node_uuid"],
            Self::Runbook => {
                &["uuid", "created_at", "updated_at", "name", "owner", "public", "disable_ramdisk", "description"]
            }
            Self::VolumeConnector => &["uuid", "created_at", "updated_at", "node_uuid", "type", "connector_id"],
            Self::VolumeTarget => {
                &["uuid", "created_at", "updated_at", "node_uuid", "volume_type", "boot_index", "volume_id"]
            }
        }
    }

    /// The fields of which no two records of the kind have the same values, besides `uuid`, `name` and `address`.
    pub const fn identity(self) -> &'static [&'static str] {
        match self {
            Self::VolumeConnector => &["type", "connector_id"],
            Self::VolumeTarget => &["node_uuid", "boot_index"],
            Self::Allocation
            | Self::Chassis
            | Self::DeployTemplate
            | Self::Erasure
            | Self::InspectionRule
            | Self::Portgroup
            | Self::Reading
            | Self::Runbook => &[],
        }
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// UUID, unique among its kind.
    pub uuid: Uuid,
    /// Grows with every change; 0 before it is created.
    pub version: u64,
    /// The node that it belongs to; it goes when the node goes.
    pub node: Option<Uuid>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was changed.
    pub updated_at: Option<Timestamp>,
    /// Everything else, by the names of the API. A field that is not there has its default.
    pub fields: Map<String, Value>,
}

impl Record {
    /// A new record without fields.
    pub fn new(kind: RecordKind, uuid: Uuid, now: Timestamp) -> Self {
        Self { kind, uuid, version: 0, node: None, created_at: now, updated_at: None, fields: Map::new() }
    }

    /// The text of a field.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }

    /// What [`RecordKind::identity`] says of it, as one text; unset when its kind has none.
    pub fn identity(&self) -> Option<String> {
        let fields = self.kind.identity();
        let value = |field: &&str| match *field {
            "node_uuid" => self.node.map(|node| node.to_string()).unwrap_or_default(),
            field => self.fields.get(field).map(Value::to_string).unwrap_or_default(),
        };
        (!fields.is_empty()).then(|| fields.iter().map(value).collect::<Vec<_>>().join(" "))
    }

    /// The value of a field that is sorted by; `None` when it is not set, or `key` is none of
    /// [`RecordKind::sort_keys`].
    pub fn sort_value(&self, key: &str) -> Option<SortValue> {
        match key {
            "uuid" => Some(SortValue::Text(self.uuid.to_string())),
            "created_at" => time(Some(self.created_at)),
            "updated_at" => time(self.updated_at),
            "node_uuid" => self.node.map(|node| SortValue::Text(node.to_string())),
            key => match self.fields.get(key)? {
                Value::Bool(value) => Some(SortValue::Flag(*value)),
                Value::Number(value) => value.as_i64().map(SortValue::Number),
                Value::String(value) => text(Some(value)),
                Value::Null | Value::Array(_) | Value::Object(_) => None,
            },
        }
    }
}

/// Which records. Everything that is set must match.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RecordFilter {
    /// The node.
    pub node: Option<Uuid>,
    /// Texts of fields.
    pub equal: Vec<(&'static str, String)>,
}

impl RecordFilter {
    /// Whether a record matches.
    pub fn matches(&self, record: &Record) -> bool {
        self.node.is_none_or(|node| record.node == Some(node))
            && self.equal.iter().all(|(field, value)| record.text(field) == Some(value))
    }
}

/// A change of a record that goes with the change of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordChange {
    /// Adds it; its version becomes 1.
    Create(Record),
    /// Changes it, when it still has the version that it was read with.
    Put(Record),
    /// Removes it, where it is still there: a node that refers to a record that is gone has to be able to let go of it.
    Delete(RecordKind, Uuid),
}
