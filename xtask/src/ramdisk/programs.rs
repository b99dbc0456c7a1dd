//! Debian programs with their shared libraries, from unpacked packages and never from the build machine.

use super::packages::{Debian, Package};
use super::profile::Profile;
use anyhow::{Context as _, Result, bail, ensure};
use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where Debian's dynamic loader looks without a cache.
const LIBRARY_DIRS: [&str; 4] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib"];

/// A file to pack.
#[derive(Debug)]
pub struct File {
    pub mode: u32,
    pub data: Vec<u8>,
    /// It has no data but is another name of the file at this absolute path.
    pub link: Option<String>,
}

/// Collects the profile's data files, its programs with their further files, and their libraries, by path in the ramdisk.
pub fn collect(profile: &Profile, debian: &mut Debian) -> Result<BTreeMap<String, File>> {
    let mut files = BTreeMap::new();
    for data in &profile.files {
        files.insert(data.path.clone(), read(&debian.package(&data.package)?, &data.path)?);
    }
    let mut wanted = BTreeSet::new();
    for program in &profile.programs {
        let package = debian.package(&program.package)?;
        let file = read(&package, &program.path)?;
        let interpreter = needs(&file.data, &mut wanted)
            .with_context(|| format!("find the libraries of {}", program.path))?
            .with_context(|| format!("{} is not dynamically linked as Debian's programs are", program.path))?;
        wanted.insert(interpreter);
        let target = format!("/{}", program.path);
        insert(&mut files, &program.path, file)?;
        for path in &program.links {
            insert(&mut files, path, File { mode: 0o777, data: Vec::new(), link: Some(target.clone()) })?;
        }
        for path in &program.files {
            files.insert(path.clone(), read(&package, path)?);
        }
    }
    let packages =
        profile.libraries.iter().map(|library| debian.package(&library.package)).collect::<Result<Vec<_>>>()?;
    let mut used = BTreeSet::new();
    while let Some(library) = wanted.iter().find(|name| !used.contains(*name)).cloned() {
        let (package, path, file) = find(&packages, &library)?;
        needs(&file.data, &mut wanted).with_context(|| format!("find the libraries of {path}"))?;
        files.insert(path, file);
        used.insert(library);
        used.insert(format!("package {}", package.record.name));
    }
    for package in &packages {
        ensure!(
            used.contains(&format!("package {}", package.record.name)),
            "no program needs a library of {}: remove it from the profile",
            package.record.name
        );
    }
    Ok(files)
}

/// A name that two of the profile's programs have would be that of the last one.
fn insert(files: &mut BTreeMap<String, File>, path: &str, file: File) -> Result<()> {
    ensure!(files.insert(path.to_owned(), file).is_none(), "{path} is there twice: remove it from one of the programs");
    Ok(())
}

/// Looks for a library by name, or for the dynamic loader by absolute path.
fn find<'a>(packages: &'a [Package], library: &str) -> Result<(&'a Package, String, File)> {
    let candidates: Vec<String> = match library.strip_prefix('/') {
        Some(path) => vec![path.to_owned()],
        None => LIBRARY_DIRS.iter().map(|dir| format!("{dir}/{library}")).collect(),
    };
    for package in packages {
        for path in &candidates {
            if inside(&package.files, path).is_ok_and(|full| full.is_file()) {
                let file = read(package, path)?;
                return Ok((package, path.clone(), file));
            }
        }
    }
    bail!("none of the profile's library packages has {library}: add the Debian package that does")
}

/// Reads a file of a package. A symbolic link inside the package gives what it leads to, under the link's name.
fn read(package: &Package, path: &str) -> Result<File> {
    let full = inside(&package.files, path).with_context(|| format!("find {path} in {}", package.record.name))?;
    let data = std::fs::read(&full).with_context(|| format!("read {}", full.display()))?;
    use std::os::unix::fs::PermissionsExt as _;
    let executable = full.metadata()?.permissions().mode() & 0o111 != 0;
    Ok(File { mode: if executable { 0o755 } else { 0o644 }, data, link: None })
}

/// Follows symbolic links as they will be followed in the ramdisk: absolute ones start at the package's root, so a file
/// of the build machine is never taken.
fn inside(root: &Path, path: &str) -> Result<PathBuf> {
    let root = root.canonicalize()?;
    let mut full = root.join(path);
    for _ in 0..8 {
        if !full.symlink_metadata()?.is_symlink() {
            let full = full.canonicalize()?;
            ensure!(full.starts_with(&root), "it leads out of the package, to {}", full.display());
            return Ok(full);
        }
        let target = full.read_link()?;
        full = match target.strip_prefix("/") {
            Ok(absolute) => root.join(absolute),
            Err(_) => full.parent().unwrap_or(&root).join(target),
        };
    }
    bail!("it leads through more than 8 symbolic links")
}

/// Adds the names of needed libraries to `wanted`, and returns the dynamic loader that the program names.
fn needs(data: &[u8], wanted: &mut BTreeSet<String>) -> Result<Option<String>> {
    let file: ElfFile64<'_, Endianness> = ElfFile64::parse(data)?;
    let header = file.elf_header();
    let endian = header.endian()?;
    let mut interpreter = None;
    let mut names = Vec::new();
    let mut strings = None;
    for segment in header.program_headers(endian, data)? {
        if let Some(path) = segment.interpreter(endian, data)? {
            interpreter = Some(std::str::from_utf8(path)?.to_owned());
        }
        for entry in segment.dynamic(endian, data)?.unwrap_or_default() {
            match entry.d_tag(endian) {
                elf::DT_NEEDED => names.push(entry.d_val(endian)),
                elf::DT_STRTAB => strings = Some(entry.d_val(endian)),
                _ => {}
            }
        }
    }
    let Some(strings) = strings else { return Ok(interpreter) };
    for name in names {
        let address = strings.checked_add(name).context("a library's name is outside the file")?;
        wanted.insert(string_at(&file, data, address)?);
    }
    Ok(interpreter)
}

/// The NUL-terminated string at a virtual address.
fn string_at(file: &ElfFile64<'_, Endianness>, data: &[u8], address: u64) -> Result<String> {
    let header = file.elf_header();
    let endian = header.endian()?;
    for segment in header.program_headers(endian, data)? {
        if let Ok(Some(bytes)) = segment.data_range(endian, data, address, 1)
            && !bytes.is_empty()
        {
            let start = segment.p_offset(endian) + (address - segment.p_vaddr(endian));
            let rest = usize::try_from(start).ok().and_then(|start| data.get(start..)).unwrap_or_default();
            let end = rest.iter().position(|byte| *byte == 0).context("a library's name has no end")?;
            return Ok(std::str::from_utf8(&rest[..end])?.to_owned());
        }
    }
    bail!("address {address:#x} is in no segment")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_inside_the_package_only() {
        let root = std::env::temp_dir().join(format!("ferric-programs-{}", std::process::id()));
        std::fs::create_dir_all(root.join("lib")).unwrap();
        std::fs::write(root.join("lib/real"), b"x").unwrap();
        symlink("/lib/real", root.join("absolute")).unwrap();
        symlink("../lib/real", root.join("lib/relative")).unwrap();
        symlink("/etc/hostname", root.join("outside")).unwrap();
        symlink("../../../../../../etc/hosts", root.join("lib/above")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        let real = root.canonicalize().unwrap().join("lib/real");
        assert_eq!(inside(&root, "absolute").unwrap(), real);
        assert_eq!(inside(&root, "lib/relative").unwrap(), real);
        for path in ["outside", "lib/above", "circle", "missing"] {
            assert!(inside(&root, path).is_err(), "{path}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_program_names_its_libraries_and_its_loader() {
        let program = std::fs::read("/usr/bin/env").unwrap();
        let mut wanted = BTreeSet::new();
        let loader = needs(&program, &mut wanted).unwrap();
        assert_eq!(loader.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert!(wanted.contains("libc.so.6"), "{wanted:?}");
        assert!(needs(&program[..1000], &mut wanted).is_err());
        assert!(needs(b"#!/bin/sh\n", &mut wanted).is_err());
    }
}
