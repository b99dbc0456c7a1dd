//! What would be lost: which disks of a node a request overwrites or erases, as far as its inventory and its settings tell.

use crate::api::{Api, ApiError, Node, path};
use crate::table;
use hardware::Disk;
use hardware::hint::{check_skipped, select_root, without_skipped};
use lifecycle::provision::Kind;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;

/// What a request does to the data of a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Does {
    /// Writes an image to the root disk; hints of the request count before the node's own.
    WritesImage { hints: Option<Value> },
    /// Stops the instance and, unless that is turned off, runs automated cleaning.
    CleansUp { instance: bool },
    /// Runs these steps.
    Steps(Vec<Value>),
    /// Runs the steps of a runbook.
    Runbook(String),
    /// Stops the instance for a while; its disks stay.
    Interrupts,
    /// Forgets the node.
    Forgets,
    /// Switches the machine on.
    SwitchesOn,
    /// Switches it off, or off and on: without asking its operating system when `at_once`.
    SwitchesOff { at_once: bool },
    /// Ends what is under way in the middle.
    GivesUp,
}

impl Does {
    /// What the disks of the node have nothing to do with.
    fn spares_disks(&self) -> bool {
        match self {
            Self::Interrupts | Self::Forgets | Self::SwitchesOn | Self::SwitchesOff { .. } | Self::GivesUp => true,
            Self::WritesImage { .. } | Self::CleansUp { .. } | Self::Steps(_) | Self::Runbook(_) => false,
        }
    }

    /// What speaks against doing it unasked, as a predicate.
    pub(crate) fn costs(&self) -> &'static str {
        match self {
            Self::Interrupts | Self::SwitchesOn | Self::SwitchesOff { .. } => "stops what runs there",
            Self::GivesUp => "ends work in the middle",
            Self::Forgets | Self::WritesImage { .. } | Self::CleansUp { .. } | Self::Steps(_) | Self::Runbook(_) => {
                "destroys data"
            }
        }
    }
}

/// States of a node on which nothing is lost that somebody would miss: it has no instance and is not at work.
const IDLE: [&str; 5] = ["manageable", "available", "inspect failed", "clean failed", "deploy failed"];

/// Whether something ends when this node is switched off: an instance, or the work of the driver. Of a node that was only
/// recorded nobody knows what runs on it.
pub(crate) fn is_in_use(node: &Node) -> bool {
    node.text("power_state") != Some("power off") && !IDLE.contains(&node.state())
}

/// A disk, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Fate {
    name: String,
    size: u64,
    model: Option<String>,
    serial: Option<String>,
    wwn: Option<String>,
    fate: String,
}

/// What a node would lose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Loss {
    node: String,
    uuid: String,
    provision_state: String,
    action: String,
    /// Disks that would lose what is on them.
    disks: Vec<Fate>,
    /// What else is to be known, first of all why disks are not known.
    notes: Vec<String>,
}

impl Loss {
    /// With the reason for which the service would refuse it now, if it would.
    pub(crate) fn refused(mut self, remedy: Option<String>) -> Self {
        if let Some(remedy) = remedy {
            self.notes.insert(0, format!("not possible now, in this state: {remedy}"));
        }
        self
    }
}

/// What becomes of work that is ended.
const HALF_DONE: &str = "what is being written, erased or updated on it stays half done";

/// What is known of a node's disks.
enum Known {
    Disks(Vec<Disk>),
    Never,
    Imaginary,
}

/// What `action` would cost a node.
pub(crate) async fn loss(api: &Api, node: &Node, action: &str, does: &Does) -> Result<Loss, ApiError> {
    let known = if does.spares_disks() { Known::Never } else { disks(api, node).await? };
    Ok(judge(node, action, does, known))
}

async fn disks(api: &Api, node: &Node) -> Result<Known, ApiError> {
    if node.text("deploy_interface") == Some("fake") {
        return Ok(Known::Imaginary);
    }
    match api.get(&path(&["v1", "nodes", node.uuid(), "inventory"])).await {
        Ok(document) => {
            let list = document.pointer("/inventory/disks").and_then(Value::as_array).cloned().unwrap_or_default();
            Ok(Known::Disks(list.into_iter().map(disk_of).collect()))
        }
        Err(ApiError::NotFound { .. } | ApiError::TooOld { .. } | ApiError::NoRoute { .. }) => Ok(Known::Never),
        Err(error) => Err(error),
    }
}

/// A disk of an inventory. One that an agent describes in too few words is a disk all the same.
fn disk_of(mut value: Value) -> Disk {
    let name = value.get("name").and_then(Value::as_str).unwrap_or("a disk without a name").to_owned();
    let size = value.get("size").and_then(Value::as_u64).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.entry("rotational").or_insert(Value::Bool(false));
    }
    serde_json::from_value(value).unwrap_or_else(|_| Disk { name, size, ..Disk::default() })
}

fn judge(node: &Node, action: &str, does: &Does, known: Known) -> Loss {
    let mut loss = Loss {
        node: node.title().to_owned(),
        uuid: node.uuid().to_owned(),
        provision_state: node.state().to_owned(),
        action: action.to_owned(),
        disks: Vec::new(),
        notes: Vec::new(),
    };
    match does {
        Does::Interrupts => loss.notes.push("nothing on its disks; what runs on it is stopped".to_owned()),
        Does::Forgets => {
            loss.notes.push("nothing on its disks; its record, ports, inventory and history are gone".to_owned());
        }
        Does::SwitchesOn => loss.notes.push("nothing; it is switched on".to_owned()),
        Does::SwitchesOff { .. } if !is_in_use(node) => {
            loss.notes.push("nothing; no instance runs on it, and it is not at work".to_owned());
        }
        Does::SwitchesOff { at_once } => {
            let how = if *at_once { "ends at once, with what it has not written yet" } else { "is told to end" };
            loss.notes.push(format!("what runs on it {how}"));
            if !matches!(node.kind(), Kind::Stable | Kind::Failed) {
                loss.notes.push(HALF_DONE.to_owned());
            }
        }
        Does::GivesUp => {
            loss.notes.push("what is under way is given up".to_owned());
            loss.notes.push(HALF_DONE.to_owned());
        }
        Does::WritesImage { hints } => image(&mut loss, node, hints.as_ref(), known),
        Does::CleansUp { instance } => {
            if *instance {
                loss.notes.push("the instance is stopped, and what is recorded of it is forgotten".to_owned());
            }
            clean(&mut loss, node, known);
        }
        Does::Steps(steps) => {
            let mut known = known;
            for step in steps {
                known = one_step(&mut loss, node, step, known);
            }
        }
        Does::Runbook(name) => loss.notes.push(format!("what the steps of runbook {name} destroy is not known here")),
    }
    loss
}

/// The disks that the node's settings do not leave out.
fn considered(node: &Node, disks: Vec<Disk>, notes: &mut Vec<String>) -> Vec<Disk> {
    let skip = node.object("properties").remove("skip_block_devices");
    match without_skipped(disks.clone(), skip.as_ref()) {
        Ok(rest) => {
            let gone: Vec<&str> =
                disks.iter().filter(|disk| !rest.contains(disk)).map(|disk| disk.name.as_str()).collect();
            if !gone.is_empty() {
                notes.push(format!("left alone: {} (properties/skip_block_devices)", gone.join(", ")));
            }
            if let Err(error) = check_skipped(&disks, skip.as_ref()) {
                notes.push(format!("an erasure will be refused: {error}"));
            }
            rest
        }
        Err(error) => {
            notes.push(format!("properties/skip_block_devices cannot be used: {error}"));
            disks
        }
    }
}

fn unknown(node: &Node) -> String {
    let inspected = match node.state() {
        // Elsewhere there is a way to it first.
        "manageable" | "enroll" => "; `ferric inspect` finds out",
        _ => "",
    };
    format!("which disks is not known: it was never inspected{inspected}")
}

const IMAGINARY: &str = "nothing: its deploy interface is \"fake\", so there is no machine";

fn fate(disk: &Disk, fate: &str) -> Fate {
    Fate {
        name: disk.name.clone(),
        size: disk.size,
        model: disk.model.clone(),
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        fate: fate.to_owned(),
    }
}

fn image(loss: &mut Loss, node: &Node, hints: Option<&Value>, known: Known) {
    let disks = match known {
        Known::Disks(disks) => considered(node, disks, &mut loss.notes),
        Known::Never => return loss.notes.push(unknown(node)),
        Known::Imaginary => return loss.notes.push(IMAGINARY.to_owned()),
    };
    let (properties, info) = (node.object("properties"), node.object("instance_info"));
    let hints = hints.or_else(|| info.get("root_device")).or_else(|| properties.get("root_device"));
    let hints = hints.filter(|hints| !hints.is_null());
    match select_root(&disks, hints) {
        Ok(root) => {
            let why = match hints {
                Some(hints) => format!("overwritten by the image (root device hints {hints})"),
                None => "overwritten by the image (no root device hints: the smallest of 4 GiB or more)".to_owned(),
            };
            loss.disks.push(fate(root, &why));
            loss.notes.push("as it was inspected last; the disk is chosen anew when the ramdisk runs".to_owned());
        }
        Err(error) => loss.notes.push(format!("no disk: {error}")),
    }
}

fn clean(loss: &mut Loss, node: &Node, known: Known) {
    if node.0.get("automated_clean") == Some(&Value::Bool(false)) {
        return loss.notes.push("nothing on its disks: automated cleaning is off for this node".to_owned());
    }
    let disks = match known {
        Known::Disks(disks) => considered(node, disks, &mut loss.notes),
        Known::Never => return loss.notes.push(format!("automated cleaning erases disks; {}", unknown(node))),
        Known::Imaginary => return loss.notes.push(IMAGINARY.to_owned()),
    };
    loss.disks.extend(disks.iter().map(|disk| fate(disk, "erased by automated cleaning")));
    loss.notes
        .push("the site's settings say which steps that is, from partition tables to every byte, or none".to_owned());
}

fn one_step(loss: &mut Loss, node: &Node, step: &Value, known: Known) -> Known {
    let word = |key: &str| step.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = format!("{}.{}", word("interface"), word("step"));
    let what = match word("step") {
        "erase_devices_metadata" => "loses partition tables and signatures",
        "erase_devices" | "erase_devices_express" => "erased",
        "create_configuration" | "delete_configuration" | "apply_configuration" if word("interface") == "raid" => {
            "lost where it is part of a RAID"
        }
        "write_image" => {
            image(loss, node, None, known);
            return Known::Never;
        }
        _ => {
            loss.notes.push(format!("what step {name} destroys, if anything, is not known here"));
            return known;
        }
    };
    match known {
        Known::Disks(disks) => {
            let rest = considered(node, disks.clone(), &mut loss.notes);
            loss.disks.extend(rest.iter().map(|disk| fate(disk, &format!("{what} ({name})"))));
            return Known::Disks(disks);
        }
        Known::Never => loss.notes.push(format!("{name}: {}", unknown(node))),
        Known::Imaginary => loss.notes.push(IMAGINARY.to_owned()),
    }
    known
}

/// The losses for people, in lines of at most `width` characters. Nodes that lose the same are told of together.
pub(crate) fn text(losses: &[Loss], width: usize) -> String {
    let mut groups: Vec<(Vec<&Loss>, Vec<&str>)> = Vec::new();
    for loss in losses {
        let mut fates: Vec<&str> = Vec::new();
        for disk in &loss.disks {
            if !fates.contains(&disk.fate.as_str()) {
                fates.push(&disk.fate);
            }
        }
        let same = |(others, told): &&mut (Vec<&Loss>, Vec<&str>)| {
            *told == fates
                && others.iter().all(|other| {
                    (&other.action, &other.provision_state, &other.notes)
                        == (&loss.action, &loss.provision_state, &loss.notes)
                })
        };
        match groups.iter_mut().find(same) {
            Some((others, _)) => others.push(loss),
            None => groups.push((vec![loss], fates)),
        }
    }
    groups.iter().map(|(losses, fates)| group(losses, fates, width)).collect()
}

fn group(losses: &[&Loss], fates: &[&str], width: usize) -> String {
    let [first, ..] = losses else { return String::new() };
    let mut text = String::new();
    let many = losses.len() > 1;
    let what = if fates.is_empty() { "" } else { " destroys what is on" };
    let who = if many { format!("{} nodes", losses.len()) } else { table::plain(&first.node) };
    writeln!(text, "{} {who} ({}){what}:", first.action, first.provision_state).ok();
    let mut below = |indent: usize, paragraph: &str| {
        let blank = " ".repeat(indent);
        let lines = table::wrap(paragraph, width.saturating_sub(indent));
        writeln!(text, "{blank}{}", lines.replace('\n', &format!("\n{blank}"))).ok();
    };
    if many && fates.is_empty() {
        let names: Vec<String> = losses.iter().map(|loss| table::plain(&loss.node)).collect();
        below(2, &names.join(", "));
    }
    let named = losses.iter().map(|loss| loss.node.chars().count()).max().unwrap_or(0);
    for fate in fates {
        let disks = losses.iter().flat_map(|loss| loss.disks.iter().map(move |disk| (loss, disk)));
        for (loss, disk) in disks.filter(|(_, disk)| disk.fate == *fate) {
            let node = if many { format!("{:<named$}  ", loss.node) } else { String::new() };
            below(2, &table::plain(&format!("{node}{}", described(disk))));
        }
        below(4, fate);
    }
    first.notes.iter().for_each(|note| below(2, note));
    text
}

/// A disk in one line.
fn described(disk: &Fate) -> String {
    let of = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let parts =
        [Some(table::size(disk.size)), of(&disk.model), of(&disk.serial).map(|serial| format!("serial {serial}"))];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}  {}", disk.name, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn disk(name: &str, gib: u64, serial: &str) -> Disk {
        Disk {
            name: name.to_owned(),
            size: gib << 30,
            model: Some("MODEL".to_owned()),
            serial: Some(serial.to_owned()),
            ..Disk::default()
        }
    }

    fn all() -> Known {
        Known::Disks(vec![disk("/dev/sda", 900, "BIG"), disk("/dev/sdb", 400, "SMALL"), disk("/dev/sdc", 2, "TINY")])
    }

    #[test]
    fn a_disk_that_is_not_understood_is_listed_all_the_same() {
        let disk = disk_of(json!({"name": "/dev/sdx", "size": 7, "serial": 12}));
        assert_eq!((disk.name.as_str(), disk.size), ("/dev/sdx", 7));
        assert_eq!(disk_of(json!({"name": "/dev/sdy", "size": 8})).serial, None);
        assert_eq!(disk_of(json!("sda")).name, "a disk without a name");
    }

    #[test]
    fn switching_off_costs_what_runs_and_nothing_where_nothing_runs() {
        let told = |state: &str, power: &str, does: Does| {
            let node = Node(json!({"uuid": "u-1", "provision_state": state, "power_state": power}));
            (is_in_use(&node), judge(&node, "power off", &does, Known::Never).notes.join("; "))
        };
        let off = || Does::SwitchesOff { at_once: true };
        let nothing = "nothing; no instance runs on it, and it is not at work".to_owned();
        let ends = "what runs on it ends at once, with what it has not written yet";
        assert_eq!(told("available", "power on", off()), (false, nothing.clone()));
        assert_eq!(told("active", "power off", off()), (false, nothing));
        assert_eq!(told("active", "power on", off()), (true, ends.to_owned()));
        assert_eq!(told("clean wait", "power on", off()), (true, format!("{ends}; {HALF_DONE}")));
        let asked = told("active", "power on", Does::SwitchesOff { at_once: false });
        assert_eq!(asked, (true, "what runs on it is told to end".to_owned()));
        // What runs on a machine that was only recorded is not known.
        assert!(told("enroll", "power on", off()).0);
        assert_eq!(
            told("clean wait", "power on", Does::GivesUp).1,
            format!("what is under way is given up; {HALF_DONE}")
        );
    }

    #[test]
    fn each_request_names_the_disks_that_it_destroys() {
        let node = |more: Value| {
            let mut node =
                json!({"uuid": "u-1", "name": "n1", "provision_state": "available", "deploy_interface": "direct"});
            node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Node(node)
        };
        let steps = |names: &[&str]| Does::Steps(names.iter().map(|name| crate::input::step(name).unwrap()).collect());
        let plain = node(json!({}));
        let choosy = node(
            json!({"properties": {"root_device": {"serial": "BIG"}, "skip_block_devices": [{"serial": "SMALL"}]}}),
        );
        let kept = node(json!({"automated_clean": false}));
        let image = Does::WritesImage { hints: None };
        let losses = [
            judge(&plain, "deploy", &image, all()),
            judge(&choosy, "deploy", &image, all()),
            judge(&choosy, "deploy", &Does::WritesImage { hints: Some(json!({"serial": "SMALL"})) }, all()),
            judge(&plain, "deploy", &image, Known::Never),
            judge(&plain, "deploy", &image, Known::Imaginary),
            judge(&choosy, "undeploy", &Does::CleansUp { instance: true }, all()),
            judge(&kept, "provide", &Does::CleansUp { instance: false }, all()),
            judge(&choosy, "clean", &steps(&["erase_devices_metadata", "vendor.flash"]), all()),
            judge(&plain, "service", &Does::Runbook("CUSTOM_FLASH".to_owned()), all()),
            judge(&plain, "rescue", &Does::Interrupts, Known::Never),
            judge(&plain, "delete", &Does::Forgets, Known::Never),
        ];
        let alone: String = losses.iter().map(|loss| text(std::slice::from_ref(loss), 80)).collect();
        insta::assert_snapshot!(alone);
        insta::assert_json_snapshot!(losses[0]);
    }

    #[test]
    fn nodes_that_lose_the_same_are_told_of_together() {
        let node = |number: usize, state: &str| {
            Node(json!({"uuid": format!("u-{number}"), "name": format!("rack1-n{number}"), "provision_state": state}))
        };
        let off = Does::SwitchesOff { at_once: true };
        let clean = Does::CleansUp { instance: false };
        let known = |number: usize| {
            let disks = [disk("/dev/sda", 447, &format!("A{number}")), disk("/dev/sdb", 900, &format!("B{number}"))];
            Known::Disks(disks.into_iter().take(1 + number % 2).collect())
        };
        let mut losses: Vec<Loss> =
            (1..=30).map(|n| judge(&node(n, "active"), "power off", &off, Known::Never)).collect();
        losses.push(judge(&node(31, "clean wait"), "power off", &off, Known::Never));
        losses.extend((8..=11).map(|n| judge(&node(n, "manageable"), "provide", &clean, known(n))));
        losses.push(judge(&node(12, "manageable"), "provide", &clean, Known::Never));
        let text = text(&losses, 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text);
    }
}
