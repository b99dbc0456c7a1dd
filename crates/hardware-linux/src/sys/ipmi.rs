//! The system interface to the BMC.

use rustix::event::{PollFd, PollFlags, Timespec};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The system interface to the BMC, as the kernel's `ipmi_devintf` serves it (`linux/ipmi.h`).
#[derive(Debug)]
pub(crate) struct IpmiDevice(File);

/// `struct ipmi_system_interface_addr`.
#[repr(C)]
struct BmcAddress {
    kind: libc::c_int,
    channel: libc::c_short,
    lun: libc::c_uchar,
}

/// `struct ipmi_msg`.
#[repr(C)]
struct IpmiMessage {
    function: u8,
    command: u8,
    length: u16,
    data: *mut u8,
}

/// `struct ipmi_req`.
#[repr(C)]
struct IpmiRequest {
    address: *mut BmcAddress,
    address_length: libc::c_uint,
    number: libc::c_long,
    message: IpmiMessage,
}

/// `struct ipmi_recv`.
#[repr(C)]
struct IpmiReceived {
    kind: libc::c_int,
    address: *mut u8,
    address_length: libc::c_uint,
    number: libc::c_long,
    message: IpmiMessage,
}

/// `_IOC(direction, 'i', number, size)` of `asm-generic/ioctl.h`, which most architectures use.
const fn ipmi_ioctl(direction: libc::Ioctl, number: libc::Ioctl, size: usize) -> libc::Ioctl {
    (direction << 30) | ((size as libc::Ioctl) << 16) | ((b'i' as libc::Ioctl) << 8) | number
}

/// `IPMICTL_SEND_COMMAND`, `_IOR('i', 13, struct ipmi_req)`.
const IPMI_SEND: libc::Ioctl = ipmi_ioctl(2, 13, size_of::<IpmiRequest>());
/// `IPMICTL_RECEIVE_MSG_TRUNC`, `_IOWR('i', 11, struct ipmi_recv)`.
const IPMI_RECEIVE: libc::Ioctl = ipmi_ioctl(3, 11, size_of::<IpmiReceived>());

impl IpmiDevice {
    /// How long the BMC may take for an answer, in seconds. The kernel gives up on a system interface after 5.
    const PATIENCE: i64 = 10;
    /// Messages for others, such as events, that are passed over while an answer is waited for.
    const MOST_OTHERS: u32 = 32;
    /// `IPMI_MAX_MSG_LENGTH`.
    const MOST_DATA: usize = 272;

    /// Opens the device.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        File::options().read(true).write(true).open(path).map(Self)
    }

    /// Sends a request to the BMC and waits for its answer, completion code first.
    pub(crate) fn exchange(&self, function: u8, command: u8, data: &[u8]) -> io::Result<Vec<u8>> {
        const NUMBER: libc::c_long = 1;
        self.send(NUMBER, function, command, data)?;
        for _ in 0..Self::MOST_OTHERS {
            let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
            let limit = Timespec { tv_sec: Self::PATIENCE, tv_nsec: 0 };
            match rustix::event::poll(&mut watched, Some(&limit)) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the BMC did not answer in time")),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // The answer has the network function of the request plus one.
            if let Some(answer) = self.receive(NUMBER, function | 1, command)? {
                return Ok(answer);
            }
        }
        Err(io::Error::other("the BMC sends other messages only"))
    }

    #[allow(unsafe_code, reason = "no library wraps this request")]
    fn send(&self, number: libc::c_long, function: u8, command: u8, data: &[u8]) -> io::Result<()> {
        // `IPMI_SYSTEM_INTERFACE_ADDR_TYPE` and `IPMI_BMC_CHANNEL`.
        let mut address = BmcAddress { kind: 0x0c, channel: 0x0f, lun: 0 };
        let mut data = data.to_vec();
        let length = u16::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut request = IpmiRequest {
            address: &mut address,
            address_length: size_of::<BmcAddress>() as libc::c_uint,
            number,
            message: IpmiMessage { function, command, length, data: data.as_mut_ptr() },
        };
        // SAFETY: `request` has the layout of `struct ipmi_req`; its pointers are to `address` and `data` with their true
        // lengths, which live until the call returns, and the kernel only reads them.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), IPMI_SEND, &raw mut request) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes one message; `None` when it is not the answer that is waited for.
    #[allow(unsafe_code, reason = "no library wraps this request")]
    fn receive(&self, number: libc::c_long, function: u8, command: u8) -> io::Result<Option<Vec<u8>>> {
        const RESPONSE: libc::c_int = 1;
        // `IPMI_MAX_ADDR_SIZE`.
        let mut address = [0_u8; 32];
        let mut data = [0_u8; Self::MOST_DATA];
        let mut received = IpmiReceived {
            kind: 0,
            address: address.as_mut_ptr(),
            address_length: address.len() as libc::c_uint,
            number: 0,
            message: IpmiMessage { function: 0, command: 0, length: Self::MOST_DATA as u16, data: data.as_mut_ptr() },
        };
        // SAFETY: `received` has the layout of `struct ipmi_recv`; its pointers are to buffers of the lengths that stand
        // beside them, which live until the call returns, and the kernel writes no more than that into them.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), IPMI_RECEIVE, &raw mut received) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let IpmiMessage { function: answered, command: of, length, .. } = received.message;
        let ours = received.kind == RESPONSE && received.number == number && answered == function && of == command;
        Ok(ours.then(|| data.iter().take(length.into()).copied().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn ipmi_requests_have_the_numbers_of_the_kernels_header() {
        // As a C compiler makes them of `linux/ipmi.h` on a 64-bit machine.
        assert_eq!((IPMI_SEND, IPMI_RECEIVE), (0x8028_690d, 0xc030_690b));
        assert_eq!(size_of::<BmcAddress>(), 8);
    }
}
