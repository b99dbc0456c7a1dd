//! What of a partition image boots: its newest kernel with the initramfs of that, and the parameters of
//! `/etc/kernel/cmdline`, where kernel-install looks for them too.

use super::PartitionError;
use ext4_view::{Ext4, Ext4Error};
use std::cmp::Ordering;

/// Where kernels are.
const FOLDER: &str = "/boot";
/// Entries of that folder that are looked at, and the longest version that counts.
const MOST_ENTRIES: usize = 10_000;
const LONGEST_VERSION: usize = 128;
/// The kernel's parameters in the image, and the most that there may be (`COMMAND_LINE_SIZE` of x86).
const COMMAND_LINE: &str = "/etc/kernel/cmdline";
const LONGEST_LINE: u64 = 2048;

/// A kernel of the image.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) version: String,
    pub(super) path: String,
    pub(super) initramfs: Option<String>,
    /// Its parameters, but those that say where things are.
    pub(super) parameters: String,
}

impl Kernel {
    /// The newest one of the image.
    pub(super) fn newest(ext4: &Ext4) -> Result<Self, PartitionError> {
        let version = newest_version(ext4)?;
        let names = [
            format!("{FOLDER}/initrd.img-{version}"),
            format!("{FOLDER}/initramfs-{version}.img"),
            format!("{FOLDER}/initrd-{version}"),
            format!("{FOLDER}/initramfs-{version}"),
        ];
        let mut initramfs = None;
        for name in names {
            if initramfs.is_none() && ext4.exists(name.as_str()).map_err(PartitionError::Read)? {
                initramfs = Some(name);
            }
        }
        let parameters = command_line(ext4)?;
        Ok(Self { path: format!("{FOLDER}/vmlinuz-{version}"), version, initramfs, parameters })
    }
}

/// Fills `block` with the next bytes of a file that is known to have them.
pub(super) fn fill_block(file: &mut ext4_view::File, path: &str, block: &mut [u8]) -> Result<(), PartitionError> {
    let mut done = 0;
    while done < block.len() {
        match file.read_bytes(&mut block[done..]).map_err(PartitionError::Read)? {
            0 => return Err(PartitionError::Short { path: path.to_owned() }),
            len => done += len,
        }
    }
    Ok(())
}

fn newest_version(ext4: &Ext4) -> Result<String, PartitionError> {
    let folder = match ext4.read_dir(FOLDER) {
        Ok(folder) => folder,
        Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Err(PartitionError::NoKernel),
        Err(error) => return Err(PartitionError::Read(error)),
    };
    let mut newest: Option<String> = None;
    for entry in folder.take(MOST_ENTRIES) {
        let entry = entry.map_err(PartitionError::Read)?;
        let name = entry.file_name();
        let Some(version) = name.as_str().ok().and_then(|name| name.strip_prefix("vmlinuz-")) else { continue };
        if is_version(version) && newest.as_deref().is_none_or(|newest| compare(version, newest) == Ordering::Greater) {
            newest = Some(version.to_owned());
        }
    }
    newest.ok_or(PartitionError::NoKernel)
}

/// Whether this may be the version of a kernel to boot. Rescue kernels of Red Hat's systems sort as the newest.
fn is_version(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
    !text.is_empty() && text.len() <= LONGEST_VERSION && text.bytes().all(allowed) && !text.contains("rescue")
}

/// Compares versions as people read them: digits as numbers.
fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let ((left, rest_left), (right, rest_right)) = (run(one), run(other));
        let order = match (left.parse::<u64>(), right.parse::<u64>()) {
            (Ok(left), Ok(right)) => left.cmp(&right),
            _ => left.cmp(right),
        };
        if order != Ordering::Equal || (rest_left.is_empty() && rest_right.is_empty()) {
            return order.then(rest_left.len().cmp(&rest_right.len()));
        }
        (one, other) = (rest_left, rest_right);
    }
}

/// The first run of digits, or of anything else, and what follows it.
fn run(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at(end)
}

/// The kernel's parameters of the image, but those that say where things are.
fn command_line(ext4: &Ext4) -> Result<String, PartitionError> {
    let mut file = match ext4.open(COMMAND_LINE) {
        Ok(file) => file,
        Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Ok("ro".to_owned()),
        Err(error) => return Err(PartitionError::Read(error)),
    };
    let len = file.metadata().len();
    if len > LONGEST_LINE {
        return Err(PartitionError::CommandLine("it has more than 2048 bytes"));
    }
    let mut bytes = vec![0; len as usize];
    fill_block(&mut file, COMMAND_LINE, &mut bytes)?;
    parameters(&bytes)
}

fn parameters(bytes: &[u8]) -> Result<String, PartitionError> {
    let text = str::from_utf8(bytes).map_err(|_| PartitionError::CommandLine("it is not UTF-8"))?;
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return Err(PartitionError::CommandLine("it has control characters"));
    }
    let place = |word: &&str| !["root=", "initrd=", "BOOT_IMAGE="].iter().any(|place| word.starts_with(place));
    Ok(text.split_whitespace().filter(place).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_the_greatest_number() {
        for (older, newer) in [
            ("6.1.0-9-amd64", "6.1.0-10-amd64"),
            ("6.1.0-56-amd64", "6.12.0-1-amd64"),
            ("6.1", "6.1.1"),
            ("5.14.0-503.el9.x86_64", "5.14.0-570.el9.x86_64"),
            ("6.1.0-56-amd64", "6.1.0-56-cloud-amd64"),
        ] {
            assert_eq!(compare(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(compare(newer, older), Ordering::Greater, "{newer} {older}");
        }
        assert_eq!(compare("6.1.0", "6.1.0"), Ordering::Equal);
    }

    #[test]
    fn names_that_are_no_versions_do_not_count() {
        for text in ["", "a b", "x\ny", "0-rescue-0123", "é", "a/b"] {
            assert!(!is_version(text), "{text:?}");
        }
    }

    #[test]
    fn parameters_that_say_where_things_are_do_not_count() {
        let line = parameters(b"root=LABEL=root rw  console=ttyS0\ninitrd=\\evil\n").unwrap();
        assert_eq!(line, "rw console=ttyS0");
        assert!(parameters(b"a\0b").is_err() && parameters(b"\xff").is_err());
    }
}
