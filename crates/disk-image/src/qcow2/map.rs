//! The map: for each place in the file, the place on the disk.

use super::Qcow2Error;
use super::cluster::{self, Inflater};
use super::header::{Header, LEN, MAGIC};
use crate::error::Cause;
use crate::reader::Reader;
use crate::table::{Geometry, ImageError, foreign};
use sha2::{Digest as _, Sha256};
use std::ops::Range;

/// Bytes of the disk in the image that are looked at in advance: partition tables.
const HEAD: u64 = 1 << 20;
/// Bytes of a table that are read at a time.
const PART: usize = 64 << 10;
/// Flags of a table entry.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Where an entry says a table or cluster is.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Data of the file and its place on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Byte of the file.
    pub(super) file: u64,
    /// Byte of the disk.
    pub(super) disk: u64,
    /// Bytes of the file, and in the highest bit whether they are one compressed cluster; otherwise they are as many
    /// bytes of the disk.
    len: u64,
}

const PACKED: u64 = 1 << 63;

impl Extent {
    pub(super) fn len(&self) -> u64 {
        self.len & !PACKED
    }

    pub(super) fn is_packed(&self) -> bool {
        self.len & PACKED != 0
    }

    pub(super) fn file_end(&self) -> u64 {
        self.file + self.len()
    }

    /// Bytes of the disk.
    pub(super) fn disk_len(&self, header: &Header) -> u64 {
        if self.is_packed() { header.cluster().min(header.size - self.disk) } else { self.len() }
    }
}

/// A part of the file that the map was made from, and what it was then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) what: &'static str,
    pub(super) file: u64,
    pub(super) len: u64,
    pub(super) sha256: [u8; 32],
}

/// Where the bytes of a qcow2 go.
pub(crate) struct Map {
    pub(crate) header: Header,
    /// In the order of the file, apart from each other.
    pub(super) tables: Vec<Table>,
    /// In the order of the file. Compressed clusters may begin in the sector in which the one before ends.
    pub(super) extents: Vec<Extent>,
    /// What is zero on the disk, in its order.
    pub(crate) gaps: Vec<Range<u64>>,
    /// The first MiB of the disk in the image, as read in advance.
    pub(crate) head: Vec<u8>,
    /// How many threads unpack clusters; none if no cluster is compressed.
    pub(super) workers: usize,
}

/// Reads the tables. `memory` bounds what the map and the unpacking of clusters take.
pub(crate) async fn load(reader: &mut Reader<'_>, memory: u64, disk: &Geometry) -> Result<Map, Cause> {
    let mut bytes = [0; LEN];
    let len = reader.read(0, &mut bytes).await?;
    if !bytes[..len].starts_with(MAGIC) {
        let found = foreign(&bytes[..len]).unwrap_or("raw, or of a format that is not known");
        return Err(ImageError::Declared { declared: "qcow2", found }.into());
    }
    let header = Header::parse(&bytes[..len])?;
    disk.check_length(header.size, false)?;
    if header.unit() < u64::from(disk.sector) {
        return Err(ImageError::Clusters { unit: header.unit(), sector: disk.sector }.into());
    }
    let memory = if reader.is_packed() { memory / 2 } else { memory };
    let mut loader = Loader::new(header, memory);
    let first = header_table(&loader.header, &bytes);
    loader.tables.push(first);
    loader.read_l1(reader).await?;
    loader.read_l2(reader).await?;
    let workers = loader.finish(reader.len())?;
    let Loader { header, tables, mut extents, gaps, .. } = loader;
    extents.sort_unstable_by_key(|extent| extent.file);
    check_overlaps(&header, &tables, &extents)?;
    let mut map = Map { header, tables, extents, gaps, head: Vec::new(), workers };
    let mut head = vec![0; map.header.size.min(HEAD) as usize];
    map.read(reader, 0, &mut head).await?;
    map.head = head;
    Ok(map)
}

impl Map {
    /// Fills `into` with what the image has from byte `at` of its disk on, and returns how many bytes there are: fewer only
    /// at the end of the disk.
    pub(crate) async fn read(&self, reader: &mut Reader<'_>, at: u64, into: &mut [u8]) -> Result<usize, Cause> {
        let end = self.header.size.min(at.saturating_add(into.len() as u64));
        let into = &mut into[..end.saturating_sub(at) as usize];
        into.fill(0);
        for extent in &self.extents {
            let of_disk = extent.disk..extent.disk + extent.disk_len(&self.header);
            let (from, to) = (of_disk.start.max(at), of_disk.end.min(end));
            if from >= to {
                continue;
            }
            let part = &mut into[(from - at) as usize..(to - at) as usize];
            if !extent.is_packed() {
                // What is missing at the end of the file is zero.
                reader.read(extent.file + (from - of_disk.start), part).await?;
                continue;
            }
            let mut packed = vec![0; extent.len() as usize];
            let have = reader.read(extent.file, &mut packed).await?;
            let broken = |source| Qcow2Error::Cluster { at: extent.file, source };
            let mut inflater = Inflater::new(self.header.compression).map_err(broken)?;
            let mut cluster = vec![0; (of_disk.end - of_disk.start) as usize];
            inflater.fill(&packed[..have], &mut cluster).map_err(broken)?;
            let within = (from - of_disk.start) as usize;
            part.copy_from_slice(&cluster[within..within + part.len()]);
        }
        Ok(into.len())
    }
}

fn header_table(header: &Header, bytes: &[u8; LEN]) -> Table {
    let len = header.len();
    Table { what: "header", file: 0, len, sha256: Sha256::digest(&bytes[..len as usize]).into() }
}

struct Loader {
    header: Header,
    memory: u64,
    tables: Vec<Table>,
    /// L2 tables: where in the file, and which part of the disk.
    l2: Vec<(u64, u64)>,
    extents: Vec<Extent>,
    /// Extents that there are, stored or not.
    count: u64,
    /// The last of them, not counted yet.
    open: Option<Extent>,
    packed: bool,
    gaps: Vec<Range<u64>>,
}

impl Loader {
    fn new(header: Header, memory: u64) -> Self {
        let (l2, extents, gaps) = (Vec::new(), Vec::new(), Vec::new());
        Self { header, memory, tables: Vec::new(), l2, extents, count: 0, open: None, packed: false, gaps }
    }

    /// What the vectors hold now, and would hold with so many more extents.
    fn need(&self, extents: u64) -> u64 {
        let fixed = self.tables.capacity() * size_of::<Table>() + self.l2.capacity() * size_of::<(u64, u64)>();
        // Each extent may leave a gap before it.
        fixed as u64 + extents * (size_of::<Extent>() + size_of::<Range<u64>>()) as u64
    }

    async fn read_l1(&mut self, reader: &mut Reader<'_>) -> Result<(), Cause> {
        let (start, len) = (self.header.l1_offset, self.header.l1_used * 8);
        let (mut hasher, mut done) = (Sha256::new(), 0);
        let mut part = vec![0; PART];
        while done < len {
            let part = &mut part[..PART.min((len - done) as usize)];
            self.read_part(reader, start + done, part).await?;
            hasher.update(&*part);
            for (i, entry) in part.as_chunks::<8>().0.iter().enumerate() {
                self.l1_entry(done / 8 + i as u64, u64::from_be_bytes(*entry))?;
            }
            done += part.len() as u64;
        }
        self.tables.push(Table { what: "L1 table", file: start, len, sha256: hasher.finalize().into() });
        // In the order of the file, so that one connection can deliver them.
        self.l2.sort_unstable();
        match self.l2.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(Qcow2Error::Overlap { one: "L2 table", other: "L2 table", at: pair[0].0 }.into()),
            None => Ok(()),
        }
    }

    fn l1_entry(&mut self, index: u64, value: u64) -> Result<(), Cause> {
        let wrong = |problem| Err(Qcow2Error::Entry { table: "L1", index, value, problem }.into());
        let offset = value & OFFSET;
        if value & !(OFFSET | COPIED) != 0 {
            return wrong("reserved bits are set");
        }
        if offset == 0 {
            return Ok(());
        }
        if !offset.is_multiple_of(self.header.cluster()) {
            return wrong("it does not point to the start of a cluster");
        }
        self.l2.push((offset, index));
        let need = self.need(0) + (self.l2.len() * size_of::<Table>()) as u64;
        if need > self.memory {
            // What its tables hold is not known yet, so this is the least.
            let all = self.header.l1_used * (size_of::<(u64, u64)>() + size_of::<Table>()) as u64;
            return Err(Qcow2Error::Budget { need: all.max(need), left: self.memory }.into());
        }
        Ok(())
    }

    async fn read_l2(&mut self, reader: &mut Reader<'_>) -> Result<(), Cause> {
        self.tables.reserve_exact(self.l2.len());
        let (cluster, entry) = (self.header.cluster(), self.header.entry_len());
        let mut part = vec![0; PART.min(cluster as usize)];
        for table in 0..self.l2.len() {
            let (start, index) = self.l2[table];
            let (mut hasher, mut done) = (Sha256::new(), 0);
            while done < cluster {
                self.read_part(reader, start + done, &mut part).await?;
                hasher.update(&part);
                for (i, bytes) in part.chunks_exact(entry).enumerate() {
                    let number = index * (cluster / entry as u64) + done / entry as u64 + i as u64;
                    self.l2_entry(number, bytes)?;
                }
                done += part.len() as u64;
            }
            self.tables.push(Table { what: "L2 table", file: start, len: cluster, sha256: hasher.finalize().into() });
        }
        self.tables.sort_unstable_by_key(|table| table.file);
        Ok(())
    }

    async fn read_part(&self, reader: &mut Reader<'_>, at: u64, into: &mut [u8]) -> Result<(), Cause> {
        let len = reader.read(at, into).await?;
        if len < into.len() {
            let (bytes, needed) = (at + len as u64, at + into.len() as u64);
            return Err(Qcow2Error::Truncated { bytes: reader.len().unwrap_or(bytes), needed }.into());
        }
        Ok(())
    }

    /// The entry of one cluster of the disk.
    fn l2_entry(&mut self, number: u64, bytes: &[u8]) -> Result<(), Cause> {
        let word = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
        let (value, subclusters) = (word(0), word(8));
        let wrong = |problem| Err(Qcow2Error::Entry { table: "L2", index: number, value, problem }.into());
        let cluster = self.header.cluster();
        let Some(disk) = number.checked_mul(cluster).filter(|&disk| disk < self.header.size) else { return Ok(()) };
        if value & COMPRESSED != 0 {
            return self.packed(disk, value);
        }
        let offset = value & OFFSET;
        // The zero flag is of version 3, and extended entries have 32 of their own.
        let may_zero = self.header.version == 3 && !self.header.extended_l2;
        if value & !(OFFSET | COPIED | if may_zero { ZERO } else { 0 }) != 0 {
            return wrong("reserved bits are set");
        }
        if !offset.is_multiple_of(cluster) {
            return wrong("it does not point to the start of a cluster");
        }
        if !self.header.extended_l2 {
            if offset != 0 && value & ZERO == 0 {
                self.add(offset, disk, cluster);
            }
            return Ok(());
        }
        let (allocated, zero) = (subclusters as u32, (subclusters >> 32) as u32);
        if allocated & zero != 0 || (offset == 0 && allocated != 0) {
            return wrong("its subclusters contradict each other");
        }
        let unit = self.header.unit();
        for i in (0..32).filter(|i| allocated >> i & 1 != 0) {
            self.add(offset + i * unit, disk + i * unit, unit);
        }
        Ok(())
    }

    fn packed(&mut self, disk: u64, value: u64) -> Result<(), Cause> {
        // The lower bits are the first byte, the upper ones how many further sectors of 512 bytes there are.
        let bits = 62 - (self.header.cluster_bits - 8);
        let (file, sectors) = (value & ((1 << bits) - 1), (value & !(COPIED | COMPRESSED)) >> bits);
        let end = (file / 512 + sectors + 1) * 512;
        if file < self.header.cluster() {
            let (index, problem) = (disk / self.header.cluster(), "its compressed data lies in the header");
            return Err(Qcow2Error::Entry { table: "L2", index, value, problem }.into());
        }
        self.packed = true;
        self.push(Extent { file, disk, len: (end - file) | PACKED });
        Ok(())
    }

    fn add(&mut self, file: u64, disk: u64, len: u64) {
        let len = len.min(self.header.size.saturating_sub(disk));
        if len == 0 {
            return;
        }
        if let Some(last) = &mut self.open
            && !last.is_packed()
            && (last.file_end(), last.disk + last.len()) == (file, disk)
        {
            last.len += len;
            return;
        }
        self.push(Extent { file, disk, len });
    }

    /// Counts an extent, and keeps it while the budget allows.
    fn push(&mut self, extent: Extent) {
        let Some(done) = self.open.replace(extent) else { return };
        self.store(done);
    }

    fn store(&mut self, extent: Extent) {
        self.count += 1;
        if self.need(self.count) > self.memory {
            // The count goes on, to tell what would be needed.
            self.extents = Vec::new();
            return;
        }
        if self.extents.len() as u64 + 1 == self.count {
            if self.extents.len() == self.extents.capacity() {
                // Large vectors grow in place; a half more keeps what is unused small.
                self.extents.reserve_exact((self.extents.len() / 2).max(1024));
            }
            self.extents.push(extent);
        }
    }

    /// Checks the sum, orders by disk and finds the gaps. Returns how many threads unpack.
    fn finish(&mut self, file_len: Option<u64>) -> Result<usize, Cause> {
        if let Some(last) = self.open.take() {
            self.store(last);
        }
        let worker = cluster::MEMORY + super::place::job_memory(&self.header);
        let workers = if self.packed { std::thread::available_parallelism().map_or(1, usize::from).min(8) } else { 0 };
        let map = self.need(self.count);
        let left = self.memory.saturating_sub(map);
        let workers = workers.min((left / worker) as usize).max(usize::from(self.packed));
        let need = map + workers as u64 * worker;
        if need > self.memory {
            return Err(Qcow2Error::Budget { need, left: self.memory }.into());
        }
        if let Some(bytes) = file_len {
            self.check_within(bytes)?;
        }
        self.extents.sort_unstable_by_key(|extent| extent.disk);
        let mut at = 0;
        for extent in &self.extents {
            if extent.disk > at {
                self.gaps.push(at..extent.disk);
            }
            at = extent.disk + extent.disk_len(&self.header);
        }
        if at < self.header.size {
            self.gaps.push(at..self.header.size);
        }
        Ok(workers)
    }

    /// Nothing lies behind the end of the file, but the rest of its last cluster: that reads as zero.
    fn check_within(&self, bytes: u64) -> Result<(), Qcow2Error> {
        let room = bytes.next_multiple_of(self.header.cluster());
        match self.extents.iter().map(Extent::file_end).max().filter(|&needed| needed > room) {
            Some(needed) => Err(Qcow2Error::Truncated { bytes, needed }),
            None => Ok(()),
        }
    }
}

/// Two things at one place would make the file one thing to us and another to somebody else.
fn check_overlaps(header: &Header, tables: &[Table], extents: &[Extent]) -> Result<(), Qcow2Error> {
    let overlap = |one, other, at| Err(Qcow2Error::Overlap { one, other, at });
    let (mut tables, mut extents) = (tables.iter().peekable(), extents.iter().peekable());
    // The end of what came last. Compressed clusters share sectors, so two of them may meet within one.
    let (mut end, mut last, mut last_packed) = (0, "header", None);
    loop {
        let table_first = match (tables.peek(), extents.peek()) {
            (None, None) => return Ok(()),
            (Some(table), Some(extent)) => table.file <= extent.file,
            (table, _) => table.is_some(),
        };
        let (start, to, what, packed) = match if table_first { tables.next().map(Ok) } else { extents.next().map(Err) }
        {
            Some(Ok(table)) => (table.file, table.file + table.len, table.what, false),
            Some(Err(extent)) if extent.is_packed() => (extent.file, extent.file_end(), "compressed cluster", true),
            Some(Err(extent)) => (extent.file, extent.file_end(), "cluster", false),
            None => return Ok(()),
        };
        let from = match last_packed {
            Some(last_start) if packed => (end - 511.min(end)).max(last_start + 1),
            _ => end,
        };
        if start < from || (start < header.cluster() && what != "header") {
            return overlap(last, what, start);
        }
        (end, last, last_packed) = (to.max(end), what, packed.then_some(start));
    }
}
