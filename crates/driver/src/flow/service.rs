//! Working on a machine that keeps its instance.

use super::{Action, Purpose, boot_instance, boot_ramdisk};
use crate::hardware_type::{Interface, interface_of};
use hardware::StepKind;
use lifecycle::provision::Event;
use store::Node;

/// The plan of a service before its steps are put in. `ramdisk`: whether one is booted for them.
pub fn plan(node: &Node, ramdisk: bool) -> Vec<Action> {
    let end = Action::Finish { event: Event::Done };
    if !ramdisk || interface_of(node, Interface::Deploy) == "fake" {
        return vec![end];
    }
    // An agent of an earlier flow is not used: the instance runs.
    let mut plan = boot_ramdisk(node, Purpose::Commands);
    plan.extend([Action::GetSteps { kind: StepKind::Service, insert: true }, Action::AgentPowerOff]);
    plan.extend(boot_instance(node));
    plan.push(end);
    plan
}
