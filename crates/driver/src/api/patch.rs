//! Patches: RFC 6902 with `add`, `replace` and `remove`, on fields that can be patched.

use super::request::{self, Call, short};
use super::versions::{self, Field};
use crate::command::{PatchOp, PatchOperation};
use crate::fault::Fault;
use serde_json::{Map, Value};

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

fn op_name(op: PatchOp) -> &'static str {
    match op {
        PatchOp::Add => "add",
        PatchOp::Replace => "replace",
        PatchOp::Remove => "remove",
    }
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

/// Applies operations to the fields of a document. A field that is removed is left out; it then has its default.
pub(super) fn apply(document: &mut Map<String, Value>, operations: &[PatchOperation]) -> Result<(), Fault> {
    for operation in operations {
        let cannot = |why: String| {
            let (op, path) = (op_name(operation.op), operation.path.join("/"));
            Fault::Invalid(format!("Couldn't apply patch '{op} /{}'. Reason: {why}", short(&path)))
        };
        let Some((root, parts)) = operation.path.split_first() else { continue };
        let value = operation.value.clone();
        match parts.split_last() {
            None => match value {
                Some(value) => drop(document.insert(root.clone(), value)),
                None => drop(document.remove(root)),
            },
            Some((last, parents)) => {
                let start = document.get_mut(root).ok_or_else(|| cannot(format!("there is no \"{}\"", short(root))))?;
                let place = descend(start, parents).map_err(cannot)?;
                operate(place, last, operation.op, value).map_err(cannot)?;
            }
        }
    }
    Ok(())
}

fn descend<'a>(start: &'a mut Value, parents: &[String]) -> Result<&'a mut Value, String> {
    parents.iter().try_fold(start, |place, part| {
        let next = match place {
            Value::Object(object) => object.get_mut(part),
            Value::Array(list) => part.parse::<usize>().ok().and_then(|index| list.get_mut(index)),
            _ => None,
        };
        next.ok_or_else(|| format!("there is no \"{}\"", short(part)))
    })
}

/// One operation on a part of an object or a list.
fn operate(place: &mut Value, last: &str, op: PatchOp, value: Option<Value>) -> Result<(), String> {
    let missing = || format!("can't {} a non-existent object '{}'", op_name(op), short(last));
    match place {
        Value::Object(object) => match (op, value) {
            (PatchOp::Remove, _) => object.remove(last).map(drop).ok_or_else(missing),
            (PatchOp::Replace, _) if !object.contains_key(last) => Err(missing()),
            (_, value) => {
                object.insert(last.to_owned(), value.unwrap_or_default());
                Ok(())
            }
        },
        Value::Array(list) => {
            let index = if last == "-" { Some(list.len()) } else { last.parse::<usize>().ok() };
            match (op, index) {
                (PatchOp::Add, Some(index)) if index <= list.len() => list.insert(index, value.unwrap_or_default()),
                (PatchOp::Remove, Some(index)) if index < list.len() => drop(list.remove(index)),
                (PatchOp::Replace, Some(index)) if index < list.len() => list[index] = value.unwrap_or_default(),
                _ => return Err(format!("index '{}' is not in the list", short(last))),
            }
            Ok(())
        }
        _ => Err(format!("what \"{}\" would be part of is neither an object nor a list", short(last))),
    }
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
