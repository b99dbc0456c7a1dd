//! The agent's REST API: commands, results, errors and documents, as ironic-python-agent 13 writes them.

pub use hardware::Progress;
use hardware::Step;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Version that the agent reports, in `GET /v1/status` and in heartbeats. Ironic compares it with minimum versions of
/// features, so it follows ironic-python-agent's numbering.
pub const AGENT_VERSION: &str = "13.0.0";

/// Body of `POST /v1/commands/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandRequest {
    /// `<extension>.<command>`.
    pub name: String,
    /// Arguments by name.
    pub params: Map<String, Value>,
}

/// State of a command. A peer may know others; they are kept as [`CommandStatus::Other`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum CommandStatus {
    /// It runs.
    Running,
    /// It ended well.
    Succeeded,
    /// It failed; `command_error` says how.
    Failed,
    /// The hardware managers are not those that the driver listed steps of. Used for clean, deploy and service alike.
    VersionMismatch,
    /// Something that this version does not know.
    Other(String),
}

impl From<String> for CommandStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "RUNNING" => Self::Running,
            "SUCCEEDED" => Self::Succeeded,
            "FAILED" => Self::Failed,
            "CLEAN_VERSION_MISMATCH" | "VERSION_MISMATCH" => Self::VersionMismatch,
            _ => Self::Other(text),
        }
    }
}

impl From<CommandStatus> for String {
    fn from(status: CommandStatus) -> Self {
        match status {
            CommandStatus::Running => "RUNNING".to_owned(),
            CommandStatus::Succeeded => "SUCCEEDED".to_owned(),
            CommandStatus::Failed => "FAILED".to_owned(),
            CommandStatus::VersionMismatch => "CLEAN_VERSION_MISMATCH".to_owned(),
            CommandStatus::Other(text) => text,
        }
    }
}

/// A command as the agent reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandResult {
    /// UUID made by the agent.
    pub id: String,
    /// Name without the extension.
    pub command_name: String,
    /// State.
    pub command_status: CommandStatus,
    /// Why it failed.
    pub command_error: Option<CommandError>,
    /// What it returned.
    pub command_result: Option<Value>,
    /// How far a running command is. Ours: peers ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// Body of `GET /v1/commands/`: all commands in the order in which they were given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandList {
    /// The commands.
    pub commands: Vec<CommandResult>,
}

/// An error of the agent, as recorded in a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandError {
    /// Class name of the protocol.
    #[serde(rename = "type")]
    pub class: String,
    /// HTTP code of the class.
    pub code: u16,
    /// Text of the class.
    pub message: String,
    /// What happened.
    pub details: String,
}

/// Body of an HTTP error of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpFault {
    /// `Client` below 500, else `Server`.
    pub faultcode: String,
    /// Text; a driver searches it for substrings.
    pub faultstring: String,
}

impl HttpFault {
    /// The body for a status code.
    pub fn new(code: u16, faultstring: impl Into<String>) -> Self {
        let faultcode = if code < 500 { "Client" } else { "Server" };
        Self { faultcode: faultcode.to_owned(), faultstring: faultstring.into() }
    }
}

/// Result of `get_{clean,deploy,service}_steps`. The key of the steps depends on the kind of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct StepList {
    /// Manager class name → steps.
    pub steps: BTreeMap<String, Vec<Step>>,
    /// Manager name → version.
    pub hardware_manager_version: BTreeMap<String, String>,
}

impl StepList {
    /// The JSON object of the protocol.
    pub fn to_value(&self, kind: hardware::StepKind) -> Value {
        json!({
            format!("{}_steps", kind.as_str()): self.steps,
            "hardware_manager_version": self.hardware_manager_version,
        })
    }

    /// Reads the JSON object of the protocol; both keys are mandatory.
    pub fn from_value(kind: hardware::StepKind, value: &Value) -> Result<Self, String> {
        let key = format!("{}_steps", kind.as_str());
        let read = |key: &str| value.get(key).cloned().ok_or_else(|| format!("key {key} is missing"));
        Ok(Self {
            steps: serde_json::from_value(read(&key)?).map_err(|error| format!("{key}: {error}"))?,
            hardware_manager_version: serde_json::from_value(read("hardware_manager_version")?)
                .map_err(|error| format!("hardware_manager_version: {error}"))?,
        })
    }
}

/// `image_info` of `prepare_image` and `write_image`. Unknown keys are tolerated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Name of the image; the last part of its URL under Ironic.
    pub id: String,
    /// Where it can be had, tried in this order.
    pub urls: Vec<String>,
    /// Hex digest, or the URL of a checksum file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Algorithm of `os_hash_value`, such as `sha256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_hash_algo: Option<String>,
    /// Hex digest; preferred over `checksum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_hash_value: Option<String>,
    /// `raw`, `qcow2`, ….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_format: Option<String>,
    /// Not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_format: Option<String>,
    /// `whole-disk` (also when absent) or `partition`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_type: Option<String>,
    /// Whether raw images are streamed; ours always are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_raw_images: Option<bool>,
    /// The node, for messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uuid: Option<String>,
    /// Config drive; used when the sibling parameter is null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configdrive: Option<String>,
    /// Everything else, as sent.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
