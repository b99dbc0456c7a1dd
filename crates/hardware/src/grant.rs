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
    /// Tried, and not proven to be done: the device holds old data, or may.
    Failed {
        /// Why.
        error: String,
    },
}

/// How the blocks of a device look after an erase; which of these is right depends on its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Look {
    /// Every byte is zero.
    Zeros,
    /// One pattern of up to eight bytes all over the device: zeros, ones or what a maker has chosen.
    Pattern,
    /// Anything but what was there before: a key was thrown away, or random bytes were written last.
    Changed,
}

/// What was read of a device after its erase, by code that shares nothing with what erased it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Chooses all places and the bytes of the marks: 64 bits, hexadecimal.
    pub seed: String,
    /// Marks that were on the device just before the erase, and are not there after it.
    pub marks: u64,
    /// Why there are no more marks than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmarked: Option<String>,
    /// How blocks had to look.
    pub expected: Look,
    /// How they look, in words.
    pub found: String,
    /// Percent of the blocks that had to be read; 0 where they were not chosen all over the device, but are `places`.
    pub percent: u8,
    /// Where was read, in words, after an erase that is not of the whole device. Nothing is known of the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<String>,
    /// Blocks that were read.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_size: u64,
    /// Blocks among these whose first bytes were compared with what was there before the erase. Of a block that may hold anything
    /// nothing else can be compared. After an erase of metadata: places that held something before, and are zeros now.
    #[serde(default)]
    pub compared: u64,
    /// Marks and blocks among these that the device does not return any more.
    pub unreadable: u64,
}

/// What an erase did to a device and how it was checked: the record that a driver signs and keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseProof {
    /// The device.
    pub device: DeviceId,
    /// Its model, as the inventory has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The method, such as `metadata`.
    pub method: String,
    /// What NIST SP 800-88 Rev. 1 calls the method on a device that does what its standard says: `clear` or `purge`; `none`
    /// where only metadata was erased. Which of these an operator needs is not for a program to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard: Option<String>,
    /// When the erase began, RFC 3339 in UTC by the clock of the ramdisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When its proof ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// What was built on the device or used it, and was taken away first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<String>,
    /// Better methods that were tried or left out before this one, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
    /// What was read back; nothing where no device was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<Reading>,
    /// Sectors that an ATA device hides from its host (HPA, DCO, accessible maximum), in words; nothing where that is not a
    /// question to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
    /// What the device itself says of the erase: its sanitize or security state, as read from it afterwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_log: Vec<String>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl EraseProof {
    /// A proof that says how a `method` ended on a device, and nothing else yet.
    pub fn new(device: DeviceId, method: &str, outcome: Outcome) -> Self {
        Self {
            device,
            model: None,
            method: method.to_owned(),
            standard: None,
            started_at: None,
            finished_at: None,
            released: Vec::new(),
            passed_over: Vec::new(),
            reading: None,
            hidden: None,
            device_log: Vec::new(),
            outcome,
        }
    }
}
