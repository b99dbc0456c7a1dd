//! Ports.

use super::Conductor;
use super::change::locked;
use crate::fault::Fault;
use lifecycle::provision::State;
use std::sync::Arc;
use store::{Node, Port, Store, StoreError};
use uuid::Uuid;

impl<S: Store> Conductor<S> {
    /// Adds a port.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for an unknown node, [`Fault::Conflict`] for an address that another port has.
    pub async fn create_port(&self, mut port: Port) -> Result<Port, Fault> {
        if let Err(StoreError::NotFound { .. }) = self.store.node(port.node_uuid).await {
            return Err(Fault::Invalid(format!("Node {} could not be found.", port.node_uuid)));
        }
        port.address.make_ascii_lowercase();
        port.created_at = self.parts.clock.now();
        Ok(self.store.create_port(self.epoch, port).await?)
    }

    /// Changes a port.
    ///
    /// # Errors
    /// [`Fault::Conflict`] while its node is worked on.
    pub async fn update_port(&self, mut port: Port) -> Result<Port, Fault> {
        let node = self.store.node(port.node_uuid).await?;
        check(&node)?;
        if matches!(node.provision_state, State::Inspecting | State::InspectWait) && !node.maintenance {
            return Err(Fault::Conflict(format!(
                "Cannot update port {} while node {} is in state \"{}\".",
                port.uuid, node.uuid, node.provision_state
            )));
        }
        port.address.make_ascii_lowercase();
        port.updated_at = Some(self.parts.clock.now());
        Ok(self.store.update_port(self.epoch, port).await?)
    }

    /// Removes a port.
    ///
    /// # Errors
    /// [`Fault::Conflict`] while its node is worked on.
    pub async fn delete_port(self: &Arc<Self>, uuid: Uuid) -> Result<(), Fault> {
        let port = self.store.port(uuid).await?;
        check(&self.store.node(port.node_uuid).await?)?;
        Ok(self.store.delete_port(self.epoch, uuid).await?)
    }
}

fn check(node: &Node) -> Result<(), Fault> {
    if node.reservation.is_some() { Err(locked(node, None)) } else { Ok(()) }
}
