//! The SMBIOS structure table (DMTF DSP0134), as much of it as is needed: the kernel serves the rest as files.

/// Structures of a table that are looked at. The largest servers have some hundreds.
const MOST_STRUCTURES: usize = 8192;

/// One structure: its type, its formatted area including the four bytes of header, and its strings.
struct Structure<'a> {
    kind: u8,
    body: &'a [u8],
    strings: &'a [u8],
}

impl Structure<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.body.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        self.body.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
    }

    fn double(&self, at: usize) -> Option<u32> {
        self.body.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
    }

    fn quad(&self, at: usize) -> Option<u64> {
        self.body.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
    }

    /// The string whose number stands at `at`; 0 is none (section 6.1.3).
    fn string(&self, at: usize) -> Option<String> {
        let number = usize::from(self.byte(at)?).checked_sub(1)?;
        let text = String::from_utf8_lossy(self.strings.split(|&byte| byte == 0).nth(number)?);
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// The structures of a table. Ends at the end-of-table structure, at the first one that does not fit, or after 8192.
fn structures(mut table: &[u8]) -> impl Iterator<Item = Structure<'_>> {
    const END_OF_TABLE: u8 = 127;
    std::iter::from_fn(move || {
        let &[kind, length, _, _, ..] = table else { return None };
        let body = table.get(..usize::from(length)).filter(|body| body.len() >= 4 && kind != END_OF_TABLE)?;
        // Strings follow; two zero bytes end them, also when there are none.
        let rest = table.get(body.len()..)?;
        let end = rest.windows(2).position(|pair| pair == [0, 0])?;
        table = rest.get(end + 2..)?;
        Some(Structure { kind, body, strings: rest.get(..end)? })
    })
    .take(MOST_STRUCTURES)
}

/// MiB of memory installed: the sum of all memory devices. A table that tells no size of any device is asked where memory
/// is mapped, which misses what the firmware keeps for itself.
pub fn installed_mib(table: &[u8]) -> u64 {
    let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add) / 1024;
    match sum(&mut structures(table).filter_map(|structure| device_kib(&structure))) {
        0 => sum(&mut structures(table).filter_map(|structure| mapped_kib(&structure))),
        mib => mib,
    }
}

/// KiB of a memory device (type 17, section 7.18). Sockets that are empty or of unknown size have none.
fn device_kib(device: &Structure<'_>) -> Option<u64> {
    const MEMORY_DEVICE: u8 = 17;
    const UNKNOWN: u16 = 0xffff;
    const EXTENDED: u16 = 0x7fff;
    const IN_KIB: u16 = 0x8000;
    if device.kind != MEMORY_DEVICE {
        return None;
    }
    match device.word(0x0c)? {
        UNKNOWN => None,
        EXTENDED => Some(u64::from(device.double(0x1c)? & 0x7fff_ffff) * 1024),
        size if size & IN_KIB != 0 => Some(u64::from(size & !IN_KIB)),
        size => Some(u64::from(size) * 1024),
    }
}

/// KiB of a range of addresses that memory is mapped to (type 19, section 7.20).
fn mapped_kib(range: &Structure<'_>) -> Option<u64> {
    const MAPPED_ADDRESS: u8 = 19;
    const EXTENDED: u32 = 0xffff_ffff;
    if range.kind != MAPPED_ADDRESS {
        return None;
    }
    let (first, last) = match range.double(0x04)? {
        EXTENDED => (range.quad(0x0f)? / 1024, range.quad(0x17)? / 1024),
        first => (first.into(), range.double(0x08)?.into()),
    };
    Some(last.checked_sub(first)? + 1)
}

/// The processors that are plugged in, by the name that they have (type 4, section 7.5); empty sockets are left out.
pub fn processors(table: &[u8]) -> Vec<String> {
    const PROCESSOR: u8 = 4;
    const POPULATED: u8 = 0x40;
    structures(table)
        .filter(|structure| structure.kind == PROCESSOR && structure.byte(0x18).is_some_and(|s| s & POPULATED != 0))
        .map(|processor| processor.string(0x10).unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory_device(size: u16, extended: u32) -> Vec<u8> {
        let mut device = vec![0_u8; 0x20];
        device[0] = 17;
        device[1] = 0x20;
        device[0x0c..0x0e].copy_from_slice(&size.to_le_bytes());
        device[0x1c..0x20].copy_from_slice(&extended.to_le_bytes());
        device.extend_from_slice(b"DIMM 0\0\0");
        device
    }

    #[test]
    fn sizes_in_mib_in_kib_and_extended_add_up_and_empty_sockets_do_not() {
        let mut table = vec![1, 4, 0, 0, 0, 0];
        table.extend(memory_device(8192, 0));
        table.extend(memory_device(0x8000 | 2048, 0));
        table.extend(memory_device(0x7fff, 65536));
        table.extend(memory_device(0, 0));
        table.extend(memory_device(0xffff, 0));
        table.extend([127, 4, 0, 0, 0, 0]);
        table.extend(memory_device(4096, 0));
        assert_eq!(installed_mib(&table), 8192 + 2 + 65536);
    }

    fn mapped(first: u32, last: u32, bytes: Option<(u64, u64)>) -> Vec<u8> {
        let mut range = vec![19, 0x1f, 0, 0];
        range.extend(first.to_le_bytes());
        range.extend(last.to_le_bytes());
        range.extend([0, 0, 1]);
        let (first, last) = bytes.unwrap_or_default();
        range.extend(first.to_le_bytes());
        range.extend(last.to_le_bytes());
        range.extend([0, 0]);
        range
    }

    #[test]
    fn without_sizes_of_devices_the_mapped_ranges_count() {
        const GIB: u64 = 1 << 30;
        let mut table = memory_device(0xffff, 0);
        table.extend(mapped(0, (3 << 20) - 1, None));
        table.extend(mapped(u32::MAX, u32::MAX, Some((4 * GIB, 65 * GIB - 1))));
        assert_eq!(installed_mib(&table), 64 << 10);
        table.extend(memory_device(1024, 0));
        assert_eq!(installed_mib(&table), 1024);
        assert_eq!(installed_mib(&mapped(5, 3, None)), 0);
        assert_eq!(installed_mib(&mapped(u32::MAX, 0, Some((0, u64::MAX)))), 1 << 44);
    }

    #[test]
    fn endless_structures_are_not_followed_to_their_end() {
        let table = memory_device(1024, 0).repeat(MOST_STRUCTURES + 1);
        assert_eq!(installed_mib(&table), 1024 * MOST_STRUCTURES as u64);
    }

    #[test]
    fn processors_in_their_sockets_are_named() {
        let processor = |status: u8, number: u8, strings: &[u8]| {
            let mut processor = vec![0_u8; 0x1a];
            (processor[0], processor[1], processor[0x10], processor[0x18]) = (4, 0x1a, number, status);
            processor.extend_from_slice(strings);
            processor
        };
        let mut table = processor(0x41, 2, b"CPU1\0Xeon  \0\0");
        table.extend(processor(0x00, 2, b"CPU2\0Xeon\0\0"));
        table.extend(processor(0x41, 9, b"CPU3\0\0"));
        assert_eq!(processors(&table), ["Xeon", ""]);
    }

    #[test]
    fn a_cut_or_senseless_table_ends_the_walk() {
        let table = memory_device(1024, 0);
        for length in 0..table.len() {
            assert!(installed_mib(&table[..length]) <= 1024);
        }
        assert_eq!(installed_mib(&[17, 0, 0, 0, 0, 0]), 0);
        assert_eq!(installed_mib(&[255; 64]), 0);
    }
}
