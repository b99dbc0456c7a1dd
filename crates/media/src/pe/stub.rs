//! An EFI stub for tests, here and in other crates (feature `testing`): well-formed, and does nothing.

/// A stub like Debian's: one page of code, a section table with room for `room` more headers.
pub fn stub(room: usize) -> Vec<u8> {
    let table = 0x80 + 24 + 240;
    let headers = (table + 40 * (1 + room)).next_multiple_of(8);
    let data = headers.next_multiple_of(512);
    let mut bytes = vec![0; data + 512];
    let mut put = |offset: usize, data: &[u8]| bytes[offset..offset + data.len()].copy_from_slice(data);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x84, &0x8664_u16.to_le_bytes());
    put(0x86, &1_u16.to_le_bytes());
    put(0x94, &240_u16.to_le_bytes());
    let optional = 0x98;
    put(optional, &0x20b_u16.to_le_bytes());
    put(optional + 16, &0x4000_u32.to_le_bytes());
    put(optional + 32, &512_u32.to_le_bytes());
    put(optional + 36, &512_u32.to_le_bytes());
    put(optional + 56, &0x4200_u32.to_le_bytes());
    put(optional + 60, &(headers as u32).to_le_bytes());
    put(optional + 64, &0xdead_beef_u32.to_le_bytes());
    put(optional + 108, &16_u32.to_le_bytes());
    put(table, b".text");
    for (field, value) in [(8, 0x10), (12, 0x4000), (16, 512), (20, data as u32), (36, 0x6000_0020)] {
        put(table + field, &u32::to_le_bytes(value));
    }
    bytes
}
