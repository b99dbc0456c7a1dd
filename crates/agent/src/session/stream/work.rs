//! Commands on their way from the session to the dispatcher: one after the other, in the order in which they came.

use crate::command::{AgentError, Class, Dispatcher, Record};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;
use wire::agent::CommandRequest;
use wire::session::{Command, Refused};

/// Commands that wait for one that is being submitted; a synchronous one may take its time.
const QUEUE: usize = 16;

/// The way to the dispatcher. Commands that are on it are dropped with this value; one that was submitted goes on.
pub(super) struct Work {
    dispatcher: Arc<Dispatcher>,
    queue: mpsc::Sender<Command>,
    /// Commands of the queue and the one that is being submitted, and whether they are to stop.
    pending: Arc<Mutex<HashMap<Uuid, bool>>>,
    refusals: mpsc::UnboundedReceiver<Refused>,
    _worker: AbortOnDropHandle<()>,
}

/// What becomes of a command.
pub(super) enum Taken {
    /// It will be submitted.
    Queued,
    /// It is being submitted, or was before: nothing is done twice.
    Known(Option<Arc<Record>>),
    /// It was not.
    Refused(Refused),
}

impl Work {
    pub(super) fn start(dispatcher: Arc<Dispatcher>) -> Self {
        let (queue, mut commands) = mpsc::channel::<Command>(QUEUE);
        // As long as the queue at most: each command causes one refusal or none.
        let (refused, refusals) = mpsc::unbounded_channel();
        let pending = Arc::new(Mutex::new(HashMap::new()));
        let (submitter, left) = (Arc::clone(&dispatcher), Arc::clone(&pending));
        let worker = tokio::spawn(async move {
            while let Some(Command { id, name, params }) = commands.recv().await {
                let is_cancelled = || locked(&left).get(&id).copied().unwrap_or_default();
                let submitted = match is_cancelled() {
                    false => submitter.submit_as(id, CommandRequest { name, params }).await,
                    true => Err(AgentError::new(Class::CommandCancelled, "it was to stop before it had begun")),
                };
                match submitted {
                    Ok(record) if is_cancelled() => record.cancel(),
                    Ok(_) => {}
                    Err(error) => drop(refused.send(refusal(id, &error))),
                }
                locked(&left).remove(&id);
            }
        });
        Self { dispatcher, queue, pending, refusals, _worker: AbortOnDropHandle::new(worker) }
    }

    /// Takes a command in.
    pub(super) fn take(&self, command: Command) -> Taken {
        let id = command.id;
        if let Ok(record) = self.dispatcher.get(&id.to_string()) {
            return Taken::Known(Some(record));
        }
        if locked(&self.pending).contains_key(&id) {
            return Taken::Known(None);
        }
        locked(&self.pending).insert(id, false);
        match self.queue.try_send(command) {
            Ok(()) => Taken::Queued,
            Err(_) => {
                locked(&self.pending).remove(&id);
                let details = format!("{QUEUE} commands wait already");
                Taken::Refused(refusal(id, &AgentError::new(Class::AgentIsBusy, details)))
            }
        }
    }

    /// Asks a command to stop, also one that waits. What to say to it, if it is not known.
    pub(super) fn cancel(&self, id: Uuid) -> Option<Refused> {
        if let Some(cancelled) = locked(&self.pending).get_mut(&id) {
            *cancelled = true;
        }
        match self.dispatcher.cancel(&id.to_string()) {
            Ok(_) => None,
            Err(_) if locked(&self.pending).contains_key(&id) => None,
            // It may have been submitted between the two looks.
            Err(_) => self.dispatcher.cancel(&id.to_string()).err().map(|error| refusal(id, &error)),
        }
    }

    /// The next refusal of a command that was queued.
    pub(super) async fn refused(&mut self) -> Refused {
        match self.refusals.recv().await {
            Some(refused) => refused,
            // The worker panicked: nothing is refused any more, and nothing carried out.
            None => std::future::pending().await,
        }
    }

    /// Whether there are commands that have been neither accepted nor refused.
    pub(super) fn is_busy(&self) -> bool {
        !locked(&self.pending).is_empty() || !self.refusals.is_empty()
    }
}

fn locked(pending: &Mutex<HashMap<Uuid, bool>>) -> MutexGuard<'_, HashMap<Uuid, bool>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A refusal in the words that REST has for it.
pub(super) fn refusal(id: Uuid, error: &AgentError) -> Refused {
    Refused { id, status: error.class.code(), faultstring: error.to_fault().faultstring }
}
