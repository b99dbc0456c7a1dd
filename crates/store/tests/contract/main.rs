//! The contract of a store, run over every implementation, and what only SQLite has.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::sync::Arc;
use store::{Epoch, FlowRecord, JournalEntry, MemoryStore, Node, Record, RecordKind, SqliteStore, Store};
use uuid::Uuid;

/// Somewhere to keep a store, so that it can be opened again.
trait Place {
    type Store: Store;
    async fn new() -> Self;
    async fn open(&self) -> Self::Store;
    async fn close(&self, store: Self::Store);
}

struct InMemory(MemoryStore);

impl Place for InMemory {
    type Store = MemoryStore;
    async fn new() -> Self {
        Self(MemoryStore::new())
    }
    async fn open(&self) -> MemoryStore {
        self.0.clone()
    }
    async fn close(&self, store: MemoryStore) {
        drop(store);
    }
}

struct InFile(tempfile::TempDir);

impl Place for InFile {
    type Store = SqliteStore;
    async fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    async fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.0.path().join("ferric.db")).await.unwrap()
    }
    async fn close(&self, store: SqliteStore) {
        store.close().await;
    }
}

/// One test per store for each function of the contract.
macro_rules! contract {
    ($($name:ident,)+) => {
        mod memory { $( #[tokio::test] async fn $name() { super::$name(<crate::InMemory as crate::Place>::new().await).await } )+ }
        mod sqlite { $( #[tokio::test] async fn $name() { super::$name(<crate::InFile as crate::Place>::new().await).await } )+ }
    };
}

mod lists;
mod nodes;
mod records;
mod sqlite;

fn time(seconds: i64, nanos: i32) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::new(1_700_000_000 + seconds, nanos)
}

fn named(name: &str) -> Node {
    let mut node = Node::new(Uuid::new_v4(), "fake-hardware", time(0, 0));
    node.name = Some(name.to_owned());
    node
}

fn entry(event: &str) -> JournalEntry {
    JournalEntry {
        uuid: Uuid::new_v4(),
        created_at: time(0, 0),
        severity: "INFO".to_owned(),
        event_type: "transition".to_owned(),
        event: event.to_owned(),
        conductor: "here".to_owned(),
    }
}

fn flow(node: Uuid, cursor: u64) -> FlowRecord {
    FlowRecord { node, document: json!({"cursor": cursor}) }
}

async fn opened<P: Place>(place: &P) -> (P::Store, Epoch) {
    let store = place.open().await;
    let epoch = store.take_over("here").await.unwrap();
    (store, epoch)
}

fn names(nodes: &[Node]) -> Vec<&str> {
    nodes.iter().filter_map(|node| node.name.as_deref()).collect()
}

fn record(kind: RecordKind, name: &str) -> Record {
    let mut record = Record::new(kind, Uuid::new_v4(), time(3, 5_000));
    record.fields.insert("name".to_owned(), json!(name));
    record
}

fn values<T: Clone>(rows: Vec<Arc<T>>) -> Vec<T> {
    rows.into_iter().map(Arc::unwrap_or_clone).collect()
}
