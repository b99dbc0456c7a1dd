//! A store in memory, for tests and simulations. Clones share their content.

use crate::model::{FlowRecord, Inventory, JournalEntry, Node, NodeFilter, Page, Port, PortFilter, SortDirection};
use crate::record::{Record, RecordChange, RecordFilter, RecordKind};
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

/// Rows are kept by their number, so that they stay in the order of creation.
#[derive(Debug, Default)]
struct Content {
    epoch: u64,
    next_row: u64,
    nodes: BTreeMap<u64, Node>,
    node_rows: BTreeMap<Uuid, u64>,
    ports: BTreeMap<u64, Port>,
    port_rows: BTreeMap<Uuid, u64>,
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

    fn node(&self, uuid: Uuid) -> Result<&Node, StoreError> {
        self.node_rows.get(&uuid).and_then(|row| self.nodes.get(row)).ok_or_else(|| StoreError::not_found("node", uuid))
    }

    fn port(&self, uuid: Uuid) -> Result<&Port, StoreError> {
        self.port_rows.get(&uuid).and_then(|row| self.ports.get(row)).ok_or_else(|| StoreError::not_found("port", uuid))
    }

    fn check_unique_node(&self, node: &Node) -> Result<(), StoreError> {
        for other in self.nodes.values().filter(|other| other.uuid != node.uuid) {
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
        if self.ports.values().any(|other| other.uuid != port.uuid && other.address == port.address) {
            return Err(StoreError::Duplicate { what: "address", value: port.address.clone() });
        }
        self.node(port.node_uuid).map(|_| ())
    }

    fn record_row(&self, kind: RecordKind, uuid: Uuid) -> Result<(u64, &Record), StoreError> {
        let mut rows = self.records.get(&kind).into_iter().flatten();
        let found = rows.find(|(_, record)| record.uuid == uuid).map(|(row, record)| (*row, record));
        found.ok_or_else(|| StoreError::not_found(kind.as_str(), uuid))
    }

    fn check_record(&self, record: &Record) -> Result<(), StoreError> {
        if let Some(node) = record.node {
            self.node(node)?;
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

    async fn owner(&self) -> Result<Epoch, StoreError> {
        Ok(Epoch(self.lock().epoch))
    }

    async fn create_node(&self, epoch: Epoch, mut node: Node) -> Result<Node, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        if content.node_rows.contains_key(&node.uuid) {
            return Err(StoreError::Duplicate { what: "uuid", value: node.uuid.to_string() });
        }
        content.check_unique_node(&node)?;
        node.version = 1;
        let row = content.row();
        content.node_rows.insert(node.uuid, row);
        content.nodes.insert(row, node.clone());
        Ok(node)
    }

    async fn node(&self, uuid: Uuid) -> Result<Node, StoreError> {
        self.lock().node(uuid).cloned()
    }

    async fn node_by_name(&self, name: &str) -> Result<Node, StoreError> {
        let content = self.lock();
        let found = content.nodes.values().find(|node| node.name.as_deref() == Some(name));
        found.cloned().ok_or_else(|| StoreError::not_found("node", name))
    }

    async fn nodes(&self, filter: &NodeFilter, page: &Page) -> Result<Vec<Node>, StoreError> {
        let content = self.lock();
        let rows = Rows { rows: &content.nodes, uuid: |node| node.uuid, keys: Node::SORT_KEYS, what: "node" };
        rows.page(page, |node, key| node.sort_value(key), |node| node_matches(node, filter))
    }

    async fn count_nodes(&self, states: &[State]) -> Result<usize, StoreError> {
        Ok(self.lock().nodes.values().filter(|node| states.contains(&node.provision_state)).count())
    }

    async fn commit(&self, epoch: Epoch, commit: Commit) -> Result<Node, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        let mut node = commit.node;
        if content.node(node.uuid)?.version != node.version {
            return Err(StoreError::Conflict { node: node.uuid });
        }
        content.check_unique_node(&node)?;
        let mut put = Vec::new();
        for change in &commit.records {
            match change {
                RecordChange::Put(record) => put.push(content.changed_record(record)?),
                RecordChange::Delete(kind, uuid) => drop(content.record_row(*kind, *uuid)?),
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
        if let Some(row) = content.node_rows.get(&node.uuid).copied() {
            content.nodes.insert(row, node.clone());
        }
        Ok(node)
    }

    async fn delete_node(&self, epoch: Epoch, uuid: Uuid, version: u64) -> Result<(), StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        if content.node(uuid)?.version != version {
            return Err(StoreError::Conflict { node: uuid });
        }
        if let Some(row) = content.node_rows.remove(&uuid) {
            content.nodes.remove(&row);
        }
        content.ports.retain(|_, port| port.node_uuid != uuid);
        let Content { ports, port_rows, .. } = &mut *content;
        port_rows.retain(|_, row| ports.contains_key(row));
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
        if content.port_rows.contains_key(&port.uuid) {
            return Err(StoreError::Duplicate { what: "uuid", value: port.uuid.to_string() });
        }
        content.check_port(&port)?;
        let row = content.row();
        content.port_rows.insert(port.uuid, row);
        content.ports.insert(row, port.clone());
        Ok(port)
    }

    async fn port(&self, uuid: Uuid) -> Result<Port, StoreError> {
        self.lock().port(uuid).cloned()
    }

    async fn ports(&self, filter: &PortFilter, page: &Page) -> Result<Vec<Port>, StoreError> {
        let content = self.lock();
        let rows = Rows { rows: &content.ports, uuid: |port| port.uuid, keys: Port::SORT_KEYS, what: "port" };
        let matches = |port: &Port| port_matches(port, content.node(port.node_uuid).ok(), filter);
        rows.page(page, |port, key| port.sort_value(key), matches)
    }

    async fn update_port(&self, epoch: Epoch, port: Port) -> Result<Port, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        content.port(port.uuid)?;
        content.check_port(&port)?;
        if let Some(row) = content.port_rows.get(&port.uuid).copied() {
            content.ports.insert(row, port.clone());
        }
        Ok(port)
    }

    async fn delete_port(&self, epoch: Epoch, uuid: Uuid) -> Result<(), StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        match content.port_rows.remove(&uuid) {
            Some(row) => drop(content.ports.remove(&row)),
            None => return Err(StoreError::not_found("port", uuid)),
        }
        Ok(())
    }

    async fn shards(&self) -> Result<Vec<(Option<String>, u64)>, StoreError> {
        let content = self.lock();
        let mut counts = BTreeMap::new();
        for node in content.nodes.values() {
            let shard = node.attribute("shard").map(str::to_owned);
            *counts.entry((shard.is_none(), shard)).or_insert(0) += 1;
        }
        Ok(counts.into_iter().map(|((_, shard), number)| (shard, number)).collect())
    }

    async fn create_record(&self, epoch: Epoch, mut record: Record) -> Result<Record, StoreError> {
        let mut content = self.lock();
        content.fence(epoch)?;
        if content.record_row(record.kind, record.uuid).is_ok() {
            return Err(StoreError::Duplicate { what: "uuid", value: record.uuid.to_string() });
        }
        content.check_record(&record)?;
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
        let none = BTreeMap::new();
        let rows = content.records.get(&kind).unwrap_or(&none);
        let rows = Rows { rows, uuid: |record| record.uuid, keys: kind.sort_keys(), what: kind.as_str() };
        rows.page(page, |record, key| record.sort_value(key), |record| filter.matches(record))
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

fn node_matches(node: &Node, filter: &NodeFilter) -> bool {
    fn same<T: PartialEq>(wanted: &Option<T>, value: &T) -> bool {
        wanted.as_ref().is_none_or(|wanted| wanted == value)
    }
    fn set<T: PartialEq>(wanted: &Option<T>, value: &Option<T>) -> bool {
        wanted.is_none() || wanted == value
    }
    let described = |part: &String| {
        let description = node.description.as_deref().unwrap_or_default().to_ascii_lowercase();
        description.contains(&part.to_ascii_lowercase())
    };
    same(&filter.provision_state, &node.provision_state)
        && same(&filter.maintenance, &node.maintenance)
        && same(&filter.associated, &node.instance_uuid.is_some())
        && set(&filter.instance_uuid, &node.instance_uuid)
        && same(&filter.driver, &node.driver)
        && set(&filter.resource_class, &node.resource_class)
        && set(&filter.fault, &node.fault)
        && same(&filter.conductor_group, &node.conductor_group)
        && set(&filter.owner, &node.owner)
        && set(&filter.lessee, &node.lessee)
        && same(&filter.retired, &node.retired)
        && filter.description_contains.as_ref().is_none_or(described)
        && filter.chassis_uuid.is_none_or(|uuid| node.attribute("chassis_uuid") == Some(uuid.to_string().as_str()))
        && one_of(&filter.shards, node.attribute("shard"))
        && same(&filter.sharded, &node.attribute("shard").is_some())
        && filter.parent_node.is_none_or(|uuid| node.attribute("parent_node") == Some(uuid.to_string().as_str()))
        && same(&filter.child, &node.attribute("parent_node").is_some())
        && filter.instance_name.as_deref().is_none_or(|name| node.attribute("instance_name") == Some(name))
        && (filter.project.is_none() || filter.project == node.owner || filter.project == node.lessee)
}

fn one_of(wanted: &Option<Vec<String>>, value: Option<&str>) -> bool {
    wanted.as_ref().is_none_or(|wanted| value.is_some_and(|value| wanted.iter().any(|wanted| wanted == value)))
}

fn port_matches(port: &Port, node: Option<&Node>, filter: &PortFilter) -> bool {
    let portgroup = port.attributes.get("portgroup_uuid").and_then(serde_json::Value::as_str);
    filter.node.is_none_or(|node| node == port.node_uuid)
        && one_of(&filter.addresses, Some(&port.address))
        && filter.portgroup.is_none_or(|uuid| portgroup == Some(uuid.to_string().as_str()))
        && (filter.name.is_none() || filter.name == port.name)
        && one_of(&filter.shards, node.and_then(|node| node.attribute("shard")))
        && one_of(&filter.conductor_groups, node.map(|node| node.conductor_group.as_str()))
}

/// A table and what a page of it needs to know.
struct Rows<'a, T> {
    rows: &'a BTreeMap<u64, T>,
    uuid: fn(&T) -> Uuid,
    keys: &'static [&'static str],
    what: &'static str,
}

impl<T: Clone> Rows<'_, T> {
    fn page<K: Ord>(
        &self,
        page: &Page,
        key: impl Fn(&T, &str) -> Option<K>,
        matches: impl Fn(&T) -> bool,
    ) -> Result<Vec<T>, StoreError> {
        let mut rows: Vec<&T> = self.rows.values().collect();
        if let Some(sort_key) = &page.sort_key {
            if !self.keys.contains(&sort_key.as_str()) {
                return Err(StoreError::sort_key(sort_key, self.keys));
            }
            rows.sort_by_cached_key(|row| (key(row, sort_key), (self.uuid)(row)));
        }
        if page.direction == SortDirection::Descending {
            rows.reverse();
        }
        // The marker need not match the filter: it may have changed since the last page.
        let start = match page.marker {
            None => 0,
            Some(marker) => {
                let position = rows.iter().position(|row| (self.uuid)(row) == marker);
                position.ok_or_else(|| StoreError::not_found(self.what, marker))? + 1
            }
        };
        let rows = rows.into_iter().skip(start).filter(|row| matches(row));
        Ok(rows.take(page.limit.unwrap_or(usize::MAX)).cloned().collect())
    }
}
