//! Images that are refused before a byte is written.

use super::image::*;
use crate::decompress::DecompressError;
use crate::disk::fake::FakeDisk;
use crate::{Cause, DiskState, ImageError, Plan};
use std::io::Write;

/// The error of writing these bytes; the disk must not have been touched.
async fn refusal(plan: Plan, disk_mib: usize, sector: u32) -> Cause {
    let disk = FakeDisk::new(old_disk(disk_mib), sector);
    let error = write(plan, disk.clone()).await.unwrap_err();
    assert_eq!(error.state, DiskState::Untouched, "{error:?}");
    assert!(disk.state.lock().unwrap().log.is_empty(), "{error:?}");
    error.cause
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_image_is_refused() {
    assert!(matches!(refusal(plan(b""), 6, 512).await, Cause::Image(ImageError::Empty)));
    assert!(matches!(refusal(plan(&zstd(b"")), 6, 512).await, Cause::Image(ImageError::Empty)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_partitions_is_refused() {
    let cause = refusal(plan(&noise(5 * MIB, 3)), 6, 512).await;
    insta::assert_snapshot!(cause, @"the image has no partition table: it is not a whole-disk image");
    assert!(matches!(refusal(plan(&mbr_image(5, 0)), 6, 512).await, Cause::Image(ImageError::NoPartitions)));
    assert!(matches!(refusal(plan(b"short"), 6, 512).await, Cause::Image(ImageError::NoTable)));
    let mut empty = vec![0; 5 * MIB];
    let gpt = media::gpt::Gpt::new(media::gpt::Guid([1; 16]), 512, 10240).unwrap();
    media::gpt::mbr::Mbr::protective(10240).write(&mut empty).unwrap();
    gpt.write_primary(&mut empty).unwrap();
    assert!(matches!(refusal(plan(&empty), 6, 512).await, Cause::Image(ImageError::NoPartitions)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_larger_than_the_disk_is_refused() {
    let cause = refusal(plan(&gpt_image(8, 512)), 6, 512).await;
    insta::assert_snapshot!(cause, @"the image has 8388608 bytes, fake disk has 6291456");
    // A zstd frame may say what it holds.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.set_pledged_src_size(Some(8 << 20)).unwrap();
    encoder.include_contentsize(true).unwrap();
    encoder.write_all(&gpt_image(8, 512)).unwrap();
    let cause = refusal(plan(&encoder.finish().unwrap()), 6, 512).await;
    insta::assert_snapshot!(cause, @"the image has at least 8388608 bytes, fake disk has 6291456");
    // If it does not, the table of the image does.
    let cause = refusal(plan(&zstd(&gpt_image(8, 512))), 6, 512).await;
    assert!(matches!(cause, Cause::Image(ImageError::Gpt(_))), "{cause:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_outgrows_the_disk_on_the_way_leaves_no_table() {
    let mut image = gpt_image(5, 512);
    image.resize(8 * MIB, 1);
    let disk = FakeDisk::new(old_disk(6), 512);
    let error = write(plan(&zstd(&image)), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Image(ImageError::TooLarge { .. })), "{error:?}");
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_other_sectors_is_explained() {
    let cause = refusal(plan(&gpt_image(5, 512)), 6, 4096).await;
    insta::assert_snapshot!(cause, @"the image is made for 512-byte sectors, the disk has 4096-byte sectors: its partition table would not be found; build the image for 4096-byte sectors");
    let cause = refusal(plan(&gpt_image(5, 4096)), 6, 512).await;
    assert!(matches!(cause, Cause::Image(ImageError::SectorSize { image: 4096, disk: 512 })), "{cause:?}");
    let disk = FakeDisk::new(old_disk(6), 4096);
    write(plan(&gpt_image(5, 4096)), disk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_image_is_refused() {
    let image = gpt_image(8, 512);
    let cause = refusal(plan(&image[..4 * MIB]), 9, 512).await;
    assert!(matches!(cause, Cause::Image(ImageError::Truncated { .. })), "{cause:?}");
    // Packed, it only shows at the end.
    let disk = FakeDisk::new(old_disk(9), 512);
    let error = write(plan(&zstd(&image[..4 * MIB])), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Image(ImageError::Truncated { .. })), "{error:?}");
    assert!(!has_table(&disk.bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_44082_other_formats_and_packings_are_refused_by_name() {
    let formats = [
        (&b"QFI\xfb\0\0\0\x01"[..], "qcow (version 1)"),
        (b"KDMV", "vmdk"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vhd"),
        (b"LUKS\xba\xbe", "LUKS"),
    ];
    for (magic, name) in formats {
        let mut image = noise(5 * MIB, 4);
        image[..magic.len()].copy_from_slice(magic);
        let cause = refusal(plan(&image), 6, 512).await;
        assert!(matches!(cause, Cause::Image(ImageError::Format(found)) if found == name), "{cause:?}");
    }
    let cause = refusal(plan(b"BZh91AYaaaaaaaaaaaaaaaaaaaaaaaaaaa"), 6, 512).await;
    assert!(matches!(cause, Cause::Decompress(DecompressError::Unsupported("bzip2"))), "{cause:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_does_not_fit_the_budget_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&gpt_image(5, 512)).unwrap();
    let packed = encoder.finish().unwrap();
    let cause = refusal(plan(&packed), 6, 512).await;
    assert!(matches!(cause, Cause::Decompress(DecompressError::Window { .. })), "{cause:?}");
    let mut enough = plan(&packed);
    enough.budget = 256 << 20;
    write(enough, FakeDisk::new(old_disk(6), 512)).await.unwrap();
    let mut tiny = plan(&packed);
    tiny.budget = 1 << 20;
    assert!(matches!(refusal(tiny, 6, 512).await, Cause::Budget(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_table_and_a_tiny_disk_are_refused() {
    let mut image = gpt_image(5, 512);
    image[600] ^= 1;
    assert!(matches!(refusal(plan(&image), 6, 512).await, Cause::Image(ImageError::Gpt(_))));
    assert!(matches!(refusal(plan(&image), 3, 512).await, Cause::Image(ImageError::DiskTooSmall { .. })));
    let mut none = plan(&image);
    none.sources.clear();
    assert!(matches!(refusal(none, 6, 512).await, Cause::NoSource));
}
