//! A store in memory, for tests and simulations. Clones share their content.

use crate::model::{FlowRecord, Inventory, JournalEntry, Node, NodeFilter, Page, Port, PortFilter};
use crate::record::{Record, RecordChange, RecordFilter, RecordKind};
use crate::tables::{Table, Tables};
use crate::{Commit, Epoch, FlowChange, HISTORY_KEPT, Store, StoreError};
use lifecycle::provision::State;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// A store in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    content: Arc<Mutex<Content>>,
}

#[derive(Debug, Default)]
struct Content {
    epoch: u64,
    next_row: u64,
    tables: Tables,
    flows: BTreeMap<Uuid, FlowRecord>,
    inventories: BTreeMap<Uuid, Inventory>,
    history: BTreeMap<Uuid, Vec<JournalEntry>>,
    records: BTreeMap<RecordKind, BTreeMap<u64, Record>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    // A panic in a test must not turn every later call into another one; the content is changed in one go at the end
    // of each call, so it is whole.
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn row(&mut self) -> u64 {
        self.next_row += 1;
        self.next_row
    }

    fn fence(&self, epoch: Epoch) -> Result<(), StoreError> {
        if epoch.0 == self.epoch { Ok(()) } else { Err(StoreError::Fenced { newest: self.epoch, mine: epoch.0 }) }
    }

    fn check_unique_node(&self, node: &Node) -> Result<(), StoreError> {
        for other in self.tables.all_nodes().filter(|other| other.uuid != node.uuid) {
            if node.name.is_some() && other.name == node.name {
                let value = node.name.clone().unwrap_or_default();
                return Err(StoreError::Duplicate { what: "name", value });
            }
            if let Some(instance) = node.instance_uuid.filter(|_| other.instance_uuid == node.instance_uuid) {
                return Err(StoreError::Duplicate { what: "instance_uuid", value: instance.to_string() });
            }
        }
        Ok(())
    }

    fn check_port(&self, port: &Port) -> Result<(), StoreError> {
        let named = |name: &String| self.tables.has_other_port(port.uuid, name);
        if let Some(name) = port.name.clone().filter(named) {
            return Err(StoreError::Duplicate { what: "name", value: name });
        }
        if self.tables.port_by_address(&port.address).is_some_and(|other| other.uuid != port.uuid) {
            return Err(StoreError::Duplicate { what: "address", value: port.address.clone() });
        }
        self.tables.node(port.node_uuid).map(drop)
    }

    fn record_row(&self, kind: RecordKind, uuid: Uuid) -> Result<(u64, &Record), StoreError> {
        let mut rows = self.records.get(&kind).into_iter().flatten();
        let found = rows.find(|(_, record)| record.uuid == uuid).map(|(row, record)| (*row, record));
        found.ok_or_else(|| StoreError::not_found(kind.as_str(), uuid))
    }

    fn check_record(&self, record: &Record) -> Result<(), StoreError> {
        if let Some(node) = record.node {
            self.tables.node(node)?;
        }
        let others = self.records.get(&record.kind).into_iter().flatten().map(|(_, other)| other);
        for other in others.filter(|other| other.uuid != record.uuid) {
            for what in ["name", "address"] {
                if let Some(value) = record.text(what).filter(|value| other.text(what) == Some(value)) {
                    return Err(StoreError::Duplicate { what, value: value.to_owned() });
                }
            }
            if let Some(value) = record.identity().filter(|value| other.identity().as_ref() == Some(value)) {
                return Err(StoreError::Duplicate { what: "identity", value });
            }
        }
        Ok(())
    }

    fn check_new_record(&self, record: &Record) -> Result<(), StoreError> {
        if self.record_row(record.kind, record.uuid).is_ok() {
            return Err(StoreError::Duplicate { what: "uuid", value: record.uuid.to_string() });
        }
        self.check_record(record)
    }

    /// Checks what a change of a record needs, and returns its row with the record as it shall be.
    fn changed_record(&self, record: &Record) -> Result<(u64, Record), StoreError> {
        let (row, found) = self.record_row(record.kind, record.uuid)?;
        if found.version != record.version {
            return Err(StoreError::RecordConflict { what: record.kind.as_str(), uuid: record.uuid });
        }
        self.check_record(record)?;
        Ok((row, Record { version: record.version + 1, ..record.clone() }))
    }
}

impl Store for MemoryStore {
    async fn take_over(&self, _host: &str) -> Result<Epoch, StoreError> {
        let mut content = self.lock();
        content.epoch += 1;
        Ok(Epoch(content.epoch))
    }

    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn owner(&self) -> Result<Epoch, StoreError> {
        Ok(Epoch(self.lock().epoch))
    }

    async fn create_node(&self, epoch: Epoch, mut node: Node) -> Result<Node, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        if content.tables.node(node.uuid).is_ok() {
            return Err(StoreError::Duplicate { what: "uuid", value: node.uuid.to_string() });
        }
        content.check_unique_node(&node)?;
        node.version = 1;
        content.tables.put_node(Arc::new(node.clone()));
        Ok(node)
    }

    async fn node(&self, uuid: Uuid) -> Result<Node, StoreError> {
        self.lock().tables.node(uuid).map(|node| (**node).clone())
    }

    async fn shared_node(&self, uuid: Uuid) -> Result<Arc<Node>, StoreError> {
        self.lock().tables.node(uuid).cloned()
    }

    async fn node_by_name(&self, name: &str) -> Result<Node, StoreError> {
        self.lock().tables.node_by_name(name).map(|node| (**node).clone())
    }

    async fn nodes(&self, filter: &NodeFilter, page: &Page) -> Result<Vec<Arc<Node>>, StoreError> {
        self.lock().tables.nodes(filter, page)
    }

    async fn count_nodes(&self, states: &[State]) -> Result<usize, StoreError> {
        Ok(self.lock().tables.count_nodes(states))
    }

    async fn commit_shared(&self, epoch: Epoch, commit: Commit) -> Result<Arc<Node>, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        let mut node = commit.node;
        if content.tables.node(node.uuid)?.version != node.version {
            return Err(StoreError::Conflict { node: node.uuid });
        }
        content.check_unique_node(&node)?;
        let mut put = Vec::new();
        for change in &commit.records {
            match change {
                RecordChange::Create(record) => {
                    content.check_new_record(record)?;
                    let row = content.row();
                    put.push((row, Record { version: 1, ..record.clone() }));
                }
                RecordChange::Put(record) => put.push(content.changed_record(record)?),
                RecordChange::Delete(..) => {}
            }
        }
        for (row, record) in put {
            content.records.entry(record.kind).or_default().insert(row, record);
        }
        for change in &commit.records {
            if let RecordChange::Delete(kind, uuid) = change {
                content.records.entry(*kind).or_default().retain(|_, record| record.uuid != *uuid);
            }
        }
        node.version += 1;
        match commit.flow {
            FlowChange::Keep => {}
            FlowChange::Put(flow) => drop(content.flows.insert(node.uuid, flow)),
            FlowChange::Clear => drop(content.flows.remove(&node.uuid)),
        }
        if let Some(inventory) = commit.inventory {
            content.inventories.insert(node.uuid, inventory);
        }
        let history = content.history.entry(node.uuid).or_default();
        history.extend(commit.journal);
        let surplus = history.len().saturating_sub(HISTORY_KEPT);
        history.drain(..surplus);
        let node = Arc::new(node);
        content.tables.put_node(node.clone());
        Ok(node)
    }

    async fn delete_node(&self, epoch: Epoch, uuid: Uuid, version: u64) -> Result<(), StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        if content.tables.node(uuid)?.version != version {
            return Err(StoreError::Conflict { node: uuid });
        }
        content.tables.remove_node(uuid);
        content.flows.remove(&uuid);
        content.inventories.remove(&uuid);
        content.history.remove(&uuid);
        for records in content.records.values_mut() {
            records.retain(|_, record| record.node != Some(uuid));
        }
        Ok(())
    }

    async fn flow(&self, node: Uuid) -> Result<Option<FlowRecord>, StoreError> {
        Ok(self.lock().flows.get(&node).cloned())
    }

    async fn flows(&self) -> Result<Vec<FlowRecord>, StoreError> {
        Ok(self.lock().flows.values().cloned().collect())
    }

    async fn inventory(&self, node: Uuid) -> Result<Option<Inventory>, StoreError> {
        Ok(self.lock().inventories.get(&node).cloned())
    }

    async fn history(&self, node: Uuid) -> Result<Vec<JournalEntry>, StoreError> {
        Ok(self.lock().history.get(&node).cloned().unwrap_or_default())
    }

    async fn create_port(&self, epoch: Epoch, port: Port) -> Result<Port, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        if content.tables.port(port.uuid).is_ok() {
            return Err(StoreError::Duplicate { what: "uuid", value: port.uuid.to_string() });
        }
        content.check_port(&port)?;
        content.tables.put_port(Arc::new(port.clone()));
        Ok(port)
    }

    async fn port(&self, uuid: Uuid) -> Result<Port, StoreError> {
        self.lock().tables.port(uuid).map(|port| (**port).clone())
    }

    async fn ports(&self, filter: &PortFilter, page: &Page) -> Result<Vec<Arc<Port>>, StoreError> {
        self.lock().tables.ports(filter, page)
    }

    async fn update_port(&self, epoch: Epoch, mut port: Port) -> Result<Port, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        if content.tables.port(port.uuid)?.version != port.version {
            return Err(StoreError::RecordConflict { what: "port", uuid: port.uuid });
        }
        port.version += 1;
        content.check_port(&port)?;
        content.tables.put_port(Arc::new(port.clone()));
        Ok(port)
    }

    async fn delete_port(&self, epoch: Epoch, uuid: Uuid) -> Result<(), StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        content.tables.port(uuid)?;
        content.tables.remove_port(uuid);
        Ok(())
    }

    async fn shards(&self) -> Result<Vec<(Option<String>, u64)>, StoreError> {
        Ok(self.lock().tables.shards())
    }

    async fn create_record(&self, epoch: Epoch, mut record: Record) -> Result<Record, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        content.check_new_record(&record)?;
        record.version = 1;
        let row = content.row();
        content.records.entry(record.kind).or_default().insert(row, record.clone());
        Ok(record)
    }

    async fn record(&self, kind: RecordKind, uuid: Uuid) -> Result<Record, StoreError> {
        self.lock().record_row(kind, uuid).map(|(_, record)| record.clone())
    }

    async fn record_by_name(&self, kind: RecordKind, name: &str) -> Result<Record, StoreError> {
        let content = self.lock();
        let mut records = content.records.get(&kind).into_iter().flatten().map(|(_, record)| record);
        let found = records.find(|record| record.text("name") == Some(name));
        found.cloned().ok_or_else(|| StoreError::not_found(kind.as_str(), name))
    }

    async fn records(&self, kind: RecordKind, filter: &RecordFilter, page: &Page) -> Result<Vec<Record>, StoreError> {
        let content = self.lock();
        let mut rows = Table::default();
        for record in content.records.get(&kind).into_iter().flat_map(BTreeMap::values) {
            rows.put(Arc::new(record.clone()));
        }
        let rows = rows.page_of(page, kind.as_str(), kind.sort_keys(), |record: &Record| filter.matches(record))?;
        Ok(rows.into_iter().map(Arc::unwrap_or_clone).collect())
    }

    async fn update_record(&self, epoch: Epoch, record: Record) -> Result<Record, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        let (row, record) = content.changed_record(&record)?;
        content.records.entry(record.kind).or_default().insert(row, record.clone());
        Ok(record)
    }

    async fn delete_record(&self, epoch: Epoch, kind: RecordKind, uuid: Uuid) -> Result<(), StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        let (row, _) = content.record_row(kind, uuid)?;
        content.records.entry(kind).or_default().remove(&row);
        Ok(())
    }
}
