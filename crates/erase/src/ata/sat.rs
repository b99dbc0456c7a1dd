//! The way through SCSI: ATA PASS-THROUGH (16) and the registers in the sense data.

use super::{Command, Protocol};
use crate::scsi::{self, Sense};
use crate::words::{be16, byte};
use hardware::{Device, DeviceError, Transfer};

/// The registers after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Error register.
    pub error: u8,
    /// Status register.
    pub status: u8,
    /// Device register.
    pub device: u8,
    /// Count; `None` where the upper half of it was lost on the way.
    pub count: Option<u16>,
    /// LBA, 48 bits; the upper half is zero where it was lost.
    pub lba: u64,
}

impl Registers {
    /// Whether the drive says that the command failed.
    pub fn failed(&self) -> bool {
        const ERROR_OR_FAULT: u8 = 1 | 1 << 5;
        self.status & ERROR_OR_FAULT != 0
    }

    /// Reads them from sense data (SAT-3, 12.2.6 and 12.2.7).
    pub fn parse(sense: &[u8]) -> Option<Self> {
        match byte(sense, 0) & 0x7f {
            // Descriptor format: type 09h, length 0Ch.
            0x72 | 0x73 => {
                let found =
                    scsi::descriptors(sense).find(|descriptor| byte(descriptor, 0) == 9 && descriptor.len() >= 14)?;
                let part = |at: usize, bits: u32| u64::from(byte(found, at)) << bits;
                Some(Self {
                    error: found[3],
                    count: Some(be16(found, 4)),
                    lba: part(7, 0) | part(9, 8) | part(11, 16) | part(6, 24) | part(8, 32) | part(10, 40),
                    device: found[12],
                    status: found[13],
                })
            }
            // Fixed format: in the information and command specific fields, without the upper halves.
            0x70 | 0x71 if sense.len() >= 14 && is_of_drive(sense) => Some(Self {
                error: sense[3],
                status: sense[4],
                device: sense[5],
                count: (sense[8] & 1 << 6 == 0).then(|| u16::from(sense[6])),
                lba: u64::from(sense[9]) | u64::from(sense[10]) << 8 | u64::from(sense[11]) << 16,
            }),
            // The same, as libata of Linux before 6.10 writes it: eight bytes too far to the right.
            0x70 | 0x71 if sense.len() >= 18 && sense[2] & 0xf == ABORTED && sense[9] & 1 != 0 => Some(Self {
                error: sense[8],
                status: sense[9],
                device: sense[10],
                count: None,
                lba: u64::from(sense[17]),
            }),
            _ => None,
        }
    }

    /// In words for an error.
    pub fn text(&self) -> String {
        let reason = match (self.error & 1 << 2 != 0, self.error & 1 << 6 != 0) {
            (true, _) => "command aborted",
            (_, true) => "uncorrectable error",
            _ => "error",
        };
        format!("{reason} (status {:02x}h, error {:02x}h)", self.status, self.error)
    }
}

/// Sense key of an aborted command.
const ABORTED: u8 = 0xb;

/// Whether sense data in fixed format has registers: it says so (00h/1Dh), or tells of an aborted command with the error bit
/// in the place of the status.
fn is_of_drive(sense: &[u8]) -> bool {
    (sense[12], sense[13]) == (0, 0x1d) || sense[2] & 0xf == ABORTED && sense[4] & 1 != 0
}

/// Why an ATA command did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AtaError {
    /// The drive refused or failed it.
    #[error("the drive answered {command} with: {}", registers.text())]
    Failed {
        /// The command.
        command: &'static str,
        /// What it said.
        registers: Registers,
    },
    /// What stands between us and the drive refused it: a controller or a bridge that does not translate it.
    #[error("{command} did not get to the drive: {answer}")]
    NotPassed {
        /// The command.
        command: &'static str,
        /// What it said.
        answer: String,
    },
    /// There was no answer.
    #[error("no answer to {command}")]
    Device {
        /// The command.
        command: &'static str,
        /// Cause.
        #[source]
        source: DeviceError,
    },
}

/// The command descriptor block (SAT-3, 12.2.2.3).
pub(crate) fn cdb(command: &Command) -> [u8; 16] {
    const CHECK_CONDITION: u8 = 1 << 5;
    const FROM_DEVICE: u8 = 1 << 3;
    /// Blocks of 512 bytes, as many as the count register says.
    const COUNTED: u8 = 1 << 2 | 2;
    let (protocol, transfer) = match command.protocol {
        Protocol::NonData => (3, 0),
        Protocol::PioIn => (4, FROM_DEVICE | COUNTED),
        Protocol::PioOut => (5, COUNTED),
    };
    let check = if command.registers { CHECK_CONDITION } else { 0 };
    let [feature_high, feature] = command.feature.to_be_bytes();
    let [count_high, count] = command.count.to_be_bytes();
    let lba = command.lba.to_le_bytes();
    [
        0x85,
        protocol << 1 | u8::from(command.extended),
        check | transfer,
        feature_high,
        feature,
        count_high,
        count,
        lba[3],
        lba[0],
        lba[4],
        lba[1],
        lba[5],
        lba[2],
        command.device,
        command.opcode,
        0,
    ]
}

/// Sends a command to the drive. The registers are there if they were asked for and the way brought them.
pub fn send(device: &dyn Device, command: &Command, mut data: Transfer<'_>) -> Result<Option<Registers>, AtaError> {
    let name = command.name;
    let cdb = cdb(command);
    let mut left = scsi::ATTENTIONS;
    loop {
        let answer = device
            .scsi(&cdb, data.again(), command.limit)
            .map_err(|source| AtaError::Device { command: name, source })?;
        if let Some(registers) = Registers::parse(&answer.sense) {
            return if registers.failed() {
                Err(AtaError::Failed { command: name, registers })
            } else {
                Ok(Some(registers))
            };
        }
        let answer = match (answer.status, Sense::parse(&answer.sense)) {
            (0, _) => return Ok(None),
            (2, Some(sense)) if sense.key == Sense::UNIT_ATTENTION && left > 0 => {
                left -= 1;
                continue;
            }
            (2, Some(sense)) => sense.text(),
            (status, _) => scsi::status_text(status),
        };
        return Err(AtaError::NotPassed { command: name, answer });
    }
}

/// Blocks beyond those that can be addressed: a host protected area, or what a configuration overlay hides (HPA, DCO). A
/// drive that refuses to tell counts as one that has none, as one without them does.
pub fn hidden_blocks(device: &dyn Device, identify: &super::Identify) -> Result<u64, AtaError> {
    let ask = |command: &Command| match send(device, command, Transfer::None) {
        Ok(registers) => Ok(registers.map(|registers| (registers.lba & 0xffff_ffff_ffff) + 1)),
        Err(AtaError::Failed { .. } | AtaError::NotPassed { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let native = match (identify.accessible_max, identify.hpa) {
        (true, _) => ask(&super::get_native_max())?,
        (_, true) => ask(&super::read_native_max())?,
        _ => None,
    };
    let mut sector = [0; super::SECTOR];
    let overlay = match identify.dco.then(|| send(device, &super::dco_identify(), Transfer::FromDevice(&mut sector))) {
        Some(Ok(_)) => super::dco_blocks(&sector),
        Some(Err(error @ AtaError::Device { .. })) => return Err(error),
        Some(Err(_)) | None => None,
    };
    Ok(native.max(overlay).unwrap_or_default().saturating_sub(identify.blocks))
}

/// Whether an ATA drive is behind this SCSI device, as its INQUIRY data and its list of VPD pages say (SAT-3, 8.1: the vendor
/// is "ATA"; page 89h is the ATA information). Nothing else is ever sent an ATA command.
pub fn is_ata(inquiry: &scsi::Inquiry, pages: &[u8]) -> bool {
    inquiry.vendor == "ATA" || pages.contains(&0x89)
}
