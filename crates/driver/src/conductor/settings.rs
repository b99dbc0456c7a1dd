//! What a conductor is started with.

use crate::agents::Agents;
use crate::agents::rest::RestAgents;
use crate::effect::Machines;
use crate::effect::cmdline::Parameters;
use crate::effect::machines::HardwareMachines;
use crate::effect::media::MediaSettings;
use jiff::Timestamp;
use lifecycle::provision::Deadlines;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// Interfaces that become ports.
    pub add_ports: AddPorts,
    /// How often a running command is asked for its progress.
    pub poll_interval: Duration,
    /// How long an agent may take to shut its machine down before power is cut.
    pub soft_power_off_timeout: Duration,
    /// How often a BMC call that was not answered is made.
    pub bmc_attempts: u32,
}

impl Settings {
    /// Defaults for everything that has one. `agent_url`: base URL of the driver as agents and BMCs reach it.
    pub fn new(hostname: impl Into<String>, data_dir: impl Into<PathBuf>, agent_url: &str) -> Self {
        Self {
            hostname: hostname.into(),
            media: MediaSettings {
                ramdisk_dir: None,
                data_dir: data_dir.into(),
                agent_url: agent_url.trim_end_matches('/').to_owned(),
                kernel_append_params: Parameters::default(),
            },
            require_tls: true,
            restrict_lookup: true,
            automated_clean: true,
            heartbeat_timeout: 300,
            deadlines: Deadlines::default(),
            clean_step_priorities: BTreeMap::new(),
            add_ports: AddPorts::default(),
            poll_interval: Duration::from_secs(1),
            soft_power_off_timeout: Duration::from_secs(30),
            bmc_attempts: 5,
        }
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
