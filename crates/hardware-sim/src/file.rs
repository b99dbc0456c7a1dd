//! A disk that is a file, as a device without commands of its own (like virtio-blk): the kernel's requests are all that it takes.

use hardware::{
    Bus, Device, DeviceError, DeviceId, Limits, MarkedMedium, Medium, NvmeCommand, NvmeCompletion, ScsiCompletion,
    Transfer,
};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How a device says that it was erased, and was not. Marks that somebody else writes are kept all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Nothing is erased from this byte on, and whoever erases reads zeros there all the same, as from a cache.
    KeepsFrom(u64),
    /// It says that it erased, and fails when its cache is to be emptied.
    NeverFlushes,
    /// Writes are lost, whoever writes.
    LosesWrites,
}

/// An opened file as a disk.
#[derive(Debug, Clone)]
pub struct FileDisk {
    id: DeviceId,
    file: Arc<File>,
    size: u64,
    sector: u32,
    lie: Option<Lie>,
}

impl FileDisk {
    /// Opens the file at `path` as a disk with sectors of `sector` bytes.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(id: DeviceId, path: &Path, sector: u32, lie: Option<Lie>) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let id = DeviceId { size: file.metadata()?.len(), ..id };
        Ok(Self::of(id, Arc::new(file), sector, lie))
    }

    pub(crate) fn of(id: DeviceId, file: Arc<File>, sector: u32, lie: Option<Lie>) -> Self {
        Self { size: id.size, id, file, sector, lie }
    }

    /// Direct input and output is of whole sectors, as the kernel wants it.
    fn whole(&self, offset: u64, length: usize) -> io::Result<()> {
        let sector = u64::from(self.sector);
        if offset.is_multiple_of(sector) && (length as u64).is_multiple_of(sector) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{length} bytes at {offset} are no whole sectors")))
    }

    fn done(&self, command: &str, result: io::Result<()>) -> Result<(), DeviceError> {
        let failed = |source| DeviceError::Io { command: command.to_owned(), device: self.id.to_string(), source };
        result.map_err(failed)
    }

    fn no_path(&self, command: &str) -> DeviceError {
        DeviceError::NoSuchPath { command: command.to_owned(), device: self.id.to_string() }
    }

    /// What is really written of `length` bytes at `offset` by whoever erases.
    fn kept(&self, offset: u64, length: u64) -> u64 {
        match self.lie {
            Some(Lie::KeepsFrom(from)) => from.saturating_sub(offset).min(length),
            Some(Lie::LosesWrites) => 0,
            Some(Lie::NeverFlushes) | None => length,
        }
    }
}

impl Device for FileDisk {
    fn id(&self) -> &DeviceId {
        &self.id
    }

    fn bus(&self) -> Bus {
        Bus::Block
    }

    fn limits(&self) -> Limits {
        Limits { size: self.size, logical_block: self.sector, write_zeroes_max: 1 << 20, ..Limits::default() }
    }

    fn nvme_admin(&self, _: &NvmeCommand, _: Transfer<'_>, _: Duration) -> Result<NvmeCompletion, DeviceError> {
        Err(self.no_path("an NVMe command"))
    }

    fn scsi(&self, _: &[u8], _: Transfer<'_>, _: Duration) -> Result<ScsiCompletion, DeviceError> {
        Err(self.no_path("a SCSI command"))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let whole = self.whole(offset, buffer.len());
        self.done("read", whole.and_then(|()| self.file.read_exact_at(buffer, offset)))?;
        if let Some(Lie::KeepsFrom(from)) = self.lie {
            let true_until = usize::try_from(from.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
            buffer[true_until..].fill(0);
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DeviceError> {
        let kept = usize::try_from(self.kept(offset, data.len() as u64)).unwrap_or(usize::MAX);
        let whole = self.whole(offset, data.len());
        self.done("write", whole.and_then(|()| self.file.write_all_at(&data[..kept], offset)))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        let kept = self.kept(offset, length);
        if kept == 0 {
            return Ok(());
        }
        // A hole reads as zeros (fallocate(2)); a disk of gigabytes costs no memory when it is erased.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = rustix::fs::fallocate(&self.file, hole, offset, kept);
        self.done("write zeroes", punched.map_err(io::Error::from))
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        Err(self.no_path("discard"))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl Medium for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector(&self) -> u64 {
        self.sector.into()
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.whole(offset, buffer.len())?;
        self.file.read_exact_at(buffer, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.lie == Some(Lie::NeverFlushes) { Err(io::Error::other("injected fault")) } else { Ok(()) }
    }
}

impl MarkedMedium for FileDisk {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.whole(offset, bytes.len())?;
        if self.lie == Some(Lie::LosesWrites) { Ok(()) } else { self.file.write_all_at(bytes, offset) }
    }
}
