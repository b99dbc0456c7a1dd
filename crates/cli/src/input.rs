//! What people give: files, `key=value`, steps, passwords. Everything is checked here, before anything is asked of the
//! service.

use serde_json::{Map, Value, json};
use std::io::Read as _;
use std::path::Path;

/// Largest file of nodes, steps or user data, bytes.
const FILE_LIMIT: u64 = 16 << 20;

/// Why something that was given cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is neither YAML nor JSON: {reason}")]
    Document { path: String, reason: String },
    #[error("{path}: {problem}")]
    Content { path: String, problem: String, remedy: &'static str },
    #[error("{what} {given:?}: {problem}")]
    Argument { what: &'static str, given: String, problem: String, remedy: &'static str },
    #[error("no terminal to ask for a password on")]
    NoTerminal,
    #[error("the two passwords differ")]
    PasswordsDiffer,
}

impl InputError {
    pub(crate) fn remedy(&self) -> Option<String> {
        match self {
            Self::Read { .. } => Some("check the path and its permissions".to_owned()),
            Self::Document { .. } => None,
            Self::Content { remedy, .. } | Self::Argument { remedy, .. } => Some((*remedy).to_owned()),
            Self::NoTerminal => Some("give --password-file FILE".to_owned()),
            Self::PasswordsDiffer => Some("type it again".to_owned()),
        }
        .filter(|remedy| !remedy.is_empty())
    }
}

/// A whole file; `-` is standard input.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, InputError> {
    let shown = path.display().to_string();
    let failed = |source| InputError::Read { path: shown.clone(), source };
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(FILE_LIMIT + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut bytes))
    };
    let read = read.map_err(failed)?;
    if read as u64 > FILE_LIMIT {
        return Err(failed(std::io::Error::other(format!("it has more than {} MiB", FILE_LIMIT >> 20))));
    }
    Ok(bytes)
}

/// A whole file of text.
pub(crate) fn text(path: &Path) -> Result<String, InputError> {
    String::from_utf8(bytes(path)?).map_err(|_| InputError::Content {
        path: path.display().to_string(),
        problem: "it is not UTF-8 text".to_owned(),
        remedy: "save it as UTF-8",
    })
}

/// The one line of a file that holds a secret.
pub(crate) fn secret(path: &Path) -> Result<String, InputError> {
    let text = text(path)?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains('\n') {
        return Err(InputError::Content {
            path: path.display().to_string(),
            problem: "it does not hold exactly one line".to_owned(),
            remedy: "put the password, and nothing else, into the file",
        });
    }
    Ok(line.to_owned())
}

/// A file of YAML or JSON.
pub(crate) fn document(path: &Path) -> Result<Value, InputError> {
    parse_document(&path.display().to_string(), &text(path)?)
}

/// A text of YAML or JSON.
pub(crate) fn parse_document(path: &str, text: &str) -> Result<Value, InputError> {
    let wrong = |reason: String| {
        let reason = reason.lines().next().unwrap_or_default().to_owned();
        InputError::Document { path: path.to_owned(), reason }
    };
    if text.trim_start().starts_with(['{', '[']) {
        return wire::json::read(text.as_bytes()).map_err(|error| wrong(error.to_string()));
    }
    // As YAML 1.2 has it, `no` and `on` are texts; and no document becomes a thousand times what was read.
    let mut options = serde_saphyr::options! { strict_booleans: true };
    options.alias_limits.max_total_replayed_events = 100_000;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| wrong(error.to_string()))
}

/// `key=value`. A value is text as it stands, unless it is `true` or `false`, or begins like a JSON object, list or string.
pub(crate) fn pair(what: &'static str, given: &str) -> Result<(String, Value), InputError> {
    let wrong = |problem: &str| InputError::Argument {
        what,
        given: given.to_owned(),
        problem: problem.to_owned(),
        remedy: "write KEY=VALUE",
    };
    let (key, value) = given.split_once('=').ok_or_else(|| wrong("there is no = in it"))?;
    if key.trim().is_empty() {
        return Err(wrong("there is no key before the ="));
    }
    let value = if matches!(value, "true" | "false") || value.starts_with(['{', '[', '"']) {
        wire::json::read(value.as_bytes())
            .map_err(|error| wrong(&format!("the value begins like JSON, but {error}")))?
    } else {
        Value::from(value)
    };
    Ok((key.trim().to_owned(), value))
}

/// Many of them.
pub(crate) fn pairs(what: &'static str, given: &[String]) -> Result<Map<String, Value>, InputError> {
    given.iter().map(|given| pair(what, given)).collect()
}

/// Interfaces that steps can be of.
const INTERFACES: [&str; 9] =
    ["bios", "boot", "deploy", "firmware", "inspect", "management", "power", "raid", "vendor"];

/// A step: `[INTERFACE.]NAME[,KEY=VALUE…]`. Without an interface it is one of the agent's: `deploy`.
pub(crate) fn step(given: &str) -> Result<Value, InputError> {
    let mut parts = given.split(',');
    let name = parts.next().unwrap_or_default().trim();
    let (interface, name) = name.split_once('.').unwrap_or(("deploy", name));
    let arguments: Vec<String> = parts.map(str::to_owned).collect();
    checked_step("--step", json!({"interface": interface, "step": name, "args": pairs("--step", &arguments)?}))
}

/// Steps of a file: a list of `{interface, step, args}`, alone or as `steps`, `clean_steps` or `service_steps`.
pub(crate) fn steps_of(path: &Path) -> Result<Vec<Value>, InputError> {
    let shown = path.display().to_string();
    let document = document(path)?;
    let named = || ["steps", "clean_steps", "service_steps"].iter().find_map(|key| document.get(*key)?.as_array());
    let list =
        document.as_array().or_else(named).filter(|list| !list.is_empty()).ok_or_else(|| InputError::Content {
            path: shown.clone(),
            problem: "it has no list of steps".to_owned(),
            remedy: "write a list of {interface: …, step: …, args: {…}}",
        })?;
    list.iter().map(|step| checked_step("step", step.clone())).collect()
}

fn checked_step(what: &'static str, step: Value) -> Result<Value, InputError> {
    let wrong = |problem: String| InputError::Argument {
        what,
        given: step.to_string(),
        problem,
        remedy: "a step is [INTERFACE.]NAME[,KEY=VALUE…], such as deploy.erase_devices_metadata",
    };
    let text = |key: &str| step.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(strange) = step.as_object().and_then(|map| map.keys().find(|key| !STEP_KEYS.contains(&key.as_str()))) {
        return Err(wrong(format!("{strange} is no key of a step; it has {}", STEP_KEYS.join(", "))));
    }
    let interface = text("interface").ok_or_else(|| wrong("it has no interface".to_owned()))?;
    text("step").ok_or_else(|| wrong("it has no name".to_owned()))?;
    if !INTERFACES.contains(&interface) {
        return Err(wrong(format!("{interface} is no interface; there are {}", INTERFACES.join(", "))));
    }
    if step.get("args").is_some_and(|args| !args.is_object()) {
        return Err(wrong("its args are no object".to_owned()));
    }
    Ok(step)
}

const STEP_KEYS: [&str; 4] = ["interface", "step", "args", "execute_on_child_nodes"];

/// A MAC address in lower case with colons.
pub(crate) fn mac(given: &str) -> Result<String, InputError> {
    let text = given.trim().to_ascii_lowercase().replace('-', ":");
    let parts: Vec<&str> = text.split(':').collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if parts.len() == 6 && parts.iter().all(hex) {
        return Ok(text);
    }
    Err(InputError::Argument {
        what: "MAC address",
        given: given.to_owned(),
        problem: "it is not six pairs of hexadecimal digits".to_owned(),
        remedy: "write six pairs of hexadecimal digits: 52:54:00:12:34:56",
    })
}

/// Asks for a password on the terminal, without showing it.
pub(crate) fn password(prompt: &str) -> Result<String, InputError> {
    let password = rpassword::prompt_password(prompt).map_err(|_| InputError::NoTerminal)?;
    if password.is_empty() { Err(InputError::NoTerminal) } else { Ok(password) }
}

/// Asks for a new password twice.
pub(crate) fn new_password(what: &str) -> Result<String, InputError> {
    let first = password(&format!("{what}: "))?;
    if first == password(&format!("{what} again: "))? { Ok(first) } else { Err(InputError::PasswordsDiffer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_text_unless_they_say_otherwise() {
        let value = |given: &str| pair("--property", given).map(|(_, value)| value).map_err(|error| error.to_string());
        assert_eq!(value("serial=00123"), Ok(json!("00123")));
        assert_eq!(value("url=http://a/?b=c"), Ok(json!("http://a/?b=c")));
        assert_eq!(value("on=true"), Ok(json!(true)));
        assert_eq!(value("hint={\"size\": 10}"), Ok(json!({"size": 10})));
        assert_eq!(value("empty="), Ok(json!("")));
        assert!(value("none").is_err() && value("=x").is_err() && value("bad={").is_err());
    }

    #[test]
    fn steps_are_read_short_and_long() {
        assert_eq!(step("erase_devices_metadata").unwrap()["interface"], "deploy");
        let long = step("raid.create_configuration,create_root_volume=true").unwrap();
        assert_eq!(
            long,
            json!({"interface": "raid", "step": "create_configuration", "args": {"create_root_volume": true}})
        );
        let mut said = String::new();
        for wrong in ["", "raid.", "disk.erase", "erase,now"] {
            let error = step(wrong).unwrap_err();
            said += &format!("{error}\n  {}\n", error.remedy().unwrap_or_default());
        }
        insta::assert_snapshot!(said);
    }

    #[test]
    fn yaml_keeps_addresses_and_serial_numbers_as_text() {
        let yaml =
            "ports: [52:54:00:12:34:56, 11:22:33:44:55:66]\nserial: \"00123\"\nplain: 00123x\nyes: no\nsize: 12\n";
        let document = parse_document("nodes.yaml", yaml).unwrap();
        assert_eq!(document["ports"], json!(["52:54:00:12:34:56", "11:22:33:44:55:66"]));
        assert_eq!(
            (&document["serial"], &document["plain"], &document["size"]),
            (&json!("00123"), &json!("00123x"), &json!(12))
        );
        assert_eq!(document["yes"], json!("no"));
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_place() {
        for text in ["a: [1, 2\nb: 3", "{\"a\": }", "a: b: c", "a: &x [*x, *x]"] {
            let error = parse_document("nodes.yaml", text).unwrap_err().to_string();
            assert!(error.starts_with("nodes.yaml is neither YAML nor JSON: "), "{error}");
        }
        // A thousand million copies are not made.
        let bomb: String =
            std::iter::once("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned())
                .chain((1..10).map(|level| {
                    format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", "))
                }))
                .collect();
        assert!(parse_document("nodes.yaml", &bomb).is_err());
    }

    #[test]
    fn mac_addresses_have_one_spelling() {
        assert_eq!(mac("52-54-00-AA-bb-01").ok().as_deref(), Some("52:54:00:aa:bb:01"));
        assert!(mac("52:54:00:aa:bb").is_err());
    }
}
