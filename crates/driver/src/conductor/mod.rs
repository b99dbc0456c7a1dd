//! The conductor: owns the nodes, applies commands to them and lets their flows run.
//!
//! | file | what is in it |
//! |---|---|
//! | `verbs.rs` | what a provision verb does: refusals, the transition, the plan |
//! | `change.rs` | load → change → commit, again when somebody else was quicker; transitions and history |
//! | `worker.rs` | one task a node while its flow has something to do; deadlines |
//! | `runner.rs` | one turn of a flow: intent, effect, outcome |
//! | `offered.rs` | steps that agents offer, as a node keeps them |
//! | `step_lists.rs` | steps of runbooks and deploy templates |
//! | `waits.rs` | waits for an agent, an operator, a time |
//! | `ramdisk.rs` | a ramdisk that stays, ends, is logged into; its logs |
//! | `progress.rs` | how far a node is, and how long that usually takes |
//! | `why.rs` | why a node is where it is |
//! | `power.rs` | power as operators ask for it, and as it turns out to be |
//! | `agent_call.rs` | commands to agents: sent once, adopted after a restart |
//! | `heartbeat.rs` | **what happens on a heartbeat** |
//! | `session.rs` | who may have a session, and what it tells |
//! | `lookup.rs`, `inspection.rs` | the other two calls of an agent |
//! | `patch.rs`, `ports.rs`, `records.rs`, `devices.rs` | changes that start no flow |
//! | `own_steps.rs` | settings and updates of firmware, made at the BMC |
//! | `erasures.rs` | what agents report of devices that they erased, signed and kept |
//! | `readings.rs` | what a BMC told of its machine's firmware, kept for the API |
//! | `rules.rs` | inspection rules: what they see, what they changed |
//! | `allocations.rs` | finding a node for a claim |
//!
//! Nothing is held while something is waited for: there is no lock on a node, only commits that name the version they
//! were made from. A wake-up carries no data; whoever is woken reads the store, so none can be lost.

mod agent_call;
mod allocations;
mod boots;
mod change;
mod children;
mod devices;
mod erasures;
mod heartbeat;
mod inspection;
mod lookup;
#[cfg(test)]
mod model;
pub(crate) mod offered;
mod own_steps;
mod patch;
mod ports;
mod power;
mod progress;
mod ramdisk;
mod readings;
mod records;
mod rules;
mod runner;
mod secret;
mod session;
mod settings;
mod step_lists;
mod verbs;
mod waits;
mod why;
mod worker;

pub use progress::{Lasting, Report, Running, Usual};
pub use ramdisk::KeepLogs;
pub use readings::{KeptComponent, KeptSetting};
pub(crate) use rules::changeable;
pub use session::EnrolError;
pub use settings::{AddPorts, Clock, Parts, Settings, SystemClock};
pub use why::{Heard, Hold, Possible, Until, Why, Work};

use crate::agents::stream::Sessions;
use crate::command::{Command, NodeIdent};
use crate::erasure::{KeyError, Signer};
use crate::events::Events;
use crate::fault::Fault;
use crate::flow::Action;
use crate::hardware_type::{self, Interface, Validation};
use crate::logs::Logs;
use crate::metrics::Metrics;
use jiff::Timestamp;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::{Epoch, Node, Store, StoreError};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::client::chain;
use uuid::Uuid;
use worker::Workers;

/// How long [`Conductor::stop`] waits for effects that are under way.
const DRAIN: Duration = Duration::from_secs(10);

/// The conductor could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Erasures cannot be signed.
    #[error("use the key that signs erasures")]
    Key(#[source] KeyError),
    /// The store does not work.
    #[error("take the store over")]
    Store(#[source] StoreError),
    /// A flow that is not understood could not be given up.
    #[error("give up a saved flow that is not understood")]
    Flow(#[source] Fault),
}

/// Owns the nodes of a store.
pub struct Conductor<S> {
    store: Arc<S>,
    epoch: Epoch,
    settings: Settings,
    parts: Parts,
    started: Timestamp,
    workers: Workers,
    board: progress::Board,
    boots: boots::Boots,
    customs: progress::Customs,
    events: Events,
    logs: Arc<Logs>,
    sessions: Arc<Sessions>,
    watch: power::Watch,
    signer: Signer,
    pub(crate) metrics: Metrics,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl<S: Store> Conductor<S> {
    /// Takes the store over and goes on with every flow that is saved in it.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(store: Arc<S>, settings: Settings, parts: Parts) -> Result<Arc<Self>, StartError> {
        let signer = Signer::open(&settings.erasure_key).map_err(StartError::Key)?;
        let epoch = store.take_over(&settings.hostname).await.map_err(StartError::Store)?;
        let flows = store.flows().await.map_err(StartError::Store)?;
        let (conductor, asked) = Self::assemble(store, epoch, settings, parts, signer);
        let conductor = Arc::new(conductor);
        tracing::info!(epoch = epoch.0, flows = flows.len(), "the conductor starts");
        for flow in flows {
            let node = flow.node;
            match change::read(flow) {
                Ok(_) => conductor.wake(node),
                Err(reason) => {
                    conductor.give_up_unread(node, &reason.to_string()).await.map_err(StartError::Flow)?;
                }
            }
        }
        conductor.tasks.spawn(conductor.clone().watch_power(asked));
        conductor.resume_allocations().await.map_err(StartError::Store)?;
        Ok(conductor)
    }

    /// Puts a conductor together, with the other end of its watch over power.
    fn assemble(
        store: Arc<S>,
        epoch: Epoch,
        settings: Settings,
        parts: Parts,
        signer: Signer,
    ) -> (Self, UnboundedReceiver<(Uuid, Duration)>) {
        let (watch, asked) = power::Watch::new();
        let conductor = Self {
            epoch,
            watch,
            signer,
            started: parts.clock.now(),
            store,
            logs: Arc::new(Logs::new(settings.logs_dir.clone())),
            settings,
            parts,
            workers: Workers::default(),
            board: progress::Board::default(),
            boots: boots::Boots::default(),
            customs: progress::Customs::default(),
            events: Events::new(epoch.0),
            sessions: Arc::default(),
            metrics: Metrics::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        (conductor, asked)
    }

    /// Stops: nothing new is begun, effects under way may finish for a moment. What is saved goes on at the next start.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "effects were still under way when the conductor stopped; they are taken up at the next start"
            );
        }
    }

    /// Enrolls a node. `provision_state` is that of `node`; interfaces that are not chosen get their defaults.
    pub async fn create_node(self: &Arc<Self>, mut node: Node) -> Result<Node, Fault> {
        self.settings.hardware.compose(&mut node)?;
        let now = self.parts.clock.now();
        node.created_at = now;
        node.provision_updated_at = None;
        let node = self.store.create_node(self.epoch, node).await?;
        self.watch_node(node.uuid);
        self.tell_state(&node, None);
        Ok(node)
    }

    /// Removes a node, where its state allows that.
    pub async fn delete_node(self: &Arc<Self>, ident: &NodeIdent) -> Result<(), Fault> {
        self.until_power_is_changed(self.find_shared(ident).await?.uuid).await?;
        let node = self.find(ident).await?;
        if node.protected {
            return Err(Fault::Forbidden(format!(
                "Node {} is protected and can not be undeployed, rebuilt or deleted; unset protected first.",
                node.uuid
            )));
        }
        if node.instance_uuid.is_some() && !node.maintenance {
            return Err(Fault::Conflict(format!("Node {} is associated with an instance.", node.uuid)));
        }
        if node.reservation.is_some() && !node.maintenance {
            let (_, flow) = self.load(node.uuid).await?;
            return Err(change::locked(&node, flow.as_ref()));
        }
        if !node.provision_state.allows_delete(node.maintenance) {
            return Err(Fault::Conflict(format!(
                "Can not delete node {} while it is in provision state \"{}\"; valid are available, manageable, enroll \
                 and adopt failed, or any with maintenance set.",
                node.uuid, node.provision_state
            )));
        }
        self.store.delete_node(self.epoch, node.uuid, node.version).await?;
        self.tell_deleted(&node);
        self.forget_logs(node.uuid);
        self.sessions.forget(node.uuid);
        self.metrics.forget(node.uuid);
        self.wake(node.uuid);
        self.parts.machines.release(node.uuid).await;
        Ok(())
    }

    /// Does something to a node. What comes back is the node with the command accepted and saved; the rest goes on by
    /// itself, whether or not the caller waits for this.
    ///
    /// # Errors
    /// [`Fault`]; the node is as it was.
    pub async fn command(self: &Arc<Self>, ident: &NodeIdent, command: Command) -> Result<Node, Fault> {
        let (this, ident) = (self.clone(), ident.clone());
        self.detached(async move {
            let found = this.find_shared(&ident).await?.uuid;
            this.until_power_is_changed(found).await?;
            match command {
                Command::Provision { verb, arguments } => this.provision(&ident, verb, arguments).await,
                Command::Power { target, timeout } => this.power(&ident, target, timeout).await,
                Command::Maintenance { on, reason } => this.maintenance(&ident, on, reason).await,
                Command::BootDevice { device, persistent } => this.boot_device(&ident, &device, persistent).await,
                Command::Traits(traits) => this.set_traits(&ident, traits).await,
                Command::Patch { operations, reset_interfaces, expected } => {
                    this.patch(&ident, &operations, reset_interfaces, expected.as_deref()).await
                }
                Command::InsertMedia { url } => this.virtual_media(&ident, Some(&url)).await,
                Command::EjectMedia => this.virtual_media(&ident, None).await,
                Command::TargetRaid(config) => this.target_raid(&ident, config).await,
                Command::BootMode(mode) => this.change_firmware(&ident, Action::SetBootMode { mode }).await,
                Command::SecureBoot(on) => this.change_firmware(&ident, Action::SetSecureBoot { on }).await,
                Command::InjectNmi => this.inject_nmi(&ident).await,
                Command::Indicator { component, name, light } => {
                    this.set_indicator(&ident, &component, &name, light).await
                }
                Command::Console { on } => this.console(&ident, on).await,
            }
        })
        .await
    }

    /// Whether a node's settings make sense, interface by interface.
    pub async fn validate(&self, ident: &NodeIdent) -> Result<Validation, Fault> {
        Ok(hardware_type::validate(&self.find(ident).await?))
    }

    /// The store, for queries.
    pub fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// What happens, for watchers.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What ramdisks log.
    pub fn logs(&self) -> &Arc<Logs> {
        &self.logs
    }

    /// Whether it has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The name under which this conductor owns nodes.
    pub fn hostname(&self) -> &str {
        &self.settings.hostname
    }

    /// The number of this conductor's ownership; when the store has a newer one, another conductor has taken over.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The time by the conductor's clock.
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The file to serve under `/boot/<place>`; `None` when there is none.
    pub fn boot_file(&self, place: &str) -> Option<PathBuf> {
        crate::effect::media::file_of(&self.settings.media.data_dir, place).filter(|file| file.is_file())
    }

    /// A node by UUID or name.
    ///
    /// # Errors
    /// [`Fault::NotFound`] in the words of the API.
    pub async fn find(&self, ident: &NodeIdent) -> Result<Node, Fault> {
        self.find_shared(ident).await.map(Arc::unwrap_or_clone)
    }

    /// The same for whoever only looks at it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub async fn find_shared(&self, ident: &NodeIdent) -> Result<Arc<Node>, Fault> {
        let found = match ident {
            NodeIdent::Uuid(uuid) => self.store.shared_node(*uuid).await,
            NodeIdent::Name(name) => self.store.node_by_name(name).await.map(Arc::new),
        };
        found.map_err(|error| match error {
            StoreError::NotFound { .. } => {
                let id = match ident {
                    NodeIdent::Uuid(uuid) => uuid.to_string(),
                    NodeIdent::Name(name) => name.clone(),
                };
                Fault::NotFound(format!("Node {id} could not be found."))
            }
            other => other.into(),
        })
    }

    /// Runs something to its end, whatever becomes of the request that asked for it.
    async fn detached<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        if self.stop.is_cancelled() {
            return Err(Fault::Unavailable("The service is stopping; try again in a moment.".to_owned()));
        }
        match self.tasks.spawn(work).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "a command ended unexpectedly");
                Err(Fault::Internal("The command ended unexpectedly; the log has details.".to_owned()))
            }
        }
    }

    /// What the node's machine boots next, and whether for good; `None` where its BMC does not say.
    ///
    /// # Errors
    /// [`Fault`]: the node cannot be asked, or its BMC does not answer.
    pub async fn boot_device_of(&self, ident: &NodeIdent) -> Result<Option<(hardware::BootDevice, bool)>, Fault> {
        let node = self.find(ident).await?;
        if let Some(problem) = hardware_type::validate(&node).first_problem(&[Interface::Management]) {
            return Err(Fault::Invalid(problem));
        }
        let found = match self.parts.machines.of(&node).await {
            Ok(machine) => machine.boot_device().await,
            Err(error) => Err(error),
        };
        found.map_err(|error| Fault::Invalid(format!("Failed to get the boot device: {}", chain(&error))))
    }

    async fn boot_device(self: &Arc<Self>, ident: &NodeIdent, device: &str, persistent: bool) -> Result<Node, Fault> {
        let device = match device {
            "pxe" => hardware::BootDevice::Pxe,
            "disk" => hardware::BootDevice::Disk,
            "cdrom" => hardware::BootDevice::Cdrom,
            other => {
                return Err(Fault::Invalid(format!(
                    "Invalid boot device {other} specified. Supported are: pxe, disk, cdrom."
                )));
            }
        };
        let node = self.find(ident).await?;
        let (node, flow) = self.load(node.uuid).await?;
        if flow.is_some() || node.reservation.is_some() {
            return Err(change::locked(&node, flow.as_ref()));
        }
        if let Some(problem) = hardware_type::validate(&node).first_problem(&[Interface::Management]) {
            return Err(Fault::Invalid(problem));
        }
        let machine = self.parts.machines.of(&node).await;
        let set = match machine {
            Ok(machine) => machine.set_boot_device(device, persistent).await,
            Err(error) => Err(error),
        };
        set.map_err(|error| Fault::Invalid(format!("Failed to set the boot device: {}", chain(&error))))?;
        Ok(Arc::unwrap_or_clone(node))
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Duplicate { what, value } => match *what {
                "name" => Self::Conflict(format!("A node with name {value} already exists.")),
                "uuid" => Self::Conflict(format!("A node with UUID {value} already exists.")),
                "address" => Self::Conflict(format!("A port with MAC address {value} already exists.")),
                "instance_uuid" => Self::Conflict(format!("Instance {value} is already associated with a node.")),
                _ => Self::Conflict(error.to_string()),
            },
            StoreError::NotFound { what, id } => {
                let mut name = (*what).to_owned();
                if let Some(first) = name.get_mut(..1) {
                    first.make_ascii_uppercase();
                }
                Self::NotFound(format!("{name} {id} could not be found."))
            }
            StoreError::Conflict { .. } | StoreError::RecordConflict { .. } => Self::Conflict(error.to_string()),
            StoreError::SortKey { .. } => Self::Invalid(error.to_string()),
            StoreError::Fenced { .. } => {
                tracing::error!(%error, "this conductor owns the store no longer");
                Self::Unavailable("Another conductor has taken over; ask that one.".to_owned())
            }
            StoreError::Database { .. } | StoreError::Corrupt { .. } => {
                tracing::error!(error = %chain(&error), "the store failed");
                Self::Internal("The database failed; the log has details.".to_owned())
            }
        }
    }
}
