//! What forbids overwriting a disk: members of software RAID arrays, the floppy of virtual media, and what several machines
//! may use at the same time.
//!
//! Types of partitions are those that ironic-python-agent protects. Tables are read without a look at their checksums: a
//! damaged table may still describe a volume that others use.

use crate::block::Partition;
use crate::signature::{self, Area, ReadAt, areas};
use hardware::Contents;
use std::io;

/// `37AFFC90-EF7D-4E96-91C3-2D7AE055B174`, as a GPT stores it (UEFI 2.10, appendix A).
const GPFS: [u8; 16] = [0x90, 0xfc, 0xaf, 0x37, 0x7d, 0xef, 0x96, 0x4e, 0x91, 0xc3, 0x2d, 0x7a, 0xe0, 0x55, 0xb1, 0x74];
/// `AA31E02A-400F-11DB-9590-000C2911D1B8`.
const VMFS: [u8; 16] = [0x2a, 0xe0, 0x31, 0xaa, 0x0f, 0x40, 0xdb, 0x11, 0x95, 0x90, 0x00, 0x0c, 0x29, 0x11, 0xd1, 0xb8];
/// VMFS in the table of an MBR.
const VMFS_MBR: u8 = 0xfb;
/// Types of extended partitions in the table of an MBR.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Units of an MBR's table and size of its sector; on disks of larger sectors its units are those.
const MBR: usize = 512;
/// More logical partitions than any system makes; a chain may be a loop.
const MOST_LOGICAL: usize = 256;
/// Most entries of a GPT that are looked at: tables have 128 of 128 bytes.
const MOST_ENTRIES: u32 = 4096;
const ENTRY: u32 = 128;
/// The floppy on which Ironic brings parameters.
const FLOPPY: &[u8] = b"ir-vfd-dev";

/// Looks at `device` of `size` bytes with logical sectors of `sector` bytes. Whether it is read-only is not found here.
pub fn look(
    device: &impl ReadAt,
    name: &str,
    size: u64,
    sector: u64,
    partitions: &[Partition],
) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let areas = areas(device, name, size, partitions);
    for area in &areas {
        for found in signature::find(area, area.size)? {
            let shared = match found.kind {
                "linux_raid_member" => {
                    contents.raid_member = true;
                    continue;
                }
                "gfs2" => "Red Hat Global File System 2",
                "VMFS" | "VMFS_volume_member" => "VMware VMFS",
                _ => continue,
            };
            contents.shared.push(format!("{shared} on {}", area.name));
        }
    }
    if let Some(disk) = areas.first() {
        contents.virtual_media = is_floppy(disk)?;
        let mut types = Vec::new();
        mbr(disk, sector, &mut types)?;
        for header in [Some(sector), size.checked_sub(sector)].into_iter().flatten() {
            gpt(disk, header, sector, &mut types)?;
        }
        contents.shared.extend(types.iter().map(|kind| format!("{kind} on {name}")));
    }
    contents.shared.sort();
    contents.shared.dedup();
    Ok(contents)
}

/// Fills `buffer`; `false` where the disk has no such bytes.
fn read(disk: &Area<'_, impl ReadAt>, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
    let inside = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= disk.size);
    if inside {
        disk.read_exact_at(buffer, offset)?;
    }
    Ok(inside)
}

/// Whether the boot sector of a FAT says the label: at byte 43 (FAT12, FAT16) or 71 (FAT32), behind a signature of 0x29
/// (Microsoft's FAT specification, 3.2 and 3.3).
fn is_floppy(disk: &Area<'_, impl ReadAt>) -> io::Result<bool> {
    let mut sector = [0_u8; MBR];
    if !read(disk, &mut sector, 0)? || !sector.ends_with(b"\x55\xaa") {
        return Ok(false);
    }
    Ok([(38, &b"FAT1"[..]), (66, &b"FAT32"[..])].into_iter().any(|(at, kind)| {
        sector[at] == 0x29
            && sector[at + 16..].starts_with(kind)
            && sector[at + 5..at + 16].trim_ascii_end().eq_ignore_ascii_case(FLOPPY)
    }))
}

/// Partitions of an MBR, with those inside an extended one.
fn mbr(disk: &Area<'_, impl ReadAt>, unit: u64, found: &mut Vec<&'static str>) -> io::Result<()> {
    let (mut at, mut extended) = (0_u64, None);
    for _ in 0..MOST_LOGICAL {
        let mut sector = [0_u8; MBR];
        if !read(disk, &mut sector, at.saturating_mul(unit))? || !sector.ends_with(b"\x55\xaa") {
            return Ok(());
        }
        let mut next = None;
        for entry in sector[446..510].chunks_exact(16) {
            // Anything else there is the code of a boot sector and no table.
            if !matches!(entry[0], 0 | 0x80) {
                continue;
            }
            let start = u64::from(u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]));
            if entry[4] == VMFS_MBR {
                found.push("VMware VMFS Partition (MBR)");
            } else if EXTENDED.contains(&entry[4]) && start > 0 {
                // The first link counts from the start of the disk, later ones from the extended partition.
                next = next.or(Some(extended.map_or(start, |base: u64| base.saturating_add(start))));
            }
        }
        let Some(link) = next else { return Ok(()) };
        extended = extended.or(Some(link));
        at = link;
    }
    Ok(())
}

/// Partitions of the GPT whose header is at the byte `header` (UEFI 2.10, 5.3.2 and 5.3.3).
fn gpt(disk: &Area<'_, impl ReadAt>, header: u64, sector: u64, found: &mut Vec<&'static str>) -> io::Result<()> {
    let mut head = [0_u8; 92];
    if !read(disk, &mut head, header)? || !head.starts_with(b"EFI PART") {
        return Ok(());
    }
    let four = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let first = (u64::from(four(76)) << 32 | u64::from(four(72))).saturating_mul(sector);
    let (count, entry) = (four(80).min(MOST_ENTRIES), four(84).max(ENTRY));
    for number in 0..u64::from(count) {
        let mut kind = [0_u8; 16];
        if !read(disk, &mut kind, first.saturating_add(number.saturating_mul(entry.into())))? {
            return Ok(());
        }
        match kind {
            GPFS => found.push("IBM GPFS Partition"),
            VMFS => found.push("VMware VMFS Partition (GPT)"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    const SIZE: u64 = 64 << 20;
    const PARTITION: u64 = 16 << 20;

    fn found(writes: &[(u64, &[u8])]) -> Contents {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        for (offset, bytes) in writes {
            file.write_all_at(bytes, *offset).unwrap();
        }
        let partitions = [Partition { name: "sda1".to_owned(), start: PARTITION, size: PARTITION }];
        look(&file, "sda", SIZE, 512, &partitions).unwrap()
    }

    /// An MBR whose second entry has a type and a start.
    fn table(kind: u8, start: u32) -> Vec<u8> {
        let mut sector = vec![0; MBR];
        sector[446 + 16 + 4] = kind;
        sector[446 + 16 + 8..][..4].copy_from_slice(&start.to_le_bytes());
        sector[510..].copy_from_slice(b"\x55\xaa");
        sector
    }

    fn header(entries: u64) -> Vec<u8> {
        let mut head = vec![0; 92];
        head[..8].copy_from_slice(b"EFI PART");
        head[72..80].copy_from_slice(&entries.to_le_bytes());
        head[80..84].copy_from_slice(&128_u32.to_le_bytes());
        head[84..88].copy_from_slice(&128_u32.to_le_bytes());
        head
    }

    #[test]
    fn an_ordinary_disk_holds_nothing_special() {
        assert_eq!(found(&[]), Contents::default());
        assert_eq!(found(&[(0, &table(0x83, 2048)), (PARTITION + 1080, b"\x53\xef")]), Contents::default());
    }

    #[test]
    fn a_raid_member_is_known_by_its_disk_or_by_its_partition() {
        let magic = b"\xfc\x4e\x2b\xa9";
        for place in [4096, SIZE - (64 << 10), PARTITION + 4096, 2 * PARTITION - 8192] {
            assert!(found(&[(place, magic)]).raid_member, "{place}");
        }
    }

    #[test]
    fn the_floppy_of_virtual_media_is_known_by_its_label() {
        for (at, kind) in [(38, &b"FAT12   "[..]), (66, &b"FAT32   "[..])] {
            let mut sector = vec![0; MBR];
            sector[at] = 0x29;
            sector[at + 5..at + 16].copy_from_slice(b"ir-vfd-dev ");
            sector[at + 16..at + 24].copy_from_slice(kind);
            sector[510..].copy_from_slice(b"\x55\xaa");
            assert!(found(&[(0, &sector)]).virtual_media);
            sector[at + 5..at + 16].copy_from_slice(b"OTHER-DISK ");
            assert!(!found(&[(0, &sector)]).virtual_media);
        }
    }

    #[test]
    fn vmfs_and_gpfs_are_known_by_the_types_of_partitions_in_every_table() {
        assert_eq!(found(&[(0, &table(0xfb, 2048))]).shared, ["VMware VMFS Partition (MBR) on sda"]);
        let logical = [(0, &*table(0x05, 4096)), (4096 * 512, &table(0x0f, 100)), (4196 * 512, &table(0xfb, 1))];
        assert_eq!(found(&logical).shared, ["VMware VMFS Partition (MBR) on sda"]);
        let (primary, backup) = (header(2), header(SIZE / 512 - 33));
        assert_eq!(found(&[(512, &primary), (1024 + 128, &VMFS)]).shared, ["VMware VMFS Partition (GPT) on sda"]);
        assert_eq!(
            found(&[(SIZE - 512, &backup), (SIZE - 33 * 512 + 127 * 128, &GPFS)]).shared,
            ["IBM GPFS Partition on sda"]
        );
    }

    #[test]
    fn shared_file_systems_are_known_by_their_signatures() {
        assert_eq!(found(&[(PARTITION + (1 << 20), b"\x0d\xd0\x01\xc0")]).shared, ["VMware VMFS on sda1"]);
        assert_eq!(found(&[(64 << 10, b"\x01\x16\x19\x70")]).shared, ["Red Hat Global File System 2 on sda"]);
    }

    #[test]
    fn tables_that_lie_end_the_search() {
        let mut endless = header(u64::MAX);
        endless[80..88].fill(0xff);
        assert_eq!(found(&[(512, &endless)]), Contents::default());
        // An extended partition that is its own successor.
        assert_eq!(found(&[(0, &table(0x05, 4096)), (4096 * 512, &table(0x05, 0))]), Contents::default());
        let circle = [(0, &*table(0x05, 1)), (512, &table(0x05, 1)), (1024, &table(0x05, 1))];
        assert_eq!(found(&circle), Contents::default());
    }
}
