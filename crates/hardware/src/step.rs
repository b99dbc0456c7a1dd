//! Steps: the units of work of cleaning, deploying and servicing, as the field names them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The process that a step belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// Preparing a node for its next user.
    Clean,
    /// Installing it.
    Deploy,
    /// Working on it while it has a user.
    Service,
}

impl StepKind {
    /// `clean`, `deploy` or `service`, as in `get_clean_steps`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Deploy => "deploy",
            Self::Service => "service",
        }
    }
}

/// A step, as an agent offers it and as a driver sends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The interface it belongs to: `deploy`, `raid`, `bios`, `management`, `power`, `firmware`, `vendor`, `network`.
    pub interface: String,
    /// Its name, such as `erase_devices_metadata`.
    pub step: String,
    /// Higher runs first; 0 does not run by itself.
    #[serde(default)]
    pub priority: i64,
    /// Arguments of one run.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub args: Map<String, Value>,
    /// What arguments it takes: name → `{description, required}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argsinfo: Option<Value>,
    /// Whether it may be aborted while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abortable: Option<bool>,
    /// Whether the machine has to be rebooted after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_requested: Option<bool>,
    /// Whether it runs in the ramdisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires_ramdisk: Option<bool>,
    /// Whether it is carried out on the nodes that are parts of this one, in place of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execute_on_child_nodes: Option<bool>,
    /// UUIDs of those of them that are meant; all when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limit_child_node_execution: Vec<String>,
}

impl Step {
    /// A step without arguments.
    pub fn new(interface: &str, step: &str, priority: i64) -> Self {
        Self {
            interface: interface.to_owned(),
            step: step.to_owned(),
            priority,
            args: Map::new(),
            argsinfo: None,
            abortable: None,
            reboot_requested: None,
            requires_ramdisk: None,
            execute_on_child_nodes: None,
            limit_child_node_execution: Vec::new(),
        }
    }

    /// Whether `other` is the same step for the purpose of matching a result to its order: interface and name.
    pub fn same_as(&self, other: &Self) -> bool {
        self.interface == other.interface && self.step == other.step
    }
}

/// How far a long piece of work is. The same on every transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, such as `write`.
    pub stage: String,
    /// Units done, bytes for images.
    pub done: u64,
    /// Units in all; `None` while unknown.
    pub total: Option<u64>,
    /// Units a second, recent.
    pub rate: u64,
    /// Seconds left; `None` while unknown.
    pub eta: Option<u64>,
    /// Why nothing moves, when nothing moves.
    pub stalled: Option<String>,
}
