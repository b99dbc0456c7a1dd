//! What the parts of the agent share: the machine, the node, the settings, the token.

use crate::config::Settings;
use crate::contain;
use crate::container;
use crate::logs::LogBuffer;
use hardware::{Machine, MachineError, Managers};
use serde_json::{Map, Value};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;
use tokio::sync::{Notify, watch};

/// Why the agent closes its API for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Its driver locked it down: the machine leaves the network and waits to be switched off.
    Lockdown,
    /// The machine is a rescue system now: it stays on the network, without an API.
    Rescue,
}

/// A secret that lets a driver give commands. It is compared in constant time and never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token as it was given.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Whether `given` is this token. Takes as long for a nearly right one as for a wrong one of the same length.
    pub fn matches(&self, given: &str) -> bool {
        let (own, given) = (self.0.as_bytes(), given.as_bytes());
        let differing = own.iter().zip(given).fold(0_u8, |acc, (a, b)| std::hint::black_box(acc | (a ^ b)));
        !own.is_empty() && own.len() == given.len() && differing == 0
    }

    /// The token itself, for the heartbeat.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(wire::ramdisk::MASK)
    }
}

/// What both commands and hardware managers need.
pub struct Shared {
    /// The machine.
    pub machine: Arc<dyn Machine>,
    settings: RwLock<Settings>,
    node: RwLock<Option<Arc<Value>>>,
    partition_uuids: RwLock<Map<String, Value>>,
    ready: watch::Receiver<bool>,
    containers: OnceLock<container::Host>,
}

impl Shared {
    /// The start: a machine, settings, and no node yet. `ready` turns true when the machine's devices have shown up.
    pub fn new(machine: Arc<dyn Machine>, settings: Settings, ready: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self {
            machine,
            settings: RwLock::new(settings),
            node: RwLock::new(None),
            partition_uuids: RwLock::default(),
            ready,
            containers: OnceLock::new(),
        })
    }

    /// The programs that run containers, where the ramdisk has any.
    pub fn containers(&self) -> Option<&container::Host> {
        self.containers.get()
    }

    /// The ramdisk has these; the first that are told stay.
    pub(crate) fn set_containers(&self, host: container::Host) {
        let _ = self.containers.set(host);
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Settings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the settings.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The node document that was seen last, from the lookup or from a command.
    pub fn node(&self) -> Option<Arc<Value>> {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the node document.
    pub fn cache_node(&self, node: Value) {
        *self.node.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(node));
    }

    /// What `get_partition_uuids` answers: empty before an image was written.
    pub fn partition_uuids(&self) -> Map<String, Value> {
        self.partition_uuids.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records what an image brought.
    pub fn set_partition_uuids(&self, uuids: Map<String, Value>) {
        *self.partition_uuids.write().unwrap_or_else(PoisonError::into_inner) = uuids;
    }

    /// Waits until the machine's devices have shown up. To be called before its disks are looked at.
    pub async fn devices_ready(&self) {
        // An error means that nobody watches: then what is there is all there will be.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Calls the machine on a thread for blocking work.
    pub async fn on_machine<T, F>(&self, call: F) -> Result<T, MachineError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Machine) -> Result<T, MachineError> + Send + 'static,
    {
        let machine = Arc::clone(&self.machine);
        // A panic is an error to who called, so it need not end anything else.
        match tokio::task::spawn_blocking(move || contain::marked(|| call(machine.as_ref()))).await {
            Ok(done) => done,
            Err(error) => Err(MachineError::Unsupported {
                what: "the operation".to_owned(),
                reason: format!("it ended unexpectedly: {error}"),
            }),
        }
    }
}

/// The agent: what its API and its session work on.
pub struct Agent {
    /// Machine, node and settings.
    pub shared: Arc<Shared>,
    /// Who knows how to do steps here.
    pub managers: Managers,
    /// The log so far.
    pub logs: LogBuffer,
    /// When it started.
    pub started_at: SystemTime,
    /// Rings when an asynchronous command has ended: a heartbeat is due at once.
    pub command_ended: Notify,
    /// What is remembered of the session that the agent dials. Held by who holds the session.
    pub(crate) stream: tokio::sync::Mutex<crate::session::stream::Memory>,
    closing: watch::Sender<Option<Closing>>,
    token: RwLock<Option<Token>>,
    node_uuid: RwLock<Option<String>>,
}

impl Agent {
    /// An agent with the token of its settings, if they have one.
    pub fn new(shared: Arc<Shared>, managers: Managers, logs: LogBuffer) -> Arc<Self> {
        let token = shared.settings().agent_token;
        Arc::new(Self {
            shared,
            managers,
            logs,
            started_at: SystemTime::now(),
            command_ended: Notify::new(),
            stream: tokio::sync::Mutex::default(),
            closing: watch::Sender::new(None),
            token: RwLock::new(token),
            node_uuid: RwLock::new(None),
        })
    }

    /// Closes the API for good, once open requests have been answered. The first reason stays.
    pub fn close(&self, why: Closing) {
        self.closing.send_if_modified(|closing| closing.is_none() && closing.replace(why).is_none());
    }

    /// Why the API closes, if it does.
    pub fn closing(&self) -> Option<Closing> {
        *self.closing.borrow()
    }

    /// Returns when the API is to close.
    pub async fn closed(&self) {
        // The sender lives as long as this value, so waiting cannot fail.
        let _ = self.closing.subscribe().wait_for(Option::is_some).await;
    }

    /// The UUID that the lookup told. A node document that comes with a command does not change it.
    pub fn node_uuid(&self) -> Option<String> {
        self.node_uuid.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This is that node.
    pub fn set_node_uuid(&self, uuid: &str) {
        self.logs.set_node(uuid);
        *self.node_uuid.write().unwrap_or_else(PoisonError::into_inner) = Some(uuid.to_owned());
    }

    /// The token, once there is one.
    pub fn token(&self) -> Option<Token> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a token over.
    pub fn set_token(&self, token: Token) {
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    /// Whether a request with this token may give commands. Nobody may while the agent has none itself.
    pub fn admits(&self, given: Option<&str>) -> bool {
        match (self.token(), given) {
            (Some(token), Some(given)) => token.matches(given),
            (None, _) | (_, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_admits_itself_only_and_is_never_printed() {
        let token = Token::new("abcdefgh".to_owned());
        assert!(token.matches("abcdefgh"));
        for wrong in ["", "abcdefg", "abcdefghi", "abcdefgx"] {
            assert!(!token.matches(wrong), "{wrong}");
        }
        assert!(!Token::new(String::new()).matches(""));
        assert_eq!(format!("{token:?}"), "******");
    }
}
