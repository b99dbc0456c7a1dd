//! `prepare_image`: from the driver's `image_info` to a sealed disk. The same for the command and for the step
//! `write_image`.

use crate::command::params::kind_of;
use crate::command::{AgentError, Class};
use crate::config::Settings;
use crate::state::Shared;
use crate::{partition, root_disk, write};
use disk_image::Format;
use hardware::{DeviceId, Plan, StepControl};
use serde_json::{Map, Value, json};
use wire::agent::ImageInfo;

/// What is asked for, checked.
#[derive(Debug)]
pub struct Checked {
    /// The image.
    pub info: ImageInfo,
    /// How it is verified.
    pub checksum: Checksum,
}

/// How an image is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// A digest by a named algorithm, or a URL of one.
    Named {
        /// Such as `sha256`.
        algorithm: String,
        /// Hex digits, or a URL.
        value: String,
    },
    /// A digest whose length tells its algorithm, or a URL of a file with digests.
    Guessed(String),
}

/// `image_type` of an image that is one file system.
const PARTITION: &str = "partition";
/// Longest hex digest that could only be MD5.
const MD5_DIGITS: usize = 32;

/// Checks `image_info` as the protocol's validator does; its texts are part of the protocol.
pub fn validate(image_info: &Value, settings: &Settings) -> Result<Checked, AgentError> {
    let no_fields = Map::new();
    let fields = match image_info {
        Value::Object(fields) => fields,
        Value::Null => &no_fields,
        other => {
            let found = kind_of(other);
            return Err(AgentError::params(format!("parameter 'image_info' must be an object, but is {found}")));
        }
    };
    if let Some(missing) = ["id", "urls"].into_iter().find(|field| !fields.contains_key(*field)) {
        return Err(AgentError::params(format!("Image is missing '{missing}' field.")));
    }
    if fields["urls"].as_array().is_none_or(Vec::is_empty) {
        return Err(AgentError::params("Image 'urls' must be a list with at least one element."));
    }
    let named = named_checksum(fields)?;
    let guessed = match fields.get("checksum") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        Some(_) => return Err(AgentError::params("Image 'checksum' must be a non-empty string.")),
    };
    let guessed = guessed.filter(|text| is_url(text) || text.len() > MD5_DIGITS || settings.md5_enabled);
    let checksum = named.or(guessed.map(Checksum::Guessed)).ok_or_else(|| {
        AgentError::params(
            "Image checksum is not available, either the 'checksum' field or the 'os_hash_algo' and 'os_hash_value' \
             fields pair must be set for image verification.",
        )
    })?;
    if let Some((field, wanted)) = fields.iter().find_map(|(name, value)| wrong_type(name, value)) {
        return Err(AgentError::params(format!("Image '{field}' must be {wanted}.")));
    }
    let info = serde_json::from_value(image_info.clone())
        .map_err(|error| AgentError::params(format!("image_info: {error}")))?;
    Ok(Checked { info, checksum })
}

/// The field's name and what it has to be, when it is something else.
fn wrong_type<'a>(name: &'a str, value: &Value) -> Option<(&'a str, &'static str)> {
    let (fits, wanted) = match name {
        "id" => (value.is_string(), "a string"),
        "urls" => (value.as_array().is_some_and(|urls| urls.iter().all(Value::is_string)), "a list of strings"),
        "disk_format" | "container_format" | "image_type" | "node_uuid" | "configdrive" => {
            (value.is_string() || value.is_null(), "a string or null")
        }
        "proxies" => (value.is_object() || value.is_null(), "an object {scheme: address} or null"),
        "no_proxy" => (value.is_string() || value.is_null(), "a string or null"),
        "stream_raw_images" => (value.is_boolean() || value.is_null(), "true, false or null"),
        _ => return None,
    };
    (!fits).then_some((name, wanted))
}

fn named_checksum(fields: &Map<String, Value>) -> Result<Option<Checksum>, AgentError> {
    let is_set = |name: &str| match fields.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    if !is_set("os_hash_algo") && !is_set("os_hash_value") {
        return Ok(None);
    }
    let text = |name: &str| {
        let text = fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| AgentError::params(format!("Image '{name}' must be a non-empty string.")))
    };
    Ok(Some(Checksum::Named { algorithm: text("os_hash_algo")?, value: text("os_hash_value")? }))
}

/// Whether a checksum is the address of one.
pub fn is_url(text: &str) -> bool {
    ["http://", "https://", "file://"].into_iter().any(|scheme| text.starts_with(scheme))
}

/// Writes an image to the root disk and returns the sentence that the protocol wants.
pub async fn prepare_image(
    shared: &Shared,
    image_info: &Value,
    configdrive: Option<String>,
    control: &dyn StepControl,
) -> Result<String, AgentError> {
    let settings = shared.settings();
    let Checked { mut info, checksum } = validate(image_info, &settings)?;
    root_disk::may_write(shared, "writing an image")?;
    no_software_raid(shared.node().as_deref())?;
    let format = format(&info, &settings.permitted_image_formats)?;
    let partitions = match info.image_type.as_deref() {
        Some(PARTITION) => Some(partition::wanted(&info, shared.node().as_deref())?),
        _ => None,
    };
    let configdrive = configdrive.or_else(|| info.configdrive.take()).filter(|text| !text.is_empty());
    let (disk, plan) = tokio::select! {
        chosen = root_disk::choose(shared) => chosen?,
        () = control.cancelled() => {
            let details = format!("stopped on request while the root disk of image {} was looked for", info.id);
            return Err(AgentError::new(Class::CommandCancelled, details));
        }
    };
    tracing::info!(image = Settings::describe(&info), disk = disk.name, bytes = disk.size, "writing the image");
    // From here on nothing of an earlier image counts.
    shared.set_partition_uuids(Map::new());
    let device = DeviceId::of(&disk);
    let partitioning = match partitions {
        Some(wanted) => Some(wanted.partitioning(shared, grant(&plan, &disk.name)?).await?),
        None => None,
    };
    let job = write::Job {
        info: &info,
        format,
        checksum,
        configdrive,
        partitioning,
        device: device.clone(),
        settings: &settings,
    };
    let written = write::write(shared, job, grant(&plan, &disk.name)?, control).await?;
    finish(shared, &info, device, &written).await
}

/// Refuses a node whose system belongs on a software RAID array: this agent makes none, and on one of its disks the system
/// would destroy the array.
pub(crate) fn no_software_raid(node: Option<&Value>) -> Result<(), AgentError> {
    let disks = node.and_then(|node| node.pointer("/target_raid_config/logical_disks")).and_then(Value::as_array);
    if !disks.into_iter().flatten().any(|disk| disk["controller"] == "software") {
        return Ok(());
    }
    let details = "target_raid_config of the node has a logical disk with controller software, and this ramdisk neither \
                   makes software RAID arrays nor writes to them; nothing was touched. Deploy the node with a ramdisk of \
                   ironic-python-agent, or take that logical disk out of target_raid_config";
    Err(AgentError::new(Class::SoftwareRaidError, details))
}

pub(crate) fn grant(plan: &Plan, disk: &str) -> Result<hardware::WriteGrant, AgentError> {
    plan.write(disk).map_err(|refusal| AgentError::new(Class::DeviceNotFound, refusal.to_string()))
}

/// The format that the image has to have. What is not written, or not permitted by the driver, is refused before anything
/// is touched, naming what is. A format that is not declared is found out, among those that are permitted.
fn format(info: &ImageInfo, permitted: &[String]) -> Result<Option<Format>, AgentError> {
    let refuse = |text: String| Err(AgentError::new(Class::InvalidImage, text));
    match info.image_type.as_deref() {
        None | Some("whole-disk" | PARTITION) => {}
        Some(other) => {
            return refuse(format!(
                "image_type {other:?} of image {} is not supported; supported are whole-disk and partition",
                info.id
            ));
        }
    }
    // A partition table is what makes a raw image a whole disk, so `gpt` is raw with a name of its own.
    let raw = permitted.iter().any(|name| name == "raw" || name == "gpt");
    let qcow2 = permitted.iter().any(|name| name == "qcow2");
    match info.disk_format.as_deref() {
        Some("raw" | "gpt") if raw => Ok(Some(Format::Raw)),
        Some("qcow2") if qcow2 => Ok(Some(Format::Qcow2)),
        None if raw && qcow2 => Ok(None),
        None if raw => Ok(Some(Format::Raw)),
        None if qcow2 => Ok(Some(Format::Qcow2)),
        None | Some("raw" | "gpt" | "qcow2") => refuse(format!(
            "disk_format {} of image {} is not permitted; permitted_image_formats of the driver is {:?}",
            info.disk_format.as_deref().unwrap_or("raw or qcow2"),
            info.id,
            permitted.join(",")
        )),
        Some(other) => refuse(format!(
            "disk_format {other:?} of image {} is not supported; supported are raw and qcow2, plain or packed",
            info.id
        )),
    }
}

/// The kernel reads the new table; what the image brought is remembered for `get_partition_uuids`.
async fn finish(
    shared: &Shared,
    info: &ImageInfo,
    device: DeviceId,
    written: &disk_image::Written,
) -> Result<String, AgentError> {
    let node = device.node.clone();
    if let Err(error) = shared.on_machine(move |machine| machine.reread_partitions(&device)).await {
        // The disk is whole and sealed; the kernel's view of its partitions matters to this boot only.
        tracing::warn!(error = %transport::client::chain(&error), "the partition table could not be read again");
    }
    let root_uuid = written.root_uuid();
    let (uuids, esp) = match &written.partitioned {
        Some(made) => {
            let esp = made.esp_uuid.as_ref().map(|uuid| format!(" efi_system_partition_uuid={uuid}"));
            (partition::uuids(&node, made), esp.unwrap_or_default())
        }
        None => (Map::from_iter([("root uuid".to_owned(), json!(root_uuid))]), String::new()),
    };
    shared.set_partition_uuids(uuids);
    Ok(format!("image ({}) written to device {node} root_uuid={root_uuid}{esp}", info.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(image_info: Value) -> String {
        validate(&image_info, &Settings::default()).unwrap_err().details
    }

    #[test]
    fn the_validator_complains_in_the_words_of_the_protocol() {
        let sha = "a".repeat(64);
        let cases = [
            (json!({}), "Image is missing 'id' field."),
            (Value::Null, "Image is missing 'id' field."),
            (json!({"id": "x"}), "Image is missing 'urls' field."),
            (json!({"id": "x", "urls": []}), "Image 'urls' must be a list with at least one element."),
            (json!({"id": "x", "urls": "http://a"}), "Image 'urls' must be a list with at least one element."),
            (json!({"id": "x", "urls": ["u"], "checksum": ""}), "Image 'checksum' must be a non-empty string."),
            (json!({"id": "x", "urls": ["u"], "checksum": 7}), "Image 'checksum' must be a non-empty string."),
            (
                json!({"id": "x", "urls": ["u"], "os_hash_algo": "sha256"}),
                "Image 'os_hash_value' must be a non-empty string.",
            ),
            (
                json!({"id": "x", "urls": ["u"], "os_hash_value": sha}),
                "Image 'os_hash_algo' must be a non-empty string.",
            ),
        ];
        for (image_info, text) in cases {
            assert_eq!(complaint(image_info.clone()), text, "{image_info}");
        }
        let md5 = json!({"id": "x", "urls": ["u"], "checksum": "d41d8cd98f00b204e9800998ecf8427e"});
        assert!(complaint(md5).starts_with("Image checksum is not available"));
    }

    #[test]
    fn the_named_digest_is_preferred_and_wrong_types_are_named() {
        let sha = "a".repeat(64);
        let both = json!({"id": "x", "urls": ["u"], "checksum": sha, "os_hash_algo": "sha512", "os_hash_value": "b"});
        let named = Checksum::Named { algorithm: "sha512".to_owned(), value: "b".to_owned() };
        assert_eq!(validate(&both, &Settings::default()).unwrap().checksum, named);
        assert_eq!(complaint(json!({"id": 5, "urls": ["u"], "checksum": sha})), "Image 'id' must be a string.");
        assert_eq!(
            complaint(json!({"id": "x", "urls": ["u", 5], "checksum": sha})),
            "Image 'urls' must be a list of strings."
        );
        assert!(complaint(json!([])).contains("must be an object, but is a list"));
    }

    #[test]
    fn formats_that_are_not_written_or_not_permitted_are_refused_naming_those_that_are() {
        let info = |extra: Value| -> ImageInfo {
            let mut all = json!({"id": "x", "urls": ["u"]});
            all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            serde_json::from_value(all).unwrap()
        };
        let all = ["raw", "gpt", "qcow2", "iso"].map(str::to_owned);
        assert_eq!(format(&info(json!({"disk_format": "raw"})), &all).unwrap(), Some(Format::Raw));
        assert_eq!(format(&info(json!({"disk_format": "qcow2"})), &all).unwrap(), Some(Format::Qcow2));
        assert_eq!(format(&info(json!({})), &all).unwrap(), None);
        // What is not permitted is not found out either.
        assert_eq!(format(&info(json!({})), &all[..2]).unwrap(), Some(Format::Raw));
        for (extra, permitted) in [
            (json!({"disk_format": "vmdk"}), &all[..]),
            (json!({"disk_format": "iso"}), &all[..]),
            (json!({"image_type": "container"}), &all[..]),
            (json!({"disk_format": "qcow2"}), &all[..2]),
            (json!({"disk_format": "raw"}), &all[2..]),
            (json!({}), &all[3..]),
        ] {
            let error = format(&info(extra), permitted).unwrap_err();
            assert_eq!(error.class, Class::InvalidImage);
            assert!(error.details.contains("supported") || error.details.contains("permitted"), "{error}");
        }
    }
}
