//! What is said between the agent and an executable hardware manager: one JSON document a line.

use hardware::{Progress, StepKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version of these messages. It changes when a manager that was written for the old ones would misunderstand.
pub const PROTOCOL: u32 = 1;

/// The one line that a manager reads.
#[derive(Debug, Serialize)]
pub(super) struct Request<'a> {
    /// Repeated in every answer.
    pub(super) id: u64,
    /// [`PROTOCOL`].
    pub(super) protocol: u32,
    /// `describe` or `run`.
    pub(super) method: &'a str,
    /// What the method needs.
    pub(super) params: Value,
}

/// One line of a manager.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// It goes on.
    Progress(Progress),
    /// It is done.
    Result(Value),
    /// It failed.
    Error(Failure),
}

/// How a manager failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Failure {
    /// A class of the agent protocol such as `CleaningError`; another name counts as the failure of a step.
    #[serde(default)]
    pub class: String,
    /// The whole reason, for people.
    pub details: String,
}

/// What is not an answer, in words that go on "it wrote a line that …".
pub(super) fn read(line: &[u8], id: u64) -> Result<Answer, String> {
    let mut answer: Map<String, Value> =
        wire::json::read(line).map_err(|error| format!("is not a JSON object: {error}"))?;
    match answer.get("id") {
        Some(found) if found.as_u64() == Some(id) => {}
        Some(found) => return Err(format!("answers request {found}, and {id} was asked")),
        None => return Err("has no \"id\"".to_owned()),
    }
    let mut take = |name: &str| answer.remove(name);
    match (take("progress"), take("result"), take("error")) {
        (Some(progress), None, None) => {
            let told: Told = typed("progress", progress)?;
            let Told { stage, done, total } = told;
            Ok(Answer::Progress(Progress { stage, done, total, rate: 0, eta: None, stalled: None }))
        }
        (None, Some(result), None) => Ok(Answer::Result(result)),
        (None, None, Some(error)) => Ok(Answer::Error(typed("error", error)?)),
        _ => Err("has not exactly one of \"progress\", \"result\" and \"error\"".to_owned()),
    }
}

fn typed<T: serde::de::DeserializeOwned>(name: &str, value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("has a wrong \"{name}\": {error}"))
}

#[derive(Deserialize)]
struct Told {
    stage: String,
    done: u64,
    #[serde(default)]
    total: Option<u64>,
}

/// The result of `describe`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) class_name: Option<String>,
    pub(super) support: u32,
    #[serde(default)]
    pub(super) steps: Steps,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Steps {
    pub(super) clean: Vec<Offer>,
    pub(super) deploy: Vec<Offer>,
    pub(super) service: Vec<Offer>,
}

impl Steps {
    pub(super) fn of(&self, kind: StepKind) -> &[Offer] {
        match kind {
            StepKind::Clean => &self.clean,
            StepKind::Deploy => &self.deploy,
            StepKind::Service => &self.service,
        }
    }
}

/// A step that a manager offers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Offer {
    pub(super) step: String,
    pub(super) interface: String,
    #[serde(default)]
    pub(super) priority: i64,
    #[serde(default)]
    pub(super) abortable: bool,
    #[serde(default)]
    pub(super) reboot_requested: bool,
    #[serde(default)]
    pub(super) argsinfo: Option<Map<String, Value>>,
    /// Seconds.
    #[serde(default)]
    pub(super) deadline: Option<u64>,
}

/// Interfaces that a step can belong to (`ironic/conductor/steps.py`).
const INTERFACES: [&str; 8] = ["power", "management", "firmware", "deploy", "bios", "raid", "vendor", "network"];
/// A support level above this is a mistake.
const MOST_SUPPORT: u32 = 100;
/// Steps of one kind.
const MOST_STEPS: usize = 64;
/// Seconds: a day.
const LONGEST: u64 = 24 * 60 * 60;

impl Description {
    /// Reads and checks a description.
    pub(super) fn read(value: Value) -> Result<Self, String> {
        let found: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let names = [("name", &found.name), ("version", &found.version), ("class_name", found.class_name())];
        for (key, text) in names {
            let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+'));
            if text.is_empty() || text.len() > 64 || !plain {
                return Err(format!("{key} {text:?} is not 1 to 64 letters, digits, or _ - . +"));
            }
        }
        if found.support > MOST_SUPPORT {
            return Err(format!("support {} is above {MOST_SUPPORT}", found.support));
        }
        for kind in [StepKind::Clean, StepKind::Deploy, StepKind::Service] {
            let offers = found.steps.of(kind);
            if offers.len() > MOST_STEPS {
                return Err(format!("{} {} steps are more than {MOST_STEPS}", offers.len(), kind.as_str()));
            }
            for (index, offer) in offers.iter().enumerate() {
                offer.check().map_err(|why| format!("{} step {:?}: {why}", kind.as_str(), offer.step))?;
                if offers.iter().take(index).any(|other| other.step == offer.step) {
                    return Err(format!("{} step {:?} is offered twice", kind.as_str(), offer.step));
                }
            }
        }
        Ok(found)
    }

    pub(super) fn class_name(&self) -> &String {
        self.class_name.as_ref().unwrap_or(&self.name)
    }
}

impl Offer {
    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.step.is_empty() || self.step.len() > 64 || !self.step.chars().all(plain) {
            return Err("its name is not 1 to 64 lower-case letters, digits or _".to_owned());
        }
        if !INTERFACES.contains(&self.interface.as_str()) {
            return Err(format!("interface {:?} is none of {}", self.interface, INTERFACES.join(", ")));
        }
        if self.priority < 0 {
            return Err(format!("priority {} is below 0", self.priority));
        }
        if self.deadline.is_some_and(|deadline| deadline == 0 || deadline > LONGEST) {
            return Err(format!("its deadline is not between 1 and {LONGEST} s"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_has_the_id_of_its_request_and_says_one_thing() {
        assert_eq!(read(br#"{"id": 7, "result": null}"#, 7), Ok(Answer::Result(Value::Null)));
        let progress = br#"{"id": 7, "progress": {"stage": "flash", "done": 3}, "more": 1}"#;
        assert!(matches!(read(progress, 7), Ok(Answer::Progress(Progress { done: 3, total: None, .. }))));
        for (line, wanted) in [
            ("flashing...", "is not a JSON object"),
            ("[1]", "is not a JSON object"),
            ("", "is not a JSON object"),
            (r#"{"result": 1}"#, "has no \"id\""),
            (r#"{"id": 8, "result": 1}"#, "answers request 8, and 7 was asked"),
            (r#"{"id": "7", "result": 1}"#, "answers request \"7\""),
            (r#"{"id": 7}"#, "exactly one"),
            (r#"{"id": 7, "result": 1, "error": {"details": "x"}}"#, "exactly one"),
            (r#"{"id": 7, "progress": 50}"#, "wrong \"progress\""),
            (r#"{"id": 7, "error": "it broke"}"#, "wrong \"error\""),
        ] {
            let error = read(line.as_bytes(), 7).unwrap_err();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }

    #[test]
    fn a_description_is_checked_to_the_last_field() {
        let with = |change: &dyn Fn(&mut Value)| {
            let step = json!({"step": "flash", "interface": "firmware"});
            let mut whole = json!({"name": "acme", "version": "1.0", "support": 3, "steps": {"clean": [step]}});
            change(&mut whole);
            Description::read(whole)
        };
        assert_eq!(with(&|_| ()).unwrap().class_name(), "acme");
        let set = |path: &'static str, value: Value| {
            with(&|whole: &mut Value| *whole.pointer_mut(path).unwrap() = value.clone()).unwrap_err()
        };
        assert!(set("/name", json!("")).contains("name \"\""));
        assert!(set("/version", json!("1 0")).contains("version"));
        assert!(set("/support", json!(-1)).contains("-1"));
        assert!(set("/support", json!(101)).contains("above 100"));
        assert!(set("/steps/clean/0/step", json!("Flash it")).contains("lower-case"));
        assert!(set("/steps/clean/0/interface", json!("nic")).contains("none of power"));
        let twice = json!([{"step": "a", "interface": "raid"}, {"step": "a", "interface": "bios"}]);
        assert!(set("/steps/clean", twice).contains("twice"));
        let add = |key: &'static str, value: Value| {
            with(&|whole: &mut Value| whole["steps"]["clean"][0][key] = value.clone()).unwrap_err()
        };
        assert!(add("priority", json!(-1)).contains("below 0"));
        assert!(add("deadline", json!(0)).contains("between 1 and 86400"));
        assert!(add("timeout", json!(5)).contains("unknown field `timeout`"));
        let many: Vec<Value> =
            (0..65).map(|number| json!({"step": format!("s{number}"), "interface": "raid"})).collect();
        assert!(set("/steps/clean", json!(many)).contains("more than 64"));
    }
}
