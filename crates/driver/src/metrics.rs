//! What is counted and timed, for `GET /metrics`: OpenMetrics text, which Prometheus reads. Labels are words of ours
//! only, so that their number is bounded: routes by their pattern, never a node, an address or what a client sent.
//!
//! [`TABLE`] is the list; `docs/metrics.md` is made from it.

use crate::fault::Fault;
use crate::flow::{Action, Flow};
use jiff::Timestamp;
use lifecycle::provision::{HeartbeatEffect, State};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use store::Node;
use uuid::Uuid;

/// A metric, for people.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Its name; a counter's samples have `_total` behind it, a histogram's `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels with what they say, in words.
    pub labels: &'static str,
    /// What it tells.
    pub help: &'static str,
}

const fn about(name: &'static str, kind: &'static str, labels: &'static str, help: &'static str) -> About {
    About { name, kind, labels, help }
}

/// All metrics.
#[rustfmt::skip]
pub const TABLE: &[About] = &[
    about("ferric_nodes", "gauge", "`state`: a provision state", "Nodes by provision state"),
    about("ferric_nodes_in_maintenance", "gauge", "", "Nodes that are set aside"),
    about("ferric_flows", "gauge", "`flow`: `deploy`, `clean`, …", "Flows that are saved: at work or waiting"),
    about("ferric_state_seconds", "histogram", "`state`: the state that was left", "Time that nodes spent in a provision state; those that were in it when the driver started are left out"),
    about("ferric_flows_ended", "counter", "`flow`; `outcome`: `done` or `failed`", "Flows that came to an end"),
    about("ferric_action_seconds", "histogram", "`flow`; `action`: what it did, such as `power_on` or `execute_step`", "Time from the first try of an action of a flow to its end"),
    about("ferric_bmc_power_read_seconds", "histogram", "`outcome`: `answered` or `failed`", "Time that a BMC took to say the power state of its machine"),
    about("ferric_heartbeats", "counter", "`effect`: `act`, `record`, `ignore` or `refused`", "Heartbeats of agents, by what they led to"),
    about("ferric_lookups", "counter", "`outcome`: `found` or `refused`", "Look-ups of agents"),
    about("ferric_enrolments", "counter", "`outcome`: `done` or `refused`", "Certificates that agents asked for with their token"),
    about("ferric_sessions", "gauge", "", "Agents that have dialled in and are connected"),
    about("ferric_session_ends", "counter", "`reason`: `gone` where the agent ended it or the network broke, else why the driver did: `superseded`, `silent`, `flood`, `sequence`, `malformed`, `too_large`, `identity`, `going_away`", "Connections of sessions that ended"),
    about("ferric_telemetry_ends", "counter", "`reason`: as above", "Logs of agents that the driver stopped taking"),
    about("ferric_watchers", "gauge", "", "Clients that watch events or follow a log"),
    about("ferric_http_requests", "counter", "`method`; `route`: its pattern; `status`", "Requests that were answered; `route` is empty where there is none"),
    about("ferric_http_request_seconds", "histogram", "`method`; `route`: its pattern", "Time from the head of a request to that of its answer"),
    about("process_resident_memory_bytes", "gauge", "", "Memory of the driver that is resident"),
    about("process_cpu_seconds", "counter", "", "Processor time of the driver"),
    about("process_open_fds", "gauge", "", "Open file descriptors of the driver"),
    about("process_start_time_seconds", "gauge", "", "When the driver started, in seconds since 1970"),
];

/// `docs/metrics.md`.
pub fn page() -> String {
    let mut text = String::from(
        "# Metrics\n\n`GET /metrics` answers in the OpenMetrics text format, which Prometheus reads. It is for operators: \
         where `auth` is \"http_basic\" it asks for a user and a password (`basic_auth` in Prometheus), and the listener \
         for agents does not have it. `GET /healthz` says that the driver runs, `GET /readyz` whether it takes requests: \
         not before the database is open and up to date, not while it cannot be written, not while the driver stops. \
         Those two are open to everybody and tell nothing else.\n\nThis page is made from `crates/driver/src/metrics.rs` \
         by `cargo xtask docs`.\n\n| metric | kind | labels | what it tells |\n|---|---|---|---|\n",
    );
    for About { name, kind, labels, help } in TABLE {
        text.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    text
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FlowLabel {
    flow: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndLabels {
    flow: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActionLabels {
    flow: &'static str,
    action: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EffectLabel {
    effect: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status: u16,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// From a millisecond to a minute: requests and calls.
fn calls() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

/// From a second to a day: what machines take.
fn work() -> Histogram {
    Histogram::new([1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0])
}

/// The metrics of one conductor.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    nodes: Family<StateLabel, Gauge>,
    in_maintenance: Gauge,
    flows: Family<FlowLabel, Gauge>,
    state_seconds: Histograms<StateLabel>,
    flows_ended: Family<EndLabels, Counter>,
    action_seconds: Histograms<ActionLabels>,
    bmc: Histograms<OutcomeLabel>,
    heartbeats: Family<EffectLabel, Counter>,
    lookups: Family<OutcomeLabel, Counter>,
    enrolments: Family<OutcomeLabel, Counter>,
    sessions: Gauge,
    session_ends: Family<ReasonLabel, Counter>,
    telemetry_ends: Family<ReasonLabel, Counter>,
    watchers: Gauge,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histograms<RouteLabels>,
    memory: Gauge,
    cpu: Counter<f64, AtomicU64>,
    descriptors: Gauge,
    /// When nodes came into their states, as far as this process saw it.
    entered: Mutex<HashMap<Uuid, Timestamp>>,
}

/// Makes a histogram.
type Buckets = fn() -> Histogram;

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let started = register(&mut registry, "process_start_time_seconds", Seconds::default());
        started.set(Timestamp::now().as_millisecond() as f64 / 1000.0);
        // As pointers: a function item has a type of its own, which the fields would have to name.
        let (calls, work) = (calls as Buckets, work as Buckets);
        Self {
            nodes: register(&mut registry, "ferric_nodes", Family::default()),
            in_maintenance: register(&mut registry, "ferric_nodes_in_maintenance", Gauge::default()),
            flows: register(&mut registry, "ferric_flows", Family::default()),
            state_seconds: register(&mut registry, "ferric_state_seconds", Family::new_with_constructor(work)),
            flows_ended: register(&mut registry, "ferric_flows_ended", Family::default()),
            action_seconds: register(&mut registry, "ferric_action_seconds", Family::new_with_constructor(work)),
            bmc: register(&mut registry, "ferric_bmc_power_read_seconds", Family::new_with_constructor(calls)),
            heartbeats: register(&mut registry, "ferric_heartbeats", Family::default()),
            lookups: register(&mut registry, "ferric_lookups", Family::default()),
            enrolments: register(&mut registry, "ferric_enrolments", Family::default()),
            sessions: register(&mut registry, "ferric_sessions", Gauge::default()),
            session_ends: register(&mut registry, "ferric_session_ends", Family::default()),
            telemetry_ends: register(&mut registry, "ferric_telemetry_ends", Family::default()),
            watchers: register(&mut registry, "ferric_watchers", Gauge::default()),
            requests: register(&mut registry, "ferric_http_requests", Family::default()),
            request_seconds: register(
                &mut registry,
                "ferric_http_request_seconds",
                Family::new_with_constructor(calls),
            ),
            memory: register(&mut registry, "process_resident_memory_bytes", Gauge::default()),
            cpu: register(&mut registry, "process_cpu_seconds", Counter::default()),
            descriptors: register(&mut registry, "process_open_fds", Gauge::default()),
            entered: Mutex::default(),
            registry,
        }
    }
}

/// Registers a metric of [`TABLE`] under its name.
fn register<M: Metric + EncodeMetric + Clone>(registry: &mut Registry, name: &'static str, metric: M) -> M {
    let help = TABLE.iter().find(|about| about.name == name).map_or("", |about| about.help);
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    pub(crate) fn heartbeat(&self, outcome: &Result<HeartbeatEffect, Fault>) {
        let effect = match outcome {
            Ok(HeartbeatEffect::Act) => "act",
            Ok(HeartbeatEffect::Record) => "record",
            Ok(HeartbeatEffect::Ignore) => "ignore",
            Err(_) => "refused",
        };
        self.heartbeats.get_or_create(&EffectLabel { effect }).inc();
    }

    pub(crate) fn lookup(&self, found: bool) {
        let outcome = if found { "found" } else { "refused" };
        self.lookups.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn enrolment(&self, done: bool) {
        let outcome = if done { "done" } else { "refused" };
        self.enrolments.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A connection of a session ended.
    pub(crate) fn session_ends(&self, reason: &'static str) {
        self.session_ends.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// The log of an agent is not taken any more.
    pub(crate) fn telemetry_ends(&self, reason: &'static str) {
        self.telemetry_ends.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// How many agents are connected, and how many clients watch.
    pub(crate) fn connected(&self, sessions: usize, watchers: usize) {
        self.sessions.set(sessions as i64);
        self.watchers.set(watchers as i64);
    }

    /// A request was answered; `route` is its method and pattern.
    pub(crate) fn request(&self, route: Option<(&'static str, &'static str)>, status: u16, took: Duration) {
        let (method, route) = route.unwrap_or_default();
        self.requests.get_or_create(&RequestLabels { method, route, status }).inc();
        self.request_seconds.get_or_create(&RouteLabels { method, route }).observe(took.as_secs_f64());
    }

    /// A BMC was asked for the power state of its machine.
    pub(crate) fn power_read(&self, answered: bool, took: Duration) {
        let outcome = if answered { "answered" } else { "failed" };
        self.bmc.get_or_create(&OutcomeLabel { outcome }).observe(took.as_secs_f64());
    }

    /// A change of a node was committed: `left` are the states that it left with it.
    pub(crate) fn changed(&self, node: Uuid, left: &[State], now: Timestamp) {
        let Some((first, passed)) = left.split_first() else { return };
        let since = self.entered.lock().unwrap_or_else(PoisonError::into_inner).insert(node, now);
        if let Some(since) = since {
            let seconds = now.duration_since(since).as_secs_f64();
            self.state_seconds.get_or_create(&StateLabel { state: first.as_str() }).observe(seconds);
        }
        for state in passed {
            self.state_seconds.get_or_create(&StateLabel { state: state.as_str() }).observe(0.0);
        }
    }

    /// A change of a flow was committed.
    pub(crate) fn flow(&self, before: Option<&Flow>, after: Option<&Flow>, failed: bool, now: Timestamp) {
        let Some(before) = before else { return };
        let flow = before.kind.as_str();
        let after = after.filter(|after| after.id == before.id);
        if after.is_none_or(|after| after.cursor != before.cursor)
            && let (Some(action), Some(intent)) = (before.current().map(tag), &before.intent)
        {
            let seconds = now.duration_since(intent.since).as_secs_f64();
            self.action_seconds.get_or_create(&ActionLabels { flow, action }).observe(seconds);
        }
        if after.is_none() {
            let outcome = if failed { "failed" } else { "done" };
            self.flows_ended.get_or_create(&EndLabels { flow, outcome }).inc();
        }
    }

    pub(crate) fn forget(&self, node: Uuid) {
        self.entered.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    /// All of it as text; `flows` are the kinds of those that are saved.
    pub(crate) fn text(&self, nodes: &[Arc<Node>], flows: impl Iterator<Item = &'static str>) -> String {
        // A state that nobody is in any more is 0 and not what it was.
        for state in State::ALL {
            let number = nodes.iter().filter(|node| node.provision_state == *state).count();
            self.nodes.get_or_create(&StateLabel { state: state.as_str() }).set(number as i64);
        }
        self.in_maintenance.set(nodes.iter().filter(|node| node.maintenance).count() as i64);
        self.flows.clear();
        for flow in flows {
            self.flows.get_or_create(&FlowLabel { flow }).inc();
        }
        self.look_at_process();
        let mut text = String::new();
        // A text takes whatever is written.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// After proc_pid_status(5), proc_pid_schedstat and proc_pid_fd(5); what cannot be read stays as it was.
    fn look_at_process(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        if let Some(kib) = resident.and_then(|kib| kib.parse::<i64>().ok()) {
            self.memory.set(kib * 1024);
        }
        if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
            self.descriptors.set(descriptors.count() as i64);
        }
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let used = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        self.cpu.inc_by((used - self.cpu.get()).max(0.0));
    }
}

/// The word under which an action is saved.
fn tag(action: &Action) -> String {
    let saved = serde_json::to_value(action).unwrap_or_default();
    saved.get("action").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// Times something.
pub(crate) struct Watch(Instant);

impl Watch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn took(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowKind, Intent};

    fn flow(cursor: usize) -> Flow {
        let mut flow =
            Flow::new(Uuid::nil(), FlowKind::Deploy, vec![Action::PowerOff, Action::PowerOn], Timestamp::UNIX_EPOCH);
        flow.cursor = cursor;
        let since = Timestamp::UNIX_EPOCH;
        flow.intent = Some(Intent { attempt: 1, digest: String::new(), id: None, command: None, since, trouble: None });
        flow
    }

    #[test]
    fn every_metric_is_in_the_table_with_its_kind_and_appears_once_something_has_happened() {
        let metrics = Metrics::default();
        let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(7);
        metrics.heartbeat(&Ok(HeartbeatEffect::Record));
        metrics.lookup(true);
        metrics.enrolment(false);
        metrics.session_ends("flood");
        metrics.telemetry_ends("flood");
        metrics.connected(1, 1);
        metrics.request(Some(("GET", "/v1/nodes/{}")), 200, Duration::from_millis(3));
        metrics.power_read(false, Duration::from_secs(3));
        metrics.changed(Uuid::nil(), &[State::Enroll], Timestamp::UNIX_EPOCH);
        metrics.changed(Uuid::nil(), &[State::Verifying], now);
        metrics.flow(Some(&flow(0)), Some(&flow(1)), false, now);
        metrics.flow(Some(&flow(1)), None, true, now);
        let node = Node::new(Uuid::nil(), "fake-hardware", now);
        let text = metrics.text(&[Arc::new(node)], ["deploy"].into_iter());
        let mut found: Vec<(&str, &str)> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        let mut expected: Vec<(&str, &str)> = TABLE.iter().map(|about| (about.name, about.kind)).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        for line in [
            "ferric_nodes{state=\"enroll\"} 1",
            "ferric_flows{flow=\"deploy\"} 1",
            "ferric_state_seconds_sum{state=\"verifying\"} 7.0",
            "ferric_action_seconds_count{flow=\"deploy\",action=\"power_off\"} 1",
            "ferric_flows_ended_total{flow=\"deploy\",outcome=\"failed\"} 1",
            "ferric_http_requests_total{method=\"GET\",route=\"/v1/nodes/{}\",status=\"200\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_generated_page_is_up_to_date() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), page(), "`cargo xtask docs` writes it anew");
    }
}
