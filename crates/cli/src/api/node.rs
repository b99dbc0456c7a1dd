//! A node as the API shows it.

use lifecycle::provision::{Kind, State};
use serde_json::{Map, Value};

/// The document of a node. What a service does not serve is as if it were not set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node(pub(crate) Value);

impl Node {
    /// A text that is set.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// Whether a flag is set.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0.get(key) == Some(&Value::Bool(true))
    }

    /// An object, empty when it is not set.
    pub(crate) fn object(&self, key: &str) -> Map<String, Value> {
        self.0.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// Its UUID.
    pub(crate) fn uuid(&self) -> &str {
        self.text("uuid").unwrap_or_default()
    }

    /// What people call it: its name, else its UUID.
    pub(crate) fn title(&self) -> &str {
        self.text("name").unwrap_or_else(|| self.uuid())
    }

    /// Its provision state by its word; a node that is `available` has none in the oldest versions.
    pub(crate) fn state(&self) -> &str {
        self.text("provision_state").unwrap_or("available")
    }

    /// What kind of state it is in. A word that nobody knows counts as work while the node has a target.
    pub(crate) fn kind(&self) -> Kind {
        match self.state().parse::<State>() {
            Ok(state) => state.kind(),
            Err(_) if self.state().ends_with("failed") => Kind::Failed,
            Err(_) if self.text("target_provision_state").is_some() => Kind::Working,
            Err(_) => Kind::Stable,
        }
    }

    /// What a running step tells of itself, if the service shows it.
    pub(crate) fn progress(&self) -> Option<&Value> {
        self.0.get("driver_internal_info")?.get("progress").filter(|progress| progress.is_object())
    }

    /// The step that runs, as `interface.step`.
    pub(crate) fn step(&self) -> Option<String> {
        let step = ["deploy_step", "clean_step", "service_step"]
            .iter()
            .find_map(|key| self.0.get(*key)?.as_object().filter(|step| !step.is_empty()))?;
        let word = |key: &str| step.get(key).and_then(Value::as_str);
        Some(match (word("interface"), word("step")) {
            (Some(interface), Some(name)) => format!("{interface}.{name}"),
            (None, Some(name)) => name.to_owned(),
            (_, None) => return None,
        })
    }
}
