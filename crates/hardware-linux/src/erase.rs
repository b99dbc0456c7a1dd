//! Erasing what makes a disk look used: partition tables, RAID and volume manager labels, file system signatures.
//!
//! The first and the last MiB of the disk and of each of its partitions are overwritten with zeros, and whatever
//! [`crate::signature`] finds elsewhere. Then all of it is read back from the device.

use crate::block::Partition;
use crate::signature::{self, ReadAt, Signature};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MIB: u64 = 1 << 20;

/// How an erase failed.
#[derive(Debug)]
pub(crate) enum EraseFailure {
    /// Reading failed.
    Read(io::Error),
    /// Writing or flushing failed.
    Write(io::Error),
    /// Everything was written, and the device still returns old data.
    Remains(String),
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Erased {
    /// Signatures that were there, as `kind on area`.
    pub(crate) found: Vec<String>,
    /// How many ranges were overwritten and read back as zeros.
    pub(crate) ranges: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// A part of a device: the whole of it or a partition.
pub(crate) struct Area<'a, D> {
    device: &'a D,
    pub(crate) name: String,
    start: u64,
    pub(crate) size: u64,
}

impl<D: ReadAt> ReadAt for Area<'_, D> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.device.read_exact_at(buffer, self.start + offset)
    }
}

/// The whole of `device`, and those of its `partitions` that lie inside: a partition table may claim more than there is.
pub(crate) fn areas<'a, D>(device: &'a D, name: &str, size: u64, partitions: &[Partition]) -> Vec<Area<'a, D>> {
    let mut areas = vec![Area { device, name: name.to_owned(), start: 0, size }];
    let inside = partitions.iter().filter(|part| part.start.checked_add(part.size).is_some_and(|end| end <= size));
    areas.extend(inside.map(|part| Area { device, name: part.name.clone(), start: part.start, size: part.size }));
    areas
}

/// Clears `device` of `size` bytes and its `partitions`. `settle` has to make the next reads come from the device itself.
pub(crate) fn erase(
    device: &File,
    name: &str,
    size: u64,
    partitions: &[Partition],
    settle: impl Fn(&File) -> io::Result<()>,
) -> Result<Erased, EraseFailure> {
    let areas = areas(device, name, size, partitions);
    let mut erased = Erased { found: Vec::new(), ranges: 0, bytes: 0 };
    let mut ranges = Vec::new();
    for area in &areas {
        let found = signature::find(area, area.size).map_err(EraseFailure::Read)?;
        erased.found.extend(names(area, &found));
        let edge = MIB.min(area.size);
        ranges.push((area.start, area.start + edge));
        ranges.push((area.start + area.size - edge, area.start + area.size));
        ranges.extend(found.iter().map(|one| (area.start + one.offset, area.start + one.offset + one.length)));
    }
    let ranges = merged(ranges);
    // The start of the disk goes last: if the power fails in between, the rest is still described and is found again.
    for &(start, end) in ranges.iter().rev() {
        zero(device, start, end).map_err(EraseFailure::Write)?;
    }
    device.sync_all().map_err(EraseFailure::Write)?;
    settle(device).map_err(EraseFailure::Read)?;

    for &(start, end) in &ranges {
        erased.ranges += 1;
        erased.bytes += end - start;
        if let Some(offset) = first_nonzero(device, start, end).map_err(EraseFailure::Read)? {
            return Err(EraseFailure::Remains(format!("the byte at {offset} is not zero")));
        }
    }
    for area in &areas {
        let left = signature::find(area, area.size).map_err(EraseFailure::Read)?;
        if !left.is_empty() {
            return Err(EraseFailure::Remains(names(area, &left).join(", ")));
        }
    }
    Ok(erased)
}

fn names(area: &Area<'_, File>, found: &[Signature]) -> Vec<String> {
    let mut kinds: Vec<&str> = found.iter().map(|signature| signature.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.into_iter().map(|kind| format!("{kind} on {}", area.name)).collect()
}

/// The same bytes as ranges that neither overlap nor touch, in order.
fn merged(ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut starts: BTreeMap<u64, u64> = BTreeMap::new();
    for (start, end) in ranges.into_iter().filter(|(start, end)| start < end) {
        let furthest = starts.entry(start).or_insert(end);
        *furthest = end.max(*furthest);
    }
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(starts.len());
    for (start, end) in starts {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

fn zero(device: &File, mut start: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0_u8; 256 << 10];
    while start < end {
        let length = usize::try_from(end - start).unwrap_or(usize::MAX).min(zeros.len());
        device.write_all_at(&zeros[..length], start)?;
        start += length as u64;
    }
    Ok(())
}

fn first_nonzero(device: &File, mut start: u64, end: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0_u8; 256 << 10];
    while start < end {
        let length = usize::try_from(end - start).unwrap_or(usize::MAX).min(buffer.len());
        let part = &mut buffer[..length];
        FileExt::read_exact_at(device, part, start)?;
        if let Some(index) = part.iter().position(|&byte| byte != 0) {
            return Ok(Some(start + index as u64));
        }
        start += length as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn used_disk() -> (File, Vec<Partition>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(200 * MIB).unwrap();
        file.write_all_at(b"EFI PART", 512).unwrap();
        file.write_all_at(b"EFI PART", 200 * MIB - 512).unwrap();
        file.write_all_at(b"\x55\xaa", 510).unwrap();
        file.write_all_at(b"\x53\xef", 10 * MIB + 1080).unwrap();
        file.write_all_at(b"_BHRfS_M", 10 * MIB + 64 * MIB + 64).unwrap();
        file.write_all_at(b"keep", 50 * MIB).unwrap();
        let partitions = vec![
            Partition { name: "sda1".into(), start: 10 * MIB, size: 150 * MIB },
            Partition { name: "sda2".into(), start: 190 * MIB, size: 150 * MIB },
        ];
        (file, partitions)
    }

    #[test]
    fn tables_and_signatures_go_and_the_rest_stays() {
        let (file, partitions) = used_disk();
        let settled = Cell::new(false);
        let erased = erase(&file, "sda", 200 * MIB, &partitions, |_| {
            settled.set(true);
            Ok(())
        });
        let erased = erased.unwrap();
        assert_eq!(erased.found, ["dos on sda", "gpt on sda", "btrfs on sda1", "ext on sda1"]);
        assert_eq!((erased.ranges, erased.bytes), (5, 4 * MIB + 8));
        assert!(settled.get());
        assert!(signature::find(&file, 200 * MIB).unwrap().is_empty());
        let mut kept = [0; 4];
        FileExt::read_exact_at(&file, &mut kept, 50 * MIB).unwrap();
        assert_eq!(&kept, b"keep");
    }

    #[test]
    fn a_device_that_keeps_old_data_is_found_out() {
        let (file, partitions) = used_disk();
        let erased = erase(&file, "sda", 200 * MIB, &partitions, |device| device.write_all_at(b"A", 700));
        assert!(matches!(erased, Err(EraseFailure::Remains(found)) if found.contains("700")));
    }

    #[test]
    fn a_device_smaller_than_a_mib_is_cleared_whole() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0xff; 4096], 0).unwrap();
        let erased = erase(&file, "sda", 4096, &[], |_| Ok(())).unwrap();
        assert_eq!((erased.ranges, erased.bytes), (1, 4096));
    }

    #[test]
    fn ranges_that_touch_become_one() {
        assert_eq!(merged(vec![(5, 7), (0, 3), (3, 4), (6, 9), (1, 2), (9, 9)]), [(0, 4), (5, 9)]);
    }
}
