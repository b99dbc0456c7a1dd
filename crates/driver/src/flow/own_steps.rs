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
}

/// The actions that restart the machine for what was staged, and end with `last`.
pub fn restart(node: &Node, own: &OwnStep, last: Action) -> Vec<Action> {
    if own.ramdisk {
        let mut plan = boot_ramdisk(node, Purpose::Commands);
        plan.push(last);
        return plan;
    }
    let was_off = node.power_state.as_deref() == Some(POWER_OFF);
    let mut plan = match own.kind {
        // An instance runs: it is asked first.
        StepKind::Service if !was_off => vec![Action::StopInstance],
        StepKind::Clean | StepKind::Deploy | StepKind::Service => vec![Action::PowerOff],
    };
    plan.extend([Action::PowerOn, last]);
    if was_off {
        plan.push(Action::PowerOff);
    }
    plan
}

/// Settings of `bios.apply_configuration` right behind such a step are applied with it, so that the machine is restarted once
/// for both. Of a setting that both have, the later value counts, as it would have in the end. Returns whether `step` is part
/// of `last` now.
pub fn join(node: &Node, last: &mut Action, step: &Step) -> bool {
    let Action::StageBios { own } = last else { return false };
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

/// The actions that begin one of the driver's own steps.
pub fn actions(node: &Node, kind: StepKind, step: &Step, ramdisk: bool) -> Option<Vec<Action>> {
    let own = OwnStep { kind, step: step.clone(), ramdisk };
    Some(match Own::of(node, step)? {
        Own::ApplyBios | Own::ResetBios => vec![Action::StageBios { own }],
        Own::UpdateFirmware => vec![Action::PrepareFirmware {
            work: Updating {
                own,
                at: 0,
                task: None,
                tasks: None,
                staged: Vec::new(),
                said: Vec::new(),
                restart: false,
                before: BTreeMap::new(),
            },
        }],
    })
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

    #[test]
    fn settings_of_neighbouring_steps_are_applied_together_and_the_later_value_counts() {
        let mut node = Node::new(Uuid::nil(), "redfish", Timestamp::UNIX_EPOCH);
        node.interfaces.insert("bios".to_owned(), "redfish".to_owned());
        node.interfaces.insert("firmware".to_owned(), "redfish".to_owned());
        let apply = |settings: Value| step("bios", "apply_configuration", settings);
        let reset = Step::new("bios", "factory_reset", 0);
        let flash = step("firmware", "update", json!([{"component": "bios", "url": "http://x/y"}]));
        let plan = |steps: &[Step]| {
            let plan = crate::flow::steps::actions(&node, StepKind::Service, steps, false);
            let settings = |action: &Action| match action {
                Action::StageBios { own } => own.step.args.get("settings").cloned().unwrap_or_default(),
                other => json!(other.describe()),
            };
            plan.iter().map(settings).collect::<Vec<Value>>()
        };
        let (a, b) = (json!({"name": "A", "value": 1}), json!({"name": "B", "value": true}));
        let (one, two) = (apply(json!([a, b])), apply(json!([{"name": "A", "value": 2}])));
        let joined = json!([{"name": "A", "value": 2}, b]);
        assert_eq!(plan(&[one.clone(), two.clone()]), [joined]);
        let (one_alone, two_alone) = (json!([a, b]), json!([{"name": "A", "value": 2}]));
        // A reset, an update or a step of somebody else between them is between them.
        for between in [reset, flash, Step::new("power", "reboot", 0)] {
            let all = plan(&[one.clone(), between.clone(), two.clone()]);
            assert!(all.len() > 2 && all.first() == Some(&one_alone) && all.last() == Some(&two_alone), "{all:?}");
        }
    }

    #[test]
    fn a_machine_that_was_off_is_off_again_and_an_instance_is_asked_before_its_power_is_cut() {
        let mut node = Node::new(Uuid::nil(), "redfish", Timestamp::UNIX_EPOCH);
        let own = |kind| OwnStep { kind, step: Step::new("bios", "factory_reset", 0), ramdisk: false };
        let last = Action::ReadPower;
        let plan = restart(&node, &own(StepKind::Service), last.clone());
        assert_eq!(plan, [Action::StopInstance, Action::PowerOn, last.clone()]);
        let plan = restart(&node, &own(StepKind::Clean), last.clone());
        assert_eq!(plan, [Action::PowerOff, Action::PowerOn, last.clone()]);
        node.power_state = Some(POWER_OFF.to_owned());
        let plan = restart(&node, &own(StepKind::Service), last.clone());
        assert_eq!(plan, [Action::PowerOff, Action::PowerOn, last, Action::PowerOff]);
    }
}
