//! SMART data (ACS-3, 7.48; the attributes are what vendors agreed on, no standard has them).

use super::{Registers, SECTOR};
use crate::words::{Malformed, at_least, byte, le16, le32};

/// An attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute {
    /// Its number, such as 5 for reallocated sectors.
    pub id: u8,
    /// Normalised value, now.
    pub value: u8,
    /// The worst that it ever was.
    pub worst: u8,
    /// Six bytes that the vendor counts in.
    pub raw: u64,
}

/// What SMART READ DATA returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartData {
    /// Attributes.
    pub attributes: Vec<Attribute>,
    /// Tenths of the running self-test that remain; `None` where none runs.
    pub self_test_remaining: Option<u8>,
    /// How the last self-test ended: 0 well, 1 and 2 stopped, 3 to 8 failed.
    pub self_test_result: u8,
    /// Minutes of a short and of an extended self-test.
    pub self_test_minutes: [u16; 2],
    /// Self-tests are there.
    pub self_test: bool,
}

impl SmartData {
    /// Reads the answer. Data with a wrong checksum is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "SMART data";
        let bytes = checked(WHAT, bytes)?;
        let status = byte(bytes, 363);
        let extended = match byte(bytes, 373) {
            0xff => le16(bytes, 375),
            minutes => u16::from(minutes),
        };
        let entries = bytes[2..2 + 30 * 12].chunks_exact(12).filter(|entry| entry[0] != 0);
        Ok(Self {
            attributes: entries
                .map(|entry| Attribute {
                    id: entry[0],
                    value: entry[3],
                    worst: entry[4],
                    raw: entry[5..11].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
                })
                .collect(),
            self_test_remaining: (status >> 4 == 0xf).then_some(status & 0xf),
            self_test_result: if status >> 4 == 0xf { 0 } else { status >> 4 },
            self_test_minutes: [u16::from(byte(bytes, 372)), extended],
            self_test: byte(bytes, 367) & 1 << 4 != 0,
        })
    }
}

/// The newest entry of the SMART self-test log (ACS-3, A.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfTestResult {
    /// Where it lies in the log, from 1; it moves on with each test.
    pub index: u8,
    /// How it was started: 1 short, 2 extended.
    pub kind: u8,
    /// 0 is good; 1 and 2 are aborts, 3 to 8 are failures, 15 is one that runs.
    pub result: u8,
    /// Hours that the drive had been on, as it counts in 16 bits.
    pub power_on_hours: u16,
    /// The block that failed first, where it says one.
    pub failing_block: Option<u64>,
}

impl SelfTestResult {
    const ENTRY: usize = 24;
    const ENTRIES: u8 = 21;

    /// Reads the log; `None` where there never was one. A log with a wrong checksum is refused.
    pub fn newest(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        const WHAT: &str = "SMART self-test log";
        let bytes = checked(WHAT, bytes)?;
        let index = byte(bytes, 508);
        if index == 0 || index > Self::ENTRIES {
            return Ok(None);
        }
        let entry = &bytes[2 + Self::ENTRY * usize::from(index - 1)..];
        let result = byte(entry, 1) >> 4;
        let block = le32(entry, 5);
        Ok(Some(Self {
            index,
            kind: byte(entry, 0) & 0x7f,
            result,
            power_on_hours: le16(entry, 2),
            failing_block: ((3..=8).contains(&result) && block != u32::MAX).then_some(u64::from(block)),
        }))
    }
}

/// One sector whose bytes add up to zero.
fn checked<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
    at_least(what, bytes, SECTOR)?;
    let bytes = &bytes[..SECTOR];
    if bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) != 0 {
        return Err(Malformed { what, reason: "its checksum is wrong".to_owned() });
    }
    Ok(bytes)
}

/// Whether the drive is well, from the registers after SMART RETURN STATUS; `None` where they say neither.
pub fn smart_verdict(registers: &Registers) -> Option<bool> {
    match registers.lba >> 8 & 0xffff {
        0xc24f => Some(true),
        0x2cf4 => Some(false),
        _ => None,
    }
}
