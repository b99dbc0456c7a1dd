//! Partition images: from `image_info` to the disk around the image, and from what was made to the protocol's words.

use crate::command::{AgentError, Class};
use crate::state::Shared;
use disk_image::{BOOT_SIZE, BootLoader, Label, Partitioned, Partitioning, Role};
use hardware::{BootMode, WriteGrant};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use wire::agent::ImageInfo;

/// File systems that the ramdisk can make for scratch space; the first when nothing else is asked for.
const FORMATS: [&str; 3] = ["ext4", "ext3", "ext2"];
const MIB: u64 = 1 << 20;

/// What is asked for around the image, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    boot_mode: BootMode,
    label: Label,
    root: u64,
    swap: u64,
    ephemeral: u64,
    ephemeral_format: &'static str,
    preserve_ephemeral: bool,
}

/// Reads what `image_info` says of a partition image. The kind of table may also be a capability of the node.
pub fn wanted(info: &ImageInfo, node: Option<&Value>) -> Result<Wanted, AgentError> {
    let refuse = |text: String| AgentError::new(Class::InvalidImage, format!("partition image {}: {text}", info.id));
    let root = size(info, "root_mb")?;
    if root == 0 {
        return Err(AgentError::params("Image 'root_mb' must be the size of the root partition in MiB."));
    }
    let boot_mode = match text(info, "deploy_boot_mode")? {
        Some("uefi") => BootMode::Uefi,
        Some("bios") => BootMode::Bios,
        other => {
            return Err(AgentError::params(format!("Image 'deploy_boot_mode' must be uefi or bios, not {other:?}.")));
        }
    };
    let secure =
        node.and_then(|node| capability(node, "secure_boot")).is_some_and(|on| on.eq_ignore_ascii_case("true"));
    if secure && boot_mode == BootMode::Uefi {
        return Err(refuse(
            "the node has the capability secure_boot, and systemd-boot, which would start it, is not signed; take the capability \
             away, or deploy a whole-disk image with a signed boot loader"
                .to_owned(),
        ));
    }
    let label = match text(info, "disk_label")?.or_else(|| capability(node?, "disk_label")) {
        None | Some("gpt") => Label::Gpt,
        Some("msdos") => Label::Msdos,
        Some(other) => {
            return Err(AgentError::params(format!("Image 'disk_label' must be gpt or msdos, not {other:?}.")));
        }
    };
    let asked = text(info, "ephemeral_format")?.unwrap_or(FORMATS[0]);
    let ephemeral_format = FORMATS.into_iter().find(|known| *known == asked).ok_or_else(|| {
        refuse(format!("ephemeral_format {asked:?} cannot be made by this ramdisk; use one of {}", FORMATS.join(", ")))
    })?;
    let (swap, ephemeral) = (size(info, "swap_mb")?, size(info, "ephemeral_mb")?);
    let preserve_ephemeral = flag(info, "preserve_ephemeral")?;
    Ok(Wanted { boot_mode, label, root, swap, ephemeral, ephemeral_format, preserve_ephemeral })
}

impl Wanted {
    /// The same for the image pipeline. The grant is for formatting the scratch space.
    pub async fn partitioning(self, shared: &Shared, grant: WriteGrant) -> Result<Partitioning, AgentError> {
        let mode = self.boot_mode;
        let loader = match shared.on_machine(move |machine| machine.boot_loader(mode)).await? {
            hardware::BootLoader::Efi(program) => BootLoader::Efi(program.into()),
            hardware::BootLoader::Grub { boot, core } => BootLoader::Grub { boot: boot.into(), core: core.into() },
        };
        let machine = shared.machine.clone();
        let kind = self.ephemeral_format;
        if self.ephemeral > 0 && !self.preserve_ephemeral {
            // Said now, and not when the image has been written.
            shared.on_machine(move |machine| machine.can_make_file_system(kind)).await?;
        }
        Ok(Partitioning {
            label: self.label,
            root: self.root,
            swap: self.swap,
            ephemeral: self.ephemeral,
            boot: BOOT_SIZE,
            preserve_ephemeral: self.preserve_ephemeral,
            loader,
            format_ephemeral: Arc::new(move |range| {
                machine.make_file_system(&grant, range, kind, Role::Ephemeral.label()).map_err(std::io::Error::other)
            }),
        })
    }
}

/// What `get_partition_uuids` answers.
pub fn uuids(device: &str, made: &Partitioned) -> Map<String, Value> {
    let partitions: Map<String, Value> =
        made.slots.iter().map(|slot| (slot.role.to_string(), json!(partition_path(device, slot.number)))).collect();
    let mut uuids = Map::new();
    uuids.insert("root uuid".to_owned(), json!(made.root_uuid));
    uuids.insert("efi system partition uuid".to_owned(), json!(made.esp_uuid));
    uuids.insert("partitions".to_owned(), Value::Object(partitions));
    uuids
}

/// Whether what was written, of which these are the [`uuids`], has GRUB in its first sector already: only a disk for a BIOS has
/// a partition for it.
pub fn has_grub(uuids: &Map<String, Value>) -> bool {
    uuids.get("partitions").and_then(|partitions| partitions.get(Role::Boot.to_string())).is_some()
}

/// Where the kernel shows a partition: `/dev/sda1`, `/dev/nvme0n1p1`.
fn partition_path(device: &str, number: usize) -> String {
    let between = if device.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("{device}{between}{number}")
}

fn text<'a>(info: &'a ImageInfo, key: &str) -> Result<Option<&'a str>, AgentError> {
    match info.other.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(AgentError::params(format!("Image '{key}' must be a string or null."))),
    }
}

/// A size in MiB, as bytes. Ironic sends numbers, command lines text; what is absent is 0.
fn size(info: &ImageInfo, key: &str) -> Result<u64, AgentError> {
    let mib = match info.other.get(key) {
        None | Some(Value::Null) => Some(0),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(_) => None,
    };
    let bytes = mib.and_then(|mib: u64| mib.checked_mul(MIB));
    bytes.ok_or_else(|| AgentError::params(format!("Image '{key}' must be a size in MiB, a whole number.")))
}

fn flag(info: &ImageInfo, key: &str) -> Result<bool, AgentError> {
    match info.other.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(AgentError::params(format!("Image '{key}' must be true or false."))),
    }
}

/// A capability of the instance, else of the node: each an object or a text like `boot_mode:uefi,disk_label:gpt`.
fn capability<'a>(node: &'a Value, name: &str) -> Option<&'a str> {
    ["/instance_info/capabilities", "/properties/capabilities"].into_iter().find_map(|place| {
        match node.pointer(place)? {
            Value::Object(map) => map.get(name)?.as_str(),
            Value::String(text) => text.split(',').find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix(':')),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk_image::Slot;

    fn info(more: Value) -> ImageInfo {
        let mut all = json!({"id": "root.img", "urls": ["u"], "image_type": "partition", "root_gb": 4, "root_mb": 4096,
            "swap_mb": 512, "ephemeral_mb": 1024, "ephemeral_format": null, "preserve_ephemeral": false,
            "deploy_boot_mode": "uefi", "boot_option": "local", "kernel": null, "ramdisk": null});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn sizes_are_mib_and_the_table_is_gpt_unless_somebody_says_otherwise() {
        let usual = wanted(&info(json!({})), None).unwrap();
        assert_eq!((usual.root, usual.swap, usual.ephemeral), (4096 << 20, 512 << 20, 1024 << 20));
        assert_eq!((usual.label, usual.ephemeral_format, usual.preserve_ephemeral), (Label::Gpt, "ext4", false));
        let other = json!({"deploy_boot_mode": "bios", "root_mb": "100", "swap_mb": 0, "disk_label": "msdos", "ephemeral_format": "ext3",
            "preserve_ephemeral": "True"});
        let other = wanted(&info(other), None).unwrap();
        assert_eq!((other.root, other.swap, other.label), (100 << 20, 0, Label::Msdos));
        assert!(other.preserve_ephemeral && other.ephemeral_format == "ext3");
        assert_eq!((usual.boot_mode, other.boot_mode), (BootMode::Uefi, BootMode::Bios));
        for capabilities in [json!("boot_mode:uefi,disk_label:msdos"), json!({"disk_label": "msdos"})] {
            let node = json!({"properties": {"capabilities": capabilities}});
            assert_eq!(wanted(&info(json!({})), Some(&node)).unwrap().label, Label::Msdos);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_key_and_remedy() {
        let cases = [
            json!({"root_mb": 0}),
            json!({"root_mb": -1}),
            json!({"root_mb": u64::MAX}),
            json!({"swap_mb": []}),
            json!({"deploy_boot_mode": null}),
            json!({"disk_label": "apm"}),
            json!({"ephemeral_format": "xfs"}),
            json!({"preserve_ephemeral": 7}),
        ];
        let texts: Vec<String> = cases
            .into_iter()
            .map(|case| wanted(&info(case), None).unwrap_err())
            .map(|error| format!("{:?}: {}", error.class, error.details))
            .collect();
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn what_secure_boot_would_not_start_is_not_written() {
        let node = json!({"instance_info": {"capabilities": {"secure_boot": "true"}}});
        let error = wanted(&info(json!({})), Some(&node)).unwrap_err();
        insta::assert_snapshot!(error.details, @"partition image root.img: the node has the capability secure_boot, and systemd-boot, which would start it, is not signed; take the capability away, or deploy a whole-disk image with a signed boot loader");
        let off = json!({"properties": {"capabilities": "boot_mode:uefi,secure_boot:false"}});
        assert!(wanted(&info(json!({})), Some(&off)).is_ok());
        assert!(wanted(&info(json!({"deploy_boot_mode": "bios"})), Some(&node)).is_ok());
    }

    #[test]
    fn the_reply_has_the_protocols_keys() {
        let slot = |role, number| Slot { role, number, offset: 0, size: 0 };
        let made = Partitioned {
            slots: vec![
                slot(Role::Esp, 1),
                slot(Role::Ephemeral, 2),
                slot(Role::Swap, 3),
                slot(Role::ConfigDrive, 4),
                slot(Role::Root, 5),
            ],
            root_uuid: "1234".to_owned(),
            esp_uuid: Some("ABCD-EF01".to_owned()),
        };
        let wanted = json!({"root uuid": "1234", "efi system partition uuid": "ABCD-EF01", "partitions": {
            "efi system partition": "/dev/nvme0n1p1", "ephemeral": "/dev/nvme0n1p2", "swap": "/dev/nvme0n1p3",
            "configdrive": "/dev/nvme0n1p4", "root": "/dev/nvme0n1p5"}});
        assert_eq!(Value::Object(uuids("/dev/nvme0n1", &made)), wanted);
        assert_eq!(partition_path("/dev/sda", 3), "/dev/sda3");
        assert!(!has_grub(&uuids("/dev/sda", &made)));
        let slots = vec![slot(Role::Boot, 1), slot(Role::BiosBoot, 2), slot(Role::Root, 3)];
        let made = uuids("/dev/sda", &Partitioned { slots, esp_uuid: None, ..made });
        let wanted = json!({"root uuid": "1234", "efi system partition uuid": null, "partitions": {
            "boot": "/dev/sda1", "BIOS Boot partition": "/dev/sda2", "root": "/dev/sda3"}});
        assert!(has_grub(&made) && Value::Object(made) == wanted);
    }
}
