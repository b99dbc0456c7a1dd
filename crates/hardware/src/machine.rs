//! The machine that an agent runs on, as a trait: the real one (`hardware-linux`), a simulated one, or one that may only
//! be read. Calls block; an agent runs them on a thread for blocking work.

use crate::{BootMode, Device, DeviceId, Disk, EraseGrant, EraseProof, Inventory, MarkedMedium, WriteGrant};
use std::ops::Range;
use std::path::PathBuf;

/// A boot loader, as the files of the ramdisk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootLoader {
    /// For UEFI: an EFI program, systemd-boot.
    Efi(Vec<u8>),
    /// For a BIOS: GRUB's `boot.img`, and a core that looks for `/grub/grub.cfg` on the first partition.
    Grub {
        /// For the first sector.
        boot: Vec<u8>,
        /// What that starts.
        core: Vec<u8>,
    },
}

/// What can go wrong on a machine. Each message names the part; the cause follows in the chain.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Something could not be read.
    #[error("read {what}")]
    Read {
        /// What.
        what: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Something could not be written.
    #[error("write {what}")]
    Write {
        /// What.
        what: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The device under a grant is not the device that was granted.
    #[error("{granted} was granted, but {found} is there now: nothing was touched")]
    OtherDevice {
        /// Who was granted.
        granted: Box<DeviceId>,
        /// Who is there, or `nothing`.
        found: String,
    },
    /// The work was done, and reading back shows that it was not.
    #[error("{device} still holds old data after {method}: {found}")]
    NotErased {
        /// The device.
        device: Box<DeviceId>,
        /// What was tried.
        method: String,
        /// What was found.
        found: String,
    },
    /// A program of the ramdisk failed.
    #[error("{program} ended with {status}: {stderr}")]
    Program {
        /// The program.
        program: String,
        /// Exit status.
        status: String,
        /// What it said, cut to a line.
        stderr: String,
    },
    /// The machine cannot do this, or this agent may not.
    #[error("{what} is not possible here: {reason}")]
    Unsupported {
        /// What was asked.
        what: String,
        /// Why not.
        reason: String,
    },
}

/// What has to be known of a disk before it is overwritten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Whether the kernel lets nobody write to it.
    pub read_only: bool,
    /// Whether it is the floppy of virtual media that brings the parameters of this boot (label `ir-vfd-dev`).
    pub virtual_media: bool,
    /// Whether it, or one of its partitions, is a member of a Linux software RAID array.
    pub raid_member: bool,
    /// Partitions and file systems on it that several machines may use at the same time, in words with their place.
    pub shared: Vec<String>,
}

/// A disk that was opened to be erased, by two ways that share nothing: one for whoever erases, one for whoever proves it.
pub struct Opened {
    /// Takes commands. Nobody else can open the disk as long as this exists.
    pub device: Box<dyn Device>,
    /// Reads, past every cache, and takes the marks that have to be gone later.
    pub medium: Box<dyn MarkedMedium>,
    /// Bytes of the partitions.
    pub partitions: Vec<Range<u64>>,
    /// What its tables and signatures say that it holds, such as `gpt on sda`, for a report. Empty where it cannot be read.
    pub found: Vec<String>,
    /// What used the disk and was taken away, in words.
    pub released: Vec<String>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("device", self.device.id()).field("released", &self.released).finish()
    }
}

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// Switch it off.
    Off,
    /// Start it again.
    Reboot,
}

/// A machine, seen from inside.
pub trait Machine: crate::Maintain + Send + Sync + 'static {
    /// Everything that can be known of it.
    fn inventory(&self) -> Result<Inventory, MachineError>;

    /// Whether inventories from now on ask the BMC for its addresses, which takes its time. They do unless told otherwise; a
    /// driver that reaches the BMC by another way does not need it. Nothing to a machine without one.
    fn ask_bmc(&self, _ask: bool) {}

    /// Its disks: whole devices, no floppies, loop devices, ROMs or empty drives.
    fn disks(&self) -> Result<Vec<Disk>, MachineError>;

    /// Disks that are built in and have no capacity now, such as one that is broken, with size 0. They hold data all the same, and
    /// nobody but an erase asks for them.
    fn disks_without_capacity(&self) -> Result<Vec<Disk>, MachineError> {
        Ok(Vec::new())
    }

    /// Looks for what forbids overwriting a disk. Reads the disk and changes nothing.
    fn contents(&self, disk: &Disk) -> Result<Contents, MachineError>;

    /// Whether this machine may be changed at all. An agent that runs as an ordinary program on somebody's host may not.
    fn may_write(&self) -> bool;

    /// Looks at the device again and returns the path to open, refusing when it is not the one that was granted.
    fn claim(&self, device: &DeviceId) -> Result<PathBuf, MachineError>;

    /// Looks at the device again and takes away what uses it: mounts, swap space, volumes and arrays. Says what that was; fails,
    /// naming them, where they do not let go. Nothing on the device is changed.
    fn release(&self, grant: &WriteGrant) -> Result<Vec<String>, MachineError>;

    /// Looks at the device again and opens it for its erase. Mounts, swap space, volumes and arrays on it are taken away
    /// first; fails, naming them, where they do not let go.
    fn open(&self, grant: &EraseGrant) -> Result<Opened, MachineError>;

    /// Removes what crashed kernels have left in the firmware's memory (pstore), and looks that it is gone.
    fn erase_pstore(&self) -> Result<EraseProof, MachineError>;

    /// Makes the kernel read the device's partition table again. Returns the names of the partitions that it sees now.
    fn reread_partitions(&self, device: &DeviceId) -> Result<Vec<String>, MachineError>;

    /// Makes an empty file system of this `kind` (`ext4`) and `label` in a range of bytes of the device. Nobody holds the
    /// device, and it has no partition table that says so.
    fn make_file_system(
        &self,
        grant: &WriteGrant,
        bytes: Range<u64>,
        kind: &str,
        label: &str,
    ) -> Result<(), MachineError>;

    /// Fails, naming what is missing, unless this machine can make file systems of this `kind`.
    fn can_make_file_system(&self, kind: &str) -> Result<(), MachineError>;

    /// The boot loader that this ramdisk brings for disks that have none of their own and are to boot in this `mode`.
    fn boot_loader(&self, mode: BootMode) -> Result<BootLoader, MachineError>;

    /// Creates UEFI boot entries for the loaders on the ESP of `device` and puts them first in the boot order. Older entries
    /// are dropped: those of the same labels and of this ESP. Returns the labels.
    /// Nothing on the device is executed. An empty list means that there are no firmware variables, or no loaders.
    fn install_boot_entries(&self, device: &DeviceId) -> Result<Vec<String>, MachineError>;

    /// Flushes all file systems and block devices.
    fn sync(&self) -> Result<(), MachineError>;

    /// Ends the machine. Returns once it is under way; the process goes down with it.
    fn power(&self, action: PowerAction) -> Result<(), MachineError>;
}
