//! Watching nodes until they are where they should be: by the service's events where it has them, by asking again where
//! it does not. Ending the watching ends nothing else.

mod line;
mod screen;

use crate::api::{Api, ApiError, Node, path};
use crate::error::Error;
use crate::output::{self, Output};
use futures::{StreamExt as _, stream};
use lifecycle::provision::Kind;
use line::Shown;
use screen::Screen;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two looks at nodes without events, and with them.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_WITH_EVENTS: Duration = Duration::from_secs(15);
/// Between two looks however much happens.
const SHORTEST: Duration = Duration::from_millis(300);
/// How long the service may be away; a driver that is started anew is back sooner.
const AWAY: Duration = Duration::from_secs(120);
/// How long a power request may take to show in the node.
const POWER_GRACE: Duration = Duration::from_secs(15);
/// Most nodes of which it is asked, at a look, why nothing moves when they tell nothing by themselves.
const REASONS: usize = 32;
/// Nodes that are asked for at once.
const AT_ONCE: usize = 8;
/// What is read of each node.
const FIELDS: &[&str] = &[
    "uuid",
    "name",
    "provision_state",
    "target_provision_state",
    "power_state",
    "target_power_state",
    "last_error",
    "maintenance",
    "maintenance_reason",
    "fault",
    "provision_updated_at",
    "driver_internal_info",
    "deploy_step",
    "clean_step",
    "service_step",
];

/// Options of verbs that begin something.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct WatchArgs {
    /// Stay and show progress until it has ended; the exit code tells how
    #[arg(short, long, visible_alias = "wait")]
    pub(crate) watch: bool,
    /// Longest time to stay, in seconds; it goes on all the same
    #[arg(long, value_name = "SECONDS", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: Option<u64>,
}

/// What a node is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// One of these states.
    States(&'static [&'static str]),
    /// Any state that it stays in, but no failure.
    Rest,
    /// Any state that it stays in.
    Still,
    /// A power state.
    Power(&'static str),
}

/// Where a node stands against its goal.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Going,
    Reached,
    Failed,
}

/// How it ended for a node.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) node: Node,
    pub(crate) seconds: Option<u64>,
    pub(crate) result: Result<(), Error>,
}

fn judge(node: &Node, goal: Goal, waited: Duration) -> Standing {
    match goal {
        Goal::Power(wanted) => {
            let settled = node.text("target_power_state").is_none();
            if settled && node.text("power_state") == Some(wanted) {
                return Standing::Reached;
            }
            // The service may not have begun yet.
            let over = settled && waited >= POWER_GRACE;
            if over { Standing::Failed } else { Standing::Going }
        }
        Goal::States(_) | Goal::Rest | Goal::Still => match node.kind() {
            Kind::Working | Kind::Waiting | Kind::Held => Standing::Going,
            kind => {
                let good = match goal {
                    Goal::States(states) => states.contains(&node.state()),
                    Goal::Rest => kind == Kind::Stable && node.state() != "error",
                    Goal::Still | Goal::Power(_) => true,
                };
                if good { Standing::Reached } else { Standing::Failed }
            }
        },
    }
}

/// What reaches the watcher.
enum News {
    /// Look at this node; at all when it is not said which.
    Look(Option<String>),
    /// What a step tells of itself.
    Progress(String, Value),
    /// The events have begun, or ended.
    Events(bool),
}

/// A node that is watched.
struct Watched {
    node: Node,
    goal: Goal,
    progress: Option<Value>,
    outcome: Option<(Standing, u64)>,
}

/// Watches nodes until each is at its goal, has failed, or time is over.
pub(crate) async fn watch(
    api: &Arc<Api>,
    output: Output,
    nodes: Vec<(Node, Goal)>,
    timeout: Option<u64>,
) -> Vec<Outcome> {
    let begun = Instant::now();
    let mut screen =
        Screen::new(output, nodes.len(), nodes.iter().map(|(node, _)| node.title().chars().count()).max().unwrap_or(0));
    let watched = |(node, goal): (Node, Goal)| {
        let progress = node.progress().cloned();
        (node.uuid().to_owned(), Watched { node, goal, progress, outcome: None })
    };
    let order: Vec<String> = nodes.iter().map(|(node, _)| node.uuid().to_owned()).collect();
    let mut all: BTreeMap<String, Watched> = nodes.into_iter().map(watched).collect();
    let (send, mut news) = mpsc::channel(256);
    let only = (order.len() == 1).then(|| order[0].clone());
    // Before anything is asked: from here on Ctrl-C ends the watching and says so. Without a handler it ends the program as
    // it ends any other.
    let mut interrupts = signal(SignalKind::interrupt()).ok();
    let interrupt = async {
        match &mut interrupts {
            Some(interrupts) => drop(interrupts.recv().await),
            None => std::future::pending().await,
        }
    };
    let listener = tokio::spawn(listen(api.clone(), only, send));
    let end = run(api, &mut all, &mut screen, &mut news, interrupt, begun, timeout).await;
    listener.abort();
    screen.finish();
    outcomes(api, order, all, end, timeout).await
}

/// Progress in a few words, for lists.
pub(crate) fn told(node: &Node, progress: &Value) -> String {
    line::says(node, progress, true)
}

/// Why watching ended.
enum End {
    Done,
    Late,
    Interrupted,
    Away(ApiError),
}

async fn run(
    api: &Arc<Api>,
    all: &mut BTreeMap<String, Watched>,
    screen: &mut Screen,
    news: &mut mpsc::Receiver<News>,
    interrupt: impl Future<Output = ()>,
    begun: Instant,
    timeout: Option<u64>,
) -> End {
    let mut between = LOOK;
    let mut away: Option<Instant> = None;
    let late = begun + timeout.map_or(Duration::from_secs(u64::from(u32::MAX)), Duration::from_secs);
    let (mut next, mut looked) = (begun, begun);
    // All are looked at when that is due, and in between those that something happened to.
    let (mut every, mut some) = (begun, BTreeSet::new());
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    tokio::pin!(interrupt);
    loop {
        if Instant::now() >= next {
            let whole = Instant::now() >= every;
            let due = |uuid: &str| whole || some.contains(uuid);
            // Only who has events has reasons as well.
            let reasons = between == LOOK_WITH_EVENTS;
            let seen = look(api, all, due, reasons).await;
            match seen {
                Ok(()) => {
                    some.clear();
                    if away.take().is_some() {
                        screen.say("the service is back");
                    }
                }
                Err(error) => {
                    let since = *away.get_or_insert_with(|| {
                        screen.say(&format!("{}; trying again", transport::client::chain(&error)));
                        Instant::now()
                    });
                    if since.elapsed() >= AWAY || !matches!(error, ApiError::Unreachable { .. }) {
                        return End::Away(error);
                    }
                }
            }
            looked = Instant::now();
            if whole {
                every = looked + if away.is_some() { LOOK } else { between };
            }
            next = if away.is_some() { every.min(looked + LOOK) } else { every };
            settle(all, screen, begun);
        }
        screen.show(all.values().filter(|one| one.outcome.is_none()).map(shown).collect(), begun.elapsed());
        if all.values().all(|one| one.outcome.is_some()) {
            return End::Done;
        }
        tokio::select! {
            biased;
            () = &mut interrupt => return End::Interrupted,
            () = tokio::time::sleep_until(late) => return End::Late,
            told = news.recv() => match told {
                Some(News::Look(Some(uuid))) => {
                    if all.contains_key(&uuid) {
                        some.insert(uuid);
                        next = next.min(looked + SHORTEST);
                    }
                }
                Some(News::Look(None)) => (next, every) = soon(next, every, looked),
                Some(News::Progress(uuid, progress)) => {
                    if let Some(one) = all.get_mut(&uuid) {
                        one.progress = Some(progress).filter(Value::is_object);
                    }
                }
                Some(News::Events(on)) => {
                    between = if on { LOOK_WITH_EVENTS } else { LOOK };
                    (next, every) = soon(next, every, looked);
                }
                None => tokio::time::sleep_until(next).await,
            },
            _ = tick.tick() => {}
        }
        // Power has no state of its own to begin with: a grace has to end without an event.
        if all.values().any(|one| one.outcome.is_none() && matches!(one.goal, Goal::Power(_))) {
            between = LOOK;
        }
    }
}

/// When to look again, and when at all nodes, when it is time for that.
fn soon(next: Instant, every: Instant, looked: Instant) -> (Instant, Instant) {
    let soon = looked + SHORTEST;
    (next.min(soon), every.min(soon))
}

fn shown(one: &Watched) -> Shown<'_> {
    Shown { node: &one.node, progress: one.progress.as_ref() }
}

/// Notes who is done.
fn settle(all: &mut BTreeMap<String, Watched>, screen: &mut Screen, begun: Instant) {
    for one in all.values_mut().filter(|one| one.outcome.is_none()) {
        let waited = begun.elapsed();
        let standing = judge(&one.node, one.goal, waited);
        if standing != Standing::Going {
            screen.ended(&one.node, standing == Standing::Reached, waited);
            one.outcome = Some((standing, waited.as_secs()));
        }
    }
}

/// Reads those nodes anew that are due and have not ended; no others of the site.
async fn look(
    api: &Arc<Api>,
    all: &mut BTreeMap<String, Watched>,
    due: impl Fn(&str) -> bool,
    reasons: bool,
) -> Result<(), ApiError> {
    let open = all.iter().filter(|(uuid, one)| one.outcome.is_none() && due(uuid));
    let open: Vec<String> = open.map(|(uuid, _)| uuid.clone()).collect();
    let ask = |uuid: String| async move {
        let path = format!("{}?fields={}", path(&["v1", "nodes", &uuid]), api.fields(FIELDS));
        match api.get(&path).await {
            Ok(document) => Ok(Some(Node(document))),
            Err(ApiError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let read: Vec<_> = stream::iter(open.clone()).map(ask).buffered(AT_ONCE).collect().await;
    let nodes = read.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
    let found: BTreeMap<String, Node> = nodes.map(|node| (node.uuid().to_owned(), node)).collect();
    let silent =
        found.values().filter(|node| node.progress().is_none() && !matches!(node.kind(), Kind::Stable | Kind::Failed));
    let silent: Vec<String> =
        silent.map(|node| node.uuid().to_owned()).take(if reasons { REASONS } else { 0 }).collect();
    let stalled = async |uuid: String| {
        let report = api.get(&path(&["v1", "nodes", &uuid, "progress"])).await.ok()?;
        let reason = report.get("stalled")?.as_str()?;
        Some((uuid, serde_json::json!({"stalled": reason})))
    };
    let stalled: Vec<_> = stream::iter(silent).map(stalled).buffered(AT_ONCE).collect().await;
    let mut stalled: BTreeMap<String, Value> = stalled.into_iter().flatten().collect();
    for uuid in open {
        let Some(one) = all.get_mut(&uuid) else { continue };
        match found.get(&uuid) {
            Some(node) => {
                if node.step() != one.node.step() || node.state() != one.node.state() {
                    one.progress = None;
                }
                let progress = one.progress.take().filter(|progress| progress.get("stage").is_some());
                one.progress = node.progress().cloned().or(stalled.remove(&uuid)).or(progress);
                one.node = node.clone();
            }
            None => {
                let fields = one.node.0.as_object_mut();
                fields.map(|fields| fields.insert("provision_state".to_owned(), Value::from("deleted")));
                fields_gone(&mut one.node);
            }
        }
    }
    Ok(())
}

/// A node that was deleted has no target any more.
fn fields_gone(node: &mut Node) {
    if let Some(fields) = node.0.as_object_mut() {
        fields.insert("target_provision_state".to_owned(), Value::Null);
        fields.insert("last_error".to_owned(), Value::from("the node is there no more"));
    }
}

/// Passes events on, as long as the service has them.
async fn listen(api: Arc<Api>, node: Option<String>, news: mpsc::Sender<News>) {
    loop {
        match api.events(node.as_deref()).await {
            Ok(mut events) => {
                if news.send(News::Events(true)).await.is_err() {
                    return;
                }
                while let Some(event) = events.next().await {
                    let uuid = event.data.get("node").and_then(Value::as_str);
                    let told = match (event.kind.as_str(), uuid, event.data.get("progress")) {
                        ("progress", Some(uuid), Some(progress)) => News::Progress(uuid.to_owned(), progress.clone()),
                        (_, uuid, _) => News::Look(uuid.map(str::to_owned)),
                    };
                    if news.send(told).await.is_err() {
                        return;
                    }
                }
                if news.send(News::Events(false)).await.is_err() {
                    return;
                }
            }
            // Away for the moment; everything else means that there are no events.
            Err(ApiError::Unreachable { .. } | ApiError::Refused { status: 503, .. }) => {}
            Err(_) => return std::future::pending().await,
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn outcomes(
    api: &Arc<Api>,
    order: Vec<String>,
    mut all: BTreeMap<String, Watched>,
    end: End,
    timeout: Option<u64>,
) -> Vec<Outcome> {
    let open: Vec<String> =
        all.values().filter(|one| one.outcome.is_none()).map(|one| one.node.title().to_owned()).collect();
    let open = open.join(" ");
    let interrupted = matches!(end, End::Interrupted);
    let mut away = match end {
        End::Away(error) => Some(error),
        End::Done | End::Late | End::Interrupted => None,
    };
    let mut outcomes = Vec::new();
    for one in order.iter().filter_map(|uuid| all.remove(uuid)) {
        let node = one.node.title().to_owned();
        let state = match one.goal {
            Goal::Power(_) => one.node.text("power_state").unwrap_or("power unknown").to_owned(),
            Goal::States(_) | Goal::Rest | Goal::Still => one.node.state().to_owned(),
        };
        let (seconds, result) = match one.outcome {
            Some((Standing::Failed, seconds)) => {
                let why = why(api, &one.node, one.goal).await;
                (Some(seconds), Err(Error::Ended { node, state, why }))
            }
            Some((_, seconds)) => (Some(seconds), Ok(())),
            None => (
                None,
                Err(match away.take() {
                    Some(error) => Error::from(error),
                    None if interrupted => Error::Interrupted { nodes: open.clone() },
                    None => Error::Late { node, state, seconds: timeout.unwrap_or_default() },
                }),
            ),
        };
        outcomes.push(Outcome { node: one.node, seconds, result });
    }
    outcomes
}

/// What went wrong last with a node. Ironic clears the last error when it switches a machine off; the history keeps it.
pub(crate) async fn recorded_error(api: &Api, node: &Node) -> Option<String> {
    if let Some(error) = node.text("last_error") {
        return Some(error.to_owned());
    }
    let history = api.get(&format!("{}?detail=True", path(&["v1", "nodes", node.uuid(), "history"]))).await;
    let entries = history.ok().and_then(|history| history.get("history")?.as_array().cloned()).unwrap_or_default();
    let newest =
        entries.iter().filter(|entry| entry["severity"] == "ERROR").max_by_key(|entry| entry["created_at"].to_string());
    newest.and_then(|entry| entry["event"].as_str()).map(str::to_owned)
}

/// Why a node is not where it should be.
async fn why(api: &Api, node: &Node, goal: Goal) -> String {
    recorded_error(api, node).await.unwrap_or_else(|| match goal {
        Goal::States(states) => format!("no error is recorded; {} was expected", states.join(" or ")),
        Goal::Power(wanted) => format!("no error is recorded; {wanted} was expected"),
        Goal::Rest | Goal::Still => "no error is recorded".to_owned(),
    })
}

/// Says what became of nodes: one line or one document for all, errors by themselves.
pub(crate) fn report(output: Output, outcomes: Vec<Outcome>) -> Result<(), Error> {
    let one = outcomes.len() == 1;
    let mut text = String::new();
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for outcome in outcomes {
        let Outcome { node, seconds, result } = outcome;
        let took = seconds.map(|seconds| format!(" after {}", crate::table::duration(seconds))).unwrap_or_default();
        let power = node.text("power_state").map(|power| format!(" ({power})")).unwrap_or_default();
        if result.is_ok() {
            text += &format!("{}: {}{power}{took}\n", node.title(), node.state());
        }
        documents.push(serde_json::json!({
            "node": node.title(),
            "uuid": node.uuid(),
            "provision_state": node.state(),
            "target_provision_state": node.text("target_provision_state"),
            "power_state": node.text("power_state"),
            "seconds": seconds,
            "error": result.as_ref().err().map(output::error_document),
        }));
        errors.extend(result.err());
    }
    output.result(&text, &Value::Array(documents.clone()));
    let all = documents.len();
    match errors.len() {
        0 => Ok(()),
        1 if one => Err(errors.remove(0)),
        failed => {
            let exit = errors.iter().map(Error::exit).max().unwrap_or(crate::exit::Exit::Fault);
            let (mut interrupted, errors): (Vec<Error>, Vec<Error>) =
                errors.into_iter().partition(|error| matches!(error, Error::Interrupted { .. }));
            errors.iter().for_each(|error| output.error(error));
            // All of them were interrupted by the same hand.
            if let Some(interrupted) = interrupted.pop() {
                return Err(interrupted);
            }
            Err(Error::Some { failed, all, exit })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_done_when_it_stays_where_it_is() {
        let node = |state: &str| Node(json!({"provision_state": state, "target_provision_state": null}));
        let active = Goal::States(&["active"]);
        let now = Duration::ZERO;
        for (state, goal, standing) in [
            ("deploying", active, Standing::Going),
            ("wait call-back", active, Standing::Going),
            ("deploy hold", active, Standing::Going),
            ("active", active, Standing::Reached),
            ("deploy failed", active, Standing::Failed),
            ("available", active, Standing::Failed),
            ("error", Goal::Rest, Standing::Failed),
            ("clean failed", Goal::Rest, Standing::Failed),
            ("clean failed", Goal::Still, Standing::Reached),
            ("enroll", Goal::Rest, Standing::Reached),
            ("deleted", Goal::Rest, Standing::Reached),
            ("deleted", active, Standing::Failed),
        ] {
            assert_eq!(judge(&node(state), goal, now), standing, "{state} {goal:?}");
        }
        let strange = Node(json!({"provision_state": "defrosting", "target_provision_state": "active"}));
        assert_eq!(judge(&strange, active, now), Standing::Going);
    }

    #[test]
    fn power_is_awaited_until_the_service_has_begun_and_ended() {
        let node =
            |power: &str, target: Option<&str>| Node(json!({"power_state": power, "target_power_state": target}));
        let on = Goal::Power("power on");
        assert_eq!(judge(&node("power off", None), on, Duration::ZERO), Standing::Going);
        assert_eq!(judge(&node("power on", Some("power on")), on, POWER_GRACE), Standing::Going);
        assert_eq!(judge(&node("power on", None), on, Duration::ZERO), Standing::Reached);
        assert_eq!(judge(&node("power off", None), on, POWER_GRACE), Standing::Failed);
    }
}
