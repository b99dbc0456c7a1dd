//! Firmware of NVMe drives (NVM Express Base 2.0, 3.11): downloaded in pieces, committed, activated, and read back.

use super::{Device, Installed, Tool};
use erase::nvme::{self, CommitAction, Controller, FirmwareSlots};
use hardware::{Bus, Disk, Machine, MachineError, NvmeCommand, Plan, Transfer, WriteGrant};
use std::collections::BTreeSet;
use std::time::Duration;
use transport::client::chain;

/// For an answer out of the controller's memory.
const PATIENCE: Duration = Duration::from_secs(30);
/// For writing an image into flash memory.
const COMMIT: Duration = Duration::from_secs(300);
/// Bytes of a piece where the controller does not care.
const PIECE: u32 = 4096;

/// The NVMe drives, each controller once.
pub(super) fn devices(machine: &dyn Machine) -> Result<Vec<Device>, MachineError> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for disk in machine.disks()? {
        let opened = match machine.observe(&disk) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(disk = disk.name, error = chain(&error), "its firmware is not known");
                continue;
            }
        };
        let Bus::Nvme { .. } = opened.bus() else { continue };
        match identify(opened.as_ref()) {
            Ok(controller) if seen.insert(controller.serial.clone()) => found.push(device(disk, controller)),
            Ok(_) => {}
            Err(error) => tracing::warn!(disk = disk.name, error, "its firmware is not known"),
        }
    }
    Ok(found)
}

fn device(disk: Disk, controller: Controller) -> Device {
    Device {
        tool: Tool::Nvme,
        name: disk.name.clone(),
        vendor: disk.vendor.clone().unwrap_or_default(),
        model: controller.model,
        version: controller.firmware,
        disk: Some(disk),
    }
}

fn send(
    device: &dyn hardware::Device,
    command: &NvmeCommand,
    data: Transfer<'_>,
    limit: Duration,
) -> Result<u16, String> {
    let answer = device.nvme_admin(command, data, limit).map_err(|error| chain(&error))?;
    Ok(nvme::status::code(answer.status))
}

fn identify(device: &dyn hardware::Device) -> Result<Controller, String> {
    let mut bytes = vec![0; nvme::IDENTIFY_LENGTH];
    match send(device, &nvme::identify_controller(), Transfer::FromDevice(&mut bytes), PATIENCE)? {
        0 => Controller::parse(&bytes).map_err(|error| error.to_string()),
        status => Err(format!("Identify Controller: {}", nvme::status_text(status))),
    }
}

fn slots(device: &dyn hardware::Device) -> Result<FirmwareSlots, String> {
    let mut bytes = vec![0; FirmwareSlots::LENGTH as usize];
    let command = nvme::get_log(FirmwareSlots::PAGE, nvme::ALL_NAMESPACES, FirmwareSlots::LENGTH);
    match send(device, &command, Transfer::FromDevice(&mut bytes), PATIENCE)? {
        0 => FirmwareSlots::parse(&bytes).map_err(|error| error.to_string()),
        status => Err(format!("firmware slot log: {}", nvme::status_text(status))),
    }
}

/// Installs `image`, which is to be `version`. Blocks for minutes.
pub(super) fn install(
    machine: &dyn Machine,
    device: &Device,
    image: &[u8],
    version: &str,
) -> Result<Installed, String> {
    let grant = || -> Result<WriteGrant, String> {
        // Looked at again for each grant: after a reset it may be another device.
        let disk = device.disk.clone().ok_or("it is no disk")?;
        Plan::new("update_firmware", vec![disk]).write(&device.name).map_err(|refusal| refusal.to_string())
    };
    let open = || machine.command(&grant()?).map_err(|error| chain(&error));
    let opened = open()?;
    let controller = identify(opened.as_ref())?;
    if controller.model != device.model || controller.firmware != device.version {
        return Err(format!("it is another device now: {} with {}", controller.model, controller.firmware));
    }
    if !controller.firmware_update {
        return Err("the controller says that its firmware cannot be updated".to_owned());
    }
    if image.is_empty() || !image.len().is_multiple_of(4) {
        return Err(format!(
            "an image of {} bytes is none for an NVMe drive: they are made of 4-byte words",
            image.len()
        ));
    }
    let slots_before = slots(opened.as_ref())?;
    download(opened.as_ref(), image, controller.firmware_granularity.unwrap_or(PIECE))?;
    let activated = commit(opened.as_ref(), controller.activates_without_reset)?;
    drop(opened);
    if activated == Activated::AfterControllerReset
        && let Err(error) = machine.reset_controller(&grant()?)
    {
        tracing::info!(error = chain(&error), "the controller is not reset; the machine's next start will do it");
    }
    let opened = open()?;
    let now = identify(opened.as_ref())?.firmware;
    if now == version {
        return Ok(Installed { version: now, reboot: false });
    }
    // It does not run yet, or is not what it should be.
    let slots = slots(opened.as_ref())?;
    if activated != Activated::Now && waits(&slots_before, &slots, version) {
        return Ok(Installed { version: now, reboot: true });
    }
    let there: Vec<&str> = slots.revisions.iter().flatten().map(String::as_str).collect();
    Err(format!("the drive took it, and runs {now} afterwards; its slots hold {}", there.join(", ")))
}

/// Whether the next reset makes the drive run `version`. It names the slot that it will run, or it has to show at least that a slot
/// holds it which did not before: a copy from earlier is no sign that anything was stored now.
fn waits(before: &FirmwareSlots, now: &FirmwareSlots, version: &str) -> bool {
    let holds = |revision: &Option<String>| revision.as_deref() == Some(version);
    match now.next {
        Some(slot) => now.revisions.get(usize::from(slot).wrapping_sub(1)).is_some_and(holds),
        None => now.revisions.iter().zip(&before.revisions).any(|(now, before)| holds(now) && !holds(before)),
    }
}

fn download(device: &dyn hardware::Device, image: &[u8], piece: u32) -> Result<(), String> {
    let piece = usize::try_from(piece).unwrap_or(PIECE as usize).clamp(4, 1 << 20);
    let mut offset = 0_u32;
    for part in image.chunks(piece) {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let command = nvme::firmware_download(offset, length);
        match send(device, &command, Transfer::ToDevice(part), PATIENCE)? {
            0 => offset += length,
            status => return Err(format!("download at byte {offset}: {}", nvme::status_text(status))),
        }
    }
    Ok(())
}

/// When the new firmware runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activated {
    Now,
    AfterControllerReset,
    AfterMachineReset,
}

fn commit(device: &dyn hardware::Device, at_once: bool) -> Result<Activated, String> {
    const TAKES_TOO_LONG: u16 = 0x112;
    // The controller chooses the slot: it knows which one is not running.
    let send = |action| send(device, &nvme::firmware_commit(0, action), Transfer::None, COMMIT);
    let first = if at_once { CommitAction::StoreAndActivateNow } else { CommitAction::StoreAndActivateAtReset };
    let (action, status) = match send(first)? {
        TAKES_TOO_LONG if at_once => {
            (CommitAction::StoreAndActivateAtReset, send(CommitAction::StoreAndActivateAtReset)?)
        }
        status => (first, status),
    };
    match status {
        0 if action == CommitAction::StoreAndActivateNow => Ok(Activated::Now),
        0 | nvme::status::FIRMWARE_NEEDS_CONTROLLER_RESET => Ok(Activated::AfterControllerReset),
        nvme::status::FIRMWARE_NEEDS_CONVENTIONAL_RESET | nvme::status::FIRMWARE_NEEDS_SUBSYSTEM_RESET => {
            Ok(Activated::AfterMachineReset)
        }
        status => Err(format!("commit: {}", nvme::status_text(status))),
    }
}
