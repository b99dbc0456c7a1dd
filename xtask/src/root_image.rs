//! The Debian test system as a partition image: its root file system alone, with kernel and initramfs in `/boot`.
//!
//! It is made of the disk image that `cargo xtask image debian` makes, whose kernel is on the ESP, with debugfs: nothing
//! is mounted and no package fetched again. Kept in the cache, keyed by that image and this file.

use crate::{cmd, image};
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1024 * 1024;
/// What `xtask/src/image.rs` makes: the ESP begins at 1 MiB and has 64, the root file system follows up to the last MiB.
const ESP_AT: u64 = MIB;
const ROOT_AT: u64 = 65 * MIB;
/// Room for kernel and initramfs, and some more.
const GROWTH_MIB: u64 = 128;
/// Everything is logged to the serial console, which is what people look at first.
const COMMAND_LINE: &str = "root=LABEL=root rw console=ttyS0\n";

/// Makes the image unless the cache has it, and returns the path of `debian-root.raw.zst`.
pub fn debian() -> Result<PathBuf> {
    let disk = image::debian(false)?;
    let key = disk.file_name().context("the folder of the Debian image has a name")?.to_string_lossy().into_owned();
    let own = hex::encode(Sha256::digest(include_bytes!("root_image.rs")));
    let home = cmd::cache().join("image");
    let done = home.join(format!("{key}-root-{}", &own[..8]));
    let lock = File::create(home.join("root-lock"))?;
    lock.lock().context("wait for another build of the root image")?;
    let made = done.join("debian-root.raw.zst");
    if made.is_file() {
        return Ok(made);
    }
    let build = done.with_extension("building");
    if build.exists() {
        fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))?;
    }
    fs::create_dir_all(&build)?;
    fill(&disk.join("debian.raw"), &build)?;
    fs::rename(&build, &done).with_context(|| format!("rename {} to {}", build.display(), done.display()))?;
    Ok(made)
}

fn fill(disk: &Path, dir: &Path) -> Result<()> {
    eprintln!("[image] root file system of Debian");
    let root = dir.join("root");
    take(disk, &root)?;
    let size = fs::metadata(&root)?.len() / MIB + GROWTH_MIB;
    // resize2fs wants to see that the file system was checked.
    cmd::output(Command::new("e2fsck").args(["-f", "-p"]).arg(&root))?;
    cmd::output(Command::new("resize2fs").arg(&root).arg(format!("{size}M")))?;
    let esp = format!("{}@@{ESP_AT}", disk.display());
    let (kernel, initramfs, line) = (dir.join("vmlinuz"), dir.join("initrd"), dir.join("cmdline"));
    for (name, to) in [("::/vmlinuz", &kernel), ("::/initrd", &initramfs)] {
        cmd::output(Command::new("mcopy").args(["-n", "-i", &esp, name]).arg(to))?;
    }
    fs::write(&line, COMMAND_LINE)?;
    let version = version(&root)?;
    let requests = [
        format!("write {} /boot/vmlinuz-{version}", kernel.display()),
        format!("write {} /boot/initrd.img-{version}", initramfs.display()),
        "mkdir /etc/kernel".to_owned(),
        format!("write {} /etc/kernel/cmdline", line.display()),
    ];
    for request in requests {
        cmd::output(Command::new("debugfs").args(["-w", "-R", &request]).arg(&root))?;
    }
    // debugfs succeeds whatever its requests do: the file system has to be sound, and the files have to be there.
    cmd::output(Command::new("e2fsck").args(["-f", "-n"]).arg(&root))?;
    for (path, wanted) in [
        (format!("/boot/vmlinuz-{version}"), &kernel),
        (format!("/boot/initrd.img-{version}"), &initramfs),
        ("/etc/kernel/cmdline".to_owned(), &line),
    ] {
        let found = dir.join("found");
        cmd::output(Command::new("debugfs").args(["-R", &format!("dump {path} {}", found.display())]).arg(&root))?;
        if fs::read(&found).ok() != fs::read(wanted).ok() {
            bail!("debugfs did not write {path} into the root file system");
        }
        fs::remove_file(found)?;
    }
    let zst = dir.join("debian-root.raw.zst");
    cmd::run(Command::new("zstd").args(["-q", "-f", "-T0", "-6"]).arg(&root).arg("-o").arg(&zst))?;
    for path in [root, kernel, initramfs, line] {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Copies the root file system out of the disk image.
fn take(disk: &Path, to: &Path) -> Result<()> {
    let mut from = File::open(disk).with_context(|| format!("open {}", disk.display()))?;
    let len = from.metadata()?.len() - ROOT_AT - MIB;
    from.seek(SeekFrom::Start(ROOT_AT))?;
    std::io::copy(&mut from.take(len), &mut File::create(to)?).with_context(|| format!("write {}", to.display()))?;
    Ok(())
}

/// The version of the kernel whose modules are in the file system.
fn version(root: &Path) -> Result<String> {
    let list = cmd::output(Command::new("debugfs").args(["-R", "ls -p /usr/lib/modules"]).arg(root))?;
    // One entry a line: /inode/mode/uid/gid/name/size/.
    let names = list.lines().filter_map(|line| line.split('/').nth(5));
    let versions: Vec<&str> = names.filter(|name| !matches!(*name, "" | "." | "..")).collect();
    match versions[..] {
        [version] => Ok(version.to_owned()),
        _ => bail!("the image should have modules of one kernel, it has {versions:?}"),
    }
}
