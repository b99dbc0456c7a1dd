//! The virtual CD of a ramdisk: the site's unified kernel image with the node's own command line, at a URL that cannot
//! be guessed, because the command line holds the agent's token.

use super::cmdline::{ParameterError, Parameters};
use crate::flow::Purpose;
use media::boot::uefi_iso;
use media::pe::{cmdline, replace_cmdline};
use serde_json::Value;
use std::path::{Path, PathBuf};
use store::Node;
use transport::client::chain;

/// Volume label of the CD, by which an agent finds it.
const LABEL: &str = "VMEDIA_BOOT_ISO";
/// The ramdisk as one UEFI program, in the ramdisk folder.
pub const KERNEL_IMAGE: &str = "ferric.efi";
/// Folder of the CDs in the data folder.
const FOLDER: &str = "boot";

/// Why there is no CD.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The site has no ramdisk.
    #[error("no ramdisk is configured: set ramdisk_dir to the folder that holds {KERNEL_IMAGE}")]
    NoRamdisk,
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
    /// The driver's folder; CDs are in `boot/` below it.
    pub data_dir: PathBuf,
    /// Base URL of the driver as agents and BMCs reach it, without a slash at the end.
    pub agent_url: String,
    /// The site's own kernel parameters.
    pub kernel_append_params: Parameters,
}

/// A fresh place for a CD of `node`: 128 random bits and a name, relative to the boot folder.
pub fn fresh_place(node: &Node) -> String {
    let random: [u8; 16] = rand::random();
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{random}/{}.iso", node.uuid)
}

/// The file behind a path below `/boot/`, if it has the form of [`fresh_place`].
pub fn file_of(data_dir: &Path, place: &str) -> Option<PathBuf> {
    let (random, name) = place.split_once('/')?;
    let is_hex = random.len() == 32 && random.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let stem = name.strip_suffix(".iso")?;
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
            Purpose::Commands => parameters.set("ipa-api-url", &self.agent_url),
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

    /// Builds the CD at `place`, completely or not at all.
    pub async fn build(&self, node: &Node, purpose: Purpose, token: &str, place: &str) -> Result<(), MediaError> {
        let ramdisk = self.ramdisk_dir.as_ref().ok_or(MediaError::NoRamdisk)?.join(KERNEL_IMAGE);
        let file = file_of(&self.data_dir, place).ok_or_else(|| MediaError::Build(format!("{place:?} is no place")))?;
        let parameters = self.parameters(node, purpose, token)?;
        // Tens of megabytes are copied: not on a thread that serves others.
        let built = tokio::task::spawn_blocking(move || write(&ramdisk, &parameters, &file)).await;
        built.map_err(|error| MediaError::Build(error.to_string()))?
    }

    /// Removes the CD at `place`; done when it is gone.
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

fn write(ramdisk: &Path, parameters: &Parameters, file: &Path) -> Result<(), MediaError> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| MediaError::File { doing, path, source }
    };
    let image = std::fs::read(ramdisk).map_err(failed("read", ramdisk))?;
    let given = cmdline(&image).map_err(|error| MediaError::Build(chain(&error)))?;
    let given = String::from_utf8_lossy(given);
    let given = given.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let line = format!("{given} {}", parameters.line());
    let image = replace_cmdline(&image, line.trim()).map_err(|error| MediaError::Build(chain(&error)))?;
    let iso = uefi_iso(&image, &[], LABEL).map_err(|error| MediaError::Build(chain(&error)))?;
    let folder = file.parent().unwrap_or(file);
    std::fs::create_dir_all(folder).map_err(failed("create the folder", folder))?;
    let part = file.with_extension("part");
    std::fs::write(&part, iso).map_err(failed("write", &part))?;
    std::fs::rename(&part, file).map_err(failed("rename to", file))
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
    fn the_ramdisk_is_told_where_to_call_and_with_which_token() {
        let settings = MediaSettings {
            ramdisk_dir: None,
            data_dir: PathBuf::new(),
            agent_url: "http://10.0.0.1:6385".to_owned(),
            kernel_append_params: Parameters::parse("console=ttyS0").unwrap(),
        };
        let mut node = Node::new(uuid::Uuid::new_v4(), "redfish", jiff::Timestamp::UNIX_EPOCH);
        let line = settings.parameters(&node, Purpose::Commands, "T").unwrap().line();
        assert_eq!(line, "console=ttyS0 ipa-api-url=http://10.0.0.1:6385 ipa-agent-token=T boot_method=vmedia");
        node.driver_info.insert("kernel_append_params".to_owned(), Value::from("%default% debug"));
        let line = settings.parameters(&node, Purpose::Inspection, "T").unwrap().line();
        assert!(line.starts_with("console=ttyS0 debug ipa-inspection-callback-url=http://10.0.0.1:6385/v1/"), "{line}");
        node.instance_info.insert("kernel_append_params".to_owned(), Value::from("a\nb"));
        assert!(settings.parameters(&node, Purpose::Commands, "T").is_err());
    }
}
