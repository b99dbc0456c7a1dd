//! Images of many zstd frames, which are unpacked at the same time, and what is passed on without a copy.

use super::image::*;
use super::server::{Answer, Server};
use crate::decompress::{Compression, DecompressError};
use crate::disk::fake::FakeDisk;
use crate::source::{Access, from_url};
use crate::{Cause, DiskState, Plan};
use std::io::Write as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Frames of these many bytes, in turn: some say how long they are, some have a checksum, some are empty, and a frame
/// that holds no content comes before each.
fn frames(bytes: &[u8], lens: &[usize]) -> Vec<u8> {
    let (mut packed, mut rest) = (Vec::new(), bytes);
    for (number, len) in lens.iter().cycle().enumerate() {
        if rest.is_empty() {
            return packed;
        }
        let (part, tail) = rest.split_at(rest.len().min(*len));
        rest = tail;
        packed.extend_from_slice(b"\x51\x2a\x4d\x18\x04\0\0\0pass");
        packed.extend(frame(part, number % 2 == 0, number % 3 == 0, 0));
    }
    packed
}

fn frame(part: &[u8], sized: bool, checksum: bool, window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(checksum).unwrap();
    encoder.include_contentsize(sized).unwrap();
    if window_log > 0 {
        encoder.window_log(window_log).unwrap();
    }
    if sized {
        encoder.set_pledged_src_size(Some(part.len() as u64)).unwrap();
    }
    encoder.write_all(part).unwrap();
    encoder.finish().unwrap()
}

fn plan_for(server: &Server, transported: &[u8]) -> Plan {
    let mut plan = Plan::new(from_url(&server.url, &Access::default()).unwrap(), Some(sha256(transported)));
    impatient(&mut plan);
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_any_length_become_the_image() {
    let image = gpt_image(24, 512);
    for lens in [&[3 << 20][..], &[1 << 20, 0, 12_345, 9 << 20, 1], &[10 << 20, 700_001], &[777]] {
        // Of very short frames, not as many.
        let short = gpt_image(4, 512);
        let image = if lens[0] < 1000 { &short } else { &image };
        let packed = frames(image, lens);
        for budget in [crate::BUDGET, 24 << 20] {
            let disk = FakeDisk::new(old_disk(27), 512);
            let written = write(Plan { budget, ..plan(&packed) }, disk.clone()).await.unwrap();
            assert_eq!((written.bytes_in, written.bytes_out), (packed.len() as u64, image.len() as u64));
            assert_holds(&disk.bytes(), image, 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_need_more_than_their_share_are_unpacked_by_one_thread() {
    let image = gpt_image(20, 512);
    // Before and behind a frame that needs nearly all of the budget.
    let (one, rest) = image.split_at(5 << 20);
    let (two, three) = rest.split_at(9 << 20);
    let packed = [frames(one, &[2 << 20]), frame(two, false, true, 25), frames(three, &[1 << 20])].concat();
    let disk = FakeDisk::new(old_disk(23), 512);
    write(plan(&packed), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);

    // And one that needs more than that is refused.
    let packed = [frames(one, &[2 << 20]), frame(rest, false, true, 27)].concat();
    let error = write(plan(&packed), FakeDisk::new(old_disk(23), 512)).await.unwrap_err();
    let Cause::Decompress(DecompressError::Window { at, need, left, .. }) = error.cause else { panic!("{error:?}") };
    assert_eq!((at, need > 128 << 20), (frames(one, &[2 << 20]).len() as u64, true));
    assert!((40 << 20..64 << 20).contains(&left), "{left}");
    assert_eq!(error.state, DiskState::NoTable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_within_any_frame_is_resumed_there() {
    let image = gpt_image(8, 512);
    let packed = frames(&image, &[1 << 20, 300_000]);
    for cut in (0..packed.len()).step_by(packed.len() / 23) {
        let server =
            Server::start(packed.clone(), move |n| Answer { cut: (n == 0).then_some(cut), ..Answer::good() }).await;
        let disk = FakeDisk::new(old_disk(11), 512);
        write(plan_for(&server, &packed), disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &image, 2);
        assert_eq!(server.seen().iter().map(|seen| seen.sent).sum::<usize>(), packed.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_frames_leave_no_table_and_are_told() {
    let image = gpt_image(8, 512);
    let packed = frames(&image, &[1 << 20, 300_000]);
    for eighth in 1..8 {
        let at = packed.len() * eighth / 8;
        let disk = FakeDisk::new(old_disk(11), 512);
        let error = write(plan(&packed[..at]), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Decompress(DecompressError::Truncated { .. })), "{error:?}");
        assert!(!has_table(&disk.bytes()));

        let mut flipped = packed.clone();
        flipped[at] ^= 0x20;
        let damaged = Plan { digest: Some(sha256(&packed)), ..plan(&flipped) };
        let error = write(damaged, disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Decompress(_) | Cause::Digest { .. } | Cause::Image(_)), "{error:?}");
        assert!(!has_table(&disk.bytes()));
    }
    let trailing = [&packed[..], b"something else"].concat();
    let error = write(plan(&trailing), FakeDisk::new(old_disk(11), 512)).await.unwrap_err();
    assert!(
        matches!(error.cause, Cause::Decompress(DecompressError::Trailing { at, .. }) if at == packed.len() as u64),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_below_many_frames_is_what_the_error_says() {
    let image = gpt_image(24, 512);
    let packed = frames(&image, &[2 << 20]);
    for (errno, at_mib) in [(5, 1), (28, 9), (5, 20)] {
        let disk = FakeDisk::new(old_disk(27), 512);
        disk.set(|state| state.fail_write = Some((at_mib << 20, errno, 1)));
        let error = write(plan(&packed), disk.clone()).await.unwrap_err();
        let Cause::Disk(cause) = &error.cause else { panic!("{error:?}") };
        assert_eq!(cause.source.raw_os_error(), Some(errno));
        assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
    }
}

/// Wherever the pipeline is just then: the source is silent, the disk is slow, frames wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_every_stage_soon() {
    let image = gpt_image(24, 512);
    for packed in [image.clone(), frames(&image, &[2 << 20]), frames(&image, &[20 << 20])] {
        for quarter in 0..4 {
            let stall = packed.len() * quarter / 4;
            let server = Server::start(packed.clone(), move |_| Answer { stall: Some(stall), ..Answer::good() }).await;
            let disk = FakeDisk::new(old_disk(27), 512);
            let cancel = CancellationToken::new();
            let writing = crate::write(plan_for(&server, &packed), Box::new(disk.clone()), |_| {}, cancel.clone());
            let cancelling = async {
                tokio::time::sleep(Duration::from_millis(quarter as u64 * 40)).await;
                cancel.cancel();
            };
            let both = async { tokio::join!(writing, cancelling).0 };
            let error = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap().unwrap_err();
            assert!(matches!(error.cause, Cause::Cancelled), "{error:?}");
            assert!(error.state == DiskState::Untouched || !has_table(&disk.bytes()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_trickles_writes_what_a_fast_one_does() {
    // Parts that end anywhere: no piece is full, and none begins where a sector does.
    let image = gpt_image(5, 512);
    let lab = super::qcow2::Lab::new(image.clone());
    for transported in [image.clone(), lab.convert("", false), lab.convert("", true), frames(&image, &[1 << 20])] {
        let server = Server::start(transported.clone(), |n| Answer {
            cut: Some(if n % 2 == 0 { 123_457 } else { 3 * MIB / 2 + 1 }),
            ..Answer::good()
        })
        .await;
        let disk = FakeDisk::new(old_disk(8), 512);
        write(plan_for(&server, &transported), disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &image, 2);
    }
}

/// With the smallest budget, there is one buffer for all that is transported.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_part_that_does_not_even_tell_the_packing_is_enough_to_go_on() {
    let image = gpt_image(5, 512);
    for transported in [image.clone(), gzip(&image), frames(&image, &[1 << 20])] {
        let server =
            Server::start(transported.clone(), |n| Answer { cut: (n < 2).then_some(5), ..Answer::good() }).await;
        let disk = FakeDisk::new(old_disk(8), 512);
        let plan = Plan { budget: 8 << 20, ..plan_for(&server, &transported) };
        tokio::time::timeout(Duration::from_secs(60), write(plan, disk.clone())).await.unwrap().unwrap();
        assert_holds(&disk.bytes(), &image, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_packed_otherwise_than_declared_is_refused() {
    let image = gpt_image(4, 512);
    let kinds = [
        (image.clone(), Compression::None),
        (gzip(&image), Compression::Gzip),
        (xz(&image), Compression::Xz),
        (zstd(&image), Compression::Zstd),
    ];
    for (transported, found) in &kinds {
        for (_, declared) in &kinds {
            let disk = FakeDisk::new(old_disk(7), 512);
            let result = write(Plan { packing: Some(*declared), ..plan(transported) }, disk.clone()).await;
            if declared == found {
                result.unwrap();
                continue;
            }
            let error = result.unwrap_err();
            assert_eq!((error.state, disk.bytes() == old_disk(7)), (DiskState::Untouched, true));
            let text = error.cause.to_string();
            let want = format!("declared to be packed with {}, but is with {}", declared.name(), found.name());
            assert!(text.contains(&want), "{text}");
        }
    }
}
