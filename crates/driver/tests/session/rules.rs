//! Peers that do not keep to the rules: each ends with its reason, and the session goes on with the next connection.

use super::Site;
use super::peer::{Boot, LIMIT, Wire};
use std::time::Duration;
use wire::rpc::{AgentFrame, CommandState, Heartbeat, Hello, agent_frame::Body};
use wire::session::{FRAME_LIMIT, Frame, FromAgent, Reason};

async fn enrolled(site: &Site) -> Boot {
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    boot
}

/// What the driver says to frames behind a hello.
async fn answer(boot: &mut Boot, frames: impl IntoIterator<Item = AgentFrame>) -> Reason {
    let (mut wire, _) = boot.dial().await;
    for frame in frames {
        let _ = wire.up.send(frame).await;
    }
    boot.ended(&mut wire).await.reason
}

fn raw(seq: u64, ack: u64, body: Option<Body>) -> AgentFrame {
    AgentFrame { seq, ack, body }
}

fn beat() -> Option<Body> {
    Some(Body::Heartbeat(Heartbeat::default()))
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection_with_a_reason_and_nothing_else() {
    let site = Site::new().await;
    let mut boot = enrolled(&site).await;
    let cases: Vec<(Vec<AgentFrame>, Reason)> = vec![
        // A gap, a number that was never sent, a number where there is none, none where there is one.
        (vec![raw(900, 0, beat())], Reason::Sequence),
        (vec![raw(0, 99, Some(Body::Acknowledge(wire::rpc::Ack {})))], Reason::Sequence),
        (vec![raw(5, 0, Some(Body::Acknowledge(wire::rpc::Ack {})))], Reason::Malformed),
        (vec![raw(0, 0, beat())], Reason::Malformed),
        // A second hello.
        (vec![raw(0, 0, Some(Body::Hello(Hello::from(boot.hello()))))], Reason::Malformed),
        // More frames that bring nothing than are borne.
        ((0..2000).map(|_| raw(0, 0, Some(Body::Acknowledge(wire::rpc::Ack {})))).collect(), Reason::Flood),
    ];
    for (frames, reason) in cases {
        let shown = format!("{:?}", frames[0]);
        assert_eq!(answer(&mut boot, frames).await, reason, "{shown}");
    }
    let (mut wire, welcome) = boot.dial().await;
    assert!(welcome.resumed);
    let document = b"{\"id\": 7".to_vec().into();
    boot.tell(&wire, FromAgent::Command { document, omitted: 0 }).await;
    assert_eq!(boot.ended(&mut wire).await.reason, Reason::Malformed);
    let metrics = site.text("/metrics").await;
    assert!(metrics.contains("ferric_session_ends_total{reason=\"flood\"} 1"), "{metrics}");
    assert!(metrics.contains("ferric_session_ends_total{reason=\"sequence\"} 2"), "{metrics}");
}

#[tokio::test]
async fn a_frame_that_is_too_long_is_not_read_to_its_end() {
    let site = Site::new().await;
    let mut boot = enrolled(&site).await;
    let document = vec![b' '; FRAME_LIMIT + 1].into();
    let long = raw(2, 0, Some(Body::Command(CommandState { document, omitted: 0 })));
    assert_eq!(answer(&mut boot, [long]).await, Reason::TooLarge);
}

#[tokio::test]
async fn the_first_frame_is_a_hello() {
    let site = Site::new().await;
    let mut boot = enrolled(&site).await;
    let mut wire = boot.open().await.unwrap();
    wire.say(Frame { seq: 0, ack: 0, body: FromAgent::Ack }).await;
    assert_eq!(boot.ended(&mut wire).await.reason, Reason::Malformed);
    let mut wire = boot.open().await.unwrap();
    let hello = Hello { node_uuid: "x".repeat(100_000), ..Hello::from(boot.hello()) };
    wire.up.send(raw(0, 0, Some(Body::Hello(hello)))).await.unwrap();
    assert_eq!(boot.ended(&mut wire).await.reason, Reason::Malformed);
}

#[tokio::test]
async fn a_newer_connection_takes_over_and_the_older_one_is_told() {
    let site = Site::new().await;
    let mut boot = enrolled(&site).await;
    let (mut first, _) = boot.dial().await;
    boot.beat(&first).await;
    heard(&mut boot, &mut first).await;
    let (second, welcome) = boot.dial().await;
    assert!(welcome.resumed);
    assert_eq!(boot.ended(&mut first).await.reason, Reason::Superseded);
    boot.beat(&second).await;
    let metrics = site.text("/metrics").await;
    assert!(metrics.contains("ferric_sessions 1"), "{metrics}");
}

/// Waits until everything that was said is acknowledged.
pub(crate) async fn heard(boot: &mut Boot, wire: &mut Wire) {
    while boot.link.outstanding() > 0 {
        let frame = wire.hear().await.unwrap();
        boot.link.receive(frame).unwrap();
    }
}

#[tokio::test]
async fn what_a_newer_agent_says_is_passed_over_and_what_it_numbers_is_acknowledged() {
    let site = Site::new().await;
    let mut boot = enrolled(&site).await;
    let (mut wire, _) = boot.dial().await;
    heard(&mut boot, &mut wire).await;
    // A body that this version does not know, as it arrives here.
    boot.tell(&wire, FromAgent::Unknown).await;
    boot.beat(&wire).await;
    heard(&mut boot, &mut wire).await;
}

#[tokio::test]
async fn a_driver_that_stops_says_so() {
    let site = Site::new().await;
    let mut boot = enrolled(&site).await;
    let (mut wire, _) = boot.dial().await;
    heard(&mut boot, &mut wire).await;
    site.stop.cancel();
    assert_eq!(boot.ended(&mut wire).await.reason, Reason::GoingAway);
}

#[tokio::test]
async fn an_agent_that_does_not_read_costs_a_window_and_no_more() {
    let site = Site::new().await;
    let mut boot = enrolled(&site).await;
    let (wire, _) = boot.dial().await;
    // It says much and listens to nothing; what it is told is acknowledgements, which are small.
    for _ in 0..60 {
        boot.beat(&wire).await;
    }
    let told = tokio::time::timeout(LIMIT, async {
        while !site.text("/metrics").await.contains("ferric_heartbeats_total{effect=\"ignore\"} 60") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    told.await.unwrap();
}

#[tokio::test]
async fn an_agent_has_one_connection_at_a_time_whose_first_frame_is_waited_for() {
    let site = Site::new().await;
    let mut boot = enrolled(&site).await;
    let mut first = boot.open().await.unwrap();
    let _second = boot.open().await.unwrap();
    assert_eq!(boot.ended(&mut first).await.reason, Reason::Superseded);
    boot.dial().await;
}
