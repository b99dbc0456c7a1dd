//! What the real ironic-python-agent answered, asked of this agent. `testdata/ipa` was recorded by
//! `ci/record/agent_api.py`; every difference that we keep is in [`KEPT`], with the reason.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use hardware::Disk;
use hardware_sim::SimMachine;
use http::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use support::{Answer, Rest, TOKEN, rig, settings};

const SLASH: &str =
    "both slash forms are answered directly: a client that does not follow a redirect on POST works too";
const PARSER: &str = "the text after the colon is that of another JSON parser";
const DOTTED: &str =
    "a quirk of the reference: a command whose first check fails has its whole name; ours always the short one";
const QUIRK: &str =
    "a defect of the reference: one wrong parameter breaks its list of commands for good; ours records it";
const CRASH: &str =
    "a defect of the reference: what is no object ends in an internal error; ours is told what is wrong";
const CANCEL: &str = "an addition of ours: DELETE stops a command, and Allow says so";
const JSON: &str = "JSON that RFC 8259 does not have, or that is not in UTF-8: the reference's parser is more lenient";
const HTTP: &str = "another HTTP server reads another thing out of an odd request line";
const STEPS: &str = "only steps that really work are offered";
const CHOICES: &str = "our text also names the steps that there are";

/// (recording, exchange, why it may differ).
const KEPT: &[(&str, &str, &str)] = &[
    ("checks.json", "1: no body", PARSER),
    ("checks.json", "1: not JSON", PARSER),
    ("checks.json", "8: a flow with an unknown extension", DOTTED),
    ("checks.json", "7 and 8: what of it was recorded", DOTTED),
    ("edges.json", "* /v1/commands/99999999-9999-4999-8999-999999999999?agent_token=TOKEN", CANCEL),
    ("edges.json", "GET //v1/", HTTP),
    ("edges.json", "GET /v1/status#x", HTTP),
    ("edges.json", "GET /v1/commands/a%2Fb", HTTP),
    ("edges.json", "GET /commands", SLASH),
    ("edges.json", "GET /status/", SLASH),
    ("edges.json", "GET /v1//", SLASH),
    ("edges.json", "a body as a form", PARSER),
    ("edges.json", "a body: Latin-1", PARSER),
    ("edges.json", "a body: a comment", PARSER),
    ("edges.json", "a body: a trailing comma", PARSER),
    ("edges.json", "a body: bytes that are no UTF-8", PARSER),
    ("edges.json", "a body: single quotes", PARSER),
    ("edges.json", "a body: two values", PARSER),
    ("edges.json", "a body: white space", PARSER),
    ("edges.json", "a body: NaN", JSON),
    ("edges.json", "a body: UTF-16", JSON),
    ("edges.json", "a body: a byte order mark", JSON),
    ("edges.json", "a body: a huge exponent", JSON),
    ("edges.json", "a body: a lone surrogate", JSON),
    ("edges.json", "a body: a number", CRASH),
    ("edges.json", "a body: a text", CRASH),
    ("edges.json", "a body: null", CRASH),
    ("edges.json", "a body: true", CRASH),
    (
        "parameters.json",
        "deploy.execute_deploy_step {\"node\": NODE, \"ports\": [], \"step\": {\"step\": null}}",
        "our text says what is wrong with the step",
    ),
    ("parameters.json", "*\"no_such_step\"}, \"clean_version\": {\"generic_hardware_manager\": \"1.2\"}}", CHOICES),
    ("parameters.json", "*\"no_such_step\"}, \"colour\": \"red\"}", CHOICES),
    ("parameters.json", "*\"no_such_step\", \"args\": null}}", CHOICES),
    ("parameters.json", "*\"no_such_step\", \"args\": {\"x\": 1}}}", CHOICES),
    ("documents.json", "v1 without the slash", SLASH),
    ("documents.json", "a command without the slash", SLASH),
    ("documents.json", "commands without the slash", SLASH),
    ("documents.json", "status with a slash", SLASH),
    ("quirk.json", "8: an unknown parameter of a synchronous command", QUIRK),
    ("quirk.json", "the list after it", QUIRK),
    ("results.json", "10: an image, and no disk fits the hints", "our text also names the disks that were looked at"),
    ("results.json", "10: clean: no such step", CHOICES),
    ("results.json", "10: deploy: no such step", CHOICES),
    ("results.json", "10: service: no such step", CHOICES),
    ("results.json", "the list, in order", DOTTED),
    ("steps.json", "clean steps", STEPS),
    ("steps.json", "deploy steps", STEPS),
    ("steps.json", "service steps", STEPS),
    (
        "steps.json",
        "the inventory, by the types of its values",
        "an addition of ours: by_id of disks, as udev would name them",
    ),
];

/// Whether a name is meant; a pattern that begins with a star means every name with that end.
fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_prefix('*').map_or(pattern == name, |end| name.ends_with(end))
}

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
        let body = match (&request["raw"], &request["bytes"], &request["body"]) {
            (Value::String(raw), ..) => raw.clone().into_bytes(),
            (_, Value::String(bytes), _) => hex::decode(bytes).unwrap(),
            (.., Value::Null) => Vec::new(),
            (.., body) => body.to_string().into_bytes(),
        };
        let sent = request["headers"].as_object().cloned().unwrap_or_default();
        let sent: Vec<(&str, &str)> = sent.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap())).collect();
        let (status, headers, body) = rest.ask(method, &path, &sent, body).await;
        let answer = Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) };
        let response = &exchange["response"];
        let expected = Answer {
            status: u16::try_from(response["status"].as_u64().unwrap()).unwrap(),
            body: response["body"].clone(),
        };
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default().to_owned();
        let headers = ["content-type", "allow"].map(header);
        let recorded = ["content-type", "allow"].map(|name| response["headers"][name].as_str().unwrap_or_default());
        if let (Some(own), Some(recorded)) = (answer.body["id"].as_str(), expected.body["id"].as_str())
            && own != "v1"
        {
            ids.insert(recorded.to_owned(), own.to_owned());
        }
        let own = normal(&answer, ids, name.contains("by the types"));
        if own != expected || headers != recorded {
            let text = format!("ours:     {headers:?} {own:?}\nrecorded: {recorded:?} {expected:?}");
            differences.insert(name.to_owned(), text);
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
    for group in [
        vec!["documents.json", "checks.json", "results.json", "steps.json"],
        vec!["quirk.json"],
        vec!["edges.json"],
        vec!["parameters.json"],
    ] {
        let rig = rig(machine(), settings());
        let rest = Rest::serve(&rig.dispatcher).await;
        let mut ids = BTreeMap::new();
        for file in group {
            for (name, difference) in replay(file, &rest, &mut ids).await {
                found.insert((file, name), difference);
            }
        }
    }
    // Until its devices have shown up, an agent is busy looking at them.
    let waiting = tokio::sync::watch::Sender::new(false);
    let built = agent::Agent::builder(std::sync::Arc::new(machine()), settings()).ready(waiting.subscribe()).build();
    let rest = Rest::serve(&built.unwrap().1).await;
    for (name, difference) in replay("busy.json", &rest, &mut BTreeMap::new()).await {
        found.insert(("busy.json", name), difference);
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
    let is_kept = |(file, name): &(&str, String)| KEPT.iter().any(|kept| kept.0 == *file && fits(kept.1, name));
    let new: Vec<String> = found
        .iter()
        .filter(|(key, _)| !is_kept(key))
        .map(|((file, name), difference)| format!("{file}: {name}\n{difference}"))
        .collect();
    assert!(new.is_empty(), "differences that nobody decided on:\n{}", new.join("\n\n"));
    let is_found = |kept: &str, pattern: &str| found.keys().any(|(file, name)| *file == kept && fits(pattern, name));
    let gone: Vec<_> = KEPT.iter().filter(|kept| !is_found(kept.0, kept.1)).collect();
    assert!(gone.is_empty(), "no longer different, so to be taken out of the table: {gone:?}");
}
