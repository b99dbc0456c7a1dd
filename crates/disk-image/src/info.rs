//! What an image is, from its head alone: nothing is written, little is transported.

use crate::budget::Shares;
use crate::decompress::Compression;
use crate::error::Cause;
use crate::fetch::Patience;
use crate::progress::Meters;
use crate::qcow2;
use crate::reader::Reader;
use crate::source::Source;
use crate::table::{self, Geometry, ImageError, PartitionInfo, QCOW2, Table, foreign};
use crate::target::HELD;
use crate::write::Format;
use media::gpt::mbr::Mbr;
use media::gpt::{self, Gpt};

/// What an image says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// What it is, unpacked.
    pub format: Format,
    /// How it is packed as a whole.
    pub compression: Compression,
    /// Bytes to transport, where the source says so.
    pub transported: Option<u64>,
    /// Bytes of the disk in the image. A packed raw image does not say.
    pub virtual_size: Option<u64>,
    /// Bytes of a disk that holds all that the partition table speaks of.
    pub needed: u64,
    /// Bytes of a sector that the partition table is made for.
    pub sector_size: u32,
    /// Identity of the disk in its GUID partition table.
    pub disk_guid: Option<String>,
    /// Its partitions, in the order of their numbers.
    pub partitions: Vec<PartitionInfo>,
}

/// Reads the head of an image, and of a qcow2 its tables, within `budget` bytes of memory. What cannot be written to a
/// disk is an error that names it.
pub async fn info(source: &dyn Source, patience: &Patience, budget: u64) -> Result<Info, Cause> {
    let shares = Shares::of(budget)?;
    let meters = Meters::new();
    let mut reader = Reader::new(source, patience, &meters, shares.window / 2);
    let mut head = vec![0; HELD as usize];
    let len = reader.read(0, &mut head).await?;
    head.truncate(len);
    let (format, head, virtual_size) = match foreign(&head) {
        Some(QCOW2) => {
            // Any disk will do: it is read, not written.
            let disk = Geometry { disk: String::new(), size: i64::MAX as u64, sector: 512 };
            let map = qcow2::load(&mut reader, shares.window, &disk).await?;
            (Format::Qcow2, map.head, Some(map.header.size))
        }
        Some(name) => return Err(ImageError::Format(name).into()),
        None => (Format::Raw, head, reader.len()),
    };
    let (table, needed) = read_table(&head)?;
    let sector_size = match &table {
        Table::Gpt { gpt, .. } => gpt.sector_size,
        Table::Mbr { sector, .. } => *sector,
    };
    Ok(Info {
        format,
        compression: reader.compression(),
        transported: reader.identity().and_then(|identity| identity.length),
        virtual_size,
        needed,
        sector_size,
        disk_guid: table.disk_guid(),
        partitions: table.partitions(),
    })
}

/// The table as it stands in the image, and how large a disk it is made for.
fn read_table(head: &[u8]) -> Result<(Table, u64), ImageError> {
    if head.is_empty() {
        return Err(ImageError::Empty);
    }
    let mbr = Mbr::parse(head).map_err(|_| ImageError::NoTable)?;
    if mbr.is_protective() {
        let sector = gpt::header_sector_size(head).unwrap_or(512);
        let gpt = Gpt::parse_primary(head, sector).map_err(ImageError::Gpt)?;
        let needed = gpt.disk_sectors().saturating_mul(u64::from(sector));
        return Ok((Table::Gpt { gpt, mbr }, needed));
    }
    let table = Table::Mbr { mbr, sector: 512 };
    let ends = table.partitions().into_iter().map(|partition| partition.offset.saturating_add(partition.size));
    let needed = ends.max().ok_or(ImageError::NoPartitions)?;
    Ok((table, needed))
}

/// Bytes of the smallest disk that the pipeline writes to.
pub const SMALLEST_DISK: u64 = table::SMALLEST_DISK;
