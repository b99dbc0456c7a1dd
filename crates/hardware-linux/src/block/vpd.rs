//! SCSI vital product data pages (SPC-5 section 7.7) as the kernel keeps them. A page may say anything: what does not fit into
//! it is not there.

/// What an ATA disk says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Ata {
    /// Model, without the spaces around it.
    pub model: Option<String>,
    /// Serial number, without the spaces around it.
    pub serial: Option<String>,
    /// World wide name as `0x` and 16 hexadecimal digits.
    pub wwn: Option<String>,
}

/// A designator of page 83h (SPC-5 section 7.7.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Designator<'a> {
    code_set: u8,
    association: u8,
    kind: u8,
    bytes: &'a [u8],
}

/// Code sets (table 588).
const BINARY: u8 = 1;
const ASCII: u8 = 2;
/// Association (table 589): what the designator names.
const LOGICAL_UNIT: u8 = 0;
/// Types of designators (table 590).
const VENDOR_SPECIFIC: u8 = 0;
const T10: u8 = 1;
const EUI_64: u8 = 2;
const NAA: u8 = 3;
/// Kinds of NAA names, in their first half byte.
const NAA_REGISTERED: u8 = 5;
const NAA_REGISTERED_EXTENDED: u8 = 6;

/// The payload of page `code`, no longer than its header says.
fn payload(page: &[u8], code: u8) -> Option<&[u8]> {
    let &[_, found, high, low, ref rest @ ..] = page else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    (found == code).then(|| rest.get(..length).unwrap_or(rest))
}

/// Page 80h: the unit's serial number.
pub fn serial(page: &[u8]) -> Option<String> {
    printable(payload(page, 0x80)?)
}

/// The designators of page 83h; `None` when one of them claims to be longer than the page.
fn designators(page: &[u8]) -> Option<Vec<Designator<'_>>> {
    let mut rest = payload(page, 0x83)?;
    let mut found = Vec::new();
    while let &[coding, kind, _, length, ref after @ ..] = rest {
        let bytes = after.get(..usize::from(length))?;
        rest = &after[bytes.len()..];
        found.push(Designator { code_set: coding & 0x0f, association: (kind >> 4) & 3, kind: kind & 0x0f, bytes });
    }
    Some(found)
}

/// Page 83h: the NAA name of the logical unit in hex, the longest when there are several.
pub fn naa(page: &[u8]) -> Option<String> {
    let mut best: Option<&[u8]> = None;
    for found in designators(page)? {
        let wanted = found.code_set == BINARY && found.association == LOGICAL_UNIT && found.kind == NAA;
        if wanted && best.is_none_or(|best| found.bytes.len() > best.len()) {
            best = Some(found.bytes);
        }
    }
    best.filter(|name| !name.is_empty()).map(hex)
}

/// The identity that udev's `scsi_id` makes of pages 83h and 80h (systemd 252, `src/udev/scsi_id/scsi_serial.c`), before its
/// spaces are replaced: a digit for the type of the designator it prefers, then the designator. Designators that are not
/// unique in the world have vendor and model before them, padded to `vendor` and `model` of an INQUIRY.
pub fn identity(page_83: Option<&[u8]>, page_80: Option<&[u8]>, vendor: &str, model: &str) -> Option<String> {
    let of_all = format!("{vendor:<8.8}{model:<16.16}");
    page_83.and_then(|page| preferred(page, &of_all)).or_else(|| {
        let serial = payload(page_80?, 0x80)?;
        Some(format!("S{of_all}{}", text(serial)))
    })
}

/// What `scsi_id` prefers: NAA names before EUI-64 before what the vendor made up.
fn preferred(page: &[u8], vendor_and_model: &str) -> Option<String> {
    const ORDER: [(u8, Option<u8>); 6] = [
        (NAA, Some(NAA_REGISTERED_EXTENDED)),
        (NAA, Some(NAA_REGISTERED)),
        (NAA, None),
        (EUI_64, None),
        (T10, None),
        (VENDOR_SPECIFIC, None),
    ];
    // Not zero where the page is as SCSI-2 had it, without designators.
    if page.get(6).is_some_and(|reserved| *reserved != 0) {
        return None;
    }
    let found = designators(page)?;
    let of_unit = || found.iter().filter(|one| one.association == LOGICAL_UNIT && !one.bytes.is_empty());
    for (kind, form) in ORDER {
        for code_set in [BINARY, ASCII] {
            let fits = |one: &&Designator<'_>| {
                one.kind == kind
                    && one.code_set == code_set
                    && form.is_none_or(|form| one.bytes.first().is_some_and(|first| first >> 4 == form))
            };
            let Some(one) = of_unit().find(fits) else { continue };
            let value = if code_set == ASCII { text(one.bytes) } else { hex(one.bytes) };
            let before = if kind == VENDOR_SPECIFIC { vendor_and_model } else { "" };
            return Some(format!("{kind}{before}{value}"));
        }
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text as C has it: up to the first zero.
fn text(bytes: &[u8]) -> String {
    bytes.iter().take_while(|byte| **byte != 0).map(|&byte| byte as char).collect()
}

/// Page 89h: the IDENTIFY DEVICE data of an ATA disk (SAT-4 section 12.4.4), with model and serial number unabridged.
pub fn ata(page: &[u8]) -> Option<Ata> {
    const IDENTIFY: usize = 56;
    let identify = payload(page, 0x89)?.get(IDENTIFY..)?;
    // Words are little-endian; text has its first character in the upper byte (ACS-4 section 3.4.7).
    let word = |index: usize| Some(u16::from_le_bytes([*identify.get(2 * index)?, *identify.get(2 * index + 1)?]));
    let text = |words: std::ops::Range<usize>| {
        let bytes: Option<Vec<u8>> = words
            .map(word)
            .map(|word| word.map(u16::to_be_bytes))
            .collect::<Option<Vec<_>>>()
            .map(|words| words.concat());
        printable(&bytes?)
    };
    // Word 87 bit 8, valid when bits 15:14 are 01: words 108 to 111 hold a world wide name.
    let named = word(87).is_some_and(|word| word & 0xc100 == 0x4100);
    let wwn = || Some(format!("0x{:04x}{:04x}{:04x}{:04x}", word(108)?, word(109)?, word(110)?, word(111)?));
    Some(Ata { model: text(27..47), serial: text(10..20), wwn: if named { wwn() } else { None } })
}

fn printable(bytes: &[u8]) -> Option<String> {
    let text: String = bytes.iter().map(|&byte| byte as char).filter(|c| matches!(c, ' '..='~')).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_serial_number_is_trimmed() {
        assert_eq!(serial(b"\0\x80\0\x08 AB 12\0\0junk").as_deref(), Some("AB 12"));
        assert_eq!(serial(b"\0\x83\0\x02AB"), None);
        assert_eq!(serial(b"\0\x80"), None);
    }

    #[test]
    fn the_longest_logical_unit_name_counts_and_target_ports_do_not() {
        let page = [
            0, 0x83, 0, 40, //
            1, 0x93, 0, 8, 0x5f, 0, 0, 0, 0, 0, 0, 1, // a target port
            1, 3, 0, 16, 0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, //
            2, 1, 0, 4, b'Q', b'E', b'M', b'U',
        ];
        assert_eq!(naa(&page).as_deref(), Some("600102030405060708090a0b0c0d0e0f"));
        assert_eq!(naa(&page[..20]), None);
    }

    #[test]
    fn an_identity_is_made_as_udev_makes_it() {
        let made = |page: &[u8]| identity(Some(page), Some(b"\0\x80\0\x04AB12"), "QEMU", "QEMU HARDDISK");
        let of_vendor = b"\0\x83\0\x0c\x02\0\0\x08drive-s0";
        assert_eq!(made(of_vendor).unwrap(), "0QEMU    QEMU HARDDISK   drive-s0");
        let t10 = b"\0\x83\0\x10\x02\x01\0\x0cATA     WD-1";
        assert_eq!(made(t10).unwrap(), "1ATA     WD-1");
        // A target port first, then a vendor's own, then two NAA names of which the extended one goes before.
        let page = [
            &[0, 0x83, 0, 50][..],
            &[1, 0x93, 0, 8, 0x5f, 0, 0, 0, 0, 0, 0, 1],
            &[2, 0, 0, 2, b'A', b'B'],
            &[1, 3, 0, 8, 0x50, 0, 0xc5, 0, 1, 2, 3, 4],
            &[1, 3, 0, 16, 0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        ];
        assert_eq!(made(&page.concat()[..34]).unwrap(), "35000c50001020304");
        assert_eq!(made(&page.concat()).unwrap(), "3600102030405060708090a0b0c0d0e0f");
    }

    #[test]
    fn without_page_83_an_identity_is_made_of_the_serial_number_or_not_at_all() {
        let page_80 = b"\0\x80\0\x06AB12\0\xff";
        assert_eq!(identity(None, Some(page_80), "DELL", "PERC H730").unwrap(), "SDELL    PERC H730       AB12");
        // As SCSI-2 had page 83h.
        let old = b"\0\x83\0\x10\x60\x06\x04\x80\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(identity(Some(old), None, "EMC", "SYMMETRIX"), None);
        assert_eq!(identity(Some(b"\0\x83\0\x0c\x02\0\0\x20short"), None, "A", "B"), None);
    }

    #[test]
    fn ata_identity_comes_from_identify_data() {
        let mut page = vec![0_u8; 572];
        page[1] = 0x89;
        page[2..4].copy_from_slice(&568_u16.to_be_bytes());
        let mut put = |index: usize, text: &[u8]| {
            for (offset, pair) in text.chunks(2).enumerate() {
                page[60 + 2 * (index + offset)] = pair[1];
                page[61 + 2 * (index + offset)] = pair[0];
            }
        };
        put(10, b"   S3Z8NB0K123456   ");
        put(27, b"Samsung SSD 860 EVO 500GB               ");
        put(87, &[0x41, 0x00]);
        put(108, &[0x50, 0x02, 0x53, 0x8e, 0x40, 0x12, 0x34, 0x56]);
        let ata = ata(&page).unwrap();
        assert_eq!(ata.serial.as_deref(), Some("S3Z8NB0K123456"));
        assert_eq!(ata.model.as_deref(), Some("Samsung SSD 860 EVO 500GB"));
        assert_eq!(ata.wwn.as_deref(), Some("0x5002538e40123456"));
    }
}
