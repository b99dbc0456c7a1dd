//! What a drive holds.

use super::BLOCK;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A medium in memory, full of known data.
pub(crate) struct Media {
    bytes: Vec<u8>,
    old: Arc<[u8]>,
}

/// What every medium of `size` bytes holds when it is made: each block its number over and over, so that no two are the same
/// and none is zeros.
fn old(size: usize) -> Arc<[u8]> {
    static MADE: Mutex<Option<Arc<[u8]>>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(old) = made.as_ref().filter(|old| old.len() == size) {
        return Arc::clone(old);
    }
    let mut bytes = vec![0; size];
    let words: Vec<[u8; 2]> = (0..BLOCK as u16 / 8).map(|word| (0x8000 | word).to_le_bytes()).collect();
    for (number, block) in (0_u64..).zip(bytes.chunks_exact_mut(BLOCK)) {
        for (word, [low, high]) in block.chunks_exact_mut(8).zip(&words) {
            word.copy_from_slice(&(number << 16).to_le_bytes());
            (word[0], word[1]) = (*low, *high);
        }
    }
    let old: Arc<[u8]> = bytes.into();
    *made = Some(Arc::clone(&old));
    old
}

impl Media {
    pub(crate) fn new(size: usize) -> Self {
        let old = old(size);
        Self { bytes: old.to_vec(), old }
    }

    pub(crate) fn old_blocks(&self, blocks: Range<usize>) -> usize {
        let both = self.bytes.chunks_exact(BLOCK).zip(self.old.chunks_exact(BLOCK));
        both.skip(blocks.start).take(blocks.len()).filter(|(now, then)| now == then).count()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn place(&mut self, offset: u64, length: usize) -> Result<&mut [u8], String> {
        let range = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(length)?));
        let aligned = offset.is_multiple_of(BLOCK as u64) && length.is_multiple_of(BLOCK);
        range
            .filter(|_| aligned)
            .and_then(|range| self.bytes.get_mut(range))
            .ok_or_else(|| format!("there are no {length} bytes at {offset}, or they are no whole blocks"))
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), String> {
        let length = buffer.len();
        self.place(offset, length).map(|place| buffer.copy_from_slice(place))
    }

    pub(crate) fn write(&mut self, data: &[u8], offset: u64) -> Result<(), String> {
        self.place(offset, data.len()).map(|place| place.copy_from_slice(data))
    }

    /// Zeros up to `end`.
    pub(crate) fn zero(&mut self, end: usize) {
        let end = end.min(self.bytes.len());
        self.bytes[..end].fill(0);
    }

    /// What is read with another key than it was written with, up to `end`.
    pub(crate) fn scramble(&mut self, end: usize) {
        let end = end.min(self.bytes.len());
        for word in self.bytes[..end].chunks_exact_mut(8) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            let mixed = (u64::from_le_bytes(bytes) ^ 0x5bd1_e995_0b0c_4f31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word.copy_from_slice(&mixed.to_le_bytes());
        }
    }
}
