//! Steps that the driver carries out by itself at the BMC: settings and updates of firmware. Names, arguments and
//! priorities are those of Ironic's redfish interfaces.

use super::{Action, Purpose, boot_ramdisk};
use crate::effect::machines::POWER_OFF;
use crate::hardware_type::{Interface, interface_of};
use hardware::{BiosValues, FirmwareUpdate, Step, StepKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use store::Node;

/// Most settings or updates of one step.
const MOST: usize = 1024;
/// Longest URL of an image.
const LONGEST_URL: usize = 2048;

/// Which of the driver's own steps one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// `bios.apply_configuration`
    ApplyBios,
    /// `bios.factory_reset`
    ResetBios,
    /// `firmware.update`
    UpdateFirmware,
}

/// What the steps are called, with the interface that has to be `redfish` for them.
const STEPS: [(Own, Interface, &str); 3] = [
    (Own::ApplyBios, Interface::Bios, "apply_configuration"),
    (Own::ResetBios, Interface::Bios, "factory_reset"),
    (Own::UpdateFirmware, Interface::Firmware, "update"),
];

impl Own {
    /// The driver's own step that `step` is on this node, if it is one.
    pub fn of(node: &Node, step: &Step) -> Option<Self> {
        let found =
            STEPS.iter().find(|(_, interface, name)| interface.as_str() == step.interface && *name == step.step);
        found.filter(|(_, interface, _)| interface_of(node, *interface) == "redfish").map(|(own, ..)| *own)
    }
}

/// The driver's own steps that a node has.
pub fn offered(node: &Node, kind: StepKind) -> Vec<Step> {
    let argument = |text: &str| Some(json!({"settings": {"description": text, "required": true}}));
    STEPS
        .iter()
        .filter(|(_, interface, _)| interface_of(node, *interface) == "redfish")
        .map(|(own, interface, name)| {
            let mut step = Step::new(interface.as_str(), name, 0);
            step.argsinfo = match own {
                Own::ApplyBios => argument("A list of BIOS settings to be applied"),
                Own::ResetBios => None,
                Own::UpdateFirmware => argument("A list of dicts with firmware components to be updated"),
            };
            // A machine whose firmware is being written must not be interrupted.
            step.abortable = (kind != StepKind::Deploy).then_some(*own != Own::UpdateFirmware);
            step.requires_ramdisk = Some(false);
            step
        })
        .collect()
}

/// The settings of `bios.apply_configuration`.
///
/// # Errors
/// What is wrong with the arguments.
pub fn bios_values(step: &Step) -> Result<BiosValues, String> {
    let shape = "settings is not a list like [{\"name\": \"ProcVirtualization\", \"value\": \"Enabled\"}]";
    let list = step.args.get("settings").and_then(Value::as_array).ok_or(shape)?;
    if list.is_empty() || list.len() > MOST {
        return Err(format!("settings has {} entries; give 1 to {MOST}", list.len()));
    }
    let mut values = BiosValues::new();
    for entry in list {
        let entry = entry.as_object().ok_or(shape)?;
        if let Some(other) = entry.keys().find(|key| !matches!(key.as_str(), "name" | "value")) {
            return Err(format!("settings: {other} is not known; an entry has name and value"));
        }
        let name = entry.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).ok_or(shape)?;
        let value = entry.get("value").ok_or(shape)?;
        if !(value.is_string() || value.is_number() || value.is_boolean()) {
            return Err(format!("settings: the value of {name} is neither a text, a number nor true or false"));
        }
        if values.insert(name.to_owned(), value.clone()).is_some() {
            return Err(format!("settings: {name} is given twice"));
        }
    }
    Ok(values)
}

/// An update that a request wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedUpdate {
    /// What, and where its image is.
    #[serde(flatten)]
    pub update: FirmwareUpdate,
    /// SHA-256 or SHA-512 of the image in hex, lower case. With it the driver fetches the image first.
    pub checksum: Option<String>,
    /// Seconds to wait after the update before anything else is done.
    pub wait: Option<u64>,
}

/// The updates of `firmware.update`.
///
/// # Errors
/// What is wrong with the arguments.
pub fn updates(step: &Step) -> Result<Vec<WantedUpdate>, String> {
    let shape = "settings is not a list like [{\"component\": \"bios\", \"url\": \"http://images.example/bios.bin\"}]";
    let list = step.args.get("settings").and_then(Value::as_array).ok_or(shape)?;
    if list.is_empty() || list.len() > MOST {
        return Err(format!("settings has {} entries; give 1 to {MOST}", list.len()));
    }
    let mut seen = BTreeSet::new();
    let mut updates = Vec::with_capacity(list.len());
    for entry in list {
        let entry = entry.as_object().ok_or(shape)?;
        if let Some(other) = entry.keys().find(|key| !["component", "url", "checksum", "wait"].contains(&key.as_str()))
        {
            return Err(format!("settings: {other} is not known; an entry has component, url, checksum and wait"));
        }
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let component = text("component").ok_or(shape)?;
        if !matches!(component, "bios" | "bmc") && component.strip_prefix("nic:").is_none_or(str::is_empty) {
            return Err(format!(
                "settings: component {component:?} is none of bios, bmc and nic:<serial number or name>"
            ));
        }
        if !seen.insert(component) {
            return Err(format!("settings: {component} is given twice"));
        }
        let url = text("url").ok_or(shape)?;
        check_url(url)?;
        let checksum = checksum(entry)?;
        let wait = match entry.get("wait") {
            None | Some(Value::Null) => None,
            Some(wait) => match wait.as_u64() {
                Some(seconds @ 1..=3600) => Some(seconds),
                _ => return Err(format!("settings: wait {wait} is not a number of seconds from 1 to 3600")),
            },
        };
        let update = FirmwareUpdate { component: component.to_owned(), url: url.to_owned() };
        updates.push(WantedUpdate { update, checksum, wait });
    }
    Ok(updates)
}

fn check_url(url: &str) -> Result<(), String> {
    let uri: Option<http::Uri> = url.parse().ok();
    let is_web = |uri: &http::Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if url.len() > LONGEST_URL || !uri.as_ref().is_some_and(is_web) {
        return Err("settings: url is not an http or https URL of up to 2048 bytes".to_owned());
    }
    if uri.and_then(|uri| uri.authority().cloned()).is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("settings: url holds user information, which a BMC would be given; use one without".to_owned());
    }
    Ok(())
}

fn checksum(entry: &Map<String, Value>) -> Result<Option<String>, String> {
    let given = match entry.get("checksum") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.to_ascii_lowercase(),
        Some(other) => return Err(format!("settings: checksum {other} is not a text")),
    };
    let hex = given.strip_prefix("sha256:").or_else(|| given.strip_prefix("sha512:")).unwrap_or(&given);
    let length = match given.split_once(':') {
        Some(("sha256", _)) => hex.len() == 64,
        Some(("sha512", _)) => hex.len() == 128,
        Some(_) => false,
        None => matches!(hex.len(), 64 | 128),
    };
    if !length || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let short: String = given.chars().take(16).collect();
        return Err(format!("settings: checksum {short:?}… is no SHA-256 or SHA-512 in hex (64 or 128 digits)"));
    }
    Ok(Some(hex.to_owned()))
}

/// What is wrong with the arguments of one of the driver's own steps, without asking any machine.
pub fn problem(own: Own, step: &Step) -> Option<String> {
    match own {
        Own::ApplyBios => bios_values(step).err(),
        Own::UpdateFirmware => updates(step).err(),
        Own::ResetBios => step.args.keys().next().map(|key| format!("it takes no arguments, and {key} was given")),
    }
}

/// One of the driver's own steps at work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnStep {
    /// Clean, deploy or service.
    pub kind: StepKind,
    /// The step.
    pub step: Step,
    /// Whether steps run in a ramdisk, which then has to run again after a restart.
    pub ramdisk: bool,
}

/// Updates of firmware at work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Updating {
    /// The step.
    pub own: OwnStep,
    /// The number of the first update that is not yet looked at.
    #[serde(default)]
    pub first: usize,
    /// The number of the update that is next or under way.
    pub at: usize,
    /// Where that can be followed.
    pub task: Option<String>,
    /// The tasks that the BMC had before it was begun, so that its own is found if the answer to its beginning is lost; unset
    /// where the BMC lists none.
    #[serde(default)]
    pub tasks: Option<Vec<String>>,
    /// What is followed again after the restart: component and place.
    pub staged: Vec<(String, String)>,
    /// Components whose update the BMC called completed.
    #[serde(default)]
    pub said: Vec<String>,
    /// Whether the machine has to be started again at the end.
    pub restart: bool,
    /// Versions by component before the step.
    pub before: BTreeMap<String, String>,
    /// How often the BMC has refused to begin the update that is next.
    #[serde(default)]
    pub refused: u32,
}

/// The actions that restart the machine for what was staged and look at it afterwards: at the firmware first, which may change
/// settings. None where nothing was staged.
pub fn restart(node: &Node, kind: StepKind, ramdisk: bool, staged: &[Action]) -> Vec<Action> {
    if staged.is_empty() {
        return Vec::new();
    }
    let is_update = |action: &&Action| matches!(action, Action::ConfirmFirmware { .. });
    let updates = staged.iter().any(|action| is_update(&action));
    let mut looks: Vec<Action> = staged.iter().filter(is_update).cloned().collect();
    looks.extend(staged.iter().filter(|action| !is_update(action)).cloned().map(|action| match action {
        Action::ConfirmBios { own, values, task, .. } => Action::ConfirmBios { own, values, task, again: updates },
        other => other,
    }));
    looks.push(Action::EndOwnSteps);
    if ramdisk {
        let mut plan = boot_ramdisk(node, Purpose::Commands);
        plan.extend(looks);
        return plan;
    }
    let was_off = node.power_state.as_deref() == Some(POWER_OFF);
    let mut plan = match kind {
        // An instance runs: it is asked first.
        StepKind::Service if !was_off => vec![Action::StopInstance],
        StepKind::Clean | StepKind::Deploy | StepKind::Service => vec![Action::PowerOff],
    };
    plan.push(Action::PowerOn);
    plan.extend(looks);
    if was_off {
        plan.push(Action::PowerOff);
    }
    plan
}

/// Adds one of the driver's own steps to a plan, with the restart that takes what it stages into use. Steps that follow one
/// another share it, but for two that cannot be told apart afterwards: a reset and other settings, and two updates of the same part.
pub fn add(node: &Node, kind: StepKind, step: &Step, ramdisk: bool, plan: &mut Vec<Action>) {
    let Some(which) = Own::of(node, step) else { return };
    let own = OwnStep { kind, step: step.clone(), ramdisk };
    let begin = match which {
        Own::ApplyBios | Own::ResetBios => Action::StageBios { own },
        Own::UpdateFirmware => Action::PrepareFirmware { work: Updating::new(own) },
    };
    let restart = Action::RestartForSteps { kind, ramdisk, confirm: Vec::new() };
    if plan.last() == Some(&restart) {
        let before = plan.iter().rev().skip(1).take_while(|action| action.own_step().is_some()).count();
        let at = plan.len() - 1;
        let group = plan.get_mut(at - before..at).unwrap_or_default();
        if group.iter_mut().any(|earlier| join(node, earlier, step)) {
            return;
        }
        if !group.iter().any(|earlier| excludes(node, earlier, which, step)) {
            plan.insert(at, begin);
            return;
        }
    }
    plan.extend([begin, restart]);
}

/// Whether a step needs a restart between an earlier one and itself.
fn excludes(node: &Node, earlier: &Action, which: Own, step: &Step) -> bool {
    let Some(own) = earlier.own_step() else { return true };
    match (Own::of(node, &own.step), which) {
        (Some(Own::UpdateFirmware), Own::UpdateFirmware) => {
            let parts = |step: &Step| -> BTreeSet<String> {
                updates(step).unwrap_or_default().into_iter().map(|wanted| wanted.update.component).collect()
            };
            !parts(&own.step).is_disjoint(&parts(step))
        }
        (Some(Own::UpdateFirmware), Own::ApplyBios | Own::ResetBios)
        | (Some(Own::ApplyBios | Own::ResetBios), Own::UpdateFirmware) => false,
        (Some(Own::ApplyBios | Own::ResetBios) | None, _) => true,
    }
}

/// Settings of `bios.apply_configuration` become part of an earlier such step that shares its restart. Of a setting that both
/// have, the later value counts, as it would have in the end. Returns whether `step` is part of `earlier` now.
fn join(node: &Node, earlier: &mut Action, step: &Step) -> bool {
    let Action::StageBios { own } = earlier else { return false };
    if ![&own.step, step].into_iter().all(|step| Own::of(node, step) == Some(Own::ApplyBios)) {
        return false;
    }
    // What is wrong with one of them is told of that one.
    let (Ok(mut values), Ok(more)) = (bios_values(&own.step), bios_values(step)) else { return false };
    values.extend(more);
    if values.len() > MOST {
        return false;
    }
    let settings = values.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    own.step.args.insert("settings".to_owned(), Value::Array(settings));
    true
}

impl Updating {
    /// Updates of which none was begun.
    fn new(own: OwnStep) -> Self {
        Self {
            own,
            first: 0,
            at: 0,
            task: None,
            tasks: None,
            staged: Vec::new(),
            said: Vec::new(),
            restart: false,
            before: BTreeMap::new(),
            refused: 0,
        }
    }

    /// The part whose update is next or under way, for people: with its number where there are several.
    pub fn part(&self) -> String {
        let all = updates(&self.own.step).unwrap_or_default();
        match all.get(self.at) {
            Some(wanted) if all.len() > 1 => {
                format!("{} ({} of {})", wanted.update.component, self.at + 1, all.len())
            }
            Some(wanted) => wanted.update.component.clone(),
            None => "firmware".to_owned(),
        }
    }

    /// The updates from `at` on, when those before it have had their restart.
    pub fn rest(&self) -> Self {
        Self {
            first: self.at,
            at: self.at,
            before: self.before.clone(),
            refused: self.refused,
            ..Self::new(self.own.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use uuid::Uuid;

    fn step(interface: &str, name: &str, settings: Value) -> Step {
        let mut step = Step::new(interface, name, 0);
        step.args.insert("settings".to_owned(), settings);
        step
    }

    #[test]
    fn a_node_has_the_steps_of_its_redfish_interfaces_only() {
        let mut node = Node::new(Uuid::nil(), "redfish", Timestamp::UNIX_EPOCH);
        assert_eq!(offered(&node, StepKind::Clean), []);
        node.interfaces.insert("bios".to_owned(), "redfish".to_owned());
        node.interfaces.insert("firmware".to_owned(), "no-firmware".to_owned());
        let steps = offered(&node, StepKind::Clean);
        let names: Vec<_> = steps.iter().map(|step| format!("{}.{}", step.interface, step.step)).collect();
        assert_eq!(names, ["bios.apply_configuration", "bios.factory_reset"]);
        assert!(steps.iter().all(|step| step.priority == 0 && step.requires_ramdisk == Some(false)));
        assert_eq!(Own::of(&node, &Step::new("firmware", "update", 0)), None);
    }

    #[test]
    fn wrong_arguments_are_told_with_what_is_right() {
        let bios = |settings: Value| bios_values(&step("bios", "apply_configuration", settings)).unwrap_err();
        let firmware = |settings: Value| updates(&step("firmware", "update", settings)).unwrap_err();
        let url = "http://images.test/x";
        let lines = [
            bios(json!({"a": 1})),
            bios(json!([])),
            bios(json!([{"name": "A"}])),
            bios(json!([{"name": "A", "value": []}])),
            bios(json!([{"name": "A", "value": 1, "when": "now"}])),
            bios(json!([{"name": "A", "value": 1}, {"name": "A", "value": 2}])),
            firmware(json!("bios")),
            firmware(json!([{"component": "disk", "url": url}])),
            firmware(json!([{"component": "nic:", "url": url}])),
            firmware(json!([{"component": "bios"}])),
            firmware(json!([{"component": "bios", "url": "ftp://x/y"}])),
            firmware(json!([{"component": "bios", "url": "http://user:secret@x/y"}])),
            firmware(json!([{"component": "bios", "url": url, "checksum": "d41d8cd98f00b204e9800998ecf8427e"}])),
            firmware(json!([{"component": "bios", "url": url, "wait": 0}])),
            firmware(json!([{"component": "bios", "url": url, "source": "local"}])),
            firmware(json!([{"component": "bios", "url": url}, {"component": "bios", "url": url}])),
        ];
        assert!(!lines.join("\n").contains("secret"));
        insta::assert_snapshot!(lines.join("\n"));
    }

    /// A plan as text: settings as they are, other actions as they are called.
    fn plan_of(node: &Node, steps: &[Step]) -> Vec<Value> {
        let told = |action: &Action| match action {
            Action::StageBios { own } => own.step.args.get("settings").cloned().unwrap_or_else(|| json!("reset")),
            Action::PrepareFirmware { .. } => json!("update"),
            Action::RestartForSteps { .. } => json!("restart"),
            other => json!(other.describe()),
        };
        crate::flow::steps::actions(node, StepKind::Service, steps, false).iter().map(told).collect()
    }

    fn redfish() -> Node {
        let mut node = Node::new(Uuid::nil(), "redfish", Timestamp::UNIX_EPOCH);
        node.interfaces.insert("bios".to_owned(), "redfish".to_owned());
        node.interfaces.insert("firmware".to_owned(), "redfish".to_owned());
        node
    }

    #[test]
    fn settings_of_steps_that_share_a_restart_are_applied_together_and_the_later_value_counts() {
        let node = redfish();
        let apply = |settings: Value| step("bios", "apply_configuration", settings);
        let (a, b) = (json!({"name": "A", "value": 1}), json!({"name": "B", "value": true}));
        let (one, two) = (apply(json!([a, b])), apply(json!([{"name": "A", "value": 2}])));
        let joined = json!([{"name": "A", "value": 2}, b]);
        assert_eq!(plan_of(&node, &[one.clone(), two.clone()]), [joined.clone(), json!("restart")]);
        let update = step("firmware", "update", json!([{"component": "bios", "url": "http://x/y"}]));
        let around = plan_of(&node, &[one.clone(), update, two.clone()]);
        assert_eq!(around, [joined, json!("update"), json!("restart")]);
        // A reset and a step of somebody else are between them.
        let between = Step::new("bios", "factory_reset", 0);
        let all = plan_of(&node, &[one.clone(), between, two.clone()]);
        let restart = json!("restart");
        let alone = json!([{"name": "A", "value": 2}]);
        let expected =
            [json!([a, b]), restart.clone(), json!("reset"), restart.clone(), alone.clone(), restart.clone()];
        assert_eq!(all, expected);
        let all = plan_of(&node, &[one, Step::new("power", "reboot", 0), two]);
        let expected = [json!([a, b]), restart.clone(), json!("power off"), json!("power on"), alone, restart];
        assert_eq!(all, expected);
    }

    #[test]
    fn settings_and_updates_that_follow_one_another_share_a_restart_but_for_two_of_the_same_part() {
        let node = redfish();
        let update = |parts: &[&str]| {
            let all: Vec<Value> = parts.iter().map(|part| json!({"component": part, "url": "http://x/y"})).collect();
            step("firmware", "update", Value::Array(all))
        };
        let reset = Step::new("bios", "factory_reset", 0);
        let text = |steps: &[Step]| {
            plan_of(&node, steps).iter().map(|one| one.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&[reset.clone(), update(&["bios"]), update(&["bmc", "nic:A"])]), "reset update update restart");
        assert_eq!(text(&[update(&["bios"]), reset.clone()]), "update reset restart");
        assert_eq!(text(&[reset.clone(), reset]), "reset restart reset restart");
        // By way of a version between.
        assert_eq!(text(&[update(&["bios", "bmc"]), update(&["bios"])]), "update restart update restart");
    }

    #[test]
    fn a_machine_that_was_off_is_off_again_and_an_instance_is_asked_before_its_power_is_cut() {
        let mut node = Node::new(Uuid::nil(), "redfish", Timestamp::UNIX_EPOCH);
        let last = Action::ReadPower;
        let plan = |node: &Node, kind| restart(node, kind, false, std::slice::from_ref(&last));
        let end = Action::EndOwnSteps;
        let service = plan(&node, StepKind::Service);
        assert_eq!(service, [Action::StopInstance, Action::PowerOn, last.clone(), end.clone()]);
        let clean = plan(&node, StepKind::Clean);
        assert_eq!(clean, [Action::PowerOff, Action::PowerOn, last.clone(), end.clone()]);
        node.power_state = Some(POWER_OFF.to_owned());
        let service = plan(&node, StepKind::Service);
        assert_eq!(service, [Action::PowerOff, Action::PowerOn, last.clone(), end, Action::PowerOff]);
        assert_eq!(restart(&node, StepKind::Clean, true, &[]), []);
    }

    #[test]
    fn what_an_older_build_planned_without_a_restart_gets_one() {
        let own = OwnStep { kind: StepKind::Clean, step: Step::new("bios", "factory_reset", 0), ramdisk: false };
        let plan = vec![Action::StageBios { own: own.clone() }, Action::ReadPower];
        let mut flow = crate::flow::Flow::new(Uuid::nil(), crate::flow::FlowKind::Clean, plan, Timestamp::UNIX_EPOCH);
        flow.advance(&[]);
        flow.hold(&own, Action::ReadSettings);
        assert_eq!(flow.held(), [Action::ReadSettings]);
        assert!(matches!(flow.actions[1], Action::RestartForSteps { ramdisk: false, .. }), "{:?}", flow.actions);
        assert_eq!(flow.actions.last(), Some(&Action::ReadPower));
    }
}
