use super::entry::{PartitionName, PartitionPath};
use super::*;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
const ESP_TYPE: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// A disk with an ESP of that identity; `loader` is on it.
fn disk(folder: &Path, name: &str, guid: u8, loader: Option<&str>) -> PathBuf {
    let path = folder.join(name);
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    let mut table = gptman::GPT::new_from(&mut file, 512, [guid; 16]).unwrap();
    table[1] = gptman::GPTPartitionEntry {
        partition_type_guid: ESP_TYPE,
        unique_partition_guid: [guid; 16],
        starting_lba: 2048,
        ending_lba: 2048 + 8191,
        attribute_bits: 0,
        partition_name: "esp".into(),
    };
    table.write_into(&mut file).unwrap();
    let mut volume = Cursor::new(vec![0_u8; 4 << 20]);
    fatfs::format_volume(&mut volume, fatfs::FormatVolumeOptions::new()).unwrap();
    if let Some(loader) = loader {
        let system = fatfs::FileSystem::new(&mut volume, fatfs::FsOptions::new()).unwrap();
        let folder = system.root_dir().create_dir("EFI").unwrap().create_dir("BOOT").unwrap();
        folder.create_file(loader).unwrap().write_all(b"x").unwrap();
    }
    file.write_all_at(volume.get_ref(), 1 << 20).unwrap();
    path
}

/// Firmware variables in a folder: these entries, in the boot order in which they are given.
struct Efivars(tempfile::TempDir);

impl Efivars {
    fn with(entries: &[(u16, Vec<u8>)]) -> Self {
        let vars = Self(tempfile::tempdir().unwrap());
        let set = |name: String, value: &[u8]| {
            std::fs::write(vars.0.path().join(format!("{name}-{GLOBAL}")), [&7_u32.to_le_bytes(), value].concat())
                .unwrap();
        };
        for (number, option) in entries {
            set(format!("Boot{number:04X}"), option);
        }
        let order: Vec<u8> = entries.iter().flat_map(|(number, _)| number.to_le_bytes()).collect();
        set("BootOrder".to_owned(), &order);
        // Variables of other names that begin alike.
        set("BootCurrent".to_owned(), &[0, 0]);
        vars
    }

    fn value(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(format!("{name}-{GLOBAL}"))).unwrap()[4..].to_vec()
    }

    /// Numbers and labels, in boot order; every entry has to be in it.
    fn order(&self) -> Vec<(u16, String)> {
        let order = self.value("BootOrder");
        let numbers = order.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let entries: Vec<_> =
            numbers.map(|number| (number, entry::label(&self.value(&format!("Boot{number:04X}"))).unwrap())).collect();
        let files = std::fs::read_dir(self.0.path()).unwrap().count();
        assert_eq!(files, entries.len() + 2, "an entry is not in the boot order, or one of it is gone");
        entries
    }
}

fn from_disk(label: &str, name: PartitionName) -> Vec<u8> {
    let partition = PartitionPath { number: 1, start: 2048, blocks: 8192, name };
    LoadOption { label: label.into(), partition, path: "\\EFI\\x.efi".into() }.to_bytes()
}

/// An entry whose device path is no partition: a network card, or the firmware's own shell.
fn from_elsewhere(label: &str) -> Vec<u8> {
    let text: Vec<u8> = label.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    [&[1, 0, 0, 0, 10, 0][..], &text, &[1, 1, 6, 0, 0, 0, 0x7f, 0xff, 4, 0]].concat()
}

fn named(order: &[(u16, String)]) -> Vec<(u16, &str)> {
    order.iter().map(|(number, label)| (*number, label.as_str())).collect()
}

#[test]
fn a_new_entry_comes_first_and_those_of_the_same_label_or_esp_go() {
    let folder = tempfile::tempdir().unwrap();
    let own = disk(folder.path(), "a", 1, Some("BOOTX64.EFI"));
    let vars = Efivars::with(&[
        (0, from_disk("debian", PartitionName::Gpt([9; 16]))),
        (1, from_disk("windows", PartitionName::Gpt([2; 16]))),
        (2, from_elsewhere("UEFI PXEv4")),
        (3, from_disk("ironic1", PartitionName::Gpt([2; 16]))),
        (4, from_disk("fedora", PartitionName::Gpt([1; 16]))),
        (5, from_disk("dos", PartitionName::Mbr([1, 2, 3, 4]))),
        (6, from_elsewhere("EFI Internal Shell")),
    ]);
    let labels = install(&own, 512, vars.0.path()).unwrap();
    assert_eq!(labels, ["ironic1"]);
    let order = vars.order();
    // Gone: the same label (3), the same ESP (4). Disks that are not to be seen here (0, 1 and 5) keep theirs.
    let kept = [(0, "debian"), (1, "windows"), (2, "UEFI PXEv4"), (5, "dos"), (6, "EFI Internal Shell")];
    assert_eq!(named(&order), [&[(3, "ironic1")], &kept[..]].concat());
    assert_eq!(entry::partition(&vars.value("Boot0003")), Some(PartitionName::Gpt([1; 16])));
    // Again, as on a rebuild: the same result.
    install(&own, 512, vars.0.path()).unwrap();
    assert_eq!(vars.order(), order);
}

#[test]
fn without_a_loader_no_entry_is_made_and_none_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let own = disk(folder.path(), "a", 1, None);
    let vars = Efivars::with(&[(0, from_disk("debian", PartitionName::Gpt([9; 16])))]);
    assert!(install(&own, 512, vars.0.path()).unwrap().is_empty());
    assert_eq!(named(&vars.order()), [(0, "debian")]);
}
