//! Nodes and ports in memory with their queries: what every store answers from, whatever it keeps them in.

use crate::StoreError;
use crate::model::{Node, NodeFilter, Page, Port, PortFilter, SortDirection, SortValue};
use crate::record::Record;
use lifecycle::provision::State;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// Nodes and ports.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    nodes: Table<Node>,
    ports: Table<Port>,
}

/// What can be in a [`Table`].
pub(crate) trait Row {
    fn uuid(&self) -> Uuid;
    fn sort_value(&self, key: &str) -> Option<SortValue>;
    /// The text that no two rows have in common, and by which a row is found.
    fn unique(&self) -> Option<&str>;
}

impl Row for Node {
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn sort_value(&self, key: &str) -> Option<SortValue> {
        self.sort_value(key)
    }
    fn unique(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

impl Row for Port {
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn sort_value(&self, key: &str) -> Option<SortValue> {
        self.sort_value(key)
    }
    fn unique(&self) -> Option<&str> {
        Some(&self.address)
    }
}

impl Row for Record {
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn sort_value(&self, key: &str) -> Option<SortValue> {
        self.sort_value(key)
    }
    fn unique(&self) -> Option<&str> {
        self.text("name")
    }
}

/// Rows by their number, so that they stay in the order of creation.
#[derive(Debug)]
pub(crate) struct Table<T> {
    rows: BTreeMap<u64, Arc<T>>,
    numbers: HashMap<Uuid, u64>,
    unique: HashMap<String, u64>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), numbers: HashMap::new(), unique: HashMap::new() }
    }
}

impl<T: Row> Table<T> {
    fn get(&self, uuid: Uuid) -> Option<&Arc<T>> {
        self.numbers.get(&uuid).and_then(|number| self.rows.get(number))
    }

    fn by_unique(&self, text: &str) -> Option<&Arc<T>> {
        self.unique.get(text).and_then(|number| self.rows.get(number))
    }

    /// Adds a row behind all others, or puts it in the place of the one with its UUID.
    pub(crate) fn put(&mut self, row: Arc<T>) {
        let behind = self.rows.last_key_value().map_or(0, |(number, _)| number + 1);
        let number = *self.numbers.entry(row.uuid()).or_insert(behind);
        let unique = row.unique().map(str::to_owned);
        let old = self.rows.insert(number, row);
        let old = old.as_ref().and_then(|old| old.unique());
        if old != unique.as_deref() {
            if let Some(old) = old {
                self.unique.remove(old);
            }
            self.unique.extend(unique.map(|unique| (unique, number)));
        }
    }

    fn remove(&mut self, uuid: Uuid) {
        let row = self.numbers.remove(&uuid).and_then(|number| self.rows.remove(&number));
        if let Some(unique) = row.as_ref().and_then(|row| row.unique()) {
            self.unique.remove(unique);
        }
    }

    /// A page of what matches; `what` and `keys` are the rows' name and what they can be sorted by.
    pub(crate) fn page_of(
        &self,
        page: &Page,
        what: &'static str,
        keys: &[&str],
        matches: impl Fn(&T) -> bool,
    ) -> Result<Vec<Arc<T>>, StoreError> {
        if let Some(key) = page.sort_key.as_deref().filter(|key| !keys.contains(key)) {
            return Err(StoreError::sort_key(key, keys));
        }
        // The marker need not match the filter: it may have changed since the last page.
        let marker = match page.marker {
            None => None,
            Some(uuid) => Some(self.get(uuid).ok_or_else(|| StoreError::not_found(what, uuid))?),
        };
        let mut rows: Vec<&Arc<T>> = self.rows.values().collect();
        if let Some(key) = &page.sort_key {
            rows.sort_by_cached_key(|row| (row.sort_value(key), row.uuid()));
        }
        if page.direction == SortDirection::Descending {
            rows.reverse();
        }
        let marked = marker.and_then(|marker| rows.iter().position(|row| Arc::ptr_eq(row, marker)));
        let rows = rows.into_iter().skip(marked.map_or(0, |marked| marked + 1)).filter(|row| matches(row));
        Ok(rows.take(page.limit.unwrap_or(usize::MAX)).cloned().collect())
    }
}

impl Tables {
    pub(crate) fn node(&self, uuid: Uuid) -> Result<&Arc<Node>, StoreError> {
        self.nodes.get(uuid).ok_or_else(|| StoreError::not_found("node", uuid))
    }

    pub(crate) fn node_by_name(&self, name: &str) -> Result<&Arc<Node>, StoreError> {
        self.nodes.by_unique(name).ok_or_else(|| StoreError::not_found("node", name))
    }

    pub(crate) fn nodes(&self, filter: &NodeFilter, page: &Page) -> Result<Vec<Arc<Node>>, StoreError> {
        self.nodes.page_of(page, "node", Node::SORT_KEYS, |node| node_matches(node, filter))
    }

    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.rows.values()
    }

    pub(crate) fn count_nodes(&self, states: &[State]) -> usize {
        self.all_nodes().filter(|node| states.contains(&node.provision_state)).count()
    }

    pub(crate) fn shards(&self) -> Vec<(Option<String>, u64)> {
        let mut counts = BTreeMap::new();
        for node in self.all_nodes() {
            let shard = node.attribute("shard").map(str::to_owned);
            *counts.entry((shard.is_none(), shard)).or_insert(0) += 1;
        }
        counts.into_iter().map(|((_, shard), number)| (shard, number)).collect()
    }

    pub(crate) fn put_node(&mut self, node: Arc<Node>) {
        self.nodes.put(node);
    }

    /// Removes a node with its ports.
    pub(crate) fn remove_node(&mut self, uuid: Uuid) {
        self.nodes.remove(uuid);
        let ports = self.ports.rows.values().filter(|port| port.node_uuid == uuid).map(|port| port.uuid);
        for port in ports.collect::<Vec<_>>() {
            self.ports.remove(port);
        }
    }

    pub(crate) fn port(&self, uuid: Uuid) -> Result<&Arc<Port>, StoreError> {
        self.ports.get(uuid).ok_or_else(|| StoreError::not_found("port", uuid))
    }

    pub(crate) fn port_by_address(&self, address: &str) -> Option<&Arc<Port>> {
        self.ports.by_unique(address)
    }

    /// Whether another port than this has a name.
    pub(crate) fn has_other_port(&self, port: Uuid, name: &str) -> bool {
        self.ports.rows.values().any(|other| other.uuid != port && other.name.as_deref() == Some(name))
    }

    pub(crate) fn ports(&self, filter: &PortFilter, page: &Page) -> Result<Vec<Arc<Port>>, StoreError> {
        let matches = |port: &Port| port_matches(port, self.node(port.node_uuid).ok().map(|node| &**node), filter);
        match &filter.addresses {
            // What agents look up by: the ports of a few addresses among those of a whole site.
            Some(addresses) if *page == Page::default() => {
                let mut rows: Vec<u64> =
                    addresses.iter().filter_map(|one| self.ports.unique.get(one)).copied().collect();
                rows.sort_unstable();
                rows.dedup();
                let ports = rows.iter().filter_map(|row| self.ports.rows.get(row));
                Ok(ports.filter(|port| matches(port)).cloned().collect())
            }
            _ => self.ports.page_of(page, "port", Port::SORT_KEYS, matches),
        }
    }

    pub(crate) fn put_port(&mut self, port: Arc<Port>) {
        self.ports.put(port);
    }

    pub(crate) fn remove_port(&mut self, uuid: Uuid) {
        self.ports.remove(uuid);
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
