//! What goes wrong at the disk.

use super::image::*;
use crate::disk::fake::{Event, FakeDisk};
use crate::{Cause, DiskState};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[tokio::test(flavor = "multi_thread")]
async fn a_write_error_anywhere_leaves_no_table() {
    let image = gpt_image(6, 512);
    for (errno, at_mib) in [(EIO, 1), (ENOSPC, 3), (EIO, 5), (EIO, 7)] {
        let disk = FakeDisk::new(old_disk(9), 512);
        disk.set(|state| state.fail_write = Some((at_mib << 20, errno, 1)));
        let error = write(plan(&image), disk.clone()).await.unwrap_err();
        let Cause::Disk(cause) = &error.cause else { panic!("{error:?}") };
        assert_eq!(cause.source.raw_os_error(), Some(errno));
        assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false), "{at_mib}");
        // The fault is over: the next attempt succeeds.
        write(plan(&image), disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &image, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_cleared_is_said_to_be_so() {
    let disk = FakeDisk::new(old_disk(9), 512);
    disk.set(|state| state.fail_write = Some((0, EIO, u32::MAX)));
    let error = write(plan(&gpt_image(6, 512)), disk).await.unwrap_err();
    assert_eq!(error.state, DiskState::Unknown);
    insta::assert_snapshot!(transport::client::chain(&error), @"the image is not on fake disk: it could not be cleared, treat what is on it as unverified: write fake disk at byte 0: Input/output error (os error 5)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_fails_never_leaves_a_table() {
    let image = gpt_image(6, 512);
    for flushes in 0..4 {
        let disk = FakeDisk::new(old_disk(9), 512);
        disk.set(|state| state.flushes = Some(flushes));
        let error = write(plan(&image), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Disk(_)), "{error:?}");
        assert!(!has_table(&disk.bytes()), "flush {flushes}");
    }
    let disk = FakeDisk::new(old_disk(9), 512);
    disk.set(|state| state.flushes = Some(4));
    write(plan(&image), disk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn short_writes_and_reads_are_continued() {
    let image = gpt_image(6, 512);
    let disk = FakeDisk::new(old_disk(9), 512);
    disk.set(|state| state.at_most = Some(4096));
    write(plan(&zstd(&image)), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_loses_writes_is_found_out() {
    for lost in [0..1, 2 << 20..3 << 20, 8 << 20..9 << 20] {
        let disk = FakeDisk::new(old_disk(9), 512);
        disk.set(|state| state.loses = Some(lost.clone()));
        let error = write(plan(&gpt_image(6, 512)), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::ReadBack { .. }), "{error:?}");
        if lost.start != 0 {
            assert!(disk.bytes()[..MIB].iter().all(|&byte| byte == 0));
        }
    }
}

/// Sampling would have to be lucky to find these.
#[tokio::test(flavor = "multi_thread")]
async fn full_verification_finds_every_lost_write() {
    let image = gpt_image(120, 512);
    let lab = super::qcow2::Lab::new(image.clone());
    for transported in [image.clone(), lab.convert("", false)] {
        for mib in [60, 62] {
            let disk = FakeDisk::new(old_disk(123), 512);
            disk.set(|state| state.loses = Some(mib << 20..(mib + 1) << 20));
            let mut full = plan(&transported);
            let sampled = write(full.clone(), disk.clone()).await;
            assert!(sampled.is_ok(), "the samples of this test are meant to miss it: {sampled:?}");
            full.verify = crate::Verify::Full;
            let error = write(full, disk.clone()).await.unwrap_err();
            assert!(matches!(error.cause, Cause::ReadBack { offset, .. } if offset >> 20 == mib), "{error:?}");
            assert!(!has_table(&disk.bytes()));
        }
    }
}

/// Every prefix of what was sent to the disk, as a loss of power would leave it on a disk that keeps the order. Until
/// the last write of the first MiB there is nothing at the start that boots; and before that write comes a flush.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_mib_comes_last_and_after_a_flush() {
    let image = gpt_image(6, 512);
    let old = old_disk(9);
    let disk = FakeDisk::new(old.clone(), 512);
    write(plan(&image), disk.clone()).await.unwrap();
    let log = disk.state.lock().unwrap().log.clone();
    let at_head = |event: &Event| matches!(event, Event::Write { offset: 0, .. });
    let clear = log.iter().position(at_head).unwrap();
    let last = log.iter().rposition(at_head).unwrap();
    assert_eq!(clear, 0, "clearing comes before everything else");
    assert_eq!(log.iter().filter(|event| at_head(event)).count(), 2);
    assert_eq!((&log[2], &log[last - 1], &log[last + 1]), (&Event::Flush, &Event::Flush, &Event::Flush));
    assert_eq!(last + 2, log.len(), "nothing is written after the first MiB");
    let mut bytes = old;
    for event in &log[..last] {
        if let Event::Write { offset, bytes: written } = event {
            bytes[*offset as usize..*offset as usize + written.len()].copy_from_slice(written);
        }
        assert!(bytes[..MIB].iter().all(|&byte| byte == 0));
    }
    // The data is on the disk, and safe, before the backup table is written.
    let backup = log.iter().rposition(|event| matches!(event, Event::Write { offset, .. } if *offset == 8 << 20));
    assert_eq!(log[backup.unwrap() - 1], Event::Flush);
}

/// A loss of power leaves any subset of the writes since the last flush, each of them whole, in part or not at all.
/// On a disk that held a bootable system before, none of these states has a table, unless the image is complete.
#[tokio::test(flavor = "multi_thread")]
async fn no_loss_of_power_leaves_a_disk_that_boots_before_it_is_complete() {
    let (image, old) = (gpt_image(6, 512), old_disk(9));
    let lab = super::qcow2::Lab::new(image.clone());
    for plan in [plan(&image), plan(&lab.convert("cluster_size=256k", true))] {
        let disk = FakeDisk::new(old.clone(), 512);
        write(plan, disk.clone()).await.unwrap();
        let log = disk.state.lock().unwrap().log.clone();
        let (mut safe, mut since, mut dice, mut cleared) = (old.clone(), Vec::new(), 7_u32, false);
        for event in &log {
            match event {
                Event::Write { offset, bytes } => since.push((*offset as usize, bytes)),
                Event::Flush => {
                    for (offset, bytes) in since.drain(..) {
                        safe[offset..offset + bytes.len()].copy_from_slice(bytes);
                    }
                    // Before the first flush, the old system may still be there.
                    cleared = true;
                    continue;
                }
            }
            for _ in 0..8 {
                let mut state = safe.clone();
                for (offset, bytes) in &since {
                    dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let sectors = bytes.len() / 512;
                    let len = match dice >> 30 {
                        0 => 0,
                        1 => (dice as usize >> 8) % (sectors + 1) * 512,
                        _ => bytes.len(),
                    };
                    state[*offset..*offset + len].copy_from_slice(&bytes[..len]);
                }
                let boots = has_table(&state) || state[..MIB].iter().any(|&byte| byte != 0);
                if cleared && boots {
                    assert!(state[MIB..5 * MIB] == image[MIB..5 * MIB], "a table came before the data");
                }
            }
        }
        assert!(has_table(&safe) && safe[MIB..5 * MIB] == image[MIB..5 * MIB]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qcow2_on_a_disk_that_fails_leaves_no_table_and_the_next_attempt_succeeds() {
    let lab = super::qcow2::Lab::new(super::qcow2::mixed_image(7));
    for compressed in [false, true] {
        let qcow2 = lab.convert("", compressed);
        for (errno, at_mib) in [(EIO, 1), (ENOSPC, 2), (EIO, 5), (EIO, 8)] {
            let disk = FakeDisk::new(old_disk(9), 512);
            disk.set(|state| (state.fail_write, state.at_most) = (Some((at_mib << 20, errno, 1)), Some(4096)));
            let error = write(plan(&qcow2), disk.clone()).await.unwrap_err();
            let Cause::Disk(cause) = &error.cause else { panic!("{error:?}") };
            assert_eq!(cause.source.raw_os_error(), Some(errno));
            assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false), "{at_mib}");
            write(plan(&qcow2), disk.clone()).await.unwrap();
            assert_holds(&disk.bytes(), &lab.raw, 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zeros_are_written_over_old_data() {
    let mut image = gpt_image(6, 512);
    image[2 * MIB..4 * MIB].fill(0);
    let disk = FakeDisk::new(old_disk(9), 512);
    write(plan(&image), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);
}

/// Needs root and a free loop device, so it does not run by itself: `cargo nextest run -p disk-image --run-ignored all`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_loop_device_is_written_with_direct_io() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, old_disk(9)).unwrap();
    let losetup = |args: &[&std::ffi::OsStr]| {
        let output = std::process::Command::new("losetup").args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let device = losetup(&["--find".as_ref(), "--show".as_ref(), path.as_os_str()]);
    let image = gpt_image(6, 512);
    let disk = crate::disk::open(device.as_ref()).unwrap();
    let second = crate::disk::open(device.as_ref()).is_err();
    let result = crate::write(plan(&zstd(&image)), disk, |_| {}, tokio_util::sync::CancellationToken::new()).await;
    losetup(&["--detach".as_ref(), device.as_ref()]);
    result.unwrap();
    assert!(second, "the device is held exclusively");
    assert_holds(&std::fs::read(&path).unwrap(), &image, 2);
}
