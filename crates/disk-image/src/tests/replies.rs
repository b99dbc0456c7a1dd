//! Replies that are right and unusual, or wrong in ways that servers really are.

use super::image::*;
use super::server::{Answer, Server};
use crate::disk::fake::FakeDisk;
use crate::fetch::{AttemptError, FetchError};
use crate::source::{Access, SourceError, from_url};
use crate::{Cause, Digest, DiskState, Plan};
use std::time::{Duration, Instant};

fn plan_for(url: &str, digest: Option<Digest>) -> Plan {
    let mut plan = Plan::new(from_url(url, &Access::default()).unwrap(), digest);
    impatient(&mut plan);
    plan
}

/// Chunks tell where the image ends, and that it has not ended where the connection has.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_chunks_is_written_and_continued_where_it_broke() {
    let image = gpt_image(5, 512);
    for transported in [image.clone(), zstd(&image)] {
        for cut in [None, Some(transported.len() / 2), Some(transported.len())] {
            let server = Server::start(transported.clone(), move |n| Answer {
                chunked: true,
                cut: cut.filter(|_| n == 0),
                ..Answer::good()
            })
            .await;
            let disk = FakeDisk::new(old_disk(10), 512);
            write(plan_for(&server.url, Some(sha256(&transported))), disk.clone()).await.unwrap();
            assert_holds(&disk.bytes(), &image, 2);
            let asked = 1 + usize::from(cut.is_some_and(|cut| cut < transported.len()));
            assert_eq!(server.seen().len(), asked, "{cut:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_left_alone_as_long_as_it_wants() {
    let image = gpt_image(5, 512);
    let server = Server::start(image.clone(), |n| match n {
        0 => Answer { status: Some(429), more: "retry-after: 1\r\n", ..Answer::default() },
        // A date says nothing to who does not know the clock of the other side.
        1 => Answer { status: Some(503), more: "retry-after: Fri, 31 Dec 2100 23:59:59 GMT\r\n", ..Answer::default() },
        _ => Answer::good(),
    })
    .await;
    let (disk, start) = (FakeDisk::new(old_disk(10), 512), Instant::now());
    write(plan_for(&server.url, None), disk.clone()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_holds(&disk.bytes(), &image, 2);
}

#[test]
fn no_server_is_waited_for_longer_than_five_minutes_at_a_time() {
    let busy = |after| {
        let after = Some(Duration::from_secs(after));
        AttemptError::Open(SourceError::Status { url: String::new(), status: 503, after })
    };
    let usual = Duration::from_secs(10);
    let pauses = [0, 60, u64::MAX].map(|after| busy(after).pause(usual).as_secs());
    assert_eq!(pauses, [10, 60, 300]);
    assert_eq!(AttemptError::Stalled(usual).pause(usual), usual);
}

/// A file that is kept packed is what its digest says; one that is packed while it is sent is not, and the reason is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_packs_on_the_way_fails_the_digest_and_says_why() {
    let image = gpt_image(5, 512);
    let packed = gzip(&image);
    let coded = |_| Answer { more: "content-encoding: gzip\r\n", ..Answer::good() };
    let server = Server::start(packed.clone(), coded).await;
    let disk = FakeDisk::new(old_disk(10), 512);
    write(plan_for(&server.url, Some(sha256(&packed))), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &image, 2);
    let error = write(plan_for(&server.url, Some(sha256(&image))), disk.clone()).await.unwrap_err();
    assert!(matches!(&error.cause, Cause::Digest { coding: Some(coding), .. } if &**coding == "gzip"), "{error:?}");
    assert!(error.cause.to_string().ends_with("unasked (Content-Encoding: gzip): switch that off"), "{}", error.cause);
    assert_eq!((error.state, has_table(&disk.bytes())), (DiskState::NoTable, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_in_a_circle_end_soon() {
    let server =
        Server::start(gpt_image(5, 512), |_| Answer { location: Some("/image".into()), ..Answer::default() }).await;
    let disk = FakeDisk::new(old_disk(10), 512);
    let error = write(plan_for(&server.url, None), disk.clone()).await.unwrap_err();
    let Cause::Fetch(FetchError::Source { source: SourceError::Reply { reason, .. }, .. }) = &error.cause else {
        panic!("{error:?}")
    };
    assert_eq!((reason.as_str(), server.seen().len()), ("more than 5 redirections", 6));
    assert_eq!((error.state, disk.bytes() == old_disk(10)), (DiskState::Untouched, true));
}

/// A server that hangs up in the handshake may be restarting; it is asked again until patience ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_breaks_is_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/image", listener.local_addr().unwrap());
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let disk = FakeDisk::new(old_disk(10), 512);
    let error = write(plan_for(&url, None), disk.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Fetch(FetchError::GaveUp { attempts: 10, at: 0, .. })), "{error:?}");
    assert_eq!((error.state, disk.bytes() == old_disk(10)), (DiskState::Untouched, true));
}

/// To the byte: what ends within a sector is filled up with zeros, and must fit.
#[tokio::test(flavor = "multi_thread")]
async fn a_raw_image_may_end_within_a_sector_and_one_byte_too_many_is_too_many() {
    let image = gpt_image(5, 512);
    for more in [1, 100, 511] {
        let odd = [&image[..], &vec![0x77; more]].concat();
        let disk = FakeDisk::new(old_disk(10), 512);
        write(plan(&odd), disk.clone()).await.unwrap();
        let bytes = disk.bytes();
        assert!(bytes[image.len()..image.len() + more].iter().all(|&byte| byte == 0x77));
        assert!(bytes[image.len() + more..image.len() + 512].iter().all(|&byte| byte == 0));
        let disk = FakeDisk::new(vec![0xee; image.len()], 512);
        let error = write(plan(&odd), disk.clone()).await.unwrap_err();
        assert_eq!((error.state, disk.bytes()[0]), (DiskState::Untouched, 0xee), "{error:?}");
    }
    for len in [1, 511, 512, 600] {
        let disk = FakeDisk::new(old_disk(10), 512);
        let error = write(plan(&image[..len]), disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Image(_)), "{len}: {error:?}");
        assert_eq!((error.state, disk.bytes() == old_disk(10)), (DiskState::Untouched, true));
    }
}

/// An xz stream in several blocks, of every kind of check, with the padding that the format allows and one that it does not.
#[tokio::test(flavor = "multi_thread")]
async fn xz_of_every_check_in_blocks_and_with_padding_is_unpacked() {
    use liblzma::stream::{Action, Check, Stream};
    let image = gpt_image(5, 512);
    let pack = |check| {
        let (mut stream, mut out) = (Stream::new_easy_encoder(0, check).unwrap(), Vec::new());
        for (number, part) in image.chunks(2 * MIB).enumerate() {
            let (start, action) = (stream.total_in(), if number < 2 { Action::FullFlush } else { Action::Finish });
            while !matches!(
                {
                    out.reserve(64 << 10);
                    stream.process_vec(&part[(stream.total_in() - start) as usize..], &mut out, action)
                },
                Ok(liblzma::stream::Status::StreamEnd)
            ) {}
        }
        out
    };
    for check in [Check::None, Check::Crc32, Check::Crc64, Check::Sha256] {
        let one = pack(check);
        for (padding, good) in [(0, true), (4, true), (3, false)] {
            let packed = [&one[..], &vec![0; padding]].concat();
            let disk = FakeDisk::new(old_disk(10), 512);
            let result = write(plan(&packed), disk.clone()).await;
            assert_eq!(result.is_ok(), good, "{padding}: {result:?}");
            if good {
                assert_holds(&disk.bytes(), &image, 2);
            }
        }
    }
}

/// Somebody packed the packed file.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_packed_twice_is_refused_by_that_name() {
    let image = gpt_image(5, 512);
    for (once, twice) in [("gzip", zstd(&gzip(&image))), ("xz", gzip(&xz(&image))), ("zstd", xz(&zstd(&image)))] {
        let disk = FakeDisk::new(old_disk(10), 512);
        let error = write(plan(&twice), disk.clone()).await.unwrap_err();
        assert!(error.cause.to_string().contains(&format!("packed once more (with {once})")), "{}", error.cause);
        assert_eq!((error.state, disk.bytes() == old_disk(10)), (DiskState::Untouched, true));
    }
}
