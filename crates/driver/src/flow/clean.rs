//! Cleaning a machine between two users.

use super::{Action, Purpose, boot_ramdisk, in_order, remove_media};
use crate::hardware_type::{Interface, interface_of};
use hardware::{Step, StepKind};
use lifecycle::provision::Event;
use std::collections::BTreeMap;
use store::Node;

/// The plan of automated cleaning, before the agent was asked for its steps. `wanted`: the site's setting, which a node
/// may override.
pub fn plan(node: &Node, wanted: bool) -> Vec<Action> {
    let end = Action::Finish { event: Event::Done };
    if !node.automated_clean.unwrap_or(wanted) || interface_of(node, Interface::Deploy) == "fake" {
        return vec![end];
    }
    let mut plan = boot_ramdisk(node, Purpose::Commands);
    plan.extend([Action::GetSteps { kind: StepKind::Clean, insert: true }, Action::PowerOff]);
    plan.extend(remove_media(node));
    plan.push(end);
    plan
}

/// The steps that run, in order. `priorities`: the site's own, by `interface.step` or by name; 0 turns a step off.
pub fn automated_steps(offered: Vec<Step>, priorities: &BTreeMap<String, i64>) -> Vec<Action> {
    let chosen = offered.into_iter().map(|mut step| {
        let full = format!("{}.{}", step.interface, step.step);
        if let Some(&priority) = priorities.get(&full).or_else(|| priorities.get(&step.step)) {
            step.priority = priority;
        }
        step
    });
    in_order(StepKind::Clean, chosen)
        .into_iter()
        .map(|step| Action::ExecuteStep { kind: StepKind::Clean, step })
        .collect()
}
