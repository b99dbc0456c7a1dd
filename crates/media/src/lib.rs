//! Byte formats that several crates need: bytes in, bytes out.
//!
//! Nothing here reads a clock, draws a random number, opens a file or a socket: the same input gives the same bytes,
//! which is what makes the ramdisk reproducible.

pub mod boot;
pub mod cpio;
pub mod fat;
pub mod gpt;
pub mod grub;
pub mod iso9660;
pub mod path;
pub mod pe;
