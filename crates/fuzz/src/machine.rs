//! Targets of what a machine says of itself: its disks, its BMC, its firmware.

use agent::config::vmedia;
use hardware_linux::block::{Partition, vpd};
use hardware_linux::bmc::{self, Ipmi};
use hardware_linux::signature::{self, ReadAt};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What firmware and the switch say about themselves.
pub fn inventory(data: &[u8]) {
    let _ = hardware_linux::smbios::installed_mib(data);
    let _ = hardware_linux::smbios::processors(data);
    let _ = hardware_linux::lldp::parse(data);
}

/// Vital product data of a disk: page 83h with its length before it, then page 80h; or all of it as page 89h. Names that are
/// made of them are text that a path can hold.
pub fn vpd_pages(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (page_83, page_80) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
    let is_hexadecimal = |name: String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(vpd::naa(page_83).is_none_or(is_hexadecimal));
    let ata = vpd::ata(rest).map(|ata| [ata.model, ata.serial, ata.wwn]).unwrap_or_default();
    for text in ata.into_iter().chain([vpd::serial(page_80)]).flatten() {
        assert!(!text.is_empty() && text.chars().all(|c| matches!(c, ' '..='~')));
    }
    for (page_83, page_80) in [(Some(page_83), Some(page_80)), (Some(page_83), None), (None, Some(page_80))] {
        if let Some(identity) = vpd::identity(page_83, page_80, "VENDOR", "MODEL OF A DISK") {
            assert!(identity.starts_with(['0', '1', '2', '3', 'S']) && !identity.contains('\0'));
        }
    }
}

/// Answers of a BMC in a row, each with its length before it; then it is broken.
struct Answers<'a> {
    left: RefCell<&'a [u8]>,
    asked: Cell<u32>,
}

impl Ipmi for Answers<'_> {
    fn request(&self, _: u8, _: u8, _: &[u8]) -> io::Result<Vec<u8>> {
        self.asked.set(self.asked.get() + 1);
        let mut left = self.left.borrow_mut();
        let (length, rest) = left.split_first().ok_or(io::ErrorKind::TimedOut)?;
        let (answer, rest) = rest.split_at_checked(usize::from(*length)).ok_or(io::ErrorKind::TimedOut)?;
        *left = rest;
        Ok(answer.to_vec())
    }
}

/// What a BMC says of its network. Whatever it is, some hundred questions are enough, and addresses are addresses.
pub fn bmc_answers(data: &[u8]) {
    let answers = Answers { left: RefCell::new(data), asked: Cell::new(0) };
    let found = bmc::read(&answers);
    assert!(answers.asked.get() < 500);
    let Ok(bmc) = found else { return };
    assert!(bmc.v4.is_some_and(|address| address.parse::<Ipv4Addr>().is_ok()));
    assert!(bmc.v6.is_some_and(|address| address == "::/0" || address.parse::<Ipv6Addr>().is_ok()));
    assert!(bmc.mac.is_none_or(|mac| mac.len() == 17));
}

/// A disk of zeros with some bytes on it.
struct Sparse {
    size: u64,
    written: Vec<(u64, Vec<u8>)>,
}

impl Sparse {
    /// Its size in sectors of 512 bytes (four bytes), then pieces: offset (four bytes), length (one byte), bytes.
    fn parse(data: &[u8]) -> Option<Self> {
        let (size, mut rest) = data.split_first_chunk()?;
        let mut written = Vec::new();
        while let Some((offset, more)) = rest.split_first_chunk() {
            let Some((length, more)) = more.split_first() else { break };
            let (bytes, more) = more.split_at(more.len().min((*length).into()));
            written.push((u32::from_le_bytes(*offset).into(), bytes.to_vec()));
            rest = more;
        }
        Some(Self { size: u64::from(u32::from_le_bytes(*size)) * 512, written })
    }
}

impl ReadAt for Sparse {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.fill(0);
        for (start, bytes) in &self.written {
            for (at, byte) in (*start..).zip(bytes).filter(|(at, _)| (offset..end).contains(at)) {
                buffer[usize::try_from(at - offset).unwrap_or(usize::MAX)] = *byte;
            }
        }
        Ok(())
    }
}

/// A disk that anybody may have written: signatures, tables that share it with others, the label of virtual media. What is
/// found lies on it, and nothing beyond its end is read.
pub fn disk_contents(data: &[u8]) {
    let Some(disk) = Sparse::parse(data) else { return };
    let _ = vmedia::label(&disk);
    let found = signature::find(&disk, disk.size);
    assert!(
        found.as_ref().is_ok_and(|found| found.iter().all(|one| one.offset + one.length <= disk.size)),
        "{found:?}"
    );
    let half = disk.size / 1024 * 512;
    let partitions = [(0, half), (half, half), (disk.size, disk.size)].map(|(start, size)| Partition {
        name: "vda1".to_owned(),
        start,
        size,
    });
    for sector in [512, 4096] {
        let contents = hardware_linux::contents::look(&disk, "vda", disk.size, sector, &partitions);
        assert!(contents.is_ok(), "{contents:?}");
    }
}

/// A boot entry in the firmware's variables. What is shown of it is bounded.
pub fn boot_entries(data: &[u8]) {
    let entry = hardware_linux::boot::entry(1, data);
    assert!(entry.label.len() <= 2 * data.len() && entry.path.len() <= 64 << 10);
}
