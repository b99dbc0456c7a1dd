//! The SMBIOS structure table (DMTF DSP0134), as much of it as is needed: the kernel serves the rest as files.

/// One structure: its type and its formatted area including the four bytes of header.
struct Structure<'a> {
    kind: u8,
    body: &'a [u8],
}

/// The structures of a table. Ends at the end-of-table structure or at the first one that does not fit.
fn structures(mut table: &[u8]) -> impl Iterator<Item = Structure<'_>> {
    const END_OF_TABLE: u8 = 127;
    std::iter::from_fn(move || {
        let &[kind, length, _, _, ..] = table else { return None };
        let body = table.get(..usize::from(length)).filter(|body| body.len() >= 4 && kind != END_OF_TABLE)?;
        // Strings follow; two zero bytes end them, also when there are none.
        let strings = table.get(body.len()..)?;
        let end = strings.windows(2).position(|pair| pair == [0, 0])?;
        table = strings.get(end + 2..)?;
        Some(Structure { kind, body })
    })
}

/// MiB of memory installed: the sum of all memory devices (type 17, DSP0134 section 7.18). Sockets that are empty or of
/// unknown size count nothing.
pub fn installed_mib(table: &[u8]) -> u64 {
    const MEMORY_DEVICE: u8 = 17;
    const UNKNOWN: u16 = 0xffff;
    const EXTENDED: u16 = 0x7fff;
    const IN_KIB: u16 = 0x8000;
    let mut kib = 0_u64;
    for device in structures(table).filter(|structure| structure.kind == MEMORY_DEVICE) {
        let Some(&[low, high]) = device.body.get(0x0c..0x0e) else { continue };
        kib += match u16::from_le_bytes([low, high]) {
            0 | UNKNOWN => 0,
            EXTENDED => match device.body.get(0x1c..0x20) {
                Some(&[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d]) & 0x7fff_ffff) * 1024,
                _ => 0,
            },
            size if size & IN_KIB != 0 => u64::from(size & !IN_KIB),
            size => u64::from(size) * 1024,
        };
    }
    kib / 1024
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
