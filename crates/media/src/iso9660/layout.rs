//! Gives everything its place and writes all blocks before the contents: descriptors, boot catalogue, path tables,
//! directories.

use super::record::{Extent, Naming, both_16, both_32, directory_record, utf16};
use super::susp::{Continuation, Role, system_use};
use super::tree::{Kind, NodeId, Tree};
use super::{BLOCK, IsoError};

const BLOCK_SIZE: usize = BLOCK as usize;
/// The first 16 blocks belong to the system.
const SYSTEM_AREA: usize = 16;
/// A time that is not given (ECMA-119 8.4.26.1).
const NO_TIME: [u8; 17] = *b"0000000000000000\0";
/// El Torito: EFI (UEFI specification 13.3.2.1).
const PLATFORM_EFI: u8 = 0xef;

/// Lengths of all contents in bytes.
#[derive(Debug)]
pub(super) struct Sizes {
    pub(super) boot: Option<u32>,
    pub(super) files: Vec<u32>,
}

/// All blocks before the contents.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) bytes: Vec<u8>,
    /// Blocks of the whole image.
    pub(super) total_blocks: u32,
}

/// One of the two directory trees, in the order of its path table.
#[derive(Debug)]
struct Hierarchy {
    naming: Naming,
    directories: Vec<Directory>,
}

#[derive(Debug)]
struct Directory {
    node: NodeId,
    /// Index in the hierarchy; the root is its own parent.
    parent: usize,
    identifier: Vec<u8>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    identifier: Vec<u8>,
    node: NodeId,
    /// Index in the hierarchy if this is a directory.
    directory: Option<usize>,
}

/// Where things are.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Places {
    catalogue: u32,
    continuation: u32,
    hierarchies: [HierarchyPlaces; 2],
    boot: Extent,
    files: Vec<Extent>,
    total: u32,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct HierarchyPlaces {
    path_table: Extent,
    path_table_big_endian: u32,
    directories: Vec<Extent>,
}

/// The parts whose contents depend on places, but whose sizes do not.
#[derive(Debug)]
struct Parts {
    hierarchies: [HierarchyParts; 2],
    continuation: Vec<u8>,
}

#[derive(Debug)]
struct HierarchyParts {
    path_table: Vec<u8>,
    path_table_big_endian: Vec<u8>,
    directories: Vec<Vec<u8>>,
}

/// Renders twice: once to learn the sizes, once with the places that follow from them.
pub(super) fn render(label: &str, tree: &Tree, sizes: &Sizes) -> Result<Metadata, IsoError> {
    let hierarchies = [Hierarchy::new(tree, Naming::Primary), Hierarchy::new(tree, Naming::Joliet)];
    let directories = hierarchies[0].directories.len();
    if directories > usize::from(u16::MAX) {
        return Err(IsoError::TooLarge { what: "the path table".to_owned(), size: directories as u64 });
    }
    let unplaced = HierarchyPlaces { directories: vec![Extent::default(); directories], ..Default::default() };
    let blank = Places {
        hierarchies: [unplaced.clone(), unplaced],
        files: vec![Extent::default(); sizes.files.len()],
        ..Default::default()
    };
    let places = place(&parts(tree, &hierarchies, &blank), sizes)?;
    let parts = parts(tree, &hierarchies, &places);

    let mut out = vec![0; SYSTEM_AREA * BLOCK_SIZE];
    out.extend(volume_descriptor(label, Naming::Primary, &places));
    if sizes.boot.is_some() {
        out.extend(boot_record(places.catalogue));
    }
    out.extend(volume_descriptor(label, Naming::Joliet, &places));
    out.extend(block(&[255, b'C', b'D', b'0', b'0', b'1', 1]));
    if let Some(size) = sizes.boot {
        out.extend(boot_catalogue(places.boot.block, size));
    }
    for hierarchy in &parts.hierarchies {
        append(&mut out, &hierarchy.path_table);
        append(&mut out, &hierarchy.path_table_big_endian);
        for directory in &hierarchy.directories {
            append(&mut out, directory);
        }
    }
    append(&mut out, &parts.continuation);
    Ok(Metadata { bytes: out, total_blocks: places.total })
}

impl Hierarchy {
    /// Directories level by level, which is the order that a path table has (ECMA-119 6.9.1).
    fn new(tree: &Tree, naming: Naming) -> Self {
        let mut directories =
            vec![Directory { node: Tree::ROOT, parent: 0, identifier: vec![0], children: Vec::new() }];
        let mut next = 0;
        while next < directories.len() {
            let mut children = Vec::new();
            for (identifier, node) in naming.children(tree, directories[next].node) {
                let directory = tree.is_directory(node).then_some(directories.len());
                if directory.is_some() {
                    let identifier = identifier.clone();
                    directories.push(Directory { node, parent: next, identifier, children: Vec::new() });
                }
                children.push(Child { identifier, node, directory });
            }
            directories[next].children = children;
            next += 1;
        }
        Self { naming, directories }
    }

    /// Links of a directory: its name, its ".", and ".." of each directory in it.
    fn links(&self, index: usize) -> u32 {
        2 + self.directories[index].children.iter().filter(|child| child.directory.is_some()).count() as u32
    }

    fn render(&self, tree: &Tree, places: &Places, continuation: &mut Continuation) -> HierarchyParts {
        let own = self.places(places);
        HierarchyParts {
            path_table: self.path_table(own, u16::to_le_bytes, u32::to_le_bytes),
            path_table_big_endian: self.path_table(own, u16::to_be_bytes, u32::to_be_bytes),
            directories: (0..self.directories.len())
                .map(|index| self.render_directory(tree, index, places, continuation))
                .collect(),
        }
    }

    fn places<'a>(&self, places: &'a Places) -> &'a HierarchyPlaces {
        &places.hierarchies[usize::from(self.naming == Naming::Joliet)]
    }

    fn path_table(&self, places: &HierarchyPlaces, short: fn(u16) -> [u8; 2], long: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let mut out = Vec::new();
        for (directory, extent) in self.directories.iter().zip(&places.directories) {
            out.push(directory.identifier.len() as u8);
            out.push(0);
            out.extend(long(extent.block));
            out.extend(short(directory.parent as u16 + 1));
            out.extend(&directory.identifier);
            out.resize(out.len().next_multiple_of(2), 0);
        }
        out
    }

    fn render_directory(&self, tree: &Tree, index: usize, places: &Places, continuation: &mut Continuation) -> Vec<u8> {
        let directory = &self.directories[index];
        let own = self.places(places);
        let mut out = Vec::new();
        let mut record = |identifier: &[u8], node: NodeId, role, extent, directory: Option<usize>| {
            let links = directory.map_or(1, |index| self.links(index));
            let area = match self.naming {
                Naming::Primary => {
                    system_use(tree.node(node), role, directory.is_some(), links, identifier, continuation)
                }
                Naming::Joliet => Vec::new(),
            };
            append_record(&mut out, &directory_record(identifier, extent, directory.is_some(), &area));
        };
        let own_role = if index == 0 { Role::RootSelf } else { Role::Dot };
        record(&[0], directory.node, own_role, own.directories[index], Some(index));
        let parent = directory.parent;
        record(&[1], self.directories[parent].node, Role::Dot, own.directories[parent], Some(parent));
        for child in &directory.children {
            let extent = match (child.directory, &tree.node(child.node).kind) {
                (Some(index), _) => own.directories[index],
                (None, Kind::File(number)) => places.files[*number],
                (None, Kind::Directory(_)) => Extent::default(),
            };
            record(&child.identifier, child.node, Role::Entry, extent, child.directory);
        }
        out.resize(out.len().next_multiple_of(BLOCK_SIZE), 0);
        out
    }
}

fn parts(tree: &Tree, hierarchies: &[Hierarchy; 2], places: &Places) -> Parts {
    let mut continuation = Continuation { block: places.continuation, bytes: Vec::new() };
    let hierarchies = hierarchies.each_ref().map(|hierarchy| hierarchy.render(tree, places, &mut continuation));
    Parts { hierarchies, continuation: continuation.bytes }
}

/// Lays out everything in the order in which `render` and the builder write it.
fn place(parts: &Parts, sizes: &Sizes) -> Result<Places, IsoError> {
    let boot_blocks = usize::from(sizes.boot.is_some());
    // Two volume descriptors and the terminator, and the boot record between them.
    let mut next = (SYSTEM_AREA + 3 + boot_blocks) as u64;
    let mut take = |size: u64| {
        let extent = Extent { block: next as u32, size: size as u32 };
        next += size.div_ceil(u64::from(BLOCK));
        extent
    };
    let mut places = Places { catalogue: take((boot_blocks * BLOCK_SIZE) as u64).block, ..Default::default() };
    for (place, part) in places.hierarchies.iter_mut().zip(&parts.hierarchies) {
        place.path_table = take(part.path_table.len() as u64);
        place.path_table_big_endian = take(part.path_table_big_endian.len() as u64).block;
        place.directories = part.directories.iter().map(|directory| take(directory.len() as u64)).collect();
    }
    places.continuation = take(parts.continuation.len() as u64).block;
    places.boot = take(u64::from(sizes.boot.unwrap_or(0)));
    places.files = sizes.files.iter().map(|size| take(u64::from(*size))).collect();
    places.total = u32::try_from(next).map_err(|_| IsoError::TooLarge {
        what: "the image".to_owned(),
        size: next.saturating_mul(u64::from(BLOCK)),
    })?;
    Ok(places)
}

fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(BLOCK_SIZE), 0);
}

/// A record does not cross a block.
fn append_record(out: &mut Vec<u8>, record: &[u8]) {
    if out.len() % BLOCK_SIZE + record.len() > BLOCK_SIZE {
        out.resize(out.len().next_multiple_of(BLOCK_SIZE), 0);
    }
    out.extend(record);
}

fn block(start: &[u8]) -> Vec<u8> {
    let mut out = start.to_vec();
    out.resize(BLOCK_SIZE, 0);
    out
}

/// Primary (ECMA-119 8.4) or supplementary (8.5) volume descriptor.
fn volume_descriptor(label: &str, naming: Naming, places: &Places) -> Vec<u8> {
    let joliet = naming == Naming::Joliet;
    let own = &places.hierarchies[usize::from(joliet)];
    let text = |value: &str, length: usize| -> Vec<u8> {
        let mut bytes = if joliet { utf16(value) } else { value.as_bytes().to_vec() };
        let space: &[u8] = if joliet { &[0, b' '] } else { b" " };
        while bytes.len() + space.len() <= length {
            bytes.extend(space);
        }
        bytes.resize(length, 0);
        bytes
    };
    let mut out = vec![if joliet { 2 } else { 1 }];
    out.extend(b"CD001\x01\0");
    out.extend(text("", 32)); // system
    out.extend(text(label, 32));
    out.extend([0; 8]);
    out.extend(both_32(places.total));
    let mut escape = [0; 32];
    if joliet {
        escape[..3].copy_from_slice(b"%/E"); // UCS-2 level 3
    }
    out.extend(escape);
    out.extend(both_16(1)); // volumes in the set
    out.extend(both_16(1)); // number of this one
    out.extend(both_16(BLOCK as u16));
    out.extend(both_32(own.path_table.size));
    out.extend(own.path_table.block.to_le_bytes());
    out.extend([0; 4]); // no optional table
    out.extend(own.path_table_big_endian.to_be_bytes());
    out.extend([0; 4]);
    let root = own.directories.first().copied().unwrap_or_default();
    out.extend(directory_record(&[0], root, true, &[]));
    out.extend(text("", 128)); // volume set
    out.extend(text("", 128)); // publisher
    out.extend(text("", 128)); // preparer
    out.extend(text("FERRIC", 128)); // application
    out.extend(text("", 37)); // copyright file
    out.extend(text("", 37)); // abstract file
    out.extend(text("", 37)); // bibliography
    out.extend([NO_TIME; 4].concat());
    out.push(1); // version of the file structure
    block(&out)
}

/// El Torito's boot record volume descriptor; it must be in block 17 (El Torito 2.0).
fn boot_record(catalogue: u32) -> Vec<u8> {
    let mut out = b"\0CD001\x01EL TORITO SPECIFICATION".to_vec();
    out.resize(0x47, 0);
    out.extend(catalogue.to_le_bytes());
    block(&out)
}

/// El Torito's catalogue with one entry, for EFI (El Torito 2.1 and 2.2).
fn boot_catalogue(image: u32, size: u32) -> Vec<u8> {
    let mut validation = [0; 32];
    validation[0] = 1;
    validation[1] = PLATFORM_EFI;
    validation[30..].copy_from_slice(&[0x55, 0xaa]);
    let sum = validation.chunks(2).map(|word| u16::from_le_bytes([word[0], word[1]])).fold(0, u16::wrapping_add);
    validation[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());

    let mut entry = [0; 32];
    entry[0] = 0x88; // bootable, no emulation
    // The count has 16 bits, in units of 512 bytes; firmware takes 0 as "up to the end of the volume".
    let sectors = u16::try_from(size.div_ceil(512)).unwrap_or(0);
    entry[6..8].copy_from_slice(&sectors.to_le_bytes());
    entry[8..12].copy_from_slice(&image.to_le_bytes());
    block(&[validation, entry].concat())
}
