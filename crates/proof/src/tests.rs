#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

mod metadata;

const SIZE: u64 = 300 * BLOCK + 512;
const PARTITIONS: [Range<u64>; 2] = [BLOCK..150 * BLOCK, 200 * BLOCK..SIZE];
const SEED: u64 = 11;

/// A disk in memory with what a device may do wrong.
struct Disk {
    bytes: Vec<u8>,
    /// What reads return until the cache is emptied.
    cached: Option<Vec<u8>>,
    takes_writes: bool,
    keeps_writes: bool,
    unreadable: Vec<std::ops::Range<u64>>,
    /// What reading these says.
    errno: i32,
    /// What takes no writes.
    unwritable: Vec<std::ops::Range<u64>>,
    /// Reads until the device is gone from the bus.
    reads: Option<u32>,
    flushes: bool,
}

impl Disk {
    /// A disk full of a tenant's data.
    fn used() -> Self {
        let mut bytes = vec![b'A'; usize::try_from(SIZE).unwrap()];
        bytes.iter_mut().step_by(4096).zip((0_u8..=255).cycle()).for_each(|(byte, number)| *byte = number);
        Self {
            bytes,
            cached: None,
            takes_writes: true,
            keeps_writes: true,
            unreadable: Vec::new(),
            errno: GONE[0],
            unwritable: Vec::new(),
            reads: None,
            flushes: true,
        }
    }

    fn fill(&mut self, range: std::ops::Range<u64>, byte: u8) {
        self.bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].fill(byte);
    }

    fn scramble(&mut self) {
        let mut random = places::Random::new(99);
        let other: Vec<u8> = (0..8192).flat_map(|_| random.next().to_le_bytes()).collect();
        self.bytes.chunks_mut(other.len()).for_each(|chunk| chunk.copy_from_slice(&other[..chunk.len()]));
    }
}

impl Medium for Disk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn sector(&self) -> u64 {
        512
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(512) && buffer.len().is_multiple_of(512), "a direct read is of whole sectors");
        let end = offset + buffer.len() as u64;
        let gone = self.reads.as_mut().is_some_and(|left| {
            *left = left.saturating_sub(1);
            *left == 0
        });
        if gone || self.unreadable.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(io::Error::from_raw_os_error(self.errno));
        }
        let bytes = self.cached.as_ref().unwrap_or(&self.bytes);
        buffer.copy_from_slice(&bytes[usize::try_from(offset).unwrap()..usize::try_from(end).unwrap()]);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.cached = None;
        if self.flushes { Ok(()) } else { Err(io::Error::other("no such command")) }
    }
}

impl MarkedMedium for Disk {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if !self.takes_writes || self.unwritable.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(io::Error::other("sanitize in progress"));
        }
        if self.keeps_writes {
            let offset = usize::try_from(offset).unwrap();
            self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }
}

fn extent(percent: u8) -> Extent {
    Extent { seed: SEED, percent, least: 64 }
}

/// Marks a used disk, lets `erase` do its work, and looks.
fn proven(look: Look, erase: impl FnOnce(&mut Disk)) -> Result<Reading, NotProven> {
    let mut disk = Disk::used();
    let before = plant(&mut disk, &PARTITIONS, extent(1)).unwrap();
    erase(&mut disk);
    check(&mut disk, &before, look, &mut |_| true)
}

#[test]
fn an_erased_disk_is_proven_and_the_reading_says_what_was_looked_at() {
    let reading = proven(Look::Zeros, |disk| disk.fill(0..SIZE, 0)).unwrap();
    assert_eq!((reading.blocks, reading.percent, reading.unreadable), (64, 1, 0));
    assert!(reading.marks >= 34, "first, last, partitions and those that are spread: {}", reading.marks);
    assert_eq!((reading.found.as_str(), reading.seed.as_str()), ("zeros", "000000000000000b"));
    let reading = proven(Look::Pattern, |disk| disk.fill(0..SIZE, 0xff)).unwrap();
    assert_eq!(reading.found, "ones");
    let reading = proven(Look::Pattern, |disk| disk.fill(0..SIZE, 0xa5)).unwrap();
    assert_eq!(reading.found, "the pattern a5a5a5a5a5a5a5a5 everywhere");
    let reading = proven(Look::Changed, Disk::scramble).unwrap();
    assert_eq!(reading.found, "other bytes than before");
}

#[test]
fn a_device_that_does_nothing_is_found_out_whatever_its_method_leaves() {
    for look in [Look::Zeros, Look::Pattern, Look::Changed] {
        let error = proven(look, |_| ()).unwrap_err();
        assert!(matches!(error, NotProven::Mark { lba: 0, .. }), "{error}");
    }
}

#[test]
fn one_sector_of_one_mark_is_enough() {
    let places = places::marks(SEED, SIZE, 512, MARK, &PARTITIONS.map(|part| part.start), SPREAD_MARKS);
    // Every ninth of them: a look at 300 MiB takes its time.
    for place in places.into_iter().step_by(9) {
        let kept = place + 3 * 512;
        let error = proven(Look::Changed, |disk| {
            let saved = disk.bytes[usize::try_from(kept).unwrap()..][..512].to_vec();
            disk.scramble();
            disk.write(kept, &saved).unwrap();
        });
        assert!(matches!(error, Err(NotProven::Mark { lba, .. }) if lba == kept / 512), "{error:?}");
    }
}

#[test]
fn partitions_are_marked_at_their_starts() {
    for start in PARTITIONS.map(|part| part.start) {
        let error = proven(Look::Changed, |disk| {
            let saved = disk.bytes[usize::try_from(start).unwrap()..][..512].to_vec();
            disk.scramble();
            disk.write(start, &saved).unwrap();
        });
        assert!(matches!(error, Err(NotProven::Mark { lba, .. }) if lba == start / 512), "{error:?}");
    }
}

#[test]
fn a_stretch_that_was_left_out_is_found_by_its_address() {
    // Marks are gone all over the disk, as a device that knows where they are would do it.
    let error = proven(Look::Zeros, |disk| {
        disk.fill(0..SIZE, 0);
        disk.fill(100 * BLOCK..110 * BLOCK, b'A');
    });
    let Err(NotProven::Pattern { lba, found, expected }) = error else { panic!("{error:?}") };
    assert!((100 * BLOCK / 512..110 * BLOCK / 512).contains(&lba), "{lba}");
    assert_eq!((found.as_str(), expected.as_str()), ("4141414141414141", "zeros"));
}

#[test]
fn all_blocks_are_read_when_that_is_wanted() {
    let mut disk = Disk::used();
    let before = plant(&mut disk, &PARTITIONS, extent(100)).unwrap();
    disk.fill(0..SIZE, 0);
    let mut told = Vec::new();
    let reading = check(&mut disk, &before, Look::Zeros, &mut |bytes| {
        told.push(bytes);
        true
    });
    let reading = reading.unwrap();
    // The last one is smaller than what is compared.
    assert_eq!((reading.blocks, reading.compared), (301, 300));
    assert_eq!(told.last(), Some(&SIZE));
    // One byte somewhere, which a sample may miss.
    disk.bytes[usize::try_from(123 * BLOCK + 77_777).unwrap()] = 1;
    let error = check(&mut disk, &before, Look::Zeros, &mut |_| true).unwrap_err();
    assert!(matches!(error, NotProven::Pattern { lba, .. } if lba == (123 * BLOCK + 77_777) / 512), "{error}");
}

#[test]
fn what_only_the_devices_cache_says_counts_for_nothing() {
    let error = proven(Look::Zeros, |disk| disk.cached = Some(vec![0; disk.bytes.len()])).unwrap_err();
    assert!(matches!(error, NotProven::Mark { .. }), "{error}");
    let error = proven(Look::Zeros, |disk| {
        disk.fill(0..SIZE, 0);
        disk.flushes = false;
    });
    assert!(matches!(error, Err(NotProven::Flush(_))), "{error:?}");
}

#[test]
fn a_device_that_loses_writes_is_found_before_the_erase() {
    let mut disk = Disk { keeps_writes: false, ..Disk::used() };
    let error = plant(&mut disk, &PARTITIONS, extent(1)).unwrap_err();
    assert!(matches!(error, NotProven::LosesWrites { lba: 0 }), "{error}");
}

#[test]
fn a_device_that_takes_no_writes_is_proven_by_what_it_holds_or_not_at_all() {
    let mut disk = Disk { takes_writes: false, ..Disk::used() };
    let before = plant(&mut disk, &PARTITIONS, extent(1)).unwrap();
    let error = check(&mut disk, &before, Look::Changed, &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("sanitize in progress") && error.to_string().contains("again"), "{error}");
    // It did nothing; a repeated pattern of a tenant is no erase.
    disk.bytes.fill(b'A');
    let before = plant(&mut disk, &PARTITIONS, extent(1)).unwrap();
    let error = check(&mut disk, &before, Look::Pattern, &mut |_| true).unwrap_err();
    assert!(matches!(&error, NotProven::Unchanged { found, .. } if found.starts_with("4141")), "{error}");
    disk.fill(0..SIZE, 0);
    let reading = check(&mut disk, &before, Look::Pattern, &mut |_| true).unwrap();
    assert_eq!(reading.marks, 0);
    assert!(reading.unmarked.unwrap().contains("LBA 0 takes no writes"));
}

#[test]
fn a_device_that_gives_nothing_before_its_erase_is_not_asked_for_everything() {
    let whole = 0..SIZE;
    let mut disk = Disk { takes_writes: false, unreadable: vec![whole.clone()], reads: Some(1000), ..Disk::used() };
    let before = plant(&mut disk, &PARTITIONS, extent(100)).unwrap();
    assert_eq!(disk.reads, Some(1000 - UNREAD as u32));
    disk.unreadable.clear();
    disk.fill(whole, 0);
    let reading = check(&mut disk, &before, Look::Zeros, &mut |_| true).unwrap();
    assert_eq!((reading.blocks, reading.compared), (301, 0));
}

#[test]
fn blocks_that_are_what_they_were_are_no_crypto_erase() {
    let error = proven(Look::Changed, |disk| {
        let old = Disk::used().bytes;
        disk.scramble();
        let from = usize::try_from(50 * BLOCK).unwrap();
        let to = usize::try_from(70 * BLOCK).unwrap();
        disk.bytes[from..to].copy_from_slice(&old[from..to]);
    });
    let lba = 50 * BLOCK / 512..70 * BLOCK / 512;
    assert!(matches!(&error, Err(NotProven::Unchanged { lba: found, .. }) if lba.contains(found)), "{error:?}");
}

#[test]
fn unreadable_blocks_are_counted_after_a_crypto_erase_and_fail_any_other() {
    let third = 100 * BLOCK..200 * BLOCK;
    let reading = proven(Look::Changed, |disk| {
        disk.scramble();
        disk.unreadable.push(third.clone());
    });
    assert!(reading.unwrap().unreadable > 20);
    let error = proven(Look::Zeros, |disk| {
        disk.fill(0..SIZE, 0);
        disk.unreadable.push(third);
    });
    assert!(matches!(error, Err(NotProven::Read { .. })), "{error:?}");
    let error = proven(Look::Changed, |disk| disk.unreadable.push(0..SIZE)).unwrap_err();
    assert!(matches!(error, NotProven::Unreadable { blocks: 64, .. }), "{error}");
}

#[test]
fn an_error_that_is_not_of_the_medium_is_no_erased_block() {
    const EIO: i32 = 5;
    let third = 100 * BLOCK..200 * BLOCK;
    let error = proven(Look::Changed, |disk| {
        disk.scramble();
        disk.unreadable.push(third);
        disk.errno = EIO;
    });
    assert!(matches!(&error, Err(NotProven::Read { source, .. }) if source.raw_os_error() == Some(EIO)), "{error:?}");
}

#[test]
fn a_device_that_gives_nothing_any_more_in_the_middle_is_not_proven() {
    // Whatever it says of it: the first mark was read, and what follows is not there.
    for (reads, errno) in [(2, GONE[0]), (20, GONE[1]), (60, GONE[0])] {
        let error = proven(Look::Changed, |disk| {
            disk.scramble();
            (disk.reads, disk.errno) = (Some(reads), errno);
        });
        assert!(matches!(error, Err(NotProven::Read { .. })), "{reads}: {error:?}");
    }
}

#[test]
fn a_few_places_without_marks_are_told_and_many_are_no_proof() {
    let marked = |bad: std::ops::Range<u64>| {
        let mut disk = Disk { unwritable: vec![bad], ..Disk::used() };
        let before = plant(&mut disk, &PARTITIONS, extent(1)).unwrap();
        disk.scramble();
        check(&mut disk, &before, Look::Changed, &mut |_| true)
    };
    let reading = marked(0..512).unwrap();
    assert!(reading.marks >= 33 && reading.unmarked.unwrap().starts_with("LBA 0 takes no writes"));
    // The mark at LBA 0 alone says nothing of the rest.
    let error = marked(4096..SIZE);
    assert!(matches!(error, Err(NotProven::NoMarks { marks: 1, .. })), "{error:?}");
    let error = marked(100 * BLOCK..200 * BLOCK);
    assert!(matches!(error, Err(NotProven::NoMarks { .. })), "{error:?}");
}

#[test]
fn a_disk_of_another_size_is_not_proven_and_a_reading_stops_on_request() {
    let error = proven(Look::Zeros, |disk| disk.bytes = vec![0; 1 << 20]).unwrap_err();
    assert!(matches!(error, NotProven::Size { .. }), "{error}");
    let mut disk = Disk::used();
    let before = plant(&mut disk, &PARTITIONS, extent(1)).unwrap();
    disk.fill(0..SIZE, 0);
    let mut calls = 0;
    let stopped = check(&mut disk, &before, Look::Zeros, &mut |_| {
        calls += 1;
        false
    });
    assert!(matches!(stopped, Err(NotProven::Stopped)));
    assert_eq!(calls, 1);
}

#[test]
fn the_smallest_disks_are_looked_at_too() {
    for sectors in [1_u64, 7, 8, 9, 2048] {
        let mut disk = Disk { bytes: vec![b'x'; usize::try_from(sectors * 512).unwrap()], ..Disk::used() };
        let before = plant(&mut disk, &[], extent(1)).unwrap();
        assert!(check(&mut disk, &before, Look::Zeros, &mut |_| true).is_err());
        let size = disk.size();
        disk.fill(0..size, 0);
        assert_eq!(check(&mut disk, &before, Look::Zeros, &mut |_| true).unwrap().blocks, 1);
    }
}

#[test]
fn a_mark_that_cannot_be_read_back_is_no_reason_not_to_erase_and_counts_afterwards() {
    let worn = 0..512;
    for (look, is_proven) in [(Look::Zeros, false), (Look::Changed, true)] {
        let mut disk = Disk { unreadable: vec![worn.clone()], ..Disk::used() };
        let before = plant(&mut disk, &PARTITIONS, extent(1)).unwrap();
        if look == Look::Zeros {
            disk.fill(0..SIZE, 0)
        } else {
            disk.scramble()
        }
        let checked = check(&mut disk, &before, look, &mut |_| true);
        assert_eq!(checked.is_ok(), is_proven, "{checked:?}");
        if let Ok(reading) = checked {
            assert!(reading.unmarked.unwrap().starts_with("LBA 0 cannot be read"));
            assert!(reading.unreadable > 0);
        }
    }
}

#[test]
fn another_way_to_the_same_disk_shows_all_of_its_marks() {
    let mut disk = Disk::used();
    let before = plant(&mut disk, &PARTITIONS, extent(1)).unwrap();
    let mut same = Disk { bytes: disk.bytes.clone(), ..Disk::used() };
    assert!(before.is_seen_on(&mut same));
    same.bytes[0] ^= 1;
    assert!(!before.is_seen_on(&mut same));
    assert!(!before.is_seen_on(&mut Disk::used()));
    // Without a mark there is nothing to know it by.
    let mut silent = Disk { takes_writes: false, ..Disk::used() };
    let before = plant(&mut silent, &PARTITIONS, extent(1)).unwrap();
    assert!(!before.is_seen_on(&mut silent));
}
