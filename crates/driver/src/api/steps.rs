//! Steps of templates and runbooks: `{interface, step, args, priority}` or `order` in the place of the latter.

use super::request::short;
use crate::fault::Fault;
use serde_json::Value;
use std::collections::BTreeSet;

/// Interfaces that have steps; Ironic's.
const INTERFACES: &[&str] = &["vendor", "power", "management", "firmware", "deploy", "bios", "raid"];
/// Most steps of a template.
const MAX_STEPS: usize = 1000;

/// Checks a list of steps whose place is told by the key `rank`.
pub(super) fn check(what: &str, steps: Option<&Value>, rank: &str) -> Result<(), Fault> {
    let invalid = |why: String| Err(Fault::Invalid(format!("Schema error for {what}: {why}")));
    let steps = steps.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if steps.len() > MAX_STEPS {
        return invalid(format!("more than {MAX_STEPS} steps"));
    }
    let mut seen = BTreeSet::new();
    for (number, step) in steps.iter().enumerate() {
        let Value::Object(step) = step else { return invalid(format!("step {number} must be an object")) };
        let known = ["interface", "step", "args", rank];
        if let Some(stranger) = step.keys().find(|key| !known.contains(&key.as_str())) {
            let (stranger, known) = (short(stranger), known.join(", "));
            return invalid(format!("'{stranger}' of step {number} is unexpected; a step has {known}"));
        }
        let text = |key: &str| step.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (Some(interface), Some(name)) = (text("interface"), text("step")) else {
            return invalid(format!("'interface' and 'step' of step {number} are required and must be strings"));
        };
        if !INTERFACES.contains(&interface) {
            let (interface, known) = (short(interface), INTERFACES.join(", "));
            return invalid(format!(
                "'{interface}' of step {number} is no interface that has steps; those are {known}"
            ));
        }
        let args = step.get("args");
        if !args.map_or(rank == "order", Value::is_object) {
            return invalid(format!("'args' of step {number} must be an object"));
        }
        let rank_fits = match step.get(rank) {
            Some(Value::Number(number)) => number.as_u64().is_some(),
            Some(Value::String(text)) => text.parse::<u64>().is_ok(),
            _ => false,
        };
        if !rank_fits {
            return invalid(format!("'{rank}' of step {number} is required and must be a whole number, not negative"));
        }
        if !seen.insert((interface, name)) {
            let (interface, name) = (short(interface), short(name));
            return invalid(format!("duplicate steps: each may be given once, {interface}.{name} is given again"));
        }
    }
    Ok(())
}
