//! Kernel modules: the closure of the listed ones, and the index files for what is packed.
//!
//! Names, dependencies and aliases come from the modules themselves (section `.modinfo`), so nothing of the build
//! machine is needed.

use super::profile::Module;
use anyhow::{Context as _, Result, bail, ensure};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

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
}

/// What one module says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    path: String,
    depends: Vec<String>,
    aliases: Vec<String>,
}

/// The modules of a kernel package.
struct Tree {
    dir: PathBuf,
    /// Normal name to path below `dir`.
    paths: BTreeMap<String, String>,
    builtin: BTreeSet<String>,
}

/// Collects the listed modules and what they depend on, from an unpacked kernel package.
pub fn collect(package: &Path, release: &str, listed: &[Module]) -> Result<Modules> {
    let tree = Tree::open(package.join("lib/modules").join(release))?;
    let mut infos = BTreeMap::new();
    for module in listed {
        let name = normal(&module.name);
        if !tree.builtin.contains(&name) {
            tree.add(&name, &mut infos).with_context(|| format!("module {} of the profile", module.name))?;
        }
    }
    let mut modules = Modules {
        release: release.to_owned(),
        files: BTreeMap::new(),
        dep: String::new(),
        alias: String::new(),
        load: String::from("# Modules that no device names by a modalias.\n"),
    };
    for (name, info) in &infos {
        let data = std::fs::read(tree.dir.join(&info.path)).with_context(|| format!("read module {}", info.path))?;
        modules.files.insert(info.path.clone(), data);
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
            let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".ko")) else { continue };
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
    fn add(&self, name: &str, infos: &mut BTreeMap<String, Info>) -> Result<()> {
        if infos.contains_key(name) {
            return Ok(());
        }
        let Some(path) = self.paths.get(name) else {
            bail!("this kernel has no module {name}; see {}", self.dir.join("modules.order").display());
        };
        let bytes = std::fs::read(self.dir.join(path)).with_context(|| format!("read module {path}"))?;
        let mut info = parse(&bytes).with_context(|| format!("understand module {path}"))?;
        info.path = path.clone();
        info.depends.retain(|dependency| !self.builtin.contains(dependency));
        let depends = info.depends.clone();
        infos.insert(name.to_owned(), info);
        for dependency in depends {
            self.add(&dependency, infos).with_context(|| format!("{name} depends on {dependency}"))?;
        }
        Ok(())
    }
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
        Info { path: path.to_owned(), depends, aliases: Vec::new() }
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
