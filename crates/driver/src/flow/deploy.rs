//! Putting an instance on a machine.

use super::image::is_partition;
use super::steps::{actions, merged};
use super::{Action, Fast, boot_instance, reach_agent};
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
pub fn plan(node: &Node, fast: Fast) -> Vec<Action> {
    if interface_of(node, Interface::Deploy) == "fake" {
        return vec![Action::Finish { event: Event::Done }];
    }
    let kind = StepKind::Deploy;
    let mut plan = reach_agent(node, fast);
    plan.extend([
        Action::GetSteps { kind, insert: true },
        Action::ExecuteStep { kind, step: Step::new("deploy", "write_image", WRITE_IMAGE) },
    ]);
    // A whole-disk image carries what BIOS firmware starts; UEFI firmware wants boot entries, and a partition image a
    // boot loader in any case. What is wrong with the image is said where it is checked.
    if boots_uefi(node) || is_partition(node).unwrap_or_default() {
        plan.extend([Action::GetPartitionUuids, Action::InstallBootloader]);
    }
    plan.push(Action::AgentPowerOff);
    plan.extend(boot_instance(node));
    plan.push(Action::Finish { event: Event::Done });
    plan
}

fn is_image(step: &Step) -> bool {
    step.interface == "deploy" && step.step == "write_image"
}

/// Puts steps into what is left of the plan: before, between and after the image and the boot loader by their
/// priority. All of them run before the ramdisk is shut down. `offered`: the agent's. `chosen`: those of the request,
/// which take the place of the agent's of the same name; priority 0 turns a step off, the image too.
pub fn with_steps(node: &Node, rest: Vec<Action>, offered: Vec<Step>, chosen: Vec<Step>) -> Vec<Action> {
    let image = chosen.iter().find(|step| is_image(step)).map_or(WRITE_IMAGE, |step| step.priority);
    let mut steps = merged(chosen, offered);
    steps.retain(|step| !is_image(step));
    let mut steps = steps.into_iter().peekable();
    let mut plan = Vec::with_capacity(rest.len());
    for mut action in rest {
        let before = match &mut action {
            Action::ExecuteStep { step, .. } if is_image(step) => {
                if image == 0 {
                    continue;
                }
                step.priority = image;
                Some(image)
            }
            Action::GetPartitionUuids | Action::InstallBootloader if image == 0 => continue,
            Action::GetPartitionUuids => Some(PREPARE_INSTANCE_BOOT.min(image)),
            Action::AgentPowerOff => Some(0),
            _ => None,
        };
        if let Some(priority) = before {
            let mut now = Vec::new();
            while let Some(step) = steps.next_if(|step| step.priority > priority) {
                now.push(step);
            }
            plan.extend(actions(node, StepKind::Deploy, &now, true));
        }
        plan.push(action);
    }
    plan
}

/// A capability of the instance, else of the node: each an object or a text like `boot_mode:bios,disk_label:gpt`.
pub fn capability<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    [&node.instance_info, &node.properties].into_iter().find_map(|map| match map.get("capabilities")? {
        Value::Object(map) => map.get(name)?.as_str(),
        Value::String(text) => text.split(',').find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix(':')),
        _ => None,
    })
}

/// Whether the instance boots with UEFI; it does when nobody says.
pub fn boots_uefi(node: &Node) -> bool {
    capability(node, "boot_mode") != Some("bios")
}
