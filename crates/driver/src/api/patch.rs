//! Patches: RFC 6902 with `add`, `replace` and `remove`, on fields that can be patched.

use super::request::{self, Call, short};
use super::versions::{self, Field};
use crate::command::{PatchOp, PatchOperation};
use crate::fault::Fault;
pub(super) use crate::patch::apply;
use crate::patch::op_name;
use serde_json::Value;

/// Most operations of a patch.
const MAX_OPERATIONS: usize = 1000;

fn invalid(what: &str, why: impl std::fmt::Display) -> Fault {
    Fault::Invalid(format!("Schema error for patch of {what}: {why}"))
}

/// Reads the body of a `PATCH`: shape, fields, versions, and the types of whole fields.
pub(super) fn read(call: &Call, what: &'static str, fields: &[Field]) -> Result<Vec<PatchOperation>, Fault> {
    let Value::Array(list) = call.json(false)? else {
        return Err(invalid(what, "the body must be a list of operations"));
    };
    if list.len() > MAX_OPERATIONS {
        return Err(invalid(what, format_args!("more than {MAX_OPERATIONS} operations")));
    }
    list.into_iter().map(|operation| read_operation(call, what, fields, operation)).collect()
}

fn read_operation(
    call: &Call,
    what: &'static str,
    fields: &[Field],
    operation: Value,
) -> Result<PatchOperation, Fault> {
    let Value::Object(mut keys) = operation else {
        return Err(invalid(what, "each operation must be an object"));
    };
    let op = match keys.remove("op") {
        Some(Value::String(op)) => match op.as_str() {
            "add" => PatchOp::Add,
            "replace" => PatchOp::Replace,
            "remove" => PatchOp::Remove,
            other => {
                let why = format!("'op' must be add, replace or remove, not \"{}\"", short(other));
                return Err(invalid(what, why));
            }
        },
        _ => return Err(invalid(what, "'op' is a required property and must be a string")),
    };
    let Some(Value::String(pointer)) = keys.remove("path") else {
        return Err(invalid(what, "'path' is a required property and must be a string"));
    };
    let path = read_path(&pointer).ok_or_else(|| {
        invalid(what, format_args!("'path' must be a JSON pointer such as /extra/rack, not \"{}\"", short(&pointer)))
    })?;
    let value = keys.remove("value");
    if let Some(stranger) = keys.keys().next() {
        return Err(invalid(what, format_args!("'{}' is not a property of an operation", short(stranger))));
    }
    let root = path.first().map(String::as_str).unwrap_or_default();
    let Some((field, kind)) = versions::find(fields, root).and_then(|field| Some((field, field.patch?))) else {
        let known: Vec<String> =
            fields.iter().filter(|field| field.patch.is_some()).map(|field| format!("/{}", field.name)).collect();
        let known = known.join(", ");
        return Err(Fault::Invalid(format!(
            "Cannot patch /{}. Only the following can be updated: {known}",
            short(root)
        )));
    };
    if !call.has(field.since) {
        return Err(Fault::not_acceptable());
    }
    let value = match (op, value) {
        (PatchOp::Remove, None | Some(Value::Null)) if kind.is_required() && path.len() == 1 => {
            return Err(invalid(what, format_args!("{root} cannot be removed")));
        }
        (PatchOp::Remove, _) => None,
        (PatchOp::Add | PatchOp::Replace, None) => {
            return Err(invalid(what, format_args!("'value' is required to {} /{root}", op_name(op))));
        }
        (PatchOp::Add | PatchOp::Replace, Some(value)) if path.len() == 1 => {
            Some(request::check(what, field, kind, value)?)
        }
        (PatchOp::Add | PatchOp::Replace, Some(value)) => Some(value),
    };
    if path.len() > 1 && !kind.has_parts() {
        return Err(invalid(what, format_args!("{root} has no parts")));
    }
    Ok(PatchOperation { op, path, value })
}

/// The parts of a JSON pointer (RFC 6901); `None` when it is none, or points at everything.
fn read_path(pointer: &str) -> Option<Vec<String>> {
    let unescape = |part: &str| -> Option<String> {
        let plain = part.replace("~1", "").replace("~0", "");
        (!plain.contains('~')).then(|| part.replace("~1", "/").replace("~0", "~"))
    };
    let parts = pointer.strip_prefix('/')?.split('/').map(unescape).collect::<Option<Vec<_>>>()?;
    parts.iter().all(|part| !part.is_empty()).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pointers_are_read_as_the_rfc_has_them() {
        assert_eq!(read_path("/extra/a~1b~0c"), Some(vec!["extra".to_owned(), "a/b~c".to_owned()]));
        for bad in ["", "/", "extra", "/extra//x", "/extra/~2", "/extra/x~"] {
            assert_eq!(read_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_there_cannot_be_replaced_or_removed() {
        let operation =
            |op, path: &str, value: Option<Value>| PatchOperation { op, path: read_path(path).unwrap(), value };
        let mut document = json!({"extra": {"rack": 1}, "name": "n"}).as_object().unwrap().clone();
        let good = [
            operation(PatchOp::Add, "/extra/row", Some(json!(2))),
            operation(PatchOp::Replace, "/extra/rack", Some(json!(3))),
            operation(PatchOp::Remove, "/name", None),
        ];
        apply(&mut document, &good).unwrap();
        assert_eq!(Value::Object(document.clone()), json!({"extra": {"rack": 3, "row": 2}}));
        for bad in [
            operation(PatchOp::Replace, "/extra/foo", Some(json!(1))),
            operation(PatchOp::Remove, "/extra/foo", None),
            operation(PatchOp::Add, "/extra/rack/deeper", Some(json!(1))),
        ] {
            assert!(matches!(apply(&mut document, std::slice::from_ref(&bad)), Err(Fault::Invalid(_))), "{bad:?}");
        }
    }
}
