//! The images.

use super::MIB;
use crate::cmd;
use anyhow::Result;
use media::gpt::mbr::Mbr;
use media::gpt::{Entry, Gpt, Guid};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

const ALL: [&str; 5] = ["disk.raw", "disk.raw.zst", "frames.raw.zst", "disk.qcow2", "zlib.qcow2"];

/// The same disk in every form that is measured.
pub(super) fn all(folder: &Path, mib: usize) -> Result<()> {
    let raw = folder.join("disk.raw");
    full(&raw, mib)?;
    cmd::run(Command::new("zstd").args(["-q", "-3", "-T0", "--check"]).arg(&raw))?;
    // Frames of 8 MiB, none of which says how long it is.
    cmd::run(Command::new("pzstd").args(["-q", "-3"]).arg(&raw).arg("-o").arg(folder.join("frames.raw.zst")))?;
    convert(&raw, &folder.join("disk.qcow2"), &[])?;
    convert(&raw, &folder.join("zlib.qcow2"), &["-c"])
}

pub(super) fn remove(folder: &Path) -> Result<()> {
    for name in ALL {
        std::fs::remove_file(folder.join(name))?;
    }
    Ok(())
}

pub(super) fn convert(raw: &Path, qcow2: &Path, more: &[&str]) -> Result<()> {
    cmd::run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).args(more).arg(raw).arg(qcow2))
}

/// A whole disk with one partition: in turn 1 MiB of zeros, of repetition, and of what cannot be packed.
fn full(path: &Path, mib: usize) -> Result<()> {
    let mut file = File::create_new(path)?;
    let (mut noise, gpt) = (Noise(0x9e37_79b9_7f4a_7c15), table(mib)?);
    for number in 0..mib {
        let mut block = vec![0; MIB];
        match number % 3 {
            1 => block.chunks_mut(64).enumerate().for_each(|(i, part)| part.fill((i % 97) as u8)),
            2 => noise.fill(&mut block),
            _ => {}
        }
        ends(&gpt, number, mib, &mut block)?;
        file.write_all(&block)?;
    }
    Ok(())
}

/// A whole disk of holes, but for 1 MiB in 256.
pub(super) fn sparse(path: &Path, mib: usize) -> Result<()> {
    let file = File::create_new(path)?;
    file.set_len((mib * MIB) as u64)?;
    let (mut noise, gpt) = (Noise(7), table(mib)?);
    for number in (0..mib).filter(|number| number % 256 == 1 || *number == 0 || *number == mib - 1) {
        let mut block = vec![0; MIB];
        if number % 256 == 1 {
            noise.fill(&mut block);
        }
        ends(&gpt, number, mib, &mut block)?;
        file.write_all_at(&block, (number * MIB) as u64)?;
    }
    Ok(())
}

struct Noise(u64);

impl Noise {
    fn fill(&mut self, block: &mut [u8]) {
        for part in block.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            part.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}

fn table(mib: usize) -> Result<Gpt> {
    let mut gpt = Gpt::new(Guid([0xd1; 16]), 512, (mib * MIB / 512) as u64)?;
    gpt.add(Entry::new(Guid::LINUX_DATA, Guid([2; 16]), 2048..=((mib - 1) * MIB / 512 - 1) as u64, "root"))?;
    Ok(gpt)
}

/// The tables in the first and the last MiB.
fn ends(gpt: &Gpt, number: usize, mib: usize, block: &mut [u8]) -> Result<()> {
    if number == 0 {
        Mbr { signature: 7, ..Mbr::protective(gpt.disk_sectors()) }.write(block)?;
        gpt.write_primary(block)?;
    }
    if number == mib - 1 {
        gpt.write_backup(block)?;
    }
    Ok(())
}
