//! Images of FAT file systems, as EFI system partitions and virtual floppies have them (Microsoft FAT specification
//! 1.03, "FAT"): written once, in order, every file in one piece.
//!
//! The crate `fatfs` is not used for this: 0.3 gives "." and ".." long names, which fsck.fat calls damage. It reads the
//! images back in the tests.
//!
//! The same files and label give the same bytes: all times are 1 January 1980, the volume id is a constant.

mod directory;
mod geometry;

use crate::path::{self, PathError};
use directory::{Slot, encode_directory, entries_of};
use geometry::Geometry;
use std::collections::BTreeMap;

const MIB: u64 = 1024 * 1024;
/// The volume id of every [`image`] ("FERR"); nothing finds these file systems by it.
const VOLUME_ID: u32 = 0x4645_5252;

/// Largest sum of contents that [`image`] takes, in bytes. These images are made in memory.
pub const MAX_CONTENT: u64 = 1024 * MIB;

/// Why an image could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// No FAT file system has this size.
    #[error("no FAT file system has {size} bytes with {sector}-byte sectors")]
    Size {
        /// Bytes wanted.
        size: u64,
        /// Bytes of a sector.
        sector: u32,
    },
    /// The files do not fit.
    #[error("the files take {need} bytes, the FAT file system has room for {room}")]
    Full {
        /// Bytes that files and directories take, in whole clusters.
        need: u64,
        /// Bytes that there are.
        room: u64,
    },
    /// A directory has more entries than FAT allows (65,536, a long name takes several).
    #[error("directory {path:?} has too many files for FAT")]
    TooMany {
        /// The directory; empty for the root.
        path: String,
    },
}

/// A directory of the image. Files and directories are found by their name in capitals, as FAT compares names.
#[derive(Debug, Default)]
struct Directory {
    path: String,
    children: BTreeMap<String, (String, Child)>,
}

#[derive(Debug)]
enum Child {
    /// Index of a directory.
    Directory(usize),
    /// Index of a file.
    File(usize),
}

/// What a file system is to be, beside its files.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Volume label; lower case letters are stored as capitals.
    pub label: &'a str,
    /// By which operating systems tell volumes apart.
    pub id: u32,
    /// Bytes of the whole file system.
    pub size: u64,
    /// Bytes of a sector, which must not be fewer than those of the device.
    pub sector: u32,
}

/// A file system of a given size that holds everything but the contents of its files: for those that are too large for
/// memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    head: Vec<u8>,
    places: Vec<u64>,
}

impl Volume {
    /// Lays out `files` (relative path, bytes). Directories are made as needed.
    ///
    /// # Errors
    /// See [`FatError`].
    pub fn new(files: &[(&str, u64)], shape: Shape<'_>) -> Result<Self, FatError> {
        let label = volume_label(shape.label)?;
        if let Some((path, _)) = files.iter().find(|(_, bytes)| *bytes > u64::from(u32::MAX)) {
            return Err(FatError::Name { path: (*path).to_owned(), reason: "the file is larger than 4 GiB" });
        }
        let (directories, slots) = tree(files)?;
        let geometry = Geometry::of_size(shape.size, slots[0], u64::from(shape.sector));
        let geometry = geometry.ok_or(FatError::Size { size: shape.size, sector: shape.sector })?;
        let (clusters, room) = (clusters(files, &slots, geometry.cluster_bytes() as u64), geometry.room());
        if clusters > room {
            let cluster = geometry.cluster_bytes() as u64;
            return Err(FatError::Full { need: clusters * cluster, room: room * cluster });
        }
        Ok(Writer::new(&geometry).write(files, &directories, &slots, label, shape.id))
    }

    /// The first bytes of the file system: header, tables and directories.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Where each file lies, in bytes from the start of the file system. Of an empty file this means nothing.
    pub fn places(&self) -> &[u64] {
        &self.places
    }
}

/// Builds an image that holds `files` (relative path, contents) and is just large enough for them, a multiple of 1 MiB.
/// The type (FAT12, FAT16 or FAT32) follows from the size. Directories are made as needed.
///
/// # Errors
/// See [`FatError`]; the label may have lower case letters, which FAT stores as capitals.
pub fn image(files: &[(&str, &[u8])], label: &str) -> Result<Vec<u8>, FatError> {
    let label = volume_label(label)?;
    let content: u64 = files.iter().map(|(_, data)| data.len() as u64).sum();
    if content > MAX_CONTENT {
        return Err(FatError::TooLarge { size: content });
    }
    let sizes: Vec<(&str, u64)> = files.iter().map(|(path, data)| (*path, data.len() as u64)).collect();
    let (directories, slots) = tree(&sizes)?;
    let cluster = if content <= 120 * MIB { 2048 } else { 4096 };
    // Of FAT32 the root is in clusters too, which the geometry adds itself.
    let wanted = clusters(&sizes, &slots[1..], cluster);
    let geometry = Geometry::for_clusters(wanted, slots[0], cluster);
    let volume = Writer::new(&geometry).write(&sizes, &directories, &slots, label, VOLUME_ID);
    let mut image = volume.head;
    image.resize(geometry.bytes(), 0);
    for ((_, data), place) in files.iter().zip(volume.places) {
        if !data.is_empty() {
            image[place as usize..place as usize + data.len()].copy_from_slice(data);
        }
    }
    Ok(image)
}

/// Clusters that files and directories of so many slots take.
fn clusters(files: &[(&str, u64)], slots: &[u64], cluster: u64) -> u64 {
    let files: u64 = files.iter().map(|(_, bytes)| bytes.div_ceil(cluster)).sum();
    files + slots.iter().map(|count| (count * 32).div_ceil(cluster)).sum::<u64>()
}

/// Sorts files into directories, of which the first is the root; and how many entries each of them has.
fn tree(files: &[(&str, u64)]) -> Result<(Vec<Directory>, Vec<u64>), FatError> {
    let mut directories = vec![Directory::default()];
    for (file_index, (path, _)) in files.iter().enumerate() {
        let names = path::components(path).map_err(FatError::Path)?;
        for name in &names {
            check_name(path, name)?;
        }
        let Some((file, above)) = names.split_last() else { continue };
        let mut at = 0;
        for (depth, name) in above.iter().enumerate() {
            let new = directories.len();
            let entry = directories[at].children.entry(name.to_ascii_uppercase());
            let (_, child) = entry.or_insert_with(|| ((*name).to_owned(), Child::Directory(new)));
            match child {
                Child::Directory(index) => at = *index,
                Child::File(_) => {
                    return Err(FatError::Name { path: (*path).to_owned(), reason: "a directory of it is a file" });
                }
            }
            if at == new {
                directories.push(Directory { path: above[..=depth].join("/"), children: BTreeMap::new() });
            }
        }
        let child = ((*file).to_owned(), Child::File(file_index));
        if directories[at].children.insert(file.to_ascii_uppercase(), child).is_some() {
            return Err(FatError::Name { path: (*path).to_owned(), reason: "another entry has the same name" });
        }
    }
    // The root's entries decide its size, which FAT12 and FAT16 fix in the header.
    let mut slots = Vec::with_capacity(directories.len());
    for directory in &directories {
        let names = directory.children.values().map(|(name, _)| name.as_str());
        let count = entries_of(names);
        if count > 65_536 - 2 {
            return Err(FatError::TooMany { path: directory.path.clone() });
        }
        // The label in the root, "." and ".." elsewhere.
        slots.push(count + 2);
    }
    Ok((directories, slots))
}

/// Fills the head of a file system, and gives out clusters from the first one on.
struct Writer<'a> {
    geometry: &'a Geometry,
    head: Vec<u8>,
    next_cluster: u32,
}

impl<'a> Writer<'a> {
    fn new(geometry: &'a Geometry) -> Self {
        // The root of FAT32 is the first thing in the clusters.
        Self { geometry, head: vec![0; geometry.cluster_offset(2)], next_cluster: 2 }
    }

    fn write(
        mut self,
        files: &[(&str, u64)],
        directories: &[Directory],
        slots: &[u64],
        label: [u8; 11],
        id: u32,
    ) -> Volume {
        self.geometry.write_headers(&mut self.head, label, id);
        // Directories first, so that their entries can name their places, and so that they lie in the head.
        let mut folders = Vec::new();
        for (index, count) in slots.iter().enumerate() {
            let in_header = index == 0 && !self.geometry.root_in_clusters();
            folders.push(if in_header { 0 } else { self.take(count * 32) });
        }
        self.head.resize(self.geometry.cluster_offset(self.next_cluster), 0);
        let clusters: Vec<u32> =
            files.iter().map(|(_, bytes)| if *bytes == 0 { 0 } else { self.take(*bytes) }).collect();
        let parents = parents(directories);
        for (index, directory) in directories.iter().enumerate() {
            let mut entries = Vec::new();
            for (name, child) in directory.children.values() {
                let slot = match child {
                    Child::Directory(index) => Slot { directory: true, cluster: folders[*index], size: 0 },
                    Child::File(index) => {
                        Slot { directory: false, cluster: clusters[*index], size: files[*index].1 as u32 }
                    }
                };
                entries.push((name.as_str(), slot));
            }
            // ".." of a directory in the root is 0 (FAT, 6.5).
            let parent = parents[index].map(|parent| if parent == 0 { 0 } else { folders[parent] });
            let dots = parent.map(|parent| (folders[index], parent));
            let bytes = encode_directory(&entries, dots, label);
            let start = match folders[index] {
                0 => self.geometry.root_offset(),
                cluster => self.geometry.cluster_offset(cluster),
            };
            self.head[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        self.geometry.finish(&mut self.head, self.next_cluster);
        let place = |cluster: u32| if cluster == 0 { 0 } else { self.geometry.cluster_offset(cluster) as u64 };
        Volume { places: clusters.into_iter().map(place).collect(), head: self.head }
    }

    /// Takes clusters for so many bytes, and chains them in both tables.
    fn take(&mut self, bytes: u64) -> u32 {
        let first = self.next_cluster;
        let count = bytes.div_ceil(self.geometry.cluster_bytes() as u64) as u32;
        self.next_cluster += count;
        self.geometry.chain(&mut self.head, first, count);
        first
    }
}

/// The directory that each directory lies in; none for the root.
fn parents(directories: &[Directory]) -> Vec<Option<usize>> {
    let mut parents = vec![None; directories.len()];
    for (parent, directory) in directories.iter().enumerate() {
        for (_, child) in directory.children.values() {
            if let Child::Directory(index) = child {
                parents[*index] = Some(parent);
            }
        }
    }
    parents
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
    use fatfs::{FileSystem, FsOptions};
    use std::io::{Cursor, Read as _};

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
    fn names_keep_their_case_and_their_order() {
        let long = "x".repeat(255);
        let files: Vec<(&str, &[u8])> = ["Lower Case.text", "UPPER.TXT", "a+b", ".hidden", "UPPER.TXT2", &long]
            .map(|name| (name, &b"x"[..]))
            .into();
        let mut image = image(&files, "NAMES").unwrap();
        let file_system = FileSystem::new(Cursor::new(&mut image), FsOptions::new()).unwrap();
        assert_eq!(file_system.volume_label(), "NAMES");
        let entries: Vec<_> = file_system.root_dir().iter().map(Result::unwrap).collect();
        let names: Vec<String> = entries.iter().map(|entry| entry.file_name()).collect();
        assert_eq!(names, [".hidden", "a+b", "Lower Case.text", "UPPER.TXT", "UPPER.TXT2", &long]);
        let short: Vec<String> = entries.iter().map(|entry| entry.short_file_name()).collect();
        assert_eq!(short, ["HIDDEN~1", "A_B~1", "LOWERC~1.TEX", "UPPER.TXT", "UPPER~1.TXT", "XXXXXX~1"]);
    }

    #[test]
    fn empty_directories_do_not_exist_and_empty_files_do() {
        let mut image = image(&[("a/b/empty", b"")], "X").unwrap();
        assert_eq!(read_back(&mut image, "A/B/EMPTY"), b"");
    }

    /// Volumes of every type, in all sector sizes: files come back, the rest of the size is free, and what lies outside
    /// the head and the files does not matter.
    #[test]
    fn volumes_of_a_given_size_hold_their_files_and_free_room() {
        for (mib, sector) in [(1, 512), (3, 512), (36, 512), (64, 4096), (550, 512), (550, 4096)] {
            let size = mib * MIB;
            let data: Vec<u8> = (0..size as u32 / 8).map(|i| (i % 251) as u8).collect();
            let files: [(&str, u64); 3] =
                [("EFI/BOOT/BOOTX64.EFI", data.len() as u64), ("empty", 0), ("loader/loader.conf", 5)];
            let shape = Shape { label: "efi-part", id: 0x1234_abcd, size, sector };
            let volume = Volume::new(&files, shape).unwrap();
            let mut image = vec![0xee; size as usize];
            image[..volume.head().len()].copy_from_slice(volume.head());
            for (place, content) in volume.places().iter().zip([&data[..], b"", b"hello"]) {
                let place = *place as usize;
                image[place..place + content.len()].copy_from_slice(content);
            }
            assert_eq!(read_back(&mut image, "efi/boot/bootx64.efi"), data, "{mib} MiB");
            assert_eq!(read_back(&mut image, "loader/loader.conf"), b"hello");
            let file_system = FileSystem::new(Cursor::new(&mut image), FsOptions::new()).unwrap();
            assert_eq!((file_system.volume_id(), file_system.volume_label().as_str()), (0x1234_abcd, "EFI-PART"));
            let stats = file_system.stats().unwrap();
            let free = u64::from(stats.free_clusters()) * u64::from(stats.cluster_size());
            assert!(free > size / 2, "{mib} MiB: {free} bytes are free");
        }
    }

    #[test]
    fn what_does_not_fit_a_volume_is_refused() {
        let shape = |size| Shape { label: "X", id: 1, size, sector: 512 };
        assert!(matches!(Volume::new(&[("a", 1 << 20)], shape(1 << 20)), Err(FatError::Full { .. })));
        assert!(matches!(Volume::new(&[("a", 1 << 33)], shape(1 << 40)), Err(FatError::Name { .. })));
        assert!(matches!(Volume::new(&[], shape(4096)), Err(FatError::Size { .. })));
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
