//! What may be run in containers, and how: `[container]` of ironic-python-agent's configuration, with its names and
//! defaults, and `agent_containers` of the lookup reply, which wins.

use serde_json::Value;
use std::path::PathBuf;

/// The programs that can run containers.
pub const RUNNERS: [&str; 2] = ["podman", "docker"];

/// What may be run in containers, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containers {
    /// Whether a step may name any image, and options for it.
    pub allow_arbitrary: bool,
    /// Images that a step may name.
    pub allowed: Vec<String>,
    /// The file with steps of the ramdisk's own.
    pub steps_file: PathBuf,
    /// One of [`RUNNERS`].
    pub runner: String,
    /// Options for pulling, unless a step has its own: words with blanks between them.
    pub pull_options: Vec<String>,
    /// Options for running, likewise.
    pub run_options: Vec<String>,
}

impl Containers {
    /// Takes over what the driver says. A key that is not known is left; of a wrong value, the log tells.
    pub(super) fn adopt(&mut self, told: &Value) -> bool {
        let Value::Object(told) = told else { return told.is_null() };
        for (key, value) in told {
            if self.adopt_one(key, value).is_none() {
                tracing::warn!(key, %value, "the lookup sets this of agent_containers to what it cannot be; it is not used");
            }
        }
        true
    }

    fn adopt_one(&mut self, key: &str, value: &Value) -> Option<()> {
        match key {
            "allow_arbitrary_containers" => self.allow_arbitrary = value.as_bool()?,
            "allowed_containers" => self.allowed = list(value)?,
            "container_steps_file" => self.steps_file = value.as_str()?.into(),
            "runner" => self.runner = RUNNERS.into_iter().find(|runner| value == runner)?.to_owned(),
            "pull_options" => self.pull_options = list(value)?,
            "run_options" => self.run_options = list(value)?,
            _ => {}
        }
        Some(())
    }
}

/// A list of texts, or one text with commas.
fn list(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        Value::String(text) => {
            Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;
    use serde_json::json;

    #[test]
    fn the_driver_decides_and_what_it_cannot_mean_changes_nothing() {
        let adopted = |told| {
            let mut settings = Settings::default();
            settings.adopt(&serde_json::from_value(json!({"agent_containers": told})).unwrap());
            settings.containers
        };
        let told = adopted(json!({
            "allow_arbitrary_containers": true, "allowed_containers": ["a", "b"], "runner": "docker",
            "pull_options": "--tls-verify=false", "run_options": ["--rm --network=host"], "a_later_key": 5,
        }));
        assert!(told.allow_arbitrary);
        assert_eq!((told.allowed, told.runner), (vec!["a".to_owned(), "b".to_owned()], "docker".to_owned()));
        assert_eq!(
            (told.pull_options, told.run_options),
            (vec!["--tls-verify=false".to_owned()], vec!["--rm --network=host".to_owned()],)
        );
        let wrong = json!({
            "allow_arbitrary_containers": "maybe", "allowed_containers": 5, "runner": "runc", "run_options": [1],
            "container_steps_file": null,
        });
        assert_eq!(adopted(wrong), Settings::default().containers);
        assert_eq!(adopted(json!("podman")), Settings::default().containers);
    }
}
