//! Tokens of agents, and what must not be told.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use wire::ramdisk::MASK;

/// A new token: 256 random bits as 43 URL-safe characters, as Ironic makes them.
pub(super) fn new_token() -> String {
    let random: [u8; 32] = rand::random();
    URL_SAFE_NO_PAD.encode(random)
}

/// Whether two secrets are the same, in a time that tells nothing about where they differ.
pub(super) fn same(a: &str, b: &str) -> bool {
    let (a, b) = (Sha256::digest(a.as_bytes()), Sha256::digest(b.as_bytes()));
    a.iter().zip(b.iter()).fold(0_u8, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Keys whose values are secrets, by a part of their name.
const SECRET_PARTS: [&str; 4] = ["password", "token", "secret", "community"];

/// A copy without secrets: their values become `******`.
pub(super) fn masked(map: &Map<String, Value>) -> Map<String, Value> {
    let mask = |(key, value): (&String, &Value)| {
        let lower = key.to_ascii_lowercase();
        let is_secret = SECRET_PARTS.iter().any(|part| lower.contains(part)) || lower == "configdrive";
        let value = match value {
            Value::Null => Value::Null,
            _ if is_secret => Value::from(MASK),
            Value::Object(inner) => Value::Object(masked(inner)),
            other => other.clone(),
        };
        (key.clone(), value)
    };
    map.iter().map(mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_43_url_safe_characters_and_equals_only_itself() {
        let (one, two) = (new_token(), new_token());
        assert_eq!(one.len(), 43);
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert!(same(&one, &one) && !same(&one, &two) && !same(&one, "") && !same(&one, &one[..42]));
    }

    #[test]
    fn secrets_are_masked_at_any_depth() {
        let map =
            serde_json::json!({"redfish_password": "p", "a": {"agent_secret_token": "t"}, "configdrive": "c", "b": 1});
        let masked = Value::Object(masked(map.as_object().unwrap()));
        let want = serde_json::json!({"redfish_password": MASK, "a": {"agent_secret_token": MASK}, "configdrive": MASK, "b": 1});
        assert_eq!(masked, want);
    }
}
