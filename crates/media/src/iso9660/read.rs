//! Reader of ISO9660 images in memory: what files there are, with the names that Linux shows for them.
//!
//! For small images of anybody, such as config drives. Rock Ridge names count before Joliet names before those of
//! ECMA-119, as in Linux. What a plain tree of files cannot hold is refused: links, devices, relocated directories.

use super::{BLOCK, MAX_DEPTH};

/// Most files and directories that are read.
const MOST: usize = 10_000;
/// Where the volume descriptors begin, and how many of them are looked at (ECMA-119, 6.7.1).
const DESCRIPTORS: usize = 16;
const MOST_DESCRIPTORS: usize = 64;
/// Most continuation areas of one record.
const MOST_AREAS: usize = 16;
/// The fixed part of a directory record (ECMA-119, 9.1).
const RECORD: usize = 33;
/// Flags of a directory record: a directory; not the last extent of its file.
const DIRECTORY: u8 = 1 << 1;
const MORE: u8 = 1 << 7;

/// Why an image is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It does not say that it is one.
    #[error("there is no ISO9660 volume with blocks of 2048 bytes in it")]
    NoVolume,
    /// Something lies behind its end.
    #[error("the ISO9660 image has {have} bytes, {what} ends at byte {end}")]
    Truncated {
        /// What lies there.
        what: String,
        /// Byte behind its end.
        end: u64,
        /// Bytes of the image.
        have: usize,
    },
    /// A record of a directory contradicts itself.
    #[error("directory {path:?} of the ISO9660 image has a broken record: {reason}")]
    Record {
        /// The directory; empty for the root.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Something that is neither file nor directory, or a file in a form that is not read.
    #[error("{path:?} of the ISO9660 image is {what}, which is not read")]
    Kind {
        /// Its path.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// Too deep, or going round in circles.
    #[error("directory {path:?} of the ISO9660 image lies deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// Its path.
        path: String,
    },
    /// Too many.
    #[error("the ISO9660 image has more than {MOST} files and directories")]
    TooMany,
}

/// A file of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    block: u32,
    len: u32,
}

/// Which names count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Those of Rock Ridge; system use fields begin behind so many bytes.
    RockRidge(usize),
    /// UCS-2, big endian.
    Joliet,
    /// Those of ECMA-119.
    Plain,
}

/// The files of an image with their contents, directory by directory. Paths are relative, their names joined by `/`. Empty
/// directories are not told.
///
/// # Errors
/// See [`ReadError`].
pub fn files(image: &[u8]) -> Result<Vec<(String, &[u8])>, ReadError> {
    let (root, names) = volume(image)?;
    let mut reader = Reader { image, names, seen: 0, files: Vec::new() };
    reader.directory("", root, 1)?;
    Ok(reader.files)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn bytes_of<'a>(image: &'a [u8], extent: Extent, what: &str) -> Result<&'a [u8], ReadError> {
    let start = u64::from(extent.block) * u64::from(BLOCK);
    let end = start + u64::from(extent.len);
    let range = || Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?);
    let found = range().and_then(|range| image.get(range));
    found.ok_or_else(|| ReadError::Truncated { what: what.to_owned(), end, have: image.len() })
}

/// The root directory whose names count (ECMA-119, 8.4 and 8.5; Joliet Specification, "SVD").
fn volume(image: &[u8]) -> Result<(Extent, Names), ReadError> {
    let (mut primary, mut joliet) = (None, None);
    for descriptor in image.chunks_exact(BLOCK as usize).skip(DESCRIPTORS).take(MOST_DESCRIPTORS) {
        if &descriptor[1..6] != b"CD001" || descriptor[0] == 255 {
            break;
        }
        // Blocks of another size are allowed, and nobody makes them.
        if descriptor[128..130] != (BLOCK as u16).to_le_bytes() {
            continue;
        }
        let root = Record::parse(&descriptor[156..190]).map(|record| record.extent);
        let is_joliet = descriptor[88..90] == *b"%/" && matches!(descriptor[90], b'@' | b'C' | b'E');
        match descriptor[0] {
            1 => primary = primary.or(root),
            2 if is_joliet => joliet = joliet.or(root),
            _ => {}
        }
    }
    let primary = primary.ok_or(ReadError::NoVolume)?;
    let own = Record::parse(bytes_of(image, primary, "the root directory")?);
    // SP is the first field of the root's own record where system use fields are used at all (SUSP 5.3).
    let rock_ridge = own.and_then(|own| match own.system_use {
        [b'S', b'P', 7, _, 0xbe, 0xef, skip, ..] => Some(usize::from(*skip)),
        _ => None,
    });
    Ok(match (rock_ridge, joliet) {
        (Some(skip), _) => (primary, Names::RockRidge(skip)),
        (None, Some(joliet)) => (joliet, Names::Joliet),
        (None, None) => (primary, Names::Plain),
    })
}

/// A directory record.
struct Record<'a> {
    extent: Extent,
    flags: u8,
    interleaved: bool,
    identifier: &'a [u8],
    system_use: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record that `bytes` begin with, if there is a whole one.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let record = bytes.get(..usize::from(*bytes.first()?))?;
        let name = usize::from(*record.get(RECORD - 1)?);
        let identifier = record.get(RECORD..RECORD + name)?;
        // A byte fills an even length up.
        let system_use = record.get(RECORD + name + usize::from(name.is_multiple_of(2))..).unwrap_or_default();
        let extent = Extent { block: u32_at(record, 2)?, len: u32_at(record, 10)? };
        Some(Self { extent, flags: record[25], interleaved: record[26] != 0, identifier, system_use })
    }
}

struct Reader<'a> {
    image: &'a [u8],
    names: Names,
    seen: usize,
    files: Vec<(String, &'a [u8])>,
}

impl<'a> Reader<'a> {
    fn directory(&mut self, path: &str, extent: Extent, depth: usize) -> Result<(), ReadError> {
        if depth > MAX_DEPTH {
            return Err(ReadError::TooDeep { path: path.to_owned() });
        }
        let broken = |reason| ReadError::Record { path: path.to_owned(), reason };
        let what = format!("directory {path:?}");
        // No record crosses a block; zeros fill its rest.
        for mut block in bytes_of(self.image, extent, &what)?.chunks(BLOCK as usize) {
            while let Some(len) = block.first().map(|len| usize::from(*len)).filter(|len| *len > 0) {
                let record = Record::parse(block).ok_or_else(|| broken("it is longer than its block, or too short"))?;
                block = &block[len..];
                if matches!(record.identifier, [0] | [1]) {
                    continue;
                }
                self.seen += 1;
                if self.seen > MOST {
                    return Err(ReadError::TooMany);
                }
                self.entry(path, &record, depth)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, above: &str, record: &Record<'a>, depth: usize) -> Result<(), ReadError> {
        let broken = |reason| ReadError::Record { path: above.to_owned(), reason };
        let (name, special) = self.name(record).map_err(broken)?;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(broken("a name is empty, is . or .., or has a slash or NUL"));
        }
        let path = if above.is_empty() { name } else { format!("{above}/{name}") };
        let kind = match special {
            Some(what) => Some(what),
            None if record.flags & MORE != 0 => Some("a file of several extents"),
            None if record.interleaved => Some("an interleaved file"),
            None => None,
        };
        if let Some(what) = kind {
            return Err(ReadError::Kind { path, what });
        }
        if record.flags & DIRECTORY != 0 {
            return self.directory(&path, record.extent, depth + 1);
        }
        // The place of an empty file means nothing.
        let content = if record.extent.len == 0 { &[] } else { bytes_of(self.image, record.extent, &path)? };
        self.files.push((path, content));
        Ok(())
    }

    /// The name of a record, and what it is if it is neither file nor directory.
    fn name(&self, record: &Record<'a>) -> Result<(String, Option<&'static str>), &'static str> {
        match self.names {
            Names::RockRidge(skip) => {
                let (name, special) = self.rock_ridge(record.system_use.get(skip..).unwrap_or_default())?;
                let name = if name.is_empty() { plain(record.identifier).into_bytes() } else { name };
                let name = String::from_utf8(name).map_err(|_| "a name is not UTF-8")?;
                Ok((name, special))
            }
            Names::Joliet => {
                let (units, _) = record.identifier.as_chunks::<2>();
                let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
                let name = String::from_utf16(&units).map_err(|_| "a name is not UTF-16")?;
                Ok((name.split(';').next().unwrap_or_default().to_owned(), None))
            }
            Names::Plain => Ok((plain(record.identifier), None)),
        }
    }

    /// Fields of the system use area and of its continuations (SUSP 5.1, RRIP 4.1).
    fn rock_ridge(&self, area: &'a [u8]) -> Result<(Vec<u8>, Option<&'static str>), &'static str> {
        let (mut name, mut special, mut next) = (Vec::new(), None, Some(area));
        for _ in 0..MOST_AREAS {
            let Some(mut fields) = next.take() else { return Ok((name, special)) };
            while fields.len() >= 4 && fields[2] >= 4 {
                let field = fields.get(..usize::from(fields[2])).ok_or("a system use field is longer than its area")?;
                match (&field[..2], &field[4..]) {
                    (b"NM", [_, part @ ..]) => name.extend_from_slice(part),
                    (b"SL", _) => special = Some("a symbolic link"),
                    (b"CL" | b"RE" | b"PL", _) => special = Some("a relocated directory"),
                    (b"PN", _) => special = Some("a device"),
                    (b"ST", _) => break,
                    (b"CE", data) => {
                        let at = |at| u32_at(data, at).ok_or("a continuation field is too short");
                        let (block, offset, len) = (at(0)?, at(8)?, at(16)?);
                        let area = bytes_of(self.image, Extent { block, len: offset.saturating_add(len) }, "");
                        let area = area.map_err(|_| "a continuation lies behind the end")?;
                        next = Some(area.get(offset as usize..).unwrap_or_default());
                    }
                    _ => {}
                }
                fields = &fields[field.len()..];
            }
        }
        if next.is_some() { Err("continuations go on and on") } else { Ok((name, special)) }
    }
}

/// A name of ECMA-119 as Linux shows it: in lower case, without version and the dot of a name without extension.
fn plain(identifier: &[u8]) -> String {
    let name = String::from_utf8_lossy(identifier).to_ascii_lowercase();
    let name = name.split(';').next().unwrap_or_default();
    name.strip_suffix('.').unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iso9660::Builder;
    use std::path::Path;
    use std::process::Command;

    const FILES: [(&str, &[u8]); 4] = [
        ("ec2/latest/meta-data.json", b"{}"),
        ("openstack/content/0000", b""),
        ("openstack/latest/meta_data.json", b"{\"uuid\": 1}"),
        ("openstack/latest/user_data", &[7; 5000]),
    ];

    fn ours() -> Vec<u8> {
        let mut builder = Builder::new("config-2").unwrap();
        for (path, content) in FILES {
            builder.file(path, 0o644, content).unwrap();
        }
        builder.to_vec().unwrap()
    }

    fn put(folder: &Path) {
        for (path, content) in FILES {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    fn of_tool(options: &[&str], fill: impl Fn(&Path)) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let (folder, out) = (dir.path().join("tree"), dir.path().join("out.iso"));
        fill(&folder);
        let mut tool = Command::new("genisoimage");
        tool.args(["-quiet", "-V", "config-2"]).args(options).arg("-o").arg(&out).arg(&folder);
        let made = tool.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::read(out).unwrap()
    }

    fn sorted(image: &[u8]) -> Vec<(String, &[u8])> {
        let mut files = files(image).unwrap();
        files.sort();
        files
    }

    #[test]
    fn what_we_and_the_tool_of_ironic_write_is_read_with_its_names() {
        let wanted: Vec<(String, &[u8])> = FILES.iter().map(|(path, content)| ((*path).to_owned(), *content)).collect();
        assert_eq!(sorted(&ours()), wanted);
        // As Ironic calls it; and without the names of Rock Ridge.
        let ironic = ["-ldots", "-allow-lowercase", "-allow-multidot", "-l", "-J", "-r"];
        assert_eq!(sorted(&of_tool(&ironic, put)), wanted);
        assert_eq!(sorted(&of_tool(&["-J"], put)), wanted);
        let plain = of_tool(&[], put);
        assert!(
            sorted(&plain).iter().any(|(path, content)| path == "openstac/latest/user_dat" && content.len() == 5000)
        );
    }

    #[test]
    fn long_names_in_continuation_areas_are_whole() {
        let name = "n".repeat(240);
        let image = of_tool(&["-r"], |folder| {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join(&name), b"x").unwrap();
        });
        assert_eq!(sorted(&image), [(name, &b"x"[..])]);
    }

    #[test]
    fn links_and_what_is_no_image_are_refused() {
        let image = of_tool(&["-r"], |folder| {
            std::fs::create_dir_all(folder).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).unwrap();
        });
        insta::assert_snapshot!(files(&image).unwrap_err(), @r#""link" of the ISO9660 image is a symbolic link, which is not read"#);
        assert_eq!(files(&[0; 100_000]), Err(ReadError::NoVolume));
        assert_eq!(files(&[]), Err(ReadError::NoVolume));
        let image = ours();
        let cut = files(&image[..image.len() - 6000]).unwrap_err();
        assert!(matches!(cut, ReadError::Truncated { .. }), "{cut}");
    }

    /// A directory that is its own child, and one whose records lead nowhere.
    #[test]
    fn directories_that_go_round_in_circles_end() {
        let image = ours();
        let root = u32_at(&image, 16 * 2048 + 156 + 2).unwrap() as usize * 2048;
        let mut looping = image.clone();
        // The first record behind "." and "..": its place becomes that of the root.
        let first = root + usize::from(image[root]);
        let first = first + usize::from(image[first]);
        let place: [u8; 4] = image[root + 2..root + 6].try_into().unwrap();
        looping[first + 2..first + 6].copy_from_slice(&place);
        let error = files(&looping).unwrap_err();
        assert!(matches!(error, ReadError::TooDeep { .. } | ReadError::TooMany), "{error}");
        let mut short = image;
        short[first] = 20;
        assert!(matches!(files(&short), Err(ReadError::Record { .. })));
    }

    proptest::proptest! {
        #[test]
        fn damage_anywhere_is_survived(changes in proptest::collection::vec((32_768_usize..60_000, 0_u8..=255), 1..20)) {
            let mut image = ours();
            for (at, value) in changes {
                let at = at % image.len();
                image[at] = value;
            }
            let _ = files(&image);
        }
    }
}
