//! Agents that have dialled in: one session of each node, through which commands go down and their states come up.
//!
//! A session lives as long as its agent's boot. Its connections come and go; what was sent over one that broke is sent again
//! over the next ([`wire::session::Link`]). Here is what is remembered of a session between connections, and the
//! [`Agent`] that flows use; what happens on a connection is in `session/connection.rs`.

use super::{Agent, AgentError, uuid_of};
use futures::future::BoxFuture;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use uuid::Uuid;
use wire::agent::{CommandRequest, CommandResult, CommandStatus, Progress};
use wire::session::{
    Body as _, Command, Frame, FromAgent, FromDriver, Hello, Link, Reason, Receipt, Refused, Violation,
};

/// How long an agent may take to answer, as over REST.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long the list of an agent's commands may take after it dialled in.
const LISTING: Duration = Duration::from_secs(20);
/// Commands of a session that wait for room on the way down.
const WAITING: usize = 64;
/// Commands that are remembered of a session; the oldest that have ended go first.
pub const REMEMBERED: usize = 512;
/// The longest command with its result that is remembered, in bytes; a longer one is for whoever waits for it, and for nobody
/// else. What is remembered of it is [`brief`].
const RESULT: usize = 256 * 1024;
/// Bytes of the commands that are remembered of a session; the oldest that have ended become brief first.
const SESSION_BYTES: usize = 16 << 20;
/// Bytes of the commands of all sessions; what comes beyond is remembered briefly.
pub const ALL_BYTES: usize = 256 << 20;
/// Longest text of an error that is kept of a command that is remembered briefly, bytes.
const TEXT: usize = 4096;
/// Longest name of a command or an error's class then, bytes.
const NAME: usize = 256;

/// The sessions of all nodes.
#[derive(Debug, Default)]
pub struct Sessions {
    nodes: Mutex<HashMap<Uuid, Arc<Session>>>,
    /// Bytes of the commands that are remembered.
    held: Arc<AtomicUsize>,
}

/// The session of a node.
#[derive(Debug)]
pub struct Session {
    node: Uuid,
    id: Uuid,
    state: Mutex<State>,
    held: Arc<AtomicUsize>,
    /// There is something to send, or a newer connection.
    pub(crate) work: Notify,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    link: Link<FromDriver>,
    /// The number of the connection that is in use.
    connection: Option<u64>,
    connections: u64,
    /// Whether the agent was heard of since the numbers began: before that, it may not know that they did.
    confirmed: bool,
    queue: VecDeque<FromDriver>,
    /// In the order in which they were accepted.
    commands: Vec<Known>,
    /// Whether `commands` are all that the agent has.
    listed: bool,
    refused: HashMap<Uuid, Refused>,
    awaited: HashSet<Uuid>,
    /// Results that are too long to be remembered.
    long: HashMap<Uuid, (CommandResult, Share)>,
}

/// A command that is remembered.
#[derive(Debug)]
struct Known {
    result: CommandResult,
    /// What it takes; none where it is brief.
    share: Option<Share>,
}

impl Known {
    fn bytes(&self) -> usize {
        self.share.as_ref().map_or(0, |share| share.bytes)
    }
}

/// Bytes of what all sessions may hold; they are given back with this value.
#[derive(Debug)]
struct Share {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Share {
    fn take(held: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let more = |now: usize| now.checked_add(bytes).filter(|sum| *sum <= ALL_BYTES);
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self { held: held.clone(), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// About how many bytes a command takes in memory that came as this JSON: each value takes more than its text.
pub fn weight(document: &[u8]) -> usize {
    let values = document.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    document.len().saturating_add(values.saturating_mul(40))
}

/// Cuts a text to `limit` bytes, at the border of a character.
pub(crate) fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
        text.truncate(end);
        text.shrink_to_fit();
    }
}

/// Of a command: what it is, how it is, and the beginning of why it failed.
fn brief(mut result: CommandResult) -> CommandResult {
    (result.command_result, result.progress) = (None, None);
    cut(&mut result.command_name, NAME);
    if let CommandStatus::Other(word) = &mut result.command_status {
        cut(word, NAME);
    }
    if let Some(error) = &mut result.command_error {
        cut(&mut error.class, NAME);
        cut(&mut error.message, NAME);
        cut(&mut error.details, TEXT);
    }
    result
}

/// What was sent over a session and is not acknowledged.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct UnderWay {
    /// Number of the last frame that is.
    pub(crate) acknowledged: u64,
    /// How many frames are not.
    pub(crate) frames: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// How a connection begins.
#[derive(Debug)]
pub struct Attached {
    /// The session.
    pub session: Arc<Session>,
    /// The number of the connection.
    pub connection: u64,
    /// Whether the session goes on where it was.
    pub resumed: bool,
    /// The number of the last frame that was received of the agent.
    pub last_received: u64,
    /// What it has not received yet.
    pub again: Vec<Frame<FromDriver>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Session>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a connection of the session that the agent greets for. An older connection of the node ends.
    pub fn attach(&self, hello: &Hello) -> Attached {
        let (attached, older) = {
            let mut nodes = self.lock();
            let (session, older) = match nodes.get(&hello.node) {
                Some(session) if session.id == hello.session => (session.clone(), None),
                _ => {
                    let session = Arc::new(Session {
                        node: hello.node,
                        id: hello.session,
                        state: Mutex::default(),
                        held: self.held.clone(),
                        work: Notify::new(),
                        changed: watch::Sender::new(0),
                    });
                    let older = nodes.insert(hello.node, session.clone());
                    (session, older)
                }
            };
            // Still under the lock: what is withdrawn meanwhile must not be repeated over this connection.
            (session.attach(hello), older)
        };
        if let Some(older) = older {
            older.end();
        }
        // The task of the connection that was in use so far learns that it is not any more.
        attached.session.work.notify_one();
        attached
    }

    /// The session of a node's boot.
    pub fn find(&self, node: Uuid, id: Uuid) -> Option<Arc<Session>> {
        self.lock().get(&node).filter(|session| session.id == id).cloned()
    }

    /// The agent of a node's boot, when it is connected.
    pub fn agent(&self, node: Uuid, id: Uuid) -> Option<Arc<dyn Agent>> {
        let session = self.find(node, id)?;
        session.lock().connection?;
        Some(Arc::new(StreamAgent { session }))
    }

    /// What is known of a command of a node's boot, whether or not its agent is connected.
    pub fn known(&self, node: Uuid, id: Uuid, command: Uuid) -> Option<CommandResult> {
        let session = self.find(node, id)?;
        let text = command.to_string();
        let state = session.lock();
        state.commands.iter().find(|known| known.result.id == text).map(|known| known.result.clone())
    }

    /// Makes sure that nothing that was given over the session of a node's boot arrives from now on, so that it may be given
    /// another way; `false` when the agent is connected and it may not. Where something was on its way, the session is
    /// forgotten, and its next connection begins anew.
    pub fn withdraw(&self, node: Uuid, id: Uuid) -> bool {
        let mut nodes = self.lock();
        let Some(session) = nodes.get(&node).filter(|session| session.id == id).cloned() else { return true };
        let state = session.lock();
        if state.connection.is_some() {
            return false;
        }
        let is_idle = state.link.outstanding() == 0 && state.queue.is_empty();
        drop(state);
        if !is_idle {
            nodes.remove(&node);
            drop(nodes);
            tracing::info!(%node, "what was on its way over the broken session is withdrawn");
            session.end();
        }
        true
    }

    /// Forgets a node's session: its agent is gone, or shall not be listened to any more.
    pub fn forget(&self, node: Uuid) {
        let gone = self.lock().remove(&node);
        if let Some(session) = gone {
            session.end();
        }
    }

    /// Bytes of the commands that are remembered of all sessions; at most [`ALL_BYTES`].
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How many sessions are connected.
    pub fn connected(&self) -> usize {
        self.lock().values().filter(|session| session.lock().connection.is_some()).count()
    }
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|number| *number = number.wrapping_add(1));
    }

    /// The node.
    pub fn node(&self) -> Uuid {
        self.node
    }

    /// The number that the agent gave its boot.
    pub fn id(&self) -> Uuid {
        self.id
    }

    fn attach(self: &Arc<Self>, hello: &Hello) -> Attached {
        let mut state = self.lock();
        state.connections += 1;
        state.connection = Some(state.connections);
        let remembered = state.confirmed.then(|| state.link.resume(hello.last_received));
        let again = match remembered {
            Some(Ok(again)) => Some(again),
            // It knows other numbers: both begin anew, and commands are known by their ids.
            Some(Err(violation)) => {
                tracing::warn!(node = %self.node, %violation, "a session cannot be resumed and begins anew");
                None
            }
            None => None,
        };
        let resumed = again.is_some();
        if !resumed {
            for body in state.link.restart().into_iter().rev() {
                state.queue.push_front(body);
            }
            state.commands.clear();
            state.listed = false;
            state.confirmed = false;
        }
        let attached = Attached {
            session: self.clone(),
            connection: state.connections,
            resumed,
            last_received: state.link.received(),
            again: again.unwrap_or_default(),
        };
        drop(state);
        self.tell();
        attached
    }

    /// A connection has ended.
    pub fn detach(&self, connection: u64) {
        let mut state = self.lock();
        if state.connection == Some(connection) {
            state.connection = None;
        }
        drop(state);
        self.tell();
    }

    /// The session is over, whatever comes of its connection.
    fn end(&self) {
        self.lock().connection = None;
        self.tell();
        self.work.notify_one();
    }

    /// Whether this connection is the one in use.
    pub(crate) fn uses(&self, connection: u64) -> bool {
        self.lock().connection == Some(connection)
    }

    /// What of what was sent is not acknowledged.
    pub(crate) fn under_way(&self) -> UnderWay {
        let state = self.lock();
        let link = &state.link;
        UnderWay { acknowledged: link.acknowledged(), frames: link.outstanding(), bytes: link.bytes() as u64 }
    }

    /// Takes a frame that came over this connection.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub fn receive(&self, connection: u64, frame: Frame<FromAgent>) -> Result<Receipt<FromAgent>, Violation> {
        let mut state = self.lock();
        if state.connection != Some(connection) {
            return Err(superseded());
        }
        state.confirmed = true;
        state.link.receive(frame)
    }

    /// The next frame to send over this connection, when there is one and room for it. A connection that is not in use any
    /// more gets none: what goes down it would be numbered and never arrive.
    pub fn next(&self, connection: u64) -> Option<Frame<FromDriver>> {
        let mut state = self.lock();
        if state.connection != Some(connection) {
            return None;
        }
        let size = state.queue.front()?.size();
        if !state.link.has_room(size) {
            return None;
        }
        let body = state.queue.pop_front()?;
        Some(state.link.send(body))
    }

    /// An acknowledgement to send over this connection, where one is owed.
    pub fn acknowledge(&self, connection: u64) -> Option<Frame<FromDriver>> {
        let mut state = self.lock();
        if state.connection == Some(connection) { state.link.acknowledge() } else { None }
    }

    /// A command was accepted, has ended or is listed. It takes about `size` bytes; see [`weight`].
    pub fn command(&self, result: CommandResult, size: usize) {
        let mut state = self.lock();
        let share = Share::take(&self.held, size);
        if share.is_none() {
            tracing::warn!(node = %self.node, command = result.id, size, "all sessions together hold too much: its result is left out");
        }
        let known = match share {
            Some(share) if size <= RESULT => Known { result, share: Some(share) },
            share => {
                let awaited = Uuid::try_parse(&result.id).ok().filter(|id| state.awaited.contains(id));
                if let (Some(share), Some(id)) = (share, awaited) {
                    state.long.insert(id, (result.clone(), share));
                }
                Known { result: brief(result), share: None }
            }
        };
        match state.commands.iter_mut().find(|before| before.result.id == known.result.id) {
            Some(before) => *before = known,
            None => state.commands.push(known),
        }
        if state.commands.len() > REMEMBERED {
            let has_ended = |known: &Known| known.result.command_status != CommandStatus::Running;
            let oldest = state.commands.iter().position(has_ended);
            state.commands.remove(oldest.unwrap_or_default());
        }
        let mut bytes: usize = state.commands.iter().map(Known::bytes).sum();
        for known in &mut state.commands {
            if bytes <= SESSION_BYTES {
                break;
            }
            bytes -= known.bytes();
            *known = Known { result: brief(known.result.clone()), share: None };
        }
        drop(state);
        self.tell();
    }

    /// How far a command is.
    pub fn progress(&self, id: Uuid, progress: Progress) {
        let id = id.to_string();
        if let Some(known) = self.lock().commands.iter_mut().find(|known| known.result.id == id) {
            known.result.progress = Some(progress);
        }
    }

    /// A command was not accepted.
    pub fn refuse(&self, refused: Refused) {
        let mut state = self.lock();
        if state.awaited.contains(&refused.id) {
            state.refused.insert(refused.id, refused);
        } else {
            tracing::info!(node = %self.node, command = %refused.id, text = refused.faultstring, "the agent refused what nobody waits for");
        }
        drop(state);
        self.tell();
    }

    /// The list of its commands is complete.
    pub fn list_ends(&self, count: u32) {
        let mut state = self.lock();
        if usize::try_from(count).unwrap_or(usize::MAX) > REMEMBERED.max(state.commands.len()) {
            tracing::warn!(node = %self.node, count, "the agent lists more commands than are remembered");
        }
        state.listed = true;
        drop(state);
        self.tell();
    }

    /// What there is to answer to somebody who waits for a command.
    fn answer(&self, id: Uuid, wait: bool) -> Option<Result<CommandResult, AgentError>> {
        let mut state = self.lock();
        if let Some(refused) = state.refused.remove(&id) {
            return Some(Err(refusal(refused)));
        }
        let text = id.to_string();
        let known = &state.commands.iter().find(|known| known.result.id == text)?.result;
        if wait && known.command_status == CommandStatus::Running {
            return None;
        }
        let known = known.clone();
        Some(Ok(state.long.remove(&id).map_or(known, |(result, _)| result)))
    }
}

/// Why a connection that is not in use any more ends.
pub(crate) fn superseded() -> Violation {
    Violation::new(Reason::Superseded, "the node has a newer connection, or its agent is not wanted any more")
}

/// A refusal in the words that flows know.
fn refusal(refused: Refused) -> AgentError {
    let text = refused.faultstring;
    if refused.status == 409 || text.to_ascii_lowercase().contains("agent is busy") {
        return AgentError::Busy(text);
    }
    AgentError::Refused { status: refused.status, text }
}

/// An agent at the other end of a session.
struct StreamAgent {
    session: Arc<Session>,
}

/// Takes note that somebody waits for a command, until it is dropped.
struct Awaited<'a> {
    session: &'a Session,
    id: Uuid,
}

impl<'a> Awaited<'a> {
    fn new(session: &'a Session, id: Uuid) -> Self {
        session.lock().awaited.insert(id);
        Self { session, id }
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut state = self.session.lock();
        state.awaited.remove(&self.id);
        state.refused.remove(&self.id);
        state.long.remove(&self.id);
        // What was not sent yet must not be sent when nobody knows of it any more.
        let id = self.id;
        state.queue.retain(|body| !matches!(body, FromDriver::Command(command) if command.id == id));
    }
}

impl StreamAgent {
    async fn run(&self, id: Uuid, request: CommandRequest, wait: bool) -> Result<CommandResult, AgentError> {
        let session = &*self.session;
        let awaited = Awaited::new(session, id);
        {
            let mut state = session.lock();
            if state.queue.len() >= WAITING {
                return Err(AgentError::Busy(format!("{WAITING} commands wait on the way to it")));
            }
            let is_it = |body: &FromDriver| matches!(body, FromDriver::Command(command) if command.id == id);
            // One that is on its way already arrives, or is repeated, without a copy behind it.
            if !state.link.kept().any(is_it) && !state.queue.iter().any(is_it) {
                let command = Command { id, name: request.name, params: request.params };
                state.queue.push_back(FromDriver::Command(command));
            }
        }
        session.work.notify_one();
        let mut changed = session.changed.subscribe();
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        loop {
            changed.mark_unchanged();
            if let Some(answer) = session.answer(id, wait) {
                return typed(answer?);
            }
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                // It has begun and takes long: whoever asked may look again.
                if let Some(answer) = session.answer(id, false) {
                    return answer;
                }
                drop(awaited);
                let text = format!("nothing came over its session within {} s", TIMEOUT.as_secs());
                return Err(AgentError::Unreachable(text));
            }
        }
    }

    async fn list(&self) -> Result<Vec<CommandResult>, AgentError> {
        let mut changed = self.session.changed.subscribe();
        let deadline = tokio::time::Instant::now() + LISTING;
        loop {
            changed.mark_unchanged();
            {
                let state = self.session.lock();
                if state.connection.is_none() {
                    return Err(AgentError::Unreachable("its session is broken; it dials again by itself".to_owned()));
                }
                if state.listed {
                    return Ok(state.commands.iter().map(|known| known.result.clone()).collect());
                }
            }
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                let text = format!("it did not list its commands within {} s", LISTING.as_secs());
                return Err(AgentError::Unreachable(text));
            }
        }
    }
}

/// A command whose parameters the agent does not know counts as refused, as over REST.
fn typed(result: CommandResult) -> Result<CommandResult, AgentError> {
    match &result.command_error {
        Some(error) if error.class == "TypeError" => {
            Err(AgentError::Refused { status: error.code, text: error.details.clone() })
        }
        _ => Ok(result),
    }
}

impl Agent for StreamAgent {
    fn commands(&self) -> BoxFuture<'_, Result<Vec<CommandResult>, AgentError>> {
        Box::pin(self.list())
    }

    fn execute(&self, command: CommandRequest, wait: bool) -> BoxFuture<'_, Result<CommandResult, AgentError>> {
        Box::pin(self.run(Uuid::new_v4(), command, wait))
    }

    fn execute_as(&self, id: Uuid, command: CommandRequest) -> BoxFuture<'_, Result<CommandResult, AgentError>> {
        Box::pin(self.run(id, command, false))
    }

    fn cancel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), AgentError>> {
        Box::pin(async move {
            let id = uuid_of(id)?;
            {
                let mut state = self.session.lock();
                if state.queue.len() >= WAITING {
                    return Err(AgentError::Busy(format!("{WAITING} commands wait on the way to it")));
                }
                state.queue.push_back(FromDriver::Cancel(id));
            }
            self.session.work.notify_one();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
