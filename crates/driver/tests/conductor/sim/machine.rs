//! The machine: power, a drive for virtual media, a disk, and what boots on it.

use super::agent::AgentState;
use super::{Fuse, SimConductor};
use driver::effect::machines::HardwareMachines;
use driver::effect::{Machines, OutOfBand};
use futures::future::BoxFuture;
use hardware::{BootDevice, OutOfBandError, PowerState};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use store::Node;
use uuid::Uuid;

/// What a machine booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Booted {
    Ramdisk,
    Disk,
    Nothing,
}

pub(crate) struct State {
    pub(crate) power: PowerState,
    /// Grows with every change of power; whatever belongs to another boot is gone.
    pub(crate) boot: u64,
    pub(crate) device: BootDevice,
    pub(crate) media: Option<PathBuf>,
    pub(crate) booted: Vec<Booted>,
    pub(crate) image_written: bool,
    pub(crate) image_writes: u32,
    pub(crate) steps_run: Vec<String>,
    pub(crate) agent: Option<AgentState>,
    /// The ramdisk never comes up.
    pub(crate) dead: bool,
    /// Steps that fail, and what they say.
    pub(crate) failing: Option<(String, String)>,
    /// Steps that return something, and what.
    pub(crate) results: Vec<(String, serde_json::Value)>,
    /// The node whose BMC takes calls and never answers.
    pub(crate) hangs: Option<Uuid>,
    /// The operating system does not shut down when it is asked to.
    pub(crate) deaf: bool,
    /// What the agent offers for service.
    pub(crate) service_steps: serde_json::Value,
    /// Passwords for rescue that the agent took.
    pub(crate) rescued: Vec<String>,
    /// The BMC does not answer so many times.
    pub(crate) bmc_down: u32,
    /// Requests that the agent got, as JSON text, to look for what must not be in them.
    pub(crate) requests: Vec<String>,
    /// What the agent offers.
    pub(crate) clean_steps: serde_json::Value,
    /// Version of the agent's managers.
    pub(crate) manager_version: String,
    /// How long a step takes, seconds.
    pub(crate) step_seconds: u64,
}

pub(crate) struct Machine {
    state: Mutex<State>,
    folder: PathBuf,
    conductor: Mutex<Weak<SimConductor>>,
    me: Weak<Machine>,
}

impl Machine {
    pub(crate) fn new(folder: &Path) -> Arc<Self> {
        let state = State {
            power: PowerState::On,
            boot: 0,
            device: BootDevice::Disk,
            media: None,
            booted: Vec::new(),
            image_written: false,
            image_writes: 0,
            steps_run: Vec::new(),
            agent: None,
            dead: false,
            failing: None,
            results: Vec::new(),
            hangs: None,
            deaf: false,
            service_steps: serde_json::json!({"GenericHardwareManager": [
                {"step": "burnin_cpu", "interface": "deploy", "priority": 0, "abortable": true},
                {"step": "apply_configuration", "interface": "raid", "priority": 0, "argsinfo": {
                    "raid_config": {"description": "what to build", "required": true},
                    "delete_existing": {"description": "whether to delete", "required": false},
                }},
                {"step": "flash", "interface": "firmware", "priority": 0, "reboot_requested": true},
            ]}),
            rescued: Vec::new(),
            bmc_down: 0,
            requests: Vec::new(),
            clean_steps: serde_json::json!({"GenericHardwareManager": [
                {"step": "erase_devices", "interface": "deploy", "priority": 10, "abortable": true},
                {"step": "erase_devices_metadata", "interface": "deploy", "priority": 99, "abortable": true},
                {"step": "erase_pstore", "interface": "deploy", "priority": 0, "abortable": true},
            ]}),
            manager_version: "1.2".to_owned(),
            step_seconds: 60,
        };
        Arc::new_cyclic(|me| Self {
            state: Mutex::new(state),
            folder: folder.to_owned(),
            conductor: Mutex::new(Weak::new()),
            me: me.clone(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set_conductor(&self, conductor: &Arc<SimConductor>) {
        *self.conductor.lock().unwrap() = Arc::downgrade(conductor);
    }

    pub(crate) fn conductor(&self) -> Option<Arc<SimConductor>> {
        self.conductor.lock().unwrap().upgrade()
    }

    pub(crate) fn forget_history(&self) {
        let mut state = self.lock();
        state.booted.clear();
        state.steps_run.clear();
        state.image_writes = 0;
    }

    pub(crate) fn switch(&self, power: PowerState) {
        let mut state = self.lock();
        if state.power == power {
            return;
        }
        state.power = power;
        state.boot += 1;
        state.agent = None;
        if power == PowerState::Off {
            return;
        }
        let media = state.media.clone().filter(|_| state.device == BootDevice::Cdrom);
        // What a command line says is all that a ramdisk knows.
        let line = match state.device {
            BootDevice::Pxe => Some("console=ttyS0 ipa-api-url=http://192.0.2.1:6385".to_owned()),
            BootDevice::Disk | BootDevice::Cdrom => media.and_then(|file| command_line(&std::fs::read(file).ok()?)),
        };
        let booted = match (&line, state.image_written) {
            (Some(_), _) => Booted::Ramdisk,
            (None, true) => Booted::Disk,
            (None, false) => Booted::Nothing,
        };
        state.booted.push(booted);
        if let Some(line) = line.filter(|_| !state.dead)
            && let Some(me) = self.me.upgrade()
        {
            state.agent = Some(AgentState::new(&line));
            tokio::spawn(super::agent::boot(me, state.boot));
        }
    }

    fn file_of(&self, url: &str) -> Option<PathBuf> {
        driver::effect::media::file_of(&self.folder, url.split_once("/boot/")?.1)
    }
}

/// The command line in an ISO image.
fn command_line(iso: &[u8]) -> Option<String> {
    let start = iso.windows(14).position(|window| window == b"console=ttyS0 ")?;
    let end = iso[start..].iter().position(|byte| *byte == 0)?;
    String::from_utf8(iso[start..start + end].to_vec()).ok()
}

/// Finds the machine, whatever the node.
pub(crate) struct SimMachines {
    pub(crate) machine: Arc<Machine>,
    pub(crate) fuse: Arc<Fuse>,
}

struct Bmc {
    node: Uuid,
    machine: Arc<Machine>,
    fuse: Arc<Fuse>,
}

impl Machines for SimMachines {
    fn of<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, Result<Arc<dyn OutOfBand>, OutOfBandError>> {
        let bmc = Bmc { node: node.uuid, machine: self.machine.clone(), fuse: self.fuse.clone() };
        Box::pin(async move {
            // There is one machine; parts of its node have none.
            match node.attributes.get("parent_node") {
                Some(Value::String(_)) => HardwareMachines::new().of(node).await,
                _ => Ok(Arc::new(bmc) as Arc<dyn OutOfBand>),
            }
        })
    }

    fn release(&self, _node: Uuid) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl Bmc {
    async fn call<T>(&self, what: &str, effect: impl FnOnce(&Machine) -> T) -> Result<T, OutOfBandError> {
        self.fuse.tick(&format!("before {what}")).await;
        if self.machine.lock().hangs == Some(self.node) {
            std::future::pending::<()>().await;
        }
        {
            let mut state = self.machine.lock();
            if state.bmc_down > 0 {
                state.bmc_down -= 1;
                return Err(OutOfBandError::Unreachable("the BMC does not answer".to_owned()));
            }
        }
        let value = effect(&self.machine);
        self.fuse.tick(&format!("after {what}")).await;
        Ok(value)
    }
}

impl OutOfBand for Bmc {
    fn power_state(&self) -> BoxFuture<'_, Result<PowerState, OutOfBandError>> {
        Box::pin(self.call("power_state", |machine| machine.lock().power))
    }

    fn set_power(&self, power: PowerState) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(self.call("set_power", move |machine| machine.switch(power)))
    }

    fn shut_down(&self, within: Duration) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(async move {
            let deaf = self.call("shut_down", |machine| machine.lock().deaf).await?;
            if deaf {
                tokio::time::sleep(within).await;
                return Err(OutOfBandError::Failed(format!("power was still on after {} s", within.as_secs())));
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.machine.switch(PowerState::Off);
            Ok(())
        })
    }

    fn boot_device(&self) -> BoxFuture<'_, Result<Option<(BootDevice, bool)>, OutOfBandError>> {
        Box::pin(self.call("boot_device", |machine| Some((machine.lock().device, true))))
    }

    fn set_boot_device(&self, device: BootDevice, _persistent: bool) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(self.call("set_boot_device", move |machine| machine.lock().device = device))
    }

    fn insert(&self, url: &str) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        let url = url.to_owned();
        Box::pin(self.call("insert", move |machine| {
            let file = machine.file_of(&url);
            machine.lock().media = file;
        }))
    }

    fn eject(&self) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(self.call("eject", |machine| {
            let mut state = machine.lock();
            state.media = None;
            state.device = BootDevice::Disk;
        }))
    }
}
