//! A disk that only compares: what would be written to it has to be there already.

use super::{Disk, OpenError};
use crate::target::HELD;
use rustix::fs::Advice;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that are compared at a time.
const PART: usize = 1 << 20;

/// Both ends as they would be written, and where the disk was found to differ. The ends are cleared before they get
/// their tables, so they can only be compared when all is over.
#[derive(Debug)]
pub(crate) struct Findings {
    file: File,
    head: Vec<u8>,
    tail: Vec<u8>,
    tail_at: u64,
    differs: Option<u64>,
}

impl Findings {
    /// The first byte that was found to differ.
    pub(crate) fn differs(&self) -> Option<u64> {
        self.differs
    }

    /// Compares both ends, and returns the first byte that differs.
    pub(crate) fn compare_ends(&self) -> io::Result<Option<u64>> {
        let mut found = vec![0; HELD as usize];
        for (offset, wanted) in [(0, &self.head), (self.tail_at, &self.tail)] {
            self.file.read_exact_at(&mut found, offset)?;
            if let Some(at) = found.iter().zip(wanted).position(|(found, wanted)| found != wanted) {
                return Ok(Some(offset + at as u64));
            }
        }
        Ok(None)
    }

    /// The end that `offset` is in, from there on, or how many bytes it is to the last one.
    fn end(&mut self, offset: u64) -> Result<&mut [u8], u64> {
        if offset < HELD {
            return Ok(&mut self.head[offset as usize..]);
        }
        match offset.checked_sub(self.tail_at) {
            Some(at) => Ok(&mut self.tail[(at as usize).min(HELD as usize)..]),
            None => Err(self.tail_at - offset),
        }
    }

    fn compare(&mut self, wanted: &[u8], offset: u64) -> io::Result<()> {
        let mut found = vec![0; wanted.len()];
        self.file.read_exact_at(&mut found, offset)?;
        match found.iter().zip(wanted).position(|(found, wanted)| found != wanted) {
            None => Ok(()),
            Some(at) => {
                self.differs = Some(offset + at as u64);
                Err(io::Error::other("it differs from the image"))
            }
        }
    }
}

/// A file or block device that is only read.
pub(crate) struct CompareDisk {
    name: String,
    size: u64,
    sector: u32,
    findings: Arc<Mutex<Findings>>,
}

impl CompareDisk {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let failed = |source: io::Error| OpenError::Open { path: path.display().to_string(), source };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::Kind { path: name });
        }
        let mut file = File::open(path).map_err(failed)?;
        let sector = match kind.is_file() {
            true => 512,
            false => rustix::fs::ioctl_blksszget(&file).map_err(|errno| failed(errno.into()))?,
        };
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size < 2 * HELD || !size.is_multiple_of(u64::from(sector)) {
            return Err(OpenError::Size { path: name, size, sector });
        }
        // What is in the cache and clean is forgotten, so that the medium is read.
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(|errno| failed(errno.into()))?;
        let (head, tail, tail_at) = (vec![0; HELD as usize], vec![0; HELD as usize], size - HELD);
        let findings = Arc::new(Mutex::new(Findings { file, head, tail, tail_at, differs: None }));
        Ok(Self { name, size, sector, findings })
    }

    pub(crate) fn findings(&self) -> Arc<Mutex<Findings>> {
        self.findings.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for CompareDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut findings = self.lock();
        let len = match findings.end(offset) {
            Ok(end) => {
                let len = bytes.len().min(end.len());
                end[..len].copy_from_slice(&bytes[..len]);
                return Ok(len);
            }
            Err(left) => (bytes.len() as u64).min(left).min(PART as u64) as usize,
        };
        findings.compare(&bytes[..len], offset)?;
        Ok(len)
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut findings = self.lock();
        match findings.end(offset) {
            Ok(end) => {
                let len = bytes.len().min(end.len());
                bytes[..len].copy_from_slice(&end[..len]);
                Ok(len)
            }
            Err(left) => {
                let len = (bytes.len() as u64).min(left) as usize;
                findings.file.read_at(&mut bytes[..len], offset)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn announce(&mut self) -> io::Result<()> {
        Ok(())
    }
}
