//! The physical place of a disk, as udev's `path_id` builtin writes it into `/dev/disk/by-path` (systemd 252,
//! `src/udev/udev-builtin-path_id.c`), for the buses that servers have.

use super::{file_name, is_numbered};
use crate::interfaces::is_pci_address;
use crate::tree;
use std::fs;
use std::path::Path;

/// The name below `/dev/disk/by-path` of the block device whose sysfs folder is `folder`; `None` for one that hangs on no
/// bus that gives it a place.
pub(crate) fn by_path(folder: &Path) -> Option<String> {
    let device = fs::canonicalize(folder.join("device")).ok()?;
    let mut parts: Vec<String> = Vec::new();
    if let Some(namespace) = tree::text(&folder.join("nsid")) {
        parts.push(format!("nvme-{namespace}"));
    }
    if is_scsi_address(&file_name(&device)) {
        parts.push(scsi(&device)?);
    }
    let mut usb_seen = false;
    for ancestor in device.ancestors() {
        let name = file_name(ancestor);
        if !usb_seen && ancestor.join("bInterfaceNumber").exists() {
            // `1-1.2:1.0`: the bus number is not stable, the ports are.
            parts.push(format!("usb-0:{}", name.split_once('-')?.1));
            usb_seen = true;
        }
        if is_pci_address(&name) {
            parts.push(format!("pci-{name}"));
            parts.reverse();
            return Some(parts.join("-"));
        }
    }
    None
}

/// Whether `name` is `host:channel:target:lun`.
pub(super) fn is_scsi_address(name: &str) -> bool {
    name.split(':').count() == 4 && name.split(':').all(|part| part.parse::<u64>().is_ok())
}

fn scsi(device: &Path) -> Option<String> {
    let address = file_name(device);
    let mut numbers = address.split(':').map(|part| part.parse::<u64>().ok());
    let (host, bus, target, lun) = (numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??);
    let host_folder = device.ancestors().find(|folder| is_numbered(&file_name(folder), "host"))?;
    let above = host_folder.parent()?;

    if let Some(port) = device.ancestors().find(|folder| file_name(folder).starts_with("rport-")) {
        let name = tree::text(&port.join("fc_remote_ports").join(file_name(port)).join("port_name"))?;
        return Some(format!("fc-{name}-{}", lun_text(lun)));
    }
    if let Some(end) = device.ancestors().find(|folder| file_name(folder).starts_with("end_device-")) {
        return sas(end, lun);
    }
    if is_numbered(&file_name(above), "ata") {
        let port = tree::text(&above.join("ata_port").join(file_name(above)).join("port_no"))?;
        // Behind a port multiplier the bus tells the disks apart, else the target does (master and slave).
        return Some(if bus == 0 { format!("ata-{port}.{target}") } else { format!("ata-{port}.{bus}.0") });
    }
    if file_name(above).starts_with("vmbus_") || tree::text(&above.join("class_id")).is_some() {
        return Some(format!("vmbus-{}-{}", file_name(above).replace("vmbus_", ""), lun_text(lun)));
    }
    // The number of a host is given in order of discovery; counted from the first host of the same parent it is stable.
    let first = tree::names(above)
        .iter()
        .filter_map(|name| name.strip_prefix("host")?.parse::<u64>().ok())
        .min()
        .unwrap_or(host);
    Some(format!("scsi-{}:{bus}:{target}:{lun}", host.saturating_sub(first)))
}

fn sas(end: &Path, lun: u64) -> Option<String> {
    let lun = lun_text(lun);
    let details = end.join("sas_device").join(file_name(end));
    let address = tree::text(&details.join("sas_address"))?;
    let port = end.parent()?;
    let phys = tree::text(&port.join("sas_port").join(file_name(port)).join("num_phys"))?;
    if phys != "1" {
        return Some(format!("sas-{address}-{lun}"));
    }
    let phy = tree::text(&details.join("phy_identifier"))?;
    let above = port.parent()?;
    match tree::text(&above.join("sas_device").join(file_name(above)).join("sas_address")) {
        Some(expander) => Some(format!("sas-exp{expander}-phy{phy}-{lun}")),
        None => Some(format!("sas-phy{phy}-{lun}")),
    }
}

/// Flat LUNs in decimal, all others as the 64 bits that they are.
fn lun_text(lun: u64) -> String {
    if lun < 256 {
        return format!("lun-{lun}");
    }
    // The kernel's number has the 16-bit levels swapped against the wire (`scsilun_to_int`).
    let swapped =
        ((lun & 0xffff) << 48) | ((lun & 0xffff_0000) << 16) | ((lun >> 16) & 0xffff_0000) | ((lun >> 48) & 0xffff);
    format!("lun-0x{swapped:016x}")
}
