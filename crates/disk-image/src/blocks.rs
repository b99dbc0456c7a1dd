//! Blocks on their way to the disk: from a fixed pool to the stage that writes, and back.

use crate::budget::BLOCK;
use crate::buffer::AlignedBuf;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

/// What the writer receives. A channel that closes without [`Block::End`] was abandoned.
pub(crate) enum Block {
    /// What is known before the first byte: size of the unpacked image, and whether it may be larger.
    Announce { size: u64, at_least: bool },
    /// Bytes and their place on the disk.
    Data { bytes: AlignedBuf, len: usize, offset: u64 },
    /// All bytes have come.
    End,
}

/// The writer is gone; its own error says why.
pub(crate) struct Gone;

/// The two ends of the circle in which blocks go round. Several threads may use it.
pub(crate) struct Circle {
    pub(crate) blocks: SyncSender<Block>,
    pub(crate) pool: Mutex<Receiver<AlignedBuf>>,
}

/// Collects bytes into blocks. A block is passed on when it is full, and when what comes next belongs elsewhere.
pub(crate) struct BlockWriter<'a> {
    circle: &'a Circle,
    block: Option<AlignedBuf>,
    /// Where on the disk the block begins, and how much of it there is.
    offset: u64,
    len: usize,
}

impl<'a> BlockWriter<'a> {
    pub(crate) fn new(circle: &'a Circle) -> Self {
        Self { circle, block: None, offset: 0, len: 0 }
    }

    /// One more with the same pool, for another thread.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.circle)
    }

    pub(crate) fn write(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let room = self.room(offset)?;
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
            self.filled(len)?;
            bytes = &bytes[len..];
            offset += len as u64;
        }
        Ok(())
    }

    /// At least one byte of room for what belongs at `offset`.
    pub(crate) fn room(&mut self, offset: u64) -> Result<&mut [u8], Gone> {
        if self.len > 0 && self.offset + self.len as u64 != offset {
            self.pass()?;
        }
        if self.len == 0 {
            self.offset = offset;
        }
        let block = match self.block.take() {
            Some(block) => block,
            None => self.circle.pool.lock().unwrap_or_else(PoisonError::into_inner).recv().map_err(|_| Gone)?,
        };
        Ok(&mut self.block.insert(block)[self.len..])
    }

    /// So many bytes of the room are used now.
    pub(crate) fn filled(&mut self, len: usize) -> Result<(), Gone> {
        self.len += len;
        if self.len == BLOCK { self.pass() } else { Ok(()) }
    }

    /// Passes on what there is.
    pub(crate) fn pass(&mut self) -> Result<(), Gone> {
        let len = std::mem::take(&mut self.len);
        match self.block.take() {
            Some(bytes) if len > 0 => {
                self.circle.blocks.send(Block::Data { bytes, len, offset: self.offset }).map_err(|_| Gone)
            }
            block => {
                self.block = block;
                Ok(())
            }
        }
    }
}
