//! Lists of nodes and ports: filters, orders, pages.

use super::{Place, named, names, opened, time, values};
use lifecycle::provision::State;
use serde_json::json;
use store::{Node, NodeFilter, Page, Port, PortFilter, SortDirection, Store, StoreError};
use uuid::Uuid;

contract! {
    nodes_are_listed_in_the_order_of_their_creation,
    nodes_are_sorted_by_every_key_and_paged_without_gaps,
    an_unknown_sort_key_is_refused_with_the_known_ones,
    every_filter_takes_only_what_matches,
    nodes_are_counted_by_their_states,
    ports_are_filtered_sorted_and_changed,
    shards_are_counted,
}

async fn nodes_are_listed_in_the_order_of_their_creation<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    for name in ["c", "a", "b"] {
        store.create_node(epoch, named(name)).await.unwrap();
    }
    let list = values(store.nodes(&NodeFilter::default(), &Page::default()).await.unwrap());
    assert_eq!(names(&list), ["c", "a", "b"]);
    let backwards = Page { direction: SortDirection::Descending, limit: Some(2), ..Page::default() };
    let list = values(store.nodes(&NodeFilter::default(), &backwards).await.unwrap());
    assert_eq!(names(&list), ["b", "a"]);
    let rest = Page { marker: Some(list[1].uuid), ..backwards };
    assert_eq!(names(&values(store.nodes(&NodeFilter::default(), &rest).await.unwrap())), ["c"]);
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
                let part = values(store.nodes(&NodeFilter::default(), &page).await.unwrap());
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
        assert_eq!(values(store.nodes(&filter, &Page::default()).await.unwrap()), expected, "{filter:?}");
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
    assert_eq!(values(store.nodes(&nothing, &Page::default()).await.unwrap()), []);
    // A marker that the filter leaves out is still a place in the order.
    let page = Page { marker: Some(nodes[2].uuid), limit: Some(1), ..Page::default() };
    let filter = NodeFilter { driver: text("redfish"), ..any() };
    assert_eq!(values(store.nodes(&filter, &page).await.unwrap()), [nodes[3].clone()]);
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
        async move { values(store.ports(&filter, &Page::default()).await.unwrap()) }
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
        assert_eq!(values(store.ports(&PortFilter::default(), &page).await.unwrap()), expected, "{key}");
    }
    let changed = Port { address: "52:54:00:00:00:04".to_owned(), node_uuid: second, ..ports[0].clone() };
    let expected = Port { version: changed.version + 1, ..changed.clone() };
    assert_eq!(store.update_port(epoch, changed.clone()).await.unwrap(), expected);
    assert_eq!(store.port(changed.uuid).await.unwrap(), expected);
    let stale = store.update_port(epoch, changed.clone()).await.unwrap_err();
    assert!(matches!(stale, StoreError::RecordConflict { what: "port", uuid } if uuid == changed.uuid), "{stale}");
    assert_eq!(store.port(changed.uuid).await.unwrap(), expected);
    store.delete_port(epoch, changed.uuid).await.unwrap();
    assert_eq!(of(PortFilter::default()).await, ports[1..]);
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
