//! The API beside the real one: what Ironic 39 was recorded to answer (`testdata/ironic`, by `ci/record/ironic_api.py`)
//! is asked again, in the same order, and compared value by value.
//!
//! What may differ is in [`KEPT`], each with its reason. Error texts are compared in a snapshot of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use axum::Router;
use axum::body::Body;
use driver::api::{self, Audience};
use driver::conductor::{Conductor, Parts, Settings};
use driver::hardware_type::{Enabled, Interface};
use http::{HeaderMap, Request};
use serde_json::Value;
use std::sync::Arc;
use store::MemoryStore;
use tower::ServiceExt as _;

/// Where the answers may differ: the beginning of `file: exchange: place`, and why. `*` stands for any exchange.
const KEPT: &[(&str, &str)] = &[
    ("root: *: .description", "we are not OpenStack's"),
    ("root: *: .links[1].href", "the reference writes double slashes"),
    ("drivers: its properties: .B", "two properties that the reference's fake vendor interface makes up"),
    ("conductors: *: .conductors[0].updated_at", "there is no heartbeat of conductors: alive is what answers"),
    ("conductors: *: .updated_at", "there is no heartbeat of conductors: alive is what answers"),
    ("nodes: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("nodes: validate: ", "interfaces without a fake are not supported; vendor is listed as well"),
    ("nodes: patch: .reservation", "the reference shows its own lock of the request in the answer"),
    ("nodes: supported boot devices: ", "those that any machine of ours has"),
    ("nodes: history: .history", "we record maintenance"),
    ("errors: not JSON: status", "400 where the reference breaks with 500"),
    ("errors: not JSON: .faultcode", "400 where the reference breaks with 500"),
    ("chassis: create: .nodes", "the reference wraps the links in a list of their own by mistake"),
    ("chassis: show: .nodes", "the reference wraps the links in a list of their own by mistake"),
    ("chassis: patch: .nodes", "the reference wraps the links in a list of their own by mistake"),
    ("chassis: in detail: .chassis[0].nodes", "the reference wraps the links in a list of their own by mistake"),
    ("chassis: put a node in it: ", "no fakes by default; the reference shows its own lock of the request"),
    ("chassis: take the node out: ", "no fakes by default; the reference shows its own lock of the request"),
    ("chassis: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("portgroups: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("volume_connectors: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("volume_targets: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("deploy_templates: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("runbooks: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("inspection_rules: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("inspection_rules: *: .links", "the reference links to /v1/inspection, which is not there"),
    ("inspection_rules: *: .inspection_rules[0].links", "the reference links to /v1/inspection, which is not there"),
    ("inspection_rules: patch: the identifier: status", "400 as for other resources"),
    ("inspection_rules: create with an identifier that is none: ", "the reference takes any text for an identifier"),
    ("inspection_rules: an argument", "400 where the reference breaks with 500"),
    ("devices: indicators before there were any: ", "hidden before 1.63 as documented; the reference serves it"),
    ("provision: a key newer than the version: status", "406 whatever the state, as for other keys"),
];

/// Which files, and how many exchanges of each: what follows needs a machine.
const REPLAYED: &[(&str, usize)] = &[
    ("root", usize::MAX),
    ("versions", usize::MAX),
    ("conductors", usize::MAX),
    ("drivers", usize::MAX),
    ("nodes", usize::MAX),
    ("ports", usize::MAX),
    ("errors", usize::MAX),
    ("chassis", usize::MAX),
    ("portgroups", usize::MAX),
    ("volume_connectors", usize::MAX),
    ("volume_targets", usize::MAX),
    ("deploy_templates", usize::MAX),
    ("runbooks", usize::MAX),
    ("inspection_rules", usize::MAX),
    ("allocations", usize::MAX),
    ("devices", usize::MAX),
    ("lookup", 8),
    ("heartbeat", 16),
    ("provision", 22),
    ("deletion", usize::MAX),
];

/// What the recorder's Ironic has enabled.
const ENABLED: [(Interface, &str); 13] = [
    (Interface::Bios, "fake,no-bios"),
    (Interface::Boot, "fake"),
    (Interface::Console, "fake,no-console"),
    (Interface::Deploy, "direct,fake"),
    (Interface::Firmware, "fake,no-firmware"),
    (Interface::Inspect, "agent,fake,no-inspect"),
    (Interface::Management, "fake"),
    (Interface::Network, "noop"),
    (Interface::Power, "fake"),
    (Interface::Raid, "fake,no-raid"),
    (Interface::Rescue, "fake,no-rescue"),
    (Interface::Storage, "noop"),
    (Interface::Vendor, "fake,no-vendor"),
];

const HEADERS: &[&str] = &[
    "x-openstack-ironic-api-version",
    "x-openstack-ironic-api-minimum-version",
    "x-openstack-ironic-api-maximum-version",
    "content-type",
    "location",
];

async fn router(data: &std::path::Path) -> Router {
    let mut settings = Settings::new("recorder", data, "http://127.0.0.1");
    settings.hardware = Enabled::read(Some("fake-hardware"), ENABLED.map(|(kind, list)| (kind, Some(list), None))).unwrap();
    let conductor = Conductor::start(Arc::new(MemoryStore::new()), settings, Parts::real()).await.unwrap();
    api::router(conductor, Audience::Everybody)
}

async fn ask(router: &Router, request: &Value) -> (u16, HeaderMap, Value) {
    let body = match (request.get("raw"), request.get("body")) {
        (Some(Value::String(raw)), _) => raw.clone(),
        (_, Some(body)) => body.to_string(),
        _ => String::new(),
    };
    let mut builder = Request::builder()
        .method(request["method"].as_str().unwrap())
        .uri(request["path"].as_str().unwrap())
        .header("host", "HOST");
    for (name, value) in request.get("headers").and_then(Value::as_object).into_iter().flatten() {
        builder = builder.header(name, value.as_str().unwrap());
    }
    let response = router.clone().oneshot(builder.body(Body::from(body)).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = transport::body::read(body, 1 << 24).await.unwrap();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    (head.status.as_u16(), head.headers, body)
}

/// A place-holder of the recorder stands for what differs from run to run.
fn is_placeholder(text: &str) -> bool {
    text == "TIMESTAMP" || text.starts_with("UUID")
}

fn compare(place: &str, theirs: &Value, ours: &Value, found: &mut Vec<(String, String)>) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let place = format!("{place}.{name}");
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => compare(&place, a, b, found),
                    (Some(a), None) => found.push((place, format!("only theirs: {a}"))),
                    (None, Some(b)) => found.push((place, format!("only ours: {b}"))),
                    (None, None) => {}
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{place}[{index}]"), a, b, found);
            }
        }
        (Value::String(a), Value::String(_)) if is_placeholder(a) => {}
        (a, b) if a == b => {}
        (a, b) => found.push((place.to_owned(), format!("theirs {a}, ours {b}"))),
    }
}

/// The inner object of an error; the recorder may have taken it apart already.
fn inner(body: &Value) -> Option<Value> {
    match body.get("error_message")? {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    }
}

fn kept(place: &str) -> Option<usize> {
    let (file, rest) = place.split_once(": ")?;
    KEPT.iter().position(|(pattern, _)| {
        let any = pattern
            .strip_prefix(&format!("{file}: *: "))
            .is_some_and(|wanted| rest.split_once(": ").is_some_and(|(_, tail)| tail.starts_with(wanted)));
        any || place.starts_with(pattern)
    })
}

#[tokio::test]
async fn what_ironic_was_recorded_to_answer_is_answered() {
    let data = tempfile::tempdir().unwrap();
    let router = router(data.path()).await;
    let (mut unexpected, mut texts, mut used) = (String::new(), String::new(), vec![false; KEPT.len()]);
    for (file, count) in REPLAYED {
        let path = format!("{}/testdata/ironic/{file}.json", env!("CARGO_MANIFEST_DIR"));
        let recorded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for exchange in recorded["exchanges"].as_array().unwrap().iter().take(*count) {
            let name = exchange["name"].as_str().unwrap();
            let theirs = &exchange["response"];
            let (status, headers, mut body) = ask(&router, &exchange["request"]).await;
            let mut found = Vec::new();
            if theirs["status"] != status {
                found.push(("status".to_owned(), format!("theirs {}, ours {status}", theirs["status"])));
            }
            for header in HEADERS {
                let ours = headers.get(*header).map(|value| value.to_str().unwrap());
                let expected = theirs["headers"].get(*header).and_then(Value::as_str);
                if ours != expected && !expected.is_some_and(|text| text.contains("UUID")) {
                    found.push((format!("header {header}"), format!("theirs {expected:?}, ours {ours:?}")));
                }
            }
            let mut expected = theirs["body"].clone();
            if let (Some(mut a), Some(mut b)) = (inner(&expected), inner(&body)) {
                for key in ["faultstring", "description"] {
                    let (theirs, ours) = (a.get(key).cloned(), b.get(key).cloned());
                    if theirs != ours {
                        let show = |text: Option<Value>| {
                            let text = text.and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default();
                            text.chars().take(300).collect::<String>().replace('\n', " ")
                        };
                        texts.push_str(&format!(
                            "{file}: {name}\n  theirs {}\n  ours   {}\n",
                            show(theirs),
                            show(ours)
                        ));
                    }
                    for side in [&mut a, &mut b] {
                        side.as_object_mut().unwrap().remove(key);
                    }
                }
                (expected, body) = (a, b);
            }
            compare("", &expected, &body, &mut found);
            for (place, what) in found {
                let place = format!("{file}: {name}: {place}");
                match kept(&place) {
                    Some(index) => used[index] = true,
                    None => unexpected.push_str(&format!("{place}: {what}\n")),
                }
            }
        }
    }
    assert!(unexpected.is_empty(), "differences that nobody gave a reason for:\n{unexpected}");
    let idle: Vec<&str> = KEPT.iter().zip(used).filter(|(_, used)| !used).map(|((pattern, _), _)| *pattern).collect();
    assert!(idle.is_empty(), "reasons for differences that there are not: {idle:?}");
    insta::assert_snapshot!("texts_that_differ", texts);
}
