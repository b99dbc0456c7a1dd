//! Whether a disk is erased.
//!
//! Before an erase, [`plant`] writes marks of random bytes: at the first and the last place of the disk, at the start of every
//! partition, and all over it. After it, [`check`] has the device empty its cache and reads from the device itself: no mark may
//! be left, and the blocks that a seed chooses have to look as the method leaves them. A return code counts for nothing.
//!
//! Where only metadata are erased, [`plant_metadata`] takes the place of [`plant`], and what is read is where metadata are.
//!
//! This crate knows nothing of what erases, and shares no code with it. Everything follows from a seed that is drawn when the
//! erase begins and is kept in the record, so that anybody can say afterwards which places were looked at.

mod hidden;
mod metadata;
mod places;

pub use hidden::{Hidden, hidden};
pub use metadata::plant_metadata;

use hardware::grant::{Look, Reading};
use hardware::medium::{MarkedMedium, Medium};
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::ops::Range;

/// Bytes of a block that is read.
pub const BLOCK: u64 = 1 << 20;
/// Bytes of a mark; a sector where sectors are larger.
pub const MARK: u64 = 4096;
/// Marks beside those at the first and the last place and at partitions.
const SPREAD_MARKS: u64 = 32;
/// No partition table names more partitions than are worth a mark each.
const MOST_PARTITIONS: usize = 128;
/// Blocks that are looked at before the erase, to know afterwards that they changed.
const MOST_BEFORE: u64 = 4096;
/// A disk that gives none of so many blocks before its erase gives none at all, and each question may cost it a reset.
const UNREAD: usize = 8;
/// One place in so many may refuse its mark, as a worn disk has bad places. Marks are the proof only where the others are there.
const PLACES_FOR_A_REFUSAL: usize = 8;
/// How Linux says that the medium itself has no valid data at a place (`block/blk-core.c`): `ENODATA` for a medium error,
/// `EILSEQ` for wrong protection information (`asm-generic/errno.h`). Any other error is of the way to the device.
const GONE: [i32; 2] = [61, 84];

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Chooses all places and the marks' bytes. Drawn anew for every erase.
    pub seed: u64,
    /// Percent of the blocks that are read afterwards; 100 is all of them.
    pub percent: u8,
    /// Blocks that are read at least; a disk that has fewer is read whole.
    pub least: u64,
}

impl Extent {
    /// Bytes that [`check`] reads of a disk of `size` bytes.
    pub fn bytes_of(&self, size: u64) -> u64 {
        places::sample_count(size.div_ceil(BLOCK), self.percent, self.least) * BLOCK
    }
}

/// What was on the disk just before it was erased.
#[derive(Debug)]
pub struct Before {
    extent: Extent,
    size: u64,
    sector: u64,
    marks: Vec<u64>,
    /// Whether nearly all places took their mark, so that marks alone can tell.
    well_marked: bool,
    unmarked: Option<String>,
    /// Where a block begins, and what its first bytes were.
    blocks: Vec<(u64, u64)>,
    /// What is read in place of blocks all over the disk.
    places: Option<metadata::Places>,
}

/// Why a disk is not proven to be erased.
#[derive(Debug, thiserror::Error)]
pub enum NotProven {
    /// What was written before the erase is not what is read, and no error was reported: the device loses writes.
    #[error(
        "the mark written to LBA {lba} before the erase was reported as written and is not there: the device loses writes"
    )]
    LosesWrites {
        /// Logical block address.
        lba: u64,
    },
    /// A mark is still there.
    #[error("LBA {lba} still holds the mark that was written there before the erase ({found}…)")]
    Mark {
        /// Logical block address of the first sector with a mark.
        lba: u64,
        /// Its first bytes, hexadecimal.
        found: String,
    },
    /// A block does not look as the method leaves it.
    #[error("LBA {lba} holds {found}…, and {expected} was expected")]
    Pattern {
        /// Logical block address of the first sector that differs.
        lba: u64,
        /// Its first bytes, hexadecimal.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// A block is what it was.
    #[error("LBA {lba} still holds what was there before the erase ({found}…)")]
    Unchanged {
        /// Logical block address.
        lba: u64,
        /// Its first bytes, hexadecimal.
        found: String,
    },
    /// The size is another one.
    #[error("the disk has {now} bytes after the erase and had {before} before")]
    Size {
        /// Bytes before.
        before: u64,
        /// Bytes now.
        now: u64,
    },
    /// After this method only marks can tell, and there are none or too few.
    #[error(
        "what this method leaves cannot be told from data, and there are only {marks} marks to compare: {reason}; erase the \
         disk again"
    )]
    NoMarks {
        /// Marks that were written.
        marks: usize,
        /// Why there are no more.
        reason: String,
    },
    /// Nothing at all can be read, so nothing is known.
    #[error("none of {blocks} blocks can be read after the erase")]
    Unreadable {
        /// Blocks that were tried.
        blocks: u64,
        /// What reading the last of them said.
        #[source]
        source: io::Error,
    },
    /// Reading failed.
    #[error("read LBA {lba} to prove the erase")]
    Read {
        /// Logical block address.
        lba: u64,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The device's cache could not be emptied, so what is read may be what the device has yet to write.
    #[error("empty the cache of the disk to prove the erase")]
    Flush(#[source] io::Error),
    /// Stopped on request.
    #[error("the proof was stopped on request")]
    Stopped,
}

/// Looks at the disk and writes the marks. A device that takes no writes (a sanitize that a power cut interrupted goes on)
/// gets none, and the reading says so. A few bad places go without; after more of them it is left at those that there are.
///
/// # Errors
/// [`NotProven::LosesWrites`] and [`NotProven::Flush`].
pub fn plant(disk: &mut dyn MarkedMedium, partitions: &[Range<u64>], extent: Extent) -> Result<Before, NotProven> {
    let (size, sector) = (disk.size(), disk.sector().max(1));
    let mut head = vec![0_u8; mark_length(sector)];
    let length = head.len() as u64;
    let total = size.div_ceil(BLOCK);
    let mut before = Before::new(extent, size, sector);
    let Extent { seed, percent, least } = before.extent;
    let sampled = places::sample_count(total, percent, least);
    let every = usize::try_from(sampled.div_ceil(MOST_BEFORE).max(1)).unwrap_or(usize::MAX);
    let mut unread = 0;
    for number in places::samples(seed, total, percent, least).step_by(every) {
        // What cannot be read now has nothing to compare with; it is no reason not to erase.
        if size - number * BLOCK < length {
            continue;
        }
        match disk.read(number * BLOCK, &mut head) {
            Ok(()) => before.blocks.push((number * BLOCK, digest(&head))),
            Err(_) => unread += 1,
        }
        if before.blocks.is_empty() && unread == UNREAD {
            break;
        }
    }
    let starts: Vec<u64> = partitions.iter().take(MOST_PARTITIONS).map(|partition| partition.start).collect();
    let places = places::marks(seed, size, sector, length, &starts, SPREAD_MARKS);
    before.well_marked = !places.is_empty();
    before.mark(disk, &places, places.len() / PLACES_FOR_A_REFUSAL)?;
    Ok(before)
}

/// Bytes of a mark, and the unit in which metadata are looked at.
fn mark_length(sector: u64) -> usize {
    usize::try_from(MARK.max(sector)).unwrap_or(0)
}

impl Before {
    fn new(extent: Extent, size: u64, sector: u64) -> Self {
        let (marks, blocks) = (Vec::new(), Vec::new());
        Self { extent, size, sector, marks, well_marked: true, unmarked: None, blocks, places: None }
    }

    /// Writes marks and reads them back. More than `most` places that refuse theirs are a disk that takes none.
    fn mark(&mut self, disk: &mut dyn MarkedMedium, places: &[u64], most: usize) -> Result<(), NotProven> {
        let (seed, sector, mut refused) = (self.extent.seed, self.sector, 0);
        let mut now = vec![0_u8; mark_length(sector)];
        for &offset in places {
            match disk.write(offset, &places::mark(seed, offset, now.len())) {
                Ok(()) => self.marks.push(offset),
                Err(error) => refused += self.refuse(offset, "takes no writes", &error),
            }
            if refused > most {
                self.well_marked = false;
                break;
            }
        }
        if self.marks.is_empty() {
            return Ok(());
        }
        disk.flush().map_err(NotProven::Flush)?;
        for offset in self.marks.clone() {
            match disk.read(offset, &mut now) {
                Ok(()) if now == places::mark(seed, offset, now.len()) => {}
                Ok(()) => return Err(NotProven::LosesWrites { lba: offset / sector }),
                // No reason to leave the data where they are. It is read again afterwards, and then it counts.
                Err(error) => refused += self.refuse(offset, "cannot be read", &error),
            }
            if refused > most {
                self.well_marked = false;
                break;
            }
        }
        Ok(())
    }

    /// Remembers the first place at which something went wrong. Returns how many more there are.
    fn refuse(&mut self, offset: u64, what: &str, error: &io::Error) -> usize {
        self.unmarked.get_or_insert_with(|| format!("LBA {} {what}: {error}", offset / self.sector));
        1
    }

    /// Whether all marks are to be read on `other` as well: then it is another way to the same disk. `false` without a mark, and
    /// where one cannot be read there.
    pub fn is_seen_on(&self, other: &mut dyn Medium) -> bool {
        let mut now = vec![0_u8; mark_length(self.sector)];
        let length = now.len();
        let mut shows = |offset: &u64| {
            let read = other.read(*offset, &mut now);
            read.is_ok() && now == places::mark(self.extent.seed, *offset, length)
        };
        !self.marks.is_empty() && self.marks.iter().all(&mut shows)
    }

    /// Bytes that [`check`] is going to read.
    pub fn bytes_to_read(&self) -> u64 {
        self.places.as_ref().map_or_else(|| self.extent.bytes_of(self.size), metadata::Places::bytes)
    }

    /// What [`check`] is going to read, in ascending order.
    fn pieces(&self) -> Box<dyn Iterator<Item = Range<u64>> + '_> {
        let Extent { seed, percent, least } = self.extent;
        let block = |number: u64| number * BLOCK..(number * BLOCK).saturating_add(BLOCK).min(self.size);
        match &self.places {
            Some(places) => Box::new(places.pieces.iter().cloned()),
            None => Box::new(places::samples(seed, self.size.div_ceil(BLOCK), percent, least).map(block)),
        }
    }
}

/// Reads the disk after its erase, from the device itself. `go_on` is told the bytes that were read so far, and stops the reading.
///
/// # Errors
/// Whatever keeps the erase from being proven; the first place that differs is named.
pub fn check(
    disk: &mut dyn Medium,
    before: &Before,
    look: Look,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Reading, NotProven> {
    disk.flush().map_err(NotProven::Flush)?;
    if disk.size() != before.size {
        return Err(NotProven::Size { before: before.size, now: disk.size() });
    }
    if look == Look::Changed && !before.well_marked {
        let reason = before.unmarked.clone().unwrap_or_else(|| "the disk is smaller than a mark".to_owned());
        return Err(NotProven::NoMarks { marks: before.marks.len(), reason });
    }
    let mut reader =
        Reader { disk, before, look, pattern: None, unreadable: 0, readable: None, compared: 0, last_error: None };
    reader.marks_are_gone()?;
    let mut earlier = before.blocks.iter().peekable();
    let (mut blocks, mut bytes) = (0, 0);
    for piece in before.pieces() {
        let was = earlier.next_if(|(start, _)| *start == piece.start).map(|(_, digest)| *digest);
        bytes += piece.end - piece.start;
        reader.block(&piece, was)?;
        blocks += 1;
        if !go_on(bytes) {
            return Err(NotProven::Stopped);
        }
    }
    reader.end(blocks)
}

struct Reader<'a> {
    disk: &'a mut dyn Medium,
    before: &'a Before,
    look: Look,
    /// The eight bytes that all blocks repeat.
    pattern: Option<[u8; 8]>,
    unreadable: u64,
    /// A place that could be read, the last one.
    readable: Option<u64>,
    compared: u64,
    last_error: Option<io::Error>,
}

impl Reader<'_> {
    fn lba(&self, offset: u64) -> u64 {
        offset / self.before.sector
    }

    /// Reads; `false` where the device may refuse to. Sectors whose key is gone may have no valid checksum any more (SBC-4,
    /// 4.11.4: unmapped and sanitized blocks), so after a crypto erase a block that the medium does not give counts as gone. A
    /// block that the way to the device does not give counts for nothing.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<bool, NotProven> {
        match self.disk.read(offset, buffer) {
            Ok(()) => {
                self.readable = Some(offset);
                Ok(true)
            }
            Err(error)
                if self.look == Look::Changed && error.raw_os_error().is_some_and(|code| GONE.contains(&code)) =>
            {
                self.unreadable += 1;
                self.last_error = Some(error);
                Ok(false)
            }
            Err(source) => Err(NotProven::Read { lba: self.lba(offset), source }),
        }
    }

    fn marks_are_gone(&mut self) -> Result<(), NotProven> {
        let sector = usize::try_from(self.before.sector).unwrap_or(usize::MAX);
        let mut now = vec![0_u8; mark_length(self.before.sector)];
        for &offset in &self.before.marks {
            if !self.read(offset, &mut now)? {
                continue;
            }
            let mark = places::mark(self.before.extent.seed, offset, now.len());
            let left = now.chunks(sector).zip(mark.chunks(sector)).position(|(now, mark)| now == mark);
            if let Some(number) = left {
                let found = hex(&now[number * sector..]);
                return Err(NotProven::Mark { lba: self.lba(offset) + number as u64, found });
            }
        }
        Ok(())
    }

    /// Reads a block and compares it with what the method leaves, and with the digest of what its head `was`.
    fn block(&mut self, piece: &Range<u64>, was: Option<u64>) -> Result<(), NotProven> {
        let offset = piece.start;
        let mut block = vec![0_u8; usize::try_from(piece.end - offset).unwrap_or(0)];
        if !self.read(offset, &mut block)? {
            return Ok(());
        }
        let expected = match self.look {
            Look::Zeros => Some([0; 8]),
            Look::Pattern => Some(*self.pattern.get_or_insert_with(|| first_eight(&block))),
            Look::Changed => None,
        };
        if let Some(pattern) = expected
            && let Some(at) = first_other(&block, pattern)
        {
            let sector = usize::try_from(self.before.sector).unwrap_or(1);
            let start = at - at % sector;
            let expected = name(pattern, self.look);
            return Err(NotProven::Pattern {
                lba: self.lba(offset + start as u64),
                found: hex(&block[at - at % 8..]),
                expected,
            });
        }
        // A method may leave any pattern, but for the one that was there; blank is blank.
        let head = &block[..block.len().min(mark_length(self.before.sector))];
        let blank = first_other(head, [0; 8]).is_none() || first_other(head, [0xff; 8]).is_none();
        self.compared += u64::from(was.is_some());
        if !blank && was == Some(digest(head)) {
            return Err(NotProven::Unchanged { lba: self.lba(offset), found: hex(head) });
        }
        Ok(())
    }

    fn end(self, blocks: u64) -> Result<Reading, NotProven> {
        if let Some(source) = self.last_error {
            let Some(offset) = self.readable else { return Err(NotProven::Unreadable { blocks, source }) };
            // A device that gives nothing any more says nothing about the blocks that it did not give.
            let mut place = vec![0_u8; usize::try_from(self.before.sector).unwrap_or(0)];
            let lba = offset / self.before.sector;
            self.disk.read(offset, &mut place).map_err(|source| NotProven::Read { lba, source })?;
        }
        let found = match (self.look, self.pattern) {
            (Look::Zeros, _) => name([0; 8], Look::Zeros),
            (Look::Pattern, pattern) => name(pattern.unwrap_or_default(), Look::Pattern),
            (Look::Changed, _) => "other bytes than before".to_owned(),
        };
        let (blocks, block_size, compared) = match &self.before.places {
            Some(places) => (places.bytes().div_ceil(MARK), MARK, places.held),
            None => (blocks, BLOCK, self.compared),
        };
        Ok(Reading {
            seed: format!("{:016x}", self.before.extent.seed),
            marks: self.before.marks.len() as u64,
            unmarked: self.before.unmarked.clone(),
            expected: self.look,
            found,
            percent: self.before.extent.percent,
            places: self.before.places.as_ref().map(|places| places.words.clone()),
            blocks,
            block_size,
            compared,
            unreadable: self.unreadable,
        })
    }
}

fn first_eight(block: &[u8]) -> [u8; 8] {
    block.first_chunk().copied().unwrap_or_default()
}

/// Where the bytes begin to differ from a repeated pattern.
fn first_other(bytes: &[u8], pattern: [u8; 8]) -> Option<usize> {
    let (whole, rest) = bytes.as_chunks::<8>();
    let other = whole.iter().position(|eight| *eight != pattern).map(|number| number * 8);
    other.or_else(|| (rest != &pattern[..rest.len()]).then_some(bytes.len() - rest.len()))
}

fn name(pattern: [u8; 8], look: Look) -> String {
    match (pattern, look) {
        ([0, 0, 0, 0, 0, 0, 0, 0], _) => "zeros".to_owned(),
        ([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], _) => "ones".to_owned(),
        (pattern, _) => format!("the pattern {} everywhere", hex(&pattern)),
    }
}

/// The first eight bytes.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests;
