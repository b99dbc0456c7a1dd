//! Regular files as disks.

use super::{Disk, OpenError};
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file that stands for a disk of its size.
pub struct FileDisk {
    file: File,
    name: String,
    size: u64,
    sector: u32,
}

impl FileDisk {
    /// Opens an existing file; its size is the size of the disk.
    pub fn open(path: &Path, sector: u32) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open { path: path.display().to_string(), source };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Self::of(file, path, size, sector)
    }

    /// Makes a new, sparse file of `size` bytes. An existing one is an error: nothing is overwritten by mistake.
    pub fn create(path: &Path, size: u64, sector: u32) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open { path: path.display().to_string(), source };
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(failed)?;
        file.set_len(size).map_err(failed)?;
        Self::of(file, path, size, sector)
    }

    fn of(file: File, path: &Path, size: u64, sector: u32) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        if size == 0 || !sector.is_power_of_two() || sector < 512 || !size.is_multiple_of(u64::from(sector)) {
            return Err(OpenError::Size { path: name, size, sector });
        }
        Ok(Self { file, name, size, sector })
    }
}

impl Disk for FileDisk {
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
        // A hole reads as zero (fallocate(2)); it is also what keeps a file image small.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, hole, offset, len) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        // After a flush the pages are clean; dropping them makes the read come from below the cache.
        let len = std::num::NonZeroU64::new(bytes.len() as u64);
        rustix::fs::fadvise(&self.file, offset, len, Advice::DontNeed)?;
        self.file.read_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn announce(&mut self) -> io::Result<()> {
        Ok(())
    }
}
