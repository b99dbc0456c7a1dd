//! What came with which microversion. The one place: fields of nodes and ports, list filters, and facets of behaviour.
//! Routes carry theirs in [`super::routes`], verbs in [`lifecycle::provision::Verb::since`].
//! Source: Ironic 39 REST API version history, and `VERSIONED_FIELDS` of its API.

use serde_json::{Map, Value};
use wire::ironic::Version;

/// A field of a document, its shape in a request, and the version that brought it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) since: u16,
    /// Its shape when it is written at creation; unset when it cannot be.
    pub(super) create: Option<Kind>,
    /// Its shape when it is patched; unset when it cannot be.
    pub(super) patch: Option<Kind>,
}

/// What a value has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A text that must be there.
    Required,
    /// A text of at most so many characters, or null.
    Text(usize),
    /// True or false (or a text that says so), or null.
    Flag,
    /// An object, or null.
    Object,
    /// A UUID, or null.
    Uuid,
    /// A UUID that must be there.
    RequiredUuid,
    /// A MAC address.
    Mac,
    /// A MAC address, or null.
    OptionalMac,
    /// A name, or null.
    Name,
    /// A name of anything but a node, or null.
    LogicalName,
    /// A whole number, or null.
    Integer,
    /// A whole number that must be there.
    RequiredInteger,
    /// A list, or null.
    List,
    /// A list of at least one entry that must be there.
    RequiredList,
    /// A list of texts, or null.
    Texts,
}

impl Kind {
    /// Whether it must be there.
    pub(super) fn is_required(self) -> bool {
        matches!(self, Self::Required | Self::RequiredUuid | Self::Mac | Self::RequiredInteger | Self::RequiredList)
    }

    /// Whether it has parts that a patch can reach.
    pub(super) fn has_parts(self) -> bool {
        matches!(self, Self::Object | Self::List | Self::RequiredList | Self::Texts)
    }

    /// What is served when nothing is set.
    pub(super) fn empty(self) -> Value {
        match self {
            Self::Object => Value::Object(Map::new()),
            Self::List | Self::RequiredList | Self::Texts => Value::Array(Vec::new()),
            Self::Required
            | Self::Text(_)
            | Self::Flag
            | Self::Uuid
            | Self::RequiredUuid
            | Self::Mac
            | Self::OptionalMac
            | Self::Name
            | Self::LogicalName
            | Self::Integer
            | Self::RequiredInteger => Value::Null,
        }
    }
}

const ANY: Kind = Kind::Text(255);

/// Only served.
const fn served(name: &'static str, since: u16) -> Field {
    Field { name, since, create: None, patch: None }
}

/// Served, set at creation and patched.
const fn field(name: &'static str, since: u16, kind: Kind) -> Field {
    Field { name, since, create: Some(kind), patch: Some(kind) }
}

/// Fields of a node, in the order of Ironic's documents.
pub(super) const NODE_FIELDS: &[Field] = &[
    Field { name: "uuid", since: 1, create: Some(Kind::Uuid), patch: None },
    served("created_at", 1),
    served("updated_at", 1),
    field("automated_clean", 47, Kind::Flag),
    field("bios_interface", 40, ANY),
    field("boot_interface", 31, ANY),
    served("boot_mode", 75),
    served("clean_step", 7),
    field("conductor_group", 46, ANY),
    served("console_enabled", 1),
    field("console_interface", 31, ANY),
    field("disable_power_off", 95, Kind::Flag),
    field("deploy_interface", 31, ANY),
    served("deploy_step", 44),
    field("description", 51, Kind::Text(4096)),
    field("driver", 1, Kind::Required),
    field("driver_info", 1, Kind::Object),
    served("driver_internal_info", 3),
    field("extra", 1, Kind::Object),
    served("fault", 42),
    field("firmware_interface", 86, ANY),
    served("health", 109),
    served("inspection_finished_at", 6),
    served("inspection_started_at", 6),
    field("inspect_interface", 31, ANY),
    field("instance_info", 1, Kind::Object),
    field("instance_name", 104, ANY),
    field("instance_uuid", 1, Kind::Uuid),
    served("last_error", 1),
    field("lessee", 65, ANY),
    field("maintenance", 1, Kind::Flag),
    served("maintenance_reason", 1),
    field("management_interface", 31, ANY),
    field("name", 5, Kind::Name),
    field("network_data", 66, Kind::Object),
    field("network_interface", 20, ANY),
    field("owner", 50, ANY),
    field("parent_node", 83, Kind::Text(36)),
    field("power_interface", 31, ANY),
    served("power_state", 1),
    field("properties", 1, Kind::Object),
    Field { name: "protected", since: 48, create: None, patch: Some(Kind::Flag) },
    Field { name: "protected_reason", since: 48, create: None, patch: Some(ANY) },
    served("provision_state", 1),
    served("provision_updated_at", 1),
    served("raid_config", 12),
    field("raid_interface", 31, ANY),
    field("rescue_interface", 38, ANY),
    served("reservation", 1),
    field("resource_class", 21, Kind::Text(80)),
    field("retired", 61, Kind::Flag),
    field("retired_reason", 61, ANY),
    served("secure_boot", 75),
    served("service_step", 87),
    field("shard", 82, ANY),
    field("storage_interface", 33, ANY),
    served("target_power_state", 1),
    served("target_provision_state", 1),
    served("target_raid_config", 12),
    served("traits", 37),
    field("vendor_interface", 31, ANY),
    served("links", 1),
    served("conductor", 49),
    served("allocation_uuid", 52),
    field("chassis_uuid", 1, Kind::Uuid),
    served("ports", 1),
    served("states", 14),
    served("portgroups", 24),
    served("volume", 32),
];

/// Fields of a port.
pub(super) const PORT_FIELDS: &[Field] = &[
    Field { name: "uuid", since: 1, create: Some(Kind::Uuid), patch: None },
    served("created_at", 1),
    served("updated_at", 1),
    field("address", 1, Kind::Mac),
    field("extra", 1, Kind::Object),
    served("internal_info", 18),
    field("is_smartnic", 53, Kind::Flag),
    field("local_link_connection", 19, Kind::Object),
    field("physical_network", 34, Kind::Text(64)),
    field("pxe_enabled", 19, Kind::Flag),
    field("node_uuid", 1, Kind::Uuid),
    field("name", 88, ANY),
    field("description", 97, ANY),
    field("vendor", 100, Kind::Text(32)),
    field("category", 101, Kind::Text(80)),
    field("available_for_dynamic_portgroup", 111, Kind::Flag),
    field("portgroup_uuid", 24, Kind::Uuid),
    served("links", 1),
];

/// Every record's.
const UUID: Field = Field { name: "uuid", since: 1, create: Some(Kind::Uuid), patch: None };
const CREATED_AT: Field = served("created_at", 1);
const UPDATED_AT: Field = served("updated_at", 1);
const LINKS: Field = served("links", 1);
const EXTRA: Field = field("extra", 1, Kind::Object);
const NODE_UUID: Field = field("node_uuid", 1, Kind::RequiredUuid);

/// Only set at creation.
const fn made(name: &'static str, since: u16, kind: Kind) -> Field {
    Field { name, since, create: Some(kind), patch: None }
}

/// Fields of a chassis.
pub(super) const CHASSIS_FIELDS: &[Field] =
    &[UUID, CREATED_AT, UPDATED_AT, field("description", 1, ANY), EXTRA, LINKS, served("nodes", 1)];

/// Fields of a portgroup.
pub(super) const PORTGROUP_FIELDS: &[Field] = &[
    UUID,
    CREATED_AT,
    UPDATED_AT,
    field("address", 1, Kind::OptionalMac),
    EXTRA,
    served("internal_info", 1),
    field("mode", 26, ANY),
    field("name", 1, Kind::LogicalName),
    field("properties", 26, Kind::Object),
    field("standalone_ports_supported", 1, Kind::Flag),
    NODE_UUID,
    field("physical_network", 102, Kind::Text(64)),
    field("category", 103, Kind::Text(80)),
    served("dynamic_portgroup", 111),
    LINKS,
    served("ports", 1),
];

/// Fields of an allocation.
pub(super) const ALLOCATION_FIELDS: &[Field] = &[
    UUID,
    CREATED_AT,
    UPDATED_AT,
    made("candidate_nodes", 1, Kind::Texts),
    EXTRA,
    served("last_error", 1),
    field("name", 1, Kind::LogicalName),
    made("owner", 60, ANY),
    made("resource_class", 1, Kind::Text(80)),
    served("state", 1),
    made("traits", 1, Kind::Texts),
    served("node_uuid", 1),
    LINKS,
];

/// Fields of a deploy template.
pub(super) const DEPLOY_TEMPLATE_FIELDS: &[Field] = &[
    UUID,
    CREATED_AT,
    UPDATED_AT,
    field("name", 1, Kind::Required),
    EXTRA,
    field("steps", 1, Kind::RequiredList),
    LINKS,
];

/// Fields of a runbook.
pub(super) const RUNBOOK_FIELDS: &[Field] = &[
    UUID,
    CREATED_AT,
    UPDATED_AT,
    field("name", 1, Kind::Required),
    field("description", 112, ANY),
    field("disable_ramdisk", 1, Kind::Flag),
    EXTRA,
    field("owner", 1, ANY),
    field("public", 1, Kind::Flag),
    field("steps", 1, Kind::RequiredList),
    served("traits", 112),
    LINKS,
];

/// Fields of an inspection rule.
pub(super) const INSPECTION_RULE_FIELDS: &[Field] = &[
    UUID,
    CREATED_AT,
    UPDATED_AT,
    field("actions", 1, Kind::RequiredList),
    field("conditions", 1, Kind::List),
    field("description", 1, ANY),
    field("phase", 1, ANY),
    field("priority", 1, Kind::Integer),
    field("sensitive", 1, Kind::Flag),
    LINKS,
];

/// Fields of a volume connector.
pub(super) const VOLUME_CONNECTOR_FIELDS: &[Field] = &[
    UUID,
    CREATED_AT,
    UPDATED_AT,
    field("connector_id", 1, Kind::Required),
    EXTRA,
    field("type", 1, Kind::Required),
    NODE_UUID,
    LINKS,
];

/// Fields of a volume target.
pub(super) const VOLUME_TARGET_FIELDS: &[Field] = &[
    UUID,
    CREATED_AT,
    UPDATED_AT,
    field("boot_index", 1, Kind::RequiredInteger),
    EXTRA,
    field("properties", 1, Kind::Object),
    field("volume_id", 1, Kind::Required),
    field("volume_type", 1, Kind::Required),
    NODE_UUID,
    LINKS,
];

/// Filters of the list of nodes.
pub(super) const NODE_FILTERS: &[(&str, u16)] = &[
    ("instance_uuid", 1),
    ("associated", 1),
    ("maintenance", 1),
    ("provision_state", 9),
    ("driver", 16),
    ("resource_class", 21),
    ("fault", 42),
    ("conductor_group", 46),
    ("owner", 50),
    ("description_contains", 51),
    ("retired", 61),
    ("lessee", 65),
    ("project", 65),
    ("shard", 82),
    ("sharded", 82),
    ("parent_node", 83),
    ("include_children", 83),
    ("instance_name", 104),
    ("chassis_uuid", 1),
];

/// Filters of the list of ports, besides node, portgroup and address.
pub(super) const PORT_FILTERS: &[(&str, u16)] = &[("shard", SHARDS), ("name", 88), ("conductor_groups", 99)];

/// Whether `version` has what came with `1.since`.
pub(super) fn has(version: Version, since: u16) -> bool {
    version.0 >= since
}

/// The field of that name.
pub(super) fn find<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    fields.iter().find(|field| field.name == name)
}

/// A provision state `available` is named so (null before).
pub(super) const AVAILABLE: u16 = 2;
/// Nodes are addressed by name.
pub(super) const NODE_NAMES: u16 = 5;
/// `fields` of a request.
pub(super) const FIELDS: u16 = 8;
/// New nodes start in `enroll`.
pub(super) const ENROLL: u16 = 11;
/// Lookup and heartbeat.
pub(super) const RAMDISK: u16 = 22;
/// Portgroups.
pub(super) const PORTGROUPS: u16 = 23;
/// Ports are listed by their portgroup, portgroups by their node.
pub(super) const PORTGROUP_MEMBERS: u16 = 24;
/// Since then `.json` at the end of a path belongs to the name.
pub(super) const DOT_JSON: u16 = 91;
/// Volumes.
pub(super) const VOLUMES: u16 = 32;
/// Allocations.
pub(super) const ALLOCATIONS: u16 = 52;
/// Deploy templates.
pub(super) const DEPLOY_TEMPLATES: u16 = 55;
/// Names and other fields of allocations are patched.
pub(super) const ALLOCATION_PATCH: u16 = 57;
/// An allocation of a node that has an instance already.
pub(super) const ALLOCATION_BACKFILL: u16 = 58;
/// Shards.
pub(super) const SHARDS: u16 = 82;
/// Runbooks.
pub(super) const RUNBOOKS: u16 = 92;
/// Inspection rules.
pub(super) const INSPECTION_RULES: u16 = 96;
/// Traits, descriptions and free names of runbooks.
pub(super) const RUNBOOK_TRAITS: u16 = 112;
/// Soft power actions and their timeout.
pub(super) const SOFT_POWER: u16 = 27;
/// Hardware types: `type`, `detail`, default and enabled interfaces of drivers.
pub(super) const DYNAMIC_DRIVERS: u16 = 30;
/// `configdrive` of a rebuild.
pub(super) const REBUILD_CONFIGDRIVE: u16 = 35;
/// `agent_version` of a heartbeat.
pub(super) const AGENT_VERSION: u16 = 36;
/// A provision state `inspect wait` is named so (`inspecting` before).
pub(super) const INSPECT_WAIT: u16 = 39;
/// `abort` in `inspect wait`.
pub(super) const ABORT_INSPECT: u16 = 41;
/// `detail` of a list.
pub(super) const DETAIL: u16 = 43;
/// `reset_interfaces` of a patch.
pub(super) const RESET_INTERFACES: u16 = 45;
/// Nodes are listed by their conductor.
pub(super) const NODE_CONDUCTOR: u16 = 49;
/// `configdrive` as an object.
pub(super) const CONFIGDRIVE_OBJECT: u16 = 56;
/// `vendor_data` of a config drive.
pub(super) const VENDOR_DATA: u16 = 59;
/// Tokens of agents.
pub(super) const AGENT_TOKEN: u16 = 62;
/// `agent_verify_ca` of a heartbeat.
pub(super) const AGENT_VERIFY_CA: u16 = 68;
/// `port_uuid` and `portgroup_uuid` of a VIF.
pub(super) const VIF_PORTS: u16 = 67;
/// `detail` and `fields` of BIOS settings.
pub(super) const BIOS_FIELDS: u16 = 74;
/// Vendor, model and serial number of firmware components.
pub(super) const FIRMWARE_IDENTITY: u16 = 114;
/// `deploy_steps` of a deploy.
pub(super) const DEPLOY_STEPS: u16 = 69;
/// `disable_ramdisk` of `clean`.
pub(super) const DISABLE_RAMDISK: u16 = 70;
/// `agent_status` of a heartbeat.
pub(super) const AGENT_STATUS: u16 = 72;
/// Boot mode and secure boot among the states.
pub(super) const BOOT_MODE: u16 = 75;
/// `fields` of drivers.
pub(super) const DRIVER_FIELDS: u16 = 77;
/// Inspection data are taken in; 1.1 as well, for agents that send no version.
pub(super) const CONTINUE_INSPECTION: u16 = 84;
/// `node_ident` of ports.
pub(super) const PORT_NODE_IDENT: u16 = 94;
/// `disable_ramdisk` of `service`.
pub(super) const SERVICE_DISABLE_RAMDISK: u16 = 108;
/// `abort` in `wait call-back`.
pub(super) const ABORT_DEPLOY: u16 = 110;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_every_field_is_reviewed() {
        let lines = |fields: &[Field]| {
            let line = |field: &Field| {
                format!("{:33} 1.{:<4} create {:?}, patch {:?}\n", field.name, field.since, field.create, field.patch)
            };
            fields.iter().map(line).collect::<String>()
        };
        let tables = [
            ("nodes", NODE_FIELDS),
            ("ports", PORT_FIELDS),
            ("chassis", CHASSIS_FIELDS),
            ("portgroups", PORTGROUP_FIELDS),
            ("allocations", ALLOCATION_FIELDS),
            ("deploy templates", DEPLOY_TEMPLATE_FIELDS),
            ("runbooks", RUNBOOK_FIELDS),
            ("inspection rules", INSPECTION_RULE_FIELDS),
            ("volume connectors", VOLUME_CONNECTOR_FIELDS),
            ("volume targets", VOLUME_TARGET_FIELDS),
        ];
        let text: Vec<String> = tables.iter().map(|(name, fields)| format!("{name}\n{}", lines(fields))).collect();
        insta::assert_snapshot!(text.join("\n"));
    }
}
