//! Entries of directories: short and long names (FAT, 6 and 7).

use std::collections::BTreeSet;

const ENTRY: usize = 32;
const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTE_ARCHIVE: u8 = 0x20;
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;
/// Characters of a long name in one entry.
const LONG_PART: usize = 13;
/// 1 January 1980.
const DATE: u16 = 1 << 5 | 1;

/// What an entry leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) directory: bool,
    pub(super) cluster: u32,
    pub(super) size: u32,
}

/// How many entries these names take together.
pub(super) fn entries_of<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    names.map(|name| 1 + if plain(name).is_some() { 0 } else { name.len().div_ceil(LONG_PART) as u64 }).sum()
}

/// Encodes a directory. `dots` are the clusters of "." and ".."; the root has none, and has the label instead.
pub(super) fn encode_directory(entries: &[(&str, Slot)], dots: Option<(u32, u32)>, label: [u8; 11]) -> Vec<u8> {
    let mut out = Vec::new();
    match dots {
        Some((own, parent)) => {
            for (name, cluster) in [(*b".          ", own), (*b"..         ", parent)] {
                out.extend(entry(name, ATTRIBUTE_DIRECTORY, Slot { directory: true, cluster, size: 0 }));
            }
        }
        None => out.extend(entry(label, ATTRIBUTE_LABEL, Slot { directory: false, cluster: 0, size: 0 })),
    }
    let mut taken: BTreeSet<[u8; 11]> = entries.iter().filter_map(|(name, _)| plain(name)).collect();
    for (name, slot) in entries {
        let short = plain(name).unwrap_or_else(|| {
            let short = (1..).map(|number| numbered(name, number)).find(|short| taken.insert(*short));
            short.unwrap_or(*b"           ")
        });
        if plain(name).is_none() {
            out.extend(long_entries(name, checksum(short)));
        }
        let attribute = if slot.directory { ATTRIBUTE_DIRECTORY } else { ATTRIBUTE_ARCHIVE };
        out.extend(entry(short, attribute, *slot));
    }
    out
}

fn entry(name: [u8; 11], attribute: u8, slot: Slot) -> [u8; ENTRY] {
    let mut out = [0; ENTRY];
    out[..11].copy_from_slice(&name);
    out[11] = attribute;
    for date in [16, 18, 24] {
        out[date..date + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    let cluster = slot.cluster.to_le_bytes();
    out[20..22].copy_from_slice(&cluster[2..]);
    out[26..28].copy_from_slice(&cluster[..2]);
    out[28..].copy_from_slice(&slot.size.to_le_bytes());
    out
}

/// A name that is a short name as it stands: 8.3 in capitals.
fn plain(name: &str) -> Option<[u8; 11]> {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    let allowed = |part: &str| part.bytes().all(|c| short_character(c) == Some(c));
    let dot = name.contains('.') && extension.is_empty();
    let fits = (1..=8).contains(&stem.len()) && extension.len() <= 3 && !dot;
    (fits && allowed(stem) && allowed(extension)).then(|| padded(stem.as_bytes(), extension.as_bytes()))
}

/// A short name with "~number" for a long name (FAT, 7.2).
fn numbered(name: &str, number: u32) -> [u8; 11] {
    let name = name.trim_start_matches('.');
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let clean = |part: &str, length: usize| -> Vec<u8> {
        let kept = part.bytes().filter(|c| !matches!(c, b' ' | b'.'));
        kept.map(|c| short_character(c.to_ascii_uppercase()).unwrap_or(b'_')).take(length).collect()
    };
    let suffix = format!("~{number}");
    let mut short = clean(stem, 8 - suffix.len().min(7));
    short.extend(suffix.bytes());
    padded(&short, &clean(extension, 3))
}

/// A character that a short name may have (FAT, 6.1).
fn short_character(c: u8) -> Option<u8> {
    let allowed = c.is_ascii_uppercase() || c.is_ascii_digit() || b"!#$%&'()-@^_`{}~".contains(&c);
    allowed.then_some(c)
}

fn padded(stem: &[u8], extension: &[u8]) -> [u8; 11] {
    let mut out = [b' '; 11];
    out[..stem.len()].copy_from_slice(stem);
    out[8..8 + extension.len()].copy_from_slice(extension);
    out
}

/// The sum that ties a long name to its short one (FAT, 7.1).
fn checksum(short: [u8; 11]) -> u8 {
    short.iter().fold(0, |sum: u8, c| sum.rotate_right(1).wrapping_add(*c))
}

/// The entries of a long name, the last part first. Names are ASCII here, so a character is a unit.
fn long_entries(name: &str, checksum: u8) -> Vec<u8> {
    const PLACES: [usize; LONG_PART] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
    let parts: Vec<&[u8]> = name.as_bytes().chunks(LONG_PART).collect();
    let mut out = Vec::new();
    for (index, part) in parts.iter().enumerate().rev() {
        let mut entry = [0; ENTRY];
        let last = if index + 1 == parts.len() { 0x40 } else { 0 };
        entry[0] = (index + 1) as u8 | last;
        entry[11] = ATTRIBUTE_LONG_NAME;
        entry[13] = checksum;
        for (position, place) in PLACES.into_iter().enumerate() {
            let unit = match part.get(position) {
                Some(c) => u16::from(*c),
                None if position == part.len() => 0,
                None => 0xffff,
            };
            entry[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        out.extend(entry);
    }
    out
}
