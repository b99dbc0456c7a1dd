//! A disk as the proof of its erasure reads it: `O_DIRECT`, so that no page cache stands in for the device.

use crate::sys;
use hardware::{MarkedMedium, Medium};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes that go over in one request.
const PIECE: usize = 1 << 20;
/// Memory for direct input and output has to begin at a multiple of the device's DMA alignment, which is never more than a page.
const PAGE: usize = 4096;

/// An opened disk.
pub(crate) struct DirectDisk {
    file: File,
    sector: u64,
    size: u64,
    memory: Vec<u8>,
}

impl DirectDisk {
    /// Opens the block device at `path` with logical sectors of `sector` bytes.
    pub(crate) fn open(path: &Path, sector: u64) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, sector, size, memory: vec![0; PIECE + PAGE] })
    }

    /// The part of the memory that begins at a page.
    fn aligned(memory: &mut [u8]) -> &mut [u8] {
        let skip = memory.as_ptr().align_offset(PAGE).min(PAGE);
        &mut memory[skip..skip + PIECE]
    }
}

impl Medium for DirectDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector(&self) -> u64 {
        self.sector
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let memory = Self::aligned(&mut self.memory);
        for (piece, at) in buffer.chunks_mut(PIECE).zip((offset..).step_by(PIECE)) {
            self.file.read_exact_at(&mut memory[..piece.len()], at)?;
            piece.copy_from_slice(&memory[..piece.len()]);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        // fsync(2) of a block device ends with a flush of the device's own cache; then the kernel's is thrown away, and the
        // size is asked for again: a device may have another one after an erase.
        self.file.sync_all()?;
        match sys::forget_cache(&self.file) {
            Err(error) if error.raw_os_error() != Some(libc::ENOTTY) => return Err(error),
            // A file in a test.
            _ => {}
        }
        self.size = self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }
}

impl MarkedMedium for DirectDisk {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let memory = Self::aligned(&mut self.memory);
        for (piece, at) in bytes.chunks(PIECE).zip((offset..).step_by(PIECE)) {
            memory[..piece.len()].copy_from_slice(piece);
            self.file.write_all_at(&memory[..piece.len()], at)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_directly_is_read_directly_in_sectors() {
        // Not the default folder: a file system in memory has no direct input and output.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("disk");
        File::create(&path).unwrap().set_len(5 << 20).unwrap();
        let mut disk = DirectDisk::open(&path, 4096).unwrap();
        let bytes: Vec<u8> = (0..3_u32 << 20).map(|number| (number / 7) as u8).collect();
        disk.write(1 << 20, &bytes).unwrap();
        disk.flush().unwrap();
        let mut read = vec![0; bytes.len()];
        disk.read(1 << 20, &mut read).unwrap();
        assert_eq!((read == bytes, disk.size()), (true, 5 << 20));
        assert!(disk.read(5 << 20, &mut read[..4096]).is_err());
    }
}
