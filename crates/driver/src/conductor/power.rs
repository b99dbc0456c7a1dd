//! Power: what an operator asks for, and whether the machine still is what is recorded.
//!
//! Every node has a deadline of its own at which its power state is read, in a task of its own: a BMC that does not
//! answer keeps nobody waiting. A node whose BMC stays away is set aside with the fault `power failure`, and taken
//! back when it answers again, as in Ironic.

use super::Conductor;
use super::change::{Draft, locked};
use super::verbs::require;
use crate::command::{NodeIdent, PowerTarget};
use crate::effect::machines::{POWER_OFF, POWER_ON, power_name};
use crate::fault::Fault;
use crate::flow::{Action, FlowKind};
use crate::hardware_type::{Interface, validate};
use futures::StreamExt as _;
use lifecycle::provision::State;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::{Node, NodeFilter, Page, Store, StoreError};
use tokio::sync::mpsc;
use tokio_util::time::DelayQueue;
use tracing::Instrument as _;
use transport::client::chain;
use uuid::Uuid;

/// The fault of a node whose BMC stays away; Ironic's name.
const POWER_FAILURE: &str = "power failure";

/// Nodes whose power is to be looked at, and how often in a row it could not be read.
pub(super) struct Watch {
    due: mpsc::UnboundedSender<(Uuid, Duration)>,
    watched: Mutex<HashSet<Uuid>>,
    failed: Mutex<HashMap<Uuid, u32>>,
}

impl Watch {
    /// With the other end, which [`Conductor::watch_power`] listens to.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<(Uuid, Duration)>) {
        let (due, asked) = mpsc::unbounded_channel();
        (Self { due, watched: Mutex::default(), failed: Mutex::default() }, asked)
    }

    fn after(&self, node: Uuid, pause: Duration) {
        // There is nobody to hear it when power is not looked at, or not any more.
        let _ = self.due.send((node, pause));
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, u32>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somewhere within the interval, so that the nodes of a site are not read all at once.
fn jitter(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(0.05..1.0))
}

/// How long a request waits for a node whose power an operator is having changed: as long as Ironic tries for its lock
/// (`[conductor] node_locked_retry_attempts` 3, a second apart).
const PATIENCE: Duration = Duration::from_secs(3);

impl<S: Store> Conductor<S> {
    /// Waits for the end of a change of power, a few seconds at most: clients see the new state a moment before the node
    /// is free again, and most BMCs take no longer. Whoever asks for a node that is held for something else, or for
    /// longer, is told so at once.
    pub(super) async fn until_power_is_changed(&self, node: Uuid) -> Result<(), Fault> {
        let end = tokio::time::Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(5);
        while self.store.shared_node(node).await?.reservation.is_some() && tokio::time::Instant::now() < end {
            match self.load(node).await?.1 {
                Some(flow) if flow.kind == FlowKind::Power => {}
                _ => break,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        Ok(())
    }

    /// `PUT states/power`.
    pub(super) async fn power(
        self: &Arc<Self>,
        ident: &NodeIdent,
        target: PowerTarget,
        timeout: Option<u64>,
    ) -> Result<Node, Fault> {
        let uuid = self.find_shared(ident).await?.uuid;
        let within = timeout.unwrap_or(self.settings.soft_power_off_timeout.as_secs());
        let (node, _, ()) = self.change(uuid, |draft| apply_power(draft, target, within)).await?;
        self.wake(uuid);
        Ok(Arc::unwrap_or_clone(node))
    }

    /// Begins to look at the power of a node, once.
    pub(super) fn watch_node(&self, node: Uuid) {
        if !self.settings.sync_power_state_interval.is_zero() && self.watch.watched().insert(node) {
            self.watch.after(node, jitter(self.settings.sync_power_state_interval));
        }
    }

    /// Looks at the power of every node when it is due, until the conductor stops.
    pub(super) async fn watch_power(self: Arc<Self>, mut asked: mpsc::UnboundedReceiver<(Uuid, Duration)>) {
        if self.settings.sync_power_state_interval.is_zero() {
            return;
        }
        match self.store.nodes(&NodeFilter::default(), &Page::default()).await {
            Ok(nodes) => nodes.iter().for_each(|node| self.watch_node(node.uuid)),
            Err(error) => tracing::error!(error = chain(&error), "power is not looked at: the nodes cannot be listed"),
        }
        let mut queue = DelayQueue::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some((node, pause)) = asked.recv() => drop(queue.insert(node, pause)),
                Some(due) = queue.next(), if !queue.is_empty() => {
                    let node = due.into_inner();
                    let span = tracing::info_span!("power", %node);
                    self.tasks.spawn(self.clone().look(node).instrument(span));
                }
            }
        }
    }

    /// Looks at the power of one node, and says when to look again.
    async fn look(self: Arc<Self>, uuid: Uuid) {
        let looked = tokio::select! {
            looked = self.sync(uuid) => looked,
            () = self.stop.cancelled() => return,
        };
        match looked {
            Ok(next) => self.watch.after(uuid, next),
            Err(Fault::NotFound(_)) => {
                self.watch.watched().remove(&uuid);
                self.watch.failed().remove(&uuid);
            }
            Err(error) => {
                tracing::warn!(%error, "the power state could not be looked at");
                self.watch.after(uuid, self.settings.sync_power_state_interval);
            }
        }
    }

    async fn sync(self: &Arc<Self>, uuid: Uuid) -> Result<Duration, Fault> {
        let interval = self.settings.sync_power_state_interval;
        let node = match self.store.shared_node(uuid).await {
            Ok(node) => node,
            Err(StoreError::NotFound { what, id }) => return Err(Fault::NotFound(format!("{what} {id}"))),
            Err(other) => return Err(other.into()),
        };
        let recovering = node.maintenance && node.fault.as_deref() == Some(POWER_FAILURE);
        let interval = if recovering { self.settings.power_failure_recovery_interval } else { interval };
        let settled = node.reservation.is_none()
            && node.target_power_state.is_none()
            && node.provision_state != State::Enroll
            && (!node.maintenance || recovering)
            && self.store.flow(uuid).await?.is_none();
        if !settled || validate(&node).first_problem(&[Interface::Power]).is_some() {
            return Ok(interval);
        }
        let watch = crate::metrics::Watch::start();
        let read = match self.parts.machines.of(&node).await {
            Ok(machine) => machine.power_state().await,
            Err(error) => Err(error),
        };
        self.metrics.power_read(read.is_ok(), watch.took());
        match read {
            Ok(state) => {
                self.watch.failed().remove(&uuid);
                self.saw(&node, power_name(state)).await?;
            }
            Err(error) if !recovering => self.missed(&node, &chain(&error)).await?,
            Err(_) => {}
        }
        Ok(interval)
    }

    /// The machine has answered.
    async fn saw(self: &Arc<Self>, node: &Node, state: &str) -> Result<(), Fault> {
        let same = node.power_state.as_deref() == Some(state);
        if same && node.fault.as_deref() != Some(POWER_FAILURE) {
            return Ok(());
        }
        let force = self.settings.force_power_state_during_sync && !may_not_switch_off(node);
        let version = node.version;
        self.change(node.uuid, |draft| {
            // Whoever changed the node since knows more than what was read before.
            if draft.node.version != version || draft.flow.is_some() {
                return Ok(());
            }
            if draft.node.fault.as_deref() == Some(POWER_FAILURE) {
                draft.node.fault = None;
                draft.node.maintenance = false;
                draft.node.maintenance_reason = None;
                draft.note("INFO", "power", "the BMC answers again; the node is taken back".to_owned());
                draft.set_power(state);
                return Ok(());
            }
            match draft.node.power_state.clone() {
                Some(wanted) if force && wanted != state => {
                    let text = format!("the machine is in \"{state}\" and is switched back to \"{wanted}\"");
                    draft.note("INFO", "power", text);
                    let action = if wanted == POWER_ON { Action::PowerOn } else { Action::PowerOff };
                    draft.node.target_power_state = Some(wanted);
                    draft.begin(FlowKind::Power, vec![action]);
                }
                _ => draft.set_power(state),
            }
            Ok(())
        })
        .await?;
        self.wake(node.uuid);
        Ok(())
    }

    /// The machine has not answered.
    async fn missed(&self, node: &Node, reason: &str) -> Result<(), Fault> {
        let times = {
            let mut failed = self.watch.failed();
            let times = failed.entry(node.uuid).or_default();
            *times += 1;
            *times
        };
        tracing::warn!(reason, times, "the power state cannot be read");
        if times <= self.settings.power_state_sync_max_retries {
            return Ok(());
        }
        let text = format!(
            "During sync_power_state, max retries exceeded for node {}: its power state could not be read {times} \
             times: {reason}",
            node.uuid
        );
        self.change(node.uuid, |draft| {
            if draft.flow.is_none() && !draft.node.maintenance {
                draft.note("ERROR", "power", text.clone());
                draft.node.last_error = Some(text.clone());
                draft.node.power_state = None;
                draft.set_aside(POWER_FAILURE, &text);
            }
            Ok(())
        })
        .await?;
        self.watch.failed().remove(&node.uuid);
        Ok(())
    }
}

/// `disable_power_off`: the machine must stay on.
fn may_not_switch_off(node: &Node) -> bool {
    node.attributes.get("disable_power_off").and_then(serde_json::Value::as_bool) == Some(true)
}

fn apply_power(draft: &mut Draft, target: PowerTarget, within: u64) -> Result<(), Fault> {
    let node = &draft.node;
    if matches!(node.provision_state, State::Cleaning | State::CleanWait) {
        return Err(Fault::Invalid(format!(
            "The requested action \"power\" can not be performed on node \"{}\" while it is in state \"{}\".",
            node.uuid, node.provision_state
        )));
    }
    let busy = draft.flow.as_ref().is_some_and(|flow| flow.kind != FlowKind::Cleanup);
    if node.reservation.is_some() || busy {
        return Err(locked(node, draft.flow.as_ref()));
    }
    require(node, &[Interface::Power])?;
    if may_not_switch_off(node) && matches!(target, PowerTarget::Off | PowerTarget::SoftOff) {
        return Err(Fault::Invalid(format!("Node {} must not be switched off: disable_power_off is set.", node.uuid)));
    }
    let (name, plan) = match target {
        PowerTarget::On => (POWER_ON, vec![Action::PowerOn]),
        PowerTarget::Off => (POWER_OFF, vec![Action::PowerOff]),
        PowerTarget::Reboot => (POWER_ON, vec![Action::PowerOff, Action::PowerOn]),
        PowerTarget::SoftOff => (POWER_OFF, vec![Action::ShutDown { within }]),
        PowerTarget::SoftReboot => (POWER_ON, vec![Action::ShutDown { within }, Action::PowerOn]),
    };
    draft.node.target_power_state = Some(name.to_owned());
    draft.node.last_error = None;
    draft.begin(FlowKind::Power, plan);
    Ok(())
}
