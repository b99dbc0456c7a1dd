//! The three calls of `ferric.agent.v1`, and the listener that takes them.

use super::authority::{Authority, Presented, RENEW_IN, Request as CertificateRequest};
use super::calls::Calls;
use super::connection::Connection;
use super::telemetry::Log;
use crate::conductor::{Conductor, EnrolError};
use futures::Stream;
use futures::stream::unfold;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tower::ServiceExt as _;
use transport::http2::{self, Counted, PeerCertificate};
use transport::server::Peer;
use uuid::Uuid;
use wire::rpc::agent_session_server::{AgentSession, AgentSessionServer};
use wire::rpc::{AgentFrame, DriverFrame, EnrollReply, EnrollRequest, LogBatch, LogCredit};
use wire::session::{FRAME_LIMIT, LOG_BYTES};

/// Connections at once of enrolled agents. Each agent has one; a few more are of agents whose old one was not given up yet.
const CONNECTIONS: usize = 8192;
/// Connections at once of those who have not enrolled, which takes a moment.
const STRANGERS: usize = 1024;
/// Calls at once in a connection: a session, a log, an enrolment, and one of each whose end is under way.
const STREAMS: u32 = 6;
/// Deadline for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long a connection may be without a call; one without a certificate lasts no longer after its first call.
const IDLE: Duration = Duration::from_secs(60);
/// Longest message of Enroll, and of anything that comes without a certificate, bytes: a request for a certificate takes some
/// hundred.
const ENROLMENT: usize = 16 << 10;
/// Longest message of Telemetry, bytes: a batch with what is around its lines.
const BATCH: usize = 2 * LOG_BYTES;
/// How long sessions may take to end once the driver stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Messages of one connection that wait to be written.
const UNWRITTEN: usize = 4;

/// What a listener of sessions is started with.
pub struct Listening<S: Store> {
    /// Where.
    pub listener: TcpListener,
    /// Whose nodes.
    pub conductor: Arc<Conductor<S>>,
    /// Who signs.
    pub authority: Arc<Authority>,
    /// What agents see: [`Authority::server`].
    pub tls: Arc<rustls::ServerConfig>,
}

/// Serves sessions until `stop` is cancelled.
pub async fn serve<S: Store>(listening: Listening<S>, stop: CancellationToken) {
    let Listening { listener, conductor, authority, tls } = listening;
    let tasks = TaskTracker::new();
    let (greetings, logs) = (Arc::default(), Arc::default());
    let service = SessionService { greetings, logs, conductor, authority, stop: stop.clone(), tasks: tasks.clone() };
    let service = Arc::new(service);
    let within = |limit| {
        let server = AgentSessionServer::from_arc(service.clone());
        server.max_decoding_message_size(limit).max_encoding_message_size(FRAME_LIMIT)
    };
    let (enrolments, logs, sessions) = (within(ENROLMENT), within(BATCH), within(FRAME_LIMIT));
    // What a message may take is decided before its first byte is read.
    let server = tower::service_fn(move |mut request: http::Request<http2::Incoming>| {
        let arrived = Arc::new(AtomicU64::new(0));
        request.extensions_mut().insert(Arrived(arrived.clone()));
        let is_known = request.extensions().get::<PeerCertificate>().is_some_and(|peer| peer.0.is_some());
        let server = match request.uri().path().rsplit('/').next() {
            Some("Session") if is_known => &sessions,
            Some("Telemetry") if is_known => &logs,
            _ => &enrolments,
        };
        server.clone().oneshot(request.map(|body| Counted::new(body, arrived)))
    });
    let settings = http2::Settings {
        tls,
        connections: CONNECTIONS,
        strangers: STRANGERS,
        // Behind a router that translates addresses, all agents of a site have one.
        connections_per_peer: None,
        streams: STREAMS,
        handshake_timeout: HANDSHAKE,
        idle_timeout: IDLE,
        drain_timeout: DRAIN,
    };
    http2::serve(listener, server, settings, stop).await;
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("sessions were still open when the driver stopped");
    }
}

/// The calls.
struct SessionService<S: Store> {
    conductor: Arc<Conductor<S>>,
    authority: Arc<Authority>,
    /// Sessions whose first frame is waited for, by the key of the agent: each frame may be as long as any.
    greetings: Arc<Calls<String>>,
    logs: Arc<Calls<Uuid>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Extension of a call: the bytes that have come of it.
#[derive(Debug, Clone, Default)]
struct Arrived(Arc<AtomicU64>);

/// What goes down a connection.
pub(super) type Down<T> = mpsc::Sender<Result<T, Status>>;

type DownStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn down<T: Send + 'static>() -> (Down<T>, DownStream<T>) {
    let (sender, receiver) = mpsc::channel(UNWRITTEN);
    let stream = unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    (sender, Box::pin(stream))
}

/// What the peer of a call proved itself with.
fn presented<T>(request: &Request<T>) -> Result<Presented, Status> {
    let certificate = request.extensions().get::<PeerCertificate>().and_then(|peer| peer.0.as_ref());
    let certificate =
        certificate.ok_or_else(|| Status::unauthenticated("this call takes the certificate of Enroll"))?;
    Presented::read(certificate).ok_or_else(|| Status::unauthenticated("the certificate is not that of a node"))
}

fn uuid(field: &str, text: &str) -> Result<Uuid, Status> {
    Uuid::try_parse(text).map_err(|_| Status::invalid_argument(format!("{field} is not a UUID")))
}

impl<S: Store> SessionService<S> {
    async fn enrolled(&self, request: EnrollRequest) -> Result<EnrollReply, Status> {
        let node = uuid("node_uuid", &request.node_uuid)?;
        let session = uuid("session_id", &request.session_id)?;
        let csr =
            CertificateRequest::read(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let taken = self.conductor.enrol(node, &request.agent_token, session, &csr.key()).await;
        taken.map_err(|error| match error {
            EnrolError::Unknown => Status::unauthenticated(error.to_string()),
            EnrolError::Spent => Status::permission_denied(error.to_string()),
            EnrolError::Later => Status::unavailable(error.to_string()),
        })?;
        let issued = self.authority.issue(&csr, node, SystemTime::now()).map_err(|error| {
            tracing::error!(%node, %error, "a certificate could not be made");
            Status::internal("a certificate could not be made; the log of the driver has details")
        })?;
        let not_after = issued.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(EnrollReply { certificate: issued.certificate, not_after, renew_in: RENEW_IN.as_secs() })
    }
}

#[tonic::async_trait]
impl<S: Store> AgentSession for SessionService<S> {
    type SessionStream = DownStream<DriverFrame>;
    type TelemetryStream = DownStream<LogCredit>;

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollReply>, Status> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        let outcome = self.enrolled(request.into_inner()).await;
        self.conductor.metrics.enrolment(outcome.is_ok());
        match outcome {
            Ok(reply) => Ok(Response::new(reply)),
            Err(status) => {
                tracing::warn!(?peer, code = ?status.code(), reason = status.message(), "an enrolment was refused");
                Err(status)
            }
        }
    }

    async fn session(&self, request: Request<Streaming<AgentFrame>>) -> Result<Response<Self::SessionStream>, Status> {
        let presented = presented(&request)?;
        let (sender, stream) = down();
        let arrived = request.extensions().get::<Arrived>().cloned().unwrap_or_default().0;
        let greeting = self.greetings.begin(presented.key.clone());
        let connection = Connection {
            arrived,
            conductor: self.conductor.clone(),
            presented,
            up: request.into_inner(),
            down: sender,
            stop: self.stop.clone(),
        };
        self.tasks.spawn(connection.run(greeting));
        Ok(Response::new(stream))
    }

    async fn telemetry(
        &self,
        request: Request<Streaming<LogBatch>>,
    ) -> Result<Response<Self::TelemetryStream>, Status> {
        let presented = presented(&request)?;
        let (sender, stream) = down();
        let log = Log {
            calls: self.logs.clone(),
            conductor: self.conductor.clone(),
            presented,
            up: request.into_inner(),
            down: sender,
            stop: self.stop.clone(),
        };
        self.tasks.spawn(log.run());
        Ok(Response::new(stream))
    }
}
