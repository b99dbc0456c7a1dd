//! Directory records, names of both hierarchies and the number formats of ECMA-119.

use super::tree::{NodeId, Tree};
use std::collections::BTreeSet;

/// 1 January 1980 00:00:00 UTC, the form of ECMA-119 9.1.5.
const TIME: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];

/// Longest name of a Joliet record, in UTF-16 units.
const JOLIET_NAME: usize = 64;

/// Where something is: first block and size in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) block: u32,
    pub(super) size: u32,
}

/// A 16-bit number in both byte orders (ECMA-119 7.2.3).
pub(super) fn both_16(value: u16) -> [u8; 4] {
    let mut out = [0; 4];
    out[..2].copy_from_slice(&value.to_le_bytes());
    out[2..].copy_from_slice(&value.to_be_bytes());
    out
}

/// A 32-bit number in both byte orders (ECMA-119 7.3.3).
pub(super) fn both_32(value: u32) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&value.to_le_bytes());
    out[4..].copy_from_slice(&value.to_be_bytes());
    out
}

/// Bytes of a record without system use area.
pub(super) fn base_length(identifier: &[u8]) -> usize {
    33 + identifier.len() + usize::from(identifier.len().is_multiple_of(2))
}

/// A directory record (ECMA-119 9.1). The caller keeps `identifier` and `system_use` within 254 bytes together.
pub(super) fn directory_record(identifier: &[u8], extent: Extent, directory: bool, system_use: &[u8]) -> Vec<u8> {
    let length = (base_length(identifier) + system_use.len()).next_multiple_of(2);
    let mut out = Vec::with_capacity(length);
    out.push(length as u8);
    out.push(0); // no extended attributes
    out.extend(both_32(extent.block));
    out.extend(both_32(extent.size));
    out.extend(TIME);
    out.push(if directory { 0b10 } else { 0 });
    out.extend([0, 0]); // not interleaved
    out.extend(both_16(1)); // the only volume
    out.push(identifier.len() as u8);
    out.extend(identifier);
    out.resize(base_length(identifier), 0);
    out.extend(system_use);
    out.resize(length, 0);
    out
}

/// How one of the two hierarchies spells names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// 8.3 in capitals, with the real name in Rock Ridge fields.
    Primary,
    /// UCS-2.
    Joliet,
}

impl Naming {
    /// Returns the children of a directory with their identifiers, in the order of the standard.
    pub(super) fn children(self, tree: &Tree, directory: NodeId) -> Vec<(Vec<u8>, NodeId)> {
        let mut taken = BTreeSet::new();
        let mut children: Vec<(Vec<u8>, Vec<u8>, NodeId)> = Vec::new();
        for id in tree.children(directory) {
            let node = tree.node(id);
            let file = !tree.is_directory(id);
            let mut attempt = 0;
            let (stem, extension) = loop {
                let parts = match self {
                    Self::Primary => short_name(&node.name, file, attempt),
                    Self::Joliet => joliet_name(&node.name, attempt),
                };
                if taken.insert(parts.clone()) {
                    break parts;
                }
                attempt += 1;
            };
            children.push((stem, extension, id));
        }
        // Stem and extension are compared one after the other, as if padded with spaces (ECMA-119 9.3).
        children.sort();
        children
            .into_iter()
            .map(|(stem, extension, id)| (self.identifier(stem, &extension, !tree.is_directory(id)), id))
            .collect()
    }

    fn identifier(self, mut stem: Vec<u8>, extension: &[u8], file: bool) -> Vec<u8> {
        match self {
            Self::Primary if file => {
                stem.push(b'.');
                stem.extend(extension);
                stem.extend(b";1");
            }
            Self::Joliet if file => stem.extend(utf16(";1")),
            Self::Primary | Self::Joliet => {}
        }
        stem
    }
}

/// A name in UCS-2, big endian. Characters outside the basic plane become two units, which readers show as one.
pub(super) fn utf16(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn joliet_name(name: &str, attempt: u32) -> (Vec<u8>, Vec<u8>) {
    let allowed = |c: char| if c.is_control() || "*/:;?\\".contains(c) { '_' } else { c };
    let suffix = if attempt == 0 { String::new() } else { format!("~{attempt}") };
    let mut out = String::new();
    let mut units = suffix.len();
    for c in name.chars().map(allowed) {
        units += c.len_utf16();
        // Two units are for ";1".
        if units > JOLIET_NAME - 2 {
            break;
        }
        out.push(c);
    }
    (utf16(&(out + &suffix)), Vec::new())
}

/// An 8.3 name; `attempt` numbers those that would be the same.
fn short_name(name: &str, file: bool, attempt: u32) -> (Vec<u8>, Vec<u8>) {
    let clean = |part: &str, length: usize| -> Vec<u8> {
        let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() as u8 } else { b'_' };
        part.chars().map(allowed).take(length).collect()
    };
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if file && !stem.is_empty() => (stem, extension),
        _ => (name, ""),
    };
    let mut stem = clean(stem, 8);
    if attempt > 0 {
        let number = attempt.to_string();
        stem.truncate(8_usize.saturating_sub(number.len()));
        stem.extend(number.bytes());
    }
    (stem, clean(extension, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(names: &[&str]) -> Vec<String> {
        let mut tree = Tree::new();
        for name in names {
            assert!(tree.file(&[name], 0o644, 0));
        }
        let children = Naming::Primary.children(&tree, Tree::ROOT);
        children.into_iter().map(|(identifier, _)| String::from_utf8(identifier).unwrap()).collect()
    }

    #[test]
    fn short_names_are_unique_and_sorted() {
        assert_eq!(
            primary(&["meta_data.json", "meta_data_2.json", ".hidden", "README", "a.b.c"]),
            ["A_B.C;1", "META_DA1.JSO;1", "META_DAT.JSO;1", "README.;1", "_HIDDEN.;1",]
        );
        assert_eq!(primary(&["a", "a.1"]), ["A.;1", "A.1;1"]);
    }

    #[test]
    fn a_hundred_names_that_shorten_to_the_same_are_told_apart() {
        let names: Vec<String> = (0..100).map(|i| format!("a-rather-long-name-{i:03}.json")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut short = primary(&names);
        short.dedup();
        assert_eq!(short.len(), 100);
    }

    #[test]
    fn long_joliet_names_are_cut_and_told_apart() {
        let (first, _) = joliet_name(&"n".repeat(100), 0);
        let (second, _) = joliet_name(&"n".repeat(100), 1);
        assert_eq!((first.len(), second.len()), (124, 124));
        assert_ne!(first, second);
        assert_eq!(joliet_name("a:b", 0).0, utf16("a_b"));
    }

    #[test]
    fn records_have_an_even_length_and_numbers_in_both_orders() {
        let record = directory_record(b"A.;1", Extent { block: 0x0102_0304, size: 5 }, false, &[1, 2, 3]);
        assert_eq!(record.len(), 42);
        assert_eq!(record[0], 42);
        assert_eq!(record[2..10], [4, 3, 2, 1, 1, 2, 3, 4]);
        assert_eq!(record[33..41], *b"A.;1\0\x01\x02\x03");
    }
}
