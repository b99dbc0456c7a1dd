//! What controller and namespace say of themselves.

use crate::words::{Malformed, at_least, byte, le16, le32, le64, text};

/// What Identify Controller says (base 2.0, figure 275).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// Format NVM is there.
    pub format: bool,
    /// Firmware Commit and Download are there.
    pub firmware_update: bool,
    /// Device Self-test is there.
    pub self_test: bool,
    /// Which kinds of Sanitize are there.
    pub sanitize: SanitizeSupport,
    /// Highest number of a namespace.
    pub namespaces: u32,
    /// Format with secure erase goes to all namespaces, whichever is named (FNA bit 1).
    pub format_erases_all: bool,
    /// Format can do a cryptographic erase (FNA bit 2).
    pub format_crypto: bool,
    /// Write Zeroes is there.
    pub write_zeroes: bool,
    /// Slots for firmware, 1 to 7.
    pub firmware_slots: u8,
    /// Firmware can be activated without a reset.
    pub activates_without_reset: bool,
    /// Bytes whose multiples parts of a firmware image have to be; `None` where the controller does not care.
    pub firmware_granularity: Option<u32>,
    /// Minutes that an extended self-test takes; 0 where it does not say.
    pub self_test_minutes: u16,
}

/// Kinds of Sanitize (SANICAP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SanitizeSupport {
    /// Crypto erase.
    pub crypto: bool,
    /// Block erase.
    pub block: bool,
    /// Overwrite.
    pub overwrite: bool,
}

impl SanitizeSupport {
    /// Whether there is any.
    pub fn any(self) -> bool {
        self.crypto || self.block || self.overwrite
    }
}

impl Controller {
    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        at_least("Identify Controller", bytes, super::IDENTIFY_LENGTH)?;
        let commands = le16(bytes, 256);
        let sanitize = le32(bytes, 328);
        let format = byte(bytes, 524);
        let firmware = byte(bytes, 260);
        Ok(Self {
            serial: text(&bytes[4..24]),
            model: text(&bytes[24..64]),
            firmware: text(&bytes[64..72]),
            format: commands & 1 << 1 != 0,
            firmware_update: commands & 1 << 2 != 0,
            self_test: commands & 1 << 4 != 0,
            sanitize: SanitizeSupport {
                crypto: sanitize & 1 != 0,
                block: sanitize & 1 << 1 != 0,
                overwrite: sanitize & 1 << 2 != 0,
            },
            namespaces: le32(bytes, 516),
            format_erases_all: format & 1 << 1 != 0,
            format_crypto: format & 1 << 2 != 0,
            write_zeroes: le16(bytes, 520) & 1 << 3 != 0,
            firmware_slots: firmware >> 1 & 7,
            activates_without_reset: firmware & 1 << 4 != 0,
            // In units of 4 KiB; FFh is no restriction, and 0 says nothing.
            firmware_granularity: match byte(bytes, 319) {
                0xff => None,
                0 => Some(4096),
                units => Some(u32::from(units) * 4096),
            },
            self_test_minutes: le16(bytes, 316),
        })
    }
}

/// What Identify Namespace says (NVM command set 1.0, figure 97).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of data of a block; 0 where the format is none that there can be.
    pub block_size: u64,
    /// FLBAS: the format and where its metadata is.
    pub formatted: u8,
    /// DPS: protection information.
    pub protection: u8,
    /// Whether other controllers may be attached to it.
    pub shared: bool,
    /// Percent of a running format that remain; `None` where there is none, or the drive does not say.
    pub format_remaining: Option<u8>,
    /// What freed blocks read as: all zeros, as the drive says.
    pub freed_reads_zero: bool,
}

impl Namespace {
    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        at_least("Identify Namespace", bytes, super::IDENTIFY_LENGTH)?;
        let formatted = byte(bytes, 26);
        let format = usize::from(formatted & 0xf | (formatted >> 5 & 3) << 4);
        let exponent = byte(bytes, 128 + 4 * format + 2);
        let progress = byte(bytes, 32);
        let remaining = progress & 0x7f;
        Ok(Self {
            blocks: le64(bytes, 0),
            block_size: if (9..=31).contains(&exponent) { 1 << exponent } else { 0 },
            formatted,
            protection: byte(bytes, 29),
            shared: byte(bytes, 30) & 1 != 0,
            format_remaining: (progress & 0x80 != 0 && (1..=100).contains(&remaining)).then_some(remaining),
            freed_reads_zero: byte(bytes, 33) & 7 == 1,
        })
    }
}

/// The numbers of an active namespace list (base 2.0, 5.17.2.2), which ends at the first zero.
pub fn active_namespaces(bytes: &[u8]) -> Vec<u32> {
    let numbers = (0..bytes.len().min(super::IDENTIFY_LENGTH) / 4).map(|index| le32(bytes, 4 * index));
    numbers.take_while(|number| *number != 0).collect()
}
