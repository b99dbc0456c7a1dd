//! Steps that a request chooses: how they are checked, and what they become in a plan.
//!
//! A step is one that the agent offers, one that the driver makes at the BMC ([`own_steps`]), or one of five that the driver
//! carries out by itself: `power_on`, `power_off`, `reboot`, `hold` and `wait`, of whatever interface. Nothing is begun before all steps were checked.

use super::own_steps::{self, Own};
use super::{Action, Purpose, boot_ramdisk, in_order};
use hardware::{Step, StepKind};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use store::Node;
use uuid::Uuid;

/// Interfaces that steps can belong to.
const INTERFACES: [&str; 8] = ["bios", "deploy", "firmware", "management", "network", "power", "raid", "vendor"];

/// A step that the driver carries out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// Switches the machine on; with the ramdisk, where steps of the agent follow.
    PowerOn,
    /// Switches it off.
    PowerOff,
    /// Both.
    Reboot,
    /// Waits for an operator.
    Hold,
    /// Waits for seconds or for a heartbeat.
    Wait,
}

impl Reserved {
    /// By name.
    pub fn of(step: &Step) -> Option<Self> {
        Some(match step.step.as_str() {
            "power_on" => Self::PowerOn,
            "power_off" => Self::PowerOff,
            "reboot" => Self::Reboot,
            "hold" => Self::Hold,
            "wait" => Self::Wait,
            _ => return None,
        })
    }
}

/// What is wrong with the steps of a request; all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct StepErrors(pub Vec<String>);

fn full(step: &Step) -> String {
    format!("{}.{}", step.interface, step.step)
}

/// Most names of steps or arguments that an error lists.
const NAMED: usize = 40;

/// Names for an error, in order and not too many.
fn listed(names: impl Iterator<Item = String>) -> String {
    let names: BTreeSet<String> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    let text = names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    match (text.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => text,
        (false, more) => format!("{text} and {more} more"),
    }
}

fn seconds(step: &Step) -> Result<Option<u64>, String> {
    match step.args.get("seconds") {
        None => Ok(None),
        Some(value) => {
            let text = value.as_str().and_then(|text| text.parse().ok());
            let seconds = value.as_u64().or(text).filter(|seconds| *seconds > 0);
            seconds.map(Some).ok_or_else(|| format!("{value} is not a number of seconds above 0"))
        }
    }
}

/// Reads the steps of a request and checks what can be checked without an agent. `limit`: the seconds that a `wait` may
/// take. `ramdisk`: whether there is going to be an agent.
///
/// # Errors
/// [`StepErrors`] naming each step and what is wrong with it.
pub fn read(
    node: &Node,
    kind: StepKind,
    given: &[Map<String, Value>],
    ramdisk: bool,
    limit: Option<u64>,
) -> Result<Vec<Step>, StepErrors> {
    let mut errors = Vec::new();
    let mut steps = Vec::with_capacity(given.len());
    for given in given {
        let text = |key: &str| given.get(key).and_then(Value::as_str).unwrap_or_default();
        let mut step = Step::new(text("interface"), text("step"), 0);
        let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
        step.priority = given.get("priority").and_then(number).unwrap_or_default();
        step.args = given.get("args").and_then(Value::as_object).cloned().unwrap_or_default();
        let name = full(&step);
        errors.extend(read_children(given, &mut step).map(|problem| format!("step {name}: {problem}")));
        if !INTERFACES.contains(&step.interface.as_str()) {
            errors.push(format!("step {name}: the interface is none of {}", INTERFACES.join(", ")));
        }
        match (Reserved::of(&step), ramdisk) {
            (Some(reserved), _) => errors.extend(check_reserved(&step, reserved, ramdisk, limit)),
            (None, _) if let Some(own) = Own::of(node, &step) => {
                // A deploy step of priority 0 does not run.
                let problem = own_steps::problem(own, &step).filter(|_| kind != StepKind::Deploy || step.priority > 0);
                errors.extend(problem.map(|problem| format!("step {name}: {problem}")));
            }
            (None, false) => errors.push(format!("step {name} runs in the ramdisk, which disable_ramdisk excludes")),
            (None, true) => {}
        }
        steps.push(step);
    }
    if kind == StepKind::Deploy {
        let mut seen = BTreeSet::new();
        errors.extend(
            steps
                .iter()
                .map(full)
                .filter(|name| !seen.insert(name.clone()))
                .map(|name| format!("step {name} is given twice")),
        );
        let fixed = steps.iter().any(|step| full(step) == "deploy.deploy");
        errors.extend(fixed.then(|| "step deploy.deploy boots the ramdisk; leave it out".to_owned()));
        let image = steps.iter().any(|step| full(step) == "deploy.write_image" && !step.args.is_empty());
        let text = "step deploy.write_image takes its arguments from instance_info; give its priority only";
        errors.extend(image.then(|| text.to_owned()));
    }
    if errors.is_empty() { Ok(steps) } else { Err(StepErrors(errors)) }
}

/// Reads whether a step is for the node's children; returns what is wrong with that.
fn read_children(given: &Map<String, Value>, step: &mut Step) -> Option<String> {
    let children = match given.get("execute_on_child_nodes") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(on)) => *on,
        Some(other) => return Some(format!("execute_on_child_nodes is {other}; use true or false")),
    };
    let only = match given.get("limit_child_node_execution") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.clone(),
        Some(other) => return Some(format!("limit_child_node_execution is {other}; use a list of UUIDs")),
    };
    for one in &only {
        match one.as_str().map(Uuid::try_parse) {
            Some(Ok(uuid)) => step.limit_child_node_execution.push(uuid.to_string()),
            Some(Err(_)) | None => return Some(format!("{one} in limit_child_node_execution is no UUID")),
        }
    }
    if !children {
        let alone = "limit_child_node_execution goes with execute_on_child_nodes; set that, or leave both out";
        return (!only.is_empty()).then(|| alone.to_owned());
    }
    step.execute_on_child_nodes = Some(true);
    match Reserved::of(step) {
        Some(Reserved::PowerOn | Reserved::PowerOff | Reserved::Reboot) => None,
        Some(Reserved::Hold | Reserved::Wait) | None => {
            Some("on child nodes there are power_on, power_off and reboot only".to_owned())
        }
    }
}

fn check_reserved(step: &Step, reserved: Reserved, ramdisk: bool, limit: Option<u64>) -> Vec<String> {
    let name = full(step);
    let mut errors = Vec::new();
    let known = if reserved == Reserved::Wait { "seconds" } else { "" };
    if let Some(other) = step.args.keys().find(|key| *key != known) {
        let takes = if known.is_empty() { "none" } else { known };
        errors.push(format!("step {name} has the unexpected argument {other}; it takes {takes}"));
    }
    if reserved == Reserved::Wait {
        match (seconds(step), limit) {
            (Err(problem), _) => errors.push(format!("step {name}: {problem}")),
            (Ok(Some(wanted)), Some(limit)) if wanted >= limit => {
                errors.push(format!("step {name} waits {wanted} s, but the state may last {limit} s; wait less"));
            }
            (Ok(None), _) if !ramdisk => {
                errors.push(format!("step {name} waits for a heartbeat, but there is no ramdisk; give seconds"));
            }
            (Ok(_), _) => {}
        }
    }
    errors
}

/// Whether steps of a request want a ramdisk: all but the driver's own do, and a wait for a heartbeat.
pub fn want_ramdisk(node: &Node, given: &[Map<String, Value>]) -> bool {
    let text =
        |step: &Map<String, Value>, key: &str| step.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let steps: Vec<Step> =
        given.iter().map(|step| Step::new(&text(step, "interface"), &text(step, "step"), 0)).collect();
    let own = |step: &Step| Own::of(node, step).is_some();
    let alone = |(step, given): (&Step, &Map<String, Value>)| match Reserved::of(step) {
        Some(Reserved::Wait) => given.get("args").is_some_and(|args| args.get("seconds").is_some()),
        Some(_) => true,
        None => own(step),
    };
    !(steps.iter().any(own) && steps.iter().zip(given).all(alone))
}

/// Checks the steps of a request against those that the agent offers, and completes them: what a step is (priority,
/// abortable, reboot) the agent says; its arguments come from the request.
///
/// # Errors
/// [`StepErrors`] naming each step that the agent does not have, and each argument that is missing or unexpected.
pub fn complete(kind: StepKind, chosen: &[Step], offered: &[Step]) -> Result<Vec<Step>, StepErrors> {
    let mut errors = Vec::new();
    let mut steps = Vec::with_capacity(chosen.len());
    for step in chosen {
        // Deploy steps of priority 0 turn one off that would run by itself; `write_image` is the driver's to fill in.
        let off = kind == StepKind::Deploy && step.priority == 0;
        let own = kind == StepKind::Deploy && full(step) == "deploy.write_image";
        if Reserved::of(step).is_some() || off || own {
            steps.push(step.clone());
            continue;
        }
        let Some(known) = offered.iter().find(|known| known.same_as(step)) else {
            let name = full(step);
            let known = listed(offered.iter().map(full));
            errors.push(format!("node does not support this {} step: {name}; it has {known}", kind.as_str()));
            continue;
        };
        errors.extend(check_arguments(kind, step, known));
        let mut complete = Step { args: step.args.clone(), ..known.clone() };
        if kind == StepKind::Deploy {
            complete.priority = step.priority;
        }
        steps.push(complete);
    }
    if errors.is_empty() { Ok(steps) } else { Err(StepErrors(errors)) }
}

fn check_arguments(kind: StepKind, step: &Step, known: &Step) -> Vec<String> {
    let none = Map::new();
    let known = known.argsinfo.as_ref().and_then(Value::as_object).unwrap_or(&none);
    let name = full(step);
    let unexpected: Vec<&str> = step.args.keys().filter(|key| !known.contains_key(*key)).map(String::as_str).collect();
    let required = |info: &Value| info.get("required").and_then(Value::as_bool) == Some(true);
    let missing: Vec<&str> = known
        .iter()
        .filter(|(key, info)| required(info) && !step.args.contains_key(*key))
        .map(|(key, _)| key.as_str())
        .collect();
    let kind = kind.as_str();
    let mut errors = Vec::new();
    if !unexpected.is_empty() {
        let takes = listed(known.keys().cloned());
        let unexpected = unexpected.join(", ");
        errors.push(format!("{kind} step {name} has these unexpected arguments: {unexpected}; it takes {takes}"));
    }
    if !missing.is_empty() {
        errors.push(format!("{kind} step {name} is missing these required arguments: {}", missing.join(", ")));
    }
    errors
}

/// The actions of steps in the order in which they run. `ramdisk`: whether steps run in it, so that a machine that is
/// switched off and on again gets it back.
pub fn actions(node: &Node, kind: StepKind, steps: &[Step], ramdisk: bool) -> Vec<Action> {
    let on = || if ramdisk { boot_ramdisk(node, Purpose::Commands) } else { vec![Action::PowerOn] };
    let mut is_off = false;
    let mut plan = Vec::new();
    for step in steps {
        if step.execute_on_child_nodes == Some(true) {
            plan.extend(on_children(step));
            continue;
        }
        match Reserved::of(step) {
            None if Own::of(node, step).is_some() => own_steps::add(node, kind, step, ramdisk, &mut plan),
            None => {
                if std::mem::take(&mut is_off) {
                    plan.extend(on());
                }
                plan.push(Action::ExecuteStep { kind, step: step.clone() });
            }
            Some(Reserved::PowerOff) => {
                is_off = true;
                plan.push(Action::PowerOff);
            }
            Some(Reserved::PowerOn) if is_off => {
                is_off = false;
                plan.extend(on());
            }
            // It is on: the ramdisk runs, or the request is about a machine whose power is not known.
            Some(Reserved::PowerOn) if ramdisk => {}
            Some(Reserved::PowerOn) => plan.push(Action::PowerOn),
            Some(Reserved::Reboot) => {
                is_off = false;
                plan.extend(if ramdisk { Vec::new() } else { vec![Action::PowerOff] });
                plan.extend(on());
            }
            Some(Reserved::Hold) => plan.push(Action::Hold { step: step.clone() }),
            Some(Reserved::Wait) => {
                let seconds = seconds(step).ok().flatten();
                plan.push(Action::Pause { step: step.clone(), seconds });
            }
        }
    }
    plan
}

/// What a step does to the node's children. The node itself stays as it is.
fn on_children(step: &Step) -> Vec<Action> {
    let power = |on| Action::ChildPower { on, only: step.limit_child_node_execution.clone() };
    match Reserved::of(step) {
        Some(Reserved::PowerOn) => vec![power(true)],
        Some(Reserved::PowerOff) => vec![power(false)],
        Some(Reserved::Reboot) => vec![power(false), power(true)],
        // Refused where steps are read.
        Some(Reserved::Hold | Reserved::Wait) | None => Vec::new(),
    }
}

/// The deploy steps that run: those that the agent offers by themselves, with those of the request in their place.
pub fn merged(chosen: Vec<Step>, offered: Vec<Step>) -> Vec<Step> {
    let replaced = |step: &Step| chosen.iter().any(|mine| mine.same_as(step));
    let mut steps: Vec<Step> = offered.into_iter().filter(|step| !replaced(step)).collect();
    steps.extend(chosen);
    in_order(StepKind::Deploy, steps)
}
