//! NVMe admin commands and what they return (NVM Express Base Specification 2.0, NVM Command Set Specification 1.0).

mod identify;
mod log;

pub use identify::{Controller, Namespace, SanitizeSupport, active_namespaces};
pub use log::{FirmwareSlots, Health, SanitizeLog, SanitizeState, SelfTest, SelfTestLog, SelfTestResult};

use crate::TestAction;
use hardware::NvmeCommand;

/// Bytes of every Identify structure.
pub const IDENTIFY_LENGTH: usize = 4096;
/// All namespaces.
pub const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// Identify Controller (base 2.0, 5.17.2.1): [`IDENTIFY_LENGTH`] bytes.
pub fn identify_controller() -> NvmeCommand {
    identify(0, 1)
}

/// Identify Namespace (NVM command set 1.0, 4.1.5.1): [`IDENTIFY_LENGTH`] bytes.
pub fn identify_namespace(namespace: u32) -> NvmeCommand {
    identify(namespace, 0)
}

/// The active namespaces with a number above `after` (base 2.0, 5.17.2.2): [`IDENTIFY_LENGTH`] bytes.
pub fn identify_active(after: u32) -> NvmeCommand {
    identify(after, 2)
}

/// The namespaces with a number above `after` that exist, attached or not (base 2.0, 5.17.2.12): [`IDENTIFY_LENGTH`] bytes.
pub fn identify_allocated(after: u32) -> NvmeCommand {
    identify(after, 0x10)
}

fn identify(namespace: u32, structure: u32) -> NvmeCommand {
    NvmeCommand { opcode: 0x06, namespace, cdw10: [structure, 0, 0, 0, 0, 0], ..NvmeCommand::default() }
}

/// A log page of `length` bytes, a multiple of 4 and no more than 16 MiB (base 2.0, 5.16).
pub fn get_log(page: u8, namespace: u32, length: u32) -> NvmeCommand {
    let dwords = (length.max(4) / 4 - 1).min(0x3f_ffff);
    let cdw10 = [u32::from(page) | (dwords & 0xffff) << 16, dwords >> 16, 0, 0, 0, 0];
    NvmeCommand { opcode: 0x02, namespace, cdw10, ..NvmeCommand::default() }
}

/// What Sanitize is to do (base 2.0, figure 303).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanitizeAction {
    /// Leave the failure mode of a sanitize that was started as unrestricted.
    ExitFailureMode,
    /// Block erase.
    Block,
    /// Overwrite with zeros, once.
    Overwrite,
    /// Crypto erase.
    Crypto,
}

impl SanitizeAction {
    /// The number in the command and in the log.
    pub fn code(self) -> u32 {
        match self {
            Self::ExitFailureMode => 1,
            Self::Block => 2,
            Self::Overwrite => 3,
            Self::Crypto => 4,
        }
    }
}

/// Sanitize (base 2.0, 5.24), unrestricted: if it fails, the drive can be had back with
/// [`SanitizeAction::ExitFailureMode`]. Blocks are deallocated afterwards. One pass where it overwrites.
pub fn sanitize(action: SanitizeAction) -> NvmeCommand {
    const UNRESTRICTED: u32 = 1 << 3;
    const ONE_PASS: u32 = 1 << 4;
    let passes = if action == SanitizeAction::Overwrite { ONE_PASS } else { 0 };
    let unrestricted = if action == SanitizeAction::ExitFailureMode { 0 } else { UNRESTRICTED };
    NvmeCommand {
        opcode: 0x84,
        cdw10: [action.code() | unrestricted | passes, 0, 0, 0, 0, 0],
        ..NvmeCommand::default()
    }
}

/// Secure erase settings of Format NVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatErase {
    /// User data erase.
    UserData,
    /// Cryptographic erase.
    Crypto,
}

/// Format NVM (base 2.0, 5.14) of one namespace, which keeps its format: size of blocks, metadata and protection.
pub fn format(number: u32, namespace: &Namespace, erase: FormatErase) -> NvmeCommand {
    let settings = match erase {
        FormatErase::UserData => 1,
        FormatErase::Crypto => 2,
    };
    let flbas = u32::from(namespace.formatted);
    let protection = u32::from(namespace.protection & 7);
    let first = u32::from(namespace.protection >> 3 & 1);
    let value =
        (flbas & 0xf) | (flbas >> 4 & 1) << 4 | protection << 5 | first << 8 | settings << 9 | (flbas >> 5 & 3) << 12;
    NvmeCommand { opcode: 0x80, namespace: number, cdw10: [value, 0, 0, 0, 0, 0], ..NvmeCommand::default() }
}

/// Device Self-test (base 2.0, 5.9) of all namespaces.
pub fn self_test(test: TestAction) -> NvmeCommand {
    let code = match test {
        TestAction::Short => 1,
        TestAction::Extended => 2,
        TestAction::Abort => 0xf,
    };
    NvmeCommand { opcode: 0x14, namespace: ALL_NAMESPACES, cdw10: [code, 0, 0, 0, 0, 0], ..NvmeCommand::default() }
}

/// Firmware Image Download (base 2.0, 5.13) of `length` bytes for `offset` in the image; both multiples of 4 and above 0,
/// in units of [`Controller::firmware_granularity`].
pub fn firmware_download(offset: u32, length: u32) -> NvmeCommand {
    NvmeCommand { opcode: 0x11, cdw10: [(length / 4).max(1) - 1, offset / 4, 0, 0, 0, 0], ..NvmeCommand::default() }
}

/// What Firmware Commit is to do (base 2.0, figure 175).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitAction {
    /// Put the downloaded image into the slot, and activate it at the next reset of the controller.
    StoreAndActivateAtReset,
    /// Put it there and activate it now.
    StoreAndActivateNow,
}

/// Firmware Commit (base 2.0, 5.12). Slot 0 lets the controller choose.
pub fn firmware_commit(slot: u8, action: CommitAction) -> NvmeCommand {
    let action = match action {
        CommitAction::StoreAndActivateAtReset => 1,
        CommitAction::StoreAndActivateNow => 3,
    };
    let value = u32::from(slot & 7) | action << 3;
    NvmeCommand { opcode: 0x10, cdw10: [value, 0, 0, 0, 0, 0], ..NvmeCommand::default() }
}

/// Status codes (type and code, base 2.0, 3.3.3.2) that somebody acts on.
pub mod status {
    /// The controller has no such command.
    pub const INVALID_OPCODE: u16 = 0x001;
    /// The command is there, and not with these fields.
    pub const INVALID_FIELD: u16 = 0x002;
    /// The last sanitize failed, and the device does nothing else until it is dealt with.
    pub const SANITIZE_FAILED: u16 = 0x01c;
    /// A sanitize is running.
    pub const SANITIZE_IN_PROGRESS: u16 = 0x01d;
    /// A format is running.
    pub const FORMAT_IN_PROGRESS: u16 = 0x084;
    /// A self-test is running already.
    pub const SELF_TEST_IN_PROGRESS: u16 = 0x11d;
    /// Firmware: needs a reset of the machine.
    pub const FIRMWARE_NEEDS_CONVENTIONAL_RESET: u16 = 0x10b;
    /// Firmware: needs a reset of the NVM subsystem.
    pub const FIRMWARE_NEEDS_SUBSYSTEM_RESET: u16 = 0x110;
    /// Firmware: needs a reset of the controller.
    pub const FIRMWARE_NEEDS_CONTROLLER_RESET: u16 = 0x111;

    /// Type and code, without the bits that say more of the same.
    pub fn code(status: u16) -> u16 {
        status & 0x7ff
    }
}

/// A status in words.
pub fn status_text(value: u16) -> String {
    let words = match status::code(value) {
        0 => return "success".to_owned(),
        status::INVALID_OPCODE => "invalid command opcode",
        status::INVALID_FIELD => "invalid field in command",
        0x004 => "data transfer error",
        0x005 => "aborted due to power loss",
        0x006 => "internal error",
        0x007 => "abort requested",
        0x00b => "invalid namespace or format",
        0x00c => "command sequence error",
        0x015 => "operation denied",
        status::SANITIZE_FAILED => "sanitize failed",
        status::SANITIZE_IN_PROGRESS => "sanitize in progress",
        0x020 => "namespace is write protected",
        0x023 => "sanitize prohibited while a persistent memory region is enabled",
        0x082 => "namespace not ready",
        status::FORMAT_IN_PROGRESS => "format in progress",
        0x106 => "invalid firmware slot",
        0x107 => "invalid firmware image",
        0x109 => "invalid log page",
        0x10a => "invalid format",
        status::FIRMWARE_NEEDS_CONVENTIONAL_RESET => "firmware activation needs a reset of the machine",
        status::FIRMWARE_NEEDS_SUBSYSTEM_RESET => "firmware activation needs a reset of the NVM subsystem",
        status::FIRMWARE_NEEDS_CONTROLLER_RESET => "firmware activation needs a reset of the controller",
        0x112 => "firmware activation takes too long to do it now",
        0x113 => "firmware activation prohibited",
        0x114 => "overlapping range of firmware",
        status::SELF_TEST_IN_PROGRESS => "self-test in progress",
        0x370 | 0x371 => "aborted by the host",
        _ => "error",
    };
    format!("{words} (type {:x}h, code {:02x}h)", value >> 8 & 7, value & 0xff)
}

#[cfg(test)]
mod tests;
