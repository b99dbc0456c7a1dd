//! What the head of an image says about it: its format, its partitions, whether it fits this disk.

use crate::configdrive::ConfigDrive;
use media::gpt::mbr::{self, Mbr, MbrError};
use media::gpt::{self, Entry, Gpt, GptError, Guid};

/// Alignment of partitions that are added, and unit of what is held back.
pub(crate) const MIB: u64 = 1 << 20;
/// Size of a config drive partition.
const DRIVE_SIZE: u64 = crate::configdrive::MAX_SIZE;
/// The shortest disk: head and tail may not touch.
pub(crate) const SMALLEST_DISK: u64 = 4 * MIB;

/// Why an image cannot be written to a disk as it is.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is nothing in it.
    #[error("the image is empty")]
    Empty,
    /// It has more bytes than the disk.
    #[error("the image has {}{image} bytes, {disk} has {size}", if *.at_least { "at least " } else { "" })]
    TooLarge {
        /// Its size.
        image: u64,
        /// Whether it may be larger still.
        at_least: bool,
        /// Name of the disk.
        disk: String,
        /// Size of the disk.
        size: u64,
    },
    /// The disk is too small for anything.
    #[error("{disk} has {size} bytes; at least {SMALLEST_DISK} are needed to keep its ends apart")]
    DiskTooSmall {
        /// Name of the disk.
        disk: String,
        /// Its size.
        size: u64,
    },
    /// A format that is not written.
    #[error("the image is {0}, which is not written to disks; convert it (qemu-img convert) and serve it raw or qcow2")]
    Format(&'static str),
    /// Another format than the one that was declared.
    #[error(
        "the image is declared as {declared}, but is {found}; declare what it is, or convert it (qemu-img convert)"
    )]
    Declared {
        /// As declared.
        declared: &'static str,
        /// As found.
        found: &'static str,
    },
    /// Parts of a qcow2 are smaller than the sectors of the disk.
    #[error(
        "the qcow2 image describes its disk in parts of {unit} bytes, the disk has {sector}-byte sectors; convert it with \
         larger clusters"
    )]
    Clusters {
        /// Bytes of a cluster or subcluster.
        unit: u64,
        /// Sector size of the disk.
        sector: u32,
    },
    /// It has no partition table.
    #[error("the image has no partition table: it is not a whole-disk image")]
    NoTable,
    /// Its table is empty.
    #[error("the partition table of the image has zero partitions")]
    NoPartitions,
    /// It was made for other sectors.
    #[error(
        "the image is made for {image}-byte sectors, the disk has {disk}-byte sectors: its partition table would \
         not be found; build the image for {disk}-byte sectors"
    )]
    SectorSize {
        /// Sector size of the image.
        image: u32,
        /// Sector size of the disk.
        disk: u32,
    },
    /// Its GUID partition table is broken or does not fit.
    #[error("the GUID partition table of the image cannot be used")]
    Gpt(#[source] GptError),
    /// A partition ends behind the disk.
    #[error("partition {number} of the image ends at byte {end}, the disk has {size} bytes")]
    PartitionOutside {
        /// Number, from 1.
        number: usize,
        /// Byte behind its end.
        end: u64,
        /// Size of the disk.
        size: u64,
    },
    /// It ends before its partitions do.
    #[error(
        "the image has {bytes} bytes, its partition table needs {needed}: it is truncated, or made for other sectors \
         than the {sector}-byte ones of the disk"
    )]
    Truncated {
        /// Bytes that it has.
        bytes: u64,
        /// Bytes that its partitions need.
        needed: u64,
        /// Sector size of the disk.
        sector: u32,
    },
    /// No place for the config drive in a GUID partition table.
    #[error("no place for the {DRIVE_SIZE}-byte partition of the config drive at the end of the disk")]
    NoRoomGpt(#[source] GptError),
    /// No place for the config drive in a DOS partition table.
    #[error("no place for the {DRIVE_SIZE}-byte partition of the config drive at the end of the disk")]
    NoRoomMbr(#[source] MbrError),
    /// The image has a config drive partition, which is too small.
    #[error("partition {number} of the image is labelled config-2 and has {room} bytes; the config drive has {need}")]
    DrivePartitionTooSmall {
        /// Number, from 1.
        number: usize,
        /// Its size.
        room: u64,
        /// What is needed.
        need: u64,
    },
}

/// A partition of the written disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Number, from 1.
    pub number: usize,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Type: a GUID, or two hexadecimal digits in a DOS table.
    pub kind: String,
    /// `PARTUUID`: its GUID, or disk signature and number in a DOS table.
    pub uuid: String,
    /// Name in a GUID partition table.
    pub name: String,
}

/// The disk that an image is for.
#[derive(Debug, Clone)]
pub(crate) struct Geometry {
    pub(crate) disk: String,
    pub(crate) size: u64,
    pub(crate) sector: u32,
}

impl Geometry {
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        if self.size < SMALLEST_DISK {
            return Err(ImageError::DiskTooSmall { disk: self.disk.clone(), size: self.size });
        }
        Ok(())
    }

    pub(crate) fn check_length(&self, image: u64, at_least: bool) -> Result<(), ImageError> {
        if image > self.size {
            return Err(ImageError::TooLarge { image, at_least, disk: self.disk.clone(), size: self.size });
        }
        Ok(())
    }

    fn sectors(&self) -> u64 {
        self.size / u64::from(self.sector)
    }
}

/// The partition table of an image, fitted to the disk.
#[derive(Debug, Clone)]
pub(crate) enum Table {
    Gpt { gpt: Gpt, mbr: Mbr },
    Mbr { mbr: Mbr, sector: u32 },
}

/// Reads the table from the first MiB of an image (or all of it) and fits it to the disk.
pub(crate) fn read(head: &[u8], disk: &Geometry) -> Result<Table, ImageError> {
    if head.is_empty() {
        return Err(ImageError::Empty);
    }
    if let Some(name) = foreign(head) {
        return Err(ImageError::Format(name));
    }
    let table = match Mbr::parse(head) {
        Err(_) => return Err(ImageError::NoTable),
        Ok(mbr) if mbr.is_protective() => read_gpt(head, mbr, disk)?,
        Ok(mbr) => Table::Mbr { mbr, sector: disk.sector },
    };
    let partitions = table.partitions();
    if partitions.is_empty() {
        return Err(ImageError::NoPartitions);
    }
    match partitions.iter().find(|partition| partition.offset.saturating_add(partition.size) > disk.size) {
        Some(PartitionInfo { number, offset, size, .. }) => {
            Err(ImageError::PartitionOutside { number: *number, end: offset.saturating_add(*size), size: disk.size })
        }
        None => Ok(table),
    }
}

fn read_gpt(head: &[u8], mut mbr: Mbr, disk: &Geometry) -> Result<Table, ImageError> {
    match gpt::header_sector_size(head) {
        Some(image) if image != disk.sector => return Err(ImageError::SectorSize { image, disk: disk.sector }),
        Some(_) | None => {}
    }
    let mut gpt = Gpt::parse_primary(head, disk.sector).map_err(ImageError::Gpt)?;
    gpt.move_backup(disk.sectors()).map_err(ImageError::Gpt)?;
    mbr.fit_protective(disk.sectors());
    Ok(Table::Gpt { gpt, mbr })
}

/// What [`foreign`] calls qcow2.
pub(crate) const QCOW2: &str = "qcow2";
/// And VHD.
pub(crate) const VHD: &str = "vhd";

/// Names the formats that are not raw, by their first bytes.
pub(crate) fn foreign(head: &[u8]) -> Option<&'static str> {
    let formats: [(usize, &[u8], &str); 19] = [
        (0, b"QFI\xfb\0\0\0\x01", "qcow (version 1)"),
        (0, b"QFI\xfb", QCOW2),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (0, b"WithoutFreeSpace", "parallels"),
        (0, b"WithouFreSpacExt", "parallels"),
        (0, b"KDMV", "vmdk"),
        (0, b"COWD", "vmdk"),
        (0, b"# Disk DescriptorFile", "a vmdk descriptor"),
        (0, b"vhdxfile", "vhdx"),
        (0, b"conectix", VHD),
        (64, b"\x7f\x10\xda\xbe", "vdi"),
        (0, b"QED\0", "qed"),
        (0, b"<!DOCTYPE", "an HTML page"),
        (0, b"hsqs", "a squashfs file system"),
        // What is packed once is unpacked before this is asked.
        (0, b"\x1f\x8b\x08", "packed once more (with gzip)"),
        (0, b"\xfd7zXZ\0", "packed once more (with xz)"),
        (0, b"\x28\xb5\x2f\xfd", "packed once more (with zstd)"),
        (0, b"070701", "a cpio archive"),
        (257, b"ustar", "a tar archive (an OVA is one)"),
    ];
    let has = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    let known = formats.into_iter().find(|(at, magic, _)| has(*at, magic)).map(|(_, _, name)| name);
    // A hybrid ISO has a partition table too, and is written like any disk image.
    known.or_else(|| (has(32769, b"CD001") && Mbr::parse(head).is_err()).then_some("an ISO 9660 image"))
}

impl Table {
    /// The partitions, in the order of their numbers.
    pub(crate) fn partitions(&self) -> Vec<PartitionInfo> {
        match self {
            Self::Gpt { gpt, .. } => {
                let size = u64::from(gpt.sector_size);
                let info = |(number, entry): (usize, &Entry)| PartitionInfo {
                    number,
                    offset: entry.first_lba * size,
                    size: entry.sectors() * size,
                    kind: entry.type_guid.to_string(),
                    uuid: entry.unique_guid.to_string(),
                    name: entry.name(),
                };
                gpt.used().map(info).collect()
            }
            Self::Mbr { mbr, sector } => {
                let size = u64::from(*sector);
                let info = |(number, entry): (usize, &mbr::MbrEntry)| PartitionInfo {
                    number,
                    offset: entry.range().start * size,
                    size: u64::from(entry.sectors) * size,
                    kind: format!("{:02x}", entry.kind),
                    uuid: format!("{:08x}-{number:02x}", mbr.signature),
                    name: String::new(),
                };
                mbr.used().map(info).collect()
            }
        }
    }

    /// Refuses an image that ends before its partitions do: the rest of them would be what the disk held before.
    pub(crate) fn check_covered(&self, bytes: u64) -> Result<(), ImageError> {
        let needed = self.partitions().iter().map(|partition| partition.offset + partition.size).max().unwrap_or(0);
        if bytes < needed {
            let (Self::Gpt { gpt: Gpt { sector_size: sector, .. }, .. } | Self::Mbr { sector, .. }) = self;
            return Err(ImageError::Truncated { bytes, needed, sector: *sector });
        }
        Ok(())
    }

    /// Identity of the disk in a GUID partition table.
    pub(crate) fn disk_guid(&self) -> Option<String> {
        match self {
            Self::Gpt { gpt, .. } => Some(gpt.disk_guid.to_string()),
            Self::Mbr { .. } => None,
        }
    }

    /// Gives the disk a new identity in a GUID partition table. A DOS table has none but the signature that names its
    /// partitions, so it stays as it is.
    pub(crate) fn renew_disk_guid(&mut self) {
        if let Self::Gpt { gpt, .. } = self {
            gpt.disk_guid = Guid::from_uuid_bytes(*uuid::Uuid::new_v4().as_bytes());
        }
    }

    /// Signature in the first sector; of a protective one, too.
    pub(crate) fn mbr_signature(&self) -> u32 {
        let (Self::Gpt { mbr, .. } | Self::Mbr { mbr, .. }) = self;
        mbr.signature
    }

    /// Adds the partition of a config drive at the end of the disk and returns its number.
    pub(crate) fn add_drive(&mut self, disk: &Geometry, unique: Guid) -> Result<usize, ImageError> {
        let sector = u64::from(disk.sector);
        let (align, len) = (MIB / sector, DRIVE_SIZE / sector);
        match self {
            Self::Gpt { gpt, .. } => {
                let range = gpt.room_at_end(len, align).map_err(ImageError::NoRoomGpt)?;
                let entry = Entry::new(Guid::LINUX_DATA, unique, range, crate::configdrive::LABEL);
                gpt.add(entry).map_err(ImageError::NoRoomGpt)
            }
            Self::Mbr { mbr, .. } => {
                // 32 bits of sectors: on a larger disk the partition lies just below that limit.
                let end = disk.sectors().min(u64::from(u32::MAX));
                let end = end - end % align;
                let start = end.saturating_sub(len);
                if start < align {
                    return Err(ImageError::NoRoomMbr(MbrError::Range { start, end }));
                }
                mbr.add(mbr::FAT32_LBA, start..end).map_err(ImageError::NoRoomMbr)
            }
        }
    }

    /// Whether a config drive will find a place, as far as the table alone can tell: a new partition, or one of the
    /// image that may turn out to be labelled for it.
    pub(crate) fn check_drive(&self, drive: &ConfigDrive, disk: &Geometry) -> Result<(), ImageError> {
        let Err(error) = self.clone().add_drive(disk, Guid([1; 16])) else { return Ok(()) };
        let possible = self.partitions().iter().any(|partition| {
            (drive.size()..=4 * DRIVE_SIZE).contains(&partition.size) || is_drive_name(&partition.name)
        });
        if possible { Ok(()) } else { Err(error) }
    }

    /// Writes the final table into the first MiB.
    pub(crate) fn write_head(&self, head: &mut [u8]) -> Result<(), ImageError> {
        let (Self::Gpt { mbr, .. } | Self::Mbr { mbr, .. }) = self;
        mbr.write(head).map_err(|_| ImageError::NoTable)?;
        match self {
            Self::Gpt { gpt, .. } => gpt.write_primary(head).map_err(ImageError::Gpt),
            Self::Mbr { .. } => Ok(()),
        }
    }

    /// Writes the backup table into the last MiB, where the format has one.
    pub(crate) fn write_tail(&self, tail: &mut [u8]) -> Result<(), ImageError> {
        match self {
            Self::Gpt { gpt, .. } => gpt.write_backup(tail).map_err(ImageError::Gpt),
            Self::Mbr { .. } => Ok(()),
        }
    }
}

/// Whether a partition name says that it is for a config drive.
pub(crate) fn is_drive_name(name: &str) -> bool {
    name.eq_ignore_ascii_case(crate::configdrive::LABEL)
}
