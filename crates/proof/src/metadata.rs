//! Whether the metadata of a disk are erased: what makes it look used, and nothing of the rest.
//!
//! What is read is fixed by the size of the disk and its partitions: the first and the last MiB of each, where partition tables and
//! nearly all superblocks and labels are, and the blocks further in where some formats keep one. All of it has to be zeros
//! afterwards. A place that holds something before is a witness of its own: it has to be gone. A place that holds nothing
//! gets a mark. So nothing is lost before the eraser has its turn, and a power cut in between leaves a disk whose
//! tables still say where the rest is.

use crate::{BLOCK, Before, Extent, NotProven, PLACES_FOR_A_REFUSAL, UNREAD, mark_length, places};
use hardware::medium::MarkedMedium;
use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes at each end of an area. The labels that lie furthest from an end are those of ZFS: the last two of 256 KiB each, from the
/// last multiple of that on (OpenZFS, `module/zfs/vdev_label.c`).
const END: u64 = 1 << 20;
/// Where superblocks lie further in: the second header of LUKS2 (cryptsetup, "LUKS2 On-Disk Format Specification", 2.2) and VMFS from
/// 1 to 4 MiB, the copies of btrfs at 64 MiB and 256 GiB (kernel, `fs/btrfs/disk-io.h`, `btrfs_sb_offset`).
const FURTHER_IN: [u64; 5] = [1 << 20, 2 << 20, 4 << 20, 64 << 20, 256 << 30];

/// What is read of a disk whose metadata are erased.
#[derive(Debug)]
pub(crate) struct Places {
    /// In ascending order, apart from each other, none larger than a block.
    pub(crate) pieces: Vec<Range<u64>>,
    /// The same for a reader.
    pub(crate) words: String,
    /// Places that held something before.
    pub(crate) held: u64,
}

impl Places {
    fn of(size: u64, unit: u64, partitions: &[Range<u64>]) -> Self {
        let areas = areas(size, partitions);
        let further =
            |area: &Range<u64>| FURTHER_IN.into_iter().filter(|at| area.end - area.start >= at + unit).count();
        let further: usize = areas.iter().map(further).sum();
        let partitions = match areas.len() - 1 {
            0 => String::new(),
            1 => " and of its partition".to_owned(),
            count => format!(" and of its {count} partitions"),
        };
        let words = format!(
            "the first and the last MiB of the disk{partitions}, and {further} places further in where superblocks may be"
        );
        let mut pieces = Vec::new();
        for range in regions(&areas, size, unit) {
            let starts = range.clone().step_by(usize::try_from(BLOCK).unwrap_or(usize::MAX));
            pieces.extend(starts.map(|start| start..(start + BLOCK).min(range.end)));
        }
        Self { pieces, words, held: 0 }
    }

    /// Bytes of all of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.end - piece.start).sum()
    }
}

/// The disk, and its partitions as far as they lie inside.
fn areas(size: u64, partitions: &[Range<u64>]) -> Vec<Range<u64>> {
    let inside = partitions.iter().map(|part| part.start..part.end.min(size)).filter(|part| part.start < part.end);
    std::iter::once(0..size).chain(inside).collect()
}

/// What has to be zeros, in whole units, in ascending order; nothing twice.
fn regions(areas: &[Range<u64>], size: u64, unit: u64) -> Vec<Range<u64>> {
    let mut wanted = Vec::new();
    for area in areas {
        let end = END.min(area.end - area.start);
        wanted.extend([area.start..area.start + end, area.end - end..area.end]);
        let further = FURTHER_IN.into_iter().map(|at| area.start.saturating_add(at));
        wanted.extend(further.filter(|at| at.saturating_add(unit) <= area.end).map(|at| at..at + unit));
    }
    let whole = |range: Range<u64>| range.start - range.start % unit..range.end.next_multiple_of(unit).min(size);
    let mut wanted: Vec<Range<u64>> = wanted.into_iter().map(whole).collect();
    wanted.sort_by_key(|range| range.start);
    let mut apart: Vec<Range<u64>> = Vec::new();
    for range in wanted {
        match apart.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => apart.push(range),
        }
    }
    apart
}

/// Where it is looked before: both ends of each area, to the sector, the places further in, and a place in each end that the seed
/// chooses. None overlaps another.
fn spots(seed: u64, areas: &[Range<u64>], size: u64, sector: u64, unit: u64) -> BTreeSet<u64> {
    let mut random = places::Random::new(seed);
    let (mut wanted, mut chosen) = (Vec::new(), Vec::new());
    for Range { start, end } in areas.iter().cloned() {
        if end - start < unit {
            wanted.push(start - start % unit);
            continue;
        }
        wanted.extend([start, end - unit]);
        wanted.extend(
            FURTHER_IN.into_iter().map(|at| start.saturating_add(at)).filter(|at| at.saturating_add(unit) <= end),
        );
        let room = END.min(end - start) - unit + 1;
        let near = |distance: u64| distance - distance % sector;
        chosen.extend([start + near(random.below(room)), end - unit - near(random.below(room))]);
    }
    let mut spots = BTreeSet::new();
    for at in wanted.into_iter().chain(chosen).filter(|at| at.saturating_add(unit) <= size) {
        if spots.range((at + 1).saturating_sub(unit)..at + unit).next().is_none() {
            spots.insert(at);
        }
    }
    spots
}

/// Looks at the places that count before the metadata of a disk are erased, and writes marks where they hold nothing.
/// [`crate::check`] with [`hardware::Look::Zeros`] then reads all of them.
///
/// # Errors
/// [`NotProven::LosesWrites`] and [`NotProven::Flush`].
pub fn plant_metadata(disk: &mut dyn MarkedMedium, partitions: &[Range<u64>], seed: u64) -> Result<Before, NotProven> {
    let (size, sector) = (disk.size(), disk.sector().max(1));
    let mut now = vec![0_u8; mark_length(sector)];
    let unit = now.len() as u64;
    let mut places = Places::of(size, unit, partitions);
    let (mut blank, mut unread) = (Vec::new(), 0);
    for at in spots(seed, &areas(size, partitions), size, sector, unit) {
        match disk.read(at, &mut now) {
            Ok(()) if now.iter().any(|byte| *byte != 0) => places.held += 1,
            Ok(()) => blank.push(at),
            // What cannot be read may be once it is written.
            Err(_) => {
                blank.push(at);
                unread += 1;
            }
        }
        if unread == UNREAD && blank.len() == unread && places.held == 0 {
            break;
        }
    }
    let extent = Extent { seed, percent: 0, least: 0 };
    let mut before = Before::new(extent, size, sector);
    before.places = Some(places);
    before.mark(disk, &blank, blank.len() / PLACES_FOR_A_REFUSAL)?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn both_ends_of_the_disk_and_of_every_partition_are_read_and_what_lies_further_in() {
        let places = Places::of(1000 * MIB, 4096, &[100 * MIB..300 * MIB, 400 * MIB..400 * MIB + 1024]);
        let further = |base: u64| [2, 4, 64].map(|at| (base + at) * MIB..(base + at) * MIB + 4096);
        let (disk, part) = (further(0), further(100));
        let wanted = [
            // The place at 1 MiB touches the end of the first one.
            0..MIB + 4096,
            disk[0].clone(),
            disk[1].clone(),
            disk[2].clone(),
            100 * MIB..101 * MIB + 4096,
            part[0].clone(),
            part[1].clone(),
            part[2].clone(),
            299 * MIB..300 * MIB,
            400 * MIB..400 * MIB + 4096,
            999 * MIB..1000 * MIB,
        ];
        assert_eq!(
            regions(&areas(1000 * MIB, &[100 * MIB..300 * MIB, 400 * MIB..400 * MIB + 1024]), 1000 * MIB, 4096),
            wanted
        );
        assert_eq!(places.bytes(), wanted.iter().map(|range| range.end - range.start).sum::<u64>());
        assert_eq!(
            places.words,
            "the first and the last MiB of the disk and of its 2 partitions, and 8 places further in where superblocks may be"
        );
    }

    #[test]
    fn a_partition_that_claims_more_than_there_is_is_read_as_far_as_there_is_a_disk() {
        assert_eq!(areas(10, &[4..20, 10..12, 3..3]), [0..10, 4..10]);
    }

    proptest! {
        #[test]
        fn all_that_is_looked_at_before_is_read_afterwards(
            seed: u64, sectors in 0_u64..1 << 32, four in any::<bool>(),
            partitions in prop::collection::vec((0_u64..1 << 32, 0_u64..1 << 32), 0..5)
        ) {
            let sector = if four { 4096 } else { 512 };
            let size = sectors * sector;
            let partitions: Vec<Range<u64>> =
                partitions.into_iter().map(|(start, length)| start * sector..(start + length) * sector).collect();
            let places = Places::of(size, 4096, &partitions);
            let aligned = |at: u64| at == size || at.is_multiple_of(sector);
            prop_assert!(places.pieces.iter().all(|piece| aligned(piece.start) && aligned(piece.end) && piece.end <= size));
            prop_assert!(places.pieces.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let spots: Vec<u64> = spots(seed, &areas(size, &partitions), size, sector, 4096).into_iter().collect();
            prop_assert!(spots.windows(2).all(|pair| pair[0] + 4096 <= pair[1]));
            if size >= 4096 {
                // To the last sector, where the backup of a GPT is.
                prop_assert_eq!((spots.first(), spots.last().map(|last| last + 4096)), (Some(&0), Some(size)));
            }
            for spot in spots {
                let read: u64 = places.pieces.iter()
                    .map(|piece| piece.end.min(spot + 4096).saturating_sub(piece.start.max(spot))).sum();
                prop_assert_eq!((spot % sector, read), (0, 4096));
            }
        }
    }
}
