//! Kernel modules: the closure of the listed ones, and the index files for what is packed.
//!
//! Names, dependencies and aliases come from the modules themselves (section `.modinfo`), so nothing of the build
//! machine is needed. Debian's newer kernels ship modules xz-compressed; they are packed as plain files, which the kernel
//! loads faster, unless the profile has so many that the room which they take in memory counts more.

use super::profile::{Class, Module};
use anyhow::{Context as _, Result, bail, ensure};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules to pack.
#[derive(Debug)]
pub struct Modules {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// Path below `lib/modules/RELEASE` and contents.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Index in the format of modules.dep(5).
    pub dep: String,
    /// Index in the format of depmod's modules.alias.
    pub alias: String,
    /// Modules to load at start, in the format of modules-load.d(5).
    pub load: String,
    /// Firmware that the modules ask for: paths below `lib/firmware`, some with `*`.
    pub firmware: BTreeSet<String>,
}

/// What one module says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    /// Path in the ramdisk, below `lib/modules/RELEASE`.
    path: String,
    depends: Vec<String>,
    aliases: Vec<String>,
    firmware: Vec<String>,
    description: Option<String>,
}

/// Ends of module files: plain, and as packages may compress them.
const PLAIN: &str = ".ko";
const XZ: &str = ".ko.xz";

/// Modules that are to be packed.
#[derive(Default)]
struct Found {
    /// Files stay as the package compresses them.
    compressed: bool,
    infos: BTreeMap<String, Info>,
    /// As in [`Modules`].
    files: BTreeMap<String, Vec<u8>>,
}

/// The modules of a kernel package.
struct Tree {
    dir: PathBuf,
    /// Normal name to path below `dir`.
    paths: BTreeMap<String, String>,
    builtin: BTreeSet<String>,
}

/// Collects the listed modules and what they depend on, from an unpacked kernel package.
pub fn collect(package: &Path, release: &str, listed: &[Module], compressed: bool) -> Result<Modules> {
    let tree = Tree::open(package.join("lib/modules").join(release))?;
    let mut found = Found { compressed, ..Found::default() };
    for module in listed {
        let name = normal(&module.name);
        if !tree.builtin.contains(&name) {
            tree.add(&name, &mut found).with_context(|| format!("module {} of the profile", module.name))?;
        }
    }
    let Found { infos, files, .. } = found;
    let mut modules = Modules {
        release: release.to_owned(),
        files,
        dep: String::new(),
        alias: String::new(),
        load: String::from("# Modules that no device names by a modalias.\n"),
        firmware: infos.values().flat_map(|info| info.firmware.iter().cloned()).collect(),
    };
    for (name, info) in &infos {
        for alias in &info.aliases {
            writeln!(modules.alias, "alias {alias} {name}")?;
        }
    }
    modules.dep = dependency_index(&infos)?;
    for module in listed.iter().filter(|module| module.load) {
        writeln!(modules.load, "{}", normal(&module.name))?;
    }
    Ok(modules)
}

/// The generated list of a profile's classes as TOML: every driver of a class with its own description as the reason.
pub fn list(package: &Path, release: &str, classes: &[Class], named: &[Module]) -> Result<String> {
    let tree = Tree::open(package.join("lib/modules").join(release))?;
    let named: BTreeSet<String> = named.iter().map(|module| normal(&module.name)).collect();
    let mut text = format!(
        "# Generated from the kernel package {release} by cargo xtask ramdisk --update-modules; the classes are in the\n\
         # profile of the same name. Firmware is not in the kernel package: ramdisk/README.md says how it comes in.\n"
    );
    for class in classes {
        let mut out: BTreeSet<String> =
            class.exceptions.iter().flat_map(|exception| &exception.names).map(|name| normal(name)).collect();
        for (name, path) in tree.paths.iter().filter(|(_, path)| path.starts_with(&format!("kernel/{}/", class.folder)))
        {
            if out.remove(name) || named.contains(name) {
                continue;
            }
            let bytes = read(&tree.dir.join(path)).with_context(|| format!("read module {path}"))?;
            let info = parse(&bytes).with_context(|| format!("understand module {path}"))?;
            if info.aliases.iter().any(|alias| class.buses.iter().any(|bus| alias.starts_with(bus))) {
                text.push_str(&entry(name, &class.what, &info));
            }
        }
        if let Some(name) = out.first() {
            bail!("class {} excepts {name}, and this kernel has no such module there", class.folder);
        }
    }
    Ok(text)
}

fn entry(name: &str, what: &str, info: &Info) -> String {
    let description: String =
        info.description.as_deref().unwrap_or(name).split_whitespace().collect::<Vec<_>>().join(" ");
    let mut entry = toml::Table::new();
    entry.insert("name".to_owned(), name.into());
    let firmware = if info.firmware.is_empty() { "" } else { " (asks for firmware)" };
    entry.insert("reason".to_owned(), format!("{what}: {description}{firmware}").into());
    format!("\n[[module]]\n{entry}")
}

/// Lines of `path: dependencies`, all of them, the one to load first last, sorted by path.
fn dependency_index(infos: &BTreeMap<String, Info>) -> Result<String> {
    let mut lines = Vec::new();
    for (name, info) in infos {
        let mut order = Vec::new();
        load_order(name, infos, &mut order, 0)?;
        let dependencies: String =
            order.iter().rev().filter(|other| *other != name).map(|other| format!(" {}", infos[other].path)).collect();
        lines.push(format!("{}:{dependencies}\n", info.path));
    }
    lines.sort();
    Ok(lines.concat())
}

fn load_order(name: &str, infos: &BTreeMap<String, Info>, order: &mut Vec<String>, depth: usize) -> Result<()> {
    ensure!(depth < 64, "modules depend on each other in a circle around {name}");
    if order.iter().any(|known| known == name) {
        return Ok(());
    }
    let info = infos.get(name).with_context(|| format!("module {name} is needed and was not collected"))?;
    for dependency in &info.depends {
        load_order(dependency, infos, order, depth + 1)?;
    }
    order.push(name.to_owned());
    Ok(())
}

impl Tree {
    fn open(dir: PathBuf) -> Result<Self> {
        let mut paths = BTreeMap::new();
        for entry in walkdir::WalkDir::new(&dir) {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            let name = entry.file_name().to_str().unwrap_or_default();
            let Some(name) = name.strip_suffix(PLAIN).or_else(|| name.strip_suffix(XZ)) else { continue };
            let path = entry.path().strip_prefix(&dir)?.to_str().context("a module's path is not UTF-8")?;
            paths.insert(normal(name), path.to_owned());
        }
        let list = dir.join("modules.builtin");
        let text = std::fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
        let builtin =
            text.lines().filter_map(|line| line.rsplit('/').next()?.strip_suffix(".ko")).map(normal).collect();
        Ok(Self { dir, paths, builtin })
    }

    /// Adds a module and what it depends on, unless it is known or built into the kernel.
    fn add(&self, name: &str, found: &mut Found) -> Result<()> {
        if found.infos.contains_key(name) {
            return Ok(());
        }
        let Some(path) = self.paths.get(name) else {
            bail!("this kernel has no module {name}; see {}", self.dir.join("modules.order").display());
        };
        let bytes = read(&self.dir.join(path)).with_context(|| format!("read module {path}"))?;
        let mut info = parse(&bytes).with_context(|| format!("understand module {path}"))?;
        let bytes = if found.compressed { std::fs::read(self.dir.join(path))? } else { bytes };
        let end = if found.compressed { "" } else { ".xz" };
        info.path = path.strip_suffix(end).unwrap_or(path).to_owned();
        info.depends.retain(|dependency| !self.builtin.contains(dependency));
        let depends = info.depends.clone();
        found.files.insert(info.path.clone(), bytes);
        found.infos.insert(name.to_owned(), info);
        for dependency in depends {
            self.add(&dependency, found).with_context(|| format!("{name} depends on {dependency}"))?;
        }
        Ok(())
    }
}

/// A module's file, decompressed.
fn read(path: &Path) -> Result<Vec<u8>> {
    if !path.to_string_lossy().ends_with(XZ) {
        return Ok(std::fs::read(path)?);
    }
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(path).output().context("start xz")?;
    ensure!(output.status.success(), "xz: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

/// Names are written with '-' or '_' alike; the kernel's own form has '_'.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn parse(bytes: &[u8]) -> Result<Info> {
    let file: ElfFile64<'_> = ElfFile64::parse(bytes)?;
    let section = file.section_by_name(".modinfo").context("there is no section .modinfo")?;
    parse_modinfo(section.data()?)
}

/// `.modinfo` holds `key=value` strings, each with a NUL at its end.
fn parse_modinfo(data: &[u8]) -> Result<Info> {
    let mut info = Info::default();
    for entry in data.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
        let entry = std::str::from_utf8(entry).context(".modinfo is not UTF-8")?;
        match entry.split_once('=') {
            Some(("depends", names)) => {
                info.depends = names.split(',').filter(|name| !name.is_empty()).map(normal).collect();
            }
            Some(("firmware", path)) => info.firmware.push(path.to_owned()),
            Some(("description", text)) => info.description = Some(text.to_owned()),
            Some(("alias", alias)) => info.aliases.push(alias.to_owned()),
            _ => {}
        }
    }
    info.aliases.sort();
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(path: &str, depends: &[&str]) -> Info {
        let depends = depends.iter().map(|name| (*name).to_owned()).collect();
        Info { path: path.to_owned(), depends, ..Info::default() }
    }

    #[test]
    fn modinfo_gives_dependencies_and_aliases() {
        let data = b"license=GPL\0depends=libata,scsi-mod\0alias=pci:b\0alias=pci:a\0\0\0";
        let info = parse_modinfo(data).unwrap();
        assert_eq!(info.depends, ["libata", "scsi_mod"]);
        assert_eq!(info.aliases, ["pci:a", "pci:b"]);
        assert_eq!(parse_modinfo(b"depends=\0").unwrap(), Info::default());
    }

    #[test]
    fn the_index_lists_what_to_load_first_last() {
        let infos = BTreeMap::from([
            ("ahci".to_owned(), info("ahci.ko", &["libahci", "libata"])),
            ("libahci".to_owned(), info("libahci.ko", &["libata"])),
            ("libata".to_owned(), info("libata.ko", &["scsi_mod"])),
            ("scsi_mod".to_owned(), info("scsi_mod.ko", &[])),
        ]);
        assert_eq!(
            dependency_index(&infos).unwrap(),
            "ahci.ko: libahci.ko libata.ko scsi_mod.ko\nlibahci.ko: libata.ko scsi_mod.ko\nlibata.ko: scsi_mod.ko\n\
             scsi_mod.ko:\n"
        );
    }

    #[test]
    fn a_circle_of_dependencies_is_an_error() {
        let infos = BTreeMap::from([("a".to_owned(), info("a.ko", &["b"])), ("b".to_owned(), info("b.ko", &["a"]))]);
        assert!(dependency_index(&infos).is_err());
    }
}
