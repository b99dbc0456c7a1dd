//! Firmware variables through efivarfs (`Documentation/filesystems/efivarfs.rst`): a file for each, four bytes of attributes
//! and then the value.

use super::entry::{self, LoadOption};
use hardware::MachineError;
use rustix::fs::IFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// `EFI_GLOBAL_VARIABLE`, UEFI 2.10 section 3.3.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Non-volatile, boot service access, run-time access.
const ATTRIBUTES: u32 = 7;
/// More entries than a firmware has; bounds the walk and the boot order.
const MOST_ENTRIES: usize = 4096;

/// The boot variables below an efivarfs mount.
#[derive(Debug)]
pub(crate) struct Variables {
    folder: PathBuf,
}

impl Variables {
    /// The variables in `folder`; `None` when there are none, as on a machine that was booted by a BIOS.
    pub(crate) fn at(folder: &Path) -> Option<Self> {
        let mut entries = fs::read_dir(folder).ok()?;
        entries.next().map(|_| Self { folder: folder.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{GLOBAL}"))
    }

    /// Numbers of all entries.
    fn numbers(&self) -> Vec<u16> {
        let suffix = format!("-{GLOBAL}");
        crate::tree::names(&self.folder)
            .iter()
            .filter_map(|name| name.strip_suffix(&suffix)?.strip_prefix("Boot"))
            .filter(|digits| digits.len() == 4)
            .filter_map(|digits| u16::from_str_radix(digits, 16).ok())
            .take(MOST_ENTRIES)
            .collect()
    }

    /// Deletes the entries for whose contents `is_old` says so, and takes them out of the boot order. Returns their labels.
    pub(crate) fn remove(&self, is_old: impl Fn(&[u8]) -> bool) -> Result<Vec<String>, MachineError> {
        let old: Vec<_> = self.options().into_iter().filter(|(_, option)| is_old(option)).collect();
        let numbers: Vec<u16> = old.iter().map(|(number, _)| *number).collect();
        self.remove_numbers(&numbers)?;
        Ok(old.iter().map(|(_, option)| entry::label(option).unwrap_or_default()).collect())
    }

    /// All entries that can be read: number and contents.
    pub(crate) fn options(&self) -> Vec<(u16, Vec<u8>)> {
        let option = |number: u16| {
            let value = crate::tree::bytes(&self.path(&format!("Boot{number:04X}"))).ok()?;
            Some((number, value.get(4..)?.to_vec()))
        };
        self.numbers().into_iter().filter_map(option).collect()
    }

    /// Deletes entries, and takes them out of the boot order.
    pub(crate) fn remove_numbers(&self, numbers: &[u16]) -> Result<(), MachineError> {
        for number in numbers {
            self.delete(&format!("Boot{number:04X}"))?;
        }
        if !numbers.is_empty() {
            let mut order = self.order();
            order.retain(|number| !numbers.contains(number));
            self.set_order(&order)?;
        }
        Ok(())
    }

    /// Creates an entry under the lowest free number.
    pub(crate) fn create(&self, option: &LoadOption) -> Result<u16, MachineError> {
        let used = self.numbers();
        let number = (0..=u16::MAX).find(|number| !used.contains(number)).unwrap_or(u16::MAX);
        self.set(&format!("Boot{number:04X}"), &option.to_bytes())?;
        Ok(number)
    }

    /// Puts entries in front of the boot order, in the order given.
    pub(crate) fn put_first(&self, numbers: &[u16]) -> Result<(), MachineError> {
        let mut order = numbers.to_vec();
        order.extend(self.order().into_iter().filter(|number| !numbers.contains(number)));
        self.set_order(&order)
    }

    fn order(&self) -> Vec<u16> {
        let value = crate::tree::bytes(&self.path("BootOrder")).unwrap_or_default();
        let numbers = value.get(4..).unwrap_or_default().chunks_exact(2);
        numbers.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take(MOST_ENTRIES).collect()
    }

    fn set_order(&self, order: &[u16]) -> Result<(), MachineError> {
        let bytes: Vec<u8> = order.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.set("BootOrder", &bytes)
    }

    fn set(&self, name: &str, value: &[u8]) -> Result<(), MachineError> {
        let path = self.path(name);
        let mut bytes = ATTRIBUTES.to_le_bytes().to_vec();
        bytes.extend(value);
        make_mutable(&path)
            .and_then(|()| {
                // One write call is one SetVariable; the file must not be truncated, which would delete the variable.
                let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
                let written = file.write(&bytes)?;
                // efivarfs takes the size of the new value; any other file system keeps the end of a longer old one.
                if file.metadata()?.len() > bytes.len() as u64 {
                    file.set_len(bytes.len() as u64)?;
                }
                if written == bytes.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
            })
            .map_err(|source| MachineError::Write { what: format!("firmware variable {name}"), source })
    }

    fn delete(&self, name: &str) -> Result<(), MachineError> {
        let path = self.path(name);
        make_mutable(&path)
            .and_then(|()| fs::remove_file(&path))
            .map_err(|source| MachineError::Write { what: format!("firmware variable {name}"), source })
    }
}

/// Takes away the immutable flag that the kernel gives to variables which it does not know to be harmless.
fn make_mutable(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // A file system without such flags has none to take away.
    if let Ok(flags) = rustix::fs::ioctl_getflags(&file)
        && flags.contains(IFlags::IMMUTABLE)
    {
        rustix::fs::ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::entry::{PartitionName, PartitionPath};
    use super::*;

    fn option(label: &str) -> LoadOption {
        LoadOption {
            label: label.into(),
            partition: PartitionPath { number: 1, start: 2048, blocks: 4096, name: PartitionName::Mbr([1, 2, 3, 4]) },
            path: "\\EFI\\BOOT\\BOOTX64.EFI".into(),
        }
    }

    #[test]
    fn entries_are_created_put_first_and_replaced_by_label() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Variables::at(folder.path()).is_none());
        std::fs::write(folder.path().join(format!("BootOrder-{GLOBAL}")), [7, 0, 0, 0, 5, 0, 0, 0]).unwrap();
        std::fs::write(folder.path().join(format!("Boot0000-{GLOBAL}")), [7, 0, 0, 0]).unwrap();
        let variables = Variables::at(folder.path()).unwrap();
        let ours = |option: &[u8]| entry::label(option).as_deref() == Some("ironic1");
        assert!(variables.remove(ours).unwrap().is_empty());
        assert_eq!(variables.create(&option("ironic1")).unwrap(), 1);
        variables.put_first(&[1]).unwrap();
        assert_eq!(variables.order(), [1, 5, 0]);

        assert_eq!(variables.remove(ours).unwrap(), ["ironic1"]);
        assert_eq!(variables.numbers(), [0]);
    }
}
