//! Looking after a machine: boot entries, mounted partitions, disks that are asked, health.

use crate::device::LinuxDevice;
use crate::machine::{LinuxMachine, kernel_name};
use crate::tree::{self, Tree};
use crate::{block, boot, signature};
use hardware::{
    BootEntry, Device, DeviceId, Disk, Machine as _, MachineError, Maintain, MemoryErrors, Mounted, Observed, Sensor,
    WriteGrant,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const EFIVARS: &str = "/sys/firmware/efi/efivars";
const CONTROLLERS: &str = "/sys/devices/system/edac/mc";
const CHIPS: &str = "/sys/class/hwmon";
/// More than a machine has; bound the walks.
const MOST_CONTROLLERS: usize = 64;
const MOST_SENSORS: usize = 512;

impl Maintain for LinuxMachine {
    fn boot_entries(&self) -> Result<Vec<BootEntry>, MachineError> {
        boot::entries(&self.tree().path(EFIVARS))
    }

    fn remove_boot_entries(&self, numbers: &[u16]) -> Result<(), MachineError> {
        self.writing("removing boot entries")?;
        boot::remove(&self.tree().path(EFIVARS), numbers)
    }

    fn partition_numbers(&self, device: &DeviceId) -> Result<Vec<u32>, MachineError> {
        self.claim(device)?;
        let folder = self.tree().path("/sys/block").join(kernel_name(&device.node));
        let partitions = block::partitions(self.tree(), kernel_name(&device.node));
        let number = |name: &str| tree::number(&folder.join(name).join("partition"));
        Ok(partitions.iter().filter_map(|part| u32::try_from(number(&part.name)?).ok()).collect())
    }

    fn mount(&self, grant: &WriteGrant, partition: u32) -> Result<Box<dyn Mounted>, MachineError> {
        self.writing("changing files on a disk")?;
        self.claim(grant.device())?;
        mount(self.tree(), kernel_name(&grant.device().node), partition)
    }

    fn observe(&self, disk: &Disk) -> Result<Box<dyn Device>, MachineError> {
        let id = DeviceId::of(disk);
        Ok(Box::new(Observed::new(self.shared_device(&id, OFlags::RDONLY)?)))
    }

    fn command(&self, grant: &WriteGrant) -> Result<Box<dyn Device>, MachineError> {
        self.writing("commands to a disk")?;
        Ok(Box::new(self.shared_device(grant.device(), OFlags::RDWR)?))
    }

    fn reset_controller(&self, grant: &WriteGrant) -> Result<(), MachineError> {
        self.writing("resetting a controller")?;
        self.claim(grant.device())?;
        let disk = kernel_name(&grant.device().node);
        // Documentation/ABI/testing/sysfs-nvme: of a disk with one controller, `device` is that.
        let switch = self.tree().path(format!("/sys/block/{disk}/device/reset_controller"));
        // The write returns when the controller is back.
        std::fs::write(&switch, "1")
            .map_err(|source| MachineError::Write { what: format!("{}", switch.display()), source })
    }

    fn memory_errors(&self) -> Vec<MemoryErrors> {
        memory_errors(self.tree())
    }

    fn sensors(&self) -> Vec<Sensor> {
        sensors(self.tree())
    }
}

impl LinuxMachine {
    /// Opens a disk that others may be using. `O_NONBLOCK` so that a drive without a medium can be asked, too.
    fn shared_device(&self, id: &DeviceId, mode: OFlags) -> Result<LinuxDevice, MachineError> {
        let path = self.claim(id)?;
        let failed = |source: io::Error| MachineError::Read { what: id.to_string(), source };
        let flags = mode | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
        let file = file.map_err(|error| failed(error.into()))?;
        LinuxDevice::new(self.tree(), kernel_name(&id.node), id.clone(), file).map_err(failed)
    }
}

/// File systems that are changed, by the name of their signature and that of the kernel's driver.
const FILE_SYSTEMS: [(&str, &str); 4] = [("ext", "ext4"), ("xfs", "xfs"), ("btrfs", "btrfs"), ("vfat", "vfat")];

/// A mounted partition.
#[derive(Debug)]
struct Mount {
    what: String,
    root: PathBuf,
    open: bool,
}

fn mount(tree: &Tree, disk: &str, partition: u32) -> Result<Box<dyn Mounted>, MachineError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = tree.path("/sys/block").join(disk);
    let part = block::partitions(tree, disk)
        .into_iter()
        .find(|part| tree::number(&folder.join(&part.name).join("partition")) == Some(u64::from(partition)));
    let what = format!("partition {partition} of /dev/{disk}");
    let unsupported = |reason: String| MachineError::Unsupported { what: format!("mounting {what}"), reason };
    let part = part.ok_or_else(|| unsupported("there is no such partition".to_owned()))?;
    let node = tree.path("/dev").join(&part.name);
    let read = |source| MachineError::Read { what: what.clone(), source };
    let found = signature::find(&File::open(&node).map_err(read)?, part.size).map_err(read)?;
    let known = |(name, driver): (&str, &'static str)| found.iter().any(|one| one.kind == name).then_some(driver);
    let Some(kind) = FILE_SYSTEMS.into_iter().find_map(known) else {
        let kinds: Vec<&str> = found.iter().map(|one| one.kind).collect();
        let there = if kinds.is_empty() { "no file system".to_owned() } else { kinds.join(", ") };
        return Err(unsupported(format!(
            "there is {there} on it, and only ext2 to 4, xfs, btrfs and vfat are mounted"
        )));
    };
    let place = PathBuf::from(format!("/run/mount-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let write = |source| MachineError::Write { what: what.clone(), source };
    std::fs::create_dir_all(&place).map_err(write)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match rustix::mount::mount(&node, &place, kind, flags, None) {
        Ok(()) => Ok(Box::new(Mount { what, root: place, open: true })),
        Err(rustix::io::Errno::NODEV) => {
            Err(unsupported(format!("this ramdisk has no driver for {kind}; boot that of profile server, which has")))
        }
        Err(error) => Err(write(error.into())),
    }
}

impl Mount {
    fn unmount(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.open) {
            // A lazy detach would hide that something was not written.
            rustix::mount::unmount(&self.root, UnmountFlags::NOFOLLOW)?;
            std::fs::remove_dir(&self.root)?;
        }
        Ok(())
    }
}

impl Mounted for Mount {
    fn root(&self) -> &Path {
        &self.root
    }

    fn close(mut self: Box<Self>) -> Result<(), MachineError> {
        let what = self.what.clone();
        let synced = File::open(&self.root).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        let closed = self.unmount();
        synced.and(closed).map_err(|source| MachineError::Write { what, source })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            tracing::error!(%error, what = self.what, "not unmounted");
        }
    }
}

/// Counters of memory controllers (Documentation/ABI/testing/sysfs-devices-edac): by module where the driver knows them, by
/// controller where not.
fn memory_errors(tree: &Tree) -> Vec<MemoryErrors> {
    let mut found = Vec::new();
    for controller in numbered(tree, CONTROLLERS, "mc").into_iter().take(MOST_CONTROLLERS) {
        let folder = format!("{CONTROLLERS}/{controller}");
        let number = |path: String| tree::number(&tree.path(path)).unwrap_or_default();
        let modules: Vec<String> =
            numbered(tree, &folder, "dimm").into_iter().chain(numbered(tree, &folder, "rank")).collect();
        let modules_are_told = !modules.is_empty();
        for module in modules {
            let place = format!("{folder}/{module}");
            let label = tree.text(format!("{place}/dimm_label"));
            let module = label.unwrap_or_else(|| format!("{controller} {module}"));
            let (corrected, uncorrected) = (format!("{place}/dimm_ce_count"), format!("{place}/dimm_ue_count"));
            found.push(MemoryErrors { module, corrected: number(corrected), uncorrected: number(uncorrected) });
        }
        // What the controller could not put down to a module, or all of it.
        let (ce, ue) = if modules_are_told { ("ce_noinfo_count", "ue_noinfo_count") } else { ("ce_count", "ue_count") };
        let (corrected, uncorrected) = (number(format!("{folder}/{ce}")), number(format!("{folder}/{ue}")));
        if !modules_are_told || corrected + uncorrected > 0 {
            let name = tree.text(format!("{folder}/mc_name")).unwrap_or_default();
            found.push(MemoryErrors {
                module: format!("{controller} {name}").trim().to_owned(),
                corrected,
                uncorrected,
            });
        }
    }
    found
}

/// Temperatures (Documentation/hwmon/sysfs-interface.rst).
fn sensors(tree: &Tree) -> Vec<Sensor> {
    let mut found = Vec::new();
    for chip in numbered(tree, CHIPS, "hwmon") {
        let folder = format!("{CHIPS}/{chip}");
        let name = tree.text(format!("{folder}/name")).unwrap_or(chip);
        for input in tree.names(&folder) {
            let Some(channel) = input.strip_suffix("_input").filter(|channel| channel.starts_with("temp")) else {
                continue;
            };
            let number = |what: &str| tree.text(format!("{folder}/{channel}_{what}"))?.parse::<i64>().ok();
            let Some(now) = number("input") else { continue };
            let label = tree.text(format!("{folder}/{channel}_label")).unwrap_or_else(|| channel.to_owned());
            // Chips without a limit report one that nothing reaches, or zero.
            let limit = |what: &str| number(what).filter(|limit| (1_000..200_000).contains(limit));
            found.push(Sensor {
                name: format!("{name} {label}"),
                now,
                high: limit("max"),
                critical: limit("crit"),
                alarm: ["alarm", "crit_alarm", "max_alarm"].iter().any(|what| number(what) == Some(1)),
            });
            if found.len() == MOST_SENSORS {
                return found;
            }
        }
    }
    found
}

/// Names in a folder that are `prefix` and a number, in the order of the numbers.
fn numbered(tree: &Tree, folder: &str, prefix: &str) -> Vec<String> {
    let number = |name: &String| name.strip_prefix(prefix)?.parse::<u32>().ok();
    let mut found: Vec<String> = tree.names(folder).into_iter().filter(|name| number(name).is_some()).collect();
    found.sort_by_key(number);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        }
        let tree = Tree::at(root.path());
        (root, tree)
    }

    #[test]
    fn memory_errors_are_told_by_module_or_by_controller() {
        let (_root, tree) = tree(&[
            ("/sys/devices/system/edac/mc/mc0/mc_name", "Skylake Socket#0 IMC#0"),
            ("/sys/devices/system/edac/mc/mc0/dimm0/dimm_label", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0"),
            ("/sys/devices/system/edac/mc/mc0/dimm0/dimm_ce_count", "17"),
            ("/sys/devices/system/edac/mc/mc0/dimm0/dimm_ue_count", "0"),
            ("/sys/devices/system/edac/mc/mc0/dimm10/dimm_ue_count", "2"),
            ("/sys/devices/system/edac/mc/mc0/ce_noinfo_count", "0"),
            ("/sys/devices/system/edac/mc/mc1/mc_name", "ie31200"),
            ("/sys/devices/system/edac/mc/mc1/ce_count", "3"),
            ("/sys/devices/system/edac/mc/mc1/ue_count", "0"),
            ("/sys/devices/system/edac/mc/power", "x"),
        ]);
        let found: Vec<(String, u64, u64)> =
            memory_errors(&tree).into_iter().map(|one| (one.module, one.corrected, one.uncorrected)).collect();
        let wanted = [
            ("CPU_SrcID#0_MC#0_Chan#0_DIMM#0".to_owned(), 17, 0),
            ("mc0 dimm10".to_owned(), 0, 2),
            ("mc1 ie31200".to_owned(), 3, 0),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn temperatures_are_told_with_their_limits() {
        let (_root, tree) = tree(&[
            ("/sys/class/hwmon/hwmon0/name", "coretemp"),
            ("/sys/class/hwmon/hwmon0/temp1_input", "91000"),
            ("/sys/class/hwmon/hwmon0/temp1_label", "Package id 0"),
            ("/sys/class/hwmon/hwmon0/temp1_max", "90000"),
            ("/sys/class/hwmon/hwmon0/temp1_crit", "100000"),
            ("/sys/class/hwmon/hwmon0/temp1_crit_alarm", "0"),
            ("/sys/class/hwmon/hwmon1/name", "nvme"),
            ("/sys/class/hwmon/hwmon1/temp1_input", "31850"),
            ("/sys/class/hwmon/hwmon1/temp1_max", "65261850"),
            ("/sys/class/hwmon/hwmon1/temp1_alarm", "1"),
            ("/sys/class/hwmon/hwmon1/fan1_input", "900"),
            ("/sys/class/hwmon/hwmon1/temp2_input", "nothing"),
        ]);
        let cpu = Sensor {
            name: "coretemp Package id 0".to_owned(),
            now: 91_000,
            high: Some(90_000),
            critical: Some(100_000),
            alarm: false,
        };
        let disk = Sensor { name: "nvme temp1".to_owned(), now: 31_850, high: None, critical: None, alarm: true };
        assert_eq!(sensors(&tree), [cpu, disk]);
    }
}
