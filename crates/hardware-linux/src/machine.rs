//! The machine.

use crate::device::LinuxDevice;
use crate::exec::{Exec, ExecError};
use crate::holders::{self, Held};
use crate::lldp::Lldp;
use crate::medium::DirectDisk;
use crate::tree::Tree;
use crate::{block, bmc, boot, contents, cpu, interfaces, power, pstore, signature, sys};
use hardware::{
    BootInfo, BootLoader, BootMode, Contents, DeviceId, Disk, EraseGrant, EraseProof, Firmware, Interface, Inventory,
    Machine, MachineError, Opened, Outcome, PowerAction, SystemVendor, WriteGrant,
};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The machine that this program runs on, or one that was recorded as a tree of files.
#[derive(Debug, Clone)]
pub struct LinuxMachine {
    tree: Tree,
    pxe_interface: Option<String>,
    lldp: Option<Lldp>,
    may_write: bool,
    ask_bmc: Arc<AtomicBool>,
    ending: fn(PowerAction) -> io::Result<()>,
}

impl LinuxMachine {
    /// The machine at `root`, which is `/` but for recordings. It may be read, as any user: what is unreadable is unknown.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            tree: Tree::at(root),
            pxe_interface: None,
            lldp: None,
            may_write: false,
            ask_bmc: Arc::new(AtomicBool::new(true)),
            ending: end,
        }
    }

    /// Lets it be changed: disks, firmware variables, power. For an agent that has the machine to itself.
    pub fn writable(mut self) -> Self {
        self.may_write = true;
        self
    }

    /// Sets what the boot loader said of the interface that it booted from (`BOOTIF`).
    pub fn booted_from(mut self, interface: Option<String>) -> Self {
        self.pxe_interface = interface;
        self
    }

    /// Sets who listens for LLDP; its interfaces then have what was heard so far.
    pub fn hearing(mut self, lldp: Option<Lldp>) -> Self {
        self.lldp = lldp;
        self
    }

    /// Sets how the machine ends, in place of a flush and reboot(2): PID 1 has an order of its own.
    pub fn ending_with(mut self, ending: fn(PowerAction) -> io::Result<()>) -> Self {
        self.ending = ending;
        self
    }

    /// The tree that it is read from.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    fn interfaces(&self) -> Vec<Interface> {
        let mut interfaces = interfaces::interfaces(&self.tree);
        if let Some(lldp) = &self.lldp {
            interfaces.iter_mut().for_each(|interface| interface.lldp = Some(lldp.of(&interface.name)));
        }
        interfaces
    }

    pub(crate) fn writing(&self, what: &str) -> Result<(), MachineError> {
        if self.may_write {
            return Ok(());
        }
        Err(MachineError::Unsupported {
            what: what.to_owned(),
            reason: "this agent may only look at the machine, as it does not run as its PID 1".to_owned(),
        })
    }

    /// Takes away what uses a disk, so that something can be done with it, and says what that was.
    fn free(&self, doing: &str, device: &DeviceId) -> Result<Vec<String>, MachineError> {
        let released = holders::release(&self.tree, kernel_name(&device.node), &holders::Running(&self.tree));
        released.map_err(|held| {
            let what = format!("{doing} {device}");
            match held {
                Held::InUse(_) => MachineError::Unsupported { what, reason: held.to_string() },
                Held::Kept { who, source } => {
                    MachineError::Write { what: format!("{what}: {who} does not let go"), source }
                }
            }
        })
    }

    /// Opens a claimed device so that nobody else can: the kernel refuses this while it is mounted or part of something.
    fn open_exclusive(&self, device: &DeviceId, path: &Path) -> Result<File, MachineError> {
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|error| {
            let holders = holders::holders(&self.tree, kernel_name(&device.node));
            if error == rustix::io::Errno::BUSY && !holders.is_empty() {
                let reason = format!("it is in use: {}", holders.join(", "));
                return MachineError::Unsupported { what: format!("writing to {device}"), reason };
            }
            MachineError::Write { what: device.to_string(), source: error.into() }
        })
    }
}

/// systemd-boot, where Debian has it; GRUB's first sector, likewise, and the core that the ramdisk was built with.
const BOOT_LOADER: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const GRUB_BOOT: &str = "/usr/lib/grub/i386-pc/boot.img";
const GRUB_CORE: &str = "/usr/lib/grub/i386-pc/core.img";
/// Where mke2fs may be.
const MAKERS: [&str; 2] = ["/sbin/mke2fs", "/usr/sbin/mke2fs"];
/// Time for making a file system: it writes a few hundred MiB at most, and discards nothing.
const FORMAT_TIME: Duration = Duration::from_secs(600);

/// Flushes what can be flushed in time and ends the machine.
fn end(action: PowerAction) -> io::Result<()> {
    if !power::timed_sync(Duration::from_secs(30)) {
        tracing::warn!("file systems could not be flushed within 30 s; ending without");
    }
    power::end(action)
}

/// The product with its order number behind it, as lshw writes it: drivers keep what ironic-python-agent took from there.
fn product(tree: &Tree) -> String {
    let name = tree.text("/sys/class/dmi/id/product_name").unwrap_or_default();
    match tree.text("/sys/class/dmi/id/product_sku") {
        Some(number) if !name.is_empty() => format!("{name} ({number})"),
        _ => name,
    }
}

/// The variable `SecureBoot` (UEFI 2.10, 3.3): four bytes of attributes, as efivarfs puts before every variable, and one
/// that is 1 when it is on.
fn secure_boot(tree: &Tree) -> Option<bool> {
    const VARIABLE: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    match tree.bytes(VARIABLE).ok()?.as_slice() {
        [_, _, _, _, on] => Some(*on == 1),
        _ => None,
    }
}

/// `sda` of `/dev/sda`; in sysfs a `!` stands for a slash.
pub(crate) fn kernel_name(node: &str) -> &str {
    node.strip_prefix("/dev/").unwrap_or(node)
}

impl Machine for LinuxMachine {
    fn inventory(&self) -> Result<Inventory, MachineError> {
        let tree = &self.tree;
        let dmi = |name: &str| tree.text(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
        let uefi = tree.path("/sys/firmware/efi").exists();
        let bmc = if self.ask_bmc.load(Ordering::Relaxed) { bmc::bmc(tree) } else { bmc::Bmc::default() };
        Ok(Inventory {
            interfaces: self.interfaces(),
            cpu: cpu::cpu(tree),
            disks: self.disks()?,
            memory: cpu::memory(tree),
            bmc_address: bmc.v4,
            bmc_v6address: bmc.v6,
            bmc_mac: bmc.mac,
            system_vendor: SystemVendor {
                product_name: product(tree),
                serial_number: dmi("product_serial"),
                manufacturer: dmi("sys_vendor"),
                firmware: Firmware {
                    vendor: dmi("bios_vendor"),
                    version: dmi("bios_version"),
                    build_date: dmi("bios_date"),
                },
            },
            boot: BootInfo {
                current_boot_mode: if uefi { BootMode::Uefi } else { BootMode::Bios },
                pxe_interface: self.pxe_interface.clone(),
                secure_boot: secure_boot(tree),
            },
            hostname: tree.text("/proc/sys/kernel/hostname").unwrap_or_default(),
        })
    }

    fn ask_bmc(&self, ask: bool) {
        self.ask_bmc.store(ask, Ordering::Relaxed);
    }

    fn disks(&self) -> Result<Vec<Disk>, MachineError> {
        Ok(block::disks(&self.tree))
    }

    fn disks_without_capacity(&self) -> Result<Vec<Disk>, MachineError> {
        Ok(block::disks_without_capacity(&self.tree))
    }

    fn contents(&self, disk: &Disk) -> Result<Contents, MachineError> {
        let name = kernel_name(&disk.name);
        let unread = |source| MachineError::Read { what: disk.name.clone(), source };
        let file = File::open(self.tree.path(&disk.name)).map_err(unread)?;
        let partitions = block::partitions(&self.tree, name);
        let sector = disk.logical_sectors.unwrap_or(512);
        let found = contents::look(&file, name, disk.size, sector, &partitions).map_err(unread)?;
        Ok(Contents { read_only: block::is_read_only(&self.tree, name), ..found })
    }

    fn may_write(&self) -> bool {
        self.may_write
    }

    fn claim(&self, device: &DeviceId) -> Result<PathBuf, MachineError> {
        let disks = self.disks()?;
        let there = disks.iter().find(|disk| disk.name == device.node);
        match there {
            Some(disk) if device.is(disk) => Ok(self.tree.path(&device.node)),
            other => Err(MachineError::OtherDevice {
                granted: Box::new(device.clone()),
                found: other.map_or_else(|| "nothing".to_owned(), |disk| DeviceId::of(disk).to_string()),
            }),
        }
    }

    fn release(&self, grant: &WriteGrant) -> Result<Vec<String>, MachineError> {
        self.writing("writing")?;
        self.claim(grant.device())?;
        self.free("writing to", grant.device())
    }

    fn open(&self, grant: &EraseGrant) -> Result<Opened, MachineError> {
        self.writing("erasing")?;
        let device = grant.device();
        let path = self.claim(device)?;
        let name = kernel_name(&device.node);
        let partitions = block::partitions(&self.tree, name);
        let released = self.free("erasing", device)?;
        let sector = self.tree.text(format!("/sys/block/{name}/queue/logical_block_size"));
        let sector = sector.and_then(|text| text.parse().ok()).unwrap_or(512);
        let medium = DirectDisk::open(&path, sector);
        let medium = medium.map_err(|source| MachineError::Read { what: device.to_string(), source })?;
        let opened = LinuxDevice::new(&self.tree, name, device.clone(), self.open_exclusive(device, &path)?);
        let opened = opened.map_err(|source| MachineError::Write { what: device.to_string(), source })?;
        // A disk that gives no data is one about which there is nothing to tell.
        let found = File::open(&path).and_then(|file| signature::kinds(&file, name, device.size, &partitions));
        let found = found.unwrap_or_default();
        let bytes = |partition: &block::Partition| partition.start..partition.start.saturating_add(partition.size);
        let partitions = partitions.iter().map(bytes).collect();
        Ok(Opened { device: Box::new(opened), medium: Box::new(medium), partitions, found, released })
    }

    fn erase_pstore(&self) -> Result<EraseProof, MachineError> {
        self.writing("erasing pstore")?;
        let erased = pstore::erase(&self.tree);
        let outcome = match erased.map_err(|source| MachineError::Write { what: pstore::PLACE.to_owned(), source })? {
            None => {
                Outcome::Skipped { reason: "the firmware keeps nothing for the kernel: there is no pstore".to_owned() }
            }
            Some(removed) if removed.is_empty() => Outcome::Verified { evidence: "there was no entry".to_owned() },
            Some(removed) => {
                let evidence = format!("removed, and no longer listed: {}", removed.join(", "));
                Outcome::Verified { evidence }
            }
        };
        let node = pstore::PLACE.to_owned();
        Ok(EraseProof::new(DeviceId { node, wwn: None, serial: None, path: None, size: 0 }, "pstore", outcome))
    }

    fn reread_partitions(&self, device: &DeviceId) -> Result<Vec<String>, MachineError> {
        self.writing("reading a partition table again")?;
        let path = self.claim(device)?;
        let file = File::open(path).map_err(|source| MachineError::Read { what: device.to_string(), source })?;
        reread(&file, device)?;
        let seen = block::partitions(&self.tree, kernel_name(&device.node));
        Ok(seen.into_iter().map(|partition| partition.name).collect())
    }

    fn make_file_system(
        &self,
        grant: &WriteGrant,
        bytes: Range<u64>,
        kind: &str,
        label: &str,
    ) -> Result<(), MachineError> {
        self.writing("making a file system")?;
        let path = self.claim(grant.device())?;
        let size = bytes.end.saturating_sub(bytes.start);
        // What the partition held was written before or is to be preserved: it is not for mke2fs to discard. Forced, as
        // there is no partition yet that it could see.
        let made = Exec::new("mke2fs")
            .args(["-q", "-F", "-t", kind, "-L", label, "-E"])
            .arg(format!("offset={},nodiscard", bytes.start))
            .arg(&path)
            .arg(format!("{}k", size / 1024))
            .deadline(FORMAT_TIME)
            .run();
        made.map_err(ExecError::into_machine_error)?.success()?;
        tracing::info!(device = %grant.device(), kind, label, offset = bytes.start, size, "file system made");
        Ok(())
    }

    fn can_make_file_system(&self, kind: &str) -> Result<(), MachineError> {
        if MAKERS.iter().any(|maker| self.tree.path(maker).exists()) {
            return Ok(());
        }
        let reason = "this ramdisk has no mke2fs; boot profile server, which has it".to_owned();
        Err(MachineError::Unsupported { what: format!("making a file system {kind}"), reason })
    }

    fn boot_loader(&self, mode: BootMode) -> Result<BootLoader, MachineError> {
        let file = |path: &str| {
            self.tree.bytes(path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => MachineError::Unsupported {
                    what: "making a partition image bootable".to_owned(),
                    reason: format!("this ramdisk has no {path}; boot profile server, which has it"),
                },
                _ => MachineError::Read { what: path.to_owned(), source },
            })
        };
        Ok(match mode {
            BootMode::Uefi if secure_boot(&self.tree) == Some(true) => {
                return Err(MachineError::Unsupported {
                    what: "making a partition image bootable".to_owned(),
                    reason: "Secure Boot is on, and systemd-boot, which would start it, is not signed; switch it off, or deploy a \
                             whole-disk image with a signed boot loader"
                        .to_owned(),
                });
            }
            BootMode::Uefi => BootLoader::Efi(file(BOOT_LOADER)?),
            BootMode::Bios => BootLoader::Grub { boot: file(GRUB_BOOT)?, core: file(GRUB_CORE)? },
        })
    }

    fn install_boot_entries(&self, device: &DeviceId) -> Result<Vec<String>, MachineError> {
        self.writing("creating boot entries")?;
        let path = self.claim(device)?;
        let disks = self.disks()?;
        let sector = disks.iter().find(|disk| disk.name == device.node).and_then(|disk| disk.logical_sectors);
        boot::install(&path, sector.unwrap_or(512), &self.tree.path("/sys/firmware/efi/efivars"))
    }

    fn sync(&self) -> Result<(), MachineError> {
        rustix::fs::sync();
        Ok(())
    }

    fn power(&self, action: PowerAction) -> Result<(), MachineError> {
        self.writing("switching the machine off or starting it again")?;
        (self.ending)(action).map_err(|source| MachineError::Write { what: "reboot(2)".to_owned(), source })
    }
}

/// Asks for a new look at the partition table. A disk whose partitions are just being looked at is busy for a moment.
fn reread(file: &File, device: &DeviceId) -> Result<(), MachineError> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(100);
    let mut tries = 0;
    loop {
        match sys::reread_partitions(file) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < TRIES => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            // A device that cannot have partitions has no table to read.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(source) => {
                return Err(MachineError::Read { what: format!("the partition table of {device}"), source });
            }
        }
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
