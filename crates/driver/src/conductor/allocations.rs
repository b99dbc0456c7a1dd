//! Allocations: finding a node for a claim, and giving it back.

use super::Conductor;
use super::change::{Draft, locked};
use super::records::refused;
use crate::fault::Fault;
use lifecycle::provision::State;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::{Node, NodeFilter, Page, Record, RecordChange, RecordFilter, RecordKind, Store, StoreError};
use uuid::Uuid;

/// The key of a node's attributes with its allocation.
pub(super) const ALLOCATION: &str = "allocation_uuid";

/// How long an allocation waits for nodes that are worked on, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// Why a node cannot be had for an allocation, whatever the allocation asks for.
enum Refusal {
    /// Somebody else has it, or it is not to be had any more.
    Taken,
    /// It is worked on just now.
    Locked,
    /// The allocation itself is gone, or the store failed.
    Ends(Fault),
}

impl<S: Store> Conductor<S> {
    /// Goes on with the allocations that were not done when the last conductor ended.
    pub(super) async fn resume_allocations(self: &Arc<Self>) -> Result<(), StoreError> {
        let filter = RecordFilter { node: None, equal: vec![("state", "allocating".to_owned())] };
        for record in self.store.records(RecordKind::Allocation, &filter, &Page::default()).await? {
            self.allocate(record);
        }
        Ok(())
    }

    /// Adds an allocation. One for a node that is in use already is done at once, any other goes on by itself.
    pub(super) async fn create_allocation(self: &Arc<Self>, mut record: Record) -> Result<Record, Fault> {
        let Some(node) = record.node.take() else {
            let sought = record.clone();
            let record = self.store.create_record(self.epoch, record).await;
            let record = record.map_err(|error| refused(&sought, error))?;
            self.allocate(record.clone());
            return Ok(record);
        };
        let sought = record.clone();
        let record = self.store.create_record(self.epoch, record).await.map_err(|error| refused(&sought, error))?;
        match self.claim(&record, node, true).await {
            Ok(record) => Ok(record),
            Err(refusal) => {
                // Nothing came of it, so nothing is left of it.
                self.store.delete_record(self.epoch, record.kind, record.uuid).await?;
                Err(match refusal {
                    Refusal::Locked => locked(&self.store.node(node).await?, None),
                    Refusal::Taken => {
                        Fault::Conflict(format!("Node {node} is associated with another instance or allocation."))
                    }
                    Refusal::Ends(fault) => fault,
                })
            }
        }
    }

    /// Looks for a node in a task of its own.
    fn allocate(self: &Arc<Self>, record: Record) {
        let this = self.clone();
        self.tasks.spawn(async move {
            let allocation = record.uuid;
            if let Err(fault) = this.find_and_claim(record).await {
                tracing::warn!(%allocation, %fault, "the allocation was not finished");
            }
        });
    }

    /// Claims one of the nodes that would do. While some of them are worked on, it is tried again for a while.
    async fn find_and_claim(&self, mut record: Record) -> Result<(), Fault> {
        let begun = tokio::time::Instant::now();
        loop {
            let candidates = match self.candidates(&record).await? {
                Ok(candidates) => candidates,
                Err(why) => return self.fail_allocation(record, &why).await,
            };
            let mut locked = false;
            for node in candidates {
                match self.claim(&record, node, false).await {
                    Ok(done) => {
                        tracing::info!(allocation = %done.uuid, %node, "allocated");
                        return Ok(());
                    }
                    Err(Refusal::Taken) => {}
                    Err(Refusal::Locked) => locked = true,
                    Err(Refusal::Ends(fault)) => return Err(fault),
                }
                // A failed commit leaves the record as it was, but a patch may have changed it in between.
                record = self.store.record(record.kind, record.uuid).await?;
            }
            if !locked || begun.elapsed() > PATIENCE || self.stop.is_cancelled() {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        if self.stop.is_cancelled() {
            return Ok(());
        }
        self.fail_allocation(record, "all suitable nodes are used or worked on by others").await
    }

    async fn fail_allocation(&self, mut record: Record, why: &str) -> Result<(), Fault> {
        let text = format!("Failed to process allocation {}: {why}.", record.uuid);
        tracing::info!(allocation = %record.uuid, why, "the allocation failed");
        record.fields.insert("state".to_owned(), json!("error"));
        record.fields.insert("last_error".to_owned(), json!(text));
        record.updated_at = Some(self.parts.clock.now());
        match self.store.update_record(self.epoch, record).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The nodes that would do, in a random order so that allocations at the same time do not fight for one; or why
    /// there are none.
    async fn candidates(&self, record: &Record) -> Result<Result<Vec<Uuid>, String>, Fault> {
        let class = record.text("resource_class").unwrap_or_default();
        let filter = NodeFilter {
            provision_state: Some(State::Available),
            resource_class: Some(class.to_owned()),
            associated: Some(false),
            maintenance: Some(false),
            project: record.text("owner").map(str::to_owned),
            ..NodeFilter::default()
        };
        let texts = |name: &str| -> BTreeSet<String> {
            let list = record.fields.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let (only, traits) = (texts("candidate_nodes"), texts("traits"));
        let mut nodes = self.store.nodes(&filter, &Page::default()).await?;
        nodes.retain(|node| node.power_state.is_some() && (only.is_empty() || only.contains(&node.uuid.to_string())));
        if nodes.is_empty() && only.is_empty() {
            return Ok(Err(format!("no available nodes match the resource class {class}")));
        }
        if nodes.is_empty() {
            return Ok(Err(format!("none of the requested nodes are available and match the resource class {class}")));
        }
        nodes.retain(|node| traits.iter().all(|wanted| node.traits.contains(wanted)));
        if nodes.is_empty() {
            let traits = traits.into_iter().collect::<Vec<_>>().join(", ");
            return Ok(Err(format!("no suitable nodes have the requested traits {traits}")));
        }
        let mut nodes: Vec<Uuid> = nodes.into_iter().map(|node| node.uuid).collect();
        // UUIDs of allocations are random enough to shuffle by, and the same allocation shuffles alike again.
        let salt = record.uuid.as_u128();
        nodes.sort_by_key(|node| (node.as_u128() ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        Ok(Ok(nodes))
    }

    /// Takes a node for an allocation: both change in one commit. `in_use`: it has its instance already.
    async fn claim(&self, record: &Record, node: Uuid, in_use: bool) -> Result<Record, Refusal> {
        let now = self.parts.clock.now();
        let mut done = record.clone();
        done.node = Some(node);
        done.updated_at = Some(now);
        done.fields.insert("state".to_owned(), json!("active"));
        done.fields.remove("last_error");
        let mut busy = false;
        let claim = |draft: &mut Draft| {
            busy = draft.node.reservation.is_some();
            if busy {
                return Err(locked(&draft.node, draft.flow.as_ref()));
            }
            let other = draft.node.instance_uuid.is_some_and(|instance| !in_use || instance != done.uuid);
            let gone = !in_use && (draft.node.provision_state != State::Available || draft.node.maintenance);
            if other || gone || draft.node.attributes.contains_key(ALLOCATION) {
                return Err(Fault::Conflict(String::new()));
            }
            draft.node.instance_uuid = Some(done.uuid);
            draft.node.attributes.insert(ALLOCATION.to_owned(), json!(done.uuid));
            let traits = done.fields.get("traits").cloned().unwrap_or_else(|| json!([]));
            draft.node.instance_info.insert("traits".to_owned(), traits);
            draft.records = vec![RecordChange::Put(done.clone())];
            Ok(())
        };
        match self.change(node, claim).await {
            Ok(_) => self.store.record(done.kind, done.uuid).await.map_err(|error| Refusal::Ends(error.into())),
            Err(Fault::Conflict(_)) if busy => Err(Refusal::Locked),
            Err(Fault::Conflict(_)) => Err(Refusal::Taken),
            Err(fault) => Err(Refusal::Ends(fault)),
        }
    }

    /// Removes an allocation and frees its node.
    pub(super) async fn delete_allocation(&self, record: &Record) -> Result<(), Fault> {
        let Some(node) = record.node else {
            self.store.delete_record(self.epoch, record.kind, record.uuid).await?;
            // It may have been given a node since it was read; from now on it is given none.
            let filter = NodeFilter { instance_uuid: Some(record.uuid), ..NodeFilter::default() };
            for node in self.store.nodes(&filter, &Page::default()).await? {
                let give_back = |draft: &mut Draft| {
                    if draft.node.instance_uuid == Some(record.uuid) {
                        release(&mut draft.node, &mut Vec::new());
                    }
                    Ok(())
                };
                self.change(node.uuid, give_back).await?;
            }
            return Ok(());
        };
        let release = |draft: &mut Draft| {
            check_release(&draft.node, record.uuid)?;
            release(&mut draft.node, &mut draft.records);
            Ok(())
        };
        self.change(node, release).await.map(drop)
    }
}

/// Whether an allocation may be taken from its node now.
fn check_release(node: &Node, allocation: Uuid) -> Result<(), Fault> {
    if node.reservation.is_some() {
        return Err(locked(node, None));
    }
    if node.maintenance {
        return Ok(());
    }
    let state = node.provision_state;
    if state == State::Active || !state.allows_patch(node.target_provision_state.is_some(), u16::MAX) {
        return Err(Fault::Invalid(format!(
            "Cannot remove allocation {allocation} for node {}, because the node is in state {state} (and maintenance \
             mode is off)",
            node.uuid
        )));
    }
    Ok(())
}

/// Takes the allocation from a node, and its instance with it; the allocation goes.
pub(super) fn release(node: &mut Node, records: &mut Vec<RecordChange>) {
    let Some(allocation) = node.attributes.remove(ALLOCATION) else { return };
    let allocation = allocation.as_str().and_then(|text| Uuid::try_parse(text).ok());
    node.instance_uuid = None;
    node.instance_info.remove("traits");
    records.extend(allocation.map(|uuid| RecordChange::Delete(RecordKind::Allocation, uuid)));
}
