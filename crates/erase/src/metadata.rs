//! Erasing what makes a disk look used: partition tables, RAID and volume manager labels, superblocks of file systems.
//!
//! The first and the last MiB of the disk and of each of its partitions are overwritten with zeros, and the blocks further in where
//! some formats keep a copy, whether or not anything is there. Whether it is gone is not found out here.

use crate::{EraseError, Failure, engine};
use hardware::{Device, EraseGrant};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes at both ends of the disk and of a partition.
const EDGE: u64 = 1 << 20;
/// Places of LUKS2, VMFS and btrfs that are not at an edge (libblkid, `libblkid/src/superblocks`): MiB from the start.
const INNER: [u64; 5] = [1, 2, 4, 64, 256 << 10];
/// Bytes of a superblock, and of the largest sector.
const BLOCK: u64 = 4096;
/// Bytes of a write.
const CHUNK: u64 = 256 << 10;

/// Overwrites the metadata of `device` and of its `partitions`. Returns how many bytes that were.
///
/// # Errors
/// Another device than the granted one, one that is read-only, and whatever a write or the flush says.
pub fn erase_metadata(device: &dyn Device, grant: &EraseGrant, partitions: &[Range<u64>]) -> Result<u64, EraseError> {
    engine::is_granted(device, grant)?;
    let failed = |source: Failure| EraseError::Metadata { device: Box::new(device.id().clone()), source };
    let limits = device.limits();
    let ranges = ranges(limits.size, BLOCK.max(limits.logical_block.into()), partitions);
    let zeros = vec![0_u8; CHUNK as usize];
    // The start of the disk goes last, and once the rest is on the medium: if the power fails in between, the rest is still
    // described and is found again.
    for range in ranges.iter().rev() {
        let mut end = range.end;
        while end > range.start {
            let length = CHUNK.min(end - range.start);
            end -= length;
            if end == 0 {
                device.flush().map_err(|error| failed(error.into()))?;
            }
            device.write_at(&zeros[..length as usize], end).map_err(|error| failed(error.into()))?;
        }
    }
    device.flush().map_err(|error| failed(error.into()))?;
    Ok(ranges.iter().map(|range| range.end - range.start).sum())
}

/// What is overwritten of a device of `size` bytes: whole blocks, in order, and none twice.
fn ranges(size: u64, block: u64, partitions: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut starts: BTreeMap<u64, u64> = BTreeMap::new();
    let mut add = |start: u64, end: u64| {
        let (start, end) = (start - start % block, end.next_multiple_of(block).min(size));
        let furthest = starts.entry(start).or_insert(end);
        *furthest = end.max(*furthest);
    };
    // A partition table may claim more than there is.
    let parts = partitions.iter().map(|part| part.start..part.end.min(size)).filter(|part| part.start < part.end);
    for Range { start, end } in std::iter::once(0..size).chain(parts) {
        let edge = EDGE.min(end - start);
        add(start, start + edge);
        add(end - edge, end);
        for place in INNER.map(|mebibytes| start.saturating_add(mebibytes << 20)) {
            if place < end {
                add(place, place.saturating_add(block).min(end));
            }
        }
    }
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(starts.len());
    for (start, end) in starts.into_iter().filter(|(start, end)| start < end) {
        match merged.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => merged.push(start..end),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn ends_and_places_further_in_are_overwritten_and_the_rest_is_not() {
        let blocks = |base: u64, bytes: u64| [2, 4, 64].map(|at| (base + at) * MIB..(base + at) * MIB + bytes);
        let mut wanted = Vec::from_iter(std::iter::once(0..MIB + BLOCK).chain(blocks(0, BLOCK)));
        // A partition that begins and ends in the middle of a block, so that each of its places lies in two of them, and one
        // that claims more than there is.
        wanted.push(100 * MIB..101 * MIB + 2 * BLOCK);
        wanted.extend(blocks(100, 2 * BLOCK));
        wanted.extend([299 * MIB - BLOCK..300 * MIB, 399 * MIB..400 * MIB]);
        let parts = [100 * MIB + 512..300 * MIB - 512, 399 * MIB..500 * MIB, 600 * MIB..700 * MIB];
        assert_eq!(ranges(400 * MIB, BLOCK, &parts), wanted);
    }

    #[test]
    fn a_disk_smaller_than_its_ends_is_overwritten_whole() {
        for size in [512, 4096, 4608, MIB, 2 * MIB] {
            assert!(ranges(size, BLOCK, &[]).into_iter().eq(std::iter::once(0..size)), "{size}");
        }
        assert!(ranges(0, BLOCK, &[]).is_empty());
    }
}
