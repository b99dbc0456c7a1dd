//! Profiles: what goes into a ramdisk, as data (`ramdisk/profiles/*.toml`).

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::path::Path;

/// A profile; `ramdisk/README.md` explains the keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub budget: Budget,
    pub kernel: Kernel,
    pub stub: Stub,
    pub certificates: Certificates,
    #[serde(rename = "directory")]
    pub directories: Vec<Directory>,
    #[serde(rename = "device")]
    pub devices: Vec<Device>,
    #[serde(rename = "module")]
    pub modules: Vec<Module>,
    #[serde(rename = "program", default)]
    pub programs: Vec<Program>,
    #[serde(rename = "library", default)]
    pub libraries: Vec<Library>,
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
pub struct Certificates {
    pub package: String,
    /// The folder of `*.crt` files in the package.
    pub path: String,
    /// The bundle in the ramdisk.
    pub into: String,
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    pub package: String,
    pub path: String,
    /// Further files of the package that the program reads.
    #[serde(default)]
    pub files: Vec<String>,
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
        let plain = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        ensure!(plain, "profile {name:?} is no name: letters, digits and '-' only");
        let path = root.join("ramdisk/profiles").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read profile {name:?}: its file would be {}", path.display()))?;
        let profile: Self = toml::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
        profile.check().with_context(|| format!("check {}", path.display()))?;
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
        Ok(())
    }

    fn reasons(&self) -> Vec<(&str, &str)> {
        let single = [
            (self.kernel.package.as_str(), self.kernel.reason.as_str()),
            (&self.stub.package, &self.stub.reason),
            (&self.certificates.package, &self.certificates.reason),
        ];
        let directories = self.directories.iter().map(|entry| (entry.path.as_str(), entry.reason.as_str()));
        let devices = self.devices.iter().map(|entry| (entry.path.as_str(), entry.reason.as_str()));
        let modules = self.modules.iter().map(|entry| (entry.name.as_str(), entry.reason.as_str()));
        let programs = self.programs.iter().map(|entry| (entry.path.as_str(), entry.reason.as_str()));
        let libraries = self.libraries.iter().map(|entry| (entry.package.as_str(), entry.reason.as_str()));
        single.into_iter().chain(directories).chain(devices).chain(modules).chain(programs).chain(libraries).collect()
    }

    fn packages(&self) -> Vec<&str> {
        let single = [&self.kernel.package, &self.stub.package, &self.certificates.package].map(String::as_str);
        let programs = self.programs.iter().map(|entry| entry.package.as_str());
        let libraries = self.libraries.iter().map(|entry| entry.package.as_str());
        single.into_iter().chain(programs).chain(libraries).collect()
    }
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
