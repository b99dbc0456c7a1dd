//! Erases of metadata.

use super::*;
use crate::metadata::plant_metadata;

/// Two partitions with something at their starts, and nothing anywhere else but a table.
fn partitioned() -> Disk {
    let mut disk = Disk::used();
    disk.fill(0..SIZE, 0);
    disk.fill(510..512, 0xaa);
    for part in PARTITIONS {
        disk.fill(part.start + 1024..part.start + 2048, b'S');
    }
    disk.fill(300 * BLOCK..301 * BLOCK - 512 * 2047, b'Z');
    disk
}

/// What an eraser of metadata does that is none of ours.
fn zero_ends(disk: &mut Disk) {
    for area in std::iter::once(0..SIZE).chain(PARTITIONS) {
        disk.fill(area.start..area.start + BLOCK, 0);
        disk.fill(area.end - BLOCK..area.end, 0);
        for at in [1, 2, 4, 64].map(|at| area.start + at * BLOCK) {
            disk.fill(at..at + MARK, 0);
        }
    }
}

fn proven(mut disk: Disk, erase: impl FnOnce(&mut Disk)) -> Result<Reading, NotProven> {
    let before = plant_metadata(&mut disk, &PARTITIONS, SEED)?;
    erase(&mut disk);
    check(&mut disk, &before, Look::Zeros, &mut |_| true)
}

#[test]
fn what_was_there_is_gone_and_what_is_read_is_told() {
    let mut disk = partitioned();
    disk.fill(50 * BLOCK..60 * BLOCK, b'd');
    let reading = proven(disk, zero_ends).unwrap();
    // The table, the last sector and two superblocks; what holds nothing is marked.
    assert_eq!((reading.compared, reading.percent, reading.block_size), (4, 0, 4096));
    assert!(reading.marks >= 15, "{reading:?}");
    let places = reading.places.unwrap();
    assert!(places.contains("the first and the last MiB of the disk and of its 2 partitions"), "{places}");
}

#[test]
fn marks_go_where_nothing_is_so_that_a_power_cut_leaves_the_tables() {
    let mut disk = partitioned();
    let was = disk.bytes.clone();
    plant_metadata(&mut disk, &PARTITIONS, SEED).unwrap();
    for (block, (now, then)) in disk.bytes.chunks(4096).zip(was.chunks(4096)).enumerate() {
        assert!(now == then || then.iter().all(|byte| *byte == 0), "block {block}");
    }
    assert_ne!(disk.bytes, was);
}

#[test]
fn one_sector_that_was_left_anywhere_among_them_is_found() {
    let mut kept = vec![0, SIZE - 512];
    for part in PARTITIONS {
        kept.extend([part.start, part.start + BLOCK - 512, part.end - BLOCK, part.end - 512, part.start + 64 * BLOCK]);
    }
    for at in kept {
        let error = proven(partitioned(), |disk| {
            zero_ends(disk);
            disk.fill(at + 100..at + 101, 1);
        });
        assert!(matches!(error, Err(NotProven::Pattern { lba, .. }) if lba == at / 512), "{at}: {error:?}");
    }
}

#[test]
fn an_eraser_that_does_nothing_is_found_out_on_a_used_and_on_an_empty_disk() {
    assert!(matches!(proven(Disk::used(), |_| ()), Err(NotProven::Pattern { lba: 0, .. })));
    let mut empty = Disk::used();
    empty.fill(0..SIZE, 0);
    assert!(matches!(proven(empty, |_| ()), Err(NotProven::Mark { lba: 0, .. })));
}

#[test]
fn a_device_that_lies_or_fails_is_not_proven() {
    let lies = Disk { keeps_writes: false, ..partitioned() };
    assert!(matches!(proven(lies, zero_ends), Err(NotProven::LosesWrites { .. })));
    // Its cache says zeros, the medium does not.
    let error = proven(partitioned(), |disk| disk.cached = Some(vec![0; disk.bytes.len()]));
    assert!(matches!(error, Err(NotProven::Mark { .. } | NotProven::Pattern { .. })), "{error:?}");
    let error = proven(partitioned(), |disk| {
        zero_ends(disk);
        disk.flushes = false;
    });
    assert!(matches!(error, Err(NotProven::Flush(_))), "{error:?}");
    let error = proven(partitioned(), |disk| {
        zero_ends(disk);
        disk.bytes.truncate(200 << 20);
    });
    assert!(matches!(error, Err(NotProven::Size { .. })), "{error:?}");
    // A medium error counts as gone nowhere: metadata are overwritten, and have to be readable.
    let bad = PARTITIONS[0].start + 8 * 512;
    let error = proven(partitioned(), |disk| {
        zero_ends(disk);
        disk.unreadable.push(bad..bad + 512);
    });
    assert!(matches!(error, Err(NotProven::Read { .. })), "{error:?}");
}

#[test]
fn a_place_that_takes_no_mark_is_told_and_has_to_be_readable_afterwards() {
    let bad = 2 * BLOCK..2 * BLOCK + 512;
    let disk = Disk { unwritable: vec![bad.clone()], ..partitioned() };
    let reading = proven(disk, zero_ends).unwrap();
    assert_eq!(reading.unmarked.as_deref(), Some("LBA 4096 takes no writes: sanitize in progress"));
    let disk = Disk { unreadable: vec![bad], ..partitioned() };
    assert!(matches!(proven(disk, zero_ends), Err(NotProven::Mark { .. } | NotProven::Read { .. })));
}

#[test]
fn the_smallest_disks_and_those_without_partitions_are_looked_at_too() {
    for sectors in [1_u64, 7, 8, 9, 2048, 5000] {
        let mut disk = Disk { bytes: vec![b'x'; usize::try_from(sectors * 512).unwrap()], ..Disk::used() };
        let before = plant_metadata(&mut disk, &[], SEED).unwrap();
        assert!(check(&mut disk, &before, Look::Zeros, &mut |_| true).is_err(), "{sectors}");
        let size = disk.size();
        disk.fill(0..size, 0);
        assert!(check(&mut disk, &before, Look::Zeros, &mut |_| true).is_ok(), "{sectors}");
    }
}
