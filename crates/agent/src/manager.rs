//! The generic hardware manager: steps that work on anything that runs Linux. Only steps that really work are offered.

mod disks;
mod erase;
mod watch;

use crate::command::{AgentError, Class};
use crate::container::bootc;
use crate::extension::steps::failure_class;
use crate::state::Shared;
use crate::{maintenance, prepare, root_disk};
use hardware::manager::{StepFuture, argument};
use hardware::{Disk, HardwareManager, Step, StepCall, StepError, StepKind, Support};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The manager that every machine has. Class name, name and version are those of ironic-python-agent's, since drivers
/// keep them in their records of a node.
pub struct GenericHardwareManager {
    shared: Arc<Shared>,
}

impl GenericHardwareManager {
    /// A manager of this machine.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn erase(&self, kind: Kind, call: StepCall) -> Result<Value, StepError> {
        only_arguments(CLASS, &call, &[], &[])?;
        erase::run(&self.shared, kind, call).await
    }

    async fn erase_pstore(&self, call: StepCall) -> Result<Value, StepError> {
        only_arguments(CLASS, &call, &[], &[])?;
        root_disk::may_write(&self.shared, &call.step.step).map_err(|error| failure(&error))?;
        match self.shared.on_machine(|machine| machine.erase_pstore()).await {
            Ok(proof) => Ok(json!([proof])),
            Err(error) => {
                let details = format!("Failed to erase pstore: {}", transport::client::chain(&error));
                Err(failure(&AgentError::new(Class::BlockDeviceEraseError, details)))
            }
        }
    }

    async fn write_image(&self, call: StepCall) -> Result<Value, StepError> {
        only_arguments(CLASS, &call, &["image_info", "configdrive"], &["image_info"])?;
        let args: &Map<String, Value> = &call.step.args;
        let image_info: Value = argument(args, "image_info")?.unwrap_or_default();
        let configdrive: Option<String> = argument(args, "configdrive")?;
        prepare::validate(&image_info, &self.shared.settings()).map_err(|error| failure(&error))?;
        match prepare::prepare_image(&self.shared, &image_info, configdrive, call.control.as_ref()).await {
            // The command inside the step wraps its text as it would on its own.
            Ok(text) => Ok(json!({"result": format!("prepare_image: {text}")})),
            Err(error) => Err(write_failure(call.kind, error)),
        }
    }

    async fn execute_bootc_install(&self, call: StepCall) -> Result<Value, StepError> {
        only_arguments(CLASS, &call, &["image_source", "configdrive", "oci_pull_secret"], &["image_source"])?;
        let args: &Map<String, Value> = &call.step.args;
        let request = bootc::Request {
            source: argument(args, "image_source")?.unwrap_or_default(),
            instance_info: call.node.get("instance_info").cloned().unwrap_or_default(),
            pull_secret: argument(args, "oci_pull_secret")?,
            config_drive: argument(args, "configdrive")?,
        };
        match bootc::install(&self.shared, request, call.control.as_ref()).await {
            Ok(text) => Ok(json!({"result": format!("execute_bootc_install: {text}")})),
            Err(error) => Err(write_failure(call.kind, error)),
        }
    }
}

/// Its class, by which drivers know its steps.
const CLASS: &str = "GenericHardwareManager";

/// Steps of ironic-python-agent's generic manager that this one does not have, each with the reason, which who asks for
/// one is told. docs/interop.md says more.
const NOT_HERE: [(&str, &str); 8] = [
    ("burnin_cpu", BURN_IN),
    ("burnin_disk", BURN_IN),
    ("burnin_gpu", BURN_IN),
    ("burnin_memory", BURN_IN),
    ("burnin_network", BURN_IN),
    ("apply_configuration", RAID),
    ("create_configuration", RAID),
    ("delete_configuration", RAID),
];
const BURN_IN: &str = "burn-in is done by programs (stress-ng, fio, gpu-burn) that this ramdisk has not; check_hardware and \
                       test_disks ask the hardware itself, and a hardware manager of the overlay can bring burn-in";
const RAID: &str = "this ramdisk makes no software RAID; arrays of a controller are made by Ironic through the BMC, and a \
                    hardware manager of the overlay can bring the step";

/// Why a step of that name, which ironic-python-agent has, is not here.
pub(crate) fn not_here(step: &str) -> Option<&'static str> {
    NOT_HERE.into_iter().find(|(name, _)| *name == step).map(|(_, why)| why)
}

/// How thoroughly a step erases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Everything on a disk.
    Whole,
    /// What makes a disk look used.
    Metadata,
    /// Everything on drives that can do that at once, the metadata of all others.
    Express,
}

impl Kind {
    fn step(self) -> &'static str {
        match self {
            Self::Whole => "erase_devices",
            Self::Metadata => "erase_devices_metadata",
            Self::Express => "erase_devices_express",
        }
    }

    /// The words before the list of what failed, as ironic-python-agent has them.
    fn complaint(self) -> &'static str {
        match self {
            Self::Whole => "Failed to erase the device(s)",
            Self::Metadata => "Failed to erase the metadata on the device(s)",
            Self::Express => "Failed to conduct an express erase on the device(s)",
        }
    }

    /// Whether the disk is erased whole, and not its metadata only.
    fn takes_commands(self, disk: &Disk) -> bool {
        match self {
            Self::Whole => true,
            Self::Metadata => false,
            Self::Express => disk.name.starts_with("/dev/nvme"),
        }
    }
}

/// The failure of a command inside a step.
fn write_failure(kind: StepKind, error: AgentError) -> StepError {
    if error.class == Class::CommandExecutionError {
        return StepError::Failed { class: failure_class(kind).name(), details: error.details };
    }
    failure(&error)
}

fn failure(error: &AgentError) -> StepError {
    StepError::Failed { class: error.class.name(), details: error.details.clone() }
}

/// Complains about arguments in the words that a driver's operator knows.
pub(crate) fn only_arguments(class: &str, call: &StepCall, known: &[&str], required: &[&str]) -> Result<(), StepError> {
    let function = format!("{class}.{}()", call.step.step);
    if let Some(name) = call.step.args.keys().find(|name| !known.contains(&name.as_str())) {
        let takes = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let text = format!("{function} got an unexpected keyword argument '{name}'; it takes {takes}");
        return Err(StepError::Arguments(text));
    }
    let missing = required.iter().find(|name| !call.step.args.contains_key(**name));
    match missing {
        None => Ok(()),
        Some(name) => Err(StepError::Arguments(format!("{function} missing 1 required positional argument: '{name}'"))),
    }
}

fn offer(step: &str, priority: i64, abortable: Option<bool>) -> Step {
    let mut offered = Step::new("deploy", step, priority);
    offered.reboot_requested = Some(false);
    offered.abortable = abortable;
    offered
}

impl HardwareManager for GenericHardwareManager {
    fn class_name(&self) -> &str {
        CLASS
    }

    fn name(&self) -> &str {
        "generic_hardware_manager"
    }

    fn version(&self) -> &str {
        "1.2"
    }

    fn evaluate(&self) -> Support {
        Support::GENERIC
    }

    fn steps(&self, kind: StepKind, _node: &Value, _ports: &Value) -> Vec<Step> {
        let mut steps = match kind {
            StepKind::Clean => vec![
                offer("erase_devices", 10, Some(true)),
                offer("erase_devices_metadata", 99, Some(true)),
                offer("erase_devices_express", 0, Some(true)),
                offer("erase_pstore", 0, Some(true)),
            ],
            StepKind::Deploy => vec![offer("erase_devices_metadata", 0, None), offer("write_image", 0, None)],
            StepKind::Service => vec![offer("write_image", 0, None)],
        };
        if kind != StepKind::Clean && self.shared.containers().is_some() {
            steps.push(offer("execute_bootc_install", 0, None));
        }
        steps.extend(maintenance::steps(kind, &self.shared));
        steps
    }

    fn run(&self, call: StepCall) -> StepFuture<'_> {
        Box::pin(async move {
            match call.step.step.as_str() {
                "erase_devices" => self.erase(Kind::Whole, call).await,
                "erase_devices_metadata" => self.erase(Kind::Metadata, call).await,
                "erase_devices_express" => self.erase(Kind::Express, call).await,
                "erase_pstore" => self.erase_pstore(call).await,
                "write_image" => self.write_image(call).await,
                "execute_bootc_install" if self.shared.containers().is_some() => self.execute_bootc_install(call).await,
                name => match not_here(name) {
                    Some(why) => {
                        let details = format!("Could not find method: {name}; {why}");
                        Err(failure(&AgentError::new(Class::HardwareManagerMethodNotFound, details)))
                    }
                    None => maintenance::run(&self.shared, call).await,
                },
            }
        })
    }
}
