//! What the agent is told of an image.

use serde_json::{Map, Value, json};
use store::Node;
use wire::agent::ImageInfo;

/// What is wrong with the image in `instance_info`; names the key and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instance_info/{key} {problem}; {remedy}")]
pub struct ImageError {
    key: &'static str,
    problem: String,
    remedy: &'static str,
}

fn wrong(key: &'static str, problem: impl Into<String>, remedy: &'static str) -> ImageError {
    ImageError { key, problem: problem.into(), remedy }
}

fn text<'a>(info: &'a Map<String, Value>, key: &'static str) -> Result<Option<&'a str>, ImageError> {
    match info.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text)),
        Some(Value::String(_)) => Err(wrong(key, "is empty", "set it or remove it")),
        Some(_) => Err(wrong(key, "is not a text", "put it in quotes")),
    }
}

/// The path of an image's URL: http and https with a host, or `file://` with an absolute path on the agent's side, which the
/// agent opens only below the folders that its `ferric.image-root` allows.
fn source_path(source: &str) -> Result<String, ImageError> {
    let remedy = "give an http, https or file URL";
    if let Some(path) = source.strip_prefix("file://") {
        return if path.starts_with('/') {
            Ok(path.to_owned())
        } else {
            Err(wrong("image_source", format!("{source:?} has no absolute path"), "write file:///path"))
        };
    }
    let uri: http::Uri =
        source.parse().map_err(|_| wrong("image_source", format!("{source:?} is not a URL"), remedy))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(wrong("image_source", format!("{source:?} is not an http, https or file URL"), remedy));
    }
    Ok(uri.path().to_owned())
}

/// `image_info` of the node's image, from its `instance_info`.
///
/// # Errors
/// [`ImageError`]: a key is missing or cannot be used.
pub fn image_info(node: &Node) -> Result<ImageInfo, ImageError> {
    let info = &node.instance_info;
    let source = text(info, "image_source")?
        .ok_or_else(|| wrong("image_source", "is missing", "set it to the URL of the image"))?;
    let path = source_path(source)?;
    if let Some(kind) = text(info, "image_type")?.filter(|kind| *kind != "whole-disk") {
        return Err(wrong("image_type", format!("{kind:?} is not supported"), "use a whole-disk image"));
    }
    let checksum = text(info, "image_checksum")?;
    let algorithm = text(info, "image_os_hash_algo")?;
    let digest = text(info, "image_os_hash_value")?;
    match (algorithm, digest) {
        (Some(_), None) => {
            return Err(wrong("image_os_hash_value", "is missing", "set it together with image_os_hash_algo"));
        }
        (None, Some(_)) => {
            return Err(wrong("image_os_hash_algo", "is missing", "set it together with image_os_hash_value"));
        }
        (None, None) if checksum.is_none() => {
            let remedy = "set it, or image_os_hash_algo and image_os_hash_value: an image without one is not written";
            return Err(wrong("image_checksum", "is missing", remedy));
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let id = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("image").to_owned();
    let own = |text: Option<&str>| text.map(str::to_owned);
    Ok(ImageInfo {
        id,
        urls: vec![source.to_owned()],
        checksum: own(checksum),
        os_hash_algo: own(algorithm),
        os_hash_value: own(digest),
        disk_format: own(text(info, "image_disk_format")?),
        container_format: own(text(info, "image_container_format")?),
        image_type: own(text(info, "image_type")?),
        stream_raw_images: Some(true),
        node_uuid: Some(node.uuid.to_string()),
        ..ImageInfo::default()
    })
}

/// Arguments of the step `deploy.write_image`.
pub fn write_image_arguments(node: &Node, configdrive: Option<String>) -> Result<Map<String, Value>, ImageError> {
    let info = serde_json::to_value(image_info(node)?).unwrap_or(Value::Null);
    let mut arguments = Map::new();
    arguments.insert("image_info".to_owned(), info);
    arguments.insert("configdrive".to_owned(), json!(configdrive));
    Ok(arguments)
}
