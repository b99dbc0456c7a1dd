//! The partition table of DOS in the first sector (UEFI specification 2.10, section 5.2), protective ones included.

use super::array_at;
use std::ops::Range;

/// Type of the one entry that protects a GPT disk from old tools.
pub const PROTECTIVE: u8 = 0xee;
/// FAT32 with LBA addressing.
pub const FAT32_LBA: u8 = 0x0c;
/// Linux.
pub const LINUX: u8 = 0x83;
/// Linux swap space.
pub const LINUX_SWAP: u8 = 0x82;
/// EFI system partition.
pub const ESP: u8 = 0xef;
/// Boot flag of a partition. Some BIOSes start a disk only if one of its partitions has it.
pub const ACTIVE: u8 = 0x80;

/// Why bytes are not a DOS partition table, or a change of one is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MbrError {
    /// Bytes 510 and 511 are not 55 AA, or there are fewer than 512 bytes.
    #[error("the first sector does not end in 55 aa: no partition table")]
    NoTable,
    /// All four slots hold a partition.
    #[error("all four primary partitions are taken")]
    Full,
    /// The sectors do not lie within what 32 bits can say, or are none.
    #[error("sectors {start}..{end} cannot be written into this table")]
    Range {
        /// First sector.
        start: u64,
        /// Sector behind the last.
        end: u64,
    },
    /// The new partition shares sectors with an old one.
    #[error("the new partition overlaps partition {0}")]
    Overlap(usize),
}

/// One of the four primary entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MbrEntry {
    /// Boot flag, as stored: 0x80 active, 0 not.
    pub status: u8,
    /// Cylinder, head, sector of the start; nobody uses them.
    pub chs_first: [u8; 3],
    /// Type; 0 is unused.
    pub kind: u8,
    /// Cylinder, head, sector of the end.
    pub chs_last: [u8; 3],
    /// First sector.
    pub first_lba: u32,
    /// Number of sectors.
    pub sectors: u32,
}

impl MbrEntry {
    /// Whether the slot holds a partition.
    pub fn is_used(&self) -> bool {
        self.kind != 0 && self.sectors != 0
    }

    /// Its sectors, as 64 bits so that the end cannot overflow.
    pub fn range(&self) -> Range<u64> {
        u64::from(self.first_lba)..u64::from(self.first_lba) + u64::from(self.sectors)
    }
}

/// The table: what this crate reads and edits of the first sector. The boot code is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mbr {
    /// Disk signature, bytes 440 to 443: what identifies a whole disk to Ironic and to Windows.
    pub signature: u32,
    /// The four primary partitions.
    pub entries: [MbrEntry; 4],
}

impl Mbr {
    /// Reads the first sector.
    pub fn parse(head: &[u8]) -> Result<Self, MbrError> {
        if head.get(510..512) != Some(&[0x55, 0xaa]) {
            return Err(MbrError::NoTable);
        }
        let mut mbr = Self { signature: u32::from_le_bytes(array_at(head, 440)), ..Self::default() };
        for (entry, b) in mbr.entries.iter_mut().zip(head[446..510].chunks_exact(16)) {
            *entry = MbrEntry {
                status: b[0],
                chs_first: array_at(b, 1),
                kind: b[4],
                chs_last: array_at(b, 5),
                first_lba: u32::from_le_bytes(array_at(b, 8)),
                sectors: u32::from_le_bytes(array_at(b, 12)),
            };
        }
        Ok(mbr)
    }

    /// Writes signature, entries and 55 AA into the first sector; boot code and the rest stay.
    pub fn write(&self, head: &mut [u8]) -> Result<(), MbrError> {
        let sector = head.get_mut(..512).ok_or(MbrError::NoTable)?;
        sector[440..444].copy_from_slice(&self.signature.to_le_bytes());
        for (b, entry) in sector[446..510].chunks_exact_mut(16).zip(&self.entries) {
            b[0] = entry.status;
            b[1..4].copy_from_slice(&entry.chs_first);
            b[4] = entry.kind;
            b[5..8].copy_from_slice(&entry.chs_last);
            b[8..12].copy_from_slice(&entry.first_lba.to_le_bytes());
            b[12..16].copy_from_slice(&entry.sectors.to_le_bytes());
        }
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        Ok(())
    }

    /// The partitions with their numbers, from 1.
    pub fn used(&self) -> impl Iterator<Item = (usize, &MbrEntry)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.is_used()).map(|(i, entry)| (i + 1, entry))
    }

    /// Whether an entry protects a GPT.
    pub fn is_protective(&self) -> bool {
        self.entries.iter().any(|entry| entry.kind == PROTECTIVE)
    }

    /// The protective table of a disk of so many sectors.
    pub fn protective(disk_sectors: u64) -> Self {
        let entry = MbrEntry {
            chs_first: [0, 2, 0],
            kind: PROTECTIVE,
            chs_last: [0xff; 3],
            first_lba: 1,
            ..MbrEntry::default()
        };
        let mut mbr = Self::default();
        mbr.entries[0] = entry;
        mbr.fit_protective(disk_sectors);
        mbr
    }

    /// Stretches the protective entry over a disk of so many sectors. In a hybrid table, where that entry guards
    /// only a part, it is left alone.
    pub fn fit_protective(&mut self, disk_sectors: u64) {
        if self.entries.iter().filter(|entry| entry.kind != 0).count() != 1 {
            return;
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.kind == PROTECTIVE && entry.first_lba == 1) {
            entry.sectors = u32::try_from(disk_sectors.saturating_sub(1)).unwrap_or(u32::MAX);
        }
    }

    /// Puts a partition into the first free slot and returns its number, from 1. Its CHS fields say "use LBA".
    pub fn add(&mut self, kind: u8, sectors: Range<u64>) -> Result<usize, MbrError> {
        let slot = self.entries.iter().position(|entry| !entry.is_used()).unwrap_or(self.entries.len());
        self.put(slot + 1, kind, sectors)?;
        Ok(slot + 1)
    }

    /// Puts a partition into the slot of this number, from 1. What the slot held is replaced.
    pub fn put(&mut self, number: usize, kind: u8, sectors: Range<u64>) -> Result<(), MbrError> {
        let range = MbrError::Range { start: sectors.start, end: sectors.end };
        let first_lba = u32::try_from(sectors.start).map_err(|_| range.clone())?;
        let count = sectors.end.checked_sub(sectors.start).and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|&count| count > 0 && sectors.end <= 1 << 32).ok_or(range)?;
        if let Some((other, _)) = self
            .used()
            .find(|(other, old)| *other != number && old.range().start < sectors.end && sectors.start < old.range().end)
        {
            return Err(MbrError::Overlap(other));
        }
        let slot = number.checked_sub(1).and_then(|index| self.entries.get_mut(index)).ok_or(MbrError::Full)?;
        let lba_only = [0xfe, 0xff, 0xff];
        *slot = MbrEntry { status: 0, chs_first: lba_only, kind, chs_last: lba_only, first_lba, sectors: count };
        Ok(())
    }
}
