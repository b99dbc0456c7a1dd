//! Unified kernel images: a systemd EFI stub with kernel, initramfs and command line as extra sections (PE32+:
//! Microsoft PE format specification; sections: systemd-stub(7), UAPI.5 Unified Kernel Image).

mod image;
#[cfg(any(test, feature = "testing"))]
pub mod stub;

use image::{Image, NewSection, Place};

/// Room for the command line inside an image, in bytes, so that [`replace_cmdline`] can write another one in place.
pub const CMDLINE_ROOM: usize = 4096;

/// What Linux on x86 reads of a command line, in bytes (`COMMAND_LINE_SIZE` of arch/x86/include/asm/setup.h less the
/// NUL). It would cut the rest off silently.
pub const CMDLINE_MAX: usize = 2047;

/// Sections start at multiples of this in memory: the kernel's image and the stub's copies want whole pages.
const PAGE: u32 = 4096;

const CMDLINE: &str = ".cmdline";

/// Why a PE image could not be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    /// The image ends inside a structure.
    #[error("the EFI image ends inside {what} (at byte {offset}); it is cut off or not an EFI image")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Where reading stopped, in bytes from the start.
        offset: usize,
    },
    /// The image is something else.
    #[error("not an EFI image for x86-64: {what}")]
    Format {
        /// What was not as it must be.
        what: &'static str,
    },
    /// The header has no space for more sections.
    #[error("the stub's header has room for {room} more sections, and {wanted} are wanted; take another stub")]
    NoHeaderRoom {
        /// Sections that fit.
        room: usize,
        /// Sections that are to be added.
        wanted: usize,
    },
    /// The stub has a section of that name, so it is no bare stub.
    #[error("the stub has a section {name} already; it must be the bare stub")]
    Duplicate {
        /// The section's name.
        name: String,
    },
    /// Without contents the result could not boot.
    #[error("section {name} is empty")]
    Empty {
        /// The section's name.
        name: &'static str,
    },
    /// PE has 32 bits for addresses.
    #[error("the image would be larger than 2 GiB")]
    TooLarge,
    /// There is no section of that name.
    #[error("the image has no section {name}; it is not a unified kernel image with a command line")]
    NoSection {
        /// The section's name.
        name: &'static str,
    },
    /// The command line is longer than what the kernel reads or the image has room for.
    #[error("the command line has {length} bytes, and the image takes {max}; shorten it")]
    CmdlineTooLong {
        /// Its length in bytes.
        length: usize,
        /// What is possible, in bytes.
        max: usize,
    },
    /// The stub hands bytes on one by one, so only printable ASCII arrives as it was meant.
    #[error("the command line has {character:?} at byte {offset}; only printable ASCII can be passed to the kernel")]
    CmdlineCharacter {
        /// The character.
        character: char,
        /// Its place in bytes.
        offset: usize,
    },
}

/// What goes into a unified kernel image.
#[derive(Debug, Clone, Copy)]
pub struct Sections<'a> {
    /// Text in the format of os-release(5), shown by boot menus.
    pub os_release: &'a str,
    /// The kernel's release, as `uname -r` prints it.
    pub uname: &'a str,
    /// The kernel command line; see [`CMDLINE_MAX`].
    pub cmdline: &'a str,
    /// The kernel: a bzImage with EFI stub.
    pub linux: &'a [u8],
    /// The initramfs, compressed or not.
    pub initrd: &'a [u8],
}

/// Joins a bare EFI stub and `sections` into one program for the firmware.
///
/// # Errors
/// See [`PeError`].
pub fn build(stub: &[u8], sections: &Sections<'_>) -> Result<Vec<u8>, PeError> {
    check_cmdline(sections.cmdline, CMDLINE_ROOM)?;
    if !sections.linux.starts_with(b"MZ") {
        return Err(PeError::Format { what: "the kernel has no EFI stub (its first bytes are not MZ)" });
    }
    let new = [
        NewSection { name: ".osrel", data: sections.os_release.as_bytes(), room: 0 },
        NewSection { name: ".uname", data: sections.uname.as_bytes(), room: 0 },
        NewSection { name: CMDLINE, data: sections.cmdline.as_bytes(), room: CMDLINE_ROOM },
        NewSection { name: ".linux", data: sections.linux, room: 0 },
        NewSection { name: ".initrd", data: sections.initrd, room: 0 },
    ];
    if let Some(empty) = new.iter().find(|section| section.data.is_empty() && section.room == 0) {
        return Err(PeError::Empty { name: empty.name });
    }
    Image::parse(stub)?.with_sections(&new)
}

/// Returns `uki` with another command line. Only the section `.cmdline` and its length change, so a signature over the
/// image becomes invalid.
///
/// # Errors
/// See [`PeError`]; the image must have come from [`build`] or have enough room in its section.
pub fn replace_cmdline(uki: &[u8], cmdline: &str) -> Result<Vec<u8>, PeError> {
    let mut out = uki.to_vec();
    for (at, bytes) in CmdlineSlot::of(uki)?.changes(cmdline)? {
        out[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    Ok(out)
}

/// Where an image has its command line, for whoever changes it in a copy that is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CmdlineSlot(Place);

impl CmdlineSlot {
    /// The slot of an image; all of it lies within the image.
    ///
    /// # Errors
    /// See [`PeError`].
    pub fn of(uki: &[u8]) -> Result<Self, PeError> {
        let image = Image::parse(uki)?;
        let section = image.section(CMDLINE).ok_or(PeError::NoSection { name: CMDLINE })?;
        image.place(section).map(Self)
    }

    /// What [`replace_cmdline`] writes: places in the image and bytes.
    ///
    /// # Errors
    /// [`PeError::CmdlineTooLong`] and [`PeError::CmdlineCharacter`].
    pub fn changes(&self, cmdline: &str) -> Result<[(usize, Vec<u8>); 3], PeError> {
        let Self(place) = self;
        check_cmdline(cmdline, place.room)?;
        let mut line = cmdline.as_bytes().to_vec();
        line.resize(place.room, 0);
        // At most a few thousand, as was just checked.
        let length = (cmdline.len() as u32).to_le_bytes().to_vec();
        Ok([(place.at, line), (place.length, length), (place.checksum, vec![0; 4])])
    }
}

/// Returns the command line of a unified kernel image, as it is stored.
///
/// # Errors
/// See [`PeError`].
pub fn cmdline(uki: &[u8]) -> Result<&[u8], PeError> {
    let image = Image::parse(uki)?;
    let section = image.section(CMDLINE).ok_or(PeError::NoSection { name: CMDLINE })?;
    image.data(section)
}

fn check_cmdline(cmdline: &str, room: usize) -> Result<(), PeError> {
    let max = room.min(CMDLINE_MAX);
    if cmdline.len() > max {
        return Err(PeError::CmdlineTooLong { length: cmdline.len(), max });
    }
    match cmdline.char_indices().find(|(_, c)| !(c.is_ascii_graphic() || *c == ' ')) {
        Some((offset, character)) => Err(PeError::CmdlineCharacter { character, offset }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
