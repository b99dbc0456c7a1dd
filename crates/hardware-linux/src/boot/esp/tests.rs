use super::*;

const SECTOR: u64 = 512;

/// A FAT volume with the given files at the second MiB of a file.
fn esp(files: &[(&str, &[u8])]) -> (File, PartitionPath) {
    let mut volume = io::Cursor::new(vec![0_u8; 4 << 20]);
    fatfs::format_volume(&mut volume, fatfs::FormatVolumeOptions::new()).unwrap();
    {
        let system = fatfs::FileSystem::new(&mut volume, fatfs::FsOptions::new()).unwrap();
        for (path, bytes) in files {
            for (index, _) in path.match_indices('/') {
                let _ = system.root_dir().create_dir(&path[..index]).unwrap();
            }
            system.root_dir().create_file(path).unwrap().write_all(bytes).unwrap();
        }
    }
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(volume.get_ref(), 1 << 20).unwrap();
    (file, PartitionPath { number: 1, start: 2048, blocks: 8192, name: PartitionName::Gpt([1; 16]) })
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn found(files: &[(&str, &[u8])]) -> Vec<(String, String)> {
    let (file, partition) = esp(files);
    loaders(file, &partition, SECTOR).unwrap().into_iter().map(|loader| (loader.label, loader.path)).collect()
}

#[test]
fn loaders_are_found_by_name_in_any_case() {
    let entries = found(&[("EFI/BOOT/BOOTX64.EFI", b"x"), ("EFI/debian/grubx64.efi", b"x"), ("readme.txt", b"x")]);
    assert_eq!(entries, [("ironic1".to_owned(), "\\EFI\\BOOT\\BOOTX64.EFI".to_owned())]);
}

#[test]
fn tables_are_preferred_with_or_without_a_byte_order_mark() {
    let table = utf16("\u{feff}shimx64.efi,debian,,This is the boot entry for debian\n");
    let wanted = [("debian".to_owned(), "\\EFI\\debian\\shimx64.efi".to_owned())];
    let program = ("EFI/BOOT/BOOTX64.EFI", b"x".as_slice());
    let shim = ("EFI/debian/shimx64.efi", b"x".as_slice());
    assert_eq!(found(&[program, shim, ("EFI/debian/BOOTX64.CSV", &table)]), wanted);
    let plain = utf16("shimx64.efi,debian,,");
    assert_eq!(found(&[program, shim, ("EFI/debian/BOOTX64.CSV", &plain)]), wanted);
}

#[test]
fn a_table_that_names_nothing_useful_does_not_hide_the_loaders() {
    let wanted = [("ironic1".to_owned(), "\\EFI\\BOOT\\BOOTX64.EFI".to_owned())];
    for table in [utf16("absent.efi,debian,,"), utf16("../../x.efi,debian"), b"ascii,text".to_vec(), Vec::new()] {
        assert_eq!(found(&[("EFI/BOOT/BOOTX64.EFI", b"x"), ("EFI/debian/BOOTX64.CSV", &table)]), wanted);
    }
}

#[test]
fn an_esp_is_located_in_a_gpt_and_in_an_mbr() {
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(8 << 20).unwrap();
    assert_eq!(locate(&mut file, SECTOR).unwrap(), None);

    let mut mbr = [0_u8; 512];
    mbr[440..444].copy_from_slice(&[1, 2, 3, 4]);
    mbr[462 + 4] = ESP_MBR;
    mbr[462 + 8..462 + 16].copy_from_slice(&[0, 8, 0, 0, 0, 16, 0, 0]);
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&mbr, 0).unwrap();
    let wanted = PartitionPath { number: 2, start: 2048, blocks: 4096, name: PartitionName::Mbr([1, 2, 3, 4]) };
    assert_eq!(locate(&mut file, SECTOR).unwrap(), Some(wanted));

    let mut table = gptman::GPT::new_from(&mut file, SECTOR, [9; 16]).unwrap();
    table[3] = gptman::GPTPartitionEntry {
        partition_type_guid: ESP_GUID,
        unique_partition_guid: [5; 16],
        starting_lba: 2048,
        ending_lba: 4095,
        attribute_bits: 0,
        partition_name: "esp".into(),
    };
    table.write_into(&mut file).unwrap();
    let wanted = PartitionPath { number: 3, start: 2048, blocks: 2048, name: PartitionName::Gpt([5; 16]) };
    assert_eq!(locate(&mut file, SECTOR).unwrap(), Some(wanted));
}

#[test]
fn a_volume_that_is_no_fat_is_an_error_and_not_a_panic() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 << 20).unwrap();
    let partition = PartitionPath { number: 1, start: 2048, blocks: 8192, name: PartitionName::Gpt([1; 16]) };
    assert!(loaders(file, &partition, SECTOR).is_err());
}
