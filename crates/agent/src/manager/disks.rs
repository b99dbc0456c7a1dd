//! Which disks a step erases, and why the others are left alone. All are looked at before any is touched.

use super::Kind;
use crate::command::{AgentError, Class};
use crate::root_disk;
use crate::state::Shared;
use hardware::{Contents, DeviceId, Disk, EraseProof, Outcome, hint};
use serde_json::Value;

/// The disks of the machine, before anything is erased.
#[derive(Debug)]
pub(super) struct Sorted {
    pub(super) erasable: Vec<Disk>,
    pub(super) skipped: Vec<EraseProof>,
    /// What could not be looked into or must not be written to, and why: it is not erased, and the step fails.
    pub(super) failed: Vec<EraseProof>,
}

/// Looks at all disks. An error when one that would be erased may be used by other machines.
pub(super) async fn sort(
    shared: &Shared,
    node: &Value,
    kind: Kind,
    skip_read_only: bool,
) -> Result<Sorted, AgentError> {
    let disks = shared.on_machine(|machine| {
        let mut disks = machine.disks()?;
        disks.extend(machine.disks_without_capacity()?);
        Ok(disks)
    });
    let disks = disks.await?;
    let skip = node.pointer("/properties/skip_block_devices");
    let unusable = |error: hint::HintError| AgentError::new(Class::DeviceNotFound, error.to_string());
    hint::check_skipped(&disks, skip).map_err(unusable)?;
    let wanted = hint::without_skipped(disks.clone(), skip).map_err(unusable)?;
    let by_node = disks.iter().filter(|disk| !wanted.contains(disk));
    let by_node =
        by_node.map(|disk| left_alone(disk, "skip_block_devices of the node names it, or what it lies on or below"));
    let mut sorted = Sorted { erasable: Vec::new(), skipped: by_node.collect(), failed: Vec::new() };
    let (empty, wanted): (Vec<Disk>, Vec<Disk>) = wanted.into_iter().partition(|disk| disk.size == 0);
    sorted.failed.extend(empty.iter().map(|disk| {
        let why = "it has no capacity, so that nothing of it can be erased or read back: it is broken, or not formatted. Mend or \
                   remove it, or name it in skip_block_devices of the node";
        not_erased(disk, why.to_owned())
    }));
    let guarded = shared.settings().guard_special_filesystems && is_guarded(node);
    // An array that the operator asked for outlives cleaning; one that a tenant made is data.
    let spares_arrays = kind != Kind::Whole || wants_software_raid(node);
    let mut protected = Vec::new();
    for (disk, looked) in root_disk::look(shared, wanted).await? {
        match looked {
            Err(error) => match withheld(shared, kind, &disk).await {
                Some(why) => {
                    tracing::warn!(disk = disk.name, why, "it cannot be read; its erase goes on from there");
                    sorted.erasable.push(disk);
                }
                None => sorted.failed.push(not_erased(&disk, transport::client::chain(&error))),
            },
            Ok(Contents { virtual_media: true, .. }) => {
                sorted.skipped.push(left_alone(&disk, "virtual media: the driver's parameters are on it"));
            }
            Ok(Contents { raid_member: true, .. }) if spares_arrays => {
                sorted.skipped.push(left_alone(&disk, "linux_raid_member: a software RAID array has data on it"));
            }
            Ok(Contents { read_only: true, .. }) if skip_read_only => {
                sorted.skipped.push(left_alone(&disk, "it is read-only"));
            }
            Ok(Contents { read_only: true, .. }) => {
                let why = "it is read-only; make it writable, name it in skip_block_devices of the node, or set \
                           agent_erase_skip_read_only to have such disks left out";
                sorted.failed.push(not_erased(&disk, why.to_owned()));
            }
            Ok(Contents { shared, .. }) if guarded && !shared.is_empty() => {
                protected.push(format!("{} ({})", disk.name, shared.join(", ")));
            }
            Ok(_) => sorted.erasable.push(disk),
        }
    }
    if protected.is_empty() {
        if kind == Kind::Whole {
            sorted.leave_stacked_out();
        }
        return Ok(sorted);
    }
    let details = format!(
        "protected, as other machines may use it too: {}; nothing was erased on any disk. Detach it from this node, \
         name it in skip_block_devices of the node, or boot with ipa-guard-special-filesystems=false to have it erased",
        protected.join("; ")
    );
    Err(AgentError::new(Class::ProtectedDeviceError, details))
}

/// Why a disk gives its data to nobody, where an erase of all of it gets it out of that: what protects a disk from being erased is
/// not to be read there, by this machine or another.
async fn withheld(shared: &Shared, kind: Kind, disk: &Disk) -> Option<&'static str> {
    if kind != Kind::Whole {
        return None;
    }
    let asked = disk.clone();
    let device = shared.on_machine(move |machine| Ok(erase::withheld(machine.observe(&asked)?.as_ref()))).await;
    match device.map_err(|error| transport::client::chain(&error)) {
        Ok(Ok(why)) => why,
        Ok(Err(error)) => {
            let error = transport::client::chain(&error);
            tracing::warn!(disk = disk.name, error, "it does not tell why it cannot be read");
            None
        }
        Err(error) => {
            tracing::warn!(disk = disk.name, error, "it cannot be asked why it cannot be read");
            None
        }
    }
}

impl Sorted {
    /// An array that lies on disks which are erased is taken apart by that, and no disk of its own.
    fn leave_stacked_out(&mut self) {
        let disks = std::mem::take(&mut self.erasable);
        let below = |disk: &Disk| {
            let name = disk.name.trim_start_matches("/dev/");
            let held = |other: &&Disk| other.holders.iter().any(|holder| holder == name);
            disks.iter().find(held).map(|other| other.name.clone())
        };
        let (mut kept, mut stacked) = (Vec::new(), Vec::new());
        for disk in &disks {
            match below(disk) {
                None => kept.push(disk.clone()),
                Some(other) => stacked.push(left_alone(disk, &format!("it is built on {other}, which is erased"))),
            }
        }
        self.erasable = kept;
        self.skipped.extend(stacked);
    }
}

/// A disk that is not to be erased.
pub(super) fn left_alone(disk: &Disk, reason: &str) -> EraseProof {
    tracing::info!(disk = disk.name, reason, "not erased");
    let proof = EraseProof::new(DeviceId::of(disk), "none", Outcome::Skipped { reason: reason.to_owned() });
    EraseProof { model: disk.model.clone(), ..proof }
}

/// A disk that was to be erased and is not, or not provably.
pub(super) fn not_erased(disk: &Disk, error: String) -> EraseProof {
    tracing::error!(disk = disk.name, error, "not erased");
    let proof = EraseProof::new(DeviceId::of(disk), "none", Outcome::Failed { error });
    EraseProof { model: disk.model.clone(), ..proof }
}

/// Whether the operator asked for software RAID on this node, now or the next time.
fn wants_software_raid(node: &Value) -> bool {
    ["/target_raid_config/logical_disks", "/raid_config/logical_disks"].into_iter().any(|place| {
        let volumes = node.pointer(place).and_then(Value::as_array).into_iter().flatten();
        volumes.into_iter().any(|volume| volume["controller"] == "software")
    })
}

/// Whether the node leaves the guard of shared file systems on. As ironic-python-agent reads it, it is
/// `driver_internal_info.wipe_special_filesystems` with a value that counts as false that switches the guard off, whatever
/// its name suggests.
fn is_guarded(node: &Value) -> bool {
    node.pointer("/driver_internal_info/wipe_special_filesystems").is_none_or(|value| match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arrays_that_the_operator_asked_for_are_told_from_a_tenants() {
        assert!(!wants_software_raid(&json!({})));
        assert!(!wants_software_raid(&json!({"raid_config": null, "target_raid_config": {"logical_disks": []}})));
        let volumes = json!({"logical_disks": [{"controller": "megaraid"}, {"controller": "software"}]});
        assert!(wants_software_raid(&json!({"raid_config": volumes})));
        assert!(wants_software_raid(&json!({"target_raid_config": volumes})));
    }

    #[test]
    fn an_array_on_disks_that_are_erased_is_no_disk_of_its_own() {
        let disk = |name: &str, holders: &[&str]| Disk {
            name: name.to_owned(),
            size: 1,
            holders: holders.iter().map(|holder| (*holder).to_owned()).collect(),
            ..Disk::default()
        };
        let erasable = vec![disk("/dev/md0", &[]), disk("/dev/sda", &["md0"]), disk("/dev/sdb", &[])];
        let mut sorted = Sorted { erasable, skipped: Vec::new(), failed: Vec::new() };
        sorted.leave_stacked_out();
        let names: Vec<&str> = sorted.erasable.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["/dev/sda", "/dev/sdb"]);
        let Outcome::Skipped { reason } = &sorted.skipped[0].outcome else { panic!("{sorted:?}") };
        assert_eq!(reason, "it is built on /dev/sda, which is erased");
    }
}
