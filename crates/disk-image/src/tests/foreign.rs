//! What is no image for a disk, or pretends to be another one: refused by name, before a byte is written. The bases are
//! made by the tools themselves (qemu-img, xorriso, tar); bytes are changed where no tool would make the file.

use super::image::*;
use super::qcow2::{Lab, mixed_image, qcow2_plan, run};
use crate::disk::fake::FakeDisk;
use crate::{Cause, DiskState, Format, ImageError, Plan};
use media::gpt::mbr::Mbr;
use media::gpt::{Entry, Gpt, Guid};
use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// The error of a plan, in words; the disk must not have been touched.
async fn refusal(plan: Plan) -> (Cause, String) {
    refusal_by(plan, 10).await
}

/// As [`refusal`], for a disk of so many MiB.
async fn refusal_by(plan: Plan, mib: usize) -> (Cause, String) {
    let disk = FakeDisk::new(vec![0x5a; mib * MIB], 512);
    let error = write(plan, disk.clone()).await.unwrap_err();
    assert_eq!(error.state, DiskState::Untouched, "{error:?}");
    assert!(disk.state.lock().unwrap().log.is_empty(), "{error:?}");
    let text = transport::client::chain(&error.cause);
    (error.cause, text)
}

fn declared(bytes: &[u8], format: Option<Format>) -> Plan {
    Plan { format, ..plan(bytes) }
}

/// A disk image in all formats that QEMU's tool can make, but raw and qcow2.
fn foreign_images() -> Vec<(&'static str, Vec<u8>)> {
    let lab = Lab::new(mixed_image(7));
    let (raw, to) = (lab.path("raw"), lab.path("to"));
    let convert = |arguments: &[&str]| {
        run(Command::new("qemu-img").args(["convert", "-f", "raw"]).args(arguments).arg(&raw).arg(&to));
        std::fs::read(&to).unwrap()
    };
    let mut made = vec![
        ("vmdk", convert(&["-O", "vmdk"])),
        ("vmdk", convert(&["-O", "vmdk", "-o", "subformat=streamOptimized"])),
        ("a vmdk descriptor", convert(&["-O", "vmdk", "-o", "subformat=monolithicFlat"])),
        ("vhd", convert(&["-O", "vpc"])),
        ("vhdx", convert(&["-O", "vhdx"])),
        ("vdi", convert(&["-O", "vdi"])),
        ("qed", convert(&["-O", "qed"])),
        ("parallels", convert(&["-O", "parallels"])),
        ("qcow (version 1)", convert(&["-O", "qcow"])),
    ];
    let iso = lab.path("iso");
    run(Command::new("xorriso").args(["-as", "mkisofs", "-quiet", "-o"]).arg(&iso).arg(lab.path("raw")));
    made.push(("an ISO 9660 image", std::fs::read(iso).unwrap()));
    made.push(("a tar archive (an OVA is one)", {
        run(Command::new("tar").arg("-C").arg(lab.path("")).arg("-cf").arg(&to).arg("raw"));
        std::fs::read(&to).unwrap()
    }));
    made.push(("an HTML page", b"<!DOCTYPE html><title>Sign in</title>".to_vec()));
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_44082_images_of_other_tools_are_refused_by_name_however_declared_or_packed() {
    let large = 40;
    for (name, image) in foreign_images() {
        for (packing, bytes) in [("", image.clone()), ("zstd", zstd(&image))] {
            let (cause, text) = refusal_by(declared(&bytes, None), large).await;
            let named = matches!(cause, Cause::Image(ImageError::Format(found)) if found == name);
            assert!(named, "{name} {packing}: {text}");
            let (cause, text) = refusal_by(declared(&bytes, Some(Format::Raw)), large).await;
            let named = matches!(cause, Cause::Image(ImageError::Declared { declared: "raw", found }) if found == name);
            assert!(named, "{name} {packing}: {text}");
        }
        // A qcow2 is told from the rest by its very first bytes; what else it is may lie farther behind.
        let (cause, text) = refusal_by(declared(&image, Some(Format::Qcow2)), large).await;
        let refused = match cause {
            Cause::Image(ImageError::Declared { declared, .. }) => declared == "qcow2",
            // Its first bytes are the same; the next ones are the version.
            Cause::Qcow2(_) => name == "qcow (version 1)" && text.contains("version is 1"),
            _ => false,
        };
        assert!(refused, "{name}: {text}");
    }
}

/// Only its last 512 bytes tell it from a raw image: what is on the disk by then does not boot.
#[tokio::test(flavor = "multi_thread")]
async fn a_vhd_of_fixed_size_is_refused_at_its_footer() {
    let lab = Lab::new(gpt_image(5, 512));
    let to = lab.path("to");
    let options = ["convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size"];
    run(Command::new("qemu-img").args(options).arg(lab.path("raw")).arg(&to));
    let image = std::fs::read(to).unwrap();
    for bytes in [image.clone(), zstd(&image)] {
        let disk = FakeDisk::new(vec![0x5a; 10 * MIB], 512);
        let error = write(plan(&bytes), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Image(ImageError::Format("vhd"))), "{error:?}");
        assert_eq!(error.state, DiskState::NoTable);
        assert!(!has_table(&disk.bytes()));
    }
}

/// A DOS partition table and boot signature in the first sector of something else.
fn with_boot_sector(mut image: Vec<u8>) -> Vec<u8> {
    let mut mbr = Mbr { signature: 0x00c0_ffee, ..Mbr::default() };
    mbr.add(media::gpt::mbr::LINUX, 2048..4096).unwrap();
    mbr.write(&mut image).unwrap();
    image
}

/// CVE-2024-32498: a qcow2 whose data lies in another file of whoever reads it, dressed as something harmless.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_32498_a_qcow2_in_the_clothes_of_a_raw_image_or_of_an_iso_is_neither() {
    let lab = Lab::new(mixed_image(7));
    let good = lab.convert("", false);
    let target = lab.path("passwd");
    std::fs::write(&target, vec![7; 7 << 20]).unwrap();
    let make = |arguments: &[&str], name: &str| {
        let path = lab.path(name);
        run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(arguments).arg(&path).arg("7M"));
        std::fs::read(path).unwrap()
    };
    let data_file = format!("data_file={},data_file_raw=on", target.display());
    let other_data = make(&["-o", &data_file], "external");
    let backed = make(&["-b", target.to_str().unwrap(), "-F", "raw"], "backed");
    let with_iso = |mut image: Vec<u8>| {
        let len = image.len().max(40_000);
        image.resize(len, 0);
        image[32769..32774].copy_from_slice(b"CD001");
        image
    };
    let mut text = String::new();
    for (name, image) in [("plain", &good), ("other data file", &other_data), ("backing file", &backed)] {
        let disguises = [
            ("boot sector", with_boot_sector(image.clone())),
            ("ISO label", with_iso(image.clone())),
            ("none", image.clone()),
        ];
        for (disguise, bytes) in disguises {
            for bytes in [bytes.clone(), gzip(&bytes)] {
                let (cause, said) = refusal(declared(&bytes, Some(Format::Raw))).await;
                let as_raw = matches!(cause, Cause::Image(ImageError::Declared { declared: "raw", found: "qcow2" }));
                assert!(as_raw, "{name} {disguise}: {said}");
            }
            if name == "plain" {
                continue;
            }
            let (_, as_qcow2) = refusal(qcow2_plan(&bytes)).await;
            let (_, undeclared) = refusal(declared(&bytes, None)).await;
            assert_eq!(as_qcow2, undeclared, "{name} {disguise}");
            writeln!(text, "{name}, {disguise}: {undeclared}").unwrap();
        }
    }
    let text = text.replace(target.to_str().unwrap(), "TARGET");
    insta::assert_snapshot!(text);
    // What is good as a qcow2 stays one, whatever its first sector pretends.
    let disk = FakeDisk::new(old_disk(10), 512);
    write(qcow2_plan(&with_boot_sector(good)), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &lab.raw, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_images_with_the_first_bytes_of_another_format_are_that_format() {
    let image = gpt_image(7, 512);
    for (magic, name) in
        [(&b"KDMV"[..], "vmdk"), (b"LUKS\xba\xbe", "LUKS"), (b"vhdxfile", "vhdx"), (b"conectix", "vhd")]
    {
        let mut dressed = image.clone();
        dressed[..magic.len()].copy_from_slice(magic);
        let (cause, text) = refusal(declared(&dressed, None)).await;
        assert!(matches!(cause, Cause::Image(ImageError::Format(found)) if found == name), "{text}");
    }
    // A qcow2 in a qcow2 is no disk, and no reason to begin again and again.
    let inner = Lab::new(mixed_image(7)).convert("", false);
    let outer = Lab::new(inner).convert("", false);
    let (cause, text) = refusal(declared(&outer, None)).await;
    assert!(matches!(cause, Cause::Image(ImageError::Format("qcow2"))), "{text}");
}

/// Packs bytes.
type Pack = fn(&[u8]) -> Vec<u8>;

/// A disk image of 8 MiB and 1 GiB of zeros behind it, packed.
fn bomb(pack: Pack) -> Vec<u8> {
    let (mut packed, zeros) = (pack(&gpt_image(8, 512)), pack(&vec![0; MIB]));
    for _ in 0..1024 {
        packed.extend_from_slice(&zeros);
    }
    packed
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_at_the_end_of_the_disk_in_bounded_time() {
    let packings: [Pack; 3] = [zstd, gzip, xz];
    for packed in packings.map(bomb) {
        assert!(packed.len() < 30 << 20, "{}", packed.len());
        let disk = FakeDisk::new(old_disk(10), 512);
        let start = Instant::now();
        let error = write(plan(&packed), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Image(ImageError::TooLarge { at_least: true, .. })), "{error:?}");
        assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_size_that_no_disk_has_is_refused_at_once() {
    // A zstd frame that announces 2^60 bytes in a window of 1 KiB (RFC 8878, 3.1.1.1): nothing is unpacked for it.
    let mut frame = 0xfd2f_b528_u32.to_le_bytes().to_vec();
    frame.extend([0xc0, 0x00]);
    frame.extend((1_u64 << 60).to_le_bytes());
    frame.extend([0; 64]);
    let (cause, text) = refusal(plan(&frame)).await;
    assert!(matches!(cause, Cause::Image(ImageError::TooLarge { image, .. }) if image == 1 << 60), "{text}");
}

/// A GPT image whose header and entries can be changed; the checksums are made to fit again.
fn forged_gpt(change: impl FnOnce(&mut [u8], &mut [u8])) -> Vec<u8> {
    let mut image = gpt_image(8, 512);
    let (header, entries) = image[512..].split_at_mut(512);
    change(header, &mut entries[..128 * 128]);
    let count = u32::from_le_bytes(header[80..84].try_into().unwrap()) as usize;
    let size = u32::from_le_bytes(header[84..88].try_into().unwrap()) as usize;
    let covered = count.saturating_mul(size).min(entries.len());
    let crc = crc32fast::hash(&entries[..covered]);
    header[88..92].copy_from_slice(&crc.to_le_bytes());
    header[16..20].fill(0);
    let len = (u32::from_le_bytes(header[12..16].try_into().unwrap()) as usize).min(512);
    let crc = crc32fast::hash(&header[..len]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    image
}

fn put(bytes: &mut [u8], at: usize, value: u64, len: usize) {
    bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_tables_that_cannot_be_meant_are_refused_with_the_field() {
    type Change = Box<dyn FnOnce(&mut [u8], &mut [u8])>;
    let header =
        |at: usize, value: u64, len: usize| -> Change { Box::new(move |header, _| put(header, at, value, len)) };
    let entry = |at: usize, value: u64| -> Change { Box::new(move |_, entries| put(entries, at, value, 8)) };
    let cases: Vec<(&str, Change)> = vec![
        ("header of 0 bytes", header(12, 0, 4)),
        ("header of 4 GiB", header(12, u64::from(u32::MAX), 4)),
        ("it says to lie elsewhere", header(24, 7, 8)),
        ("backup before the data", header(32, 5, 8)),
        ("first usable sector 0", header(40, 0, 8)),
        ("first usable sector at the end of the world", header(40, u64::MAX, 8)),
        ("last usable sector before the first", header(48, 3, 8)),
        ("last usable sector at the end of the world", header(48, u64::MAX, 8)),
        ("entries in the header", header(72, 1, 8)),
        ("entries at the end of the world", header(72, u64::MAX, 8)),
        ("no slots", header(80, 0, 4)),
        ("4 billion slots", header(80, u64::from(u32::MAX), 4)),
        ("slots of 0 bytes", header(84, 0, 4)),
        ("slots of 1 byte", header(84, 1, 4)),
        ("slots of 2 GiB", header(84, 1 << 31, 4)),
        ("partition in the table itself", entry(32, 2)),
        ("partition that ends before it starts", entry(40, 100)),
        ("partition that ends at the end of the world", entry(40, u64::MAX)),
        ("partition over the other one", entry(40, 5000)),
    ];
    let mut text = String::new();
    for (name, change) in cases {
        let (_, said) = refusal(plan(&forged_gpt(change))).await;
        writeln!(text, "{name}: {said}").unwrap();
    }
    // Two headers that contradict each other: the one for other sectors decides what firmware would see.
    let mut two = gpt_image(8, 512);
    let other = gpt_image(8, 4096);
    two[4096..4096 + 92].copy_from_slice(&other[4096..4096 + 92]);
    two[512] = b'x';
    writeln!(text, "header for 4 KiB sectors only: {}", refusal(plan(&two)).await.1).unwrap();
    let mut dos = mbr_image(8, 2);
    dos[446 + 8..446 + 16].fill(0xff);
    writeln!(text, "DOS partition at the end of the world: {}", refusal(plan(&dos)).await.1).unwrap();
    insta::assert_snapshot!(text);
}

/// Partitions of a DOS table may be nested in nonsense; nobody follows them here, and the disk gets what the image has.
#[tokio::test(flavor = "multi_thread")]
async fn an_extended_partition_that_points_to_itself_is_not_followed() {
    let mut image = mbr_image(8, 1);
    let mut mbr = Mbr::parse(&image).unwrap();
    mbr.add(0x0f, 4096..8192).unwrap();
    mbr.write(&mut image).unwrap();
    let first = image[..512].to_vec();
    image[4096 * 512..4097 * 512].copy_from_slice(&first);
    let disk = FakeDisk::new(old_disk(10), 512);
    let written = write(plan(&image), disk).await.unwrap();
    assert_eq!(written.partitions.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpt_whose_backup_lies_about_everything_is_written_with_a_backup_of_our_own() {
    let mut image = gpt_image(8, 512);
    let end = image.len() - 33 * 512;
    image[end..].fill(0x5a);
    let disk = FakeDisk::new(old_disk(10), 512);
    write(plan(&image), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes()[..], &image, 2);
    // As large as the disk, too.
    let mut gpt = Gpt::new(Guid([9; 16]), 512, 10 * 2048).unwrap();
    gpt.add(Entry::new(Guid::LINUX_DATA, Guid([8; 16]), 2048..=4095, "x")).unwrap();
    let mut image = noise(10 * MIB, 5);
    Mbr::protective(10 * 2048).write(&mut image).unwrap();
    gpt.write_primary(&mut image).unwrap();
    let disk = FakeDisk::new(old_disk(10), 512);
    write(plan(&image), disk.clone()).await.unwrap();
    let backup = Gpt::parse_backup(&disk.bytes()[9 * MIB..], 10 * 2048, 512).unwrap();
    assert_eq!(backup.disk_guid, gpt.disk_guid);
}
