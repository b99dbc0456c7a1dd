//! One connection of a session, from hello to its end.

use super::Client;
use super::talk::{PROGRESS_INTERVAL, Talk};
use super::work::{Taken, Work};
use crate::command::Dispatcher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use uuid::Uuid;
use wire::rpc::{AgentFrame, DriverFrame};
use wire::session::{FRAME_LIMIT, Frame, FromAgent, FromDriver, Reason, Refused, Violation, Welcome};

/// How long the driver may take for its welcome.
const WELCOME: Duration = Duration::from_secs(10);
/// How long what was received may wait for a frame that acknowledges it along the way.
const ACKNOWLEDGE: Duration = Duration::from_millis(100);
/// How long the driver may take to acknowledge anything at all …
const SILENCE: Duration = Duration::from_secs(60);
/// … and longer for what is under way, and for what arrives meanwhile, at this many bytes a second.
const SLOWEST: usize = 16 << 10;
/// How long the end of a session waits for the driver to have heard everything.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the driver may take to end the call when it was told why the agent does.
const FAREWELL: Duration = Duration::from_secs(1);
/// Frames between this and the transport; the window bounds what is under way.
const OUTGOING: usize = 8;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The agent stops.
    #[error("the agent stops")]
    Stopped,
    /// It broke, or the driver ended it.
    #[error("{}{} ({:?})", .0.message(), cause(.0), .0.code())]
    Broken(Status),
    /// The driver says why it ends it.
    #[error("the driver ends the connection: {} ({:?})", .0.text, .0.reason)]
    Closed(Violation),
    /// The driver broke the rules.
    #[error("the driver broke the rules of the session: {0}")]
    Violated(Violation),
    /// The driver did not answer hello.
    #[error("no welcome within {} s", WELCOME.as_secs())]
    NoWelcome,
}

/// What the transport says of a status, where there is something.
fn cause(status: &Status) -> String {
    let source = std::error::Error::source(status);
    source.map(|source| format!(": {}", transport::client::chain(source))).unwrap_or_default()
}

/// What a connection works on.
pub(super) struct Parts<'a> {
    pub(super) dispatcher: &'a Arc<Dispatcher>,
    pub(super) talk: &'a mut Talk,
    pub(super) work: &'a mut Work,
    /// Rings when a heartbeat is due.
    pub(super) beat: &'a Notify,
    /// Bytes that have come of the driver, those of a frame that is not complete included.
    pub(super) arrived: &'a Arc<AtomicU64>,
    /// Is told when the driver has welcomed the agent.
    pub(super) up: &'a watch::Sender<bool>,
}

/// Holds a session over `client` until it ends. What has not arrived then stays in the talk.
pub(super) async fn run(
    mut client: Client,
    parts: Parts<'_>,
    node: Uuid,
    session: Uuid,
    welcomed: impl FnOnce(&Welcome),
    stop: &CancellationToken,
) -> End {
    let (outgoing, mut frames) = mpsc::channel::<AgentFrame>(OUTGOING);
    if outgoing.send(parts.talk.hello(node, session).into()).await.is_err() {
        return End::NoWelcome;
    }
    let frames = futures::stream::poll_fn(move |context| frames.poll_recv(context));
    let greeted = async {
        let mut incoming = client.session(frames).await.map_err(End::Broken)?.into_inner();
        let first = incoming.message().await.map_err(End::Broken)?;
        let first = first.ok_or_else(|| End::Broken(Status::unavailable("the driver ended the call at once")))?;
        Ok((incoming, first))
    };
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(WELCOME, greeted) => greeted,
        () = stop.cancelled() => return End::Stopped,
    };
    let (incoming, first) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(end)) => return end,
        Err(_) => return End::NoWelcome,
    };
    let mut connection = Connection { parts, incoming, outgoing };
    let welcome = match connection.welcome(first) {
        Ok(welcome) => welcome,
        Err(end) => return connection.ended(end).await,
    };
    let repeated = match connection.parts.talk.welcomed(&welcome) {
        Ok(repeated) => repeated,
        Err(violation) => return connection.ended(End::Violated(violation)).await,
    };
    welcomed(&welcome);
    tracing::info!(
        driver = welcome.driver_version,
        resumed = welcome.resumed,
        repeated = repeated.len(),
        "session with the driver"
    );
    connection.parts.up.send_replace(true);
    let end = connection.talk(repeated, stop).await;
    connection.parts.up.send_replace(false);
    connection.ended(end).await
}

struct Connection<'a> {
    parts: Parts<'a>,
    incoming: Streaming<DriverFrame>,
    outgoing: mpsc::Sender<AgentFrame>,
}

impl Connection<'_> {
    fn welcome(&mut self, first: DriverFrame) -> Result<Welcome, End> {
        let frame: Frame<FromDriver> = first.try_into().map_err(End::Violated)?;
        match frame.body {
            FromDriver::Welcome(welcome) => Ok(welcome),
            FromDriver::Close(violation) => Err(End::Closed(violation)),
            _ => Err(End::Violated(Violation::new(Reason::Malformed, "the first frame is no welcome"))),
        }
    }

    /// Tells the driver why the connection ends, as far as it still listens.
    async fn ended(mut self, end: End) -> End {
        let violation = match &end {
            End::Violated(violation) => violation.clone(),
            End::Stopped => Violation::new(Reason::GoingAway, "the agent stops"),
            End::Broken(_) | End::Closed(_) | End::NoWelcome => return end,
        };
        let close = self.parts.talk.close(violation);
        let farewell = async move {
            let _ = self.outgoing.send(close.into()).await;
            drop(self.outgoing);
            // It has been read when the driver ends the call in turn.
            while let Ok(Some(_)) = self.incoming.message().await {}
        };
        // A driver that does not is left alone.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        end
    }

    async fn talk(&mut self, repeated: Vec<Frame<FromAgent>>, stop: &CancellationToken) -> End {
        let mut repeated = repeated.into_iter();
        let mut news = self.parts.dispatcher.news();
        let mut silence = Silence::new(self.parts.talk, Arc::clone(self.parts.arrived));
        let mut owed_since = None;
        let mut leaving: Option<Instant> = None;
        loop {
            let commands = self.parts.dispatcher.list();
            let mut full = false;
            loop {
                let Ok(permit) = self.outgoing.try_reserve() else {
                    full = true;
                    break;
                };
                // What was under way when the connection before broke goes first.
                let next = repeated.next().or_else(|| self.parts.talk.next(&commands, Instant::now()));
                let Some(frame) = next else { break };
                permit.send(frame.into());
            }
            silence.look(self.parts.talk);
            let owes = self.parts.talk.owes_acknowledgement();
            owed_since = owed_since.filter(|_| owes).or_else(|| owes.then(Instant::now));
            let acknowledge_at = owed_since.map(|since| since + ACKNOWLEDGE);
            let is_running = commands.last().is_some_and(|record| record.is_running());
            if let Some(until) = leaving
                && (Instant::now() >= until || (!self.parts.work.is_busy() && self.parts.talk.outstanding().0 == 0))
            {
                return End::Stopped;
            }
            let happened = tokio::select! {
                message = self.incoming.message() => Happened::Heard(message),
                refused = self.parts.work.refused() => Happened::Refused(refused),
                () = self.parts.beat.notified() => Happened::Beat,
                () = sleep(acknowledge_at) => Happened::Acknowledge,
                () = sleep(silence.until()) => Happened::Silence,
                () = stop.cancelled(), if leaving.is_none() => Happened::Stop,
                // An error means that the call has ended, of which the first branch hears.
                Ok(_) = self.outgoing.reserve(), if full => Happened::Look,
                // The dispatcher lives as long as this.
                _ = news.changed() => Happened::Look,
                () = tokio::time::sleep(PROGRESS_INTERVAL), if is_running => Happened::Look,
                () = tokio::time::sleep(ACKNOWLEDGE), if leaving.is_some() => Happened::Look,
            };
            match happened {
                Happened::Heard(Ok(Some(frame))) => {
                    if let Err(end) = self.hear(frame) {
                        return end;
                    }
                }
                Happened::Heard(Ok(None)) => return End::Broken(Status::unavailable("the driver ended the call")),
                Happened::Heard(Err(status)) => return End::Broken(status),
                Happened::Refused(refused) => {
                    if let Err(violation) = self.parts.talk.refuse(refused) {
                        return End::Violated(violation);
                    }
                }
                Happened::Beat => self.parts.talk.beat(),
                Happened::Acknowledge => {
                    // Nothing was said meanwhile that would have told it along the way.
                    owed_since = Some(Instant::now());
                    if let Ok(permit) = self.outgoing.try_reserve()
                        && let Some(frame) = self.parts.talk.acknowledge()
                    {
                        permit.send(frame.into());
                    }
                }
                // Meanwhile a part of a frame may have come.
                Happened::Silence if silence.until().is_some_and(|until| until > Instant::now()) => {}
                Happened::Silence => {
                    let text = format!("nothing was acknowledged for {} s", silence.patience.as_secs());
                    return End::Violated(Violation::new(Reason::Silent, text));
                }
                Happened::Stop => leaving = Some(Instant::now() + LAST_WORDS),
                Happened::Look => {}
            }
        }
    }

    fn hear(&mut self, frame: DriverFrame) -> Result<(), End> {
        let frame = frame.try_into().map_err(End::Violated)?;
        let Some(said) = self.parts.talk.hear(frame).map_err(End::Violated)? else { return Ok(()) };
        let talk = &mut *self.parts.talk;
        match said {
            FromDriver::Command(command) => match self.parts.work.take(command) {
                Taken::Queued | Taken::Known(None) => Ok(()),
                Taken::Known(Some(record)) => talk.repeat(record),
                Taken::Refused(refused) => talk.refuse(refused),
            },
            FromDriver::Unreadable(refused) => talk.refuse(refused),
            FromDriver::Cancel(id) => match self.parts.work.cancel(id) {
                Some(refused) => talk.refuse(refused),
                None => Ok(()),
            },
            FromDriver::Ack => Ok(()),
            FromDriver::Unknown => {
                tracing::debug!("the driver says something that this version does not know");
                Ok(())
            }
            FromDriver::Close(violation) => return Err(End::Closed(violation)),
            FromDriver::Welcome(_) => Err(Violation::new(Reason::Malformed, "a welcome in the middle of a connection")),
        }
        .map_err(End::Violated)
    }
}

/// What a connection woke up for.
enum Happened {
    Heard(Result<Option<DriverFrame>, Status>),
    Refused(Refused),
    Beat,
    Acknowledge,
    Silence,
    Stop,
    /// Something may have become due.
    Look,
}

/// How long the driver has acknowledged nothing while something was under way. A long frame of its own holds its
/// acknowledgements up, so what arrives is life, but no more of it than one frame has.
struct Silence {
    acknowledged: u64,
    /// Since when, and how many bytes had come then.
    since: Option<(Instant, u64)>,
    patience: Duration,
    arrived: Arc<AtomicU64>,
}

impl Silence {
    fn new(talk: &Talk, arrived: Arc<AtomicU64>) -> Self {
        Self { acknowledged: talk.acknowledged(), since: None, patience: SILENCE, arrived }
    }

    fn look(&mut self, talk: &Talk) {
        self.see(talk.acknowledged(), talk.outstanding());
    }

    fn see(&mut self, acknowledged: u64, (frames, bytes): (u64, usize)) {
        if frames == 0 {
            self.since = None;
        } else if self.since.is_none() || acknowledged != self.acknowledged {
            self.since = Some((Instant::now(), self.arrived.load(Ordering::Relaxed)));
        }
        self.acknowledged = acknowledged;
        self.patience = SILENCE + Duration::from_secs((bytes / SLOWEST) as u64);
    }

    fn until(&self) -> Option<Instant> {
        let (since, before) = self.since?;
        let arrived = self.arrived.load(Ordering::Relaxed).saturating_sub(before).min(FRAME_LIMIT as u64);
        Some(since + self.patience + Duration::from_secs(arrived / SLOWEST as u64))
    }
}

/// Waits until then, or for ever.
async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::extension;
    use crate::state::Agent;
    use axum::body::Body;
    use hardware_sim::SimMachine;
    use std::convert::Infallible;
    use tonic::codec::Codec as _;
    use tonic_prost::ProstCodec;
    use wire::agent::CommandRequest;

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_acknowledges_nothing_is_silent_but_not_while_a_long_frame_of_it_comes() {
        let arrived = Arc::new(AtomicU64::new(0));
        let mut silence = Silence::new(&Talk::default(), Arc::clone(&arrived));
        assert_eq!(silence.until(), None);
        let begun = Instant::now();
        silence.see(0, (1, 100 * SLOWEST));
        assert_eq!(silence.until(), Some(begun + SILENCE + Duration::from_secs(100)));
        arrived.store(500 * SLOWEST as u64, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(300)).await;
        silence.see(0, (1, 0));
        assert_eq!(silence.until(), Some(begun + SILENCE + Duration::from_secs(500)));
        arrived.store(u64::MAX, Ordering::Relaxed);
        let longest = Duration::from_secs((FRAME_LIMIT / SLOWEST) as u64);
        assert_eq!(silence.until(), Some(begun + SILENCE + longest));
        silence.see(1, (1, 0));
        assert_eq!(silence.until(), Some(Instant::now() + SILENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_never_reads_is_left_and_what_it_did_not_read_is_said_again() {
        let built = Agent::builder(Arc::new(SimMachine::new()), Settings::default()).build();
        let dispatcher = Dispatcher::new(built.unwrap().0, extension::standard());
        for _ in 0..2 * OUTGOING {
            let sync = CommandRequest { name: "standby.sync".to_owned(), params: serde_json::Map::new() };
            dispatcher.submit(sync).await.unwrap();
        }
        let mut work = Work::start(Arc::clone(&dispatcher));
        let mut talk = Talk::default();
        let welcome = |resumed| Welcome {
            resumed,
            last_received: 0,
            protocol_minor: 0,
            driver_version: String::new(),
            heartbeat_timeout: 300,
        };
        talk.welcomed(&welcome(false)).unwrap();
        let (beat, arrived) = (Notify::new(), Arc::default());
        let (up, _) = watch::channel(true);
        let (outgoing, _unread) = mpsc::channel(OUTGOING);
        // Nor does it say anything.
        let silent = Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, Infallible>>());
        let decoder = ProstCodec::<AgentFrame, DriverFrame>::default().decoder();
        let incoming = Streaming::new_request(decoder, silent, None, None);
        let parts = Parts {
            dispatcher: &dispatcher,
            talk: &mut talk,
            work: &mut work,
            beat: &beat,
            arrived: &arrived,
            up: &up,
        };
        let begun = Instant::now();
        let end = Connection { parts, incoming, outgoing }.talk(Vec::new(), &CancellationToken::new()).await;
        assert!(matches!(&end, End::Violated(Violation { reason: Reason::Silent, .. })), "{end}");
        assert_eq!(begun.elapsed().as_secs(), SILENCE.as_secs());
        assert_eq!(talk.welcomed(&welcome(true)).unwrap().len(), OUTGOING);
    }
}
