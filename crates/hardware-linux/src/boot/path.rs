//! Device paths as text (UEFI 2.10, 10.6.1), as far as boot entries have them.

use std::fmt::Write as _;

/// Nodes that a path may have, and bytes of a node that are shown; longer ones are nobody's.
const MOST_NODES: usize = 32;
const MOST_SHOWN: usize = 64;

/// The device path of a `Boot####` variable as text; empty when it cannot be read.
pub(crate) fn text(option: &[u8]) -> String {
    let Some(mut path) = device_path(option) else { return String::new() };
    let mut text = String::new();
    for _ in 0..MOST_NODES {
        let Some((&[kind, subtype, low, high], _)) = path.split_first_chunk::<4>() else { break };
        let length = usize::from(u16::from_le_bytes([low, high])).max(4);
        let Some((node, rest)) = path.split_at_checked(length) else { break };
        if (kind, subtype) == (0x7f, 0xff) {
            break;
        }
        if !text.is_empty() {
            text.push('/');
        }
        node_text(kind, subtype, &node[4..], &mut text);
        path = rest;
    }
    text
}

fn device_path(option: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_le_bytes(option.get(4..6)?.try_into().ok()?));
    let label = option.get(6..)?.chunks_exact(2).position(|unit| unit == [0, 0])? * 2 + 2;
    option.get(6 + label..)?.get(..length)
}

fn node_text(kind: u8, subtype: u8, data: &[u8], text: &mut String) {
    let number = |at: usize| data.get(at..at + 4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    let long = |at: usize| Some(u64::from(number(at)?) | u64::from(number(at + 4)?) << 32);
    let written = match (kind, subtype) {
        (1, 1) if data.len() == 2 => write!(text, "Pci({:#x},{:#x})", data[1], data[0]),
        (1, 4) | (3, 10) | (4, 3) if data.len() >= 16 => {
            let name = [(1, "VenHw"), (3, "VenMsg"), (4, "VenMedia")].into_iter().find(|(known, _)| *known == kind);
            write!(text, "{}({})", name.map_or("Ven", |(_, name)| name), guid(data))
        }
        // EISA identifiers PNP0A03 and PNP0A08: PCI roots.
        (2, 1) if matches!(number(0), Some(0x0a03_41d0 | 0x0a08_41d0)) => {
            write!(text, "PciRoot({:#x})", number(4).unwrap_or_default())
        }
        (2, 1) if data.len() == 8 => {
            write!(text, "Acpi({:#x},{:#x})", number(0).unwrap_or_default(), number(4).unwrap_or_default())
        }
        (3, 11) if data.len() >= 6 => write!(text, "MAC({},{})", hex(&data[..6]), data.last().copied().unwrap_or(0)),
        (3, 12) => write!(text, "IPv4()"),
        (3, 13) => write!(text, "IPv6()"),
        (3, 15) if data.len() == 7 => write!(text, "UsbClass({})", hex(data)),
        (3, 23) if data.len() == 12 => write!(text, "NVMe({:#x},{})", number(0).unwrap_or_default(), hex(&data[4..])),
        (3, 24) => write!(text, "Uri({})", String::from_utf8_lossy(&data[..data.len().min(MOST_SHOWN)])),
        (4, 1) if data.len() >= 38 => hard_drive(data, number(0), long(4), long(12), text),
        (4, 4) => write!(text, "File({})", file(data)),
        (4, 6) if data.len() >= 16 => write!(text, "FvFile({})", guid(data)),
        (4, 7) if data.len() >= 16 => write!(text, "FvVol({})", guid(data)),
        (5, 1) if data.len() >= 4 => {
            let name = String::from_utf8_lossy(&data[4..]);
            write!(text, "BBS({:#x},{})", data[0], name.trim_end_matches('\0'))
        }
        _ => write!(text, "Path({kind},{subtype},{})", hex(&data[..data.len().min(MOST_SHOWN)])),
    };
    // Writing to a string does not fail.
    let _ = written;
}

fn hard_drive(
    data: &[u8],
    number: Option<u32>,
    start: Option<u64>,
    blocks: Option<u64>,
    text: &mut String,
) -> std::fmt::Result {
    let (number, start, blocks) = (number.unwrap_or_default(), start.unwrap_or_default(), blocks.unwrap_or_default());
    match data[37] {
        2 => write!(text, "HD({number},GPT,{},{start:#x},{blocks:#x})", guid(&data[20..])),
        1 => {
            let disk = u32::from_le_bytes([data[20], data[21], data[22], data[23]]);
            write!(text, "HD({number},MBR,{disk:#x},{start:#x},{blocks:#x})")
        }
        other => write!(text, "HD({number},{other},0,{start:#x},{blocks:#x})"),
    }
}

/// UCS-2, without control characters.
fn file(data: &[u8]) -> String {
    let units = data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|unit| *unit != 0);
    char::decode_utf16(units.take(1024)).map(|c| c.unwrap_or('?')).filter(|c| !c.is_control()).collect()
}

/// The first three fields are little-endian (UEFI 2.10, appendix A).
fn guid(data: &[u8]) -> String {
    let Some(bytes) = data.first_chunk::<16>() else { return String::new() };
    uuid::Uuid::from_bytes_le(*bytes).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::entry::{LoadOption, PartitionName, PartitionPath};
    use super::*;

    fn option(nodes: &[u8]) -> Vec<u8> {
        let mut option = vec![1, 0, 0, 0];
        option.extend(u16::try_from(nodes.len()).unwrap().to_le_bytes());
        option.extend([b'a', 0, 0, 0]);
        option.extend(nodes);
        option
    }

    #[test]
    fn a_loader_on_a_partition_reads_as_efibootmgr_prints_it() {
        let gpt = LoadOption {
            label: "debian".into(),
            partition: PartitionPath {
                number: 1,
                start: 0x800,
                blocks: 0x100000,
                name: PartitionName::Gpt(*uuid::Uuid::from_u128(0x6c4a_2b1e_0001_4abc_8def_0123_4567_89ab).as_bytes()),
            },
            path: "\\EFI\\debian\\shimx64.efi".into(),
        };
        insta::assert_snapshot!(
            text(&gpt.to_bytes()),
            @r"HD(1,GPT,1e2b4a6c-0100-bc4a-8def-0123456789ab,0x800,0x100000)/File(\EFI\debian\shimx64.efi)"
        );
        let dos = LoadOption {
            partition: PartitionPath { name: PartitionName::Mbr([0x78, 0x56, 0x34, 0x12]), ..gpt.partition.clone() },
            ..gpt.clone()
        };
        insta::assert_snapshot!(
            text(&dos.to_bytes()),
            @r"HD(1,MBR,0x12345678,0x800,0x100000)/File(\EFI\debian\shimx64.efi)"
        );
        // Cut anywhere, it is no panic.
        let whole = gpt.to_bytes();
        for length in 0..whole.len() {
            let _ = text(&whole[..length]);
        }
    }

    #[test]
    fn what_firmware_boots_from_elsewhere_has_a_text_too() {
        let mut network = vec![2, 1, 12, 0, 0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0];
        network.extend([1, 1, 6, 0, 0, 3]);
        network.extend([3, 11, 37, 0, 0x52, 0x54, 0, 1, 2, 3]);
        network.extend([0; 26]);
        network.push(1);
        network.extend([3, 12, 5, 0, 0, 0x7f, 0xff, 4, 0]);
        insta::assert_snapshot!(text(&option(&network)), @"PciRoot(0x0)/Pci(0x3,0x0)/MAC(525400010203,1)/IPv4()");
        let odd = [9, 9, 6, 0, 0xab, 0xcd, 0x7f, 0xff, 4, 0];
        insta::assert_snapshot!(text(&option(&odd)), @"Path(9,9,abcd)");
        assert_eq!(text(&option(&[1, 1, 0xff, 0xff])), "");
    }
}
