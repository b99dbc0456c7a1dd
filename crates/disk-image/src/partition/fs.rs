//! The file system of the image, read without the kernel's help.

use super::{PartitionError, SharedDisk};
use crate::disk;
use crate::error::Cause;
use ext4_view::{Ext4, Ext4Error, Ext4Read};
use std::error::Error;

/// Where the superblock begins, and its magic number in it (linux/fs/ext4/ext4.h, `struct ext4_super_block`).
const SUPERBLOCK: usize = 1024;
const MAGIC: [u8; 2] = [0x53, 0xef];
/// `INCOMPAT_64BIT`: the number of blocks has a higher half.
const WIDE: u32 = 0x80;
/// Reads are rounded to this, the largest sector of a disk.
const UNIT: u64 = 4096;

/// What the superblock of ext2, ext3 or ext4 tells before anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Bytes of the file system.
    pub(crate) size: u64,
}

impl Superblock {
    /// From the first bytes of an image; `None` when they are of something else.
    pub(crate) fn read(head: &[u8]) -> Option<Self> {
        let block = head.get(SUPERBLOCK..SUPERBLOCK + 1024)?;
        let four = |at: usize| block.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        if block.get(56..58) != Some(&MAGIC[..]) {
            return None;
        }
        let high = if four(0x60)? & WIDE != 0 { u64::from(four(0x150)?) } else { 0 };
        let blocks = high << 32 | u64::from(four(4)?);
        let shift = four(24).filter(|shift| *shift <= 6)? + 10;
        let size = blocks.checked_mul(1 << shift)?;
        (size > 0).then_some(Self { size })
    }
}

/// Refuses what the library cannot read, as far as the first bytes of an image show that: features above all.
pub(super) fn check(head: &[u8]) -> Result<(), PartitionError> {
    match Ext4::load(Box::new(head.to_vec())) {
        // What lies further on is seen when it is on the disk.
        Ok(_) | Err(Ext4Error::Io(_)) => Ok(()),
        Err(error) => Err(PartitionError::Read(error)),
    }
}

/// What an image is that has no superblock of ext2, ext3 or ext4.
pub(super) fn foreign(head: &[u8]) -> &'static str {
    let known: [(usize, &[u8], &str); 5] = [
        (0, b"XFSB", "an XFS file system"),
        // linux/fs/btrfs: `BTRFS_SUPER_INFO_OFFSET` and `BTRFS_MAGIC`.
        (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
        (1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
        (512, b"LABELONE", "a physical volume of LVM"),
        (510, b"\x55\xaa", "a FAT file system or a boot sector without partitions"),
    ];
    let is = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    known.into_iter().find(|(at, magic, _)| is(*at, magic)).map_or("no file system that is known", |(_, _, name)| name)
}

/// The file system of an image that is on the disk.
pub(super) struct System {
    ext4: Ext4,
}

impl System {
    /// Opens the one in `size` bytes from `base` on.
    pub(super) fn open(disk: SharedDisk, base: u64, size: u64) -> Result<Self, Cause> {
        let ext4 = Ext4::load(Box::new(Window { disk, base, size })).map_err(PartitionError::Read)?;
        Ok(Self { ext4 })
    }

    /// Its UUID, as text.
    pub(super) fn uuid(&self) -> String {
        self.ext4.uuid().to_string()
    }

    /// The library.
    pub(super) fn ext4(&self) -> &Ext4 {
        &self.ext4
    }
}

/// A part of a disk, read at any place and length.
struct Window {
    disk: SharedDisk,
    base: u64,
    size: u64,
}

impl Ext4Read for Window {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        let end = start.checked_add(into.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or("the file system says that it goes on behind its end")?;
        let (first, last) = (start - start % UNIT, end.next_multiple_of(UNIT).min(self.size));
        let bytes = disk::read_some(&mut self.disk, (last - first) as usize, self.base + first)?;
        let skip = (start - first) as usize;
        let wanted = bytes.get(skip..skip + into.len()).ok_or("the disk ends before the file system does")?;
        into.copy_from_slice(wanted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_superblock_is_none_of_ours() {
        assert_eq!(Superblock::read(&[]), None);
        assert_eq!(Superblock::read(&[0x53; 4096]), None);
        let mut head = vec![0; 2048];
        head[1080..1082].copy_from_slice(&MAGIC);
        assert_eq!(Superblock::read(&head), None, "it has no blocks");
        head[1028] = 200;
        assert_eq!(Superblock::read(&head), Some(Superblock { size: 200 << 10 }));
        assert_eq!(Superblock::read(&head[..2000]), None);
        head[1024 + 24] = 7;
        assert_eq!(Superblock::read(&head), None, "blocks of 128 KiB do not exist");
    }
}
