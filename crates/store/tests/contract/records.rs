//! Everything besides nodes and ports.

use super::{Place, named, opened, record, time};
use serde_json::json;
use store::{Commit, Epoch, Node, Page, Record, RecordChange, RecordFilter, RecordKind, Store, StoreError};
use uuid::Uuid;

contract! {
    a_record_of_any_kind_is_found_as_it_was_made,
    a_record_is_changed_from_what_it_is_now_only,
    records_are_unique_by_name_address_and_identity,
    records_are_filtered_sorted_and_paged,
    records_go_with_their_node_and_change_with_it_or_not_at_all,
    records_are_added_with_a_change_of_a_node_or_not_at_all_and_those_of_no_node_outlive_it,
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
    let nobody = Record { uuid: Uuid::nil(), ..record(RecordKind::Allocation, "nobody") };
    let missing = vec![RecordChange::Put(claimed.clone()), RecordChange::Put(nobody)];
    store.commit(epoch, Commit { records: missing, ..Commit::of(node.clone()) }).await.unwrap_err();
    assert_eq!(store.record(kept.kind, kept.uuid).await.unwrap(), kept);
    assert_eq!(store.node(node.uuid).await.unwrap(), node);
    let node = store.commit(epoch, Commit { records: changes, ..Commit::of(node) }).await.unwrap();
    assert_eq!(store.record(kept.kind, kept.uuid).await.unwrap(), Record { version: 2, ..claimed });
    assert!(matches!(store.record(gone.kind, gone.uuid).await, Err(StoreError::NotFound { .. })));
    // What is gone already does not keep a node from its change; asked for alone, it is not found.
    let again = vec![RecordChange::Delete(gone.kind, gone.uuid)];
    let node = store.commit(epoch, Commit { records: again, ..Commit::of(node) }).await.unwrap();
    let alone = store.delete_record(epoch, gone.kind, gone.uuid).await.unwrap_err();
    assert!(matches!(alone, StoreError::NotFound { what: "allocation", .. }), "{alone}");
    store.delete_node(epoch, node.uuid, node.version).await.unwrap();
    assert!(matches!(store.record(kept.kind, kept.uuid).await, Err(StoreError::NotFound { .. })));
}

async fn records_are_added_with_a_change_of_a_node_or_not_at_all_and_those_of_no_node_outlive_it<P: Place>(place: P) {
    let (store, epoch) = opened(&place).await;
    let node = store.create_node(epoch, named("n1")).await.unwrap();
    let mut erasure = Record::new(RecordKind::Erasure, Uuid::new_v4(), time(1, 0));
    erasure.fields.insert("node_uuid".to_owned(), json!(node.uuid));
    let added = vec![RecordChange::Create(erasure.clone())];
    let stale = Commit { records: added.clone(), ..Commit::of(Node { version: 9, ..node.clone() }) };
    store.commit(epoch, stale).await.unwrap_err();
    let of_node = RecordFilter { equal: vec![("node_uuid", node.uuid.to_string())], ..RecordFilter::default() };
    assert!(store.records(RecordKind::Erasure, &of_node, &Page::default()).await.unwrap().is_empty());
    let node = store.commit(epoch, Commit { records: added.clone(), ..Commit::of(node) }).await.unwrap();
    let again = store.commit(epoch, Commit { records: added, ..Commit::of(node.clone()) }).await.unwrap_err();
    assert!(matches!(again, StoreError::Duplicate { what: "uuid", .. }), "{again}");
    assert_eq!(store.node(node.uuid).await.unwrap(), node);
    store.delete_node(epoch, node.uuid, node.version).await.unwrap();
    let kept = store.records(RecordKind::Erasure, &of_node, &Page::default()).await.unwrap();
    assert_eq!(kept, [Record { version: 1, ..erasure }]);
}
