use super::mbr::{FAT32_LBA, Mbr, MbrError, PROTECTIVE};
use super::*;
use proptest::prelude::*;
use std::io::Cursor;

const MIB: usize = 1 << 20;

fn example(sector_size: u32, disk_sectors: u64) -> Gpt {
    let mut gpt = Gpt::new(Guid([7; 16]), sector_size, disk_sectors).unwrap();
    gpt.add(Entry::new(Guid::ESP, Guid([1; 16]), 2048..=4095, "EFI")).unwrap();
    gpt.add(Entry::new(Guid::LINUX_DATA, Guid([2; 16]), 4096..=8191, "root")).unwrap();
    gpt
}

/// A whole disk in memory with both copies of the table.
fn disk(gpt: &Gpt) -> Vec<u8> {
    let mut bytes = vec![0; gpt.disk_sectors() as usize * gpt.sector_size as usize];
    Mbr::protective(gpt.disk_sectors()).write(&mut bytes).unwrap();
    gpt.write_primary(&mut bytes).unwrap();
    gpt.write_backup(&mut bytes).unwrap();
    bytes
}

#[test]
fn both_copies_read_back_what_was_written() {
    for (sector_size, sectors) in [(512, 20480), (4096, 10240)] {
        let gpt = example(sector_size, sectors);
        let bytes = disk(&gpt);
        assert_eq!(Gpt::parse_primary(&bytes[..MIB], sector_size).unwrap(), gpt);
        assert_eq!(Gpt::parse_backup(&bytes[bytes.len() - MIB..], sectors, sector_size).unwrap(), gpt);
        assert_eq!(header_sector_size(&bytes), Some(sector_size));
    }
}

#[test]
fn another_implementation_reads_our_tables() {
    let gpt = example(512, 20480);
    let mut bytes = disk(&gpt);
    for copy in ["primary", "backup"] {
        if copy == "backup" {
            bytes[512..1024].fill(0);
        }
        let theirs = gptman::GPT::read_from(&mut Cursor::new(&bytes), 512).unwrap();
        assert_eq!(theirs.is_backup(), copy == "backup");
        assert_eq!(theirs.header.disk_guid, [7; 16]);
        assert_eq!(theirs.header.last_usable_lba, gpt.last_usable);
        assert_eq!(theirs[2].partition_name.as_str(), "root");
        assert_eq!((theirs[2].starting_lba, theirs[2].ending_lba), (4096, 8191));
    }
}

#[test]
fn we_read_the_tables_of_another_implementation() {
    let mut cursor = Cursor::new(vec![0; 10 * MIB]);
    let mut theirs = gptman::GPT::new_from(&mut cursor, 512, [9; 16]).unwrap();
    theirs[1] = gptman::GPTPartitionEntry {
        partition_type_guid: Guid::ESP.0,
        unique_partition_guid: [3; 16],
        starting_lba: 2048,
        ending_lba: 4000,
        attribute_bits: 4,
        partition_name: "boot".into(),
    };
    theirs.write_into(&mut cursor).unwrap();
    let bytes = cursor.into_inner();
    let ours = Gpt::parse_primary(&bytes, 512).unwrap();
    let (number, entry) = ours.used().next().unwrap();
    assert_eq!((number, entry.name().as_str(), entry.attributes), (1, "boot", 4));
    assert_eq!(Gpt::parse_backup(&bytes[9 * MIB..], 20480, 512).unwrap(), ours);
}

#[test]
fn a_moved_backup_lies_at_the_end_and_the_usable_range_grows() {
    let mut gpt = example(512, 20480);
    gpt.move_backup(40960).unwrap();
    assert_eq!((gpt.backup_lba, gpt.last_usable), (40959, 40960 - 34));
    assert_eq!(gpt.move_backup(8192 + 32), Err(GptError::DiskTooSmall { sectors: 8224, needed: 8192 + 33 }));
    gpt.move_backup(8192 + 33).unwrap();
}

#[test]
fn room_at_the_end_is_aligned_and_never_overlaps() {
    let gpt = example(512, 40960);
    assert_eq!(gpt.room_at_end(16384, 2048).unwrap(), 22528..=40926);
    assert_eq!(gpt.room_at_end(32766, 2048), Err(GptError::NoRoom { wanted: 32766, number: 2, last: 8191 }));
    assert!(matches!(gpt.room_at_end(1 << 40, 2048), Err(GptError::NoRoom { number: 0, .. })));
}

#[test]
fn partitions_that_overlap_or_leave_the_disk_are_refused() {
    let mut gpt = example(512, 20480);
    let entry = |sectors| Entry::new(Guid::LINUX_DATA, Guid([5; 16]), sectors, "x");
    assert_eq!(gpt.add(entry(8191..=9000)), Err(GptError::Overlap { one: 3, other: 2 }));
    assert!(matches!(gpt.add(entry(9000..=20479)), Err(GptError::Outside { .. })));
    assert!(matches!(gpt.add(entry(33..=34)), Err(GptError::Outside { .. })));
    #[expect(clippy::reversed_empty_ranges, reason = "an entry that ends before it starts is the input under test")]
    let reversed = gpt.add(entry(9001..=9000));
    assert!(matches!(reversed, Err(GptError::Outside { .. })));
}

#[test]
fn every_flipped_bit_of_header_and_entries_is_noticed() {
    let bytes = disk(&example(512, 20480));
    for at in (512..512 + 92).chain(1024..1024 + 256) {
        let mut broken = bytes[..MIB].to_vec();
        broken[at] ^= 0x10;
        assert!(Gpt::parse_primary(&broken, 512).is_err(), "flip at {at}");
    }
}

#[test]
fn a_header_without_its_entries_is_refused() {
    let bytes = disk(&example(512, 20480));
    assert!(matches!(Gpt::parse_primary(&bytes[..2048], 512), Err(GptError::OutOfReach { .. })));
    assert!(matches!(Gpt::parse_primary(&bytes[..512], 512), Err(GptError::OutOfReach { .. })));
    assert_eq!(Gpt::parse_primary(&bytes, 4096), Err(GptError::NoHeader));
    assert!(matches!(Gpt::parse_backup(&bytes[bytes.len() - 512..], 20480, 512), Err(GptError::OutOfReach { .. })));
}

#[test]
fn guids_are_shown_and_read_as_everybody_writes_them() {
    assert_eq!(Guid::ESP.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    assert_eq!("C12A7328-F81F-11D2-BA4B-00A0C93EC93B".parse(), Ok(Guid::ESP));
    assert_eq!("0fc63daf-8483-4772-8e79-3d69d8477de4".parse(), Ok(Guid::LINUX_DATA));
    assert_eq!("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7".parse(), Ok(Guid::BASIC_DATA));
    assert!("c12a7328xf81f-11d2-ba4b-00a0c93ec93b".parse::<Guid>().is_err());
    assert!("é2a7328-f81f-11d2-ba4b-00a0c93ec93b".parse::<Guid>().is_err());
}

#[test]
fn the_protective_entry_follows_the_disk_unless_the_table_is_hybrid() {
    let mut mbr = Mbr::protective(1000);
    assert_eq!((mbr.entries[0].kind, mbr.entries[0].sectors), (PROTECTIVE, 999));
    mbr.fit_protective(1 << 40);
    assert_eq!(mbr.entries[0].sectors, u32::MAX);
    mbr.fit_protective(1000);
    mbr.add(FAT32_LBA, 5000..6000).unwrap();
    mbr.fit_protective(1 << 20);
    assert_eq!(mbr.entries[0].sectors, 999);
}

#[test]
fn dos_tables_hold_four_partitions_below_2_tib() {
    let mut mbr = Mbr::default();
    for i in 1..=4_u64 {
        assert_eq!(mbr.add(FAT32_LBA, i * 100..i * 100 + 50), Ok(i as usize));
    }
    assert_eq!(mbr.add(FAT32_LBA, 900..901), Err(MbrError::Full));
    assert_eq!(mbr.add(FAT32_LBA, 120..121), Err(MbrError::Overlap(1)));
    assert_eq!(mbr.add(FAT32_LBA, 5..5), Err(MbrError::Range { start: 5, end: 5 }));
    let end = (1 << 32) + 1;
    assert_eq!(mbr.add(FAT32_LBA, end - 10..end), Err(MbrError::Range { start: end - 10, end }));
}

#[test]
fn boot_code_survives_an_edit_of_the_table() {
    let mut sector = vec![0x90; 512];
    Mbr { signature: 0xdead_beef, ..Mbr::protective(77) }.write(&mut sector).unwrap();
    assert!(sector[..440].iter().all(|&byte| byte == 0x90));
    assert_eq!(Mbr::parse(&sector).unwrap().signature, 0xdead_beef);
    assert_eq!(Mbr::parse(&sector[..511]), Err(MbrError::NoTable));
}

prop_compose! {
    fn any_gpt()(
        large in any::<bool>(),
        guid in any::<[u8; 16]>(),
        cuts in prop::collection::btree_set(2100_u64..200_000, 0..40),
        ids in prop::collection::vec((1_u8.., any::<[u8; 16]>(), any::<u64>(), "\\PC{0,40}"), 20),
    ) -> Gpt {
        let mut gpt = Gpt::new(Guid(guid), if large { 4096 } else { 512 }, 300_000).unwrap();
        let cuts: Vec<_> = cuts.into_iter().collect();
        for (pair, (kind, id, attributes, name)) in cuts.chunks_exact(2).zip(ids) {
            let mut entry = Entry::new(Guid([kind; 16]), Guid(id), pair[0]..=pair[1], &name);
            entry.attributes = attributes;
            gpt.add(entry).unwrap();
        }
        gpt
    }
}

proptest! {
    #[test]
    fn what_is_serialised_is_parsed_again(gpt in any_gpt()) {
        let (mut head, mut tail) = (vec![0; MIB], vec![0; MIB]);
        gpt.write_primary(&mut head).unwrap();
        gpt.write_backup(&mut tail).unwrap();
        prop_assert_eq!(&Gpt::parse_primary(&head, gpt.sector_size).unwrap(), &gpt);
        prop_assert_eq!(&Gpt::parse_backup(&tail, gpt.disk_sectors(), gpt.sector_size).unwrap(), &gpt);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096), sectors: u64, shift in 0_u32..20) {
        let _ = Gpt::parse_primary(&bytes, 1 << shift);
        let _ = Gpt::parse_backup(&bytes, sectors, 1 << shift);
        let _ = Mbr::parse(&bytes);
    }

    /// Random fields behind correct checksums: what a hostile image would send.
    #[test]
    fn hostile_headers_with_right_checksums_never_panic(
        fields in prop::collection::vec((prop::sample::select(vec![12_usize, 24, 32, 40, 48, 72, 80, 84]), prop_oneof![
            any::<u64>(), 0_u64..200, Just(u64::MAX)]), 1..4),
        target in 1_u64..100_000,
    ) {
        let bytes = disk(&example(512, 20480));
        for at in [512, bytes.len() - 512] {
            let mut bytes = bytes.clone();
            let header = &mut bytes[at..at + 512];
            for (offset, value) in &fields {
                let width = if matches!(offset, 12 | 80 | 84) { 4 } else { 8 };
                header[*offset..*offset + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            header[16..20].fill(0);
            let len = (u32_at(header, 12) as usize).min(512);
            let crc = crc32fast::hash(&header[..len]);
            header[16..20].copy_from_slice(&crc.to_le_bytes());
            let parsed = [Gpt::parse_primary(&bytes[..MIB], 512), Gpt::parse_backup(&bytes[9 * MIB..], 20480, 512)];
            for mut gpt in parsed.into_iter().flatten() {
                let _ = gpt.move_backup(target);
                let _ = gpt.room_at_end(2048, 2048);
                let _ = gpt.write_primary(&mut vec![0; MIB]);
                let _ = gpt.write_backup(&mut vec![0; MIB]);
            }
        }
    }
}
