//! One pass of the bytes from source to disk: four stages at once, each on its own thread but the first.
//!
//! ```text
//! fetch (async) ─┬─▶ hash               pieces of 1 MiB from a fixed pool, shared, never copied
//!                └─▶ unpack ─▶ write     those pieces if nothing is packed, else blocks of 1 MiB from another pool
//! ```
//!
//! A stage that fails drops its ends of the channels; the others notice and stop. The error of the stage farthest
//! down is the one that counts, since it stopped the others.

use crate::blocks::{Block, Circle, Content};
use crate::budget::{BLOCK, Shares};
use crate::buffer::AlignedBuf;
use crate::configdrive::ConfigDrive;
use crate::decompress::Compression;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Cause;
use crate::fetch::{Feed, FetchError, Fetched, Outlets, Patience, fetch};
use crate::partition::{PartitionError, Partitions, Superblock};
use crate::progress::{Meters, Stage};
use crate::qcow2::{Map, Qcow2Error};
use crate::source::{Identity, Source};
use crate::table::{self, Geometry, ImageError, Table};
use crate::target::Target;
use crate::unpack::unpack;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// What a pass needs.
#[derive(Clone)]
pub(crate) struct Pass {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) patience: Patience,
    pub(crate) shares: Shares,
    pub(crate) algorithm: Option<Algorithm>,
    /// How the image has to be packed, if that is declared.
    pub(crate) packing: Option<Compression>,
    pub(crate) drive: Option<ConfigDrive>,
    /// Of a partition image: the disk around it. Otherwise the image is the disk.
    pub(crate) partitions: Option<Arc<Partitions>>,
    pub(crate) new_disk_guid: bool,
    /// Of a qcow2: where its bytes go. Otherwise byte *n* of the image is byte *n* of the disk.
    pub(crate) map: Option<Arc<Map>>,
    /// What the source must still be, if it was looked at before.
    pub(crate) known: Option<Identity>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) cancel: CancellationToken,
}

/// All data is on the disk, its ends are still held back.
pub(crate) struct Passed {
    pub(crate) fetched: Fetched,
    pub(crate) bytes_out: u64,
    pub(crate) digest: Option<Digest>,
    pub(crate) table: Table,
}

/// Runs the stages to their end. The target comes back unless its thread was lost.
pub(crate) async fn run(pass: Pass, target: Target) -> (Option<Target>, Result<Passed, Cause>) {
    let (decode_in, decode_out) = unbounded_channel();
    let (hash_in, hash_out) = unbounded_channel();
    let hashing = pass.algorithm.map(|algorithm| spawn_blocking(move || hash(algorithm, hash_out)));
    let mut senders = vec![decode_in];
    if hashing.is_some() {
        senders.push(hash_in);
    }
    let (blocks_in, blocks_out) = sync_channel(pass.shares.blocks);
    let (pool_in, pool_out) = sync_channel(pass.shares.blocks);
    for _ in 0..pass.shares.blocks {
        // The channel has room for all, and its receiver lives: this cannot fail.
        let _ = pool_in.send(AlignedBuf::zeroed(BLOCK));
    }
    let circle = Circle { blocks: blocks_in, pool: Mutex::new(pool_out) };
    let packed_pass = pass.clone();
    let unpacking = spawn_blocking(move || unpack(decode_out, &circle, &packed_pass));
    let writer_pass = pass.clone();
    let writing = spawn_blocking(move || write(writer_pass, target, &blocks_out, &pool_in));

    let outlets = Outlets::new(senders, pass.shares.queue / BLOCK);
    // A task of its own runs beside the connection's, so that the two wake each other without a change of threads. It
    // ends with the others: when they give up, and when it is cancelled.
    let fetching = tokio::spawn(async move { fetch(&pass, outlets).await }.in_current_span());
    let fetched = fetching.await.unwrap_or(Err(FetchError::Stopped));
    let unpacked = unpacking.await;
    let digest = match hashing {
        Some(hashing) => hashing.await.map_err(|_| Cause::Stage("hash")),
        None => Ok(None),
    };
    let Ok((target, written)) = writing.await else { return (None, Err(Cause::Stage("write"))) };
    let result = (|| {
        let written = written?;
        unpacked.map_err(|_| Cause::Stage("decompress"))??;
        let fetched = fetched?;
        let (bytes_out, table) = written.ok_or(Cause::Stage("write"))?;
        Ok(Passed { fetched, bytes_out, digest: digest?, table })
    })();
    (Some(target), result)
}

fn hash(algorithm: Algorithm, mut feed: UnboundedReceiver<Feed>) -> Option<Digest> {
    let mut hasher = Hasher::new(algorithm);
    while let Some(item) = feed.blocking_recv() {
        match item {
            Feed::Piece(piece) => hasher.update(&piece),
            Feed::End => return Some(hasher.finish()),
        }
    }
    None
}

/// Bytes of the footer of a VHD.
const FOOTER: u64 = 512;

/// Zeros that are made at a time while nothing else is to do.
const ZEROS: u64 = 16 << 20;

/// Judges the head of the image, clears the disk, writes the data. `None`: abandoned by an earlier stage.
fn write(
    pass: Pass,
    mut target: Target,
    blocks: &Receiver<Block>,
    pool: &SyncSender<AlignedBuf>,
) -> (Target, Result<Option<(u64, Table)>, Cause>) {
    let mut writer = Writer {
        pass: &pass,
        target: &mut target,
        announced: None,
        base: pass.partitions.as_ref().map_or(0, |partitions| partitions.base()),
        system: None,
        table: None,
        end: 0,
        gaps: 0,
        gap: 0..0,
    };
    let result = writer.run(blocks, pool);
    (target, result)
}

struct Writer<'a> {
    pass: &'a Pass,
    target: &'a mut Target,
    /// How large the image is, if that is known. Of a qcow2 that is not declared it is the size of its file, which says nothing:
    /// it counts when the head has shown what the image is.
    announced: Option<u64>,
    /// Byte of the disk at which the image begins.
    base: u64,
    /// What a partition image says about itself.
    system: Option<Superblock>,
    /// Known once the head of the image was judged and the disk cleared.
    table: Option<Table>,
    /// Byte behind the last one of the image that was written.
    end: u64,
    /// How many gaps of the map are made zero, and what is left of the last one.
    gaps: usize,
    gap: Range<u64>,
}

impl Writer<'_> {
    fn run(&mut self, blocks: &Receiver<Block>, pool: &SyncSender<AlignedBuf>) -> Result<Option<(u64, Table)>, Cause> {
        loop {
            // Zeros are made while no data is there to be written.
            let block = match blocks.try_recv() {
                Ok(block) => block,
                Err(TryRecvError::Empty) if self.table.is_some() && self.zeros()? => continue,
                Err(_) => match blocks.recv() {
                    Ok(block) => block,
                    Err(_) => return Ok(None),
                },
            };
            self.check_cancelled()?;
            match block {
                Block::Announce { size, at_least: true } => self.room().check_length(size, true)?,
                Block::Announce { size, at_least: false } => self.announced = Some(size),
                Block::Data { mut content, len, offset } => {
                    self.data(&mut content, len, offset)?;
                    if let Content::Own(bytes) = content {
                        // The unpacker may be done already.
                        let _ = pool.send(bytes);
                    }
                }
                Block::End => return self.finish().map(Some),
            }
        }
    }

    fn check_cancelled(&self) -> Result<(), Cause> {
        if self.pass.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }

    /// What the image may fill: the disk, or the root partition.
    fn room(&self) -> Geometry {
        let disk = self.target.geometry();
        self.pass.partitions.as_ref().map_or(disk.clone(), |partitions| partitions.room(&disk))
    }

    fn data(&mut self, content: &mut Content, len: usize, offset: u64) -> Result<(), Cause> {
        let geometry = self.room();
        let end = offset + len as u64;
        geometry.check_length(end, true)?;
        // The last block may end within a sector; the rest of that sector becomes zero.
        let bytes = content.padded(len, geometry.sector as usize);
        if self.table.is_none() {
            self.begin(&bytes[..len])?;
        }
        self.target.put(bytes, self.base + offset)?;
        self.pass.meters.written(len as u64);
        self.end = self.end.max(end);
        Ok(())
    }

    fn check_announced(&self, head: &[u8]) -> Result<(), ImageError> {
        match self.announced {
            Some(size) if table::foreign(head).is_none() => self.room().check_length(size, false),
            _ => Ok(()),
        }
    }

    /// Everything that can be said before the first byte is written; then the disk is cleared.
    fn begin(&mut self, head: &[u8]) -> Result<(), Cause> {
        let geometry = self.target.geometry();
        let head = self.pass.map.as_ref().map_or(head, |map| &map.head);
        if let Some(partitions) = &self.pass.partitions {
            self.check_announced(head)?;
            self.system = Some(partitions.judge(head, &geometry)?);
            self.target.keep(partitions.kept.clone());
            self.target.clear()?;
            self.table = Some(partitions.table.clone());
            self.pass.meters.stage(Stage::Write);
            return Ok(());
        }
        self.check_announced(head)?;
        let table = table::read(head, &geometry)?;
        if let Some(size) = self.announced {
            table.check_covered(size)?;
        }
        if let Some(drive) = &self.pass.drive {
            table.check_drive(drive, &geometry)?;
        }
        self.target.clear()?;
        self.table = Some(table);
        self.pass.meters.stage(Stage::Write);
        Ok(())
    }

    /// Makes some zeros and says whether there were any to make.
    fn zeros(&mut self) -> Result<bool, Cause> {
        self.check_cancelled()?;
        if self.gap.is_empty() {
            let Some(gap) = self.pass.map.as_ref().and_then(|map| map.gaps.get(self.gaps)) else { return Ok(false) };
            self.gap = gap.clone();
            self.gaps += 1;
        }
        let len = ZEROS.min(self.gap.end - self.gap.start);
        self.target
            .put_zeros(self.base + self.gap.start, len.next_multiple_of(self.target.geometry().sector.into()))?;
        self.pass.meters.written(len);
        self.gap.start += len;
        Ok(true)
    }

    /// A VHD of fixed size begins as a raw image does, and says what it is in its last 512 bytes only (Virtual Hard Disk
    /// Image Format Specification, "Hard Disk Footer Format").
    fn check_footer(&mut self) -> Result<(), Cause> {
        let Some(footer) = self.end.checked_sub(FOOTER).filter(|at| at.is_multiple_of(FOOTER)) else { return Ok(()) };
        let sector = u64::from(self.target.geometry().sector);
        let within = (footer % sector) as usize;
        let last = self.target.get(self.base + footer - footer % sector, sector as usize)?;
        match last.get(within..).and_then(table::foreign) {
            Some(table::VHD) => Err(ImageError::Format(table::VHD).into()),
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(u64, Table), Cause> {
        if self.table.is_none() {
            self.begin(&[])?;
        }
        while self.zeros()? {}
        let table = self.table.take().ok_or(ImageError::Empty)?;
        if let Some(system) = self.system {
            let bytes = self.pass.map.as_ref().map_or(self.end, |map| map.header.size);
            if bytes < system.size {
                return Err(PartitionError::Truncated { bytes, needed: system.size }.into());
            }
        }
        let Some(map) = &self.pass.map else {
            self.check_footer()?;
            if self.system.is_none() {
                table.check_covered(self.end)?;
            }
            return Ok((self.end, table));
        };
        // The head of the image that was judged must be the one that came with the data.
        let same = match self.base {
            0 => self.target.ends().0.starts_with(&map.head),
            base => {
                let len = map.head.len().next_multiple_of(self.target.geometry().sector as usize);
                self.target.get(base, len)?.starts_with(&map.head)
            }
        };
        if !same {
            return Err(Qcow2Error::Differs { what: "first MiB of the disk", at: 0 }.into());
        }
        Ok((map.header.size, table))
    }
}
