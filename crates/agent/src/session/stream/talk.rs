//! What the agent says next in a session and what it makes of what it hears: no sockets, and time is passed in.

use crate::command::Record;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;
use wire::agent::{CommandResult, CommandStatus};
use wire::session::{
    Body as _, DOCUMENT_LIMIT, Frame, FromAgent, FromDriver, Heartbeat, Hello, Link, PROTOCOL_MINOR, Reason, Receipt,
    Refused, Violation, Welcome,
};

/// Between two reports of the same stage.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Answers that wait to be sent; a driver that causes more without reading them is a flood.
const ANSWERS: usize = 256;

/// What is remembered of a session from one connection to the next.
#[derive(Default)]
pub(super) struct Talk {
    link: Link<FromAgent>,
    /// Commands of which the driver was told that they were accepted, in the dispatcher's order …
    accepted: usize,
    /// … and of which it was told how they ended.
    ended: usize,
    /// Whether a list ends when all that is known has been told.
    listing: bool,
    answers: VecDeque<Answer>,
    heartbeat: bool,
    progress: Option<Told>,
}

/// An answer to one frame.
enum Answer {
    Refused(Refused),
    /// The state of a command that was given twice.
    State(Arc<Record>),
}

/// The progress that was told last.
struct Told {
    id: String,
    progress: hardware::Progress,
    at: Instant,
}

impl Talk {
    /// The first frame of a connection.
    pub(super) fn hello(&mut self, node: Uuid, session: Uuid) -> Frame<FromAgent> {
        let last_received = self.link.received();
        self.link.send(FromAgent::Hello(Hello {
            node,
            session,
            last_received,
            protocol_minor: PROTOCOL_MINOR,
            agent_version: wire::agent::AGENT_VERSION.to_owned(),
            ferric_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    /// Takes the driver's welcome; the frames that it has not received are to be sent before any other.
    pub(super) fn welcomed(&mut self, welcome: &Welcome) -> Result<Vec<Frame<FromAgent>>, Violation> {
        if welcome.resumed {
            return self.link.resume(welcome.last_received);
        }
        if welcome.last_received != 0 {
            let text = format!("a session that is not resumed has {} as its last frame", welcome.last_received);
            return Err(Violation::new(Reason::Sequence, text));
        }
        // All commands are listed, so their states need not be said twice; a refusal is known from nowhere else.
        let mut refusals = VecDeque::new();
        for body in self.link.restart() {
            match body {
                FromAgent::Refused(refused) => refusals.push_back(Answer::Refused(refused)),
                FromAgent::Heartbeat(_) => self.heartbeat = true,
                _ => {}
            }
        }
        refusals.append(&mut self.answers);
        self.answers = refusals;
        self.list();
        Ok(Vec::new())
    }

    /// Takes a frame of the driver: what it says, unless that was heard before.
    pub(super) fn hear(&mut self, frame: Frame<FromDriver>) -> Result<Option<FromDriver>, Violation> {
        match self.link.receive(frame)? {
            Receipt::New(said) => Ok(Some(said)),
            Receipt::Again => Ok(None),
        }
    }

    /// All commands are to be told once more.
    pub(super) fn list(&mut self) {
        (self.accepted, self.ended, self.listing, self.progress) = (0, 0, true, None);
    }

    /// A heartbeat is due.
    pub(super) fn beat(&mut self) {
        self.heartbeat = true;
    }

    /// A command was refused.
    pub(super) fn refuse(&mut self, refused: Refused) -> Result<(), Violation> {
        self.answer(Answer::Refused(refused))
    }

    /// The state of this command is to be told, though it was before.
    pub(super) fn repeat(&mut self, record: Arc<Record>) -> Result<(), Violation> {
        self.answer(Answer::State(record))
    }

    fn answer(&mut self, answer: Answer) -> Result<(), Violation> {
        if self.answers.len() >= ANSWERS {
            let text = format!("{ANSWERS} answers wait to be read");
            return Err(Violation::new(Reason::Flood, text));
        }
        self.answers.push_back(answer);
        Ok(())
    }

    /// The next frame that is due and that the driver has room for. Called again when commands have news, when the driver
    /// has acknowledged something, and while a command runs after [`PROGRESS_INTERVAL`].
    pub(super) fn next(&mut self, commands: &[Arc<Record>], now: Instant) -> Option<Frame<FromAgent>> {
        // Rendering a result is work, which is of no use while there is no room for anything.
        if !self.link.has_room(0) {
            return None;
        }
        let (body, said) = self.due(commands, now)?;
        if !self.link.has_room(body.size()) {
            return None;
        }
        match said {
            Said::Answer => drop(self.answers.pop_front()),
            Said::Accepted(place) => self.accepted = place + 1,
            Said::Ended(place) => (self.accepted, self.ended) = (self.accepted.max(place + 1), place + 1),
            Said::Listed => self.listing = false,
            Said::Heartbeat => self.heartbeat = false,
            Said::Progress(told) => self.progress = Some(told),
        }
        Some(self.link.send(body))
    }

    fn due(&self, commands: &[Arc<Record>], now: Instant) -> Option<(FromAgent, Said)> {
        match self.answers.front() {
            Some(Answer::Refused(refused)) => return Some((FromAgent::Refused(refused.clone()), Said::Answer)),
            Some(Answer::State(record)) => return Some((state(record).0, Said::Answer)),
            None => {}
        }
        // Commands run one at a time: all but the last one have ended.
        if let Some(record) = commands.get(self.ended) {
            match state(record) {
                (body, true) => return Some((body, Said::Ended(self.ended))),
                (body, false) if self.accepted <= self.ended => return Some((body, Said::Accepted(self.ended))),
                (_, false) => {}
            }
        }
        if self.listing {
            let count = u32::try_from(commands.len()).unwrap_or(u32::MAX);
            return Some((FromAgent::Listed(count), Said::Listed));
        }
        if self.heartbeat {
            return Some((FromAgent::Heartbeat(Heartbeat::default()), Said::Heartbeat));
        }
        let running = commands.last()?;
        let told = Told { id: running.id().to_owned(), progress: running.progress()?, at: now };
        let is_due = self.progress.as_ref().is_none_or(|before| {
            before.id != told.id
                || before.progress.stage != told.progress.stage
                || before.progress.stalled.is_some() != told.progress.stalled.is_some()
                || (before.progress != told.progress && now >= before.at + PROGRESS_INTERVAL)
        });
        let id = Uuid::try_parse(&told.id).ok().filter(|_| is_due)?;
        Some((FromAgent::Progress { id, progress: told.progress.clone() }, Said::Progress(told)))
    }

    /// An acknowledgement, where one is owed.
    pub(super) fn acknowledge(&mut self) -> Option<Frame<FromAgent>> {
        self.link.acknowledge()
    }

    /// Whether the driver has not been told everything that was heard.
    pub(super) fn owes_acknowledgement(&self) -> bool {
        self.link.owes_acknowledgement()
    }

    /// The end of the connection, told to the driver.
    pub(super) fn close(&mut self, violation: Violation) -> Frame<FromAgent> {
        self.link.send(FromAgent::Close(violation))
    }

    /// What the driver has not acknowledged: how many frames, and how many bytes.
    pub(super) fn outstanding(&self) -> (u64, usize) {
        (self.link.outstanding(), self.link.bytes())
    }

    /// Number of the last frame that the driver has acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.link.acknowledged()
    }
}

/// What becomes so once a frame has been sent.
enum Said {
    Answer,
    Accepted(usize),
    Ended(usize),
    Listed,
    Heartbeat,
    Progress(Told),
}

/// The frame that tells a command's state, and whether it has ended.
fn state(record: &Record) -> (FromAgent, bool) {
    let result = record.to_result();
    let ended = result.command_status != CommandStatus::Running;
    let (document, omitted) = document(result);
    (FromAgent::Command { document: document.into(), omitted }, ended)
}

/// A command as JSON; without its result where that is too long, and then with the length of the result.
fn document(mut result: CommandResult) -> (Vec<u8>, u64) {
    // These values are always JSON.
    let render = |result: &CommandResult| serde_json::to_vec(result).unwrap_or_default();
    let document = render(&result);
    if document.len() <= DOCUMENT_LIMIT {
        return (document, 0);
    }
    let left_out = result.command_result.take().unwrap_or(Value::Null);
    let bytes = serde_json::to_vec(&left_out).map_or(0, |text| text.len());
    tracing::error!(command = result.command_name, bytes, limit = DOCUMENT_LIMIT, "the result is too long to be sent");
    (render(&result), bytes as u64)
}

#[cfg(test)]
mod tests;
