//! Disks, from sysfs alone.
//!
//! Where udev would ask the device (`ata_id`, `scsi_id`), the kernel's copies of the SCSI vital product data pages are read
//! instead (`/sys/block/*/device/vpd_pg*`, `drivers/scsi/scsi_sysfs.c`); values and their form are those that lsblk
//! and udev give, since root device hints in the field were written against them.

mod id;
mod path;
pub mod vpd;

use crate::tree::{self, Tree};
use hardware::Disk;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use path::by_path;

/// Kernel names of devices that are not disks of the machine: floppies, loop devices, RAM disks, ROMs, device mapper
/// volumes, network block devices and raw flash.
const NOT_DISKS: [&str; 9] = ["fd", "loop", "ram", "zram", "sr", "dm-", "nbd", "mtdblock", "drbd"];

/// A sysfs size is always in units of 512 bytes, whatever the device's sectors are.
pub(crate) const SYSFS_SECTOR: u64 = 512;

/// A partition as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Kernel name such as `sda1`.
    pub name: String,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// Whole disks with a medium, in the order of their names (`sdb` before `sdaa`).
pub fn disks(tree: &Tree) -> Vec<Disk> {
    all(tree).filter(|disk| disk.size > 0).collect()
}

/// Disks that have no capacity and are no place for a medium that comes and goes: not removable, not USB (what a BMC shows of its
/// virtual media while there are none), and a device of the machine, as an array that is not running is not.
pub fn disks_without_capacity(tree: &Tree) -> Vec<Disk> {
    let is_built_in = |disk: &Disk| {
        let folder = tree.path("/sys/block").join(disk.name.trim_start_matches("/dev/").replace('/', "!"));
        folder.join("device").exists()
            && tree::text(&folder.join("removable")).as_deref() != Some("1")
            && disk.tran.as_deref() != Some("usb")
    };
    all(tree).filter(|disk| disk.size == 0 && is_built_in(disk)).collect()
}

fn all(tree: &Tree) -> impl Iterator<Item = Disk> {
    let mut names = tree.names("/sys/block");
    names.retain(|name| !NOT_DISKS.iter().any(|prefix| is_numbered(name, prefix)));
    names.sort_by_key(|name| {
        let kind: String = name.chars().take(2).collect();
        (kind, name.len(), name.clone())
    });
    names.into_iter().filter_map(move |name| disk(tree, &name))
}

/// Whether `name` is `prefix` and a number, as in `fd0`.
fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn disk(tree: &Tree, name: &str) -> Option<Disk> {
    let folder = fs::canonicalize(tree.path("/sys/block").join(name)).ok()?;
    let size = tree::number(&folder.join("size"))?.checked_mul(SYSFS_SECTOR)?;
    // One path of a multipath NVMe namespace is hidden behind the namespace itself.
    if tree::text(&folder.join("hidden")).as_deref() == Some("1") {
        return None;
    }
    let device = folder.join("device");
    let identity = Identity::read(&folder);
    Some(Disk {
        name: format!("/dev/{}", name.replace('!', "/")),
        model: identity
            .model
            .or_else(|| tree::text(&device.join("model")))
            .or_else(|| tree::text(&device.join("name"))),
        size,
        rotational: tree::text(&folder.join("queue/rotational")).as_deref() == Some("1"),
        wwn: identity.wwn,
        serial: identity.serial,
        vendor: tree::text(&device.join("vendor")),
        wwn_with_extension: identity.wwn_with_extension,
        wwn_vendor_extension: identity.wwn_vendor_extension,
        hctl: tree::names(&device.join("scsi_device")).into_iter().next(),
        by_path: by_path(&folder).map(|path| format!("/dev/disk/by-path/{path}")),
        by_id: id::by_id(&folder, name).map(|id| format!("/dev/disk/by-id/{id}")),
        logical_sectors: tree::number(&folder.join("queue/logical_block_size")),
        physical_sectors: tree::number(&folder.join("queue/physical_block_size")),
        tran: transport(&folder, name),
        holders: held_by(tree, name).into_iter().map(|(_, holder)| holder).collect(),
    })
}

/// What tells this disk from others of its kind.
#[derive(Debug, Default)]
struct Identity {
    model: Option<String>,
    serial: Option<String>,
    wwn: Option<String>,
    wwn_with_extension: Option<String>,
    wwn_vendor_extension: Option<String>,
}

impl Identity {
    fn read(folder: &Path) -> Self {
        let device = folder.join("device");
        let mut identity = Self::default();
        if let Some(ata) = tree::bytes(&device.join("vpd_pg89")).ok().and_then(|page| vpd::ata(&page)) {
            identity.model = ata.model;
            identity.serial = ata.serial;
            identity.wwn_with_extension = ata.wwn.clone();
            identity.wwn = ata.wwn;
        } else if let Some(naa) = tree::bytes(&device.join("vpd_pg83")).ok().and_then(|page| vpd::naa(&page)) {
            // As udev's scsi_id splits it: 16 digits of name, then the vendor's extension.
            let (name, extension) = naa.split_at(naa.len().min(16));
            identity.wwn = Some(format!("0x{name}"));
            identity.wwn_with_extension = Some(format!("0x{naa}"));
            identity.wwn_vendor_extension = (!extension.is_empty()).then(|| format!("0x{extension}"));
        } else {
            // NVMe: `eui.…`, `uuid.…` or made of the serial number (drivers/nvme/host/core.c).
            identity.wwn = tree::text(&folder.join("wwid"));
        }
        identity.serial = identity
            .serial
            .or_else(|| tree::bytes(&device.join("vpd_pg80")).ok().and_then(|page| vpd::serial(&page)))
            .or_else(|| tree::text(&device.join("serial")))
            .or_else(|| tree::text(&folder.join("serial")))
            .or_else(|| usb_device(&device).and_then(|usb| tree::text(&usb.join("serial"))))
            .or_else(|| tree::text(&folder.join("md/uuid")));
        identity
    }
}

/// The folder of the USB device that a disk hangs on.
pub(crate) fn usb_device(device: &Path) -> Option<PathBuf> {
    let device = fs::canonicalize(device).ok()?;
    device.ancestors().find(|folder| folder.join("idVendor").exists()).map(Path::to_owned)
}

/// The transport in the words of lsblk's `TRAN` (`misc-utils/lsblk.c`, `get_transport`).
fn transport(folder: &Path, name: &str) -> Option<String> {
    let found = |text: &str| Some(text.to_owned());
    for (prefix, transport) in [("nvme", "nvme"), ("vd", "virtio"), ("mmcblk", "mmc")] {
        if name.starts_with(prefix) {
            return found(transport);
        }
    }
    let device = fs::canonicalize(folder.join("device")).ok()?;
    let host = device.ancestors().find(|folder| is_numbered(&file_name(folder), "host"))?;
    let has = |class: &str| host.join(class).join(file_name(host)).exists();
    if host.ancestors().any(|folder| folder.join("bInterfaceNumber").exists()) {
        return found("usb");
    }
    for (class, transport) in
        [("fc_host", "fc"), ("sas_host", "sas"), ("iscsi_host", "iscsi"), ("srp_host", "srp"), ("spi_host", "spi")]
    {
        if has(class) {
            return found(transport);
        }
    }
    let driver = tree::text(&host.join("scsi_host").join(file_name(host)).join("proc_name"))?;
    match driver.as_str() {
        ahci if ahci.starts_with("ahci") || ahci.starts_with("sata") => found("sata"),
        ata if ata.contains("ata") => found("ata"),
        _ => None,
    }
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The partitions of the disk with the kernel name `disk`, by first byte.
pub fn partitions(tree: &Tree, disk: &str) -> Vec<Partition> {
    let folder = tree.path("/sys/block").join(disk);
    let mut found: Vec<Partition> = tree::names(&folder)
        .into_iter()
        .filter(|name| folder.join(name).join("partition").exists())
        .filter_map(|name| {
            let part = folder.join(&name);
            let start = tree::number(&part.join("start"))?.checked_mul(SYSFS_SECTOR)?;
            let size = tree::number(&part.join("size"))?.checked_mul(SYSFS_SECTOR)?;
            Some(Partition { name, start, size })
        })
        .collect();
    found.sort_by_key(|partition| partition.start);
    found
}

/// Whether the kernel lets nobody write to the disk with the kernel name `disk`.
pub(crate) fn is_read_only(tree: &Tree, disk: &str) -> bool {
    tree.text(format!("/sys/block/{disk}/ro")).as_deref() == Some("1")
}

/// Devices that the kernel has built on a disk or its partitions: the part that they hold, and their name.
pub(crate) fn held_by(tree: &Tree, disk: &str) -> Vec<(String, String)> {
    let folder = tree.path("/sys/block").join(disk);
    let mut held = Vec::new();
    let mut add = |part: &str, folder: &Path| {
        held.extend(tree::names(&folder.join("holders")).into_iter().map(|holder| (part.to_owned(), holder)));
    };
    add(disk, &folder);
    for part in partitions(tree, disk) {
        add(&part.name, &folder.join(&part.name));
    }
    held
}
