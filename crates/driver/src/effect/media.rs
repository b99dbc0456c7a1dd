//! The virtual CD of a ramdisk: the site's unified kernel image with the node's own command line, at a URL that cannot
//! be guessed, because the command line holds the agent's token.
//!
//! The image is there as one program, or as its parts: that is how ramdisks of other agents come.

use super::cd::Cds;
use super::cmdline::{ParameterError, Parameters};
use crate::flow::Purpose;
use media::pe;
use serde_json::Value;
use std::path::{Path, PathBuf};
use store::Node;
use transport::client::chain;

/// Volume label of the CD, by which an agent finds it.
pub(super) const LABEL: &str = "VMEDIA_BOOT_ISO";
/// The ramdisk as one UEFI program, in the ramdisk folder.
const KERNEL_IMAGE: &str = "ferric.efi";
/// A kernel in the ramdisk folder, for the case that there is no [`KERNEL_IMAGE`].
const KERNEL: &str = "vmlinuz";
/// Its initramfs.
const INITRAMFS: &str = "initramfs";
/// systemd's EFI stub, which makes one program of the two.
const STUB: &str = "linuxx64.efi.stub";
/// Folder of the CDs in the data folder.
const FOLDER: &str = "boot";

/// Why there is no CD.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The site has no ramdisk.
    #[error("no ramdisk is configured: set ramdisk_dir to the folder that holds {KERNEL_IMAGE}")]
    NoRamdisk,
    /// The folder of the ramdisk lacks files.
    #[error(
        "ramdisk_dir {folder} has no {KERNEL_IMAGE}, and not all of {KERNEL}, {INITRAMFS} and {STUB} either; `cargo xtask \
         ramdisk --out DIR` makes the one, and for another agent's kernel and initramfs the stub comes from Debian's \
         systemd-boot-efi"
    )]
    Incomplete {
        /// The folder.
        folder: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{doing} {path}")]
    File {
        /// What was done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The parameters of the node are not usable.
    #[error("kernel_append_params of the node")]
    Parameters(#[source] ParameterError),
    /// The image could not be made.
    #[error("make the virtual media: {0}")]
    Build(String),
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// Folder with `ferric.efi`.
    pub ramdisk_dir: Option<PathBuf>,
    /// The same of the ramdisk for rescues, where that is another.
    pub rescue_ramdisk_dir: Option<PathBuf>,
    /// The driver's folder; CDs are in `boot/` below it.
    pub data_dir: PathBuf,
    /// Base URL of the driver as agents and BMCs reach it, without a slash at the end.
    pub agent_url: String,
    /// The site's own kernel parameters.
    pub kernel_append_params: Parameters,
    /// What CDs are made from.
    pub cds: Cds,
}

/// A fresh place for a CD of `node`: 128 random bits and a name, relative to the boot folder.
pub fn fresh_place(node: &Node) -> String {
    let random: [u8; 16] = rand::random();
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{random}/{}.iso", node.uuid)
}

/// A fresh place for an image of firmware, for the BMC of `node` to fetch.
pub fn fresh_firmware_place(node: &Node) -> String {
    fresh_place(node).replace(".iso", ".bin")
}

/// The file behind a path below `/boot/`, if it has the form of [`fresh_place`] or [`fresh_firmware_place`].
pub fn file_of(data_dir: &Path, place: &str) -> Option<PathBuf> {
    let (random, name) = place.split_once('/')?;
    let is_hex = random.len() == 32 && random.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let stem = name.strip_suffix(".iso").or_else(|| name.strip_suffix(".bin"))?;
    let is_name = !stem.is_empty() && stem.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    (is_hex && is_name).then(|| data_dir.join(FOLDER).join(random).join(name))
}

impl MediaSettings {
    /// The URL of a CD.
    pub fn url_of(&self, place: &str) -> String {
        format!("{}/{FOLDER}/{place}", self.agent_url)
    }

    /// What the ramdisk's kernel is told, after what the image says already.
    pub fn parameters(&self, node: &Node, purpose: Purpose, token: &str) -> Result<Parameters, MediaError> {
        let own = [&node.instance_info, &node.driver_info]
            .into_iter()
            .find_map(|map| map.get("kernel_append_params").and_then(Value::as_str));
        let mut parameters = match own {
            Some(text) => {
                Parameters::parse(text).map_err(MediaError::Parameters)?.with_default(&self.kernel_append_params)
            }
            None => self.kernel_append_params.clone(),
        };
        match purpose {
            Purpose::Commands | Purpose::Rescue => parameters.set("ipa-api-url", &self.agent_url),
            Purpose::Inspection | Purpose::InspectionThenCommands => {
                if purpose == Purpose::InspectionThenCommands {
                    parameters.set("ipa-api-url", &self.agent_url);
                }
                parameters.set("ipa-inspection-callback-url", &format!("{}/v1/continue_inspection", self.agent_url));
            }
        }
        parameters.set("ipa-agent-token", token);
        parameters.set("boot_method", "vmedia");
        Ok(parameters)
    }

    /// The folder of the ramdisk that is booted for `purpose`.
    pub fn ramdisk(&self, purpose: Purpose) -> Option<&Path> {
        let own = self.rescue_ramdisk_dir.as_deref().filter(|_| purpose == Purpose::Rescue);
        own.or(self.ramdisk_dir.as_deref())
    }

    /// Builds the CD at `place`, completely or not at all.
    pub async fn build(&self, node: &Node, purpose: Purpose, token: &str, place: &str) -> Result<(), MediaError> {
        let ramdisk = self.ramdisk(purpose).ok_or(MediaError::NoRamdisk)?.to_owned();
        let file = file_of(&self.data_dir, place).ok_or_else(|| MediaError::Build(format!("{place:?} is no place")))?;
        let parameters = self.parameters(node, purpose, token)?;
        self.cds.write(ramdisk, parameters, file).await
    }

    /// Removes the file at `place`; done when it is gone.
    pub async fn remove(&self, place: &str) -> Result<(), MediaError> {
        let Some(file) = file_of(&self.data_dir, place) else { return Ok(()) };
        let Some(folder) = file.parent() else { return Ok(()) };
        match tokio::fs::remove_dir_all(folder).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(MediaError::File { doing: "remove", path: folder.to_owned(), source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> MediaError {
    let path = path.to_owned();
    move |source| MediaError::File { doing, path, source }
}

/// Whether a folder holds a ramdisk that can be booted.
///
/// # Errors
/// [`MediaError::Incomplete`].
pub fn check_ramdisk(folder: &Path) -> Result<(), MediaError> {
    parts(folder).map(drop)
}

/// The files of a ramdisk: the one program, or what one is made from.
pub(super) fn parts(folder: &Path) -> Result<Vec<PathBuf>, MediaError> {
    for names in [&[KERNEL_IMAGE][..], &[KERNEL, INITRAMFS, STUB]] {
        let files: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        if files.iter().all(|file| file.is_file()) {
            return Ok(files);
        }
    }
    Err(MediaError::Incomplete { folder: folder.to_owned() })
}

/// The ramdisk of a folder as one EFI program.
pub(super) fn kernel_image(folder: &Path) -> Result<Vec<u8>, MediaError> {
    check_ramdisk(folder)?;
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(failed("read", &path))
    };
    if folder.join(KERNEL_IMAGE).is_file() {
        return read(KERNEL_IMAGE);
    }
    let (linux, initrd) = (read(KERNEL)?, read(INITRAMFS)?);
    let parts = pe::Sections {
        // For people who look at the program; nothing reads them.
        os_release: "NAME=\"Ramdisk\"\nID=linux\n",
        uname: "unknown",
        cmdline: "",
        linux: &linux,
        initrd: &initrd,
    };
    pe::build(&read(STUB)?, &parts).map_err(|error| MediaError::Build(chain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2014_1426_only_paths_of_our_own_making_lead_to_files() {
        let node = Node::new(uuid::Uuid::new_v4(), "redfish", jiff::Timestamp::UNIX_EPOCH);
        let place = fresh_place(&node);
        assert_eq!(file_of(Path::new("/d"), &place), Some(Path::new("/d/boot").join(&place)));
        for place in ["", "x", "../../etc/passwd", "00112233445566778899aabbccddeeff/../../x.iso", "/a.iso"] {
            assert_eq!(file_of(Path::new("/d"), place), None, "{place}");
        }
    }

    #[test]
    fn a_ramdisk_is_one_program_or_its_three_parts() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let error = check_ramdisk(folder.path()).unwrap_err();
        assert!(error.to_string().contains(KERNEL_IMAGE) && error.to_string().contains(STUB), "{error}");
        put(KERNEL, b"MZ kernel");
        put(INITRAMFS, b"files");
        assert!(matches!(kernel_image(folder.path()), Err(MediaError::Incomplete { .. })));
        put(STUB, b"no program");
        assert!(matches!(kernel_image(folder.path()), Err(MediaError::Build(_))));
        put(STUB, &pe::stub::stub(7));
        let parameters = Parameters::parse("ipa-debug=1").unwrap();
        Cds::default().write_now(folder.path(), &parameters, &folder.path().join("boot/x.iso")).unwrap();
        let iso = std::fs::read(folder.path().join("boot/x.iso")).unwrap();
        assert!(iso.windows(11).any(|window| window == b"ipa-debug=1"));
        put(KERNEL_IMAGE, b"whole");
        assert_eq!(kernel_image(folder.path()).unwrap(), b"whole");
    }

    #[test]
    fn the_ramdisk_is_told_where_to_call_and_with_which_token() {
        let mut settings = MediaSettings {
            ramdisk_dir: Some(PathBuf::from("usual")),
            rescue_ramdisk_dir: None,
            data_dir: PathBuf::new(),
            agent_url: "http://10.0.0.1:6385".to_owned(),
            kernel_append_params: Parameters::parse("console=ttyS0").unwrap(),
            cds: Cds::default(),
        };
        let mut node = Node::new(uuid::Uuid::new_v4(), "redfish", jiff::Timestamp::UNIX_EPOCH);
        let line = settings.parameters(&node, Purpose::Commands, "T").unwrap().line();
        assert_eq!(line, "console=ttyS0 ipa-api-url=http://10.0.0.1:6385 ipa-agent-token=T boot_method=vmedia");
        node.driver_info.insert("kernel_append_params".to_owned(), Value::from("%default% debug"));
        let line = settings.parameters(&node, Purpose::Inspection, "T").unwrap().line();
        assert!(line.starts_with("console=ttyS0 debug ipa-inspection-callback-url=http://10.0.0.1:6385/v1/"), "{line}");
        node.instance_info.insert("kernel_append_params".to_owned(), Value::from("a\nb"));
        assert!(settings.parameters(&node, Purpose::Commands, "T").is_err());

        assert_eq!(settings.ramdisk(Purpose::Rescue), Some(Path::new("usual")));
        settings.rescue_ramdisk_dir = Some(PathBuf::from("rescue"));
        assert_eq!(settings.ramdisk(Purpose::Rescue), Some(Path::new("rescue")));
        assert_eq!(settings.ramdisk(Purpose::Commands), Some(Path::new("usual")));
    }
}
