//! Numbers and names in bytes that a device sent. What lies behind the end reads as zero, so a parser has to look at the length
//! only where zero would mean something else.

/// An answer of a device that cannot be what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct Malformed {
    /// What it should be, such as `Identify Controller`.
    pub what: &'static str,
    /// Why it is not.
    pub reason: String,
}

/// Fails unless there are `wanted` bytes.
pub(crate) fn at_least(what: &'static str, bytes: &[u8], wanted: usize) -> Result<(), Malformed> {
    if bytes.len() >= wanted {
        return Ok(());
    }
    Err(Malformed { what, reason: format!("{} bytes, and it has at least {wanted}", bytes.len()) })
}

pub(crate) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|index| byte(bytes, at.saturating_add(index)))
}

pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

pub(crate) fn le128(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array(bytes, at))
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// The printable ASCII of a field that is filled up with spaces or zeros.
pub(crate) fn text(bytes: &[u8]) -> String {
    let text: String =
        bytes.iter().map(|&byte| if matches!(byte, 0x20..=0x7e) { char::from(byte) } else { ' ' }).collect();
    text.trim().to_owned()
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_the_end_is_zero() {
        let bytes = [1, 2, 3];
        assert_eq!((le16(&bytes, 0), le16(&bytes, 2), le16(&bytes, 9)), (0x201, 3, 0));
        assert_eq!((be16(&bytes, 0), be32(&bytes, 1)), (0x102, 0x0203_0000));
        assert_eq!(le64(&bytes, usize::MAX), 0);
    }

    #[test]
    fn names_lose_their_filling_and_what_no_terminal_should_see() {
        assert_eq!(text(b"  QEMU \x1b[2J disk \0\0"), "QEMU  [2J disk");
    }
}
