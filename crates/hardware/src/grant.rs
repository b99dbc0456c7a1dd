//! Permission to destroy, and the proof of what was done.
//!
//! Nothing in Ferric overwrites a device because it was told its name. A destructive call takes a grant; only a
//! [`Plan`] mints grants, for a device that it has looked at; and the call looks at the device again, and refuses,
//! when its identity is not the one that was granted. `/dev/sda` is where a device was seen last, never who it is.

use crate::Disk;
use serde::{Deserialize, Serialize};

/// Who a device is, as far as it can tell: everything in it must still be true when it is used.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceId {
    /// Where it was seen, such as `/dev/sda`.
    pub node: String,
    /// World wide name.
    pub wwn: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Physical place, `/dev/disk/by-path/…` or a SCSI address.
    pub path: Option<String>,
    /// Bytes.
    pub size: u64,
}

impl DeviceId {
    /// The identity of a disk as the inventory shows it.
    pub fn of(disk: &Disk) -> Self {
        Self {
            node: disk.name.clone(),
            wwn: disk.wwn_with_extension.clone().or_else(|| disk.wwn.clone()),
            serial: disk.serial.clone(),
            path: disk.by_path.clone().or_else(|| disk.hctl.clone()),
            size: disk.size,
        }
    }

    /// Whether `disk` is this device: size and every identifier that either side knows agree.
    pub fn is(&self, disk: &Disk) -> bool {
        *self == Self::of(disk)
    }
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.node)?;
        if let Some(name) = self.wwn.as_ref().or(self.serial.as_ref()) {
            write!(f, " ({name})")?;
        }
        Ok(())
    }
}

/// Why a plan does not grant a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The device is not one of those that the plan looked at.
    #[error("{0} is not a disk of this machine; known are {1}")]
    Unknown(String, String),
    /// The device has no size (no medium).
    #[error("{0} has no medium")]
    Empty(String),
}

/// The devices that one step may touch, as it saw them. The only mint of grants.
#[derive(Debug, Clone)]
pub struct Plan {
    step: String,
    disks: Vec<Disk>,
}

impl Plan {
    /// A plan for `step` over the disks of the machine as they are now, without those that must not be touched.
    pub fn new(step: &str, disks: Vec<Disk>) -> Self {
        Self { step: step.to_owned(), disks }
    }

    /// The disks that the plan covers.
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// Grants overwriting the whole device at `node`.
    pub fn write(&self, node: &str) -> Result<WriteGrant, Refusal> {
        Ok(WriteGrant { step: self.step.clone(), device: self.device(node)? })
    }

    /// Grants erasing the device at `node`.
    pub fn erase(&self, node: &str) -> Result<EraseGrant, Refusal> {
        Ok(EraseGrant { step: self.step.clone(), device: self.device(node)? })
    }

    fn device(&self, node: &str) -> Result<DeviceId, Refusal> {
        let disk = self.disks.iter().find(|disk| disk.name == node).ok_or_else(|| {
            let known: Vec<&str> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
            Refusal::Unknown(node.to_owned(), if known.is_empty() { "none".to_owned() } else { known.join(", ") })
        })?;
        if disk.size == 0 {
            return Err(Refusal::Empty(node.to_owned()));
        }
        Ok(DeviceId::of(disk))
    }
}

/// Permission to overwrite one device. Used up by the write.
#[derive(Debug)]
pub struct WriteGrant {
    step: String,
    device: DeviceId,
}

/// Permission to erase one device. Used up by the erase.
#[derive(Debug)]
pub struct EraseGrant {
    step: String,
    device: DeviceId,
}

impl WriteGrant {
    /// The device.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The step that it was granted to.
    pub fn step(&self) -> &str {
        &self.step
    }
}

impl EraseGrant {
    /// The device.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The step that it was granted to.
    pub fn step(&self) -> &str {
        &self.step
    }
}

/// How a destructive call on one device ended. Skipped is not succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// Done, and read back.
    Verified {
        /// What was read back, in words for a report.
        evidence: String,
    },
    /// Left alone on purpose.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// What an erase did to a device and how it was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseProof {
    /// The device.
    pub device: DeviceId,
    /// The method, such as `metadata`.
    pub method: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}
