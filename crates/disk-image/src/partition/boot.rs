//! The EFI system partition of a partition image: systemd-boot, the image's kernel and initramfs, and one entry for them
//! (Boot Loader Specification, type 1).
//!
//! Kernel and initramfs are copied out of the verified file system. The parameters of the kernel are those of the
//! image's `/etc/kernel/cmdline`, where kernel-install looks for them too, with the root partition of this disk in
//! place of whatever root it names.

use super::fs::System;
use super::{PartitionError, Slot};
use crate::budget::BLOCK;
use crate::buffer::AlignedBuf;
use crate::error::Cause;
use crate::layout::Role;
use crate::target::Target;
use ext4_view::Ext4Error;
use media::boot::REMOVABLE_LOADER;
use media::fat::{Shape, Volume};
use std::cmp::Ordering;
use tokio_util::sync::CancellationToken;

/// Where kernels are.
const FOLDER: &str = "/boot";
/// Entries of that folder that are looked at, and the longest version that counts.
const MOST_ENTRIES: usize = 10_000;
const LONGEST_VERSION: usize = 128;
/// The kernel's parameters in the image, and the most that there may be (`COMMAND_LINE_SIZE` of x86).
const COMMAND_LINE: &str = "/etc/kernel/cmdline";
const LONGEST_LINE: u64 = 2048;
/// Where things lie on the EFI system partition.
const KERNEL: &str = "ferric/vmlinuz";
const INITRAMFS: &str = "ferric/initrd";
const ENTRY: &str = "loader/entries/ferric.conf";
const SETTINGS: &str = "loader/loader.conf";

/// What goes on the partition beside the image's files.
pub(super) struct Loader<'a> {
    /// The EFI program.
    pub(super) program: &'a [u8],
    /// `PARTUUID` of the root partition.
    pub(super) root: &'a str,
    /// Volume id.
    pub(super) id: u32,
}

/// A kernel of the image.
#[derive(Debug, PartialEq, Eq)]
struct Kernel {
    version: String,
    path: String,
    initramfs: Option<String>,
}

/// Makes the file system of the partition and fills it.
pub(super) fn fill(
    target: &mut Target,
    esp: &Slot,
    system: &System,
    loader: &Loader<'_>,
    cancel: &CancellationToken,
) -> Result<(), Cause> {
    let kernel = kernel(system)?;
    let entry = entry(&kernel, loader.root, &command_line(system)?);
    let settings = "timeout 0\n";
    let mut files = vec![
        (REMOVABLE_LOADER, Content::Bytes(loader.program)),
        (SETTINGS, Content::Bytes(settings.as_bytes())),
        (ENTRY, Content::Bytes(entry.as_bytes())),
        (KERNEL, Content::of(system, &kernel.path)?),
    ];
    if let Some(initramfs) = &kernel.initramfs {
        files.push((INITRAMFS, Content::of(system, initramfs)?));
    }
    tracing::info!(kernel = kernel.path, initramfs = kernel.initramfs, "boot loader of the partition image");
    let sizes: Vec<(&str, u64)> = files.iter().map(|(path, content)| (*path, content.len())).collect();
    let sector = target.disk.sector_size();
    let shape = Shape { label: Role::Esp.label(), id: loader.id, size: esp.size, sector };
    let volume = Volume::new(&sizes, shape).map_err(PartitionError::Esp)?;
    copy(target, esp.offset, &Content::Bytes(volume.head()), system, cancel)?;
    for ((_, content), place) in files.iter().zip(volume.places()) {
        copy(target, esp.offset + place, content, system, cancel)?;
    }
    Ok(())
}

/// What a file of the partition holds.
enum Content<'a> {
    Bytes(&'a [u8]),
    File { path: &'a str, len: u64 },
}

impl<'a> Content<'a> {
    fn of(system: &System, path: &'a str) -> Result<Self, Cause> {
        let len = system.ext4().metadata(path).map_err(PartitionError::Read)?.len();
        Ok(Self::File { path, len })
    }

    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }
}

/// Writes content at `offset`, in blocks, the last of them padded with zeros to a whole sector.
fn copy(
    target: &mut Target,
    mut offset: u64,
    content: &Content<'_>,
    system: &System,
    cancel: &CancellationToken,
) -> Result<(), Cause> {
    let sector = target.disk.sector_size() as usize;
    let mut block = AlignedBuf::zeroed(BLOCK);
    let mut file = match content {
        Content::Bytes(_) => None,
        Content::File { path, .. } => Some((path, system.ext4().open(*path).map_err(PartitionError::Read)?)),
    };
    let (mut done, len) = (0, content.len());
    while done < len {
        if cancel.is_cancelled() {
            return Err(Cause::Cancelled);
        }
        let part = (len - done).min(BLOCK as u64) as usize;
        match (&mut file, content) {
            (Some((path, file)), _) => fill_block(file, path, &mut block[..part])?,
            (None, Content::Bytes(bytes)) => block[..part].copy_from_slice(&bytes[done as usize..done as usize + part]),
            (None, Content::File { .. }) => return Err(Cause::Stage("seal")),
        }
        let padded = part.next_multiple_of(sector);
        block[part..padded].fill(0);
        target.put(&block[..padded], offset)?;
        offset += part as u64;
        done += part as u64;
    }
    Ok(())
}

fn fill_block(file: &mut ext4_view::File, path: &str, block: &mut [u8]) -> Result<(), PartitionError> {
    let mut done = 0;
    while done < block.len() {
        match file.read_bytes(&mut block[done..]).map_err(PartitionError::Read)? {
            0 => return Err(PartitionError::Short { path: path.to_owned() }),
            len => done += len,
        }
    }
    Ok(())
}

/// The newest kernel of the image.
fn kernel(system: &System) -> Result<Kernel, PartitionError> {
    let folder = match system.ext4().read_dir(FOLDER) {
        Ok(folder) => folder,
        Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Err(PartitionError::NoKernel),
        Err(error) => return Err(PartitionError::Read(error)),
    };
    let mut newest: Option<String> = None;
    for entry in folder.take(MOST_ENTRIES) {
        let entry = entry.map_err(PartitionError::Read)?;
        let name = entry.file_name();
        let Some(version) = name.as_str().ok().and_then(|name| name.strip_prefix("vmlinuz-")) else { continue };
        if is_version(version) && newest.as_deref().is_none_or(|newest| compare(version, newest) == Ordering::Greater) {
            newest = Some(version.to_owned());
        }
    }
    let version = newest.ok_or(PartitionError::NoKernel)?;
    let names = [
        format!("{FOLDER}/initrd.img-{version}"),
        format!("{FOLDER}/initramfs-{version}.img"),
        format!("{FOLDER}/initrd-{version}"),
        format!("{FOLDER}/initramfs-{version}"),
    ];
    let mut initramfs = None;
    for name in names {
        if initramfs.is_none() && system.ext4().exists(name.as_str()).map_err(PartitionError::Read)? {
            initramfs = Some(name);
        }
    }
    Ok(Kernel { path: format!("{FOLDER}/vmlinuz-{version}"), version, initramfs })
}

/// Whether this may be the version of a kernel to boot. Rescue kernels of Red Hat's systems sort as the newest.
fn is_version(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
    !text.is_empty() && text.len() <= LONGEST_VERSION && text.bytes().all(allowed) && !text.contains("rescue")
}

/// Compares versions as people read them: digits as numbers.
fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let ((left, rest_left), (right, rest_right)) = (run(one), run(other));
        let order = match (left.parse::<u64>(), right.parse::<u64>()) {
            (Ok(left), Ok(right)) => left.cmp(&right),
            _ => left.cmp(right),
        };
        if order != Ordering::Equal || (rest_left.is_empty() && rest_right.is_empty()) {
            return order.then(rest_left.len().cmp(&rest_right.len()));
        }
        (one, other) = (rest_left, rest_right);
    }
}

/// The first run of digits, or of anything else, and what follows it.
fn run(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at(end)
}

/// The kernel's parameters of the image, but those that say where things are.
fn command_line(system: &System) -> Result<String, PartitionError> {
    let mut file = match system.ext4().open(COMMAND_LINE) {
        Ok(file) => file,
        Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Ok("ro".to_owned()),
        Err(error) => return Err(PartitionError::Read(error)),
    };
    let len = file.metadata().len();
    if len > LONGEST_LINE {
        return Err(PartitionError::CommandLine("it has more than 2048 bytes"));
    }
    let mut bytes = vec![0; len as usize];
    fill_block(&mut file, COMMAND_LINE, &mut bytes)?;
    parameters(&bytes)
}

fn parameters(bytes: &[u8]) -> Result<String, PartitionError> {
    let text = str::from_utf8(bytes).map_err(|_| PartitionError::CommandLine("it is not UTF-8"))?;
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return Err(PartitionError::CommandLine("it has control characters"));
    }
    let place = |word: &&str| !["root=", "initrd=", "BOOT_IMAGE="].iter().any(|place| word.starts_with(place));
    Ok(text.split_whitespace().filter(place).collect::<Vec<_>>().join(" "))
}

fn entry(kernel: &Kernel, root: &str, parameters: &str) -> String {
    let version = &kernel.version;
    let initramfs = if kernel.initramfs.is_some() { format!("initrd /{INITRAMFS}\n") } else { String::new() };
    format!(
        "title Linux {version}\nversion {version}\nlinux /{KERNEL}\n{initramfs}options root=PARTUUID={root} {parameters}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_the_greatest_number() {
        for (older, newer) in [
            ("6.1.0-9-amd64", "6.1.0-10-amd64"),
            ("6.1.0-56-amd64", "6.12.0-1-amd64"),
            ("6.1", "6.1.1"),
            ("5.14.0-503.el9.x86_64", "5.14.0-570.el9.x86_64"),
            ("6.1.0-56-amd64", "6.1.0-56-cloud-amd64"),
        ] {
            assert_eq!(compare(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(compare(newer, older), Ordering::Greater, "{newer} {older}");
        }
        assert_eq!(compare("6.1.0", "6.1.0"), Ordering::Equal);
    }

    #[test]
    fn names_that_are_no_versions_do_not_count() {
        for text in ["", "a b", "x\ny", "0-rescue-0123", "é", "a/b"] {
            assert!(!is_version(text), "{text:?}");
        }
    }

    #[test]
    fn the_entry_boots_this_disk_whatever_the_image_says() {
        let kernel = Kernel {
            version: "6.1.0-56-amd64".to_owned(),
            path: "/boot/vmlinuz-6.1.0-56-amd64".to_owned(),
            initramfs: Some("/boot/initrd.img-6.1.0-56-amd64".to_owned()),
        };
        let line = parameters(b"root=LABEL=root rw  console=ttyS0\ninitrd=\\evil\n").unwrap();
        insta::assert_snapshot!(entry(&kernel, "0123-4567", &line), @r"
        title Linux 6.1.0-56-amd64
        version 6.1.0-56-amd64
        linux /ferric/vmlinuz
        initrd /ferric/initrd
        options root=PARTUUID=0123-4567 rw console=ttyS0
        ");
        assert!(parameters(b"a\0b").is_err() && parameters(b"\xff").is_err());
    }
}
