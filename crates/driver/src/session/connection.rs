//! One connection of a session: hello, welcome, then frames until one side ends it. Everything here is bounded in time and
//! number, and ends with a reason that the other side is told and that is counted.

use super::authority::Presented;
use super::calls::Place;
use super::service::Down;
use crate::agents::stream::{Attached, Session, UnderWay, superseded, weight};
use crate::conductor::Conductor;
use crate::fault::Fault;
use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::Store;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::Instrument as _;
use uuid::Uuid;
use wire::agent::CommandResult;
use wire::json;
use wire::rpc::{AgentFrame, DriverFrame};
use wire::session::{
    Body as _, FRAME_LIMIT, Frame, FromAgent, FromDriver, Hello, PROTOCOL_MINOR, Reason, Receipt, Violation, Welcome,
};

/// How long the first frame may take.
const HELLO: Duration = Duration::from_secs(20);
/// How long a frame may wait to be written: a peer that does not read is not waited for any longer …
const WRITE: Duration = Duration::from_secs(60);
/// How long the agent may take to acknowledge anything of what was sent …
const ACKNOWLEDGE: Duration = Duration::from_secs(90);
/// … and longer for what is under way, and for what arrives meanwhile, at this many bytes a second.
const SLOWEST: u64 = 16 << 10;
/// Frames that an agent may send at once …
const FRAMES: u32 = 1024;
/// … and how long each further one takes: what is said faster waits at the agent.
const FRAME_TIME: Duration = Duration::from_millis(50);
/// Longest text of a driver's own in a frame, in characters.
const SHORT: usize = 400;

/// A connection that has been accepted.
pub(super) struct Connection<S: Store> {
    pub(super) conductor: Arc<Conductor<S>>,
    pub(super) presented: Presented,
    pub(super) up: Streaming<AgentFrame>,
    pub(super) down: Down<DriverFrame>,
    pub(super) stop: CancellationToken,
    /// Bytes that have come of `up`, those of a frame that is not complete included.
    pub(super) arrived: Arc<AtomicU64>,
}

/// How a connection ended.
enum End {
    /// The other side went, with or without a word.
    Gone(String),
    /// This side ends it.
    Ours(Violation),
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Ours(violation)
    }
}

impl<S: Store> Connection<S> {
    /// Runs the connection to its end. It has the place among the greetings until its first frame has come.
    pub(super) async fn run(mut self, greeting: Place<String>) {
        let span = tracing::info_span!("session", node = %self.presented.node);
        async {
            let end = self.talk(greeting).await;
            self.conductor.metrics.session_ends(match &end {
                End::Gone(_) => "gone",
                End::Ours(violation) => word(violation.reason),
            });
            match end {
                End::Gone(reason) => tracing::info!(reason, "the agent's connection is gone"),
                End::Ours(violation) => {
                    tracing::warn!(reason = word(violation.reason), text = violation.text, "the connection is ended");
                    self.close(violation).await;
                }
            }
        }
        .instrument(span)
        .await;
    }

    /// Tells the other side why; it may be one that does not listen.
    async fn close(&self, violation: Violation) {
        let status = violation.to_status();
        let frame = Frame { seq: 0, ack: 0, body: FromDriver::Close(violation) };
        let told = async {
            let _ = self.down.send(Ok(frame.into())).await;
            let _ = self.down.send(Err(status)).await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
    }

    async fn talk(&mut self, greeting: Place<String>) -> End {
        let hello = match self.greeted(greeting).await {
            Ok(hello) => hello,
            Err(end) => return end,
        };
        let attached = self.conductor.sessions().attach(&hello);
        let (session, number) = (attached.session.clone(), attached.connection);
        let Err(end) = self.exchange(attached, &hello).await;
        session.detach(number);
        self.conductor.agent_changed(session.node());
        end
    }

    /// The first frame, from somebody who may say it.
    async fn greeted(&mut self, greeting: Place<String>) -> Result<Hello, End> {
        let silent = || Violation::new(Reason::Silent, format!("no Hello came within {} s", HELLO.as_secs()));
        let frame = tokio::select! {
            frame = next(&mut self.up) => frame?,
            () = tokio::time::sleep(HELLO) => return Err(silent().into()),
            () = greeting.over.cancelled() => return Err(superseded().into()),
        };
        drop(greeting);
        let hello = match frame {
            Frame { seq: 0, body: FromAgent::Hello(hello), .. } => hello,
            _ => {
                return Err(
                    Violation::new(Reason::Malformed, "the first frame has to be a Hello without a number").into()
                );
            }
        };
        if hello.node != self.presented.node {
            return Err(Violation::new(Reason::Identity, "Hello.node_uuid is not the node of the certificate").into());
        }
        let admitted = self.conductor.knows_session(hello.node, hello.session, &self.presented.key).await;
        admitted.map_err(|text| Violation::new(Reason::Identity, text))?;
        Ok(hello)
    }

    /// Everything behind the hello. Never returns but with the end.
    async fn exchange(&mut self, attached: Attached, hello: &Hello) -> Result<std::convert::Infallible, End> {
        let Attached { session, connection, resumed, last_received, again } = attached;
        let timeout = self.conductor.settings().heartbeat_timeout;
        tracing::info!(session = %session.id(), resumed, agent = printable(&hello.ferric_version), minor = hello.protocol_minor, "an agent has dialled in");
        let welcome = Welcome {
            resumed,
            last_received,
            protocol_minor: PROTOCOL_MINOR,
            driver_version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat_timeout: u32::try_from(timeout).unwrap_or(u32::MAX),
        };
        self.write(&session, Frame { seq: 0, ack: 0, body: FromDriver::Welcome(welcome) }).await?;
        for frame in again {
            self.write(&session, frame).await?;
        }
        self.conductor.agent_changed(session.node());
        let silence = Duration::from_secs(timeout.max(60));
        let expiry = self.presented.not_after.duration_since(Timestamp::now());
        let expiry = tokio::time::sleep(Duration::try_from(expiry).unwrap_or_default());
        tokio::pin!(expiry);
        let arrived = self.arrived.clone();
        let arrived = || arrived.load(Ordering::Relaxed);
        let mut pace = Pace::new(Instant::now());
        let mut patience = Silence::new(silence, Mark::new(arrived()));
        loop {
            while let Some(frame) = session.next(connection) {
                self.write(&session, frame).await?;
            }
            if let Some(frame) = session.acknowledge(connection) {
                self.write(&session, frame).await?;
            }
            if !session.uses(connection) {
                // What rang may have been meant for the connection that is in use.
                session.work.notify_one();
                return Err(superseded().into());
            }
            patience.look(session.under_way(), Mark::new(arrived()));
            let frame = tokio::select! {
                frame = async {
                    tokio::time::sleep_until(pace.ready()).await;
                    next(&mut self.up).await
                } => frame?,
                () = session.work.notified() => continue,
                () = tokio::time::sleep_until(patience.until(arrived())) => {
                    // Meanwhile a part of a frame may have come.
                    if patience.until(arrived()) > Instant::now() {
                        continue;
                    }
                    let text = format!("it has said nothing, or acknowledged nothing, for {} s", patience.told().as_secs());
                    return Err(Violation::new(Reason::Silent, text).into());
                }
                () = &mut expiry => {
                    let text = "the certificate is not valid any more; enrol again";
                    return Err(Violation::new(Reason::Identity, text).into());
                }
                () = self.stop.cancelled() => {
                    return Err(going_away().into());
                }
            };
            pace.took(Instant::now());
            patience.hears(Mark::new(arrived()));
            self.take(&session, connection, hello, frame).await?;
        }
    }

    async fn write(&self, session: &Session, frame: Frame<FromDriver>) -> Result<(), End> {
        let body = &frame.body;
        if body.size() > 0 {
            tracing::debug!(seq = frame.seq, bytes = body.size(), "sent");
        }
        // Behind what is under way.
        let limit = WRITE + Duration::from_secs(session.under_way().bytes / SLOWEST);
        tokio::select! {
            sent = self.down.send(Ok(frame.into())) => {
                sent.map_err(|_| End::Gone("the stream to it is closed".to_owned()))
            }
            () = tokio::time::sleep(limit) => {
                let text = format!("it has not read for {} s", limit.as_secs());
                Err(Violation::new(Reason::Silent, text).into())
            }
            () = self.stop.cancelled() => Err(going_away().into()),
        }
    }

    async fn take(
        &self,
        session: &Arc<Session>,
        connection: u64,
        hello: &Hello,
        frame: Frame<FromAgent>,
    ) -> Result<(), End> {
        let body = match session.receive(connection, frame)? {
            Receipt::New(body) => body,
            Receipt::Again => return Ok(()),
        };
        match body {
            FromAgent::Hello(_) => {
                return Err(Violation::new(Reason::Malformed, "Hello came a second time").into());
            }
            FromAgent::Command { document, omitted } => {
                let result = state_of(&document)?;
                if omitted > 0 {
                    tracing::warn!(command = result.id, omitted, "the result is too long for a frame and was left out");
                }
                tracing::debug!(command = result.id, name = result.command_name, status = ?result.command_status, "its state");
                session.command(result, weight(&document));
                self.conductor.agent_changed(session.node());
            }
            FromAgent::Refused(refused) => session.refuse(refused),
            FromAgent::Progress { id, progress } => {
                session.progress(id, progress.clone());
                self.conductor.stream_progress(session.node(), &id.to_string(), progress);
            }
            FromAgent::Heartbeat(heartbeat) => {
                let taken = self.conductor.session_heartbeat(session.node(), session.id(), hello, heartbeat).await;
                taken.map_err(|fault| {
                    // Anything but that is the driver's own trouble, and over by the next connection.
                    let is_other = matches!(fault, Fault::Conflict(_) | Fault::NotFound(_));
                    let reason = if is_other { Reason::Identity } else { Reason::GoingAway };
                    Violation::new(reason, short(&fault.to_string()))
                })?;
            }
            FromAgent::Listed(count) => {
                session.list_ends(count);
                self.conductor.agent_changed(session.node());
            }
            FromAgent::Close(violation) => {
                return Err(End::Gone(format!("{}: {}", word(violation.reason), printable(&violation.text))));
            }
            // Newer agents may say more.
            FromAgent::Ack | FromAgent::Unknown => {}
        }
        Ok(())
    }
}

fn going_away() -> Violation {
    Violation::new(Reason::GoingAway, "the driver stops; connect again")
}

/// The state of a command, as an agent tells it.
///
/// # Errors
/// What is wrong with it.
pub fn state_of(document: &[u8]) -> Result<CommandResult, Violation> {
    let wrong = |text: String| Violation::new(Reason::Malformed, short(&format!("CommandState.document: {text}")));
    let result: CommandResult =
        json::read_within(document, json::COMMAND_LIMITS).map_err(|error| wrong(error.to_string()))?;
    // Ids are the driver's, or made by the agent as the driver makes them.
    match Uuid::try_parse(&result.id) {
        Ok(id) if id.to_string() == result.id => Ok(result),
        _ => Err(wrong("the id of the command is not a UUID".to_owned())),
    }
}

/// When something was heard, and how many bytes had come then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    arrived: u64,
}

impl Mark {
    fn new(arrived: u64) -> Self {
        Self { at: Instant::now(), arrived }
    }

    /// The end of somebody's patience that began here. What arrives is life, but not faster than time goes, and no more of it
    /// than one frame has.
    fn until(&self, patience: Duration, arrived: u64) -> Instant {
        let since = arrived.saturating_sub(self.arrived).min(FRAME_LIMIT as u64);
        self.at + patience + Duration::from_secs(since / SLOWEST)
    }
}

/// How long nothing was heard of the agent, and how long it has acknowledged nothing while something was under way.
#[derive(Debug)]
struct Silence {
    limit: Duration,
    heard: Mark,
    under_way: UnderWay,
    owed: Option<Mark>,
}

impl Silence {
    fn new(limit: Duration, now: Mark) -> Self {
        Self { limit, heard: now, under_way: UnderWay::default(), owed: None }
    }

    /// A frame came.
    fn hears(&mut self, now: Mark) {
        self.heard = now;
    }

    fn look(&mut self, under_way: UnderWay, now: Mark) {
        if under_way.frames == 0 {
            self.owed = None;
        } else if self.owed.is_none() || under_way.acknowledged != self.under_way.acknowledged {
            self.owed = Some(now);
        }
        self.under_way = under_way;
    }

    /// How long an acknowledgement is waited for.
    fn told(&self) -> Duration {
        let under_way = Duration::from_secs(self.under_way.bytes / SLOWEST);
        if self.owed.is_some() { ACKNOWLEDGE.min(self.limit) + under_way } else { self.limit }
    }

    /// When it has been too long.
    fn until(&self, arrived: u64) -> Instant {
        // A long frame on its way down keeps what the agent says from being asked for, but not from being said.
        let silent = self.heard.until(self.limit, arrived);
        self.owed.map_or(silent, |owed| silent.min(owed.until(self.told(), arrived)))
    }
}

/// How fast frames are read.
#[derive(Debug)]
struct Pace {
    /// Time that the frames so far take, less what has gone by.
    debt: Duration,
    at: Instant,
}

impl Pace {
    fn new(at: Instant) -> Self {
        Self { debt: Duration::ZERO, at }
    }

    /// When the next frame may be read.
    fn ready(&self) -> Instant {
        self.at + self.debt.saturating_sub(FRAME_TIME * FRAMES)
    }

    /// A frame was read.
    fn took(&mut self, now: Instant) {
        self.debt = self.debt.saturating_sub(now - self.at) + FRAME_TIME;
        self.at = now;
    }
}

/// The next frame, checked.
async fn next(up: &mut Streaming<AgentFrame>) -> Result<Frame<FromAgent>, End> {
    match up.message().await {
        Ok(Some(frame)) => Ok(Frame::try_from(frame)?),
        Ok(None) => Err(End::Gone("it ended the stream".to_owned())),
        Err(status) if status.code() == tonic::Code::OutOfRange => {
            Err(Violation::new(Reason::TooLarge, short(status.message())).into())
        }
        // What cannot be decoded; a stream that broke has other codes.
        Err(status) if status.code() == tonic::Code::Internal && status.message().contains("decode") => {
            Err(Violation::new(Reason::Malformed, short(status.message())).into())
        }
        Err(status) => Err(End::Gone(format!("{:?}: {}", status.code(), short(status.message())))),
    }
}

fn short(text: &str) -> String {
    printable(text).chars().take(SHORT).collect()
}

fn printable(text: &str) -> String {
    crate::logs::printable(text)
}

/// The word of a reason, for logs and metrics.
pub(super) fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::GoingAway => "going_away",
        Reason::Malformed => "malformed",
        Reason::Sequence => "sequence",
        Reason::TooLarge => "too_large",
        Reason::Flood => "flood",
        Reason::Silent => "silent",
        Reason::Superseded => "superseded",
        Reason::Identity => "identity",
        Reason::Other(_) => "other",
    }
}

#[cfg(test)]
mod tests;
