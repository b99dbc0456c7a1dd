//! What BMCs tell of their machines' firmware: settings and versions are kept in the store, for the API to serve without
//! asking a BMC. They are read when a node is verified and when it was cleaned. What cannot be read is no failure: the
//! machine can be worked with all the same, and what was read before stays.

use super::Conductor;
use super::runner::Outcome;
use crate::effect::OutOfBand;
use crate::fault::Fault;
use crate::flow::boot_mode_name;
use crate::hardware_type::{Interface, interface_of};
use hardware::{BiosSetting, FirmwareComponent, OutOfBandError};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use store::{Node, Record, RecordKind, Store, StoreError};
use transport::client::chain;
use uuid::Uuid;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Keys of the record.
const BIOS: &str = "bios";
const FIRMWARE: &str = "firmware";

/// A BIOS setting as it was read last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptSetting {
    /// What was read.
    #[serde(flatten)]
    pub setting: BiosSetting,
    /// When it was read first.
    pub created_at: Timestamp,
    /// When it was seen to have changed.
    pub updated_at: Option<Timestamp>,
}

/// A part's firmware as it was read last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptComponent {
    /// What was read.
    #[serde(flatten)]
    pub component: FirmwareComponent,
    /// The version that was read first.
    pub initial_version: String,
    /// The version that it was seen to change to.
    pub last_version_flashed: Option<String>,
    /// When it was read first.
    pub created_at: Timestamp,
    /// When it was seen to have changed.
    pub updated_at: Option<Timestamp>,
}

impl<S: Store> Conductor<S> {
    /// The BIOS settings of a node as they were read last; none before they were.
    ///
    /// # Errors
    /// [`Fault`]: the store.
    pub async fn bios_settings(&self, node: Uuid) -> Result<Vec<KeptSetting>, Fault> {
        Ok(self.reading(node).await?.map(|record| kept(&record, BIOS)).unwrap_or_default())
    }

    /// The firmware of a node's parts as it was read last; none before it was.
    ///
    /// # Errors
    /// [`Fault`]: the store.
    pub async fn firmware(&self, node: Uuid) -> Result<Vec<KeptComponent>, Fault> {
        Ok(self.reading(node).await?.map(|record| kept(&record, FIRMWARE)).unwrap_or_default())
    }

    async fn reading(&self, node: Uuid) -> Result<Option<Record>, Fault> {
        match self.store.record(RecordKind::Reading, node).await {
            Ok(record) => Ok(Some(record)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what the node's interfaces can, and keeps it.
    pub(super) async fn read_settings(&self, node: &Node) -> Outcome {
        let mut outcome = Outcome::default();
        match tokio::time::timeout(LIMIT, self.ask_for_settings(node, &mut outcome)).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => tracing::warn!(node = %node.uuid, reason, "the settings of the firmware were not kept"),
            Err(_) => tracing::warn!(node = %node.uuid, "the BMC took too long to tell the settings of the firmware"),
        }
        outcome
    }

    async fn ask_for_settings(&self, node: &Node, outcome: &mut Outcome) -> Result<(), String> {
        let machine = self.parts.machines.of(node).await.map_err(|error| chain(&error))?;
        if interface_of(node, Interface::Management) == "redfish" {
            modes(&*machine, node, outcome).await;
        }
        let reads = |interface| interface_of(node, interface) == "redfish";
        let bios =
            if reads(Interface::Bios) { told(node, "BIOS settings", machine.bios_settings().await) } else { None };
        let firmware = if reads(Interface::Firmware) { told(node, "firmware", machine.firmware().await) } else { None };
        if bios.is_none() && firmware.is_none() {
            return Ok(());
        }
        let now = self.parts.clock.now();
        let before = self.reading(node.uuid).await.map_err(|fault| fault.to_string())?;
        let is_new = before.is_none();
        let mut record = before.unwrap_or_else(|| {
            let mut record = Record::new(RecordKind::Reading, node.uuid, now);
            record.node = Some(node.uuid);
            record
        });
        if let Some(found) = bios {
            let merged = merge_settings(kept(&record, BIOS), found, now);
            record.fields.insert(BIOS.to_owned(), serde_json::to_value(merged).unwrap_or_default());
        }
        if let Some(found) = firmware {
            let merged = merge_firmware(kept(&record, FIRMWARE), found, now);
            record.fields.insert(FIRMWARE.to_owned(), serde_json::to_value(merged).unwrap_or_default());
        }
        record.updated_at = Some(now);
        let saved = if is_new {
            self.store.create_record(self.epoch, record).await
        } else {
            self.store.update_record(self.epoch, record).await
        };
        saved.map(drop).map_err(|error| chain(&error))
    }
}

/// Boot mode and secure boot.
async fn modes(machine: &dyn OutOfBand, node: &Node, outcome: &mut Outcome) {
    if let Some(Some(mode)) = told(node, "the boot mode", machine.boot_mode().await) {
        outcome.told.push(("boot_mode", Value::from(boot_mode_name(mode))));
    }
    if let Some(Some(on)) = told(node, "secure boot", machine.secure_boot().await) {
        outcome.told.push(("secure_boot", Value::from(on)));
    }
}

fn told<T>(node: &Node, what: &str, answer: Result<T, OutOfBandError>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(OutOfBandError::Unsupported(reason)) => {
            tracing::debug!(node = %node.uuid, reason, "the BMC does not tell {what}");
            None
        }
        Err(error) => {
            tracing::warn!(node = %node.uuid, reason = chain(&error), "{what} cannot be read");
            None
        }
    }
}

/// What a record holds under a key. What is not understood, of another version, is read anew.
fn kept<T: DeserializeOwned>(record: &Record, key: &str) -> Vec<T> {
    record.fields.get(key).cloned().and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
}

fn merge_settings(before: Vec<KeptSetting>, found: Vec<BiosSetting>, now: Timestamp) -> Vec<KeptSetting> {
    let merged = |setting: BiosSetting| match before.iter().find(|kept| kept.setting.name == setting.name) {
        Some(kept) if kept.setting == setting => kept.clone(),
        Some(kept) => KeptSetting { setting, created_at: kept.created_at, updated_at: Some(now) },
        None => KeptSetting { setting, created_at: now, updated_at: None },
    };
    found.into_iter().map(merged).collect()
}

/// A part that is not told of this time stays: a network card cannot be read while its machine is off.
fn merge_firmware(before: Vec<KeptComponent>, found: Vec<FirmwareComponent>, now: Timestamp) -> Vec<KeptComponent> {
    let mut all = before;
    for component in found {
        match all.iter_mut().find(|kept| kept.component.component == component.component) {
            Some(kept) if kept.component == component => {}
            Some(kept) => {
                if kept.component.version != component.version {
                    kept.last_version_flashed = Some(component.version.clone());
                }
                kept.component = component;
                kept.updated_at = Some(now);
            }
            None => all.push(KeptComponent {
                initial_version: component.version.clone(),
                last_version_flashed: None,
                created_at: now,
                updated_at: None,
                component,
            }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Timestamp = Timestamp::UNIX_EPOCH;

    fn later() -> Timestamp {
        Timestamp::from_second(60).unwrap()
    }

    #[test]
    fn a_setting_that_changed_says_when_and_one_that_went_is_gone() {
        let setting = |name: &str, value: &str| BiosSetting {
            name: name.to_owned(),
            value: Value::from(value),
            ..BiosSetting::default()
        };
        let before = merge_settings(Vec::new(), vec![setting("a", "1"), setting("b", "1"), setting("c", "1")], FIRST);
        let after = merge_settings(before, vec![setting("a", "1"), setting("b", "2")], later());
        let times: Vec<_> = after.iter().map(|kept| (&*kept.setting.name, kept.created_at, kept.updated_at)).collect();
        assert_eq!(times, [("a", FIRST, None), ("b", FIRST, Some(later()))]);
    }

    #[test]
    fn firmware_keeps_its_first_version_and_tells_the_last_one_that_it_changed_to() {
        let bios = |version: &str| FirmwareComponent {
            component: "bios".to_owned(),
            version: version.to_owned(),
            ..FirmwareComponent::default()
        };
        let before = merge_firmware(Vec::new(), vec![bios("1.0")], FIRST);
        assert_eq!(before[0].last_version_flashed, None);
        let after = merge_firmware(before, vec![bios("1.1")], later());
        assert_eq!((&*after[0].initial_version, &*after[0].component.version), ("1.0", "1.1"));
        assert_eq!(after[0].last_version_flashed.as_deref(), Some("1.1"));
        assert_eq!(merge_firmware(after.clone(), Vec::new(), later()), after);
    }
}
