//! A server's disk, looked at from outside while the server is off or idle.

use crate::lab::output;
use crate::server::VirtualServer;
use anyhow::{Context as _, Result, ensure};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use tokio::process::Command;

const SECTOR: u64 = 512;

/// Writes an image over the start of the disk.
pub(in crate::stories) fn put(image: &Path, server: &VirtualServer) -> Result<()> {
    let mut from = File::open(image).with_context(|| format!("open {}", image.display()))?;
    let mut to = File::options().write(true).open(&server.disk)?;
    std::io::copy(&mut from, &mut to).with_context(|| format!("write the disk of {}", server.name))?;
    to.sync_all()?;
    Ok(())
}

/// Fails unless every partition of `image` is on the disk: same place, type, name, identifier and bytes.
pub(in crate::stories) fn holds(server: &VirtualServer, image: &Path) -> Result<()> {
    let (mut image, mut disk) = (File::open(image)?, File::open(&server.disk)?);
    let wanted = gptman::GPT::find_from(&mut image).context("read the image's partition table")?;
    let found = gptman::GPT::find_from(&mut disk).context("read the disk's partition table")?;
    ensure!(found.header.disk_guid == wanted.header.disk_guid, "the disk has another identifier than the image");
    ensure!(
        (found.header.backup_lba + 1) * SECTOR == fs::metadata(&server.disk)?.len(),
        "the backup of the partition table is not at the disk's end"
    );
    for (number, partition) in wanted.iter().filter(|(_, partition)| partition.is_used()) {
        let there = &found[number];
        ensure!(
            (there.starting_lba, there.ending_lba, there.partition_type_guid, there.unique_partition_guid)
                == (
                    partition.starting_lba,
                    partition.ending_lba,
                    partition.partition_type_guid,
                    partition.unique_partition_guid
                ),
            "partition {number} of the disk is not that of the image: {there:?}"
        );
        let (start, length) = (partition.starting_lba * SECTOR, partition.size()? * SECTOR);
        same(&mut image, &mut disk, start, length).with_context(|| format!("compare partition {number}"))?;
    }
    Ok(())
}

fn same(one: &mut File, other: &mut File, start: u64, length: u64) -> Result<()> {
    one.seek(SeekFrom::Start(start))?;
    other.seek(SeekFrom::Start(start))?;
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < length {
        let piece = usize::try_from((length - at).min(1 << 20))?;
        one.read_exact(&mut left[..piece])?;
        other.read_exact(&mut right[..piece])?;
        ensure!(
            left[..piece] == right[..piece],
            "bytes differ between {} and {}",
            start + at,
            start + at + piece as u64
        );
        at += piece as u64;
    }
    Ok(())
}

/// Fails if the disk has anything of a partition table: first two sectors or last.
pub(in crate::stories) fn has_no_table(server: &VirtualServer) -> Result<()> {
    let size = fs::metadata(&server.disk)?.len();
    for (what, offset) in [("boot sector", 0), ("partition table", SECTOR), ("backup table", size - SECTOR)] {
        let bytes = server.read_disk(offset, usize::try_from(SECTOR)?)?;
        ensure!(bytes.iter().all(|byte| *byte == 0), "the disk still has a {what}");
    }
    Ok(())
}

/// The bytes of a partition of the disk.
pub(in crate::stories) fn partition(server: &VirtualServer, number: u32) -> Result<Vec<u8>> {
    let table = gptman::GPT::find_from(&mut File::open(&server.disk)?).context("read the disk's partition table")?;
    let partition = &table[number];
    ensure!(partition.is_used(), "the disk has no partition {number}");
    server.read_disk(partition.starting_lba * SECTOR, usize::try_from(partition.size()? * SECTOR)?)
}

/// First byte and length of each partition, by a GUID partition table or one of DOS (UEFI 2.10, 5.2.1).
fn partitions(server: &VirtualServer) -> Result<Vec<(u64, u64)>> {
    if let Ok(table) = gptman::GPT::find_from(&mut File::open(&server.disk)?) {
        let used = table.iter().filter(|(_, partition)| partition.is_used());
        return used.map(|(_, partition)| Ok((partition.starting_lba * SECTOR, partition.size()? * SECTOR))).collect();
    }
    let sector = server.read_disk(0, usize::try_from(SECTOR)?)?;
    ensure!(sector[510..] == [0x55, 0xaa], "the disk has no partition table");
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let entries = sector[446..510].chunks(16).filter(|entry| entry[4] != 0);
    Ok(entries.map(|entry| (number(&entry[8..12]) * SECTOR, number(&entry[12..16]) * SECTOR)).collect())
}

/// A file of the disk's config drive: the partition whose file system is labelled `config-2`.
pub(in crate::stories) async fn config_drive(server: &VirtualServer, file: &str, scratch: &Path) -> Result<String> {
    for (start, length) in partitions(server)? {
        // ECMA-119, 8.4: the primary volume descriptor is sector 16; its label is at byte 41, padded with spaces.
        let descriptor = server.read_disk(start + 16 * 2048, 2048)?;
        let label = String::from_utf8_lossy(&descriptor[40..72]).trim_end().to_ascii_lowercase();
        if &descriptor[1..6] != b"CD001" || label != "config-2" {
            continue;
        }
        let iso = scratch.join("config-drive.iso");
        fs::write(&iso, server.read_disk(start, usize::try_from(length)?)?)?;
        let out = scratch.join("config-drive.file");
        fs::remove_file(&out).ok();
        let mut xorriso = Command::new("xorriso");
        xorriso.args(["-osirrox", "on", "-indev"]).arg(&iso).arg("-extract").arg(file).arg(&out);
        output(&mut xorriso).await.with_context(|| format!("take {file} out of the config drive"))?;
        return fs::read_to_string(&out).with_context(|| format!("read {}", out.display()));
    }
    anyhow::bail!("no partition of the disk holds an ISO 9660 file system labelled config-2")
}
