//! An opened disk, as those see it who send it commands: NVMe admin commands and SCSI command descriptor blocks, byte for
//! byte, with the answer as the device gave it; reads and writes past every cache; and the requests that the kernel has
//! of its own for all block devices. What the bytes mean is not known here.
//!
//! Calls block for as long as the device takes, at most their time limit. An answer is what the device said, whatever it said:
//! a refused command is an answer. An error means that there is no answer.

use crate::DeviceId;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The command set that a device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// NVMe: [`Device::nvme_admin`].
    Nvme {
        /// The namespace that this device is (NSID).
        namespace: u32,
    },
    /// SCSI, and ATA behind a translation layer (SAT): [`Device::scsi`].
    Scsi,
    /// None but the kernel's own requests, such as virtio-blk.
    Block,
}

/// What the kernel knows of a block device (`/sys/block/*/queue`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes.
    pub size: u64,
    /// Bytes of the unit in which it is addressed: offsets and lengths of reads and writes are multiples of it.
    pub logical_block: u32,
    /// Whether it spins.
    pub rotational: bool,
    /// Bytes of the smallest piece that a discard can free; 0 where the device has no discard.
    pub discard_granularity: u64,
    /// Bytes that one discard may cover; 0 where the device has none.
    pub discard_max: u64,
    /// Bytes that one write-zeroes command may cover; 0 where the device has none, and the kernel writes zeros itself.
    pub write_zeroes_max: u64,
    /// Whether the kernel lets nobody write.
    pub read_only: bool,
}

/// The data of a command.
#[derive(Debug)]
pub enum Transfer<'a> {
    /// None.
    None,
    /// The device fills the buffer, wholly or in part.
    FromDevice(&'a mut [u8]),
    /// The device gets the buffer.
    ToDevice(&'a [u8]),
}

impl Transfer<'_> {
    /// Bytes of the buffer.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::FromDevice(buffer) => buffer.len(),
            Self::ToDevice(data) => data.len(),
        }
    }

    /// Whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same data for a command that is sent again.
    pub fn again(&mut self) -> Transfer<'_> {
        match self {
            Self::None => Transfer::None,
            Self::FromDevice(buffer) => Transfer::FromDevice(buffer),
            Self::ToDevice(data) => Transfer::ToDevice(data),
        }
    }
}

/// An NVMe admin command: those fields of a submission queue entry that are the caller's (NVM Express Base 2.0, figure 87).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NvmeCommand {
    /// Opcode.
    pub opcode: u8,
    /// Namespace (NSID); `0xffff_ffff` is all.
    pub namespace: u32,
    /// Command dwords 2 and 3.
    pub cdw2: [u32; 2],
    /// Command dwords 10 to 15.
    pub cdw10: [u32; 6],
}

/// The answer to an NVMe command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NvmeCompletion {
    /// Status field without the phase tag: status code in bits 0 to 7, its type in bits 8 to 10, "do not retry" in bit 14.
    /// 0 is success.
    pub status: u16,
    /// Command specific result, dword 0.
    pub result: u32,
}

/// The answer to a SCSI command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScsiCompletion {
    /// SAM status: 0 good, 2 check condition, 0x18 reservation conflict.
    pub status: u8,
    /// Sense data, as many bytes as there were; empty without.
    pub sense: Vec<u8>,
    /// Bytes of the buffer that were not transferred.
    pub residual: usize,
}

/// Why there is no answer of the device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device, or the way to it, has no such command.
    #[error("{command} cannot be sent to {device}")]
    NoSuchPath {
        /// The command.
        command: String,
        /// The device.
        device: String,
    },
    /// The time limit passed. The device may have carried it out, may still be at it, or may never have seen it.
    #[error("{device} did not answer {command} within {} s", limit.as_secs())]
    TimedOut {
        /// The command.
        command: String,
        /// The device.
        device: String,
        /// The time limit.
        limit: Duration,
    },
    /// The way to the device was reset, or the device went away, before it answered. It may have carried it out.
    #[error("{device} was reset or went away during {command}")]
    Reset {
        /// The command.
        command: String,
        /// The device.
        device: String,
    },
    /// The kernel refused or could not do it.
    #[error("{command} on {device}")]
    Io {
        /// The command.
        command: String,
        /// The device.
        device: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// An opened disk that nobody else has. One thread may wait for a long command while another asks for its progress.
pub trait Device: Send + Sync {
    /// Who it is; it was looked at when it was opened.
    fn id(&self) -> &DeviceId;

    /// Which commands it takes.
    fn bus(&self) -> Bus;

    /// Its size and what the kernel may ask of it.
    fn limits(&self) -> Limits;

    /// Sends an NVMe admin command to the controller.
    fn nvme_admin(
        &self,
        command: &NvmeCommand,
        data: Transfer<'_>,
        limit: Duration,
    ) -> Result<NvmeCompletion, DeviceError>;

    /// Sends a SCSI command descriptor block of 6 to 32 bytes.
    fn scsi(&self, cdb: &[u8], data: Transfer<'_>, limit: Duration) -> Result<ScsiCompletion, DeviceError>;

    /// Fills `buffer` from `offset`, from the device and no cache of the machine. Offset and length are multiples of the
    /// logical block; the buffer may lie anywhere.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError>;

    /// Writes `data` at `offset`, past the caches of the machine; aligned like [`Self::read_at`].
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DeviceError>;

    /// Has the kernel make these bytes read as zeros without freeing them (`BLKZEROOUT`): by a command of the device where
    /// it has one, by writing where not.
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError>;

    /// Tells the device that these bytes are not needed (`BLKDISCARD`). What they read as afterwards is unknown.
    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError>;

    /// Has everything written that lies in caches, that of the device too.
    fn flush(&self) -> Result<(), DeviceError>;
}

impl<D: Device + ?Sized> Device for Arc<D> {
    fn id(&self) -> &DeviceId {
        (**self).id()
    }

    fn bus(&self) -> Bus {
        (**self).bus()
    }

    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn nvme_admin(
        &self,
        command: &NvmeCommand,
        data: Transfer<'_>,
        limit: Duration,
    ) -> Result<NvmeCompletion, DeviceError> {
        (**self).nvme_admin(command, data, limit)
    }

    fn scsi(&self, cdb: &[u8], data: Transfer<'_>, limit: Duration) -> Result<ScsiCompletion, DeviceError> {
        (**self).scsi(cdb, data, limit)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        (**self).read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DeviceError> {
        (**self).write_at(data, offset)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        (**self).write_zeroes(offset, length)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        (**self).discard(offset, length)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        (**self).flush()
    }
}
