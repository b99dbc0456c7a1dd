//! Writer of ISO9660 images with Rock Ridge and Joliet names (ECMA-119, SUSP 1.10, RRIP 1.10, Joliet specification),
//! and with an El Torito entry for EFI firmware (El Torito 1.0, UEFI specification 13.3.2.1); and reader of small ones.
//!
//! Used for bootable virtual media and for config drives. The same calls give the same bytes: all times are
//! 1 January 1980.

mod layout;
mod read;
mod record;
mod susp;
mod tree;

pub use read::{ReadError, files};

use crate::path::{self, PathError};
use std::borrow::Cow;
use std::io::{self, Read, Write};
use tree::Tree;

/// Bytes of a logical block.
pub const BLOCK: u32 = 2048;

/// ISO9660 allows eight levels of directories; the root is the first.
const MAX_DEPTH: usize = 8;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IsoError {
    /// A path is not one that an image may hold.
    #[error("the ISO image has a bad path")]
    Path(#[source] PathError),
    /// The volume label does not fit.
    #[error("volume label {label:?} must have 1 to 16 characters out of A-Z, a-z, 0-9, '_', '-' and '.'")]
    Label {
        /// The label as it was given.
        label: String,
    },
    /// Readers need not follow more than eight levels.
    #[error("{path:?} is deeper than ISO9660's eight levels of directories")]
    TooDeep {
        /// The path.
        path: String,
    },
    /// The path is taken, or one of its directories is a file.
    #[error("{path:?} is in the image already, or a directory of it is a file")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// One extent ends at 4 GiB, and an image at 8 TiB.
    #[error("{what} has {size} bytes, and one file of an ISO9660 image ends at 4 GiB - 1")]
    TooLarge {
        /// The file or structure.
        what: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A reader gave another number of bytes than was announced.
    #[error("{what} was announced with {announced} bytes, and its reader gave {relation}")]
    Length {
        /// The file.
        what: String,
        /// The announced size in bytes.
        announced: u64,
        /// `fewer` or `more`.
        relation: &'static str,
    },
    /// A file's contents could not be read.
    #[error("the contents of {what} could not be read")]
    Read {
        /// The file.
        what: String,
        /// The reader's error.
        #[source]
        source: io::Error,
    },
    /// The output failed.
    #[error("the ISO image could not be written")]
    Write(#[source] io::Error),
}

/// Contents of a file.
pub enum Content<'a> {
    /// Bytes in memory.
    Bytes(Cow<'a, [u8]>),
    /// A reader that gives exactly this many bytes.
    Reader(Box<dyn Read + 'a>, u64),
}

impl Content<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Reader(_, length) => *length,
        }
    }
}

impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({} bytes)", self.len())
    }
}

impl<'a> From<&'a [u8]> for Content<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Content<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Cow::Owned(bytes))
    }
}

/// Contents with the name for messages.
#[derive(Debug)]
struct Source<'a> {
    what: String,
    content: Content<'a>,
}

/// An image that is being put together.
#[derive(Debug)]
pub struct Builder<'a> {
    label: String,
    tree: Tree,
    files: Vec<Source<'a>>,
    boot: Option<Source<'a>>,
}

impl<'a> Builder<'a> {
    /// Starts an image with a volume label such as `config-2`. Lower case letters, '-' and '.' are stored as they are:
    /// the standard allows only capitals, digits and '_', but peers look for labels with them.
    ///
    /// # Errors
    /// [`IsoError::Label`]; 16 characters is what Joliet holds.
    pub fn new(label: &str) -> Result<Self, IsoError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if label.is_empty() || label.len() > 16 || !label.chars().all(allowed) {
            return Err(IsoError::Label { label: label.to_owned() });
        }
        Ok(Self { label: label.to_owned(), tree: Tree::new(), files: Vec::new(), boot: None })
    }

    /// Adds a directory and those above it, all with mode 0755. A directory may be added again.
    ///
    /// # Errors
    /// See [`IsoError`].
    pub fn directory(&mut self, path: &str) -> Result<(), IsoError> {
        let names = Self::check(path, MAX_DEPTH - 1)?;
        self.tree.directory(&names).map(drop).ok_or_else(|| IsoError::Duplicate { path: path.to_owned() })
    }

    /// Adds a file with the permission bits `mode`, and the directories above it.
    ///
    /// # Errors
    /// See [`IsoError`].
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Content<'a>>) -> Result<(), IsoError> {
        let names = Self::check(path, MAX_DEPTH)?;
        let source = Self::source(path, content.into())?;
        let added = self.tree.file(&names, mode & 0o7777, self.files.len());
        if !added {
            return Err(IsoError::Duplicate { path: path.to_owned() });
        }
        self.files.push(source);
        Ok(())
    }

    /// Makes the image bootable by EFI firmware: `content` is an image of a FAT file system with
    /// `EFI/BOOT/BOOTX64.EFI`. It is not visible as a file.
    ///
    /// # Errors
    /// [`IsoError::TooLarge`].
    pub fn efi_boot_image(&mut self, content: impl Into<Content<'a>>) -> Result<(), IsoError> {
        self.boot = Some(Self::source("the EFI boot image", content.into())?);
        Ok(())
    }

    /// Writes the image, in one pass and without seeking, and returns its size in bytes.
    ///
    /// # Errors
    /// See [`IsoError`].
    pub fn write(self, out: &mut impl Write) -> Result<u64, IsoError> {
        let sizes = self.sizes();
        let metadata = layout::render(&self.label, &self.tree, &sizes)?;
        out.write_all(&metadata.bytes).map_err(IsoError::Write)?;
        for source in self.boot.into_iter().chain(self.files) {
            copy(source, out)?;
        }
        out.flush().map_err(IsoError::Write)?;
        Ok(u64::from(metadata.total_blocks) * u64::from(BLOCK))
    }

    /// Writes the image into memory.
    ///
    /// # Errors
    /// See [`IsoError`].
    pub fn to_vec(self) -> Result<Vec<u8>, IsoError> {
        let sizes = self.sizes();
        let content: u64 =
            sizes.files.iter().chain(&sizes.boot).map(|size| u64::from(size.next_multiple_of(BLOCK))).sum();
        // The tables take a few blocks; what is missing here only costs a reallocation.
        let mut out = Vec::with_capacity(usize::try_from(content + 64 * u64::from(BLOCK)).unwrap_or(0));
        self.write(&mut out)?;
        Ok(out)
    }

    fn sizes(&self) -> layout::Sizes {
        // `source` has checked that lengths fit.
        let size = |source: &Source<'_>| source.content.len() as u32;
        layout::Sizes { boot: self.boot.as_ref().map(size), files: self.files.iter().map(size).collect() }
    }

    fn check(path: &str, depth: usize) -> Result<Vec<&str>, IsoError> {
        let names = path::components(path).map_err(IsoError::Path)?;
        if names.len() > depth {
            return Err(IsoError::TooDeep { path: path.to_owned() });
        }
        Ok(names)
    }

    fn source(what: &str, content: Content<'a>) -> Result<Source<'a>, IsoError> {
        let size = content.len();
        // Rounded up to blocks it must still fit.
        if size > u64::from(u32::MAX - BLOCK) {
            return Err(IsoError::TooLarge { what: what.to_owned(), size });
        }
        Ok(Source { what: what.to_owned(), content })
    }
}

/// Writes contents and fills the last block up.
fn copy(source: Source<'_>, out: &mut impl Write) -> Result<(), IsoError> {
    let announced = source.content.len();
    let what = source.what;
    match source.content {
        Content::Bytes(bytes) => out.write_all(&bytes).map_err(IsoError::Write)?,
        Content::Reader(mut reader, _) => copy_reader(&what, &mut *reader, announced, out)?,
    }
    let padding = announced.next_multiple_of(u64::from(BLOCK)) - announced;
    io::copy(&mut io::repeat(0).take(padding), out).map(drop).map_err(IsoError::Write)
}

fn copy_reader(what: &str, reader: &mut dyn Read, announced: u64, out: &mut impl Write) -> Result<(), IsoError> {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = announced;
    let length = |relation| IsoError::Length { what: what.to_owned(), announced, relation };
    loop {
        let got = match reader.read(&mut buffer) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(IsoError::Read { what: what.to_owned(), source }),
        };
        if got == 0 {
            return if left == 0 { Ok(()) } else { Err(length("fewer")) };
        }
        left = left.checked_sub(got as u64).ok_or_else(|| length("more"))?;
        out.write_all(&buffer[..got]).map_err(IsoError::Write)?;
    }
}

#[cfg(test)]
mod tests;
