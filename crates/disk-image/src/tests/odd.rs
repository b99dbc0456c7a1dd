//! Servers, images and disks that are odd rather than broken: what a reviewer would try.

use super::image::*;
use super::qcow2::{Lab, mixed_image};
use super::server::{Answer, Server};
use crate::disk::fake::FakeDisk;
use crate::fetch::FetchError;
use crate::source::{Access, SourceError, from_url};
use crate::{Cause, Digest, DiskState, ImageError, Plan};

const SECTOR: usize = 512;

fn plan_for(server: &Server, digest: Option<Digest>) -> Plan {
    let mut plan = Plan::new(from_url(&server.url, &Access::default()).unwrap(), digest);
    impatient(&mut plan);
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_the_announced_bytes_is_not_the_image() {
    let image = gpt_image(5, 512);
    let server = Server::start(image.clone(), |_| Answer { extra: 3 * MIB, ..Answer::good() }).await;
    let disk = FakeDisk::new(old_disk(10), 512);
    let written = write(plan_for(&server, Some(sha256(&image))), disk.clone()).await.unwrap();
    assert_eq!(written.bytes_in, image.len() as u64);
    assert_holds(&disk.bytes(), &image, 2);
}

/// Without a length, only the digest tells that the connection ended too early or too late.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_length_is_written_and_its_end_is_judged_by_the_digest() {
    let image = gpt_image(5, 512);
    for (extra, cut, good) in [(0, None, true), (4096, None, false), (0, Some(4 * MIB + 9), false)] {
        let server =
            Server::start(image.clone(), move |_| Answer { endless: true, extra, cut, ..Answer::good() }).await;
        let disk = FakeDisk::new(old_disk(10), 512);
        let result = write(plan_for(&server, Some(sha256(&image))), disk.clone()).await;
        if good {
            result.unwrap();
            assert_holds(&disk.bytes(), &image, 2);
            continue;
        }
        let error = result.unwrap_err();
        let told = matches!(error.cause, Cause::Digest { .. } | Cause::Image(ImageError::Truncated { .. }));
        assert!(told, "{error:?}");
        assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
        // Sent for ever, it ends where the disk ends.
        write(plan(&image), disk.clone()).await.unwrap();
    }
    let endless = Server::start(image.clone(), |_| Answer { endless: true, extra: 6 * MIB, ..Answer::good() }).await;
    let disk = FakeDisk::new(old_disk(10), 512);
    let error = write(plan_for(&endless, None), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Image(ImageError::TooLarge { at_least: true, .. })), "{error:?}");
    assert!(!has_table(&disk.bytes()));
}

/// A server may answer with less than it was asked for (RFC 9110, section 14.2); what is missing is asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_are_shorter_than_asked_for_are_put_together() {
    let image = gpt_image(5, 512);
    let server = Server::start(image.clone(), |n| Answer {
        cut: (n == 0).then_some(MIB + 7),
        portion: Some(700_001),
        ..Answer::good()
    })
    .await;
    let disk = FakeDisk::new(old_disk(10), 512);
    write(plan_for(&server, Some(sha256(&image))), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);
    assert!(server.seen().len() > 5, "{:?}", server.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_nobody_asked_for_is_not_the_image() {
    let image = gpt_image(5, 512);
    let server = Server::start(image.clone(), |_| Answer { partial: true, ..Answer::good() }).await;
    let disk = FakeDisk::new(old_disk(10), 512);
    let error = write(plan_for(&server, None), disk.clone()).await.unwrap_err();
    let Cause::Fetch(FetchError::Source { source: SourceError::Status { status: 206, .. }, .. }) = error.cause else {
        panic!("{error:?}")
    };
    assert_eq!((error.state, disk.bytes() == old_disk(10)), (DiskState::Untouched, true));
}

/// A weak tag says that two contents are as good as equal, not that they are equal: it binds no continuation, but a
/// difference tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_weak_tag_binds_no_continuation_and_its_change_is_noticed() {
    let image = gpt_image(5, 512);
    for (then, good) in [("W/\"1\"", true), ("W/\"2\"", false)] {
        let server = Server::start(image.clone(), move |n| match n {
            0 => Answer { cut: Some(3 * MIB), etag: "W/\"1\"".into(), ..Answer::default() },
            _ => Answer { etag: then.into(), ..Answer::default() },
        })
        .await;
        let disk = FakeDisk::new(old_disk(10), 512);
        let result = write(plan_for(&server, Some(sha256(&image))), disk.clone()).await;
        assert_eq!(result.is_ok(), good, "{result:?}");
        assert_eq!(has_table(&disk.bytes()), good);
        assert!(server.seen().iter().all(|seen| seen.if_range.is_none()));
    }
}

/// To the sector: an image as large as the disk is written, one sector more is not, however it is packed.
#[tokio::test(flavor = "multi_thread")]
async fn one_sector_too_many_is_too_many() {
    let lab = Lab::new([gpt_image(6, 512), vec![0x77; SECTOR]].concat());
    let kinds = [
        ("raw", lab.raw.clone(), true),
        ("zstd", zstd(&lab.raw), false),
        ("gzip", gzip(&lab.raw), false),
        ("xz", xz(&lab.raw), false),
        ("qcow2", lab.convert("", false), true),
        ("qcow2 of zlib", lab.convert("", true), true),
    ];
    for (kind, transported, known_before) in kinds {
        // qemu-img rounds the size of the disk up.
        let fits = match transported.starts_with(b"QFI") {
            true => u64::from_be_bytes(transported[24..32].try_into().unwrap()) as usize,
            false => lab.raw.len(),
        };
        let disk = FakeDisk::new(vec![0xee; fits - SECTOR], 512);
        let error = write(plan(&transported), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Image(ImageError::TooLarge { .. })), "{kind}: {error:?}");
        assert!(!has_table(&disk.bytes()), "{kind}");
        if known_before {
            assert_eq!(error.state, DiskState::Untouched, "{kind}: {error:?}");
        }
        let disk = FakeDisk::new(vec![0xee; fits], 512);
        write(plan(&transported), disk.clone()).await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_holds(&disk.bytes(), &lab.raw, 2);
    }
}

/// A logical volume or a faulty drive that loses its end while it is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_shrinks_under_the_write_leaves_no_table() {
    let image = gpt_image(8, 512);
    for (kind, transported) in [("raw", image.clone()), ("zstd", zstd(&image))] {
        for mib in [1, 3, 6, 9] {
            let disk = FakeDisk::new(old_disk(10), 512);
            // Clearing both ends still works.
            disk.set(|state| state.shrinks = Some((2, (mib * MIB) as u64)));
            let error = write(plan(&transported), disk.clone()).await.unwrap_err();
            assert!(matches!(error.cause, Cause::Disk(_)), "{kind} {mib}: {error:?}");
            assert!(!has_table(&disk.bytes()), "{kind} {mib}");
            disk.set(|state| state.shrinks = None);
            write(plan(&transported), disk.clone()).await.unwrap();
            assert_holds(&disk.bytes(), &image, 2);
        }
    }
}

/// The backup alone is a table to some programs; to firmware it is none.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_a_table_at_its_end_only_has_none() {
    let mut image = gpt_image(6, 512);
    image[..34 * SECTOR].fill(0);
    let disk = FakeDisk::new(old_disk(10), 512);
    let error = write(plan(&image), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Image(ImageError::NoTable)), "{error:?}");
    assert_eq!((error.state, disk.bytes() == old_disk(10)), (DiskState::Untouched, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_images_with_something_behind_them_leave_no_table() {
    let image = gpt_image(6, 512);
    for (kind, packed) in [("zstd", zstd(&image)), ("gzip", gzip(&image)), ("xz", xz(&image))] {
        let disk = FakeDisk::new(old_disk(10), 512);
        let garbage = [&packed[..], b"garbage behind it"].concat();
        let error = write(plan(&garbage), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Decompress(_)), "{kind}: {error:?}");
        assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false), "{kind}");
        write(plan(&packed), disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &image, 2);
    }
}

/// A qcow2 whose file was cut within its last cluster reads as zeros there; one that lacks a whole cluster is truncated.
#[tokio::test(flavor = "multi_thread")]
async fn a_qcow2_that_is_shorter_than_its_tables_say_is_truncated() {
    let lab = Lab::new(mixed_image(7));
    for compressed in [false, true] {
        let good = lab.convert("", compressed);
        let disk = FakeDisk::new(old_disk(10), 512);
        let error = write(plan(&good[..good.len() - (64 << 10)]), disk.clone()).await.unwrap_err();
        let Cause::Qcow2(crate::Qcow2Error::Truncated { bytes, needed }) = error.cause else { panic!("{error:?}") };
        assert!(bytes < needed);
        assert_eq!((error.state, disk.bytes() == old_disk(10)), (DiskState::Untouched, true));
    }
}

/// A qcow2 has more bytes than the disk in it when little of that is zero: its own size counts, declared or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_qcow2_with_a_file_larger_than_the_disk_is_written_when_its_disk_fits() {
    let lab = Lab::new(gpt_image(6, 512));
    let qcow2 = lab.convert("", false);
    assert!(qcow2.len() > lab.raw.len());
    for format in [None, Some(crate::Format::Qcow2)] {
        let disk = FakeDisk::new(old_disk(6), 512);
        write(Plan { format, ..plan(&qcow2) }, disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &lab.raw, 2);
    }
}
