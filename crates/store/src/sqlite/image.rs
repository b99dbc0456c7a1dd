//! What the owner of a database knows of it without asking: nodes, ports and flows as they are, and which of the nodes
//! are newer than the file.
//!
//! Nobody but the owner writes, and who writes is asked for its epoch in the same transaction, so the owner's image is
//! true as long as it is the owner. A store that owns nothing has no image to trust and reads the file.

use super::{column, decode, failed, node_of, port_of};
use crate::model::{FlowRecord, Node};
use crate::tables::Tables;
use crate::{Commit, Durability, Epoch, FlowChange, StoreError};
use sqlx::SqliteConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// The content of a database, but for what is read seldom: records, history and inventories.
#[derive(Debug, Default)]
pub(super) struct Image {
    /// Whose image it is.
    pub(super) epoch: Epoch,
    pub(super) tables: Tables,
    pub(super) flows: BTreeMap<Uuid, FlowRecord>,
    /// Nodes that are newer here than in the file.
    pub(super) unsaved: BTreeSet<Uuid>,
    /// Nodes with changes on their way into the file, and how many: nothing overtakes those.
    writing: HashMap<Uuid, usize>,
    /// Why the last write failed; nothing is put off while the file cannot be written.
    pub(super) broken: Option<String>,
}

impl Image {
    pub(super) async fn load(connection: &mut SqliteConnection, epoch: Epoch) -> Result<Self, StoreError> {
        let mut image = Self { epoch, ..Self::default() };
        let nodes = sqlx::query("SELECT uuid, version, document FROM nodes ORDER BY id").fetch_all(&mut *connection);
        for row in nodes.await.map_err(failed("read the nodes"))? {
            image.tables.put_node(Arc::new(node_of(&row)?));
        }
        let ports = sqlx::query("SELECT uuid, document FROM ports ORDER BY id").fetch_all(&mut *connection);
        for row in ports.await.map_err(failed("read the ports"))? {
            image.tables.put_port(Arc::new(port_of(&row)?));
        }
        let flows = sqlx::query("SELECT node_uuid, document FROM flows").fetch_all(connection);
        for row in flows.await.map_err(failed("read the flows"))? {
            let flow: FlowRecord = decode("flow of node", &column(&row, "node_uuid")?, &column(&row, "document")?)?;
            image.flows.insert(flow.node, flow);
        }
        Ok(image)
    }

    /// Takes a change that may be saved later. Gives it back when it may not: it is more than a change of the node's own
    /// fields, something else is being written for the node, or the file cannot be written.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::NotFound`].
    pub(super) fn take(&mut self, commit: Commit) -> Result<Result<Arc<Node>, Commit>, StoreError> {
        let alone = commit.flow == FlowChange::Keep
            && commit.journal.is_empty()
            && commit.inventory.is_none()
            && commit.records.is_empty();
        let uuid = commit.node.uuid;
        if commit.durability == Durability::Now || !alone || self.broken.is_some() || self.writing.contains_key(&uuid) {
            return Ok(Err(commit));
        }
        let now = self.tables.node(uuid)?;
        if now.name != commit.node.name || now.instance_uuid != commit.node.instance_uuid {
            return Ok(Err(commit));
        }
        if now.version != commit.node.version {
            return Err(StoreError::Conflict { node: uuid });
        }
        let mut node = commit.node;
        node.version += 1;
        let node = Arc::new(node);
        self.tables.put_node(node.clone());
        self.unsaved.insert(uuid);
        Ok(Ok(node))
    }

    /// Notes that a change of a node is on its way into the file.
    pub(super) fn begin(&mut self, node: Uuid) {
        *self.writing.entry(node).or_default() += 1;
    }

    /// It has arrived, or has failed.
    pub(super) fn end(&mut self, node: Uuid) {
        if let Some(count) = self.writing.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.writing.remove(&node);
            }
        }
    }
}
