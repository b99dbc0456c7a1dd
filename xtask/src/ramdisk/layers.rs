//! The initramfs: one cpio archive for each part, each packed for itself, as a zstd frame or, kernel modules, as an xz
//! stream. The kernel unpacks them in order, each part's size is known, and only what changed is compressed again.

use super::modules::Modules;
use super::profile::Profile;
use super::programs;
use anyhow::{Context as _, Result, bail, ensure};
use liblzma::stream::{Check, Stream};
use media::cpio::{Archive, Device};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const LEVEL: i32 = 19;
/// 8 MiB, the largest window that every zstd decoder accepts; the kernel's needs that much memory while it unpacks.
const WINDOW_LOG: u32 = 23;
/// "9e": a window of 64 MiB, of which the kernel takes as much as the part is long.
const XZ_LEVEL: u32 = 9 | (1 << 31);
/// What an xz stream begins with (The .xz File Format 1.2.1, section 2.1.1.1).
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// How a part is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// Quick to unpack.
    Zstd,
    /// A ninth smaller for kernel modules, and some times slower to unpack; the kernel reads a CRC-32 at most.
    Xz,
}

impl Packing {
    /// End of the name of what is kept of an earlier run.
    fn ending(self) -> String {
        match self {
            Self::Zstd => format!("{LEVEL}.{WINDOW_LOG}.zst"),
            Self::Xz => "9e.xz".to_owned(),
        }
    }

    /// One thread, so that the result does not depend on the machine.
    fn compress(self, bytes: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Zstd => {
                let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
                encoder.window_log(WINDOW_LOG)?;
                encoder.include_checksum(true)?;
                encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
                encoder.write_all(bytes)?;
                Ok(encoder.finish()?)
            }
            Self::Xz => {
                let stream = Stream::new_easy_encoder(XZ_LEVEL, Check::Crc32)?;
                let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                encoder.write_all(bytes)?;
                Ok(encoder.finish()?)
            }
        }
    }
}

/// Unpacks an initramfs, or a part of one: archives in a row.
pub fn unpack(mut packed: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    while !packed.is_empty() {
        let rest = if packed.starts_with(XZ_MAGIC) {
            let mut decoder = liblzma::bufread::XzDecoder::new(packed);
            decoder.read_to_end(&mut unpacked)?;
            decoder.into_inner()
        } else {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?.single_frame();
            decoder.read_to_end(&mut unpacked)?;
            decoder.finish()
        };
        if rest.len() == packed.len() {
            bail!("{} bytes of an initramfs are no archive", rest.len());
        }
        packed = rest;
    }
    Ok(unpacked)
}

/// A part of the initramfs.
#[derive(Debug)]
pub struct Layer {
    pub name: &'static str,
    /// Bytes of the cpio archive.
    pub unpacked: u64,
    /// The archive, packed.
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

    fn pack(self, name: &'static str, packing: Packing, cache: &Path) -> Result<Layer> {
        let bytes = self.archive.finish()?;
        Ok(Layer { name, unpacked: bytes.len() as u64, packed: pack(&bytes, packing, cache)? })
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
    tree.pack("system", Packing::Zstd, cache)
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
    tree.pack("modules", Packing::Xz, cache)
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
    tree.pack(name, Packing::Zstd, cache)
}

/// The agent as `/init`, and what the ramdisk calls itself.
pub fn agent(program: &Path, os_release: &str, cache: &Path) -> Result<Layer> {
    let data = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    ensure!(data.starts_with(b"\x7fELF"), "{} is no ELF program, so the kernel cannot start it", program.display());
    let mut tree = Tree::new();
    tree.file("etc/os-release", 0o644, os_release.as_bytes())?;
    tree.file("init", 0o755, &super::agent::without_search_table(data)?)?;
    tree.pack("agent", Packing::Zstd, cache)
}

/// Compresses, or takes the result of an earlier run for the same bytes.
fn pack(bytes: &[u8], packing: Packing, cache: &Path) -> Result<Vec<u8>> {
    let key = hex::encode(Sha256::digest(bytes));
    let dir = cache.join("layers");
    let file = dir.join(format!("{key}.{}", packing.ending()));
    if let Ok(packed) = std::fs::read(&file) {
        // A damaged cache must not get into an artefact.
        if unpack(&packed).is_ok_and(|unpacked| unpacked == bytes) {
            return Ok(packed);
        }
    }
    let packed = packing.compress(bytes).context("compress a part of the initramfs")?;
    std::fs::create_dir_all(&dir)?;
    let partial = dir.join(format!(".tmp-{}-{key}", std::process::id()));
    std::fs::write(&partial, &packed).with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, &file)?;
    Ok(packed)
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
        for packing in [Packing::Zstd, Packing::Xz] {
            let first = pack(&bytes, packing, &cache).unwrap();
            assert_eq!(pack(&bytes, packing, &cache).unwrap(), first);
            for entry in std::fs::read_dir(cache.join("layers")).unwrap() {
                std::fs::write(entry.unwrap().path(), b"damaged").unwrap();
            }
            assert_eq!(pack(&bytes, packing, &cache).unwrap(), first);
            assert_eq!(unpack(&first).unwrap(), bytes);
        }
        std::fs::remove_dir_all(&cache).unwrap();
    }

    #[test]
    fn parts_that_are_packed_differently_are_unpacked_in_order() {
        let parts =
            [Packing::Zstd, Packing::Xz, Packing::Xz, Packing::Zstd].map(|packing| packing.compress(b"part").unwrap());
        assert_eq!(unpack(&parts.concat()).unwrap(), b"partpartpartpart");
        assert!(unpack(b"no archive").is_err());
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
