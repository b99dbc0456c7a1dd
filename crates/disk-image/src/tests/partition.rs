//! Partition images: one file system in, a disk that boots out.

use super::image::*;
use super::qcow2::{Lab, run};
use super::server::{Answer, Server};
use crate::configdrive::{ConfigDrive, tests::iso};
use crate::disk::fake::{Event, FakeDisk};
use crate::source::{Access, from_url};
use crate::{BootLoader, Cause, DiskState, Label, PartitionError, Partitioning, Plan, Role, Written};
use bytes::Bytes;
use fatfs::{FileSystem, FsOptions};
use media::gpt::Gpt;
use media::gpt::mbr::Mbr;
use std::io::{self, Cursor, Read as _};
use std::process::Command;
use std::sync::{Arc, OnceLock};

const ESP: usize = 24 * MIB;
const EPHEMERAL: usize = 8 * MIB;
const ROOT: usize = 24 * MIB;
/// What the formatter of these tests writes.
const FORMATTED: &[u8; 512] = &[0x46; 512];
const LOADER: &[u8] = b"MZ systemd-boot";

/// A root file system with a kernel, as `mke2fs` makes it, of 16 MiB in an image of the same size.
fn root(files: &[(&str, &[u8])], features: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for (path, content) in files {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let image = folder.path().join("image");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-U", "11111111-2222-3333-4444-555555555555"]).args(features);
    run(mke2fs.arg("-d").arg(&tree).arg(&image).arg("16M"));
    std::fs::read(image).unwrap()
}

fn kernel() -> Vec<u8> {
    noise(2 * MIB + 77, 5)
}

fn initramfs() -> Vec<u8> {
    noise(3 * MIB + 1, 6)
}

/// The usual one, made once.
fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let files: [(&str, &[u8]); 5] = [
            ("boot/vmlinuz-6.1.0-9-amd64", b"the older one"),
            ("boot/vmlinuz-6.1.0-10-amd64", &kernel()),
            ("boot/initrd.img-6.1.0-10-amd64", &initramfs()),
            ("etc/kernel/cmdline", b"root=LABEL=root rw console=ttyS0\n"),
            ("etc/hostname", b"image\n"),
        ];
        root(&files, &["-t", "ext4"])
    })
}

/// A disk that holds a bootable system, made once.
fn old() -> Vec<u8> {
    static OLD: OnceLock<Vec<u8>> = OnceLock::new();
    OLD.get_or_init(|| old_disk(64)).clone()
}

/// Like [`image`], without a kernel.
fn without_kernel() -> Vec<u8> {
    root(&[("etc/hostname", b"image\n")], &["-t", "ext4"])
}

/// ESP, scratch space, swap space and root in this order, with a formatter that marks the first sector.
fn partitioning(disk: &FakeDisk) -> Partitioning {
    let disk = disk.clone();
    Partitioning {
        label: Label::Gpt,
        root: ROOT as u64,
        swap: 4 << 20,
        ephemeral: EPHEMERAL as u64,
        boot: ESP as u64,
        preserve_ephemeral: false,
        loader: BootLoader::Efi(Bytes::from_static(LOADER)),
        format_ephemeral: Arc::new(move |range| {
            disk.set(|state| {
                let at = range.start as usize;
                assert!(state.bytes[at..at + MIB].iter().all(|byte| *byte == 0), "what was there is gone");
                state.bytes[at..at + FORMATTED.len()].copy_from_slice(FORMATTED);
            });
            Ok(())
        }),
    }
}

fn partition_plan(image: &[u8], disk: &FakeDisk) -> Plan {
    let mut plan = plan(image);
    plan.partitioning = Some(partitioning(disk));
    plan
}

fn place(written: &Written, role: Role) -> std::ops::Range<usize> {
    let slots = &written.partitioned.as_ref().unwrap().slots;
    let range = slots.iter().find(|slot| slot.role == role).unwrap().range();
    range.start as usize..range.end as usize
}

fn file_of(esp: &[u8], path: &str) -> Vec<u8> {
    let mut bytes = esp.to_vec();
    let system = FileSystem::new(Cursor::new(&mut bytes), FsOptions::new()).unwrap();
    let mut content = Vec::new();
    system.root_dir().open_file(path).unwrap().read_to_end(&mut content).unwrap();
    content
}

/// That the disk holds all that makes it boot.
fn assert_boots(disk: &[u8], image: &[u8], written: &Written) {
    let esp = &disk[place(written, Role::Esp)];
    assert_eq!(file_of(esp, "EFI/BOOT/BOOTX64.EFI"), LOADER);
    assert!(file_of(esp, "ferric/vmlinuz") == kernel(), "another kernel");
    assert!(file_of(esp, "ferric/initrd") == initramfs(), "another initramfs");
    let root = written.partitions.iter().find(|partition| partition.name == "root");
    let uuid = root.map_or_else(|| written.partitions.last().unwrap().uuid.clone(), |root| root.uuid.clone());
    let entry = String::from_utf8(file_of(esp, "loader/entries/ferric.conf")).unwrap();
    assert!(entry.contains(&format!("options root=PARTUUID={uuid} rw console=ttyS0\n")), "{entry}");
    let root = place(written, Role::Root);
    assert!(disk[root.start..root.start + image.len()] == *image, "the root partition holds something else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_becomes_a_disk_that_boots() {
    for (label, sector) in [(Label::Gpt, 512), (Label::Msdos, 512), (Label::Gpt, 4096)] {
        let disk = FakeDisk::new(old(), sector);
        let mut plan = partition_plan(image(), &disk);
        plan.partitioning.as_mut().unwrap().label = label;
        let written = write(plan, disk.clone()).await.unwrap_or_else(|error| panic!("{label:?}: {error:?}"));
        let bytes = disk.bytes();
        assert_boots(&bytes, image(), &written);
        let roles: Vec<Role> = written.partitioned.as_ref().unwrap().slots.iter().map(|slot| slot.role).collect();
        assert_eq!(roles, [Role::Esp, Role::Ephemeral, Role::Swap, Role::Root]);
        assert_eq!(written.root_uuid(), "11111111-2222-3333-4444-555555555555");
        let esp_uuid = written.partitioned.as_ref().unwrap().esp_uuid.as_ref().unwrap();
        assert!(esp_uuid.len() == 9 && esp_uuid.as_bytes()[4] == b'-', "{esp_uuid}");
        assert_eq!(bytes[place(&written, Role::Ephemeral)][..512], FORMATTED[..]);
        let swap = place(&written, Role::Swap);
        assert_eq!(&bytes[swap.start + 4086..swap.start + 4096], b"SWAPSPACE2");
        match label {
            Label::Gpt => {
                let (sectors, size) = (bytes.len() as u64 / u64::from(sector), bytes.len());
                let primary = Gpt::parse_primary(&bytes[..MIB], sector).unwrap();
                assert_eq!(primary, Gpt::parse_backup(&bytes[size - MIB..], sectors, sector).unwrap());
            }
            Label::Msdos => assert_eq!(Mbr::parse(&bytes).unwrap().used().count(), 4),
        }
    }
}

/// e2fsck reads what the kernel would: the file system in the partition is the image's, whole.
#[tokio::test(flavor = "multi_thread")]
async fn the_root_file_system_is_sound_and_the_esp_too() {
    let disk = FakeDisk::new(old(), 512);
    let written = write(partition_plan(image(), &disk), disk.clone()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (root, esp) = (folder.path().join("root"), folder.path().join("esp"));
    std::fs::write(&root, &disk.bytes()[place(&written, Role::Root)]).unwrap();
    std::fs::write(&esp, &disk.bytes()[place(&written, Role::Esp)]).unwrap();
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(root));
    run(Command::new("fsck.vfat").args(["-n"]).arg(esp));
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_images_and_qcow2_go_the_same_way() {
    let lab = Lab::new(image().to_vec());
    for (name, transported) in [
        ("zstd", zstd(image())),
        ("qcow2", lab.convert("", false)),
        ("qcow2 compressed", lab.convert("cluster_size=64k", true)),
    ] {
        let disk = FakeDisk::new(old(), 512);
        let written = write(partition_plan(&transported, &disk), disk.clone()).await;
        let written = written.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_boots(&disk.bytes(), image(), &written);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ext2_and_ext3_are_read_too() {
    let files: [(&str, &[u8]); 2] = [("boot/vmlinuz-1", b"kernel"), ("boot/initramfs-1.img", b"initramfs")];
    for kind in ["ext2", "ext3"] {
        let image = root(&files, &["-t", kind]);
        let disk = FakeDisk::new(old(), 512);
        let written = write(partition_plan(&image, &disk), disk.clone()).await.unwrap();
        let esp = &disk.bytes()[place(&written, Role::Esp)];
        assert_eq!(file_of(esp, "ferric/initrd"), b"initramfs", "{kind}");
        let entry = String::from_utf8(file_of(esp, "loader/entries/ferric.conf")).unwrap();
        assert!(entry.ends_with(" ro\n"), "{entry}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config_drive_has_a_partition_before_the_root() {
    let drive = iso(400_000, "config-2");
    let disk = FakeDisk::new(old_disk(128), 512);
    let mut plan = partition_plan(image(), &disk);
    plan.config_drive = Some(ConfigDrive::from_bytes(drive.clone().into()).unwrap());
    let written = write(plan, disk.clone()).await.unwrap();
    let range = place(&written, Role::ConfigDrive);
    assert_eq!((range.len(), range.end), (64 * MIB, place(&written, Role::Root).start));
    assert_eq!(written.config_drive.as_ref().unwrap().offset, range.start as u64);
    let bytes = disk.bytes();
    assert!(bytes[range.start..range.start + drive.len()] == drive[..]);
    assert!(bytes[range.start + drive.len()..range.end].iter().all(|byte| *byte == 0));
    assert_boots(&bytes, image(), &written);
}

/// GRUB's two files, as far as anything of them is looked at: the numbers that are changed, where GRUB has them.
fn grub() -> BootLoader {
    let (mut boot, mut core) = (noise(512, 21), noise(70_000, 22));
    boot[0x5c..0x64].copy_from_slice(&1_u64.to_le_bytes());
    (boot[0x64], boot[0x66]) = (0xff, 0xeb);
    boot[510..].copy_from_slice(&[0x55, 0xaa]);
    let sectors = ((core.len() - 1) / 512) as u16;
    core[500..508].copy_from_slice(&2_u64.to_le_bytes());
    core[508..510].copy_from_slice(&sectors.to_le_bytes());
    core[510..512].copy_from_slice(&0x820_u16.to_le_bytes());
    BootLoader::Grub { boot: boot.into(), core: core.into() }
}

fn bios_plan(label: Label, disk: &FakeDisk) -> Plan {
    let mut plan = partition_plan(image(), disk);
    let partitioning = plan.partitioning.as_mut().unwrap();
    (partitioning.loader, partitioning.label) = (grub(), label);
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_for_a_bios_has_grub_in_its_first_sector_and_where_that_points() {
    let BootLoader::Grub { boot, core } = grub() else { panic!("grub() gives GRUB") };
    for label in [Label::Gpt, Label::Msdos] {
        let disk = FakeDisk::new(old(), 512);
        let written = write(bios_plan(label, &disk), disk.clone()).await.unwrap();
        let bytes = disk.bytes();
        let roles: Vec<Role> = written.partitioned.as_ref().unwrap().slots.iter().map(|slot| slot.role).collect();
        let mbr = Mbr::parse(&bytes).unwrap();
        let at = match label {
            Label::Gpt => {
                assert_eq!(roles, [Role::Boot, Role::BiosBoot, Role::Ephemeral, Role::Swap, Role::Root]);
                let gpt = Gpt::parse_primary(&bytes[..MIB], 512).unwrap();
                let kinds: Vec<String> = gpt.used().map(|(_, entry)| entry.type_guid.to_string()).collect();
                assert_eq!(kinds[1], "21686148-6449-6e6f-744e-656564454649");
                assert!(mbr.is_protective() && mbr.entries[0].status == 0);
                place(&written, Role::BiosBoot).start
            }
            Label::Msdos => {
                assert_eq!(roles, [Role::Boot, Role::Ephemeral, Role::Swap, Role::Root]);
                assert_eq!(mbr.entries.map(|entry| entry.status), [0x80, 0, 0, 0]);
                assert_eq!(u32::from_le_bytes(*bytes[440..].first_chunk().unwrap()), written.mbr_signature);
                512
            }
        };
        // Firmware → first sector → first sector of the core → the rest of it.
        let sector = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!((bytes[..0x5c] == boot[..0x5c], bytes[0x68..440] == boot[0x68..440]), (true, true), "{label:?}");
        assert_eq!(sector(0x5c), at as u64 / 512);
        assert_eq!(sector(at + 500), at as u64 / 512 + 1);
        assert!(bytes[at + 512..at + core.len()] == core[512..] && bytes[at..at + 500] == core[..500]);
        // The core → its settings on the first partition → the kernel there.
        assert_eq!(written.partitions[0].number, 1);
        let boot = &bytes[place(&written, Role::Boot)];
        assert!(file_of(boot, "ferric/vmlinuz") == kernel() && file_of(boot, "ferric/initrd") == initramfs());
        let uuid = written.partitions.last().unwrap().uuid.clone();
        let settings = String::from_utf8(file_of(boot, "grub/grub.cfg")).unwrap();
        let linux = format!("linux /ferric/vmlinuz root=PARTUUID={uuid} rw console=ttyS0\n");
        assert_eq!(settings, format!("{linux}initrd /ferric/initrd\nboot\n"));
        assert_eq!(written.partitioned.unwrap().esp_uuid, None);
    }
}

/// No state of the disk before the very last write has code in the first sector, or a table that says where to go on.
#[tokio::test(flavor = "multi_thread")]
async fn the_code_for_a_bios_comes_last_and_goes_when_anything_fails() {
    for label in [Label::Gpt, Label::Msdos] {
        let disk = FakeDisk::new(old(), 512);
        write(bios_plan(label, &disk), disk.clone()).await.unwrap();
        let log = disk.state.lock().unwrap().log.clone();
        let first: Vec<usize> =
            (0..log.len()).filter(|at| matches!(log[*at], Event::Write { offset: 0, .. })).collect();
        assert_eq!(first.len(), 2, "cleared once and written once");
        assert_eq!((&log[first[1] - 1], &log[first[1] + 1], first[1] + 2), (&Event::Flush, &Event::Flush, log.len()));
        for flushes in 0..6 {
            let disk = FakeDisk::new(old(), 512);
            disk.set(|state| state.flushes = Some(flushes));
            if write(bios_plan(label, &disk), disk.clone()).await.is_err() {
                assert!(disk.bytes()[..512].iter().all(|byte| *byte == 0), "{label:?}, flush {flushes}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_bios_could_boot_is_refused_before_a_byte_is_written() {
    let large = FakeDisk::new(old(), 4096);
    let error = write(bios_plan(Label::Gpt, &large), large.clone()).await.unwrap_err();
    insta::assert_snapshot!(error.cause, @"fake disk has 4096-byte sectors, and a BIOS boots from 512-byte sectors only; boot the node by UEFI (capability boot_mode:uefi)");
    assert_eq!((error.state, large.bytes() == old()), (DiskState::Untouched, true));
    let disk = FakeDisk::new(old(), 512);
    let mut plan = bios_plan(Label::Gpt, &disk);
    let (boot, core) = (Bytes::from_static(&[0; 512]), Bytes::from_static(&[0; 1024]));
    plan.partitioning.as_mut().unwrap().loader = BootLoader::Grub { boot, core };
    let error = write(plan, disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Partition(PartitionError::Grub(_))), "{error:?}");
    assert_eq!((error.state, disk.bytes() == old()), (DiskState::Untouched, true));
}

/// The promise: wherever it stops, there is no table, and the next attempt succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_step_leaves_no_table() {
    // Root, ESP, swap header and scratch space, wherever they begin, and the end of the disk.
    for at_mib in [1, 5, 25, 33, 37, 63] {
        let disk = FakeDisk::new(old(), 512);
        disk.set(|state| state.fail_write = Some((at_mib << 20, 5, 1)));
        let error = write(partition_plan(image(), &disk), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Disk(_)), "{at_mib}: {error:?}");
        assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false), "{at_mib}");
        let written = write(partition_plan(image(), &disk), disk.clone()).await.unwrap();
        assert_boots(&disk.bytes(), image(), &written);
    }
    for flushes in 0..5 {
        let disk = FakeDisk::new(old(), 512);
        disk.set(|state| state.flushes = Some(flushes));
        write(partition_plan(image(), &disk), disk.clone()).await.unwrap_err();
        assert!(!has_table(&disk.bytes()), "flush {flushes}");
    }
    let disk = FakeDisk::new(old(), 512);
    let mut plan = partition_plan(image(), &disk);
    plan.partitioning.as_mut().unwrap().format_ephemeral = Arc::new(|_| Err(io::Error::other("mke2fs said no")));
    let error = write(plan, disk.clone()).await.unwrap_err();
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
    insta::assert_snapshot!(transport::client::chain(&error), @"the image is not on fake disk: it is left without a partition table and does not boot: make the file system of the ephemeral partition: mke2fs said no");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_promised_image_gets_no_table() {
    let disk = FakeDisk::new(old(), 512);
    let mut other = partition_plan(image(), &disk);
    other.digest = Some(sha256(b"something else"));
    let error = write(other, disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Digest { .. }), "{error:?}");
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
    // Packed as a whole, it shows that only when it is on the disk.
    let error = write(partition_plan(&zstd(&without_kernel()), &disk), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Partition(PartitionError::NoKernel)), "{error:?}");
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
    let error = write(partition_plan(&image()[..12 * MIB], &disk), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Partition(PartitionError::Truncated { .. })), "{error:?}");
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
}

/// What would not boot is refused where it comes from, and what cannot be looked at there, when it is on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_would_not_boot_is_refused_before_the_disk_is_touched() {
    let image = without_kernel();
    let lab = Lab::new(image.clone());
    for (name, transported) in [
        ("raw", image.clone()),
        ("qcow2", lab.convert("", false)),
        ("qcow2 compressed", lab.convert("cluster_size=64k", true)),
    ] {
        let disk = FakeDisk::new(old(), 512);
        let error = write(partition_plan(&transported, &disk), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Partition(PartitionError::NoKernel)), "{name}: {error:?}");
        assert_eq!((error.state, disk.bytes() == old()), (DiskState::Untouched, true), "{name}");
    }
    let files: [(&str, &[u8]); 2] = [("boot/vmlinuz-1", b"kernel"), ("etc/kernel/cmdline", b"a='b'\n")];
    let image = root(&files, &["-t", "ext4"]);
    let disk = FakeDisk::new(old(), 512);
    let mut plan = bios_plan(Label::Gpt, &disk);
    plan.sources = partition_plan(&image, &disk).sources;
    let error = write(plan, disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Partition(PartitionError::CommandLine(_))), "{error:?}");
    assert_eq!((error.state, disk.bytes() == old()), (DiskState::Untouched, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_asked_for_parts_of_the_image_and_for_nothing_twice() {
    let plan = |server: &Server, disk: &FakeDisk, image: &[u8]| {
        let mut plan = partition_plan(image, disk);
        plan.sources = vec![from_url(&server.url, &Access::default()).unwrap()];
        plan
    };
    for (image, ranges, tag, state) in [
        (without_kernel(), true, true, DiskState::Untouched),
        (without_kernel(), false, true, DiskState::NoTable),
        // Parts without a tag could be of two images.
        (without_kernel(), true, false, DiskState::NoTable),
        (image().to_vec(), true, true, DiskState::Complete),
        (image().to_vec(), false, true, DiskState::Complete),
    ] {
        let answer = move |_| {
            let good = Answer::good();
            Answer { ignore_range: !ranges, etag: if tag { good.etag.clone() } else { String::new() }, ..good }
        };
        let server = Server::start(image.clone(), answer).await;
        let disk = FakeDisk::new(old(), 512);
        let result = write(plan(&server, &disk, &image), disk.clone()).await;
        assert_eq!(result.as_ref().map_or_else(|error| error.state, |_| DiskState::Complete), state, "{result:?}");
        assert_eq!(state == DiskState::Untouched, disk.bytes() == old());
        // A server without ranges is asked once for a part, and once for the image.
        let requests = server.seen().len();
        assert!(if ranges { requests < 20 } else { requests <= 3 }, "{requests} requests, ranges: {ranges}");
    }
}

/// What is seen before the digest is not verified: another source may have the right image.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_would_not_boot_is_looked_for_elsewhere() {
    let disk = FakeDisk::new(old(), 512);
    let mut plan = partition_plan(image(), &disk);
    plan.sources.splice(0..0, partition_plan(&without_kernel(), &disk).sources);
    assert_eq!(plan.sources.len(), 2);
    write(plan, disk.clone()).await.unwrap();
    assert!(has_table(&disk.bytes()));
}

/// Every prefix of what was sent to the disk: until the last write of the first MiB, nothing there boots.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_comes_last_and_after_a_flush() {
    let disk = FakeDisk::new(old(), 512);
    write(partition_plan(image(), &disk), disk.clone()).await.unwrap();
    let log = disk.state.lock().unwrap().log.clone();
    let at_head = |event: &Event| matches!(event, Event::Write { offset: 0, .. });
    let last = log.iter().rposition(at_head).unwrap();
    assert_eq!(log.iter().filter(|event| at_head(event)).count(), 2, "cleared once and written once");
    assert_eq!((&log[last - 1], &log[last + 1], last + 2), (&Event::Flush, &Event::Flush, log.len()));
    let tail = log.iter().rposition(|event| matches!(event, Event::Write { offset, .. } if *offset == 63 << 20));
    assert_eq!(log[tail.unwrap() - 1], Event::Flush, "all else is safe before the first copy of the table");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_partition_image_is_refused_before_a_byte_is_written() {
    let disk = FakeDisk::new(old(), 512);
    let magic = |at: usize, magic: &[u8]| {
        let mut image = vec![0; 2 * MIB];
        image[at..at + magic.len()].copy_from_slice(magic);
        image
    };
    let cases = [
        gpt_image(6, 512),
        vec![7; 2 * MIB],
        magic(0, b"XFSB"),
        magic(0x1_0040, b"_BHRfS_M"),
        magic(512, b"LABELONE"),
        root(&[], &["-t", "ext4", "-O", "inline_data"]),
        root(&[], &["-t", "ext4", "-O", "meta_bg,^resize_inode"]),
        Vec::new(),
        [image(), &vec![0; 9 * MIB]].concat(),
    ];
    let mut texts = Vec::new();
    for image in cases {
        let error = write(partition_plan(&image, &disk), disk.clone()).await.unwrap_err();
        // Only of what is packed or streamed without a length the size shows late.
        let untouched = error.state == DiskState::Untouched && disk.bytes() == old();
        texts.push(format!("{untouched}: {}", transport::client::chain(&error.cause)));
    }
    let mut plan = partition_plan(image(), &disk);
    plan.partitioning.as_mut().unwrap().root = 8 << 20;
    texts.push(write(plan, disk.clone()).await.unwrap_err().cause.to_string());
    let mut plan = partition_plan(image(), &disk);
    plan.partitioning.as_mut().unwrap().root = 64 << 20;
    texts.push(write(plan, disk.clone()).await.unwrap_err().cause.to_string());
    insta::assert_snapshot!(texts.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn preserved_scratch_space_stays_and_so_does_its_identity() {
    for label in [Label::Gpt, Label::Msdos] {
        let disk = FakeDisk::new(old(), 512);
        let plan = |preserve| {
            let mut plan = partition_plan(image(), &disk);
            let partitioning = plan.partitioning.as_mut().unwrap();
            (partitioning.label, partitioning.preserve_ephemeral) = (label, preserve);
            plan
        };
        let first = write(plan(false), disk.clone()).await.unwrap();
        let range = place(&first, Role::Ephemeral);
        let data = noise(range.len(), 11);
        disk.set(|state| state.bytes[range.clone()].copy_from_slice(&data));
        let ephemeral = first.partitions[1].clone();

        // A rebuild that fails leaves the data and how to find them, and nothing that boots.
        let mut wrong = plan(true);
        wrong.digest = Some(sha256(b"something else"));
        let error = write(wrong, disk.clone()).await.unwrap_err();
        assert_eq!(error.state, DiskState::OnlyEphemeral);
        let bytes = disk.bytes();
        assert!(bytes[range.clone()] == data[..]);
        let left: Vec<_> = match label {
            Label::Gpt => Gpt::parse_primary(&bytes[..MIB], 512).unwrap().used().map(|(number, _)| number).collect(),
            Label::Msdos => Mbr::parse(&bytes).unwrap().used().map(|(number, _)| number).collect(),
        };
        assert_eq!(left, [2], "{label:?}");
        assert!(bytes[..440].iter().all(|byte| *byte == 0), "boot code is left");

        let second = write(plan(true), disk.clone()).await.unwrap();
        assert!(disk.bytes()[range.clone()] == data[..], "the scratch space was not preserved");
        assert_eq!(second.partitions[1], ephemeral);
        if label == Label::Gpt {
            assert_ne!(second.partitions[3].uuid, first.partitions[3].uuid);
        }
        assert_boots(&disk.bytes(), image(), &second);
        // Without the word it is new.
        write(plan(false), disk.clone()).await.unwrap();
        assert!(disk.bytes()[range.clone()] != data[..]);
    }
}

/// A loss of power in the middle of a rebuild: what is preserved is found again from whatever has reached the disk.
#[tokio::test(flavor = "multi_thread")]
async fn preserved_scratch_space_is_in_a_table_after_every_write() {
    let disk = FakeDisk::new(old(), 512);
    let first = write(partition_plan(image(), &disk), disk.clone()).await.unwrap();
    let before = disk.bytes();
    disk.set(|state| state.log.clear());
    let mut plan = partition_plan(image(), &disk);
    plan.partitioning.as_mut().unwrap().preserve_ephemeral = true;
    write(plan, disk.clone()).await.unwrap();
    let log = disk.state.lock().unwrap().log.clone();
    let mut bytes = before;
    // The first MiB again, after it was cleared: all else is on the disk.
    let in_head = |event: &Event| matches!(event, Event::Write { offset, .. } if *offset < MIB as u64);
    let final_head = log.iter().skip(1).position(in_head).unwrap() + 1;
    let wanted = &first.partitions[1].uuid;
    let sectors = bytes.len() as u64 / 512;
    for (index, event) in log.iter().enumerate() {
        let Event::Write { offset, bytes: written } = event else { continue };
        bytes[*offset as usize..*offset as usize + written.len()].copy_from_slice(written);
        let primary = Gpt::parse_primary(&bytes[..MIB], 512);
        let end = bytes.len() - MIB;
        let found = primary.or_else(|_| Gpt::parse_backup(&bytes[end..], sectors, 512)).unwrap();
        assert!(found.used().any(|(_, entry)| entry.unique_guid.to_string() == *wanted), "write {index}");
        if index < final_head {
            assert_eq!(found.used().count(), 1, "write {index} leaves more than the scratch space");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_scratch_space_there_is_nothing_to_preserve_and_nothing_is_touched() {
    let disk = FakeDisk::new(old(), 512);
    let mut plan = partition_plan(image(), &disk);
    plan.partitioning.as_mut().unwrap().preserve_ephemeral = true;
    let error = write(plan, disk.clone()).await.unwrap_err();
    assert_eq!((error.state, disk.bytes() == old()), (DiskState::Untouched, true));
    insta::assert_snapshot!(error.cause, @"preserve_ephemeral is set, but fake disk has no partition at byte 26214400 with 8388608 bytes: nothing was touched; rebuild without preserve_ephemeral, or with the sizes of the last deploy");
}

/// Needs root and a free loop device, as the other test of one. mke2fs claims the device for itself, so it succeeds only
/// while the device is lent to it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn mke2fs_formats_the_scratch_space_of_a_device_that_is_held_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, old()).unwrap();
    let losetup = |args: &[&std::ffi::OsStr]| {
        let output = Command::new("losetup").args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let device = losetup(&["--find".as_ref(), "--show".as_ref(), path.as_os_str()]);
    let mut plan = partition_plan(image(), &FakeDisk::new(vec![0; 4 * MIB], 512));
    let on = device.clone();
    let format: crate::Formatter = Arc::new(move |range| {
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "ephemeral0", "-E"]);
        mke2fs
            .arg(format!("offset={},nodiscard", range.start))
            .arg(&on)
            .arg(format!("{}k", (range.end - range.start) >> 10));
        let output = mke2fs.output()?;
        if output.status.success() {
            Ok(())
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    });
    plan.partitioning.as_mut().unwrap().format_ephemeral = format.clone();
    let disk = crate::disk::open(device.as_ref()).unwrap();
    let refused = format(25 << 20..33 << 20).is_err();
    let result = crate::write(plan, disk, |_| {}, tokio_util::sync::CancellationToken::new()).await;
    losetup(&["--detach".as_ref(), device.as_ref()]);
    let written = result.unwrap();
    assert!(refused, "mke2fs took a device that is held");
    let bytes = std::fs::read(&path).unwrap();
    assert_boots(&bytes, image(), &written);
    let scratch = dir.path().join("scratch");
    std::fs::write(&scratch, &bytes[place(&written, Role::Ephemeral)]).unwrap();
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&scratch));
}
