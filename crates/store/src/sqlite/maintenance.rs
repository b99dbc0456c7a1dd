//! What an operator does to the database of a driver: look whether it is sound, bring its schema up to date, copy it.

use super::{MIGRATIONS, SqliteStore, failed, node_of, port_of, records};
use crate::StoreError;
use crate::record::RecordKind;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use std::path::Path;

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The version of the schema; 0 of an empty file.
    pub version: i64,
    /// The version that this program writes.
    pub newest: i64,
    /// What is wrong, for people; nothing when the database is sound.
    pub problems: Vec<String>,
}

/// Most problems that are named.
const MAX_PROBLEMS: usize = 100;

async fn read_only(file: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
    pool.map_err(failed("open the database"))
}

/// Looks at every page, every reference and every document. Nothing is changed; a driver may run.
///
/// # Errors
/// [`StoreError::Database`]: the file cannot be opened or is no database.
pub async fn check(file: &Path) -> Result<Report, StoreError> {
    let pool = read_only(file).await?;
    let report = look(&pool).await;
    pool.close().await;
    report
}

async fn look(pool: &SqlitePool) -> Result<Report, StoreError> {
    let read = failed::<sqlx::Error>;
    let mut report = Report {
        version: 0,
        newest: MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or(0),
        problems: Vec::new(),
    };
    let rows = sqlx::query("PRAGMA integrity_check").fetch_all(pool).await.map_err(read("check the database"))?;
    for row in rows {
        let text: String = row.try_get(0).map_err(read("check the database"))?;
        if text != "ok" {
            report.problems.push(text);
        }
    }
    let migrated: Option<i64> = sqlx::query_scalar("SELECT 1 FROM sqlite_master WHERE name = '_sqlx_migrations'")
        .fetch_optional(pool)
        .await
        .map_err(read("read the version of the schema"))?;
    if migrated.is_none() {
        return Ok(report);
    }
    let version: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(pool)
        .await
        .map_err(read("read the version of the schema"))?;
    report.version = version.unwrap_or(0);
    let rows = sqlx::query("PRAGMA foreign_key_check").fetch_all(pool).await.map_err(read("check references"))?;
    for row in rows {
        let table: String = row.try_get(0).map_err(read("check references"))?;
        report.problems.push(format!("a row of {table} refers to something that is not there"));
    }
    let nodes = sqlx::query("SELECT uuid, version, document FROM nodes").fetch_all(pool).await;
    for row in nodes.map_err(read("read nodes"))? {
        report.problems.extend(node_of(&row).err().map(|error| error.to_string()));
    }
    let ports = sqlx::query("SELECT uuid, document FROM ports").fetch_all(pool).await;
    for row in ports.map_err(read("read ports"))? {
        report.problems.extend(port_of(&row).err().map(|error| error.to_string()));
    }
    if report.version >= 2 {
        for kind in RecordKind::ALL {
            report.problems.extend(records::unreadable(pool, kind).await?);
        }
    }
    if report.version > report.newest {
        report.problems.push(format!(
            "the schema is of version {}, which a newer ferricd wrote; this one knows {}",
            report.version, report.newest
        ));
    }
    report.problems.truncate(MAX_PROBLEMS);
    Ok(report)
}

/// Brings the schema up to date; returns the versions before and after.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn upgrade(file: &Path) -> Result<(i64, i64), StoreError> {
    let before = check(file).await?.version;
    SqliteStore::open(file).await?.close().await;
    Ok((before, check(file).await?.version))
}

/// Copies the database as it is at one moment to a new file; a driver may run.
///
/// # Errors
/// [`StoreError::Database`]: the file is not there, or `to` is.
pub async fn backup(file: &Path, to: &Path) -> Result<(), StoreError> {
    let pool = read_only(file).await?;
    let copied = sqlx::query("VACUUM INTO ?").bind(to.display().to_string()).execute(&pool).await;
    pool.close().await;
    copied.map(drop).map_err(failed("copy the database"))
}
