//! One task a node, which lives while the node's flow has something to do.
//!
//! A wake-up is a number that grows. A worker notes the number, then reads the store; before it leaves it looks whether
//! the number has grown since, under the same lock that wakers take. So a wake-up is seen by the worker that is there
//! or starts a new one, and never goes to one that is just leaving.

use super::change::Failure;
use super::runner::Turn;
use super::{Conductor, change::Draft};
use crate::fault::Fault;
use crate::flow::{Flow, FlowKind};
use jiff::Timestamp;
use lifecycle::provision::Event;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Node, Store};
use tokio::sync::Notify;
use tracing::Instrument as _;
use uuid::Uuid;

/// How long a worker waits after the store failed.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// The workers that there are.
#[derive(Default)]
pub(super) struct Workers {
    seats: Mutex<HashMap<Uuid, Seat>>,
}

struct Seat {
    bell: Arc<Notify>,
    rung: u64,
}

impl Workers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings; a bell comes back when there is nobody to hear it and a worker has to be started for it.
    pub(super) fn ring(&self, node: Uuid) -> Option<Arc<Notify>> {
        let mut seats = self.lock();
        if let Some(seat) = seats.get_mut(&node) {
            seat.rung += 1;
            seat.bell.notify_one();
            return None;
        }
        let bell = Arc::new(Notify::new());
        seats.insert(node, Seat { bell: bell.clone(), rung: 0 });
        Some(bell)
    }

    pub(super) fn rung(&self, node: Uuid) -> u64 {
        self.lock().get(&node).map_or(0, |seat| seat.rung)
    }

    /// Leaves, unless somebody rang since `seen`.
    fn leave(&self, node: Uuid, seen: u64) -> bool {
        let mut seats = self.lock();
        let may = seats.get(&node).is_none_or(|seat| seat.rung == seen);
        if may {
            seats.remove(&node);
        }
        may
    }
}

/// Frees the seat of a worker that panics, so that the next wake-up starts another.
struct Seated<S: Store>(Arc<Conductor<S>>, Uuid, bool);

impl<S: Store> Drop for Seated<S> {
    fn drop(&mut self) {
        if !self.2 {
            self.0.workers.lock().remove(&self.1);
        }
    }
}

impl<S: Store> Conductor<S> {
    /// Says that something about the node has changed.
    pub(super) fn wake(self: &Arc<Self>, node: Uuid) {
        if self.stop.is_cancelled() {
            return;
        }
        if let Some(bell) = self.workers.ring(node) {
            let span = tracing::info_span!("flow", %node);
            self.tasks.spawn(self.clone().work(node, bell).instrument(span));
        }
    }

    async fn work(self: Arc<Self>, node: Uuid, bell: Arc<Notify>) {
        let mut seated = Seated(self.clone(), node, false);
        loop {
            let seen = self.workers.rung(node);
            if self.stop.is_cancelled() {
                return;
            }
            let pause = match self.turn(node).await {
                Ok(Turn::Again) => continue,
                Ok(Turn::Over) => {
                    self.parts.machines.release(node).await;
                    if self.workers.leave(node, seen) {
                        seated.2 = true;
                        return;
                    }
                    continue;
                }
                Ok(Turn::Wait(pause)) => pause,
                Err(Fault::Unavailable(_)) => {
                    // Somebody else owns the nodes now.
                    self.stop.cancel();
                    return;
                }
                Err(Fault::NotFound(_)) => {
                    if self.workers.leave(node, seen) {
                        seated.2 = true;
                        return;
                    }
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "a turn of the flow could not be made; it is tried again");
                    Some(STORE_PAUSE)
                }
            };
            let sleep = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = bell.notified() => {}
                () = sleep => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// How much is left of the deadline of the node's state; `None` when there is none.
    pub(super) fn left(&self, node: &Node) -> Option<Duration> {
        self.settings.deadlines.left(node.provision_state, self.waited(node))
    }

    /// How long the node has been in its state, or has not been heard of. Time in which no conductor ran does not
    /// count: nobody could have called it.
    fn waited(&self, node: &Node) -> Duration {
        let since = node.provision_updated_at.unwrap_or(Timestamp::MIN).max(self.started);
        Duration::try_from(self.parts.clock.now().duration_since(since)).unwrap_or_default()
    }

    /// Ends the flow when the deadline of the node's state has passed.
    pub(super) async fn expire(&self, node: &Node, flow: &Flow) -> Result<bool, Fault> {
        if flow.kind.states().is_none() || self.left(node) != Some(Duration::ZERO) {
            return Ok(false);
        }
        let uuid = node.uuid;
        let (id, cursor) = (flow.id, flow.cursor);
        self.change(uuid, |draft: &mut Draft| {
            let state = draft.node.provision_state;
            let same = draft.flow.as_ref().is_some_and(|flow| flow.id == id && flow.cursor == cursor);
            // A heartbeat may have come in the meantime.
            let over = self.left(&draft.node) == Some(Duration::ZERO);
            let (Some(deadline), Some(flow), true, true) = (state.deadline_setting(), &draft.flow, same, over) else {
                return Ok(());
            };
            let what = flow.current().map_or_else(String::new, crate::flow::Action::describe);
            let limit = self.settings.deadlines.limit(state).unwrap_or_default().as_secs();
            let text = format!(
                "Timeout reached while waiting for callback for node {uuid}: it was in state \"{state}\" and nothing \
                 came for {limit} s while it was to {what} (setting {}).",
                deadline.setting
            );
            let power_off = !matches!(flow.kind, FlowKind::Clean | FlowKind::Service);
            if draft.erases_again(&text)? {
                return Ok(());
            }
            let event = deadline.event;
            debug_assert!(matches!(event, Event::Fail | Event::Abort));
            tracing::warn!(%state, action = what, limit, setting = deadline.setting, "nothing came in time");
            draft.fail(&Failure { text, event, power_off })
        })
        .await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
