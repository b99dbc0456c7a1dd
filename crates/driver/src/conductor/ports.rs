//! Ports.

use super::Conductor;
use super::change::locked;
use crate::fault::Fault;
use lifecycle::provision::State;
use serde_json::Value;
use std::sync::Arc;
use store::{Node, Page, Port, PortFilter, Record, RecordKind, Store, StoreError};
use uuid::Uuid;

impl<S: Store> Conductor<S> {
    /// Adds a port.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for an unknown node, [`Fault::Conflict`] for an address or a name that another port has.
    pub async fn create_port(&self, mut port: Port) -> Result<Port, Fault> {
        if let Err(StoreError::NotFound { .. }) = self.store.node(port.node_uuid).await {
            return Err(Fault::Invalid(format!("Node {} could not be found.", port.node_uuid)));
        }
        port.address.make_ascii_lowercase();
        port.created_at = self.parts.clock.now();
        let group = self.check_physical_network(None, &port, &[]).await?;
        let port = self.store.create_port(self.epoch, port).await.map_err(refused)?;
        self.save_network(group).await?;
        Ok(port)
    }

    /// Changes a port.
    ///
    /// # Errors
    /// [`Fault::Conflict`] while its node is worked on.
    pub async fn update_port(&self, mut port: Port) -> Result<Port, Fault> {
        self.until_power_is_changed(port.node_uuid).await?;
        let node = self.store.node(port.node_uuid).await?;
        check(&node)?;
        let before = self.store.port(port.uuid).await?;
        check_state(&node, &before, &port)?;
        if matches!(node.provision_state, State::Inspecting | State::InspectWait) && !node.maintenance {
            return Err(Fault::Conflict(format!(
                "Cannot update port {} while node {} is in state \"{}\".",
                port.uuid, node.uuid, node.provision_state
            )));
        }
        port.address.make_ascii_lowercase();
        port.updated_at = Some(self.parts.clock.now());
        let group = self.check_physical_network(Some(&before), &port, &[]).await?;
        let port = self.store.update_port(self.epoch, port).await.map_err(refused)?;
        self.save_network(group).await?;
        Ok(port)
    }

    /// Removes a port.
    ///
    /// # Errors
    /// [`Fault::Conflict`] while its node is worked on.
    pub async fn delete_port(self: &Arc<Self>, uuid: Uuid) -> Result<(), Fault> {
        let port = self.store.port(uuid).await?;
        self.until_power_is_changed(port.node_uuid).await?;
        check(&self.store.node(port.node_uuid).await?)?;
        Ok(self.store.delete_port(self.epoch, uuid).await?)
    }

    /// Whether another port has the name of this one, or is given it `together` with this one; for whoever does something else
    /// before the port is saved. Saving it asks again: a port can be asked for by its name, so no two may have one.
    pub(super) async fn check_name(&self, port: &Port, together: &[Port]) -> Result<(), Fault> {
        let Some(name) = &port.name else { return Ok(()) };
        let filter = PortFilter { name: Some(name.clone()), ..PortFilter::default() };
        let others = self.store.ports(&filter, &Page::default()).await?;
        let mut others = others.iter().map(|other| &**other).chain(together);
        match others.any(|other| other.uuid != port.uuid && other.name == port.name) {
            true => Err(refused(StoreError::Duplicate { what: "name", value: name.clone() })),
            false => Ok(()),
        }
    }

    /// All ports of a portgroup are on one physical network. A portgroup without one takes that of its first port: it is
    /// returned, to be saved when the port was. Ports that are changed `together` with this one are taken as they will be.
    pub(super) async fn check_physical_network(
        &self,
        before: Option<&Port>,
        port: &Port,
        together: &[Port],
    ) -> Result<Option<Record>, Fault> {
        let same =
            |before: &Port| portgroup(before) == portgroup(port) && before.physical_network == port.physical_network;
        let Some(group) = portgroup(port).filter(|_| !before.is_some_and(same)) else { return Ok(None) };
        let filter = PortFilter { portgroup: Some(group), ..PortFilter::default() };
        let others = self.store.ports(&filter, &Page::default()).await?;
        let changed = |other: &Port| together.iter().find(|port| port.uuid == other.uuid);
        let networks = others.iter().filter(|other| other.uuid != port.uuid);
        let mut networks = networks.map(|other| &changed(other).unwrap_or(other).physical_network);
        let other = networks.clone().find(|network| **network != port.physical_network).or_else(|| networks.next());
        let network = match other {
            Some(network) => network.clone(),
            None => {
                let mut group = self.store.record(RecordKind::Portgroup, group).await?;
                match (group.text("physical_network"), &port.physical_network) {
                    (Some(network), _) => Some(network.to_owned()),
                    (None, None) => return Ok(None),
                    (None, Some(network)) => {
                        group.fields.insert("physical_network".to_owned(), Value::String(network.clone()));
                        return Ok(Some(group));
                    }
                }
            }
        };
        if network == port.physical_network {
            return Ok(None);
        }
        let name = |network: Option<&str>| network.unwrap_or("None").to_owned();
        Err(Fault::Conflict(format!(
            "Port with physical network {} cannot become a member of port group {group} which has ports in physical \
             network {}.",
            name(port.physical_network.as_deref()),
            name(network.as_deref()),
        )))
    }

    /// Saves the portgroup that took the physical network of a port. One that somebody else changed or removed meanwhile stays
    /// as they left it: the next port is compared with the first one.
    pub(super) async fn save_network(&self, group: Option<Record>) -> Result<(), Fault> {
        let Some(group) = group else { return Ok(()) };
        match self.store.update_record(self.epoch, group).await {
            Ok(_) | Err(StoreError::RecordConflict { .. } | StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a violated rule of the store is in the words of the API.
pub(super) fn refused(error: StoreError) -> Fault {
    match error {
        StoreError::Duplicate { what: "name", value } => {
            Fault::Conflict(format!("A port with name {value} already exists."))
        }
        error => error.into(),
    }
}

/// The portgroup that a port is part of.
fn portgroup(port: &Port) -> Option<Uuid> {
    port.attributes.get("portgroup_uuid").and_then(Value::as_str).and_then(|text| Uuid::try_parse(text).ok())
}

/// What of a port may not change in the state of its node: how it is wired while somebody may use it.
fn check_state(node: &Node, before: &Port, after: &Port) -> Result<(), Fault> {
    if node.maintenance {
        return Ok(());
    }
    if (node.provision_state == State::Active || node.instance_uuid.is_some())
        && !before.address.eq_ignore_ascii_case(&after.address)
    {
        return Err(Fault::Conflict(format!(
            "Cannot update hardware address for port {} as node {} is active or has instance UUID assigned",
            before.uuid, node.uuid
        )));
    }
    let wired = before.pxe_enabled != after.pxe_enabled
        || before.local_link_connection != after.local_link_connection
        || before.physical_network != after.physical_network
        || portgroup(before) != portgroup(after);
    let open = [State::Enroll, State::Inspecting, State::InspectWait, State::Manageable];
    if wired && !open.contains(&node.provision_state) {
        return Err(Fault::Conflict(format!(
            "Port {} can not have any connectivity attributes (local_link_connection, physical_network, portgroup_uuid, \
             pxe_enabled) updated unless node {} is in a enroll, inspecting, inspect wait, manageable state or in \
             maintenance mode. The current state is {}.",
            before.uuid, node.uuid, node.provision_state
        )));
    }
    Ok(())
}

fn check(node: &Node) -> Result<(), Fault> {
    if node.reservation.is_some() { Err(locked(node, None)) } else { Ok(()) }
}
