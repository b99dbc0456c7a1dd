//! Pages that tell what a device is.

use crate::words::{Malformed, at_least, be16, be32, be64, byte, text};

/// Standard INQUIRY data (SPC-4, 6.6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inquiry {
    /// Peripheral device type: 0 disk, 14h zoned disk.
    pub kind: u8,
    /// The version of SPC that it claims: 5 is SPC-3, 6 SPC-4, 7 SPC-5.
    pub version: u8,
    /// Vendor.
    pub vendor: String,
    /// Product.
    pub product: String,
    /// Revision.
    pub revision: String,
}

impl Inquiry {
    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        at_least("INQUIRY data", bytes, 36)?;
        Ok(Self {
            kind: bytes[0] & 0x1f,
            version: bytes[2],
            vendor: text(&bytes[8..16]),
            product: text(&bytes[16..32]),
            revision: text(&bytes[32..36]),
        })
    }
}

/// A page of vital product data without its header; refused when it is another page.
fn vital<'a>(what: &'static str, page: u8, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
    at_least(what, bytes, 4)?;
    if bytes[1] != page {
        return Err(Malformed { what, reason: format!("it says that it is page {:02x}h", bytes[1]) });
    }
    let end = bytes.len().min(4 + usize::from(be16(bytes, 2)));
    Ok(&bytes[..end])
}

/// The numbers of the pages that there are (page 00h).
pub fn supported_pages(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    vital("page of supported pages", 0, bytes).map(|page| page[4..].to_vec())
}

/// Block limits (page B0h; SBC-3, 6.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLimits {
    /// Blocks that an UNMAP may cover; 0 where there is no UNMAP.
    pub unmap_blocks: u32,
    /// Blocks of the smallest piece that can be unmapped; 0 where it is not said.
    pub unmap_granularity: u32,
    /// Blocks that a WRITE SAME may cover; 0 where it is not said.
    pub write_same_blocks: u64,
}

impl BlockLimits {
    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let page = vital("block limits", 0xb0, bytes)?;
        Ok(Self { unmap_blocks: be32(page, 20), unmap_granularity: be32(page, 28), write_same_blocks: be64(page, 36) })
    }
}

/// Block device characteristics (page B1h; SBC-3, 6.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Characteristics {
    /// Turns a minute; 1 where it does not spin, 0 where it does not say.
    pub rotation: u16,
}

impl Characteristics {
    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        vital("block device characteristics", 0xb1, bytes).map(|page| Self { rotation: be16(page, 4) })
    }
}

/// Logical block provisioning (page B2h; SBC-3, 6.6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provisioning {
    /// UNMAP is there.
    pub unmap: bool,
    /// WRITE SAME (16) can unmap.
    pub write_same_unmaps: bool,
    /// Unmapped blocks read as zeros.
    pub reads_zero: bool,
}

impl Provisioning {
    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let page = vital("logical block provisioning", 0xb2, bytes)?;
        let flags = byte(page, 5);
        Ok(Self {
            unmap: flags & 1 << 7 != 0,
            write_same_unmaps: flags & 1 << 6 != 0,
            // LBPRZ is three bits since SBC-4: xx1b is zeros.
            reads_zero: flags & 1 << 2 != 0,
        })
    }
}

/// READ CAPACITY (16) data (SBC-3, 5.16.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks; `None` for a number that no device can have.
    pub blocks: Option<u64>,
    /// Bytes of a block.
    pub block_size: u32,
    /// Whether blocks are protected by additional bytes.
    pub protected: bool,
    /// Whether blocks can be unmapped.
    pub provisioned: bool,
    /// Unmapped blocks read as zeros.
    pub reads_zero: bool,
}

impl Capacity {
    /// Reads the answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        at_least("READ CAPACITY (16) data", bytes, 16)?;
        Ok(Self {
            blocks: be64(bytes, 0).checked_add(1),
            block_size: be32(bytes, 8),
            protected: bytes[12] & 1 != 0,
            provisioned: bytes[14] & 1 << 7 != 0,
            reads_zero: bytes[14] & 1 << 6 != 0,
        })
    }
}

/// A parameter of a log page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPage<'a> {
    /// Its code.
    pub code: u16,
    /// Its value.
    pub value: &'a [u8],
}

/// The parameters of a LOG SENSE answer (SPC-4, 7.3.2) that are there as a whole.
pub fn log_parameters(page: u8, bytes: &[u8]) -> Result<Vec<LogPage<'_>>, Malformed> {
    const WHAT: &str = "log page";
    at_least(WHAT, bytes, 4)?;
    if bytes[0] & 0x3f != page {
        return Err(Malformed { what: WHAT, reason: format!("it says that it is page {:02x}h", bytes[0] & 0x3f) });
    }
    let end = bytes.len().min(4 + usize::from(be16(bytes, 2)));
    let mut rest = &bytes[4..end];
    let mut found = Vec::new();
    while rest.len() >= 4 {
        let Some(value) = rest.get(4..4 + usize::from(rest[3])) else { break };
        found.push(LogPage { code: be16(rest, 0), value });
        rest = &rest[4 + value.len()..];
    }
    Ok(found)
}

/// The newest self-test (page 10h, parameter 1; SPC-4, 7.3.21).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfTestResult {
    /// How it was started: 1 short and 2 extended in the background, others in the foreground; 0 by no such command, or never.
    pub code: u8,
    /// 0 is good; 1 and 2 are aborts, 3 to 7 are failures, 15 is one that runs.
    pub result: u8,
    /// Hours that the device had been on, 65535 at most.
    pub power_on_hours: u16,
    /// The block that failed first, where it says one.
    pub failing_block: Option<u64>,
}

impl SelfTestResult {
    /// Page number.
    pub const PAGE: u8 = 0x10;
    /// Bytes to ask for: the page has 20 parameters of 20 bytes.
    pub const LENGTH: u16 = 404;
    /// The result of one that runs.
    pub const RUNNING: u8 = 15;

    /// Reads the answer; `None` where there never was one.
    pub fn newest(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let parameters = log_parameters(Self::PAGE, bytes)?;
        let Some(value) = parameters.iter().find(|one| one.code == 1).map(|one| one.value) else { return Ok(None) };
        if value.len() < 16 || value.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let block = be64(value, 4);
        let result = value[0] & 0xf;
        Ok(Some(Self {
            code: value[0] >> 5,
            result,
            power_on_hours: be16(value, 2),
            failing_block: ((3..=7).contains(&result) && block != u64::MAX).then_some(block),
        }))
    }
}
