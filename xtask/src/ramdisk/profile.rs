//! Profiles: what goes into a ramdisk, as data (`ramdisk/profiles/*.toml`).

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A profile; `ramdisk/README.md` explains the keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Folders of `ramdisk/` whose files are copied as they are.
    pub overlays: Vec<String>,
    pub budget: Budget,
    pub kernel: Kernel,
    pub stub: Stub,
    #[serde(rename = "directory")]
    pub directories: Vec<Directory>,
    #[serde(rename = "device")]
    pub devices: Vec<Device>,
    #[serde(rename = "module")]
    pub modules: Vec<Module>,
    #[serde(rename = "file", default)]
    pub files: Vec<DataFile>,
    /// The boot loader for disks that a BIOS boots.
    pub grub: Option<Grub>,
    #[serde(rename = "program", default)]
    pub programs: Vec<Program>,
    #[serde(rename = "library", default)]
    pub libraries: Vec<Library>,
    /// What the generated module list is made of.
    #[serde(rename = "class", default)]
    pub classes: Vec<Class>,
    /// Packages of firmware, taken when the operator asks for it.
    #[serde(rename = "firmware", default)]
    pub firmware: Vec<Firmware>,
}

/// Limits in bytes for kernel and initramfs together.
#[derive(Debug, Clone, Copy, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    pub packed: u64,
    pub unpacked: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    pub package: String,
    pub reason: String,
    /// Command line of the UKI unless another one is put in.
    pub cmdline: String,
    /// Modules stay as the package compresses them, and the kernel unpacks those that it loads.
    #[serde(default)]
    pub compressed_modules: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stub {
    pub package: String,
    pub path: String,
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    pub path: String,
    pub mode: u32,
    pub reason: String,
}

/// A character device.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub path: String,
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    pub name: String,
    pub reason: String,
    /// No device names the module, so it is loaded at start.
    #[serde(default)]
    pub load: bool,
}

/// All drivers of a kind: the modules of a folder that a device of one of the buses asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Below `lib/modules/RELEASE/kernel`.
    pub folder: String,
    /// What they drive, for the reasons in the list.
    pub what: String,
    /// Beginnings of aliases, such as `pci:`.
    pub buses: Vec<String>,
    #[serde(rename = "except", default)]
    pub exceptions: Vec<Exception>,
}

/// Modules of a class that stay out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    pub names: Vec<String>,
    pub reason: String,
}

/// A package with firmware that modules of the profile ask for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    pub package: String,
    pub reason: String,
}

/// The generated list of a profile's classes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleList {
    #[serde(rename = "module")]
    modules: Vec<Module>,
}

/// A file of a package that the ramdisk does not execute.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    pub package: String,
    pub path: String,
    pub reason: String,
}

/// GRUB's first sector, as it is in the package, and a core that is made of the package's modules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grub {
    pub package: String,
    /// Folder of the package, and of the ramdisk: `boot.img`, modules, `core.img`.
    pub folder: String,
    pub modules: Vec<String>,
    /// Where the core looks for `grub.cfg`.
    pub prefix: String,
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    pub package: String,
    pub path: String,
    /// Further files of the package that the program reads.
    #[serde(default)]
    pub files: Vec<String>,
    /// Further paths under which it is called: a program of many names, such as busybox.
    #[serde(default)]
    pub links: Vec<String>,
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Library {
    pub package: String,
    pub reason: String,
}

impl Profile {
    /// Reads `ramdisk/profiles/NAME.toml` below `root`.
    pub fn load(root: &Path, name: &str) -> Result<Self> {
        let (table, listed) = table(root, name)?;
        let mut profile: Self = table.try_into().with_context(|| format!("understand profile {name}"))?;
        for name in listed {
            let path = list_path(root, &name);
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!("read {}: cargo xtask ramdisk --profile {name} --update-modules makes it", path.display())
            })?;
            let list: ModuleList = toml::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
            profile.modules.extend(list.modules);
        }
        profile.check().with_context(|| format!("check profile {name}"))?;
        Ok(profile)
    }

    /// As [`Profile::load`], without generated lists, for making the one of this profile.
    pub fn load_without_list(root: &Path, name: &str) -> Result<Self> {
        let (table, listed) = table(root, name)?;
        ensure!(
            listed.iter().any(|listed| listed == name),
            "profile {name} has no [[class]] of its own, so there is no list to make"
        );
        let profile: Self = table.try_into().with_context(|| format!("understand profile {name}"))?;
        profile.check().with_context(|| format!("check profile {name}"))?;
        Ok(profile)
    }

    /// Every entry has a reason, and every package a name that is no option of apt.
    fn check(&self) -> Result<()> {
        for (entry, reason) in self.reasons() {
            ensure!(reason.trim().len() > 3, "{entry} has no reason: say why the ramdisk needs it");
        }
        for package in self.packages() {
            let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c);
            let first = package.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
            ensure!(first && package.bytes().all(allowed), "{package:?} is no name of a Debian package");
        }
        for overlay in &self.overlays {
            ensure!(is_plain(overlay), "overlay {overlay:?} is no name of a folder: letters, digits and '-' only");
        }
        Ok(())
    }

    fn reasons(&self) -> Vec<(&str, &str)> {
        let single =
            [(self.kernel.package.as_str(), self.kernel.reason.as_str()), (&self.stub.package, &self.stub.reason)];
        let directories = self.directories.iter().map(|entry| (entry.path.as_str(), entry.reason.as_str()));
        let devices = self.devices.iter().map(|entry| (entry.path.as_str(), entry.reason.as_str()));
        let modules = self.modules.iter().map(|entry| (entry.name.as_str(), entry.reason.as_str()));
        let data = self.files.iter().map(|entry| (entry.path.as_str(), entry.reason.as_str()));
        let data = data.chain(self.grub.iter().map(|grub| (grub.folder.as_str(), grub.reason.as_str())));
        let programs = self.programs.iter().map(|entry| (entry.path.as_str(), entry.reason.as_str()));
        let libraries = self.libraries.iter().map(|entry| (entry.package.as_str(), entry.reason.as_str()));
        let exceptions = self.classes.iter().flat_map(|class| &class.exceptions);
        let exceptions = exceptions.map(|entry| ("an exception", entry.reason.as_str()));
        let firmware = self.firmware.iter().map(|entry| (entry.package.as_str(), entry.reason.as_str()));
        let files = directories.chain(devices).chain(data).chain(programs).chain(libraries).chain(firmware);
        single.into_iter().chain(files).chain(modules).chain(exceptions).collect()
    }

    fn packages(&self) -> Vec<&str> {
        let single = [&self.kernel.package, &self.stub.package].map(String::as_str);
        let data = self.files.iter().map(|entry| entry.package.as_str());
        let data = data.chain(self.grub.iter().map(|grub| grub.package.as_str()));
        let programs = self.programs.iter().map(|entry| entry.package.as_str());
        let libraries = self.libraries.iter().map(|entry| entry.package.as_str());
        let firmware = self.firmware.iter().map(|entry| entry.package.as_str());
        single.into_iter().chain(data).chain(programs).chain(libraries).chain(firmware).collect()
    }
}

/// Where the generated list of a profile is.
pub fn list_path(root: &Path, name: &str) -> PathBuf {
    root.join("ramdisk/modules").join(format!("{name}.toml"))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

/// A profile's table, with that of the profile it extends: lists are joined, anything else is replaced. Also the names of
/// those of them that have classes, and so a generated list of modules.
fn table(root: &Path, name: &str) -> Result<(toml::Table, Vec<String>)> {
    ensure!(is_plain(name), "profile {name:?} is no name: letters, digits and '-' only");
    let path = root.join("ramdisk/profiles").join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("read profile {name:?}: its file would be {}", path.display()))?;
    let mut own: toml::Table = toml::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
    let listed = own.contains_key("class").then(|| name.to_owned());
    let Some(base) = own.remove("extends") else { return Ok((own, listed.into_iter().collect())) };
    let base = base.as_str().with_context(|| format!("{}: extends is no name", path.display()))?;
    ensure!(base != name, "{} extends itself", path.display());
    let (mut merged, mut lists) = table(root, base).with_context(|| format!("{} extends {base}", path.display()))?;
    lists.extend(listed);
    for (key, value) in own {
        match (merged.get_mut(&key), value) {
            (Some(toml::Value::Array(all)), toml::Value::Array(more)) => all.extend(more),
            (_, value) => {
                merged.insert(key, value);
            }
        }
    }
    Ok((merged, lists))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_profile_is_sound() {
        let root = crate::cmd::root();
        let mut count = 0;
        for entry in std::fs::read_dir(root.join("ramdisk/profiles")).unwrap() {
            let path = entry.unwrap().path();
            Profile::load(&root, path.file_stem().unwrap().to_str().unwrap()).unwrap();
            count += 1;
        }
        assert!(count > 0);
    }

    #[test]
    fn a_profile_has_the_module_lists_of_those_that_it_extends() {
        let root = crate::cmd::root();
        let modules = |name| Profile::load(&root, name).unwrap().modules;
        let has = |name, module: &str| modules(name).iter().any(|entry| entry.name == module);
        assert!(has("server", "ixgbe") && has("rescue", "ixgbe") && !has("vm", "ixgbe"));
        let error = Profile::load_without_list(&root, "rescue").unwrap_err().to_string();
        assert!(error.contains("no [[class]] of its own"), "{error}");
    }

    #[test]
    fn a_profile_name_is_no_path() {
        for name in ["", "../vm", "vm.toml", "a/b"] {
            assert!(Profile::load(&crate::cmd::root(), name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn an_entry_without_a_reason_is_refused() {
        let text = std::fs::read_to_string(crate::cmd::root().join("ramdisk/profiles/vm.toml")).unwrap();
        let text = format!("{text}\n[[module]]\nname = \"ext4\"\nreason = \"\"\n");
        let profile: Profile = toml::from_str(&text).unwrap();
        assert!(profile.check().unwrap_err().to_string().contains("ext4"));
    }
}
