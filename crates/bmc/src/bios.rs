//! The settings of a system's firmware (DSP0268, Bios), with what its attribute registry says about them.

use crate::error::RedfishError;
use crate::redfish::Redfish;
use crate::resource::Resource;
use hardware::BiosSetting;
use serde_json::{Map, Value};

/// Most settings that are read; the largest machines have about a thousand.
const MOST_SETTINGS: usize = 4096;
/// Longest text of a setting that is kept, in characters.
const LONGEST: usize = 1024;

/// The settings of a system's firmware with what is known of them.
pub(crate) struct Bios {
    pub(crate) resource: Resource,
    /// Values by name.
    pub(crate) values: Map<String, Value>,
    pub(crate) registry: Option<Resource>,
}

impl Bios {
    /// What the registry says of a setting.
    pub(crate) fn entry(&self, name: &str) -> Option<&Map<String, Value>> {
        let entries = self.registry.as_ref()?.at(&["RegistryEntries", "Attributes"])?.as_array()?;
        let named = |entry: &&Value| entry.get("AttributeName").and_then(Value::as_str) == Some(name);
        entries.iter().find(named)?.as_object()
    }
}

impl Redfish {
    /// Reads the settings, by name. The registry is asked for as well; a BMC without one tells names and values only.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] when the system has no such settings, else what went wrong.
    pub async fn read_bios_settings(&self) -> Result<Vec<BiosSetting>, RedfishError> {
        let bios = self.bios().await?;
        if bios.values.len() > MOST_SETTINGS {
            let settings = bios.values.len();
            tracing::warn!(bmc = bios.resource.bmc, settings, "only the first {MOST_SETTINGS} are kept");
        }
        let settings = bios.values.iter().take(MOST_SETTINGS);
        Ok(settings.map(|(name, value)| setting(name, value, bios.entry(name))).collect())
    }

    /// The settings' resource as it is now.
    pub(crate) async fn read_bios(&self) -> Result<Resource, RedfishError> {
        let system = self.system().await?;
        let link = system.link(&["Bios"]).ok_or_else(|| system.unsupported("it does not tell its BIOS settings"))?;
        self.connection.get(&system.path, link).await
    }

    /// The settings with their registry.
    pub(crate) async fn bios(&self) -> Result<Bios, RedfishError> {
        let resource = self.read_bios().await?;
        let Some(Value::Object(values)) = resource.at(&["Attributes"]) else {
            return Err(resource.unsupported("it has no Attributes, so there are no BIOS settings"));
        };
        let values = values.clone();
        let registry = match resource.text(&["AttributeRegistry"]) {
            None => None,
            Some(name) => self.attribute_registry(name).await.unwrap_or_else(|error| {
                let error = transport::client::chain(&error);
                tracing::info!(bmc = resource.bmc, error, "no BIOS attribute registry");
                None
            }),
        };
        Ok(Bios { resource, values, registry })
    }

    /// The registry of a name: the one whose file is called so, else the one that calls itself so.
    async fn attribute_registry(&self, name: &str) -> Result<Option<Resource>, RedfishError> {
        let root = self.connection.root().await?;
        let Some(link) = root.link(&["Registries"]) else { return Ok(None) };
        let mut others = Vec::new();
        for member in self.connection.members(&root.path, link).await? {
            let last = member.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            // Registries of messages are large, and many.
            if !last.to_ascii_lowercase().contains("attribute") && !is_version_of(name, last) {
                continue;
            }
            let file = self.connection.get(&root.path, &member).await?;
            let called = |resource: &Resource, key| resource.text(&[key]).is_some_and(|text| is_version_of(name, text));
            let is_called = ["Id", "Registry"].into_iter().any(|key| called(&file, key));
            match self.registry_in(&file).await {
                Ok(Some(registry)) if is_called || called(&registry, "Id") => return Ok(Some(registry)),
                Ok(registry) => others.extend(registry),
                Err(error) => tracing::debug!(error = transport::client::chain(&error), "a registry leads nowhere"),
            }
        }
        tracing::debug!(registry = name, seen = others.len(), "no registry of this name");
        Ok(None)
    }

    /// The registry that a file leads to, in English where there is a choice.
    async fn registry_in(&self, file: &Resource) -> Result<Option<Resource>, RedfishError> {
        let places = file.at(&["Location"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let english = |place: &&Value| {
            let language = place.get("Language").and_then(Value::as_str).unwrap_or("en");
            language.to_ascii_lowercase().starts_with("en")
        };
        // Names of settings and of their values are the same in all languages; what differs is for people.
        let uri = |place: &'_ Value| place.get("Uri").and_then(Value::as_str).map(str::to_owned);
        let found = places.iter().filter(english).find_map(uri).or_else(|| places.iter().find_map(uri));
        match found.as_deref() {
            Some(uri) => self.connection.get(&file.path, uri).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Whether a registry that is called `text` is the one that settings call `name`: a file tells the version without its last part
/// (DSP0268, MessageRegistryFile, `Registry`).
fn is_version_of(name: &str, text: &str) -> bool {
    name.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A setting with what the registry says of it.
fn setting(name: &str, value: &Value, entry: Option<&Map<String, Value>>) -> BiosSetting {
    let kept = |text: &str| -> String { text.chars().take(LONGEST).collect() };
    let value = match value {
        Value::String(text) => Value::String(kept(text)),
        value @ (Value::Null | Value::Bool(_) | Value::Number(_)) => value.clone(),
        // The standard has no others.
        other @ (Value::Array(_) | Value::Object(_)) => Value::String(kept(&other.to_string())),
    };
    let mut setting = BiosSetting { name: kept(name), value, ..BiosSetting::default() };
    let Some(entry) = entry else { return setting };
    let number = |key: &str| entry.get(key).and_then(Value::as_i64);
    let flag = |key: &str| entry.get(key).and_then(Value::as_bool);
    setting.attribute_type = entry.get("Type").and_then(Value::as_str).map(kept);
    if setting.attribute_type.as_deref() == Some("Password") && setting.value != "" {
        // A BMC has to show none (DSP0268, AttributeRegistry, Type), and one that shows it is not passed on.
        setting.value = Value::Null;
    }
    let values = entry.get("Value").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let name_of = |value: &Value| {
        let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        text("ValueName").or_else(|| text("ValueDisplayName")).map(kept)
    };
    setting.allowable_values = Some(values.iter().take(MOST_SETTINGS).filter_map(name_of).collect());
    setting.lower_bound = number("LowerBound");
    setting.upper_bound = number("UpperBound");
    setting.min_length = number("MinLength");
    setting.max_length = number("MaxLength");
    setting.read_only = flag("ReadOnly");
    setting.reset_required = flag("ResetRequired");
    setting.unique = flag("IsSystemUniqueProperty");
    setting
}
