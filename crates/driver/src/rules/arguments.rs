//! The arguments of an operator or an action: named, or in the operator's order, with their place-holders filled in.

use super::python::{self, Unfilled};
use super::{Facts, context};
use serde_json::{Map, Value};

/// What an operator or action takes.
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    pub(crate) required: &'static [&'static str],
    pub(crate) optional: &'static [&'static str],
    /// Those whose place-holders are filled in; in a loop all are.
    pub(super) formatted: &'static [&'static str],
}

/// Arguments by name.
#[derive(Debug, Clone)]
pub(super) struct Arguments(pub(super) Map<String, Value>);

impl Arguments {
    /// Reads `args` of a condition or an action. `all`: whether everything that place-holders name has to be there; otherwise
    /// their first names have to.
    pub(super) fn read(
        signature: &Signature,
        entry: &Value,
        facts: &Facts,
        item: Option<&Value>,
        all: bool,
    ) -> Result<Self, String> {
        let named = named(signature, entry.get("args"))?;
        let context = context(facts, item);
        let is_formatted = |name: &str| item.is_some() || signature.formatted.contains(&name);
        for (_, value) in named.iter().filter(|(name, _)| is_formatted(name)) {
            if let Some(field) = stranger(value, &context, all) {
                let names: Vec<&str> = context.keys().map(String::as_str).collect();
                return Err(format!(
                    "{}: the place-holder {{{field}}} stands for nothing; place-holders begin with {}",
                    signature.name,
                    names.join(", ")
                ));
            }
        }
        let fill = |(name, value): (String, Value)| {
            let filled =
                if is_formatted(&name) { fill(&value, &context, item.is_some(), signature.name) } else { value };
            (name, filled)
        };
        Ok(Self(named.into_iter().map(fill).collect()))
    }

    /// An argument; null where it is not given.
    pub(super) fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// An argument that has to be a text.
    pub(super) fn text(&self, name: &str) -> Result<&str, String> {
        let value = self.get(name);
        value.as_str().ok_or_else(|| format!("{name} must be a text, not {}", python::type_name(value)))
    }
}

/// Arguments by name, with their place-holders.
pub(super) fn named(signature: &Signature, args: Option<&Value>) -> Result<Map<String, Value>, String> {
    let named = match args {
        Some(Value::Object(args)) => args.clone(),
        Some(Value::Array(list)) => {
            if let Some(missing) = signature.required.get(list.len()) {
                return Err(format!("{} needs the argument {missing}", signature.name));
            }
            let names = signature.required.iter().chain(signature.optional);
            names.map(|name| (*name).to_owned()).zip(list.iter().cloned()).collect()
        }
        _ => return Err(format!("args of {} must be a list or an object", signature.name)),
    };
    if let Some(missing) = signature.required.iter().find(|name| !named.contains_key(**name)) {
        return Err(format!("{} needs the argument {missing}", signature.name));
    }
    let known = |name: &str| signature.required.contains(&name) || signature.optional.contains(&name);
    if let Some(stranger) = named.keys().find(|name| !known(name)) {
        let takes = [signature.required, signature.optional].concat().join(", ");
        return Err(format!("{} has no argument {stranger}; it takes {takes}", signature.name));
    }
    Ok(named)
}

/// The first place-holder at any depth that stands for nothing.
pub(super) fn stranger<'a>(value: &'a Value, context: &Map<String, Value>, all: bool) -> Option<&'a str> {
    match value {
        Value::String(text) => python::stranger(text, context, all),
        Value::Array(list) => list.iter().find_map(|value| stranger(value, context, all)),
        Value::Object(map) => map
            .iter()
            .find_map(|(key, value)| python::stranger(key, context, all).or_else(|| stranger(value, context, all))),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// One text; in Ironic a place-holder that cannot be filled in leaves the text as it is.
fn one(text: &str, context: &Map<String, Value>, op: &str) -> Value {
    match python::format(text, context) {
        Ok(filled) => Value::String(filled),
        // What is not there is empty.
        Err(Unfilled::Key) if op == "is-empty" => Value::Null,
        Err(_) => {
            tracing::warn!(text, "a place-holder of an inspection rule cannot be filled in");
            Value::String(text.to_owned())
        }
    }
}

/// Fills place-holders in, at any depth. In a loop a text is filled in twice, since an item may hold place-holders itself.
fn fill(value: &Value, context: &Map<String, Value>, looping: bool, op: &str) -> Value {
    match value {
        Value::String(text) => match one(text, context, op) {
            Value::String(text) if looping => one(&text, context, op),
            once => once,
        },
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| {
                (python::text(&one(key, context, op)), fill(value, context, looping, op))
            };
            Value::Object(map.iter().map(entry).collect())
        }
        Value::Array(list) => {
            let item = |value: &Value| match value {
                Value::String(text) => one(text, context, op),
                other => fill(other, context, looping, op),
            };
            Value::Array(list.iter().map(item).collect())
        }
        other => other.clone(),
    }
}
