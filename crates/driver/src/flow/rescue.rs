//! Booting the ramdisk of a machine whose instance does not come up, for somebody to log in, and back.

use super::{Action, Purpose, boot_instance, boot_ramdisk, remove_media};
use crate::hardware_type::{Interface, interface_of};
use lifecycle::provision::Event;
use store::Node;

fn is_fake(node: &Node) -> bool {
    interface_of(node, Interface::Rescue) == "fake"
}

/// The plan of a rescue.
pub fn plan(node: &Node) -> Vec<Action> {
    let end = Action::Finish { event: Event::Done };
    if is_fake(node) {
        return vec![end];
    }
    let mut plan = boot_ramdisk(node, Purpose::Rescue);
    plan.push(Action::FinalizeRescue);
    // The ramdisk is in memory; the next boot shall not be another.
    plan.extend(remove_media(node));
    plan.push(end);
    plan
}

/// The plan of the way back.
pub fn plan_back(node: &Node) -> Vec<Action> {
    let end = Action::Finish { event: Event::Done };
    if is_fake(node) {
        return vec![end];
    }
    let mut plan = vec![Action::PowerOff];
    plan.extend(boot_instance(node));
    plan.push(end);
    plan
}
