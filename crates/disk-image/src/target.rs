//! The disk under construction: what is held back, what was sampled, and whether it could boot.

use crate::buffer::{AlignedBuf, is_zero};
use crate::disk::{self, Disk, DiskError};
use crate::table::{Geometry, ImageError, Table};
use std::fmt;

/// Bytes that are held back at each end: tables, boot code, and every place where RAID and LVM keep signatures.
pub(crate) const HELD: u64 = 1 << 20;
/// How many written blocks are read back.
const SAMPLES: usize = 64;
/// Bytes of the very last block that are read back: a multiple of every sector size.
const LAST: usize = 64 << 10;

/// What an aborted or finished write leaves on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    /// Nothing was written: it is what it was before.
    Untouched,
    /// Both ends are cleared: there is no partition table, no firmware boots it.
    NoTable,
    /// Both ends are cleared but for the table entry of scratch space that is to be preserved: no firmware boots it.
    OnlyEphemeral,
    /// Clearing failed. It may hold anything.
    Unknown,
    /// The whole verified image is there.
    Complete,
}

impl fmt::Display for DiskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "nothing was written to it",
            Self::NoTable => "it is left without a partition table and does not boot",
            Self::OnlyEphemeral => "it is left with its ephemeral partition only and does not boot",
            Self::Unknown => "it could not be cleared, treat what is on it as unverified",
            Self::Complete => "the image is complete",
        })
    }
}

/// A written block, to be compared when everything is done.
#[derive(Debug, Clone, Copy)]
struct Sample {
    offset: u64,
    len: usize,
    crc: u32,
}

/// How much of what was written is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Both ends of the disk, and some dozens of blocks in between.
    #[default]
    Sampled,
    /// Everything. It takes the time of reading as much as the image has, and 24 bytes of memory beside the budget for
    /// each piece that is written: a MiB, or a cluster where clusters lie apart.
    Full,
}

/// Every n-th block, n doubling so that there are never more than [`SAMPLES`]; and the last one. Or all of them.
#[derive(Debug, Default)]
struct Samples {
    all: bool,
    kept: Vec<Sample>,
    last: Option<Sample>,
    every: u64,
    count: u64,
}

impl Samples {
    fn add(&mut self, offset: u64, bytes: &[u8]) {
        let every = self.every.max(1);
        let sample = |start: usize| {
            let bytes = &bytes[start..];
            Sample { offset: offset + start as u64, len: bytes.len(), crc: crc32fast::hash(bytes) }
        };
        if self.count.is_multiple_of(every) {
            self.kept.push(sample(0));
        }
        self.count += 1;
        if !self.all && self.kept.len() > SAMPLES {
            let mut index = 0_usize;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.every = every * 2;
        }
        // Each block is the last one once; of that, its end is enough.
        self.last = Some(sample(bytes.len().saturating_sub(LAST)));
    }
}

/// The disk, and the two MiB of it that reach it last.
pub(crate) struct Target {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) state: DiskState,
    head: AlignedBuf,
    tail: AlignedBuf,
    samples: Samples,
    /// The table that clearing leaves: none, but for scratch space that is to be preserved.
    kept: Option<Table>,
    /// What zeros are written from, once some are: pages that nobody wrote to take no memory.
    zeros: Option<AlignedBuf>,
}

impl Target {
    pub(crate) fn new(disk: Box<dyn Disk>, verify: Verify) -> Self {
        let samples = Samples { all: verify == Verify::Full, ..Samples::default() };
        let held = || AlignedBuf::zeroed(HELD as usize);
        Self { disk, state: DiskState::Untouched, head: held(), tail: held(), samples, kept: None, zeros: None }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry { disk: self.disk.name().to_owned(), size: self.disk.size(), sector: self.disk.sector_size() }
    }

    fn tail_at(&self) -> u64 {
        self.disk.size() - HELD
    }

    /// From now on, clearing leaves this table. It has no partition that could boot.
    pub(crate) fn keep(&mut self, table: Option<Table>) {
        self.kept = table;
    }

    /// Takes from the disk everything by which it could boot or be assembled: both ends, for good. Only after this has
    /// returned may data be written.
    pub(crate) fn clear(&mut self) -> Result<(), DiskError> {
        self.state = DiskState::Unknown;
        self.head.fill(0);
        self.tail.fill(0);
        let mut cleared = DiskState::NoTable;
        if let Some(table) = &self.kept {
            let written = table.write_tail(&mut self.tail).and_then(|()| table.write_head(&mut self.head));
            if written.is_ok() {
                cleared = DiskState::OnlyEphemeral;
            }
        }
        self.samples = Samples { all: self.samples.all, ..Samples::default() };
        let tail_at = self.tail_at();
        disk::write_all(&mut *self.disk, &self.head, 0)?;
        if cleared == DiskState::OnlyEphemeral {
            // A loss of power must leave one of the two copies.
            disk::flush(&mut *self.disk)?;
        }
        disk::write_all(&mut *self.disk, &self.tail, tail_at)?;
        disk::flush(&mut *self.disk)?;
        self.head.fill(0);
        self.tail.fill(0);
        self.state = cleared;
        Ok(())
    }

    /// Puts image data in its place: the ends into memory, the rest onto the disk.
    pub(crate) fn put(&mut self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        let tail_at = self.tail_at();
        let in_head = (HELD.saturating_sub(offset) as usize).min(bytes.len());
        let before_tail = (tail_at.saturating_sub(offset) as usize).min(bytes.len());
        let (head, middle, tail) = (&bytes[..in_head], &bytes[in_head..before_tail], &bytes[before_tail..]);
        if !head.is_empty() {
            self.head[offset as usize..offset as usize + head.len()].copy_from_slice(head);
        }
        if !tail.is_empty() {
            let at = (offset + before_tail as u64 - tail_at) as usize;
            self.tail[at..at + tail.len()].copy_from_slice(tail);
        }
        self.put_middle(middle, offset + in_head as u64)
    }

    fn put_middle(&mut self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.samples.add(offset, bytes);
        if is_zero(bytes) {
            return disk::zero(&mut *self.disk, bytes, offset, bytes.len() as u64);
        }
        disk::write_all(&mut *self.disk, bytes, offset)
    }

    /// Puts `len` zeros in their place. The held-back ends are zero since [`Target::clear`].
    pub(crate) fn put_zeros(&mut self, offset: u64, len: u64) -> Result<(), DiskError> {
        let (start, end) = (offset.max(HELD), (offset + len).min(self.tail_at()));
        if start >= end {
            return Ok(());
        }
        let zeros = self.zeros.get_or_insert_with(|| AlignedBuf::zeroed(HELD as usize));
        let (mut at, pieces) = (start, if self.samples.all { usize::MAX } else { 1 });
        while at < end && (at - start) / HELD < pieces as u64 {
            let len = HELD.min(end - at);
            self.samples.add(at, &zeros[..len as usize]);
            at += len;
        }
        disk::zero(&mut *self.disk, zeros, start, end - start)
    }

    /// Reads what [`Target::put`] has put, wherever it is now.
    pub(crate) fn get(&mut self, offset: u64, len: usize) -> Result<AlignedBuf, DiskError> {
        let tail_at = self.tail_at();
        let mut bytes = disk::read_some(&mut *self.disk, len, offset)?;
        for (i, byte) in bytes.iter_mut().enumerate() {
            let at = offset + i as u64;
            if at < HELD {
                *byte = self.head[at as usize];
            } else if at >= tail_at {
                *byte = self.tail[(at - tail_at) as usize];
            }
        }
        Ok(bytes)
    }

    /// The held-back ends, for the final tables.
    pub(crate) fn ends(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut self.head, &mut self.tail)
    }

    pub(crate) fn flush(&mut self) -> Result<(), DiskError> {
        disk::flush(&mut *self.disk)
    }

    /// The last MiB goes to the disk; from here on it may boot.
    pub(crate) fn release_tail(&mut self) -> Result<(), DiskError> {
        self.state = DiskState::Unknown;
        let tail_at = self.tail_at();
        disk::write_all(&mut *self.disk, &self.tail, tail_at)
    }

    /// The first MiB goes to the disk, its first sector after all else is safe there: boot code and protective table are
    /// what firmware begins with, and a loss of power may leave any part of a larger write.
    pub(crate) fn release_head(&mut self) -> Result<(), DiskError> {
        self.state = DiskState::Unknown;
        let sector = self.disk.sector_size() as usize;
        disk::write_all(&mut *self.disk, &self.head[sector..], sector as u64)?;
        disk::flush(&mut *self.disk)?;
        disk::write_all(&mut *self.disk, &self.head[..sector], 0)
    }

    /// Reads both ends and the sampled blocks back, but those that touch `overwritten`. Returns the offset of the
    /// first difference.
    pub(crate) fn differs(&mut self, overwritten: Option<std::ops::Range<u64>>) -> Result<Option<u64>, DiskError> {
        let tail_at = self.tail_at();
        for (offset, head) in [(0, true), (tail_at, false)] {
            let found = disk::read_some(&mut *self.disk, HELD as usize, offset)?;
            let wanted = if head { &self.head } else { &self.tail };
            if let Some(at) = found.iter().zip(wanted.iter()).position(|(found, wanted)| found != wanted) {
                return Ok(Some(offset + at as u64));
            }
        }
        let samples: Vec<_> = self.samples.kept.iter().chain(&self.samples.last).copied().collect();
        let longest = samples.iter().map(|sample| sample.len).max().unwrap_or(0);
        let mut found = AlignedBuf::zeroed(longest);
        for sample in samples {
            let end = sample.offset + sample.len as u64;
            if overwritten.as_ref().is_some_and(|range| sample.offset < range.end && range.start < end) {
                continue;
            }
            let found = &mut found[..sample.len];
            disk::read_all(&mut *self.disk, found, sample.offset)?;
            if crc32fast::hash(found) != sample.crc {
                return Ok(Some(sample.offset));
            }
        }
        Ok(None)
    }

    /// After a failure: whatever may have reached the ends is cleared again. The error that led here is the one to
    /// report, so a failure to clear only shows in the state.
    pub(crate) fn abandon(&mut self) {
        if self.state == DiskState::Unknown
            && let Err(error) = self.clear()
        {
            tracing::error!(disk = self.disk.name(), %error, "a failed write could not be cleared from the disk");
        }
    }

    pub(crate) fn check(&self) -> Result<(), ImageError> {
        self.geometry().check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fake::FakeDisk;

    #[test]
    fn samples_cover_the_whole_disk_and_stay_few() {
        let mut samples = Samples::default();
        for block in 0..10_000_u64 {
            samples.add(block, &[0]);
        }
        assert!((SAMPLES / 2..=SAMPLES).contains(&samples.kept.len()), "{}", samples.kept.len());
        assert_eq!(samples.last.unwrap().offset, 9_999);
        let gaps: Vec<_> = samples.kept.windows(2).map(|pair| pair[1].offset - pair[0].offset).collect();
        assert!(gaps.iter().all(|gap| gap == &gaps[0]), "{gaps:?}");
    }

    #[test]
    fn data_that_crosses_the_ends_is_split_at_them() {
        let disk = FakeDisk::new(vec![9; 4 << 20], 512);
        let mut target = Target::new(Box::new(disk.clone()), Verify::Sampled);
        target.clear().unwrap();
        let bytes = AlignedBuf::zeroed(4 << 20);
        let mut bytes = bytes.to_vec();
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (i / 512 % 251) as u8 + 1;
        }
        target.put(&bytes, 0).unwrap();
        let held = HELD as usize;
        let on_disk = disk.bytes();
        assert!(is_zero(&on_disk[..held]) && is_zero(&on_disk[3 * held..]));
        assert!(on_disk[held..3 * held] == bytes[held..3 * held]);
        assert!(*target.get(HELD - 4096, 8192).unwrap() == bytes[held - 4096..held + 4096]);
        assert!(*target.get(3 * HELD - 512, 4096).unwrap() == bytes[3 * held - 512..3 * held - 512 + 4096]);
        target.release_tail().unwrap();
        target.release_head().unwrap();
        assert!(disk.bytes() == bytes);
        assert_eq!(target.differs(None).unwrap(), None);
        disk.set(|state| state.bytes[2 << 20] ^= 1);
        assert_eq!(target.differs(None).unwrap(), Some(1 << 20));
    }
}
