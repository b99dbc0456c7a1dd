//! The partition that the firmware, or GRUB, boots from: a FAT file system with the image's kernel and initramfs, and what
//! tells the boot loader to start them.
//!
//! Kernel and initramfs are copied out of the verified file system. The root partition of this disk takes the place of
//! whatever root the parameters of the image name.

use super::fs::System;
use super::kernel::{Kernel, fill_block};
use super::{BootLoader, PartitionError, Slot, grub};
use crate::budget::BLOCK;
use crate::buffer::AlignedBuf;
use crate::error::Cause;
use crate::target::Target;
use bytes::Bytes;
use media::boot::REMOVABLE_LOADER;
use media::fat::{Shape, Volume};
use tokio_util::sync::CancellationToken;

/// Where the image's files lie on the partition.
pub(super) const KERNEL: &str = "ferric/vmlinuz";
pub(super) const INITRAMFS: &str = "ferric/initrd";
/// Where systemd-boot looks for its settings and, by the Boot Loader Specification, for entries of type 1.
const SETTINGS: &str = "loader/loader.conf";
const ENTRY: &str = "loader/entries/ferric.conf";

/// What goes on the partition beside the image's files.
pub(super) struct Boot<'a> {
    /// What the firmware starts.
    pub(super) loader: &'a BootLoader,
    /// `PARTUUID` of the root partition.
    pub(super) root: &'a str,
    /// Volume id.
    pub(super) id: u32,
}

/// Makes the file system of the partition and fills it.
pub(super) fn fill(
    target: &mut Target,
    slot: &Slot,
    system: &System,
    boot: &Boot<'_>,
    cancel: &CancellationToken,
) -> Result<(), Cause> {
    let kernel = Kernel::newest(system.ext4())?;
    let texts = texts(boot, &kernel)?;
    let mut files = vec![(KERNEL, Content::of(system, &kernel.path)?)];
    if let Some(initramfs) = &kernel.initramfs {
        files.push((INITRAMFS, Content::of(system, initramfs)?));
    }
    files.extend(texts.iter().map(|(path, bytes)| (*path, Content::Bytes(bytes))));
    tracing::info!(kernel = kernel.path, initramfs = kernel.initramfs, "boot loader of the partition image");
    let sizes: Vec<(&str, u64)> = files.iter().map(|(path, content)| (*path, content.len())).collect();
    let sector = target.disk.sector_size();
    let shape = Shape { label: slot.role.label(), id: boot.id, size: slot.size, sector };
    let volume = Volume::new(&sizes, shape).map_err(PartitionError::Boot)?;
    copy(target, slot.offset, &Content::Bytes(volume.head()), system, cancel)?;
    for ((_, content), place) in files.iter().zip(volume.places()) {
        copy(target, slot.offset + place, content, system, cancel)?;
    }
    Ok(())
}

/// The boot loader's own files.
fn texts(boot: &Boot<'_>, kernel: &Kernel) -> Result<Vec<(&'static str, Bytes)>, PartitionError> {
    Ok(match boot.loader {
        BootLoader::Efi(program) => vec![
            (REMOVABLE_LOADER, program.clone()),
            (SETTINGS, Bytes::from_static(b"timeout 0\n")),
            (ENTRY, entry(kernel, boot.root).into()),
        ],
        BootLoader::Grub { .. } => vec![(grub::SETTINGS, grub::settings(kernel, boot.root)?.into())],
    })
}

/// An entry of systemd-boot.
fn entry(kernel: &Kernel, root: &str) -> String {
    let Kernel { version, parameters, .. } = kernel;
    let initramfs = if kernel.initramfs.is_some() { format!("initrd /{INITRAMFS}\n") } else { String::new() };
    format!(
        "title Linux {version}\nversion {version}\nlinux /{KERNEL}\n{initramfs}options root=PARTUUID={root} {parameters}\n"
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_boots_this_disk_whatever_the_image_says() {
        let kernel = Kernel {
            version: "6.1.0-56-amd64".to_owned(),
            path: "/boot/vmlinuz-6.1.0-56-amd64".to_owned(),
            initramfs: Some("/boot/initrd.img-6.1.0-56-amd64".to_owned()),
            parameters: "rw console=ttyS0".to_owned(),
        };
        insta::assert_snapshot!(entry(&kernel, "0123-4567"), @r"
        title Linux 6.1.0-56-amd64
        version 6.1.0-56-amd64
        linux /ferric/vmlinuz
        initrd /ferric/initrd
        options root=PARTUUID=0123-4567 rw console=ttyS0
        ");
    }
}
