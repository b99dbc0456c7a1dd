//! The seal: what turns written data into a disk that boots, in the one order that is safe.
//!
//! 1. flush, so that all data is there before anything points to it;
//! 2. of a partition image, what is around it; the config drive, into its partition;
//! 3. the backup table at the real end of the disk; flush;
//! 4. the first MiB with the final table but for its first sector; flush; the first sector; flush;
//! 5. read back both ends, the config drive and samples of the data.
//!
//! A loss of power at any point before the end of 4 leaves a first sector of zeros, from which no firmware boots: a table
//! in the next sectors counts only with the protective one in the first. A failure at any point clears both ends again.

use crate::budget::BLOCK;
use crate::buffer::AlignedBuf;
use crate::configdrive::{self, ConfigDrive, is_config_drive};
use crate::error::Cause;
use crate::partition::{Partitioned, Partitions, SharedDisk};
use crate::progress::{Meters, Stage};
use crate::table::{ImageError, PartitionInfo, Table, is_drive_name};
use crate::target::{DiskState, Target};
use media::gpt::Guid;
use std::io::Read;
use tokio_util::sync::CancellationToken;

/// What the seal has made.
pub(crate) struct Sealed {
    pub(crate) table: Table,
    pub(crate) drive: Option<PartitionInfo>,
    pub(crate) partitioned: Option<Partitioned>,
}

/// Seals the disk, and makes what is `around` a partition image. On failure or cancellation the disk has no table.
pub(crate) fn seal(
    target: &mut Target,
    table: Table,
    around: Option<(&Partitions, &SharedDisk)>,
    drive: Option<&ConfigDrive>,
    meters: &Meters,
    cancel: &CancellationToken,
) -> Result<Sealed, Cause> {
    let result = in_order(target, table, around, drive, meters, cancel);
    match result {
        Ok(_) => target.state = DiskState::Complete,
        Err(_) => target.abandon(),
    }
    result
}

fn in_order(
    target: &mut Target,
    mut table: Table,
    around: Option<(&Partitions, &SharedDisk)>,
    drive: Option<&ConfigDrive>,
    meters: &Meters,
    cancel: &CancellationToken,
) -> Result<Sealed, Cause> {
    meters.stage(Stage::Seal);
    target.flush()?;
    let partitioned = around.map(|(partitions, shared)| partitions.fill(target, shared, cancel)).transpose()?;
    let own = around.and_then(|(partitions, _)| partitions.drive());
    let placed = match drive {
        Some(drive) => Some((drive, place(target, &mut table, own, drive, cancel)?)),
        None => None,
    };
    let (head, tail) = target.ends();
    table.write_tail(tail)?;
    table.write_head(head)?;
    if cancel.is_cancelled() {
        return Err(Cause::Cancelled);
    }
    target.release_tail()?;
    target.flush()?;
    target.release_head()?;
    target.flush()?;
    meters.stage(Stage::Verify);
    verify(target, placed.as_ref(), cancel)?;
    if let Err(error) = target.disk.announce() {
        // The disk itself is right; only who wants to mount it at once has to wait for a new scan.
        tracing::warn!(disk = target.disk.name(), %error, "the kernel did not take the new partition table yet");
    }
    Ok(Sealed { table, drive: placed.map(|(_, partition)| partition), partitioned })
}

/// Writes the config drive into the partition that was made for it, one that is labelled for it, or a new one at the end
/// of the disk. What the partition has beyond it is zeroed: it may hold the settings of somebody else.
fn place(
    target: &mut Target,
    table: &mut Table,
    own: Option<usize>,
    drive: &ConfigDrive,
    cancel: &CancellationToken,
) -> Result<PartitionInfo, Cause> {
    let numbered = |table: &Table, number| {
        let found = table.partitions().into_iter().find(|partition| partition.number == number);
        found.ok_or(Cause::Image(ImageError::NoPartitions))
    };
    let there = match own {
        Some(number) => Some(numbered(table, number)?),
        None => labelled(target, table)?,
    };
    let partition = match there {
        Some(partition) if partition.size < drive.size() => {
            let (number, room) = (partition.number, partition.size);
            return Err(ImageError::DrivePartitionTooSmall { number, room, need: drive.size() }.into());
        }
        Some(partition) => partition,
        None => {
            let unique = Guid::from_uuid_bytes(*uuid::Uuid::new_v4().as_bytes());
            let number = table.add_drive(&target.geometry(), unique)?;
            numbered(table, number)?
        }
    };
    let mut block = AlignedBuf::zeroed(BLOCK);
    let mut reader = drive.reader();
    let mut done = 0;
    while done < partition.size {
        if cancel.is_cancelled() {
            return Err(Cause::Cancelled);
        }
        let len = (partition.size - done).min(BLOCK as u64) as usize;
        fill(&mut *reader, &mut block[..len])?;
        target.put(&block[..len], partition.offset + done)?;
        done += len as u64;
    }
    Ok(partition)
}

/// The partition of the image that is named, or holds a file system that is labelled, for a config drive.
fn labelled(target: &mut Target, table: &Table) -> Result<Option<PartitionInfo>, Cause> {
    for partition in table.partitions() {
        let probe = (configdrive::PROBE as u64).min(partition.size) as usize;
        if is_drive_name(&partition.name) || is_config_drive(&target.get(partition.offset, probe)?) {
            return Ok(Some(partition));
        }
    }
    Ok(None)
}

/// Reads until `block` is full; behind the end of the drive come zeros.
fn fill(reader: &mut dyn Read, block: &mut [u8]) -> Result<(), Cause> {
    let mut done = 0;
    while done < block.len() {
        match reader.read(&mut block[done..]) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(configdrive::ConfigDriveError::Gzip(error).into()),
        }
    }
    block[done..].fill(0);
    Ok(())
}

fn verify(
    target: &mut Target,
    drive: Option<&(&ConfigDrive, PartitionInfo)>,
    cancel: &CancellationToken,
) -> Result<(), Cause> {
    let range = drive.map(|(_, partition)| partition.offset..partition.offset + partition.size);
    if let Some(offset) = target.differs(range)? {
        return Err(Cause::ReadBack { disk: target.disk.name().to_owned(), offset });
    }
    let Some((drive, partition)) = drive else { return Ok(()) };
    let (mut wanted, mut reader, mut done) = (AlignedBuf::zeroed(BLOCK), drive.reader(), 0);
    while done < drive.size() {
        if cancel.is_cancelled() {
            return Err(Cause::Cancelled);
        }
        let len = (partition.size - done).min(BLOCK as u64) as usize;
        fill(&mut *reader, &mut wanted[..len])?;
        let offset = partition.offset + done;
        let found = crate::disk::read_some(&mut *target.disk, len, offset)?;
        if found[..] != wanted[..len] {
            return Err(Cause::ReadBack { disk: target.disk.name().to_owned(), offset });
        }
        done += len as u64;
    }
    Ok(())
}
