//! Putting an instance on a machine.

use super::{Action, Device, Purpose, boot_ramdisk, in_order, remove_media};
use crate::hardware_type::{Interface, interface_of};
use hardware::{Step, StepKind};
use lifecycle::provision::Event;
use serde_json::Value;
use store::Node;

/// Priority of `write_image` among deploy steps, as in Ironic's direct deploy.
pub const WRITE_IMAGE: i64 = 80;
/// Priority at which Ironic's direct deploy makes the system bootable.
const PREPARE_INSTANCE_BOOT: i64 = 60;

/// The plan of a deploy, before the agent was asked for its steps.
pub fn plan(node: &Node) -> Vec<Action> {
    if interface_of(node, Interface::Deploy) == "fake" {
        return vec![Action::Finish { event: Event::Done }];
    }
    let kind = StepKind::Deploy;
    let mut plan = boot_ramdisk(node, Purpose::Commands);
    plan.extend([
        Action::GetSteps { kind, insert: true },
        Action::ExecuteStep { kind, step: Step::new("deploy", "write_image", WRITE_IMAGE) },
    ]);
    // A whole-disk image carries what BIOS firmware starts; UEFI firmware wants boot entries.
    if boots_uefi(node) {
        plan.extend([Action::GetPartitionUuids, Action::InstallBootloader]);
    }
    plan.push(Action::AgentPowerOff);
    plan.extend(remove_media(node));
    plan.extend([
        Action::SetBootDevice { device: Device::Disk, persistent: true },
        Action::PowerOn,
        Action::Finish { event: Event::Done },
    ]);
    plan
}

/// Puts the agent's own steps into what is left of the plan: before, between and after the image and the boot loader
/// by their priority. All of them run before the ramdisk is shut down.
pub fn with_agent_steps(rest: Vec<Action>, offered: Vec<Step>) -> Vec<Action> {
    let offered = offered.into_iter().filter(|step| !(step.interface == "deploy" && step.step == "write_image"));
    let mut offered = in_order(StepKind::Deploy, offered).into_iter().peekable();
    let mut plan = Vec::with_capacity(rest.len());
    for action in rest {
        let before = match &action {
            Action::ExecuteStep { step, .. } if step.step == "write_image" => Some(WRITE_IMAGE),
            Action::GetPartitionUuids => Some(PREPARE_INSTANCE_BOOT),
            Action::AgentPowerOff => Some(0),
            _ => None,
        };
        if let Some(priority) = before {
            while let Some(step) = offered.next_if(|step| step.priority > priority) {
                plan.push(Action::ExecuteStep { kind: StepKind::Deploy, step });
            }
        }
        plan.push(action);
    }
    plan
}

/// Whether the instance boots with UEFI: by `boot_mode` among the capabilities of the instance, then of the node, each
/// an object or a text like `boot_mode:bios,disk_label:gpt`; with UEFI when neither says.
fn boots_uefi(node: &Node) -> bool {
    let said = [&node.instance_info, &node.properties].into_iter().find_map(|map| match map.get("capabilities")? {
        Value::Object(map) => map.get("boot_mode")?.as_str(),
        Value::String(text) => text.split(',').find_map(|pair| pair.trim().strip_prefix("boot_mode:")),
        _ => None,
    });
    said != Some("bios")
}
