//! An opened disk that takes commands: `NVME_IOCTL_ADMIN_CMD`, `SG_IO`, `BLKDISCARD`, `BLKZEROOUT`, and reads and writes that
//! pass by the page cache.

use crate::sys;
use crate::tree::{self, Tree};
use hardware::{Bus, Device, DeviceError, DeviceId, Limits, NvmeCommand, NvmeCompletion, ScsiCompletion, Transfer};
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// No device wants its buffers on larger boundaries (`queue_dma_alignment` is below a page).
const ALIGNMENT: usize = 4096;

/// A disk of this machine.
#[derive(Debug)]
pub(crate) struct LinuxDevice {
    id: DeviceId,
    file: File,
    bus: Bus,
    limits: Limits,
}

impl LinuxDevice {
    /// Takes over the disk that `file` is, opened for reading and writing with `O_EXCL`. Its kernel name in `tree` is `name`,
    /// such as `sda`. From now on its reads and writes pass by the page cache.
    pub(crate) fn new(tree: &Tree, name: &str, id: DeviceId, file: File) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags | OFlags::DIRECT)?;
        Ok(Self::of(tree, name, id, file))
    }

    fn of(tree: &Tree, name: &str, id: DeviceId, file: File) -> Self {
        let bus = match sys::nvme_namespace(&file) {
            Ok(namespace) => Bus::Nvme { namespace },
            Err(_) if sys::takes_scsi(&file) => Bus::Scsi,
            Err(_) => Bus::Block,
        };
        let limits = limits(tree, name, id.size);
        Self { id, file, bus, limits }
    }

    fn failed(&self, command: &str, limit: Duration, source: io::Error) -> DeviceError {
        let (command, device) = (command.to_owned(), self.id.node.clone());
        match source.raw_os_error() {
            Some(libc::ENOTTY) => DeviceError::NoSuchPath { command, device },
            Some(libc::ETIMEDOUT) => DeviceError::TimedOut { command, device, limit },
            // `EINTR` is how the NVMe driver says that it gave a command up when it reset the controller.
            Some(libc::ENODEV | libc::ENXIO | libc::EINTR) => DeviceError::Reset { command, device },
            _ => DeviceError::Io { command, device, source },
        }
    }

    fn aligned(&self, offset: u64, length: usize) -> io::Result<()> {
        let block = u64::from(self.limits.logical_block);
        if offset.is_multiple_of(block) && (length as u64).is_multiple_of(block) {
            return Ok(());
        }
        let text = format!("{length} bytes at {offset} are not whole blocks of {block}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

/// What the kernel says of the queue of a block device (`Documentation/ABI/stable/sysfs-block`).
fn limits(tree: &Tree, name: &str, size: u64) -> Limits {
    let number = |file: &str| tree::number(&tree.path(format!("/sys/block/{name}/{file}"))).unwrap_or_default();
    Limits {
        size,
        logical_block: u32::try_from(number("queue/logical_block_size")).ok().filter(|size| *size > 0).unwrap_or(512),
        rotational: number("queue/rotational") == 1,
        discard_granularity: number("queue/discard_granularity"),
        discard_max: number("queue/discard_max_bytes"),
        write_zeroes_max: number("queue/write_zeroes_max_bytes"),
        read_only: number("ro") == 1,
    }
}

/// Room for `length` bytes that begins where a device can put them: the buffer and where they begin in it.
fn room(length: usize) -> (Vec<u8>, usize) {
    let buffer = vec![0; length + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    (buffer, start)
}

/// A command in an error.
fn named(kind: &str, opcode: u8) -> String {
    format!("{kind} command {opcode:02x}h")
}

impl Device for LinuxDevice {
    fn id(&self) -> &DeviceId {
        &self.id
    }

    fn bus(&self) -> Bus {
        self.bus
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn nvme_admin(
        &self,
        command: &NvmeCommand,
        data: Transfer<'_>,
        limit: Duration,
    ) -> Result<NvmeCompletion, DeviceError> {
        // Status codes of `include/linux/nvme.h` that no device sends: the driver itself gave the command up.
        const HOST_PATH_ERROR: u16 = 0x370;
        const HOST_ABORTED: u16 = 0x371;
        /// Sent by the device for a command that the driver has it abort, as its time was over.
        const ABORT_REQUESTED: u16 = 0x007;
        let name = named("NVMe admin", command.opcode);
        let (status, result) =
            sys::nvme_admin(&self.file, command, data, limit).map_err(|source| self.failed(&name, limit, source))?;
        let device = self.id.node.clone();
        match status & 0x7ff {
            HOST_PATH_ERROR | HOST_ABORTED => Err(DeviceError::Reset { command: name, device }),
            ABORT_REQUESTED => Err(DeviceError::TimedOut { command: name, device, limit }),
            _ => Ok(NvmeCompletion { status, result }),
        }
    }

    fn scsi(&self, cdb: &[u8], data: Transfer<'_>, limit: Duration) -> Result<ScsiCompletion, DeviceError> {
        // `DID_…` of `include/scsi/scsi_status.h`.
        const NO_CONNECT: u16 = 0x01;
        const TIME_OUT: u16 = 0x03;
        const RESET: u16 = 0x08;
        const TRANSPORT_DISRUPTED: u16 = 0x0e;
        const TRANSPORT_FAILFAST: u16 = 0x0f;
        const CHECK_CONDITION: u8 = 2;
        let name = named("SCSI", cdb.first().copied().unwrap_or_default());
        let answer = sys::scsi(&self.file, cdb, data, limit).map_err(|source| self.failed(&name, limit, source))?;
        let device = self.id.node.clone();
        match answer.host_status {
            TIME_OUT => return Err(DeviceError::TimedOut { command: name, device, limit }),
            NO_CONNECT | RESET | TRANSPORT_DISRUPTED | TRANSPORT_FAILFAST => {
                return Err(DeviceError::Reset { command: name, device });
            }
            0 => {}
            // Whatever else the host says, the word of the device counts if there is one.
            _ if answer.status == CHECK_CONDITION && !answer.sense.is_empty() => {}
            other => {
                let text = format!("host status {other:02x}h, driver status {:02x}h", answer.driver_status);
                return Err(DeviceError::Io { command: name, device, source: io::Error::other(text) });
            }
        }
        Ok(ScsiCompletion { status: answer.status, sense: answer.sense, residual: answer.residual })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let (mut space, start) = room(buffer.len());
        let place = &mut space[start..start + buffer.len()];
        let read = self.aligned(offset, buffer.len()).and_then(|()| self.file.read_exact_at(place, offset));
        read.map_err(|source| self.failed("read", Duration::ZERO, source))?;
        buffer.copy_from_slice(place);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DeviceError> {
        let (mut space, start) = room(data.len());
        let place = &mut space[start..start + data.len()];
        place.copy_from_slice(data);
        let written = self.aligned(offset, data.len()).and_then(|()| self.file.write_all_at(place, offset));
        written.map_err(|source| self.failed("write", Duration::ZERO, source))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        sys::zero_out(&self.file, offset, length).map_err(|source| self.failed("BLKZEROOUT", Duration::ZERO, source))
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        sys::discard(&self.file, offset, length).map_err(|source| self.failed("BLKDISCARD", Duration::ZERO, source))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.file.sync_all().map_err(|source| self.failed("flush", Duration::ZERO, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(dir: &std::path::Path) -> LinuxDevice {
        let queue = dir.join("sys/block/sda/queue");
        std::fs::create_dir_all(&queue).unwrap();
        for (name, value) in [
            ("logical_block_size", "4096"),
            ("rotational", "1"),
            ("discard_granularity", "8192"),
            ("discard_max_bytes", "1073741824"),
            ("write_zeroes_max_bytes", "33553920"),
        ] {
            std::fs::write(queue.join(name), format!("{value}\n")).unwrap();
        }
        std::fs::write(dir.join("sys/block/sda/ro"), "1\n").unwrap();
        std::fs::write(dir.join("disk"), vec![7; 1 << 20]).unwrap();
        let id = DeviceId { node: "/dev/sda".to_owned(), wwn: None, serial: None, path: None, size: 1 << 20 };
        let file = File::options().read(true).write(true).open(dir.join("disk")).unwrap();
        LinuxDevice::of(&Tree::at(dir), "sda", id, file)
    }

    #[test]
    fn limits_are_those_of_the_queue() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Limits {
            size: 1 << 20,
            logical_block: 4096,
            rotational: true,
            discard_granularity: 8192,
            discard_max: 1 << 30,
            write_zeroes_max: 33_553_920,
            read_only: true,
        };
        assert_eq!(device(dir.path()).limits(), wanted);
    }

    #[test]
    fn reads_and_writes_are_of_whole_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let device = device(dir.path());
        device.write_at(&[1; 8192], 4096).unwrap();
        device.flush().unwrap();
        let mut buffer = [0; 12288];
        device.read_at(&mut buffer, 0).unwrap();
        assert!(buffer[..4096].iter().all(|byte| *byte == 7) && buffer[4096..].iter().all(|byte| *byte == 1));
        assert!(device.read_at(&mut buffer[..512], 0).is_err());
        assert!(device.write_at(&[0; 4096], 512).is_err());
    }

    #[test]
    fn what_takes_no_commands_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let device = device(dir.path());
        assert_eq!(device.bus(), Bus::Block);
        let answer = device.scsi(&[0; 6], Transfer::None, Duration::from_secs(1));
        assert!(matches!(answer, Err(DeviceError::NoSuchPath { .. })), "{answer:?}");
        let answer = device.nvme_admin(&NvmeCommand::default(), Transfer::None, Duration::from_secs(1));
        assert!(matches!(answer, Err(DeviceError::NoSuchPath { .. })), "{answer:?}");
    }
}
