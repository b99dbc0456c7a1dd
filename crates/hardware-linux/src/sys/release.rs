//! Taking what is built on a disk away from the kernel.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `DM_DEV_REMOVE` of `linux/dm-ioctl.h`: `_IOWR(0xfd, 4, struct dm_ioctl)`.
const DM_DEV_REMOVE: libc::Ioctl = 0xc138_fd04_u32 as libc::Ioctl;

/// `struct dm_ioctl` of `linux/dm-ioctl.h`.
#[repr(C)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

const _: () = assert!(size_of::<DmIoctl>() == 0x138, "the size is part of the request's number");

/// Removes the device mapper volume `name` from the kernel; what it is made of stays as it is. `control` is
/// `/dev/mapper/control`. `EBUSY` while the volume is open.
#[allow(unsafe_code, reason = "no library has the requests of the device mapper")]
pub(crate) fn remove_map(control: &File, name: &str) -> io::Result<()> {
    let mut request = DmIoctl {
        version: [4, 0, 0],
        data_size: size_of::<DmIoctl>() as u32,
        data_start: 0,
        target_count: 0,
        open_count: 0,
        flags: 0,
        event_nr: 0,
        padding: 0,
        dev: 0,
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    // One byte stays zero: the kernel reads a C string.
    let place = request.name.get_mut(..name.len()).filter(|place| place.len() < 128);
    place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
    // SAFETY: the request is a structure of the size that its number says, `data_size` says the same, and it outlives the
    // call; the descriptor is open for as long as `control` is borrowed.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), DM_DEV_REMOVE, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Stops using a device or file as swap space.
#[allow(unsafe_code, reason = "rustix has no swapoff(2)")]
pub(crate) fn swap_off(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: `path` is a C string that outlives the call.
    let result = unsafe { libc::swapoff(path.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
