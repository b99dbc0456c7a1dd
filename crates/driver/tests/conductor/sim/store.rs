//! The memory store, with a moment to die before and after each commit.

use super::Fuse;
use ::store::{
    Commit, Epoch, FlowChange, FlowRecord, Inventory, JournalEntry, MemoryStore, Node, NodeFilter, Page, Port,
    PortFilter, Record, RecordFilter, RecordKind, Store, StoreError,
};
use lifecycle::provision::State;
use std::sync::Arc;
use uuid::Uuid;

pub(crate) struct SimStore {
    pub(crate) inner: MemoryStore,
    pub(crate) fuse: Arc<Fuse>,
}

impl Store for SimStore {
    async fn take_over(&self, host: &str) -> Result<Epoch, StoreError> {
        self.inner.take_over(host).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }

    async fn owner(&self) -> Result<Epoch, StoreError> {
        self.inner.owner().await
    }

    async fn create_node(&self, epoch: Epoch, node: Node) -> Result<Node, StoreError> {
        self.inner.create_node(epoch, node).await
    }

    async fn node(&self, uuid: Uuid) -> Result<Node, StoreError> {
        self.inner.node(uuid).await
    }

    async fn node_by_name(&self, name: &str) -> Result<Node, StoreError> {
        self.inner.node_by_name(name).await
    }

    async fn nodes(&self, filter: &NodeFilter, page: &Page) -> Result<Vec<Arc<Node>>, StoreError> {
        self.inner.nodes(filter, page).await
    }

    async fn count_nodes(&self, states: &[State]) -> Result<usize, StoreError> {
        self.inner.count_nodes(states).await
    }

    async fn shared_node(&self, uuid: Uuid) -> Result<Arc<Node>, StoreError> {
        self.inner.shared_node(uuid).await
    }

    async fn commit_shared(&self, epoch: Epoch, commit: Commit) -> Result<Arc<Node>, StoreError> {
        if let FlowChange::Put(flow) = &commit.flow {
            self.fuse.runs(flow);
        }
        self.fuse.tick("before a commit").await;
        let result = self.inner.commit_shared(epoch, commit).await;
        self.fuse.tick("after a commit").await;
        result
    }

    async fn delete_node(&self, epoch: Epoch, uuid: Uuid, version: u64) -> Result<(), StoreError> {
        self.inner.delete_node(epoch, uuid, version).await
    }

    async fn flow(&self, node: Uuid) -> Result<Option<FlowRecord>, StoreError> {
        self.fuse.between().await;
        self.inner.flow(node).await
    }

    async fn flows(&self) -> Result<Vec<FlowRecord>, StoreError> {
        self.inner.flows().await
    }

    async fn inventory(&self, node: Uuid) -> Result<Option<Inventory>, StoreError> {
        self.inner.inventory(node).await
    }

    async fn history(&self, node: Uuid) -> Result<Vec<JournalEntry>, StoreError> {
        self.inner.history(node).await
    }

    async fn create_port(&self, epoch: Epoch, port: Port) -> Result<Port, StoreError> {
        self.fuse.tick("before a port").await;
        let result = self.inner.create_port(epoch, port).await;
        self.fuse.tick("after a port").await;
        result
    }

    async fn port(&self, uuid: Uuid) -> Result<Port, StoreError> {
        self.inner.port(uuid).await
    }

    async fn ports(&self, filter: &PortFilter, page: &Page) -> Result<Vec<Arc<Port>>, StoreError> {
        self.inner.ports(filter, page).await
    }

    async fn update_port(&self, epoch: Epoch, port: Port) -> Result<Port, StoreError> {
        self.inner.update_port(epoch, port).await
    }

    async fn delete_port(&self, epoch: Epoch, uuid: Uuid) -> Result<(), StoreError> {
        self.inner.delete_port(epoch, uuid).await
    }

    async fn shards(&self) -> Result<Vec<(Option<String>, u64)>, StoreError> {
        self.inner.shards().await
    }

    async fn create_record(&self, epoch: Epoch, record: Record) -> Result<Record, StoreError> {
        self.inner.create_record(epoch, record).await
    }

    async fn record(&self, kind: RecordKind, uuid: Uuid) -> Result<Record, StoreError> {
        self.inner.record(kind, uuid).await
    }

    async fn record_by_name(&self, kind: RecordKind, name: &str) -> Result<Record, StoreError> {
        self.inner.record_by_name(kind, name).await
    }

    async fn records(&self, kind: RecordKind, filter: &RecordFilter, page: &Page) -> Result<Vec<Record>, StoreError> {
        self.inner.records(kind, filter, page).await
    }

    async fn update_record(&self, epoch: Epoch, record: Record) -> Result<Record, StoreError> {
        self.inner.update_record(epoch, record).await
    }

    async fn delete_record(&self, epoch: Epoch, kind: RecordKind, uuid: Uuid) -> Result<(), StoreError> {
        self.inner.delete_record(epoch, kind, uuid).await
    }
}
