//! What a flow does with a ramdisk besides its steps: finding one that runs, ending one, rescue, logs.

use super::Conductor;
use super::change::RESCUE_HASH;
use super::runner::{Outcome, Trouble, fatal, make_power};
use super::session::session_of;
use crate::agents::AgentError;
use crate::flow::{Flow, Purpose, boot_ramdisk};
use crate::logs::Line;
use base64::Engine as _;
use hardware::PowerState;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::{Node, Store};
use transport::client::chain;
use uuid::Uuid;
use wire::agent::{CommandRequest, CommandResult, CommandStatus};

/// How often the power state is read while an agent shuts its machine down.
const POWER_POLL: Duration = Duration::from_secs(5);
/// How long an agent may take to hand its logs over.
const LOGS: Duration = Duration::from_secs(60);

/// When the logs of a ramdisk are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepLogs {
    /// After every flow that ran steps.
    Always,
    /// When something failed.
    #[default]
    OnFailure,
    /// Not at all.
    Never,
}

fn request(name: &str) -> CommandRequest {
    CommandRequest { name: name.to_owned(), params: Map::new() }
}

impl<S: Store> Conductor<S> {
    /// Fast track: the agent of an earlier flow is used when its machine is on and it answers; else one is booted.
    pub(super) async fn reuse_agent(&self, node: &Node, flow: &Flow) -> Result<Outcome, Trouble> {
        let on = self.machine(node).await?.power_state().await? == PowerState::On;
        let listed = match self.reach(node) {
            Ok(agent) if on => agent.commands().await.map_err(|error| chain(&error)),
            Ok(_) => Err("the machine is off".to_owned()),
            Err(trouble) => Err(format!("{trouble:?}")),
        };
        match listed {
            Ok(listed) => {
                let settled = listed.into_iter().map(|command| command.id).collect();
                Ok(Outcome { settled, power: Some(PowerState::On), ..Outcome::default() })
            }
            Err(reason) => {
                tracing::info!(reason, "the ramdisk that was there is not; it is booted");
                let mut rest = boot_ramdisk(node, Purpose::Commands);
                rest.extend(flow.actions.get(flow.cursor + 1..).unwrap_or_default().iter().cloned());
                Ok(Outcome { rest: Some(rest), ..Outcome::default() })
            }
        }
    }

    /// Gives the agent the hash of the rescue password. An agent that has taken it stops serving. Over its session it says
    /// that it has before it goes, and nothing else counts; one that is reached by REST alone has taken it when a try was
    /// begun and it is gone afterwards.
    pub(super) async fn finalize_rescue(&self, node: &Node, flow: &Flow) -> Result<Outcome, Trouble> {
        let session = session_of(node);
        // A flow has one such command, so the flow's id will do for it: it is saved, and the same at each try.
        let told = session.and_then(|session| self.sessions.known(node.uuid, session, flow.id));
        if let Some(told) = told.filter(|told| told.command_status != CommandStatus::Running) {
            return finalized(told);
        }
        let may_be_gone = |begun: bool| begun && session.is_none();
        let begun_before = flow.intent.as_ref().is_some_and(|intent| intent.attempt > 1);
        let hash = node.instance_info.get(RESCUE_HASH).and_then(Value::as_str);
        let hash = hash.ok_or_else(|| fatal("the hash of the password is gone; ask for the rescue again"))?;
        let agent = self.reach(node)?;
        let listed = match agent.commands().await {
            Err(AgentError::Unreachable(_)) if may_be_gone(begun_before) => return Ok(Outcome::default()),
            other => other?,
        };
        let taken = |command: &&CommandResult| {
            command.command_name == "finalize_rescue" && command.command_status == CommandStatus::Succeeded
        };
        if listed.iter().rev().find(taken).is_some_and(|command| !flow.settled.contains(&command.id)) {
            return Ok(Outcome::default());
        }
        let mut request = request("rescue.finalize_rescue");
        request.params.insert("rescue_password".to_owned(), json!(hash));
        request.params.insert("hashed".to_owned(), json!(true));
        match agent.execute_as(flow.id, request).await {
            // It answered a moment ago: the answer was lost because it stopped serving.
            Err(AgentError::Unreachable(_)) if may_be_gone(true) => Ok(Outcome::default()),
            other => finalized(other?),
        }
    }

    /// Lets the ramdisk shut the machine down, so that its disks are flushed, and cuts power when that does not help.
    pub(super) async fn agent_power_off(&self, node: &Node) -> Result<Outcome, Trouble> {
        let off = Outcome { power: Some(PowerState::Off), agent_gone: true, ..Outcome::default() };
        let machine = self.machine(node).await?;
        if !machine.is_fake() && machine.power_state().await? == PowerState::Off {
            return Ok(off);
        }
        let asked = match self.reach(node) {
            Ok(agent) => match agent.execute(request("standby.power_off"), false).await {
                // After a restart of this driver: the agent is doing what it was asked before.
                Ok(_) | Err(AgentError::Busy(_)) => Ok(()),
                Err(error) => Err(chain(&error)),
            },
            Err(error) => Err(format!("{error:?}")),
        };
        match asked {
            Err(reason) => tracing::info!(reason, "the agent does not shut down by itself"),
            Ok(()) if machine.is_fake() => {}
            Ok(()) => {
                let mut waited = Duration::ZERO;
                while waited < self.settings.agent_power_off_timeout {
                    tokio::time::sleep(POWER_POLL).await;
                    waited += POWER_POLL;
                    if machine.power_state().await? == PowerState::Off {
                        return Ok(off);
                    }
                }
            }
        }
        make_power(&*machine, PowerState::Off).await?;
        Ok(off)
    }

    /// Saves the logs of a ramdisk that is going to end, where logs are kept always.
    pub(super) async fn collect_logs_always(&self, node: &Node, flow: &Flow) {
        if self.settings.keep_logs == KeepLogs::Always && node.driver_internal_info.contains_key("agent_url") {
            self.collect_logs(node, flow, true).await;
        }
    }

    /// Saves the logs of the ramdisk before its flow fails. Best effort: what cannot be had is said in the log.
    pub(super) async fn collect_logs(&self, node: &Node, flow: &Flow, on_agent: bool) {
        if self.settings.keep_logs == KeepLogs::Never || flow.kind.steps().is_none() || !on_agent {
            return;
        }
        let collected = match self.reach(node) {
            Ok(agent) => {
                let call = agent.execute(request("log.collect_system_logs"), true);
                match tokio::time::timeout(LOGS, call).await {
                    Ok(Ok(result)) => Ok(result.command_result),
                    Ok(Err(error)) => Err(chain(&error)),
                    Err(_) => Err(format!("they did not come within {} s", LOGS.as_secs())),
                }
            }
            Err(trouble) => Err(format!("{trouble:?}")),
        };
        let logs = match &collected {
            Ok(Some(result)) => result.get("system_logs").and_then(Value::as_str),
            Ok(None) => None,
            Err(reason) => {
                tracing::warn!(reason, "the logs of the ramdisk cannot be had");
                return;
            }
        };
        match logs {
            Some(logs) => self.save_logs(node, flow.kind.as_str(), logs).await,
            None => tracing::warn!("the ramdisk has sent no logs"),
        }
    }

    /// Saves logs (base64 of a gzipped tar) in the folder of logs.
    pub(super) async fn save_logs(&self, node: &Node, label: &str, logs: &str) {
        let packed = match base64::engine::general_purpose::STANDARD.decode(logs.trim()) {
            Ok(packed) => packed,
            Err(error) => {
                tracing::warn!(%error, "the logs of the ramdisk are not base64");
                return;
            }
        };
        let file = self.settings.logs_dir.join(file_name(node, label, self.parts.clock.now()));
        let written = tokio::task::spawn_blocking({
            let file = file.clone();
            move || write(&file, &packed)
        });
        match written.await {
            Ok(Ok(())) => tracing::info!(file = %file.display(), "the logs of the ramdisk were saved"),
            Ok(Err(error)) => tracing::warn!(file = %file.display(), %error, "the logs of the ramdisk were not saved"),
            Err(error) => tracing::warn!(%error, "the logs of the ramdisk were not saved"),
        }
    }
}

impl<S: Store> Conductor<S> {
    /// Keeps what the ramdisk of a node logged: it has ended.
    pub(super) fn keep_log(&self, node: Uuid) {
        self.save_lines(node, self.logs.take(node));
    }

    /// Saves lines in a file, beside everything else.
    pub(super) fn save_lines(&self, node: Uuid, lines: Vec<Arc<Line>>) {
        if lines.is_empty() || self.settings.keep_logs == KeepLogs::Never {
            return;
        }
        let (logs, now) = (self.logs.clone(), self.parts.clock.now());
        self.tasks.spawn_blocking(move || match logs.save(node, &lines, now) {
            Ok(file) => tracing::info!(%node, file = %file.display(), lines = lines.len(), "the log was kept"),
            Err(error) => tracing::warn!(%node, %error, "the log of the ramdisk was not kept"),
        });
    }

    /// Forgets what was logged by a node that is there no more.
    pub(super) fn forget_logs(&self, node: Uuid) {
        let logs = self.logs.clone();
        self.tasks.spawn_blocking(move || {
            if let Err(error) = logs.forget(node) {
                tracing::warn!(%node, %error, "logs of a node that is there no more stay");
            }
        });
    }
}

/// What the end of `finalize_rescue` comes to.
fn finalized(result: CommandResult) -> Result<Outcome, Trouble> {
    match result.command_status {
        CommandStatus::Succeeded => Ok(Outcome::default()),
        CommandStatus::Running => Err(Trouble::Later("the agent is still taking the password".to_owned())),
        CommandStatus::Failed | CommandStatus::VersionMismatch | CommandStatus::Other(_) => {
            let text = result.command_error.map_or_else(
                || format!("finalize_rescue ended as {}", String::from(result.command_status)),
                |error| if error.details.is_empty() { error.message } else { error.details },
            );
            Err(Trouble::Final { text, on_agent: true })
        }
    }
}

/// Node, instance, what for and when, as Ironic names them.
fn file_name(node: &Node, label: &str, now: Timestamp) -> PathBuf {
    let mut parts = vec![node.uuid.to_string()];
    // Names are host names: nothing in them leads out of the folder.
    parts.extend(node.name.clone().filter(|name| !name.contains(['/', '\\'])));
    parts.extend(node.instance_uuid.map(|uuid| uuid.to_string()));
    parts.push(label.to_owned());
    parts.push(now.strftime("%Y-%m-%d-%H-%M-%S").to_string());
    PathBuf::from(parts.join("_") + ".tar.gz")
}

/// Writes a file that only the driver reads: logs of a machine are its owner's.
fn write(file: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(file)?;
    std::io::Write::write_all(&mut file, content)
}
