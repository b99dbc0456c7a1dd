//! Load → change → commit. A change is a function of the node and its flow; when somebody else commits in between, it
//! is applied again to what they left.

use super::Conductor;
use super::offered;
use super::progress::{STEP_ENDED, Shown, step_end};
use super::session::SESSION;
use crate::fault::Fault;
use crate::flow::{Action, Flow, FlowKind, plan_cleanup};
use hardware::StepKind;
use jiff::Timestamp;
use lifecycle::provision::{Event, Kind, State, step, target_after};
use serde_json::{Map, Value};
use std::sync::Arc;
use store::{
    Commit, Durability, FlowChange, FlowRecord, Inventory, JournalEntry, Node, RecordChange, Store, StoreError,
};
use uuid::Uuid;

/// How often a change is applied anew before the caller is told to try later.
const TRIES: u32 = 32;

/// What is in `driver_internal_info` only as long as an agent runs.
const OF_THE_AGENT: [&str; 8] = [
    SESSION,
    "agent_secret_token",
    "agent_secret_token_pregenerated",
    "agent_url",
    "agent_version",
    "agent_verify_ca",
    "agent_status",
    "agent_status_message",
];

/// Key of the virtual CD's place in `driver_internal_info`; a secret, since the CD holds the agent's token.
pub(super) const BOOT_MEDIA: &str = "boot_media_secret";

/// Key of the hash of a rescue password in `instance_info`, as in Ironic; there until the rescue is over. The password
/// itself is not kept.
pub(super) const RESCUE_HASH: &str = "hashed_rescue_password";

/// Key of the public keys that a request for a rescue brought, in `driver_internal_info`; there until the rescue is over.
pub(super) const RESCUE_KEYS: &str = "rescue_authorized_keys";

/// Why a flow ended badly.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// For `last_error`.
    pub(super) text: String,
    /// What happens to the node: `fail`, `abort` or `break out`.
    pub(super) event: Event,
    /// Whether the machine is switched off, unless its firmware may be being updated.
    pub(super) power_off: bool,
}

/// A node with its flow while it is being changed.
pub(super) struct Draft {
    pub(super) node: Node,
    pub(super) flow: Option<Flow>,
    pub(super) inventory: Option<Inventory>,
    /// Records that change with the node.
    pub(super) records: Vec<RecordChange>,
    pub(super) now: Timestamp,
    /// When the change has to be on the disk; [`None`] when there is nothing to save.
    pub(super) durability: Option<Durability>,
    host: String,
    journal: Vec<JournalEntry>,
    /// The states that it has left.
    left: Vec<State>,
    failed: bool,
    /// Whether the agent is gone, and with it what it logged.
    agent_gone: bool,
}

impl Draft {
    /// Adds to the history.
    pub(super) fn note(&mut self, severity: &str, event_type: &str, event: String) {
        self.journal.push(JournalEntry {
            uuid: Uuid::new_v4(),
            created_at: self.now,
            severity: severity.to_owned(),
            event_type: event_type.to_owned(),
            event,
            conductor: self.host.clone(),
        });
    }

    /// Takes the node to the next state.
    ///
    /// # Errors
    /// [`Fault::Internal`]: a flow asked for what the table does not have.
    pub(super) fn transition(&mut self, event: Event) -> Result<(), Fault> {
        let row = step(self.node.provision_state, event)
            .map_err(|refused| Fault::Internal(format!("node {}: {refused}", self.node.uuid)))?;
        // Manual cleaning has a target of its own, which it keeps on its way through the states of cleaning.
        let cleans = matches!(row.state, State::Cleaning | State::CleanWait | State::CleanHold);
        let keeps_target = cleans || row.next.kind() == Kind::Failed;
        let explicit = if keeps_target { self.node.target_provision_state } else { None };
        self.note("INFO", "transition", format!("{} -> {} ({event})", row.state, row.next));
        self.left.push(row.state);
        self.node.provision_state = row.next;
        self.node.target_provision_state = target_after(row, explicit);
        self.node.provision_updated_at = Some(self.now);
        Ok(())
    }

    /// Begins a flow; a cleanup that still runs is dropped, the new flow tidies up by itself.
    pub(super) fn begin(&mut self, kind: FlowKind, actions: Vec<Action>) {
        self.flow = Some(Flow::new(Uuid::new_v4(), kind, actions, self.now));
    }

    /// Records the power state; a change is worth a line in the history.
    pub(super) fn set_power(&mut self, state: &str) {
        let before = self.node.power_state.replace(state.to_owned());
        if before.as_deref() != Some(state) {
            let before = before.as_deref().unwrap_or("unknown");
            self.note("INFO", "power", format!("{before} -> {state}"));
        }
    }

    /// Shows the step that runs, without its arguments.
    pub(super) fn show_step(&mut self, action: &Action) {
        let kind = match action {
            Action::ExecuteStep { kind, .. } => Some(*kind),
            _ => self.flow.as_ref().and_then(|flow| flow.kind.steps()),
        };
        let (Some(kind), Some(step)) = (kind, action.step()) else { return };
        let shown = serde_json::to_value(step).unwrap_or(Value::Null);
        match kind {
            StepKind::Clean => self.node.clean_step = shown,
            StepKind::Deploy => self.node.deploy_step = shown,
            StepKind::Service => self.node.service_step = shown,
        }
    }

    /// Forgets what an agent said: it is gone, or shall not be listened to any more.
    pub(super) fn forget_agent(&mut self) {
        self.agent_gone = true;
        for key in OF_THE_AGENT.into_iter().chain(offered::KEYS) {
            self.node.driver_internal_info.remove(key);
        }
    }

    /// Takes the node to `state`'s working or waiting form, where the flow has those.
    pub(super) fn enter(&mut self, kind: FlowKind, working: bool) -> Result<(), Fault> {
        match kind.states() {
            Some((work, Some(wait))) if working && self.node.provision_state == wait => {
                debug_assert_ne!(work, wait);
                self.transition(Event::Resume)
            }
            Some((work, Some(_))) if !working && self.node.provision_state == work => self.transition(Event::Wait),
            _ => Ok(()),
        }
    }

    /// Ends the flow badly: the node goes where the table says, the agent is not listened to any more, and a cleanup
    /// takes the place of the flow.
    pub(super) fn fail(&mut self, failure: &Failure) -> Result<(), Fault> {
        self.failed = true;
        let kind = self.flow.as_ref().map(|flow| flow.kind);
        let step_ran = self.flow.as_ref().is_some_and(|flow| match flow.current() {
            Some(Action::ExecuteStep { .. }) => flow.intent.as_ref().is_some_and(|intent| intent.command.is_some()),
            Some(action) => action.polls() || *action == Action::EndOwnSteps,
            None => false,
        });
        // Under an update power must not be cut, whatever else has failed or was not heard of in time.
        let power_off = failure.power_off && self.flow.as_ref().is_none_or(|flow| flow.updating().is_none());
        let was = self.node.provision_state;
        if kind.is_none_or(|kind| kind.states().is_some()) {
            self.transition(failure.event)?;
        }
        self.note("ERROR", was.as_str(), failure.text.clone());
        self.node.last_error = Some(failure.text.clone());
        let fault = match self.node.provision_state {
            State::CleanFailed => Some("clean failure"),
            // Ironic leaves a service that failed in the ramdisk without a fault; nothing tells it from a refused one.
            State::ServiceFailed => Some("service failure"),
            _ => None,
        };
        if let Some(fault) = fault.filter(|_| step_ran) {
            self.set_aside(fault, &failure.text);
        }
        if was == State::Adopting {
            // What was read of a machine that could not be adopted is not to be relied on.
            self.node.power_state = None;
        }
        self.end(false);
        let plan = match kind {
            Some(FlowKind::Inspect | FlowKind::Clean | FlowKind::Deploy | FlowKind::Rescue | FlowKind::Service) => {
                plan_cleanup(&self.node, power_off)
            }
            Some(
                FlowKind::Verify
                | FlowKind::Undeploy
                | FlowKind::Adopt
                | FlowKind::Unrescue
                | FlowKind::Power
                | FlowKind::Cleanup,
            )
            | None => Vec::new(),
        };
        if !plan.is_empty() {
            self.begin(FlowKind::Cleanup, plan);
        }
        Ok(())
    }

    /// Sets the node aside for a failure that somebody has to look at.
    pub(super) fn set_aside(&mut self, fault: &str, reason: &str) {
        self.node.maintenance = true;
        self.node.fault = Some(fault.to_owned());
        self.node.maintenance_reason.get_or_insert_with(|| reason.to_owned());
    }

    /// The flow is over. `keep_agent`: its ramdisk stays for the next flow.
    pub(super) fn end(&mut self, keep_agent: bool) {
        if !keep_agent {
            self.forget_agent();
        }
        for key in offered::KEYS {
            self.node.driver_internal_info.remove(key);
        }
        if self.flow.take().is_some_and(|flow| flow.kind == FlowKind::Rescue) {
            self.forget_rescue();
        }
        self.node.clean_step = Value::Object(Map::new());
        self.node.deploy_step = Value::Object(Map::new());
        self.node.service_step = Value::Object(Map::new());
        self.node.target_power_state = None;
    }

    /// Forgets who may log in to a rescue.
    pub(super) fn forget_rescue(&mut self) {
        self.node.instance_info.remove(RESCUE_HASH);
        self.node.driver_internal_info.remove(RESCUE_KEYS);
    }

    /// Ends a flow that cannot be read, from whatever state the node is in.
    fn fail_unread(&mut self, reason: &str) {
        let text = format!(
            "What was being done to node {} is saved in a form that this ferricd does not read, and was given up: {reason} \
             The machine was left as it is. Start the verb again.",
            self.node.uuid
        );
        // A node in a stable state (its power was being changed) stays there.
        let _ = self.transition(Event::Fail).or_else(|_| self.transition(Event::Abort));
        self.note("ERROR", self.node.provision_state.as_str(), text.clone());
        self.node.last_error = Some(text);
        self.end(false);
    }

    fn into_commit(mut self, before: Option<&Flow>) -> Result<Commit, Fault> {
        let operator = self.flow.as_ref().is_some_and(|flow| flow.kind == FlowKind::Power);
        let state = self.node.provision_state.kind();
        let works = state == Kind::Working || self.node.target_power_state.is_some() || operator;
        self.node.reservation = (works && self.flow.is_some()).then(|| self.host.clone());
        self.node.updated_at = Some(self.now);
        let flow = match (&self.flow, before) {
            (None, None) => FlowChange::Keep,
            (None, Some(_)) => FlowChange::Clear,
            (Some(flow), before) if Some(flow) == before => FlowChange::Keep,
            (Some(flow), _) => {
                let document = serde_json::to_value(flow).map_err(|error| Fault::Internal(error.to_string()))?;
                FlowChange::Put(FlowRecord { node: self.node.uuid, document })
            }
        };
        Ok(Commit {
            node: self.node,
            flow,
            journal: self.journal,
            inventory: self.inventory,
            records: self.records,
            durability: self.durability.unwrap_or_default(),
        })
    }
}

/// A flow as it was saved.
///
/// # Errors
/// [`Fault::Internal`]: another version of this program saved it in a form that is not known here.
pub(super) fn read(record: FlowRecord) -> Result<Flow, Fault> {
    let uuid = record.node;
    serde_json::from_value(record.document).map_err(|error| {
        tracing::error!(node = %uuid, %error, "the saved flow is not understood");
        Fault::Internal(format!("The saved flow of node {uuid} is not understood: {error}."))
    })
}

/// The answer to a request for a node that is being worked on: who holds it, for what and since when.
pub(super) fn locked(node: &Node, flow: Option<&Flow>) -> Fault {
    let host = node.reservation.as_deref().unwrap_or("this conductor");
    let what = flow.map_or_else(String::new, |flow| {
        let action = flow.current().map_or_else(|| "finish".to_owned(), Action::describe);
        let since = flow.intent.as_ref().map_or(flow.since, |intent| intent.since);
        format!(" It is held for the flow \"{}\", which is to {action} since {since:.0}.", flow.kind.as_str())
    });
    Fault::Conflict(format!(
        "Node {} is locked by host {host}, please retry after the current operation is completed.{what}",
        node.uuid
    ))
}

impl<S: Store> Conductor<S> {
    /// A node with its flow. The node is not copied: a thousand of them wait for their agents at once.
    pub(super) async fn load(&self, uuid: Uuid) -> Result<(Arc<Node>, Option<Flow>), Fault> {
        // The node first: a flow that is newer than its node makes the commit fail, the other order would not.
        let node = self.store.shared_node(uuid).await?;
        let flow = match self.store.flow(uuid).await? {
            None => None,
            Some(record) => Some(read(record)?),
        };
        Ok((node, flow))
    }

    /// Gives up a saved flow that this program cannot read: its node fails with the reason, so that an operator may go
    /// on with it. The machine is left as it is, since what was done to it is not known.
    pub(super) async fn give_up_unread(&self, uuid: Uuid, reason: &str) -> Result<(), Fault> {
        for _ in 0..TRIES {
            let mut draft = self.draft(self.store.node(uuid).await?, None);
            draft.fail_unread(reason);
            let mut commit = draft.into_commit(None)?;
            commit.flow = FlowChange::Clear;
            match self.store.commit(self.epoch, commit).await {
                Err(StoreError::Conflict { .. }) => {}
                Ok(_) => return Ok(()),
                Err(other) => return Err(other.into()),
            }
        }
        tracing::error!(node = %uuid, "the node is changed by many at once; its flow that is not understood stays");
        Ok(())
    }

    fn draft(&self, node: Node, flow: Option<Flow>) -> Draft {
        Draft {
            node,
            flow,
            inventory: None,
            records: Vec::new(),
            now: self.parts.clock.now(),
            durability: Some(Durability::Now),
            host: self.settings.hostname.clone(),
            journal: Vec::new(),
            left: Vec::new(),
            failed: false,
            agent_gone: false,
        }
    }

    /// Changes a node and its flow in one commit.
    ///
    /// # Errors
    /// What `apply` says, or the store.
    pub(super) async fn change<T: Send>(
        &self,
        uuid: Uuid,
        mut apply: impl FnMut(&mut Draft) -> Result<T, Fault> + Send,
    ) -> Result<(Arc<Node>, Option<Flow>, T), Fault> {
        for _ in 0..TRIES {
            let (node, flow) = self.load(uuid).await?;
            let (was, before) = (Shown::of(&node), flow.clone());
            let mut draft = self.draft(Arc::unwrap_or_clone(node), flow);
            let value = apply(&mut draft)?;
            if draft.durability.is_none() {
                return Ok((Arc::new(draft.node), before, value));
            }
            let (after, now) = (draft.flow.clone(), draft.now);
            let (left, failed, gone) = (std::mem::take(&mut draft.left), draft.failed, draft.agent_gone);
            let ended = before.as_ref().and_then(|before| step_end(before, after.as_ref(), failed, now));
            if let Some((severity, text)) = ended {
                draft.note(severity, STEP_ENDED, text);
            }
            let journal = draft.journal.clone();
            match self.store.commit_shared(self.epoch, draft.into_commit(before.as_ref())?).await {
                Ok(node) => {
                    self.tell(&was, &node, &journal);
                    if gone {
                        self.sessions.forget(uuid);
                        self.keep_log(uuid);
                    }
                    self.metrics.changed(uuid, &left, now);
                    self.metrics.flow(before.as_ref(), after.as_ref(), failed, now);
                    return Ok((node, after, value));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(Fault::Conflict(format!("Node {uuid} is changed by many at once; try again in a moment.")))
    }
}
