//! Applying patches: RFC 6902 with `add`, `replace` and `remove`.

use crate::command::{PatchOp, PatchOperation};
use crate::fault::Fault;
use serde_json::{Map, Value};

/// A part of a name that a request brought, as long as an error can bear.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The name of an operation.
pub(crate) fn op_name(op: PatchOp) -> &'static str {
    match op {
        PatchOp::Add => "add",
        PatchOp::Replace => "replace",
        PatchOp::Remove => "remove",
    }
}

/// Applies operations to the fields of a document. A field that is removed is left out; it then has its default.
pub(crate) fn apply(document: &mut Map<String, Value>, operations: &[PatchOperation]) -> Result<(), Fault> {
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
