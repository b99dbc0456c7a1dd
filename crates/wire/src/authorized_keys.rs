//! Public keys of those who may log in to a rescue, as they stand in an `authorized_keys` file (sshd(8)).

use serde_json::Value;

/// Where a node has such keys, in its `instance_info`, and a request for a rescue: a text of lines, or a list of such.
pub const KEY: &str = "rescue_authorized_keys";
/// Keys that may be given, and bytes that each may have.
const MOST_KEYS: usize = 64;
const LONGEST_KEY: usize = 16 << 10;
/// Kinds of keys that the SSH server of the rescue ramdisk understands.
const KINDS: [&str; 6] = [
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ssh-rsa",
];

/// Reads what a node or a request has under [`KEY`]; nothing is no keys.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(given: Option<&Value>) -> Result<Vec<String>, String> {
    let texts: Option<Vec<&str>> = match given {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![text]),
        Some(Value::Array(texts)) => texts.iter().map(Value::as_str).collect(),
        Some(_) => None,
    };
    keys(texts.ok_or("it is neither a text nor a list of texts")?)
}

/// Checks the lines of texts, each of which is a key or empty.
fn keys<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, String> {
    let lines = texts.into_iter().flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty());
    let keys: Vec<String> = lines.map(key).collect::<Result<_, _>>()?;
    if keys.len() > MOST_KEYS {
        return Err(format!("there are {} keys, and at most {MOST_KEYS} are taken", keys.len()));
    }
    Ok(keys)
}

/// One key without options: a forced command or an environment has no place here.
fn key(line: &str) -> Result<String, String> {
    let start: String = line.chars().take(30).collect();
    let mut words = line.split(' ');
    let (kind, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !KINDS.contains(&kind) {
        return Err(format!("{start:?} does not begin with a kind of key; known are {}", KINDS.join(", ")));
    }
    let base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
    if blob.len() < 32 || line.len() > LONGEST_KEY || !blob.bytes().all(base64) || line.chars().any(char::is_control) {
        return Err(format!("{start:?} is not a public key as ssh-keygen writes it"));
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl someone@site";

    #[test]
    fn keys_of_a_node_are_a_text_or_a_list() {
        assert!(read(None).unwrap().is_empty() && read(Some(&Value::Null)).unwrap().is_empty());
        assert_eq!(read(Some(&json!(format!("{KEY}\n{KEY}\n")))).unwrap().len(), 2);
        assert_eq!(read(Some(&json!([KEY]))).unwrap(), [KEY]);
        for wrong in [json!(7), json!([7]), json!({}), json!("no key")] {
            assert!(read(Some(&wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_plain_public_keys_are_taken() {
        assert_eq!(keys([KEY, "\n", KEY]).unwrap().len(), 2);
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----";
        let forced = format!("command=\"/bin/sh\" {KEY}");
        let dss = KEY.replace("ssh-ed25519", "ssh-dss");
        let broken = KEY.replace("AAAAC3", "AAAA\u{7}C3");
        for wrong in [private, &forced, &dss, &broken, "ssh-ed25519", "ssh-ed25519 short", "rescue::0:0"] {
            assert!(keys([wrong]).is_err(), "{wrong}");
        }
        assert!(keys(std::iter::repeat_n(KEY, MOST_KEYS + 1)).unwrap_err().contains("65"));
    }
}
