//! What is stored. Field names are those of the Ironic API.

use jiff::Timestamp;
use lifecycle::provision::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A node: a server under management.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// UUID.
    pub uuid: Uuid,
    /// Grows with every commit; 0 before the node is created.
    pub version: u64,
    /// Name, unique.
    pub name: Option<String>,
    /// When it was enrolled.
    pub created_at: Timestamp,
    /// When anything of it changed last.
    pub updated_at: Option<Timestamp>,
    /// Hardware type, such as `redfish`.
    pub driver: String,
    /// Interface type (`boot`, `deploy`, `power`, …) → implementation; only those that were chosen or composed.
    pub interfaces: BTreeMap<String, String>,
    /// Where and how to reach the BMC; holds secrets.
    pub driver_info: Map<String, Value>,
    /// What the driver keeps about the node between calls; holds secrets (`agent_secret_token`).
    pub driver_internal_info: Map<String, Value>,
    /// What to deploy; holds secrets.
    pub instance_info: Map<String, Value>,
    /// What the machine is, such as `root_device`, `capabilities`, `cpu_arch`.
    pub properties: Map<String, Value>,
    /// For the operator.
    pub extra: Map<String, Value>,
    /// Provision state.
    pub provision_state: State,
    /// The state on the way to.
    pub target_provision_state: Option<State>,
    /// When the provision state changed, or a heartbeat came.
    pub provision_updated_at: Option<Timestamp>,
    /// `power on`, `power off`, or unknown.
    pub power_state: Option<String>,
    /// The power state on the way to.
    pub target_power_state: Option<String>,
    /// Whether the node is set aside.
    pub maintenance: bool,
    /// Why.
    pub maintenance_reason: Option<String>,
    /// What kind of failure set it aside.
    pub fault: Option<String>,
    /// The last failure, for people.
    pub last_error: Option<String>,
    /// Conductor that works on the node now.
    pub reservation: Option<String>,
    /// The instance on it.
    pub instance_uuid: Option<Uuid>,
    /// The clean step under way, `{}` when none.
    pub clean_step: Value,
    /// The deploy step under way.
    pub deploy_step: Value,
    /// The service step under way.
    pub service_step: Value,
    /// When the last inspection began.
    pub inspection_started_at: Option<Timestamp>,
    /// When it ended.
    pub inspection_finished_at: Option<Timestamp>,
    /// Whether releases are cleaned; the site's setting when unset.
    pub automated_clean: Option<bool>,
    /// Resource class.
    pub resource_class: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Owner.
    pub owner: Option<String>,
    /// Lessee.
    pub lessee: Option<String>,
    /// Conductor group, `""` by default.
    pub conductor_group: String,
    /// Whether it must not be undeployed.
    pub protected: bool,
    /// Why.
    pub protected_reason: Option<String>,
    /// Whether it is to leave.
    pub retired: bool,
    /// Why.
    pub retired_reason: Option<String>,
    /// Network data of static agent networks.
    pub network_data: Map<String, Value>,
    /// Traits.
    pub traits: Vec<String>,
    /// Attributes of later API versions, by name; kept and served, not acted on.
    pub attributes: Map<String, Value>,
}

impl Node {
    /// The text of an attribute of a later version.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).and_then(Value::as_str)
    }

    /// A new node in `enroll`.
    pub fn new(uuid: Uuid, driver: &str, now: Timestamp) -> Self {
        Self {
            uuid,
            version: 0,
            name: None,
            created_at: now,
            updated_at: None,
            driver: driver.to_owned(),
            interfaces: BTreeMap::new(),
            driver_info: Map::new(),
            driver_internal_info: Map::new(),
            instance_info: Map::new(),
            properties: Map::new(),
            extra: Map::new(),
            provision_state: State::Enroll,
            target_provision_state: None,
            provision_updated_at: None,
            power_state: None,
            target_power_state: None,
            maintenance: false,
            maintenance_reason: None,
            fault: None,
            last_error: None,
            reservation: None,
            instance_uuid: None,
            clean_step: Value::Object(Map::new()),
            deploy_step: Value::Object(Map::new()),
            service_step: Value::Object(Map::new()),
            inspection_started_at: None,
            inspection_finished_at: None,
            automated_clean: None,
            resource_class: None,
            description: None,
            owner: None,
            lessee: None,
            conductor_group: String::new(),
            protected: false,
            protected_reason: None,
            retired: false,
            retired_reason: None,
            network_data: Map::new(),
            traits: Vec::new(),
            attributes: Map::new(),
        }
    }
}

/// The value of a field that is sorted by. Ordered as every store orders it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortValue {
    /// A flag; false first.
    Flag(bool),
    /// A time, in microseconds since 1970.
    Time(i64),
    /// A whole number.
    Number(i64),
    /// A text, by its bytes.
    Text(String),
}

fn flag(value: bool) -> Option<SortValue> {
    Some(SortValue::Flag(value))
}

pub(crate) fn time(value: Option<Timestamp>) -> Option<SortValue> {
    value.map(|value| SortValue::Time(value.as_microsecond()))
}

pub(crate) fn text(value: Option<&str>) -> Option<SortValue> {
    value.map(|value| SortValue::Text(value.to_owned()))
}

impl Node {
    /// The fields that nodes can be sorted by.
    pub const SORT_KEYS: &'static [&'static str] = &[
        "uuid",
        "name",
        "created_at",
        "updated_at",
        "driver",
        "provision_state",
        "target_provision_state",
        "provision_updated_at",
        "power_state",
        "target_power_state",
        "maintenance",
        "maintenance_reason",
        "fault",
        "last_error",
        "reservation",
        "instance_uuid",
        "inspection_started_at",
        "inspection_finished_at",
        "automated_clean",
        "resource_class",
        "description",
        "owner",
        "lessee",
        "conductor_group",
        "protected",
        "protected_reason",
        "retired",
        "retired_reason",
        "shard",
        "parent_node",
        "instance_name",
    ];

    /// The value of a field that is sorted by; `None` when it is not set, or `key` is none of [`Self::SORT_KEYS`].
    pub fn sort_value(&self, key: &str) -> Option<SortValue> {
        match key {
            "uuid" => Some(SortValue::Text(self.uuid.to_string())),
            "shard" | "parent_node" | "instance_name" => text(self.attribute(key)),
            "name" => text(self.name.as_deref()),
            "created_at" => time(Some(self.created_at)),
            "updated_at" => time(self.updated_at),
            "driver" => text(Some(&self.driver)),
            "provision_state" => text(Some(self.provision_state.as_str())),
            "target_provision_state" => text(self.target_provision_state.map(State::as_str)),
            "provision_updated_at" => time(self.provision_updated_at),
            "power_state" => text(self.power_state.as_deref()),
            "target_power_state" => text(self.target_power_state.as_deref()),
            "maintenance" => flag(self.maintenance),
            "maintenance_reason" => text(self.maintenance_reason.as_deref()),
            "fault" => text(self.fault.as_deref()),
            "last_error" => text(self.last_error.as_deref()),
            "reservation" => text(self.reservation.as_deref()),
            "instance_uuid" => self.instance_uuid.map(|uuid| SortValue::Text(uuid.to_string())),
            "inspection_started_at" => time(self.inspection_started_at),
            "inspection_finished_at" => time(self.inspection_finished_at),
            "automated_clean" => self.automated_clean.map(SortValue::Flag),
            "resource_class" => text(self.resource_class.as_deref()),
            "description" => text(self.description.as_deref()),
            "owner" => text(self.owner.as_deref()),
            "lessee" => text(self.lessee.as_deref()),
            "conductor_group" => text(Some(&self.conductor_group)),
            "protected" => flag(self.protected),
            "protected_reason" => text(self.protected_reason.as_deref()),
            "retired" => flag(self.retired),
            "retired_reason" => text(self.retired_reason.as_deref()),
            _ => None,
        }
    }
}

/// A port: a network interface of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// UUID.
    pub uuid: Uuid,
    /// Grows with every change; 0 as it was created. Ports that an older build saved have none.
    #[serde(default)]
    pub version: u64,
    /// The node.
    pub node_uuid: Uuid,
    /// MAC address, lower case, unique.
    pub address: String,
    /// Name.
    pub name: Option<String>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was changed.
    pub updated_at: Option<Timestamp>,
    /// For the operator.
    pub extra: Map<String, Value>,
    /// Switch and port it is connected to.
    pub local_link_connection: Map<String, Value>,
    /// Whether it boots from the network.
    pub pxe_enabled: bool,
    /// Physical network.
    pub physical_network: Option<String>,
    /// For the driver.
    pub internal_info: Map<String, Value>,
    /// Attributes of later API versions, by name; kept and served, not acted on.
    pub attributes: Map<String, Value>,
}

impl Port {
    /// The fields that ports can be sorted by.
    pub const SORT_KEYS: &'static [&'static str] =
        &["uuid", "address", "name", "created_at", "updated_at", "node_uuid", "pxe_enabled", "physical_network"];

    /// A new port.
    pub fn new(uuid: Uuid, node_uuid: Uuid, address: &str, now: Timestamp) -> Self {
        Self {
            uuid,
            version: 0,
            node_uuid,
            address: address.to_owned(),
            name: None,
            created_at: now,
            updated_at: None,
            extra: Map::new(),
            local_link_connection: Map::new(),
            pxe_enabled: true,
            physical_network: None,
            internal_info: Map::new(),
            attributes: Map::new(),
        }
    }

    /// The value of a field that is sorted by; `None` when it is not set, or `key` is none of [`Self::SORT_KEYS`].
    pub fn sort_value(&self, key: &str) -> Option<SortValue> {
        match key {
            "uuid" => Some(SortValue::Text(self.uuid.to_string())),
            "address" => text(Some(&self.address)),
            "name" => text(self.name.as_deref()),
            "created_at" => time(Some(self.created_at)),
            "updated_at" => time(self.updated_at),
            "node_uuid" => Some(SortValue::Text(self.node_uuid.to_string())),
            "pxe_enabled" => flag(self.pxe_enabled),
            "physical_network" => text(self.physical_network.as_deref()),
            _ => None,
        }
    }
}

/// The saved flow of a node. Its content belongs to the driver; the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// The node.
    pub node: Uuid,
    /// The flow, as the driver writes it.
    pub document: Value,
}

/// An entry of a node's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// UUID.
    pub uuid: Uuid,
    /// When.
    pub created_at: Timestamp,
    /// `INFO` or `ERROR`.
    pub severity: String,
    /// What kind, such as `transition` or `deploying`.
    pub event_type: String,
    /// What happened, for people.
    pub event: String,
    /// The conductor.
    pub conductor: String,
}

/// What an inspection found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// The inventory.
    pub inventory: Value,
    /// What the hooks made of it.
    pub plugin_data: Value,
}

/// Which nodes. Everything that is set must match.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeFilter {
    /// Provision state.
    pub provision_state: Option<State>,
    /// Whether in maintenance.
    pub maintenance: Option<bool>,
    /// Whether there is an instance.
    pub associated: Option<bool>,
    /// The instance.
    pub instance_uuid: Option<Uuid>,
    /// Hardware type.
    pub driver: Option<String>,
    /// Resource class.
    pub resource_class: Option<String>,
    /// Fault.
    pub fault: Option<String>,
    /// Conductor group.
    pub conductor_group: Option<String>,
    /// Owner.
    pub owner: Option<String>,
    /// Lessee.
    pub lessee: Option<String>,
    /// Whether retired.
    pub retired: Option<bool>,
    /// Part of the description.
    pub description_contains: Option<String>,
    /// Chassis.
    pub chassis_uuid: Option<Uuid>,
    /// One of these shards.
    pub shards: Option<Vec<String>>,
    /// Whether there is a shard.
    pub sharded: Option<bool>,
    /// The node that it is part of.
    pub parent_node: Option<Uuid>,
    /// Whether it is part of another node.
    pub child: Option<bool>,
    /// Name of the instance.
    pub instance_name: Option<String>,
    /// Owner or lessee.
    pub project: Option<String>,
}

/// Which ports. Everything that is set must match.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PortFilter {
    /// The node.
    pub node: Option<Uuid>,
    /// One of these addresses, lower case.
    pub addresses: Option<Vec<String>>,
    /// The portgroup.
    pub portgroup: Option<Uuid>,
    /// Name.
    pub name: Option<String>,
    /// The node has one of these shards.
    pub shards: Option<Vec<String>>,
    /// The node has one of these conductor groups.
    pub conductor_groups: Option<Vec<String>>,
}

/// Direction of a sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortDirection {
    /// Smallest first.
    #[default]
    Ascending,
    /// Largest first.
    Descending,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// At most so many; all when unset.
    pub limit: Option<usize>,
    /// Begin after this one.
    pub marker: Option<Uuid>,
    /// Sort by this field ([`Node::SORT_KEYS`], [`Port::SORT_KEYS`], `RecordKind::sort_keys`), nothing before something, then by UUID; by order
    /// of creation when unset.
    pub sort_key: Option<String>,
    /// Direction.
    pub direction: SortDirection,
}
