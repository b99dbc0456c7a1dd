//! Cleaning a machine between two users, or as an operator says.

use super::{Action, Fast, in_order, reach_agent, read_settings, remove_media, steps};
use crate::hardware_type::{Interface, interface_of};
use hardware::{Step, StepKind};
use lifecycle::provision::Event;
use std::collections::BTreeMap;
use store::Node;

/// The plan of automated cleaning, before the agent was asked for its steps. `wanted`: the site's setting, which a node
/// may override.
pub fn plan(node: &Node, wanted: bool, fast: Fast) -> Vec<Action> {
    let end = Action::Finish { event: Event::Done };
    if !node.automated_clean.unwrap_or(wanted) || interface_of(node, Interface::Deploy) == "fake" {
        return vec![end];
    }
    // A machine that is to leave is cleaned and goes no further.
    let end = if node.retired { Action::Finish { event: Event::Manage } } else { end };
    with_ramdisk(node, fast, end)
}

/// The plan of manual cleaning, before its steps are put in. `ramdisk`: whether one is booted for them.
pub fn manual_plan(node: &Node, ramdisk: bool, fast: Fast) -> Vec<Action> {
    let end = Action::Finish { event: Event::Manage };
    if !ramdisk || interface_of(node, Interface::Deploy) == "fake" {
        return vec![end];
    }
    with_ramdisk(node, fast, end)
}

fn with_ramdisk(node: &Node, fast: Fast, end: Action) -> Vec<Action> {
    let mut plan = reach_agent(node, fast);
    plan.push(Action::GetSteps { kind: StepKind::Clean, insert: true });
    if !fast.track {
        plan.push(Action::PowerOff);
        plan.extend(remove_media(node));
    }
    plan.extend(read_settings(node));
    plan.push(end);
    plan
}

/// The steps that run, in order, of those that the agent and the driver have. `priorities`: the site's own, by
/// `interface.step` or by name; 0 turns a step off.
pub fn automated_steps(node: &Node, offered: Vec<Step>, priorities: &BTreeMap<String, i64>) -> Vec<Action> {
    let chosen = offered.into_iter().map(|mut step| {
        let full = format!("{}.{}", step.interface, step.step);
        if let Some(&priority) = priorities.get(&full).or_else(|| priorities.get(&step.step)) {
            step.priority = priority;
        }
        step
    });
    steps::actions(node, StepKind::Clean, &in_order(StepKind::Clean, chosen), true)
}
