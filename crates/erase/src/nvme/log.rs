//! Log pages.

use crate::words::{Malformed, at_least, byte, le16, le32, le64, le128, text};

/// How the last sanitize went (SSTAT bits 2:0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanitizeState {
    /// There never was one.
    Never,
    /// It completed.
    Completed,
    /// It is running.
    InProgress,
    /// It failed.
    Failed,
    /// It completed, and freed blocks although it was told not to.
    CompletedDeallocated,
    /// A number of a newer standard.
    Other(u8),
}

/// The sanitize status log, page 81h (base 2.0, figure 223).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SanitizeLog {
    /// 65536ths that are done, while it runs.
    pub progress: u16,
    /// How it went.
    pub state: SanitizeState,
    /// Nothing was written to the drive since it was sanitized, or ever.
    pub nothing_written_since: bool,
    /// Command dword 10 of the sanitize that all this is about.
    pub command: u32,
    /// Seconds that an overwrite, a block erase and a crypto erase take; `None` where the drive does not say.
    pub estimates: [Option<u32>; 3],
}

impl SanitizeLog {
    /// Page number.
    pub const PAGE: u8 = 0x81;
    /// Bytes to ask for.
    pub const LENGTH: u32 = 512;

    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        at_least("sanitize status log", bytes, 20)?;
        let status = le16(bytes, 2);
        let estimate = |at| Some(le32(bytes, at)).filter(|seconds| *seconds != u32::MAX);
        Ok(Self {
            progress: le16(bytes, 0),
            state: match status & 7 {
                0 => SanitizeState::Never,
                1 => SanitizeState::Completed,
                2 => SanitizeState::InProgress,
                3 => SanitizeState::Failed,
                4 => SanitizeState::CompletedDeallocated,
                other => SanitizeState::Other(other as u8),
            },
            nothing_written_since: status & 1 << 8 != 0,
            command: le32(bytes, 4),
            estimates: [estimate(8), estimate(12), estimate(16)],
        })
    }
}

/// SMART / health information, page 02h (base 2.0, figure 207).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Bits: 0 spare is low, 1 temperature, 2 unreliable, 3 read-only, 4 backup of volatile memory failed, 5 persistent
    /// memory is read-only.
    pub critical: u8,
    /// Kelvin; `None` where the drive does not say.
    pub temperature: Option<u16>,
    /// Percent of the spare capacity that is left.
    pub spare: u8,
    /// Percent below which that is too little.
    pub spare_threshold: u8,
    /// Percent of the endurance that is used; may be more than 100.
    pub used: u8,
    /// Units of 512 000 bytes that were read.
    pub units_read: u128,
    /// Units of 512 000 bytes that were written.
    pub units_written: u128,
    /// Times it was switched on.
    pub power_cycles: u128,
    /// Hours it was on.
    pub power_on_hours: u128,
    /// Times it was switched off without notice.
    pub unsafe_shutdowns: u128,
    /// Errors of the medium.
    pub media_errors: u128,
    /// Entries in the error log over its life.
    pub error_entries: u128,
    /// Minutes above the warning temperature.
    pub warning_minutes: u32,
    /// Minutes above the critical temperature.
    pub critical_minutes: u32,
}

impl Health {
    /// Page number.
    pub const PAGE: u8 = 0x02;
    /// Bytes.
    pub const LENGTH: u32 = 512;

    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        at_least("SMART log", bytes, Self::LENGTH as usize)?;
        Ok(Self {
            critical: byte(bytes, 0),
            temperature: Some(le16(bytes, 1)).filter(|kelvin| *kelvin != 0),
            spare: byte(bytes, 3),
            spare_threshold: byte(bytes, 4),
            used: byte(bytes, 5),
            units_read: le128(bytes, 32),
            units_written: le128(bytes, 48),
            power_cycles: le128(bytes, 112),
            power_on_hours: le128(bytes, 128),
            unsafe_shutdowns: le128(bytes, 144),
            media_errors: le128(bytes, 160),
            error_entries: le128(bytes, 176),
            warning_minutes: le32(bytes, 192),
            critical_minutes: le32(bytes, 196),
        })
    }
}

/// A self-test that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfTest {
    /// 1 short, 2 extended, others as the vendor likes.
    pub kind: u8,
    /// Percent that are done.
    pub percent: u8,
}

/// A self-test that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTestResult {
    /// 1 short, 2 extended.
    pub kind: u8,
    /// 0 is good; 1 to 4, 8 and 9 are aborts, 5 to 7 are failures.
    pub result: u8,
    /// Hours the drive had been on.
    pub power_on_hours: u64,
    /// The block that failed, where it says one.
    pub failing_block: Option<u64>,
}

/// The self-test log, page 06h (base 2.0, figure 213).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTestLog {
    /// The one that runs.
    pub running: Option<SelfTest>,
    /// Those that ended, newest first.
    pub results: Vec<SelfTestResult>,
}

impl SelfTestLog {
    /// Page number.
    pub const PAGE: u8 = 0x06;
    /// Bytes.
    pub const LENGTH: u32 = 564;
    const RESULT: usize = 28;

    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        at_least("self-test log", bytes, Self::LENGTH as usize)?;
        let kind = byte(bytes, 0) & 0xf;
        let results = bytes[4..Self::LENGTH as usize].chunks_exact(Self::RESULT);
        // 0Fh is an entry that was never used.
        let used = results.filter(|entry| byte(entry, 0) & 0xf != 0xf && byte(entry, 0) >> 4 != 0);
        Ok(Self {
            running: (kind != 0).then(|| SelfTest { kind, percent: (byte(bytes, 1) & 0x7f).min(100) }),
            results: used
                .map(|entry| SelfTestResult {
                    kind: byte(entry, 0) >> 4,
                    result: byte(entry, 0) & 0xf,
                    power_on_hours: le64(entry, 4),
                    failing_block: (byte(entry, 2) & 1 << 1 != 0).then(|| le64(entry, 16)),
                })
                .collect(),
        })
    }
}

/// The firmware slots, page 03h (base 2.0, figure 209).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareSlots {
    /// The slot that runs, 1 to 7.
    pub active: u8,
    /// The slot that will run after the next reset, where that is known to be another.
    pub next: Option<u8>,
    /// Revisions by slot, slot 1 first; `None` where it is empty.
    pub revisions: [Option<String>; 7],
}

impl FirmwareSlots {
    /// Page number.
    pub const PAGE: u8 = 0x03;
    /// Bytes.
    pub const LENGTH: u32 = 512;

    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        at_least("firmware slot log", bytes, Self::LENGTH as usize)?;
        let slot = |number: usize| Some(text(&bytes[8 + 8 * number..16 + 8 * number])).filter(|name| !name.is_empty());
        Ok(Self {
            active: byte(bytes, 0) & 7,
            next: Some(byte(bytes, 0) >> 4 & 7).filter(|slot| *slot != 0),
            revisions: std::array::from_fn(slot),
        })
    }
}
