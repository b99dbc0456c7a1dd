//! `image`: making the installed system bootable.

use super::{Call, Command, Extension, Mode};
use crate::command::params::{Kind, optional, required};
use crate::command::{AgentError, Class};
use crate::{partition, root_disk};
use hardware::DeviceId;
use serde_json::Value;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "image",
    python_class: "ImageExtension",
    commands: &[Command {
        name: "install_bootloader",
        mode: Mode::Async,
        params: &[
            required("root_uuid", Kind::MaybeText),
            optional("efi_system_part_uuid", Kind::MaybeText),
            optional("prep_boot_part_uuid", Kind::MaybeText),
            optional("target_boot_mode", Kind::MaybeText),
            optional("ignore_bootloader_failure", Kind::MaybeBool),
        ],
        open_ended: false,
        validate: None,
        run: |call| Box::pin(install_bootloader(call)),
    }],
};

/// Creates boot entries in UEFI firmware. Without firmware variables there is nothing to do for a whole-disk image, nor for a
/// partition image that was given GRUB when it was written; what is left would be to run a boot loader's installer from the
/// tenant's file system, which this agent never does.
async fn install_bootloader(mut call: Call) -> Result<Value, AgentError> {
    let shared = &call.agent.shared;
    let settings = shared.settings();
    root_disk::may_write(shared, "install_bootloader")?;
    let root_uuid = call.params.remove("root_uuid").and_then(|uuid| uuid.as_str().map(str::to_owned));
    let asked = call.params.remove("ignore_bootloader_failure").and_then(|value| value.as_bool());
    let ignore_failure = asked.unwrap_or(settings.ignore_bootloader_failure);
    let written = shared.partition_uuids();
    if root_uuid.is_some()
        && written.get("root uuid").and_then(Value::as_str) == root_uuid.as_deref()
        && partition::has_grub(&written)
    {
        tracing::info!("GRUB was put on the disk with the image: nothing is left to install");
        return Ok(Value::Null);
    }
    let (disk, _) = root_disk::choose(shared).await?;
    let device = DeviceId::of(&disk);
    match shared.on_machine(move |machine| machine.install_boot_entries(&device)).await {
        Ok(labels) if !labels.is_empty() => {
            tracing::info!(disk = disk.name, entries = ?labels, "UEFI boot entries written");
            return Ok(Value::Null);
        }
        Ok(_) => {
            tracing::info!(disk = disk.name, "no UEFI boot entries: no firmware variables, or no loader on the disk")
        }
        Err(error) => {
            let error = AgentError::from(error);
            tracing::error!(%error, disk = disk.name, "UEFI boot entries could not be written");
            if !ignore_failure {
                return Err(error);
            }
        }
    }
    match root_uuid.as_deref() {
        None | Some("0x00000000") => {
            tracing::info!("no root UUID is given: assuming a whole-disk image, nothing to install");
            Ok(Value::Null)
        }
        Some(_) if ignore_failure => Ok(Value::Null),
        Some(uuid) => {
            let reason = if settings.enable_bios_bootloader_install {
                "enable_bios_bootloader_install is set, but this agent never runs programs from an image's file system"
            } else {
                "Install of legacy BIOS bootloaders disabled by CONF.enable_bios_bootloader_install as part of \
                 CVE-2026-43003 mitigation."
            };
            Err(AgentError::new(Class::InvalidImage, format!("{reason} (root UUID {uuid}, disk {})", disk.name)))
        }
    }
}
