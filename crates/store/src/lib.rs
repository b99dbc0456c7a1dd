//! Nodes, records, flows and history behind one contract, with two implementations: [`memory`] for tests and simulation and
//! [`sqlite`], the embedded default.
//!
//! Three rules hold for every implementation:
//! - **One commit per change.** A node, its flow and its history entries are written together or not at all.
//! - **Nothing is overwritten unseen.** A commit names the version of the node that it was made from; another version
//!   in the store is [`StoreError::Conflict`], and the caller loads again.
//! - **One owner.** A conductor that starts takes the next epoch; a commit under an older one is [`StoreError::Fenced`].

pub mod memory;
pub mod model;
pub mod record;
pub mod sqlite;
mod tables;

pub use memory::MemoryStore;
pub use model::{
    FlowRecord, Inventory, JournalEntry, Node, NodeFilter, Page, Port, PortFilter, SortDirection, SortValue,
};
pub use record::{Record, RecordChange, RecordFilter, RecordKind};
pub use sqlite::SqliteStore;

use lifecycle::provision::State;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another node or port has this name, UUID, instance or address.
    #[error("{what} {value} is taken already")]
    Duplicate {
        /// What has to be unique, such as `name`.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// It is not there.
    #[error("{what} {id} could not be found")]
    NotFound {
        /// `node`, `port`, or the kind of a record.
        what: &'static str,
        /// Its identifier.
        id: String,
    },
    /// The node changed since it was read.
    #[error("node {node} was changed by somebody else")]
    Conflict {
        /// The node.
        node: Uuid,
    },
    /// The record changed since it was read.
    #[error("{what} {uuid} was changed by somebody else")]
    RecordConflict {
        /// Its kind.
        what: &'static str,
        /// The record.
        uuid: Uuid,
    },
    /// A newer conductor owns the store.
    #[error("another conductor has taken over (epoch {newest}, this one is {mine})")]
    Fenced {
        /// The epoch of the newest owner.
        newest: u64,
        /// The epoch of the caller.
        mine: u64,
    },
    /// A list was asked for in an order that is not offered.
    #[error("lists are not sorted by {key}; choose one of: {known}")]
    SortKey {
        /// What was asked for.
        key: String,
        /// What can be asked for, joined.
        known: String,
    },
    /// The database failed.
    #[error("{doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A stored document is not what this version writes.
    #[error("stored {what} is not understood: {reason}")]
    Corrupt {
        /// Which document.
        what: String,
        /// Why.
        reason: String,
    },
}

/// How many entries of a node's history are kept; older ones go.
pub const HISTORY_KEPT: usize = 1000;

impl StoreError {
    pub(crate) fn not_found(what: &'static str, id: impl ToString) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    pub(crate) fn sort_key(key: &str, known: &[&str]) -> Self {
        Self::SortKey { key: key.chars().take(64).collect(), known: known.join(", ") }
    }
}

/// The number of a conductor's ownership; grows with every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

/// What a commit does to the node's flow.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum FlowChange {
    /// Nothing.
    #[default]
    Keep,
    /// Saves it.
    Put(FlowRecord),
    /// The flow is over.
    Clear,
}

/// When a commit has to be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Before it is acknowledged. Whatever an effect follows from is committed so.
    #[default]
    Now,
    /// Within [`SOON`] of being acknowledged; until then a crash may undo it. For what is said again anyway, such as
    /// that an agent is alive.
    Soon,
}

/// How long a commit of [`Durability::Soon`] may be in memory alone.
pub const SOON: Duration = Duration::from_secs(1);

/// One change of one node.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The node as it shall be; `version` is the one it was read with.
    pub node: Node,
    /// Its flow.
    pub flow: FlowChange,
    /// What is added to its history.
    pub journal: Vec<JournalEntry>,
    /// Its inventory, when an inspection brought one.
    pub inventory: Option<Inventory>,
    /// Records that change with it.
    pub records: Vec<RecordChange>,
    /// When it has to be on the disk. [`Durability::Soon`] is a permission: a change of more than the node's own fields
    /// is on the disk at once.
    pub durability: Durability,
}

impl Commit {
    /// A change of the node alone.
    pub fn of(node: Node) -> Self {
        Self {
            node,
            flow: FlowChange::Keep,
            journal: Vec::new(),
            inventory: None,
            records: Vec::new(),
            durability: Durability::Now,
        }
    }
}

/// The contract. Queries are read-only; no call holds a transaction across anything but the database.
pub trait Store: Send + Sync + 'static {
    /// Takes ownership for the conductor `host`: every earlier epoch is fenced off from now on.
    fn take_over(&self, host: &str) -> impl Future<Output = Result<Epoch, StoreError>> + Send;

    /// Whether the store can be read, and could save what it acknowledged last.
    fn check(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The newest epoch; 0 before anybody took over.
    fn owner(&self) -> impl Future<Output = Result<Epoch, StoreError>> + Send;

    /// Adds a node; its `version` becomes 1.
    fn create_node(&self, epoch: Epoch, node: Node) -> impl Future<Output = Result<Node, StoreError>> + Send;

    /// A node by UUID.
    fn node(&self, uuid: Uuid) -> impl Future<Output = Result<Node, StoreError>> + Send;

    /// The same for whoever only looks at it: no copy is made where the node is in memory.
    fn shared_node(&self, uuid: Uuid) -> impl Future<Output = Result<Arc<Node>, StoreError>> + Send {
        async move { self.node(uuid).await.map(Arc::new) }
    }

    /// A node by name.
    fn node_by_name(&self, name: &str) -> impl Future<Output = Result<Node, StoreError>> + Send;

    /// Nodes of a filter, one page; in the order of the page.
    fn nodes(
        &self,
        filter: &NodeFilter,
        page: &Page,
    ) -> impl Future<Output = Result<Vec<Arc<Node>>, StoreError>> + Send;

    /// How many nodes are in one of these states.
    fn count_nodes(&self, states: &[State]) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Changes a node; returns it with its new version.
    fn commit(&self, epoch: Epoch, commit: Commit) -> impl Future<Output = Result<Node, StoreError>> + Send {
        async move { self.commit_shared(epoch, commit).await.map(Arc::unwrap_or_clone) }
    }

    /// The same for whoever only looks at what was saved: no copy is made where the node is in memory.
    fn commit_shared(&self, epoch: Epoch, commit: Commit)
    -> impl Future<Output = Result<Arc<Node>, StoreError>> + Send;

    /// Removes a node with its ports, records, flow, history and inventory, when it still has this version.
    fn delete_node(
        &self,
        epoch: Epoch,
        uuid: Uuid,
        version: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The flow of a node.
    fn flow(&self, node: Uuid) -> impl Future<Output = Result<Option<FlowRecord>, StoreError>> + Send;

    /// All flows, for a conductor that starts.
    fn flows(&self) -> impl Future<Output = Result<Vec<FlowRecord>, StoreError>> + Send;

    /// The inventory of a node.
    fn inventory(&self, node: Uuid) -> impl Future<Output = Result<Option<Inventory>, StoreError>> + Send;

    /// The history of a node, oldest first, at most the newest [`HISTORY_KEPT`].
    fn history(&self, node: Uuid) -> impl Future<Output = Result<Vec<JournalEntry>, StoreError>> + Send;

    /// Adds a port.
    fn create_port(&self, epoch: Epoch, port: Port) -> impl Future<Output = Result<Port, StoreError>> + Send;

    /// A port by UUID.
    fn port(&self, uuid: Uuid) -> impl Future<Output = Result<Port, StoreError>> + Send;

    /// Ports of a filter, one page.
    fn ports(
        &self,
        filter: &PortFilter,
        page: &Page,
    ) -> impl Future<Output = Result<Vec<Arc<Port>>, StoreError>> + Send;

    /// Changes a port, when it still has this version; returns it with its new version.
    fn update_port(&self, epoch: Epoch, port: Port) -> impl Future<Output = Result<Port, StoreError>> + Send;

    /// Removes a port.
    fn delete_port(&self, epoch: Epoch, uuid: Uuid) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// How many nodes each shard has, those without a shard last.
    fn shards(&self) -> impl Future<Output = Result<Vec<(Option<String>, u64)>, StoreError>> + Send;

    /// Adds a record; its `version` becomes 1.
    fn create_record(&self, epoch: Epoch, record: Record) -> impl Future<Output = Result<Record, StoreError>> + Send;

    /// A record by UUID.
    fn record(&self, kind: RecordKind, uuid: Uuid) -> impl Future<Output = Result<Record, StoreError>> + Send;

    /// A record by name.
    fn record_by_name(&self, kind: RecordKind, name: &str) -> impl Future<Output = Result<Record, StoreError>> + Send;

    /// Records of a filter, one page; in the order of the page.
    fn records(
        &self,
        kind: RecordKind,
        filter: &RecordFilter,
        page: &Page,
    ) -> impl Future<Output = Result<Vec<Record>, StoreError>> + Send;

    /// Changes a record, when it still has this version; returns it with its new version.
    fn update_record(&self, epoch: Epoch, record: Record) -> impl Future<Output = Result<Record, StoreError>> + Send;

    /// Removes a record.
    fn delete_record(
        &self,
        epoch: Epoch,
        kind: RecordKind,
        uuid: Uuid,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}
