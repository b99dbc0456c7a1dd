//! GRUB for partition images on BIOS machines: two files that the agent puts on the disk (`media::grub`).

use super::packages::Debian;
use super::profile::Grub;
use super::programs::File;
use crate::cmd;
use anyhow::{Context as _, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

/// `boot.img` and `core.img` by path in the ramdisk. grub-mkimage packs the core itself (LZMA), and the same modules give the same bytes.
pub fn files(grub: &Grub, debian: &mut Debian, cache: &Path) -> Result<Vec<(String, File)>> {
    let plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    ensure!(grub.modules.iter().all(plain), "a name among GRUB's modules {:?} is none", grub.modules);
    let package = debian.package(&grub.package)?;
    same_version(&package.record.version)?;
    let folder = package.files.join(&grub.folder);
    let made = cache.join(format!(".grub-{}.img", std::process::id()));
    let mut mkimage = Command::new("grub-mkimage");
    mkimage
        .args(["--format", "i386-pc", "--prefix", &grub.prefix, "--directory"])
        .arg(&folder)
        .arg("--output")
        .arg(&made);
    cmd::output(mkimage.args(&grub.modules)).context("make the core of GRUB")?;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let (boot, core) = (read(&folder.join("boot.img"))?, read(&made)?);
    std::fs::remove_file(&made).with_context(|| format!("remove {}", made.display()))?;
    media::grub::Grub::new(&boot, &core).context("look at GRUB's files as the agent will")?;
    let file = |name: &str, data| (format!("{}/{name}", grub.folder), File { mode: 0o644, data, link: None });
    Ok(vec![file("boot.img", boot), file("core.img", core)])
}

/// Modules and the program that joins them are of one release: they share the layout of the core's head.
fn same_version(modules: &str) -> Result<()> {
    let said = cmd::output(Command::new("grub-mkimage").arg("--version"))?;
    let version = said.split_whitespace().last().context("grub-mkimage --version prints nothing")?;
    if version != modules {
        bail!(
            "grub-mkimage (package grub-common) is of version {version}, the modules of GRUB of {modules}: upgrade grub-common"
        );
    }
    Ok(())
}
