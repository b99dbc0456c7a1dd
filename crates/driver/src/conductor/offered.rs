//! The steps that an agent offers, in `driver_internal_info` as long as the flow goes on that asked for them: another boot
//! may offer others.
//!
//! They are there for operators, who seldom look. So they are kept as text, and are what it says where a node is shown: as
//! objects they take several times the memory, of every node that is worked on, and each change of the node copies them.

use hardware::StepKind;
use serde::Serialize;
use serde_json::Value;

/// Their keys, as in Ironic.
pub(crate) const KEYS: [&str; 3] =
    ["agent_cached_clean_steps", "agent_cached_deploy_steps", "agent_cached_service_steps"];

/// The key of the steps of a kind.
pub(super) fn key(kind: StepKind) -> String {
    format!("agent_cached_{}_steps", kind.as_str())
}

/// Steps as they are kept.
pub(super) fn kept(steps: &impl Serialize) -> Value {
    // What is serialised is made of texts, numbers and flags.
    serde_json::to_string(steps).map_or(Value::Null, Value::from)
}

/// Steps as they are shown, where `key` is theirs and they are kept as text.
pub(crate) fn shown(key: &str, value: &Value) -> Option<Value> {
    let Value::String(text) = value else { return None };
    if !KEYS.contains(&key) {
        return None;
    }
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_are_shown_as_they_were_before_they_were_kept_as_text() {
        let steps =
            json!({"deploy": [{"step": "erase_devices", "priority": 10, "argsinfo": {"a": {"required": false}}}]});
        for kind in [StepKind::Clean, StepKind::Deploy, StepKind::Service] {
            let kept = kept(&steps);
            assert!(kept.is_string());
            assert_eq!(shown(&key(kind), &kept), Some(steps.clone()));
            // An older version kept them as they are shown.
            assert_eq!(shown(&key(kind), &steps), None);
        }
        assert_eq!(shown("agent_url", &json!("{}")), None);
    }
}
