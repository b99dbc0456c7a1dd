//! Breaks and damage between server and disk, in every kind of image and at many places. After each: no table, a clear
//! error, and the next attempt on the same disk succeeds.

use super::image::*;
use super::qcow2::{Lab, mixed_image};
use super::server::{Answer, Server};
use crate::disk::fake::FakeDisk;
use crate::fetch::FetchError;
use crate::source::{Access, SourceError, from_url};
use crate::{Cause, Digest, DiskState, Format, Plan};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn plan_for(server: &Server, digest: Option<Digest>) -> Plan {
    let mut plan = Plan::new(from_url(&server.url, &Access::default()).unwrap(), digest);
    impatient(&mut plan);
    plan
}

/// The same disk in every format, and in every packing of each kind of stream: its name, and what is transported.
fn kinds(lab: &Lab) -> Vec<(&'static str, Vec<u8>)> {
    let plain = lab.convert("", false);
    vec![
        ("raw", lab.raw.clone()),
        ("raw in zstd", zstd(&lab.raw)),
        ("raw in gzip", gzip(&lab.raw)),
        ("raw in xz", xz(&lab.raw)),
        ("qcow2 in zstd", zstd(&plain)),
        ("qcow2", plain),
        ("qcow2 of zlib", lab.convert("", true)),
        ("qcow2 of zstd", lab.convert("compression_type=zstd", true)),
    ]
}

async fn assert_next_attempt_succeeds(what: &str, disk: &FakeDisk, good: &[u8], raw: &[u8]) {
    write(plan(good), disk.clone()).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_holds(&disk.bytes(), raw, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_images_of_every_kind_are_noticed_without_a_digest_to_tell() {
    let lab = Lab::new(mixed_image(7));
    for (kind, good) in kinds(&lab) {
        for fifth in [0, 2, 4] {
            let len = good.len() * fifth / 5 + 1;
            let disk = FakeDisk::new(old_disk(10), 512);
            // The digest is that of the truncated bytes.
            let error = write(plan(&good[..len]), disk.clone()).await.unwrap_err();
            let told = matches!(error.cause, Cause::Decompress(_) | Cause::Image(_) | Cause::Qcow2(_));
            assert!(told, "{kind}, {len} of {}: {error:?}", good.len());
            assert!(error.state == DiskState::Untouched || !has_table(&disk.bytes()), "{kind} {len}: {error:?}");
            if fifth == 2 {
                assert_next_attempt_succeeds(kind, &disk, &good, &lab.raw).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_an_image_of_any_kind_leaves_no_table() {
    let lab = Lab::new(mixed_image(7));
    for (kind, good) in kinds(&lab) {
        for fourth in 0..5 {
            let at = (good.len() - 1) * fourth / 4;
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (2 * fourth % 7);
            let disk = FakeDisk::new(old_disk(10), 512);
            let damaged = Plan { digest: Some(sha256(&good)), ..plan(&flipped) };
            let error = write(damaged, disk.clone()).await.unwrap_err();
            let told = matches!(
                error.cause,
                Cause::Decompress(_) | Cause::Digest { .. } | Cause::Image(_) | Cause::Qcow2(_) | Cause::Budget(_)
            );
            assert!(told, "{kind}, byte {at}: {error:?}");
            assert!(error.state == DiskState::Untouched || !has_table(&disk.bytes()), "{kind} {at}: {error:?}");
            if fourth == 2 {
                assert_next_attempt_succeeds(kind, &disk, &good, &lab.raw).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_at_random_places_of_large_images_are_resumed_there() {
    let lab = Lab::new(gpt_image(16, 512));
    let mut state = 11_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 20) as usize
    };
    let zstd_qcow2 = lab.convert("compression_type=zstd", true);
    for (kind, transported) in [("raw", lab.raw.clone()), ("zstd", zstd(&lab.raw)), ("qcow2", zstd_qcow2)] {
        for _ in 0..2 {
            let cuts: Vec<usize> = (0..12).map(|_| random() % (transported.len() / 6)).collect();
            let planned = cuts.clone();
            let server =
                Server::start(transported.clone(), move |n| Answer { cut: cuts.get(n).copied(), ..Answer::good() })
                    .await;
            let disk = FakeDisk::new(old_disk(18), 512);
            let plan = Plan {
                format: (kind == "qcow2").then_some(Format::Qcow2),
                ..plan_for(&server, Some(sha256(&transported)))
            };
            let written = write(plan, disk.clone()).await;
            written.unwrap_or_else(|error| panic!("{kind}, cut after {planned:?}: {error:?}"));
            assert_holds(&disk.bytes(), &lab.raw, 2);
            if kind != "qcow2" {
                // Each request starts where the one before it ended.
                let mut at = 0;
                for request in server.seen() {
                    assert_eq!(request.start, at, "{kind}, cut after {planned:?}");
                    at += request.sent;
                }
                assert_eq!(at, transported.len());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_borne_as_long_as_bytes_come() {
    let image = gpt_image(4, 512);
    let server = Server::start(image.clone(), |_| Answer {
        slow: Some((64 << 10, Duration::from_millis(40))),
        ..Answer::good()
    })
    .await;
    let mut plan = plan_for(&server, Some(sha256(&image)));
    // Much less than the whole takes, much more than one piece does.
    plan.patience.stall = Duration::from_millis(1500);
    let (disk, start) = (FakeDisk::new(old_disk(6), 512), Instant::now());
    write(plan, disk.clone()).await.unwrap();
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    assert_holds(&disk.bytes(), &image, 2);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_every_connection_is_given_up_only_when_no_byte_comes_any_more() {
    let image = gpt_image(3, 512);
    let server =
        Server::start(image.clone(), |n| Answer { stall: Some(if n < 3 { 512 << 10 } else { 0 }), ..Answer::good() });
    let server = server.await;
    let mut plan = plan_for(&server, Some(sha256(&image)));
    (plan.patience.stall, plan.patience.retries) = (Duration::from_millis(200), 2);
    let reports = Arc::new(Mutex::new(Vec::new()));
    let seen = reports.clone();
    let disk = FakeDisk::new(old_disk(6), 512);
    let report = move |progress: crate::Progress| seen.lock().unwrap().extend(progress.stalled);
    plan.patience.interval = Duration::from_millis(400);
    let cancel = tokio_util::sync::CancellationToken::new();
    let error = crate::write(plan, Box::new(disk.clone()), report, cancel).await.unwrap_err();
    let Cause::Fetch(FetchError::GaveUp { at, attempts, .. }) = error.cause else { panic!("{error:?}") };
    assert_eq!((at, attempts), ((3 * 512) << 10, 3));
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
    let reports = reports.lock().unwrap();
    assert!(reports.iter().any(|reason| reason.contains("no byte for")), "{reports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_to_a_resumption_that_do_not_fit_end_the_write_and_say_why() {
    let image = gpt_image(5, 512);
    let (at, len) = (3 * MIB, 5 * MIB);
    let cases = [
        ("another entity tag in 206", Answer { etag: "\"v2\"".into(), ignore_if_range: true, ..Answer::default() }),
        ("no Content-Range", Answer { content_range: Some(String::new()), ..Answer::good() }),
        (
            "a start before",
            Answer { content_range: Some(format!("bytes {}-{}/{len}", at - 1, len - 1)), ..Answer::good() },
        ),
        (
            "a start behind",
            Answer { content_range: Some(format!("bytes {}-{}/{len}", at + 1, len - 1)), ..Answer::good() },
        ),
        (
            "a shorter whole",
            Answer { content_range: Some(format!("bytes {at}-{}/{}", len - 2, len - 1)), ..Answer::good() },
        ),
        (
            "a longer whole",
            Answer { content_range: Some(format!("bytes {at}-{}/{}", len - 1, len + 1)), ..Answer::good() },
        ),
        ("lines", Answer { content_range: Some(format!("lines {at}-{}/{len}", len - 1)), ..Answer::good() }),
        ("416", Answer { status: Some(416), ..Answer::good() }),
        ("404", Answer { status: Some(404), ..Answer::good() }),
        ("403", Answer { status: Some(403), ..Answer::good() }),
    ];
    let mut text = String::new();
    for (name, answer) in cases {
        let server = Server::start(image.clone(), move |n| match n {
            0 => Answer { cut: Some(at), ..Answer::good() },
            _ => answer.clone(),
        })
        .await;
        let disk = FakeDisk::new(old_disk(6), 512);
        let error = write(plan_for(&server, Some(sha256(&image))), disk.clone()).await.unwrap_err();
        let Cause::Fetch(FetchError::Source { source, .. }) = &error.cause else { panic!("{name}: {error:?}") };
        let kind = match source {
            SourceError::Changed { .. } => "changed",
            SourceError::Reply { .. } => "reply",
            SourceError::Status { .. } => "status",
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false), "{name}");
        assert_eq!(server.seen().len(), 2, "{name}: a final answer is not asked for again");
        let said = source.to_string().replace(&server.url, "URL");
        text += &format!("{name} ({kind}): {said}\n");
    }
    insta::assert_snapshot!(text);
}

/// The same address gives another image of the same length after a break, and nothing tells them apart but the digest.
#[tokio::test(flavor = "multi_thread")]
async fn two_halves_of_two_images_are_a_digest_failure() {
    let (one, other) = (gpt_image(5, 512), {
        let mut other = gpt_image(5, 512);
        other[4 * MIB] ^= 1;
        other
    });
    let first = Server::start(one.clone(), |_| Answer { cut: Some(3 * MIB), ..Answer::default() }).await;
    let then = Server::start(other.clone(), |_| Answer::default()).await;
    let source = Arc::new(Halves {
        first: from_url(&first.url, &Access::default()).unwrap(),
        then: from_url(&then.url, &Access::default()).unwrap(),
    });
    let mut plan = Plan::new(source, Some(sha256(&one)));
    impatient(&mut plan);
    let disk = FakeDisk::new(old_disk(6), 512);
    let error = write(plan, disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Digest { .. }), "{error:?}");
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
}

/// One source at the start, another behind it.
struct Halves {
    first: Arc<dyn crate::source::Source>,
    then: Arc<dyn crate::source::Source>,
}

impl crate::source::Source for Halves {
    fn name(&self) -> &str {
        "two halves"
    }

    fn open<'a>(
        &'a self,
        at: u64,
        known: Option<&'a crate::source::Identity>,
    ) -> futures::future::BoxFuture<'a, Result<crate::source::Opened, SourceError>> {
        if at == 0 { self.first.open(at, known) } else { self.then.open(at, known) }
    }
}
