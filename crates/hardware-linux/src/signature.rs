//! What file systems, partition tables, RAID and volume managers leave on a device, and where.
//!
//! Places and magic bytes are those of util-linux's libblkid (`libblkid/src/superblocks`, `libblkid/src/partitions`).

use crate::block::Partition;
use std::io;

/// Something that can be read at an offset: a device, a part of it, a file.
pub trait ReadAt {
    /// Fills `buffer` from `offset`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

/// A signature that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// What it belongs to, such as `gpt` or `ext4`.
    pub kind: &'static str,
    /// Where it begins, from the start of the area.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// A part of a device: the whole of it or a partition.
pub(crate) struct Area<'a, D> {
    device: &'a D,
    pub(crate) name: String,
    start: u64,
    pub(crate) size: u64,
}

impl<D: ReadAt> ReadAt for Area<'_, D> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.device.read_exact_at(buffer, self.start + offset)
    }
}

/// The whole of `device`, and those of its `partitions` that lie inside: a partition table may claim more than there is.
pub(crate) fn areas<'a, D>(device: &'a D, name: &str, size: u64, partitions: &[Partition]) -> Vec<Area<'a, D>> {
    let mut areas = vec![Area { device, name: name.to_owned(), start: 0, size }];
    let inside = partitions.iter().filter(|part| part.start.checked_add(part.size).is_some_and(|end| end <= size));
    areas.extend(inside.map(|part| Area { device, name: part.name.clone(), start: part.start, size: part.size }));
    areas
}

/// Everything that is found on a disk and its partitions, as `kind on area`.
pub(crate) fn kinds(device: &impl ReadAt, name: &str, size: u64, partitions: &[Partition]) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for area in areas(device, name, size, partitions) {
        let mut kinds: Vec<&str> = find(&area, area.size)?.into_iter().map(|signature| signature.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        found.extend(kinds.into_iter().map(|kind| format!("{kind} on {}", area.name)));
    }
    Ok(found)
}

/// From where an offset counts.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// From the start.
    Start(u64),
    /// Back from the end.
    End(u64),
    /// Back from the end, rounded down to a multiple first.
    EndAligned { back: u64, align: u64 },
}

use Place::{End, EndAligned, Start};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const KNOWN: &[(&str, Place, &[u8])] = &[
    ("dos", Start(510), b"\x55\xaa"),
    ("gpt", Start(512), b"EFI PART"),
    ("gpt", Start(4096), b"EFI PART"),
    ("gpt", End(512), b"EFI PART"),
    ("gpt", End(4096), b"EFI PART"),
    ("linux_raid_member", Start(0), b"\xfc\x4e\x2b\xa9"),
    ("linux_raid_member", Start(4096), b"\xfc\x4e\x2b\xa9"),
    ("linux_raid_member", EndAligned { back: 8 * KIB, align: 4 * KIB }, b"\xfc\x4e\x2b\xa9"),
    ("linux_raid_member", EndAligned { back: 64 * KIB, align: 64 * KIB }, b"\xfc\x4e\x2b\xa9"),
    ("isw_raid_member", End(1024), b"Intel Raid ISM Cfg Sig. "),
    ("ddf_raid_member", End(512), b"\xde\x11\xde\x11"),
    ("LVM2_member", Start(0), b"LABELONE"),
    ("LVM2_member", Start(512), b"LABELONE"),
    ("LVM2_member", Start(1024), b"LABELONE"),
    ("LVM2_member", Start(1536), b"LABELONE"),
    ("crypto_LUKS", Start(0), b"LUKS\xba\xbe"),
    ("crypto_LUKS", Start(16 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", Start(32 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", Start(64 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", Start(128 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", Start(256 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", Start(512 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", Start(MIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", Start(2 * MIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", Start(4 * MIB), b"SKUL\xba\xbe"),
    ("bcache", Start(4096 + 24), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    ("ext", Start(1024 + 56), b"\x53\xef"),
    ("xfs", Start(0), b"XFSB"),
    ("btrfs", Start(64 * KIB + 64), b"_BHRfS_M"),
    ("btrfs", Start(64 * MIB + 64), b"_BHRfS_M"),
    ("btrfs", Start(256 * 1024 * MIB + 64), b"_BHRfS_M"),
    ("bcachefs", Start(4096 + 24), b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    ("f2fs", Start(1024), b"\x10\x20\xf5\xf2"),
    ("vfat", Start(54), b"FAT1"),
    ("vfat", Start(82), b"FAT32   "),
    ("ntfs", Start(3), b"NTFS    "),
    ("exfat", Start(3), b"EXFAT   "),
    ("swap", Start(4 * KIB - 10), b"SWAPSPACE2"),
    ("swap", Start(8 * KIB - 10), b"SWAPSPACE2"),
    ("swap", Start(16 * KIB - 10), b"SWAPSPACE2"),
    ("swap", Start(64 * KIB - 10), b"SWAPSPACE2"),
    ("swap", Start(4 * KIB - 10), b"SWAP-SPACE"),
    ("swsuspend", Start(4 * KIB - 10), b"S1SUSPEND"),
    ("swsuspend", Start(4 * KIB - 10), b"S2SUSPEND"),
    ("iso9660", Start(32 * KIB + 1), b"CD001"),
    ("udf", Start(34 * KIB + 1), b"NSR0"),
    ("squashfs", Start(0), b"hsqs"),
    ("erofs", Start(1024), b"\xe2\xe1\xf5\xe0"),
    ("jfs", Start(32 * KIB), b"JFS1"),
    ("reiserfs", Start(64 * KIB + 52), b"ReIsEr"),
    ("nilfs2", Start(1024 + 6), b"\x34\x34"),
    ("gfs2", Start(64 * KIB), b"\x01\x16\x19\x70"),
    ("ocfs2", Start(8 * KIB), b"OCFSV2"),
    ("hfsplus", Start(1024), b"H+"),
    ("ufs", Start(64 * KIB + 1372), b"\x19\x01\x54\x19"),
    ("VMFS_volume_member", Start(MIB), b"\x0d\xd0\x01\xc0"),
    ("VMFS", Start(2 * MIB), b"\x5e\xf1\xab\x2f"),
    ("ceph_bluestore", Start(0), b"bluestore block device"),
];

/// ZFS labels: 256 KiB each, two at the start and two at the end of a multiple of 256 KiB; in each, from 128 KiB on, 128
/// uberblocks of 1 KiB (`module/zfs/vdev_label.c`).
const ZFS_LABEL: u64 = 256 * KIB;
const ZFS_UBERBLOCKS: u64 = 128 * KIB;
const ZFS_MAGIC: u64 = 0x00ba_b10c;

/// Everything that is found on an area of `size` bytes, in no particular order. Short reads are errors.
pub fn find(area: &impl ReadAt, size: u64) -> io::Result<Vec<Signature>> {
    let mut found = Vec::new();
    for &(kind, place, magic) in KNOWN {
        let length = magic.len() as u64;
        let Some(offset) =
            place.offset(size).filter(|offset| offset.checked_add(length).is_some_and(|end| end <= size))
        else {
            continue;
        };
        let mut bytes = [0_u8; 32];
        let Some(bytes) = bytes.get_mut(..magic.len()) else { continue };
        area.read_exact_at(bytes, offset)?;
        if bytes == magic {
            found.push(Signature { kind, offset, length });
        }
    }
    zfs(area, size, &mut found)?;
    Ok(found)
}

impl Place {
    fn offset(self, size: u64) -> Option<u64> {
        match self {
            Start(offset) => Some(offset),
            End(back) => size.checked_sub(back),
            EndAligned { back, align } => (size / align * align).checked_sub(back),
        }
    }
}

fn zfs(area: &impl ReadAt, size: u64, found: &mut Vec<Signature>) -> io::Result<()> {
    let end = size / ZFS_LABEL * ZFS_LABEL;
    if end < 4 * ZFS_LABEL {
        return Ok(());
    }
    let mut ring = vec![0_u8; usize::try_from(ZFS_UBERBLOCKS).unwrap_or(0)];
    for label in [0, ZFS_LABEL, end - 2 * ZFS_LABEL, end - ZFS_LABEL] {
        area.read_exact_at(&mut ring, label + ZFS_UBERBLOCKS)?;
        let slot = ring.chunks_exact(1024).position(|block| {
            block
                .first_chunk()
                .is_some_and(|magic| u64::from_le_bytes(*magic) == ZFS_MAGIC || u64::from_be_bytes(*magic) == ZFS_MAGIC)
        });
        if slot.is_some() {
            found.push(Signature { kind: "zfs_member", offset: label, length: ZFS_LABEL });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn area(size: u64, writes: &[(u64, &[u8])]) -> std::fs::File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in writes {
            file.write_all_at(bytes, *offset).unwrap();
        }
        file
    }

    use super::kinds as kinds_of;

    fn kinds(size: u64, writes: &[(u64, &[u8])]) -> Vec<&'static str> {
        find(&area(size, writes), size).unwrap().into_iter().map(|signature| signature.kind).collect()
    }

    #[test]
    fn signatures_are_found_at_both_ends_and_in_between() {
        let size = 300 * MIB + 512;
        assert_eq!(kinds(size, &[(size - 512, b"EFI PART")]), ["gpt"]);
        assert_eq!(kinds(size, &[(4096, b"\xfc\x4e\x2b\xa9")]), ["linux_raid_member"]);
        assert_eq!(kinds(size, &[(300 * MIB - 8192, b"\xfc\x4e\x2b\xa9")]), ["linux_raid_member"]);
        assert_eq!(kinds(size, &[(64 * MIB + 64, b"_BHRfS_M")]), ["btrfs"]);
        assert_eq!(
            kinds(size, &[(300 * MIB - ZFS_LABEL + ZFS_UBERBLOCKS + 5 * KIB, &ZFS_MAGIC.to_le_bytes())]),
            ["zfs_member"]
        );
        assert_eq!(kinds(size, &[(4086, b"SWAPSPACE2"), (510, b"\x55\xaa")]), ["dos", "swap"]);
    }

    #[test]
    fn what_a_disk_and_its_partitions_hold_is_named() {
        let size = 200 * MIB;
        let used = area(
            size,
            &[(512, b"EFI PART"), (size - 512, b"EFI PART"), (510, b"\x55\xaa"), (10 * MIB + 1080, b"\x53\xef")],
        );
        let partitions = [
            Partition { name: "sda1".into(), start: 10 * MIB, size: 150 * MIB },
            Partition { name: "sda2".into(), start: 190 * MIB, size: 150 * MIB },
        ];
        assert_eq!(kinds_of(&used, "sda", size, &partitions).unwrap(), ["dos on sda", "gpt on sda", "ext on sda1"]);
    }

    #[test]
    fn an_empty_or_tiny_area_has_none() {
        for size in [0, 1, 511, 512, 4096, 65_536, 2 * MIB] {
            assert_eq!(kinds(size, &[]), [""; 0]);
        }
    }
}
