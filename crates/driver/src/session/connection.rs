//! One connection of a session: hello, welcome, then frames until one side ends it. Everything here is bounded in time and
//! number, and ends with a reason that the other side is told and that is counted.

use super::authority::Presented;
use super::service::Down;
use crate::agents::stream::{Attached, Session, superseded};
use crate::conductor::Conductor;
use crate::fault::Fault;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::Instrument as _;
use wire::agent::CommandResult;
use wire::rpc::{AgentFrame, DriverFrame};
use wire::session::{
    Body as _, Frame, FromAgent, FromDriver, Hello, PROTOCOL_MINOR, Reason, Receipt, Violation, Welcome,
};

/// How long the first frame may take.
const HELLO: Duration = Duration::from_secs(20);
/// How long a frame may wait to be written: a peer that does not read is not waited for any longer.
const WRITE: Duration = Duration::from_secs(60);
/// How long the agent may take to acknowledge what was sent.
const ACKNOWLEDGE: Duration = Duration::from_secs(90);
/// Longest text of a driver's own in a frame, in characters.
const SHORT: usize = 400;

/// A connection that has been accepted.
pub(super) struct Connection<S: Store> {
    pub(super) conductor: Arc<Conductor<S>>,
    pub(super) presented: Presented,
    pub(super) up: Streaming<AgentFrame>,
    pub(super) down: Down<DriverFrame>,
    pub(super) stop: CancellationToken,
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
    /// Runs the connection to its end.
    pub(super) async fn run(mut self) {
        let span = tracing::info_span!("session", node = %self.presented.node);
        async {
            let end = self.talk().await;
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

    async fn talk(&mut self) -> End {
        let hello = match self.greeted().await {
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
    async fn greeted(&mut self) -> Result<Hello, End> {
        let silent = || Violation::new(Reason::Silent, format!("no Hello came within {} s", HELLO.as_secs()));
        let frame = match tokio::time::timeout(HELLO, next(&mut self.up)).await {
            Ok(frame) => frame?,
            Err(_) => return Err(silent().into()),
        };
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
        self.write(Frame { seq: 0, ack: 0, body: FromDriver::Welcome(welcome) }).await?;
        for frame in again {
            self.write(frame).await?;
        }
        self.conductor.agent_changed(session.node());
        let silence = Duration::from_secs(timeout.max(60));
        let expiry = self.presented.not_after.duration_since(Timestamp::now());
        let expiry = tokio::time::sleep(Duration::try_from(expiry).unwrap_or_default());
        tokio::pin!(expiry);
        loop {
            while let Some(frame) = session.next(connection) {
                self.write(frame).await?;
            }
            if let Some(frame) = session.acknowledge(connection) {
                self.write(frame).await?;
            }
            if !session.uses(connection) {
                // What rang may have been meant for the connection that is in use.
                session.work.notify_one();
                return Err(superseded().into());
            }
            let patience = if session.is_owed() { ACKNOWLEDGE.min(silence) } else { silence };
            let frame = tokio::select! {
                frame = next(&mut self.up) => frame?,
                () = session.work.notified() => continue,
                () = tokio::time::sleep(patience) => {
                    let text = format!("nothing came for {} s", patience.as_secs());
                    return Err(Violation::new(Reason::Silent, text).into());
                }
                () = &mut expiry => {
                    let text = "the certificate is not valid any more; enrol again";
                    return Err(Violation::new(Reason::Identity, text).into());
                }
                () = self.stop.cancelled() => {
                    return Err(Violation::new(Reason::GoingAway, "the driver stops; connect again").into());
                }
            };
            self.take(&session, connection, hello, frame).await?;
        }
    }

    async fn write(&self, frame: Frame<FromDriver>) -> Result<(), End> {
        let body = &frame.body;
        if body.size() > 0 {
            tracing::debug!(seq = frame.seq, bytes = body.size(), "sent");
        }
        match tokio::time::timeout(WRITE, self.down.send(Ok(frame.into()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone("the stream to it is closed".to_owned())),
            Err(_) => {
                let text = format!("it has not read for {} s", WRITE.as_secs());
                Err(Violation::new(Reason::Silent, text).into())
            }
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
                let result: CommandResult = serde_json::from_slice(&document).map_err(|error| {
                    Violation::new(Reason::Malformed, short(&format!("CommandState.document: {error}")))
                })?;
                if omitted > 0 {
                    tracing::warn!(command = result.id, omitted, "the result is too long for a frame and was left out");
                }
                tracing::debug!(command = result.id, name = result.command_name, status = ?result.command_status, "its state");
                session.command(result, document.len());
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
