//! Loading kernel modules without kmod: files of depmod(8) for what is needed, finit_module(2) to load.

use super::modalias::{self, Aliases};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`: the kernel unpacks the file itself.
const COMPRESSED: i32 = 4;

/// Why a module is not loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModuleError {
    /// There is no such module in this ramdisk.
    #[error("module {0} is not in this ramdisk")]
    Absent(String),
    /// The command line forbids it.
    #[error("module {0} is forbidden by modprobe.blacklist")]
    Forbidden(String),
    /// The kernel refused it, or its file cannot be read.
    #[error("load module {name}")]
    Load {
        /// The module.
        name: String,
        /// Cause.
        #[source]
        source: Arc<io::Error>,
    },
}

impl ModuleError {
    /// Whether the module looked for a device and found none, as drivers may that were asked for by a wide pattern.
    pub fn is_no_device(&self) -> bool {
        match self {
            Self::Load { source, .. } => source.raw_os_error() == Some(Errno::NODEV.raw_os_error()),
            Self::Absent(_) | Self::Forbidden(_) => false,
        }
    }
}

type Outcome = Arc<OnceLock<Result<(), ModuleError>>>;

/// The modules of the running kernel.
#[derive(Debug)]
pub struct Modules {
    folder: PathBuf,
    files: BTreeMap<String, Vec<String>>,
    soft: BTreeMap<String, Vec<String>>,
    aliases: Aliases,
    builtin: BTreeSet<String>,
    parameters: BTreeMap<String, Vec<String>>,
    forbidden: BTreeSet<String>,
    /// One cell for each module: whoever wants a module that is just being loaded waits for that module alone.
    loaded: Mutex<BTreeMap<String, Outcome>>,
}

impl Modules {
    /// The modules below `root` for the running kernel. A ramdisk without modules has none, which is no error.
    pub fn open(root: &Path, cmdline: &str) -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folders = ["lib/modules", "usr/lib/modules"].map(|folder| root.join(folder).join(&release));
        let folder = folders.iter().find(|folder| folder.is_dir()).unwrap_or(&folders[0]).clone();
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let (mut parameters, forbidden) = from_cmdline(cmdline);
        // The driver makes a bond of its own accord otherwise, which nobody asked for.
        parameters.entry("bonding".to_owned()).or_insert_with(|| vec!["max_bonds=0".to_owned()]);
        Self {
            files: modalias::parse_dependencies(&text("modules.dep")),
            soft: modalias::parse_soft_dependencies(&text("modules.softdep")),
            aliases: Aliases::parse(&text("modules.alias")),
            builtin: text("modules.builtin").lines().map(modalias::module_name).collect(),
            parameters,
            forbidden,
            loaded: Mutex::default(),
            folder,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Loads a module and what it needs; done when it is loaded or built in already. Blocks.
    ///
    /// # Errors
    ///
    /// See [`ModuleError`]. A module that failed once is not tried again.
    pub fn load(&self, name: &str) -> Result<(), ModuleError> {
        let name = modalias::module_name(name);
        if self.builtin.contains(&name) {
            return Ok(());
        }
        let files = self.files.get(&name).ok_or_else(|| ModuleError::Absent(name.clone()))?;
        if self.forbidden.contains(&name) {
            return Err(ModuleError::Forbidden(name));
        }
        if let Some(before) = self.soft.get(&name) {
            for wanted in before.iter().filter(|wanted| **wanted != name && self.files.contains_key(*wanted)) {
                // As its name says: the module itself is tried anyway.
                if let Some(needed) = self.files.get(wanted) {
                    let _ = self.load_files(needed);
                }
            }
        }
        self.load_files(files)
    }

    /// Loads all modules for an alias, such as `fs-iso9660` or a device's `modalias`; those that fail are logged. Returns
    /// how many are there now. Blocks.
    pub fn load_alias(&self, alias: &str) -> usize {
        let mut there = 0;
        for module in self.aliases.modules(alias) {
            match self.load(module) {
                Ok(()) => there += 1,
                // The driver looked and found nothing that is its own, which is for it to decide.
                Err(error) if error.is_no_device() => {
                    tracing::debug!(module, alias, "the module finds no device");
                }
                Err(error @ (ModuleError::Load { .. } | ModuleError::Absent(_))) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(module, alias, %error, cause, "module not loaded");
                }
                Err(error @ ModuleError::Forbidden(_)) => tracing::info!(module, alias, %error, "module not loaded"),
            }
        }
        there
    }

    fn load_files(&self, files: &[String]) -> Result<(), ModuleError> {
        for file in files {
            let name = modalias::module_name(file);
            let cell = {
                let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(loaded.entry(name.clone()).or_default())
            };
            cell.get_or_init(|| self.insert(&name, file)).clone()?;
        }
        Ok(())
    }

    fn insert(&self, name: &str, file: &str) -> Result<(), ModuleError> {
        let failed = |source: io::Error| ModuleError::Load { name: name.to_owned(), source: Arc::new(source) };
        let parameters = self.parameters.get(name).map(|words| words.join(" ")).unwrap_or_default();
        let parameters = CString::new(parameters).unwrap_or_default();
        let opened = File::open(self.folder.join(file)).map_err(failed)?;
        let flags = if file.ends_with(".ko") { 0 } else { COMPRESSED };
        match rustix::system::finit_module(&opened, &parameters, flags) {
            Ok(()) => {
                tracing::debug!(module = name, "module loaded");
                Ok(())
            }
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// Parameters of modules (`module.name=value`) and forbidden modules (`modprobe.blacklist=a,b`).
fn from_cmdline(cmdline: &str) -> (BTreeMap<String, Vec<String>>, BTreeSet<String>) {
    let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut forbidden = BTreeSet::new();
    for word in cmdline.split_whitespace() {
        if let Some(names) = word.strip_prefix("modprobe.blacklist=") {
            forbidden.extend(names.split(',').map(modalias::module_name));
        } else if let Some((module, parameter)) = word.split('=').next().and_then(|key| key.split_once('.')) {
            let value = &word[module.len() + 1 + parameter.len()..];
            parameters.entry(modalias::module_name(module)).or_default().push(format!("{parameter}{value}"));
        }
    }
    (parameters, forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_gives_parameters_and_forbids() {
        let (parameters, forbidden) = from_cmdline(
            "quiet usb-storage.quirks=1.2:3:u nvme.poll root=/dev/x modprobe.blacklist=a,b-c ip=1.2.3.4::",
        );
        assert_eq!(parameters["usb_storage"], ["quirks=1.2:3:u"]);
        assert_eq!(parameters["nvme"], ["poll"]);
        assert_eq!(parameters.len(), 2);
        assert_eq!(forbidden.into_iter().collect::<Vec<_>>(), ["a", "b_c"]);
    }

    #[test]
    fn a_tree_without_modules_has_none_and_says_so() {
        let root = tempfile::tempdir().unwrap();
        let modules = Modules::open(root.path(), "");
        assert!(modules.is_empty());
        assert!(matches!(modules.load("ext4"), Err(ModuleError::Absent(name)) if name == "ext4"));
        assert_eq!(modules.load_alias("pci:v00001AF4d00001000"), 0);
    }

    #[test]
    fn a_builtin_is_there_a_forbidden_one_is_not_and_a_broken_one_tells_why() {
        let root = tempfile::tempdir().unwrap();
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = root.path().join("lib/modules").join(release);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("modules.dep"), "kernel/a.ko:\nkernel/b.ko: kernel/absent.ko\n").unwrap();
        fs::write(folder.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        let modules = Modules::open(root.path(), "modprobe.blacklist=a");
        assert_eq!(modules.len(), 2);
        assert!(modules.load("ext4").is_ok());
        assert!(matches!(modules.load("a"), Err(ModuleError::Forbidden(_))));
        assert!(matches!(modules.load("b"), Err(ModuleError::Load { name, .. }) if name == "absent"));
    }
}
