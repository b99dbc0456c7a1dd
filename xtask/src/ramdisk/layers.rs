//! The initramfs: one cpio archive for each part, each a zstd frame of its own. The kernel unpacks them in order, each
//! part's size is known, and only what changed is compressed again.

use super::modules::Modules;
use super::profile::Profile;
use super::programs;
use anyhow::{Context as _, Result, ensure};
use media::cpio::{Archive, Device};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const LEVEL: i32 = 19;
/// 8 MiB, the largest window that every zstd decoder accepts; the kernel's needs that much memory while it unpacks.
const WINDOW_LOG: u32 = 23;

/// A part of the initramfs.
#[derive(Debug)]
pub struct Layer {
    pub name: &'static str,
    /// Bytes of the cpio archive.
    pub unpacked: u64,
    /// The archive as a zstd frame.
    pub packed: Vec<u8>,
}

/// An archive under construction that makes missing directories by itself.
struct Tree {
    archive: Archive<Vec<u8>>,
    directories: BTreeSet<String>,
}

impl Tree {
    fn new() -> Self {
        Self { archive: Archive::new(Vec::new()), directories: BTreeSet::new() }
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        if self.directories.insert(path.to_owned()) {
            self.parents(path)?;
            self.archive.directory(path, mode)?;
        }
        Ok(())
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent, 0o755),
            None => Ok(()),
        }
    }

    fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.parents(path)?;
        Ok(self.archive.file(path, mode, data)?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        Ok(self.archive.symlink(path, target)?)
    }

    fn pack(self, name: &'static str, cache: &Path) -> Result<Layer> {
        let bytes = self.archive.finish()?;
        Ok(Layer { name, unpacked: bytes.len() as u64, packed: pack(&bytes, cache)? })
    }
}

/// Directories, device nodes and the files of the profile's overlays, which are folders of `ramdisk`.
pub fn system(profile: &Profile, ramdisk: &Path, cache: &Path) -> Result<Layer> {
    let mut tree = Tree::new();
    for directory in &profile.directories {
        tree.directory(&directory.path, directory.mode)?;
    }
    for device in &profile.devices {
        tree.parents(&device.path)?;
        tree.archive.device(&device.path, device.mode, Device::Char, (device.major, device.minor))?;
    }
    for overlay in &profile.overlays {
        for (path, (mode, data)) in files_below(&ramdisk.join(overlay))? {
            tree.file(&path, mode, &data)?;
        }
    }
    tree.pack("system", cache)
}

/// Kernel modules with their index files.
pub fn modules(modules: &Modules, cache: &Path) -> Result<Layer> {
    let mut tree = Tree::new();
    let dir = format!("lib/modules/{}", modules.release);
    for (path, data) in &modules.files {
        tree.file(&format!("{dir}/{path}"), 0o644, data)?;
    }
    tree.file(&format!("{dir}/modules.dep"), 0o644, modules.dep.as_bytes())?;
    tree.file(&format!("{dir}/modules.alias"), 0o644, modules.alias.as_bytes())?;
    tree.file("etc/modules-load.d/ferric.conf", 0o644, modules.load.as_bytes())?;
    tree.pack("modules", cache)
}

/// Files of Debian packages: programs with their libraries and further names, firmware.
pub fn files(name: &'static str, files: &BTreeMap<String, programs::File>, cache: &Path) -> Result<Layer> {
    let mut tree = Tree::new();
    for (path, file) in files {
        match &file.link {
            None => tree.file(path, file.mode, &file.data)?,
            Some(target) => tree.link(path, target)?,
        }
    }
    tree.pack(name, cache)
}

/// The agent as `/init`, and what the ramdisk calls itself.
pub fn agent(program: &Path, os_release: &str, cache: &Path) -> Result<Layer> {
    let data = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    ensure!(data.starts_with(b"\x7fELF"), "{} is no ELF program, so the kernel cannot start it", program.display());
    let mut tree = Tree::new();
    tree.file("etc/os-release", 0o644, os_release.as_bytes())?;
    tree.file("init", 0o755, &data)?;
    tree.pack("agent", cache)
}

/// Compresses, or takes the result of an earlier run for the same bytes.
fn pack(bytes: &[u8], cache: &Path) -> Result<Vec<u8>> {
    let key = hex::encode(Sha256::digest(bytes));
    let dir = cache.join("layers");
    let file = dir.join(format!("{key}.{LEVEL}.{WINDOW_LOG}.zst"));
    if let Ok(packed) = std::fs::read(&file) {
        // A damaged cache must not get into an artefact.
        if zstd::decode_all(packed.as_slice()).is_ok_and(|unpacked| unpacked == bytes) {
            return Ok(packed);
        }
    }
    let packed = compress(bytes).context("compress a part of the initramfs")?;
    std::fs::create_dir_all(&dir)?;
    let partial = dir.join(format!(".tmp-{}-{key}", std::process::id()));
    std::fs::write(&partial, &packed).with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, &file)?;
    Ok(packed)
}

/// One thread, so that the result does not depend on the machine.
fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Regular files below a folder by relative path, sorted, each with its mode.
fn files_below(dir: &Path) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if entry.file_type().is_file() {
            let path = entry.path().strip_prefix(dir)?.to_str().context("a file name is not UTF-8")?.to_owned();
            let data = std::fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
            // Of the mode only what git keeps: whether it is a program.
            let program = entry.metadata()?.permissions().mode() & 0o111 != 0;
            files.insert(path, (if program { 0o755 } else { 0o644 }, data));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_packed_alike_with_and_without_a_cache() {
        let cache = std::env::temp_dir().join(format!("ferric-layers-{}", std::process::id()));
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let first = pack(&bytes, &cache).unwrap();
        assert_eq!(pack(&bytes, &cache).unwrap(), first);
        for entry in std::fs::read_dir(cache.join("layers")).unwrap() {
            std::fs::write(entry.unwrap().path(), b"damaged").unwrap();
        }
        assert_eq!(pack(&bytes, &cache).unwrap(), first);
        assert_eq!(zstd::decode_all(first.as_slice()).unwrap(), bytes);
        std::fs::remove_dir_all(&cache).unwrap();
    }

    #[test]
    fn missing_directories_are_made_once() {
        let mut tree = Tree::new();
        tree.file("a/b/c", 0o644, b"1").unwrap();
        tree.file("a/b/d", 0o644, b"2").unwrap();
        let text = String::from_utf8_lossy(&tree.archive.finish().unwrap()).into_owned();
        assert_eq!(text.matches("070701").count(), 5);
    }
}
