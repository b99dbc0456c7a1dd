//! Nodes with their flows, history and inventory: what a commit does, and when it is refused.

use super::{Place, entry, flow, named, opened, time, values};
use lifecycle::provision::State;
use serde_json::json;
use store::{
    Commit, Durability, Epoch, FlowChange, HISTORY_KEPT, Inventory, Node, NodeFilter, Page, Port, PortFilter, Store,
    StoreError,
};
use uuid::Uuid;

contract! {
    a_node_is_found_as_it_was_made,
    a_commit_from_an_old_version_is_a_conflict,
    a_stale_owner_is_refused_whatever_it_writes,
    names_uuids_instances_and_addresses_are_unique,
    a_refused_commit_leaves_nothing_behind,
    a_deleted_node_takes_everything_with_it,
    what_is_not_there_is_not_found,
    flows_survive_a_reopened_store,
    history_keeps_its_order_and_only_the_newest,
    commits_of_two_tasks_on_one_node_lose_nothing,
    commits_that_may_be_saved_later_are_seen_at_once_and_keep_their_order_with_the_others,
    what_may_be_saved_later_is_saved_when_the_store_is_closed,
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
    let named_port = |name: &str, tail: &str| Port {
        name: Some(name.to_owned()),
        ..Port::new(Uuid::new_v4(), second.uuid, &format!("52:54:00:00:01:{tail}"), time(0, 0))
    };
    let one = store.create_port(epoch, named_port("p1", "01")).await.unwrap();
    duplicate(store.create_port(epoch, named_port("p1", "02")).await.unwrap_err(), "name", "p1");
    let other = store.create_port(epoch, named_port("p2", "02")).await.unwrap();
    let same = Port { name: Some("p1".to_owned()), ..other.clone() };
    duplicate(store.update_port(epoch, same).await.unwrap_err(), "name", "p1");
    // A port keeps its own name, and two without one are no duplicates.
    store.update_port(epoch, one).await.unwrap();
    store.update_port(epoch, Port { name: None, ..other }).await.unwrap();
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
        ..Commit::of(second.clone())
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
        ..Commit::of(node.clone())
    };
    let node = store.commit(epoch, commit).await.unwrap();
    store.delete_node(epoch, node.uuid, node.version).await.unwrap();
    assert!(matches!(store.node(node.uuid).await, Err(StoreError::NotFound { what: "node", .. })));
    assert!(matches!(store.port(port.uuid).await, Err(StoreError::NotFound { what: "port", .. })));
    assert_eq!(store.flow(node.uuid).await.unwrap(), None);
    assert_eq!(store.flows().await.unwrap(), []);
    assert_eq!(store.history(node.uuid).await.unwrap(), []);
    assert_eq!(store.inventory(node.uuid).await.unwrap(), None);
    assert_eq!(values(store.ports(&PortFilter::default(), &Page::default()).await.unwrap()), [kept_port]);
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

fn soon(node: &Node, word: &str) -> Commit {
    let mut node = node.clone();
    node.extra.insert("word".to_owned(), json!(word));
    Commit { durability: Durability::Soon, ..Commit::of(node) }
}

async fn commits_that_may_be_saved_later_are_seen_at_once_and_keep_their_order_with_the_others<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let first = store.create_node(epoch, named("n1")).await.unwrap();
    let second = store.commit(epoch, soon(&first, "a")).await.unwrap();
    assert_eq!((second.version, &second.extra["word"]), (2, &json!("a")));
    assert_eq!(store.node(first.uuid).await.unwrap(), second);
    let error = store.commit(epoch, soon(&first, "late")).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    let error = store.commit(epoch, Commit::of(first.clone())).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    let third = store.commit(epoch, soon(&second, "b")).await.unwrap();
    let fourth = store.commit(epoch, Commit::of(third)).await.unwrap();
    assert_eq!((fourth.version, &fourth.extra["word"]), (4, &json!("b")));
    let error = store.commit(epoch, soon(&named("nowhere"), "c")).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    let stale = store.commit(Epoch(epoch.0 + 1), soon(&fourth, "c")).await.unwrap_err();
    assert!(matches!(stale, StoreError::Fenced { .. }), "{stale}");
    // A name has to be free whatever may wait.
    store.create_node(epoch, named("n2")).await.unwrap();
    let mut taken = soon(&fourth, "c");
    taken.node.name = Some("n2".to_owned());
    let error = store.commit(epoch, taken).await.unwrap_err();
    assert!(matches!(error, StoreError::Duplicate { what: "name", .. }), "{error}");
    store.commit(epoch, soon(&fourth, "d")).await.unwrap();
    store.delete_node(epoch, fourth.uuid, fourth.version + 1).await.unwrap();
    assert!(matches!(store.node(fourth.uuid).await, Err(StoreError::NotFound { .. })));
}

async fn what_may_be_saved_later_is_saved_when_the_store_is_closed<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let mut saved = Vec::new();
    for i in 0..300 {
        let node = store.create_node(epoch, named(&format!("n{i}"))).await.unwrap();
        saved.push(store.commit(epoch, soon(&node, "last")).await.unwrap());
    }
    place.close(store).await;
    let store = place.open().await;
    assert_eq!(values(store.nodes(&NodeFilter::default(), &Page::default()).await.unwrap()), saved);
}
