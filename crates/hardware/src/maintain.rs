//! Looking after a machine that has its system: boot entries, files on partitions, health, firmware.

use crate::{Device, DeviceId, Disk, MachineError, WriteGrant};
use std::path::Path;

/// A boot entry of the firmware (UEFI 2.10, 3.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// The number in `Boot####`.
    pub number: u16,
    /// What the firmware shows.
    pub label: String,
    /// Where it leads, as UEFI 2.10, 10.6.1 writes device paths: `HD(1,GPT,…)/File(\EFI\debian\shimx64.efi)`.
    pub path: String,
}

impl std::fmt::Display for BootEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Boot{:04X} {:?} {}", self.number, self.label, self.path)
    }
}

/// A partition whose file system is there for changing files on it. It goes away, flushed, with this value; nothing on it can
/// be executed, be a device or give rights.
pub trait Mounted: Send + Sync {
    /// The folder that its root is.
    fn root(&self) -> &Path;

    /// Flushes and unmounts it, and tells what went wrong, which dropping it does not.
    fn close(self: Box<Self>) -> Result<(), MachineError>;
}

/// Errors of memory that a memory controller has counted since the machine was started (Documentation/admin-guide/ras.rst).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryErrors {
    /// The module as the board calls it, or the controller's own name for it.
    pub module: String,
    /// Errors that were corrected.
    pub corrected: u64,
    /// Errors that were not.
    pub uncorrected: u64,
}

/// A temperature.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sensor {
    /// The chip and what it measures, such as `coretemp Package id 0`.
    pub name: String,
    /// Thousandths of a degree Celsius, now.
    pub now: i64,
    /// Above this it is too warm, as the chip says.
    pub high: Option<i64>,
    /// Above this it does damage, or the machine switches itself off.
    pub critical: Option<i64>,
    /// Whether the chip itself raises the alarm.
    pub alarm: bool,
}

/// What a machine can do for its own maintenance. What it cannot is [`MachineError::Unsupported`].
pub trait Maintain {
    /// The boot entries. An error when the machine has none, as one that was booted by a BIOS.
    fn boot_entries(&self) -> Result<Vec<BootEntry>, MachineError> {
        Err(cannot("reading boot entries"))
    }

    /// Removes boot entries, and their numbers from the boot order.
    fn remove_boot_entries(&self, _numbers: &[u16]) -> Result<(), MachineError> {
        Err(cannot("removing boot entries"))
    }

    /// Numbers of the partitions of a disk, in the order in which they lie there.
    fn partition_numbers(&self, _device: &DeviceId) -> Result<Vec<u32>, MachineError> {
        Err(cannot("listing partitions"))
    }

    /// Mounts a partition of the granted disk for writing. [`MachineError::Unsupported`] when it has no file system that can be
    /// mounted here.
    fn mount(&self, _grant: &WriteGrant, _partition: u32) -> Result<Box<dyn Mounted>, MachineError> {
        Err(cannot("mounting a partition"))
    }

    /// Opens a disk for questions. Others may use it meanwhile, and no command gets to it that could change anything.
    fn observe(&self, _disk: &Disk) -> Result<Box<dyn Device>, MachineError> {
        Err(cannot("asking a disk"))
    }

    /// Opens the granted disk for commands to its controller. Others may use it meanwhile.
    fn command(&self, _grant: &WriteGrant) -> Result<Box<dyn Device>, MachineError> {
        Err(cannot("commanding a disk"))
    }

    /// Resets the controller of the granted disk, an NVMe drive, so that it runs the firmware that it was given. Others who use
    /// the disk wait meanwhile.
    fn reset_controller(&self, _grant: &WriteGrant) -> Result<(), MachineError> {
        Err(cannot("resetting a controller"))
    }

    /// Errors of memory, by module; empty where no controller counts them.
    fn memory_errors(&self) -> Vec<MemoryErrors> {
        Vec::new()
    }

    /// Temperatures; empty where no chip measures them.
    fn sensors(&self) -> Vec<Sensor> {
        Vec::new()
    }
}

fn cannot(what: &str) -> MachineError {
    MachineError::Unsupported { what: what.to_owned(), reason: "this machine has no way to do it".to_owned() }
}
