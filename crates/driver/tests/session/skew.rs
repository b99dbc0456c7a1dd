//! An agent of another minor version: one that says less, and one that says what this driver has never heard of, as far as
//! `cargo xtask wire` lets it: new fields, new bodies.

use super::Site;
use super::peer::{Boot, LIMIT};
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;
use transport::http2;
use wire::rpc::{Ack, DriverFrame, driver_frame::Body};
use wire::session::PROTOCOL_MINOR;

/// A frame as another version has it.
#[derive(Clone, PartialEq, prost::Message)]
struct OtherFrame {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(uint64, tag = "2")]
    ack: u64,
    #[prost(message, optional, tag = "3")]
    hello: Option<OtherHello>,
    #[prost(message, optional, tag = "7")]
    heartbeat: Option<OtherHeartbeat>,
    #[prost(message, optional, tag = "9")]
    acknowledge: Option<Ack>,
    /// A body that this driver does not know.
    #[prost(message, optional, tag = "40")]
    temperature: Option<OtherHeartbeat>,
    /// A field beside the bodies.
    #[prost(string, tag = "41")]
    trace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OtherHello {
    #[prost(string, tag = "1")]
    node_uuid: String,
    #[prost(string, tag = "2")]
    session_id: String,
    #[prost(uint32, tag = "4")]
    protocol_minor: u32,
    #[prost(string, repeated, tag = "30")]
    features: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OtherHeartbeat {
    #[prost(string, tag = "1")]
    status: String,
    #[prost(sint64, tag = "25")]
    degrees: i64,
}

/// Says these frames behind a hello of this minor version, and waits until the last is acknowledged.
async fn hears(site: &Site, boot: &Boot, minor: u32, frames: Vec<OtherFrame>) {
    let identity = boot.identity.as_ref();
    let connection = http2::connect(&site.offer.url, &site.offer.ca, identity, LIMIT).await.unwrap();
    let mut grpc = Grpc::with_origin(connection.channel.clone(), connection.origin.clone());
    grpc.ready().await.unwrap();
    let hello = OtherHello {
        node_uuid: boot.node.to_string(),
        session_id: boot.session.to_string(),
        protocol_minor: minor,
        features: vec!["temperature".to_owned(); usize::try_from(minor).unwrap()],
    };
    let last = frames.iter().map(|frame| frame.seq).max().unwrap();
    let (up, receiver) = mpsc::channel(64);
    up.send(OtherFrame { hello: Some(hello), ..OtherFrame::default() }).await.unwrap();
    for frame in frames {
        up.send(frame).await.unwrap();
    }
    let stream = futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let path = PathAndQuery::from_static("/ferric.agent.v1.AgentSession/Session");
    let codec = ProstCodec::<OtherFrame, DriverFrame>::default();
    let mut down = grpc.streaming(tonic::Request::new(stream), path, codec).await.unwrap().into_inner();
    let first = down.message().await.unwrap().unwrap();
    let Some(Body::Welcome(welcome)) = first.body else { panic!("{first:?}") };
    // Both use the lower one.
    assert_eq!(welcome.protocol_minor, PROTOCOL_MINOR);
    loop {
        let frame = tokio::time::timeout(LIMIT, down.message()).await.unwrap().unwrap().unwrap();
        assert!(!matches!(frame.body, Some(Body::Close(_))), "{frame:?}");
        if frame.ack == last {
            return;
        }
    }
}

#[tokio::test]
async fn an_agent_of_the_next_minor_version_is_heard_and_what_it_adds_is_passed_over() {
    let site = Site::new().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    let heartbeat = Some(OtherHeartbeat { status: String::new(), degrees: -40 });
    let frames = vec![
        OtherFrame { seq: 1, heartbeat: heartbeat.clone(), trace: "x".repeat(1000), ..OtherFrame::default() },
        OtherFrame { seq: 2, temperature: heartbeat.clone(), ..OtherFrame::default() },
        OtherFrame { seq: 3, heartbeat, ..OtherFrame::default() },
    ];
    hears(&site, &boot, PROTOCOL_MINOR + 7, frames).await;
    let metrics = site.text("/metrics").await;
    assert!(metrics.contains("ferric_heartbeats_total{effect=\"ignore\"} 2"), "{metrics}");
}

#[tokio::test]
async fn an_agent_that_says_less_is_heard() {
    let site = Site::new().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    let frames = vec![OtherFrame { seq: 1, heartbeat: Some(OtherHeartbeat::default()), ..OtherFrame::default() }];
    hears(&site, &boot, 0, frames).await;
}
