//! What the real ironic-python-agent answered, asked of this agent. `testdata/ipa` was recorded by
//! `ci/record/agent_api.py`; every difference that we keep is in [`KEPT`], with the reason.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use hardware::Disk;
use hardware_sim::SimMachine;
use http::Method;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use support::{Answer, Rest, TOKEN, rig, settings};

const SLASH: &str =
    "both slash forms are answered directly: a client that does not follow a redirect on POST works too";
const PARSER: &str = "the text after the colon is that of another JSON parser";
const FLOW: &str = "extension flow is not there yet";
const FLOW_LIST: &str = "the list lacks the commands of extension flow, which is not there yet";
const QUIRK: &str =
    "a defect of the reference: one wrong parameter breaks its list of commands for good; ours records it";
const STEPS: &str = "only steps that really work are offered";

/// (recording, exchange, why it may differ).
const KEPT: &[(&str, &str, &str)] = &[
    ("checks.json", "1: no body", PARSER),
    ("checks.json", "1: not JSON", PARSER),
    ("checks.json", "8: a flow with an unknown extension", FLOW),
    ("checks.json", "7 and 8: what of it was recorded", FLOW_LIST),
    ("documents.json", "v1 without the slash", SLASH),
    ("documents.json", "a command without the slash", SLASH),
    ("documents.json", "commands without the slash", SLASH),
    ("documents.json", "status with a slash", SLASH),
    ("quirk.json", "8: an unknown parameter of a synchronous command", QUIRK),
    ("quirk.json", "the list after it", QUIRK),
    ("results.json", "an asynchronous command, waited for", FLOW),
    ("results.json", "one by its identifier", FLOW),
    ("results.json", "10: a flow that fails", FLOW),
    ("results.json", "10: an image, and no disk fits the hints", "our text also names the disks that were looked at"),
    ("results.json", "the list, in order", FLOW_LIST),
    ("steps.json", "clean steps", STEPS),
    ("steps.json", "deploy steps", STEPS),
    ("steps.json", "service steps", STEPS),
];

/// Asks everything of one recording and returns the differences.
async fn replay(file: &str, rest: &Rest, ids: &mut BTreeMap<String, String>) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/ipa").join(file);
    let recorded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut differences = BTreeMap::new();
    for exchange in recorded["exchanges"].as_array().unwrap() {
        let name = exchange["name"].as_str().unwrap();
        let request = &exchange["request"];
        let method: Method = request["method"].as_str().unwrap().parse().unwrap();
        let mut path = request["path"].as_str().unwrap().replace("TOKEN", TOKEN);
        for (recorded, own) in ids.iter() {
            path = path.replace(recorded, own);
        }
        let body = match (&request["raw"], &request["body"]) {
            (Value::String(raw), _) => raw.clone(),
            (_, Value::Null) => String::new(),
            (_, body) => body.to_string(),
        };
        let answer = rest.send(method, &path, body).await;
        let expected = Answer {
            status: u16::try_from(exchange["response"]["status"].as_u64().unwrap()).unwrap(),
            body: exchange["response"]["body"].clone(),
        };
        if let (Some(own), Some(recorded)) = (answer.body["id"].as_str(), expected.body["id"].as_str())
            && own != "v1"
        {
            ids.insert(recorded.to_owned(), own.to_owned());
        }
        let own = normal(&answer, ids, name.contains("by the types"));
        if own != expected {
            differences.insert(name.to_owned(), format!("ours:     {own:?}\nrecorded: {expected:?}"));
        }
    }
    differences
}

/// Replaces what differs from run to run, as the recorder did.
fn normal(answer: &Answer, ids: &BTreeMap<String, String>, types_only: bool) -> Answer {
    let mut text = answer.body.to_string();
    for (recorded, own) in ids {
        text = text.replace(own, recorded);
    }
    let mut body: Value = serde_json::from_str(&text).unwrap();
    replace_host(&mut body);
    if let Some(started_at) = body.get_mut("started_at") {
        *started_at = "FLOAT".into();
    }
    if types_only && let Some(result) = body.get_mut("command_result") {
        *result = shape(result);
    }
    Answer { status: answer.status, body }
}

fn replace_host(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(rest) = text.strip_prefix("http://127.0.0.1:") {
                let path = rest.trim_start_matches(|c: char| c.is_ascii_digit());
                *text = format!("http://HOST{path}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(replace_host),
        Value::Object(map) => map.values_mut().for_each(replace_host),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The names of types in place of values.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(key, item)| (key.clone(), shape(item))).collect(),
        Value::Array(items) => {
            let mut shapes: Vec<Value> = Vec::new();
            for item in items.iter().map(shape) {
                if !shapes.contains(&item) {
                    shapes.push(item);
                }
            }
            shapes.into()
        }
        Value::String(_) => "str".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(number) if number.is_f64() => "float".into(),
        Value::Number(_) => "int".into(),
        Value::Null => "null".into(),
    }
}

/// A machine that knows of itself what the recorded one knew.
fn machine() -> SimMachine {
    let machine = SimMachine::new();
    machine.change(|inventory| {
        inventory.cpu.model_name = Some("Simulated".to_owned());
        inventory.cpu.frequency = Some("1000".to_owned());
        inventory.cpu.socket_count = Some(1);
        inventory.cpu.flags = vec!["fpu".to_owned()];
        inventory.memory.total = Some(1 << 30);
        inventory.memory.physical_mb = Some(1024);
        for interface in &mut inventory.interfaces {
            interface.driver = Some("veth".to_owned());
            interface.vendor = Some("0x1".to_owned());
            interface.product = Some("0x2".to_owned());
            interface.pci_address = Some("0000:00:01.0".to_owned());
        }
    });
    let disk = hardware_sim::disk("/dev/vda", 1 << 30);
    machine.add_disk(Disk { model: None, serial: None, vendor: Some("0x1".to_owned()), ..disk });
    machine
}

#[tokio::test]
async fn the_real_agents_answers_are_ours_but_for_what_we_keep() {
    let mut found = BTreeMap::new();
    // Recordings in one group are of one agent: its list of commands grows through them.
    for group in [vec!["documents.json", "checks.json", "results.json", "steps.json"], vec!["quirk.json"]] {
        let rig = rig(machine(), settings());
        let rest = Rest::serve(&rig.dispatcher).await;
        let mut ids = BTreeMap::new();
        for file in group {
            for (name, difference) in replay(file, &rest, &mut ids).await {
                found.insert((file, name), difference);
            }
        }
    }
    let without = agent::Settings { agent_token: None, ..settings() };
    let deaf = rig(SimMachine::new(), without);
    let rest = Rest::serve(&deaf.dispatcher).await;
    for (name, difference) in replay("no_token.json", &rest, &mut BTreeMap::new()).await {
        found.insert(("no_token.json", name), difference);
    }
    let driven = agent::Settings { api_urls: vec!["http://127.0.0.1:1".to_owned()], ..settings() };
    let driven = rig(SimMachine::new(), driven);
    let rest = Rest::serve(&driven.dispatcher).await;
    for (name, difference) in replay("not_alone.json", &rest, &mut BTreeMap::new()).await {
        found.insert(("not_alone.json", name), difference);
    }
    let kept: BTreeSet<(&str, String)> = KEPT.iter().map(|(file, name, _)| (*file, (*name).to_owned())).collect();
    let new: Vec<String> = found
        .iter()
        .filter(|(key, _)| !kept.contains(*key))
        .map(|((file, name), difference)| format!("{file}: {name}\n{difference}"))
        .collect();
    assert!(new.is_empty(), "differences that nobody decided on:\n{}", new.join("\n\n"));
    let gone: Vec<_> = kept.iter().filter(|key| !found.contains_key(*key)).collect();
    assert!(gone.is_empty(), "no longer different, so to be taken out of the table: {gone:?}");
}
