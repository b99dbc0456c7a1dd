//! The machine: power, a drive for virtual media, a disk, and what boots on it.

use super::agent::AgentState;
use super::{Fuse, SimConductor};
use driver::effect::machines::HardwareMachines;
use driver::effect::{Differences, Machines, OutOfBand};
use futures::future::BoxFuture;
use hardware::{
    BiosDifference, BiosSetting, BiosValues, BootDevice, FirmwareComponent, FirmwareUpdate, OutOfBandError, PowerState,
    StagedBios, UpdateState,
};
use serde_json::Value;
use std::collections::BTreeMap;
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
    /// Settings of the firmware, and what they become at the next start.
    pub(crate) bios: BiosValues,
    pub(crate) bios_pending: BiosValues,
    /// Changes of settings that were asked for.
    pub(crate) bios_changes: u32,
    /// The firmware forgets what it was to change.
    pub(crate) bios_forgets: bool,
    /// Where a change of settings can be followed.
    pub(crate) bios_task: Option<String>,
    /// Parts whose versions are not told.
    pub(crate) silent: Vec<String>,
    /// Updates have no task.
    pub(crate) tells_no_task: bool,
    /// Nothing more is taken while something waits for the next start.
    pub(crate) takes_one: bool,
    /// The next start with new firmware loses the settings that were to change.
    pub(crate) updates_lose_settings: bool,
    /// Beginnings of updates that are refused, from now on.
    pub(crate) refuses_updates: u32,
    /// Parts of which the next beginning of an update is refused.
    pub(crate) refused_parts: Vec<String>,
    /// Versions of firmware by component, and what they become at the next start.
    pub(crate) firmware: BTreeMap<String, String>,
    pub(crate) firmware_staged: BTreeMap<String, String>,
    /// Components and URLs of updates that were begun.
    pub(crate) updates: Vec<String>,
    /// What tasks of updates say, in this order; the last one stays.
    pub(crate) tasks: Vec<UpdateState>,
    /// The tasks that the BMC lists; a BMC without such a list when unset.
    pub(crate) listed: Option<Vec<String>>,
    /// The answer to so many beginnings of updates is lost.
    pub(crate) loses_answers: u32,
    /// Steps that return something, and what.
    pub(crate) results: Vec<(String, serde_json::Value)>,
    /// The node whose BMC takes calls and never answers.
    pub(crate) hangs: Option<Uuid>,
    /// The operating system does not shut down when it is asked to.
    pub(crate) deaf: bool,
    /// What the agent offers for service.
    pub(crate) service_steps: serde_json::Value,
    /// Calls to the agent that do not get there, from now on.
    pub(crate) unreached: u32,
    /// Passwords for rescue that the agent took.
    pub(crate) rescued: Vec<String>,
    /// Public keys for rescue that its last look-up told.
    pub(crate) rescue_keys: Value,
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
    /// The BMC tells what settings are after a reset.
    pub(crate) tells_defaults: bool,
    /// Versions stay as they are, whatever the BMC says of updates.
    pub(crate) keeps_versions: bool,
    /// Seconds that a command takes to stop; an agent that knows no such request when unset.
    pub(crate) stops_within: Option<u64>,
    /// Ids of commands that were to stop.
    pub(crate) cancelled: Vec<String>,
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
            bios: values(serde_json::json!({"ProcVirtualization": "Disabled", "QuietBoot": true})),
            bios_pending: BiosValues::new(),
            bios_changes: 0,
            bios_forgets: false,
            bios_task: None,
            silent: Vec::new(),
            tells_no_task: false,
            takes_one: false,
            updates_lose_settings: false,
            refuses_updates: 0,
            refused_parts: Vec::new(),
            firmware: [("bios", "1.1.0"), ("bmc", "7.0"), ("nic:A", "22.1")]
                .map(|(part, version)| (part.to_owned(), version.to_owned()))
                .into(),
            firmware_staged: BTreeMap::new(),
            updates: Vec::new(),
            tasks: vec![UpdateState::Done],
            listed: Some(vec!["/tasks/of-somebody-else".to_owned()]),
            loses_answers: 0,
            unreached: 0,
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
            rescue_keys: Value::Null,
            bmc_down: 0,
            requests: Vec::new(),
            clean_steps: serde_json::json!({"GenericHardwareManager": [
                {"step": "erase_devices", "interface": "deploy", "priority": 10, "abortable": true},
                {"step": "erase_devices_metadata", "interface": "deploy", "priority": 99, "abortable": true},
                {"step": "erase_pstore", "interface": "deploy", "priority": 0, "abortable": true},
            ]}),
            manager_version: "1.2".to_owned(),
            step_seconds: 60,
            tells_defaults: true,
            keeps_versions: false,
            stops_within: Some(10),
            cancelled: Vec::new(),
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
        let pending = std::mem::take(&mut state.bios_pending);
        let staged = std::mem::take(&mut state.firmware_staged);
        if !state.bios_forgets && (!state.updates_lose_settings || staged.is_empty()) {
            state.bios.extend(pending);
        }
        state.firmware.extend(staged);
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

    fn bios_settings(&self) -> BoxFuture<'_, Result<Vec<BiosSetting>, OutOfBandError>> {
        Box::pin(self.call("bios_settings", |machine| {
            let state = machine.lock();
            let setting = |(name, value): (&String, &serde_json::Value)| BiosSetting {
                name: name.clone(),
                value: value.clone(),
                ..BiosSetting::default()
            };
            state.bios.iter().map(setting).collect()
        }))
    }

    fn firmware(&self) -> BoxFuture<'_, Result<Vec<FirmwareComponent>, OutOfBandError>> {
        Box::pin(self.call("firmware", |machine| Self::firmware_of(&machine.lock())))
    }

    fn check_bios<'a>(&'a self, wanted: &'a BiosValues) -> BoxFuture<'a, Result<BiosValues, OutOfBandError>> {
        Box::pin(async move {
            let unknown = self.call("check_bios", |machine| {
                let state = machine.lock();
                wanted.keys().find(|name| !state.bios.contains_key(*name)).cloned()
            });
            match unknown.await? {
                Some(name) => Err(OutOfBandError::Settings(format!("{name}: there is no such setting"))),
                None => Ok(wanted.clone()),
            }
        })
    }

    fn check_reset(&self) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(self.call("check_reset", |_| ()))
    }

    fn stage_bios<'a>(&'a self, wanted: &'a BiosValues) -> BoxFuture<'a, Result<StagedBios, OutOfBandError>> {
        let stage = |machine: &Machine| {
            let mut state = machine.lock();
            let differs = |(name, value): &(&String, &serde_json::Value)| state.bios.get(*name) != Some(*value);
            let changes: Vec<String> = wanted.iter().filter(differs).map(|(name, _)| name.clone()).collect();
            if state.takes_one && !state.firmware_staged.is_empty() {
                return Err(OutOfBandError::Refused("a job waits for the restart".to_owned()));
            }
            if !changes.is_empty() {
                state.bios_changes += 1;
                state.bios_pending.extend(wanted.clone());
            }
            Ok(StagedBios { changes, task: state.bios_task.clone() })
        };
        Box::pin(async move { self.call("stage_bios", stage).await? })
    }

    fn reset_bios(&self) -> BoxFuture<'_, Result<BiosValues, OutOfBandError>> {
        Box::pin(self.call("reset_bios", |machine| {
            let mut state = machine.lock();
            state.bios_changes += 1;
            state.bios_pending = values(serde_json::json!({"ProcVirtualization": "Disabled", "QuietBoot": true}));
            if state.tells_defaults { state.bios_pending.clone() } else { BiosValues::new() }
        }))
    }

    fn bios_differences<'a>(&'a self, wanted: &'a BiosValues) -> BoxFuture<'a, Result<Differences, OutOfBandError>> {
        Box::pin(self.call("bios_differences", |machine| {
            let state = machine.lock();
            let differs = |(name, value): &(&String, &serde_json::Value)| state.bios.get(*name) != Some(*value);
            let difference = |(name, value): (&String, &serde_json::Value)| BiosDifference {
                name: name.clone(),
                wanted: value.clone(),
                seen: state.bios.get(name).cloned(),
            };
            (wanted.iter().filter(differs).map(difference).collect(), vec!["The option ROM said no.".to_owned()])
        }))
    }

    fn check_updates<'a>(&'a self, updates: &'a [FirmwareUpdate]) -> BoxFuture<'a, Result<(), OutOfBandError>> {
        Box::pin(async move {
            let unknown = self.call("check_updates", |machine| {
                let state = machine.lock();
                let mut parts = updates.iter().map(|update| &update.component);
                parts.find(|name| !state.firmware.contains_key(*name)).cloned()
            });
            match unknown.await? {
                Some(name) => Err(OutOfBandError::Settings(format!("there is no firmware of {name}"))),
                None => Ok(()),
            }
        })
    }

    fn fetches_images(&self) -> BoxFuture<'_, Result<bool, OutOfBandError>> {
        Box::pin(self.call("fetches_images", |_| true))
    }

    fn start_update<'a>(
        &'a self,
        update: &'a FirmwareUpdate,
        image: Option<&'a Path>,
    ) -> BoxFuture<'a, Result<Option<String>, OutOfBandError>> {
        let begin = move |machine: &Machine| {
            assert_eq!(image, None);
            let mut state = machine.lock();
            let waits = !state.firmware_staged.is_empty() || !state.bios_pending.is_empty();
            if state.refuses_updates > 0 || (state.takes_one && waits) {
                state.refuses_updates = state.refuses_updates.saturating_sub(1);
                return Err(OutOfBandError::Refused("the update service is busy".to_owned()));
            }
            if let Some(at) = state.refused_parts.iter().position(|part| *part == update.component) {
                state.refused_parts.remove(at);
                return Err(OutOfBandError::Refused("this part comes after a restart".to_owned()));
            }
            state.updates.push(format!("{} {}", update.component, update.url));
            let task = format!("/tasks/{}", update.component);
            if let Some(listed) = &mut state.listed {
                listed.push(task.clone());
            }
            if !state.keeps_versions {
                let version = update.url.rsplit('/').next().unwrap_or_default().to_owned();
                let of_bmc = update.component == "bmc";
                let versions = if of_bmc { &mut state.firmware } else { &mut state.firmware_staged };
                versions.insert(update.component.clone(), version);
            }
            let lost = state.loses_answers > 0;
            state.loses_answers = state.loses_answers.saturating_sub(1);
            if lost {
                Err(OutOfBandError::Unreachable("it broke off".to_owned()))
            } else {
                Ok((!state.tells_no_task).then_some(task))
            }
        };
        Box::pin(async move { self.call("start_update", begin).await? })
    }

    fn tasks(&self) -> BoxFuture<'_, Result<Option<Vec<String>>, OutOfBandError>> {
        Box::pin(self.call("tasks", |machine| machine.lock().listed.clone()))
    }

    fn updates_since<'a>(&'a self, known: &'a [String]) -> BoxFuture<'a, Result<Option<Vec<String>>, OutOfBandError>> {
        Box::pin(self.call("updates_since", move |machine| {
            let mut listed = machine.lock().listed.clone()?;
            listed.retain(|task| !known.contains(task));
            Some(listed)
        }))
    }

    fn update_state<'a>(&'a self, _task: &'a str) -> BoxFuture<'a, Result<UpdateState, OutOfBandError>> {
        Box::pin(self.call("update_state", |machine| {
            let mut state = machine.lock();
            if state.tasks.len() > 1 { state.tasks.remove(0) } else { state.tasks[0].clone() }
        }))
    }
}

fn values(value: serde_json::Value) -> BiosValues {
    value.as_object().unwrap().clone()
}

impl Bmc {
    fn firmware_of(state: &State) -> Vec<FirmwareComponent> {
        let component = |(component, version): (&String, &String)| FirmwareComponent {
            component: component.clone(),
            version: version.clone(),
            ..FirmwareComponent::default()
        };
        state.firmware.iter().filter(|(part, _)| !state.silent.contains(part)).map(component).collect()
    }
}
