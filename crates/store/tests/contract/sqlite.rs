//! What only SQLite has: a file, its schema, and what an operator does to it.

use super::{entry, named, names, record, values};
use serde_json::json;
use std::time::Instant;
use store::sqlite::maintenance;
use store::{
    Commit, Durability, Node, NodeFilter, Page, PortFilter, RecordFilter, RecordKind, SOON, SqliteStore, Store,
    StoreError,
};

#[tokio::test]
async fn an_sqlite_file_that_is_no_database_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("ferric.db");
    std::fs::write(&file, "x".repeat(4096)).unwrap();
    let error = SqliteStore::open(&file).await.unwrap_err();
    assert!(matches!(error, StoreError::Database { .. }), "{error}");
}

/// Databases of earlier schemas, made by the driver of their time: before records, and before erasures.
const SCHEMA_1: &str = include_str!("../data/schema_1.sql");
const SCHEMA_2: &str = include_str!("../data/schema_2.sql");

async fn old_database(file: &std::path::Path, schema: &'static str) {
    use std::str::FromStr as _;
    let options = sqlx::sqlite::SqliteConnectOptions::from_str(&format!("sqlite://{}", file.display())).unwrap();
    let pool = sqlx::SqlitePool::connect_with(options.create_if_missing(true)).await.unwrap();
    sqlx::raw_sql(schema).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_database_of_an_earlier_schema_is_brought_up_to_date_with_all_that_is_in_it() {
    brought_up_to_date(SCHEMA_1, 1).await;
    brought_up_to_date(SCHEMA_2, 2).await;
}

async fn brought_up_to_date(schema: &'static str, version: i64) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("ferric.db");
    old_database(&file, schema).await;
    let before = maintenance::check(&file).await.unwrap();
    assert_eq!((before.version, before.problems), (version, Vec::new()));
    assert_eq!(maintenance::upgrade(&file).await.unwrap(), (version, before.newest));
    let store = SqliteStore::open(&file).await.unwrap();
    let nodes = values(store.nodes(&NodeFilter::default(), &Page::default()).await.unwrap());
    assert_eq!(names(&nodes), ["old-1", "old-2"]);
    assert_eq!(values(store.ports(&PortFilter::default(), &Page::default()).await.unwrap()).len(), 1);
    assert!(!store.history(nodes[0].uuid).await.unwrap().is_empty());
    let sharded = NodeFilter { shards: Some(vec!["west".to_owned()]), ..NodeFilter::default() };
    assert_eq!(names(&values(store.nodes(&sharded, &Page::default()).await.unwrap())), ["old-1"]);
    let epoch = store.take_over("here").await.unwrap();
    store.create_record(epoch, record(RecordKind::Chassis, "new")).await.unwrap();
    let readings = store.records(RecordKind::Reading, &RecordFilter::default(), &Page::default()).await.unwrap();
    assert_eq!(readings.len(), usize::from(version > 1));
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
    assert_eq!(names(&values(copied.nodes(&NodeFilter::default(), &Page::default()).await.unwrap())), ["n1"]);
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

/// What the file says of the only node, read by somebody else.
async fn word_in(file: &std::path::Path) -> serde_json::Value {
    let other = SqliteStore::open(file).await.unwrap();
    let nodes = values(other.nodes(&NodeFilter::default(), &Page::default()).await.unwrap());
    nodes[0].extra.get("word").cloned().unwrap_or_default()
}

#[tokio::test]
async fn what_may_be_saved_later_is_in_the_file_in_time_and_together_with_what_is_saved_now() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("ferric.db");
    let store = SqliteStore::open(&file).await.unwrap();
    let epoch = store.take_over("here").await.unwrap();
    let node = store.create_node(epoch, named("n1")).await.unwrap();
    let later = |mut node: Node, word: &str| {
        node.extra.insert("word".to_owned(), json!(word));
        Commit { durability: Durability::Soon, ..Commit::of(node) }
    };
    let node = store.commit(epoch, later(node, "first")).await.unwrap();
    let acknowledged = Instant::now();
    while word_in(&file).await != "first" {
        assert!(acknowledged.elapsed() < 10 * SOON, "it was not saved");
        tokio::time::sleep(SOON / 20).await;
    }
    // A change that is on the disk when it is acknowledged takes along what it was made from.
    let node = store.commit(epoch, later(node, "second")).await.unwrap();
    let changed = Commit { journal: vec![entry("made")], ..Commit::of(node) };
    let node = store.commit(epoch, changed).await.unwrap();
    assert_eq!(word_in(&file).await, "second");
    // Whoever takes over begins with what is there, and the old owner learns it.
    let next = SqliteStore::open(&file).await.unwrap();
    let newest = next.take_over("there").await.unwrap();
    assert_eq!(next.node(node.uuid).await.unwrap(), node);
    next.commit(newest, later(node.clone(), "theirs")).await.unwrap();
    next.close().await;
    assert_eq!(store.owner().await.unwrap(), newest);
    assert_eq!(store.node(node.uuid).await.unwrap().extra["word"], "theirs");
    let error = store.commit(epoch, later(node, "mine")).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
}

#[tokio::test]
async fn changes_that_are_written_together_fail_each_for_itself() {
    let place = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&place.path().join("ferric.db")).await.unwrap();
    let epoch = store.take_over("here").await.unwrap();
    let create = |i: u32| {
        let store = store.clone();
        async move { store.create_node(epoch, named(&format!("n{}", i % 50))).await }
    };
    let made = futures::future::join_all((0..100).map(create)).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 50);
    for refused in made.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, StoreError::Duplicate { what: "name", .. }), "{refused}");
    }
    assert_eq!(store.nodes(&NodeFilter::default(), &Page::default()).await.unwrap().len(), 50);
}
