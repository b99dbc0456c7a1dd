//! Records: what may be added, changed and removed when. Allocations are in `allocations.rs`.

use super::Conductor;
use super::change::locked;
use crate::fault::Fault;
use std::sync::Arc;
use store::{Node, NodeFilter, Page, PortFilter, Record, RecordKind, Store, StoreError};

impl<S: Store> Conductor<S> {
    /// Adds a record. An allocation goes on by itself: a node is looked for.
    ///
    /// # Errors
    /// [`Fault::Conflict`] for what another record has already.
    pub async fn create_record(self: &Arc<Self>, mut record: Record) -> Result<Record, Fault> {
        record.created_at = self.parts.clock.now();
        if record.kind == RecordKind::Allocation {
            let this = self.clone();
            return self.detached(async move { this.create_allocation(record).await }).await;
        }
        if record.kind == RecordKind::Portgroup
            && let Some(node) = record.node
        {
            self.until_power_is_changed(node).await?;
            free(&self.store.node(node).await?)?;
        }
        let sought = record.clone();
        self.store.create_record(self.epoch, record).await.map_err(|error| refused(&sought, error))
    }

    /// Changes a record, when it still has the version that it was read with.
    ///
    /// # Errors
    /// [`Fault::Conflict`] while its node is worked on, and when somebody else was quicker.
    pub async fn update_record(&self, mut record: Record) -> Result<Record, Fault> {
        self.check_change(&record, "updated").await?;
        record.updated_at = Some(self.parts.clock.now());
        let sought = record.clone();
        self.store.update_record(self.epoch, record).await.map_err(|error| refused(&sought, error))
    }

    /// Removes a record.
    ///
    /// # Errors
    /// [`Fault::Invalid`] while something is in it, [`Fault::Conflict`] while its node is worked on.
    pub async fn delete_record(self: &Arc<Self>, record: Record) -> Result<(), Fault> {
        if record.kind == RecordKind::Allocation {
            let this = self.clone();
            return self.detached(async move { this.delete_allocation(&record).await }).await;
        }
        self.check_change(&record, "deleted").await?;
        let one = Page { limit: Some(1), ..Page::default() };
        let (full, of) = match record.kind {
            RecordKind::Chassis => {
                let filter = NodeFilter { chassis_uuid: Some(record.uuid), ..NodeFilter::default() };
                (!self.store.nodes(&filter, &one).await?.is_empty(), "nodes")
            }
            RecordKind::Portgroup => {
                let filter = PortFilter { portgroup: Some(record.uuid), ..PortFilter::default() };
                (!self.store.ports(&filter, &one).await?.is_empty(), "ports")
            }
            _ => (false, ""),
        };
        if full {
            let kind = record.kind.as_str();
            return Err(Fault::Invalid(format!(
                "Cannot complete the requested action because {kind} {} contains {of}.",
                record.uuid
            )));
        }
        Ok(self.store.delete_record(self.epoch, record.kind, record.uuid).await?)
    }

    /// Whether the node of a record lets it be changed now. A volume is not changed under a machine that runs.
    async fn check_change(&self, record: &Record, done: &str) -> Result<(), Fault> {
        let Some(node) = record.node else { return Ok(()) };
        self.until_power_is_changed(node).await?;
        let node = self.store.node(node).await?;
        match record.kind {
            RecordKind::Portgroup => free(&node),
            RecordKind::VolumeConnector | RecordKind::VolumeTarget => {
                free(&node)?;
                let power = node.power_state.as_deref();
                let action = if done == "deleted" { "deletion" } else { "update" };
                let fits = if done == "deleted" { power != Some("power on") } else { power == Some("power off") };
                if fits {
                    return Ok(());
                }
                Err(Fault::Invalid(format!(
                    "The requested action \"{} {action}\" can not be performed on node \"{}\" while it is in state \"{}\"; \
                     power it off first.",
                    record.kind.as_str(),
                    node.uuid,
                    power.unwrap_or("None"),
                )))
            }
            RecordKind::Allocation
            | RecordKind::Chassis
            | RecordKind::DeployTemplate
            | RecordKind::InspectionRule
            | RecordKind::Erasure
            | RecordKind::Reading
            | RecordKind::Runbook => Ok(()),
        }
    }
}

fn free(node: &Node) -> Result<(), Fault> {
    if node.reservation.is_some() { Err(locked(node, None)) } else { Ok(()) }
}

/// What a violated rule of the store is in the words of the API.
pub(super) fn refused(record: &Record, error: StoreError) -> Fault {
    let StoreError::Duplicate { what, value } = &error else { return error.into() };
    let kind = record.kind.as_str();
    let article = if kind.starts_with(['a', 'i']) { "An" } else { "A" };
    let field = |name: &str| record.text(name).unwrap_or_default().to_owned();
    Fault::Conflict(match (*what, record.kind) {
        ("uuid", _) => format!("{article} {kind} with UUID {value} already exists."),
        ("address", _) => format!("{article} {kind} with MAC address {value} already exists."),
        ("identity", RecordKind::VolumeConnector) => format!(
            "A volume connector with type {} and connector ID {} already exists.",
            field("type"),
            field("connector_id")
        ),
        ("identity", _) => {
            let index = record.fields.get("boot_index").map(ToString::to_string).unwrap_or_default();
            format!("{article} {kind} with boot index '{index}' for the same node already exists.")
        }
        (what, _) => format!("{article} {kind} with {what} {value} already exists."),
    })
}
