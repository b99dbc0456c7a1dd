//! The generic hardware manager: steps that work on anything that runs Linux. Only steps that really work are offered.

use crate::command::{AgentError, Class};
use crate::extension::steps::failure_class;
use crate::state::Shared;
use crate::{prepare, root_disk};
use hardware::manager::{StepFuture, argument};
use hardware::{HardwareManager, Plan, Progress, Step, StepCall, StepError, StepKind, Support, hint};
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
        let disks = self.shared.on_machine(|machine| machine.disks()).await.map_err(|error| failed(error.into()))?;
        let skipped = call.node.pointer("/properties/skip_block_devices");
        let disks = hint::without_skipped(disks, skipped)
            .map_err(|error| failure(&AgentError::new(Class::DeviceNotFound, error.to_string())))?;
        let plan = Plan::new("erase_devices_metadata", disks);
        let total = plan.disks().len() as u64;
        let (mut proofs, mut errors) = (Vec::new(), Vec::new());
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
            return Ok(Value::Array(proofs));
        }
        // All devices are tried before it is said which ones failed.
        let details = format!("Failed to erase the metadata on the device(s): {}", errors.join("; "));
        Err(failure(&AgentError::new(Class::BlockDeviceEraseError, details)))
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
