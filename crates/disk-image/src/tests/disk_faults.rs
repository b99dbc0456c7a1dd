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
    for flushes in 0..5 {
        let disk = FakeDisk::new(old_disk(9), 512);
        disk.set(|state| state.flushes = Some(flushes));
        let error = write(plan(&image), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Disk(_)), "{error:?}");
        assert!(!has_table(&disk.bytes()), "flush {flushes}");
    }
    let disk = FakeDisk::new(old_disk(9), 512);
    disk.set(|state| state.flushes = Some(5));
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
        // Every other block is a sample, so one of two neighbours is none.
        let mut missed = 0;
        for mib in [60, 61] {
            let disk = FakeDisk::new(old_disk(123), 512);
            disk.set(|state| state.loses = Some(mib << 20..(mib + 1) << 20));
            let mut full = plan(&transported);
            missed += usize::from(write(full.clone(), disk.clone()).await.is_ok());
            full.verify = crate::Verify::Full;
            let error = write(full, disk.clone()).await.unwrap_err();
            assert!(matches!(error.cause, Cause::ReadBack { offset, .. } if offset >> 20 == mib), "{error:?}");
            assert!(!has_table(&disk.bytes()));
        }
        assert_eq!(missed, 1);
    }
}

/// Every prefix of what was sent to the disk, as a loss of power would leave it on a disk that keeps the order. Until the
/// last write of the first sector there is nothing in it; and before that write comes a flush.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_sector_comes_last_and_after_a_flush() {
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
    assert!(
        matches!(&log[last], Event::Write { bytes, .. } if bytes.len() == 512),
        "the first sector is written alone"
    );
    assert_eq!((&log[2], &log[last - 1], &log[last + 1]), (&Event::Flush, &Event::Flush, &Event::Flush));
    assert_eq!(last + 2, log.len(), "nothing is written after the first sector");
    let mut bytes = old;
    for event in &log[..last] {
        if let Event::Write { offset, bytes: written } = event {
            bytes[*offset as usize..*offset as usize + written.len()].copy_from_slice(written);
        }
        assert!(bytes[..512].iter().all(|&byte| byte == 0));
    }
    // The data is on the disk, and safe, before the backup table is written.
    let backup = log.iter().rposition(|event| matches!(event, Event::Write { offset, .. } if *offset == 8 << 20));
    assert_eq!(log[backup.unwrap() - 1], Event::Flush);
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// The states in which a loss of power can leave a disk on which these events had begun: all that came before the last
/// flush, and of every later write any of its sectors.
fn cut_states(old: &[u8], log: &[Event], each: usize, mut look: impl FnMut(bool, &[u8])) {
    let (mut safe, mut since, mut dice, mut cleared) = (old.to_vec(), Vec::new(), Dice(7), false);
    for event in log {
        match event {
            Event::Write { offset, bytes } => since.push((*offset as usize, bytes)),
            Event::Flush => {
                for (offset, bytes) in since.drain(..) {
                    safe[offset..offset + bytes.len()].copy_from_slice(bytes);
                }
                cleared = true;
                continue;
            }
        }
        for _ in 0..each {
            let mut state = safe.clone();
            for (offset, bytes) in &since {
                let sectors = bytes.len() / 512;
                match dice.below(4) {
                    0 => {}
                    1 => state[*offset..*offset + bytes.len()].copy_from_slice(bytes),
                    2 => {
                        let len = dice.below(sectors + 1) * 512;
                        state[*offset..*offset + len].copy_from_slice(&bytes[..len]);
                    }
                    _ => {
                        for sector in (0..sectors).filter(|_| dice.below(2) == 0).map(|sector| sector * 512) {
                            state[*offset + sector..*offset + sector + 512]
                                .copy_from_slice(&bytes[sector..sector + 512]);
                        }
                    }
                }
            }
            look(cleared, &state);
        }
    }
    look(true, &safe);
}

/// Of the states that a loss of power can leave after the first flush: how many have something in the first sector and are
/// not the complete disk; and some of the others.
fn look_at_cuts(old: &[u8], log: &[Event], complete: &[u8], each: usize) -> (usize, Vec<Vec<u8>>) {
    let (mut bad, mut seen, mut others) = (0, 0, Vec::new());
    cut_states(old, log, each, |cleared, state| {
        seen += 1;
        // Before that flush, the old system may still be there as it was.
        if !cleared {
            return;
        }
        if state[..512].iter().any(|&byte| byte != 0) {
            bad += usize::from(state != complete);
        } else if seen % 17 == 0 && others.len() < 3 {
            others.push(state.to_vec());
        }
    });
    assert!(seen >= log.len() / 2, "{seen} of {}", log.len());
    (bad, others)
}

/// On a disk that held a bootable system before, no loss of power leaves one that boots, unless it is the whole new one.
#[tokio::test(flavor = "multi_thread")]
async fn no_loss_of_power_leaves_a_disk_that_boots_before_it_is_complete() {
    let (gpt, dos) = (gpt_image(6, 512), mbr_image(6, 2));
    let lab = super::qcow2::Lab::new(gpt.clone());
    let drive = crate::ConfigDrive::from_bytes(crate::configdrive::tests::iso(400_000, "config-2").into()).unwrap();
    let with_drive = crate::Plan { config_drive: Some(drive), ..plan(&gpt) };
    let qcow2 = plan(&lab.convert("cluster_size=256k", true));
    for (plan, mib, each) in [(plan(&gpt), 9, 6), (qcow2, 9, 6), (plan(&zstd(&dos)), 9, 6), (with_drive, 75, 1)] {
        let old = old_disk(mib);
        let disk = FakeDisk::new(old.clone(), 512);
        write(plan.clone(), disk.clone()).await.unwrap();
        let log = disk.state.lock().unwrap().log.clone();
        let complete = disk.bytes();
        let (bad, others) = look_at_cuts(&old, &log, &complete, each);
        assert_eq!(bad, 0, "states with a first sector that is there before all else");
        assert!(!others.is_empty());
        // Whatever is left, the next attempt succeeds.
        for state in others {
            let disk = FakeDisk::new(state, 512);
            write(plan.clone(), disk.clone()).await.unwrap();
            // The partition of a config drive gets a new identity each time.
            assert!(disk.bytes() == complete || plan.config_drive.is_some());
        }
    }
}

/// What the test above would say of a seal that wrote the first MiB at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_mib_that_is_written_at_once_could_be_torn() {
    let (image, old) = (gpt_image(6, 512), old_disk(9));
    let disk = FakeDisk::new(old.clone(), 512);
    write(plan(&image), disk.clone()).await.unwrap();
    let mut log = disk.state.lock().unwrap().log.clone();
    let complete = disk.bytes();
    // The rest of the MiB, flush, the first sector, flush.
    log.truncate(log.len() - 4);
    log.extend([Event::Write { offset: 0, bytes: complete[..MIB].to_vec() }, Event::Flush]);
    assert!(look_at_cuts(&old, &log, &complete, 20).0 > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_read_back_leaves_no_table() {
    let image = gpt_image(6, 512);
    for at_mib in [0, 3, 8] {
        let disk = FakeDisk::new(old_disk(9), 512);
        disk.set(|state| state.fail_read = Some((at_mib << 20, EIO)));
        let error = write(crate::Plan { verify: crate::Verify::Full, ..plan(&image) }, disk.clone()).await.unwrap_err();
        let Cause::Disk(cause) = &error.cause else { panic!("{error:?}") };
        assert_eq!(cause.source.raw_os_error(), Some(EIO));
        assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false), "{at_mib}");
        disk.set(|state| state.fail_read = None);
        write(plan(&image), disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &image, 2);
    }
}

/// Short writes and errors in any mixture, wherever they hit: never a table, and the next attempt succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn errors_at_random_places_leave_no_table_and_the_next_attempt_succeeds() {
    let image = gpt_image(6, 512);
    let lab = super::qcow2::Lab::new(image.clone());
    let mut dice = Dice(3);
    for transported in [image.clone(), zstd(&image), lab.convert("", true)] {
        for _ in 0..4 {
            let disk = FakeDisk::new(old_disk(9), 512);
            let errno = [EIO, ENOSPC][dice.below(2)];
            let place = (dice.below(9 * 2048) * 512) as u64;
            let at_most = [512, 4096, 1 << 20][dice.below(3)];
            disk.set(|state| (state.fail_write, state.at_most) = (Some((place, errno, 1)), Some(at_most)));
            let error = write(plan(&transported), disk.clone()).await.unwrap_err();
            assert!(matches!(error.cause, Cause::Disk(_)), "{place}: {error:?}");
            assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false), "{place}");
            write(plan(&transported), disk.clone()).await.unwrap();
            assert_holds(&disk.bytes(), &image, 2);
        }
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
