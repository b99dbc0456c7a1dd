//! What goes wrong between server and disk.

use super::image::*;
use super::server::{Answer, Seen, Server};
use crate::decompress::DecompressError;
use crate::disk::FileDisk;
use crate::disk::fake::FakeDisk;
use crate::fetch::FetchError;
use crate::source::{Access, SourceError, from_url};
use crate::{Cause, Digest, DiskState, Plan, Stage};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

fn plan_for(server: &Server, digest: Option<Digest>) -> Plan {
    let mut plan = Plan::new(from_url(&server.url, &Access::default()).unwrap(), digest);
    impatient(&mut plan);
    plan
}

/// No byte range twice: each request starts where the one before it ended.
fn assert_contiguous(seen: &[Seen], len: usize) {
    let mut at = 0;
    for request in seen {
        assert_eq!(request.start, at, "{seen:?}");
        at += request.sent;
    }
    assert_eq!(at, len);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_arrive_whole_on_a_larger_disk_however_they_are_packed() {
    let image = gpt_image(6, 512);
    for transported in [image.clone(), zstd(&image), gzip(&image), xz(&image)] {
        let server = Server::start(transported.clone(), |_| Answer::good()).await;
        let disk = FakeDisk::new(old_disk(9), 512);
        let written = write(plan_for(&server, Some(sha256(&transported))), disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &image, 2);
        assert_eq!((written.bytes_in, written.bytes_out), (transported.len() as u64, image.len() as u64));
        assert_eq!(written.digest, Some(sha256(&transported)));
        assert_eq!(written.root_uuid(), "0x00c0ffee");
        assert_eq!(written.disk_guid.as_deref(), Some("d1d1d1d1-d1d1-d1d1-d1d1-d1d1d1d1d1d1"));
        assert_eq!(written.partitions.len(), 2);
        assert_eq!((written.partitions[0].offset, written.partitions[0].size), (MIB as u64, MIB as u64));
        assert_eq!(written.partitions[1].name, "root");
        assert_contiguous(&server.seen(), transported.len());
        assert_eq!(disk.state.lock().unwrap().announced, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_as_large_as_the_disk_keeps_its_own_backup_table() {
    let image = gpt_image(5, 512);
    let disk = FakeDisk::new(old_disk(5), 512);
    write(plan(&image), disk.clone()).await.unwrap();
    assert!(disk.bytes() == image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_at_any_64_kib_boundary_is_resumed_there() {
    let (image, old) = (gpt_image(3, 512), old_disk(4));
    for transported in [image.clone(), zstd(&image), gzip(&image), xz(&image)] {
        for boundary in (0..transported.len()).step_by(64 << 10) {
            let server = Server::start(transported.clone(), move |n| Answer {
                cut: (n == 0).then_some(boundary),
                ..Answer::good()
            })
            .await;
            let disk = FakeDisk::new(old.clone(), 512);
            write(plan_for(&server, Some(sha256(&transported))), disk.clone()).await.unwrap();
            assert_holds(&disk.bytes(), &image, 1);
            let seen = server.seen();
            assert_contiguous(&seen, transported.len());
            assert_eq!(seen.len(), 2);
            assert_eq!(seen[1].if_range.as_deref(), (boundary > 0).then_some("\"v1\""));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cuts_every_connection_is_borne_as_long_as_bytes_come() {
    let image = gpt_image(5, 512);
    let transported = zstd(&image);
    let server = Server::start(transported.clone(), |_| Answer { cut: Some(64 << 10), ..Answer::good() }).await;
    let disk = FakeDisk::new(old_disk(6), 512);
    write(plan_for(&server, Some(sha256(&transported))), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);
    assert!(server.seen().len() > 20);
    assert_contiguous(&server.seen(), transported.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_on_resume_ends_the_write_without_a_table() {
    let image = gpt_image(5, 512);
    let server = Server::start(image.clone(), |n| Answer {
        cut: (n == 0).then_some(3 * MIB),
        etag: format!("\"v{n}\""),
        ..Answer::default()
    })
    .await;
    let disk = FakeDisk::new(old_disk(6), 512);
    let error = write(plan_for(&server, Some(sha256(&image))), disk.clone()).await.unwrap_err();
    assert!(
        matches!(error.cause, Cause::Fetch(FetchError::Source { source: SourceError::Changed { .. }, .. })),
        "{error:?}"
    );
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_makes_the_whole_write_start_over() {
    let image = gpt_image(5, 512);
    let server = Server::start(image.clone(), |n| Answer {
        cut: (n == 0).then_some(3 * MIB),
        ignore_range: true,
        ..Answer::good()
    })
    .await;
    let disk = FakeDisk::new(old_disk(6), 512);
    let written = write(plan_for(&server, Some(sha256(&image))), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);
    assert_eq!(written.bytes_in, image.len() as u64);
    // The first try, the refused continuation, and the second pass.
    assert_eq!(server.seen().iter().map(|seen| seen.start).collect::<Vec<_>>(), [0, 3 * MIB, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_validator_only_a_digest_allows_to_resume() {
    let image = gpt_image(5, 512);
    for (digest, starts) in [(Some(sha256(&image)), vec![0, 3 * MIB]), (None, vec![0, 0])] {
        let server =
            Server::start(image.clone(), |n| Answer { cut: (n == 0).then_some(3 * MIB), ..Answer::default() }).await;
        let disk = FakeDisk::new(old_disk(6), 512);
        write(plan_for(&server, digest), disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &image, 2);
        assert_eq!(server.seen().iter().map(|seen| seen.start).collect::<Vec<_>>(), starts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_final_and_leaves_the_disk_alone() {
    for status in [401, 403, 404, 410] {
        let server = Server::start(vec![], move |_| Answer { status: Some(status), ..Answer::default() }).await;
        let disk = FakeDisk::new(old_disk(6), 512);
        let error = write(plan_for(&server, None), disk.clone()).await.unwrap_err();
        assert!(
            matches!(error.cause, Cause::Fetch(FetchError::Source { source: SourceError::Status { status: found, .. }, .. })
                if found == status),
            "{error:?}"
        );
        assert_eq!((error.state, disk.bytes() == old_disk(6)), (DiskState::Untouched, true));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_asked_again_until_patience_ends() {
    let image = gpt_image(5, 512);
    let server = Server::start(image.clone(), |n| Answer { status: (n < 5).then_some(503), ..Answer::good() }).await;
    let disk = FakeDisk::new(old_disk(6), 512);
    write(plan_for(&server, None), disk.clone()).await.unwrap();
    assert_eq!(server.seen().len(), 6);

    let server = Server::start(image, |_| Answer { status: Some(503), ..Answer::good() }).await;
    let error = write(plan_for(&server, None), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Fetch(FetchError::GaveUp { attempts: 10, at: 0, .. })), "{error:?}");
    assert_eq!((error.state, server.seen().len()), (DiskState::Untouched, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_source_is_tried_when_one_fails() {
    let image = gpt_image(5, 512);
    let gone = Server::start(vec![], |_| Answer { status: Some(404), ..Answer::default() }).await;
    let wrong = Server::start(gpt_image(4, 512), |_| Answer::good()).await;
    let good = Server::start(image.clone(), |_| Answer::good()).await;
    let mut plan = plan_for(&gone, Some(sha256(&image)));
    plan.sources.extend(plan_for(&wrong, None).sources);
    plan.sources.extend(plan_for(&good, None).sources);
    let disk = FakeDisk::new(old_disk(6), 512);
    write(plan, disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_47211_a_wrong_digest_leaves_no_table_on_a_disk_that_booted_before() {
    let image = gpt_image(5, 512);
    for transported in [image.clone(), zstd(&image)] {
        let server = Server::start(transported.clone(), |_| Answer::good()).await;
        let disk = FakeDisk::new(old_disk(6), 512);
        assert!(has_table(&disk.bytes()));
        let error = write(plan_for(&server, Some(sha256(b"another image"))), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Digest { .. }), "{error:?}");
        assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
        let text = transport::client::chain(&error);
        assert!(
            text.contains("without a partition table") && text.contains(&sha256(&transported).to_string()),
            "{text}"
        );
        // And the next attempt succeeds.
        write(plan_for(&server, Some(sha256(&transported))), disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &image, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_announces_more_than_it_has_is_given_up() {
    let image = gpt_image(5, 512);
    let server = Server::start(image, |_| Answer { longer: 4096, ..Answer::good() }).await;
    let disk = FakeDisk::new(old_disk(6), 512);
    let error = write(plan_for(&server, None), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Fetch(FetchError::GaveUp { .. })), "{error:?}");
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_length_on_resume_is_another_content() {
    let image = gpt_image(5, 512);
    let server = Server::start(image, |n| Answer {
        cut: (n == 0).then_some(3 * MIB),
        longer: if n == 0 { 0 } else { 512 },
        ..Answer::good()
    })
    .await;
    let error = write(plan_for(&server, None), FakeDisk::new(old_disk(6), 512)).await.unwrap_err();
    assert!(
        matches!(error.cause, Cause::Fetch(FetchError::Source { source: SourceError::Changed { .. }, .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_on_the_way_never_becomes_a_bootable_disk() {
    let image = gpt_image(5, 512);
    for packed in [zstd(&image), gzip(&image), xz(&image)] {
        damage(&packed).await;
    }
}

async fn damage(packed: &[u8]) {
    for quarter in 1..4 {
        let truncated = &packed[..packed.len() * quarter / 4];
        let disk = FakeDisk::new(old_disk(6), 512);
        let error = write(plan(truncated), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Decompress(DecompressError::Truncated { .. })), "{error:?}");
        assert!(!has_table(&disk.bytes()));

        let mut flipped = packed.to_vec();
        flipped[packed.len() * quarter / 4] ^= 0x20;
        // The right digest of the good image; whoever notices first, decompressor or hash, the disk has no table.
        let mut plan = plan(&flipped);
        plan.digest = Some(sha256(packed));
        let disk = FakeDisk::new(old_disk(6), 512);
        let error = write(plan, disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Decompress(_) | Cause::Digest { .. } | Cause::Image(_)), "{error:?}");
        assert!(error.state == DiskState::Untouched || !has_table(&disk.bytes()), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_broken_off_and_resumed() {
    let image = gpt_image(5, 512);
    let server =
        Server::start(image.clone(), |n| Answer { stall: (n == 0).then_some(2 * MIB), ..Answer::good() }).await;
    let mut plan = plan_for(&server, Some(sha256(&image)));
    plan.patience.stall = Duration::from_millis(300);
    let disk = FakeDisk::new(old_disk(6), 512);
    write(plan, disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);
    assert_contiguous(&server.seen(), image.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_transfer_has_a_limit() {
    let server = Server::start(gpt_image(5, 512), |_| Answer { stall: Some(2 * MIB), ..Answer::good() }).await;
    let mut plan = plan_for(&server, None);
    plan.patience.total = Some(Duration::from_millis(300));
    let disk = FakeDisk::new(old_disk(6), 512);
    let error = write(plan, disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Fetch(FetchError::TooLong(_))), "{error:?}");
    assert!(!has_table(&disk.bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_at_once_and_leaves_no_table() {
    let server = Server::start(gpt_image(5, 512), |_| Answer { stall: Some(3 * MIB), ..Answer::good() }).await;
    let disk = FakeDisk::new(old_disk(6), 512);
    let cancel = CancellationToken::new();
    let (trigger, mut stages) = (cancel.clone(), Vec::new());
    let report = |progress: crate::Progress| {
        stages.push(progress.stage);
        if progress.written >= 2 * MIB as u64 {
            trigger.cancel();
        }
    };
    let start = Instant::now();
    let error = crate::write(plan_for(&server, None), Box::new(disk.clone()), report, cancel).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Cancelled), "{error:?}");
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(stages.contains(&Stage::Write) && !stages.contains(&Stage::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_future_stops_the_threads_and_leaves_no_table() {
    let server = Server::start(gpt_image(5, 512), |_| Answer { stall: Some(3 * MIB), ..Answer::good() }).await;
    let disk = FakeDisk::new(old_disk(6), 512);
    let writing = write(plan_for(&server, None), disk.clone());
    assert!(tokio::time::timeout(Duration::from_millis(700), writing).await.is_err());
    // The threads let go of the disk: only this test still holds it.
    for _ in 0..100 {
        if Arc::strong_count(&disk.state) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(Arc::strong_count(&disk.state), 1);
    assert!(!has_table(&disk.bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_comes_at_most_four_times_a_second_and_ends_complete() {
    let image = gpt_image(5, 512);
    let server =
        Server::start(image.clone(), |n| Answer { stall: (n == 0).then_some(4 * MIB), ..Answer::good() }).await;
    let mut plan = plan_for(&server, None);
    plan.patience.stall = Duration::from_millis(2500);
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = reports.clone();
    let report = move |progress: crate::Progress| log.lock().unwrap().push((Instant::now(), progress));
    crate::write(plan, Box::new(FakeDisk::new(old_disk(6), 512)), report, CancellationToken::new()).await.unwrap();
    let reports = reports.lock().unwrap();
    assert!(reports.len() >= 5, "{}", reports.len());
    for four in reports.windows(5) {
        assert!(four[4].0 - four[0].0 > Duration::from_millis(950));
    }
    let last = &reports.last().unwrap().1;
    assert_eq!((last.stage, last.done, last.total), (Stage::Done, image.len() as u64, Some(image.len() as u64)));
    assert_eq!((last.written, last.written_total, last.eta), (last.done, last.total, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_are_followed_and_credentials_stay_with_their_origin() {
    let image = gpt_image(5, 512);
    let other = Server::start(image.clone(), |n| Answer { cut: (n == 0).then_some(3 * MIB), ..Answer::good() }).await;
    let location = other.url.clone();
    let first = Server::start(vec![], move |_| Answer { location: Some(location.clone()), ..Answer::default() }).await;
    let access = Access { authorization: Some("Bearer secret".parse().unwrap()), ..Access::default() };
    let mut plan = Plan::new(from_url(&first.url, &access).unwrap(), Some(sha256(&image)));
    impatient(&mut plan);
    let disk = FakeDisk::new(old_disk(6), 512);
    write(plan, disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);
    assert!(first.seen().iter().all(|seen| seen.authorization.as_deref() == Some("Bearer secret")));
    assert!(other.seen().iter().all(|seen| seen.authorization.is_none()));
    assert_eq!((first.seen().len(), other.seen().len()), (2, 2));

    let circle = Server::start(vec![], |_| Answer { location: Some("/image".into()), ..Answer::default() }).await;
    let error = write(plan_for(&circle, None), FakeDisk::new(old_disk(6), 512)).await.unwrap_err();
    assert!(transport::client::chain(&error).contains("more than 5 redirections"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_and_a_new_one_stays_sparse() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let mut image = gpt_image(40, 512);
    image[4 * MIB..30 * MIB].fill(0);
    std::fs::write(dir.path().join("image"), zstd(&image)).unwrap();
    let access = Access { file_roots: vec![dir.path().to_owned()], ..Access::default() };
    let url = format!("file://{}/image", dir.path().display());
    let (new, old) = (dir.path().join("new"), dir.path().join("old"));
    std::fs::write(&old, old_disk(50)).unwrap();
    let disks = [FileDisk::create(&new, 50 << 20, 512).unwrap(), FileDisk::open(&old, 512).unwrap()];
    for (disk, path) in disks.into_iter().zip([&new, &old]) {
        write(Plan::new(from_url(&url, &access).unwrap(), None), disk).await.unwrap();
        assert_holds(&std::fs::read(path).unwrap(), &image, 2);
    }
    let blocks = |path| std::fs::metadata(path).unwrap().blocks() * 512;
    assert!(blocks(&new) < 20 << 20, "{}", blocks(&new));
    assert!(FileDisk::create(&new, 1 << 20, 512).is_err());
}
