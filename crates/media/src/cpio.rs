//! Writer of cpio archives in the `newc` format, the one that the Linux kernel unpacks as initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same calls give the same bytes: inode numbers count up, times are 0, owner and group are 0. Archives may be
//! concatenated, plain or compressed one by one; the kernel unpacks them in order.

use crate::path::{self, PathError};
use std::collections::BTreeSet;
use std::io::{self, Write};

const TRAILER: &str = "TRAILER!!!";

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// The path is not one that an archive may hold.
    #[error("the archive entry has a bad path")]
    Path(#[source] PathError),
    /// The kernel creates nothing below a directory that does not exist yet, and does not say so.
    #[error("{path:?} comes before its directory; add the directory first")]
    NoDirectory {
        /// The entry's path.
        path: String,
    },
    /// The same path was added before.
    #[error("{path:?} is in the archive already")]
    Duplicate {
        /// The entry's path.
        path: String,
    },
    /// newc has 32 bits for a size.
    #[error("{path:?} has {size} bytes, and the format ends at 4 GiB - 1")]
    TooLarge {
        /// The entry's path.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// The output failed.
    #[error("the archive could not be written")]
    Write(#[source] io::Error),
}

/// The kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// An archive that is being written.
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
    next_inode: u32,
    paths: BTreeSet<String>,
    directories: BTreeSet<String>,
}

struct Header<'a> {
    path: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
}

impl<W: Write> Archive<W> {
    /// Starts an archive on `out`.
    pub fn new(out: W) -> Self {
        Self { out, next_inode: 1, paths: BTreeSet::new(), directories: BTreeSet::new() }
    }

    /// Adds a directory with the permission bits `mode`.
    ///
    /// # Errors
    /// See [`CpioError`]; the directory above must have been added.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), CpioError> {
        self.entry(&Header { path, mode: S_IFDIR | (mode & 0o7777), links: 2, device: (0, 0) }, &[])?;
        self.directories.insert(path.to_owned());
        Ok(())
    }

    /// Adds a regular file with the permission bits `mode`.
    ///
    /// # Errors
    /// See [`CpioError`]; the directory above must have been added.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<(), CpioError> {
        self.entry(&Header { path, mode: S_IFREG | (mode & 0o7777), links: 1, device: (0, 0) }, data)
    }

    /// Adds a symbolic link; the target is stored as it is.
    ///
    /// # Errors
    /// See [`CpioError`]; the directory above must have been added.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        self.entry(&Header { path, mode: S_IFLNK | 0o777, links: 1, device: (0, 0) }, target.as_bytes())
    }

    /// Adds a device node with the permission bits `mode` and the numbers `(major, minor)`.
    ///
    /// # Errors
    /// See [`CpioError`]; the directory above must have been added.
    pub fn device(&mut self, path: &str, mode: u32, kind: Device, numbers: (u32, u32)) -> Result<(), CpioError> {
        let kind = match kind {
            Device::Char => S_IFCHR,
            Device::Block => S_IFBLK,
        };
        self.entry(&Header { path, mode: kind | (mode & 0o7777), links: 1, device: numbers }, &[])
    }

    /// Writes the trailer and gives the output back.
    ///
    /// # Errors
    /// [`CpioError::Write`] when the output fails.
    pub fn finish(mut self) -> Result<W, CpioError> {
        self.next_inode = 0;
        self.write(&Header { path: TRAILER, mode: 0, links: 1, device: (0, 0) }, &[]).map_err(CpioError::Write)?;
        self.out.flush().map_err(CpioError::Write)?;
        Ok(self.out)
    }

    fn entry(&mut self, header: &Header<'_>, data: &[u8]) -> Result<(), CpioError> {
        let path = header.path.to_owned();
        path::components(&path).map_err(CpioError::Path)?;
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.directories.contains(parent)
        {
            return Err(CpioError::NoDirectory { path });
        }
        if u32::try_from(data.len()).is_err() {
            return Err(CpioError::TooLarge { path, size: data.len() as u64 });
        }
        if !self.paths.insert(path.clone()) {
            return Err(CpioError::Duplicate { path });
        }
        self.write(header, data).map_err(CpioError::Write)
    }

    fn write(&mut self, header: &Header<'_>, data: &[u8]) -> io::Result<()> {
        let inode = self.next_inode;
        self.next_inode += 1;
        let name_size = header.path.len() + 1;
        let fields = [
            inode,
            header.mode,
            0, // owner
            0, // group
            header.links,
            0, // modification time
            u32::try_from(data.len()).map_err(io::Error::other)?,
            0, // device that holds the file: major
            0, // and minor
            header.device.0,
            header.device.1,
            u32::try_from(name_size).map_err(io::Error::other)?,
            0, // checksum: unused in newc
        ];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(header.path.as_bytes())?;
        self.out.write_all(b"\0")?;
        self.pad(6 + fields.len() * 8 + name_size)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    /// Name and data each end at a multiple of 4.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev", 0o755).unwrap();
        archive.device("dev/console", 0o600, Device::Char, (5, 1)).unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        archive.symlink("linuxrc", "init").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn entries_are_aligned_and_numbered_and_have_no_time() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes).replace('\0', "~").replace("070701", "\n070701");
        insta::assert_snapshot!(text.trim_start());
    }

    #[test]
    fn the_same_calls_give_the_same_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn an_entry_before_its_directory_is_refused() {
        let mut archive = Archive::new(Vec::new());
        assert!(matches!(archive.file("etc/hosts", 0o644, b""), Err(CpioError::NoDirectory { .. })));
        archive.file("etc", 0o644, b"").unwrap();
        assert!(matches!(archive.file("etc/hosts", 0o644, b""), Err(CpioError::NoDirectory { .. })));
    }

    #[test]
    fn a_path_is_taken_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", 0o755, b"").unwrap();
        assert!(matches!(archive.symlink("init", "x"), Err(CpioError::Duplicate { .. })));
        assert!(matches!(archive.file("../init", 0o755, b""), Err(CpioError::Path(_))));
    }
}
