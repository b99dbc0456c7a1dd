use super::*;

/// A second, small reading of the standard: lists a hierarchy as `mode size path`, or without modes for Joliet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u32(&self, offset: usize) -> u32 {
        let field = &self.0[offset..offset + 8];
        let little = u32::from_le_bytes(field[..4].try_into().unwrap());
        assert_eq!(little, u32::from_be_bytes(field[4..].try_into().unwrap()));
        little
    }

    fn list(&self, descriptor: usize) -> Vec<String> {
        let mut out = Vec::new();
        self.directory(descriptor * 2048 + 156, "", descriptor == 16, &mut out);
        out
    }

    fn directory(&self, record: usize, path: &str, rock_ridge: bool, out: &mut Vec<String>) {
        let start = self.u32(record + 2) as usize * 2048;
        let end = start + self.u32(record + 10) as usize;
        let mut at = start;
        while at < end {
            let length = usize::from(self.0[at]);
            if length == 0 {
                at = (at / 2048 + 1) * 2048;
                continue;
            }
            assert!(at % 2048 + length <= 2048, "a record crosses a block");
            let identifier = &self.0[at + 33..at + 33 + usize::from(self.0[at + 32])];
            if identifier != [0] && identifier != [1] {
                let (name, mode) = if rock_ridge { self.rock_ridge(at) } else { (joliet(identifier), 0) };
                let path = format!("{path}/{name}");
                let size = self.u32(at + 10);
                if self.0[at + 25] & 2 != 0 {
                    out.push(format!("{mode:o} {path}/"));
                    self.directory(at, &path, rock_ridge, out);
                } else {
                    let data = &self.0[self.u32(at + 2) as usize * 2048..][..size as usize];
                    let head = String::from_utf8_lossy(&data[..data.len().min(16)]).into_owned();
                    out.push(format!("{mode:o} {path} {size} {head:?}"));
                }
            }
            at += length;
        }
    }

    fn rock_ridge(&self, record: usize) -> (String, u32) {
        let identifier = usize::from(self.0[record + 32]);
        let mut at = record + 33 + identifier + usize::from(identifier.is_multiple_of(2));
        let mut end = record + usize::from(self.0[record]);
        let (mut name, mut mode) = (Vec::new(), 0);
        while at + 4 <= end && self.0[at] != 0 {
            let length = usize::from(self.0[at + 2]);
            match &self.0[at..at + 2] {
                b"NM" => name.extend(&self.0[at + 5..at + length]),
                b"PX" => mode = self.u32(at + 4),
                b"CE" => {
                    let area = self.u32(at + 4) as usize * 2048 + self.u32(at + 12) as usize;
                    end = area + self.u32(at + 20) as usize;
                    at = area;
                    continue;
                }
                other => panic!("unexpected field {other:?}"),
            }
            at += length;
        }
        (String::from_utf8(name).unwrap(), mode)
    }
}

fn joliet(identifier: &[u8]) -> String {
    let units: Vec<u16> = identifier.chunks(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect();
    String::from_utf16(&units).unwrap()
}

fn config_drive() -> Builder<'static> {
    let mut iso = Builder::new("config-2").unwrap();
    iso.file("openstack/latest/meta_data.json", 0o644, b"{\"uuid\":1}".as_slice()).unwrap();
    iso.file("openstack/latest/user_data", 0o600, b"#cloud-config".as_slice()).unwrap();
    iso.file("openstack/content/0000", 0o644, Content::Reader(Box::new(io::repeat(b'x').take(5000)), 5000)).unwrap();
    iso.file("empty", 0o444, Vec::new()).unwrap();
    iso.directory("ec2/latest").unwrap();
    iso
}

#[test]
fn both_hierarchies_list_the_same_files() {
    let image = config_drive().to_vec().unwrap();
    let reader = Reader(&image);
    insta::assert_snapshot!("rock_ridge", reader.list(16).join("\n"));
    insta::assert_snapshot!("joliet", reader.list(17).join("\n"));
}

#[test]
fn the_size_in_the_descriptor_is_the_size_of_the_image() {
    let mut image = Vec::new();
    let size = config_drive().write(&mut image).unwrap();
    assert_eq!(size, image.len() as u64);
    assert_eq!(u64::from(Reader(&image).u32(16 * 2048 + 80)) * 2048, size);
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    assert_eq!(config_drive().to_vec().unwrap(), config_drive().to_vec().unwrap());
}

#[test]
fn long_names_and_large_directories_keep_their_names() {
    let names: Vec<String> =
        (0..300).map(|i| format!("{i:03}{}", "é".repeat(if i % 7 == 0 { 126 } else { 3 }))).collect();
    let mut iso = Builder::new("X").unwrap();
    for name in &names {
        iso.file(&format!("d/{name}"), 0o644, Vec::new()).unwrap();
    }
    let image = iso.to_vec().unwrap();
    let mut listed: Vec<String> = Reader(&image).list(16)[1..].to_vec();
    listed.sort();
    let wanted: Vec<String> = names.iter().map(|name| format!("100644 /d/{name} 0 \"\"")).collect();
    assert_eq!(listed, wanted);
    assert_eq!(Reader(&image).list(17).len(), 301);
}

#[test]
fn the_boot_catalogue_leads_to_the_image() {
    let mut iso = Builder::new("VMEDIA_BOOT_ISO").unwrap();
    iso.efi_boot_image(vec![0xab; 70_000]).unwrap();
    iso.file("a", 0o644, b"a".as_slice()).unwrap();
    let image = iso.to_vec().unwrap();
    assert_eq!(&image[17 * 2048..17 * 2048 + 30], b"\0CD001\x01EL TORITO SPECIFICATION");
    let catalogue = u32::from_le_bytes(image[17 * 2048 + 0x47..][..4].try_into().unwrap()) as usize * 2048;
    let words = image[catalogue..catalogue + 32].chunks(2).map(|word| u16::from_le_bytes([word[0], word[1]]));
    assert_eq!(words.fold(0, u16::wrapping_add), 0);
    let entry = &image[catalogue + 32..];
    assert_eq!((entry[0], u16::from_le_bytes([entry[6], entry[7]])), (0x88, 137));
    let start = u32::from_le_bytes(entry[8..12].try_into().unwrap()) as usize * 2048;
    assert!(image[start..start + 70_000].iter().all(|byte| *byte == 0xab));
    assert_eq!(Reader(&image).list(16), ["100644 /a 1 \"a\""]);
}

#[test]
fn wrong_paths_labels_and_lengths_are_refused() {
    for label in ["", "seventeen-letters", "with space", "ä"] {
        assert!(matches!(Builder::new(label), Err(IsoError::Label { .. })), "{label:?}");
    }
    let mut iso = Builder::new("X").unwrap();
    iso.file("a", 0o644, Vec::new()).unwrap();
    assert!(matches!(iso.file("a", 0o644, Vec::new()), Err(IsoError::Duplicate { .. })));
    assert!(matches!(iso.file("a/b", 0o644, Vec::new()), Err(IsoError::Duplicate { .. })));
    assert!(matches!(iso.directory("a"), Err(IsoError::Duplicate { .. })));
    assert!(matches!(iso.file("../a", 0o644, Vec::new()), Err(IsoError::Path(_))));
    assert!(iso.file("1/2/3/4/5/6/7/f", 0o644, Vec::new()).is_ok());
    assert!(matches!(iso.file("1/2/3/4/5/6/7/8/f", 0o644, Vec::new()), Err(IsoError::TooDeep { .. })));
    let huge = Content::Reader(Box::new(io::empty()), u64::from(u32::MAX));
    assert!(matches!(iso.file("huge", 0o644, huge), Err(IsoError::TooLarge { .. })));
    for (announced, relation) in [(3, "more"), (5, "fewer")] {
        let mut iso = Builder::new("X").unwrap();
        iso.file("f", 0o644, Content::Reader(Box::new(b"four".as_slice()), announced)).unwrap();
        match iso.to_vec() {
            Err(IsoError::Length { relation: found, .. }) => assert_eq!(found, relation),
            other => panic!("{other:?}"),
        }
    }
}
