//! A disk as the proof of its erasure sees it: bytes, read past every cache of this machine. Whoever erases has another way in
//! ([`crate::device`]); the two share nothing.

use std::io;

/// A disk that may be read.
pub trait Medium: Send {
    /// Bytes that can be addressed.
    fn size(&self) -> u64;

    /// Bytes of a logical sector: offsets and lengths are multiples of it.
    fn sector(&self) -> u64;

    /// Fills `buffer` from the device itself, never from a cache of this machine.
    ///
    /// # Errors
    /// What the device or the kernel says.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Has the device empty its own write cache, and forgets what this machine has cached of it.
    ///
    /// # Errors
    /// What the device or the kernel says.
    fn flush(&mut self) -> io::Result<()>;
}

/// A disk that may also be written to, for the marks that have to be gone later.
pub trait MarkedMedium: Medium {
    /// Writes `bytes` to the device itself.
    ///
    /// # Errors
    /// What the device or the kernel says.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}
