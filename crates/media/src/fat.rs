//! Images of FAT file systems, as EFI system partitions and virtual floppies have them (Microsoft FAT specification
//! 1.03; written with the `fatfs` crate).
//!
//! The same files and label give the same bytes: all times are 1 January 1980, the volume id is a constant.

use crate::path::{self, PathError};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use std::collections::BTreeSet;
use std::io::{self, Cursor, Write as _};

/// The volume id of every image ("FERR"); nothing finds these file systems by it.
const VOLUME_ID: u32 = 0x4645_5252;

const MIB: u64 = 1024 * 1024;

/// Largest sum of contents that [`image`] takes, in bytes. These images are made in memory.
pub const MAX_CONTENT: u64 = 1024 * MIB;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// A path is not one that an image may hold.
    #[error("the FAT image has a bad path")]
    Path(#[source] PathError),
    /// FAT names have no upper and lower case of their own, and some characters are not allowed.
    #[error("{path:?} cannot be a FAT name: {reason}")]
    Name {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The label does not fit.
    #[error("FAT label {label:?} must have 1 to 11 characters out of A-Z, 0-9, space, '-' and '_'")]
    Label {
        /// The label as it was given.
        label: String,
    },
    /// The contents are over [`MAX_CONTENT`].
    #[error("the files have {size} bytes together, and an image takes {MAX_CONTENT}")]
    TooLarge {
        /// The sum in bytes.
        size: u64,
    },
    /// The file system could not be built.
    #[error("the FAT file system could not be written")]
    Write(#[source] io::Error),
}

/// Builds an image that holds `files` (relative path, contents) and is just large enough for them. The type (FAT12,
/// FAT16 or FAT32) follows from the size. Directories are made as needed.
///
/// # Errors
/// See [`FatError`]; the label may have lower case letters, which FAT stores as capitals.
pub fn image(files: &[(&str, &[u8])], label: &str) -> Result<Vec<u8>, FatError> {
    let label = volume_label(label)?;
    let directories = check_paths(files)?;
    let content: u64 = files.iter().map(|(_, data)| data.len() as u64).sum();
    if content > MAX_CONTENT {
        return Err(FatError::TooLarge { size: content });
    }
    let mut size = image_size(files, directories.len());
    // Close to the borders of 4085 and 65525 clusters no valid geometry exists; a MiB more leaves the border.
    let mut image = loop {
        let mut image = vec![0; usize::try_from(size).map_err(|_| FatError::TooLarge { size })?];
        match fatfs::format_volume(Cursor::new(&mut image), options(size, label)) {
            Ok(()) => break image,
            Err(error) if size > content + 64 * MIB => return Err(FatError::Write(error)),
            Err(_) => size += MIB,
        }
    };
    fill(&mut image, &directories, files).map_err(FatError::Write)?;
    Ok(image)
}

fn cluster_size(size: u64) -> u32 {
    // 2 KiB is the block size of a CD; above 120 MiB it would make a FAT32 of many small clusters.
    if size <= 120 * MIB { 2048 } else { 4096 }
}

fn options(size: u64, label: [u8; 11]) -> FormatVolumeOptions {
    FormatVolumeOptions::new().bytes_per_cluster(cluster_size(size)).volume_id(VOLUME_ID).volume_label(label)
}

/// Contents in clusters, two tables of at most 4 bytes a cluster, the root directory, and 256 KiB for long names and
/// reserved sectors; a multiple of 1 MiB.
fn image_size(files: &[(&str, &[u8])], directories: usize) -> u64 {
    const CLUSTER: u64 = 4096;
    let clusters: u64 = files.iter().map(|(_, data)| (data.len() as u64).div_ceil(CLUSTER)).sum();
    // A long name of 255 characters takes 21 entries of 32 bytes.
    let entries = (files.len() as u64 + directories as u64) * 22 * 32;
    let clusters = clusters + directories as u64 + entries.div_ceil(CLUSTER) + 2;
    let tables = (clusters * CLUSTER / 2048) * 2 * 4;
    (clusters * CLUSTER + tables + 256 * 1024).next_multiple_of(MIB)
}

fn fill(image: &mut [u8], directories: &BTreeSet<String>, files: &[(&str, &[u8])]) -> io::Result<()> {
    let file_system = FileSystem::new(Cursor::new(image), FsOptions::new().update_accessed_date(false))?;
    {
        let root = file_system.root_dir();
        for directory in directories {
            root.create_dir(directory)?;
        }
        for (path, data) in files {
            let mut file = root.create_file(path)?;
            file.write_all(data)?;
            file.flush()?;
        }
    }
    file_system.unmount()
}

/// Returns the directories that the files need, parents first (a parent is a prefix, so it sorts first).
fn check_paths(files: &[(&str, &[u8])]) -> Result<BTreeSet<String>, FatError> {
    let mut directories = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut seen_directories = BTreeSet::new();
    for (path, _) in files {
        let names = path::components(path).map_err(FatError::Path)?;
        for name in &names {
            check_name(path, name)?;
        }
        for end in 1..names.len() {
            let directory = names[..end].join("/");
            if seen_directories.insert(directory.to_ascii_lowercase()) {
                directories.insert(directory);
            }
        }
        if !seen.insert(path.to_ascii_lowercase()) {
            return Err(FatError::Name { path: (*path).to_owned(), reason: "another file has the same name" });
        }
    }
    if let Some(path) = seen.intersection(&seen_directories).next() {
        return Err(FatError::Name { path: path.clone(), reason: "it is a file and a directory" });
    }
    Ok(directories)
}

fn check_name(path: &str, name: &str) -> Result<(), FatError> {
    let refuse = |reason| Err(FatError::Name { path: path.to_owned(), reason });
    if !name.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return refuse("it has characters outside ASCII or control characters");
    }
    if name.contains(['"', '*', ':', '<', '>', '?', '\\', '|']) {
        return refuse("it has one of \" * : < > ? \\ |");
    }
    if name.ends_with(['.', ' ']) || name.starts_with(' ') {
        return refuse("it begins with a space or ends with a dot or a space");
    }
    Ok(())
}

fn volume_label(label: &str) -> Result<[u8; 11], FatError> {
    let upper = label.to_ascii_uppercase();
    let allowed = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, b' ' | b'-' | b'_');
    if upper.is_empty() || upper.len() > 11 || !upper.bytes().all(allowed) {
        return Err(FatError::Label { label: label.to_owned() });
    }
    let mut padded = [b' '; 11];
    padded[..upper.len()].copy_from_slice(upper.as_bytes());
    Ok(padded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn read_back(image: &mut [u8], path: &str) -> Vec<u8> {
        let file_system = FileSystem::new(Cursor::new(image), FsOptions::new()).unwrap();
        let mut data = Vec::new();
        file_system.root_dir().open_file(path).unwrap().read_to_end(&mut data).unwrap();
        data
    }

    #[test]
    fn files_of_any_size_come_back_as_they_were() {
        // The sizes pass the borders between the FAT types for both cluster sizes.
        for size in [0, 1, 2048, 1_400_000, 7 << 20, (8 << 20) - 300_000, 16 << 20, 120 << 20] {
            let data: Vec<u8> = (0..size).map(|i: u32| (i % 251) as u8).collect();
            let mut image = image(&[("EFI/BOOT/BOOTX64.EFI", &data), ("loader.conf", b"x")], "ESP").unwrap();
            assert_eq!(read_back(&mut image, "efi/boot/bootx64.efi"), data, "{size} bytes");
            assert_eq!(read_back(&mut image, "loader.conf"), b"x");
        }
    }

    #[test]
    fn the_smallest_image_is_one_mebibyte() {
        assert_eq!(image(&[("parameters.txt", b"a=b\n")], "ir-vfd-dev").unwrap().len(), 1 << 20);
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let build = || image(&[("a/b", b"1"), ("a/c", b"2")], "X").unwrap();
        assert_eq!(build(), build());
    }

    #[test]
    fn many_files_with_long_names_fit() {
        let names: Vec<String> = (0..400).map(|i| format!("directory/{i:03}-{}", "n".repeat(200))).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"data".as_slice())).collect();
        let mut image = image(&files, "MANY").unwrap();
        assert_eq!(read_back(&mut image, &names[399]), b"data");
    }

    #[test]
    fn names_that_fat_cannot_hold_are_refused() {
        for path in ["a:b", "a?", "dot.", "naïve", "/abs", "a\nb"] {
            assert!(image(&[(path, b"")], "X").is_err(), "{path:?}");
        }
        assert!(matches!(image(&[("a", b""), ("A", b"")], "X"), Err(FatError::Name { .. })));
        assert!(matches!(image(&[("a", b""), ("a/b", b"")], "X"), Err(FatError::Name { .. })));
        for label in ["", "TWELVE CHARS", "ä"] {
            assert!(matches!(image(&[], label), Err(FatError::Label { .. })), "{label:?}");
        }
    }
}
