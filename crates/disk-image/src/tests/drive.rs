//! Where the config drive goes.

use super::image::*;
use crate::configdrive::{ConfigDrive, tests::iso};
use crate::disk::fake::FakeDisk;
use crate::{Cause, DiskState, ImageError, Plan};
use media::gpt::mbr::Mbr;
use media::gpt::{Entry, Gpt, Guid};

const DRIVE: usize = 64 << 20;

fn with_drive(image: &[u8], drive: &[u8]) -> Plan {
    let mut plan = plan(image);
    plan.config_drive = Some(ConfigDrive::from_bytes(drive.to_vec().into()).unwrap());
    plan
}

fn assert_drive(disk: &[u8], at: usize, size: usize, drive: &[u8]) {
    assert!(disk[at..at + drive.len()] == *drive, "the drive is not at {at}");
    assert!(disk[at + drive.len()..at + size].iter().all(|&byte| byte == 0), "what follows the drive is not zero");
}

/// `old_disk` fills with 0xee: nothing of it may stay in the partition. A drive of full size reaches the held-back
/// end of the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_gpt_disk_gets_a_partition_at_its_end() {
    for len in [400_000, DRIVE] {
        let (image, drive) = (gpt_image(6, 512), iso(len, "config-2"));
        let disk = FakeDisk::new(old_disk(80), 512);
        let written = write(with_drive(&image, &drive), disk.clone()).await.unwrap();
        let gpt = assert_holds(&disk.bytes(), &image, 3);
        let place = written.config_drive.clone().unwrap();
        assert_eq!((place.number, place.offset), (3, (15 << 20) as u64));
        assert!(place.size >= DRIVE as u64);
        let (_, entry) = gpt.used().last().unwrap();
        assert_eq!((entry.name().as_str(), entry.last_lba), ("config-2", 80 * 2048 - 34));
        assert_ne!(entry.unique_guid, Guid::ZERO);
        assert_eq!(written.partitions.len(), 3);
        assert_drive(&disk.bytes(), place.offset as usize, place.size as usize, &drive);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dos_disk_gets_a_partition_at_its_end() {
    let (image, drive) = (mbr_image(6, 2), iso(400_000, "config-2"));
    let disk = FakeDisk::new(old_disk(80), 512);
    let written = write(with_drive(&image, &drive), disk.clone()).await.unwrap();
    let place = written.config_drive.clone().unwrap();
    assert_eq!((place.number, place.offset, place.size), (3, 16 << 20, 64 << 20));
    assert_eq!((written.root_uuid().as_str(), written.disk_guid), ("0xdeadbeef", None));
    assert_eq!(place.uuid, "deadbeef-03");
    let bytes = disk.bytes();
    assert_eq!(Mbr::parse(&bytes).unwrap().used().count(), 3);
    assert_drive(&bytes, 16 << 20, 64 << 20, &drive);
    assert!(bytes[512..6 * MIB] == image[512..]);
    assert_ne!(&bytes[bytes.len() - 512..][..8], media::gpt::SIGNATURE, "the old backup table is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_primary_partitions_leave_no_place() {
    let disk = FakeDisk::new(old_disk(80), 512);
    let mut plan = with_drive(&mbr_image(6, 4), &iso(400_000, "config-2"));
    let error = write(plan.clone(), disk.clone()).await.unwrap_err();
    // One of the four could turn out to be labelled config-2, but all are too small for that.
    assert!(matches!(error.cause, Cause::Image(ImageError::NoRoomMbr(_))), "{error:?}");
    assert_eq!((error.state, disk.bytes() == old_disk(80)), (DiskState::Untouched, true));
    plan.config_drive = None;
    write(plan, disk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_is_refused_before_a_byte_is_written() {
    let disk = FakeDisk::new(old_disk(60), 512);
    let error = write(with_drive(&gpt_image(5, 512), &iso(4 << 20, "config-2")), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Image(ImageError::NoRoomGpt(_))), "{error:?}");
    assert_eq!(error.state, DiskState::Untouched);
}

/// An image with a third partition of 2 MiB, found by its name, or by the label of the file system in it.
fn with_partition(name: &str, content: &[u8]) -> Vec<u8> {
    let mut image = gpt_image(12, 512);
    let mut gpt = Gpt::new(Guid([3; 16]), 512, 12 * 2048).unwrap();
    gpt.add(Entry::new(Guid::ESP, Guid([1; 16]), 2048..=4095, "EFI")).unwrap();
    gpt.add(Entry::new(Guid::LINUX_DATA, Guid([2; 16]), 8192..=12287, name)).unwrap();
    gpt.write_primary(&mut image).unwrap();
    image[4 * MIB..4 * MIB + content.len()].copy_from_slice(content);
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_labelled_for_it_is_reused() {
    let drive = iso(400_000, "config-2");
    let images = [with_partition("CONFIG-2", &[]), with_partition("x", &iso(900_000, "Config-2"))];
    for image in images {
        let disk = FakeDisk::new(old_disk(80), 512);
        let written = write(with_drive(&image, &drive), disk.clone()).await.unwrap();
        let place = written.config_drive.clone().unwrap();
        assert_eq!((place.number, place.offset, place.size), (2, 4 << 20, 2 << 20));
        assert_eq!(written.partitions.len(), 2);
        assert_drive(&disk.bytes(), 4 << 20, 2 << 20, &drive);
        assert!(disk.bytes()[6 * MIB..11 * MIB] == image[6 * MIB..11 * MIB]);
    }
    let disk = FakeDisk::new(old_disk(80), 512);
    let image = with_partition("config-2", &[]);
    let error = write(with_drive(&image, &iso(3 << 20, "config-2")), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Image(ImageError::DrivePartitionTooSmall { .. })), "{error:?}");
    assert!(!has_table(&disk.bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn iso_9660_on_large_sectors_is_explained() {
    let disk = FakeDisk::new(old_disk(80), 4096);
    let error = write(with_drive(&gpt_image(6, 4096), &iso(400_000, "config-2")), disk).await.unwrap_err();
    insta::assert_snapshot!(error.cause, @"an ISO 9660 config drive cannot be read from 4096-byte sectors; make it a FAT image");
    assert_eq!(error.state, DiskState::Untouched);
}
