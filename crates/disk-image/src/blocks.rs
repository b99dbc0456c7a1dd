//! Blocks on their way to the disk: from a fixed pool to the stage that writes, and back.

use crate::budget::BLOCK;
use crate::buffer::{ALIGN, AlignedBuf};
use crate::fetch::Piece;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

/// The least that goes to the disk without a copy; smaller parts are collected into blocks.
const SHARED: usize = 256 << 10;

/// Bytes on their way, and the place in a piece that they have if they are as they were transported.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    bytes: &'a [u8],
    piece: Option<(&'a Arc<Piece>, usize)>,
}

impl<'a> Part<'a> {
    /// All of a piece.
    pub(crate) fn whole(piece: &'a Arc<Piece>) -> Self {
        Self { bytes: piece, piece: Some((piece, 0)) }
    }

    /// Bytes from elsewhere.
    pub(crate) fn loose(bytes: &'a [u8]) -> Self {
        Self { bytes, piece: None }
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What is left without the first `len` bytes.
    pub(crate) fn skip(&self, len: usize) -> Self {
        Self { bytes: &self.bytes[len..], piece: self.piece.map(|(piece, start)| (piece, start + len)) }
    }

    /// The first `len` bytes.
    pub(crate) fn first(&self, len: usize) -> Self {
        Self { bytes: &self.bytes[..len], piece: self.piece }
    }
}

/// Where the bytes of a block are.
pub(crate) enum Content {
    /// In a block of the pool.
    Own(AlignedBuf),
    /// In a piece as it was transported, from this byte on: whole pages.
    Piece(Arc<Piece>, usize),
}

impl Content {
    /// `len` bytes and the zeros that fill their last sector up.
    pub(crate) fn padded(&mut self, len: usize, sector: usize) -> &[u8] {
        match self {
            Self::Own(bytes) => {
                let padded = len.next_multiple_of(sector);
                bytes[len..padded].fill(0);
                &bytes[..padded]
            }
            Self::Piece(piece, start) => &piece[*start..*start + len],
        }
    }
}

/// What the writer receives. A channel that closes without [`Block::End`] was abandoned.
pub(crate) enum Block {
    /// What is known before the first byte: size of the unpacked image, and whether it may be larger.
    Announce { size: u64, at_least: bool },
    /// Bytes and their place on the disk.
    Data { content: Content, len: usize, offset: u64 },
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

    /// Passes on a part of a piece as it is where that is worth it and direct I/O takes it; else copies it into blocks.
    pub(crate) fn put(&mut self, offset: u64, part: Part<'_>) -> Result<(), Gone> {
        let len = part.bytes.len();
        let aligned = |start: usize| {
            offset.is_multiple_of(ALIGN as u64) && start.is_multiple_of(ALIGN) && len.is_multiple_of(ALIGN)
        };
        match part.piece {
            Some((piece, start)) if len >= SHARED && aligned(start) => {
                self.pass()?;
                let content = Content::Piece(piece.clone(), start);
                self.circle.blocks.send(Block::Data { content, len, offset }).map_err(|_| Gone)
            }
            _ => self.write(offset, part.bytes),
        }
    }

    /// Copies bytes into blocks.
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
                let data = Block::Data { content: Content::Own(bytes), len, offset: self.offset };
                self.circle.blocks.send(data).map_err(|_| Gone)
            }
            block => {
                self.block = block;
                Ok(())
            }
        }
    }
}
