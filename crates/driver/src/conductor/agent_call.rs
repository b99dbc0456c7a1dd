//! Commands to agents.
//!
//! A command that takes long is sent once. Its intent is saved before it is sent and the agent's id of it after; when
//! the driver died in between, the next turn finds the command in the agent's list and adopts it. Its end is seen by
//! asking the agent each second while it runs, or at once when the agent calls.

use super::Conductor;
use super::change::{Draft, Failure};
use super::erasures::Erased;
use super::heartbeat::is_session;
use super::offered;
use super::runner::{Outcome, Place, Trouble, Turn, fatal, text_of};
use super::secret::masked;
use super::session::session_of;
use super::verbs::abort_service;
use crate::agents::stream::cut;
use crate::agents::{Agent, AgentAddress, AgentError};
use crate::erasure;
use crate::fault::Fault;
use crate::flow::{Action, Flow, FlowKind, clean, configdrive, deploy, image, own_steps, reboot_after, steps};
use hardware::{Step, StepKind};
use jiff::Timestamp;
use lifecycle::provision::Event;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Node, Page, Port, PortFilter, Store};
use transport::client::chain;
use wire::agent::{CommandRequest, CommandResult, CommandStatus, StepList};
use wire::session::TEXT_LIMIT;

/// How often an agent that does not answer is asked.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(5);
/// What became of a command whose agent is silent while another boot of its machine calls.
const ANEW: &str = "the machine was started anew while the command ran: another boot of it has called, and the agent that \
                    was given the command does not answer any more";
/// How often the managers of an agent may change during one flow.
const MISMATCHES: u32 = 3;

/// A command that is waited for.
pub(super) struct Call {
    request: CommandRequest,
    /// The step, for commands that carry one.
    step: Option<(StepKind, Step)>,
    /// SHA-256 of what must not change between two tries.
    pub(super) digest: String,
}

impl Call {
    /// The name under which the agent lists it.
    fn short_name(&self) -> &str {
        self.request.name.rsplit('.').next().unwrap_or(&self.request.name)
    }

    /// Whether a command in the agent's list is this one, sent before the driver could save that it was.
    fn is(&self, listed: &CommandResult, settled: &[String]) -> bool {
        if listed.command_name != self.short_name() || settled.contains(&listed.id) {
            return false;
        }
        let Some((kind, step)) = &self.step else { return true };
        // Only an ended command tells its step. One that runs or failed can only be ours: nobody else has the token,
        // and the earlier ones of ours are settled.
        let told = listed.command_result.as_ref().and_then(|result| result.get(format!("{}_step", kind.as_str())));
        match told {
            None => true,
            Some(told) => {
                told.get("step").and_then(Value::as_str) == Some(&step.step)
                    && told.get("interface").and_then(Value::as_str) == Some(&step.interface)
            }
        }
    }
}

impl From<AgentError> for Trouble {
    fn from(error: AgentError) -> Self {
        match &error {
            AgentError::Busy(_) | AgentError::Unreachable(_) => Self::Later(chain(&error)),
            AgentError::Refused { .. } | AgentError::Protocol(_) => fatal(chain(&error)),
        }
    }
}

impl<S: Store> Conductor<S> {
    /// A way to the node's agent.
    pub(super) fn reach(&self, node: &Node) -> Result<Arc<dyn Agent>, Trouble> {
        let dialled_in = session_of(node).and_then(|session| self.sessions.agent(node.uuid, session));
        if let Some(agent) = dialled_in {
            return Ok(agent);
        }
        let (Some(url), Some(token)) = (text_of(node, "agent_url"), text_of(node, "agent_secret_token")) else {
            return Err(Trouble::Later("the agent has not called yet".to_owned()));
        };
        if is_session(url) {
            return Err(Trouble::Later("its session is broken; it dials again by itself".to_owned()));
        }
        // REST has no ids of the driver's: what went down the session must not arrive beside what is given here.
        if session_of(node).is_some_and(|session| !self.sessions.withdraw(node.uuid, session)) {
            return Err(Trouble::Later("it has just dialled in again".to_owned()));
        }
        let certificate = text_of(node, "agent_verify_ca").map(str::to_owned);
        let address = AgentAddress { url: url.to_owned(), token: token.to_owned(), certificate };
        Ok(self.parts.agents.reach(&address)?)
    }

    /// The command of an action, if it is one that is waited for.
    pub(super) async fn call_of(
        &self,
        node: &Node,
        flow: &Flow,
        action: &Action,
    ) -> Result<Result<Option<Call>, Trouble>, Fault> {
        let (name, params, step) = match action {
            Action::ExecuteStep { kind, step } => {
                let step = match with_arguments(node, step) {
                    Ok(step) => step,
                    Err(text) => return Ok(Err(fatal(text))),
                };
                let mut params = self.about(node).await?;
                params.insert("step".to_owned(), sent_step(&step));
                params.insert(format!("{}_version", kind.as_str()), json!(flow.versions));
                (format!("{0}.execute_{0}_step", kind.as_str()), params, Some((*kind, step)))
            }
            Action::InstallBootloader => {
                let uuid = |key: &str| flow.partitions.get(key).cloned().unwrap_or(Value::Null);
                let uefi = deploy::boots_uefi(node);
                // A whole-disk image brings its own ESP, which the agent finds by itself.
                let made_esp = uefi && image::is_partition(node).unwrap_or_default();
                let params = json!({
                    "root_uuid": uuid("root uuid"),
                    "efi_system_part_uuid": if made_esp { uuid("efi system partition uuid") } else { Value::Null },
                    "prep_boot_part_uuid": null,
                    "target_boot_mode": if uefi { "uefi" } else { "bios" },
                });
                let params = params.as_object().cloned().unwrap_or_default();
                ("image.install_bootloader".to_owned(), params, None)
            }
            _ => return Ok(Ok(None)),
        };
        let essence = match &step {
            Some((_, step)) => sent_step(step),
            None => Value::Object(params.clone()),
        };
        let digest = Sha256::digest(essence.to_string().as_bytes());
        let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Ok(Some(Call { request: CommandRequest { name, params }, step, digest })))
    }

    /// Sends a command, unless the agent has it already.
    pub(super) async fn send(&self, node: &Node, flow: &Flow, call: Call) -> Result<Outcome, Trouble> {
        let agent = self.reach(node)?;
        let listed = agent.commands().await?;
        self.boots.forget(node.uuid);
        let chosen = flow.intent.as_ref().and_then(|intent| intent.id);
        let is_mine = |listed: &&CommandResult| {
            chosen.is_some_and(|id| listed.id == id.to_string()) || call.is(listed, &flow.settled)
        };
        if let Some(mine) = listed.iter().rev().find(is_mine) {
            tracing::info!(command = mine.id, name = mine.command_name, "adopted a command that was sent before");
            return Ok(Outcome { sent: Some(mine.id.clone()), ..Outcome::default() });
        }
        let sent = match chosen {
            Some(id) => agent.execute_as(id, call.request).await?,
            None => agent.execute(call.request, false).await?,
        };
        tracing::info!(command = sent.id, name = sent.command_name, "sent");
        Ok(Outcome { sent: Some(sent.id), ..Outcome::default() })
    }

    /// Looks how a command is that was sent before.
    pub(super) async fn follow(
        self: &Arc<Self>,
        node: &Node,
        flow: &Flow,
        action: &Action,
        command: &str,
    ) -> Result<Turn, Fault> {
        let left = |pause: Duration| Turn::Wait(Some(self.left(node).map_or(pause, |left| left.min(pause))));
        let listed = match self.reach(node) {
            Ok(agent) => agent.commands().await,
            Err(trouble) => {
                tracing::debug!(?trouble, "the agent cannot be asked");
                if let Trouble::Later(reason) = &trouble {
                    self.progress_stalls(node, reason);
                }
                if self.boots.is_anew(node.uuid, self.parts.clock.now()) {
                    return self.lost(node, flow, action, ANEW).await;
                }
                return Ok(left(UNREACHABLE_PAUSE));
            }
        };
        let listed = match listed {
            Ok(listed) => listed,
            Err(error @ (AgentError::Busy(_) | AgentError::Unreachable(_))) => {
                tracing::debug!(error = %chain(&error), "the agent cannot be asked");
                self.progress_stalls(node, &chain(&error));
                let is_silent = matches!(error, AgentError::Unreachable(_));
                if is_silent && self.boots.is_anew(node.uuid, self.parts.clock.now()) {
                    return self.lost(node, flow, action, ANEW).await;
                }
                return Ok(left(UNREACHABLE_PAUSE));
            }
            Err(error @ (AgentError::Refused { .. } | AgentError::Protocol(_))) => {
                return self.trouble(node, flow, action, fatal(chain(&error))).await;
            }
        };
        self.boots.forget(node.uuid);
        let Some(result) = listed.into_iter().find(|listed| listed.id == command) else {
            let text = "the agent does not know the command any more: it was started anew while the command ran";
            return self.lost(node, flow, action, text).await;
        };
        match &result.command_status {
            CommandStatus::Running => {
                if let Some(progress) = result.progress {
                    self.told_progress(node, &action.describe(), command, progress);
                }
                let may_stop = |step: &Step| erasure::is_expected_of(step) && step.abortable == Some(true);
                if flow.abort_after && !flow.told_to_stop && action.step().is_some_and(may_stop) {
                    self.stop_erase(node, flow, command).await?;
                }
                Ok(left(self.settings.poll_interval))
            }
            CommandStatus::Succeeded => {
                let erased = self.erased(node, action, &result).await?;
                if flow.abort_after {
                    self.abort_now(node, flow, action, &erased).await?;
                    return Ok(Turn::Again);
                }
                if let Some(text) = erased.objection() {
                    let trouble = Trouble::Final { text, on_agent: true };
                    return self.trouble_with(node, flow, action, trouble, &erased).await;
                }
                let more = match action {
                    Action::ExecuteStep { step, .. } => reboot_after(node, step),
                    _ => Vec::new(),
                };
                let outcome = Outcome { settled: vec![result.id], more, erased, ..Outcome::default() };
                self.settle(node.uuid, Place::of(flow), action, &outcome).await?;
                Ok(Turn::Again)
            }
            CommandStatus::VersionMismatch => self.mismatch(node, flow, action, &result.id).await,
            CommandStatus::Failed if flow.abort_after && was_stopped(&result) => {
                self.abort_now(node, flow, action, &self.erased(node, action, &result).await?).await?;
                Ok(Turn::Again)
            }
            CommandStatus::Failed | CommandStatus::Other(_) => {
                let mut text = match &result.command_error {
                    Some(error) if !error.details.is_empty() => error.details.clone(),
                    Some(error) => error.message.clone(),
                    None => format!("the agent ended it as {}", String::from(result.command_status.clone())),
                };
                // It is told in several places, each of which would keep all that an agent says.
                cut(&mut text, TEXT_LIMIT);
                let trouble = Trouble::Final { text, on_agent: true };
                self.trouble_with(node, flow, action, trouble, &self.erased(node, action, &result).await?).await
            }
        }
    }

    /// The command was lost with the boot of its agent.
    async fn lost(&self, node: &Node, flow: &Flow, action: &Action, text: &str) -> Result<Turn, Fault> {
        self.boots.forget(node.uuid);
        if self.erases_again(node, flow, text).await? {
            return Ok(Turn::Again);
        }
        self.trouble(node, flow, action, fatal(text)).await
    }

    /// See [`Draft::erases_again`].
    async fn erases_again(&self, node: &Node, flow: &Flow, why: &str) -> Result<bool, Fault> {
        let place = Place::of(flow);
        let why = format!("Node {}: {why}.", node.uuid);
        let again = |draft: &mut Draft| Ok(place.is_in(draft) && draft.erases_again(&why)?);
        let (_, _, again) = self.change(node.uuid, again).await?;
        Ok(again)
    }

    /// The agent's managers are not those whose steps were asked for: ask again. Automated cleaning begins anew with the
    /// new steps; all else repeats the step that was refused, for a step that was not carried out must not be passed
    /// over.
    async fn mismatch(&self, node: &Node, flow: &Flow, action: &Action, command: &str) -> Result<Turn, Fault> {
        if flow.mismatches >= MISMATCHES {
            let text = "the versions of the agent's hardware managers keep changing".to_owned();
            return self.trouble(node, flow, action, Trouble::Final { text, on_agent: true }).await;
        }
        let place = Place::of(flow);
        self.change(node.uuid, |draft| {
            if !place.is_in(draft) {
                return Ok(());
            }
            let Some(flow) = draft.flow.as_mut() else { return Ok(()) };
            flow.mismatches += 1;
            flow.intent = None;
            flow.settled.push(command.to_owned());
            let kind = flow.kind;
            match action {
                Action::ExecuteStep { kind: StepKind::Clean, .. } if flow.chosen.is_none() => {
                    let is_start = |action: &Action| matches!(action, Action::GetSteps { .. });
                    let start = flow.actions.iter().position(is_start).unwrap_or(flow.cursor);
                    let cursor = std::mem::replace(&mut flow.cursor, start);
                    // What was done since, and the steps that were still to come, come anew.
                    let mut places = 0..;
                    flow.actions.retain(|action| {
                        let place = places.next().unwrap_or_default();
                        place <= start || (place > cursor && action.step().is_none())
                    });
                }
                Action::ExecuteStep { kind, .. } => {
                    flow.actions.insert(flow.cursor, Action::GetSteps { kind: *kind, insert: false });
                }
                _ => {}
            }
            draft.enter(kind, true)
        })
        .await?;
        Ok(Turn::Again)
    }

    /// Has the agent stop an erase at its next safe point: its end is waited for, since a drive that loses power in the middle
    /// may stay locked. An agent that cannot stop its commands goes on to their end.
    async fn stop_erase(&self, node: &Node, flow: &Flow, command: &str) -> Result<(), Fault> {
        let told = match self.reach(node) {
            Ok(agent) => agent.cancel(command).await,
            Err(Trouble::Later(reason) | Trouble::Bmc(reason) | Trouble::Final { text: reason, .. }) => {
                Err(AgentError::Unreachable(reason))
            }
        };
        let (severity, text) = match told {
            Ok(()) => ("INFO", "the agent was told to stop the erase; its end is waited for".to_owned()),
            Err(error @ (AgentError::Busy(_) | AgentError::Unreachable(_))) => {
                tracing::debug!(error = %chain(&error), "the agent is told to stop at the next turn");
                return Ok(());
            }
            Err(error @ (AgentError::Refused { .. } | AgentError::Protocol(_))) => {
                ("WARNING", format!("the erase cannot be stopped, and its end is waited for: {}", chain(&error)))
            }
        };
        let place = Place::of(flow);
        self.change(node.uuid, |draft| {
            if !place.is_in(draft) {
                return Ok(());
            }
            if let Some(flow) = draft.flow.as_mut() {
                flow.told_to_stop = true;
            }
            draft.note(severity, "abort", text.clone());
            Ok(())
        })
        .await?;
        Ok(())
    }

    pub(super) async fn abort_now(
        &self,
        node: &Node,
        flow: &Flow,
        action: &Action,
        erased: &Erased,
    ) -> Result<(), Fault> {
        let place = Place::of(flow);
        let when = match action.step() {
            Some(step) if erasure::is_expected_of(step) => "after its erase had ended",
            _ => "after the step that could not be",
        };
        let text = format!("{} was aborted by request, {when}.", flow.kind.as_str());
        self.change(node.uuid, |draft: &mut Draft| {
            if !place.is_in(draft) {
                return Ok(());
            }
            erased.put(draft);
            if flow.kind == FlowKind::Service {
                return abort_service(draft);
            }
            // Only what waits is aborted.
            draft.enter(flow.kind, false)?;
            draft.fail(&Failure { text: text.clone(), event: Event::Abort, power_off: true })
        })
        .await?;
        Ok(())
    }

    pub(super) async fn get_steps(
        &self,
        node: &Node,
        flow: &Flow,
        kind: StepKind,
        insert: bool,
    ) -> Result<Outcome, Trouble> {
        let agent = self.reach(node)?;
        // Whatever is listed before the first step of ours is not ours.
        let settled = agent.commands().await?.into_iter().map(|command| command.id).collect();
        let name = format!("{0}.get_{0}_steps", kind.as_str());
        let params = self.about(node).await.map_err(|error| fatal(error.to_string()))?;
        let result = ended(agent.execute(CommandRequest { name, params }, true).await?)?;
        let list = StepList::from_value(kind, &result)
            .map_err(|text| fatal(format!("the agent's list of steps is not understood: {text}")))?;
        let mut offered: Vec<Step> = list.steps.into_values().flatten().collect();
        if kind == StepKind::Clean {
            // As in Ironic: what an agent offers for cleaning it does itself, whatever it says.
            offered.iter_mut().for_each(|step| step.requires_ramdisk = Some(true));
        }
        let told = told(kind, &offered, &list.hardware_manager_version, self.parts.clock.now());
        // What the driver does at the BMC it does itself, whatever the agent offers.
        let own = own_steps::offered(node, kind);
        offered.retain(|step| !own.iter().any(|own| own.same_as(step)));
        offered.extend(own);
        let rest = flow.actions.get(flow.cursor + 1..).unwrap_or_default().to_vec();
        let chosen = match &flow.chosen {
            Some(chosen) if insert => {
                let complete = steps::complete(kind, chosen, &offered);
                Some(complete.map_err(|errors| fatal(format!("nothing was begun: {errors}")))?)
            }
            _ => None,
        };
        let rest = match (kind, chosen) {
            _ if !insert => rest,
            (StepKind::Deploy, chosen) => deploy::with_steps(node, rest, offered, chosen.unwrap_or_default()),
            (StepKind::Clean, None) => {
                let mut plan = clean::automated_steps(node, offered, &self.settings.clean_step_priorities);
                plan.extend(rest);
                plan
            }
            (StepKind::Clean | StepKind::Service, chosen) => {
                let mut plan = steps::actions(node, kind, &chosen.unwrap_or_default(), true);
                plan.extend(rest);
                plan
            }
        };
        let versions = Some(list.hardware_manager_version);
        Ok(Outcome { settled, versions, offered: told, rest: Some(rest), ..Outcome::default() })
    }

    pub(super) async fn get_partition_uuids(&self, node: &Node) -> Result<Outcome, Trouble> {
        let request = CommandRequest { name: "standby.get_partition_uuids".to_owned(), params: Map::new() };
        let partitions = ended(self.reach(node)?.execute(request, true).await?)?;
        Ok(Outcome { partitions: Some(partitions), ..Outcome::default() })
    }

    /// `node` and `ports` as agents get them: without the secrets of BMC and tenant.
    async fn about(&self, node: &Node) -> Result<Map<String, Value>, Fault> {
        let filter = PortFilter { node: Some(node.uuid), ..PortFilter::default() };
        let ports = self.store.ports(&filter, &Page::default()).await?;
        let mut params = Map::new();
        params.insert("node".to_owned(), node_document(node));
        let ports: Vec<&Port> = ports.iter().map(AsRef::as_ref).collect();
        params.insert("ports".to_owned(), json!(ports));
        Ok(params)
    }
}

/// Whether a command ended because it was told to stop, and for no other reason.
fn was_stopped(result: &CommandResult) -> bool {
    result.command_error.as_ref().is_some_and(|error| error.class == "CommandCancelled")
}

/// What is shown of an agent's steps, under Ironic's names: the steps by interface, when they were asked for, and the
/// versions of the managers that they come from.
fn told(kind: StepKind, offered: &[Step], versions: &BTreeMap<String, String>, now: Timestamp) -> Map<String, Value> {
    let mut by_interface: BTreeMap<&str, Vec<&Step>> = BTreeMap::new();
    for step in offered {
        by_interface.entry(&step.interface).or_default().push(step);
    }
    let key = offered::key(kind);
    let refreshed = now.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    let mut told = Map::new();
    told.insert(format!("{key}_refreshed"), Value::from(refreshed));
    told.insert(key, offered::kept(&by_interface));
    told.insert("hardware_manager_version".to_owned(), json!(versions));
    told
}

/// The value of a command that was waited for by the agent itself.
fn ended(result: CommandResult) -> Result<Value, Trouble> {
    match result.command_status {
        CommandStatus::Succeeded => Ok(result.command_result.unwrap_or(Value::Null)),
        CommandStatus::Running => Err(Trouble::Later(format!("{} takes long", result.command_name))),
        CommandStatus::Failed | CommandStatus::VersionMismatch | CommandStatus::Other(_) => {
            let text = result.command_error.map_or_else(String::new, |error| error.details);
            Err(Trouble::Final { text: format!("{} failed: {text}", result.command_name), on_agent: true })
        }
    }
}

/// The step with the arguments that are made from the node.
fn with_arguments(node: &Node, step: &Step) -> Result<Step, String> {
    let mut step = step.clone();
    if step.interface == "deploy" && step.step == "write_image" && !step.args.contains_key("image_info") {
        let drive = configdrive::for_agent(node).map_err(|error| chain(&error))?;
        step.args = image::write_image_arguments(node, drive).map_err(|error| chain(&error))?;
    }
    Ok(step)
}

/// The step as it is sent. The image step carries no priority, as Ironic's does not.
fn sent_step(step: &Step) -> Value {
    let mut value = serde_json::to_value(step).unwrap_or(Value::Null);
    if let Some(map) = value.as_object_mut().filter(|_| step.step == "write_image") {
        map.remove("priority");
    }
    value
}

/// How an agent erases, unless the node says otherwise; the names are Ironic's.
fn erase_settings() -> Value {
    json!({
        "agent_erase_devices_iterations": 1,
        "agent_erase_devices_zeroize": true,
        "agent_continue_if_secure_erase_failed": false,
        "agent_continue_if_ata_erase_failed": false,
        "agent_enable_ata_secure_erase": true,
        "agent_enable_nvme_secure_erase": true,
        "agent_erase_skip_read_only": false,
        "disk_erasure_concurrency": 4,
    })
}

fn node_document(node: &Node) -> Value {
    let mut value = serde_json::to_value(node).unwrap_or(Value::Null);
    let Some(map) = value.as_object_mut() else { return value };
    map.remove("interfaces");
    for (kind, implementation) in &node.interfaces {
        map.insert(format!("{kind}_interface"), json!(implementation));
    }
    let mut internal = masked(&node.driver_internal_info);
    internal.remove("agent_verify_ca");
    internal.remove(super::change::BOOT_MEDIA);
    if let Value::Object(settings) = erase_settings() {
        for (key, value) in settings {
            internal.entry(key).or_insert(value);
        }
    }
    map.insert("driver_info".to_owned(), Value::Object(masked(&node.driver_info)));
    map.insert("driver_internal_info".to_owned(), Value::Object(internal));
    map.insert("instance_info".to_owned(), Value::Object(masked(&node.instance_info)));
    value
}
