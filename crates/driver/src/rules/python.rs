//! Values as Ironic's rules see them. Rules were written for Python, so `{inventory[cpu]}`, `str()` and `<` mean here what
//! they mean there.

use serde_json::{Map, Value};
use std::cmp::Ordering;

/// What Python calls the type of a value.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

/// `str(value)`.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr(other),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(list) => format!("[{}]", list.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", quoted(key), repr(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            letter if letter == quote => quoted.extend(['\\', letter]),
            letter if letter.is_control() && u32::from(letter) < 256 => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push(quote);
    quoted
}

/// Whether a value counts as true.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A number: whole ones stay whole. True is 1 and false is 0.
enum Number {
    Whole(i128),
    Real(f64),
}

fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Bool(value) => Some(Number::Whole(i128::from(*value))),
        Value::Number(number) => {
            let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            whole.map(Number::Whole).or_else(|| number.as_f64().map(Number::Real))
        }
        _ => None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "a whole number beyond 2^53 beside a real one is as inexact in Python")]
fn order_of_numbers(a: Number, b: Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Whole(a), Number::Whole(b)) => Some(a.cmp(&b)),
        (Number::Whole(a), Number::Real(b)) => (a as f64).partial_cmp(&b),
        (Number::Real(a), Number::Whole(b)) => a.partial_cmp(&(b as f64)),
        (Number::Real(a), Number::Real(b)) => a.partial_cmp(&b),
    }
}

/// `a == b`.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => order_of_numbers(a, b) == Some(Ordering::Equal),
            (None, None) => a == b,
            _ => false,
        },
    }
}

/// How `a` and `b` stand in order, by the sign that asks.
///
/// # Errors
/// The words of Python for values that have no order.
pub(super) fn order(sign: &str, a: &Value, b: &Value) -> Result<Option<Ordering>, String> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok(Some(a.cmp(b))),
        (Value::Array(a), Value::Array(b)) => match a.iter().zip(b).find(|(a, b)| !equal(a, b)) {
            Some((a, b)) => order(sign, a, b),
            None => Ok(Some(a.len().cmp(&b.len()))),
        },
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => Ok(order_of_numbers(a, b)),
            _ => Err(format!("'{sign}' not supported between instances of '{}' and '{}'", type_name(a), type_name(b))),
        },
    }
}

/// `value in values`.
///
/// # Errors
/// The words of Python for what holds nothing.
pub(super) fn is_in(value: &Value, values: &Value) -> Result<bool, String> {
    match (values, value) {
        (Value::Array(list), value) => Ok(list.iter().any(|item| equal(item, value))),
        (Value::Object(map), Value::String(key)) => Ok(map.contains_key(key)),
        (Value::Object(_), _) => Ok(false),
        (Value::String(text), Value::String(part)) => Ok(text.contains(part.as_str())),
        (Value::String(_), other) => {
            Err(format!("'in <string>' requires string as left operand, not {}", type_name(other)))
        }
        (other, _) => Err(format!("argument of type '{}' is not iterable", type_name(other))),
    }
}

/// Why a text with place-holders could not be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfilled {
    /// A key is not there.
    Key,
    /// Anything else: an index out of range, an attribute that is none, braces that do not close.
    Other,
}

/// `template.format(**context)`: place-holders are names of the context with `[key]`, `[index]` and, for `node`,
/// `.attribute` behind them.
///
/// # Errors
/// [`Unfilled`]; Ironic takes the text as it is then.
pub(super) fn format(template: &str, context: &Map<String, Value>) -> Result<String, Unfilled> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '{' if rest.next_if_eq(&'{').is_some() => filled.push('{'),
            '}' if rest.next_if_eq(&'}').is_some() => filled.push('}'),
            '}' => return Err(Unfilled::Other),
            '{' => {
                let mut field = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        // A place-holder within one is a width or the like, which no rule needs.
                        Some('{') | None => return Err(Unfilled::Other),
                        Some(letter) => field.push(letter),
                    }
                }
                filled.push_str(&fill(&field, context)?);
            }
            letter => filled.push(letter),
        }
    }
    Ok(filled)
}

/// The first place-holder that stands for nothing: its name is none of the context's, or, where everything has to be there
/// (`all`), what follows its name is not there. Braces around anything but a name are no place-holders: texts of JSON and
/// regular expressions have such.
pub(super) fn stranger<'a>(template: &'a str, context: &Map<String, Value>, all: bool) -> Option<&'a str> {
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('{') {
            rest = after;
            continue;
        }
        let field = &rest[..rest.find('}')?];
        let name = &field[..field.find(['.', '[', '!']).unwrap_or(field.len())];
        let is_name = name.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
            && name.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
        if is_name && (!context.contains_key(name) || all && fill(field, context).is_err()) {
            return Some(field);
        }
    }
    None
}

fn fill(field: &str, context: &Map<String, Value>) -> Result<String, Unfilled> {
    let (path, conversion) = match field.rsplit_once('!') {
        Some((path, conversion @ ("s" | "r"))) => (path, conversion),
        Some(_) => return Err(Unfilled::Other),
        None => (field, "s"),
    };
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(end);
    if name.is_empty() || name.bytes().all(|byte| byte.is_ascii_digit()) || name.contains(':') {
        return Err(Unfilled::Other);
    }
    let mut value = context.get(name).ok_or(Unfilled::Key)?;
    let mut part;
    // Only the node has attributes; what is in them are dictionaries and lists.
    let mut has_attributes = name == "node";
    let mut letter;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (key, after) = after.split_once(']').ok_or(Unfilled::Other)?;
            rest = after;
            let index = key.parse::<usize>().ok().filter(|_| key.bytes().all(|byte| byte.is_ascii_digit()));
            value = match (value, index) {
                (Value::Object(map), None) => map.get(key).ok_or(Unfilled::Key)?,
                (Value::Object(_), Some(_)) => return Err(Unfilled::Key),
                (Value::Array(list), Some(index)) => list.get(index).ok_or(Unfilled::Other)?,
                (Value::String(text), Some(index)) => {
                    letter = Value::String(text.chars().nth(index).ok_or(Unfilled::Other)?.to_string());
                    part = letter;
                    &part
                }
                _ => return Err(Unfilled::Other),
            };
        } else {
            let after = rest.strip_prefix('.').filter(|_| has_attributes).ok_or(Unfilled::Other)?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (attribute, after) = after.split_at(end);
            value = value.get(attribute).ok_or(Unfilled::Other)?;
            rest = after;
        }
        has_attributes = false;
    }
    if name == "node" && path == "node" {
        return Err(Unfilled::Other);
    }
    Ok(if conversion == "r" { repr(value) } else { text(value) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(template: &str) -> Result<String, Unfilled> {
        let context = json!({
            "node": {"name": "n1", "extra": {"a": [1, "b"]}},
            "inventory": {"cpu": {"count": 4}, "it's": "\"", "none": null, "flag": true, "text": "xyz"},
        });
        format(template, context.as_object().unwrap())
    }

    #[test]
    fn place_holders_are_filled_in_as_python_does() {
        for (template, expected) in [
            ("plain", Ok("plain")),
            ("{{}} {node.name}", Ok("{} n1")),
            ("{node.extra[a][1]}", Ok("b")),
            ("{node.extra}", Ok("{'a': [1, 'b']}")),
            ("{inventory[cpu]}/{inventory[cpu][count]}", Ok("{'count': 4}/4")),
            ("{inventory[none]} {inventory[flag]} {inventory[text]!r} {inventory[text][1]}", Ok("None True 'xyz' y")),
            ("{inventory[nothing]}", Err(Unfilled::Key)),
            ("{nobody}", Err(Unfilled::Key)),
            ("{node.extra[a][7]}", Err(Unfilled::Other)),
            ("{node.nothing}", Err(Unfilled::Other)),
            ("{inventory.cpu}", Err(Unfilled::Other)),
            ("{inventory[cpu][count][x]}", Err(Unfilled::Other)),
            ("{", Err(Unfilled::Other)),
            ("}", Err(Unfilled::Other)),
            ("{}", Err(Unfilled::Other)),
        ] {
            assert_eq!(filled(template), expected.map(str::to_owned), "{template}");
        }
    }

    #[test]
    fn a_place_holder_of_nothing_is_told_from_braces_that_are_none() {
        let context = json!({"node": {"name": "n1"}, "inventory": {"cpu": {"count": 4}}});
        let told = |template: &'static str, all| stranger(template, context.as_object().unwrap(), all);
        for plain in
            ["plain", "{node.name} {inventory[cpu]!r}", "{{nobody}}", "{\"a\": 1}", "^[0-9]{3}$", "{}", "{", "}"]
        {
            assert_eq!((told(plain, false), told(plain, true)), (None, None), "{plain}");
        }
        assert_eq!(told("{node.name} {nobody[a]}", false), Some("nobody[a]"));
        assert_eq!(told("{inventory[nothing]}", false), None);
        assert_eq!(told("{inventory[nothing]}", true), Some("inventory[nothing]"));
        assert_eq!(told("{node}", true), Some("node"));
    }

    #[test]
    fn numbers_and_flags_compare_and_texts_do_not_compare_with_them() {
        assert!(equal(&json!(1), &json!(1.0)) && equal(&json!(true), &json!(1)) && !equal(&json!("1"), &json!(1)));
        assert_eq!(order("<", &json!(2), &json!(10)), Ok(Some(Ordering::Less)));
        assert_eq!(order("<", &json!("2"), &json!("10")), Ok(Some(Ordering::Greater)));
        assert_eq!(order("<", &json!([1, 2]), &json!([1, 3])), Ok(Some(Ordering::Less)));
        let refused = order("<", &json!("2"), &json!(10)).unwrap_err();
        assert_eq!(refused, "'<' not supported between instances of 'str' and 'int'");
    }
}
