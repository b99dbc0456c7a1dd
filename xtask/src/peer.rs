//! The ramdisk that people run today, as a peer to compare with and to be driven by ferricd: Debian with
//! ironic-python-agent from a pinned Python environment, kept in the cache and keyed by a hash of what it is made from.

use crate::{cmd, debian, python, setup};
use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// systemd's EFI stub, with which ferricd makes one program of kernel and initramfs; of package systemd-boot-efi.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// The folder with `vmlinuz`, `initramfs` and `linuxx64.efi.stub` of the peer, made first if the cache does not hold it.
/// Takes minutes. ferricd takes the folder as its `ramdisk_dir`.
pub fn ipa_ramdisk() -> Result<PathBuf> {
    let data = cmd::root().join("xtask/ipa");
    let mut digest = Sha256::new();
    digest.update(include_bytes!("peer.rs"));
    let inputs = ["packages.txt", "init", "poweroff"].map(|name| data.join(name));
    for file in inputs.into_iter().chain([cmd::root().join("ci/python/ipa.txt")]) {
        digest.update(fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    let key = hex::encode(digest.finalize());
    let home = cmd::cache().join("peer");
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let lock = File::create(home.join("lock"))?;
    lock.lock().context("wait for another build of the peer's ramdisk")?;
    let done = home.join(format!("ipa-{}", &key[..16]));
    if done.join("initramfs").is_file() {
        return Ok(done);
    }
    let build = home.join(format!("building-{}", &key[..16]));
    if build.exists() {
        fs::remove_dir_all(&build)?;
    }
    fs::create_dir_all(&build)?;
    let environment = python::environment("ipa", python::System::Hidden)?;
    let root = build.join("root");
    eprintln!("[peer] installing packages with mmdebstrap");
    debian::bootstrap(&root, &setup::listed(&data.join("packages.txt"))?, &[])?;
    eprintln!("[peer] adding the agent");
    let agent = root.join("opt/ipa");
    cmd::run(Command::new("cp").arg("-r").arg(site_packages(&environment)?).arg(&agent))?;
    // Not by PYTHONPATH: the agent starts Python programs of its own with an environment without it.
    let path = root.join("usr/lib/python3/dist-packages/ipa.pth");
    fs::write(&path, "/opt/ipa\n").with_context(|| format!("write {}", path.display()))?;
    cmd::output(Command::new("chroot").arg(&root).args(["python3", "-m", "compileall", "-q", "/opt/ipa"]))?;
    for (name, place) in [("init", "init"), ("poweroff", "usr/sbin/poweroff")] {
        fs::write(root.join(place), fs::read(data.join(name))?).with_context(|| format!("write {place}"))?;
        fs::set_permissions(root.join(place), fs::Permissions::from_mode(0o755))?;
    }
    take_kernel(&root, &build.join("vmlinuz"))?;
    for folder in ["var/cache/apt", "var/lib/apt/lists"] {
        fs::remove_dir_all(root.join(folder)).with_context(|| format!("remove {folder}"))?;
    }
    eprintln!("[peer] packing");
    pack(&root, &build.join("initramfs"))?;
    fs::remove_dir_all(&root)?;
    fs::copy(STUB, build.join("linuxx64.efi.stub")).with_context(|| format!("copy {STUB}"))?;
    fs::rename(&build, &done).with_context(|| format!("rename {}", build.display()))?;
    Ok(done)
}

fn site_packages(environment: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(environment.join("lib"))? {
        let path = entry?.path().join("site-packages");
        if path.is_dir() {
            return Ok(path);
        }
    }
    anyhow::bail!("{} has no site-packages", environment.display())
}

fn take_kernel(root: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(root.join("boot"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")) {
            fs::copy(&path, to).with_context(|| format!("copy {}", path.display()))?;
            fs::remove_dir_all(root.join("boot"))?;
            return Ok(());
        }
    }
    anyhow::bail!("no kernel was installed in {}", root.display())
}

/// `find | cpio | zstd`, each as a process of its own.
fn pack(root: &Path, to: &Path) -> Result<()> {
    let mut find = Command::new("find")
        .args([".", "-path", "./dev/*", "-prune", "-o", "-print0"])
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("start find")?;
    let names = find.stdout.take().context("output of find")?;
    let mut cpio = Command::new("cpio")
        .args(["--null", "--create", "--format=newc", "--quiet"])
        .current_dir(root)
        .stdin(names)
        .stdout(Stdio::piped())
        .spawn()
        .context("start cpio")?;
    let archive = cpio.stdout.take().context("output of cpio")?;
    cmd::run(Command::new("zstd").args(["-q", "-f", "-T0", "-12", "-o"]).arg(to).stdin(archive))?;
    ensure!(find.wait()?.success() && cpio.wait()?.success(), "the archive of {} is not whole", root.display());
    Ok(())
}
