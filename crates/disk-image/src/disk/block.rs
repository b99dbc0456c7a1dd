//! Block devices: direct I/O, so that neither the ramdisk's memory fills up with image nor a cache hides an error.

use super::{Disk, OpenError};
use crate::buffer::{AlignedBuf, is_aligned};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Bytes that an unaligned request moves at a time.
const BOUNCE: usize = 1 << 20;
/// `BLKRRPART` of linux/fs.h: read the partition table again.
const REREAD_TABLE: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 95);
/// `BLKFLSBUF` of linux/fs.h: write out and forget the buffer cache.
const FORGET_BUFFERS: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 97);

/// `BLKZEROOUT` of linux/fs.h: the kernel makes a range read as zero, by the drive's own command where that guarantees
/// zeros, else by writing them.
const ZERO_OUT: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 127);

/// Opens a device for direct I/O, or with the cache where direct I/O is not offered, so that nobody else can claim it.
fn exclusive(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
        Err(Errno::INVAL) => rustix::fs::open(path, flags, Mode::empty()),
        other => other,
    };
    Ok(File::from(fd?))
}

/// Whether a block device takes no writes (Linux, Documentation/ABI/stable/sysfs-block: `ro`).
fn is_read_only(sys: &Path, device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    std::fs::read(sys.join(format!("dev/block/{major}:{minor}/ro"))).is_ok_and(|value| value.starts_with(b"1"))
}

/// A whole block device, held exclusively: what is mounted, or a part of RAID or LVM, does not open.
pub struct BlockDisk {
    file: File,
    name: String,
    size: u64,
    sector: u32,
    bounce: AlignedBuf,
}

impl BlockDisk {
    /// Opens the device for direct I/O, or with the cache where direct I/O is not offered.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let failed = |source: io::Error| OpenError::Open { path: path.display().to_string(), source };
        let mut file = exclusive(path).map_err(failed)?;
        // Opening for writing does not fail on every kernel, and the first write should not be the one to tell.
        let device = file.metadata().map_err(failed)?.rdev();
        if is_read_only(Path::new("/sys"), device) {
            return Err(OpenError::ReadOnly { path: name });
        }
        let sector = rustix::fs::ioctl_blksszget(&file).map_err(|errno| failed(errno.into()))?;
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size == 0 || !size.is_multiple_of(u64::from(sector.max(512))) {
            return Err(OpenError::Size { path: name, size, sector });
        }
        Ok(Self { file, name, size, sector, bounce: AlignedBuf::zeroed(BOUNCE) })
    }

    #[allow(unsafe_code, reason = "the two requests have no safe wrapper, and the disk has to stay open for them")]
    fn request<const OPCODE: rustix::ioctl::Opcode>(&self) -> io::Result<()> {
        // SAFETY: linux/fs.h defines both requests that this is called with as _IO: they take no argument and touch
        // no memory of this process. The descriptor is open for the whole call.
        unsafe { rustix::ioctl::ioctl(&self.file, rustix::ioctl::NoArg::<OPCODE>::new())? };
        Ok(())
    }
}

impl Disk for BlockDisk {
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
        if is_aligned(bytes) {
            return self.file.write_at(bytes, offset);
        }
        let len = bytes.len().min(BOUNCE);
        self.bounce[..len].copy_from_slice(&bytes[..len]);
        self.file.write_at(&self.bounce[..len], offset)
    }

    #[allow(unsafe_code, reason = "the request has no safe wrapper, and the disk has to stay open for it")]
    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        // SAFETY: linux/fs.h defines the request as reading two 64-bit numbers, start and length in bytes, and
        // touching no other memory of this process. Both live in the array for the whole call.
        let result = unsafe {
            let range = rustix::ioctl::Setter::<ZERO_OUT, [u64; 2]>::new([offset, len]);
            rustix::ioctl::ioctl(&self.file, range)
        };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        if is_aligned(bytes) {
            return self.file.read_at(bytes, offset);
        }
        let len = bytes.len().min(BOUNCE);
        let len = self.file.read_at(&mut self.bounce[..len], offset)?;
        bytes[..len].copy_from_slice(&self.bounce[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        // On a block device fsync also flushes the cache of the drive.
        self.file.sync_all()
    }

    fn lend(&mut self, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let path = Path::new(&self.name).to_owned();
        // A handle that does not exclude others takes the place of the exclusive one.
        self.file = File::open(&path)?;
        let worked = work();
        let mut file = exclusive(&path)?;
        if file.seek(SeekFrom::End(0))? != self.size {
            return Err(io::Error::other("another device is there now"));
        }
        self.file = file;
        worked
    }

    fn announce(&mut self) -> io::Result<()> {
        self.request::<FORGET_BUFFERS>()?;
        self.request::<REREAD_TABLE>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_have_the_numbers_of_the_kernel_header() {
        assert_eq!((REREAD_TABLE, FORGET_BUFFERS, ZERO_OUT), (0x125f, 0x1261, 0x127f));
    }

    #[test]
    fn a_write_protected_device_is_told_by_what_the_kernel_says_of_it() {
        let sys = tempfile::tempdir().unwrap();
        for (minor, value) in [(0, "1\n"), (1, "0\n")] {
            let folder = sys.path().join(format!("dev/block/7:{minor}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("ro"), value).unwrap();
        }
        let told = [0, 1, 2].map(|minor| is_read_only(sys.path(), rustix::fs::makedev(7, minor)));
        assert_eq!(told, [true, false, false]);
    }

    #[test]
    fn what_is_no_block_device_does_not_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(BlockDisk::open(file.path()).is_err());
        assert!(BlockDisk::open(Path::new("/dev/does-not-exist")).is_err());
    }
}
