//! What a kernel that crashed has left for the next one: entries of pstore, in the firmware's own memory. They may hold parts of
//! a tenant's memory.

use crate::tree::Tree;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where pstore is mounted, and what is reported as the device.
pub(crate) const PLACE: &str = "/sys/fs/pstore";
const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// GUID of Linux' crash dumps among firmware variables (`include/linux/efi.h`, `LINUX_EFI_CRASH_GUID`). They are files that
/// may be removed, whether or not the driver that shows them in pstore is loaded.
const CRASH: &str = "cfc8fc79-be2e-4ddc-97f0-9f98bfe298a0";

/// Names of what was removed; `None` where the kernel has neither of the two places.
pub(crate) fn erase(tree: &Tree) -> io::Result<Option<Vec<String>>> {
    let place = tree.path(PLACE);
    let variables = tree.path(VARIABLES);
    if !place.exists() && !variables.exists() {
        return Ok(None);
    }
    let shows = tree.is_live() && place.exists();
    if shows && !is_mounted(tree) {
        show()?;
    }
    let mut removed = Vec::new();
    for entry in entries(&place, &variables)? {
        match fs::remove_file(&entry) {
            Ok(()) => {}
            // The same dump is shown in both places.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        removed.push(entry.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    // Whoever removed them has the list in memory. Mounted anew, it is read from the firmware.
    if shows && !removed.is_empty() {
        unmount(PLACE, UnmountFlags::empty())?;
        show()?;
    }
    let left = entries(&place, &variables)?;
    match left.first() {
        None => Ok(Some(removed)),
        Some(first) => Err(io::Error::other(format!("{} is still there after it was removed", first.display()))),
    }
}

fn show() -> io::Result<()> {
    // It says so itself where there is nothing to keep entries in.
    Ok(mount("pstore", PLACE, "pstore", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?)
}

/// A place that is there and cannot be read is no empty one.
fn entries(place: &Path, variables: &Path) -> io::Result<Vec<PathBuf>> {
    let is_dump = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("dump-") && name.ends_with(CRASH)
    };
    let mut found = listed(place)?;
    found.extend(listed(variables)?.into_iter().filter(is_dump));
    Ok(found)
}

fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    found.sort();
    Ok(found)
}

fn is_mounted(tree: &Tree) -> bool {
    let mounts = tree.text("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(PLACE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crash_dumps_are_removed_from_both_places_and_other_variables_stay() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::at(folder.path());
        assert!(erase(&tree).unwrap().is_none());
        let dump = format!("dump-type0-1-1-1700000000-C-{CRASH}");
        for place in [PLACE, VARIABLES] {
            fs::create_dir_all(tree.path(place)).unwrap();
        }
        fs::write(tree.path(PLACE).join("dmesg-efi_pstore-1"), "old").unwrap();
        for name in [dump.as_str(), "BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c"] {
            fs::write(tree.path(VARIABLES).join(name), "x").unwrap();
        }
        assert_eq!(erase(&tree).unwrap().unwrap(), ["dmesg-efi_pstore-1", &dump]);
        assert_eq!(tree.names(VARIABLES), ["BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c"]);
        assert_eq!(erase(&tree).unwrap().unwrap(), [""; 0]);
        // A folder cannot be removed as an entry: an error, not a success.
        fs::create_dir(tree.path(PLACE).join("stays")).unwrap();
        assert!(erase(&tree).is_err());
    }

    #[test]
    fn a_place_that_cannot_be_listed_is_not_called_empty() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::at(folder.path());
        fs::create_dir_all(tree.path("/sys/fs")).unwrap();
        // What is no folder cannot be listed, whoever asks.
        fs::write(tree.path(PLACE), "").unwrap();
        assert!(erase(&tree).is_err());
    }
}
