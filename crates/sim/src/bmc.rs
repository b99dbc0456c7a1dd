//! The BMCs of all machines behind one address: what sushy-emulator was recorded to say of a machine
//! (`ci/record/redfish.py`), with each machine's own identity, power, boot device and virtual CD.
//!
//! Differences, and why: a password is asked for, as BMCs do; a boot device for one boot is used up by it, as DSP0268
//! says (the emulator keeps it); everything is done at once, since the fleet is to be slow nowhere but in ferricd.

use crate::machine::Machine;
use anyhow::{Context as _, Result};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What was recorded.
const RECORDED: &str = include_str!("../../bmc/testdata/sushy.json");
/// The machine of the recording, by the last part of its paths.
const TEMPLATE: &str = "6695eb01-f6a4-8304-79aa-97f2502e193f";
/// The beginning of the identities of our machines; their number follows.
const PREFIX: &str = "51300000-0000-4000-8000-";
/// The one resource that is open to everybody (DSP0266, "Service root request").
const ROOT: &str = "/redfish/v1/";

/// Who may ask.
pub(crate) const USER: &str = "admin";
/// With which password.
pub(crate) const PASSWORD: &str = "simulated";

/// The BMCs.
pub(crate) struct Bmcs {
    resources: Map<String, Value>,
    machines: Vec<Arc<Machine>>,
    login: String,
}

/// The path of the system of a machine by its number.
pub(crate) fn system(number: usize) -> String {
    format!("/redfish/v1/Systems/{}", identity(number))
}

fn identity(number: usize) -> String {
    format!("{PREFIX}{number:012}")
}

/// The number of the machine that a path is about.
fn number(path: &str) -> Option<usize> {
    path.split('/').find_map(|part| part.strip_prefix(PREFIX))?.parse().ok()
}

impl Bmcs {
    /// BMCs of these machines, by their number.
    pub(crate) fn new(machines: Vec<Arc<Machine>>) -> Result<Arc<Self>> {
        let recorded: Value = serde_json::from_str(RECORDED).context("read what was recorded of a BMC")?;
        let resources = recorded["resources"].as_object().context("the recording of a BMC has no resources")?.clone();
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        Ok(Arc::new(Self { resources, machines, login: format!("Basic {login}") }))
    }

    /// Their service.
    pub(crate) fn router(self: Arc<Self>) -> axum::Router {
        axum::Router::new().fallback(answer).with_state(self)
    }

    fn handle(&self, method: &Method, path: &str, headers: &HeaderMap, body: &Value) -> Response {
        let named = headers.get("authorization").and_then(|value| value.to_str().ok()) == Some(self.login.as_str());
        if path != ROOT && !named {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let number = number(path);
        let machine = number.and_then(|number| self.machines.get(number));
        let identity = number.map_or_else(String::new, identity);
        let recorded = if number.is_some() { path.replace(&identity, TEMPLATE) } else { path.to_owned() };
        match (method, machine) {
            (&Method::GET, _) => self.get(&recorded, machine, &identity),
            (&Method::PATCH, Some(machine)) if is(&recorded, "") => {
                let set = &body["Boot"];
                let text = |key: &str| set[key].as_str().map(str::to_owned);
                let (target, enabled) = (text("BootSourceOverrideTarget"), text("BootSourceOverrideEnabled"));
                machine.choose_boot(target, enabled);
                StatusCode::NO_CONTENT.into_response()
            }
            (&Method::POST, Some(machine)) => act(machine, &recorded, body),
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }

    fn get(&self, recorded: &str, machine: Option<&Arc<Machine>>, identity: &str) -> Response {
        let mut resource = match self.resources.get(recorded) {
            None => return StatusCode::NOT_FOUND.into_response(),
            // A link of the emulator that leads nowhere.
            Some(Value::Number(status)) => {
                let status = status.as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
                return StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response();
            }
            Some(resource) => resource.clone(),
        };
        if let Some(machine) = machine {
            let seen = machine.seen();
            if is(recorded, "") {
                resource["Name"] = json!(machine.name);
                resource["PowerState"] = json!(if seen.on { "On" } else { "Off" });
                resource["Boot"]["BootSourceOverrideTarget"] = json!(seen.target);
                resource["Boot"]["BootSourceOverrideEnabled"] = json!(seen.enabled);
            } else if is(recorded, "/VirtualMedia/Cd") {
                resource["Image"] = json!(seen.medium.clone().unwrap_or_default());
                resource["Inserted"] = json!(seen.medium.is_some());
            }
        }
        let text = resource.to_string();
        let text = if identity.is_empty() { text } else { text.replace(TEMPLATE, identity) };
        ([("content-type", "application/json")], text).into_response()
    }
}

/// Whether a path of the recording is this one below its system.
fn is(recorded: &str, below: &str) -> bool {
    recorded.strip_prefix("/redfish/v1/Systems/").and_then(|rest| rest.strip_prefix(TEMPLATE)) == Some(below)
}

fn act(machine: &Arc<Machine>, recorded: &str, body: &Value) -> Response {
    if is(recorded, "/Actions/ComputerSystem.Reset") {
        match body["ResetType"].as_str() {
            Some("On" | "ForceOn") => machine.switch(true),
            // Nobody is asked: there is no operating system that would need time.
            Some("ForceOff" | "GracefulShutdown") => machine.switch(false),
            Some("ForceRestart" | "GracefulRestart") => machine.reset(),
            _ => return StatusCode::BAD_REQUEST.into_response(),
        }
    } else if is(recorded, "/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia") {
        let Some(url) = body["Image"].as_str() else { return StatusCode::BAD_REQUEST.into_response() };
        machine.insert(Some(url.to_owned()));
    } else if is(recorded, "/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia") {
        machine.insert(None);
    } else {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn answer(State(bmcs): State<Arc<Bmcs>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    bmcs.handle(&method, uri.path(), &headers, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_its_machine() {
        assert_eq!(number(&system(17)), Some(17));
        assert_eq!(number(&format!("{}/VirtualMedia/Cd", system(0))), Some(0));
        assert_eq!(number("/redfish/v1/Registries"), None);
    }

    #[test]
    fn the_recording_has_what_is_laid_over_it() {
        let bmcs = Bmcs::new(Vec::new()).unwrap();
        let system = &bmcs.resources[&format!("/redfish/v1/Systems/{TEMPLATE}")];
        assert_eq!(system["PowerState"], "Off");
        assert!(system["Boot"]["BootSourceOverrideTarget"].is_string());
        let drive = &bmcs.resources[&format!("/redfish/v1/Systems/{TEMPLATE}/VirtualMedia/Cd")];
        assert_eq!((&drive["Image"], &drive["Inserted"]), (&json!(""), &json!(false)));
        for action in ["InsertMedia", "EjectMedia"] {
            let target = drive["Actions"][format!("#VirtualMedia.{action}")]["target"].as_str().unwrap();
            assert!(is(target, &format!("/VirtualMedia/Cd/Actions/VirtualMedia.{action}")), "{target}");
        }
    }
}
