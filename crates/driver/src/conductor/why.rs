//! Why a node is where it is: what is done or waited for, since when, until when, who holds it, and what an operator
//! can do about it. Everything here is read from what is saved; nothing is asked of machines.

use super::Conductor;
use super::progress::{Lasting, Running};
use super::waits::last_heartbeat;
use crate::command::NodeIdent;
use crate::fault::Fault;
use crate::flow::{Action, Flow, FlowKind};
use jiff::Timestamp;
use lifecycle::provision::{Event, Kind, State, Verb, allowed_verbs, step};
use std::sync::Arc;
use std::time::Duration;
use store::{Node, Store};

/// Why a node is where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Why {
    /// The node.
    pub node: Arc<Node>,
    /// One sentence.
    pub summary: String,
    /// What is done to it, if anything is.
    pub work: Option<Work>,
    /// Who holds it and for what, if somebody does.
    pub hold: Option<Hold>,
    /// When its state ends by itself.
    pub deadline: Option<Until>,
    /// Its agent, as far as it is known.
    pub agent: Option<Heard>,
    /// What the agent's running command tells.
    pub progress: Option<Running>,
    /// How long it has been in its state, against what is usual.
    pub lasting: Lasting,
    /// What an operator can do now.
    pub possible: Vec<Possible>,
}

/// A flow at work.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// `deploy`, `clean`, ….
    pub flow: &'static str,
    /// When it began.
    pub since: Timestamp,
    /// What it does now.
    pub action: String,
    /// When that began; unset before its first try.
    pub action_since: Option<Timestamp>,
    /// The number of that among all that are to be done, from 1.
    pub number: usize,
    /// How many there are, as far as they are known.
    pub of: usize,
    /// How often that was tried.
    pub attempt: u32,
    /// Why the last try was not the last.
    pub trouble: Option<String>,
    /// What is waited for; unset while the driver itself works.
    pub waits_for: Option<&'static str>,
}

/// Who holds a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Hold {
    /// The conductor.
    pub holder: String,
    /// What for.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// When a state ends by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Until {
    /// Its setting.
    pub setting: &'static str,
    /// How long the state may last.
    pub limit: Duration,
    /// What is left of it; a heartbeat begins it anew where a machine is waited for.
    pub left: Duration,
    /// When that is.
    pub at: Timestamp,
    /// The state that follows.
    pub then: State,
}

/// What was heard of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// Where it is.
    pub url: Option<String>,
    /// When it was heard of last.
    pub last: Option<Timestamp>,
}

/// Something that an operator can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Possible {
    /// The verb of `PUT states/provision`; unset for other requests.
    pub verb: Option<Verb>,
    /// What it does.
    pub what: String,
}

impl<S: Store> Conductor<S> {
    /// Why a node is where it is.
    ///
    /// # Errors
    /// [`Fault::NotFound`].
    pub async fn why(&self, ident: &NodeIdent) -> Result<Why, Fault> {
        let uuid = self.find_shared(ident).await?.uuid;
        let (node, flow) = self.load(uuid).await?;
        let now = self.parts.clock.now();
        let deadline = self.until(&node, now);
        let agent = heard(&node);
        let report = self.report_of(node.clone(), flow.as_ref()).await?;
        Ok(Why {
            summary: summary(&node, flow.as_ref(), deadline.as_ref(), agent.as_ref()),
            work: flow.as_ref().map(work),
            hold: hold(&node, flow.as_ref()),
            deadline,
            agent,
            possible: possible(&node),
            progress: report.running,
            lasting: report.state,
            node: report.node,
        })
    }

    fn until(&self, node: &Node, now: Timestamp) -> Option<Until> {
        let setting = node.provision_state.deadline_setting()?;
        let limit = self.settings.deadlines.limit(node.provision_state)?;
        let left = self.left(node)?;
        let at = now.checked_add(left).ok()?;
        let then = step(node.provision_state, setting.event).ok()?.next;
        Some(Until { setting: setting.setting, limit, left, at, then })
    }
}

fn heard(node: &Node) -> Option<Heard> {
    let url = node.driver_internal_info.get("agent_url").and_then(serde_json::Value::as_str).map(str::to_owned);
    let last = last_heartbeat(node);
    (url.is_some() || last.is_some()).then_some(Heard { url, last })
}

fn work(flow: &Flow) -> Work {
    let action = flow.current();
    let intent = flow.intent.as_ref();
    Work {
        flow: flow.kind.as_str(),
        since: flow.began(),
        action: action.map_or_else(|| "finish".to_owned(), Action::describe),
        action_since: intent.map(|intent| intent.since),
        number: flow.cursor + 1,
        of: flow.actions.len(),
        attempt: intent.map_or(0, |intent| intent.attempt),
        trouble: intent.and_then(|intent| intent.trouble.clone()),
        waits_for: action.and_then(|action| waits_for(action, flow)),
    }
}

fn waits_for(action: &Action, flow: &Flow) -> Option<&'static str> {
    let sent = flow.intent.as_ref().is_some_and(|intent| intent.command.is_some());
    match action {
        Action::WaitForAgent => Some("the first heartbeat of the ramdisk"),
        Action::WaitForInspection => Some("the inventory from the ramdisk"),
        Action::Hold { .. } => Some("an operator who says unhold"),
        Action::Pause { seconds: Some(_), .. } => Some("the time to pass"),
        Action::Pause { seconds: None, .. } => Some("the next heartbeat"),
        Action::ExecuteStep { .. } | Action::InstallBootloader if sent => Some("the end of the agent's command"),
        Action::ConfirmBios { .. } => Some("the BIOS settings to be as wanted"),
        Action::FollowFirmware { .. } | Action::ConfirmFirmware { .. } => Some("the BMC to update firmware"),
        action if action.needs_agent() => Some("the agent"),
        _ => None,
    }
}

fn hold(node: &Node, flow: Option<&Flow>) -> Option<Hold> {
    let holder = node.reservation.clone()?;
    let flow = flow?;
    let what = flow.current().map_or_else(|| "finish".to_owned(), Action::describe);
    let since = flow.intent.as_ref().map_or(flow.since, |intent| intent.since);
    Some(Hold { holder, reason: format!("{}: {what}", flow.kind.as_str()), since })
}

fn summary(node: &Node, flow: Option<&Flow>, until: Option<&Until>, agent: Option<&Heard>) -> String {
    let state = node.provision_state;
    let mut text = match (flow, state.kind()) {
        (Some(flow), _) if flow.kind == FlowKind::Cleanup => {
            let what = flow.current().map_or_else(|| "finish".to_owned(), Action::describe);
            format!("It is in \"{state}\", and is tidied up: {what}.")
        }
        (Some(flow), kind) => {
            let work = work(flow);
            let doing = match work.waits_for {
                Some(what) if flow.current().is_some_and(Action::needs_agent) => {
                    format!("it waits for {what} ({})", work.action)
                }
                Some(what) => format!("it waits for {what}"),
                None => format!("the driver is to {}", work.action),
            };
            let retried = match (&work.trouble, work.attempt) {
                (Some(trouble), attempt) => format!(" Try {attempt} did not do it: {trouble}."),
                (None, _) => String::new(),
            };
            let silent = match agent {
                None if kind == Kind::Waiting => " Nothing was heard of an agent since it was booted.",
                _ => "",
            };
            format!("It is in \"{state}\" for the flow \"{}\": {doing}.{retried}{silent}", flow.kind.as_str())
        }
        (None, Kind::Stable) => format!("It is in \"{state}\" and stays there until somebody asks for something."),
        (None, Kind::Failed) => {
            let why = node.last_error.as_deref().unwrap_or("the reason is not known any more");
            format!("It is in \"{state}\" because: {why} It waits for an operator.")
        }
        (None, Kind::Working | Kind::Waiting | Kind::Held) => {
            format!("It is in \"{state}\", but no work is saved for it; break it out of that state.")
        }
    };
    if let Some(until) = until {
        text.push_str(&format!(
            " If nothing happens it becomes \"{}\" in {} s ({}).",
            until.then,
            until.left.as_secs(),
            until.setting
        ));
    }
    if node.maintenance {
        let fault = node.fault.as_deref().map(|fault| format!(" (fault: {fault})")).unwrap_or_default();
        let reason = node.maintenance_reason.as_deref().unwrap_or("no reason was given");
        text.push_str(&format!(" It is in maintenance{fault}: {reason}"));
    }
    text
}

fn possible(node: &Node) -> Vec<Possible> {
    let mut possible: Vec<Possible> = allowed_verbs(node.provision_state)
        .into_iter()
        // Two names for one verb.
        .filter(|verb| !matches!(verb, Verb::Deploy | Verb::Undeploy))
        .filter(|verb| refusal(node, *verb).is_none())
        .map(|verb| Possible { verb: Some(verb), what: meaning(verb, node.provision_state).to_owned() })
        .collect();
    let other = |what: &str| Possible { verb: None, what: what.to_owned() };
    if node.maintenance {
        possible.push(other("DELETE maintenance: takes the node back and clears its fault"));
    }
    if node.protected {
        possible.push(other("PATCH protected to false: allows to take the instance off or rebuild it"));
    }
    if node.provision_state.allows_delete(node.maintenance) && !node.protected {
        possible.push(other("DELETE: forgets the node"));
    }
    possible
}

/// Why a verb of the state is refused all the same.
fn refusal(node: &Node, verb: Verb) -> Option<&'static str> {
    match verb {
        Verb::Active | Verb::Deploy | Verb::Rebuild | Verb::Rescue | Verb::Unrescue if node.maintenance => {
            Some("maintenance")
        }
        Verb::Rebuild | Verb::Deleted | Verb::Undeploy if node.protected => Some("protected"),
        Verb::Provide | Verb::Active | Verb::Deploy if node.retired => Some("retired"),
        _ => None,
    }
}

/// What a verb does, for people.
fn meaning(verb: Verb, state: State) -> &'static str {
    match verb {
        Verb::Manage if state == State::Enroll => "tries the BMC and takes the node under management",
        Verb::Manage => "takes the node to manageable",
        Verb::Provide => "cleans the node and makes it available",
        Verb::Inspect => "boots the ramdisk to find out what the machine is",
        Verb::Clean => "runs the clean steps that are given",
        Verb::Adopt => "takes the node to active as it is, without touching its disks",
        Verb::Active | Verb::Deploy => "puts the instance on the machine",
        Verb::Rebuild => "puts the instance on the machine anew",
        Verb::Deleted | Verb::Undeploy => "takes the instance off, and cleans",
        Verb::Rescue => "boots the ramdisk for somebody to log in",
        Verb::Unrescue => "boots the instance again",
        Verb::Service => "runs the service steps that are given",
        Verb::Unhold => "lets the held work go on",
        Verb::Abort => match step(state, Event::Abort).map(|row| row.next) {
            Ok(State::Active) => "gives the service up and boots the instance again",
            _ => "gives up what is waited for",
        },
        Verb::BreakOut => "ends what the driver is stuck in; look at the machine afterwards",
    }
}
