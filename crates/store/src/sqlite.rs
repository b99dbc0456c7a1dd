//! A store in SQLite: one file, no set-up, every commit on the disk before it is acknowledged.

pub mod maintenance;
mod records;

use crate::model::{FlowRecord, Inventory, JournalEntry, Node, NodeFilter, Page, Port, PortFilter, SortDirection};
use crate::record::{Record, RecordFilter, RecordKind};
use crate::{Commit, Epoch, FlowChange, HISTORY_KEPT, Store, StoreError};
use jiff::Timestamp;
use lifecycle::provision::State;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Executor, QueryBuilder, Row as _, SqlSafeStr as _, Sqlite, SqliteConnection, SqlitePool, Transaction};
use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// How long a call waits for another process that writes to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections for queries; SQLite takes one writer and, in WAL mode, any number of readers beside it.
const READERS: u32 = 4;

/// The schema, in the order in which it grew. A released migration is never changed.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "nodes, ports, flows, history", include_str!("../migrations/0001_nodes_ports_flows_history.sql")),
    (2, "records", include_str!("../migrations/0002_records.sql")),
];

/// A store in an SQLite file. Clones share their connections.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
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
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options.read_only(true)).await;
        Ok(Self { writer, readers: readers.map_err(failed("open the database for reading"))? })
    }

    /// Closes the file; the write-ahead log is folded into it.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Begins a change: takes the write lock at once, so that what is checked is still true when it is written, and
    /// refuses a caller that no longer owns the store.
    async fn begin(&self, epoch: Epoch) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let mut transaction = self.lock().await?;
        let newest = newest_epoch(&mut *transaction).await?;
        if newest != epoch { Err(StoreError::Fenced { newest: newest.0, mine: epoch.0 }) } else { Ok(transaction) }
    }

    async fn lock(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed("begin a change"))
    }
}

async fn newest_epoch(connection: impl Executor<'_, Database = Sqlite>) -> Result<Epoch, StoreError> {
    let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM ownership")
        .fetch_one(connection)
        .await
        .map_err(failed("read who owns the database"))?;
    Ok(Epoch(unsigned(epoch)))
}

async fn finish(transaction: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
    transaction.commit().await.map_err(failed("commit a change"))
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

/// Binds the columns of a node, its UUID last.
fn bind_node<'q>(query: Query<'q>, node: &Node) -> Result<Query<'q>, StoreError> {
    Ok(query
        .bind(signed(node.version))
        .bind(node.created_at.as_microsecond())
        .bind(micros(node.updated_at))
        .bind(micros(node.provision_updated_at))
        .bind(micros(node.inspection_started_at))
        .bind(micros(node.inspection_finished_at))
        .bind(encode("node", node)?)
        .bind(node.uuid.to_string()))
}

fn refused_node(doing: &'static str, node: &Node, error: sqlx::Error) -> StoreError {
    let instance = node.instance_uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
    let name = node.name.as_deref().unwrap_or_default();
    let values = [("uuid", &*node.uuid.to_string()), ("name", name), ("instance_uuid", &*instance)];
    refused(doing, &values, node.uuid, error)
}

fn refused_port(doing: &'static str, port: &Port, error: sqlx::Error) -> StoreError {
    let values = [("uuid", &*port.uuid.to_string()), ("address", &*port.address)];
    refused(doing, &values, port.node_uuid, error)
}

/// The expression that a list of nodes is sorted by.
fn node_sort_expression(key: &str) -> Option<&'static str> {
    Some(match key {
        "uuid" => "uuid",
        "name" => "name",
        "created_at" => "created_at",
        "updated_at" => "updated_at",
        "driver" => "driver",
        "provision_state" => "provision_state",
        "target_provision_state" => "json_extract(document, '$.target_provision_state')",
        "provision_updated_at" => "provision_updated_at",
        "power_state" => "json_extract(document, '$.power_state')",
        "target_power_state" => "json_extract(document, '$.target_power_state')",
        "maintenance" => "maintenance",
        "maintenance_reason" => "json_extract(document, '$.maintenance_reason')",
        "fault" => "fault",
        "last_error" => "json_extract(document, '$.last_error')",
        "reservation" => "json_extract(document, '$.reservation')",
        "instance_uuid" => "instance_uuid",
        "inspection_started_at" => "inspection_started_at",
        "inspection_finished_at" => "inspection_finished_at",
        "automated_clean" => "json_extract(document, '$.automated_clean')",
        "resource_class" => "resource_class",
        "description" => "description",
        "owner" => "owner",
        "lessee" => "lessee",
        "conductor_group" => "conductor_group",
        "protected" => "json_extract(document, '$.protected')",
        "protected_reason" => "json_extract(document, '$.protected_reason')",
        "retired" => "retired",
        "retired_reason" => "json_extract(document, '$.retired_reason')",
        "shard" => "shard",
        "parent_node" => "parent_node",
        "instance_name" => "instance_name",
        _ => return None,
    })
}

/// The expression that a list of ports is sorted by.
fn port_sort_expression(key: &str) -> Option<&'static str> {
    Some(match key {
        "uuid" => "uuid",
        "address" => "address",
        "name" => "name",
        "created_at" => "created_at",
        "updated_at" => "updated_at",
        "node_uuid" => "node_uuid",
        "pxe_enabled" => "json_extract(document, '$.pxe_enabled')",
        "physical_network" => "json_extract(document, '$.physical_network')",
        _ => return None,
    })
}

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

fn push_node_filter(query: &mut QueryBuilder<Sqlite>, filter: &NodeFilter) {
    push_equal(query, "provision_state", filter.provision_state.map(|state| state.as_str()));
    push_equal(query, "maintenance", filter.maintenance);
    push_equal(query, "instance_uuid", filter.instance_uuid.map(|uuid| uuid.to_string()));
    push_equal(query, "driver", filter.driver.clone());
    push_equal(query, "resource_class", filter.resource_class.clone());
    push_equal(query, "fault", filter.fault.clone());
    push_equal(query, "conductor_group", filter.conductor_group.clone());
    push_equal(query, "owner", filter.owner.clone());
    push_equal(query, "lessee", filter.lessee.clone());
    push_equal(query, "retired", filter.retired);
    push_equal(query, "(instance_uuid IS NOT NULL)", filter.associated);
    if let Some(part) = &filter.description_contains {
        query.push(" AND instr(lower(ifnull(description, '')), ").push_bind(part.to_ascii_lowercase()).push(") > 0");
    }
    push_equal(query, "chassis_uuid", filter.chassis_uuid.map(|uuid| uuid.to_string()));
    push_equal(query, "parent_node", filter.parent_node.map(|uuid| uuid.to_string()));
    push_equal(query, "(parent_node IS NOT NULL)", filter.child);
    push_equal(query, "instance_name", filter.instance_name.clone());
    push_equal(query, "(shard IS NOT NULL)", filter.sharded);
    if let Some(shards) = &filter.shards {
        query.push(" AND ");
        push_one_of(query, "shard", shards);
    }
    if let Some(project) = &filter.project {
        query.push(" AND (owner = ").push_bind(project.clone());
        query.push(" OR lessee = ").push_bind(project.clone()).push(")");
    }
}

/// Adds `column IN (…)`.
fn push_one_of(query: &mut QueryBuilder<Sqlite>, column: &'static str, values: &[String]) {
    query.push(format_args!("{column} IN ("));
    let mut list = query.separated(", ");
    for value in values {
        list.push_bind(value.clone());
    }
    query.push(")");
}

fn push_port_filter(query: &mut QueryBuilder<Sqlite>, filter: &PortFilter) {
    push_equal(query, "node_uuid", filter.node.map(|node| node.to_string()));
    push_equal(query, "portgroup_uuid", filter.portgroup.map(|portgroup| portgroup.to_string()));
    push_equal(query, "name", filter.name.clone());
    if let Some(addresses) = &filter.addresses {
        query.push(" AND ");
        push_one_of(query, "address", addresses);
    }
    for (column, values) in [("shard", &filter.shards), ("conductor_group", &filter.conductor_groups)] {
        if let Some(values) = values {
            query.push(" AND node_uuid IN (SELECT uuid FROM nodes WHERE ");
            push_one_of(query, column, values);
            query.push(")");
        }
    }
}

/// Adds what a commit adds to the history, and lets go of what is beyond its length.
async fn write_history(
    connection: &mut SqliteConnection,
    node: &str,
    journal: &[JournalEntry],
) -> Result<(), StoreError> {
    if journal.is_empty() {
        return Ok(());
    }
    for entry in journal {
        sqlx::query("INSERT INTO history (uuid, node_uuid, document) VALUES (?, ?, ?)")
            .bind(entry.uuid.to_string())
            .bind(node)
            .bind(encode("history entry", entry)?)
            .execute(&mut *connection)
            .await
            .map_err(failed("save the history"))?;
    }
    sqlx::query(
        "DELETE FROM history WHERE node_uuid = ?1 AND id <= \
         (SELECT id FROM history WHERE node_uuid = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
    )
    .bind(node)
    .bind(i64::try_from(HISTORY_KEPT).unwrap_or(i64::MAX))
    .execute(connection)
    .await
    .map_err(failed("shorten the history"))?;
    Ok(())
}

async fn write_flow(connection: &mut SqliteConnection, node: &str, flow: &FlowChange) -> Result<(), StoreError> {
    let query = match flow {
        FlowChange::Keep => return Ok(()),
        FlowChange::Put(flow) => sqlx::query("INSERT OR REPLACE INTO flows (node_uuid, document) VALUES (?, ?)")
            .bind(node)
            .bind(encode("flow", flow)?),
        FlowChange::Clear => sqlx::query("DELETE FROM flows WHERE node_uuid = ?").bind(node),
    };
    query.execute(connection).await.map(|_| ()).map_err(failed("save the flow"))
}

impl Store for SqliteStore {
    async fn take_over(&self, host: &str) -> Result<Epoch, StoreError> {
        let mut transaction = self.lock().await?;
        sqlx::query("UPDATE ownership SET epoch = epoch + 1, host = ?, taken_at = ?")
            .bind(host)
            .bind(Timestamp::now().to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed("take the database over"))?;
        let epoch = newest_epoch(&mut *transaction).await?;
        finish(transaction).await?;
        Ok(epoch)
    }

    async fn owner(&self) -> Result<Epoch, StoreError> {
        newest_epoch(&self.readers).await
    }

    async fn create_node(&self, epoch: Epoch, mut node: Node) -> Result<Node, StoreError> {
        node.version = 1;
        let mut transaction = self.begin(epoch).await?;
        let insert = sqlx::query(
            "INSERT INTO nodes (version, created_at, updated_at, provision_updated_at, inspection_started_at, \
             inspection_finished_at, document, uuid) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        );
        bind_node(insert, &node)?
            .execute(&mut *transaction)
            .await
            .map_err(|error| refused_node("add a node", &node, error))?;
        finish(transaction).await?;
        Ok(node)
    }

    async fn node(&self, uuid: Uuid) -> Result<Node, StoreError> {
        let row = sqlx::query("SELECT uuid, version, document FROM nodes WHERE uuid = ?")
            .bind(uuid.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("read a node"))?;
        node_of(&row.ok_or_else(|| StoreError::not_found("node", uuid))?)
    }

    async fn node_by_name(&self, name: &str) -> Result<Node, StoreError> {
        let row = sqlx::query("SELECT uuid, version, document FROM nodes WHERE name = ?")
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("read a node"))?;
        node_of(&row.ok_or_else(|| StoreError::not_found("node", name))?)
    }

    async fn nodes(&self, filter: &NodeFilter, page: &Page) -> Result<Vec<Node>, StoreError> {
        let expression = match &page.sort_key {
            None => None,
            Some(key) => Some(node_sort_expression(key).ok_or_else(|| StoreError::sort_key(key, Node::SORT_KEYS))?),
        };
        if let Some(marker) = page.marker {
            self.node(marker).await?;
        }
        let mut query = QueryBuilder::new("SELECT uuid, version, document FROM nodes WHERE true");
        push_node_filter(&mut query, filter);
        push_page(&mut query, page, "nodes WHERE", expression);
        let rows = query.build().fetch_all(&self.readers).await.map_err(failed("list nodes"))?;
        rows.iter().map(node_of).collect()
    }

    async fn count_nodes(&self, states: &[State]) -> Result<usize, StoreError> {
        let mut query = QueryBuilder::new("SELECT count(*) FROM nodes WHERE provision_state IN (");
        let mut list = query.separated(", ");
        for state in states {
            list.push_bind(state.as_str());
        }
        query.push(")");
        let count: i64 = query.build_query_scalar().fetch_one(&self.readers).await.map_err(failed("count nodes"))?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    async fn commit(&self, epoch: Epoch, commit: Commit) -> Result<Node, StoreError> {
        let mut node = commit.node;
        let read = node.version;
        node.version += 1;
        let uuid = node.uuid.to_string();
        let mut transaction = self.begin(epoch).await?;
        let update = sqlx::query(
            "UPDATE nodes SET version = ?, created_at = ?, updated_at = ?, provision_updated_at = ?, \
             inspection_started_at = ?, inspection_finished_at = ?, document = ? WHERE uuid = ? AND version = ?",
        );
        let changed = bind_node(update, &node)?
            .bind(signed(read))
            .execute(&mut *transaction)
            .await
            .map_err(|error| refused_node("change a node", &node, error))?;
        if changed.rows_affected() == 0 {
            return Err(missing_or_conflict(&mut transaction, node.uuid).await);
        }
        write_flow(&mut transaction, &uuid, &commit.flow).await?;
        if let Some(inventory) = &commit.inventory {
            sqlx::query("INSERT OR REPLACE INTO inventories (node_uuid, document) VALUES (?, ?)")
                .bind(&uuid)
                .bind(encode("inventory", inventory)?)
                .execute(&mut *transaction)
                .await
                .map_err(failed("save the inventory"))?;
        }
        write_history(&mut transaction, &uuid, &commit.journal).await?;
        records::apply(&mut transaction, &commit.records).await?;
        finish(transaction).await?;
        Ok(node)
    }

    async fn delete_node(&self, epoch: Epoch, uuid: Uuid, version: u64) -> Result<(), StoreError> {
        let mut transaction = self.begin(epoch).await?;
        let deleted = sqlx::query("DELETE FROM nodes WHERE uuid = ? AND version = ?")
            .bind(uuid.to_string())
            .bind(signed(version))
            .execute(&mut *transaction)
            .await
            .map_err(failed("delete a node"))?;
        if deleted.rows_affected() == 0 {
            return Err(missing_or_conflict(&mut transaction, uuid).await);
        }
        finish(transaction).await
    }

    async fn flow(&self, node: Uuid) -> Result<Option<FlowRecord>, StoreError> {
        let document: Option<String> = sqlx::query_scalar("SELECT document FROM flows WHERE node_uuid = ?")
            .bind(node.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("read a flow"))?;
        document.map(|document| decode("flow of node", &node.to_string(), &document)).transpose()
    }

    async fn flows(&self) -> Result<Vec<FlowRecord>, StoreError> {
        let rows = sqlx::query("SELECT node_uuid, document FROM flows ORDER BY node_uuid")
            .fetch_all(&self.readers)
            .await
            .map_err(failed("list flows"))?;
        rows.iter().map(|row| decode("flow of node", &column(row, "node_uuid")?, &column(row, "document")?)).collect()
    }

    async fn inventory(&self, node: Uuid) -> Result<Option<Inventory>, StoreError> {
        let document: Option<String> = sqlx::query_scalar("SELECT document FROM inventories WHERE node_uuid = ?")
            .bind(node.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("read an inventory"))?;
        document.map(|document| decode("inventory of node", &node.to_string(), &document)).transpose()
    }

    async fn history(&self, node: Uuid) -> Result<Vec<JournalEntry>, StoreError> {
        let rows = sqlx::query("SELECT uuid, document FROM history WHERE node_uuid = ? ORDER BY id")
            .bind(node.to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(failed("read the history"))?;
        rows.iter().map(|row| decode("history entry", &column(row, "uuid")?, &column(row, "document")?)).collect()
    }

    async fn create_port(&self, epoch: Epoch, port: Port) -> Result<Port, StoreError> {
        let mut transaction = self.begin(epoch).await?;
        sqlx::query("INSERT INTO ports (uuid, node_uuid, created_at, updated_at, document) VALUES (?, ?, ?, ?, ?)")
            .bind(port.uuid.to_string())
            .bind(port.node_uuid.to_string())
            .bind(port.created_at.as_microsecond())
            .bind(micros(port.updated_at))
            .bind(encode("port", &port)?)
            .execute(&mut *transaction)
            .await
            .map_err(|error| refused_port("add a port", &port, error))?;
        finish(transaction).await?;
        Ok(port)
    }

    async fn port(&self, uuid: Uuid) -> Result<Port, StoreError> {
        let row = sqlx::query("SELECT uuid, document FROM ports WHERE uuid = ?")
            .bind(uuid.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("read a port"))?;
        port_of(&row.ok_or_else(|| StoreError::not_found("port", uuid))?)
    }

    async fn ports(&self, filter: &PortFilter, page: &Page) -> Result<Vec<Port>, StoreError> {
        let expression = match &page.sort_key {
            None => None,
            Some(key) => Some(port_sort_expression(key).ok_or_else(|| StoreError::sort_key(key, Port::SORT_KEYS))?),
        };
        if let Some(marker) = page.marker {
            self.port(marker).await?;
        }
        let mut query = QueryBuilder::new("SELECT uuid, document FROM ports WHERE true");
        push_port_filter(&mut query, filter);
        push_page(&mut query, page, "ports WHERE", expression);
        let rows = query.build().fetch_all(&self.readers).await.map_err(failed("list ports"))?;
        rows.iter().map(port_of).collect()
    }

    async fn update_port(&self, epoch: Epoch, port: Port) -> Result<Port, StoreError> {
        let mut transaction = self.begin(epoch).await?;
        let changed =
            sqlx::query("UPDATE ports SET node_uuid = ?, created_at = ?, updated_at = ?, document = ? WHERE uuid = ?")
                .bind(port.node_uuid.to_string())
                .bind(port.created_at.as_microsecond())
                .bind(micros(port.updated_at))
                .bind(encode("port", &port)?)
                .bind(port.uuid.to_string())
                .execute(&mut *transaction)
                .await
                .map_err(|error| refused_port("change a port", &port, error))?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::not_found("port", port.uuid));
        }
        finish(transaction).await?;
        Ok(port)
    }

    async fn delete_port(&self, epoch: Epoch, uuid: Uuid) -> Result<(), StoreError> {
        let mut transaction = self.begin(epoch).await?;
        let deleted = sqlx::query("DELETE FROM ports WHERE uuid = ?")
            .bind(uuid.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed("delete a port"))?;
        if deleted.rows_affected() == 0 {
            return Err(StoreError::not_found("port", uuid));
        }
        finish(transaction).await
    }

    async fn shards(&self) -> Result<Vec<(Option<String>, u64)>, StoreError> {
        let rows =
            sqlx::query("SELECT shard, count(*) AS number FROM nodes GROUP BY shard ORDER BY shard IS NULL, shard")
                .fetch_all(&self.readers)
                .await
                .map_err(failed("count the nodes of shards"))?;
        let count = |row: &SqliteRow| -> Result<_, sqlx::Error> {
            Ok((row.try_get("shard")?, unsigned(row.try_get("number")?)))
        };
        rows.iter().map(count).collect::<Result<_, _>>().map_err(failed("count the nodes of shards"))
    }

    async fn create_record(&self, epoch: Epoch, record: Record) -> Result<Record, StoreError> {
        records::create(self, epoch, record).await
    }

    async fn record(&self, kind: RecordKind, uuid: Uuid) -> Result<Record, StoreError> {
        records::find(self, kind, "uuid", &uuid.to_string()).await
    }

    async fn record_by_name(&self, kind: RecordKind, name: &str) -> Result<Record, StoreError> {
        records::find(self, kind, "name", name).await
    }

    async fn records(&self, kind: RecordKind, filter: &RecordFilter, page: &Page) -> Result<Vec<Record>, StoreError> {
        records::list(self, kind, filter, page).await
    }

    async fn update_record(&self, epoch: Epoch, record: Record) -> Result<Record, StoreError> {
        records::update(self, epoch, record).await
    }

    async fn delete_record(&self, epoch: Epoch, kind: RecordKind, uuid: Uuid) -> Result<(), StoreError> {
        records::delete(self, epoch, kind, uuid).await
    }
}

/// Why a node of an expected version was not there.
async fn missing_or_conflict(connection: &mut SqliteConnection, node: Uuid) -> StoreError {
    let found = sqlx::query("SELECT 1 FROM nodes WHERE uuid = ?").bind(node.to_string());
    match found.fetch_optional(connection).await {
        Ok(Some(_)) => StoreError::Conflict { node },
        Ok(None) => StoreError::not_found("node", node),
        Err(error) => failed("read a node")(error),
    }
}
