//! One moment of a site, and what can happen in it: every call goes to the real conductor on the real memory store.

use super::super::{Clock, Conductor, Parts, Settings, runner::Turn};
use super::machine::{Disk, Machine, World};
use super::store::SimStore;
use crate::command::{LookupRequest, NodeIdent, PowerTarget, ProvisionArguments};
use crate::erasure::Signer;
use crate::fault::Fault;
use crate::flow::{Action, Flow};
use futures::future::BoxFuture;
use jiff::Timestamp;
use lifecycle::provision::{Event, Kind, State, Verb, allowed_verbs, step};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use store::{Commit, Epoch, FlowChange, FlowRecord, MemoryStore, Node, Store as _};
use tokio::sync::Notify;
use uuid::Uuid;
use wire::ironic::Version;
use wire::ramdisk::{Heartbeat, MASK};

pub(super) const NODE: Uuid = Uuid::from_u128(1);
const URL: &str = "https://192.0.2.10:9999";
/// Longer than any deadline.
const LONG: Duration = Duration::from_secs(30 * 24 * 3600);

type Model = Conductor<SimStore>;
type Interruption = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Counts the places between two commits or effects, and has something else happen at one of them.
#[derive(Default)]
pub(super) struct Fuse {
    at: usize,
    count: AtomicUsize,
    happens: Mutex<Option<Interruption>>,
    dead: AtomicBool,
    bang: Notify,
}

impl Fuse {
    pub(super) async fn tick(&self, _what: &str) {
        self.between().await;
    }

    pub(super) fn runs(&self, _flow: &FlowRecord) {}

    pub(super) async fn between(&self) {
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            let happens = self.happens.lock().unwrap().take();
            match happens {
                Some(happens) => happens().await,
                None => {
                    self.dead.store(true, Ordering::SeqCst);
                    self.bang.notify_one();
                }
            }
        }
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    async fn blown(&self) {
        self.bang.notified().await;
    }
}

/// How the world answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Weather {
    Fair,
    BmcDown,
    AgentAway,
    /// What is asked for is done, and the answer is lost.
    AnswersLost,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Move {
    /// The node's worker makes a turn.
    Turn(Weather),
    /// The worker has slept as long as it wanted to.
    Nap,
    /// Nothing happens until every deadline has passed.
    Deadline,
    /// An operator asks for something.
    Verb(Verb),
    Reboot,
    /// The agent looks its node up, and says that it is there.
    Call,
    /// It tells the inventory.
    Inventory,
    /// The agent's command ends, well or badly.
    Ends(bool),
    /// The machine loses its power for a moment.
    Reset,
}

/// What happens in the middle of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Interrupt {
    /// The driver is killed.
    Kill,
    /// Another takes over and makes a turn, and the first one goes on as if nothing had been.
    TakeOver,
    Other(Move),
}

/// Whether the node's worker has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worker {
    Awake,
    /// Until somebody rings, or so long.
    Asleep(Option<Duration>),
}

/// Everything that decides what can happen.
#[derive(Clone)]
pub(super) struct Moment {
    pub(super) node: Node,
    pub(super) record: Option<FlowRecord>,
    pub(super) now: Timestamp,
    /// When the driver was started; deadlines do not run before that.
    started: Timestamp,
    pub(super) machine: Machine,
    pub(super) worker: Worker,
}

/// What came of a move.
pub(super) struct After {
    pub(super) moment: Moment,
    /// Places in it where something else could have happened.
    pub(super) places: usize,
    pub(super) wrong: Option<String>,
}

struct ModelClock(Mutex<Timestamp>);

impl Clock for ModelClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// What is deployed.
fn image() -> Map<String, Value> {
    let image = json!({
        "image_source": "http://images.test/debian.raw", "image_disk_format": "raw",
        "image_checksum": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    });
    image.as_object().unwrap().clone()
}

impl Moment {
    /// A node that was enrolled just now, on a machine that somebody has used before.
    pub(super) fn first(settings: &Settings) -> Self {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut node = Node::new(NODE, "fake-hardware", now);
        for (interface, name) in [("deploy", "direct"), ("inspect", "agent"), ("rescue", "agent")] {
            node.interfaces.insert(interface.to_owned(), name.to_owned());
        }
        settings.hardware.compose(&mut node).unwrap();
        node.instance_info = image();
        node.properties.insert("capabilities".to_owned(), Value::from("boot_mode:bios"));
        let machine = Machine { on: false, from_disk: false, disk: Disk::Dirty, agent: None, writes: 0 };
        Self { node, record: None, now, started: now, machine, worker: Worker::Asleep(None) }
    }

    pub(super) fn flow(&self) -> Option<Flow> {
        self.record.as_ref().map(|record| serde_json::from_value(record.document.clone()).unwrap())
    }

    pub(super) fn state(&self) -> State {
        self.node.provision_state
    }

    fn overdue(&self, settings: &Settings) -> bool {
        let since = self.node.provision_updated_at.unwrap_or(self.now).max(self.started);
        let waited = Duration::try_from(self.now.duration_since(since)).unwrap_or_default();
        settings.deadlines.left(self.state(), waited) == Some(Duration::ZERO)
    }

    /// What tells this moment from others. Times and random names are left out, and what nothing depends on but a word to people or
    /// fast track, which this site does not have.
    pub(super) fn key(&self, settings: &Settings) -> String {
        let node = &self.node;
        let is_shown = |key: &&String| {
            *key != "agent_last_heartbeat" && *key != "hardware_manager_version" && !key.starts_with("agent_cached")
        };
        let info: Vec<&String> = node.driver_internal_info.keys().filter(is_shown).collect();
        let agent = self.machine.agent.as_ref();
        let statuses: Option<Vec<_>> = agent.map(|agent| {
            agent.commands.iter().map(|command| (command.command_name.as_str(), &command.command_status)).collect()
        });
        let token = node.driver_internal_info.get("agent_secret_token").and_then(Value::as_str);
        let known = agent.map(|agent| (agent.token.is_some(), agent.token.as_deref() == token, agent.stops));
        let flow = self.flow().map(|flow| {
            let place =
                |id: &String| agent.and_then(|agent| agent.commands.iter().position(|command| command.id == *id));
            let intent = flow.intent.as_ref().map(|intent| {
                let command = intent.command.as_ref().map(place);
                (intent.attempt.min(3), command, intent.trouble.is_some(), intent.digest.is_empty())
            });
            let rest = flow.actions.get(flow.cursor..).unwrap_or_default().to_vec();
            let settled: Vec<_> = flow.settled.iter().filter_map(place).collect();
            let told = (flow.abort_after, flow.told_to_stop, flow.mismatches, flow.chosen.is_some());
            (flow.kind, rest, intent, settled, told)
        });
        let sleeps = match self.worker {
            Worker::Awake => 0,
            Worker::Asleep(None) => 1,
            Worker::Asleep(Some(pause)) if pause <= super::MOMENTARY => 2,
            Worker::Asleep(Some(_)) => 3,
        };
        let machine = &self.machine;
        format!(
            "{:?}",
            (
                (node.provision_state, node.target_provision_state, &node.target_power_state),
                node.reservation.is_some(),
                (info, node.instance_info.keys().collect::<Vec<_>>()),
                (flow, sleeps, self.overdue(settings)),
                (machine.on, machine.from_disk, machine.disk, machine.writes, statuses, known),
                agent.is_some_and(|agent| agent.rescued),
            )
        )
    }

    /// What is the same for all moments in which the same interruptions are worth a try.
    pub(super) fn outline(&self) -> String {
        let flow = self.flow().map(|flow| {
            let intent = flow.intent.as_ref().map(|intent| intent.command.is_some());
            (flow.kind, flow.current().cloned(), intent, flow.abort_after)
        });
        let agent = self.machine.agent.as_ref();
        let status = agent.map(|agent| agent.commands.last().map(|command| command.command_status.clone()));
        format!("{:?}", (self.state(), flow, status, self.worker == Worker::Awake))
    }

    /// How the world may answer the next turn: the BMC and the agent do not matter to everything.
    fn weathers(&self) -> Vec<Weather> {
        let flow = self.flow();
        let Some((flow, action)) = flow.as_ref().and_then(|flow| Some((flow, flow.current()?))) else {
            return vec![Weather::Fair];
        };
        match action {
            Action::PowerOff | Action::PowerOn | Action::SetBootDevice { .. } => {
                vec![Weather::Fair, Weather::BmcDown, Weather::AnswersLost]
            }
            Action::ReadPower => vec![Weather::Fair, Weather::BmcDown],
            // An agent that is reached by REST alone and has its password is silent, and one that is silent for another reason
            // cannot be told from it when the driver was killed over the request.
            Action::FinalizeRescue if flow.intent.is_some() => vec![Weather::Fair, Weather::AnswersLost],
            Action::AgentPowerOff => vec![Weather::Fair, Weather::BmcDown, Weather::AgentAway, Weather::AnswersLost],
            action if action.needs_agent() => vec![Weather::Fair, Weather::AgentAway, Weather::AnswersLost],
            _ => vec![Weather::Fair],
        }
    }

    /// What an operator may ask for; two names for one verb are one.
    pub(super) fn verbs(&self) -> Vec<Move> {
        let verbs = allowed_verbs(self.state()).into_iter();
        verbs.filter(|verb| !matches!(verb, Verb::Deploy | Verb::Undeploy)).map(Move::Verb).collect()
    }

    /// An operator takes back at once what was set aside, and says again what is to be deployed. A machine at rest runs
    /// whatever is on its disk, and each flow has to do its work anew.
    pub(super) fn tidy(&mut self) {
        self.node.maintenance = false;
        self.node.fault = None;
        if self.rests() {
            self.node.instance_info = image();
            self.machine = Machine { on: true, from_disk: true, disk: Disk::Dirty, agent: None, writes: 0 };
        }
    }

    /// What can happen now.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        match self.worker {
            Worker::Awake => {
                moves.extend(self.weathers().into_iter().map(Move::Turn));
            }
            Worker::Asleep(Some(pause)) if pause <= super::MOMENTARY => moves.extend([Move::Nap, Move::Deadline]),
            // It wakes at the deadline.
            Worker::Asleep(Some(_)) => moves.push(Move::Deadline),
            Worker::Asleep(None) => {}
        }
        if self.worker != Worker::Awake {
            moves.extend(self.verbs());
        }
        if self.rests() && matches!(self.state(), State::Active | State::Manageable) {
            moves.push(Move::Reboot);
        }
        let Some(agent) = &self.machine.agent else { return moves };
        if !agent.rescued {
            moves.push(Move::Call);
            if matches!(self.state(), State::Inspecting | State::InspectWait) {
                moves.push(Move::Inventory);
            }
        }
        if self.machine.clone().running().is_some() {
            moves.extend([Move::Ends(true), Move::Ends(false), Move::Reset]);
        } else if agent.token.is_some() && !agent.rescued {
            moves.push(Move::Reset);
        }
        moves
    }

    /// Whether nobody is at work and nothing is waited for.
    pub(super) fn rests(&self) -> bool {
        self.record.is_none() && self.worker == Worker::Asleep(None)
    }

    /// Whether the state says that somebody works or waits.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.state().kind(), Kind::Working | Kind::Waiting | Kind::Held)
    }

    /// Whether a row of the table leads from this to that.
    pub(super) fn finished(&self, after: &Self) -> bool {
        self.state().kind() != Kind::Stable
            && step(self.state(), Event::Done).is_ok_and(|row| row.next == after.state())
    }
}

/// What is the same in all moments.
pub(super) struct Rules {
    pub(super) settings: Settings,
    pub(super) signer: Signer,
}

/// A site that was set up at a moment.
#[derive(Clone)]
struct Bench {
    store: MemoryStore,
    machine: Arc<Mutex<Machine>>,
    weather: Arc<Mutex<Weather>>,
    clock: Arc<ModelClock>,
    rules: Arc<Rules>,
}

/// What a worker that has made a turn does next.
fn then(turn: &Turn, rung: bool) -> Worker {
    match turn {
        _ if rung => Worker::Awake,
        Turn::Again => Worker::Awake,
        Turn::Wait(pause) => Worker::Asleep(*pause),
        Turn::Over => Worker::Asleep(None),
    }
}

/// What the conductor that took over has left.
#[derive(Clone, Copy)]
struct TakenOver {
    version: u64,
    worker: Worker,
}

impl Bench {
    async fn at(moment: &Moment, rules: &Arc<Rules>) -> Self {
        let store = MemoryStore::new();
        let epoch = store.take_over("first").await.unwrap();
        let node = store.create_node(epoch, moment.node.clone()).await.unwrap();
        if let Some(record) = &moment.record {
            let flow = FlowChange::Put(record.clone());
            store.commit(epoch, Commit { flow, ..Commit::of(node) }).await.unwrap();
        }
        Self {
            store,
            machine: Arc::new(Mutex::new(moment.machine.clone())),
            weather: Arc::new(Mutex::new(Weather::Fair)),
            clock: Arc::new(ModelClock(Mutex::new(moment.now))),
            rules: rules.clone(),
        }
    }

    /// A conductor with a worker that has its seat, so that whoever wakes it only rings.
    /// `started`: when, since deadlines do not run before that.
    fn conductor(&self, epoch: Epoch, fuse: Arc<Fuse>, started: Timestamp) -> Arc<Model> {
        let world = World { machine: self.machine.clone(), weather: self.weather.clone(), fuse: fuse.clone() };
        let (machines, agents) = (Arc::new(world.clone()), Arc::new(world));
        let parts = Parts { clock: self.clock.clone(), machines, agents };
        let store = Arc::new(SimStore { inner: self.store.clone(), fuse });
        let (settings, signer) = (self.rules.settings.clone(), self.rules.signer.clone());
        let (mut conductor, _) = Conductor::assemble(store, epoch, settings, parts, signer);
        conductor.started = started;
        let conductor = Arc::new(conductor);
        assert!(conductor.workers.ring(NODE).is_some());
        conductor
    }

    async fn make(&self, conductor: &Arc<Model>, what: Move, pause: Option<Duration>) -> Result<Option<Turn>, Fault> {
        let ident = NodeIdent::Uuid(NODE);
        match what {
            Move::Turn(weather) => {
                *self.weather.lock().unwrap() = weather;
                return conductor.turn(NODE).await.map(Some);
            }
            Move::Nap => self.pass(pause.unwrap_or_default()),
            Move::Deadline => self.pass(LONG),
            Move::Verb(verb) => drop(conductor.provision(&ident, verb, arguments(verb)).await?),
            Move::Reboot => drop(conductor.power(&ident, PowerTarget::Reboot, None).await?),
            Move::Call => self.call(conductor, &ident).await?,
            Move::Inventory => {
                let body = json!({"inventory": {"interfaces": [{"name": "eth0", "mac_address": "52:54:00:00:00:01"}]}});
                let body = body.as_object().unwrap().clone();
                conductor.continue_inspection(body, Some(NODE), true).await?;
            }
            Move::Ends(well) => self.machine().end(well),
            Move::Reset => {
                let mut machine = self.machine();
                // Whoever loses power after the driver has done its work is another story.
                if !machine.agent.as_ref().is_some_and(|agent| agent.rescued) {
                    machine.switch(false);
                    machine.switch(true);
                }
            }
        }
        Ok(None)
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap()
    }

    fn pass(&self, time: Duration) {
        *self.clock.0.lock().unwrap() += time;
    }

    async fn call(&self, conductor: &Arc<Model>, ident: &NodeIdent) -> Result<(), Fault> {
        let known = self.machine().agent.as_ref().and_then(|agent| agent.token.clone());
        let token = match known {
            Some(token) => token,
            None => {
                let request = LookupRequest { addresses: Vec::new(), node: Some(NODE), token: true, peer: None };
                let answer = conductor.lookup(request).await?;
                match answer.config.agent_token {
                    Some(token) if token != MASK => token,
                    _ => return Ok(()),
                }
            }
        };
        if let Some(agent) = self.machine().agent.as_mut() {
            agent.token = Some(token.clone());
        }
        let heartbeat = Heartbeat {
            callback_url: URL.to_owned(),
            agent_version: Some("13.0.0".to_owned()),
            agent_token: Some(token),
            agent_verify_ca: None,
            agent_status: None,
            agent_status_message: None,
        };
        conductor.heartbeat(ident, Version(68), heartbeat).await
    }

    /// Another conductor takes over, goes on with what is saved and makes a turn.
    async fn taken_over(&self) -> Result<TakenOver, Fault> {
        let epoch = self.store.take_over("second").await?;
        let conductor = self.conductor(epoch, Arc::default(), self.clock.now());
        *self.weather.lock().unwrap() = Weather::Fair;
        let worker = if self.store.flow(NODE).await?.is_some() {
            let turn = conductor.turn(NODE).await?;
            then(&turn, conductor.workers.rung(NODE) > 0)
        } else {
            Worker::Asleep(None)
        };
        Ok(TakenOver { version: self.store.node(NODE).await?.version, worker })
    }
}

/// Makes a move from a moment, with something else in its middle at one of its places.
pub(super) async fn run(
    rules: &Arc<Rules>,
    before: &Moment,
    what: Move,
    interrupt: Option<(usize, Interrupt)>,
) -> After {
    let bench = Bench::at(before, rules).await;
    let taken: Arc<Mutex<Option<Result<TakenOver, Fault>>>> = Arc::default();
    let meant: Arc<Mutex<Option<Fault>>> = Arc::default();
    let fuse = Arc::new(Fuse { at: interrupt.map_or(usize::MAX, |(at, _)| at), ..Fuse::default() });
    let conductor = bench.conductor(Epoch(1), fuse.clone(), before.started);
    let pause = if let Worker::Asleep(pause) = before.worker { pause } else { None };
    if let Some((_, interrupt)) = interrupt {
        let (bench, taken, meant) = (bench.clone(), taken.clone(), meant.clone());
        let same = conductor.clone();
        let happens: Option<Interruption> = match interrupt {
            Interrupt::Kill => None,
            Interrupt::TakeOver => Some(Box::new(move || {
                Box::pin(async move {
                    let result = bench.taken_over().await;
                    *taken.lock().unwrap() = Some(result);
                })
            })),
            Interrupt::Other(other) => Some(Box::new(move || {
                Box::pin(async move {
                    if let Err(fault) = bench.make(&same, other, pause).await {
                        *meant.lock().unwrap() = Some(fault);
                    }
                })
            })),
        };
        *fuse.happens.lock().unwrap() = happens;
    }
    let seen = conductor.workers.rung(NODE);
    let made = tokio::select! {
        biased;
        made = bench.make(&conductor, what, pause) => Some(made),
        () = fuse.blown() => None,
    };
    let places = fuse.count.load(Ordering::SeqCst);
    let node = bench.store.node(NODE).await.unwrap();
    let record = bench.store.flow(NODE).await.unwrap();
    let rung = conductor.workers.rung(NODE) > seen;
    let taken = taken.lock().unwrap().take();
    let starts = if record.is_some() { Worker::Awake } else { Worker::Asleep(None) };
    let anew = made.is_none() || taken.is_some();
    // A worker that sleeps does so until its time has come.
    let is_time = |what: Move| matches!(what, Move::Nap | Move::Deadline) && pause.is_some();
    let passes = is_time(what) || matches!(interrupt, Some((_, Interrupt::Other(other))) if is_time(other));
    let (worker, mut wrong) = match (&made, taken) {
        (_, Some(Ok(taken))) => {
            let stale = node.version != taken.version;
            (taken.worker, stale.then(|| "a conductor that was taken over from has changed the node".to_owned()))
        }
        (_, Some(Err(fault))) => (starts, Some(format!("the conductor that took over could not: {fault}"))),
        (None, None) => (starts, None),
        (Some(Ok(Some(turn))), None) => (then(turn, rung), None),
        (Some(Err(fault)), None) if matches!(what, Move::Turn(_)) => {
            (Worker::Awake, Some(format!("a turn could not be made: {fault}")))
        }
        (Some(_), None) if rung || passes => (Worker::Awake, None),
        (Some(_), None) => (before.worker, None),
    };
    let faults = [made.and_then(Result::err), meant.lock().unwrap().take()];
    if let Some(fault) = faults.into_iter().flatten().find(|fault| matches!(fault, Fault::Internal(_))) {
        wrong = Some(fault.to_string());
    }
    let now = *bench.clock.0.lock().unwrap();
    let started = if anew { now } else { before.started };
    let mut machine = bench.machine().clone();
    let id = |record: &Option<FlowRecord>| record.as_ref().map(|record| record.document["id"].clone());
    if machine.writes > 1 {
        wrong = Some("an image was written twice".to_owned());
    }
    if id(&record) != id(&before.record) {
        machine.writes = 0;
        // What an earlier flow has done does not count for this one.
        machine.disk = if record.is_some() { Disk::Dirty } else { machine.disk };
    }
    After { moment: Moment { node, record, now, started, machine, worker }, places, wrong }
}

/// What `GET why` says at a moment.
pub(super) async fn why(rules: &Arc<Rules>, moment: &Moment) -> super::super::Why {
    let bench = Bench::at(moment, rules).await;
    bench.conductor(Epoch(1), Arc::default(), moment.started).why(&NodeIdent::Uuid(NODE)).await.unwrap()
}

fn arguments(verb: Verb) -> ProvisionArguments {
    // Each holds once on its way.
    let steps = |name: Option<&str>| {
        let hold = json!({"interface": "power", "step": "hold", "args": {}, "priority": 85});
        let step = name.map(|name| json!({"interface": "deploy", "step": name}));
        Some([hold].into_iter().chain(step).map(|step| step.as_object().unwrap().clone()).collect())
    };
    let mut arguments = ProvisionArguments::default();
    match verb {
        Verb::Clean => arguments.clean_steps = steps(Some("erase_devices")),
        Verb::Service => arguments.service_steps = steps(Some("burnin_cpu")),
        Verb::Rebuild => arguments.deploy_steps = steps(None),
        Verb::Rescue => arguments.rescue_password = Some("a word".to_owned()),
        _ => {}
    }
    arguments
}
