//! Actions of a rule.

use super::Facts;
use super::arguments::{Arguments, Signature};
use super::python;
use serde_json::{Map, Value};
use std::time::Duration;

/// Most traits of a node.
const MAX_TRAITS: usize = 50;
/// Deepest path.
const MAX_PARTS: usize = 32;

/// The actions. Source: Ironic 39, `ironic/common/inspection_rules/actions.py`.
pub(crate) const ACTIONS: &[Signature] = &[
    Signature { name: "fail", required: &["msg"], optional: &[], formatted: &[] },
    Signature { name: "log", required: &["msg"], optional: &["level"], formatted: &["msg"] },
    sets("set-attribute"),
    extends("extend-attribute"),
    Signature { name: "del-attribute", required: &["path"], optional: &[], formatted: &[] },
    Signature { name: "set-capability", required: &["name", "value"], optional: &[], formatted: &["value"] },
    Signature { name: "unset-capability", required: &["name"], optional: &[], formatted: &[] },
    Signature { name: "add-trait", required: &["name"], optional: &[], formatted: &[] },
    Signature { name: "remove-trait", required: &["name"], optional: &[], formatted: &[] },
    Signature {
        name: "set-plugin-data",
        required: &["path", "value"],
        optional: &["plugin_data"],
        formatted: &["value"],
    },
    Signature {
        name: "extend-plugin-data",
        required: &["path", "value"],
        optional: &["plugin_data", "unique"],
        formatted: &["value"],
    },
    Signature { name: "unset-plugin-data", required: &["path"], optional: &["plugin_data"], formatted: &[] },
    Signature {
        name: "set-port-attribute",
        required: &["port_id", "path", "value"],
        optional: &[],
        formatted: &["value"],
    },
    Signature {
        name: "extend-port-attribute",
        required: &["port_id", "path", "value"],
        optional: &["unique"],
        formatted: &["value"],
    },
    Signature { name: "del-port-attribute", required: &["port_id", "path"], optional: &[], formatted: &[] },
    Signature {
        name: "api-call",
        required: &["url"],
        optional: &["headers", "proxies", "timeout", "retries", "backoff_factor"],
        formatted: &["url"],
    },
];

const fn sets(name: &'static str) -> Signature {
    Signature { name, required: &["path", "value"], optional: &[], formatted: &["value"] }
}

const fn extends(name: &'static str) -> Signature {
    Signature { name, required: &["path", "value"], optional: &["unique"], formatted: &["value"] }
}

/// A call that a rule wants made: a `GET` whose answer has to be good.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiCall {
    /// Where to.
    pub url: String,
    /// With which headers.
    pub headers: Vec<(String, String)>,
    /// How long it may take.
    pub timeout: Duration,
    /// How often it is made again.
    pub retries: u32,
    /// Seconds before the second time, doubled each time.
    pub backoff: Duration,
}

/// Does the actions of a rule.
pub(super) fn act(rule: &str, actions: &[Value], facts: &mut Facts) -> Result<Vec<ApiCall>, String> {
    let mut calls = Vec::new();
    for action in actions {
        let name = action.get("op").and_then(Value::as_str).unwrap_or_default();
        let Some(signature) = ACTIONS.iter().find(|known| known.name == name) else {
            let known: Vec<&str> = ACTIONS.iter().map(|known| known.name).collect();
            return Err(format!("Unsupported action: '{name}'. Supported actions are: {}.", known.join(", ")));
        };
        let items: Vec<Option<&Value>> = match action.get("loop") {
            Some(Value::Array(items)) if !items.is_empty() => items.iter().map(Some).collect(),
            Some(item @ Value::Object(map)) if !map.is_empty() => vec![Some(item)],
            // A loop over anything else has no turns.
            Some(other) if python::truth(other) => Vec::new(),
            _ => vec![None],
        };
        for item in items {
            let args = Arguments::read(signature, action, facts, item, true)?;
            calls.extend(one(rule, name, &args, facts)?);
        }
    }
    Ok(calls)
}

fn one(rule: &str, name: &str, args: &Arguments, facts: &mut Facts) -> Result<Option<ApiCall>, String> {
    let unique = python::truth(args.get("unique"));
    match name {
        "fail" => return Err(python::text(args.get("msg"))),
        "log" => log(rule, args)?,
        "set-attribute" => {
            let path = args.text("path")?;
            set(&mut facts.node, &parts(path)?, args.get("value"))
                .map_err(|reason| format!("Failed to set attribute {path}: {reason}"))?;
        }
        "extend-attribute" => {
            let path = args.text("path")?;
            extend(&mut facts.node, &parts(path)?, args.get("value"), unique)
                .map_err(|reason| format!("Failed to extend attribute {path}: {reason}"))?;
        }
        "del-attribute" => {
            let path = args.text("path")?;
            delete(&mut facts.node, &parts(path)?)
                .map_err(|reason| format!("Failed to delete attribute at {path}: {reason}"))?;
        }
        "set-capability" => set_capability(facts, args)?,
        "unset-capability" => unset_capability(facts, args.text("name")?),
        "add-trait" => add_trait(facts, args.text("name")?)?,
        "remove-trait" => {
            let name = args.text("name")?;
            facts.traits.retain(|known| known != name);
        }
        "set-plugin-data" | "extend-plugin-data" | "unset-plugin-data" => plugin_data(name, args, facts, unique)?,
        "set-port-attribute" | "extend-port-attribute" | "del-port-attribute" => {
            let id = args.text("port_id")?;
            let Some(port) = facts.ports.iter_mut().find(|port| port.uuid == id) else {
                return Err(format!("Port {id} could not be found."));
            };
            let path = args.text("path")?;
            let (doing, done) = match name {
                "set-port-attribute" => ("set", set(&mut port.fields, &parts(path)?, args.get("value"))),
                "extend-port-attribute" => {
                    ("extend", extend(&mut port.fields, &parts(path)?, args.get("value"), unique))
                }
                _ => ("delete", delete(&mut port.fields, &parts(path)?)),
            };
            done.map_err(|reason| format!("Failed to {doing} attribute {path} for port {id}: {reason}"))?;
        }
        _ => return api_call(args).map(Some),
    }
    Ok(None)
}

fn log(rule: &str, args: &Arguments) -> Result<(), String> {
    let text = python::text(args.get("msg"));
    let level = match args.0.get("level") {
        None => "info".to_owned(),
        Some(level) => python::text(level).to_lowercase(),
    };
    check_level(&level)?;
    match level.as_str() {
        "debug" => tracing::debug!(rule, text, "says an inspection rule"),
        "info" => tracing::info!(rule, text, "says an inspection rule"),
        "warning" => tracing::warn!(rule, text, "says an inspection rule"),
        _ => tracing::error!(rule, text, "says an inspection rule"),
    }
    Ok(())
}

/// Whether a level of the log is one.
pub(super) fn check_level(level: &str) -> Result<(), String> {
    const LEVELS: [&str; 5] = ["debug", "info", "warning", "error", "critical"];
    if LEVELS.contains(&level.to_lowercase().as_str()) {
        return Ok(());
    }
    Err(format!("Invalid log level: {level}. Choose from {}", LEVELS.join(", ")))
}

/// Whether a path begins with an attribute that a rule may change.
pub(super) fn check_path(path: &str, attributes: &[String]) -> Result<(), String> {
    match parts(path)?.first() {
        Some(root) if attributes.iter().any(|known| known == root) => Ok(()),
        root => Err(no_attribute(root.copied().unwrap_or_default(), attributes.iter().map(String::as_str))),
    }
}

fn no_attribute<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known = known.collect::<Vec<_>>().join(", ");
    format!("{name} is no attribute that a rule may change; those are: {known}")
}

/// The parts of a path, with dots or slashes between them.
fn parts(path: &str) -> Result<Vec<&str>, String> {
    let parts: Vec<&str> =
        if path.contains('/') { path.trim_matches('/').split('/').collect() } else { path.split('.').collect() };
    if parts.len() > MAX_PARTS {
        return Err(format!("the path {path} has more than {MAX_PARTS} parts"));
    }
    Ok(parts)
}

/// The attribute that a path begins with.
fn root<'a>(attributes: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Value, String> {
    if !attributes.contains_key(name) {
        return Err(no_attribute(name, attributes.keys().map(String::as_str)));
    }
    Ok(attributes.entry(name).or_insert(Value::Null))
}

/// The object that holds the last part of a path; what is not there on the way is made.
fn holder<'a>(mut value: &'a mut Value, way: &[&str]) -> Result<&'a mut Map<String, Value>, String> {
    for part in way {
        value = object(value, part)?.entry(*part).or_insert_with(|| Value::Object(Map::new()));
    }
    object(value, way.last().copied().unwrap_or_default())
}

fn object<'a>(value: &'a mut Value, at: &str) -> Result<&'a mut Map<String, Value>, String> {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    let found = python::type_name(value);
    value.as_object_mut().ok_or_else(|| format!("what is at {at} is no object but {found}"))
}

fn set(attributes: &mut Map<String, Value>, path: &[&str], value: &Value) -> Result<(), String> {
    match path {
        [] => Err("the path is empty".to_owned()),
        [name] => {
            *root(attributes, name)? = value.clone();
            Ok(())
        }
        [name, way @ .., last] => {
            holder(root(attributes, name)?, way)?.insert((*last).to_owned(), value.clone());
            Ok(())
        }
    }
}

fn extend(attributes: &mut Map<String, Value>, path: &[&str], value: &Value, unique: bool) -> Result<(), String> {
    let list = match path {
        [] => return Err("the path is empty".to_owned()),
        [name] => root(attributes, name)?,
        [name, way @ .., last] => {
            let holder = holder(root(attributes, name)?, way)?;
            holder.entry(*last).or_insert_with(|| Value::Array(Vec::new()))
        }
    };
    append(list, value, unique)
}

fn append(list: &mut Value, value: &Value, unique: bool) -> Result<(), String> {
    let Value::Array(list) = list else { return Err("Cannot extend non-list attribute".to_owned()) };
    if !unique || !list.iter().any(|known| python::equal(known, value)) {
        list.push(value.clone());
    }
    Ok(())
}

fn delete(attributes: &mut Map<String, Value>, path: &[&str]) -> Result<(), String> {
    match path {
        [name, way @ .., last] => {
            let mut value = root(attributes, name)?;
            for part in way {
                value = value.get_mut(*part).ok_or_else(|| format!("there is no {part}"))?;
            }
            let removed = value.as_object_mut().and_then(|map| map.remove(*last));
            removed.map(drop).ok_or_else(|| format!("there is no {last}"))
        }
        _ => Err("a whole attribute cannot be deleted, only what is in it".to_owned()),
    }
}

fn set_capability(facts: &mut Facts, args: &Arguments) -> Result<(), String> {
    let (name, value) = (args.text("name")?, python::text(args.get("value")));
    let all = capabilities(facts);
    let added = format!("{name}:{value}");
    let all = if all.is_empty() { added } else { format!("{all},{added}") };
    set(&mut facts.node, &["properties", "capabilities"], &Value::from(all))
}

fn unset_capability(facts: &mut Facts, name: &str) {
    let all = capabilities(facts);
    let prefix = format!("{name}:");
    let rest: Vec<&str> = all.split(',').filter(|one| !one.starts_with(&prefix)).collect();
    if let Some(Value::Object(properties)) = facts.node.get_mut("properties") {
        properties.insert("capabilities".to_owned(), Value::from(rest.join(",")));
    }
}

fn capabilities(facts: &Facts) -> String {
    let properties = facts.node.get("properties");
    properties.and_then(|all| all.get("capabilities")).map(python::text).unwrap_or_default()
}

/// Whether a trait has the name of one.
pub(super) fn check_trait(name: &str) -> Result<(), String> {
    if crate::api::is_trait(name) {
        return Ok(());
    }
    Err(format!("Failed to add new trait {name}: it is not the name of a trait"))
}

fn add_trait(facts: &mut Facts, name: &str) -> Result<(), String> {
    check_trait(name)?;
    if facts.traits.iter().any(|known| known == name) {
        return Ok(());
    }
    if facts.traits.len() >= MAX_TRAITS {
        return Err(format!("Failed to add new trait {name}: there cannot be more than {MAX_TRAITS}"));
    }
    facts.traits.push(name.to_owned());
    facts.traits.sort();
    Ok(())
}

fn plugin_data(name: &str, args: &Arguments, facts: &mut Facts, unique: bool) -> Result<(), String> {
    let path = args.text("path")?;
    let keys: Vec<&str> = path.split('.').collect();
    if keys.len() > MAX_PARTS {
        return Err(format!("the path {path} has more than {MAX_PARTS} parts"));
    }
    let Some((last, way)) = keys.split_last() else { return Ok(()) };
    if name == "unset-plugin-data" {
        unset(&mut facts.plugin_data, way, last);
        return Ok(());
    }
    let failed = |doing: &str, reason: String| format!("Failed to {doing} plugin data at {path}: {reason}");
    let value = args.get("value");
    if name == "set-plugin-data" {
        let holder = holder(&mut facts.plugin_data, way).map_err(|reason| failed("set", reason))?;
        holder.insert((*last).to_owned(), value.clone());
        return Ok(());
    }
    let holder = holder(&mut facts.plugin_data, way).map_err(|reason| failed("extend", reason))?;
    let list = holder.entry(*last).or_insert(Value::Null);
    if !python::truth(list) {
        *list = Value::Array(Vec::new());
    }
    append(list, value, unique).map_err(|reason| failed("extend", reason))
}

/// Removes a key. Ironic removes the object with it when it was its only one, except at the top, where it leaves the key.
fn unset(data: &mut Value, way: &[&str], last: &str) {
    let mut holder = &mut *data;
    for part in way {
        let Some(next) = holder.get_mut(*part) else { return };
        holder = next;
    }
    let Value::Object(map) = holder else { return };
    if !map.contains_key(last) {
        return;
    }
    if map.len() > 1 || way.is_empty() {
        map.remove(last);
        return;
    }
    let Some((name, way)) = way.split_last() else { return };
    let mut holder = data;
    for part in way {
        let Some(next) = holder.get_mut(*part) else { return };
        holder = next;
    }
    if let Value::Object(map) = holder {
        map.remove(*name);
    }
}

fn api_call(args: &Arguments) -> Result<ApiCall, String> {
    let invalid = |what: &str| format!("Invalid parameter: {what}");
    if python::truth(args.get("proxies")) {
        return Err(invalid("proxies are not offered; the driver calls the address itself"));
    }
    let number = |name: &str, default: f64| match args.0.get(name) {
        None => Ok(default),
        Some(value) => {
            let parsed = value.as_f64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
            parsed.filter(|number| number.is_finite()).ok_or_else(|| invalid(&format!("{name} must be a number")))
        }
    };
    let seconds = |name: &str, value: f64| {
        Duration::try_from_secs_f64(value)
            .ok()
            .filter(|value| *value <= Duration::from_secs(60))
            .ok_or_else(|| invalid(&format!("{name} must be 0 to 60 seconds")))
    };
    let timeout = number("timeout", 5.0)?;
    if timeout <= 0.0 {
        return Err(invalid("timeout must be greater than zero"));
    }
    let retries = number("retries", 3.0)?;
    if !(0.0..=10.0).contains(&retries) {
        return Err(invalid("retries must be 0 to 10"));
    }
    let headers = match args.get("headers") {
        Value::Null => Vec::new(),
        Value::Object(headers) => headers.iter().map(|(name, value)| (name.clone(), python::text(value))).collect(),
        _ => return Err(invalid("headers must be an object")),
    };
    Ok(ApiCall {
        url: args.text("url")?.to_owned(),
        headers,
        timeout: seconds("timeout", timeout)?,
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was checked to be 0 to 10")]
        retries: retries as u32,
        backoff: seconds("backoff_factor", number("backoff_factor", 0.3)?)?,
    })
}
