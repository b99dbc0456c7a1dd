//! Flows: what has to be done to a node, as a saved list of actions with a cursor.
//!
//! The files here are pure: a plan is a function of the node, its settings and what the agent offers, and is
//! snapshot-tested. `conductor/worker.rs` carries a plan out; before every effect it saves an [`Intent`], after it the
//! outcome together with the moved cursor. Each [`Action`] is safe to be carried out twice.

pub mod adopt;
pub mod clean;
pub mod configdrive;
pub mod deploy;
pub mod image;
pub mod inspect;
pub mod own_steps;
pub mod rescue;
pub mod service;
pub mod steps;
pub mod undeploy;
pub mod verify;

use crate::hardware_type::{Interface, interface_of};
use hardware::{BiosValues, BootDevice, BootMode, Step, StepKind};
use jiff::Timestamp;
use lifecycle::provision::{Event, State};
use own_steps::{OwnStep, Updating};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use store::Node;
use uuid::Uuid;

/// What a flow is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowKind {
    /// Looks whether the BMC can be worked with.
    Verify,
    /// Finds out what the machine is.
    Inspect,
    /// Cleans the machine for its next user.
    Clean,
    /// Installs the machine.
    Deploy,
    /// Takes the instance off.
    Undeploy,
    /// Takes a machine under management that has its instance already.
    Adopt,
    /// Boots the ramdisk for somebody to log in and repair.
    Rescue,
    /// Boots the instance again after that.
    Unrescue,
    /// Works on a machine that keeps its instance.
    Service,
    /// Switches power for an operator.
    Power,
    /// Tidies up after something failed or was aborted. Best effort: what fails here is logged and passed over.
    Cleanup,
}

impl FlowKind {
    /// The state of a node whose flow works, and the one while it waits for the machine; `None` for flows that leave
    /// the provision state alone.
    pub fn states(self) -> Option<(State, Option<State>)> {
        match self {
            Self::Verify => Some((State::Verifying, None)),
            Self::Inspect => Some((State::Inspecting, Some(State::InspectWait))),
            Self::Clean => Some((State::Cleaning, Some(State::CleanWait))),
            Self::Deploy => Some((State::Deploying, Some(State::DeployWait))),
            Self::Undeploy => Some((State::Deleting, None)),
            Self::Adopt => Some((State::Adopting, None)),
            Self::Rescue => Some((State::Rescuing, Some(State::RescueWait))),
            Self::Unrescue => Some((State::Unrescuing, None)),
            Self::Service => Some((State::Servicing, Some(State::ServiceWait))),
            Self::Power | Self::Cleanup => None,
        }
    }

    /// The kind of steps that such a flow runs.
    pub fn steps(self) -> Option<StepKind> {
        match self {
            Self::Clean => Some(StepKind::Clean),
            Self::Deploy => Some(StepKind::Deploy),
            Self::Service => Some(StepKind::Service),
            Self::Verify
            | Self::Inspect
            | Self::Undeploy
            | Self::Adopt
            | Self::Rescue
            | Self::Unrescue
            | Self::Power
            | Self::Cleanup => None,
        }
    }

    /// The word for people: `deploy`, `clean`, ….
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Inspect => "inspect",
            Self::Clean => "clean",
            Self::Deploy => "deploy",
            Self::Undeploy => "undeploy",
            Self::Adopt => "adopt",
            Self::Rescue => "rescue",
            Self::Unrescue => "unrescue",
            Self::Service => "service",
            Self::Power => "power",
            Self::Cleanup => "cleanup",
        }
    }
}

/// What a ramdisk is booted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To take commands: it looks its node up and sends heartbeats.
    Commands,
    /// As before, and to let the machine's owner in: the site may have a ramdisk of its own for that.
    Rescue,
    /// To send an inventory.
    Inspection,
    /// To send an inventory and stay for commands.
    InspectionThenCommands,
}

/// What a machine boots from; [`BootDevice`] in a form that is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// Network.
    Pxe,
    /// Disk.
    Disk,
    /// Virtual CD.
    Cdrom,
}

impl From<Device> for BootDevice {
    fn from(device: Device) -> Self {
        match device {
            Device::Pxe => Self::Pxe,
            Device::Disk => Self::Disk,
            Device::Cdrom => Self::Cdrom,
        }
    }
}

/// One entry of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Reads the power state.
    ReadPower,
    /// Reads what the BMC knows of the firmware: boot mode, secure boot, settings, versions. What it does not tell is no
    /// failure.
    ReadSettings,
    /// Makes the machine boot by UEFI or by BIOS.
    SetBootMode {
        /// Which.
        mode: BootMode,
    },
    /// Switches secure boot.
    SetSecureBoot {
        /// On or off.
        on: bool,
    },
    /// Makes the machine be off; done when it is. What an agent said before is forgotten: it is gone.
    PowerOff,
    /// Makes the machine be on; done when it is.
    PowerOn,
    /// Asks the operating system to shut down; done when the machine is off.
    ShutDown {
        /// Seconds that it may take.
        within: u64,
    },
    /// Looks whether the agent of an earlier flow still answers. When it does not, the ramdisk is booted.
    ReuseAgent,
    /// Builds the virtual CD of the ramdisk, with the node's own kernel command line.
    PrepareMedia {
        /// What the ramdisk is for.
        purpose: Purpose,
    },
    /// Inserts that CD.
    InsertMedia,
    /// Takes it out and removes the file.
    EjectMedia,
    /// Chooses what the machine boots.
    SetBootDevice {
        /// From what.
        device: Device,
        /// For good, or the next boot only.
        persistent: bool,
    },
    /// Waits for the first heartbeat of a freshly booted agent.
    WaitForAgent,
    /// Waits for the inventory.
    WaitForInspection,
    /// Asks the agent for its steps, which are then put into the plan.
    GetSteps {
        /// Of which kind.
        kind: StepKind,
        /// Whether they are put into the plan; otherwise only the versions of the agent's managers are wanted.
        insert: bool,
    },
    /// Has the agent carry out a step and waits for its end. Arguments that hold secrets or are large (an image, a
    /// config drive) are not saved here; they are made from the node when the step is sent.
    ExecuteStep {
        /// Of which kind.
        kind: StepKind,
        /// The step.
        step: Step,
    },
    /// Leaves the machine as it is until an operator says `unhold`.
    Hold {
        /// The step that asks for it.
        step: Step,
    },
    /// Waits for seconds, or for the next heartbeat.
    Pause {
        /// The step that asks for it.
        step: Step,
        /// Seconds; the next heartbeat when unset.
        seconds: Option<u64>,
    },
    /// Switches the nodes that are parts of this one.
    ChildPower {
        /// Whether on, or off.
        on: bool,
        /// UUIDs of those that are meant; all when there is none.
        only: Vec<String>,
    },
    /// Asks the machine whether the driver's own steps can be done, before anything is.
    CheckOwnSteps {
        /// The steps.
        steps: Vec<Step>,
    },
    /// Asks the instance to shut down, and cuts power when it does not.
    StopInstance,
    /// Has the BMC change settings of the firmware at the next start, and the machine started then.
    StageBios {
        /// The step.
        own: OwnStep,
    },
    /// Looks until the settings are as wanted.
    ConfirmBios {
        /// The step.
        own: OwnStep,
        /// How they are wanted; none after a reset.
        values: BiosValues,
        /// Where the BMC tells how the change goes on, if it does.
        #[serde(default)]
        task: Option<String>,
        /// Settings that are not so are staged once more, with a restart of their own: firmware was updated by the restart that
        /// they had, which may undo them.
        #[serde(default)]
        again: bool,
    },
    /// Gets ready what an update of firmware needs, and notes how it was before.
    PrepareFirmware {
        /// Which.
        work: Updating,
    },
    /// Starts an update of firmware, once.
    UpdateFirmware {
        /// Which.
        work: Updating,
    },
    /// Looks until it is over, or waits for the machine's restart.
    FollowFirmware {
        /// Which.
        work: Updating,
    },
    /// Looks until all updates of a step are over, and at the versions then.
    ConfirmFirmware {
        /// Which.
        work: Updating,
    },
    /// Starts the machine anew for all that the driver's own steps before it have staged; nothing is done where nothing was.
    RestartForSteps {
        /// Clean, deploy or service.
        kind: StepKind,
        /// Whether steps run in a ramdisk, which then has to run again.
        ramdisk: bool,
        /// What is looked at afterwards.
        confirm: Vec<Action>,
    },
    /// Reads what the BMC knows of the firmware when own steps are over, and fails where one of them has.
    EndOwnSteps,
    /// Gives the agent the hash of the password with which somebody is to log in. The agent serves no commands after it.
    FinalizeRescue,
    /// Asks the agent for the UUIDs of what it wrote.
    GetPartitionUuids,
    /// Has the agent make the system bootable and waits for its end.
    InstallBootloader,
    /// Has the agent shut the machine down; power is cut when that takes too long.
    AgentPowerOff,
    /// Forgets the instance.
    ClearInstance,
    /// Goes on with cleaning.
    StartCleaning,
    /// Ends the flow with this event.
    Finish {
        /// The event.
        event: Event,
    },
}

impl Action {
    /// What is being done, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::ReadPower => "read the power state".to_owned(),
            Self::ReadSettings => "read the settings of the firmware".to_owned(),
            Self::SetBootMode { mode } => format!("set the boot mode to {}", boot_mode_name(*mode)),
            Self::SetSecureBoot { on } => format!("switch secure boot {}", if *on { "on" } else { "off" }),
            Self::PowerOff => "power off".to_owned(),
            Self::PowerOn => "power on".to_owned(),
            Self::ShutDown { .. } => "have the operating system shut down".to_owned(),
            Self::ReuseAgent => "reach the agent that runs".to_owned(),
            Self::PrepareMedia { .. } => "build the virtual media".to_owned(),
            Self::InsertMedia => "insert the virtual media".to_owned(),
            Self::EjectMedia => "eject the virtual media".to_owned(),
            Self::SetBootDevice { device, .. } => {
                let name = match device {
                    Device::Pxe => "pxe",
                    Device::Disk => "disk",
                    Device::Cdrom => "cdrom",
                };
                format!("set the boot device to {name}")
            }
            Self::WaitForAgent => "wait for the ramdisk to call back".to_owned(),
            Self::WaitForInspection => "wait for the inventory from the ramdisk".to_owned(),
            Self::GetSteps { kind, .. } => format!("get the agent's {} steps", kind.as_str()),
            Self::ExecuteStep { step, .. } => format!("{}.{}", step.interface, step.step),
            Self::Hold { .. } => "hold until somebody says unhold".to_owned(),
            Self::Pause { seconds: Some(seconds), .. } => format!("wait {seconds} s"),
            Self::Pause { seconds: None, .. } => "wait for the next heartbeat".to_owned(),
            Self::ChildPower { on: true, .. } => "power child nodes on".to_owned(),
            Self::ChildPower { on: false, .. } => "power child nodes off".to_owned(),
            Self::CheckOwnSteps { .. } => "ask the BMC whether it can do the steps".to_owned(),
            Self::StopInstance => "shut the instance down".to_owned(),
            Self::StageBios { own } if own.step.step == "factory_reset" => "reset the BIOS settings".to_owned(),
            Self::StageBios { .. } => "change the BIOS settings".to_owned(),
            Self::ConfirmBios { .. } => "see whether the BIOS settings are as wanted".to_owned(),
            Self::PrepareFirmware { work } => format!("prepare the update of {}", work.part()),
            Self::UpdateFirmware { work } => format!("begin the update of {}", work.part()),
            Self::FollowFirmware { work } => format!("see how the update of {} goes on", work.part()),
            Self::ConfirmFirmware { .. } => "see whether the firmware is as wanted".to_owned(),
            Self::RestartForSteps { .. } => "restart the machine for what was staged".to_owned(),
            Self::EndOwnSteps => "read the settings of the firmware".to_owned(),
            Self::FinalizeRescue => "give the ramdisk its rescue password".to_owned(),
            Self::GetPartitionUuids => "get the partition UUIDs".to_owned(),
            Self::InstallBootloader => "install the boot loader".to_owned(),
            Self::AgentPowerOff => "shut the ramdisk down".to_owned(),
            Self::ClearInstance => "forget the instance".to_owned(),
            Self::StartCleaning => "start cleaning".to_owned(),
            Self::Finish { .. } => "finish".to_owned(),
        }
    }

    /// Whether something is waited for, and nothing worked on.
    pub fn only_waits(&self) -> bool {
        matches!(self, Self::WaitForAgent | Self::WaitForInspection | Self::Hold { .. } | Self::Pause { .. })
    }

    /// The step that this carries out, if it is one.
    pub fn step(&self) -> Option<&Step> {
        match self {
            Self::ExecuteStep { step, .. } | Self::Hold { step } | Self::Pause { step, .. } => Some(step),
            _ => self.own_step().map(|own| &own.step),
        }
    }

    /// The driver's own step that this is part of, if it is one.
    pub fn own_step(&self) -> Option<&OwnStep> {
        match self {
            Self::StageBios { own } | Self::ConfirmBios { own, .. } => Some(own),
            Self::PrepareFirmware { work }
            | Self::UpdateFirmware { work }
            | Self::FollowFirmware { work }
            | Self::ConfirmFirmware { work } => Some(&work.own),
            _ => None,
        }
    }

    /// Whether this looks at the end whether one of the driver's own steps was done.
    pub fn confirms(&self) -> bool {
        matches!(self, Self::ConfirmBios { .. } | Self::ConfirmFirmware { .. })
    }

    /// Whether something that was begun at the BMC is looked at, again and again.
    pub fn polls(&self) -> bool {
        matches!(self, Self::ConfirmBios { .. } | Self::FollowFirmware { .. } | Self::ConfirmFirmware { .. })
    }

    /// Whether this talks to the agent; such an action may also begin while the node waits.
    pub fn needs_agent(&self) -> bool {
        matches!(
            self,
            Self::GetSteps { .. }
                | Self::ExecuteStep { .. }
                | Self::GetPartitionUuids
                | Self::InstallBootloader
                | Self::FinalizeRescue
        )
    }
}

/// The API's name of a boot mode.
pub const fn boot_mode_name(mode: BootMode) -> &'static str {
    match mode {
        BootMode::Uefi => "uefi",
        BootMode::Bios => "bios",
    }
}

/// Reads what the BMC knows of the firmware, where an interface of the node can.
fn read_settings(node: &Node) -> Option<Action> {
    let asks = [Interface::Bios, Interface::Firmware, Interface::Management];
    asks.iter().any(|interface| interface_of(node, *interface) == "redfish").then_some(Action::ReadSettings)
}

/// Saved before an effect: from here on it may have happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// 1 for the first try.
    pub attempt: u32,
    /// SHA-256 of the arguments of an agent command, in hex; empty for other effects.
    pub digest: String,
    /// The id under which a command goes to an agent that does not make its ids itself. Saved before it is sent, so that the
    /// same command is never given twice.
    #[serde(default)]
    pub id: Option<Uuid>,
    /// The agent's id of the command, once it is known.
    pub command: Option<String>,
    /// When the first try began.
    pub since: Timestamp,
    /// Why the last try did not end well, while it is tried again.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// A flow at work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// UUID; another flow of the same node has another.
    pub id: Uuid,
    /// What it is for.
    pub kind: FlowKind,
    /// When it began; see [`Self::began`]. Builds before 0.1 saved flows without it.
    #[serde(default)]
    pub since: Timestamp,
    /// The plan.
    pub actions: Vec<Action>,
    /// The action that is next or under way.
    pub cursor: usize,
    /// What was begun of it.
    pub intent: Option<Intent>,
    /// Commands in the agent's list that are done with, so that none of them is taken for a later one.
    #[serde(default)]
    pub settled: Vec<String>,
    /// Versions of the agent's hardware managers, sent back with every step.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// What `get_partition_uuids` said.
    #[serde(default)]
    pub partitions: Value,
    /// Steps that a request chose, in place of those that run by themselves.
    #[serde(default)]
    pub chosen: Option<Vec<Step>>,
    /// Stop when the current step, which cannot be aborted or is told to stop, ends.
    #[serde(default)]
    pub abort_after: bool,
    /// The agent knows that it is to stop the current step, or cannot.
    #[serde(default)]
    pub told_to_stop: bool,
    /// How often the agent's steps had to be asked for, or an erase begun, again.
    #[serde(default)]
    pub mismatches: u32,
    /// What failed of own steps that share a restart, while the others are looked at.
    #[serde(default)]
    pub failures: Vec<String>,
}

impl Flow {
    /// A flow that has not begun.
    pub fn new(id: Uuid, kind: FlowKind, actions: Vec<Action>, now: Timestamp) -> Self {
        Self {
            id,
            kind,
            since: now,
            chosen: None,
            actions,
            cursor: 0,
            intent: None,
            settled: Vec::new(),
            versions: BTreeMap::new(),
            partitions: Value::Null,
            abort_after: false,
            told_to_stop: false,
            mismatches: 0,
            failures: Vec::new(),
        }
    }

    /// When it began. Of a flow that does not say, it is known when its present action began.
    pub fn began(&self) -> Timestamp {
        let action = self.intent.as_ref().map(|intent| intent.since);
        if self.since == Timestamp::default() { action.unwrap_or_default() } else { self.since }
    }

    /// The action that is next or under way.
    pub fn current(&self) -> Option<&Action> {
        self.actions.get(self.cursor)
    }

    /// Goes on to the next action, behind which `more` is put.
    pub fn advance(&mut self, more: &[Action]) {
        self.cursor += 1;
        let at = self.cursor.min(self.actions.len());
        self.actions.splice(at..at, more.iter().cloned());
        self.intent = None;
    }

    /// Where the restart is that is planned for the driver's own steps here.
    fn restart(&self) -> Option<usize> {
        let mut left = self.actions.iter().enumerate().skip(self.cursor);
        left.find(|(_, action)| matches!(action, Action::RestartForSteps { .. })).map(|(at, _)| at)
    }

    /// What waits for that restart.
    pub fn held(&self) -> &[Action] {
        match self.restart().and_then(|at| self.actions.get(at)) {
            Some(Action::RestartForSteps { confirm, .. }) => confirm,
            _ => &[],
        }
    }

    /// The update of firmware that was begun and is not yet known to have ended, if there is one.
    pub fn updating(&self) -> Option<&OwnStep> {
        let left = self.actions.iter().skip(self.cursor).chain(self.held());
        // What is asked for just now may have begun; what is only planned, or is asked for again after a refusal, has not.
        let asked = self.current().filter(|_| self.intent.is_some());
        left.filter_map(|action| match action {
            Action::PrepareFirmware { work } if work.at == work.first => None,
            Action::UpdateFirmware { work } if work.at == work.first && asked != Some(action) => None,
            Action::PrepareFirmware { work }
            | Action::UpdateFirmware { work }
            | Action::FollowFirmware { work }
            | Action::ConfirmFirmware { work } => Some(&work.own),
            _ => None,
        })
        .next()
    }

    /// Leaves something to be looked at after the restart that is planned. Plans of builds before 0.1 have none, and get one.
    pub fn hold(&mut self, own: &OwnStep, last: Action) {
        match self.restart().and_then(|at| self.actions.get_mut(at)) {
            Some(Action::RestartForSteps { confirm, .. }) => confirm.push(last),
            _ => {
                let restart = Action::RestartForSteps { kind: own.kind, ramdisk: own.ramdisk, confirm: vec![last] };
                let at = self.cursor.min(self.actions.len());
                self.actions.insert(at, restart);
            }
        }
    }

    /// Has the restart for what is held so far made now, and then `more`, whose own restart is still to come.
    pub fn restart_now(&mut self, more: &[Action]) {
        let planned = self.restart().and_then(|at| self.actions.get_mut(at));
        let first = planned.map(|restart| {
            let first = restart.clone();
            if let Action::RestartForSteps { confirm, .. } = restart {
                confirm.clear();
            }
            first
        });
        let at = self.cursor.min(self.actions.len());
        self.actions.splice(at..at, first.into_iter().chain(more.iter().cloned()));
    }
}

/// The actions that boot the ramdisk afresh and end when its agent calls. With the fake boot interface somebody else
/// boots it.
pub fn boot_ramdisk(node: &Node, purpose: Purpose) -> Vec<Action> {
    let mut plan = vec![Action::PowerOff];
    if boots_virtual_media(node) {
        // The media goes in before the boot device is chosen: there are BMCs that cannot choose an empty drive.
        plan.extend([
            Action::PrepareMedia { purpose },
            Action::InsertMedia,
            Action::SetBootDevice { device: Device::Cdrom, persistent: false },
        ]);
    }
    plan.push(Action::PowerOn);
    plan.push(match purpose {
        Purpose::Commands | Purpose::Rescue => Action::WaitForAgent,
        Purpose::Inspection | Purpose::InspectionThenCommands => Action::WaitForInspection,
    });
    plan
}

/// The actions that lead to an agent that takes commands: the one that runs (fast track), or one that is booted.
pub fn reach_agent(node: &Node, fast: Fast) -> Vec<Action> {
    if fast.agent_runs { vec![Action::ReuseAgent] } else { boot_ramdisk(node, Purpose::Commands) }
}

/// Fast track: whether a ramdisk that has done its work may stay for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fast {
    /// The node may keep its ramdisk between two flows.
    pub track: bool,
    /// An agent is there from an earlier flow, and was heard of not long ago.
    pub agent_runs: bool,
}

/// What boots the instance again after the ramdisk.
pub fn boot_instance(node: &Node) -> Vec<Action> {
    let mut plan = remove_media(node);
    plan.extend([Action::SetBootDevice { device: Device::Disk, persistent: true }, Action::PowerOn]);
    plan
}

/// What takes the ramdisk's media away again.
pub fn remove_media(node: &Node) -> Vec<Action> {
    if boots_virtual_media(node) { vec![Action::EjectMedia] } else { Vec::new() }
}

/// What is done after a failure or an abort.
pub fn plan_cleanup(node: &Node, power_off: bool) -> Vec<Action> {
    let mut plan = if power_off { vec![Action::PowerOff] } else { Vec::new() };
    plan.extend(remove_media(node));
    plan
}

/// What is done when the ramdisk is given up for the instance.
pub fn plan_return(node: &Node) -> Vec<Action> {
    let mut plan = vec![Action::PowerOff];
    plan.extend(boot_instance(node));
    plan
}

/// Whether the node boots its ramdisk from virtual media.
pub fn boots_virtual_media(node: &Node) -> bool {
    interface_of(node, Interface::Boot) == "redfish-virtual-media"
}

/// Order of steps of equal priority, as in Ironic: higher goes first.
pub fn interface_rank(kind: StepKind, interface: &str) -> u8 {
    match interface {
        "network" if kind == StepKind::Service => 8,
        "vendor" => 7,
        "power" => 6,
        "management" => 5,
        "firmware" => 4,
        "deploy" => 3,
        "bios" => 2,
        "raid" => 1,
        _ => 0,
    }
}

/// The agent's steps in the order in which they run by themselves: by priority, then by interface, then by name.
pub fn in_order(kind: StepKind, steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let mut steps: Vec<Step> = steps.into_iter().filter(|step| step.priority > 0).collect();
    steps.sort_by(|a, b| {
        let rank = |step: &Step| (step.priority, interface_rank(kind, &step.interface));
        rank(b).cmp(&rank(a)).then_with(|| a.step.cmp(&b.step))
    });
    steps
}

/// Actions that boot the ramdisk again after a step that asked for it.
pub fn reboot_after(node: &Node, step: &Step) -> Vec<Action> {
    if step.reboot_requested == Some(true) { boot_ramdisk(node, Purpose::Commands) } else { Vec::new() }
}

#[cfg(test)]
mod tests;
