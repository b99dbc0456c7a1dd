//! Conditions of a rule.

use super::Facts;
use super::arguments::{Arguments, Signature};
use super::python;
use regex::RegexBuilder;
use serde_json::Value;
use std::cmp::Ordering;
use std::net::IpAddr;

/// Largest regular expression, compiled, in bytes.
const MAX_REGEX: usize = 1 << 20;

/// The operators. Source: Ironic 39, `ironic/common/inspection_rules/operators.py`.
pub(crate) const OPERATORS: &[Signature] = &[
    compares("eq"),
    compares("lt"),
    compares("gt"),
    of_value("is-empty"),
    Signature { name: "in-net", required: &["address", "subnet"], optional: &[], formatted: &["address", "subnet"] },
    Signature { name: "matches", required: &["value", "regex"], optional: &[], formatted: &["value"] },
    Signature { name: "contains", required: &["value", "regex"], optional: &[], formatted: &["value"] },
    Signature { name: "one-of", required: &["value"], optional: &["values"], formatted: &["value"] },
    of_value("is-none"),
    of_value("is-true"),
    of_value("is-false"),
];

const fn compares(name: &'static str) -> Signature {
    Signature { name, required: &["values"], optional: &["force_strings"], formatted: &["values"] }
}

const fn of_value(name: &'static str) -> Signature {
    Signature { name, required: &["value"], optional: &[], formatted: &["value"] }
}

/// Whether all conditions hold.
pub(super) fn hold(conditions: &[Value], facts: &Facts) -> Result<bool, String> {
    for condition in conditions {
        if !holds(condition, facts)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What conditions look at, and what that is: one line for each place-holder.
pub(super) fn found(conditions: &[Value], facts: &Facts) -> Vec<String> {
    /// Most lines, and the longest value that is shown.
    const MOST: usize = 10;
    const LONGEST: usize = 100;
    let mut texts = Vec::new();
    conditions.iter().filter_map(|condition| condition.get("args")).for_each(|args| collect(args, &mut texts));
    let context = super::context(facts, None);
    let mut lines: Vec<String> = Vec::new();
    for text in texts.into_iter().filter(|text| text.contains('{') && !text.contains("{item")) {
        let Ok(value) = python::format(text, &context) else { continue };
        let value: String = value.chars().take(LONGEST).collect();
        let line = format!("{} is {value}", text.trim_matches(['{', '}']));
        if !lines.contains(&line) && lines.len() < MOST {
            lines.push(line);
        }
    }
    lines
}

/// All texts in a value.
fn collect<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(list) => list.iter().for_each(|value| collect(value, texts)),
        Value::Object(map) => map.values().for_each(|value| collect(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn holds(condition: &Value, facts: &Facts) -> Result<bool, String> {
    let items = match condition.get("loop") {
        Some(Value::Array(items)) if !items.is_empty() => items.as_slice(),
        // An object is one item.
        Some(item @ Value::Object(map)) if !map.is_empty() => std::slice::from_ref(item),
        _ => return check(condition, facts, None),
    };
    let mut results = Vec::new();
    let multiple = condition.get("multiple").and_then(Value::as_str).unwrap_or("any");
    for item in items {
        let result = check(condition, facts, Some(item))?;
        results.push(result);
        if multiple == "first" && result {
            return Ok(true);
        }
    }
    Ok(match multiple {
        "any" => results.contains(&true),
        "all" => results.iter().all(|result| *result),
        "last" => results.last().copied().unwrap_or_default(),
        _ => results.first().copied().unwrap_or_default(),
    })
}

fn check(condition: &Value, facts: &Facts, item: Option<&Value>) -> Result<bool, String> {
    let op = condition.get("op").and_then(Value::as_str).unwrap_or_default().trim();
    let (name, turned) = match op.strip_prefix('!') {
        Some(name) => (name.trim(), true),
        None => (op, false),
    };
    let Some(signature) = OPERATORS.iter().find(|known| known.name == name) else {
        let known: Vec<&str> = OPERATORS.iter().map(|known| known.name).collect();
        return Err(format!("Unsupported operator: '{name}'. Supported operators are: {}.", known.join(", ")));
    };
    let args = Arguments::read(signature, condition, facts, item, false)?;
    let holds = evaluate(name, &args, item.is_some())?;
    Ok(holds != turned)
}

fn evaluate(name: &str, args: &Arguments, looping: bool) -> Result<bool, String> {
    let value = args.get("value");
    Ok(match name {
        "eq" | "lt" | "gt" => compare(name, args, looping)?,
        "is-empty" => ["", "None", "[]", "{}"].contains(&python::text(value).as_str()),
        "in-net" => in_net(args.text("address")?, args.text("subnet")?)?,
        "matches" => matches(value, args.text("regex")?)?,
        "contains" => regex(args.text("regex")?)?.is_match(&python::text(value)),
        "one-of" => match args.0.get("values") {
            None => false,
            Some(values) => python::is_in(value, values)?,
        },
        "is-none" => value.is_null(),
        "is-true" => match value {
            Value::String(text) => ["yes", "true"].contains(&text.to_lowercase().as_str()),
            Value::Bool(_) | Value::Number(_) => python::truth(value),
            _ => false,
        },
        _ => match value {
            Value::String(text) => ["no", "false"].contains(&text.to_lowercase().as_str()),
            Value::Bool(_) | Value::Number(_) => !python::truth(value),
            other => other.is_null(),
        },
    })
}

/// Whether each value stands so to the next.
fn compare(name: &str, args: &Arguments, looping: bool) -> Result<bool, String> {
    let Value::Array(values) = args.get("values") else {
        let found = python::type_name(args.get("values"));
        return Err(format!("Failed to check condition: '{name}': Expected list for 'values', got: {found}"));
    };
    let texts: Vec<Value>;
    let mut values = values.as_slice();
    // What is filled in is a text, whatever it was; in a loop, what it is compared with is one as well.
    if looping || python::truth(args.get("force_strings")) {
        texts = values.iter().map(|value| Value::String(python::text(value))).collect();
        values = &texts;
    }
    for pair in values.windows(2) {
        let [a, b] = pair else { continue };
        let holds = match name {
            "eq" => python::equal(a, b),
            "lt" => python::order("<", a, b)? == Some(Ordering::Less),
            _ => python::order(">", a, b)? == Some(Ordering::Greater),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn in_net(address: &str, subnet: &str) -> Result<bool, String> {
    let invalid = || format!("invalid value: {subnet} is no network such as 192.0.2.0/24");
    let (network, length) = match subnet.trim().split_once('/') {
        Some((network, length)) => (network, Some(length)),
        None => (subnet.trim(), None),
    };
    let network: IpAddr = network.parse().map_err(|_| invalid())?;
    let (bits, network) = bits_of(network);
    let length = match length {
        None => bits,
        Some(text) => match text.parse::<u32>() {
            Ok(length) if length <= bits => length,
            Ok(_) => return Err(invalid()),
            // A mask in the place of a length.
            Err(_) => {
                let (width, mask) = bits_of(text.parse().map_err(|_| invalid())?);
                let shifted = mask << (128 - width);
                let ones = shifted.leading_ones();
                if width != bits || shifted.checked_shl(ones).unwrap_or_default() != 0 {
                    return Err(invalid());
                }
                ones
            }
        },
    };
    let address = address.trim();
    let parsed: IpAddr = address.parse().map_err(|_| format!("invalid value: {address} is no IP address"))?;
    let (own, address) = bits_of(parsed);
    Ok(own == bits && (length == 0 || (network ^ address) >> (bits - length) == 0))
}

fn bits_of(address: IpAddr) -> (u32, u128) {
    match address {
        IpAddr::V4(address) => (32, u128::from(u32::from(address))),
        IpAddr::V6(address) => (128, u128::from(address)),
    }
}

/// Whether a text begins with the expression and ends with it: `$` is added where it does not end with one.
fn matches(value: &Value, expression: &str) -> Result<bool, String> {
    let end = if expression.ends_with('$') { "" } else { "$" };
    // Compiled alone first: an expression must not close the group around it.
    regex(expression)?;
    Ok(regex(&format!("\\A(?:{expression}{end})"))?.is_match(&python::text(value)))
}

/// Whether a regular expression can be used.
///
/// # Errors
/// What is wrong with it; look-around and references back are not offered, since nothing bounds their time.
pub(crate) fn check_regex(expression: &str) -> Result<(), String> {
    regex(expression).map(drop)
}

fn regex(expression: &str) -> Result<regex::Regex, String> {
    RegexBuilder::new(expression)
        .size_limit(MAX_REGEX)
        .build()
        .map_err(|error| format!("invalid regular expression: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_network_by_length_or_mask() {
        for (address, subnet, expected) in [
            ("192.0.2.7", "192.0.2.0/24", Ok(true)),
            ("192.0.3.7", "192.0.2.0/24", Ok(false)),
            ("192.0.2.7", "192.0.2.9/255.255.255.0", Ok(true)),
            ("192.0.2.7", "192.0.2.7", Ok(true)),
            ("192.0.2.7", "0.0.0.0/0", Ok(true)),
            ("2001:db8::1", "2001:db8::/32", Ok(true)),
            ("2001:db8::1", "0.0.0.0/0", Ok(false)),
            ("::1", "::/0", Ok(true)),
        ] {
            assert_eq!(in_net(address, subnet), expected, "{address} in {subnet}");
        }
        for (address, subnet) in [
            ("x", "192.0.2.0/24"),
            ("192.0.2.7", "x"),
            ("192.0.2.7", "192.0.2.0/33"),
            ("192.0.2.7", "1.2.3.4/255.0.255.0"),
        ] {
            assert!(in_net(address, subnet).is_err(), "{address} in {subnet}");
        }
    }

    #[test]
    fn an_expression_that_nothing_bounds_is_refused() {
        for expression in ["(", "(?=x)", r"(a)\1", "(?:a{1000}){1000}", ") | ("] {
            assert!(matches(&Value::from("x"), expression).is_err(), "{expression}");
        }
    }
}
