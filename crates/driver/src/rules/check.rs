//! What is wrong with a rule whatever a machine is like: it would fail each inspection, hold for no machine, or for all. Said when the
//! rule is made, and not months later when the first machine meets it.

use super::arguments::{Signature, named, stranger};
use super::{action, condition};
use serde_json::{Map, Value};

/// What place-holders begin with; in a loop with `item`, too.
const NAMES: [&str; 3] = ["node", "inventory", "plugin_data"];

/// What is wrong with a condition or an action. `attributes`: those of a node that rules may change.
pub(crate) fn problem(signature: &Signature, entry: &Map<String, Value>, attributes: &[String]) -> Option<String> {
    check(signature, entry, attributes).err()
}

fn check(signature: &Signature, entry: &Map<String, Value>, attributes: &[String]) -> Result<(), String> {
    let args = named(signature, entry.get("args"))?;
    let looping = entry.get("loop").is_some_and(|items| !items.is_null());
    let names = NAMES.into_iter().chain(looping.then_some("item"));
    let context: Map<String, Value> = names.map(|name| (name.to_owned(), Value::Null)).collect();
    for (_, value) in args.iter().filter(|(name, _)| looping || signature.formatted.contains(&name.as_str())) {
        if let Some(field) = stranger(value, &context, false) {
            let names: Vec<&str> = context.keys().map(String::as_str).collect();
            return Err(format!(
                "the place-holder {{{field}}} stands for nothing; place-holders begin with {}",
                names.join(", ")
            ));
        }
    }
    // What place-holders are going to be nobody knows yet.
    let literal = |name: &str| args.get(name).and_then(Value::as_str).filter(|text| !text.contains('{'));
    match signature.name {
        name @ ("eq" | "lt" | "gt") => match args.get("values") {
            Some(Value::Array(values)) if values.len() > 1 => Ok(()),
            // Rules that were written for Ironic give the values themselves as arguments; it takes them, and tells at the run.
            Some(Value::String(_)) if entry.get("args").is_some_and(Value::is_array) => Ok(()),
            _ => Err(format!("{name} compares what is in 'values', a list of at least two")),
        },
        "one-of" if !args.contains_key("values") => Err("one-of holds for no machine without 'values'".to_owned()),
        "in-net" => {
            let (address, subnet) = (literal("address"), literal("subnet"));
            condition::in_net(address.unwrap_or("192.0.2.1"), subnet.unwrap_or("192.0.2.0/24")).map(drop)
        }
        "add-trait" => literal("name").map_or(Ok(()), action::check_trait),
        "log" => literal("level").map_or(Ok(()), action::check_level),
        "set-attribute" | "extend-attribute" | "del-attribute" => match literal("path") {
            Some(path) => action::check_path(path, attributes),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ACTIONS, OPERATORS};
    use super::*;
    use serde_json::json;

    fn told(entry: &Value) -> Option<String> {
        let mut known = OPERATORS.iter().chain(ACTIONS);
        let signature = known.find(|known| known.name == entry["op"]).unwrap();
        problem(signature, entry.as_object().unwrap(), &["driver".to_owned(), "extra".to_owned()])
    }

    #[test]
    fn what_no_machine_can_make_right_is_told_with_what_is_right() {
        let wrong = [
            json!({"op": "eq", "args": {"values": ["{inventry[cpu][count]}", 64]}}),
            json!({"op": "eq", "args": {"values": ["{item[size]}", 64]}}),
            json!({"op": "eq", "args": {"values": ["{node.name}"]}}),
            json!({"op": "lt", "args": {"values": "{node.name}"}}),
            json!({"op": "gt", "args": []}),
            json!({"op": "one-of", "args": {"value": "{node.name}"}}),
            json!({"op": "in-net", "args": {"address": "{inventory[bmc_address]}", "subnet": "10.0.0.0/99"}}),
            json!({"op": "in-net", "args": ["somewhere", "10.0.0.0/8"]}),
            json!({"op": "set-attribute", "args": {"path": "nonsense/key", "value": 1}}),
            json!({"op": "add-trait", "args": {"name": "not a trait"}}),
            json!({"op": "log", "args": {"msg": "x", "level": "loud"}}),
        ];
        let lines: Vec<String> = wrong.iter().map(|entry| told(entry).unwrap()).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn what_may_be_right_is_left_to_the_machine() {
        for entry in [
            json!({"op": "eq", "args": {"values": ["{inventory[cpu][count]}", "64"]}}),
            json!({"op": "eq", "args": [["{plugin_data[a]}", "{node.name}"], true]}),
            json!({"op": "eq", "args": ["{{ inventory.cpu.count }}", 8]}),
            json!({"op": "set-attribute", "args": ["{{ /properties/cpu_model }}", "x"]}),
            json!({"op": "eq", "args": {"values": ["{item[size]}", 64]}, "loop": "{inventory[disks]}"}),
            json!({"op": "in-net", "args": {"address": "{inventory[bmc_address]}", "subnet": "10.0.0.0/8"}}),
            json!({"op": "one-of", "args": {"value": "{node.name}", "values": ["a"]}}),
            json!({"op": "set-attribute", "args": {"path": "/extra/key", "value": 1}}),
            json!({"op": "set-attribute", "args": {"path": "{item}", "value": 1}, "loop": ["driver"]}),
            json!({"op": "add-trait", "args": {"name": "CUSTOM_BIG"}}),
            json!({"op": "log", "args": {"msg": "{node.name}", "level": "Warning"}}),
            json!({"op": "matches", "args": {"value": "{node.name}", "regex": "^[a-z]{3}$"}}),
        ] {
            assert_eq!(told(&entry), None, "{entry}");
        }
    }
}
