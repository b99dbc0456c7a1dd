//! System calls that no library wraps safely. All `unsafe` code of the crate is here.

mod disk;
mod ipmi;
mod release;
mod rtc;

pub(crate) use disk::{discard, nvme_admin, nvme_namespace, scsi, takes_scsi, zero_out};
pub(crate) use ipmi::IpmiDevice;
pub(crate) use release::{remove_map, swap_off};
pub(crate) use rtc::set_rtc;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `_IO(0x12, 95)` of `linux/fs.h`: read the partition table again.
const BLKRRPART: libc::Ioctl = 0x125f;
/// `_IO(0x12, 97)` of `linux/fs.h`: flush the buffer cache of a device and forget it.
const BLKFLSBUF: libc::Ioctl = 0x1261;

/// Makes the kernel read the partition table of a whole block device again. `EBUSY` while a partition is in use.
pub(crate) fn reread_partitions(device: &File) -> io::Result<()> {
    plain_ioctl(device, BLKRRPART)
}

/// Writes back what is cached of a block device and forgets it, so that the next read comes from the device.
pub(crate) fn forget_cache(device: &File) -> io::Result<()> {
    plain_ioctl(device, BLKFLSBUF)
}

#[allow(unsafe_code, reason = "rustix has no wrapper for these two requests")]
fn plain_ioctl(device: &File, request: libc::Ioctl) -> io::Result<()> {
    // SAFETY: both requests take no argument, so the kernel reads and writes no memory of ours; the descriptor is open
    // for as long as `device` is borrowed.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A socket that hears LLDP frames of one interface: `AF_PACKET` (packet(7)) with the multicast address to which bridges
/// send them (IEEE 802.1AB-2016, 7.1, "nearest bridge").
#[allow(unsafe_code, reason = "no library has the address of a packet socket")]
pub(crate) fn lldp_socket(index: u32) -> io::Result<OwnedFd> {
    const PROTOCOL: u16 = 0x88cc_u16.to_be();
    const NEAREST_BRIDGE: [u8; 8] = [0x01, 0x80, 0xc2, 0, 0, 0x0e, 0, 0];
    let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: socket(2) touches no memory of ours.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all fields are integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = PROTOCOL;
    address.sll_ifindex = index;
    let length = std::mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is a socket address of the family of the socket and has that length.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let member = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_MULTICAST as u16,
        mr_alen: 6,
        mr_address: NEAREST_BRIDGE,
    };
    let length = std::mem::size_of_val(&member) as libc::socklen_t;
    let (level, option) = (libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP);
    // SAFETY: `member` is what the option takes and has that length.
    if unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const member).cast(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Global addresses of all interfaces, by interface name, in the kernel's order.
#[allow(unsafe_code, reason = "getifaddrs(3) hands out a linked list in memory of its own")]
pub(crate) fn addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the pointer that the call stores.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: `next` is an entry of the list, which is not freed before the loop ends.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        if entry.ifa_addr.is_null() || entry.ifa_name.is_null() {
            continue;
        }
        // SAFETY: the family is the first field of every socket address; it says which type the rest has, and these two
        // may be read without alignment to be safe against a packed list.
        let address = unsafe {
            match i32::from((*entry.ifa_addr).sa_family) {
                libc::AF_INET => {
                    let address = std::ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in>());
                    IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)))
                }
                libc::AF_INET6 => {
                    let address = std::ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in6>());
                    IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
                }
                _ => continue,
            }
        };
        // SAFETY: the name is a C string that lives as long as the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        if is_global(&address) {
            found.push((name.to_string_lossy().into_owned(), address));
        }
    }
    // SAFETY: `list` came from getifaddrs and is freed once; nothing above keeps a reference into it.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified(),
    }
}
