//! One pass of the bytes from source to disk: four stages at once, each on its own thread but the first.
//!
//! ```text
//! fetch (async) ─┬─▶ hash          whole pieces, shared, never copied
//!                └─▶ decompress ─▶ write     blocks of 1 MiB from a fixed pool
//! ```
//!
//! A stage that fails drops its ends of the channels; the others notice and stop. The error of the stage farthest
//! down is the one that counts, since it stopped the others.

use crate::budget::{BLOCK, Shares};
use crate::buffer::AlignedBuf;
use crate::configdrive::ConfigDrive;
use crate::decompress::{self, Decoder, DecompressError, PROBE};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Cause;
use crate::fetch::{Feed, Outlets, Patience, fetch};
use crate::progress::{Meters, Stage};
use crate::source::Source;
use crate::table::{self, ImageError, Table};
use crate::target::Target;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// What a pass needs.
#[derive(Clone)]
pub(crate) struct Pass {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) patience: Patience,
    pub(crate) shares: Shares,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) drive: Option<ConfigDrive>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) cancel: CancellationToken,
}

/// All data is on the disk, its ends are still held back.
pub(crate) struct Passed {
    pub(crate) bytes_in: u64,
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
    let (memory, meters) = (pass.shares.window, pass.meters.clone());
    let decoding = spawn_blocking(move || decode(decode_out, &blocks_in, &pool_out, memory, &meters));
    let writer_pass = pass.clone();
    let writing = spawn_blocking(move || write(writer_pass, target, &blocks_out, &pool_in));

    let outlets = Outlets { senders, room: Arc::new(Semaphore::new(pass.shares.queue)) };
    let vouched = pass.algorithm.is_some();
    let fetched = fetch(&*pass.source, &pass.patience, vouched, outlets, &pass.meters, &pass.cancel).await;
    let decoded = decoding.await;
    let digest = match hashing {
        Some(hashing) => hashing.await.map_err(|_| Cause::Stage("hash")),
        None => Ok(None),
    };
    let Ok((target, written)) = writing.await else { return (None, Err(Cause::Stage("write"))) };
    let result = (|| {
        let written = written?;
        decoded.map_err(|_| Cause::Stage("decompress"))??;
        let bytes_in = fetched?;
        let (bytes_out, table) = written.ok_or(Cause::Stage("write"))?;
        Ok(Passed { bytes_in, bytes_out, digest: digest?, table })
    })();
    (Some(target), result)
}

fn hash(algorithm: Algorithm, mut feed: UnboundedReceiver<Feed>) -> Option<Digest> {
    let mut hasher = Hasher::new(algorithm);
    while let Some(item) = feed.blocking_recv() {
        match item {
            Feed::Piece(piece) => hasher.update(&piece.bytes),
            Feed::End => return Some(hasher.finish()),
        }
    }
    None
}

/// What the writer receives. A channel that closes without [`Block::End`] was abandoned.
enum Block {
    /// What is known before the first byte: size of the unpacked image, and whether it may be larger.
    Announce {
        size: u64,
        at_least: bool,
    },
    /// The next bytes. All blocks but the last are full.
    Data {
        bytes: AlignedBuf,
        len: usize,
    },
    End,
}

/// The consumer is gone; its own error says why.
struct Gone;

/// Unpacks into blocks from the pool.
struct Unpacker<'a> {
    blocks: &'a SyncSender<Block>,
    pool: &'a Receiver<AlignedBuf>,
    block: Option<AlignedBuf>,
    filled: usize,
}

impl Unpacker<'_> {
    /// Gives `input` to the decoder and passes on what it makes of it. `Ok(Err(Gone))`: nobody wants it.
    fn feed(&mut self, decoder: &mut dyn Decoder, mut input: &[u8]) -> Result<Result<(), Gone>, DecompressError> {
        loop {
            let mut block = match self.block.take() {
                Some(block) => block,
                None => match self.pool.recv() {
                    Ok(block) => block,
                    Err(_) => return Ok(Err(Gone)),
                },
            };
            let (taken, given) = decoder.run(input, &mut block[self.filled..])?;
            let room = BLOCK - self.filled;
            input = &input[taken..];
            self.filled += given;
            self.block = Some(block);
            if self.filled == BLOCK
                && let Err(gone) = self.pass()
            {
                return Ok(Err(gone));
            }
            if input.is_empty() && given < room {
                return Ok(Ok(()));
            }
            if taken == 0 && given == 0 {
                let source = io::Error::new(io::ErrorKind::InvalidData, "it makes no progress");
                return Err(DecompressError::Corrupt { at: 0, source });
            }
        }
    }

    fn pass(&mut self) -> Result<(), Gone> {
        let len = std::mem::take(&mut self.filled);
        match self.block.take() {
            Some(bytes) if len > 0 => self.blocks.send(Block::Data { bytes, len }).map_err(|_| Gone),
            _ => Ok(()),
        }
    }
}

fn decode(
    mut feed: UnboundedReceiver<Feed>,
    blocks: &SyncSender<Block>,
    pool: &Receiver<AlignedBuf>,
    memory: u64,
    meters: &Meters,
) -> Result<(), DecompressError> {
    let mut head = Vec::new();
    let mut decoder: Option<Box<dyn Decoder>> = None;
    let mut unpacker = Unpacker { blocks, pool, block: None, filled: 0 };
    while let Some(item) = feed.blocking_recv() {
        let (piece, end) = match item {
            Feed::Piece(piece) => (Some(piece), false),
            Feed::End => (None, true),
        };
        let mut input = piece.as_ref().map_or(&[][..], |piece| &piece.bytes[..]);
        if decoder.is_none() {
            let (probe, rest) = input.split_at(input.len().min(PROBE - head.len()));
            head.extend_from_slice(probe);
            input = rest;
            if head.len() == PROBE || end {
                decoder = Some(begin(&head, memory, blocks, meters)?);
                let Some(decoder) = &mut decoder else { continue };
                if unpacker.feed(&mut **decoder, &head)?.is_err() {
                    return Ok(());
                }
            }
        }
        let Some(decoder) = &mut decoder else { continue };
        if unpacker.feed(&mut **decoder, input)?.is_err() {
            return Ok(());
        }
        if end {
            decoder.finish()?;
            if unpacker.pass().is_ok() {
                // If the writer is gone, its own error says why.
                let _ = blocks.send(Block::End);
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Recognises the packing and tells the writer what that says about the size.
fn begin(
    head: &[u8],
    memory: u64,
    blocks: &SyncSender<Block>,
    meters: &Meters,
) -> Result<Box<dyn Decoder>, DecompressError> {
    let detected = decompress::detect(head, memory)?;
    let raw = detected.compression == decompress::Compression::None;
    let size = if raw { meters.known_transport_total() } else { detected.unpacked };
    meters.written_total(size);
    if let Some(size) = size {
        // If the writer is gone, the first block will notice.
        let _ = blocks.send(Block::Announce { size, at_least: !raw });
    }
    Ok(detected.decoder)
}

/// Judges the head of the image, clears the disk, writes the data. `None`: abandoned by an earlier stage.
fn write(
    pass: Pass,
    mut target: Target,
    blocks: &Receiver<Block>,
    pool: &SyncSender<AlignedBuf>,
) -> (Target, Result<Option<(u64, Table)>, Cause>) {
    let result = write_blocks(&pass, &mut target, blocks, pool);
    (target, result)
}

fn write_blocks(
    pass: &Pass,
    target: &mut Target,
    blocks: &Receiver<Block>,
    pool: &SyncSender<AlignedBuf>,
) -> Result<Option<(u64, Table)>, Cause> {
    let geometry = target.geometry();
    let mut announced = None;
    let mut table = None;
    let mut offset = 0;
    while let Ok(block) = blocks.recv() {
        if pass.cancel.is_cancelled() {
            return Err(Cause::Cancelled);
        }
        match block {
            Block::Announce { size, at_least } => {
                geometry.check_length(size, at_least)?;
                announced = Some(size).filter(|_| !at_least);
            }
            Block::Data { mut bytes, len } => {
                let end = offset + len as u64;
                geometry.check_length(end, true)?;
                if table.is_none() {
                    table = Some(judge(pass, target, &bytes[..len], announced)?);
                    target.clear()?;
                    pass.meters.stage(Stage::Write);
                }
                // The last block may end within a sector; the rest of that sector becomes zero.
                let padded = len.next_multiple_of(geometry.sector as usize);
                bytes[len..padded].fill(0);
                target.put(&bytes[..padded], offset)?;
                pass.meters.written(len as u64);
                offset = end;
                // The unpacker may be done already.
                let _ = pool.send(bytes);
            }
            Block::End => {
                let table = table.ok_or(ImageError::Empty)?;
                table.check_covered(offset)?;
                return Ok(Some((offset, table)));
            }
        }
    }
    Ok(None)
}

/// Everything that can be said before the first byte is written.
fn judge(pass: &Pass, target: &Target, head: &[u8], announced: Option<u64>) -> Result<Table, Cause> {
    let geometry = target.geometry();
    let table = table::read(head, &geometry)?;
    if let Some(size) = announced {
        table.check_covered(size)?;
    }
    if let Some(drive) = &pass.drive {
        table.check_drive(drive, &geometry)?;
    }
    Ok(table)
}
