//! Inspection rules: conditions on what an inspection found, and actions for when they hold.

use super::request::{Call, short};
use super::resource::Resource;
use super::versions::INSPECTION_RULE_FIELDS;
use crate::conductor::changeable;
use crate::fault::Fault;
use crate::rules::{ACTIONS, OPERATORS, Rule, Signature, check_regex, problem};
use serde_json::{Map, Value, json};
use store::RecordKind;
use uuid::Uuid;

pub(super) const RESOURCE: Resource = Resource {
    kind: RecordKind::InspectionRule,
    path: "inspection_rules",
    list: "inspection_rules",
    fields: INSPECTION_RULE_FIELDS,
    short: &["uuid", "priority", "phase", "description"],
    detail: Some(1),
    filters: &[("phase", 1)],
    named: false,
    defaults: || json!({"conditions": [], "phase": "main", "priority": 0, "sensitive": false}),
    check,
};

/// Highest priority of a rule.
const MAX_PRIORITY: i64 = 9999;
/// Most conditions and most actions of a rule.
const MAX_ENTRIES: usize = 1000;

fn invalid(why: impl std::fmt::Display) -> Fault {
    Fault::Invalid(format!("Validation failed for inspection rule: {why}"))
}

/// Reads rules that a site has in a file: a list of them as the API takes them. Their priority may be any number.
///
/// # Errors
/// What is wrong, and with which of them.
pub(crate) fn read_rules(text: &[u8]) -> Result<Vec<Rule>, String> {
    let list = match wire::json::read(text) {
        Ok(Value::Array(list)) => list,
        Ok(_) => return Err("it is not a list of rules".to_owned()),
        Err(error) => return Err(format!("it is not JSON: {error}")),
    };
    let mut rules = Vec::with_capacity(list.len());
    for (number, rule) in list.into_iter().enumerate() {
        let wrong = |reason: String| format!("rule {number}: {reason}");
        let Value::Object(mut fields) = rule else { return Err(wrong("it is not an object".to_owned())) };
        if let Some(stranger) = fields.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(wrong(format!("'{}' is unexpected; a rule has {}", short(stranger), KEYS.join(", "))));
        }
        let uuid = match fields.remove("uuid") {
            Some(Value::String(uuid)) => uuid,
            None => Uuid::from_u128(number as u128).to_string(),
            Some(_) => return Err(wrong("'uuid' must be a string".to_owned())),
        };
        if fields.get("priority").is_some_and(|priority| !priority.is_i64()) {
            return Err(wrong("'priority' must be a whole number".to_owned()));
        }
        if fields.get("actions").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return Err(wrong("'actions' is required and must be a list that is not empty".to_owned()));
        }
        check_entries(&fields).map_err(|fault| wrong(fault.to_string()))?;
        rules.push(Rule::read(uuid, &fields));
    }
    Ok(rules)
}

/// What a rule of a file has.
const KEYS: &[&str] = &["uuid", "priority", "description", "sensitive", "phase", "actions", "conditions"];

fn check(_: &Call, fields: &Map<String, Value>) -> Result<(), Fault> {
    let priority = fields.get("priority").and_then(Value::as_i64).unwrap_or_default();
    if !(0..=MAX_PRIORITY).contains(&priority) {
        return Err(invalid(format_args!("priority must be between 0 and {MAX_PRIORITY}, not {priority}")));
    }
    check_entries(fields)
}

fn check_entries(fields: &Map<String, Value>) -> Result<(), Fault> {
    if let Some(phase) = fields.get("phase").and_then(Value::as_str).filter(|phase| *phase != "main") {
        return Err(invalid(format_args!("Invalid phase: {}. Valid phases are: main", short(phase))));
    }
    entries("conditions", fields, OPERATORS, &["op", "args", "loop", "multiple"])?;
    entries("actions", fields, ACTIONS, &["op", "args", "loop"])
}

fn entries(what: &str, fields: &Map<String, Value>, known: &[Signature], keys: &[&str]) -> Result<(), Fault> {
    let entries = fields.get(what).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if entries.len() > MAX_ENTRIES {
        return Err(invalid(format_args!("more than {MAX_ENTRIES} {what}")));
    }
    let attributes = changeable();
    for (number, entry) in entries.iter().enumerate() {
        let place = format!("{what}[{number}]");
        let Value::Object(entry) = entry else { return Err(invalid(format_args!("{place} must be an object"))) };
        if let Some(stranger) = entry.keys().find(|key| !keys.contains(&key.as_str())) {
            let (stranger, keys) = (short(stranger), keys.join(", "));
            return Err(invalid(format_args!("'{stranger}' of {place} is unexpected; it has {keys}")));
        }
        let Some(op) = entry.get("op").and_then(Value::as_str) else {
            return Err(invalid(format_args!("'op' of {place} is required and must be a string")));
        };
        // A condition may be turned around: `!eq`, `! eq`.
        let bare = if what == "conditions" { op.strip_prefix('!').unwrap_or(op).trim() } else { op };
        let Some(signature @ Signature { required, optional, .. }) = known.iter().find(|known| known.name == bare)
        else {
            let names: Vec<&str> = known.iter().map(|known| known.name).collect();
            let (op, names) = (short(op), names.join(", "));
            return Err(invalid(format_args!("'{op}' of {place} is no operator; there are: {names}")));
        };
        match entry.get("args") {
            // Without names the arguments stand in the order of the operator.
            Some(Value::Array(_)) => {}
            Some(Value::Object(args)) => {
                let takes = [*required, *optional].concat();
                if let Some(missing) = required.iter().find(|name| !args.contains_key(**name)) {
                    let takes = takes.join(", ");
                    return Err(invalid(format_args!(
                        "missing required argument {missing} of {place}; {bare} takes {takes}"
                    )));
                }
                if let Some(stranger) = args.keys().find(|name| !takes.contains(&name.as_str())) {
                    let (stranger, takes) = (short(stranger), takes.join(", "));
                    return Err(invalid(format_args!(
                        "unexpected argument {stranger} of {place}; {bare} takes {takes}"
                    )));
                }
            }
            _ => return Err(invalid(format_args!("'args' of {place} is required and must be a list or an object"))),
        }
        if let Some(problem) = problem(signature, entry, &attributes) {
            return Err(invalid(format_args!("{place}: {problem}")));
        }
        let regex = match entry.get("args") {
            Some(Value::Object(args)) => args.get("regex"),
            Some(Value::Array(list)) if required.get(1) == Some(&"regex") => list.get(1),
            _ => None,
        };
        if let Some(regex) = regex.and_then(Value::as_str) {
            check_regex(regex).map_err(|reason| invalid(format_args!("{place}: {reason}")))?;
        }
        if let Some(multiple) = entry.get("multiple")
            && !["any", "all", "first", "last"].iter().any(|known| multiple == known)
        {
            return Err(invalid(format_args!("'multiple' of {place} must be any, all, first or last")));
        }
        if entry.get("loop").is_some_and(|items| !items.is_array() && !items.is_object() && !items.is_string()) {
            return Err(invalid(format_args!("'loop' of {place} must be a list or an object")));
        }
    }
    Ok(())
}
