//! Configuration on virtual media: parameters on a floppy, files on a CD.
//!
//! Only media that a BMC can have put there are believed: a CD, or a USB device below 4 GiB. A partition never is, and
//! neither is a disk: what the last tenant left on one must not configure the agent. Of what is not believed not even the
//! label is read. Files are opened below the place where the medium is mounted and through no symbolic link.

use super::cmdline::MAX_TEXT;
use super::{Words, files};
use crate::pid1;
use hardware_linux::signature::ReadAt;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Label of the floppy with `parameters.txt`.
const PARAMETERS_LABELS: &[&str] = &["ir-vfd-dev"];
/// Labels of media that may bring configuration files.
const CONFIG_LABELS: &[&str] = &["config-2", "vmedia_boot_iso"];
/// What the model of a BMC's device says.
const MODEL: &str = "virtual media";
/// A USB device is believed below this size, bytes.
const USB_LIMIT: u64 = 4 << 30;
/// Network data, as OpenStack has it on config drives.
const NETWORK_DATA: &str = "openstack/latest/network_data.json";
/// Files copied at most, and the largest of them in bytes.
const MAX_FILES: usize = 64;
const MAX_FILE: u64 = 1 << 20;

/// A medium that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Medium {
    /// Its device node.
    pub device: PathBuf,
    /// Its label.
    pub label: String,
    /// Its file system, as the kernel calls it.
    pub file_system: &'static str,
}

/// What virtual media brought.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The words of `parameters.txt`; they win over the kernel command line.
    pub words: Words,
    /// Network data as text.
    pub network_data: Option<Vec<u8>>,
    /// Whether any medium was there.
    pub any: bool,
}

/// Why a medium was not read.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// It cannot be mounted.
    #[error("mount {}", device.display())]
    Mount {
        /// Its device.
        device: PathBuf,
        /// Cause.
        #[source]
        source: pid1::MountError,
    },
    /// A file on it cannot be read or copied.
    #[error("copy {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Reads the media of the machine at `root` (`/`), and copies configuration files to its `/etc`.
pub fn read(root: &Path) -> Result<Found, MediaError> {
    let media = media(root);
    let mut found = Found::default();
    let labelled = |labels: &[&str]| {
        media.iter().find(|(medium, _)| labels.iter().any(|label| medium.label.eq_ignore_ascii_case(label)))
    };
    let parameters = labelled(PARAMETERS_LABELS).or_else(|| media.iter().find(|(_, by_model)| *by_model));
    if let Some((medium, _)) = parameters {
        found.any = true;
        let text = mounted(root, medium, |place| file(place, "parameters.txt", MAX_TEXT as u64))?;
        found.words = Words::parse(&String::from_utf8_lossy(&text.unwrap_or_default()));
    }
    if let Some((medium, _)) = labelled(CONFIG_LABELS) {
        found.any = true;
        found.network_data = mounted(root, medium, |place| {
            copy_config(place, &root.join("etc"))?;
            file(place, NETWORK_DATA, MAX_FILE)
        })?;
    }
    Ok(found)
}

/// Runs `look` with the medium mounted read-only.
fn mounted<T>(
    root: &Path,
    medium: &Medium,
    look: impl FnOnce(&Path) -> Result<T, MediaError>,
) -> Result<T, MediaError> {
    let place = root.join("run/ferric/media");
    pid1::mount_read_only(&medium.device, &place, medium.file_system)
        .map_err(|source| MediaError::Mount { device: medium.device.clone(), source })?;
    let seen = look(&place);
    if let Err(error) = pid1::unmount(&place) {
        tracing::warn!(error = %transport::client::chain(&error), "virtual media stays mounted");
    }
    seen
}

/// The bytes of a file of a medium; `None` when there is none, or when it is not one to be read, which is logged.
fn file(place: &Path, path: &str, most: u64) -> Result<Option<Vec<u8>>, MediaError> {
    let failed = |source| MediaError::File { path: place.join(path), source };
    let opened = match open_beneath(place, Path::new(path), OFlags::empty()) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            tracing::warn!(path, "not read from virtual media: a symbolic link is on the way");
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let metadata = opened.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > most {
        tracing::warn!(path, bytes = metadata.len(), most, "not read from virtual media: no file, or too large");
        return Ok(None);
    }
    let mut bytes = Vec::new();
    opened.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Opens what is below `place` through no symbolic link (openat2(2)), without waiting for the other end of a pipe.
fn open_beneath(place: &Path, path: &Path, flags: OFlags) -> io::Result<File> {
    let folder = File::open(place)?;
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(&folder, path, flags, Mode::empty(), resolve)?.into())
}

/// Copies the regular files of the folders for configuration.
fn copy_config(place: &Path, etc: &Path) -> Result<(), MediaError> {
    let mut copied = 0;
    for folder in files::FOLDERS {
        let inside = Path::new("etc").join(folder);
        let Ok(listing) = open_beneath(place, &inside, OFlags::DIRECTORY) else { continue };
        let failed = |source| MediaError::File { path: place.join(&inside), source };
        let entries = rustix::fs::Dir::read_from(&listing).map_err(|error| failed(error.into()))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").take(MAX_FILES + 1).collect();
        names.sort();
        for name in names {
            if copied == MAX_FILES {
                tracing::warn!(most = MAX_FILES, "more files than are copied from virtual media");
                return Ok(());
            }
            let Some(bytes) = file(place, &format!("etc/{folder}/{name}"), MAX_FILE)? else { continue };
            let target = etc.join(folder);
            fs::create_dir_all(&target).map_err(failed)?;
            fs::write(target.join(&name), bytes).map_err(failed)?;
            copied += 1;
        }
    }
    tracing::info!(files = copied, "configuration copied from virtual media");
    Ok(())
}

/// All believed media, each with whether its model tells that a BMC made it.
fn media(root: &Path) -> Vec<(Medium, bool)> {
    let Ok(entries) = fs::read_dir(root.join("sys/class/block")) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
        .into_iter()
        .filter_map(|name| {
            let sys = root.join("sys/class/block").join(&name);
            let device = root.join("dev").join(&name);
            if let Err(reason) = believe(&name, &sys) {
                tracing::trace!(name, reason, "not virtual media");
                return None;
            }
            let (label, file_system) = label(&File::open(&device).ok()?)?;
            let model = fs::read_to_string(sys.join("device/model")).unwrap_or_default().to_ascii_lowercase();
            Some((Medium { device, label, file_system }, model.contains(MODEL)))
        })
        .collect()
}

/// Whether a BMC can have put the device there; an error says why not.
fn believe(name: &str, sys: &Path) -> Result<(), &'static str> {
    if sys.join("partition").exists() {
        return Err("it is a partition");
    }
    if name.starts_with("sr") {
        return Ok(());
    }
    let path = fs::canonicalize(sys).unwrap_or_default();
    if !path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb")) {
        return Err("it is neither a CD nor a USB device");
    }
    let sectors: u64 = fs::read_to_string(sys.join("size")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    match sectors.checked_mul(512) {
        Some(bytes) if bytes > 0 && bytes < USB_LIMIT => Ok(()),
        _ => Err("it has 4 GiB or more, or no medium"),
    }
}

/// Label and file system of a device: ISO 9660 (ECMA-119, 8.4.7: the volume identifier in the primary descriptor at byte
/// 32768) or FAT (the volume label in the boot sector).
pub fn label(device: &impl ReadAt) -> Option<(String, &'static str)> {
    let mut descriptor = [0; 72];
    if device.read_exact_at(&mut descriptor, 32_768).is_ok() && descriptor.starts_with(b"\x01CD001") {
        return Some((trimmed(&descriptor[40..72]), "iso9660"));
    }
    let mut sector = [0; 512];
    device.read_exact_at(&mut sector, 0).ok()?;
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    // FAT12 and FAT16 have an extended boot signature at 38, FAT32 at 66; the label follows four bytes later.
    for (signature, kind) in [(38, &b"FAT1"[..]), (66, &b"FAT32"[..])] {
        if sector[signature] == 0x29 && sector[signature + 16..].starts_with(kind) {
            return Some((trimmed(&sector[signature + 5..signature + 16]), "vfat"));
        }
    }
    None
}

fn trimmed(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches([' ', '\0']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for folder in ["sys/class/block", "sys/devices", "dev"] {
                fs::create_dir_all(tree.0.path().join(folder)).unwrap();
            }
            tree
        }

        /// A block device below `parent` with an ISO 9660 label.
        fn device(&self, name: &str, parent: &str, label: &str, bytes: u64) -> &Self {
            let root = self.0.path();
            let sys = root.join("sys/devices").join(parent).join(name);
            fs::create_dir_all(&sys).unwrap();
            fs::write(sys.join("size"), format!("{}\n", bytes / 512)).unwrap();
            std::os::unix::fs::symlink(&sys, root.join("sys/class/block").join(name)).unwrap();
            let mut image = vec![0; 32_768];
            image.extend(b"\x01CD001\x01\0");
            image.extend([b' '; 32]);
            image.extend(format!("{label:<32}").bytes());
            fs::write(root.join("dev").join(name), image).unwrap();
            self
        }

        fn labels(&self) -> Vec<String> {
            media(self.0.path()).into_iter().map(|(medium, _)| medium.label).collect()
        }
    }

    #[test]
    fn a_cd_and_a_small_usb_device_are_believed() {
        let tree = Tree::new();
        tree.device("sr0", "pci0/ata1", "CONFIG-2", 1 << 20).device("sda", "pci0/usb1/1-1", "ir-vfd-dev", 1 << 20);
        assert_eq!(tree.labels(), ["ir-vfd-dev", "CONFIG-2"]);
    }

    #[test]
    fn check_virtual_media_devices_a_disk_labelled_like_the_config_device_is_not_believed() {
        let tree = Tree::new();
        tree.device("sda", "pci0/ata1", "config-2", 1 << 20).device("vda", "pci0/virtio1", "ir-vfd-dev", 1 << 20);
        tree.device("nvme0n1", "pci0/nvme0", "vmedia_boot_iso", 1 << 20);
        assert_eq!(tree.labels(), Vec::<String>::new());
        assert!(!read(tree.0.path()).unwrap().any);
    }

    #[test]
    fn a_disk_whose_model_says_virtual_media_is_not_believed() {
        let tree = Tree::new();
        tree.device("sda", "pci0/ata1", "x", 1 << 20);
        let sys = tree.0.path().join("sys/class/block/sda/device");
        fs::create_dir_all(&sys).unwrap();
        fs::write(sys.join("model"), "Virtual Media\n").unwrap();
        assert!(!read(tree.0.path()).unwrap().any);
    }

    #[test]
    fn a_usb_disk_of_4_gib_labelled_like_the_config_device_is_not_believed() {
        let tree = Tree::new();
        tree.device("sda", "pci0/usb1/1-1", "config-2", 4 << 30).device("sdb", "pci0/usb1/1-2", "config-2", 0);
        assert_eq!(tree.labels(), Vec::<String>::new());
    }

    #[test]
    fn a_partition_labelled_like_the_config_device_is_not_believed() {
        let tree = Tree::new();
        for (name, parent) in [("sda1", "pci0/usb1/1-1"), ("sr0p1", "pci0/ata1")] {
            tree.device(name, parent, "config-2", 1 << 20);
            fs::write(tree.0.path().join("sys/class/block").join(name).join("partition"), "1\n").unwrap();
        }
        assert_eq!(tree.labels(), Vec::<String>::new());
    }

    #[test]
    fn a_device_mapper_or_loop_device_labelled_like_the_config_device_is_not_believed() {
        let tree = Tree::new();
        tree.device("dm-0", "virtual/block", "config-2", 1 << 20).device("loop0", "virtual/block", "config-2", 1 << 20);
        tree.device("md0", "virtual/block", "ir-vfd-dev", 1 << 20);
        assert_eq!(tree.labels(), Vec::<String>::new());
    }

    #[test]
    fn a_fat_label_is_read_from_the_boot_sector() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("floppy");
        let mut sector = [0_u8; 512];
        sector[38] = 0x29;
        sector[43..54].copy_from_slice(b"ir-vfd-dev ");
        sector[54..62].copy_from_slice(b"FAT12   ");
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&path, sector).unwrap();
        assert_eq!(label(&File::open(&path).unwrap()), Some(("ir-vfd-dev".to_owned(), "vfat")));
    }

    fn medium(paths: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for (path, text) in paths {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        place
    }

    #[test]
    fn files_are_copied_and_their_options_read() {
        let conf = "[DEFAULT]\ncafile = /etc/ironic-python-agent/ironic.crt\n";
        let place = medium(&[
            ("etc/ironic-python-agent.d/ironic-tls.conf", conf),
            ("etc/ironic-python-agent/ironic.crt", "pem"),
            (NETWORK_DATA, "{}"),
        ]);
        let root = tempfile::tempdir().unwrap();
        copy_config(place.path(), &root.path().join("etc")).unwrap();
        assert_eq!(files::read(root.path()).get("cafile"), Some("/etc/ironic-python-agent/ironic.crt"));
        let copied = fs::read_to_string(root.path().join("etc/ironic-python-agent/ironic.crt")).unwrap();
        assert_eq!(copied, "pem");
        assert_eq!(file(place.path(), NETWORK_DATA, MAX_FILE).unwrap().as_deref(), Some(&b"{}"[..]));
    }

    #[test]
    fn a_symbolic_link_on_a_medium_leads_nowhere() {
        let secret = medium(&[("ironic-python-agent/shadow", "secret"), ("parameters.txt", "a=b")]);
        let place = medium(&[("etc/ironic-python-agent.d/real", "real")]);
        let link = |from: &str, to: &Path| std::os::unix::fs::symlink(to, place.path().join(from)).unwrap();
        link("etc/ironic-python-agent", &secret.path().join("ironic-python-agent"));
        link("etc/ironic-python-agent.d/link", Path::new("real"));
        link("parameters.txt", &secret.path().join("parameters.txt"));
        link("openstack", secret.path());
        let etc = tempfile::tempdir().unwrap();
        copy_config(place.path(), etc.path()).unwrap();
        assert!(etc.path().join("ironic-python-agent.d/real").exists());
        assert!(!etc.path().join("ironic-python-agent").exists());
        assert!(!etc.path().join("ironic-python-agent.d/link").exists());
        assert_eq!(file(place.path(), "parameters.txt", MAX_FILE).unwrap(), None);
        assert_eq!(file(place.path(), NETWORK_DATA, MAX_FILE).unwrap(), None);
        assert!(file(place.path(), "../x", MAX_FILE).is_err());
    }

    #[test]
    fn large_files_pipes_and_folders_are_not_read() {
        let place = medium(&[("etc/ironic-python-agent/large", ""), ("etc/ironic-python-agent/folder/x", "x")]);
        let inside = place.path().join("etc/ironic-python-agent");
        File::options().write(true).open(inside.join("large")).unwrap().set_len(MAX_FILE + 1).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, inside.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let etc = tempfile::tempdir().unwrap();
        copy_config(place.path(), etc.path()).unwrap();
        assert!(!etc.path().join("ironic-python-agent").exists());
    }

    #[test]
    fn more_files_than_the_limit_are_not_copied() {
        let names: Vec<String> = (0..2 * MAX_FILES).map(|n| format!("etc/ironic-python-agent/{n}")).collect();
        let place = medium(&names.iter().map(|name| (name.as_str(), "x")).collect::<Vec<_>>());
        let etc = tempfile::tempdir().unwrap();
        copy_config(place.path(), etc.path()).unwrap();
        assert_eq!(fs::read_dir(etc.path().join("ironic-python-agent")).unwrap().count(), MAX_FILES);
    }
}
