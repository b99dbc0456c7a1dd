//! What is written, statement by statement.

use super::image::Image;
use super::{Query, encode, failed, micros, records, refused, signed};
use crate::model::{Inventory, JournalEntry, Node, Port};
use crate::record::{Record, RecordChange, RecordKind};
use crate::{FlowChange, HISTORY_KEPT, StoreError};
use sqlx::SqliteConnection;
use std::sync::Arc;
use uuid::Uuid;

/// A change, as it shall be in the file.
pub(super) enum Write {
    CreateNode(Arc<Node>),
    /// Of a node whose version before was one less.
    Commit {
        node: Arc<Node>,
        flow: FlowChange,
        journal: Vec<JournalEntry>,
        inventory: Option<Inventory>,
        records: Vec<RecordChange>,
    },
    DeleteNode(Uuid, u64),
    CreatePort(Arc<Port>),
    /// Of a port whose version before was one less.
    UpdatePort(Arc<Port>),
    DeletePort(Uuid),
    CreateRecord(Record),
    /// Of a record whose version before was one less.
    UpdateRecord(Record),
    DeleteRecord(RecordKind, Uuid),
}

impl Write {
    /// The node that it changes.
    pub(super) fn node(&self) -> Option<Uuid> {
        match self {
            Self::CreateNode(node) | Self::Commit { node, .. } => Some(node.uuid),
            Self::DeleteNode(node, _) => Some(*node),
            Self::CreatePort(_)
            | Self::UpdatePort(_)
            | Self::DeletePort(_)
            | Self::CreateRecord(_)
            | Self::UpdateRecord(_)
            | Self::DeleteRecord(..) => None,
        }
    }

    /// Does to the image what was done to the file.
    pub(super) fn apply(&self, image: &mut Image) {
        match self {
            Self::CreateNode(node) => image.tables.put_node(node.clone()),
            Self::Commit { node, flow, .. } => {
                image.tables.put_node(node.clone());
                match flow {
                    FlowChange::Keep => {}
                    FlowChange::Put(flow) => drop(image.flows.insert(node.uuid, flow.clone())),
                    FlowChange::Clear => drop(image.flows.remove(&node.uuid)),
                }
            }
            Self::DeleteNode(node, _) => {
                image.tables.remove_node(*node);
                image.flows.remove(node);
                image.unsaved.remove(node);
            }
            Self::CreatePort(port) | Self::UpdatePort(port) => image.tables.put_port(port.clone()),
            Self::DeletePort(port) => image.tables.remove_port(*port),
            Self::CreateRecord(_) | Self::UpdateRecord(_) | Self::DeleteRecord(..) => {}
        }
    }
}

/// Makes a change.
pub(super) async fn carry_out(connection: &mut SqliteConnection, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::CreateNode(node) => create_node(connection, node).await,
        Write::Commit { node, flow, journal, inventory, records } => {
            update_node(connection, node).await?;
            let uuid = node.uuid.to_string();
            write_flow(connection, &uuid, flow).await?;
            write_inventory(connection, &uuid, inventory.as_ref()).await?;
            write_history(connection, &uuid, journal).await?;
            records::apply(connection, records).await
        }
        Write::DeleteNode(node, version) => delete_node(connection, *node, *version).await,
        Write::CreatePort(port) => {
            let insert = "INSERT INTO ports (node_uuid, created_at, updated_at, document, uuid) VALUES (?, ?, ?, ?, ?)";
            write_port(connection, "add a port", insert, port).await.map(drop)
        }
        Write::UpdatePort(port) => {
            let update = "UPDATE ports SET node_uuid = ?1, created_at = ?2, updated_at = ?3, document = ?4 \
                          WHERE uuid = ?5 AND coalesce(json_extract(document, '$.version'), 0) + 1 = \
                          json_extract(?4, '$.version')";
            if write_port(connection, "change a port", update, port).await? > 0 {
                return Ok(());
            }
            let found = sqlx::query("SELECT 1 FROM ports WHERE uuid = ?").bind(port.uuid.to_string());
            match found.fetch_optional(connection).await.map_err(failed("read a port"))? {
                Some(_) => Err(StoreError::RecordConflict { what: "port", uuid: port.uuid }),
                None => Err(StoreError::not_found("port", port.uuid)),
            }
        }
        Write::DeletePort(port) => {
            let delete = sqlx::query("DELETE FROM ports WHERE uuid = ?").bind(port.to_string());
            match delete.execute(connection).await.map_err(failed("delete a port"))?.rows_affected() {
                0 => Err(StoreError::not_found("port", port)),
                _ => Ok(()),
            }
        }
        Write::CreateRecord(record) => records::create(connection, record).await,
        Write::UpdateRecord(record) => records::update(connection, record).await,
        Write::DeleteRecord(kind, uuid) => match records::remove(connection, *kind, *uuid).await? {
            true => Ok(()),
            false => Err(StoreError::not_found(kind.as_str(), uuid)),
        },
    }
}

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

async fn create_node(connection: &mut SqliteConnection, node: &Node) -> Result<(), StoreError> {
    let insert = sqlx::query(
        "INSERT INTO nodes (version, created_at, updated_at, provision_updated_at, inspection_started_at, \
         inspection_finished_at, document, uuid) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    );
    let inserted = bind_node(insert, node)?.execute(connection).await;
    inserted.map(drop).map_err(|error| refused_node("add a node", node, error))
}

async fn update_node(connection: &mut SqliteConnection, node: &Node) -> Result<(), StoreError> {
    let update = sqlx::query(
        "UPDATE nodes SET version = ?, created_at = ?, updated_at = ?, provision_updated_at = ?, \
         inspection_started_at = ?, inspection_finished_at = ?, document = ? WHERE uuid = ? AND version = ?",
    );
    let changed = bind_node(update, node)?
        .bind(signed(node.version.saturating_sub(1)))
        .execute(&mut *connection)
        .await
        .map_err(|error| refused_node("change a node", node, error))?;
    if changed.rows_affected() == 0 { Err(missing_or_conflict(connection, node.uuid).await) } else { Ok(()) }
}

/// Saves a node that is newer than the file, whatever version the file has. Its owner alone does that.
pub(super) async fn save_node(connection: &mut SqliteConnection, node: &Node) -> Result<(), StoreError> {
    let update = sqlx::query(
        "UPDATE nodes SET version = ?, created_at = ?, updated_at = ?, provision_updated_at = ?, \
         inspection_started_at = ?, inspection_finished_at = ?, document = ? WHERE uuid = ?",
    );
    let saved = bind_node(update, node)?.execute(connection).await;
    saved.map(drop).map_err(failed("save a node"))
}

async fn delete_node(connection: &mut SqliteConnection, node: Uuid, version: u64) -> Result<(), StoreError> {
    let deleted = sqlx::query("DELETE FROM nodes WHERE uuid = ? AND version = ?")
        .bind(node.to_string())
        .bind(signed(version))
        .execute(&mut *connection)
        .await
        .map_err(failed("delete a node"))?;
    if deleted.rows_affected() == 0 { Err(missing_or_conflict(connection, node).await) } else { Ok(()) }
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

async fn write_flow(connection: &mut SqliteConnection, node: &str, flow: &FlowChange) -> Result<(), StoreError> {
    let query = match flow {
        FlowChange::Keep => return Ok(()),
        FlowChange::Put(flow) => sqlx::query("INSERT OR REPLACE INTO flows (node_uuid, document) VALUES (?, ?)")
            .bind(node)
            .bind(encode("flow", flow)?),
        FlowChange::Clear => sqlx::query("DELETE FROM flows WHERE node_uuid = ?").bind(node),
    };
    query.execute(connection).await.map(drop).map_err(failed("save the flow"))
}

async fn write_inventory(
    connection: &mut SqliteConnection,
    node: &str,
    inventory: Option<&Inventory>,
) -> Result<(), StoreError> {
    let Some(inventory) = inventory else { return Ok(()) };
    let replace = sqlx::query("INSERT OR REPLACE INTO inventories (node_uuid, document) VALUES (?, ?)");
    let replaced = replace.bind(node).bind(encode("inventory", inventory)?).execute(connection).await;
    replaced.map(drop).map_err(failed("save the inventory"))
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

/// Writes the columns of a port, its UUID last; how many rows that were.
async fn write_port(
    connection: &mut SqliteConnection,
    doing: &'static str,
    statement: &'static str,
    port: &Port,
) -> Result<u64, StoreError> {
    if let Some(name) = &port.name {
        // Databases of earlier builds may have ports of one name, so no index can refuse a second.
        let other = sqlx::query("SELECT 1 FROM ports WHERE name = ? AND uuid != ?");
        let other = other.bind(name).bind(port.uuid.to_string()).fetch_optional(&mut *connection).await;
        if other.map_err(failed("look a port up by its name"))?.is_some() {
            return Err(StoreError::Duplicate { what: "name", value: name.clone() });
        }
    }
    let written = sqlx::query(statement)
        .bind(port.node_uuid.to_string())
        .bind(port.created_at.as_microsecond())
        .bind(micros(port.updated_at))
        .bind(encode("port", port)?)
        .bind(port.uuid.to_string())
        .execute(connection)
        .await;
    let values = [("uuid", &*port.uuid.to_string()), ("address", &*port.address)];
    Ok(written.map_err(|error| refused(doing, &values, port.node_uuid, error))?.rows_affected())
}
