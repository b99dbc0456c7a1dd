//! SCSI commands and what they return (SPC-4, INCITS 513; SBC-3, INCITS 514).

mod pages;
mod sense;

pub use pages::{
    BlockLimits, Capacity, Characteristics, Inquiry, LogPage, Provisioning, SelfTestResult, log_parameters,
    supported_pages,
};
pub use sense::Sense;
pub(crate) use sense::{descriptors, status_text};

use crate::TestAction;
use crate::words::byte;
use hardware::{Device, DeviceError, ScsiCompletion, Transfer};
use std::time::Duration;

/// For a device that answers from its memory.
const QUICK: Duration = Duration::from_secs(60);

/// A command descriptor block with its name and its time limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What people call it.
    pub name: &'static str,
    /// The bytes.
    pub cdb: Vec<u8>,
    /// How long it may take.
    pub limit: Duration,
}

impl Command {
    fn new(name: &'static str, cdb: &[u8]) -> Self {
        Self { name, cdb: cdb.to_vec(), limit: QUICK }
    }
}

/// TEST UNIT READY (00h).
pub fn test_unit_ready() -> Command {
    Command::new("TEST UNIT READY", &[0; 6])
}

/// REQUEST SENSE (03h), fixed format wanted: 252 bytes.
pub fn request_sense() -> Command {
    Command::new("REQUEST SENSE", &[0x03, 0, 0, 0, 252, 0])
}

/// INQUIRY (12h): standard data.
pub fn inquiry(length: u8) -> Command {
    Command::new("INQUIRY", &[0x12, 0, 0, 0, length, 0])
}

/// INQUIRY (12h) of a page of vital product data.
pub fn vital_data(page: u8, length: u8) -> Command {
    Command::new("INQUIRY", &[0x12, 1, page, 0, length, 0])
}

/// READ CAPACITY (16) (9Eh/10h): 32 bytes.
pub fn read_capacity() -> Command {
    Command::new("READ CAPACITY (16)", &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0])
}

/// LOG SENSE (4Dh), cumulative values of a page.
pub fn log_sense(page: u8, length: u16) -> Command {
    let [high, low] = length.to_be_bytes();
    Command::new("LOG SENSE", &[0x4d, 0, 1 << 6 | page & 0x3f, 0, 0, 0, 0, high, low, 0])
}

/// REPORT SUPPORTED OPERATION CODES (A3h/0Ch) about one opcode with one service action: 4 bytes and more.
pub fn report_operation(opcode: u8, service_action: u8) -> Command {
    const ONE_WITH_SERVICE_ACTION: u8 = 2;
    let cdb = [0xa3, 0x0c, ONE_WITH_SERVICE_ACTION, opcode, 0, service_action, 0, 0, 0, 64, 0, 0];
    Command::new("REPORT SUPPORTED OPERATION CODES", &cdb)
}

/// Whether the operation is there, as the answer to [`report_operation`] says; `None` where the device does not know now.
pub fn operation_supported(answer: &[u8]) -> Option<bool> {
    match byte(answer, 1) & 7 {
        1 => Some(false),
        3 | 5 => Some(true),
        _ => None,
    }
}

/// What SANITIZE is to do (SBC-3, 5.27): its service action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanitizeAction {
    /// OVERWRITE with zeros, once; [`OVERWRITE_ZEROS`] is its data.
    Overwrite,
    /// BLOCK ERASE.
    Block,
    /// CRYPTOGRAPHIC ERASE.
    Crypto,
    /// EXIT FAILURE MODE.
    ExitFailureMode,
}

impl SanitizeAction {
    /// The service action.
    pub fn code(self) -> u8 {
        match self {
            Self::Overwrite => 1,
            Self::Block => 2,
            Self::Crypto => 3,
            Self::ExitFailureMode => 0x1f,
        }
    }
}

/// Parameter list of an overwrite: count 1, a pattern of 4 bytes, which are zero.
pub const OVERWRITE_ZEROS: [u8; 8] = [1, 0, 0, 4, 0, 0, 0, 0];

/// SANITIZE (48h), returning at once, unrestricted: if it fails, the device can be had back.
pub fn sanitize(action: SanitizeAction) -> Command {
    const IMMEDIATE: u8 = 1 << 7;
    const UNRESTRICTED: u8 = 1 << 5;
    let flags = if action == SanitizeAction::ExitFailureMode { 0 } else { IMMEDIATE | UNRESTRICTED };
    let length = if action == SanitizeAction::Overwrite { OVERWRITE_ZEROS.len() as u8 } else { 0 };
    Command::new("SANITIZE", &[0x48, flags | action.code(), 0, 0, 0, 0, 0, 0, length, 0])
}

/// SEND DIAGNOSTIC (1Dh; SPC-4, 6.42): a self-test in the background, or the end of it.
pub fn self_test(test: TestAction) -> Command {
    let code = match test {
        TestAction::Short => 1,
        TestAction::Extended => 2,
        TestAction::Abort => 4,
    };
    Command::new("SEND DIAGNOSTIC", &[0x1d, code << 5, 0, 0, 0, 0])
}

/// Why a SCSI command did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ScsiError {
    /// The device refused or failed it.
    #[error("the device answered {command} with: {}", sense.text())]
    Failed {
        /// The command.
        command: &'static str,
        /// What it said.
        sense: Sense,
    },
    /// Another status than good or check condition.
    #[error("the device answered {command} with: {}", status_text(*status))]
    Status {
        /// The command.
        command: &'static str,
        /// The status.
        status: u8,
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

impl ScsiError {
    /// Whether the device does not have the command, or not in this form.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Failed { sense, .. } if sense.is_unsupported())
    }
}

/// Times that a device may want to say first that something happened to it (unit attention).
pub(crate) const ATTENTIONS: u32 = 8;

/// Sends a command without data or with data for the device.
pub fn send(device: &dyn Device, command: &Command, data: Option<&[u8]>) -> Result<(), ScsiError> {
    attended(command, ATTENTIONS, || {
        device.scsi(&command.cdb, data.map_or(Transfer::None, Transfer::ToDevice), command.limit)
    })
    .map(|_| ())
}

/// Sends a command without data; what happened to the device since is an error.
pub(crate) fn send_once(device: &dyn Device, command: &Command) -> Result<(), ScsiError> {
    attended(command, 0, || device.scsi(&command.cdb, Transfer::None, command.limit)).map(|_| ())
}

/// Sends a command whose answer has up to `length` bytes, and returns those that came.
pub fn receive(device: &dyn Device, command: &Command, length: usize) -> Result<Vec<u8>, ScsiError> {
    let mut buffer = vec![0; length];
    let answer =
        attended(command, ATTENTIONS, || device.scsi(&command.cdb, Transfer::FromDevice(&mut buffer), command.limit))?;
    buffer.truncate(length.saturating_sub(answer.residual));
    Ok(buffer)
}

fn attended(
    command: &Command,
    mut left: u32,
    mut send: impl FnMut() -> Result<ScsiCompletion, DeviceError>,
) -> Result<ScsiCompletion, ScsiError> {
    let name = command.name;
    loop {
        let answer = send().map_err(|source| ScsiError::Device { command: name, source })?;
        match (answer.status, Sense::parse(&answer.sense)) {
            (0, _) => return Ok(answer),
            (2, Some(sense)) if sense.key == Sense::UNIT_ATTENTION && left > 0 => left -= 1,
            (2, Some(sense)) if sense.key == Sense::RECOVERED => return Ok(answer),
            (2, Some(sense)) => return Err(ScsiError::Failed { command: name, sense }),
            (status, _) => return Err(ScsiError::Status { command: name, status }),
        }
    }
}

#[cfg(test)]
mod tests;
