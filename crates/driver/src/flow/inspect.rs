//! Finding out what a machine is.

use super::{Action, Fast, Purpose, boot_ramdisk, remove_media};
use crate::hardware_type::{Interface, interface_of};
use lifecycle::provision::Event;
use store::Node;

/// The plan of an inspection.
pub fn plan(node: &Node, fast: Fast) -> Vec<Action> {
    let end = Action::Finish { event: Event::Done };
    if interface_of(node, Interface::Inspect) != "agent" {
        return vec![end];
    }
    if fast.track {
        let mut plan = boot_ramdisk(node, Purpose::InspectionThenCommands);
        plan.push(end);
        return plan;
    }
    let mut plan = boot_ramdisk(node, Purpose::Inspection);
    plan.push(Action::PowerOff);
    plan.extend(remove_media(node));
    plan.push(end);
    plan
}
