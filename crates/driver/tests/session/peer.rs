//! An agent as far as its session goes: the generated client, the numbering of `wire`, and nothing of `agent`.

use driver::session::authority::{Authority, NODE_VALIDITY, Request};
use futures::StreamExt as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use transport::http2::{self, Channel, Connection};
use transport::tls::Identity;
use uuid::Uuid;
use wire::agent::{CommandResult, CommandStatus, Progress};
use wire::rpc::agent_session_client::AgentSessionClient;
use wire::rpc::{AgentFrame, DriverFrame, EnrollReply, EnrollRequest, LogBatch, LogCredit};
use wire::session::{
    Command, Frame, FromAgent, FromDriver, Heartbeat, Hello, Link, Offer, PROTOCOL_MINOR, Reason, Receipt, Violation,
    Welcome,
};

/// What nothing here takes longer than.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) type Client = AgentSessionClient<Channel<tonic::body::Body>>;

/// The boot of an agent.
pub(crate) struct Boot {
    pub(crate) node: Uuid,
    pub(crate) session: Uuid,
    offer: Offer,
    key: KeyPair,
    pub(crate) identity: Option<Identity>,
    pub(crate) link: Link<FromAgent>,
    /// What it would tell of its commands.
    pub(crate) commands: Vec<CommandResult>,
}

impl Boot {
    pub(crate) fn new(node: Uuid, offer: &Offer) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (session, offer) = (Uuid::new_v4(), offer.clone());
        Self { node, session, offer, key, identity: None, link: Link::default(), commands: Vec::new() }
    }

    pub(crate) fn redirect(&mut self, offer: &Offer) {
        self.offer = offer.clone();
    }

    pub(crate) fn new_key(&mut self) {
        self.key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    }

    pub(crate) async fn client(&self) -> (Client, Connection<tonic::body::Body>) {
        let connected = http2::connect(&self.offer.url, &self.offer.ca, self.identity.as_ref(), LIMIT).await.unwrap();
        let client = AgentSessionClient::with_origin(connected.channel.clone(), connected.origin.clone());
        (client.max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20), connected)
    }

    pub(crate) async fn ask(&self, token: &str) -> Result<EnrollReply, Status> {
        let csr = CertificateParams::default().serialize_request(&self.key).unwrap();
        let request = EnrollRequest {
            node_uuid: self.node.to_string(),
            agent_token: token.to_owned(),
            session_id: self.session.to_string(),
            csr: csr.der().to_vec().into(),
        };
        let (mut client, _connection) = self.client().await;
        client.enroll(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn enrol(&mut self, token: &str) {
        let reply = self.ask(token).await.unwrap();
        assert!(reply.renew_in > 0 && reply.not_after > 0);
        self.identity = Some(Identity::from_pem(reply.certificate, self.key.serialize_pem()));
    }

    /// Presents a certificate from now on that is valid for `left` and no longer.
    pub(crate) fn expires(&mut self, authority: &Authority, left: Duration) {
        let csr = CertificateParams::default().serialize_request(&self.key).unwrap();
        let request = Request::read(csr.der()).unwrap();
        let issued = authority.issue(&request, self.node, SystemTime::now() + left - NODE_VALIDITY).unwrap();
        self.identity = Some(Identity::from_pem(issued.certificate, self.key.serialize_pem()));
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            node: self.node,
            session: self.session,
            last_received: self.link.received(),
            protocol_minor: PROTOCOL_MINOR,
            agent_version: "13.0.0".to_owned(),
            ferric_version: "0.1.0".to_owned(),
        }
    }

    /// A raw connection, on which nothing was said.
    pub(crate) async fn open(&self) -> Result<Wire, Status> {
        let (mut client, connection) = self.client().await;
        let (up, receiver) = mpsc::channel::<AgentFrame>(256);
        let frames = futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let down = client.session(frames).await?.into_inner();
        Ok(Wire { up, down, _connection: connection })
    }

    /// A connection that has been welcomed, on which everything was said again that has to be.
    pub(crate) async fn dial(&mut self) -> (Wire, Welcome) {
        let mut wire = self.open().await.unwrap();
        wire.say(Frame { seq: 0, ack: 0, body: FromAgent::Hello(self.hello()) }).await;
        let welcome = match wire.hear().await.unwrap().body {
            FromDriver::Welcome(welcome) => welcome,
            other => panic!("{other:?}"),
        };
        if welcome.resumed {
            for frame in self.link.resume(welcome.last_received).unwrap() {
                wire.say(frame).await;
            }
        } else {
            let kept = self.link.restart();
            for command in self.commands.clone() {
                self.tell(&wire, state(&command)).await;
            }
            let count = u32::try_from(self.commands.len()).unwrap();
            self.tell(&wire, FromAgent::Listed(count)).await;
            for body in kept.into_iter().filter(|body| matches!(body, FromAgent::Heartbeat(_))) {
                self.tell(&wire, body).await;
            }
        }
        (wire, welcome)
    }

    /// Says something that is numbered.
    pub(crate) async fn tell(&mut self, wire: &Wire, body: FromAgent) {
        let frame = self.link.send(body);
        wire.say(frame).await;
    }

    pub(crate) async fn beat(&mut self, wire: &Wire) {
        self.tell(wire, FromAgent::Heartbeat(Heartbeat::default())).await;
    }

    /// A command has changed, and the driver is told.
    pub(crate) async fn set(&mut self, wire: &Wire, command: CommandResult) {
        self.tell(wire, state(&command)).await;
        match self.commands.iter_mut().find(|known| known.id == command.id) {
            Some(known) => *known = command,
            None => self.commands.push(command),
        }
    }

    pub(crate) async fn progress(&mut self, wire: &Wire, id: Uuid, done: u64, total: u64) {
        let progress =
            Progress { stage: "write".to_owned(), done, total: Some(total), rate: 10, eta: Some(1), stalled: None };
        self.tell(wire, FromAgent::Progress { id, progress }).await;
    }

    /// The next command; what else comes is taken note of.
    pub(crate) async fn command(&mut self, wire: &mut Wire) -> Result<Command, Violation> {
        loop {
            let frame = wire.hear().await?;
            let receipt = self.link.receive(frame).unwrap();
            if let Some(frame) = self.link.acknowledge() {
                wire.say(frame).await;
            }
            match receipt {
                Receipt::New(FromDriver::Command(command)) => return Ok(command),
                Receipt::New(FromDriver::Close(violation)) => return Err(violation),
                Receipt::New(_) | Receipt::Again => {}
            }
        }
    }

    /// Takes what comes until the driver ends the connection, and says why it did.
    pub(crate) async fn ended(&mut self, wire: &mut Wire) -> Violation {
        loop {
            match wire.hear().await {
                Ok(Frame { body: FromDriver::Close(violation), .. }) | Err(violation) => return violation,
                Ok(_) => {}
            }
        }
    }

    /// A call of Telemetry.
    pub(crate) async fn log(&self) -> (mpsc::Sender<LogBatch>, Streaming<LogCredit>, Connection<tonic::body::Body>) {
        let (mut client, connection) = self.client().await;
        let (up, receiver) = mpsc::channel::<LogBatch>(16);
        let batches = futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let first = LogBatch {
            node_uuid: self.node.to_string(),
            session_id: self.session.to_string(),
            lines: Vec::new(),
            dropped: 0,
        };
        up.send(first).await.unwrap();
        (up, client.telemetry(batches).await.unwrap().into_inner(), connection)
    }
}

pub(crate) fn result(command: &Command, status: CommandStatus, value: Option<serde_json::Value>) -> CommandResult {
    CommandResult {
        id: command.id.to_string(),
        command_name: command.name.rsplit('.').next().unwrap_or_default().to_owned(),
        command_status: status,
        command_error: None,
        command_result: value,
        progress: None,
    }
}

fn state(command: &CommandResult) -> FromAgent {
    FromAgent::Command { document: serde_json::to_vec(command).unwrap().into(), omitted: 0 }
}

/// A connection.
pub(crate) struct Wire {
    pub(crate) up: mpsc::Sender<AgentFrame>,
    down: Streaming<DriverFrame>,
    _connection: Connection<tonic::body::Body>,
}

impl Wire {
    pub(crate) async fn say(&self, frame: Frame<FromAgent>) {
        // One that has been closed says so when it is listened to.
        let _ = self.up.send(frame.into()).await;
    }

    /// The next frame; the end as the reason that is told with the status.
    pub(crate) async fn hear(&mut self) -> Result<Frame<FromDriver>, Violation> {
        let next = tokio::time::timeout(LIMIT, self.down.next()).await.expect("the driver says nothing");
        match next {
            Some(Ok(frame)) => Ok(Frame::try_from(frame).unwrap()),
            Some(Err(status)) => Err(Violation::new(reason(status.code()), status.message())),
            None => Err(Violation::new(Reason::Other(0), "the stream ended without a word")),
        }
    }
}

fn reason(code: Code) -> Reason {
    let known = [
        Reason::GoingAway,
        Reason::Malformed,
        Reason::Sequence,
        Reason::TooLarge,
        Reason::Silent,
        Reason::Superseded,
        Reason::Identity,
    ];
    known.into_iter().find(|reason| reason.grpc_code() == code).unwrap_or(Reason::Other(code as i32))
}
