//! One turn of a flow: the intent is saved, the effect is made, the outcome is saved together with the moved cursor.
//! Whatever happens between two of these, the next turn begins with the same action, and actions are safe to repeat.

use super::agent_call::Call;
use super::change::{BOOT_MEDIA, Draft, Failure};
use super::erasures::Erased;
use super::secret::new_token;
use super::session::SESSION;
use super::settings::Settings;
use super::{Conductor, allocations};
use crate::effect::OutOfBand;
use crate::effect::machines::power_name;
use crate::effect::media::{fresh_firmware_place, fresh_place};
use crate::fault::Fault;
use crate::flow::own_steps::{self, OwnStep};
use crate::flow::{Action, Flow, FlowKind, Intent, Purpose, boot_mode_name, clean};
use hardware::{OutOfBandError, PowerState};
use lifecycle::provision::{Event, State};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Node, Store};
use transport::client::chain;
use uuid::Uuid;

/// Key of the place of an image of firmware that a BMC fetches from here; a secret, like that of the CD.
pub(super) const FIRMWARE_IMAGE: &str = "firmware_image_secret";

/// Key of a CD that an earlier flow left behind.
const STALE_MEDIA: &str = "stale_boot_media_secret";

/// How long one effect may take before it counts as not done. BMC calls have shorter limits of their own; this one is for
/// whatever has none.
const EFFECT: Duration = Duration::from_secs(600);
/// How long an instance may take to shut down for a restart of its machine.
const INSTANCE_STOPS: Duration = Duration::from_secs(120);
/// How often it is looked whether a flow whose effect takes long is still there.
const LOOK: Duration = Duration::from_secs(5);

/// What a worker does after a turn.
pub(super) enum Turn {
    /// The next turn, at once.
    Again,
    /// Waits for a wake-up, at most so long.
    Wait(Option<Duration>),
    /// There is no flow.
    Over,
}

/// What an effect brought.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// The machine's power is known to be so now.
    pub(super) power: Option<PowerState>,
    /// The agent is gone.
    pub(super) agent_gone: bool,
    /// The virtual CD is gone.
    pub(super) media_gone: bool,
    /// A CD that was left behind is gone.
    pub(super) stale_media_gone: bool,
    /// The agent has taken a command; it is not over yet.
    pub(super) sent: Option<String>,
    /// Commands of the agent that are not ours to wait for.
    pub(super) settled: Vec<String>,
    /// Versions of the agent's managers.
    pub(super) versions: Option<BTreeMap<String, String>>,
    /// What is to be told of the steps that the agent offers, for `driver_internal_info`.
    pub(super) offered: Map<String, Value>,
    /// What is left to do, instead of what was planned.
    pub(super) rest: Option<Vec<Action>>,
    /// To be done first.
    pub(super) more: Vec<Action>,
    /// What is looked at after the restart that the steps around share, and for which of them.
    pub(super) held: Option<(OwnStep, Action)>,
    /// What is held so far gets its restart now, before `more`.
    pub(super) restart_first: bool,
    /// UUIDs of what was written.
    pub(super) partitions: Option<Value>,
    /// The image of firmware is gone.
    pub(super) firmware_image_gone: bool,
    /// For the history.
    pub(super) notes: Vec<String>,
    /// What the end of a step says of devices that were erased.
    pub(super) erased: Erased,
    /// Attributes of the node that the BMC told.
    pub(super) told: Vec<(&'static str, Value)>,
}

/// Why an effect was not made.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The agent cannot take it now: tried again when it calls, or in a while.
    Later(String),
    /// The BMC did not answer: tried again a few times.
    Bmc(String),
    /// It cannot be done. `on_agent`: the agent says so, and the machine is left as it is for somebody to look at.
    Final {
        /// Why.
        text: String,
        /// Who says so.
        on_agent: bool,
    },
}

impl From<OutOfBandError> for Trouble {
    fn from(error: OutOfBandError) -> Self {
        match &error {
            OutOfBandError::Unreachable(_) | OutOfBandError::Failed(_) | OutOfBandError::Refused(_) => {
                Self::Bmc(chain(&error))
            }
            OutOfBandError::Settings(_) | OutOfBandError::Denied(_) | OutOfBandError::Unsupported(_) => {
                Self::Final { text: chain(&error), on_agent: false }
            }
        }
    }
}

pub(super) fn fatal(text: impl Into<String>) -> Trouble {
    Trouble::Final { text: text.into(), on_agent: false }
}

/// A place in a flow: an outcome that belongs to another is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    flow: Uuid,
    cursor: usize,
}

impl Place {
    pub(super) fn of(flow: &Flow) -> Self {
        Self { flow: flow.id, cursor: flow.cursor }
    }

    pub(super) fn is_in(self, draft: &Draft) -> bool {
        draft.flow.as_ref().is_some_and(|flow| flow.id == self.flow && flow.cursor == self.cursor)
    }
}

impl<S: Store> Conductor<S> {
    /// Makes one turn of the node's flow.
    pub(super) async fn turn(self: &Arc<Self>, uuid: Uuid) -> Result<Turn, Fault> {
        let (node, flow) = self.load(uuid).await?;
        let Some(flow) = flow else {
            self.clear_progress(uuid);
            return Ok(Turn::Over);
        };
        if self.expire(&node, &flow).await? {
            return Ok(Turn::Again);
        }
        let place = Place::of(&flow);
        let Some(action) = flow.current().cloned() else {
            self.change(uuid, |draft| {
                if place.is_in(draft) {
                    draft.flow = None;
                    draft.node.target_power_state = None;
                }
                Ok(())
            })
            .await?;
            return Ok(Turn::Again);
        };
        if action.only_waits() {
            return self.wait(&node, place, &action).await;
        }
        if action.polls() {
            return self.poll(&node, &flow, &action).await;
        }
        if let Some(command) = flow.intent.as_ref().and_then(|intent| intent.command.clone()) {
            return self.follow(&node, &flow, &action, &command).await;
        }
        self.act(&node, &flow, &action).await
    }

    async fn act(self: &Arc<Self>, node: &Node, flow: &Flow, action: &Action) -> Result<Turn, Fault> {
        let place = Place::of(flow);
        let call = match self.call_of(node, flow, action).await? {
            Ok(call) => call,
            Err(trouble) => return self.trouble(node, flow, action, trouble).await,
        };
        let digest = call.as_ref().map(|call| call.digest.clone()).unwrap_or_default();
        let begin = |draft: &mut Draft| begin(draft, place, action, &digest);
        let (node, flow, begun) = self.change(node.uuid, begin).await?;
        let Some(flow) = flow.filter(|_| begun != Begun::Elsewhere) else { return Ok(Turn::Again) };
        if begun == Begun::OtherArguments {
            let text = "its arguments have changed since it was begun; whether it was carried out is not known";
            return self.trouble(&node, &flow, action, fatal(text)).await;
        }
        let limit = match action {
            Action::ShutDown { within } => EFFECT.saturating_add(Duration::from_secs(*within)),
            _ => EFFECT,
        };
        let left = self.left(&node).filter(|_| flow.kind.states().is_some());
        let done = tokio::select! {
            done = self.perform(&node, &flow, action, call) => done,
            // What takes longer than the state may last is given up; the next turn says so to the operator.
            () = tokio::time::sleep(left.unwrap_or(limit).min(limit)) => match left {
                Some(left) if left <= limit => return Ok(Turn::Again),
                _ => Err(Trouble::Bmc(format!("it was not done within {} s", limit.as_secs()))),
            },
            // An operator has broken the node out, or another conductor has taken it over: this is nobody's work now.
            () = self.gone_elsewhere(node.uuid, place) => return Ok(Turn::Again),
        };
        match done {
            Ok(_) if flow.abort_after && *action == Action::EndOwnSteps => {
                self.abort_now(&node, &flow, action, &Erased::default()).await?;
                Ok(Turn::Again)
            }
            Ok(outcome) => {
                self.settle(node.uuid, place, action, &outcome).await?;
                Ok(Turn::Again)
            }
            Err(trouble) => self.trouble(&node, &flow, action, trouble).await,
        }
    }

    /// Returns when the flow is not at this place any more.
    async fn gone_elsewhere(&self, uuid: Uuid, place: Place) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.load(uuid).await {
                Ok((_, Some(flow))) if Place::of(&flow) == place => {}
                Ok(_) => return,
                // The next turn meets the same, and says it.
                Err(error) => tracing::warn!(%error, "cannot tell whether the flow goes on"),
            }
        }
    }

    /// Saves an outcome and goes on.
    pub(super) async fn settle(
        &self,
        uuid: Uuid,
        place: Place,
        action: &Action,
        outcome: &Outcome,
    ) -> Result<(), Fault> {
        self.change(uuid, |draft| {
            if !place.is_in(draft) {
                tracing::debug!(action = action.describe(), "the flow went elsewhere; what this brought is dropped");
                return Ok(());
            }
            apply(draft, action, outcome, &self.settings)
        })
        .await?;
        if outcome.sent.is_none() {
            self.clear_progress(uuid);
        }
        Ok(())
    }

    /// What is done when an effect was not made.
    pub(super) async fn trouble(
        &self,
        node: &Node,
        flow: &Flow,
        action: &Action,
        trouble: Trouble,
    ) -> Result<Turn, Fault> {
        self.trouble_with(node, flow, action, trouble, &Erased::default()).await
    }

    /// The same, with what was erased all the same.
    pub(super) async fn trouble_with(
        &self,
        node: &Node,
        flow: &Flow,
        action: &Action,
        trouble: Trouble,
        erased: &Erased,
    ) -> Result<Turn, Fault> {
        let place = Place::of(flow);
        let attempt = flow.intent.as_ref().map_or(1, |intent| intent.attempt);
        let (text, on_agent) = match trouble {
            Trouble::Later(reason) => {
                tracing::info!(action = action.describe(), reason, "tried again when the agent calls");
                let (node, _, ()) = self.change(node.uuid, |draft| again_later(draft, place, action, &reason)).await?;
                let pause = pause(attempt);
                return Ok(Turn::Wait(Some(self.left(&node).map_or(pause, |left| left.min(pause)))));
            }
            Trouble::Bmc(reason) if attempt < self.settings.bmc_attempts && flow.kind != FlowKind::Cleanup => {
                tracing::warn!(action = action.describe(), attempt, reason, "tried again");
                self.change(node.uuid, |draft| {
                    note_trouble(draft, place, &reason);
                    Ok(())
                })
                .await?;
                return Ok(Turn::Wait(Some(pause(attempt))));
            }
            Trouble::Bmc(text) => (text, false),
            Trouble::Final { text, on_agent } => (text, on_agent),
        };
        tracing::warn!(flow = flow.kind.as_str(), action = action.describe(), reason = text, "failed");
        if flow.kind == FlowKind::Cleanup {
            return self.pass_over(node, place, action, &text).await;
        }
        self.collect_logs(node, flow, on_agent).await;
        self.drop_image(node, action).await;
        let failure = failure(node, flow, action, &text, on_agent);
        self.change(node.uuid, |draft| {
            if !place.is_in(draft) {
                return Ok(());
            }
            erased.put(draft);
            // An event of the table: a waiting node fails from its waiting state, a working one from its own.
            draft.fail(&failure)
        })
        .await?;
        self.clear_progress(node.uuid);
        Ok(Turn::Again)
    }

    /// A cleanup goes on when a part of it cannot be done; what is left on the machine is said.
    async fn pass_over(&self, node: &Node, place: Place, action: &Action, text: &str) -> Result<Turn, Fault> {
        let uuid = node.uuid;
        self.change(uuid, |draft| {
            if !place.is_in(draft) {
                return Ok(());
            }
            let text = format!("Cleaning up after a failure: could not {}: {text}", action.describe());
            draft.note("ERROR", "cleanup", text.clone());
            if draft.node.provision_state == State::RescueFailed {
                draft.set_aside("rescue abort failure", &text);
            }
            apply(draft, action, &Outcome::default(), &self.settings)
        })
        .await?;
        Ok(Turn::Again)
    }

    async fn perform(&self, node: &Node, flow: &Flow, action: &Action, call: Option<Call>) -> Result<Outcome, Trouble> {
        if let Some(call) = call {
            return self.send(node, flow, call).await;
        }
        match action {
            Action::ReadPower => {
                let power = self.machine(node).await?.power_state().await?;
                Ok(Outcome { power: Some(power), ..Outcome::default() })
            }
            Action::ReadSettings => Ok(self.read_settings(node).await),
            Action::SetBootMode { mode } => {
                self.machine(node).await?.set_boot_mode(*mode).await?;
                let told = vec![("boot_mode", Value::from(boot_mode_name(*mode)))];
                Ok(Outcome { told, ..Outcome::default() })
            }
            Action::SetSecureBoot { on } => {
                self.machine(node).await?.set_secure_boot(*on).await?;
                Ok(Outcome { told: vec![("secure_boot", Value::from(*on))], ..Outcome::default() })
            }
            Action::PowerOff => {
                self.collect_logs_always(node, flow).await;
                make_power(&*self.machine(node).await?, PowerState::Off).await?;
                Ok(Outcome { power: Some(PowerState::Off), agent_gone: true, ..Outcome::default() })
            }
            Action::PowerOn => {
                make_power(&*self.machine(node).await?, PowerState::On).await?;
                Ok(Outcome { power: Some(PowerState::On), ..Outcome::default() })
            }
            Action::ShutDown { within } => {
                self.machine(node).await?.shut_down(Duration::from_secs(*within)).await?;
                Ok(Outcome { power: Some(PowerState::Off), agent_gone: true, ..Outcome::default() })
            }
            Action::CheckOwnSteps { steps } => self.check_own_steps(node, steps).await,
            Action::StopInstance => {
                let machine = self.machine(node).await?;
                if let Err(error) = machine.shut_down(INSTANCE_STOPS).await {
                    tracing::info!(error = chain(&error), "the instance did not shut down; its power is cut");
                    make_power(&*machine, PowerState::Off).await?;
                }
                Ok(Outcome { power: Some(PowerState::Off), agent_gone: true, ..Outcome::default() })
            }
            Action::StageBios { own } => self.stage_bios(node, flow, own).await,
            Action::PrepareFirmware { work } => self.prepare_update(node, work).await,
            Action::UpdateFirmware { work } => self.start_update(node, flow, work).await,
            Action::RestartForSteps { kind, ramdisk, confirm } => {
                let more = own_steps::restart(node, *kind, *ramdisk, confirm);
                Ok(Outcome { more, ..Outcome::default() })
            }
            Action::EndOwnSteps => {
                let outcome = self.read_settings(node).await;
                if flow.failures.is_empty() { Ok(outcome) } else { Err(fatal(flow.failures.join(" "))) }
            }
            Action::ChildPower { on, only } => {
                let state = if *on { PowerState::On } else { PowerState::Off };
                self.child_power(node, only, state).await
            }
            Action::ReuseAgent => self.reuse_agent(node, flow).await,
            Action::FinalizeRescue => self.finalize_rescue(node, flow).await,
            Action::PrepareMedia { purpose } => self.prepare_media(node, *purpose).await,
            Action::InsertMedia => {
                let place = text_of(node, BOOT_MEDIA).ok_or_else(|| fatal("there is no virtual media to insert"))?;
                self.machine(node).await?.insert(&self.settings.media.url_of(place)).await?;
                Ok(Outcome::default())
            }
            Action::EjectMedia => {
                self.machine(node).await?.eject().await?;
                if let Some(place) = text_of(node, BOOT_MEDIA) {
                    self.settings.media.remove(place).await.map_err(|error| fatal(chain(&error)))?;
                }
                Ok(Outcome { media_gone: true, ..Outcome::default() })
            }
            Action::SetBootDevice { device, persistent } => {
                self.machine(node).await?.set_boot_device((*device).into(), *persistent).await?;
                Ok(Outcome::default())
            }
            Action::GetSteps { kind, insert } => self.get_steps(node, flow, *kind, *insert).await,
            Action::GetPartitionUuids => self.get_partition_uuids(node).await,
            Action::AgentPowerOff => {
                self.collect_logs_always(node, flow).await;
                self.agent_power_off(node).await
            }
            Action::ExecuteStep { .. } | Action::InstallBootloader => Err(fatal("there is nothing to send")),
            Action::ConfirmBios { .. }
            | Action::FollowFirmware { .. }
            | Action::ConfirmFirmware { .. }
            | Action::WaitForAgent
            | Action::WaitForInspection
            | Action::Hold { .. }
            | Action::Pause { .. }
            | Action::ClearInstance
            | Action::StartCleaning
            | Action::Finish { .. } => Ok(Outcome::default()),
        }
    }

    pub(super) async fn machine(&self, node: &Node) -> Result<Arc<dyn OutOfBand>, Trouble> {
        Ok(self.parts.machines.of(node).await?)
    }

    async fn prepare_media(&self, node: &Node, purpose: Purpose) -> Result<Outcome, Trouble> {
        let failed = |error: crate::effect::media::MediaError| fatal(chain(&error));
        if let Some(stale) = text_of(node, STALE_MEDIA) {
            self.settings.media.remove(stale).await.map_err(failed)?;
        }
        let missing = || fatal("no place was chosen for the virtual media");
        let place = text_of(node, BOOT_MEDIA).ok_or_else(missing)?;
        let token = text_of(node, "agent_secret_token").ok_or_else(missing)?;
        self.settings.media.build(node, purpose, token, place).await.map_err(failed)?;
        Ok(Outcome { stale_media_gone: true, ..Outcome::default() })
    }
}

pub(super) async fn make_power(machine: &dyn OutOfBand, state: PowerState) -> Result<(), OutOfBandError> {
    if machine.power_state().await? != state {
        machine.set_power(state).await?;
    }
    Ok(())
}

/// 2, 4, 8, … seconds, at most 30.
fn pause(attempt: u32) -> Duration {
    Duration::from_secs((1_u64 << attempt.clamp(1, 5)).min(30))
}

pub(super) fn text_of<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.driver_internal_info.get(key).and_then(Value::as_str)
}

/// What a failure leaves behind of the steps before it: they are at the BMC, and the restart that they share was not made.
fn staged(flow: &Flow) -> Option<String> {
    let steps: Vec<String> = flow
        .held()
        .iter()
        .filter_map(Action::own_step)
        .map(|own| format!("{}.{}", own.step.interface, own.step.step))
        .collect();
    (!steps.is_empty())
        .then(|| format!("What {} has staged takes effect when the machine starts next", steps.join(" and ")))
}

/// How the failure of an action is told, and what becomes of the machine.
pub(super) fn failure(node: &Node, flow: &Flow, action: &Action, text: &str, on_agent: bool) -> Failure {
    let uuid = node.uuid;
    let mut kind = flow.kind.as_str().to_owned();
    if let Some(first) = kind.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let what = action.describe();
    let text = match action {
        Action::ExecuteStep { .. } => format!("{kind} step {what} failed on node {uuid}. {text}"),
        // What failed is told already.
        Action::EndOwnSteps => text.to_owned(),
        action if let Some(own) = action.own_step() => {
            let text = staged(flow).map_or_else(|| text.to_owned(), |staged| format!("{text}. {staged}"));
            format!("{kind} step {}.{} failed on node {uuid}. {text}", own.step.interface, own.step.step)
        }
        _ => format!("{kind} of node {uuid} failed: could not {what}: {text}"),
    };
    let power_off = match flow.kind {
        FlowKind::Deploy => !on_agent,
        FlowKind::Inspect | FlowKind::Rescue => true,
        _ => false,
    };
    Failure { text, event: Event::Fail, power_off }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    Here,
    Elsewhere,
    OtherArguments,
}

/// Saves that the action is about to be carried out.
fn begin(draft: &mut Draft, place: Place, action: &Action, digest: &str) -> Result<Begun, Fault> {
    if !place.is_in(draft) {
        return Ok(Begun::Elsewhere);
    }
    let now = draft.now;
    let Some(flow) = draft.flow.as_mut() else { return Ok(Begun::Elsewhere) };
    let kind = flow.kind;
    let first = flow.intent.is_none();
    let intent = flow.intent.get_or_insert_with(|| Intent {
        attempt: 0,
        digest: digest.to_owned(),
        id: (!digest.is_empty()).then(Uuid::new_v4),
        command: None,
        since: now,
        trouble: None,
    });
    if intent.digest != digest {
        return Ok(Begun::OtherArguments);
    }
    intent.attempt += 1;
    if !action.needs_agent() {
        draft.enter(kind, true)?;
    }
    if first && action.own_step().is_some() {
        draft.show_step(action);
    }
    if first && matches!(action, Action::PrepareFirmware { .. }) {
        let place = fresh_firmware_place(&draft.node);
        // What an earlier update left behind is written over.
        draft.node.driver_internal_info.entry(FIRMWARE_IMAGE).or_insert(Value::from(place));
    }
    if first && matches!(action, Action::PrepareMedia { .. }) {
        let place = fresh_place(&draft.node);
        let info = &mut draft.node.driver_internal_info;
        if let Some(stale) = info.insert(BOOT_MEDIA.to_owned(), Value::from(place)) {
            info.insert(STALE_MEDIA.to_owned(), stale);
        }
        info.remove(SESSION);
        info.insert("agent_secret_token".to_owned(), Value::from(new_token()));
        info.insert("agent_secret_token_pregenerated".to_owned(), Value::from(true));
    }
    Ok(Begun::Here)
}

/// Applies an outcome and moves the cursor.
fn apply(draft: &mut Draft, action: &Action, outcome: &Outcome, settings: &Settings) -> Result<(), Fault> {
    if let Some(power) = outcome.power {
        draft.set_power(power_name(power));
    }
    if outcome.agent_gone {
        draft.forget_agent();
    }
    for (name, value) in &outcome.offered {
        draft.node.driver_internal_info.insert(name.clone(), value.clone());
    }
    outcome.erased.put(draft);
    for (name, value) in &outcome.told {
        draft.node.attributes.insert((*name).to_owned(), value.clone());
    }
    if outcome.media_gone {
        draft.node.driver_internal_info.remove(BOOT_MEDIA);
    }
    if outcome.firmware_image_gone {
        draft.node.driver_internal_info.remove(FIRMWARE_IMAGE);
    }
    for note in &outcome.notes {
        draft.note("INFO", "firmware", note.clone());
    }
    if action.polls() {
        // The deadline of the state is for what does not get on.
        draft.node.provision_updated_at = Some(draft.now);
    }
    if outcome.stale_media_gone {
        draft.node.driver_internal_info.remove(STALE_MEDIA);
    }
    let Some(flow) = draft.flow.as_mut() else { return Ok(()) };
    let kind = flow.kind;
    flow.settled.extend(outcome.settled.iter().cloned());
    if let Some(command) = &outcome.sent {
        if let Some(intent) = flow.intent.as_mut() {
            intent.command = Some(command.clone());
        }
        draft.show_step(action);
        return draft.enter(kind, false);
    }
    if let Some(versions) = &outcome.versions {
        flow.versions.clone_from(versions);
    }
    if let Some(partitions) = &outcome.partitions {
        flow.partitions = partitions.clone();
    }
    if let Some(rest) = &outcome.rest {
        flow.actions.truncate(flow.cursor + 1);
        flow.actions.extend(rest.iter().cloned());
    }
    match action {
        Action::ClearInstance => {
            allocations::release(&mut draft.node, &mut draft.records);
            draft.node.instance_info = Map::new();
            draft.node.instance_uuid = None;
        }
        Action::StartCleaning => {
            draft.transition(Event::Clean)?;
            let plan = clean::plan(&draft.node, settings.automated_clean, settings.fast(&draft.node, draft.now));
            draft.begin(FlowKind::Clean, plan);
            return Ok(());
        }
        Action::Finish { event } => {
            draft.enter(kind, true)?;
            draft.transition(*event)?;
            if kind == FlowKind::Inspect {
                draft.node.inspection_finished_at = Some(draft.now);
            }
            let stays = matches!(draft.node.provision_state, State::Available | State::Manageable);
            let keep_agent = stays && settings.may_stay(&draft.node);
            draft.end(keep_agent);
            return Ok(());
        }
        _ => {}
    }
    if let Some(flow) = draft.flow.as_mut() {
        flow.advance(if outcome.restart_first { &[] } else { &outcome.more });
        if let Some((own, confirm)) = &outcome.held {
            flow.hold(own, confirm.clone());
        }
        if outcome.restart_first {
            flow.restart_now(&outcome.more);
        }
    }
    if action.needs_agent() {
        draft.enter(kind, true)?;
    }
    Ok(())
}

/// Saves why an effect has to be made again.
pub(super) fn note_trouble(draft: &mut Draft, place: Place, reason: &str) {
    if !place.is_in(draft) {
        return;
    }
    if let Some(intent) = draft.flow.as_mut().and_then(|flow| flow.intent.as_mut()) {
        intent.trouble = Some(reason.to_owned());
    }
}

/// The agent is asked again later; until then the node waits.
fn again_later(draft: &mut Draft, place: Place, action: &Action, reason: &str) -> Result<(), Fault> {
    if !place.is_in(draft) {
        return Ok(());
    }
    note_trouble(draft, place, reason);
    let Some(flow) = draft.flow.as_mut() else { return Ok(()) };
    let kind = flow.kind;
    if *action == Action::FinalizeRescue {
        // To an agent without a session nothing was sent, so that the next try is the first. One with a session knows it by
        // the id of the flow.
        flow.intent = None;
    }
    draft.enter(kind, false)
}
