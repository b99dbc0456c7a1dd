//! Disks that an installer of somebody else's writes, such as bootc in its own container: what of the seal can be kept there.
//!
//! The installer makes the partition table itself and early, so nothing here can hold it back while the installer runs. What
//! can be done is done before and after: [`clear`] takes everything from the disk by which it could boot, before the
//! installer begins and when it has failed, and [`finish`] looks at what it has made and adds the config drive. For that the
//! disk loses both its ends again and gets them back by the [`crate::seal`], so a loss of power leaves no disk that boots
//! without its config drive.

use crate::configdrive::ConfigDrive;
use crate::disk::{self, Disk};
use crate::error::{Cause, WriteError};
use crate::progress::Meters;
use crate::seal::seal;
use crate::table::{self, PartitionInfo};
use crate::target::{HELD, Target, Verify};
use tokio_util::sync::CancellationToken;

/// Takes from a disk everything by which it could boot or be assembled. Blocks.
///
/// # Errors
///
/// When the disk is too small to be one, or fails; the state says what is on it.
pub fn clear(disk: Box<dyn Disk>) -> Result<(), Box<WriteError>> {
    let mut target = Target::new(disk, Verify::Sampled);
    let cleared = target.check().map_err(Cause::from).and_then(|()| Ok(target.clear()?));
    cleared.map_err(|cause| failure(&target, cause))
}

/// Looks at the partition table that an installer has made, writes the config drive into its partition, one labelled for it
/// or a new one at the end of the disk, and returns all partitions. Without a config drive nothing is written. Blocks.
///
/// # Errors
///
/// When there is no partition table that fits the disk, the config drive finds no place, or the disk fails. Unless the state
/// says otherwise, the disk has no partition table then.
pub fn finish(
    disk: Box<dyn Disk>,
    drive: Option<ConfigDrive>,
    cancel: &CancellationToken,
) -> Result<Vec<PartitionInfo>, Box<WriteError>> {
    let mut target = Target::new(disk, Verify::Sampled);
    let finished = finish_on(&mut target, drive, cancel);
    finished.map_err(|cause| {
        // What the installer has left is not what was asked for, so it is not to boot.
        if target.check().is_ok()
            && let Err(error) = target.clear()
        {
            tracing::error!(disk = target.disk.name(), %error, "what an installer has left could not be cleared");
        }
        failure(&target, cause)
    })
}

fn failure(target: &Target, cause: Cause) -> Box<WriteError> {
    Box::new(WriteError { disk: target.disk.name().to_owned(), state: target.state, cause })
}

fn finish_on(
    target: &mut Target,
    drive: Option<ConfigDrive>,
    cancel: &CancellationToken,
) -> Result<Vec<PartitionInfo>, Cause> {
    target.check()?;
    let geometry = target.geometry();
    let tail_at = geometry.size - HELD;
    let head = disk::read_some(&mut *target.disk, HELD as usize, 0)?;
    let table = table::read(&head, &geometry)?;
    let Some(drive) = drive else { return Ok(table.partitions()) };
    let drive = drive.fitted(geometry.sector)?;
    table.check_drive(&drive, &geometry)?;
    let tail = disk::read_some(&mut *target.disk, HELD as usize, tail_at)?;
    target.clear()?;
    target.put(&head, 0)?;
    target.put(&tail, tail_at)?;
    let sealed = seal(target, table, None, Some(&drive), &Meters::new(), cancel)?;
    Ok(sealed.table.partitions())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fake::FakeDisk;
    use crate::target::DiskState;

    /// Bytes of the disk; the config drive's partition takes 64 MiB of it.
    const DISK: usize = 128 << 20;

    /// A disk as an installer leaves it: one partition, boot code, and data.
    fn installed() -> FakeDisk {
        let mut bytes = vec![0; DISK];
        bytes[0] = 0xeb;
        bytes[446 + 4] = 0x83;
        bytes[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
        bytes[446 + 12..446 + 16].copy_from_slice(&8192_u32.to_le_bytes());
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        bytes[2 << 20] = 7;
        FakeDisk::new(bytes, 512)
    }

    fn drive() -> ConfigDrive {
        let mut image = vec![0; 64 << 10];
        image[32769..32774].copy_from_slice(b"CD001");
        ConfigDrive::from_bytes(image.into()).unwrap()
    }

    #[test]
    fn what_an_installer_made_is_told_and_left_as_it_is() {
        let disk = installed();
        let before = disk.bytes();
        let partitions = finish(Box::new(disk.clone()), None, &CancellationToken::new()).unwrap();
        assert_eq!((partitions.len(), partitions[0].offset), (1, 1 << 20));
        assert!(disk.bytes() == before);
    }

    #[test]
    fn the_config_drive_gets_a_partition_behind_those_of_the_installer() {
        let disk = installed();
        let partitions = finish(Box::new(disk.clone()), Some(drive()), &CancellationToken::new()).unwrap();
        assert_eq!(partitions.len(), 2);
        let (bytes, at) = (disk.bytes(), usize::try_from(partitions[1].offset).unwrap());
        assert_eq!((bytes[0], bytes[2 << 20], &bytes[510..512]), (0xeb, 7, &[0x55, 0xaa][..]));
        assert_eq!(&bytes[at + 32769..at + 32774], b"CD001");
    }

    #[test]
    fn a_disk_without_a_table_and_a_cancelled_finish_leave_nothing_that_boots() {
        let empty = FakeDisk::new(vec![0; DISK], 512);
        let error = finish(Box::new(empty), None, &CancellationToken::new()).unwrap_err();
        assert_eq!(error.state, DiskState::NoTable);
        let disk = installed();
        let cancel = CancellationToken::new();
        cancel.cancel();
        let error = finish(Box::new(disk.clone()), Some(drive()), &cancel).unwrap_err();
        assert_eq!(error.state, DiskState::NoTable);
        assert!(disk.bytes()[..512].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn clearing_takes_both_ends() {
        let disk = installed();
        clear(Box::new(disk.clone())).unwrap();
        assert!(disk.bytes()[..HELD as usize].iter().all(|byte| *byte == 0));
        assert_eq!(disk.bytes()[2 << 20], 7);
    }
}
