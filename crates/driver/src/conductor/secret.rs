//! Tokens of agents, and what must not be told.

use super::offered;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use sha_crypt::{PasswordHasher as _, ShaCrypt};
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

/// The longest password that is hashed: the algorithm's time grows with it.
const LONGEST_PASSWORD: usize = 256;

/// A password as the ramdisk's `/etc/shadow` takes it: SHA-256 crypt (`$5$`), Ironic's default algorithm.
///
/// # Errors
/// What is wrong with the password, as the end of a sentence.
pub(super) fn crypt(password: &str) -> Result<String, String> {
    if password.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    if password.len() > LONGEST_PASSWORD {
        return Err(format!("it is longer than {LONGEST_PASSWORD} bytes"));
    }
    let salt: [u8; 12] = rand::random();
    let hash = ShaCrypt::SHA256.hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| format!("it cannot be hashed: {error}"))
}

/// Keys whose values are secrets, by a part of their name.
const SECRET_PARTS: [&str; 4] = ["password", "token", "secret", "community"];

/// A copy without secrets, as it is told: their values become `******`.
pub(super) fn masked(map: &Map<String, Value>) -> Map<String, Value> {
    let mask = |(key, value): (&String, &Value)| {
        let lower = key.to_ascii_lowercase();
        let is_secret = SECRET_PARTS.iter().any(|part| lower.contains(part)) || lower == "configdrive";
        let value = match value {
            Value::Null => Value::Null,
            _ if is_secret => Value::from(MASK),
            other => match offered::shown(key, other).as_ref().unwrap_or(other) {
                Value::Object(inner) => Value::Object(masked(inner)),
                other => other.clone(),
            },
        };
        (key.clone(), value)
    };
    map.iter().map(mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2014_1428_a_token_has_43_url_safe_characters_and_equals_only_itself() {
        let (one, two) = (new_token(), new_token());
        assert_eq!(one.len(), 43);
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert!(same(&one, &one) && !same(&one, &two) && !same(&one, "") && !same(&one, &one[..42]));
    }

    #[test]
    fn a_rescue_password_is_hashed_as_crypt_does() {
        use sha_crypt::PasswordVerifier as _;
        let hash = crypt("opensesame").unwrap();
        assert!(hash.starts_with("$5$") && hash.len() < 128, "{hash}");
        assert_ne!(hash, crypt("opensesame").unwrap());
        ShaCrypt::SHA256.verify_password(b"opensesame", hash.as_str()).unwrap();
        // Made with `openssl passwd -5 -salt saltsalt opensesame`.
        let other = "$5$saltsalt$jbxAgW5X5LNk4yh.NmUXL1XLS9OoRHueeuIinWYHZ9D";
        ShaCrypt::SHA256.verify_password(b"opensesame", other).unwrap();
        assert!(crypt("  ").is_err() && crypt(&"x".repeat(300)).is_err());
    }

    #[test]
    fn secrets_are_masked_at_any_depth() {
        let map =
            serde_json::json!({"redfish_password": "p", "a": {"agent_secret_token": "t"}, "configdrive": "c", "b": 1});
        let masked = Value::Object(masked(map.as_object().unwrap()));
        let want = serde_json::json!({"redfish_password": MASK, "a": {"agent_secret_token": MASK}, "configdrive": MASK, "b": 1});
        assert_eq!(masked, want);
    }

    #[test]
    fn secrets_among_the_steps_that_an_agent_offers_are_masked() {
        let key = offered::key(hardware::StepKind::Clean);
        let steps = serde_json::json!({"deploy": [{"step": "erase_devices"}], "vendor_password": "p"});
        let map = Map::from_iter([(key.clone(), offered::kept(&steps))]);
        let want = serde_json::json!({"deploy": [{"step": "erase_devices"}], "vendor_password": MASK});
        assert_eq!(masked(&map), Map::from_iter([(key, want)]));
    }
}
