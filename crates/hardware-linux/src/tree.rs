//! Reading small attribute files below a root: `/` on a machine, a recorded tree in tests.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Attribute files are a page at most; SMBIOS tables and `/proc/cpuinfo` of large machines are larger, but not by much.
const MOST: u64 = 4 << 20;

/// A root below which `sys`, `proc` and `dev` are found.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the running system and not a recording of one.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The path of a file whose absolute name is `path`.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Names in a folder, sorted; none when it cannot be read.
    pub fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        names(&self.path(folder))
    }

    /// The bytes of a file, up to 4 MiB.
    pub fn bytes(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        bytes(&self.path(path))
    }

    /// The trimmed text of a file; `None` when it is missing, unreadable or empty.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        text(&self.path(path))
    }
}

/// Names in a folder, sorted; none when it cannot be read.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The bytes of a file, up to 4 MiB.
pub(crate) fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut found = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut found)?;
    Ok(found)
}

/// The trimmed text of a file; `None` when it is missing, unreadable or empty. Bytes that are not UTF-8 are replaced, as
/// firmware puts such into strings.
pub(crate) fn text(path: &Path) -> Option<String> {
    let bytes = bytes(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A number in decimal.
pub(crate) fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// The last component of what a link points to.
pub(crate) fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}
