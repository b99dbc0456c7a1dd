//! Logs of ramdisks, as they happen and as they are kept.

use super::Site;
use super::peer::{Boot, LIMIT};
use std::time::Duration;
use tonic::{Code, Status, Streaming};
use wire::rpc::{LogBatch, LogCredit, LogLine};

fn batch(from: u64, texts: &[&str]) -> LogBatch {
    let lines = texts.iter().zip(from..).map(|(text, number)| LogLine { number, text: (*text).to_owned() });
    LogBatch { lines: lines.collect(), ..LogBatch::default() }
}

/// The next credit, or the status with which the call ends.
async fn heard(credits: &mut Streaming<LogCredit>) -> Result<Option<LogCredit>, Status> {
    tokio::time::timeout(LIMIT, credits.message()).await.expect("the driver says nothing")
}

#[tokio::test]
async fn lines_are_served_as_they_come_and_kept_when_the_ramdisk_ends() {
    let site = Site::new().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    let (up, mut credits, _connection) = boot.log().await;
    let first = heard(&mut credits).await.unwrap().unwrap();
    assert_eq!(first.received_through, 0);
    assert!(first.lines > 0);
    up.send(batch(1, &["2026-01-01T00:00:00.5Z  INFO agent::write: begins", "[ 1.0] usb\x1b[2J"])).await.unwrap();
    assert_eq!(heard(&mut credits).await.unwrap().unwrap().received_through, 2);
    let path = format!("/v1/nodes/{}/logs", site.node);
    let text = site.text(&path).await;
    assert_eq!(text, "2026-01-01T00:00:00.500Z  INFO agent::write: begins\n[ 1.0] usb\\u{1b}[2J\n");
    assert_eq!(site.text(&format!("{path}?tail=1")).await, "[ 1.0] usb\\u{1b}[2J\n");
    assert_eq!(site.text(&format!("{path}?tail=0")).await, "");

    // After a break it goes on where it was.
    drop((up, credits));
    let (up, mut credits, _connection) = boot.log().await;
    assert_eq!(heard(&mut credits).await.unwrap().unwrap().received_through, 2);
    up.send(batch(2, &["again"])).await.unwrap();
    assert_eq!(heard(&mut credits).await.unwrap_err().code(), Code::OutOfRange);

    site.deploy().await;
    for _ in 0..200 {
        if !site.conductor.logs().has(site.node) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The file is written beside everything else.
    let mut kept = String::new();
    for _ in 0..200 {
        kept = site.text(&path).await;
        if !kept.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(kept, text);

    // While the next ramdisk runs, that is the one before.
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    let (up, mut credits, _connection) = boot.log().await;
    heard(&mut credits).await.unwrap().unwrap();
    up.send(batch(1, &["another boot"])).await.unwrap();
    heard(&mut credits).await.unwrap().unwrap();
    assert_eq!(site.text(&path).await, "another boot\n");
    assert_eq!(site.text(&format!("{path}?earlier=0")).await, "another boot\n");
    assert_eq!(site.text(&format!("{path}?earlier=1")).await, text);
    assert_eq!(site.text(&format!("{path}?earlier=1&tail=1")).await, "[ 1.0] usb\\u{1b}[2J\n");
    for (query, status) in [("earlier=2", 404), ("earlier=x", 400), ("earlier=-1", 400), ("earlier=1&follow=1", 400)] {
        assert_eq!(site.answer(&format!("{path}?{query}")).await.0, status, "{query}");
    }
}

#[tokio::test]
async fn a_log_takes_the_certificate_of_its_node() {
    let site = Site::new().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    boot.session = uuid::Uuid::new_v4();
    let (_up, mut credits, _connection) = boot.log().await;
    assert_eq!(heard(&mut credits).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn lines_beyond_the_credit_end_the_log_and_not_the_session() {
    let site = Site::new().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    let (mut wire, _) = boot.dial().await;
    let (up, mut credits, _connection) = boot.log().await;
    let credit = heard(&mut credits).await.unwrap().unwrap();
    up.send(batch(u64::from(credit.lines) + 1, &["x"])).await.unwrap();
    assert_eq!(heard(&mut credits).await.unwrap_err().code(), Code::ResourceExhausted);
    boot.beat(&wire).await;
    while boot.link.outstanding() > 0 {
        let frame = wire.hear().await.unwrap();
        boot.link.receive(frame).unwrap();
    }
    let metrics = site.text("/metrics").await;
    assert!(metrics.contains("ferric_telemetry_ends_total{reason=\"flood\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_log_ends_with_the_boot_that_it_is_of_and_a_newer_call_takes_its_place() {
    let site = Site::new().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    let (_up, mut older, _connection) = boot.log().await;
    heard(&mut older).await.unwrap().unwrap();
    let (up, mut credits, _other) = boot.log().await;
    heard(&mut credits).await.unwrap().unwrap();
    assert_eq!(heard(&mut older).await.unwrap_err().code(), Code::Aborted);
    up.send(batch(1, &["of this boot"])).await.unwrap();
    assert_eq!(heard(&mut credits).await.unwrap().unwrap().received_through, 1);
    // A deployment begins with switching the machine off.
    site.deploy().await;
    up.send(batch(2, &["of a boot that is over"])).await.unwrap();
    assert_eq!(heard(&mut credits).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(!site.conductor.logs().has(site.node));
}

#[tokio::test]
async fn a_log_does_not_outlive_the_certificate_with_which_it_began() {
    let site = Site::new().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    boot.expires(&site.authority, Duration::from_secs(8));
    let (_up, mut credits, _connection) = boot.log().await;
    heard(&mut credits).await.unwrap().unwrap();
    assert_eq!(heard(&mut credits).await.unwrap_err().code(), Code::PermissionDenied);
    // With that it cannot come again either, once its last second is over.
    let refused = tokio::time::timeout(LIMIT, async {
        while boot.open().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    refused.await.unwrap();
}
