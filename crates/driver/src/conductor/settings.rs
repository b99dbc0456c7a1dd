//! What a conductor is started with.

use super::ramdisk::KeepLogs;
use super::waits::last_heartbeat;
use crate::agents::Agents;
use crate::agents::rest::RestAgents;
use crate::effect::Machines;
use crate::effect::cd::Cds;
use crate::effect::cmdline::Parameters;
use crate::effect::machines::{HardwareMachines, POWER_ON};
use crate::effect::media::MediaSettings;
use crate::flow::Fast;
use crate::hardware_type::Enabled;
use crate::rules::Rule;
use jiff::Timestamp;
use lifecycle::provision::Deadlines;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Node;
use wire::session::Offer;

/// Which interfaces become ports when a node is inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddPorts {
    /// The one that was booted from; all with an address when that is not known.
    #[default]
    Pxe,
    /// Those with an address.
    Active,
    /// All.
    All,
    /// None.
    Disabled,
}

/// Settings of a conductor.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name under which it owns nodes.
    pub hostname: String,
    /// The hardware types and interfaces that nodes may have.
    pub hardware: Enabled,
    /// Ramdisk, folders and the URL under which agents and BMCs reach the driver.
    pub media: MediaSettings,
    /// Whether agents have to serve TLS.
    pub require_tls: bool,
    /// Whether agents find their node only while something is done to it.
    pub restrict_lookup: bool,
    /// Whether nodes are cleaned before they become available, unless a node says otherwise.
    pub automated_clean: bool,
    /// Seconds after which an agent's heartbeat is missed; agents send them at a third to two thirds of it.
    pub heartbeat_timeout: u64,
    /// Limits of waiting and working states.
    pub deadlines: Deadlines,
    /// Priorities of automated cleaning, by `interface.step` or name of the step; 0 turns a step off.
    pub clean_step_priorities: BTreeMap<String, i64>,
    /// Inspection rules of the site, besides those of the API.
    pub inspection_rules: Vec<Rule>,
    /// Interfaces that become ports.
    pub add_ports: AddPorts,
    /// How often a running command is asked for its progress.
    pub poll_interval: Duration,
    /// How long an agent may take to shut its machine down before power is cut.
    pub agent_power_off_timeout: Duration,
    /// How long an operating system may take to shut down when a soft power off asks for it.
    pub soft_power_off_timeout: Duration,
    /// Whether a ramdisk stays after inspection and cleaning and is used by the next flow, unless a node says otherwise.
    pub fast_track: bool,
    /// After how long without a heartbeat an agent is not used for that.
    pub fast_track_timeout: Duration,
    /// When the logs of a ramdisk are kept.
    pub keep_logs: KeepLogs,
    /// Where.
    pub logs_dir: PathBuf,
    /// The file of the key that signs erasures; made where there is none.
    pub erasure_key: PathBuf,
    /// Where agents may dial in; not at all when unset.
    pub session: Option<Offer>,
    /// Most nodes that are deployed at once.
    pub max_concurrent_deploy: usize,
    /// Most nodes that are cleaned at once.
    pub max_concurrent_clean: usize,
    /// How often the power state of each node is read; zero for never.
    pub sync_power_state_interval: Duration,
    /// How often in a row it may not be readable before the node is set aside.
    pub power_state_sync_max_retries: u32,
    /// Whether a machine that is not in its recorded state is switched back; otherwise what it is in is recorded.
    pub force_power_state_during_sync: bool,
    /// How often a node that was set aside for this is tried again.
    pub power_failure_recovery_interval: Duration,
    /// How often a BMC call that was not answered is made.
    pub bmc_attempts: u32,
}

impl Settings {
    /// Defaults for everything that has one. `agent_url`: base URL of the driver as agents and BMCs reach it.
    pub fn new(hostname: impl Into<String>, data_dir: impl Into<PathBuf>, agent_url: &str) -> Self {
        let data_dir = data_dir.into();
        let logs_dir = data_dir.join("logs");
        let erasure_key = data_dir.join("erasure-key.pem");
        Self {
            hostname: hostname.into(),
            hardware: Enabled::default(),
            media: MediaSettings {
                ramdisk_dir: None,
                rescue_ramdisk_dir: None,
                data_dir,
                agent_url: agent_url.trim_end_matches('/').to_owned(),
                kernel_append_params: Parameters::default(),
                cds: Cds::default(),
            },
            require_tls: true,
            restrict_lookup: true,
            automated_clean: true,
            heartbeat_timeout: 300,
            deadlines: Deadlines::default(),
            clean_step_priorities: BTreeMap::new(),
            inspection_rules: Vec::new(),
            add_ports: AddPorts::default(),
            poll_interval: Duration::from_secs(1),
            agent_power_off_timeout: Duration::from_secs(30),
            soft_power_off_timeout: Duration::from_secs(600),
            fast_track: false,
            fast_track_timeout: Duration::from_secs(300),
            keep_logs: KeepLogs::default(),
            logs_dir,
            erasure_key,
            session: None,
            max_concurrent_deploy: 250,
            max_concurrent_clean: 50,
            sync_power_state_interval: Duration::from_secs(120),
            power_state_sync_max_retries: 3,
            force_power_state_during_sync: true,
            power_failure_recovery_interval: Duration::from_secs(300),
            bmc_attempts: 5,
        }
    }
}

impl Settings {
    /// Whether the node may keep its ramdisk between two flows: as it says itself in `driver_info`, else as the site.
    pub(super) fn fast_track_of(&self, node: &Node) -> bool {
        match node.driver_info.get("fast_track") {
            Some(Value::Bool(on)) => *on,
            Some(Value::String(text)) => matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"),
            _ => self.fast_track,
        }
    }

    /// Whether the agent that runs on the node stays when its flow has ended well.
    pub(super) fn may_stay(&self, node: &Node) -> bool {
        self.fast_track_of(node)
            && node.power_state.as_deref() == Some(POWER_ON)
            && node.driver_internal_info.contains_key("agent_secret_token")
    }

    /// Fast track for a flow that begins now: as in Ironic, an agent is used when the power is on, it was heard of not
    /// long ago, and nothing has failed since.
    pub(super) fn fast(&self, node: &Node, now: Timestamp) -> Fast {
        let heard =
            last_heartbeat(node).is_some_and(|last| now.duration_since(last).unsigned_abs() < self.fast_track_timeout);
        let reachable = node.driver_internal_info.contains_key("agent_url");
        let agent_runs = self.may_stay(node) && reachable && heard && node.last_error.is_none();
        Fast { track: self.fast_track_of(node), agent_runs }
    }
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// What a conductor reaches the world with.
#[derive(Clone)]
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Machines from outside.
    pub machines: Arc<dyn Machines>,
    /// Agents.
    pub agents: Arc<dyn Agents>,
}

impl Parts {
    /// The real ones.
    pub fn real() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            machines: Arc::new(HardwareMachines::new()),
            agents: Arc::new(RestAgents::default()),
        }
    }
}
