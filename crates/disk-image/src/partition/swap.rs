//! The header of a swap space (linux/swap.h, union `swap_header`, version 1).

/// Bytes of a page, which is where the header ends.
pub(super) const PAGE: usize = 4096;
/// What the first page ends in.
const MAGIC: &[u8; 10] = b"SWAPSPACE2";

/// The first page of a swap space of so many bytes.
pub(super) fn header(size: u64, uuid: [u8; 16], label: &str) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let last_page = u32::try_from(size / PAGE as u64).unwrap_or(u32::MAX).saturating_sub(1);
    page[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    page[1028..1032].copy_from_slice(&last_page.to_le_bytes());
    page[1036..1052].copy_from_slice(&uuid);
    let label = &label.as_bytes()[..label.len().min(16)];
    page[1052..1052 + label.len()].copy_from_slice(label);
    page[PAGE - MAGIC.len()..].copy_from_slice(MAGIC);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// blkid reads what swapon would.
    #[test]
    fn blkid_takes_it_for_a_swap_space() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 4 << 20];
        bytes[..PAGE].copy_from_slice(&header(4 << 20, [0x11; 16], "swap1"));
        std::fs::write(file.path(), bytes).unwrap();
        let output =
            std::process::Command::new("blkid").args(["-p", "-o", "export"]).arg(file.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for wanted in ["TYPE=swap", "LABEL=swap1", "UUID=11111111-1111-1111-1111-111111111111"] {
            assert!(text.lines().any(|line| line == wanted), "no {wanted} in {text}");
        }
        assert_eq!(header(4 << 20, [0; 16], "x")[1028..1032], 1023_u32.to_le_bytes());
    }
}
