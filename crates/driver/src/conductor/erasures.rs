//! What agents report of the devices that they erased, kept and signed with the end of the step.

use super::Conductor;
use super::change::Draft;
use crate::command::NodeIdent;
use crate::erasure::{self, Known, Reports, Signer, Statement};
use crate::fault::Fault;
use crate::flow::{Action, FlowKind, Purpose, boot_ramdisk};
use serde_json::Value;
use store::{Inventory, Node, Page, Record, RecordChange, RecordFilter, RecordKind, Store, StoreError};
use uuid::Uuid;
use wire::agent::CommandResult;

/// What the end of a step brings besides itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Erased {
    records: Vec<Record>,
    /// For the history, with its severity.
    notes: Vec<(&'static str, String)>,
    /// Devices that are neither reported as erased nor as left alone, and why.
    not_erased: Vec<String>,
}

impl Erased {
    /// Adds it to what is committed.
    pub(super) fn put(&self, draft: &mut Draft) {
        draft.records.extend(self.records.iter().cloned().map(RecordChange::Create));
        for (severity, text) in &self.notes {
            draft.note(severity, "erasure", text.clone());
        }
    }

    /// Why the step is no success, whatever its command says of itself.
    pub(super) fn objection(&self) -> Option<String> {
        if self.not_erased.is_empty() {
            return None;
        }
        let all = self.not_erased.join("; ");
        Some(format!("the agent calls the step a success, but its report does not: {}", shortened(&all)))
    }
}

/// Longest list of devices in the words of a failure, in characters; the records have it whole.
const LONGEST: usize = 2048;

fn shortened(text: &str) -> String {
    if text.chars().count() <= LONGEST { text.to_owned() } else { text.chars().take(LONGEST).chain(['…']).collect() }
}

/// How often a clean is taken up again.
const MOST_AGAIN: u32 = 3;

impl Draft {
    /// Takes a clean up again whose machine was lost while it erased, as by a power cut: the ramdisk is booted anew and the step
    /// sent again. Erasing twice does no harm, and a drive that goes on by itself is taken up by the agent. `false` where
    /// that is not what was going on, or was tried often enough.
    pub(super) fn erases_again(&mut self, why: &str) -> Result<bool, Fault> {
        let Some(flow) = self.flow.as_mut().filter(|flow| flow.kind == FlowKind::Clean) else { return Ok(false) };
        let begun = flow.intent.as_ref().is_some_and(|intent| intent.command.is_some());
        let erases = matches!(flow.current(), Some(Action::ExecuteStep { step, .. }) if erasure::is_expected_of(step));
        if !begun || !erases || flow.abort_after || flow.mismatches >= MOST_AGAIN {
            return Ok(false);
        }
        flow.mismatches += 1;
        flow.intent = None;
        let (kind, cursor) = (flow.kind, flow.cursor);
        flow.actions.splice(cursor..cursor, boot_ramdisk(&self.node, Purpose::Commands));
        let state = self.node.provision_state;
        self.note("WARNING", state.as_str(), format!("{why} The ramdisk is booted anew, and the erase goes on."));
        self.enter(kind, true)?;
        Ok(true)
    }
}

/// What a comparison with the inventory says.
enum Compared {
    /// Each device has a report now.
    Devices,
    /// There is no device, and the inventory knows of none.
    NoneAndNoneKnown,
    /// There is no device, and no inventory either.
    NoneAndUnknown,
}

/// Adds a report of each disk that the inventory knows and the agent says nothing of.
fn compare(found: &mut Reports, inventory: Option<&Inventory>) -> Compared {
    let known = inventory.map(|inventory| Known::of(&inventory.inventory));
    if let Some(known) = &known {
        found.reports.extend(known.without_report(&found.reports));
    }
    match known {
        _ if !found.reports.is_empty() || found.others > 0 => Compared::Devices,
        Some(_) => Compared::NoneAndNoneKnown,
        None => Compared::NoneAndUnknown,
    }
}

/// Whether a report says that a device is erased, whole or its metadata, and nothing of what was read back of it.
fn is_unproven(report: &Value) -> bool {
    let verified = report.get("outcome").and_then(Value::as_str) == Some("verified");
    verified && report.get("reading").is_none_or(Value::is_null)
}

impl<S: Store> Conductor<S> {
    /// What a command that has ended reports of devices that were erased, or were to be.
    ///
    /// # Errors
    /// [`Fault`]: the store.
    pub(super) async fn erased(&self, node: &Node, action: &Action, result: &CommandResult) -> Result<Erased, Fault> {
        let Action::ExecuteStep { kind, step } = action else { return Ok(Erased::default()) };
        if !erasure::is_expected_of(step) {
            return Ok(Erased::default());
        }
        let name = format!("{}.{}", step.interface, step.step);
        let Some(mut found) = erasure::reports(*kind, result.command_result.as_ref()) else {
            let text = format!("{name}: the agent reports no devices, so there is no record of an erasure.");
            return Ok(Erased { notes: vec![("INFO", text)], ..Erased::default() });
        };
        let mut erased = Erased::default();
        let inventory = self.store.inventory(node.uuid).await?;
        match compare(&mut found, inventory.as_ref()) {
            Compared::Devices => {}
            Compared::NoneAndNoneKnown => {
                let text = "the agent found no device to erase, and the node's inventory has none: nothing was erased";
                erased.notes.push(("INFO", format!("{name}: {text}.")));
            }
            Compared::NoneAndUnknown => {
                let text = "the agent found no device to erase, and there is no inventory that says that the machine has none; \
                            inspect the node, then clean it again";
                erased.notes.push(("ERROR", format!("{name}: {text}.")));
                erased.not_erased.push(text.to_owned());
            }
        }
        if found.others > 0 {
            let text = format!("{} entries of the agent's result are no reports, or too many", found.others);
            erased.notes.push(("ERROR", format!("{name}: {text}.")));
            erased.not_erased.push(text);
        }
        let conductor = &self.settings.hostname;
        let statement = Statement { node, kind: *kind, step, conductor, now: self.parts.clock.now() };
        for report in found.reports {
            let why = report.get("error").and_then(Value::as_str).map(|why| format!(" ({why})")).unwrap_or_default();
            let unproven = is_unproven(&report);
            let record = erasure::record(statement, report, &self.signer);
            let text = |key: &str| record.text(key).unwrap_or_default().to_owned();
            let (device, method, outcome) = (text("device"), text("method"), text("outcome"));
            let severity = match outcome.as_str() {
                "verified" if unproven => "WARNING",
                "verified" | "skipped" => "INFO",
                _ => {
                    erased.not_erased.push(format!("{device} is {outcome}{why}"));
                    "ERROR"
                }
            };
            let outcome = if unproven { format!("{outcome}, with nothing read back") } else { outcome };
            let event = format!("{name}: {device} {outcome} ({method}); record of the erasure {}", record.uuid);
            erased.notes.push((severity, event));
            erased.records.push(record);
        }
        Ok(erased)
    }

    /// The key that signs erasures.
    pub fn erasure_key(&self) -> &Signer {
        &self.signer
    }

    /// The node whose erasures are asked for; one that was deleted has them still, by its UUID.
    ///
    /// # Errors
    /// [`Fault::NotFound`]: there is no such node, and no erasure of one.
    pub async fn node_of_erasures(&self, ident: &NodeIdent) -> Result<Uuid, Fault> {
        match (self.find(ident).await, ident) {
            (Ok(node), _) => Ok(node.uuid),
            (Err(missing @ Fault::NotFound(_)), NodeIdent::Uuid(uuid)) => {
                let one = Page { limit: Some(1), ..Page::default() };
                let found = self.erasures(*uuid, &one).await?;
                if found.is_empty() { Err(missing) } else { Ok(*uuid) }
            }
            (Err(other), _) => Err(other),
        }
    }

    /// The records of a node's erasures, one page.
    ///
    /// # Errors
    /// [`Fault`]: an unknown marker or key to sort by, or the store.
    pub async fn erasures(&self, node: Uuid, page: &Page) -> Result<Vec<Record>, Fault> {
        let filter = RecordFilter { equal: vec![("node_uuid", node.to_string())], ..RecordFilter::default() };
        Ok(self.store.records(RecordKind::Erasure, &filter, page).await?)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`Fault::NotFound`]: the node has no such record.
    pub async fn erasure(&self, node: Uuid, uuid: Uuid) -> Result<Record, Fault> {
        let missing = || Fault::NotFound(format!("Node {node} has no record of an erasure {uuid}."));
        match self.store.record(RecordKind::Erasure, uuid).await {
            Ok(record) if record.text("node_uuid") == Some(node.to_string().as_str()) => Ok(record),
            Ok(_) | Err(StoreError::NotFound { .. }) => Err(missing()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_called_verified_without_a_reading_is_unproven_whatever_the_method() {
        let report = |method: &str, outcome: &str, reading: Value| json!({"device": "/dev/sda", "method": method, "outcome": outcome, "reading": reading});
        for method in ["metadata", "overwrite", "vendor"] {
            assert!(is_unproven(&report(method, "verified", Value::Null)));
            assert!(!is_unproven(&report(method, "verified", json!({"blocks": 1}))));
            assert!(!is_unproven(&report(method, "skipped", Value::Null)));
        }
    }
}
