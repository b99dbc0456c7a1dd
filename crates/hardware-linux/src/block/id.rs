//! The name of a disk below `/dev/disk/by-id`, as udev's rules make it (systemd 252, `rules.d/60-persistent-storage.rules` with
//! `ata_id`, `scsi_id` and `usb_id`). Where udev makes several names, this is the one of model and serial number.

use super::{file_name, path::is_scsi_address, usb_device, vpd};
use crate::tree;
use std::fs;
use std::path::Path;

/// USB class of mass storage, and its subclasses with SCSI commands (USB Mass Storage Class Overview 1.4, table 1).
const MASS_STORAGE: &str = "08";
const SCSI_SUBCLASSES: [&str; 2] = ["02", "06"];

/// The name of the block device `name` whose sysfs folder is `folder`; `None` where udev gives none, or where the kernel does
/// not tell what udev would ask the disk for.
pub(super) fn by_id(folder: &Path, name: &str) -> Option<String> {
    let device = fs::canonicalize(folder.join("device")).ok()?;
    if name.starts_with("nvme") {
        return nvme(folder, &device);
    }
    if name.starts_with("vd") {
        return Some(format!("virtio-{}", safe(&underscored(&raw(&folder.join("serial"))?))));
    }
    if name.starts_with("mmcblk") {
        let (name, serial) = (raw(&device.join("name"))?, raw(&device.join("serial"))?);
        return Some(format!("mmc-{}_{}", safe(&underscored(&name)), safe(&underscored(&serial))));
    }
    if !is_scsi_address(&file_name(&device)) {
        return None;
    }
    let page = |code: &str| tree::bytes(&device.join(code)).ok();
    let (vendor, model) = (raw(&device.join("vendor")), raw(&device.join("model")));
    let vendor = vendor.unwrap_or_default();
    let usb = usb_device(&device);
    let is_ata = vendor.trim() == "ATA" || (usb.is_some() && !is_removable(folder));
    if is_ata && let Some(ata) = page("vpd_pg89").and_then(|page| vpd::ata(&page)) {
        let serial = ata.serial.map(|serial| format!("_{}", plain(&serial))).unwrap_or_default();
        return Some(format!("ata-{}{serial}", plain(&ata.model?)));
    }
    if let Some(usb) = usb {
        return self::usb(&device, &usb);
    }
    let (page_83, page_80) = (page("vpd_pg83"), page("vpd_pg80"));
    if vendor.trim() == "ATA" {
        // udev asks the disk for its full model and serial number, which a controller without page 89h keeps to itself. The
        // world wide name is the same in either.
        return page_83.and_then(|page| vpd::naa(&page)).map(|name| format!("wwn-0x{name}"));
    }
    let identity = vpd::identity(page_83.as_deref(), page_80.as_deref(), &vendor, &model.unwrap_or_default())?;
    Some(format!("scsi-{}", plain(&identity)))
}

fn is_removable(folder: &Path) -> bool {
    tree::text(&folder.join("removable")).as_deref() == Some("1")
}

/// Model, serial number and namespace; one controller's namespaces have the first two in common.
fn nvme(folder: &Path, device: &Path) -> Option<String> {
    match (raw(&device.join("model")), raw(&device.join("serial")), tree::text(&folder.join("nsid"))) {
        (Some(model), Some(serial), Some(namespace)) => {
            Some(format!("nvme-{}", safe(&format!("{model}_{serial}_{namespace}").replace('/', "_"))))
        }
        _ => Some(format!("nvme-{}", safe(&underscored(&raw(&folder.join("wwid"))?)))),
    }
}

/// What the disk says of itself in SCSI, else what the USB device does; then target and unit, as cheap devices have the same
/// serial number for all units.
fn usb(device: &Path, usb: &Path) -> Option<String> {
    let interface = device.ancestors().find(|folder| folder.join("bInterfaceClass").exists())?;
    let is = |attribute: &str, wanted: &[&str]| {
        tree::text(&interface.join(attribute)).is_some_and(|found| wanted.contains(&found.as_str()))
    };
    let scsi = is("bInterfaceClass", &[MASS_STORAGE]) && is("bInterfaceSubClass", &SCSI_SUBCLASSES);
    let part = |from_scsi: &str, attribute: &str, number: &str| {
        let told = scsi.then(|| raw(&device.join(from_scsi))).flatten();
        told.or_else(|| raw(&usb.join(attribute))).or_else(|| raw(&usb.join(number)))
    };
    let (vendor, model) = (part("vendor", "manufacturer", "idVendor")?, part("model", "product", "idProduct")?);
    // A serial number with anything else in it is none, as Microsoft has it for USB.
    let serial = raw(&usb.join("serial")).filter(|serial| serial.chars().all(|c| matches!(c, ' '..='~') && c != ','));
    let serial = serial.map(|serial| format!("_{}", plain(&serial))).unwrap_or_default();
    let address = file_name(device);
    let mut numbers = address.split(':').skip(2);
    let instance = match (scsi, numbers.next(), numbers.next()) {
        (true, Some(target), Some(unit)) => format!("-{target}:{unit}"),
        _ => String::new(),
    };
    Some(format!("usb-{}_{}{serial}{instance}", plain(&vendor), plain(&model)))
}

/// An attribute without the white space behind it; `None` when there is nothing else. What is before it counts in some names.
fn raw(path: &Path) -> Option<String> {
    let bytes = tree::bytes(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_end_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A name of the programs that udev runs: no white space, no slash.
fn plain(text: &str) -> String {
    safe(&underscored(text)).replace('/', "_")
}

/// Without white space around it, and each run of it inside as one underscore (`udev_replace_whitespace`).
fn underscored(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join("_")
}

/// With an underscore for what udev has in no link (`udev_replace_chars`): all but letters, digits, `#+-.:=@_/` and what is not
/// ASCII.
fn safe(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@_/".contains(c) || !c.is_ascii();
    text.chars().map(|c| if keep(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk `name` whose device is the folder `device`, with files of both.
    fn named(name: &str, device: &str, files: &[(&str, &[u8])]) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        let (device, block) = (root.path().join(device), root.path().join("block").join(name));
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&block).unwrap();
        std::os::unix::fs::symlink(&device, block.join("device")).unwrap();
        for (file, content) in files {
            let path = block.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        by_id(&block, name)
    }

    #[test]
    fn a_virtio_disk_is_named_by_its_serial_number_and_has_no_name_without() {
        assert_eq!(named("vda", "virtio1", &[("serial", b"root disk\n")]).unwrap(), "virtio-root_disk");
        assert_eq!(named("vda", "virtio1", &[("serial", b"\n")]), None);
        assert_eq!(named("vda", "virtio1", &[]), None);
    }

    #[test]
    fn an_nvme_namespace_is_named_by_model_serial_number_and_namespace_else_by_its_wwid() {
        let model: (&str, &[u8]) = ("device/model", b"Samsung SSD 970 (PRO)                   \n");
        let files = [model, ("device/serial", b"S463NF0K123456      \n"), ("nsid", b"2\n"), ("wwid", b"eui.00\n")];
        assert_eq!(named("nvme0n2", "nvme0", &files).unwrap(), "nvme-Samsung_SSD_970__PRO__S463NF0K123456_2");
        assert_eq!(named("nvme0n2", "nvme0", &files[2..]).unwrap(), "nvme-eui.00");
        assert_eq!(named("nvme0n2", "nvme0", &[]), None);
    }

    #[test]
    fn a_scsi_disk_is_named_as_scsi_id_names_it() {
        let files: [(&str, &[u8]); 3] = [
            ("device/vendor", b"QEMU    \n"),
            ("device/model", b"QEMU HARDDISK   \n"),
            ("device/vpd_pg83", b"\0\x83\0\x0c\x02\0\0\x08drive-s0"),
        ];
        assert_eq!(named("sda", "0:0:1:0", &files).unwrap(), "scsi-0QEMU_QEMU_HARDDISK_drive-s0");
        assert_eq!(named("sda", "0:0:1:0", &files[..2]), None);
        let old: (&str, &[u8]) = ("device/vpd_pg80", b"\0\x80\0\x06 A/B  ");
        assert_eq!(named("sda", "0:0:1:0", &[files[0], files[1], old]).unwrap(), "scsi-SQEMU_QEMU_HARDDISK_A_B");
    }

    #[test]
    fn an_ata_disk_that_keeps_its_serial_number_is_named_by_its_world_wide_name() {
        let vendor: (&str, &[u8]) = ("device/vendor", b"ATA     \n");
        let page = [&[0, 0x83, 0, 12, 1, 3, 0, 8][..], &[0x50, 0, 0xc5, 0, 1, 2, 3, 4]].concat();
        let named = |page: &[u8]| named("sda", "0:0:0:0", &[vendor, ("device/vpd_pg83", page)]);
        assert_eq!(named(&page).unwrap(), "wwn-0x5000c50001020304");
        assert_eq!(named(b""), None);
    }

    #[test]
    fn a_usb_disk_is_named_with_its_target_and_unit() {
        let device = "usb1/1-5/1-5:1.0/host9/target9:0:0/9:0:0:1";
        let up = "device/../../../";
        let files: Vec<(String, &[u8])> = vec![
            (format!("{up}bInterfaceClass"), b"08\n"),
            (format!("{up}bInterfaceSubClass"), b"06\n"),
            (format!("{up}../idVendor"), b"0781\n"),
            (format!("{up}../serial"), b"4C5300\n"),
            ("device/vendor".to_owned(), b"SanDisk \n"),
            ("device/model".to_owned(), b"Ultra Fit       \n"),
            ("removable".to_owned(), b"1\n"),
        ];
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (name.as_str(), *content)).collect();
        assert_eq!(named("sdb", device, &files).unwrap(), "usb-SanDisk_Ultra_Fit_4C5300-0:1");
    }

    #[test]
    fn what_hangs_on_no_bus_that_udev_knows_has_no_name() {
        assert_eq!(named("md0", "somewhere", &[("md/uuid", b"aa")]), None);
        assert_eq!(named("xvda", "vbd-51712", &[]), None);
    }
}
