//! Where marks are written and which blocks are read: all of it follows from a seed and the size of the disk, so that whoever has
//! the record of an erasure can say which places were looked at.

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014): not for secrets. A seed that nobody
/// knows before the marks are written is what makes them unpredictable.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// Bytes of the mark at `offset`.
pub(crate) fn mark(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed ^ Random::new(offset).next());
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Offsets of marks of `length` bytes: the first and the last place, the start of every partition, and `count` that are spread
/// over the disk, one in each of as many equal parts. In ascending order; none overlaps another.
pub(crate) fn marks(seed: u64, size: u64, sector: u64, length: u64, partitions: &[u64], count: u64) -> Vec<u64> {
    let Some(last) = size.checked_sub(length).map(|last| last - last % sector) else { return Vec::new() };
    let mut random = Random::new(seed);
    let spread = (0..count).map(|part| {
        let (start, end) = (share(last, part, count), share(last, part + 1, count));
        let offset = start + random.below(end - start);
        offset - offset % sector
    });
    let starts = partitions.iter().filter(|start| **start <= last).map(|start| start - start % sector);
    let mut taken: Vec<u64> = Vec::new();
    for offset in [0, last].into_iter().chain(starts).chain(spread) {
        if taken.iter().all(|other| offset.abs_diff(*other) >= length) {
            taken.push(offset);
        }
    }
    taken.sort_unstable();
    taken
}

/// Numbers of the blocks that are read, of `total`: `percent` of them and at least `least`, one in each of as many equal parts,
/// so that no stretch of two parts goes without. Ascending.
pub(crate) fn samples(seed: u64, total: u64, percent: u8, least: u64) -> impl Iterator<Item = u64> {
    let count = sample_count(total, percent, least);
    // The marks' places are of the same seed.
    let mut random = Random::new(!seed);
    (0..count).map(move |part| {
        let (start, end) = (share(total, part, count), share(total, part + 1, count));
        start + random.below(end - start)
    })
}

pub(crate) fn sample_count(total: u64, percent: u8, least: u64) -> u64 {
    let wanted = u128::from(total) * u128::from(percent.min(100));
    u64::try_from(wanted.div_ceil(100)).unwrap_or(total).max(least).min(total)
}

/// Where part number `part` of `count` equal parts of `whole` begins.
fn share(whole: u64, part: u64, count: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(part) / u128::from(count.max(1))).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn marks_are_inside_aligned_and_apart(
            seed: u64, sectors in 0_u64..1 << 40, four in any::<bool>(), partitions in prop::collection::vec(any::<u64>(), 0..5)
        ) {
            let sector = if four { 4096 } else { 512 };
            let size = sectors.min(1 << 38) * sector;
            let places = marks(seed, size, sector, 4096, &partitions, 32);
            prop_assert!(places.iter().all(|place| place % sector == 0 && place + 4096 <= size));
            prop_assert!(places.windows(2).all(|pair| pair[0] + 4096 <= pair[1]));
            if size >= 4096 {
                prop_assert_eq!(places.first(), Some(&0));
                prop_assert!(size - places.last().unwrap() < 4096 + sector);
            }
        }

        #[test]
        fn samples_ascend_and_leave_no_long_stretch_out(seed: u64, total in 1_u64..100_000, percent in 0_u8..=100) {
            let count = sample_count(total, percent, 64);
            let places: Vec<u64> = samples(seed, total, percent, 64).collect();
            prop_assert_eq!(places.len() as u64, count);
            prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= 2 * total.div_ceil(count)));
            prop_assert!(places.last().unwrap() < &total);
        }
    }

    #[test]
    fn all_blocks_are_read_at_100_percent_and_a_small_disk_is_read_whole() {
        assert!(samples(7, 1000, 100, 64).eq(0..1000));
        assert!(samples(7, 50, 1, 64).eq(0..50));
        assert_eq!(sample_count(100_000, 1, 64), 1000);
        assert_eq!(sample_count(u64::MAX, 100, 64), u64::MAX);
    }

    #[test]
    fn a_mark_is_told_by_its_seed_and_its_place() {
        let mark_of = |seed, offset| mark(seed, offset, 4096);
        assert_eq!(mark_of(1, 512), mark_of(1, 512));
        assert_ne!(mark_of(1, 512), mark_of(1, 1024));
        assert_ne!(mark_of(1, 512), mark_of(2, 512));
        // The first value of the generator for seed 0, of its authors' own code.
        assert_eq!(Random::new(0).next(), 0xe220_a839_7b1d_cdaf);
    }
}
