//! What an agent and a driver say to each other on the driver's API: lookup, heartbeat, inspection.

use hardware::Inventory;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Reply to `GET /v1/lookup`, and to an accepted inspection since 1.84.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// The node; secrets are masked. Open-ended but for `uuid`.
    pub node: LookupNode,
    /// Settings for the agent.
    pub config: LookupConfig,
}

/// The node in a lookup reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LookupNode {
    /// UUID of the node.
    pub uuid: String,
    /// `properties`, `instance_info`, `driver_internal_info`, `links`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Settings in a lookup reply. Missing ones keep the agent's own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LookupConfig {
    /// Seconds after which the driver misses a heartbeat.
    #[serde(default)]
    pub heartbeat_timeout: Option<u64>,
    /// A token, `******` when one was given before, or null.
    #[serde(default)]
    pub agent_token: Option<String>,
    /// Whether commands need the token.
    #[serde(default)]
    pub agent_token_required: Option<bool>,
    /// Lowest TLS version of the agent's server, such as `1.3`.
    #[serde(default)]
    pub tls_min_version: Option<String>,
    /// Whether MD5 checksums are accepted.
    #[serde(default)]
    pub agent_md5_checksum_enable: Option<bool>,
    /// Everything else, as sent.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The text that stands for a secret that is not told.
pub const MASK: &str = "******";

/// Body of `POST /v1/heartbeat/<node>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Base URL of the agent's API.
    pub callback_url: String,
    /// [`crate::agent::AGENT_VERSION`]. Since 1.36.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The agent's token. Since 1.62.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_token: Option<String>,
    /// Certificate of the agent's server, PEM. Since 1.68.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_verify_ca: Option<String>,
    /// `start`, `end` or `error`. Since 1.72.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_status: Option<String>,
    /// Text for the status. Since 1.72.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_status_message: Option<String>,
}

/// Body of `POST /v1/continue_inspection`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The inventory.
    pub inventory: Inventory,
    /// The disk that the root device hints choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<hardware::Disk>,
    /// The interface booted from, in the form of `BOOTIF`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_interface: Option<String>,
    /// Collectors and managers that took part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Value>,
    /// What went wrong while collecting.
    #[serde(default)]
    pub error: Option<String>,
    /// Logs: base64 of a gzipped tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<String>,
}
