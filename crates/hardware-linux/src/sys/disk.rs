//! Commands to disks: NVMe admin commands, SCSI commands and the requests of all block devices.

use hardware::{NvmeCommand, Transfer};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// `_IO(0x12, 119)` of `linux/fs.h`.
const BLKDISCARD: libc::Ioctl = 0x1277;
/// `_IO(0x12, 127)` of `linux/fs.h`.
const BLKZEROOUT: libc::Ioctl = 0x127f;
/// `_IO('N', 0x40)` of `linux/nvme_ioctl.h`: returns the number of the namespace.
const NVME_IOCTL_ID: libc::Ioctl = 0x4e40;
/// `_IOWR('N', 0x41, struct nvme_admin_cmd)` of `linux/nvme_ioctl.h`.
const NVME_IOCTL_ADMIN_CMD: libc::Ioctl = 0xc048_4e41;
/// `scsi/sg.h`.
const SG_GET_VERSION_NUM: libc::Ioctl = 0x2282;
/// `scsi/sg.h`.
const SG_IO: libc::Ioctl = 0x2285;

/// `struct nvme_passthru_cmd` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Default)]
struct Passthru {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_length: u32,
    data_length: u32,
    cdw10: [u32; 6],
    timeout: u32,
    result: u32,
}

/// `struct sg_io_hdr` of `scsi/sg.h`.
#[repr(C)]
struct SgIo {
    interface: libc::c_int,
    direction: libc::c_int,
    command_length: libc::c_uchar,
    sense_room: libc::c_uchar,
    vectors: libc::c_ushort,
    data_length: libc::c_uint,
    data: *mut u8,
    command: *const u8,
    sense: *mut u8,
    timeout: libc::c_uint,
    flags: libc::c_uint,
    pack: libc::c_int,
    user: *mut libc::c_void,
    status: libc::c_uchar,
    masked_status: libc::c_uchar,
    message_status: libc::c_uchar,
    sense_length: libc::c_uchar,
    host_status: libc::c_ushort,
    driver_status: libc::c_ushort,
    residual: libc::c_int,
    duration: libc::c_uint,
    info: libc::c_uint,
}

/// How a SCSI command came back.
#[derive(Debug)]
pub(crate) struct SgAnswer {
    pub(crate) status: u8,
    pub(crate) host_status: u16,
    pub(crate) driver_status: u16,
    pub(crate) sense: Vec<u8>,
    pub(crate) residual: usize,
}

/// Asks the kernel for a range of bytes of a block device to be discarded.
pub(crate) fn discard(device: &File, offset: u64, length: u64) -> io::Result<()> {
    range_ioctl(device, BLKDISCARD, [offset, length])
}

/// Asks the kernel to make a range of bytes of a block device read as zeros.
pub(crate) fn zero_out(device: &File, offset: u64, length: u64) -> io::Result<()> {
    range_ioctl(device, BLKZEROOUT, [offset, length])
}

#[allow(unsafe_code, reason = "rustix has no wrapper for these requests")]
fn range_ioctl(device: &File, request: libc::Ioctl, range: [u64; 2]) -> io::Result<()> {
    // SAFETY: both requests read two 64-bit numbers, which `range` is; it lives until the call returns.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request, range.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of the NVMe namespace that this block device is.
#[allow(unsafe_code, reason = "rustix has no wrapper for this request")]
pub(crate) fn nvme_namespace(device: &File) -> io::Result<u32> {
    // SAFETY: the request takes no argument; the kernel touches no memory of ours.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ID, 0) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether the device takes SCSI commands.
#[allow(unsafe_code, reason = "rustix has no wrapper for this request")]
pub(crate) fn takes_scsi(device: &File) -> bool {
    let mut version: libc::c_int = 0;
    // SAFETY: the request stores one `int`, for which there is room.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), SG_GET_VERSION_NUM, &raw mut version) };
    result == 0 && version >= 30000
}

fn milliseconds(limit: Duration) -> u32 {
    u32::try_from(limit.as_millis()).unwrap_or(u32::MAX)
}

/// Where the data of a command is, and its length. The pointer is good for as long as `data` is borrowed; the kernel writes
/// through it only for [`Transfer::FromDevice`].
fn place(data: &mut Transfer<'_>) -> io::Result<(*mut u8, u32)> {
    let length = u32::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let pointer = match data {
        Transfer::None => std::ptr::null_mut(),
        Transfer::FromDevice(buffer) => buffer.as_mut_ptr(),
        Transfer::ToDevice(data) => data.as_ptr().cast_mut(),
    };
    Ok((pointer, length))
}

/// Sends an NVMe admin command and returns the status field and dword 0 of the completion.
#[allow(unsafe_code, reason = "no library wraps this request")]
pub(crate) fn nvme_admin(
    device: &File,
    command: &NvmeCommand,
    mut data: Transfer<'_>,
    limit: Duration,
) -> io::Result<(u16, u32)> {
    let (pointer, length) = place(&mut data)?;
    let mut passthru = Passthru {
        opcode: command.opcode,
        namespace: command.namespace,
        cdw2: command.cdw2,
        address: pointer as u64,
        data_length: length,
        cdw10: command.cdw10,
        timeout: milliseconds(limit),
        ..Passthru::default()
    };
    // SAFETY: `passthru` has the layout of `struct nvme_admin_cmd`. Its address and length are those of a buffer that lives
    // until the call returns, or null and 0; whether the kernel writes into it follows from bit 0 and 1 of the opcode, and
    // `directed` has seen to it that a buffer that may be written was given for it.
    let result = unsafe {
        libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, directed(command.opcode, &data, &raw mut passthru)?)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((result as u16 & 0x7fff, passthru.result))
}

/// Refuses data that goes the other way than the opcode says (NVM Express Base 2.0, figure 87: bits 1:0, 1 to the
/// controller, 2 from it).
fn directed<T>(opcode: u8, data: &Transfer<'_>, request: T) -> io::Result<T> {
    let fits = match data {
        Transfer::None => true,
        Transfer::ToDevice(_) => opcode & 3 == 1,
        Transfer::FromDevice(_) => opcode & 3 == 2,
    };
    if fits {
        return Ok(request);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "the data goes the other way than the opcode says"))
}

/// Sends a SCSI command.
#[allow(unsafe_code, reason = "no library wraps this request")]
pub(crate) fn scsi(device: &File, cdb: &[u8], mut data: Transfer<'_>, limit: Duration) -> io::Result<SgAnswer> {
    const NONE: libc::c_int = -1;
    const TO_DEVICE: libc::c_int = -2;
    const FROM_DEVICE: libc::c_int = -3;
    let mut sense = [0_u8; 96];
    let direction = match &data {
        _ if data.is_empty() => NONE,
        Transfer::ToDevice(_) => TO_DEVICE,
        Transfer::FromDevice(_) | Transfer::None => FROM_DEVICE,
    };
    let (pointer, length) = place(&mut data)?;
    let mut request = SgIo {
        interface: libc::c_int::from(b'S'),
        direction,
        command_length: u8::try_from(cdb.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        sense_room: sense.len() as u8,
        vectors: 0,
        data_length: length,
        data: pointer,
        command: cdb.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout: milliseconds(limit),
        flags: 0,
        pack: 0,
        user: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_length: 0,
        host_status: 0,
        driver_status: 0,
        residual: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: `request` has the layout of `struct sg_io_hdr`; its pointers are to the command, the sense buffer and the data
    // with their true lengths, and all of them live until the call returns. The kernel writes to the sense buffer, and to
    // the data only where `direction` says so, which it does only for a buffer that may be written.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), SG_IO, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(SgAnswer {
        status: request.status,
        host_status: request.host_status,
        driver_status: request.driver_status,
        sense: sense.iter().take(request.sense_length.into()).copied().collect(),
        residual: usize::try_from(request.residual).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn requests_have_the_layout_of_the_kernels_headers() {
        // The size of the first is a part of its request's number; that of the second as a C compiler makes it.
        assert_eq!(size_of::<Passthru>(), (NVME_IOCTL_ADMIN_CMD >> 16 & 0x3fff) as usize);
        assert_eq!(size_of::<SgIo>(), 88);
        assert_eq!(std::mem::offset_of!(SgIo, status), 64);
        assert_eq!(std::mem::offset_of!(Passthru, timeout), 64);
    }

    #[test]
    fn data_that_goes_the_wrong_way_is_refused_before_the_kernel_writes_into_it() {
        let identify = NvmeCommand { opcode: 0x06, ..NvmeCommand::default() };
        let null = File::open("/dev/null").unwrap();
        let error = nvme_admin(&null, &identify, Transfer::ToDevice(&[0; 4096]), Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
