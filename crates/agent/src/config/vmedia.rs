//! Configuration on virtual media: parameters on a floppy, files on a CD.
//!
//! Only media that a BMC can have put there are believed: a CD, or a USB device below 4 GiB. A partition never is, and
//! neither is a disk: what the last tenant left on one must not configure the agent.

use super::Words;
use super::cmdline::MAX_TEXT;
use crate::pid1;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Label of the floppy with `parameters.txt`.
const PARAMETERS_LABELS: &[&str] = &["ir-vfd-dev"];
/// Labels of media that may bring configuration files.
const CONFIG_LABELS: &[&str] = &["config-2", "vmedia_boot_iso"];
/// What the model of a BMC's device says.
const MODEL: &str = "virtual media";
/// A USB device is believed below this size, bytes.
const USB_LIMIT: u64 = 4 << 30;
/// The folders of a medium from which files are copied to `/etc`.
const FOLDERS: [&str; 2] = ["ironic-python-agent", "ironic-python-agent.d"];
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
    /// The options of configuration files.
    pub files: Words,
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
        found.words = mounted(root, medium, |place| {
            let path = place.join("parameters.txt");
            match text(&path) {
                Ok(text) => Ok(Words::parse(&text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Words::default()),
                Err(source) => Err(MediaError::File { path, source }),
            }
        })?;
    }
    if let Some((medium, _)) = labelled(CONFIG_LABELS) {
        found.any = true;
        found.files = mounted(root, medium, |place| copy_config(place, &root.join("etc")))?;
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

/// Copies the regular files of the two folders and reads the options of those that end in `.conf`.
fn copy_config(place: &Path, etc: &Path) -> Result<Words, MediaError> {
    let mut words = Words::default();
    let mut copied = 0;
    for folder in FOLDERS {
        let Ok(entries) = fs::read_dir(place.join("etc").join(folder)) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let failed = |source| MediaError::File { path: path.clone(), source };
            let metadata = fs::symlink_metadata(&path).map_err(failed)?;
            let Some(name) = path.file_name().filter(|_| metadata.is_file()) else { continue };
            if metadata.len() > MAX_FILE || copied == MAX_FILES {
                tracing::warn!(path = %path.display(), "not copied from virtual media: too large, or too many files");
                continue;
            }
            let target = etc.join(folder);
            fs::create_dir_all(&target).map_err(failed)?;
            fs::copy(&path, target.join(name)).map_err(failed)?;
            copied += 1;
            if path.extension().is_some_and(|extension| extension == "conf") {
                words.merge(Words::parse_ini(&text(&path).map_err(failed)?));
            }
        }
    }
    tracing::info!(files = copied, "configuration copied from virtual media");
    Ok(words)
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_TEXT as u64).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
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
            let (label, file_system) = label(&device)?;
            if let Err(reason) = believe(&name, &sys) {
                tracing::debug!(name, label, reason, "not virtual media");
                return None;
            }
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
fn label(device: &Path) -> Option<(String, &'static str)> {
    let file = File::open(device).ok()?;
    let mut descriptor = [0; 72];
    if file.read_exact_at(&mut descriptor, 32_768).is_ok() && descriptor.starts_with(b"\x01CD001") {
        return Some((trimmed(&descriptor[40..72]), "iso9660"));
    }
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0).ok()?;
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
    fn a_disk_labelled_like_the_config_device_is_not_believed() {
        let tree = Tree::new();
        tree.device("sda", "pci0/ata1", "config-2", 1 << 20).device("vda", "pci0/virtio1", "ir-vfd-dev", 1 << 20);
        tree.device("sdb", "pci0/usb1/1-1", "config-2", 4 << 30);
        tree.device("sdc1", "pci0/usb1/1-2", "config-2", 1 << 20);
        fs::write(tree.0.path().join("sys/class/block/sdc1/partition"), "1\n").unwrap();
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
        assert_eq!(label(&path), Some(("ir-vfd-dev".to_owned(), "vfat")));
    }

    #[test]
    fn files_are_copied_and_their_options_read() {
        let folder = tempfile::tempdir().unwrap();
        let (place, etc) = (folder.path().join("media"), folder.path().join("etc"));
        fs::create_dir_all(place.join("etc/ironic-python-agent.d")).unwrap();
        fs::create_dir_all(place.join("etc/ironic-python-agent")).unwrap();
        fs::write(place.join("etc/ironic-python-agent/ironic.crt"), "pem").unwrap();
        let conf = "[DEFAULT]\ncafile = /etc/ironic-python-agent/ironic.crt\n";
        fs::write(place.join("etc/ironic-python-agent.d/ironic-tls.conf"), conf).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", place.join("etc/ironic-python-agent/link")).unwrap();
        let words = copy_config(&place, &etc).unwrap();
        assert_eq!(words.get("cafile"), Some("/etc/ironic-python-agent/ironic.crt"));
        assert_eq!(fs::read_to_string(etc.join("ironic-python-agent/ironic.crt")).unwrap(), "pem");
        assert!(!etc.join("ironic-python-agent/link").exists());
    }
}
