//! Where an image goes: a file, a loop device, a drive. Bytes at offsets, and one barrier.

use crate::buffer::AlignedBuf;
use std::fmt;
use std::io;
use std::path::Path;

mod block;
pub(crate) mod compare;
#[cfg(test)]
pub(crate) mod fake;
mod file;

pub use block::BlockDisk;
pub use file::FileDisk;

/// A thing with a fixed size that images are written to.
///
/// Offsets and lengths of all calls are multiples of the sector size. Reads and writes may be short, as with files.
pub trait Disk: Send {
    /// What to call it in messages, such as `/dev/sda`.
    fn name(&self) -> &str;
    /// Bytes in all.
    fn size(&self) -> u64;
    /// Bytes of a logical sector: the unit of partition tables.
    fn sector_size(&self) -> u32;
    /// Makes `len` bytes at `offset` read as zero without sending them, and says whether that was done. `false`: the
    /// zeros have to be written. Only what guarantees zeros counts: a discard alone, after which a drive may return
    /// anything, does not.
    fn zero_at(&mut self, _offset: u64, _len: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// Writes some of `bytes` at `offset`.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Reads some bytes at `offset`, from the medium where that can be told apart from a cache.
    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Returns when everything written before survives a loss of power.
    fn flush(&mut self) -> io::Result<()>;
    /// Tells the operating system that the partition table is a new one.
    fn announce(&mut self) -> io::Result<()>;
    /// Lets somebody else open the disk, who does so only during `work`.
    fn lend(&mut self, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        work()
    }
}

impl<D: Disk + ?Sized> Disk for Box<D> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn sector_size(&self) -> u32 {
        (**self).sector_size()
    }
    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        (**self).zero_at(offset, len)
    }
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        (**self).write_at(bytes, offset)
    }
    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(bytes, offset)
    }
    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }
    fn announce(&mut self) -> io::Result<()> {
        (**self).announce()
    }
    fn lend(&mut self, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        (**self).lend(work)
    }
}

/// Why a disk cannot be written to at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened. A block device that is mounted, or part of RAID or LVM, is busy.
    #[error("open {path} for writing")]
    Open {
        /// Its path.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It takes no writes.
    #[error(
        "{path} is write-protected: look for a switch on the medium, or for what set it read-only (blockdev --setrw)"
    )]
    ReadOnly {
        /// Its path.
        path: String,
    },
    /// Neither a block device nor a regular file.
    #[error("{path} is neither a block device nor a regular file")]
    Kind {
        /// Its path.
        path: String,
    },
    /// Its size is not one that a disk can have.
    #[error("{path} has {size} bytes: not a multiple of its {sector}-byte sectors, or none")]
    Size {
        /// Its path.
        path: String,
        /// Its size.
        size: u64,
        /// Sector size.
        sector: u32,
    },
}

/// Opens a block device or an existing file, whichever the path is. A file counts as a disk of 512-byte sectors and
/// keeps its size.
pub fn open(path: &Path) -> Result<Box<dyn Disk>, OpenError> {
    let shown = || path.display().to_string();
    let kind = std::fs::metadata(path).map_err(|source| OpenError::Open { path: shown(), source })?.file_type();
    if std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
        Ok(Box::new(BlockDisk::open(path)?))
    } else if kind.is_file() {
        Ok(Box::new(FileDisk::open(path, 512)?))
    } else {
        Err(OpenError::Kind { path: shown() })
    }
}

/// A read or write that failed, and where.
#[derive(Debug, thiserror::Error)]
pub struct DiskError {
    /// What was being done.
    pub action: DiskAction,
    /// Byte of the disk; of no meaning for a flush.
    pub offset: u64,
    /// Name of the disk.
    pub disk: String,
    /// Cause.
    #[source]
    pub source: io::Error,
}

/// What was being done when a [`DiskError`] happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskAction {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A barrier.
    Flush,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            DiskAction::Read => write!(f, "read {} at byte {}", self.disk, self.offset),
            DiskAction::Write => write!(f, "write {} at byte {}", self.disk, self.offset),
            DiskAction::Flush => write!(f, "flush {}", self.disk),
        }
    }
}

/// Writes all of `bytes`, however short the single writes are.
pub(crate) fn write_all(disk: &mut dyn Disk, mut bytes: &[u8], mut offset: u64) -> Result<(), DiskError> {
    while !bytes.is_empty() {
        let source = match disk.write_at(bytes, offset) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(len) => {
                bytes = bytes.get(len..).unwrap_or_default();
                offset += len as u64;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        return Err(DiskError { action: DiskAction::Write, offset, disk: disk.name().to_owned(), source });
    }
    Ok(())
}

/// Fills all of `bytes`, however short the single reads are.
pub(crate) fn read_all(disk: &mut dyn Disk, bytes: &mut [u8], offset: u64) -> Result<(), DiskError> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        let source = match disk.read_at(&mut bytes[done..], at) {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(len) => {
                done += len;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        return Err(DiskError { action: DiskAction::Read, offset: at, disk: disk.name().to_owned(), source });
    }
    Ok(())
}

/// Makes `len` bytes zero: by the disk's own means where it has some, else `zeros` is written as often as it takes.
pub(crate) fn zero(disk: &mut dyn Disk, zeros: &[u8], mut offset: u64, mut len: u64) -> Result<(), DiskError> {
    let done = loop {
        match disk.zero_at(offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    match done {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(source) => {
            return Err(DiskError { action: DiskAction::Write, offset, disk: disk.name().to_owned(), source });
        }
    }
    while len > 0 {
        let part = len.min(zeros.len() as u64);
        write_all(disk, &zeros[..part as usize], offset)?;
        offset += part;
        len -= part;
    }
    Ok(())
}

/// The barrier, with its error told.
pub(crate) fn flush(disk: &mut dyn Disk) -> Result<(), DiskError> {
    disk.flush().map_err(|source| DiskError {
        action: DiskAction::Flush,
        offset: 0,
        disk: disk.name().to_owned(),
        source,
    })
}

/// Reads up to `len` bytes (a multiple of every sector size) at `offset`, less at the end of the disk.
pub(crate) fn read_some(disk: &mut dyn Disk, len: usize, offset: u64) -> Result<AlignedBuf, DiskError> {
    let len = len.min(usize::try_from(disk.size().saturating_sub(offset)).unwrap_or(usize::MAX));
    let mut bytes = AlignedBuf::zeroed(len);
    read_all(disk, &mut bytes, offset)?;
    Ok(bytes)
}
