//! How far a node is: what its agent tells of the running step, how long that and the node's state last, and how long they
//! usually do. The usual is taken from the histories of nodes of the same driver, so it outlives a restart.

use super::Conductor;
use crate::command::NodeIdent;
use crate::events::Kind;
use crate::fault::Fault;
use crate::flow::{Action, Flow, FlowKind};
use jiff::Timestamp;
use lifecycle::provision::State;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{JournalEntry, Node, NodeFilter, Page, SortDirection, Store};
use uuid::Uuid;
use wire::agent::Progress;

/// The type of history entries that tell the end of a step.
pub(super) const STEP_ENDED: &str = "step";

/// Nodes of a driver whose histories are read to learn what is usual: those that changed last.
const TEACHERS: usize = 48;
/// Times that are kept of a state or a step; the oldest goes first.
const SAMPLES: usize = 512;
/// Fewer times than this are no custom.
const ENOUGH: usize = 3;
/// How long what is usual counts before it is learned anew.
const LEARNED_FOR: Duration = Duration::from_secs(300);

/// What the agent tells of the step that it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// The name of the node when it began.
    pub node: Option<String>,
    /// The step, as `interface.step`.
    pub step: String,
    /// The agent's command.
    pub command: String,
    /// What it tells.
    pub progress: Progress,
    /// Percent, where that is all that is told: BMCs tell no amounts.
    pub percent: Option<u8>,
    /// When it told that.
    pub at: Timestamp,
}

impl Running {
    /// How much of it is done, in percent with one decimal; unknown without a total.
    pub fn percent(&self) -> Option<f64> {
        let Some(total) = self.progress.total.filter(|total| *total > 0) else {
            return self.percent.map(|percent| f64::from(percent.min(100)));
        };
        let per_mille = u128::from(self.progress.done.min(total)) * 1000 / u128::from(total);
        Some(per_mille as f64 / 10.0)
    }

    /// The document of it: what the agent tells, and what is known besides.
    pub fn document(&self) -> Value {
        let mut document = json!(self.progress);
        if let Value::Object(fields) = &mut document {
            fields.insert("step".to_owned(), json!(self.step));
            fields.insert("percent".to_owned(), json!(self.percent()));
            fields.insert("at".to_owned(), json!(time(self.at)));
        }
        document
    }
}

/// How long something usually takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usual {
    /// How many times are known.
    pub samples: usize,
    /// Half of them were not longer, in seconds.
    pub median: u64,
    /// Nine of ten were not longer, in seconds.
    pub p90: u64,
}

/// Something that goes on, against how long it usually does.
#[derive(Debug, Clone, PartialEq)]
pub struct Lasting {
    /// The state, or the step.
    pub what: String,
    /// Since when; unknown when the history does not go back so far.
    pub since: Option<Timestamp>,
    /// How long, in seconds.
    pub seconds: Option<u64>,
    /// How long it usually lasts; unknown where it was not seen often enough.
    pub usual: Option<Usual>,
}

impl Lasting {
    /// Whether it lasts longer than nine of ten did.
    pub fn is_long(&self) -> bool {
        matches!((self.seconds, self.usual), (Some(seconds), Some(usual)) if seconds > usual.p90)
    }

    /// The document of it; `name` is the key of what lasts.
    pub fn document(&self, name: &str) -> Value {
        json!({
            name: self.what,
            "since": self.since.map(time),
            "seconds": self.seconds,
            "usual_seconds": self.usual.map(|usual| json!({
                "median": usual.median,
                "p90": usual.p90,
                "samples": usual.samples,
            })),
            "longer_than_usual": self.is_long(),
        })
    }
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The node.
    pub node: Arc<Node>,
    /// Its state.
    pub state: Lasting,
    /// The step that its agent carries out, if it does.
    pub step: Option<Lasting>,
    /// What is done to the node, and since when.
    pub flow: Option<(FlowKind, Timestamp)>,
    /// The number of what is done now among all that is to be done, from 1, and how much that is.
    pub place: Option<(usize, usize)>,
    /// What is done now, for people.
    pub action: Option<String>,
    /// What the agent tells.
    pub running: Option<Running>,
    /// Why nothing goes on.
    pub stalled: Option<String>,
}

impl Report {
    /// `GET /v1/nodes/<node>/progress`.
    pub fn document(&self) -> Value {
        let running = self.running.as_ref();
        let progress = running.map(|running| &running.progress);
        json!({
            "uuid": self.node.uuid,
            "name": self.node.name,
            "provision_state": self.node.provision_state,
            "target_provision_state": self.node.target_provision_state,
            "state": self.state.document("state"),
            "flow": self.flow.map(|(kind, since)| json!({
                "flow": kind.as_str(),
                "since": time(since),
                "action": self.action,
                "number": self.place.map(|(number, _)| number),
                "of": self.place.map(|(_, of)| of),
            })),
            "step": self.step.as_ref().map(|step| step.document("step")),
            "stage": progress.map(|progress| &progress.stage),
            "percent": running.and_then(Running::percent),
            "done": progress.map(|progress| progress.done),
            "total": progress.and_then(|progress| progress.total),
            "rate": progress.map(|progress| progress.rate),
            "eta": progress.and_then(|progress| progress.eta),
            "stalled": self.stalled,
            "at": running.map(|running| time(running.at)),
        })
    }
}

fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

/// What the agents of all nodes tell.
#[derive(Debug, Default)]
pub(super) struct Board {
    running: Mutex<HashMap<Uuid, Running>>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was learned of one driver.
#[derive(Debug)]
struct Custom {
    at: Timestamp,
    usual: HashMap<String, Usual>,
}

/// What is usual, by driver.
#[derive(Debug, Default)]
pub(super) struct Customs {
    known: Mutex<HashMap<String, Arc<Custom>>>,
}

impl Customs {
    fn of(&self, driver: &str, now: Timestamp) -> Option<Arc<Custom>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let custom = known.get(driver)?;
        let fresh = now.duration_since(custom.at).unsigned_abs() < LEARNED_FOR;
        fresh.then(|| custom.clone())
    }

    fn keep(&self, driver: &str, custom: Arc<Custom>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(driver.to_owned(), custom);
    }
}

impl<S: Store> Conductor<S> {
    /// What the node's agent tells of the step that it runs, where it runs one and tells.
    pub fn running(&self, node: Uuid) -> Option<Running> {
        self.board.lock().get(&node).cloned()
    }

    /// Takes what an agent tells of a command.
    pub(super) fn told_progress(&self, node: &Node, step: &str, command: &str, progress: Progress) {
        let at = self.parts.clock.now();
        let (name, step, command) = (node.name.clone(), step.to_owned(), command.to_owned());
        let running = Running { node: name, step, command, progress: bounded(progress), percent: None, at };
        self.show_progress(node, running);
    }

    /// Takes what a BMC tells of a task of the driver's own step.
    pub(super) fn told_update(&self, node: &Node, action: &Action, task: &str, stage: String, percent: Option<u8>) {
        let at = self.parts.clock.now();
        let step = action.own_step().map(|own| format!("{}.{}", own.step.interface, own.step.step));
        let progress = Progress { stage, done: 0, total: None, rate: 0, eta: None, stalled: None };
        let (name, step, command) = (node.name.clone(), step.unwrap_or_default(), task.to_owned());
        self.show_progress(node, Running { node: name, step, command, progress: bounded(progress), percent, at });
    }

    fn show_progress(&self, node: &Node, running: Running) {
        let before = self.board.lock().insert(node.uuid, running.clone());
        let shown = |running: &Running| (running.progress.clone(), running.command.clone(), running.percent);
        if before.is_none_or(|before| shown(&before) != shown(&running)) {
            self.tell_progress(node.uuid, node.name.as_deref(), Some(&running));
        }
    }

    /// Takes what an agent's stream tells of a command as it comes; what is not the running one says nothing.
    pub fn stream_progress(&self, node: Uuid, command: &str, progress: Progress) {
        let at = self.parts.clock.now();
        let told = {
            let mut board = self.board.lock();
            let running = board.get_mut(&node).filter(|running| running.command == command);
            let Some(running) = running else { return };
            running.progress = bounded(progress);
            running.at = at;
            running.clone()
        };
        self.tell_progress(node, told.node.as_deref(), Some(&told));
    }

    /// The agent does not answer while its step runs.
    pub(super) fn progress_stalls(&self, node: &Node, reason: &str) {
        let told = {
            let mut board = self.board.lock();
            let Some(running) = board.get_mut(&node.uuid) else { return };
            if running.progress.stalled.as_deref() == Some(reason) {
                return;
            }
            running.progress.stalled = Some(reason.to_owned());
            running.progress.rate = 0;
            running.progress.eta = None;
            running.clone()
        };
        self.tell_progress(node.uuid, node.name.as_deref(), Some(&told));
    }

    /// No step runs any more.
    pub(super) fn clear_progress(&self, node: Uuid) {
        self.boots.forget(node);
        let over = self.board.lock().remove(&node);
        if let Some(over) = over {
            self.tell_progress(node, over.node.as_deref(), None);
        }
    }

    fn tell_progress(&self, node: Uuid, name: Option<&str>, running: Option<&Running>) {
        let data = json!({"node": node, "name": name, "progress": running.map(Running::document)});
        self.events.add(self.parts.clock.now(), node, Kind::Progress, &data);
    }

    /// How far a node is.
    ///
    /// # Errors
    /// [`Fault::NotFound`]; or the store.
    pub async fn report(&self, ident: &NodeIdent) -> Result<Report, Fault> {
        let uuid = self.find_shared(ident).await?.uuid;
        let (node, flow) = self.load(uuid).await?;
        self.report_of(node, flow.as_ref()).await
    }

    pub(super) async fn report_of(&self, node: Arc<Node>, flow: Option<&Flow>) -> Result<Report, Fault> {
        let now = self.parts.clock.now();
        let custom = self.custom(&node.driver, now).await?;
        let history = self.store.history(node.uuid).await?;
        let last = |since: Option<Timestamp>, what: String| Lasting {
            since,
            seconds: since.map(|since| seconds(since, now)),
            usual: custom.usual.get(&what).copied(),
            what,
        };
        let state = last(entered(&node, &history), node.provision_state.as_str().to_owned());
        let intent = flow.and_then(|flow| flow.intent.as_ref());
        let action = flow.and_then(Flow::current);
        let step = action
            .filter(|action| is_step(action))
            .map(|action| last(intent.map(|intent| intent.since), action.describe()));
        let running = self.running(node.uuid);
        let trouble = intent.and_then(|intent| intent.trouble.clone());
        Ok(Report {
            state,
            step,
            flow: flow.map(|flow| (flow.kind, flow.began())),
            place: flow.map(|flow| (flow.cursor + 1, flow.actions.len())),
            action: action.map(Action::describe),
            stalled: running.as_ref().and_then(|running| running.progress.stalled.clone()).or(trouble),
            running,
            node,
        })
    }

    /// What is usual for nodes of a driver: learned from the histories of some of them, and anew after a while.
    async fn custom(&self, driver: &str, now: Timestamp) -> Result<Arc<Custom>, Fault> {
        if let Some(custom) = self.customs.of(driver, now) {
            return Ok(custom);
        }
        let filter = NodeFilter { driver: Some(driver.to_owned()), ..NodeFilter::default() };
        let page = Page {
            limit: Some(TEACHERS),
            sort_key: Some("updated_at".to_owned()),
            direction: SortDirection::Descending,
            ..Page::default()
        };
        let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for node in self.store.nodes(&filter, &page).await? {
            learn(&self.store.history(node.uuid).await?, &mut times);
        }
        let usual = times.into_iter().filter_map(|(what, times)| Some((what, usual(times)?))).collect();
        let custom = Arc::new(Custom { at: now, usual });
        self.customs.keep(driver, custom.clone());
        Ok(custom)
    }

    /// Tells watchers what a commit has changed. `before`: what they saw of the node so far.
    pub(super) fn tell(&self, before: &Shown, after: &Node, journal: &[JournalEntry]) {
        let at = self.parts.clock.now();
        if *before != Shown::of(after) {
            self.tell_state(after, Some(before.state));
        }
        for entry in journal {
            let data = json!({
                "node": after.uuid,
                "name": after.name,
                "uuid": entry.uuid,
                "created_at": time(entry.created_at),
                "severity": entry.severity,
                "event_type": entry.event_type,
                "event": entry.event,
            });
            self.events.add(at, after.uuid, Kind::History, &data);
        }
    }

    /// Tells watchers the states of a node.
    pub(super) fn tell_state(&self, node: &Node, before: Option<State>) {
        let data = json!({
            "node": node.uuid,
            "name": node.name,
            "provision_state": node.provision_state,
            "previous_provision_state": before,
            "target_provision_state": node.target_provision_state,
            "power_state": node.power_state,
            "target_power_state": node.target_power_state,
            "maintenance": node.maintenance,
            "fault": node.fault,
            "last_error": node.last_error,
        });
        self.events.add(self.parts.clock.now(), node.uuid, Kind::State, &data);
    }

    /// Tells watchers that a node is there no more.
    pub(super) fn tell_deleted(&self, node: &Node) {
        self.board.lock().remove(&node.uuid);
        let data = json!({"node": node.uuid, "name": node.name});
        self.events.add(self.parts.clock.now(), node.uuid, Kind::Deleted, &data);
    }
}

/// What an agent tells, not longer than is kept of it.
fn bounded(mut progress: Progress) -> Progress {
    progress.stage = cut(&progress.stage);
    progress.stalled = progress.stalled.as_deref().map(cut);
    progress
}

fn cut(text: &str) -> String {
    const LONGEST: usize = 512;
    crate::logs::printable(text).chars().take(LONGEST).collect()
}

/// What watchers of states see of a node.
#[derive(Debug, PartialEq)]
pub(super) struct Shown {
    state: State,
    target: Option<State>,
    power: Option<String>,
    target_power: Option<String>,
    maintenance: bool,
    fault: Option<String>,
    last_error: Option<String>,
}

impl Shown {
    pub(super) fn of(node: &Node) -> Self {
        Self {
            state: node.provision_state,
            target: node.target_provision_state,
            power: node.power_state.clone(),
            target_power: node.target_power_state.clone(),
            maintenance: node.maintenance,
            fault: node.fault.clone(),
            last_error: node.last_error.clone(),
        }
    }
}

fn seconds(since: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(since).as_secs()).unwrap_or_default()
}

/// Whether an action is a step of an agent whose end the history tells.
fn is_step(action: &Action) -> bool {
    matches!(action, Action::ExecuteStep { .. } | Action::InstallBootloader)
}

/// What the history says when a step of the agent ended with a change of its flow, and how severe that is.
pub(super) fn step_end(
    before: &Flow,
    after: Option<&Flow>,
    failed: bool,
    now: Timestamp,
) -> Option<(&'static str, String)> {
    let (action, intent) = (before.current().filter(|action| is_step(action))?, before.intent.as_ref()?);
    intent.command.as_ref()?;
    let after = after.filter(|after| after.id == before.id);
    // A flow that goes back to its list of steps has not ended one.
    if !failed && after.is_some_and(|after| after.cursor <= before.cursor) {
        return None;
    }
    let took = seconds(intent.since, now);
    let what = action.describe();
    Some(match failed {
        true => ("ERROR", format!("{what} failed after {took} s")),
        false => ("INFO", format!("{what} ended after {took} s")),
    })
}

/// When a node came into its state.
fn entered(node: &Node, history: &[JournalEntry]) -> Option<Timestamp> {
    let came = history.iter().rev().find(|entry| entry.event_type == "transition");
    match came {
        Some(entry) => (left_and_entered(entry)?.1 == node.provision_state.as_str()).then_some(entry.created_at),
        // A node that was never anywhere else.
        None => node.provision_updated_at.or(Some(node.created_at)),
    }
}

/// The two states of a transition, as the history words them.
fn left_and_entered(entry: &JournalEntry) -> Option<(&str, &str)> {
    let (left, rest) = entry.event.split_once(" -> ")?;
    let (entered, _) = rest.rsplit_once(" (")?;
    Some((left, entered))
}

/// Adds the times that a history tells: between two transitions, and of steps that ended well.
fn learn(history: &[JournalEntry], times: &mut BTreeMap<String, Vec<u64>>) {
    let mut add = |what: &str, seconds: u64| times.entry(what.to_owned()).or_default().push(seconds);
    let mut since: Option<(&str, Timestamp)> = None;
    for entry in history {
        if entry.event_type == STEP_ENDED
            && let Some((what, took)) = entry.event.split_once(" ended after ")
            && let Some(took) = took.strip_suffix(" s").and_then(|took| took.parse().ok())
        {
            add(what, took);
        }
        if entry.event_type == "transition"
            && let Some((left, entered)) = left_and_entered(entry)
        {
            if let Some((state, since)) = since.filter(|(state, _)| *state == left) {
                add(state, seconds(since, entry.created_at));
            }
            since = Some((entered, entry.created_at));
        }
    }
}

fn usual(mut times: Vec<u64>) -> Option<Usual> {
    times.drain(..times.len().saturating_sub(SAMPLES));
    if times.len() < ENOUGH {
        return None;
    }
    times.sort_unstable();
    // The nearest rank: the smallest time that the share of all is not above.
    let rank = |percent: usize| times.get((times.len() * percent).div_ceil(100) - 1).copied();
    Some(Usual { samples: times.len(), median: rank(50)?, p90: rank(90)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(second: i64, event_type: &str, event: &str) -> JournalEntry {
        JournalEntry {
            uuid: Uuid::nil(),
            created_at: Timestamp::from_second(second).unwrap(),
            severity: "INFO".to_owned(),
            event_type: event_type.to_owned(),
            event: event.to_owned(),
            conductor: "here".to_owned(),
        }
    }

    #[test]
    fn what_is_usual_comes_from_histories() {
        let mut times = BTreeMap::new();
        for took in [10, 20, 30, 40] {
            learn(
                &[
                    entry(0, "transition", "available -> deploying (deploy)"),
                    entry(took, "step", &format!("deploy.write_image ended after {took} s")),
                    entry(took, "step", "deploy.write_image failed after 1 s"),
                    entry(2 * took, "transition", "deploying -> active (done)"),
                ],
                &mut times,
            );
        }
        assert_eq!(usual(times["deploying"].clone()), Some(Usual { samples: 4, median: 40, p90: 80 }));
        assert_eq!(usual(times["deploy.write_image"].clone()), Some(Usual { samples: 4, median: 20, p90: 40 }));
        assert!(!times.contains_key("active") && !times.contains_key("available"));
        assert_eq!(usual(vec![1, 2]), None);
    }

    #[test]
    fn percents_are_of_a_total_and_never_above_a_hundred() {
        let running = |done, total| Running {
            node: None,
            step: "deploy.write_image".to_owned(),
            command: String::new(),
            progress: Progress { stage: "write".to_owned(), done, total, rate: 0, eta: None, stalled: None },
            percent: None,
            at: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(running(1, Some(3)).percent(), Some(33.3));
        assert_eq!(running(u64::MAX, Some(u64::MAX - 1)).percent(), Some(100.0));
        assert_eq!((running(1, None).percent(), running(1, Some(0)).percent()), (None, None));
        let of_bmc = |percent| Running { percent: Some(percent), ..running(0, None) };
        assert_eq!((of_bmc(45).percent(), of_bmc(200).percent()), (Some(45.0), Some(100.0)));
        insta::assert_json_snapshot!(running(5, Some(10)).document());
    }

    #[test]
    fn a_step_that_ended_is_told_with_its_time_and_one_that_is_repeated_is_not() {
        let mut flow = Flow::new(
            Uuid::nil(),
            FlowKind::Deploy,
            vec![Action::InstallBootloader, Action::PowerOff],
            Timestamp::UNIX_EPOCH,
        );
        let since = Timestamp::UNIX_EPOCH;
        flow.intent = Some(crate::flow::Intent {
            attempt: 1,
            digest: String::new(),
            id: None,
            command: Some("1".to_owned()),
            since,
            trouble: None,
        });
        let now = Timestamp::from_second(73).unwrap();
        let mut next = flow.clone();
        next.advance(&[]);
        let end = step_end(&flow, Some(&next), false, now).unwrap();
        assert_eq!(end, ("INFO", "install the boot loader ended after 73 s".to_owned()));
        assert_eq!(step_end(&flow, None, true, now).unwrap().0, "ERROR");
        assert_eq!(step_end(&flow, Some(&flow), false, now), None);
        assert_eq!(step_end(&next, None, false, now), None);
    }
}
