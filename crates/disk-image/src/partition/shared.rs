//! One disk for two: who writes it, and a library that reads a file system on it and wants a reader of its own.

use crate::disk::Disk;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle of a disk; clones are of the same disk.
#[derive(Clone)]
pub(crate) struct SharedDisk {
    disk: Arc<Mutex<Box<dyn Disk>>>,
    name: Arc<str>,
    size: u64,
    sector: u32,
}

impl SharedDisk {
    pub(crate) fn new(disk: Box<dyn Disk>) -> Self {
        let (name, size, sector) = (disk.name().into(), disk.size(), disk.sector_size());
        Self { disk: Arc::new(Mutex::new(disk)), name, size, sector }
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Disk>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SharedDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        self.lock().zero_at(offset, len)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.lock().write_at(bytes, offset)
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.lock().read_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }

    fn announce(&mut self) -> io::Result<()> {
        self.lock().announce()
    }

    fn lend(&mut self, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        self.lock().lend(work)
    }
}
