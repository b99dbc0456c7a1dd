//! IDENTIFY DEVICE data (ACS-3, 7.12.7).

use super::SECTOR;
use crate::words::{Malformed, at_least, le16, text};

/// What IDENTIFY DEVICE says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identify {
    /// Serial number, words 10 to 19.
    pub serial: String,
    /// Firmware revision, words 23 to 26.
    pub firmware: String,
    /// Model number, words 27 to 46.
    pub model: String,
    /// Blocks that can be addressed.
    pub blocks: u64,
    /// The security feature set.
    pub security: Security,
    /// Which kinds of sanitize are there.
    pub sanitize: SanitizeSupport,
    /// SMART is there (word 82 bit 0).
    pub smart: bool,
    /// A host protected area is possible (word 82 bit 10, ACS-2).
    pub hpa: bool,
    /// A configuration overlay is possible (word 83 bit 11, ACS-2).
    pub dco: bool,
    /// The accessible blocks can be set (word 119 bit 8, ACS-3).
    pub accessible_max: bool,
    /// It does not spin (word 217 is 1).
    pub solid_state: bool,
    /// TRIM is there (word 169 bit 0).
    pub trim: bool,
    /// Trimmed blocks read as zeros (word 69 bits 14 and 5).
    pub trimmed_reads_zero: bool,
}

/// The security feature set (words 82, 89, 90, 92 and 128).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Security {
    /// It is there.
    pub supported: bool,
    /// A user password is set.
    pub enabled: bool,
    /// The password has to be given before anything can be read or written.
    pub locked: bool,
    /// It cannot be changed until the drive is switched off or reset.
    pub frozen: bool,
    /// Too many wrong passwords were given since it was switched on.
    pub attempts_expired: bool,
    /// The enhanced erase is there.
    pub enhanced: bool,
    /// Minutes that an erase takes, and an enhanced one; `None` where the drive does not say, and at least that much where
    /// it counts no further.
    pub minutes: [Option<u32>; 2],
    /// Identifier of the master password.
    pub master: u16,
}

/// Kinds of sanitize (word 59).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SanitizeSupport {
    /// CRYPTO SCRAMBLE EXT.
    pub crypto: bool,
    /// BLOCK ERASE EXT.
    pub block: bool,
    /// OVERWRITE EXT.
    pub overwrite: bool,
}

/// Time that an erase takes (words 89 and 90): units of two minutes in 8 bits, or in 15 where bit 15 says so.
fn minutes(word: u16) -> Option<u32> {
    let units = if word & 1 << 15 != 0 { word & 0x7fff } else { word & 0xff };
    (units != 0).then(|| u32::from(units) * 2)
}

impl Identify {
    /// Reads the answer. Data whose checksum is there and wrong is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "IDENTIFY DEVICE data";
        at_least(WHAT, bytes, SECTOR)?;
        let bytes = &bytes[..SECTOR];
        let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        if bytes[510] == 0xa5 && sum != 0 {
            return Err(Malformed { what: WHAT, reason: "its checksum is wrong".to_owned() });
        }
        let word = |index: usize| le16(bytes, 2 * index);
        let bit = |index: usize, bit: u32| word(index) & 1 << bit != 0;
        // Where neither of the two upper bits is what it should be, the words say nothing (7.12.7.1).
        let valid = |index: usize| word(index) != 0 && word(index) != 0xffff;
        let wide = |index: usize| (0..4).fold(0_u64, |sum, part| sum | u64::from(word(index + part)) << (16 * part));
        let long = bit(83, 10);
        let security = word(128);
        Ok(Self {
            serial: name(bytes, 10..20),
            firmware: name(bytes, 23..27),
            model: name(bytes, 27..47),
            blocks: match (long, bit(69, 3) && wide(230) != 0) {
                (true, true) => wide(230),
                (true, false) if wide(100) != 0 => wide(100),
                _ => u64::from(word(60)) | u64::from(word(61)) << 16,
            },
            security: Security {
                supported: valid(82) && bit(82, 1),
                enabled: security & 1 << 1 != 0 || bit(85, 1),
                locked: security & 1 << 2 != 0,
                frozen: security & 1 << 3 != 0,
                attempts_expired: security & 1 << 4 != 0,
                enhanced: security & 1 << 5 != 0,
                minutes: [minutes(word(89)), minutes(word(90))],
                master: word(92),
            },
            sanitize: if bit(59, 12) {
                SanitizeSupport { crypto: bit(59, 13), overwrite: bit(59, 14), block: bit(59, 15) }
            } else {
                SanitizeSupport::default()
            },
            smart: valid(82) && bit(82, 0),
            hpa: valid(82) && bit(82, 10),
            dco: valid(83) && bit(83, 11),
            accessible_max: valid(119) && bit(119, 8),
            solid_state: word(217) == 1,
            trim: bit(169, 0),
            trimmed_reads_zero: bit(69, 14) && bit(69, 5),
        })
    }
}

/// Names have the two bytes of each word the other way round.
fn name(bytes: &[u8], words: std::ops::Range<usize>) -> String {
    let swapped: Vec<u8> =
        bytes[2 * words.start..2 * words.end].chunks(2).flat_map(|pair| [pair[1], pair[0]]).collect();
    text(&swapped)
}
