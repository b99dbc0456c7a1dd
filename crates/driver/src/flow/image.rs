//! What the agent is told of an image.

use super::deploy::{boots_uefi, capability};
use base64::Engine as _;
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
    let partition = is_partition(node)?;
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
    let mut other = Map::new();
    if partition {
        other = partition_keys(node)?;
    }
    other.extend(proxies(node));
    if let Some(secret) = text(info, "image_request_authorization_secret")? {
        let header = base64::engine::general_purpose::STANDARD.encode(secret);
        other.insert("image_request_authorization".to_owned(), Value::from(header));
    }
    Ok(ImageInfo {
        id,
        urls: vec![source.to_owned()],
        checksum: own(checksum),
        os_hash_algo: own(algorithm),
        os_hash_value: own(digest),
        disk_format: own(text(info, "image_disk_format")?),
        container_format: own(text(info, "image_container_format")?),
        image_type: partition.then(|| PARTITION.to_owned()).or(own(text(info, "image_type")?)),
        stream_raw_images: Some(true),
        node_uuid: Some(node.uuid.to_string()),
        other,
        ..ImageInfo::default()
    })
}

/// `image_type` of an image that is one file system, for which the agent makes the partitions.
const PARTITION: &str = "partition";

/// Whether the image is one file system. As in Ironic: when `image_type` does not say, an image that comes with a kernel
/// and a ramdisk of its own is.
///
/// # Errors
/// [`ImageError`]: `image_type` is none of the two.
pub fn is_partition(node: &Node) -> Result<bool, ImageError> {
    let info = &node.instance_info;
    match text(info, "image_type")? {
        Some(PARTITION) => Ok(true),
        Some("whole-disk") => Ok(false),
        Some(kind) => Err(wrong("image_type", format!("{kind:?} is not known"), "use whole-disk or partition")),
        None => Ok(text(info, "kernel")?.is_some() && text(info, "ramdisk")?.is_some()),
    }
}

/// A size: a whole number, also as the text that command lines send.
fn size(info: &Map<String, Value>, key: &'static str) -> Result<Option<u64>, ImageError> {
    let remedy = "give a whole number, not negative";
    match info.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) if number.as_u64().is_some() => Ok(number.as_u64()),
        Some(Value::String(text)) => {
            let size = text.trim().parse();
            size.map(Some).map_err(|_| wrong(key, format!("{text:?} is not a number"), remedy))
        }
        Some(other) => Err(wrong(key, format!("{other} is not a number"), remedy)),
    }
}

/// What the agent is told besides, to make the partitions; names and units are Ironic's: GB of `instance_info` become MiB.
fn partition_keys(node: &Node) -> Result<Map<String, Value>, ImageError> {
    let info = &node.instance_info;
    let root_gb = size(info, "root_gb")?
        .filter(|size| *size > 0)
        .ok_or_else(|| wrong("root_gb", "is missing", "a partition image needs the size of its partition in GB"))?;
    let in_mb = |gb: u64| gb.saturating_mul(1024);
    let ephemeral_mb = in_mb(size(info, "ephemeral_gb")?.unwrap_or_default());
    let preserve = match info.get("preserve_ephemeral") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(on)) => *on,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => true,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => false,
        Some(other) => return Err(wrong("preserve_ephemeral", format!("{other} is no flag"), "use true or false")),
    };
    let keys = json!({
        "root_gb": root_gb,
        "root_mb": in_mb(root_gb),
        "swap_mb": size(info, "swap_mb")?.unwrap_or_default(),
        "ephemeral_mb": ephemeral_mb,
        "ephemeral_format": text(info, "ephemeral_format")?.or((ephemeral_mb > 0).then_some("ext4")),
        "preserve_ephemeral": preserve,
        "kernel": text(info, "kernel")?,
        "ramdisk": text(info, "ramdisk")?,
        "boot_option": "local",
        "deploy_boot_mode": if boots_uefi(node) { "uefi" } else { "bios" },
        "disk_label": capability(node, "disk_label"),
    });
    let Value::Object(mut keys) = keys else { return Ok(Map::new()) };
    keys.retain(|key, value| key != "disk_label" || !value.is_null());
    Ok(keys)
}

/// Proxies for the download, from `driver_info`.
fn proxies(node: &Node) -> Map<String, Value> {
    let given =
        |key: &str| node.driver_info.get(key).filter(|value| value.as_str().is_some_and(|text| !text.is_empty()));
    let of = |scheme: &str| Some((scheme.to_owned(), given(&format!("image_{scheme}_proxy"))?.clone()));
    let proxies: Map<String, Value> = ["http", "https"].into_iter().filter_map(of).collect();
    let mut keys = Map::new();
    if !proxies.is_empty() {
        keys.insert("proxies".to_owned(), Value::Object(proxies));
        keys.extend(given("image_no_proxy").map(|value| ("no_proxy".to_owned(), value.clone())));
    }
    keys
}

/// Arguments of the step `deploy.write_image`.
pub fn write_image_arguments(node: &Node, configdrive: Option<String>) -> Result<Map<String, Value>, ImageError> {
    let info = serde_json::to_value(image_info(node)?).unwrap_or(Value::Null);
    let mut arguments = Map::new();
    arguments.insert("image_info".to_owned(), info);
    arguments.insert("configdrive".to_owned(), json!(configdrive));
    Ok(arguments)
}
