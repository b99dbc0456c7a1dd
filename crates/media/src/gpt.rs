//! GUID partition tables (UEFI specification 2.10, section 5.3): parse, check, edit, serialise. Bytes in, bytes out.
//!
//! A table exists twice on a disk: the primary one behind the protective MBR, and the backup in the last sectors.
//! [`Gpt::parse_primary`] takes the first bytes of a disk, [`Gpt::parse_backup`] the last; [`Gpt::write_primary`] and
//! [`Gpt::write_backup`] put them back. Every number of the input is checked before it is used as an index.
//! The table of DOS ([`mbr`]) lives here too, since a GPT disk carries one for its protection.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

pub mod mbr;

/// `EFI PART`, the first eight bytes of a header.
pub const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Bytes of a header that carry meaning.
const HEADER_LEN: usize = 92;
/// Bytes of a partition entry. The specification allows larger ones; no tool in use writes them.
const ENTRY_LEN: usize = 128;
/// Slots of a new table, and the fewest for which the specification reserves room.
const USUAL_SLOTS: u32 = 128;
/// The most slots that are read: eight times the usual, far above anything in use.
const MAX_SLOTS: u32 = 1024;

/// Why bytes are not a usable GUID partition table, or a change of one is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// The header does not start with `EFI PART`.
    #[error("no GUID partition table header here")]
    NoHeader,
    /// The given bytes end before the header or the entries do.
    #[error("{what} lies outside the {len} bytes that were read")]
    OutOfReach {
        /// Which part.
        what: &'static str,
        /// How many bytes were given.
        len: usize,
    },
    /// A checksum is wrong.
    #[error("the checksum of the {what} is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// Header or entries.
        what: &'static str,
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A field of the header or an entry makes no sense.
    #[error("{field} is {value}: {reason}")]
    Field {
        /// Name in the specification.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A partition does not lie within the usable range, or ends before it starts.
    #[error("partition {number} ({first}..={last}) is not inside the usable sectors {usable_first}..={usable_last}")]
    Outside {
        /// Number, from 1.
        number: usize,
        /// First sector.
        first: u64,
        /// Last sector.
        last: u64,
        /// First usable sector.
        usable_first: u64,
        /// Last usable sector.
        usable_last: u64,
    },
    /// Two partitions share sectors.
    #[error("partitions {one} and {other} overlap")]
    Overlap {
        /// Number of one, from 1.
        one: usize,
        /// Number of the other, from 1.
        other: usize,
    },
    /// Every slot is taken.
    #[error("all {0} slots of the partition table are taken")]
    Full(usize),
    /// The disk is smaller than the table needs.
    #[error("the disk has {sectors} sectors, the partition table needs {needed}")]
    DiskTooSmall {
        /// Sectors of the disk.
        sectors: u64,
        /// Sectors that the table and its partitions need.
        needed: u64,
    },
    /// No free space of that size at the end of the disk.
    #[error("no {wanted} free sectors at the end of the disk, where partition {number} ends at sector {last}")]
    NoRoom {
        /// Sectors asked for.
        wanted: u64,
        /// The partition in the way, from 1; 0 when the disk itself is too small.
        number: usize,
        /// Its last sector.
        last: u64,
    },
}

/// A GUID as stored on disk: three little-endian fields, then eight bytes as they are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// All zero: an unused partition entry.
    pub const ZERO: Self = Self([0; 16]);
    /// EFI system partition.
    pub const ESP: Self = Self(*b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b");
    /// BIOS boot partition: where GRUB has its core on a disk that a BIOS boots (GRUB manual, "BIOS installation").
    pub const BIOS_BOOT: Self = Self(*b"Hah!IdontNeedEFI");
    /// Linux file system data.
    pub const LINUX_DATA: Self = Self(*b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4");
    /// Linux swap space.
    pub const LINUX_SWAP: Self = Self(*b"\x6d\xfd\x57\x06\xab\xa4\xc4\x43\x84\xe5\x09\x33\xc8\x4b\x4f\x4f");
    /// Microsoft basic data.
    pub const BASIC_DATA: Self = Self(*b"\xa2\xa0\xd0\xeb\xe5\xb9\x33\x44\x87\xc0\x68\xb6\xb7\x26\x99\xc7");

    /// From the sixteen bytes of a UUID in text order, as crates for UUIDs give them.
    pub fn from_uuid_bytes(text_order: [u8; 16]) -> Self {
        Self(Self::swap(text_order))
    }

    fn swap(mut b: [u8; 16]) -> [u8; 16] {
        b[..4].reverse();
        b[4..6].reverse();
        b[6..8].reverse();
        b
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in Self::swap(self.0).iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a GUID of the form `01234567-89ab-cdef-0123-456789abcdef`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a GUID; write it as 01234567-89ab-cdef-0123-456789abcdef")]
pub struct GuidError(String);

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, GuidError> {
        let bad = || GuidError(text.chars().take(64).collect());
        if text.len() != 36 || !text.is_ascii() {
            return Err(bad());
        }
        let (mut bytes, mut nibbles) = ([0_u8; 16], 0);
        for (i, c) in text.chars().enumerate() {
            if matches!(i, 8 | 13 | 18 | 23) {
                if c != '-' {
                    return Err(bad());
                }
                continue;
            }
            let digit = c.to_digit(16).ok_or_else(bad)? as u8;
            bytes[nibbles / 2] = bytes[nibbles / 2] << 4 | digit;
            nibbles += 1;
        }
        Ok(Self::from_uuid_bytes(bytes))
    }
}

/// One slot of the table. An unused one has the type [`Guid::ZERO`].
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the partition is for.
    pub type_guid: Guid,
    /// Its own identity (`PARTUUID`).
    pub unique_guid: Guid,
    /// First sector.
    pub first_lba: u64,
    /// Last sector, included.
    pub last_lba: u64,
    /// Attribute bits, as stored.
    pub attributes: u64,
    /// Name in UTF-16, as stored; [`Entry::name`] makes text of it.
    pub raw_name: [u16; 36],
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            type_guid: Guid::ZERO,
            unique_guid: Guid::ZERO,
            first_lba: 0,
            last_lba: 0,
            attributes: 0,
            raw_name: [0; 36],
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_used() {
            return f.write_str("unused");
        }
        write!(
            f,
            "{}..={} type {} id {} name {:?} attributes {:#x}",
            self.first_lba,
            self.last_lba,
            self.type_guid,
            self.unique_guid,
            self.name(),
            self.attributes
        )
    }
}

impl Entry {
    /// An entry without attributes. A name longer than 36 UTF-16 units is cut.
    pub fn new(type_guid: Guid, unique_guid: Guid, sectors: RangeInclusive<u64>, name: &str) -> Self {
        let mut raw_name = [0; 36];
        for (slot, unit) in raw_name.iter_mut().zip(name.encode_utf16()) {
            *slot = unit;
        }
        Self { type_guid, unique_guid, first_lba: *sectors.start(), last_lba: *sectors.end(), attributes: 0, raw_name }
    }

    /// Whether the slot holds a partition.
    pub fn is_used(&self) -> bool {
        self.type_guid != Guid::ZERO
    }

    /// The name up to its first NUL; what is not UTF-16 becomes U+FFFD.
    pub fn name(&self) -> String {
        let len = self.raw_name.iter().position(|&unit| unit == 0).unwrap_or(self.raw_name.len());
        String::from_utf16_lossy(&self.raw_name[..len])
    }

    /// How many sectors it has.
    pub fn sectors(&self) -> u64 {
        (self.last_lba - self.first_lba.min(self.last_lba)).saturating_add(1)
    }

    fn read(b: &[u8]) -> Self {
        let mut raw_name = [0; 36];
        for (slot, pair) in raw_name.iter_mut().zip(b[56..ENTRY_LEN].chunks_exact(2)) {
            *slot = u16::from_le_bytes([pair[0], pair[1]]);
        }
        Self {
            type_guid: guid_at(b, 0),
            unique_guid: guid_at(b, 16),
            first_lba: u64_at(b, 32),
            last_lba: u64_at(b, 40),
            attributes: u64_at(b, 48),
            raw_name,
        }
    }

    fn write(&self, b: &mut [u8]) {
        b[..16].copy_from_slice(&self.type_guid.0);
        b[16..32].copy_from_slice(&self.unique_guid.0);
        b[32..40].copy_from_slice(&self.first_lba.to_le_bytes());
        b[40..48].copy_from_slice(&self.last_lba.to_le_bytes());
        b[48..56].copy_from_slice(&self.attributes.to_le_bytes());
        for (pair, unit) in b[56..ENTRY_LEN].chunks_exact_mut(2).zip(self.raw_name) {
            pair.copy_from_slice(&unit.to_le_bytes());
        }
    }
}

/// A whole table, both copies: they differ only in where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Identity of the disk.
    pub disk_guid: Guid,
    /// First sector that a partition may use.
    pub first_usable: u64,
    /// Last sector that a partition may use.
    pub last_usable: u64,
    /// Sector of the backup header: the last one of the disk.
    pub backup_lba: u64,
    /// First sector of the primary's entries.
    pub entries_lba: u64,
    /// All slots, used or not.
    entries: Vec<Entry>,
}

impl Gpt {
    /// An empty table for a disk of so many sectors, with the usual 128 slots.
    pub fn new(disk_guid: Guid, sector_size: u32, disk_sectors: u64) -> Result<Self, GptError> {
        check_sector_size(sector_size)?;
        let mut gpt = Self {
            sector_size,
            disk_guid,
            first_usable: 2 + entry_sectors(USUAL_SLOTS as usize, sector_size),
            last_usable: 0,
            backup_lba: 0,
            entries_lba: 2,
            entries: vec![Entry::default(); USUAL_SLOTS as usize],
        };
        gpt.move_backup(disk_sectors)?;
        Ok(gpt)
    }

    /// Reads the primary table from the first bytes of a disk (one MiB holds every usual table).
    pub fn parse_primary(head: &[u8], sector_size: u32) -> Result<Self, GptError> {
        check_sector_size(sector_size)?;
        let header = Header::read(sector(head, 1, sector_size, "header")?)?;
        header.must_be_at(1)?;
        if header.entries_lba < 2 || header.entries_lba >= header.first_usable {
            return Err(field("PartitionEntryLBA", header.entries_lba, "must lie before the first usable sector"));
        }
        if header.other_lba <= header.last_usable {
            return Err(field("AlternateLBA", header.other_lba, "must lie behind the last usable sector"));
        }
        let offset = byte_offset(header.entries_lba, sector_size, head.len())?;
        let entries = header.read_entries(head, offset)?;
        let room = header.first_usable - header.entries_lba;
        if room < entry_sectors(entries.len(), sector_size) {
            return Err(field("FirstUsableLBA", header.first_usable, "lies within the partition entries"));
        }
        Self::from_parts(&header, sector_size, header.other_lba, header.entries_lba, entries)
    }

    /// Reads the backup table from the last bytes of a disk; `tail` ends where the disk ends.
    pub fn parse_backup(tail: &[u8], disk_sectors: u64, sector_size: u32) -> Result<Self, GptError> {
        check_sector_size(sector_size)?;
        let tail_sectors = tail.len() as u64 / u64::from(sector_size);
        if disk_sectors < tail_sectors || !tail.len().is_multiple_of(sector_size as usize) {
            return Err(GptError::OutOfReach { what: "the end of the disk", len: tail.len() });
        }
        let tail_lba = disk_sectors - tail_sectors;
        let last = tail_sectors.checked_sub(1).ok_or(GptError::OutOfReach { what: "header", len: 0 })?;
        let header = Header::read(sector(tail, last, sector_size, "header")?)?;
        header.must_be_at(disk_sectors - 1)?;
        if header.other_lba != 1 {
            return Err(field("AlternateLBA", header.other_lba, "of a backup header must be 1"));
        }
        if header.entries_lba <= header.last_usable || header.entries_lba >= header.my_lba {
            return Err(field("PartitionEntryLBA", header.entries_lba, "must lie between usable sectors and header"));
        }
        let relative = header.entries_lba.checked_sub(tail_lba);
        let relative = relative.ok_or(GptError::OutOfReach { what: "the partition entries", len: tail.len() })?;
        let offset = byte_offset(relative, sector_size, tail.len())?;
        let entries = header.read_entries(tail, offset)?;
        let needed = entry_sectors(entries.len(), sector_size);
        if header.my_lba - header.entries_lba < needed {
            return Err(field("PartitionEntryLBA", header.entries_lba, "leaves no room before the header"));
        }
        // Where the primary keeps its entries is not written here; everybody uses sector 2.
        let entries_lba = 2;
        if header.first_usable < entries_lba + needed {
            return Err(field("FirstUsableLBA", header.first_usable, "lies within the partition entries"));
        }
        Self::from_parts(&header, sector_size, header.my_lba, entries_lba, entries)
    }

    fn from_parts(
        header: &Header,
        sector_size: u32,
        backup_lba: u64,
        entries_lba: u64,
        entries: Vec<Entry>,
    ) -> Result<Self, GptError> {
        let gpt = Self {
            sector_size,
            disk_guid: header.disk_guid,
            first_usable: header.first_usable,
            last_usable: header.last_usable,
            backup_lba,
            entries_lba,
            entries,
        };
        gpt.check()?;
        Ok(gpt)
    }

    /// Every partition lies in the usable range and shares no sector with another.
    fn check(&self) -> Result<(), GptError> {
        for (number, entry) in self.used() {
            self.check_range(number, entry)?;
        }
        let mut sorted: Vec<_> = self.used().collect();
        sorted.sort_by_key(|(_, entry)| entry.first_lba);
        match sorted.windows(2).find(|pair| pair[1].1.first_lba <= pair[0].1.last_lba) {
            Some(pair) => Err(GptError::Overlap { one: pair[0].0, other: pair[1].0 }),
            None => Ok(()),
        }
    }

    fn check_range(&self, number: usize, entry: &Entry) -> Result<(), GptError> {
        let (first, last) = (entry.first_lba, entry.last_lba);
        if first >= self.first_usable && first <= last && last <= self.last_usable {
            return Ok(());
        }
        let (usable_first, usable_last) = (self.first_usable, self.last_usable);
        Err(GptError::Outside { number, first, last, usable_first, usable_last })
    }

    /// All slots.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The partitions with their numbers, from 1.
    pub fn used(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.is_used()).map(|(i, entry)| (i + 1, entry))
    }

    /// Sectors of the disk that this table was made for.
    pub fn disk_sectors(&self) -> u64 {
        self.backup_lba.saturating_add(1)
    }

    /// Fits the table to a disk of so many sectors: the backup goes to its end, the usable range up to the backup.
    pub fn move_backup(&mut self, disk_sectors: u64) -> Result<(), GptError> {
        let behind = entry_sectors(self.entries.len(), self.sector_size) + 1;
        let end = self.used().map(|(_, entry)| entry.last_lba).max().unwrap_or(self.first_usable);
        let needed = end.saturating_add(1).saturating_add(behind);
        if disk_sectors < needed {
            return Err(GptError::DiskTooSmall { sectors: disk_sectors, needed });
        }
        self.backup_lba = disk_sectors - 1;
        self.last_usable = disk_sectors - 1 - behind;
        Ok(())
    }

    /// Puts a partition into the first free slot and returns its number, from 1.
    pub fn add(&mut self, entry: Entry) -> Result<usize, GptError> {
        let slot = self.entries.iter().position(|entry| !entry.is_used()).ok_or(GptError::Full(self.entries.len()))?;
        self.put(slot + 1, entry)?;
        Ok(slot + 1)
    }

    /// Puts a partition into the slot of this number, from 1. What the slot held is replaced.
    pub fn put(&mut self, number: usize, entry: Entry) -> Result<(), GptError> {
        self.check_range(number, &entry)?;
        let clash = self.used().find(|(other, old)| {
            *other != number && entry.first_lba <= old.last_lba && old.first_lba <= entry.last_lba
        });
        if let Some((other, _)) = clash {
            return Err(GptError::Overlap { one: number, other });
        }
        let slots = self.entries.len();
        let slot = number.checked_sub(1).and_then(|index| self.entries.get_mut(index)).ok_or(GptError::Full(slots))?;
        *slot = entry;
        Ok(())
    }

    /// The sectors for a partition of at least `sectors` at the end of the usable range, its start aligned to `align`.
    pub fn room_at_end(&self, sectors: u64, align: u64) -> Result<RangeInclusive<u64>, GptError> {
        let too_small = GptError::NoRoom { wanted: sectors, number: 0, last: 0 };
        let start = (self.last_usable + 1).checked_sub(sectors).ok_or_else(|| too_small.clone())?;
        let start = start - start % align.max(1);
        if start < self.first_usable {
            return Err(too_small);
        }
        match self.used().find(|(_, entry)| entry.last_lba >= start) {
            Some((number, entry)) => Err(GptError::NoRoom { wanted: sectors, number, last: entry.last_lba }),
            None => Ok(start..=self.last_usable),
        }
    }

    /// Writes header and entries of the primary into the first bytes of the disk. The MBR is left as it is.
    pub fn write_primary(&self, head: &mut [u8]) -> Result<(), GptError> {
        let size = self.sector_size as usize;
        let entries = self.entry_bytes();
        let header = self.header_bytes(1, self.backup_lba, self.entries_lba, &entries);
        let offset = byte_offset(self.entries_lba, self.sector_size, head.len())?;
        put(head, offset, &entries, "the partition entries")?;
        put(head, size, &header, "header")
    }

    /// Writes entries and header of the backup into the last bytes of the disk; `tail` ends where the disk ends.
    pub fn write_backup(&self, tail: &mut [u8]) -> Result<(), GptError> {
        let size = self.sector_size as usize;
        let len = tail.len();
        let entries = self.entry_bytes();
        let sectors = entry_sectors(self.entries.len(), self.sector_size);
        let entries_lba = self.backup_lba.saturating_sub(sectors);
        let header = self.header_bytes(self.backup_lba, 1, entries_lba, &entries);
        let short = |what| GptError::OutOfReach { what, len };
        let at = len.checked_sub(size).ok_or(short("header"))?;
        let before = at.checked_sub(sectors as usize * size).ok_or(short("the partition entries"))?;
        put(tail, before, &entries, "the partition entries")?;
        put(tail, at, &header, "header")
    }

    fn entry_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.entries.len() * ENTRY_LEN];
        for (slot, entry) in bytes.chunks_exact_mut(ENTRY_LEN).zip(&self.entries) {
            entry.write(slot);
        }
        bytes
    }

    fn header_bytes(&self, my_lba: u64, other_lba: u64, entries_lba: u64, entries: &[u8]) -> Vec<u8> {
        let mut b = vec![0; self.sector_size as usize];
        b[..8].copy_from_slice(SIGNATURE);
        b[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
        b[12..16].copy_from_slice(&(HEADER_LEN as u32).to_le_bytes());
        b[24..32].copy_from_slice(&my_lba.to_le_bytes());
        b[32..40].copy_from_slice(&other_lba.to_le_bytes());
        b[40..48].copy_from_slice(&self.first_usable.to_le_bytes());
        b[48..56].copy_from_slice(&self.last_usable.to_le_bytes());
        b[56..72].copy_from_slice(&self.disk_guid.0);
        b[72..80].copy_from_slice(&entries_lba.to_le_bytes());
        b[80..84].copy_from_slice(&(self.entries.len() as u32).to_le_bytes());
        b[84..88].copy_from_slice(&(ENTRY_LEN as u32).to_le_bytes());
        b[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
        let crc = crc32fast::hash(&b[..HEADER_LEN]);
        b[16..20].copy_from_slice(&crc.to_le_bytes());
        b
    }
}

/// The sector size for which the bytes at the start of a disk hold a GPT header, among 512 and 4096.
pub fn header_sector_size(head: &[u8]) -> Option<u32> {
    [512_u32, 4096].into_iter().find(|&size| {
        let at = size as usize;
        head.get(at..at + SIGNATURE.len()).is_some_and(|bytes| bytes == SIGNATURE)
    })
}

/// The fields of one header that are used.
struct Header {
    my_lba: u64,
    other_lba: u64,
    first_usable: u64,
    last_usable: u64,
    disk_guid: Guid,
    entries_lba: u64,
    slots: u32,
    entries_crc: u32,
}

impl Header {
    fn read(b: &[u8]) -> Result<Self, GptError> {
        if b.get(..8) != Some(SIGNATURE) {
            return Err(GptError::NoHeader);
        }
        let len = u32_at(b, 12) as usize;
        if len < HEADER_LEN || len > b.len() {
            return Err(field("HeaderSize", len as u64, "must be 92 bytes to one sector"));
        }
        let stored = u32_at(b, 16);
        let mut copy = b[..len].to_vec();
        copy[16..20].fill(0);
        let computed = crc32fast::hash(&copy);
        if stored != computed {
            return Err(GptError::Checksum { what: "header", stored, computed });
        }
        let revision = u32_at(b, 8);
        if revision >> 16 != 1 {
            return Err(field("Revision", u64::from(revision), "only 1.x is known"));
        }
        if u32_at(b, 84) as usize != ENTRY_LEN {
            return Err(field("SizeOfPartitionEntry", u64::from(u32_at(b, 84)), "only 128 bytes are supported"));
        }
        let slots = u32_at(b, 80);
        if slots == 0 || slots > MAX_SLOTS {
            return Err(field("NumberOfPartitionEntries", u64::from(slots), "1 to 1024 are supported"));
        }
        let (first_usable, last_usable) = (u64_at(b, 40), u64_at(b, 48));
        if first_usable > last_usable {
            return Err(field("FirstUsableLBA", first_usable, "lies behind LastUsableLBA"));
        }
        // Kept below 2^63 so that sector arithmetic cannot overflow anywhere.
        if last_usable >= 1 << 54 || u64_at(b, 32) >= 1 << 54 {
            return Err(field("LastUsableLBA", last_usable, "no disk is that large"));
        }
        Ok(Self {
            my_lba: u64_at(b, 24),
            other_lba: u64_at(b, 32),
            first_usable,
            last_usable,
            disk_guid: guid_at(b, 56),
            entries_lba: u64_at(b, 72),
            slots,
            entries_crc: u32_at(b, 88),
        })
    }

    fn must_be_at(&self, lba: u64) -> Result<(), GptError> {
        if self.my_lba == lba { Ok(()) } else { Err(field("MyLBA", self.my_lba, "is not where the header was found")) }
    }

    fn read_entries(&self, bytes: &[u8], offset: usize) -> Result<Vec<Entry>, GptError> {
        let out = GptError::OutOfReach { what: "the partition entries", len: bytes.len() };
        let end = offset.checked_add(self.slots as usize * ENTRY_LEN).ok_or(out.clone())?;
        let array = bytes.get(offset..end).ok_or(out)?;
        let computed = crc32fast::hash(array);
        if computed != self.entries_crc {
            return Err(GptError::Checksum { what: "partition entries", stored: self.entries_crc, computed });
        }
        Ok(array.chunks_exact(ENTRY_LEN).map(Entry::read).collect())
    }
}

fn field(field: &'static str, value: u64, reason: &'static str) -> GptError {
    GptError::Field { field, value, reason }
}

fn check_sector_size(size: u32) -> Result<(), GptError> {
    if size.is_power_of_two() && (512..=65536).contains(&size) {
        return Ok(());
    }
    Err(field("sector size", u64::from(size), "must be a power of two from 512 to 65536"))
}

/// Sectors that so many entries take. At least 16 KiB are reserved, as the specification asks.
fn entry_sectors(slots: usize, sector_size: u32) -> u64 {
    (slots.max(USUAL_SLOTS as usize) * ENTRY_LEN).div_ceil(sector_size as usize) as u64
}

fn byte_offset(lba: u64, sector_size: u32, len: usize) -> Result<usize, GptError> {
    lba.checked_mul(u64::from(sector_size))
        .and_then(|offset| usize::try_from(offset).ok())
        .filter(|&offset| offset <= len)
        .ok_or(GptError::OutOfReach { what: "the partition entries", len })
}

fn sector<'a>(bytes: &'a [u8], lba: u64, size: u32, what: &'static str) -> Result<&'a [u8], GptError> {
    let size = size as usize;
    let out = GptError::OutOfReach { what, len: bytes.len() };
    let start = usize::try_from(lba).ok().and_then(|lba| lba.checked_mul(size)).ok_or(out.clone())?;
    start.checked_add(size).and_then(|end| bytes.get(start..end)).ok_or(out)
}

fn put(into: &mut [u8], at: usize, bytes: &[u8], what: &'static str) -> Result<(), GptError> {
    let len = into.len();
    let place = at.checked_add(bytes.len()).and_then(|end| into.get_mut(at..end));
    place.ok_or(GptError::OutOfReach { what, len })?.copy_from_slice(bytes);
    Ok(())
}

fn array_at<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&b[at..at + N]);
    bytes
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(b, at))
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(b, at))
}

fn guid_at(b: &[u8], at: usize) -> Guid {
    Guid(array_at(b, at))
}

#[cfg(test)]
mod tests;
