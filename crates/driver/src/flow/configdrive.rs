//! Config drives: what the API takes becomes what the agent writes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use media::iso9660::Builder;
use serde_json::{Map, Value, json};
use std::io::Write as _;
use store::Node;

/// Volume label by which cloud-init finds a config drive.
const LABEL: &str = "config-2";
/// The largest image that fits the partition an agent makes for it: 64 MiB.
const LARGEST: usize = 64 << 20;

/// Why a config drive cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigDriveError {
    /// Neither text nor object, or a part of the wrong type.
    #[error("configdrive{part} must be {wanted}")]
    Shape {
        /// Which part, with a leading dot.
        part: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// Too large for its partition.
    #[error("the config drive has {size} bytes, but its partition holds {LARGEST}; make user_data smaller")]
    TooLarge {
        /// Bytes.
        size: usize,
    },
    /// The image could not be made.
    #[error("build the config drive")]
    Build(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn build_error(error: impl std::error::Error + Send + Sync + 'static) -> ConfigDriveError {
    ConfigDriveError::Build(Box::new(error))
}

/// What the agent gets: base64 of a gzipped ISO image, or the text that the request brought (the same, or a URL).
/// The same input always gives the same text, so that a step that is sent again is the same step.
pub fn for_agent(node: &Node) -> Result<Option<String>, ConfigDriveError> {
    match node.instance_info.get("configdrive") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Object(parts)) => build(node, parts).map(Some),
        Some(_) => Err(ConfigDriveError::Shape { part: String::new(), wanted: "a text or an object" }),
    }
}

fn build(node: &Node, parts: &Map<String, Value>) -> Result<String, ConfigDriveError> {
    let object = |key: &str| match parts.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map.clone())),
        Some(_) => Err(ConfigDriveError::Shape { part: format!(".{key}"), wanted: "an object" }),
    };
    let mut meta_data = object("meta_data")?.unwrap_or_default();
    meta_data.entry("uuid").or_insert_with(|| json!(node.uuid));
    if let Some(name) = &node.name {
        meta_data.entry("name").or_insert_with(|| json!(name));
        meta_data.entry("hostname").or_insert_with(|| json!(name));
    }
    let mut files = vec![("meta_data.json", json_bytes(&meta_data)?)];
    if let Some(network) = object("network_data")? {
        files.push(("network_data.json", json_bytes(&network)?));
    }
    if let Some(vendor) = object("vendor_data")? {
        // Both names are read by cloud-init; the client libraries write the second.
        let bytes = json_bytes(&vendor)?;
        files.push(("vendor_data.json", bytes.clone()));
        files.push(("vendor_data2.json", bytes));
    }
    match parts.get("user_data") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => files.push(("user_data", text.clone().into_bytes())),
        Some(data @ (Value::Object(_) | Value::Array(_))) => {
            files.push(("user_data", serde_json::to_vec(data).map_err(build_error)?));
        }
        Some(_) => {
            let wanted = "a text, an object or a list";
            return Err(ConfigDriveError::Shape { part: ".user_data".to_owned(), wanted });
        }
    }
    pack(files)
}

fn json_bytes(map: &Map<String, Value>) -> Result<Vec<u8>, ConfigDriveError> {
    serde_json::to_vec(map).map_err(build_error)
}

fn pack(files: Vec<(&str, Vec<u8>)>) -> Result<String, ConfigDriveError> {
    let mut iso = Builder::new(LABEL).map_err(build_error)?;
    for (name, data) in files {
        iso.file(&format!("openstack/latest/{name}"), 0o644, data).map_err(build_error)?;
    }
    let image = iso.to_vec().map_err(build_error)?;
    if image.len() > LARGEST {
        return Err(ConfigDriveError::TooLarge { size: image.len() });
    }
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::default());
    gzip.write_all(&image).map_err(build_error)?;
    Ok(STANDARD.encode(gzip.finish().map_err(build_error)?))
}
