//! What is kept of a story that failed.

use anyhow::{Context as _, Result};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How much of the start of a disk is kept.
const HEAD: u64 = 1 << 20;
/// How much of one log is kept, from its end.
const LOG: u64 = 16 << 20;

/// Copies the logs of the lab in `dir` and the first MiB of each disk to a folder below `into`, and returns it.
///
/// # Errors
/// When something cannot be copied.
pub fn keep(story: &str, dir: &Path, into: &Path) -> Result<PathBuf> {
    let target = into.join(format!("{story}-{}", std::process::id()));
    if target.exists() {
        fs::remove_dir_all(&target).with_context(|| format!("remove {}", target.display()))?;
    }
    fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
    copy_logs(&dir.join("logs"), &target)?;
    // libvirt's own view of each QEMU, with its command line, and what agents sent the driver.
    copy_logs(&dir.join("libvirt/log/qemu"), &target.join("qemu"))?;
    copy_logs(&dir.join("ferricd/logs"), &target.join("agent"))?;
    for disk in list(&dir.join("disks")) {
        let mut head = Vec::new();
        File::open(&disk)?.take(HEAD).read_to_end(&mut head)?;
        let name = format!("{}.first-mib", disk.file_name().unwrap_or_default().to_string_lossy());
        fs::write(target.join(name), head)?;
    }
    Ok(target)
}

fn copy_logs(from: &Path, to: &Path) -> Result<()> {
    for path in list(from) {
        fs::create_dir_all(to)?;
        let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let size = file.metadata()?.len();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(size.saturating_sub(LOG)))?;
        let mut copy = File::create(to.join(path.file_name().unwrap_or_default()))?;
        std::io::copy(&mut file, &mut copy)?;
    }
    Ok(())
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}
