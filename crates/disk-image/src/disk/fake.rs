//! A disk in memory that fails where it is told to, and remembers in which order it was written.

use super::Disk;
use std::io;
use std::sync::{Arc, Mutex};

/// What happened to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Write { offset: u64, bytes: Vec<u8> },
    Flush,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) bytes: Vec<u8>,
    pub(crate) log: Vec<Event>,
    /// Writes that touch a byte at or behind this offset fail with this error number, this many times.
    pub(crate) fail_write: Option<(u64, i32, u32)>,
    /// Reads that touch a byte at or behind this offset fail with this error number.
    pub(crate) fail_read: Option<(u64, i32)>,
    /// Flushes succeed this many times, then fail.
    pub(crate) flushes: Option<u32>,
    /// No write or read moves more than this.
    pub(crate) at_most: Option<usize>,
    /// A write behind this offset is acknowledged and lost.
    pub(crate) loses: Option<std::ops::Range<u64>>,
    /// After so many writes the disk ends at this byte: what is behind it takes and gives nothing.
    pub(crate) shrinks: Option<(u32, u64)>,
    pub(crate) announced: u32,
}

impl State {
    /// Bytes that there still are from here on.
    fn left(&self, offset: u64) -> usize {
        let writes = self.log.iter().filter(|event| matches!(event, Event::Write { .. })).count();
        match self.shrinks {
            Some((after, end)) if writes >= after as usize => end.saturating_sub(offset) as usize,
            _ => usize::MAX,
        }
    }
}

/// Clones share the same bytes, so that a test can look at the disk that it gave away.
#[derive(Clone)]
pub(crate) struct FakeDisk {
    pub(crate) state: Arc<Mutex<State>>,
    size: u64,
    sector: u32,
}

impl FakeDisk {
    pub(crate) fn new(bytes: Vec<u8>, sector: u32) -> Self {
        let size = bytes.len() as u64;
        Self { state: Arc::new(Mutex::new(State { bytes, ..State::default() })), size, sector }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().bytes.clone()
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn check(&self, len: usize, offset: u64) {
        assert_eq!(offset % u64::from(self.sector), 0, "offset {offset} is not on a sector");
        assert_eq!(len % self.sector as usize, 0, "length {len} is not in sectors");
        assert!(offset + len as u64 <= self.size, "{len} bytes at {offset} leave the disk");
    }
}

impl Disk for FakeDisk {
    fn name(&self) -> &str {
        "fake disk"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.check(bytes.len(), offset);
        let mut state = self.state.lock().unwrap();
        let len = bytes.len().min(state.at_most.unwrap_or(usize::MAX)).min(state.left(offset));
        if len == 0 {
            return Ok(0);
        }
        if let Some((from, errno, times)) = &mut state.fail_write
            && offset + len as u64 > *from
            && *times > 0
        {
            *times -= 1;
            return Err(io::Error::from_raw_os_error(*errno));
        }
        if !state.loses.as_ref().is_some_and(|lost| lost.contains(&offset)) {
            state.bytes[offset as usize..offset as usize + len].copy_from_slice(&bytes[..len]);
        }
        state.log.push(Event::Write { offset, bytes: bytes[..len].to_vec() });
        Ok(len)
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.check(bytes.len(), offset);
        let state = self.state.lock().unwrap();
        let len = bytes.len().min(state.at_most.unwrap_or(usize::MAX)).min(state.left(offset));
        if let Some((from, errno)) = state.fail_read
            && offset + len as u64 > from
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        bytes[..len].copy_from_slice(&state.bytes[offset as usize..offset as usize + len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if let Some(left) = &mut state.flushes {
            *left = left.checked_sub(1).ok_or(io::Error::from_raw_os_error(5))?;
        }
        state.log.push(Event::Flush);
        Ok(())
    }

    fn announce(&mut self) -> io::Result<()> {
        self.state.lock().unwrap().announced += 1;
        Ok(())
    }
}
