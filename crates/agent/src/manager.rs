//! The generic hardware manager: steps that work on anything that runs Linux. Only steps that really work are offered.

use crate::command::{AgentError, Class};
use crate::extension::steps::failure_class;
use crate::state::Shared;
use crate::{prepare, root_disk};
use hardware::manager::{StepFuture, argument};
use hardware::{
    Contents, DeviceId, Disk, EraseProof, HardwareManager, Outcome, Plan, Progress, Step, StepCall, StepError,
    StepKind, Support, hint,
};
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

    async fn erase_devices_metadata(&self, call: StepCall) -> Result<Value, StepError> {
        only_arguments(&call, &[], &[])?;
        let failed = |error: AgentError| failure(&error);
        root_disk::may_write(&self.shared, "erase_devices_metadata").map_err(failed)?;
        self.shared.devices_ready().await;
        let Sorted { erasable, skipped, mut errors } = self.sort(&call.node).await.map_err(failed)?;
        let plan = Plan::new("erase_devices_metadata", erasable);
        let total = plan.disks().len() as u64;
        let mut proofs = Vec::new();
        for (done, disk) in plan.disks().iter().enumerate() {
            // Between two devices is the safe point: a device is erased as a whole or not at all.
            if call.control.is_cancelled() {
                return Err(StepError::Cancelled);
            }
            call.control.report(Progress {
                stage: "erase".to_owned(),
                done: done as u64,
                total: Some(total),
                rate: 0,
                eta: None,
                stalled: None,
            });
            let grant = match plan.erase(&disk.name) {
                Ok(grant) => grant,
                Err(refusal) => {
                    errors.push(format!("{}: {refusal}", disk.name));
                    continue;
                }
            };
            match self.shared.on_machine(move |machine| machine.erase_metadata(grant)).await {
                Ok(proof) => proofs.push(json!(proof)),
                Err(error) => errors.push(format!("{}: {}", disk.name, transport::client::chain(&error))),
            }
        }
        if errors.is_empty() {
            proofs.extend(skipped.into_iter().map(|proof| json!(proof)));
            return Ok(Value::Array(proofs));
        }
        // All devices are tried before it is said which ones failed.
        let details = format!("Failed to erase the metadata on the device(s): {}", errors.join("; "));
        Err(failure(&AgentError::new(Class::BlockDeviceEraseError, details)))
    }

    /// Looks at all disks before any is touched. An error when one that would be erased may be used by other machines.
    async fn sort(&self, node: &Value) -> Result<Sorted, AgentError> {
        let disks = self.shared.on_machine(|machine| machine.disks()).await?;
        let wanted = hint::without_skipped(disks.clone(), node.pointer("/properties/skip_block_devices"))
            .map_err(|error| AgentError::new(Class::DeviceNotFound, error.to_string()))?;
        let by_node = disks.iter().filter(|disk| !wanted.contains(disk));
        let by_node = by_node.map(|disk| left_alone(disk, "skip_block_devices of the node names it"));
        let mut sorted = Sorted { erasable: Vec::new(), skipped: by_node.collect(), errors: Vec::new() };
        let guarded = self.shared.settings().guard_special_filesystems && is_guarded(node);
        let mut protected = Vec::new();
        for (disk, looked) in root_disk::look(&self.shared, wanted).await? {
            match looked {
                Err(error) => sorted.errors.push(format!("{}: {}", disk.name, transport::client::chain(&error))),
                Ok(Contents { virtual_media: true, .. }) => {
                    sorted.skipped.push(left_alone(&disk, "virtual media: the driver's parameters are on it"));
                }
                Ok(Contents { raid_member: true, .. }) => {
                    sorted.skipped.push(left_alone(&disk, "linux_raid_member: a software RAID array has data on it"));
                }
                Ok(Contents { read_only: true, .. }) => sorted.skipped.push(left_alone(&disk, "it is read-only")),
                Ok(Contents { shared, .. }) if guarded && !shared.is_empty() => {
                    protected.push(format!("{} ({})", disk.name, shared.join(", ")));
                }
                Ok(_) => sorted.erasable.push(disk),
            }
        }
        if protected.is_empty() {
            return Ok(sorted);
        }
        let details = format!(
            "protected, as other machines may use it too: {}; nothing was erased on any disk. Detach it from this node, \
             name it in skip_block_devices of the node, or boot with ipa-guard-special-filesystems=false to have it erased",
            protected.join("; ")
        );
        Err(AgentError::new(Class::ProtectedDeviceError, details))
    }

    async fn write_image(&self, call: StepCall) -> Result<Value, StepError> {
        only_arguments(&call, &["image_info", "configdrive"], &["image_info"])?;
        let args: &Map<String, Value> = &call.step.args;
        let image_info: Value = argument(args, "image_info")?.unwrap_or_default();
        let configdrive: Option<String> = argument(args, "configdrive")?;
        prepare::validate(&image_info, &self.shared.settings()).map_err(|error| failure(&error))?;
        match prepare::prepare_image(&self.shared, &image_info, configdrive, call.control.as_ref()).await {
            // The command inside the step wraps its text as it would on its own.
            Ok(text) => Ok(json!({"result": format!("prepare_image: {text}")})),
            Err(error) if error.class == Class::CommandExecutionError => {
                Err(StepError::Failed { class: failure_class(call.kind).name(), details: error.details })
            }
            Err(error) => Err(failure(&error)),
        }
    }
}

/// The disks of the machine, before anything is erased.
struct Sorted {
    erasable: Vec<Disk>,
    skipped: Vec<EraseProof>,
    /// What could not be looked into, and why: it is not erased, and the step fails.
    errors: Vec<String>,
}

fn left_alone(disk: &Disk, reason: &str) -> EraseProof {
    tracing::info!(disk = disk.name, reason, "not erased");
    let outcome = Outcome::Skipped { reason: reason.to_owned() };
    EraseProof::new(DeviceId::of(disk), "metadata", outcome)
}

/// Whether the node leaves the guard of shared file systems on. As ironic-python-agent reads it, it is
/// `driver_internal_info.wipe_special_filesystems` with a value that counts as false that switches the guard off, whatever
/// its name suggests.
fn is_guarded(node: &Value) -> bool {
    node.pointer("/driver_internal_info/wipe_special_filesystems").is_none_or(|value| match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    })
}

fn failure(error: &AgentError) -> StepError {
    StepError::Failed { class: error.class.name(), details: error.details.clone() }
}

/// Complains about arguments in the words that a driver's operator knows.
fn only_arguments(call: &StepCall, known: &[&str], required: &[&str]) -> Result<(), StepError> {
    let function = format!("GenericHardwareManager.{}()", call.step.step);
    if let Some(name) = call.step.args.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(StepError::Arguments(format!("{function} got an unexpected keyword argument '{name}'")));
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
        "GenericHardwareManager"
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
        match kind {
            StepKind::Clean => vec![offer("erase_devices_metadata", 99, Some(true))],
            StepKind::Deploy => vec![offer("erase_devices_metadata", 0, None), offer("write_image", 0, None)],
            StepKind::Service => vec![offer("write_image", 0, None)],
        }
    }

    fn run(&self, call: StepCall) -> StepFuture<'_> {
        Box::pin(async move {
            match call.step.step.as_str() {
                "erase_devices_metadata" => self.erase_devices_metadata(call).await,
                "write_image" => self.write_image(call).await,
                other => Err(StepError::Incompatible(other.to_owned())),
            }
        })
    }
}
