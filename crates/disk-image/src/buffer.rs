//! Memory that direct I/O accepts.

use std::ops::{Deref, DerefMut};

/// Alignment of every buffer, bytes: the largest logical sector in use.
pub(crate) const ALIGN: usize = 4096;

/// Bytes whose address is a multiple of [`ALIGN`].
///
/// A larger vector is allocated and the aligned part of it used; that keeps the crate free of raw allocation.
pub(crate) struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes.
    pub(crate) fn zeroed(len: usize) -> Self {
        let memory = vec![0; len + ALIGN];
        let start = (ALIGN - memory.as_ptr().addr() % ALIGN) % ALIGN;
        Self { memory, start, len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Whether direct I/O accepts this memory.
pub(crate) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGN)
}

/// Whether every byte is zero. Data is found out at its first bytes that are not.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ALIGN).all(|part| {
        // Whole words first: the compiler turns this into vector instructions.
        let (words, rest) = part.as_chunks::<8>();
        words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0 && rest.iter().all(|&byte| byte == 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked() {
        for len in [1, 4096, 1 << 20] {
            let buf = AlignedBuf::zeroed(len);
            assert!(is_aligned(&buf));
            assert_eq!(buf.len(), len);
        }
    }

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        for len in [0, 1, 7, 8, 9, 64, 100, ALIGN + 9] {
            assert!(is_zero(&vec![0; len]));
            for at in 0..len {
                let mut bytes = vec![0; len];
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes));
            }
        }
    }
}
