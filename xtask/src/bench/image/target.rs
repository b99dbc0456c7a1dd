//! Where images are written to: a file in memory, or a loop device over one.

use super::MIB;
use crate::cmd;
use anyhow::{Context as _, Result};
use std::fs::OpenOptions;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A target. It goes with the value.
pub(super) struct Target {
    file: PathBuf,
    device: Option<String>,
    size: u64,
}

impl Target {
    /// A target of `size` MiB, behind a loop device or not.
    pub(super) fn new(folder: &Path, on_loop: bool, size: u64) -> Result<Self> {
        let file = folder.join(if on_loop { "target.loop" } else { "target" });
        let mut target = Self { file, device: None, size };
        target.fill()?;
        if on_loop {
            let device = cmd::output(Command::new("losetup").args(["--find", "--show"]).arg(&target.file));
            target.device = Some(device.context("a loop device is needed, and root")?.trim().to_owned());
        }
        Ok(target)
    }

    pub(super) fn title(&self) -> &'static str {
        if self.device.is_some() { "loop device" } else { "file" }
    }

    pub(super) fn path(&self) -> String {
        self.device.clone().unwrap_or_else(|| self.file.display().to_string())
    }

    /// What dd needs to write there as fast as it can: without the cache of a block device.
    pub(super) fn dd_flag(&self) -> &'static str {
        if self.device.is_some() { "oflag=direct" } else { "oflag=seek_bytes" }
    }

    /// Makes the target one that is all there and holds none of the image.
    pub(super) fn fill(&self) -> Result<()> {
        // Through the file and not the device, which then has nothing in its cache.
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.file)?;
        file.rewind()?;
        for _ in 0..self.size {
            file.write_all(&[0xaa; MIB])?;
        }
        Ok(())
    }

    /// Whether it holds this raw image.
    pub(super) fn holds(&self, raw: &str) -> Result<()> {
        cmd::run(Command::new("cmp").arg(raw).arg(&self.file)).context("the target is not the image")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(device) = &self.device
            && let Err(error) = cmd::run(Command::new("losetup").args(["--detach", device]))
        {
            eprintln!("{error:#}");
        }
        // The folder goes in the end, so that is no loss.
        let _ = std::fs::remove_file(&self.file);
    }
}
