//! Firmware that modules ask for, from Debian's non-free-firmware, when the operator wants it.

use super::packages::Debian;
use super::profile::Profile;
use super::programs::File;
use anyhow::{Context as _, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where packages have it, and where the kernel looks for it.
const FOLDER: &str = "lib/firmware";

/// Takes from the profile's firmware packages what the modules ask for, by path in the ramdisk.
pub fn collect(profile: &Profile, wanted: &BTreeSet<String>, debian: &mut Debian) -> Result<BTreeMap<String, File>> {
    let mut files = BTreeMap::new();
    for firmware in &profile.firmware {
        let package = debian
            .package(&firmware.package)
            .with_context(|| format!("{}: enable non-free-firmware in the machine's apt sources", firmware.package))?;
        let before = files.len();
        take(&package.files, wanted, &mut files)?;
        ensure!(
            files.len() > before,
            "no module of the profile asks for firmware of {}: remove it from the profile",
            firmware.package
        );
    }
    Ok(files)
}

/// Level of compression; the result is a fifth of what it was.
const LEVEL: i32 = 19;

/// Adds what is wanted of an unpacked package, packed: the kernel looks for `NAME.zst` where there is no `NAME`, and unpacks it
/// (`drivers/base/firmware_loader/main.c`), so that what no card asks for takes little of a small machine's memory. Links become
/// copies, so that no link leads to what was left out.
fn take(package: &Path, wanted: &BTreeSet<String>, files: &mut BTreeMap<String, File>) -> Result<()> {
    let folders = [package.join(FOLDER), package.join("usr").join(FOLDER)];
    let folder = folders.iter().find(|folder| folder.is_dir()).context("the package has no firmware")?;
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        let path = entry.path().strip_prefix(folder)?.to_str().context("a file name is not UTF-8")?;
        if entry.path().is_file() && wanted.iter().any(|pattern| fits(pattern, path)) {
            let real = entry.path().canonicalize()?;
            ensure!(real.starts_with(package.canonicalize()?), "{path} leads out of its package");
            let data = std::fs::read(&real).with_context(|| format!("read {}", real.display()))?;
            // All at once, as the kernel wants the size in the frame.
            let data = zstd::bulk::compress(&data, LEVEL).with_context(|| format!("pack {path}"))?;
            files.insert(format!("{FOLDER}/{path}.zst"), File { mode: 0o644, data, link: None });
        }
    }
    Ok(())
}

/// Whether a path fits what a module asks for, in which `*` stands for anything.
fn fits(pattern: &str, path: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == path };
    let Some(mut left) = path.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(fits("bnx2/a.fw", "bnx2/a.fw"));
        assert!(!fits("bnx2/a.fw", "bnx2/a.fw2"));
        assert!(fits("ice/ddp/*.pkg", "ice/ddp/ice-1.3.pkg"));
        assert!(fits("a*b*c", "a-b-b-c"));
        assert!(!fits("a*b*c", "a-c"));
        assert!(!fits("x*", "y"));
    }

    #[test]
    fn only_what_is_asked_for_is_taken_and_links_become_files() {
        let root = std::env::temp_dir().join(format!("ferric-firmware-{}", std::process::id()));
        let folder = root.join(FOLDER).join("vendor");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("wanted-2.fw"), b"2").unwrap();
        std::fs::write(folder.join("other.fw"), b"x").unwrap();
        std::os::unix::fs::symlink("wanted-2.fw", folder.join("wanted.fw")).unwrap();
        let mut files = BTreeMap::new();
        take(&root, &BTreeSet::from(["vendor/wanted.fw".to_owned()]), &mut files).unwrap();
        assert_eq!(files.len(), 1);
        let packed = &files["lib/firmware/vendor/wanted.fw.zst"].data;
        assert_eq!(zstd::bulk::decompress(packed, 1).unwrap(), b"2");
        assert_eq!(zstd::zstd_safe::get_frame_content_size(packed).unwrap(), Some(1));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
