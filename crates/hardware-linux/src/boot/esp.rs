//! The EFI system partition: where it is, and which loaders are on it.

use super::entry::{PartitionName, PartitionPath};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// GPT partition type of an EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as it lies on the disk.
const ESP_GUID: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// MBR partition type of an EFI system partition.
const ESP_MBR: u8 = 0xef;

/// File names that are loaders, in lower case: those that ironic-python-agent looks for.
const LOADERS: [&str; 13] = [
    "bootx64.csv",
    "bootaa64.csv",
    "boot.csv",
    "bootia32.efi",
    "bootx64.efi",
    "bootia64.efi",
    "bootarm.efi",
    "bootaa64.efi",
    "bootriscv32.efi",
    "bootriscv64.efi",
    "bootriscv128.efi",
    "grubaa64.efi",
    "winload.efi",
];

/// Bounds for walking a file system that somebody else made.
const DEEPEST: usize = 8;
const MOST_ENTRIES: usize = 10_000;
const LONGEST_CSV: u64 = 64 << 10;
const MOST_LOADERS: usize = 16;

/// A loader with the label that its entry gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loader {
    pub(super) label: String,
    /// With backslashes, from the root of the partition.
    pub(super) path: String,
}

/// Finds the ESP in a GPT, or in an MBR's primary partitions. `sector` is the logical sector size in bytes.
pub(super) fn locate(device: &mut File, sector: u64) -> io::Result<Option<PartitionPath>> {
    if let Ok(table) = gptman::GPT::read_from(device, sector) {
        let esp = table.iter().find(|(_, partition)| partition.is_used() && partition.partition_type_guid == ESP_GUID);
        return Ok(esp.and_then(|(number, partition)| {
            Some(PartitionPath {
                number,
                start: partition.starting_lba,
                blocks: partition.ending_lba.checked_sub(partition.starting_lba)?.checked_add(1)?,
                name: PartitionName::Gpt(partition.unique_partition_guid),
            })
        }));
    }
    let mut mbr = [0_u8; 512];
    device.read_exact_at(&mut mbr, 0)?;
    if mbr[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let signature = [mbr[440], mbr[441], mbr[442], mbr[443]];
    let four = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
    Ok((1..=4).zip(mbr[446..510].chunks_exact(16)).find(|(_, entry)| entry[4] == ESP_MBR).map(|(number, entry)| {
        PartitionPath {
            number,
            start: four(&entry[8..]),
            blocks: four(&entry[12..]),
            name: PartitionName::Mbr(signature),
        }
    }))
}

/// The loaders on the ESP: those that CSV files name when there are such files, else all that are found, in the order of
/// their paths.
pub(super) fn loaders(device: File, partition: &PartitionPath, sector: u64) -> io::Result<Vec<Loader>> {
    let size = partition.blocks.saturating_mul(sector);
    let start = partition.start.saturating_mul(sector);
    if start.checked_add(size).is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is said to end beyond 2^64 bytes"));
    }
    let system = fatfs::FileSystem::new(Window { device, start, size, position: 0 }, fatfs::FsOptions::new())?;
    let mut files = Vec::new();
    let mut left = MOST_ENTRIES;
    walk(&system.root_dir(), "", DEEPEST, &mut left, &mut files)?;
    files.sort();
    let (tables, programs): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|path| path.to_lowercase().ends_with(".csv"));
    let mut loaders = Vec::new();
    for table in tables {
        let mut bytes = Vec::new();
        system.root_dir().open_file(&table)?.take(LONGEST_CSV).read_to_end(&mut bytes)?;
        let Some((name, label)) = csv(&bytes) else {
            tracing::warn!(file = table, "not a table of loaders: wanted UTF-16 text such as grubx64.efi,debian,,");
            continue;
        };
        let folder = table.rsplit_once('/').map_or("", |(folder, _)| folder);
        let target = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if system.root_dir().open_file(&target).is_ok() {
            loaders.push(Loader { label, path: backslashes(&target) });
        } else {
            tracing::warn!(file = table, target, "the table names a loader that is not there");
        }
    }
    if loaders.is_empty() {
        // The labels that ironic-python-agent gives, so that either agent replaces the entries of the other.
        let numbered = programs.iter().enumerate();
        loaders.extend(
            numbered.map(|(index, path)| Loader { label: format!("ironic{}", index + 1), path: backslashes(path) }),
        );
    }
    loaders.truncate(MOST_LOADERS);
    Ok(loaders)
}

fn backslashes(path: &str) -> String {
    format!("\\{}", path.replace('/', "\\"))
}

type Folder<'a> = fatfs::Dir<'a, Window>;

fn walk(folder: &Folder<'_>, path: &str, depth: usize, left: &mut usize, files: &mut Vec<String>) -> io::Result<()> {
    for entry in folder.iter() {
        let entry = entry?;
        *left = left.checked_sub(1).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {MOST_ENTRIES} files and folders"))
        })?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        let full = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        if entry.is_dir() {
            if depth > 0 {
                walk(&entry.to_dir(), &full, depth - 1, left, files)?;
            }
        } else if LOADERS.contains(&name.to_lowercase().as_str()) {
            files.push(full);
        }
    }
    Ok(())
}

/// The file name and the label of a `BOOT*.CSV` (shim's `README.fallback`): UTF-16 little-endian, with or without a byte
/// order mark; the first line counts.
fn csv(bytes: &[u8]) -> Option<(String, String)> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = String::from_utf16(&units).ok()?;
    let line = text.trim_start_matches('\u{feff}').lines().next()?;
    let mut fields = line.split(',').map(str::trim);
    let (name, label) = (fields.next()?, fields.next()?);
    let plain = |text: &str| !text.is_empty() && text.len() <= 200 && !text.chars().any(char::is_control);
    (plain(name) && plain(label) && !name.contains(['/', '\\'])).then(|| (name.to_owned(), label.to_owned()))
}

/// A part of a device, to be read only.
struct Window {
    device: File,
    start: u64,
    size: u64,
    position: u64,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let read = self.device.read_at(&mut buffer[..length], self.start + self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
        };
        let position = position.filter(|&position| position <= self.size);
        self.position =
            position.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek beyond the partition"))?;
        Ok(self.position)
    }
}

/// The library wants to write in order to mark a volume as used; here it may not.
impl Write for Window {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
