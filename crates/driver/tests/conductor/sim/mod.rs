//! A site in memory: one machine with its BMC, the agent that boots on it, and a conductor that can be killed between
//! any two of its effects and commits.

mod agent;
mod fuse;
mod machine;
mod store;
mod uki;

pub(crate) use agent::SimAgents;
pub(crate) use fuse::Fuse;
pub(crate) use machine::{Booted, Machine, SimMachines};
pub(crate) use store::SimStore;

use driver::command::{Command, NodeIdent, PatchOp, PatchOperation, ProvisionArguments};
use driver::conductor::{Clock, Conductor, Parts, Settings};
use driver::effect::machines::{POWER_OFF, POWER_ON};
use driver::fault::Fault;
use hardware::PowerState;
use jiff::{SignedDuration, Timestamp};
use lifecycle::provision::{State, Verb};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store_crate::{MemoryStore, Node, Port, Store as _};
use uuid::Uuid;

/// The crate, whose name a module of ours has too.
use ::store as store_crate;

pub(crate) type SimConductor = Conductor<SimStore>;

/// Tells the time of the paused clock.
struct SimClock {
    origin: tokio::time::Instant,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.origin.elapsed()).unwrap();
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + passed
    }
}

/// One site.
pub(crate) struct Site {
    pub(crate) machine: Arc<Machine>,
    pub(crate) store: MemoryStore,
    pub(crate) node: Uuid,
    pub(crate) settings: Settings,
    conductor: Mutex<Arc<SimConductor>>,
    clock: Arc<SimClock>,
    _folder: tempfile::TempDir,
}

pub(crate) const MAC: &str = "52:54:00:00:00:01";

impl Site {
    /// A site with an enrolled node of the hardware type `redfish` and a running conductor.
    pub(crate) async fn new() -> Self {
        Self::with(Fuse::whole(), |_| {}).await
    }

    pub(crate) async fn with(fuse: Arc<Fuse>, adjust: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ferric.efi"), uki::image()).unwrap();
        let mut settings = Settings::new("test-host", folder.path(), "http://192.0.2.1:6385");
        settings.media.ramdisk_dir = Some(folder.path().to_owned());
        // Tests about power turn it on.
        settings.sync_power_state_interval = Duration::ZERO;
        adjust(&mut settings);
        let store = MemoryStore::new();
        let machine = Machine::new(folder.path());
        let clock = Arc::new(SimClock { origin: tokio::time::Instant::now() });
        let conductor = start(&store, &settings, &clock, &machine, fuse).await;
        machine.set_conductor(&conductor);
        let mut node = Node::new(Uuid::new_v4(), "redfish", Timestamp::UNIX_EPOCH);
        node.name = Some("server-1".to_owned());
        for (key, value) in [
            ("redfish_address", "https://bmc.test"),
            ("redfish_username", "root"),
            ("redfish_password", "canary-bmc-password"),
        ] {
            node.driver_info.insert(key.to_owned(), Value::from(value));
        }
        let node = conductor.create_node(node).await.unwrap();
        let port = Port::new(Uuid::new_v4(), node.uuid, MAC, Timestamp::UNIX_EPOCH);
        conductor.create_port(port).await.unwrap();
        let conductor = Mutex::new(conductor);
        Self { machine, store, node: node.uuid, settings, conductor, clock, _folder: folder }
    }

    pub(crate) fn conductor(&self) -> Arc<SimConductor> {
        self.conductor.lock().unwrap().clone()
    }

    /// A new conductor on the same store, as after a kill: the old one is left as it is and never comes back.
    pub(crate) async fn restart(&self, fuse: Arc<Fuse>) {
        let conductor = start(&self.store, &self.settings, &self.clock, &self.machine, fuse).await;
        self.machine.set_conductor(&conductor);
        *self.conductor.lock().unwrap() = conductor;
    }

    pub(crate) fn ident(&self) -> NodeIdent {
        NodeIdent::Uuid(self.node)
    }

    pub(crate) async fn node(&self) -> Node {
        self.store.node(self.node).await.unwrap()
    }

    pub(crate) async fn verb(&self, verb: Verb) -> Result<Node, Fault> {
        self.verb_with(verb, ProvisionArguments::default()).await
    }

    pub(crate) async fn verb_with(&self, verb: Verb, arguments: ProvisionArguments) -> Result<Node, Fault> {
        self.conductor().command(&self.ident(), Command::Provision { verb, arguments }).await
    }

    /// Waits until the node is in `state` on its way to `end`; false when it got there without.
    pub(crate) async fn passes(&self, state: State, end: State) -> bool {
        loop {
            let node = self.node().await;
            let over = node.provision_state == end && self.store.flow(self.node).await.unwrap().is_none();
            if node.provision_state == state || over {
                return !over;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Waits until the node is in `state` and nothing is at work on it.
    pub(crate) async fn settle(&self, state: State) -> Node {
        for _ in 0..8000 {
            let node = self.node().await;
            if node.provision_state == state && self.store.flow(self.node).await.unwrap().is_none() {
                return node;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let node = self.node().await;
        panic!(
            "the node is in \"{}\" and not in \"{state}\": {:?}, flow {:?}",
            node.provision_state,
            node.last_error,
            self.store.flow(self.node).await
        );
    }

    /// Waits until the node is in `state`, whatever is at work.
    pub(crate) async fn reach(&self, state: State) -> Node {
        for _ in 0..8000 {
            let node = self.node().await;
            if node.provision_state == state {
                return node;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the node never was in \"{state}\": {:?}", self.node().await.last_error);
    }

    /// Takes the node to `available`, with something to deploy.
    pub(crate) async fn make_available(&self) {
        self.verb(Verb::Manage).await.unwrap();
        self.settle(State::Manageable).await;
        self.verb(Verb::Provide).await.unwrap();
        self.settle(State::Available).await;
        self.give_image().await;
        self.machine.forget_history();
    }

    /// Puts the node into a stable state as it would be there, without the way that leads to it: for tests that do so a
    /// hundred times.
    pub(crate) async fn start_in(&self, state: State) {
        let mut node = self.node().await;
        node.provision_state = state;
        node.interfaces.insert("rescue".to_owned(), "agent".to_owned());
        let on = state == State::Active;
        node.power_state = Some(if on { POWER_ON } else { POWER_OFF }.to_owned());
        node.instance_info = image();
        let epoch = self.conductor().epoch();
        self.store.commit(epoch, store_crate::Commit::of(node)).await.unwrap();
        let mut machine = self.machine.lock();
        machine.image_written = on;
        machine.power = if on { PowerState::On } else { PowerState::Off };
    }

    /// Takes the node to `manageable`, with `agent` as its rescue interface.
    pub(crate) async fn make_manageable(&self) {
        self.set(&["rescue_interface"], json!("agent")).await;
        self.verb(Verb::Manage).await.unwrap();
        self.settle(State::Manageable).await;
        self.machine.forget_history();
    }

    /// Takes the node to `active`.
    pub(crate) async fn make_active(&self) {
        self.set(&["rescue_interface"], json!("agent")).await;
        self.make_available().await;
        self.verb(Verb::Active).await.unwrap();
        self.settle(State::Active).await;
        self.machine.forget_history();
    }

    /// Replaces an attribute of the node.
    pub(crate) async fn set(&self, path: &[&str], value: Value) {
        let path = path.iter().map(|part| (*part).to_owned()).collect();
        let operations = vec![PatchOperation { op: PatchOp::Add, path, value: Some(value) }];
        let patch = Command::Patch { operations, reset_interfaces: false, expected: None };
        self.conductor().command(&self.ident(), patch).await.unwrap();
    }

    pub(crate) async fn give_image(&self) {
        self.set(&["instance_info"], Value::Object(image())).await;
    }

    pub(crate) async fn history(&self) -> Vec<String> {
        self.store.history(self.node).await.unwrap().into_iter().map(|entry| entry.event).collect()
    }
}

/// What is deployed.
fn image() -> Map<String, Value> {
    let info = json!({
        "image_source": "http://images.test/debian.raw.zst",
        "image_checksum": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "image_disk_format": "raw",
    });
    info.as_object().unwrap().clone()
}

async fn start(
    store: &MemoryStore,
    settings: &Settings,
    clock: &Arc<SimClock>,
    machine: &Arc<Machine>,
    fuse: Arc<Fuse>,
) -> Arc<SimConductor> {
    let parts = Parts {
        clock: clock.clone(),
        machines: Arc::new(SimMachines { machine: machine.clone(), fuse: fuse.clone() }),
        agents: Arc::new(SimAgents { machine: machine.clone(), fuse: fuse.clone() }),
    };
    let store = Arc::new(SimStore { inner: store.clone(), fuse });
    Conductor::start(store, settings.clone(), parts).await.unwrap()
}
