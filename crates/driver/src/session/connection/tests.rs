//! Patience, and connections in virtual time: an agent that says nothing, acknowledges nothing, does not read, floods, or takes
//! very long over a frame.

use super::super::calls::Calls;
use super::*;
use crate::conductor::{Parts, Settings};
use bytes::Bytes;
use futures::stream::unfold;
use prost::Message as _;
use serde_json::{Map, json};
use std::convert::Infallible;
use store::{MemoryStore, Node};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::codec::Codec as _;
use tonic_prost::ProstCodec;
use wire::agent::CommandRequest;
use wire::rpc::driver_frame::Body;
use wire::session::{Heartbeat, Link};

const LIMIT: Duration = Duration::from_secs(300);

/// An agent at the other end of a connection without sockets: what it does not do is not done for it.
struct Peer {
    _folder: tempfile::TempDir,
    conductor: Arc<Conductor<MemoryStore>>,
    hello: Hello,
    link: Link<FromAgent>,
    up: mpsc::UnboundedSender<Bytes>,
    arrived: Arc<AtomicU64>,
    down: mpsc::Receiver<Result<DriverFrame, Status>>,
    connection: JoinHandle<()>,
    begun: Instant,
}

impl Peer {
    /// An agent whose certificate is valid for `valid` from now on, and which has said nothing yet.
    async fn valid_for(valid: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new("here", folder.path(), "http://127.0.0.1");
        settings.sync_power_state_interval = Duration::ZERO;
        settings.heartbeat_timeout = LIMIT.as_secs();
        let conductor = Conductor::start(Arc::new(MemoryStore::new()), settings, Parts::real()).await.unwrap();
        let mut node = Node::new(Uuid::new_v4(), "fake-hardware", Timestamp::UNIX_EPOCH);
        let (session, key) = (Uuid::new_v4(), "k".to_owned());
        let enrolled = json!({"id": session.to_string(), "key": key});
        node.driver_internal_info.insert("agent_session".to_owned(), enrolled);
        let node = conductor.create_node(node).await.unwrap().uuid;
        let hello = Hello {
            node,
            session,
            last_received: 0,
            protocol_minor: 0,
            agent_version: "13.0.0".to_owned(),
            ferric_version: "0.1.0".to_owned(),
        };
        let (up, receiver) = mpsc::unbounded_channel::<Bytes>();
        let bytes = unfold(receiver, async |mut receiver| {
            let piece = receiver.recv().await?;
            Some((Ok::<_, Infallible>(piece), receiver))
        });
        let decoder = ProstCodec::<DriverFrame, AgentFrame>::default().decoder();
        let up_stream = Streaming::new_request(decoder, axum::body::Body::from_stream(bytes), None, Some(FRAME_LIMIT));
        let (sender, down) = mpsc::channel(4);
        let arrived = Arc::new(AtomicU64::new(0));
        let connection = Connection {
            conductor: conductor.clone(),
            presented: Presented { node, key: key.clone(), not_after: Timestamp::now() + valid },
            up: up_stream,
            down: sender,
            stop: CancellationToken::new(),
            arrived: arrived.clone(),
        };
        let greeting = Arc::new(Calls::default()).begin(key);
        let connection = tokio::spawn(connection.run(greeting));
        let (link, begun) = (Link::default(), Instant::now());
        Self { _folder: folder, conductor, hello, link, up, arrived, down, connection, begun }
    }

    /// One that has been welcomed and has listed its commands, of which there are none.
    async fn welcomed(valid: Duration) -> Self {
        let mut peer = Self::valid_for(valid).await;
        peer.say(Frame { seq: 0, ack: 0, body: FromAgent::Hello(peer.hello.clone()) });
        assert!(matches!(peer.hear().await.unwrap().body, Some(Body::Welcome(_))));
        peer.tell(FromAgent::Listed(0));
        assert!(matches!(peer.hear().await.unwrap().body, Some(Body::Acknowledge(_))));
        peer
    }

    /// Bytes as they arrive.
    fn send(&self, bytes: Bytes) {
        self.arrived.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // The connection may have ended, which is seen by who waits for its end.
        let _ = self.up.send(bytes);
    }

    fn say(&self, frame: Frame<FromAgent>) {
        self.send(packed(frame));
    }

    /// Says something that is numbered, and acknowledges nothing.
    fn tell(&mut self, body: FromAgent) {
        let frame = self.link.send(body);
        self.say(Frame { ack: 0, ..frame });
    }

    /// What the driver says next, whether or not it is acknowledged.
    async fn hear(&mut self) -> Result<DriverFrame, Status> {
        self.down.recv().await.expect("the driver ends a connection with a word")
    }

    /// Has the driver give a command.
    fn order(&self) -> JoinHandle<()> {
        let agent = self.conductor.sessions().agent(self.hello.node, self.hello.session).unwrap();
        tokio::spawn(async move {
            let request = CommandRequest { name: "standby.sync".to_owned(), params: Map::new() };
            let _ = agent.execute(request, false).await;
        })
    }

    /// Hears whatever comes until the driver ends the connection; why it does, and after how many seconds of it all.
    async fn ended(&mut self) -> (Reason, u64) {
        let reason = loop {
            if let Some(Body::Close(close)) = self.hear().await.unwrap().body {
                break Violation::from(close).reason;
            }
        };
        assert_eq!(self.hear().await.unwrap_err().code(), reason.grpc_code());
        (reason, self.begun.elapsed().as_secs())
    }

    /// What a next connection would begin with.
    fn again(&self) -> Attached {
        self.conductor.sessions().attach(&Hello { last_received: self.link.received(), ..self.hello.clone() })
    }
}

/// A frame as a message of gRPC ("gRPC over HTTP2", Length-Prefixed-Message).
fn packed(frame: Frame<FromAgent>) -> Bytes {
    let message = AgentFrame::from(frame).encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn an_agent_that_dials_and_never_says_hello_is_let_go() {
    let mut peer = Peer::valid_for(DAY).await;
    assert_eq!(peer.ended().await, (Reason::Silent, HELLO.as_secs()));
    // Nor is it heard when its hello is begun and never complete.
    let mut peer = Peer::valid_for(DAY).await;
    peer.send(packed(Frame { seq: 0, ack: 0, body: FromAgent::Hello(peer.hello.clone()) }).slice(..20));
    assert_eq!(peer.ended().await, (Reason::Silent, HELLO.as_secs()));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_falls_silent_after_its_hello_is_let_go() {
    let mut peer = Peer::welcomed(DAY).await;
    assert_eq!(peer.ended().await, (Reason::Silent, LIMIT.as_secs()));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_acknowledges_is_let_go_however_much_it_says_and_nothing_is_lost() {
    let mut peer = Peer::welcomed(DAY).await;
    let _order = peer.order();
    let reason = loop {
        tokio::select! {
            ended = peer.ended() => break ended,
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
        }
        assert!(peer.begun.elapsed() < 2 * ACKNOWLEDGE, "it goes on");
        peer.tell(FromAgent::Heartbeat(Heartbeat::default()));
    };
    assert_eq!(reason, (Reason::Silent, ACKNOWLEDGE.as_secs()));
    let again = peer.again();
    assert!(again.resumed && matches!(&*again.again, [Frame { seq: 1, body: FromDriver::Command(_), .. }]));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_reads_is_let_go_and_nothing_is_lost() {
    let mut peer = Peer::welcomed(DAY).await;
    let _orders: Vec<_> = (0..10).map(|_| peer.order()).collect();
    (&mut peer.connection).await.unwrap();
    assert_eq!(peer.begun.elapsed().as_secs(), WRITE.as_secs() + 1);
    let metrics = peer.conductor.metrics.text(&[], std::iter::empty());
    assert!(metrics.contains("ferric_session_ends_total{reason=\"silent\"} 1"), "{metrics}");
    // Four frames were waiting, a fifth was being written; the others nobody has numbered, and nobody waits for any more.
    let again = peer.again();
    assert_eq!((again.resumed, again.again.len()), (true, 5));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_floods_is_read_at_the_pace_that_is_borne() {
    let mut peer = Peer::welcomed(DAY).await;
    let begun = Instant::now();
    for _ in 0..FRAMES + 200 {
        while !peer.link.has_room(0) {
            let frame = peer.hear().await.unwrap();
            let frame = Frame::<FromDriver>::try_from(frame).unwrap();
            peer.link.receive(frame).unwrap();
        }
        peer.tell(FromAgent::Heartbeat(Heartbeat::default()));
    }
    while peer.link.outstanding() > 0 {
        let frame = Frame::<FromDriver>::try_from(peer.hear().await.unwrap()).unwrap();
        peer.link.receive(frame).unwrap();
    }
    let (took, least) = (begun.elapsed(), 199 * FRAME_TIME);
    assert!(took >= least && took < 2 * least, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_takes_longer_than_any_silence_arrives_while_it_moves_and_not_when_it_stands() {
    let result = json!({
        "id": Uuid::new_v4(), "command_name": "collect_system_logs", "command_status": "SUCCEEDED",
        "command_error": null, "command_result": "x".repeat(16 << 20),
    });
    let document: Bytes = serde_json::to_vec(&result).unwrap().into();
    let mut peer = Peer::welcomed(DAY).await;
    let frame = peer.link.send(FromAgent::Command { document: document.clone(), omitted: 0 });
    let bytes = packed(frame.clone());
    let begun = Instant::now();
    for piece in bytes.chunks(20 << 10) {
        peer.send(Bytes::copy_from_slice(piece));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() > 2 * LIMIT);
    let heard = Frame::<FromDriver>::try_from(peer.hear().await.unwrap()).unwrap();
    assert_eq!(heard.ack, 2);

    let mut peer = Peer::welcomed(DAY).await;
    let bytes = packed(frame);
    peer.send(bytes.slice(..100 * (16 << 10)));
    assert_eq!(peer.ended().await, (Reason::Silent, LIMIT.as_secs() + 100));
}

#[tokio::test(start_paused = true)]
async fn a_connection_does_not_outlive_its_certificate() {
    let mut peer = Peer::welcomed(Duration::from_secs(100)).await;
    let (reason, seconds) = peer.ended().await;
    // The clock of certificates is not the one that the test turns.
    assert!(reason == Reason::Identity && (90..=100).contains(&seconds), "{reason:?} {seconds}");
}

async fn after(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_talks_and_never_acknowledges_is_silent() {
    let mut silence = Silence::new(LIMIT, Mark::new(0));
    let sent = UnderWay { acknowledged: 3, frames: 1, bytes: 100 };
    silence.look(sent, Mark::new(0));
    for second in 1..=ACKNOWLEDGE.as_secs() {
        assert!(silence.until(0) >= Instant::now(), "{second}");
        after(1).await;
        silence.hears(Mark::new(0));
        silence.look(sent, Mark::new(0));
    }
    assert!(silence.until(0) <= Instant::now());
    // One that acknowledges one frame after the other is not.
    silence.look(UnderWay { acknowledged: 4, ..sent }, Mark::new(0));
    assert_eq!(silence.until(0), Instant::now() + ACKNOWLEDGE);
    silence.look(UnderWay { acknowledged: 5, frames: 0, bytes: 0 }, Mark::new(0));
    assert_eq!(silence.until(0), Instant::now() + LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_long_frame_may_take_its_time_in_either_direction() {
    let mut silence = Silence::new(LIMIT, Mark::new(0));
    let begun = Instant::now();
    // Up, at twice the slowest rate.
    for second in 1..=1000 {
        after(1).await;
        assert!(silence.until(second * 2 * SLOWEST) > Instant::now(), "{second}");
    }
    assert_eq!(silence.until(u64::MAX), begun + LIMIT + Duration::from_secs(FRAME_LIMIT as u64 / SLOWEST));
    // Down.
    silence.hears(Mark::new(0));
    silence.look(UnderWay { acknowledged: 0, frames: 1, bytes: 100 * SLOWEST }, Mark::new(0));
    assert_eq!(silence.until(0), Instant::now() + ACKNOWLEDGE + Duration::from_secs(100));
}

#[tokio::test(start_paused = true)]
async fn frames_are_read_at_a_pace_that_a_list_does_not_notice() {
    let mut pace = Pace::new(Instant::now());
    for _ in 0..FRAMES {
        assert_eq!(pace.ready(), Instant::now());
        pace.took(Instant::now());
    }
    let begun = Instant::now();
    for _ in 0..100 {
        pace.took(Instant::now());
        tokio::time::sleep_until(pace.ready()).await;
    }
    assert_eq!(begun.elapsed(), 100 * FRAME_TIME);
    after(3600).await;
    assert!(pace.ready() <= Instant::now());
    pace.took(Instant::now());
    assert_eq!(pace.debt, FRAME_TIME);
}

#[test]
fn the_state_of_a_command_is_bounded_before_it_is_read_and_has_an_id() {
    let state = |id: &str, result: &str| {
        format!(
            r#"{{"id": "{id}", "command_name": "a", "command_status": "SUCCEEDED", "command_error": null, "command_result": {result}}}"#
        )
    };
    let id = "5c6d1f0e-0000-4000-8000-000000000001";
    assert!(state_of(state(id, "[1]").as_bytes()).is_ok());
    for wrong in ["x", "", "5C6D1F0E-0000-4000-8000-000000000001", "urn:uuid:5c6d1f0e-0000-4000-8000-000000000001"] {
        assert_eq!(state_of(state(wrong, "1").as_bytes()).unwrap_err().reason, Reason::Malformed, "{wrong}");
    }
    for bomb in [format!("[{}0]", "0,".repeat(300_000)), format!("{}{}", "[".repeat(40), "]".repeat(40))] {
        assert_eq!(state_of(state(id, &bomb).as_bytes()).unwrap_err().reason, Reason::Malformed);
    }
}
