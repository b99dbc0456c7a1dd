//! The driver's end of sessions, as a script: an authority, a server, and connections that the test holds in its hands.

use super::Answer;
use agent::session::stream::{self, Stream};
use agent::{Agent, Dispatcher};
use futures::StreamExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use serde_json::Value;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::ServiceExt as _;
use transport::http2::{self, PeerCertificate};
use transport::tls::Identity;
use uuid::Uuid;
use wire::rpc::agent_session_server::{AgentSession, AgentSessionServer};
use wire::rpc::{AgentFrame, DriverFrame, EnrollReply, EnrollRequest, LogBatch, LogCredit};
use wire::session::{
    Command, FRAME_LIMIT, Frame, FromAgent, FromDriver, Hello, Link, Offer, PROTOCOL_MINOR, Receipt, Welcome, node_uri,
};

/// Longest wait of a test for something that has to come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Authority of the driver's server and of its agents.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn server(&self) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        Identity::from_pem(params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A certificate for the key of a request, in the name of that node.
    fn sign(&self, csr: &[u8], node: &str) -> String {
        let mut request = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        request.params = CertificateParams::default();
        let uri = node_uri(node.parse().unwrap());
        request.params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

/// A connection of an agent, in the test's hands; ends with this value.
pub struct Conn {
    /// The certificate that the agent showed, DER.
    pub certificate: Option<Vec<u8>>,
    pub incoming: Streaming<AgentFrame>,
    outgoing: mpsc::Sender<Result<DriverFrame, Status>>,
}

impl Conn {
    /// The next frame; `None` when the agent has ended the connection.
    pub async fn hear(&mut self) -> Option<Frame<FromAgent>> {
        let next = tokio::time::timeout(PATIENCE, self.incoming.message()).await.expect("the agent says something");
        next.ok().flatten().map(|frame| frame.try_into().expect("an agent's frame is well-formed"))
    }

    pub async fn hello(&mut self) -> Hello {
        match self.hear().await.expect("an agent begins with hello").body {
            FromAgent::Hello(hello) => hello,
            other => panic!("no hello but {other:?}"),
        }
    }

    pub async fn say(&self, frame: Frame<FromDriver>) {
        self.send(frame.into()).await;
    }

    /// Sends any frame. An agent that is gone does not hear it.
    pub async fn send(&self, frame: DriverFrame) {
        let _ = self.outgoing.send(Ok(frame)).await;
    }

    /// Ends the call with a status.
    pub async fn end(self, status: Status) {
        let _ = self.outgoing.send(Err(status)).await;
    }
}

pub fn welcome(resumed: bool, last_received: u64) -> FromDriver {
    FromDriver::Welcome(Welcome {
        resumed,
        last_received,
        protocol_minor: PROTOCOL_MINOR,
        driver_version: "test".to_owned(),
        heartbeat_timeout: 300,
    })
}

/// A call of Telemetry, in the test's hands: batches come, credits go.
pub type LogCall = (Streaming<LogBatch>, mpsc::Sender<Result<LogCredit, Status>>);

/// What [`Driver`] was asked, and what it answers.
struct Script {
    authority: Authority,
    /// Session → key of its request; another key is refused.
    enrolled: Mutex<HashMap<String, Vec<u8>>>,
    asked: mpsc::UnboundedSender<EnrollRequest>,
    /// Refuses enrolments with this, where it is set.
    refuse: Mutex<Option<Status>>,
    connections: mpsc::UnboundedSender<Conn>,
    logs: mpsc::UnboundedSender<LogCall>,
}

type Outgoing<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

fn outgoing<T: Send + 'static>(mut receiver: mpsc::Receiver<Result<T, Status>>) -> Outgoing<T> {
    futures::stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
}

struct Service(Arc<Script>);

#[tonic::async_trait]
impl AgentSession for Service {
    type SessionStream = Outgoing<DriverFrame>;
    type TelemetryStream = Outgoing<LogCredit>;

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollReply>, Status> {
        let request = request.into_inner();
        let _ = self.0.asked.send(request.clone());
        if let Some(status) = self.0.refuse.lock().unwrap().clone() {
            return Err(status);
        }
        let mut enrolled = self.0.enrolled.lock().unwrap();
        let key = enrolled.entry(request.session_id.clone()).or_insert_with(|| request.csr.to_vec());
        if *key != request.csr {
            return Err(Status::permission_denied("this token is spent"));
        }
        let certificate = self.0.authority.sign(&request.csr, &request.node_uuid);
        Ok(Response::new(EnrollReply { certificate, not_after: u64::MAX, renew_in: 3600 }))
    }

    async fn session(&self, request: Request<Streaming<AgentFrame>>) -> Result<Response<Self::SessionStream>, Status> {
        let shown = request.extensions().get::<PeerCertificate>().and_then(|shown| shown.0.clone());
        let certificate = shown.map(|certificate| certificate.to_vec());
        let (sender, receiver) = mpsc::channel(64);
        let _ = self.0.connections.send(Conn { certificate, incoming: request.into_inner(), outgoing: sender });
        Ok(Response::new(outgoing(receiver)))
    }

    async fn telemetry(
        &self,
        request: Request<Streaming<LogBatch>>,
    ) -> Result<Response<Self::TelemetryStream>, Status> {
        let (sender, receiver) = mpsc::channel(64);
        let _ = self.0.logs.send((request.into_inner(), sender));
        Ok(Response::new(outgoing(receiver)))
    }
}

/// A driver's listener for sessions.
pub struct Driver {
    pub offer: Offer,
    script: Arc<Script>,
    pub asked: mpsc::UnboundedReceiver<EnrollRequest>,
    connections: mpsc::UnboundedReceiver<Conn>,
    pub logs: mpsc::UnboundedReceiver<LogCall>,
    _stop: tokio_util::sync::DropGuard,
}

/// Frames of a driver that is not of this version, said behind whatever the agent says first.
pub type Sayings = Vec<OtherFrame>;

/// A frame as another version has it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OtherFrame {
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    #[prost(uint64, tag = "2")]
    pub ack: u64,
    #[prost(message, optional, tag = "3")]
    pub welcome: Option<OtherWelcome>,
    #[prost(message, optional, tag = "4")]
    pub command: Option<OtherCommand>,
    /// A body that this agent does not know.
    #[prost(message, optional, tag = "40")]
    pub advice: Option<OtherCommand>,
    /// A field beside the bodies.
    #[prost(string, tag = "41")]
    pub trace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct OtherWelcome {
    #[prost(uint32, tag = "3")]
    pub protocol_minor: u32,
    #[prost(string, repeated, tag = "30")]
    pub features: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct OtherCommand {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(bytes = "vec", tag = "3")]
    pub params: Vec<u8>,
    #[prost(uint64, tag = "25")]
    pub deadline: u64,
}

/// Answers Session as a driver of another version does, and passes on what the agent says.
async fn said_by_another(
    request: Request<Streaming<AgentFrame>>,
    sayings: Sayings,
    heard: mpsc::UnboundedSender<Frame<FromAgent>>,
) -> Result<Response<Outgoing<OtherFrame>>, Status> {
    let mut incoming = request.into_inner();
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut sayings = Some(sayings);
        while let Ok(Some(frame)) = incoming.message().await {
            let _ = heard.send(frame.try_into().expect("an agent's frame is well-formed"));
            for frame in sayings.take().into_iter().flatten() {
                let _ = sender.send(Ok(frame)).await;
            }
        }
    });
    Ok(Response::new(outgoing(receiver)))
}

impl Driver {
    pub async fn start() -> Self {
        Self::start_as(None).await
    }

    /// A driver of another version, and what its agent says.
    pub async fn start_other(sayings: Sayings) -> (Self, mpsc::UnboundedReceiver<Frame<FromAgent>>) {
        let (heard, hears) = mpsc::unbounded_channel();
        (Self::start_as(Some((sayings, heard))).await, hears)
    }

    async fn start_as(other: Option<(Sayings, mpsc::UnboundedSender<Frame<FromAgent>>)>) -> Self {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let offer = Offer { url: format!("https://{}", listener.local_addr().unwrap()), ca: authority.pem.clone() };
        let tls = authority.server().session_config(&authority.pem).unwrap();
        let (asked, asked_by) = mpsc::unbounded_channel();
        let (connections, made) = mpsc::unbounded_channel();
        let (logs, followed) = mpsc::unbounded_channel();
        let script = Arc::new(Script {
            authority,
            enrolled: Mutex::default(),
            asked,
            refuse: Mutex::new(None),
            connections,
            logs,
        });
        let ours = AgentSessionServer::new(Service(Arc::clone(&script))).max_decoding_message_size(FRAME_LIMIT);
        let service = tower::service_fn(move |request: http::Request<http2::Incoming>| {
            let (ours, other) = (ours.clone(), other.clone());
            async move {
                let Some((sayings, heard)) = other.filter(|_| request.uri().path().ends_with("/Session")) else {
                    return ours.oneshot(request).await;
                };
                let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
                let answer = tower::service_fn(move |request| said_by_another(request, sayings.clone(), heard.clone()));
                Ok(grpc.streaming(answer, request).await)
            }
        });
        let stop = CancellationToken::new();
        let settings = http2::Settings {
            tls,
            connections: 64,
            strangers: 64,
            connections_per_peer: None,
            streams: 16,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_millis(100),
        };
        tokio::spawn(http2::serve(listener, service, settings, stop.clone()));
        Self { offer, script, asked: asked_by, connections: made, logs: followed, _stop: stop.drop_guard() }
    }

    /// From now on enrolments are refused with this, or none.
    pub fn refuse(&self, status: Option<Status>) {
        *self.script.refuse.lock().unwrap() = status;
    }

    /// The next connection.
    pub async fn connection(&mut self) -> Conn {
        let next = tokio::time::timeout(PATIENCE, self.connections.recv()).await;
        next.expect("the agent connects").expect("the server lives")
    }

    /// The next connection, if one comes in this time.
    pub async fn connection_within(&mut self, limit: Duration) -> Option<Conn> {
        tokio::time::timeout(limit, self.connections.recv()).await.ok().flatten()
    }
}

/// Begins a session of an agent that is this node.
pub async fn session(
    agent: &Arc<Agent>,
    dispatcher: &Arc<Dispatcher>,
    driver: &Driver,
    stop: &CancellationToken,
) -> Stream {
    agent.set_node_uuid(NODE);
    stream::start(agent, dispatcher, driver.offer.clone(), stop).await
}

pub const NODE: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

/// A driver that plays by the rules over whatever connections there are, and remembers what it heard.
pub struct Ruled {
    pub driver: Driver,
    pub link: Link<FromDriver>,
    knows: bool,
    conn: Option<Conn>,
    /// Connections so far.
    pub connections: usize,
    /// All numbered frames in the order in which they came.
    pub heard: Vec<FromAgent>,
}

impl Ruled {
    pub fn new(driver: Driver) -> Self {
        Self { driver, link: Link::default(), knows: false, conn: None, connections: 0, heard: Vec::new() }
    }

    /// A driver that has started anew: nothing is remembered.
    pub fn forget(&mut self) {
        (self.link, self.knows, self.conn) = (Link::default(), false, None);
    }

    /// Breaks the connection.
    pub fn cut(&mut self) {
        self.conn = None;
    }

    /// Waits for a connection and greets the agent, unless there is one.
    pub async fn greet(&mut self) -> &mut Conn {
        while self.conn.is_none() {
            let mut conn = self.driver.connection().await;
            let hello = conn.hello().await;
            assert_eq!(hello.node.to_string(), NODE);
            let welcomed = self.link.send(welcome(self.knows, self.link.received()));
            conn.say(welcomed).await;
            if self.knows {
                for frame in self.link.resume(hello.last_received).unwrap() {
                    conn.say(frame).await;
                }
            }
            self.knows = true;
            self.connections += 1;
            self.conn = Some(conn);
        }
        self.conn.as_mut().unwrap()
    }

    pub async fn say(&mut self, body: FromDriver) {
        self.greet().await;
        let frame = self.link.send(body);
        if let Some(conn) = &self.conn {
            conn.say(frame).await;
        }
    }

    /// Sends a body that this side would not make.
    pub async fn send(&mut self, body: wire::rpc::driver_frame::Body) {
        self.greet().await;
        // Numbered as any other one.
        let frame = self.link.send(FromDriver::Unknown);
        if let Some(conn) = &self.conn {
            conn.send(DriverFrame { seq: frame.seq, ack: frame.ack, body: Some(body) }).await;
        }
    }

    /// Sends a body of a later version.
    pub async fn send_unknown(&mut self) {
        self.say(FromDriver::Unknown).await;
    }

    /// Why the agent ends the connection, if it says so.
    pub async fn close(&mut self) -> Option<wire::session::Violation> {
        while let Some(frame) = self.greet().await.hear().await {
            if let FromAgent::Close(violation) = frame.body {
                return Some(violation);
            }
        }
        None
    }

    /// The next thing that is new, over as many connections as it takes. It is acknowledged.
    pub async fn hear(&mut self) -> FromAgent {
        loop {
            let heard = self.greet().await.hear().await;
            let Some(frame) = heard else {
                self.conn = None;
                continue;
            };
            let receipt = self.link.receive(frame).unwrap();
            if let (Some(frame), Some(conn)) = (self.link.acknowledge(), &self.conn) {
                conn.say(frame).await;
            }
            if let Receipt::New(body) = receipt
                && !matches!(body, FromAgent::Ack | FromAgent::Close(_))
            {
                self.heard.push(body.clone());
                return body;
            }
        }
    }

    /// Waits for the end of a command: its document, or its refusal in the form that REST has.
    pub async fn outcome(&mut self, id: Uuid) -> Answer {
        loop {
            match self.hear().await {
                FromAgent::Refused(refused) if refused.id == id => {
                    let body = wire::agent::HttpFault::new(refused.status, refused.faultstring);
                    return Answer { status: refused.status, body: serde_json::to_value(body).unwrap() };
                }
                FromAgent::Command { document, omitted } => {
                    assert_eq!(omitted, 0);
                    let body: Value = serde_json::from_slice(&document).unwrap();
                    if body["id"] == id.to_string() && body["command_status"] != "RUNNING" {
                        return Answer { status: 200, body };
                    }
                }
                _ => {}
            }
        }
    }

    /// Gives a command and waits for its end.
    pub async fn command(&mut self, name: &str, params: &Value) -> Answer {
        let id = Uuid::new_v4();
        self.say(given(id, name, params)).await;
        self.outcome(id).await
    }

    /// All commands that this side was told of, each as it was told last.
    pub fn list(&self) -> Vec<Value> {
        let mut listed: Vec<Value> = Vec::new();
        for said in &self.heard {
            let FromAgent::Command { document, .. } = said else { continue };
            let command: Value = serde_json::from_slice(document).unwrap();
            match listed.iter_mut().find(|known| known["id"] == command["id"]) {
                Some(known) => *known = command,
                None => listed.push(command),
            }
        }
        listed
    }
}

pub fn given(id: Uuid, name: &str, params: &Value) -> FromDriver {
    FromDriver::Command(Command { id, name: name.to_owned(), params: params.as_object().cloned().unwrap_or_default() })
}

/// The session of an agent under a driver that plays by the rules, as [`super::Rest`] is its API.
pub struct Session {
    ruled: AsyncMutex<Ruled>,
    _stream: Stream,
    _stop: tokio_util::sync::DropGuard,
}

impl Session {
    pub async fn open(agent: &Arc<Agent>, dispatcher: &Arc<Dispatcher>) -> Self {
        let driver = Driver::start().await;
        let stop = CancellationToken::new();
        let stream = session(agent, dispatcher, &driver, &stop).await;
        let mut ruled = Ruled::new(driver);
        ruled.greet().await;
        // A new driver gets a list first.
        while !matches!(ruled.hear().await, FromAgent::Listed(_)) {}
        Self { ruled: AsyncMutex::new(ruled), _stream: stream, _stop: stop.drop_guard() }
    }

    pub async fn ruled(&self) -> tokio::sync::MutexGuard<'_, Ruled> {
        self.ruled.lock().await
    }

    pub async fn command(&self, name: &str, params: &Value) -> Answer {
        self.ruled.lock().await.command(name, params).await
    }

    pub async fn list(&self) -> Vec<Value> {
        self.ruled.lock().await.list()
    }
}
