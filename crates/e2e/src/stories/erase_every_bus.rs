//! Disks full of known data on NVMe, AHCI, virtio-scsi and virtio-blk: an automated clean erases them whole. Seen from outside nothing
//! of the data is left, and of each disk there is a signed record of what was done and what was read back.

use super::World;
use super::server_hardware::define;
use crate::server::{ServerSpec, VirtualServer};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

const NODE: &str = "node-1";
/// The server's own disk, and the first of the others; each has a MiB more than the one before.
const MIB: u64 = 96;
/// What every sector of every disk says.
pub(super) const SECRET: &[u8] = b"TENANT-DATA-";

/// A disk beside the server's own: serial number, QEMU's `-device` of its controller, `-device` of the disk.
const DISKS: &[(&str, Option<&str>, &str)] = &[
    ("NVME", None, "nvme,bus=pcie.0,addr=0x13"),
    ("AHCI", Some("ich9-ahci,id=ahci1,bus=pcie.0,addr=0x11"), "ide-hd,bus=ahci1.0"),
    ("VIRTIOSCSI", Some("virtio-scsi-pci,id=vscsi,bus=pcie.0,addr=0x14"), "scsi-hd,bus=vscsi.0"),
    ("VIRTIOBLK", None, "virtio-blk-pci,bus=pcie.0,addr=0x15"),
    // A device that takes neither discard nor write-zeroes: every byte has to be written.
    ("PLAINBLK", None, "virtio-blk-pci,bus=pcie.0,addr=0x16,discard=off,write-zeroes=off"),
];

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut ferricd = world.start_ferricd().await?;
    let spec = ServerSpec { disk_mib: MIB, memory_mib: 384, ..ServerSpec::default() };
    let server = VirtualServer::define(&world.lab, &spec).await?;
    let disks = fit(world, &server).await?;
    world.enroll(&server, NODE).await?;
    world.drive(&mut ferricd, "manage", NODE, &[]).await?;

    world.console.begin("provide: erase every disk");
    world.drive(&mut ferricd, "provide", NODE, &[]).await?;
    world.expect_state(NODE, "available").await?;
    world.console.end("");
    clean_outside(world, &server, &disks)?;
    records(world, &disks).await
}

fn clean_outside(world: &World, server: &VirtualServer, disks: &[(&str, PathBuf)]) -> Result<()> {
    world.console.begin("look at the disks from outside");
    let own = ("FERRIC01", server.disk.clone());
    for (serial, path) in disks.iter().chain([&own]) {
        let left = left(path).with_context(|| format!("disk {serial}"))?;
        ensure!(left == 0, "disk {serial} still has {left} sectors that are not zero");
    }
    world.console.end(&format!("{} disks, not one byte of data", disks.len() + 1));
    Ok(())
}

/// Every disk has a record of its erasure, verified, and of its metadata.
async fn records(world: &World, disks: &[(&str, PathBuf)]) -> Result<()> {
    world.console.begin("every disk has a signed record");
    let listed = world.api.get(&format!("/v1/nodes/{NODE}/erasures")).await?;
    let listed = listed["erasures"].as_array().with_context(|| format!("no list of erasures: {listed}"))?;
    let mut told = Vec::new();
    for serial in disks.iter().map(|(serial, _)| *serial).chain(["FERRIC01"]) {
        let mut found = None;
        for entry in listed {
            let uuid = entry["uuid"].as_str().context("a record has no uuid")?;
            let record = world.api.get(&format!("/v1/nodes/{NODE}/erasures/{uuid}")).await?;
            if !record.to_string().contains(&format!("\"{serial}\"")) {
                continue;
            }
            let reading = &record["record"]["report"]["reading"];
            ensure!(
                reading["blocks"].as_u64() > Some(0),
                "a record of disk {serial} says nothing of what was read: {record}"
            );
            let is_whole = record["method"] != "metadata";
            ensure!(
                is_whole != reading["places"].is_string(),
                "a record of disk {serial} says where else was read: {record}"
            );
            if is_whole {
                found = Some(record);
            }
        }
        let record =
            found.with_context(|| format!("no record says that disk {serial} was erased whole: {listed:?}"))?;
        ensure!(record["outcome"] == "verified", "the record of disk {serial} says {}", record["outcome"]);
        ensure!(signature(&record).is_some(), "the record of disk {serial} has no signature: {record}");
        told.push(format!("{serial} {}", record["method"].as_str().unwrap_or_default()));
        let file = world.lab.logs().join(format!("erasure-{serial}.json"));
        fs::write(file, serde_json::to_string_pretty(&record)?)?;
    }
    world.console.end(&told.join(", "));
    Ok(())
}

fn signature(record: &Value) -> Option<&Value> {
    record
        .as_object()?
        .iter()
        .find(|(key, _)| key.contains("signature"))
        .map(|(_, value)| value)
        .filter(|v| !v.is_null())
}

/// Gives the server all the disks, full of known data, its own included. Returns serial numbers and files.
async fn fit(world: &World, server: &VirtualServer) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut devices = Vec::new();
    let mut files = Vec::new();
    fill(&server.disk, MIB)?;
    for (mib, (serial, controller, disk)) in (MIB + 1..).zip(DISKS) {
        let path = world.lab.disks().join(format!("{serial}.raw"));
        fill(&path, mib)?;
        let name = serial.to_lowercase();
        devices.extend(controller.map(|controller| ("-device", controller.to_owned())));
        let drive = format!("if=none,id={name},format=raw,cache=unsafe,discard=unmap,file={}", path.display());
        devices.push(("-drive", drive));
        devices.push(("-device", format!("{disk},drive={name},serial={serial}")));
        files.push((*serial, path));
    }
    define(world, server, &devices).await?;
    Ok(files)
}

/// Writes a disk that says in each of its sectors what it is.
pub(super) fn fill(path: &Path, mib: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut block = Vec::with_capacity(1 << 20);
    for number in 0..mib {
        block.clear();
        for sector in number * 2048..(number + 1) * 2048 {
            let text = [SECRET, format!("{sector:020}").as_bytes()].concat();
            block.extend(text.iter().cycle().take(512));
        }
        file.write_all(&block)?;
    }
    Ok(())
}

/// How many sectors of a disk are not all zeros.
///
/// # Errors
/// When it cannot be read, and when one has the known data.
pub(super) fn left(path: &Path) -> Result<u64> {
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 20];
    let (mut left, mut at) = (0, 0_u64);
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(left);
        }
        for (sector, lba) in block[..read].chunks(512).zip(at / 512..) {
            if sector == [0; 512] {
                continue;
            }
            let known = sector.windows(SECRET.len()).any(|window| window == SECRET);
            ensure!(!known, "LBA {lba} still has the known data");
            left += 1;
        }
        at += read as u64;
    }
}
