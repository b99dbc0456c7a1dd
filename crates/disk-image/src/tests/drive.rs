//! Where the config drive goes.

use super::image::*;
use super::qcow2::run;
use crate::configdrive::{ConfigDrive, tests::iso};
use crate::disk::fake::FakeDisk;
use crate::{Cause, DiskState, ImageError, Plan};
use fatfs::{FileSystem, FsOptions};
use media::gpt::mbr::Mbr;
use media::gpt::{Entry, Gpt, Guid};
use std::io::{Cursor, Read as _};
use std::process::Command;

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

/// A config drive as Ironic and its clients make them.
fn real_iso(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = media::iso9660::Builder::new("config-2").unwrap();
    for (path, content) in files {
        builder.file(path, 0o644, *content).unwrap();
    }
    builder.to_vec().unwrap()
}

fn file_of(drive: &[u8], path: &str) -> Vec<u8> {
    let mut bytes = drive.to_vec();
    let system = FileSystem::new(Cursor::new(&mut bytes), FsOptions::new()).unwrap();
    let mut content = Vec::new();
    system.root_dir().open_file(path).unwrap().read_to_end(&mut content).unwrap();
    content
}

const FILES: [(&str, &[u8]); 3] = [
    ("openstack/latest/meta_data.json", b"{\"name\": \"node-1\"}"),
    ("openstack/latest/network_data.json", b""),
    ("openstack/content/0000", &[0x5a; 300_000]),
];

/// ISO 9660 has blocks of 2048 bytes, and no kernel mounts it from sectors of 4096.
#[tokio::test(flavor = "multi_thread")]
async fn on_large_sectors_an_iso_9660_drive_becomes_fat_with_the_same_files() {
    let disk = FakeDisk::new(old_disk(80), 4096);
    let written = write(with_drive(&gpt_image(6, 4096), &real_iso(&FILES)), disk.clone()).await.unwrap();
    let place = written.config_drive.unwrap();
    assert_eq!((place.offset % (1 << 20), place.size % 4096, place.name.as_str()), (0, 0, "config-2"));
    let bytes = disk.bytes();
    let drive = &bytes[place.offset as usize..(place.offset + place.size) as usize];
    assert_eq!(u16::from_le_bytes([drive[11], drive[12]]), 4096, "the sectors of the file system");
    assert!(crate::configdrive::is_config_drive(drive), "the label");
    for (path, content) in FILES {
        assert!(file_of(drive, path) == content, "{path}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("drive"), &drive[..2 * MIB]).unwrap();
    run(Command::new("fsck.fat").arg("-n").arg(dir.path().join("drive")));
    // The same on small sectors stays what it is.
    let small = FakeDisk::new(old_disk(80), 512);
    let written = write(with_drive(&gpt_image(6, 512), &real_iso(&FILES)), small.clone()).await.unwrap();
    let place = written.config_drive.unwrap();
    assert_drive(&small.bytes(), place.offset as usize, place.size as usize, &real_iso(&FILES));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_drive_goes_into_the_partition_that_is_labelled_for_it() {
    let mut image = gpt_image(12, 4096);
    let mut gpt = Gpt::new(Guid([3; 16]), 4096, 12 * 256).unwrap();
    gpt.add(Entry::new(Guid::LINUX_DATA, Guid([2; 16]), 1024..=1535, "config-2")).unwrap();
    gpt.write_primary(&mut image).unwrap();
    let disk = FakeDisk::new(old_disk(80), 4096);
    let written = write(with_drive(&image, &real_iso(&FILES)), disk.clone()).await.unwrap();
    let place = written.config_drive.unwrap();
    assert_eq!((place.number, place.offset, place.size), (1, 4 << 20, 2 << 20));
    assert!(file_of(&disk.bytes()[4 * MIB..6 * MIB], FILES[0].0) == FILES[0].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn drives_that_large_sectors_cannot_give_are_refused_with_the_reason() {
    let large: [(&str, &[u8]); 1] = [("large", &[1; 17 << 20])];
    let cases = [
        ("small sectors", media::fat::image(&FILES, "config-2").unwrap()),
        ("too large", real_iso(&large)),
        ("a name that FAT cannot hold", real_iso(&[("a:b", b"x")])),
        ("names that FAT holds one of", real_iso(&[("A", b"x"), ("a", b"y")])),
        ("no directory to be found", iso(400_000, "config-2")),
    ];
    let mut texts = String::new();
    for (name, drive) in cases {
        let disk = FakeDisk::new(old_disk(80), 4096);
        let error = write(with_drive(&gpt_image(6, 4096), &drive), disk.clone()).await.unwrap_err();
        assert_eq!((error.state, disk.bytes() == old_disk(80)), (DiskState::Untouched, true), "{name}");
        texts += &format!("{name}: {}\n", transport::client::chain(&error.cause));
    }
    insta::assert_snapshot!(texts);
}
