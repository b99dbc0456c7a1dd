//! Sense data (SPC-4, 4.5).

use crate::words::{be16, byte};

/// What a device says of a command that did not just work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
    /// 65536ths of the running operation that are done.
    pub progress: Option<u16>,
}

impl Sense {
    /// Nothing to say.
    pub const NONE: u8 = 0;
    /// It worked in the end.
    pub const RECOVERED: u8 = 1;
    /// It cannot be used now.
    pub const NOT_READY: u8 = 2;
    /// Something happened to the device since.
    pub const UNIT_ATTENTION: u8 = 6;
    const ILLEGAL_REQUEST: u8 = 5;

    /// Reads sense data of either format; `None` where it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let progress = |field: &[u8]| (byte(field, 0) & 0x80 != 0).then(|| be16(field, 1));
        match byte(bytes, 0) & 0x7f {
            0x70 | 0x71 if bytes.len() >= 8 => Some(Self {
                key: bytes[2] & 0xf,
                code: byte(bytes, 12),
                qualifier: byte(bytes, 13),
                // The sense key specific field is a progress only with these keys (SPC-4, table 48).
                progress: bytes.get(15..18).filter(|_| matches!(bytes[2] & 0xf, 0 | 2)).and_then(progress),
            }),
            0x72 | 0x73 if bytes.len() >= 4 => Some(Self {
                key: bytes[1] & 0xf,
                code: bytes[2],
                qualifier: bytes[3],
                progress: descriptors(bytes)
                    .find_map(|found| match byte(found, 0) {
                        2 => found.get(4..7).and_then(progress),
                        // Another progress indication (4.5.2.6).
                        0x0a if found.len() >= 8 => Some(be16(found, 6)),
                        _ => None,
                    })
                    .filter(|_| matches!(bytes[1] & 0xf, 0 | 2)),
            }),
            _ => None,
        }
    }

    /// Whether the device does not have the command (20h), a field (24h, 26h) or the logical unit (25h).
    pub fn is_unsupported(&self) -> bool {
        self.key == Self::ILLEGAL_REQUEST && matches!(self.code, 0x20 | 0x24 | 0x25 | 0x26)
    }

    /// Whether a sanitize is running (04h/1Bh).
    pub fn is_sanitizing(&self) -> bool {
        (self.code, self.qualifier) == (0x04, 0x1b)
    }

    /// Whether the last sanitize failed (31h/03h).
    pub fn is_sanitize_failure(&self) -> bool {
        (self.code, self.qualifier) == (0x31, 0x03)
    }

    /// In words for an error.
    pub fn text(&self) -> String {
        let key = match self.key {
            0 => "no sense",
            1 => "recovered error",
            2 => "not ready",
            3 => "medium error",
            4 => "hardware error",
            5 => "illegal request",
            6 => "unit attention",
            7 => "data protect",
            8 => "blank check",
            9 => "vendor specific",
            10 => "copy aborted",
            11 => "aborted command",
            13 => "volume overflow",
            14 => "miscompare",
            _ => "completed",
        };
        let more = match (self.code, self.qualifier) {
            (0x04, 0x1b) => ", sanitize in progress",
            (0x04, 0x04) => ", format in progress",
            (0x04, _) => ", not ready",
            (0x11, _) => ", unrecovered read error",
            (0x20, _) => ", invalid operation code",
            (0x24, _) => ", invalid field in command",
            (0x25, _) => ", logical unit not supported",
            (0x26, _) => ", invalid field in parameter list",
            (0x27, _) => ", write protected",
            (0x29, _) => ", power on or reset",
            (0x31, 0x03) => ", sanitize failed",
            (0x31, _) => ", medium format corrupted",
            (0x3a, _) => ", no medium",
            (0x44, _) => ", internal target failure",
            _ => "",
        };
        format!("{key}{more} ({:x}h/{:02x}h/{:02x}h)", self.key, self.code, self.qualifier)
    }
}

/// The descriptors of sense data in descriptor format, each with its type and length.
pub(crate) fn descriptors(sense: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = sense.len().min(8 + usize::from(byte(sense, 7)));
    let mut rest = sense.get(8..end).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = 2 + usize::from(*rest.get(1)?);
        let (descriptor, others) = rest.split_at_checked(length)?;
        rest = others;
        Some(descriptor)
    })
}

/// A SAM status in words.
pub(crate) fn status_text(status: u8) -> String {
    let words = match status {
        0x00 => "good",
        0x02 => "check condition without sense data",
        0x08 => "busy",
        0x18 => "reservation conflict: another host has reserved it",
        0x28 => "task set full",
        0x40 => "task aborted",
        _ => "unknown status",
    };
    format!("{words} ({status:02x}h)")
}
