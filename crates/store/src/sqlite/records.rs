//! Records in SQLite: one table for all kinds.

use super::{column, decode, encode, failed, micros, push_equal, push_page, refused, signed, unsigned};
use crate::StoreError;
use crate::model::Page;
use crate::record::{Record, RecordChange, RecordFilter, RecordKind};
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, SqliteConnection, SqlitePool};
use uuid::Uuid;

const COLUMNS: &str = "uuid, version, node_uuid, created_at, updated_at, document";

fn record_of(kind: RecordKind, row: &SqliteRow) -> Result<Record, StoreError> {
    let uuid = column(row, "uuid")?;
    let corrupt = |reason: String| StoreError::Corrupt { what: format!("{} {uuid}", kind.as_str()), reason };
    let identifier = |text: &str| Uuid::try_parse(text).map_err(|error| corrupt(error.to_string()));
    let at = |micros: i64| Timestamp::from_microsecond(micros).map_err(|error| corrupt(error.to_string()));
    let read = failed::<sqlx::Error>;
    let node: Option<String> = row.try_get("node_uuid").map_err(read("read a column"))?;
    let version: i64 = row.try_get("version").map_err(read("read a column"))?;
    let created: i64 = row.try_get("created_at").map_err(read("read a column"))?;
    let updated: Option<i64> = row.try_get("updated_at").map_err(read("read a column"))?;
    Ok(Record {
        kind,
        uuid: identifier(&uuid)?,
        version: unsigned(version),
        node: node.as_deref().map(identifier).transpose()?,
        created_at: at(created)?,
        updated_at: updated.map(at).transpose()?,
        fields: decode(kind.as_str(), &uuid, &column(row, "document")?)?,
    })
}

fn refused_record(doing: &'static str, record: &Record, error: sqlx::Error) -> StoreError {
    let identity = record.identity().unwrap_or_default();
    let values = [
        ("uuid", &*record.uuid.to_string()),
        ("name", record.text("name").unwrap_or_default()),
        ("address", record.text("address").unwrap_or_default()),
        ("identity", &*identity),
    ];
    refused(doing, &values, record.node.unwrap_or_default(), error)
}

pub(super) async fn create(connection: &mut SqliteConnection, record: &Record) -> Result<(), StoreError> {
    let inserted = sqlx::query(
        "INSERT INTO records (kind, uuid, version, node_uuid, created_at, updated_at, identity, document) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(record.kind.as_str())
    .bind(record.uuid.to_string())
    .bind(signed(record.version))
    .bind(record.node.map(|node| node.to_string()))
    .bind(record.created_at.as_microsecond())
    .bind(micros(record.updated_at))
    .bind(record.identity())
    .bind(encode(record.kind.as_str(), &record.fields)?)
    .execute(connection)
    .await;
    inserted.map(drop).map_err(|error| refused_record("add a record", record, error))
}

pub(super) async fn find(
    readers: &SqlitePool,
    kind: RecordKind,
    by: &'static str,
    value: &str,
) -> Result<Record, StoreError> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(" FROM records WHERE kind = ").push_bind(kind.as_str());
    push_equal(&mut query, by, Some(value.to_owned()));
    let row = query.build().fetch_optional(readers).await.map_err(failed("read a record"))?;
    record_of(kind, &row.ok_or_else(|| StoreError::not_found(kind.as_str(), value))?)
}

/// The expression that a list is sorted by.
fn sort_expression(kind: RecordKind, key: &str) -> Result<String, StoreError> {
    if !kind.sort_keys().contains(&key) {
        return Err(StoreError::sort_key(key, kind.sort_keys()));
    }
    Ok(match key {
        "uuid" | "created_at" | "updated_at" | "node_uuid" | "name" | "address" => key.to_owned(),
        key => format!("json_extract(document, '$.{key}')"),
    })
}

pub(super) async fn list(
    readers: &SqlitePool,
    kind: RecordKind,
    filter: &RecordFilter,
    page: &Page,
) -> Result<Vec<Record>, StoreError> {
    let expression = page.sort_key.as_deref().map(|key| sort_expression(kind, key)).transpose()?;
    if let Some(marker) = page.marker {
        find(readers, kind, "uuid", &marker.to_string()).await?;
    }
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(" FROM records WHERE kind = ").push_bind(kind.as_str());
    push_equal(&mut query, "node_uuid", filter.node.map(|node| node.to_string()));
    for (field, value) in &filter.equal {
        query.push(format_args!(" AND json_extract(document, '$.{field}') = ")).push_bind(value.clone());
    }
    push_page(&mut query, page, &format!("records WHERE kind = '{}' AND", kind.as_str()), expression.as_deref());
    let rows = query.build().fetch_all(readers).await.map_err(failed("list records"))?;
    rows.iter().map(|row| record_of(kind, row)).collect()
}

/// What of a kind cannot be read.
pub(super) async fn unreadable(pool: &SqlitePool, kind: RecordKind) -> Result<Vec<String>, StoreError> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(" FROM records WHERE kind = ").push_bind(kind.as_str());
    let rows = query.build().fetch_all(pool).await.map_err(failed("read records"))?;
    Ok(rows.iter().filter_map(|row| record_of(kind, row).err()).map(|error| error.to_string()).collect())
}

/// Changes a record whose version before was one less.
pub(super) async fn update(connection: &mut SqliteConnection, record: &Record) -> Result<(), StoreError> {
    let changed = sqlx::query(
        "UPDATE records SET version = ?, node_uuid = ?, created_at = ?, updated_at = ?, identity = ?, document = ? \
         WHERE kind = ? AND uuid = ? AND version = ?",
    )
    .bind(signed(record.version))
    .bind(record.node.map(|node| node.to_string()))
    .bind(record.created_at.as_microsecond())
    .bind(micros(record.updated_at))
    .bind(record.identity())
    .bind(encode(record.kind.as_str(), &record.fields)?)
    .bind(record.kind.as_str())
    .bind(record.uuid.to_string())
    .bind(signed(record.version.saturating_sub(1)))
    .execute(&mut *connection)
    .await
    .map_err(|error| refused_record("change a record", record, error))?;
    if changed.rows_affected() > 0 {
        return Ok(());
    }
    let found = sqlx::query("SELECT 1 FROM records WHERE kind = ? AND uuid = ?")
        .bind(record.kind.as_str())
        .bind(record.uuid.to_string())
        .fetch_optional(connection)
        .await
        .map_err(failed("read a record"))?;
    Err(match found {
        Some(_) => StoreError::RecordConflict { what: record.kind.as_str(), uuid: record.uuid },
        None => StoreError::not_found(record.kind.as_str(), record.uuid),
    })
}

/// Removes a record. Whether it was there.
pub(super) async fn remove(
    connection: &mut SqliteConnection,
    kind: RecordKind,
    uuid: Uuid,
) -> Result<bool, StoreError> {
    let deleted = sqlx::query("DELETE FROM records WHERE kind = ? AND uuid = ?")
        .bind(kind.as_str())
        .bind(uuid.to_string())
        .execute(connection)
        .await
        .map_err(failed("delete a record"))?;
    Ok(deleted.rows_affected() > 0)
}

/// Makes the changes that go with that of a node.
pub(super) async fn apply(connection: &mut SqliteConnection, changes: &[RecordChange]) -> Result<(), StoreError> {
    for change in changes {
        match change {
            RecordChange::Create(record) => create(connection, &Record { version: 1, ..record.clone() }).await?,
            RecordChange::Put(record) => {
                let changed = Record { version: record.version + 1, ..record.clone() };
                update(connection, &changed).await?;
            }
            RecordChange::Delete(kind, uuid) => drop(remove(connection, *kind, *uuid).await?),
        }
    }
    Ok(())
}
