//! Inspection rules: conditions on what an inspection found, and actions for when they hold.

use super::request::{Call, short};
use super::resource::Resource;
use super::versions::INSPECTION_RULE_FIELDS;
use crate::fault::Fault;
use serde_json::{Map, Value, json};
use store::RecordKind;

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

/// An operator with the names of its arguments: those that are required, then the others.
type Operator = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Operators of conditions. Source: Ironic 39, `ironic/common/inspection_rules/operators.py`.
const CONDITIONS: &[Operator] = &[
    ("eq", &["values"], &["force_strings"]),
    ("lt", &["values"], &["force_strings"]),
    ("gt", &["values"], &["force_strings"]),
    ("is-empty", &["value"], &[]),
    ("in-net", &["address", "subnet"], &[]),
    ("matches", &["value", "regex"], &[]),
    ("contains", &["value", "regex"], &[]),
    ("one-of", &["value"], &["values"]),
    ("is-none", &["value"], &[]),
    ("is-true", &["value"], &[]),
    ("is-false", &["value"], &[]),
];

/// Operators of actions. Source: Ironic 39, `ironic/common/inspection_rules/actions.py`.
const ACTIONS: &[Operator] = &[
    ("log", &["msg"], &["level"]),
    ("fail", &["msg"], &[]),
    ("set-attribute", &["path", "value"], &[]),
    ("extend-attribute", &["path", "value"], &["unique"]),
    ("del-attribute", &["path"], &[]),
    ("add-trait", &["name"], &[]),
    ("remove-trait", &["name"], &[]),
    ("set-capability", &["name", "value"], &[]),
    ("unset-capability", &["name"], &[]),
    ("set-plugin-data", &["path", "value"], &["plugin_data"]),
    ("extend-plugin-data", &["path", "value"], &["plugin_data", "unique"]),
    ("unset-plugin-data", &["path"], &["plugin_data"]),
    ("set-port-attribute", &["port_id", "path", "value"], &[]),
    ("extend-port-attribute", &["port_id", "path", "value"], &["unique"]),
    ("del-port-attribute", &["port_id", "path"], &[]),
    ("api-call", &["url"], &["headers", "proxies", "timeout", "retries", "backoff_factor"]),
];

fn invalid(why: impl std::fmt::Display) -> Fault {
    Fault::Invalid(format!("Validation failed for inspection rule: {why}"))
}

fn check(_: &Call, fields: &Map<String, Value>) -> Result<(), Fault> {
    if let Some(phase) = fields.get("phase").and_then(Value::as_str).filter(|phase| *phase != "main") {
        return Err(invalid(format_args!("Invalid phase: {}. Valid phases are: main", short(phase))));
    }
    let priority = fields.get("priority").and_then(Value::as_i64).unwrap_or_default();
    if !(0..=MAX_PRIORITY).contains(&priority) {
        return Err(invalid(format_args!("priority must be between 0 and {MAX_PRIORITY}, not {priority}")));
    }
    entries("conditions", fields, CONDITIONS, &["op", "args", "loop", "multiple"])?;
    entries("actions", fields, ACTIONS, &["op", "args", "loop"])
}

fn entries(what: &str, fields: &Map<String, Value>, known: &[Operator], keys: &[&str]) -> Result<(), Fault> {
    let entries = fields.get(what).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if entries.len() > MAX_ENTRIES {
        return Err(invalid(format_args!("more than {MAX_ENTRIES} {what}")));
    }
    for (number, entry) in entries.iter().enumerate() {
        let place = format!("{what}[{number}]");
        let Value::Object(entry) = entry else { return Err(invalid(format_args!("{place} must be an object"))) };
        if let Some(stranger) = entry.keys().find(|key| !keys.contains(&key.as_str())) {
            return Err(invalid(format_args!("'{}' of {place} is unexpected", short(stranger))));
        }
        let Some(op) = entry.get("op").and_then(Value::as_str) else {
            return Err(invalid(format_args!("'op' of {place} is required and must be a string")));
        };
        // A condition may be turned around: `!eq`, `! eq`.
        let bare = if what == "conditions" { op.strip_prefix('!').unwrap_or(op).trim() } else { op };
        let Some((_, required, optional)) = known.iter().find(|(name, ..)| *name == bare) else {
            let names: Vec<&str> = known.iter().map(|(name, ..)| *name).collect();
            let (op, names) = (short(op), names.join(", "));
            return Err(invalid(format_args!("'{op}' of {place} is no operator; there are: {names}")));
        };
        match entry.get("args") {
            // Without names the arguments stand in the order of the operator; what they mean is told when it runs.
            Some(Value::Array(_)) => {}
            Some(Value::Object(args)) => {
                if let Some(missing) = required.iter().find(|name| !args.contains_key(**name)) {
                    return Err(invalid(format_args!("missing required argument {missing} of {place}")));
                }
                let fits = |name: &String| required.contains(&name.as_str()) || optional.contains(&name.as_str());
                if let Some(stranger) = args.keys().find(|name| !fits(name)) {
                    return Err(invalid(format_args!("unexpected argument {} of {place}", short(stranger))));
                }
            }
            _ => return Err(invalid(format_args!("'args' of {place} is required and must be a list or an object"))),
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
