//! A store in SQLite: one file, no set-up.
//!
//! The owner answers what it is asked about nodes, ports and flows from memory ([`image`]) and lets one task write
//! ([`writer`]): a change is acknowledged when it is on the disk (`synchronous = FULL`), but for what may be there soon
//! ([`crate::Durability`]). Everybody else reads the file.

mod image;
pub mod maintenance;
mod records;
mod statements;
mod writer;

use crate::model::{FlowRecord, Inventory, JournalEntry, Node, NodeFilter, Page, Port, PortFilter, SortDirection};
use crate::record::{Record, RecordFilter, RecordKind};
use crate::{Commit, Epoch, Store, StoreError};
use image::Image;
use jiff::Timestamp;
use lifecycle::provision::State;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Executor, QueryBuilder, Row as _, SqlSafeStr as _, Sqlite, SqlitePool, Transaction};
use statements::Write;
use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;
use writer::Job;

/// How long a call waits for another process that writes to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections for queries; SQLite takes one writer and, in WAL mode, any number of readers beside it.
const READERS: u32 = 4;
/// Pages that a connection for queries keeps, as SQLite has it: 256 KiB. What is asked often is answered from memory, and the
/// rest is in the system's cache.
const READER_CACHE: &str = "-256";
/// Changes that wait for the writer; more wait outside.
const WAITING: usize = 1024;

/// The schema, in the order in which it grew. A released migration is never changed.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "nodes, ports, flows, history", include_str!("../migrations/0001_nodes_ports_flows_history.sql")),
    (2, "records", include_str!("../migrations/0002_records.sql")),
    (3, "erasures", include_str!("../migrations/0003_erasures.sql")),
];

/// A store in an SQLite file. Clones share their connections and their image.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    writer: Arc<std::sync::Mutex<Option<JoinHandle<()>>>>,
}

/// What a store has in common with its writer.
#[derive(Debug)]
struct Shared {
    /// One connection, for whoever writes.
    writer: SqlitePool,
    readers: SqlitePool,
    /// Of a store that owns the database.
    image: RwLock<Option<Image>>,
    /// Rung when a node is newer than the file.
    unsaved: Notify,
    /// Rung when nothing is to be written any more.
    closing: Notify,
}

fn failed<E>(doing: &'static str) -> impl FnOnce(E) -> StoreError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| StoreError::Database { doing, source: Box::new(source) }
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|&(version, description, sql)| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

impl Shared {
    fn image(&self) -> RwLockWriteGuard<'_, Option<Image>> {
        // What is in it is changed in one go at the end of each change, so it is whole.
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_image<T>(&self, look: impl FnOnce(&Image) -> T) -> Option<T> {
        self.image.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }

    /// Begins a change: takes the write lock at once, so that what is checked is still true when it is written.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed("begin a change"))
    }

    /// Answers a question: from memory as the owner, else from the file.
    async fn ask<T>(&self, question: impl Fn(&Image) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(answer) = self.with_image(&question) {
            return answer;
        }
        let mut reading = self.readers.begin().await.map_err(failed("read the database"))?;
        question(&Image::load(&mut reading, Epoch::default()).await?)
    }
}

impl SqliteStore {
    /// Opens the file, creates it when it is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Database`]: the file cannot be opened, is no database, or was written by a newer version.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .synchronous(SqliteSynchronous::Full);
        let writing = options.clone().create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(writing).await;
        let writer = writer.map_err(failed("open the database"))?;
        migrator().run(&writer).await.map_err(failed("bring the schema of the database up to date"))?;
        let reading = options.read_only(true).pragma("cache_size", READER_CACHE);
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(reading).await;
        let readers = readers.map_err(failed("open the database for reading"))?;
        let shared = Arc::new(Shared {
            writer,
            readers,
            image: RwLock::default(),
            unsaved: Notify::new(),
            closing: Notify::new(),
        });
        let (jobs, asked) = mpsc::channel(WAITING);
        let writer = tokio::spawn(writer::run(shared.clone(), asked));
        Ok(Self { shared, jobs, writer: Arc::new(std::sync::Mutex::new(Some(writer))) })
    }

    /// Closes the file: what is unsaved is saved, and the write-ahead log is folded into the file. Changes that are
    /// asked for later are refused.
    pub async fn close(&self) {
        let ended = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.closing.notify_one();
        if let Some(ended) = ended
            && let Err(error) = ended.await
        {
            tracing::error!(%error, "what wrote to the database ended unexpectedly");
        }
        self.shared.readers.close().await;
        self.shared.writer.close().await;
    }

    /// Has something written, and waits until it is on the disk.
    async fn write(&self, epoch: Epoch, write: Write) -> Result<(), StoreError> {
        if let (Some(node), Some(image)) = (write.node(), self.shared.image().as_mut()) {
            image.begin(node);
        }
        self.send(epoch, write).await
    }

    async fn send(&self, epoch: Epoch, write: Write) -> Result<(), StoreError> {
        let closed = || StoreError::Database { doing: "write to the database", source: "it is closed".into() };
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job { epoch, write, answer }).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

async fn newest_epoch(connection: impl Executor<'_, Database = Sqlite>) -> Result<Epoch, StoreError> {
    let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM ownership")
        .fetch_one(connection)
        .await
        .map_err(failed("read who owns the database"))?;
    Ok(Epoch(unsigned(epoch)))
}

// SQLite's integers are signed; versions and epochs count from zero and never come near the sign.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Corrupt { what: what.to_owned(), reason: error.to_string() })
}

fn decode<T: DeserializeOwned>(what: &'static str, id: &str, document: &str) -> Result<T, StoreError> {
    serde_json::from_str(document)
        .map_err(|error| StoreError::Corrupt { what: format!("{what} {id}"), reason: error.to_string() })
}

fn micros(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_microsecond)
}

/// The text of a column of a row.
fn column(row: &SqliteRow, name: &'static str) -> Result<String, StoreError> {
    row.try_get(name).map_err(failed("read a column"))
}

fn node_of(row: &SqliteRow) -> Result<Node, StoreError> {
    let mut node: Node = decode("node", &column(row, "uuid")?, &column(row, "document")?)?;
    let version: i64 = row.try_get("version").map_err(failed("read a column"))?;
    node.version = unsigned(version);
    Ok(node)
}

fn port_of(row: &SqliteRow) -> Result<Port, StoreError> {
    decode("port", &column(row, "uuid")?, &column(row, "document")?)
}

/// Turns a violated constraint into what the caller did; `values` are the unique columns with what was written.
fn refused(doing: &'static str, values: &[(&'static str, &str)], node: Uuid, error: sqlx::Error) -> StoreError {
    let Some(database) = error.as_database_error() else { return failed(doing)(error) };
    if database.is_foreign_key_violation() {
        return StoreError::not_found("node", node);
    }
    if database.is_unique_violation() {
        let message = database.message();
        let column = values.iter().find(|(column, _)| message.ends_with(&format!(".{column}")));
        if let Some((what, value)) = column {
            return StoreError::Duplicate { what, value: (*value).to_owned() };
        }
    }
    failed(doing)(error)
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// The end of a list's query: where the page begins, its order and its length. `rows` are those of the list's table, up
/// to where a further condition fits.
fn push_page(query: &mut QueryBuilder<Sqlite>, page: &Page, rows: &str, expression: Option<&str>) {
    let terms = match expression {
        None => vec!["id".to_owned()],
        // A null compares with nothing, so whether there is a value is a term of its own, before the value.
        Some(expression) => {
            vec![format!("({expression} IS NOT NULL)"), format!("ifnull({expression}, '')"), "uuid".to_owned()]
        }
    };
    let (direction, comparison) = match page.direction {
        SortDirection::Ascending => ("ASC", ">"),
        SortDirection::Descending => ("DESC", "<"),
    };
    if let Some(marker) = page.marker {
        let row = terms.join(", ");
        query.push(format_args!(" AND ({row}) {comparison} (SELECT {row} FROM {rows} uuid = "));
        query.push_bind(marker.to_string()).push(")");
    }
    let order = terms.iter().map(|term| format!("{term} {direction}")).collect::<Vec<_>>();
    query.push(format_args!(" ORDER BY {}", order.join(", ")));
    if let Some(limit) = page.limit {
        query.push(" LIMIT ").push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    }
}

/// Adds ` AND column = value` when there is a value.
fn push_equal<'a, T>(query: &mut QueryBuilder<Sqlite>, column: &'static str, value: Option<T>)
where
    T: sqlx::Encode<'a, Sqlite> + sqlx::Type<Sqlite> + 'a,
{
    if let Some(value) = value {
        query.push(format_args!(" AND {column} = ")).push_bind(value);
    }
}

impl Store for SqliteStore {
    async fn take_over(&self, host: &str) -> Result<Epoch, StoreError> {
        let mut transaction = self.shared.begin().await?;
        sqlx::query("UPDATE ownership SET epoch = epoch + 1, host = ?, taken_at = ?")
            .bind(host)
            .bind(Timestamp::now().to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed("take the database over"))?;
        let epoch = newest_epoch(&mut *transaction).await?;
        let image = Image::load(&mut transaction, epoch).await?;
        transaction.commit().await.map_err(failed("take the database over"))?;
        *self.shared.image() = Some(image);
        Ok(epoch)
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.owner().await?;
        match self.shared.with_image(|image| image.broken.clone()).flatten() {
            Some(reason) => Err(StoreError::Database { doing: "write to the database", source: reason.into() }),
            None => Ok(()),
        }
    }

    async fn owner(&self) -> Result<Epoch, StoreError> {
        let newest = newest_epoch(&self.shared.readers).await?;
        let mut image = self.shared.image();
        if image.as_ref().is_some_and(|image| image.epoch < newest) {
            *image = None;
        }
        Ok(newest)
    }

    async fn create_node(&self, epoch: Epoch, mut node: Node) -> Result<Node, StoreError> {
        node.version = 1;
        let node = Arc::new(node);
        self.write(epoch, Write::CreateNode(node.clone())).await?;
        Ok(Arc::unwrap_or_clone(node))
    }

    async fn node(&self, uuid: Uuid) -> Result<Node, StoreError> {
        self.shared.ask(|image| image.tables.node(uuid).map(|node| (**node).clone())).await
    }

    async fn shared_node(&self, uuid: Uuid) -> Result<Arc<Node>, StoreError> {
        self.shared.ask(|image| image.tables.node(uuid).cloned()).await
    }

    async fn node_by_name(&self, name: &str) -> Result<Node, StoreError> {
        self.shared.ask(|image| image.tables.node_by_name(name).map(|node| (**node).clone())).await
    }

    async fn nodes(&self, filter: &NodeFilter, page: &Page) -> Result<Vec<Arc<Node>>, StoreError> {
        self.shared.ask(|image| image.tables.nodes(filter, page)).await
    }

    async fn count_nodes(&self, states: &[State]) -> Result<usize, StoreError> {
        self.shared.ask(|image| Ok(image.tables.count_nodes(states))).await
    }

    async fn commit_shared(&self, epoch: Epoch, mut commit: Commit) -> Result<Arc<Node>, StoreError> {
        if let Some(image) = self.shared.image().as_mut() {
            if image.epoch == epoch {
                commit = match image.take(commit)? {
                    Ok(node) => {
                        self.shared.unsaved.notify_one();
                        return Ok(node);
                    }
                    Err(commit) => commit,
                };
            }
            image.begin(commit.node.uuid);
        }
        let Commit { mut node, flow, journal, inventory, records, durability: _ } = commit;
        node.version += 1;
        let node = Arc::new(node);
        self.send(epoch, Write::Commit { node: node.clone(), flow, journal, inventory, records }).await?;
        Ok(node)
    }

    async fn delete_node(&self, epoch: Epoch, uuid: Uuid, version: u64) -> Result<(), StoreError> {
        self.write(epoch, Write::DeleteNode(uuid, version)).await
    }

    async fn flow(&self, node: Uuid) -> Result<Option<FlowRecord>, StoreError> {
        self.shared.ask(|image| Ok(image.flows.get(&node).cloned())).await
    }

    async fn flows(&self) -> Result<Vec<FlowRecord>, StoreError> {
        self.shared.ask(|image| Ok(image.flows.values().cloned().collect())).await
    }

    async fn inventory(&self, node: Uuid) -> Result<Option<Inventory>, StoreError> {
        let document: Option<String> = sqlx::query_scalar("SELECT document FROM inventories WHERE node_uuid = ?")
            .bind(node.to_string())
            .fetch_optional(&self.shared.readers)
            .await
            .map_err(failed("read an inventory"))?;
        document.map(|document| decode("inventory of node", &node.to_string(), &document)).transpose()
    }

    async fn history(&self, node: Uuid) -> Result<Vec<JournalEntry>, StoreError> {
        let rows = sqlx::query("SELECT uuid, document FROM history WHERE node_uuid = ? ORDER BY id")
            .bind(node.to_string())
            .fetch_all(&self.shared.readers)
            .await
            .map_err(failed("read the history"))?;
        rows.iter().map(|row| decode("history entry", &column(row, "uuid")?, &column(row, "document")?)).collect()
    }

    async fn create_port(&self, epoch: Epoch, port: Port) -> Result<Port, StoreError> {
        let port = Arc::new(port);
        self.write(epoch, Write::CreatePort(port.clone())).await?;
        Ok(Arc::unwrap_or_clone(port))
    }

    async fn port(&self, uuid: Uuid) -> Result<Port, StoreError> {
        self.shared.ask(|image| image.tables.port(uuid).map(|port| (**port).clone())).await
    }

    async fn ports(&self, filter: &PortFilter, page: &Page) -> Result<Vec<Arc<Port>>, StoreError> {
        self.shared.ask(|image| image.tables.ports(filter, page)).await
    }

    async fn update_port(&self, epoch: Epoch, mut port: Port) -> Result<Port, StoreError> {
        port.version += 1;
        let port = Arc::new(port);
        self.write(epoch, Write::UpdatePort(port.clone())).await?;
        Ok(Arc::unwrap_or_clone(port))
    }

    async fn delete_port(&self, epoch: Epoch, uuid: Uuid) -> Result<(), StoreError> {
        self.write(epoch, Write::DeletePort(uuid)).await
    }

    async fn shards(&self) -> Result<Vec<(Option<String>, u64)>, StoreError> {
        self.shared.ask(|image| Ok(image.tables.shards())).await
    }

    async fn create_record(&self, epoch: Epoch, mut record: Record) -> Result<Record, StoreError> {
        record.version = 1;
        self.write(epoch, Write::CreateRecord(record.clone())).await?;
        Ok(record)
    }

    async fn record(&self, kind: RecordKind, uuid: Uuid) -> Result<Record, StoreError> {
        records::find(&self.shared.readers, kind, "uuid", &uuid.to_string()).await
    }

    async fn record_by_name(&self, kind: RecordKind, name: &str) -> Result<Record, StoreError> {
        records::find(&self.shared.readers, kind, "name", name).await
    }

    async fn records(&self, kind: RecordKind, filter: &RecordFilter, page: &Page) -> Result<Vec<Record>, StoreError> {
        records::list(&self.shared.readers, kind, filter, page).await
    }

    async fn update_record(&self, epoch: Epoch, mut record: Record) -> Result<Record, StoreError> {
        record.version += 1;
        self.write(epoch, Write::UpdateRecord(record.clone())).await?;
        Ok(record)
    }

    async fn delete_record(&self, epoch: Epoch, kind: RecordKind, uuid: Uuid) -> Result<(), StoreError> {
        self.write(epoch, Write::DeleteRecord(kind, uuid)).await
    }
}
