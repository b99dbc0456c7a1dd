//! The session that the agent dials, where its driver offers one: the third way to the same commands, beside REST and
//! callers in the process. docs/session.md tells the rules; [`talk`] keeps them, [`connection`] carries them over one
//! connection, and this makes the next one when that breaks.

mod connection;
mod enrol;
mod talk;
mod telemetry;
mod work;

use crate::command::Dispatcher;
use crate::contain;
use crate::state::Agent;
use connection::{End, Parts};
use enrol::{EnrolError, Enrolled};
use std::sync::Arc;
use std::time::Duration;
use talk::Talk;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use transport::client::chain;
use transport::http2::{self, Channel, ConnectError};
use transport::tls::CertificateRequest;
use uuid::Uuid;
use wire::rpc::agent_session_client::AgentSessionClient;
use wire::session::{FRAME_LIMIT, Offer, Reason};
use work::Work;

type Client = AgentSessionClient<Channel<tonic::body::Body>>;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// The first wait after a break; each further one is twice as long, up to the last. Times 0.5 to 1.5.
const FIRST_WAIT: f64 = 1.0;
const LAST_WAIT: f64 = 30.0;
/// A connection that held this long begins the waits anew.
const HELD: Duration = Duration::from_secs(30);

/// What is remembered of a session for the life of the agent.
pub(crate) struct Memory {
    session: Uuid,
    request: Option<CertificateRequest>,
    enrolled: Option<Enrolled>,
    talk: Talk,
}

impl Default for Memory {
    fn default() -> Self {
        Self { session: Uuid::new_v4(), request: None, enrolled: None, talk: Talk::default() }
    }
}

/// A session that is held, or being made again.
pub struct Stream {
    up: watch::Receiver<bool>,
    beat: Arc<Notify>,
    /// Its UUID: one for each boot.
    pub id: Uuid,
    task: AbortOnDropHandle<()>,
}

impl Stream {
    /// Sends a heartbeat by the session; `false` when there is no connection now.
    pub fn beat(&self) -> bool {
        let up = *self.up.borrow();
        if up {
            self.beat.notify_one();
        }
        up
    }

    /// Waits for a connection, for `limit` at most.
    pub async fn connected(&self, limit: Duration) {
        let mut up = self.up.clone();
        // No connection in time, or none ever: the caller goes another way.
        let _ = tokio::time::timeout(limit, up.wait_for(|up| *up)).await;
    }

    /// Returns when the session has ended, after it was told to stop.
    pub async fn finished(self) {
        // One that panicked has ended like one that was stopped.
        let _ = self.task.await;
    }
}

/// Holds a session with the driver that made this offer, until `stop`. There is no giving up.
pub async fn start(agent: &Arc<Agent>, dispatcher: &Arc<Dispatcher>, offer: Offer, stop: &CancellationToken) -> Stream {
    let (up, is_up) = watch::channel(false);
    let beat = Arc::new(Notify::new());
    let id = agent.stream.lock().await.session;
    let session =
        Session { agent: Arc::clone(agent), dispatcher: Arc::clone(dispatcher), offer, beat: Arc::clone(&beat), up };
    let stop = stop.clone();
    let task = tokio::spawn(contain::request(async move { session.hold(&stop).await }));
    Stream { up: is_up, beat, id, task: AbortOnDropHandle::new(task) }
}

struct Session {
    agent: Arc<Agent>,
    dispatcher: Arc<Dispatcher>,
    offer: Offer,
    beat: Arc<Notify>,
    up: watch::Sender<bool>,
}

/// Why there was no connection, or why it ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the node is not known")]
    NoNode,
    #[error("the driver gave no token")]
    NoToken,
    #[error("enrol")]
    Enrol(#[source] EnrolError),
    #[error("connect")]
    Connect(#[source] ConnectError),
    #[error("the session broke")]
    Ended(#[source] End),
}

impl Failure {
    /// Whether trying again soon is of no use: somebody has to do something, or somebody else has the node.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Enrol(EnrolError::Refused(status)) => {
                matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unauthenticated)
            }
            Self::Ended(End::Closed(violation)) => violation.reason == Reason::Superseded,
            Self::Ended(End::Broken(status)) => status.code() == Reason::Superseded.grpc_code(),
            Self::NoNode | Self::NoToken | Self::Enrol(_) | Self::Connect(_) | Self::Ended(_) => false,
        }
    }
}

impl Session {
    async fn hold(&self, stop: &CancellationToken) {
        // Nobody else holds it: who began a session ends it before the next one begins.
        let mut memory = self.agent.stream.lock().await;
        let mut work = Work::start(Arc::clone(&self.dispatcher));
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let failure = tokio::select! {
                ended = self.once(&mut memory, &mut work, stop) => match ended {
                    Failure::Ended(End::Stopped) => return,
                    failure => failure,
                },
                // A connection ends by itself when it is told to stop.
                () = stopped_before(stop, &self.up) => return,
            };
            failures = if began.elapsed() >= HELD { 0 } else { failures + 1 };
            let wait = wait_after(if failure.is_lasting() { u32::MAX } else { failures });
            tracing::warn!(next_in = ?wait, "session: {}", chain(&failure));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One connection, to its end.
    async fn once(&self, memory: &mut Memory, work: &mut Work, stop: &CancellationToken) -> Failure {
        let Some(node) = self.agent.node_uuid().and_then(|node| Uuid::try_parse(&node).ok()) else {
            return Failure::NoNode;
        };
        let session = memory.session;
        let enrolled = match self.enrolled(memory, node).await {
            Ok(enrolled) => enrolled,
            Err(failure) => return failure,
        };
        let connected = http2::connect(&self.offer.url, &self.offer.ca, Some(&enrolled.identity), CONNECT).await;
        let renew_at = enrolled.renew_at;
        let connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                // With TLS 1.3 nobody can tell whether it was the certificate; another one costs little.
                memory.enrolled = None;
                return Failure::Connect(error);
            }
        };
        let client = AgentSessionClient::with_origin(connection.channel.clone(), connection.origin.clone())
            .max_decoding_message_size(FRAME_LIMIT)
            .max_encoding_message_size(FRAME_LIMIT);
        let mut was_welcome = false;
        let mut telemetry = None;
        let parts = Parts {
            dispatcher: &self.dispatcher,
            talk: &mut memory.talk,
            work,
            beat: &self.beat,
            arrived: &connection.arrived,
            up: &self.up,
        };
        let welcomed = |welcome: &wire::session::Welcome| {
            was_welcome = true;
            if welcome.heartbeat_timeout > 0 {
                let timeout = Duration::from_secs(welcome.heartbeat_timeout.into());
                self.agent.shared.change_settings(|settings| settings.heartbeat_timeout = timeout);
            }
            let sending = telemetry::run(client.clone(), self.agent.logs.clone(), node, session);
            telemetry = Some(AbortOnDropHandle::new(tokio::spawn(contain::request(sending))));
        };
        let end = connection::run(client.clone(), parts, node, session, welcomed, stop).await;
        drop(telemetry);
        if !was_welcome || Instant::now() >= renew_at {
            memory.enrolled = None;
        }
        Failure::Ended(end)
    }

    /// The certificate, asked for where there is none that will do.
    async fn enrolled<'a>(&self, memory: &'a mut Memory, node: Uuid) -> Result<&'a Enrolled, Failure> {
        let token = self.agent.token().ok_or(Failure::NoToken)?;
        if memory.request.is_none() {
            let made = CertificateRequest::generate().map_err(|error| Failure::Enrol(error.into()))?;
            memory.request = Some(made);
        }
        let request = memory.request.as_ref().ok_or(Failure::NoNode)?;
        let enrolled = match memory.enrolled.take().filter(|enrolled| Instant::now() < enrolled.renew_at) {
            Some(enrolled) => enrolled,
            None => enrol::enrol(&self.offer, node, memory.session, &token, request).await.map_err(Failure::Enrol)?,
        };
        Ok(memory.enrolled.insert(enrolled))
    }
}

/// Returns when it is time to stop and there is no connection that would end by itself.
async fn stopped_before(stop: &CancellationToken, up: &watch::Sender<bool>) {
    stop.cancelled().await;
    if *up.borrow() {
        std::future::pending::<()>().await;
    }
}

/// A random time around the n-th wait.
fn wait_after(failures: u32) -> Duration {
    let base = (FIRST_WAIT * 2_f64.powi(failures.saturating_sub(1).min(16).cast_signed())).min(LAST_WAIT);
    Duration::from_secs_f64(base * rand::random_range(0.5..=1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_bounds_and_differ() {
        for (failures, base) in [(0, 1.0), (1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (1000, 30.0), (u32::MAX, 30.0)] {
            let waits: Vec<f64> = (0..100).map(|_| wait_after(failures).as_secs_f64()).collect();
            assert!(waits.iter().all(|wait| (base * 0.5..=base * 1.5).contains(wait)), "{failures}: {waits:?}");
            assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
        }
    }
}
