//! The contract of a store, run over every implementation.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use jiff::{SignedDuration, Timestamp};
use lifecycle::provision::State;
use serde_json::json;
use store::sqlite::maintenance;
use store::{
    Commit, Epoch, FlowChange, FlowRecord, HISTORY_KEPT, Inventory, JournalEntry, MemoryStore, Node, NodeFilter, Page,
    Port, PortFilter, Record, RecordChange, RecordFilter, RecordKind, SortDirection, SqliteStore, Store, StoreError,
};
use uuid::Uuid;

/// Somewhere to keep a store, so that it can be opened again.
trait Place {
    type Store: Store;
    async fn new() -> Self;
    async fn open(&self) -> Self::Store;
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
}

/// One test per store for each function of the contract.
macro_rules! contract {
    ($($name:ident,)+) => {
        mod memory { $( #[tokio::test] async fn $name() { super::$name(<super::InMemory as super::Place>::new().await).await } )+ }
        mod sqlite { $( #[tokio::test] async fn $name() { super::$name(<super::InFile as super::Place>::new().await).await } )+ }
    };
}

contract! {
    a_node_is_found_as_it_was_made,
    a_commit_from_an_old_version_is_a_conflict,
    a_stale_owner_is_refused_whatever_it_writes,
    names_uuids_instances_and_addresses_are_unique,
    a_refused_commit_leaves_nothing_behind,
    a_deleted_node_takes_everything_with_it,
    what_is_not_there_is_not_found,
    flows_survive_a_reopened_store,
    nodes_are_listed_in_the_order_of_their_creation,
    nodes_are_sorted_by_every_key_and_paged_without_gaps,
    an_unknown_sort_key_is_refused_with_the_known_ones,
    every_filter_takes_only_what_matches,
    nodes_are_counted_by_their_states,
    ports_are_filtered_sorted_and_changed,
    history_keeps_its_order_and_only_the_newest,
    commits_of_two_tasks_on_one_node_lose_nothing,
    a_record_of_any_kind_is_found_as_it_was_made,
    a_record_is_changed_from_what_it_is_now_only,
    records_are_unique_by_name_address_and_identity,
    records_are_filtered_sorted_and_paged,
    records_go_with_their_node_and_change_with_it_or_not_at_all,
    shards_are_counted,
}

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

async fn a_node_is_found_as_it_was_made<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let mut node = named("n1");
    node.driver_info.insert("redfish_password".to_owned(), json!("ünïcode \" secret"));
    node.interfaces.insert("power".to_owned(), "redfish".to_owned());
    node.provision_state = State::DeployWait;
    node.updated_at = Some(time(5, 123_456_789));
    node.attributes.insert("shard".to_owned(), json!(null));
    let made = store.create_node(epoch, node.clone()).await.unwrap();
    node.version = 1;
    assert_eq!(made, node);
    assert_eq!(store.node(node.uuid).await.unwrap(), node);
    assert_eq!(store.node_by_name("n1").await.unwrap(), node);
    let mut changed = node.clone();
    changed.name = Some("n2".to_owned());
    let changed = store.commit(epoch, Commit::of(changed)).await.unwrap();
    assert_eq!(changed.version, 2);
    assert_eq!(store.node_by_name("n2").await.unwrap(), changed);
    assert!(matches!(store.node_by_name("n1").await, Err(StoreError::NotFound { .. })));
}

async fn a_commit_from_an_old_version_is_a_conflict<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let first = store.create_node(epoch, named("n1")).await.unwrap();
    store.commit(epoch, Commit::of(first.clone())).await.unwrap();
    let error = store.commit(epoch, Commit::of(first.clone())).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { node } if node == first.uuid), "{error}");
    let error = store.delete_node(epoch, first.uuid, first.version).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { node } if node == first.uuid), "{error}");
}

async fn a_stale_owner_is_refused_whatever_it_writes<P: Place>(place: P) {
    let (store, mine) = opened(&place).await;
    let node = store.create_node(mine, named("n1")).await.unwrap();
    let port = Port::new(Uuid::new_v4(), node.uuid, "52:54:00:00:00:01", time(0, 0));
    store.create_port(mine, port.clone()).await.unwrap();
    let newest = place.open().await.take_over("there").await.unwrap();
    assert!(newest > mine);
    assert_eq!(store.owner().await.unwrap(), newest);
    let other_port = Port::new(Uuid::new_v4(), node.uuid, "52:54:00:00:00:02", time(0, 0));
    let refused = [
        store.commit(mine, Commit::of(node.clone())).await.unwrap_err(),
        store.create_node(mine, named("n2")).await.unwrap_err(),
        store.delete_node(mine, node.uuid, node.version).await.unwrap_err(),
        store.create_port(mine, other_port).await.unwrap_err(),
        store.update_port(mine, port.clone()).await.unwrap_err(),
        store.delete_port(mine, port.uuid).await.unwrap_err(),
    ];
    for error in refused {
        let fenced = matches!(error, StoreError::Fenced { newest: n, mine: m } if n == newest.0 && m == mine.0);
        assert!(fenced, "{error}");
    }
    assert_eq!(store.node(node.uuid).await.unwrap(), node);
    assert_eq!(store.port(port.uuid).await.unwrap(), port);
    store.commit(newest, Commit::of(node)).await.unwrap();
}

async fn names_uuids_instances_and_addresses_are_unique<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let instance = Uuid::new_v4();
    let mut first = named("n1");
    first.instance_uuid = Some(instance);
    let first = store.create_node(epoch, first).await.unwrap();
    let second = store.create_node(epoch, named("n2")).await.unwrap();
    let duplicate = |error: StoreError, column: &str, taken: &str| match error {
        StoreError::Duplicate { what, value } => assert_eq!((what, value.as_str()), (column, taken)),
        other => panic!("{other}"),
    };
    duplicate(store.create_node(epoch, named("n1")).await.unwrap_err(), "name", "n1");
    let mut same = named("n3");
    same.uuid = first.uuid;
    duplicate(store.create_node(epoch, same).await.unwrap_err(), "uuid", &first.uuid.to_string());
    let mut same = second.clone();
    same.instance_uuid = Some(instance);
    duplicate(store.commit(epoch, Commit::of(same)).await.unwrap_err(), "instance_uuid", &instance.to_string());
    let mut same = second.clone();
    same.name = Some("n1".to_owned());
    duplicate(store.commit(epoch, Commit::of(same)).await.unwrap_err(), "name", "n1");
    let address = "52:54:00:00:00:01";
    let port = store.create_port(epoch, Port::new(Uuid::new_v4(), first.uuid, address, time(0, 0))).await.unwrap();
    let same = Port::new(Uuid::new_v4(), second.uuid, address, time(0, 0));
    duplicate(store.create_port(epoch, same).await.unwrap_err(), "address", address);
    let same = Port::new(port.uuid, second.uuid, "52:54:00:00:00:02", time(0, 0));
    duplicate(store.create_port(epoch, same).await.unwrap_err(), "uuid", &port.uuid.to_string());
    // Two nodes without a name or an instance are no duplicates.
    for _ in 0..2 {
        store.create_node(epoch, Node::new(Uuid::new_v4(), "fake-hardware", time(0, 0))).await.unwrap();
    }
}

async fn a_refused_commit_leaves_nothing_behind<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    store.create_node(epoch, named("n1")).await.unwrap();
    let second = store.create_node(epoch, named("n2")).await.unwrap();
    let mut refused = second.clone();
    refused.name = Some("n1".to_owned());
    let commit = Commit {
        node: refused,
        flow: FlowChange::Put(flow(second.uuid, 1)),
        journal: vec![entry("never happened")],
        inventory: Some(Inventory { inventory: json!({}), plugin_data: json!({}) }),
        records: Vec::new(),
    };
    store.commit(epoch, commit.clone()).await.unwrap_err();
    let stale = Commit { node: Node { version: 7, ..second.clone() }, ..commit.clone() };
    store.commit(epoch, stale).await.unwrap_err();
    store.commit(Epoch(epoch.0 + 9), Commit { node: second.clone(), ..commit }).await.unwrap_err();
    assert_eq!(store.node(second.uuid).await.unwrap(), second);
    assert_eq!(store.flow(second.uuid).await.unwrap(), None);
    assert_eq!(store.history(second.uuid).await.unwrap(), []);
    assert_eq!(store.inventory(second.uuid).await.unwrap(), None);
}

async fn a_deleted_node_takes_everything_with_it<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let node = store.create_node(epoch, named("n1")).await.unwrap();
    let kept = store.create_node(epoch, named("n2")).await.unwrap();
    let port = Port::new(Uuid::new_v4(), node.uuid, "52:54:00:00:00:01", time(0, 0));
    store.create_port(epoch, port.clone()).await.unwrap();
    let kept_port = Port::new(Uuid::new_v4(), kept.uuid, "52:54:00:00:00:02", time(0, 0));
    store.create_port(epoch, kept_port.clone()).await.unwrap();
    let commit = Commit {
        node: node.clone(),
        flow: FlowChange::Put(flow(node.uuid, 1)),
        journal: vec![entry("made")],
        inventory: Some(Inventory { inventory: json!({"cpu": 1}), plugin_data: json!(null) }),
        records: Vec::new(),
    };
    let node = store.commit(epoch, commit).await.unwrap();
    store.delete_node(epoch, node.uuid, node.version).await.unwrap();
    assert!(matches!(store.node(node.uuid).await, Err(StoreError::NotFound { what: "node", .. })));
    assert!(matches!(store.port(port.uuid).await, Err(StoreError::NotFound { what: "port", .. })));
    assert_eq!(store.flow(node.uuid).await.unwrap(), None);
    assert_eq!(store.flows().await.unwrap(), []);
    assert_eq!(store.history(node.uuid).await.unwrap(), []);
    assert_eq!(store.inventory(node.uuid).await.unwrap(), None);
    assert_eq!(store.ports(&PortFilter::default(), &Page::default()).await.unwrap(), [kept_port]);
    // Name and address are free again.
    let again = store.create_node(epoch, named("n1")).await.unwrap();
    store.create_port(epoch, Port { node_uuid: again.uuid, ..port }).await.unwrap();
    assert_eq!(store.history(again.uuid).await.unwrap(), []);
}

async fn what_is_not_there_is_not_found<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let uuid = Uuid::new_v4();
    let port = Port::new(uuid, uuid, "52:54:00:00:00:01", time(0, 0));
    let missing = |error: StoreError, expected: &str| {
        assert!(matches!(&error, StoreError::NotFound { what, .. } if *what == expected), "{error}");
    };
    missing(store.node(uuid).await.unwrap_err(), "node");
    missing(store.node_by_name("nobody").await.unwrap_err(), "node");
    missing(store.commit(epoch, Commit::of(named("n1"))).await.unwrap_err(), "node");
    missing(store.delete_node(epoch, uuid, 1).await.unwrap_err(), "node");
    missing(store.create_port(epoch, port.clone()).await.unwrap_err(), "node");
    missing(store.port(uuid).await.unwrap_err(), "port");
    missing(store.update_port(epoch, port).await.unwrap_err(), "port");
    missing(store.delete_port(epoch, uuid).await.unwrap_err(), "port");
    let after = Page { marker: Some(uuid), ..Page::default() };
    missing(store.nodes(&NodeFilter::default(), &after).await.unwrap_err(), "node");
    missing(store.ports(&PortFilter::default(), &after).await.unwrap_err(), "port");
}

async fn flows_survive_a_reopened_store<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let node = store.create_node(epoch, named("n1")).await.unwrap();
    let change = |node: &Node, flow| Commit { flow, ..Commit::of(node.clone()) };
    let node = store.commit(epoch, change(&node, FlowChange::Put(flow(node.uuid, 1)))).await.unwrap();
    let node = store.commit(epoch, change(&node, FlowChange::Put(flow(node.uuid, 2)))).await.unwrap();
    let node = store.commit(epoch, Commit::of(node)).await.unwrap();
    drop(store);
    let (store, next) = opened(&place).await;
    assert!(next > epoch);
    assert_eq!(store.flow(node.uuid).await.unwrap(), Some(flow(node.uuid, 2)));
    assert_eq!(store.flows().await.unwrap(), [flow(node.uuid, 2)]);
    assert_eq!(store.node(node.uuid).await.unwrap(), node);
    store.commit(next, change(&node, FlowChange::Clear)).await.unwrap();
    assert_eq!(store.flows().await.unwrap(), []);
}

async fn nodes_are_listed_in_the_order_of_their_creation<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    for name in ["c", "a", "b"] {
        store.create_node(epoch, named(name)).await.unwrap();
    }
    let list = store.nodes(&NodeFilter::default(), &Page::default()).await.unwrap();
    assert_eq!(names(&list), ["c", "a", "b"]);
    let backwards = Page { direction: SortDirection::Descending, limit: Some(2), ..Page::default() };
    let list = store.nodes(&NodeFilter::default(), &backwards).await.unwrap();
    assert_eq!(names(&list), ["b", "a"]);
    let rest = Page { marker: Some(list[1].uuid), ..backwards };
    assert_eq!(names(&store.nodes(&NodeFilter::default(), &rest).await.unwrap()), ["c"]);
}

/// Nodes that differ in every field, some of them unset.
fn varied(i: i32) -> Node {
    let text = |every: i32, what: &str| (i % every != 0).then(|| format!("{what} {}", (i * 7) % 5));
    let when = |every: i32| (i % every != 0).then(|| time(i64::from((i * 7) % 4), i * 1_000_000));
    let mut node = Node::new(
        Uuid::from_u128(u128::from(i.unsigned_abs()) * 0x9e37_79b9_7f4a_7c15),
        "redfish",
        time(9 - i64::from(i), 0),
    );
    node.name = text(4, "name").map(|name| format!("{name}-{i}"));
    node.updated_at = when(3);
    node.provision_updated_at = when(4);
    node.inspection_started_at = when(5);
    node.inspection_finished_at = when(2);
    node.driver = if i % 2 == 0 { "fake-hardware" } else { "redfish" }.to_owned();
    node.provision_state = [State::Enroll, State::Active, State::CleanWait][(i % 3).unsigned_abs() as usize];
    node.target_provision_state = node.provision_state.target();
    node.power_state = text(3, "power");
    node.target_power_state = text(4, "power");
    node.maintenance = i % 3 == 1;
    node.maintenance_reason = text(2, "reason");
    node.fault = text(5, "fault");
    node.last_error = text(3, "Error");
    node.reservation = text(4, "host");
    node.instance_uuid = (i % 3 != 0).then(|| Uuid::from_u128(u128::from(i.unsigned_abs()) << 100));
    node.automated_clean = [None, Some(true), Some(false)][(i % 3).unsigned_abs() as usize];
    node.resource_class = text(3, "class");
    node.description = text(4, "Rack Ä");
    node.owner = text(2, "owner");
    node.lessee = text(5, "lessee");
    node.conductor_group = text(2, "group").unwrap_or_default();
    node.protected = i % 4 == 1;
    node.protected_reason = text(4, "protected");
    node.retired = i % 5 == 1;
    node.retired_reason = text(5, "retired");
    let parent = (i % 6 == 5).then(|| Uuid::from_u128(1).to_string());
    let chassis = (i % 4 == 1).then(|| Uuid::from_u128(2).to_string());
    for (name, value) in [
        ("shard", text(3, "shard")),
        ("instance_name", text(4, "instance")),
        ("parent_node", parent),
        ("chassis_uuid", chassis),
    ] {
        if let Some(value) = value {
            node.attributes.insert(name.to_owned(), json!(value));
        }
    }
    node
}

async fn nodes_are_sorted_by_every_key_and_paged_without_gaps<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let mut nodes = Vec::new();
    for i in 0..12 {
        nodes.push(store.create_node(epoch, varied(i)).await.unwrap());
    }
    for key in Node::SORT_KEYS {
        for direction in [SortDirection::Ascending, SortDirection::Descending] {
            let mut expected = nodes.clone();
            expected.sort_by_key(|node| (node.sort_value(key), node.uuid));
            if direction == SortDirection::Descending {
                expected.reverse();
            }
            let mut page = Page { sort_key: Some((*key).to_owned()), direction, limit: Some(5), ..Page::default() };
            let mut listed = Vec::new();
            loop {
                let part = store.nodes(&NodeFilter::default(), &page).await.unwrap();
                let Some(last) = part.last() else { break };
                page.marker = Some(last.uuid);
                listed.extend(part);
            }
            assert_eq!(listed, expected, "{key} {direction:?}");
        }
    }
}

async fn an_unknown_sort_key_is_refused_with_the_known_ones<P: Place>(place: P) {
    let (store, _) = opened(&place).await;
    let page = Page { sort_key: Some("driver_info; DROP".to_owned()), ..Page::default() };
    let nodes = store.nodes(&NodeFilter::default(), &page).await.unwrap_err();
    let ports = store.ports(&PortFilter::default(), &page).await.unwrap_err();
    assert!(matches!(&nodes, StoreError::SortKey { known, .. } if known.contains("provision_state")), "{nodes}");
    assert!(matches!(&ports, StoreError::SortKey { known, .. } if known.contains("address")), "{ports}");
}

async fn nodes_are_counted_by_their_states<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    for (name, state) in [("a", State::Deploying), ("b", State::DeployWait), ("c", State::Active)] {
        let node = Node { provision_state: state, ..named(name) };
        store.create_node(epoch, node).await.unwrap();
    }
    assert_eq!(store.count_nodes(&[State::Deploying, State::DeployWait]).await.unwrap(), 2);
    assert_eq!(store.count_nodes(&[State::Cleaning]).await.unwrap(), 0);
    assert_eq!(store.count_nodes(&[]).await.unwrap(), 0);
}

async fn every_filter_takes_only_what_matches<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let mut nodes = Vec::new();
    for i in 0..12 {
        nodes.push(store.create_node(epoch, varied(i)).await.unwrap());
    }
    let check = async |filter: NodeFilter, matches: &dyn Fn(&Node) -> bool| {
        let expected: Vec<Node> = nodes.iter().filter(|node| matches(node)).cloned().collect();
        assert!(!expected.is_empty() && expected.len() < nodes.len(), "{filter:?} tells nodes apart");
        assert_eq!(store.nodes(&filter, &Page::default()).await.unwrap(), expected, "{filter:?}");
    };
    let any = NodeFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let active = NodeFilter { provision_state: Some(State::Active), ..any() };
    check(active, &|node| node.provision_state == State::Active).await;
    for wanted in [true, false] {
        check(NodeFilter { maintenance: Some(wanted), ..any() }, &|node| node.maintenance == wanted).await;
        check(NodeFilter { associated: Some(wanted), ..any() }, &|node| node.instance_uuid.is_some() == wanted).await;
        check(NodeFilter { retired: Some(wanted), ..any() }, &|node| node.retired == wanted).await;
    }
    let instance = nodes[1].instance_uuid;
    check(NodeFilter { instance_uuid: instance, ..any() }, &|node| node.instance_uuid == instance).await;
    check(NodeFilter { driver: text("redfish"), ..any() }, &|node| node.driver == "redfish").await;
    let class = text("class 2");
    check(NodeFilter { resource_class: class.clone(), ..any() }, &|node| node.resource_class == class).await;
    let fault = text("fault 2");
    check(NodeFilter { fault: fault.clone(), ..any() }, &|node| node.fault == fault).await;
    check(NodeFilter { conductor_group: text(""), ..any() }, &|node| node.conductor_group.is_empty()).await;
    let owner = text("owner 2");
    check(NodeFilter { owner: owner.clone(), ..any() }, &|node| node.owner == owner).await;
    let lessee = text("lessee 2");
    check(NodeFilter { lessee: lessee.clone(), ..any() }, &|node| node.lessee == lessee).await;
    let described = |node: &Node| node.description.as_deref() == Some("Rack Ä 2");
    check(NodeFilter { description_contains: text("rack Ä 2"), ..any() }, &described).await;
    let is = |node: &Node, name: &str, value: &str| node.attribute(name) == Some(value);
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let children = NodeFilter { parent_node: Some(first), ..any() };
    check(children, &|node| is(node, "parent_node", &first.to_string())).await;
    let inside = NodeFilter { chassis_uuid: Some(second), ..any() };
    check(inside, &|node| is(node, "chassis_uuid", &second.to_string())).await;
    let shards = vec!["shard 2".to_owned(), "shard 0".to_owned()];
    check(NodeFilter { shards: Some(shards.clone()), ..any() }, &|node| {
        shards.iter().any(|shard| is(node, "shard", shard))
    })
    .await;
    check(NodeFilter { instance_name: text("instance 2"), ..any() }, &|node| is(node, "instance_name", "instance 2"))
        .await;
    for wanted in [true, false] {
        check(NodeFilter { sharded: Some(wanted), ..any() }, &|node| node.attribute("shard").is_some() == wanted).await;
        check(NodeFilter { child: Some(wanted), ..any() }, &|node| node.attribute("parent_node").is_some() == wanted)
            .await;
    }
    let project = |node: &Node| node.owner.as_deref() == Some("owner 2") || node.lessee.as_deref() == Some("owner 2");
    check(NodeFilter { project: text("owner 2"), ..any() }, &project).await;
    let both = NodeFilter { driver: text("redfish"), maintenance: Some(true), ..any() };
    check(both, &|node| node.driver == "redfish" && node.maintenance).await;
    let nothing = NodeFilter { owner: text("' OR 1=1 --"), ..any() };
    assert_eq!(store.nodes(&nothing, &Page::default()).await.unwrap(), []);
    // A marker that the filter leaves out is still a place in the order.
    let page = Page { marker: Some(nodes[2].uuid), limit: Some(1), ..Page::default() };
    let filter = NodeFilter { driver: text("redfish"), ..any() };
    assert_eq!(store.nodes(&filter, &page).await.unwrap(), [nodes[3].clone()]);
}

async fn ports_are_filtered_sorted_and_changed<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let first = store.create_node(epoch, named("n1")).await.unwrap().uuid;
    let second = store.create_node(epoch, named("n2")).await.unwrap().uuid;
    let mut ports = Vec::new();
    for (i, (node, tail)) in [(first, "03"), (second, "01"), (first, "02")].into_iter().enumerate() {
        let mut port = Port::new(Uuid::new_v4(), node, &format!("52:54:00:00:00:{tail}"), time(0, 0));
        port.pxe_enabled = i != 1;
        port.physical_network = (i == 2).then(|| "lab".to_owned());
        ports.push(store.create_port(epoch, port).await.unwrap());
    }
    let of = |filter: PortFilter| {
        let store = &store;
        async move { store.ports(&filter, &Page::default()).await.unwrap() }
    };
    let only = PortFilter { node: Some(first), ..PortFilter::default() };
    assert_eq!(of(only).await, [ports[0].clone(), ports[2].clone()]);
    let listed = PortFilter {
        addresses: Some(vec!["52:54:00:00:00:01".to_owned(), "52:54:00:00:00:03".to_owned()]),
        ..PortFilter::default()
    };
    assert_eq!(of(listed).await, [ports[0].clone(), ports[1].clone()]);
    assert_eq!(of(PortFilter { addresses: Some(Vec::new()), ..PortFilter::default() }).await, []);
    for key in Port::SORT_KEYS {
        let mut expected = ports.clone();
        expected.sort_by_key(|port| (port.sort_value(key), port.uuid));
        let page = Page { sort_key: Some((*key).to_owned()), ..Page::default() };
        assert_eq!(store.ports(&PortFilter::default(), &page).await.unwrap(), expected, "{key}");
    }
    let changed = Port { address: "52:54:00:00:00:04".to_owned(), node_uuid: second, ..ports[0].clone() };
    assert_eq!(store.update_port(epoch, changed.clone()).await.unwrap(), changed);
    assert_eq!(store.port(changed.uuid).await.unwrap(), changed);
    store.delete_port(epoch, changed.uuid).await.unwrap();
    assert_eq!(of(PortFilter::default()).await, ports[1..]);
}

async fn history_keeps_its_order_and_only_the_newest<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let mut node = store.create_node(epoch, named("n1")).await.unwrap();
    let other = store.create_node(epoch, named("n2")).await.unwrap();
    let of_other = Commit { journal: vec![entry("elsewhere")], ..Commit::of(other.clone()) };
    store.commit(epoch, of_other).await.unwrap();
    for batch in 0..3 {
        let journal = (0..400).map(|i| entry(&format!("{batch} {i}"))).collect();
        node = store.commit(epoch, Commit { journal, ..Commit::of(node) }).await.unwrap();
    }
    let history = store.history(node.uuid).await.unwrap();
    assert_eq!(history.len(), HISTORY_KEPT);
    assert_eq!(history[0].event, "0 200");
    assert_eq!(history[HISTORY_KEPT - 1].event, "2 399");
    assert_eq!(store.history(other.uuid).await.unwrap().len(), 1);
}

async fn commits_of_two_tasks_on_one_node_lose_nothing<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let uuid = store.create_node(epoch, named("n1")).await.unwrap().uuid;
    let count = async || {
        for _ in 0..20 {
            loop {
                let mut node = store.node(uuid).await.unwrap();
                let seen = node.extra.get("count").and_then(serde_json::Value::as_u64).unwrap_or_default();
                node.extra.insert("count".to_owned(), json!(seen + 1));
                match store.commit(epoch, Commit::of(node)).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    tokio::join!(count(), count(), count());
    let node = store.node(uuid).await.unwrap();
    assert_eq!(node.extra.get("count"), Some(&json!(60)));
    assert_eq!(node.version, 61);
}

#[tokio::test]
async fn an_sqlite_file_that_is_no_database_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("ferric.db");
    std::fs::write(&file, "x".repeat(4096)).unwrap();
    let error = SqliteStore::open(&file).await.unwrap_err();
    assert!(matches!(error, StoreError::Database { .. }), "{error}");
}

fn record(kind: RecordKind, name: &str) -> Record {
    let mut record = Record::new(kind, Uuid::new_v4(), time(3, 5_000));
    record.fields.insert("name".to_owned(), json!(name));
    record
}

async fn a_record_of_any_kind_is_found_as_it_was_made<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let node = store.create_node(epoch, named("n1")).await.unwrap();
    for kind in RecordKind::ALL {
        let mut made = record(kind, "ünïcode \" name");
        made.node = Some(node.uuid);
        made.updated_at = Some(time(4, 7_000));
        made.fields.insert("extra".to_owned(), json!({"deep": [1, {"x": null}]}));
        let created = store.create_record(epoch, made.clone()).await.unwrap();
        made.version = 1;
        assert_eq!(created, made);
        assert_eq!(store.record(kind, made.uuid).await.unwrap(), made);
        assert_eq!(store.record_by_name(kind, "ünïcode \" name").await.unwrap(), made);
        store.delete_record(epoch, kind, made.uuid).await.unwrap();
        for error in [
            store.record(kind, made.uuid).await.unwrap_err(),
            store.delete_record(epoch, kind, made.uuid).await.unwrap_err(),
            store.update_record(epoch, made.clone()).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::NotFound { what, .. } if what == kind.as_str()), "{error}");
        }
    }
}

async fn a_record_is_changed_from_what_it_is_now_only<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let first = store.create_record(epoch, record(RecordKind::Runbook, "one")).await.unwrap();
    let mut changed = first.clone();
    changed.fields.insert("public".to_owned(), json!(true));
    assert_eq!(store.update_record(epoch, changed.clone()).await.unwrap(), Record { version: 2, ..changed });
    let error = store.update_record(epoch, first.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::RecordConflict { uuid, .. } if uuid == first.uuid), "{error}");
    let stale = Epoch(epoch.0 - 1);
    for error in [
        store.create_record(stale, record(RecordKind::Runbook, "two")).await.unwrap_err(),
        store.update_record(stale, first.clone()).await.unwrap_err(),
        store.delete_record(stale, first.kind, first.uuid).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    }
}

async fn records_are_unique_by_name_address_and_identity<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let node = store.create_node(epoch, named("n1")).await.unwrap();
    let other = store.create_node(epoch, named("n2")).await.unwrap();
    let with = |kind, node: &Node, fields: serde_json::Value| {
        let mut record = Record::new(kind, Uuid::new_v4(), time(0, 0));
        record.node = Some(node.uuid);
        record.fields = fields.as_object().cloned().unwrap();
        record
    };
    let refused = async |first: Record, second: Record, what: &str| {
        store.create_record(epoch, first).await.unwrap();
        let error = store.create_record(epoch, second.clone()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Duplicate { what: found, .. } if *found == what), "{what}: {error}");
        let mut free = Record { fields: serde_json::Map::new(), ..second.clone() };
        free.fields.insert("boot_index".to_owned(), json!(7));
        let free = store.create_record(epoch, free).await.unwrap();
        let error = store.update_record(epoch, Record { version: free.version, ..second }).await.unwrap_err();
        assert!(matches!(&error, StoreError::Duplicate { what: found, .. } if *found == what), "{what}: {error}");
    };
    let group = |fields| with(RecordKind::Portgroup, &node, fields);
    refused(group(json!({"name": "a"})), group(json!({"name": "a"})), "name").await;
    refused(group(json!({"address": "m"})), group(json!({"address": "m"})), "address").await;
    let index = |node: &Node| with(RecordKind::VolumeTarget, node, json!({"boot_index": 0}));
    refused(index(&node), index(&node), "identity").await;
    store.create_record(epoch, index(&other)).await.unwrap();
    let iqn = |node: &Node| with(RecordKind::VolumeConnector, node, json!({"type": "iqn", "connector_id": "x"}));
    refused(iqn(&node), iqn(&other), "identity").await;
    // A name is free for another kind, and the same UUID is not for the same kind.
    let runbook = store.create_record(epoch, record(RecordKind::Runbook, "a")).await.unwrap();
    let again = Record { fields: serde_json::Map::new(), ..runbook.clone() };
    let error = store.create_record(epoch, again).await.unwrap_err();
    assert!(matches!(error, StoreError::Duplicate { what: "uuid", .. }), "{error}");
    let chassis = Record { kind: RecordKind::Chassis, fields: serde_json::Map::new(), ..runbook };
    store.create_record(epoch, chassis).await.unwrap();
    let lost = with(RecordKind::Portgroup, &named("nowhere"), json!({}));
    let error = store.create_record(epoch, lost).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "node", .. }), "{error}");
}

async fn records_are_filtered_sorted_and_paged<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let node = store.create_node(epoch, named("n1")).await.unwrap();
    for kind in RecordKind::ALL {
        let mut records = Vec::new();
        for i in 0..9_i64 {
            let mut record = Record::new(kind, Uuid::new_v4(), time(9 - i, 0));
            record.node = (i % 2 == 0).then_some(node.uuid);
            record.updated_at = (i % 3 == 0).then(|| time(i, 0));
            for key in kind.sort_keys().iter().filter(|key| i % 4 != 3 || **key == "name") {
                let value = match *key {
                    "uuid" | "created_at" | "updated_at" | "node_uuid" => continue,
                    "public" | "disable_ramdisk" | "sensitive" | "standalone_ports_supported" => json!(i % 2 == 1),
                    "priority" | "boot_index" => json!(i * 7 % 10),
                    "name" | "address" | "connector_id" => json!(format!("{key} {}-{i}", i * 7 % 5)),
                    key => json!(format!("{key} {}", i * 7 % 5)),
                };
                record.fields.insert((*key).to_owned(), value);
            }
            if kind == RecordKind::VolumeTarget || kind == RecordKind::VolumeConnector {
                record.fields.entry("boot_index").or_insert(json!(20 + i));
                record.fields.entry("connector_id").or_insert(json!(format!("c{i}")));
            }
            records.push(store.create_record(epoch, record).await.unwrap());
        }
        let any = RecordFilter::default();
        assert_eq!(store.records(kind, &any, &Page::default()).await.unwrap(), records);
        let of_node = RecordFilter { node: Some(node.uuid), ..RecordFilter::default() };
        let expected: Vec<Record> = records.iter().filter(|record| record.node.is_some()).cloned().collect();
        assert_eq!(store.records(kind, &of_node, &Page::default()).await.unwrap(), expected);
        let text = records.iter().flat_map(|record| &record.fields).find_map(|(name, value)| {
            let name = kind.sort_keys().iter().find(|key| *key == name)?;
            Some((*name, value.as_str()?.to_owned()))
        });
        if let Some((name, value)) = text {
            let equal = RecordFilter { equal: vec![(name, value.clone())], ..RecordFilter::default() };
            let expected: Vec<Record> =
                records.iter().filter(|record| record.text(name) == Some(&value)).cloned().collect();
            assert_eq!(store.records(kind, &equal, &Page::default()).await.unwrap(), expected, "{name}");
        }
        for key in kind.sort_keys() {
            let mut expected = records.clone();
            expected.sort_by_key(|record| (record.sort_value(key), record.uuid));
            let mut page = Page { limit: Some(4), sort_key: Some((*key).to_owned()), ..Page::default() };
            let mut found = Vec::new();
            loop {
                let part = store.records(kind, &any, &page).await.unwrap();
                page.marker = part.last().map(|record| record.uuid);
                found.extend(part.clone());
                if part.len() < 4 {
                    break;
                }
            }
            assert_eq!(found, expected, "{kind:?} by {key}");
        }
        let page = Page { sort_key: Some("colour".to_owned()), ..Page::default() };
        assert!(matches!(store.records(kind, &any, &page).await, Err(StoreError::SortKey { .. })));
    }
}

async fn records_go_with_their_node_and_change_with_it_or_not_at_all<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let node = store.create_node(epoch, named("n1")).await.unwrap();
    let kept = store.create_record(epoch, record(RecordKind::Allocation, "kept")).await.unwrap();
    let gone = store.create_record(epoch, record(RecordKind::Allocation, "gone")).await.unwrap();
    let claimed = Record { node: Some(node.uuid), ..kept.clone() };
    let changes = vec![RecordChange::Put(claimed.clone()), RecordChange::Delete(gone.kind, gone.uuid)];
    let stale = Commit { records: changes.clone(), ..Commit::of(Node { version: 9, ..node.clone() }) };
    store.commit(epoch, stale).await.unwrap_err();
    assert_eq!(store.record(kept.kind, kept.uuid).await.unwrap(), kept);
    let missing = vec![RecordChange::Put(claimed.clone()), RecordChange::Delete(gone.kind, Uuid::nil())];
    store.commit(epoch, Commit { records: missing, ..Commit::of(node.clone()) }).await.unwrap_err();
    assert_eq!(store.record(kept.kind, kept.uuid).await.unwrap(), kept);
    assert_eq!(store.node(node.uuid).await.unwrap(), node);
    let node = store.commit(epoch, Commit { records: changes, ..Commit::of(node) }).await.unwrap();
    assert_eq!(store.record(kept.kind, kept.uuid).await.unwrap(), Record { version: 2, ..claimed });
    assert!(matches!(store.record(gone.kind, gone.uuid).await, Err(StoreError::NotFound { .. })));
    store.delete_node(epoch, node.uuid, node.version).await.unwrap();
    assert!(matches!(store.record(kept.kind, kept.uuid).await, Err(StoreError::NotFound { .. })));
}

async fn shards_are_counted<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    assert_eq!(store.shards().await.unwrap(), []);
    for (name, shard) in [("a", None), ("b", Some("west")), ("c", Some("east")), ("d", Some("west"))] {
        let mut node = named(name);
        if let Some(shard) = shard {
            node.attributes.insert("shard".to_owned(), json!(shard));
        }
        store.create_node(epoch, node).await.unwrap();
    }
    let expected = [(Some("east".to_owned()), 1), (Some("west".to_owned()), 2), (None, 1)];
    assert_eq!(store.shards().await.unwrap(), expected);
}

/// A database of the schema before records, made by the driver of that time.
const SCHEMA_1: &str = include_str!("data/schema_1.sql");

async fn old_database(file: &std::path::Path) {
    use std::str::FromStr as _;
    let options = sqlx::sqlite::SqliteConnectOptions::from_str(&format!("sqlite://{}", file.display())).unwrap();
    let pool = sqlx::SqlitePool::connect_with(options.create_if_missing(true)).await.unwrap();
    sqlx::raw_sql(SCHEMA_1).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_database_of_the_previous_schema_is_brought_up_to_date_with_all_that_is_in_it() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("ferric.db");
    old_database(&file).await;
    let before = maintenance::check(&file).await.unwrap();
    assert_eq!((before.version, before.problems), (1, Vec::new()));
    assert_eq!(maintenance::upgrade(&file).await.unwrap(), (1, before.newest));
    let store = SqliteStore::open(&file).await.unwrap();
    let nodes = store.nodes(&NodeFilter::default(), &Page::default()).await.unwrap();
    assert_eq!(names(&nodes), ["old-1", "old-2"]);
    assert_eq!(store.ports(&PortFilter::default(), &Page::default()).await.unwrap().len(), 1);
    assert!(!store.history(nodes[0].uuid).await.unwrap().is_empty());
    let sharded = NodeFilter { shards: Some(vec!["west".to_owned()]), ..NodeFilter::default() };
    assert_eq!(names(&store.nodes(&sharded, &Page::default()).await.unwrap()), ["old-1"]);
    let epoch = store.take_over("here").await.unwrap();
    store.create_record(epoch, record(RecordKind::Chassis, "new")).await.unwrap();
    assert_eq!(maintenance::check(&file).await.unwrap().problems, Vec::<String>::new());
    store.close().await;
}

#[tokio::test]
async fn a_backup_is_the_database_at_one_moment_and_never_overwrites() {
    let place = tempfile::tempdir().unwrap();
    let (file, copy) = (place.path().join("ferric.db"), place.path().join("copy.db"));
    let store = SqliteStore::open(&file).await.unwrap();
    let epoch = store.take_over("here").await.unwrap();
    store.create_node(epoch, named("n1")).await.unwrap();
    maintenance::backup(&file, &copy).await.unwrap();
    store.create_node(epoch, named("n2")).await.unwrap();
    let copied = SqliteStore::open(&copy).await.unwrap();
    assert_eq!(names(&copied.nodes(&NodeFilter::default(), &Page::default()).await.unwrap()), ["n1"]);
    maintenance::backup(&file, &copy).await.unwrap_err();
}

#[tokio::test]
async fn a_check_names_what_is_broken() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("ferric.db");
    let store = SqliteStore::open(&file).await.unwrap();
    let epoch = store.take_over("here").await.unwrap();
    let node = store.create_node(epoch, named("n1")).await.unwrap();
    store.close().await;
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    let broken = "UPDATE nodes SET document = json_remove(document, '$.driver')";
    sqlx::raw_sql(broken).execute(&pool).await.unwrap();
    pool.close().await;
    let problems = maintenance::check(&file).await.unwrap().problems;
    assert!(problems.len() == 1 && problems[0].contains(&node.uuid.to_string()), "{problems:?}");
    assert!(maintenance::check(&place.path().join("nothing.db")).await.is_err());
}
