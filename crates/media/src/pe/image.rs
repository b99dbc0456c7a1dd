//! The part of PE32+ that is needed to append sections and to change the contents of one. All reads are checked; an
//! image from outside cannot make this panic or read beyond it.

use super::{PAGE, PeError};

const MACHINE_X86_64: u16 = 0x8664;
const MAGIC_PE32_PLUS: u16 = 0x20b;
const COFF_HEADER: usize = 20;
const SECTION_HEADER: usize = 40;
/// Offsets inside the optional header of PE32+.
const SIZE_OF_INITIALIZED_DATA: usize = 8;
const SECTION_ALIGNMENT: usize = 32;
const FILE_ALIGNMENT: usize = 36;
const SIZE_OF_IMAGE: usize = 56;
const SIZE_OF_HEADERS: usize = 60;
const CHECKSUM: usize = 64;
const NUMBER_OF_DIRECTORIES: usize = 108;
/// Initialised data, readable.
const DATA_READ: u32 = 0x4000_0040;
/// The loader of Windows stops at 96 sections, and no stub has nearly as many.
const MAX_SECTIONS: usize = 96;
/// Addresses stay below 2 GiB, so sums of them cannot overflow.
const MAX_ADDRESS: u64 = 0x7fff_ffff;

/// A parsed image.
#[derive(Debug)]
pub(super) struct Image<'a> {
    bytes: &'a [u8],
    /// Where the COFF header starts.
    coff: usize,
    /// Where the optional header starts.
    optional: usize,
    /// Where the section headers start.
    table: usize,
    section_alignment: u32,
    file_alignment: u32,
    sections: Vec<Section>,
}

/// One section header.
#[derive(Debug, Clone)]
pub(super) struct Section {
    name: [u8; 8],
    /// Where this header starts.
    header: usize,
    virtual_size: u32,
    virtual_address: u32,
    raw_size: u32,
    raw_offset: u32,
}

impl Section {
    /// Bytes that the file has for this section.
    pub(super) fn raw_size(&self) -> usize {
        self.raw_size as usize
    }

    fn name(&self) -> &[u8] {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        &self.name[..end]
    }
}

/// Offsets of what changes with the contents of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: usize,
    pub(super) room: usize,
    pub(super) length: usize,
    pub(super) checksum: usize,
}

/// A section to append.
#[derive(Debug)]
pub(super) struct NewSection<'a> {
    pub(super) name: &'static str,
    pub(super) data: &'a [u8],
    /// Bytes to reserve in the file if the data has fewer.
    pub(super) room: usize,
}

impl<'a> Image<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, PeError> {
        if !bytes.starts_with(b"MZ") {
            return Err(PeError::Format { what: "its first bytes are not MZ" });
        }
        let signature = read_u32(bytes, 0x3c, "the DOS header")? as usize;
        if slice(bytes, signature, 4, "the PE signature")? != b"PE\0\0" {
            return Err(PeError::Format { what: "there is no PE signature" });
        }
        let coff = signature + 4;
        if read_u16(bytes, coff, "the COFF header")? != MACHINE_X86_64 {
            return Err(PeError::Format { what: "it is for another machine" });
        }
        let count = usize::from(read_u16(bytes, coff + 2, "the COFF header")?);
        if count > MAX_SECTIONS {
            return Err(PeError::Format { what: "it has more than 96 sections" });
        }
        let optional = coff + COFF_HEADER;
        let optional_size = usize::from(read_u16(bytes, coff + 16, "the COFF header")?);
        if optional_size < NUMBER_OF_DIRECTORIES + 4 {
            return Err(PeError::Format { what: "its optional header is too short for PE32+" });
        }
        slice(bytes, optional, optional_size, "the optional header")?;
        if read_u16(bytes, optional, "the optional header")? != MAGIC_PE32_PLUS {
            return Err(PeError::Format { what: "it is not PE32+" });
        }
        let section_alignment = read_u32(bytes, optional + SECTION_ALIGNMENT, "the optional header")?;
        let file_alignment = read_u32(bytes, optional + FILE_ALIGNMENT, "the optional header")?;
        let plausible = |alignment: u32| alignment.is_power_of_two() && alignment <= 0x1_0000;
        if !plausible(section_alignment) || !plausible(file_alignment) {
            return Err(PeError::Format { what: "an alignment is no power of two up to 64 KiB" });
        }
        let table = optional + optional_size;
        let sections = (0..count)
            .map(|index| Section::parse(bytes, table + index * SECTION_HEADER))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { bytes, coff, optional, table, section_alignment, file_alignment, sections })
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name() == name.as_bytes())
    }

    /// The section's contents, without the padding of the file.
    pub(super) fn data(&self, section: &Section) -> Result<&'a [u8], PeError> {
        let size = section.virtual_size.min(section.raw_size) as usize;
        slice(self.bytes, section.raw_offset as usize, size, "a section")
    }

    /// Where a section is whose contents are to be changed: its bytes and their number, where the number of those that count
    /// is, and where the checksum is, which is not kept.
    pub(super) fn place(&self, section: &Section) -> Result<Place, PeError> {
        let at = section.raw_offset as usize;
        slice(self.bytes, at, section.raw_size(), "a section")?;
        Ok(Place { at, room: section.raw_size(), length: section.header + 8, checksum: self.optional + CHECKSUM })
    }

    /// Returns the image with more sections at its end.
    pub(super) fn with_sections(&self, new: &[NewSection<'_>]) -> Result<Vec<u8>, PeError> {
        self.check_room(new)?;
        let size: usize = new.iter().map(|section| section.data.len().max(section.room) + PAGE as usize).sum();
        let mut out = Vec::with_capacity(self.bytes.len() + size);
        out.extend_from_slice(self.bytes);

        let alignment = u64::from(self.section_alignment.max(PAGE));
        let end = |section: &Section| {
            u64::from(section.virtual_address) + u64::from(section.virtual_size.max(section.raw_size))
        };
        let mut address = self.sections.iter().map(end).max().unwrap_or(u64::from(PAGE));
        let mut added = 0;
        for (index, section) in new.iter().enumerate() {
            address = address.next_multiple_of(alignment);
            pad_to(&mut out, self.file_alignment as usize);
            let offset = out.len();
            out.extend_from_slice(section.data);
            out.resize(offset + section.data.len().max(section.room), 0);
            pad_to(&mut out, self.file_alignment as usize);
            let raw_size = out.len() - offset;
            if address + raw_size as u64 > MAX_ADDRESS || out.len() as u64 > MAX_ADDRESS {
                return Err(PeError::TooLarge);
            }
            let mut name = [0; 8];
            name[..section.name.len()].copy_from_slice(section.name.as_bytes());
            let header = Section {
                name,
                header: self.table + (self.sections.len() + index) * SECTION_HEADER,
                virtual_size: checked_u32(section.data.len())?,
                virtual_address: u32::try_from(address).map_err(|_| PeError::TooLarge)?,
                raw_size: checked_u32(raw_size)?,
                raw_offset: checked_u32(offset)?,
            };
            header.write(&mut out);
            added += raw_size;
            address += raw_size as u64;
        }
        self.write_totals(&mut out, new.len(), added, address.next_multiple_of(alignment))?;
        Ok(out)
    }

    /// New headers must fit before the first byte of any section and must hit nothing but zeros.
    fn check_room(&self, new: &[NewSection<'_>]) -> Result<(), PeError> {
        if let Some(section) = new.iter().find(|section| self.section(section.name).is_some()) {
            return Err(PeError::Duplicate { name: section.name.to_owned() });
        }
        let start = self.table + self.sections.len() * SECTION_HEADER;
        let headers = read_u32(self.bytes, self.optional + SIZE_OF_HEADERS, "the optional header")? as usize;
        let first_data = self
            .sections
            .iter()
            .filter(|section| section.raw_size > 0)
            .map(|section| section.raw_offset as usize)
            .min()
            .unwrap_or(headers);
        let end = headers.min(first_data).min(self.bytes.len());
        let room = end.saturating_sub(start) / SECTION_HEADER;
        let wanted = new.len();
        if wanted > room || self.sections.len() + wanted > MAX_SECTIONS {
            return Err(PeError::NoHeaderRoom { room, wanted });
        }
        let free = slice(self.bytes, start, wanted * SECTION_HEADER, "the section headers")?;
        if free.iter().any(|byte| *byte != 0) {
            return Err(PeError::Format { what: "the bytes after the section headers are in use" });
        }
        Ok(())
    }

    fn write_totals(&self, out: &mut [u8], sections: usize, data: usize, end: u64) -> Result<(), PeError> {
        let count = u16::try_from(self.sections.len() + sections).map_err(|_| PeError::TooLarge)?;
        out[self.coff + 2..self.coff + 4].copy_from_slice(&count.to_le_bytes());
        let field = self.optional + SIZE_OF_INITIALIZED_DATA;
        let before = read_u32(self.bytes, field, "the optional header")?;
        put_u32(out, field, before.checked_add(checked_u32(data)?).ok_or(PeError::TooLarge)?);
        put_u32(out, self.optional + SIZE_OF_IMAGE, u32::try_from(end).map_err(|_| PeError::TooLarge)?);
        // 0 means "not computed"; no EFI firmware reads it.
        put_u32(out, self.optional + CHECKSUM, 0);
        Ok(())
    }
}

impl Section {
    fn parse(bytes: &[u8], header: usize) -> Result<Self, PeError> {
        const WHAT: &str = "the section headers";
        let mut name = [0; 8];
        name.copy_from_slice(slice(bytes, header, 8, WHAT)?);
        let section = Self {
            name,
            header,
            virtual_size: read_u32(bytes, header + 8, WHAT)?,
            virtual_address: read_u32(bytes, header + 12, WHAT)?,
            raw_size: read_u32(bytes, header + 16, WHAT)?,
            raw_offset: read_u32(bytes, header + 20, WHAT)?,
        };
        slice(bytes, header, SECTION_HEADER, WHAT)?;
        if section.raw_size > 0 {
            slice(bytes, section.raw_offset as usize, section.raw_size as usize, "a section")?;
        }
        Ok(section)
    }

    fn write(&self, out: &mut [u8]) {
        out[self.header..self.header + 8].copy_from_slice(&self.name);
        put_u32(out, self.header + 8, self.virtual_size);
        put_u32(out, self.header + 12, self.virtual_address);
        put_u32(out, self.header + 16, self.raw_size);
        put_u32(out, self.header + 20, self.raw_offset);
        put_u32(out, self.header + 36, DATA_READ);
    }
}

fn slice<'a>(bytes: &'a [u8], offset: usize, length: usize, what: &'static str) -> Result<&'a [u8], PeError> {
    offset
        .checked_add(length)
        .and_then(|end| bytes.get(offset..end))
        .ok_or(PeError::Truncated { what, offset: offset.min(bytes.len()) })
}

fn read_u16(bytes: &[u8], offset: usize, what: &'static str) -> Result<u16, PeError> {
    let mut field = [0; 2];
    field.copy_from_slice(slice(bytes, offset, 2, what)?);
    Ok(u16::from_le_bytes(field))
}

fn read_u32(bytes: &[u8], offset: usize, what: &'static str) -> Result<u32, PeError> {
    let mut field = [0; 4];
    field.copy_from_slice(slice(bytes, offset, 4, what)?);
    Ok(u32::from_le_bytes(field))
}

fn checked_u32(value: usize) -> Result<u32, PeError> {
    u32::try_from(value).map_err(|_| PeError::TooLarge)
}

/// Writes into a header that `parse` has read, so the place exists.
fn put_u32(out: &mut [u8], offset: usize, value: u32) {
    out[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

fn pad_to(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}
