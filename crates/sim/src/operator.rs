//! The operator of the site: a program that looks at all nodes again and again and says the verb that is due, as tools
//! that look after many machines do. It takes nothing that was refused for granted, and nothing that broke off.

use crate::bmc;
use crate::ferricd::Ferricd;
use crate::machine::Machine;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use transport::client::{Client, ClientError, Reply};
use uuid::Uuid;

/// Requests under way at once.
const AT_ONCE: usize = 32;
/// Between two looks at all nodes.
const LOOK: Duration = Duration::from_millis(500);
/// Most nodes of one page.
const PAGE: usize = 1000;
/// What is looked at.
const FIELDS: &str = "uuid,provision_state,maintenance,inspection_finished_at,last_error";
/// Between two reads of a node, beside everything else.
const READ: Duration = Duration::from_millis(50);
/// Reasons of failures that are kept for the report.
const REASONS: usize = 5;

/// A part of the way to a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Manage,
    Inspect,
    Clean,
    Deploy,
}

impl Phase {
    /// All, in their order.
    pub(crate) const ALL: [Self; 4] = [Self::Manage, Self::Inspect, Self::Clean, Self::Deploy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Manage => "manage",
            Self::Inspect => "inspect",
            Self::Clean => "clean",
            Self::Deploy => "deploy",
        }
    }

    /// What is to be done with a node.
    fn next(self, node: &Node) -> Next {
        match (self, node.state.as_str()) {
            (Self::Manage, "manageable") | (Self::Clean, "available") | (Self::Deploy, "active") => Next::Done,
            (Self::Inspect, "manageable") if node.inspected => Next::Done,
            (_, state) if node.maintenance && state.ends_with("failed") => Next::EndMaintenance,
            (Self::Manage, "enroll") | (Self::Clean, "clean failed") => Next::Say("manage"),
            (Self::Inspect, "manageable" | "inspect failed") => Next::Say("inspect"),
            (Self::Clean, "manageable") => Next::Say("provide"),
            (Self::Deploy, "available" | "deploy failed") => Next::Say("active"),
            _ => Next::Wait,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Done,
    Wait,
    Say(&'static str),
    EndMaintenance,
}

/// What is known of a node.
#[derive(Debug, Clone, Default)]
struct Node {
    state: String,
    maintenance: bool,
    inspected: bool,
    error: String,
}

impl Node {
    fn of(document: &Value) -> Option<(Uuid, Self)> {
        let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
        let node = Self {
            state: text("provision_state"),
            maintenance: document["maintenance"] == true,
            inspected: document["inspection_finished_at"].is_string(),
            error: text("last_error"),
        };
        Some((document["uuid"].as_str()?.parse().ok()?, node))
    }
}

/// What came of a phase.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) name: &'static str,
    /// Seconds from its beginning to the end of its last node.
    pub(crate) seconds: f64,
    /// Seconds from the first verb for each node to its end, in order of size.
    pub(crate) nodes: Vec<f64>,
    /// How often a node had failed and was sent on its way again, and the first reasons.
    pub(crate) failures: usize,
    pub(crate) reasons: BTreeSet<String>,
}

/// Who drives the site.
pub(crate) struct Operator {
    client: Client,
    url: String,
    image: Value,
    took: Mutex<BTreeMap<&'static str, Vec<f64>>>,
    /// Whether `ferricd` is being killed: then nobody wonders at requests without an answer.
    pub(crate) away: AtomicBool,
}

impl Operator {
    /// An operator of the API at `url` who puts `image`, as `instance_info`, on machines.
    pub(crate) fn new(client: Client, url: &str, image: Value) -> Arc<Self> {
        let (took, away) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { client, url: url.to_owned(), image, took, away })
    }

    /// Seconds that answers took, by what was asked, in order of size.
    pub(crate) fn took(&self) -> BTreeMap<&'static str, Vec<f64>> {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner).clone();
        took.values_mut().for_each(|times| times.sort_by(f64::total_cmp));
        took
    }

    async fn ask(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, ClientError> {
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let url = format!("{}{path}", self.url);
        let request = Request::builder()
            .method(method)
            .uri(&url)
            .header(wire::ironic::VERSION_HEADER, wire::ironic::Version::MAX.to_string())
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(bytes))
            .map_err(|_| ClientError::Url { url })?;
        let begun = Instant::now();
        let reply = self.client.send(request).await?;
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        took.entry(what).or_default().push(begun.elapsed().as_secs_f64());
        Ok(reply)
    }

    /// Makes the node of each machine, with a port.
    pub(crate) async fn enroll(self: &Arc<Self>, machines: &[Arc<Machine>], bmc: &str) -> Result<Passed> {
        let begun = Instant::now();
        let enrolling = machines.iter().map(|machine| async {
            let started = Instant::now();
            let node = json!({
                "uuid": machine.uuid, "name": machine.name, "driver": "redfish", "resource_class": "simulated",
                "driver_info": {
                    "redfish_address": bmc, "redfish_system_id": bmc::system(machine.number),
                    "redfish_username": bmc::USER, "redfish_password": bmc::PASSWORD,
                },
                "properties": {"cpu_arch": "x86_64", "capabilities": "boot_mode:uefi"},
            });
            self.make("/v1/nodes", &node).await?;
            self.make("/v1/ports", &json!({"node_uuid": machine.uuid, "address": machine.mac})).await?;
            anyhow::Ok(started.elapsed().as_secs_f64())
        });
        let mut passed = Passed { name: "enroll", ..Passed::default() };
        let mut enrolling = futures::stream::iter(enrolling).buffer_unordered(AT_ONCE);
        while let Some(took) = enrolling.next().await {
            passed.nodes.push(took?);
        }
        passed.seconds = begun.elapsed().as_secs_f64();
        passed.nodes.sort_by(f64::total_cmp);
        Ok(passed)
    }

    async fn make(&self, path: &str, document: &Value) -> Result<()> {
        let reply = self.ask("create", Method::POST, path, Some(document)).await?;
        if reply.status != http::StatusCode::CREATED {
            bail!("POST {path} gave {}: {}", reply.status, reply.text());
        }
        Ok(())
    }

    /// All nodes; `None` when they cannot be had at the moment.
    async fn nodes(&self) -> Result<Option<HashMap<Uuid, Node>>> {
        let mut nodes = HashMap::new();
        let mut marker = String::new();
        loop {
            let path = format!("/v1/nodes?fields={FIELDS}&limit={PAGE}{marker}");
            let reply = match self.ask("list", Method::GET, &path, None).await {
                Ok(reply) => reply,
                Err(error) => return self.excused(&error).map(|()| None),
            };
            if reply.status == http::StatusCode::SERVICE_UNAVAILABLE {
                return Ok(None);
            }
            if !reply.status.is_success() {
                bail!("GET {path} gave {}: {}", reply.status, reply.text());
            }
            let page: Value = reply.json()?;
            let listed = page["nodes"].as_array().context("a list without nodes")?;
            nodes.extend(listed.iter().filter_map(Node::of));
            match listed.last().and_then(|node| node["uuid"].as_str()) {
                Some(last) if listed.len() == PAGE => marker = format!("&marker={last}"),
                _ => return Ok(Some(nodes)),
            }
        }
    }

    /// A request without an answer is an error, unless ferricd was killed.
    fn excused(&self, error: &ClientError) -> Result<()> {
        if self.away.load(Ordering::Relaxed) {
            return Ok(());
        }
        bail!("the API did not answer: {}", transport::client::chain(error))
    }

    /// Takes all nodes through a phase; `kills`: at which parts of it, in order, ferricd is killed.
    pub(crate) async fn drive(
        self: &Arc<Self>,
        phase: Phase,
        machines: &[Arc<Machine>],
        limit: Duration,
        ferricd: &mut Ferricd,
        mut kills: Vec<f64>,
    ) -> Result<Passed> {
        let begun = Instant::now();
        let mut passed = Passed { name: phase.name(), ..Passed::default() };
        let mut said: HashMap<Uuid, Instant> = HashMap::new();
        let mut done: BTreeSet<Uuid> = BTreeSet::new();
        loop {
            ferricd.check()?;
            let nodes = self.nodes().await?.unwrap_or_default();
            for (uuid, node) in nodes.iter().filter(|(_, node)| phase.next(node) == Next::Done) {
                if done.insert(*uuid) {
                    let from = said.get(uuid).copied().unwrap_or(begun);
                    passed.nodes.push(from.elapsed().as_secs_f64());
                    tracing::info!(node = %uuid, state = node.state, "through");
                }
            }
            // Half of a phase is over when all verbs were said.
            let share = (said.len() + done.len()) as f64 / (2 * machines.len()) as f64;
            if kills.first().is_some_and(|at| *at <= share) {
                kills.remove(0);
                self.kill(ferricd, &format!("{} of {} through {}", done.len(), machines.len(), phase.name())).await?;
                continue;
            }
            if done.len() == machines.len() {
                passed.seconds = begun.elapsed().as_secs_f64();
                passed.nodes.sort_by(f64::total_cmp);
                return Ok(passed);
            }
            if begun.elapsed() > limit {
                let stuck = machines.iter().filter(|machine| !done.contains(&machine.uuid));
                return Err(self.explain(phase, stuck, machines.len() - done.len(), limit, &nodes).await);
            }
            for (uuid, node) in &nodes {
                if node.state.ends_with("failed") && phase.next(node) != Next::EndMaintenance {
                    passed.failures += 1;
                    if passed.reasons.len() < REASONS {
                        // Without what differs from node to node.
                        passed.reasons.insert(node.error.replace(&uuid.to_string(), "NODE"));
                    }
                }
            }
            self.say_what_is_due(phase, &nodes, &mut said).await?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Kills ferricd, and starts it again.
    async fn kill(&self, ferricd: &mut Ferricd, when: &str) -> Result<()> {
        self.away.store(true, Ordering::Relaxed);
        let took = ferricd.kill_and_start().await?;
        self.away.store(false, Ordering::Relaxed);
        eprintln!("[sim] ferricd killed with {when}; it answers again after {:.1} s", took.as_secs_f64());
        Ok(())
    }

    async fn say_what_is_due(
        self: &Arc<Self>,
        phase: Phase,
        nodes: &HashMap<Uuid, Node>,
        said: &mut HashMap<Uuid, Instant>,
    ) -> Result<()> {
        let due: Vec<_> = nodes.iter().map(|(uuid, node)| (*uuid, phase.next(node))).collect();
        let asks = due.into_iter().map(|(uuid, next)| async move { (uuid, self.say(uuid, next).await) });
        let mut asks = futures::stream::iter(asks).buffer_unordered(AT_ONCE);
        while let Some((uuid, outcome)) = asks.next().await {
            if outcome? {
                said.entry(uuid).or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Says a verb; whether it was accepted. One that comes at the wrong moment is said again at the next look.
    async fn say(&self, uuid: Uuid, next: Next) -> Result<bool> {
        let path = |part: &str| format!("/v1/nodes/{uuid}{part}");
        let asked = match next {
            Next::Done | Next::Wait => return Ok(false),
            Next::EndMaintenance => self.ask("maintenance", Method::DELETE, &path("/maintenance"), None).await,
            Next::Say(verb) => {
                if verb == "active" {
                    let set = json!([{"op": "add", "path": "/instance_info", "value": self.image}]);
                    match self.ask("update", Method::PATCH, &path(""), Some(&set)).await {
                        Ok(reply) if !reply.status.is_success() => return self.refused(&path(""), &reply),
                        Ok(_) => {}
                        Err(error) => return self.excused(&error).map(|()| false),
                    }
                }
                let body = json!({"target": verb});
                self.ask("verb", Method::PUT, &path("/states/provision"), Some(&body)).await
            }
        };
        match asked {
            Ok(reply) if reply.status.is_success() => Ok(true),
            Ok(reply) => self.refused(&path(""), &reply),
            Err(error) => self.excused(&error).map(|()| false),
        }
    }

    /// A node that is busy and a service that is full are met again later.
    fn refused(&self, path: &str, reply: &Reply) -> Result<bool> {
        match reply.status {
            http::StatusCode::CONFLICT | http::StatusCode::SERVICE_UNAVAILABLE => Ok(false),
            status => bail!("{path} was answered {status}: {}", reply.text()),
        }
    }

    /// Reads one node after the other, beside everything else, for ever.
    pub(crate) async fn read(self: Arc<Self>, machines: Vec<Arc<Machine>>) {
        let mut every = tokio::time::interval(READ);
        for machine in machines.iter().cycle() {
            every.tick().await;
            let (this, path) = (self.clone(), format!("/v1/nodes/{}", machine.uuid));
            // One that is slow keeps no other from being sent.
            tokio::spawn(async move {
                if let Err(error) = this.ask("show", Method::GET, &path, None).await
                    && let Err(error) = this.excused(&error)
                {
                    tracing::warn!("{error:#}");
                }
            });
        }
    }

    /// Why nodes are not where they should be.
    async fn explain(
        &self,
        phase: Phase,
        stuck: impl Iterator<Item = &Arc<Machine>>,
        count: usize,
        limit: Duration,
        nodes: &HashMap<Uuid, Node>,
    ) -> anyhow::Error {
        let mut text = format!("{count} nodes are not through {} within {} s", phase.name(), limit.as_secs());
        for machine in stuck.take(REASONS) {
            let state = nodes.get(&machine.uuid).cloned().unwrap_or_default();
            let why = self.ask("why", Method::GET, &format!("/v1/nodes/{}/why", machine.uuid), None).await;
            let why = why.map_or_else(|error| error.to_string(), |reply| reply.text());
            text += &format!(
                "\n{}: \"{}\", last error {:?}; on it runs {:?}; why: {why}",
                machine.name,
                state.state,
                state.error,
                machine.runs()
            );
        }
        anyhow::anyhow!(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(state: &str, maintenance: bool, inspected: bool) -> Node {
        Node { state: state.to_owned(), maintenance, inspected, error: String::new() }
    }

    #[test]
    fn each_phase_says_the_verb_that_is_due_and_again_after_a_failure() {
        for (phase, state, next) in [
            (Phase::Manage, "enroll", Next::Say("manage")),
            (Phase::Manage, "verifying", Next::Wait),
            (Phase::Manage, "manageable", Next::Done),
            (Phase::Inspect, "manageable", Next::Say("inspect")),
            (Phase::Inspect, "inspect wait", Next::Wait),
            (Phase::Inspect, "inspect failed", Next::Say("inspect")),
            (Phase::Clean, "manageable", Next::Say("provide")),
            (Phase::Clean, "clean failed", Next::Say("manage")),
            (Phase::Clean, "available", Next::Done),
            (Phase::Deploy, "available", Next::Say("active")),
            (Phase::Deploy, "deploy failed", Next::Say("active")),
            (Phase::Deploy, "wait call-back", Next::Wait),
            (Phase::Deploy, "active", Next::Done),
        ] {
            assert_eq!(phase.next(&node(state, false, false)), next, "{phase:?} {state}");
        }
        assert_eq!(Phase::Inspect.next(&node("manageable", false, true)), Next::Done);
        assert_eq!(Phase::Clean.next(&node("clean failed", true, true)), Next::EndMaintenance);
    }
}
