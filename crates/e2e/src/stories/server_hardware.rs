//! Profile `server` of the ramdisk on a machine full of different controllers and network cards: every disk is in the
//! inventory and is erased, every card is there with its driver and talks to the network.

use super::World;
use crate::ferricd::Ferricd;
use crate::lab::{BRIDGE, output, virsh};
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::WitnessImage;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

const NODE: &str = "node-1";
const MEMORY_MIB: u32 = 512;
/// Size of the first of the disks; each has a MiB more than the one before, so that none is taken for another.
const FIRST_DISK_MIB: u64 = 64;
const SECTOR: usize = 512;
/// A card may get its link after the agent has checked in.
const LEASE_LIMIT: Duration = Duration::from_secs(300);

/// A controller of QEMU with a disk behind it.
struct Disk {
    /// Serial number of the disk: how it is told from the others.
    serial: &'static str,
    /// QEMU's `-device` of what the disk is plugged into; none where the disk is a PCI device itself.
    controller: Option<&'static str>,
    /// QEMU's `-device` of the disk.
    disk: &'static str,
}

const fn behind(serial: &'static str, controller: &'static str, disk: &'static str) -> Disk {
    Disk { serial, controller: Some(controller), disk }
}

/// What the disks on USB are plugged into.
const USB: &str = "qemu-xhci,id=xhci,bus=pcie.0,addr=0x10";

/// Kinds of controllers that QEMU has and the profile a driver for; libvirt uses the root bus from its beginning and slot
/// 0x1f. Not here: piix3-ide, whose ports OVMF does not open on q35, and mptsas1068, whose disk does not appear.
const DISKS: &[Disk] = &[
    behind("AHCI", "ich9-ahci,id=ahci1,bus=pcie.0,addr=0x11", "ide-hd,bus=ahci1.0"),
    Disk { serial: "NVME", controller: None, disk: "nvme,bus=pcie.0,addr=0x13" },
    behind("VIRTIOSCSI", "virtio-scsi-pci,id=vscsi,bus=pcie.0,addr=0x14", "scsi-hd,bus=vscsi.0"),
    behind("MEGASAS1078", "megasas,id=mega1,bus=pcie.0,addr=0x15", "scsi-hd,bus=mega1.0"),
    behind("MEGASAS2108", "megasas-gen2,id=mega2,bus=pcie.0,addr=0x16", "scsi-hd,bus=mega2.0"),
    behind("LSI53C895A", "lsi53c895a,id=lsi,bus=pcie.0,addr=0x18", "scsi-hd,bus=lsi.0"),
    behind("PVSCSI", "pvscsi,id=pvs,bus=pcie.0,addr=0x19", "scsi-hd,bus=pvs.0"),
    Disk { serial: "USBBOT", controller: None, disk: "usb-storage,bus=xhci.0" },
    behind("USBUAS", "usb-uas,id=uas,bus=xhci.0", "scsi-hd,bus=uas.0"),
];

/// A network card of QEMU.
struct Card {
    /// QEMU's `-device`.
    device: &'static str,
    /// The kernel's driver that has to serve it.
    driver: &'static str,
}

/// The models that servers may have; the server's first card is virtio. (igb is newer than the QEMU of Debian 12.)
const CARDS: &[Card] = &[
    Card { device: "e1000,bus=pcie.0,addr=0x1a,romfile=", driver: "e1000" },
    Card { device: "e1000e,bus=pcie.0,addr=0x1b,romfile=", driver: "e1000e" },
    Card { device: "rtl8139,bus=pcie.0,addr=0x1c,romfile=", driver: "8139cp" },
    Card { device: "vmxnet3,bus=pcie.0,addr=0x1d,romfile=", driver: "vmxnet3" },
    Card { device: "i82559er,bus=pcie.0,addr=0x1e,romfile=", driver: "e100" },
    Card { device: "usb-net,bus=xhci.0", driver: "cdc_ether" },
];

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let ramdisk = world.lab.artifacts().server_ramdisk.clone();
    let ramdisk = ramdisk.context("--server-ramdisk is missing: `cargo xtask e2e server_hardware` makes it")?;
    let mut ferricd = Ferricd::start_with_ramdisk(&world.lab, &ramdisk).await?;
    let server =
        VirtualServer::define(&world.lab, &ServerSpec { memory_mib: MEMORY_MIB, ..ServerSpec::default() }).await?;
    let disks = fit(world, &server).await?;
    world.enroll(&server, NODE).await?;
    world.drive(&mut ferricd, "manage", NODE, &[]).await?;

    world.console.begin("inspect: boot profile server, read the hardware");
    world.drive(&mut ferricd, "inspect", NODE, &[]).await?;
    world.expect_state(NODE, "manageable").await?;
    let inventory = world.api.get(&format!("/v1/nodes/{NODE}/inventory")).await?;
    let found = disks_are_there(&inventory["inventory"], &disks)?;
    let cards = cards_are_there(&inventory["inventory"])?;
    world.console.end(&format!("disks {found}; cards {cards}"));

    world.console.begin("provide: erase every disk");
    world.drive(&mut ferricd, "provide", NODE, &[]).await?;
    world.expect_state(NODE, "available").await?;
    for (disk, path) in DISKS.iter().zip(&disks) {
        is_erased(path).with_context(|| format!("the disk {}", disk.serial))?;
    }
    world.console.end(&format!("{} disks are empty, seen from outside", disks.len()));

    world.console.begin("every card has a lease");
    let leases = world.lab.dir().join("dhcp-leases");
    until("a DHCP lease of every card", LEASE_LIMIT, async || {
        ferricd.check()?;
        let leases = fs::read_to_string(&leases).unwrap_or_default();
        Ok((1..=CARDS.len()).all(|number| leases.contains(&mac(number))).then_some(()))
    })
    .await?;
    world.console.end("");
    Ok(())
}

/// MAC address of a card of [`CARDS`], counted from one.
fn mac(number: usize) -> String {
    format!("52:54:00:78:00:{number:02}")
}

/// Gives the server all the controllers, disks and cards; the disks hold a system with a partition table each. Returns
/// their files, in the order of [`DISKS`].
async fn fit(world: &World, server: &VirtualServer) -> Result<Vec<PathBuf>> {
    let mut devices = vec![("-device", USB.to_owned())];
    let mut files = Vec::new();
    for (mib, disk) in (FIRST_DISK_MIB..).zip(DISKS) {
        let path = world.lab.disks().join(format!("{}.raw", disk.serial));
        WitnessImage { mib, seed: mib }.write(&path)?;
        let name = disk.serial.to_lowercase();
        devices.extend(disk.controller.map(|controller| ("-device", controller.to_owned())));
        devices.push(("-drive", format!("if=none,id={name},format=raw,cache=unsafe,file={}", path.display())));
        devices.push(("-device", format!("{},drive={name},serial={}", disk.disk, disk.serial)));
        files.push(path);
    }
    for (number, card) in (1..).zip(CARDS) {
        let tap = format!("card{number}");
        output(Command::new("ip").args(["tuntap", "add", "dev", &tap, "mode", "tap"])).await?;
        output(Command::new("ip").args(["link", "set", &tap, "master", BRIDGE, "up"])).await?;
        devices.push(("-netdev", format!("tap,id={tap},ifname={tap},script=no,downscript=no")));
        devices.push(("-device", format!("{},netdev={tap},mac={}", card.device, mac(number))));
    }
    define(world, server, &devices).await?;
    Ok(files)
}

/// Defines the server anew with arguments of QEMU; libvirt has no words of its own for some of the devices.
pub(super) async fn define(world: &World, server: &VirtualServer, arguments: &[(&str, String)]) -> Result<()> {
    let definition = world.lab.dir().join(format!("{}.xml", server.name));
    let xml = fs::read_to_string(&definition).with_context(|| format!("read {}", definition.display()))?;
    let mut more = "</devices><qemu:commandline>".to_owned();
    for (option, value) in arguments {
        write!(more, "<qemu:arg value='{option}'/><qemu:arg value='{value}'/>")?;
    }
    more.push_str("</qemu:commandline>");
    let namespace = "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ";
    let xml = xml.replacen("<domain ", namespace, 1).replacen("</devices>", &more, 1);
    fs::write(&definition, xml)?;
    virsh(&["define", definition.to_str().context("the lab's folder is not UTF-8")?]).await.map(drop)
}

/// Fails unless every disk is in the inventory, by its serial number, with the size of its file and the name that udev gives it.
fn disks_are_there(inventory: &Value, files: &[PathBuf]) -> Result<String> {
    let listed = inventory["disks"].as_array().context("the inventory has no disks")?;
    let mut names = Vec::new();
    for (disk, file) in DISKS.iter().zip(files) {
        let found = listed.iter().find(|listed| listed["serial"] == disk.serial);
        let found =
            found.with_context(|| format!("disk {} is not in the inventory: {}", disk.serial, brief(listed)))?;
        let size = fs::metadata(file)?.len();
        ensure!(found["size"] == size, "disk {} has {size} bytes, the inventory says {}", disk.serial, found["size"]);
        // What stands behind UAS has its serial number in SCSI, and USB knows another.
        let id = found["by_id"].as_str().and_then(|id| id.strip_prefix("/dev/disk/by-id/"));
        let id = id.filter(|id| id.contains(disk.serial) || (disk.serial == "USBUAS" && id.starts_with("usb-QEMU")));
        let id = id.with_context(|| format!("disk {} is by id {}", disk.serial, found["by_id"]))?;
        names.push(format!("{} {}", found["name"].as_str().unwrap_or_default(), id));
    }
    Ok(names.join(", "))
}

/// Fails unless every card is in the inventory, by its MAC address, with its driver.
fn cards_are_there(inventory: &Value) -> Result<String> {
    let listed = inventory["interfaces"].as_array().context("the inventory has no interfaces")?;
    let mut names = Vec::new();
    for (number, Card { device, driver }) in (1..).zip(CARDS) {
        let found = listed.iter().find(|listed| listed["mac_address"] == mac(number).as_str());
        let found = found.with_context(|| format!("card {device} is not in the inventory: {}", brief(listed)))?;
        ensure!(found["driver"] == *driver, "card {device} has driver {}, not {driver}", found["driver"]);
        names.push(format!("{driver} {}", found["name"].as_str().unwrap_or_default()));
    }
    Ok(names.join(", "))
}

/// What an inventory lists, in one line.
fn brief(listed: &[Value]) -> String {
    let one = |value: &Value| format!("{} {} {}", value["name"], value["serial"], value["mac_address"]);
    listed.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Fails if the disk has anything of a partition table: first two sectors or last.
fn is_erased(path: &Path) -> Result<()> {
    let mut disk = File::open(path)?;
    let end = disk.metadata()?.len() - SECTOR as u64;
    for (what, offset) in [("boot sector", 0), ("partition table", SECTOR as u64), ("backup table", end)] {
        let mut bytes = [0; SECTOR];
        disk.seek(SeekFrom::Start(offset))?;
        disk.read_exact(&mut bytes)?;
        ensure!(bytes.iter().all(|byte| *byte == 0), "it still has a {what}");
    }
    Ok(())
}
