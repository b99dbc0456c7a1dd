//! SCSI vital product data pages (SPC-5 section 7.7) as the kernel keeps them.

/// What an ATA disk says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ata {
    pub(super) model: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) wwn: Option<String>,
}

/// The payload of page `code`, no longer than its header says.
fn payload(page: &[u8], code: u8) -> Option<&[u8]> {
    let &[_, found, high, low, ref rest @ ..] = page else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    (found == code).then(|| rest.get(..length).unwrap_or(rest))
}

/// Page 80h: the unit's serial number.
pub(super) fn serial(page: &[u8]) -> Option<String> {
    printable(payload(page, 0x80)?)
}

/// Page 83h: the NAA name of the logical unit in hex, the longest when there are several.
pub(super) fn naa(page: &[u8]) -> Option<String> {
    const BINARY: u8 = 1;
    const LOGICAL_UNIT: u8 = 0;
    const NAA: u8 = 3;
    let mut rest = payload(page, 0x83)?;
    let mut best: Option<&[u8]> = None;
    while let &[coding, kind, _, length, ref after @ ..] = rest {
        let designator = after.get(..usize::from(length))?;
        rest = &after[designator.len()..];
        let wanted = coding & 0x0f == BINARY && (kind >> 4) & 3 == LOGICAL_UNIT && kind & 0x0f == NAA;
        if wanted && best.is_none_or(|best| designator.len() > best.len()) {
            best = Some(designator);
        }
    }
    best.filter(|name| !name.is_empty()).map(|name| name.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Page 89h: the IDENTIFY DEVICE data of an ATA disk (SAT-4 section 12.4.4), with model and serial number unabridged.
pub(super) fn ata(page: &[u8]) -> Option<Ata> {
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
