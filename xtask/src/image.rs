//! `cargo xtask image debian`: a real Debian 12 disk image, made without loop devices and without mounts of our own.
//!
//! mmdebstrap fills a folder from the mirrors that apt of this machine is set up for; mke2fs, mtools and sgdisk turn
//! the folder into a disk. What goes in is data: `xtask/debian/`. Images are kept in the cache, keyed by a hash of that
//! data and of this file, so that a second call is free; a newer package in the mirror does not change the key
//! (`--no-cache` builds again).

use crate::debian::{self, SUITE};
use crate::{cmd, setup};
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const MIB: u64 = 1024 * 1024;
const ESP_MIB: u64 = 64;
/// Free space in the root file system as it is shipped; it grows to the disk's size at the first boot.
const ROOT_SLACK_MIB: u64 = 48;

/// The disk as systemd-boot sees it. Everything is logged to the serial console, which is what people look at first.
const LOADER_ENTRY: &str = "title Debian\nlinux /vmlinuz\ninitrd /initrd\noptions root=LABEL=root rw console=ttyS0\n";

#[derive(clap::Args)]
pub struct Args {
    /// Which system to build
    system: System,
    /// Also copy the image and its manifest into this folder
    #[arg(long)]
    out: Option<PathBuf>,
    /// Build again even if the cache holds an image of the same inputs
    #[arg(long)]
    no_cache: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum System {
    /// Debian 12: systemd, cloud-init, sshd, UEFI boot through systemd-boot
    Debian,
}

/// What an image is, for people and for the stories.
#[derive(Serialize, Deserialize)]
struct Manifest {
    suite: String,
    debian_version: String,
    kernel: String,
    inputs: String,
    raw: Artifact,
    zst: Artifact,
    packages: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Artifact {
    file: String,
    bytes: u64,
    allocated_bytes: u64,
    sha256: String,
}

pub fn run(args: &Args) -> Result<()> {
    let System::Debian = args.system;
    setup::packages()?;
    let dir = debian(args.no_cache)?;
    if let Some(out) = &args.out {
        fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
        for name in ["debian.raw", "debian.raw.zst", "debian.raw.zst.sha256", "debian.json"] {
            let mut copy = Command::new("cp");
            copy.args(["--sparse=always", "--reflink=auto", "-f"]).arg(dir.join(name)).arg(out.join(name));
            cmd::run(&mut copy)?;
        }
    }
    let manifest: Manifest = serde_json::from_slice(&fs::read(dir.join("debian.json"))?)?;
    println!("Debian {}, kernel {}", manifest.debian_version, manifest.kernel);
    for artifact in [&manifest.raw, &manifest.zst] {
        let path = args.out.as_ref().unwrap_or(&dir).join(&artifact.file);
        println!(
            "  {}  {:.1} MiB ({:.1} MiB on disk)  sha256 {}",
            path.display(),
            mib(artifact.bytes),
            mib(artifact.allocated_bytes),
            artifact.sha256
        );
    }
    Ok(())
}

/// Builds the Debian image unless the cache has it, and returns the folder that holds `debian.raw`,
/// `debian.raw.zst`, `debian.raw.zst.sha256` and `debian.json`.
pub fn debian(no_cache: bool) -> Result<PathBuf> {
    let data = cmd::root().join("xtask/debian");
    let inputs = inputs(&data)?;
    let home = cmd::cache().join("image");
    let done = home.join(format!("debian-{}", &inputs[..16]));
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let lock = File::create(home.join("lock"))?;
    lock.lock().context("wait for another build of the image")?;
    if !no_cache && done.join("debian.json").is_file() {
        return Ok(done);
    }
    let build = home.join(format!("building-{}", &inputs[..16]));
    discard(&build)?;
    fs::create_dir_all(&build)?;
    let manifest = Build { data, dir: build.clone(), started: Instant::now() }.run(&inputs)?;
    fs::write(build.join("debian.json"), serde_json::to_vec_pretty(&manifest)?)?;
    discard(&done)?;
    fs::rename(&build, &done).with_context(|| format!("rename {} to {}", build.display(), done.display()))?;
    Ok(done)
}

struct Build {
    data: PathBuf,
    dir: PathBuf,
    started: Instant,
}

impl Build {
    fn say(&self, text: &str) {
        eprintln!("[image {:>4.0} s] {text}", self.started.elapsed().as_secs_f64());
    }

    fn run(&self, inputs: &str) -> Result<Manifest> {
        let root = self.dir.join("root");
        self.install(&root)?;
        self.configure(&root)?;
        let packages = package_list(&root)?;
        let debian_version = fs::read_to_string(root.join("etc/debian_version"))?.trim().to_owned();
        let esp = self.dir.join("esp");
        let kernel = self.fill_esp(&root, &esp)?;
        let raw = self.dir.join("debian.raw");
        self.disk(&root, &esp, &raw)?;
        discard(&root)?;
        fs::remove_dir_all(&esp)?;
        let zst = self.dir.join("debian.raw.zst");
        self.say("compressing with zstd");
        cmd::run(Command::new("zstd").args(["-q", "-f", "-T0", "-10"]).arg(&raw).arg("-o").arg(&zst))?;
        let raw = artifact(&raw)?;
        let zst = artifact(&zst)?;
        fs::write(self.dir.join("debian.raw.zst.sha256"), format!("{}  debian.raw.zst\n", zst.sha256))?;
        self.say("done");
        Ok(Manifest { suite: SUITE.into(), debian_version, kernel, inputs: inputs.into(), raw, zst, packages })
    }

    /// Packages into a folder, with the settings that the kernel package's own scripts need in place before it comes.
    fn install(&self, root: &Path) -> Result<()> {
        self.say("installing packages with mmdebstrap");
        let early = self.data.join("overlay/early");
        let early = early.to_str().filter(|path| !path.contains(['\'', '"', '\\'])).with_context(|| {
            format!("{} holds quotes or is not UTF-8: move the checkout to a plainly named folder", early.display())
        })?;
        let packages = setup::listed(&self.data.join("packages.txt"))?;
        debian::bootstrap(root, &packages, &[format!("--essential-hook=sync-in '{early}' /")])
    }

    /// Our files over Debian's, services on and off, and away with whatever belongs to the machine that built it.
    fn configure(&self, root: &Path) -> Result<()> {
        self.say("configuring");
        copy_tree(&self.data.join("overlay/late"), root)?;
        let systemctl = |verb: &str, units: &[String]| {
            cmd::output(Command::new("chroot").arg(root).args(["systemctl", verb]).args(units)).map(drop)
        };
        systemctl("enable", &["systemd-networkd.service".to_owned()])?;
        systemctl("mask", &setup::listed(&self.data.join("masked.txt"))?)?;
        for leftover in
            ["etc/hostname", "etc/resolv.conf", "var/lib/dbus/machine-id", "etc/apt/apt.conf.d/99mmdebstrap"]
        {
            let path = root.join(leftover);
            if path.symlink_metadata().is_ok() {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        fs::write(root.join("etc/machine-id"), "")?;
        for entry in fs::read_dir(root.join("etc/ssh"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
                fs::remove_file(entry.path())?;
            }
        }
        refuse_mounts_below(root)?;
        for folder in ["dev", "var/cache/apt", "var/lib/apt/lists", "var/log", "tmp"] {
            for entry in fs::read_dir(root.join(folder)).with_context(|| format!("read {folder} of the image"))? {
                let path = entry?.path();
                if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
            }
        }
        Ok(())
    }

    /// Kernel, initramfs and boot loader move to the ESP; returns the kernel's version.
    fn fill_esp(&self, root: &Path, esp: &Path) -> Result<String> {
        let mut kernels = Vec::new();
        for entry in fs::read_dir(root.join("boot"))? {
            if let Some(version) = entry?.file_name().to_string_lossy().strip_prefix("vmlinuz-") {
                kernels.push(version.to_owned());
            }
        }
        let [kernel] = &kernels[..] else {
            bail!("the image's /boot should hold one kernel, it holds {}: {kernels:?}", kernels.len());
        };
        fs::create_dir_all(esp.join("EFI/BOOT"))?;
        fs::create_dir_all(esp.join("loader/entries"))?;
        let loader = root.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi");
        fs::copy(&loader, esp.join("EFI/BOOT/BOOTX64.EFI")).with_context(|| format!("copy {}", loader.display()))?;
        for (from, to) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")] {
            let source = root.join(format!("boot/{from}-{kernel}"));
            fs::copy(&source, esp.join(to)).with_context(|| format!("copy {}", source.display()))?;
            fs::remove_file(&source)?;
        }
        fs::write(esp.join("loader/loader.conf"), "timeout 0\n")?;
        fs::write(esp.join("loader/entries/debian.conf"), LOADER_ENTRY)?;
        Ok(kernel.clone())
    }

    fn disk(&self, root: &Path, esp: &Path, raw: &Path) -> Result<()> {
        self.say("making file systems");
        let root_mib = tree_bytes(root)? / MIB * 108 / 100 + ROOT_SLACK_MIB;
        let root_img = self.dir.join("root.img");
        File::create(&root_img)?.set_len(root_mib * MIB)?;
        cmd::run(
            Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-L", "root", "-m", "1", "-J", "size=8"])
                .arg("-d")
                .arg(root)
                .arg(&root_img),
        )?;
        let esp_img = self.dir.join("esp.img");
        File::create(&esp_img)?.set_len(ESP_MIB * MIB)?;
        cmd::output(Command::new("mkfs.vfat").args(["-F", "32", "-n", "ESP"]).arg(&esp_img))?;
        let mut mcopy = Command::new("mcopy");
        mcopy.args(["-s", "-i"]).arg(&esp_img);
        for entry in fs::read_dir(esp)? {
            mcopy.arg(entry?.path());
        }
        cmd::run(mcopy.arg("::/"))?;
        self.say("partitioning");
        let mut disk = File::create(raw)?;
        disk.set_len((1 + ESP_MIB + root_mib + 1) * MIB)?;
        cmd::output(
            Command::new("sgdisk")
                .args(["-n", &format!("1:2048:+{ESP_MIB}M"), "-t", "1:ef00", "-c", "1:ESP"])
                .args(["-n", &format!("2:0:+{root_mib}M"), "-t", "2:8304", "-c", "2:root"])
                .arg(raw),
        )?;
        let verdict = cmd::output(Command::new("sgdisk").arg("-v").arg(raw))?;
        ensure!(verdict.contains("No problems found"), "sgdisk does not like its own table: {verdict}");
        copy_sparse(&esp_img, &mut disk, MIB)?;
        copy_sparse(&root_img, &mut disk, (1 + ESP_MIB) * MIB)?;
        disk.sync_all()?;
        fs::remove_file(&root_img)?;
        fs::remove_file(&esp_img)?;
        Ok(())
    }
}

/// A hash over everything that decides what the image holds, apart from the versions that the mirror has today.
fn inputs(data: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(include_bytes!("image.rs"));
    digest.update(include_bytes!("debian.rs"));
    for entry in walkdir::WalkDir::new(data).sort_by_file_name() {
        let entry = entry.with_context(|| format!("read {}", data.display()))?;
        if entry.file_type().is_file() {
            digest.update(entry.path().strip_prefix(data)?.as_os_str().as_encoded_bytes());
            digest.update([0]);
            digest.update(fs::read(entry.path())?);
        }
    }
    Ok(hex::encode(digest.finalize()))
}

fn package_list(root: &Path) -> Result<Vec<String>> {
    let list = cmd::output(
        Command::new("dpkg-query").arg(format!("--admindir={}", root.join("var/lib/dpkg").display())).args([
            "-W",
            "-f",
            "${Package} ${Version}\n",
        ]),
    )?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Copies files as root's own, with usual modes, whatever owns the checkout.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(from).sort_by_file_name() {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target)?;
        } else {
            fs::write(&target, fs::read(entry.path())?).with_context(|| format!("write {}", target.display()))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

/// Bytes that the tree takes in a file system with 4 KiB blocks.
fn tree_bytes(root: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(root) {
        let meta = entry?.metadata()?;
        bytes += 512 + if meta.is_file() || meta.is_dir() { meta.len().next_multiple_of(4096) } else { 0 };
    }
    Ok(bytes)
}

/// Writes `from` at `offset` of `to`, leaving holes where `from` is zero.
fn copy_sparse(from: &Path, to: &mut File, offset: u64) -> Result<()> {
    let mut source = File::open(from)?;
    let mut block = vec![0; MIB as usize];
    let mut at = offset;
    loop {
        let read = source.read(&mut block)?;
        if read == 0 {
            return Ok(());
        }
        for (index, piece) in block[..read].chunks(4096).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                to.seek(SeekFrom::Start(at + index as u64 * 4096))?;
                to.write_all(piece)?;
            }
        }
        at += read as u64;
    }
}

fn artifact(path: &Path) -> Result<Artifact> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    let mut digest = Sha256::new();
    let mut block = vec![0; MIB as usize];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        digest.update(&block[..read]);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Artifact {
        file: name,
        bytes: meta.len(),
        allocated_bytes: meta.blocks() * 512,
        sha256: hex::encode(digest.finalize()),
    })
}

/// Removes a folder of an earlier build. A build that was killed can have left mounts in it; deleting through those
/// would delete files of this machine.
fn discard(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    refuse_mounts_below(dir)?;
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

fn refuse_mounts_below(dir: &Path) -> Result<()> {
    let dir = dir.canonicalize()?;
    for line in fs::read_to_string("/proc/self/mounts")?.lines() {
        if let Some(point) = line.split(' ').nth(1)
            && Path::new(point).starts_with(&dir)
        {
            bail!("{point} is still mounted, left by a build that was killed: run `umount {point}` and try again");
        }
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}
