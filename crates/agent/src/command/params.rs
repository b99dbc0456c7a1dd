//! Parameters of commands: their types, and the complaints of the protocol about missing and unknown ones.

use super::error::AgentError;
use crate::extension::{Command, Extension};
use serde_json::{Map, Value};

/// What a parameter may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An object.
    Object,
    /// An object or null.
    MaybeObject,
    /// A text or null.
    MaybeText,
    /// A text.
    Text,
    /// A boolean or null.
    MaybeBool,
    /// A list.
    List,
    /// Anything: what Ironic sends here has had several shapes.
    Any,
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::MaybeObject => value.is_object() || value.is_null(),
            Self::MaybeText => value.is_string() || value.is_null(),
            Self::Text => value.is_string(),
            Self::MaybeBool => value.is_boolean() || value.is_null(),
            Self::List => value.is_array(),
            Self::Any => true,
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::MaybeObject => "an object or null",
            Self::MaybeText => "a string or null",
            Self::Text => "a string",
            Self::MaybeBool => "a boolean or null",
            Self::List => "a list",
            Self::Any => "anything",
        }
    }
}

/// A parameter of a command.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Whether a call without it is wrong.
    pub required: bool,
}

/// A parameter without which a command is not called.
pub const fn required(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, required: true }
}

/// A parameter that may be left out.
pub const fn optional(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, required: false }
}

/// Refuses a parameter of the wrong type, naming it. Nothing is recorded for such a command.
pub(super) fn check_types(command: &Command, params: &Map<String, Value>) -> Result<(), AgentError> {
    for param in command.params {
        if let Some(value) = params.get(param.name)
            && !param.kind.fits(value)
        {
            let (name, wanted, found) = (param.name, param.kind.wanted(), kind_of(value));
            return Err(AgentError::params(format!("parameter '{name}' must be {wanted}, but is {found}")));
        }
    }
    Ok(())
}

/// What is wrong with the names of the parameters, if anything, in the words that a driver knows: those of Python when
/// a function is called with arguments that it does not have.
pub(super) fn misfit(extension: &Extension, command: &Command, params: &Map<String, Value>) -> Option<String> {
    let function = format!("{}.{}()", extension.python_class, command.name);
    let unknown = |name: &&String| !command.params.iter().any(|param| param.name == name.as_str());
    if !command.open_ended
        && let Some(name) = params.keys().find(unknown)
    {
        return Some(format!("{function} got an unexpected keyword argument '{name}'"));
    }
    let missing: Vec<String> = command
        .params
        .iter()
        .filter(|param| param.required && !params.contains_key(param.name))
        .map(|param| format!("'{}'", param.name))
        .collect();
    match missing.as_slice() {
        [] => None,
        [one] => Some(format!("{function} missing 1 required positional argument: {one}")),
        [first, second] => Some(format!("{function} missing 2 required positional arguments: {first} and {second}")),
        [all @ .., last] => {
            let (count, all) = (missing.len(), all.join(", "));
            Some(format!("{function} missing {count} required positional arguments: {all}, and {last}"))
        }
    }
}

/// The JSON type of a value, for messages.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value as Python would print it, since drivers and their operators know the protocol's texts in that form.
pub fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("'{key}': {}", python(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}
