//! What a story needs to have been built before it starts.

use anyhow::{Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Paths of built programs and images. `cargo xtask e2e` and `cargo xtask demo` make them all.
#[derive(Clone, Debug, clap::Args)]
pub struct Artifacts {
    /// The driver daemon
    #[arg(long)]
    pub ferricd: PathBuf,
    /// Folder with the output of `cargo xtask ramdisk`
    #[arg(long)]
    pub ramdisk: PathBuf,
    /// Folder with the output of `cargo xtask image debian`
    #[arg(long)]
    pub debian: PathBuf,
    /// Python environment that holds sushy-emulator
    #[arg(long)]
    pub sushy: PathBuf,
    /// Python environment that holds the `baremetal` command
    #[arg(long)]
    pub baremetal: PathBuf,
    /// Folder with the output of `cargo xtask ramdisk --profile server`, for the stories of partition images
    #[arg(long)]
    pub server_ramdisk: Option<PathBuf>,
    /// Folder with the output of `cargo xtask ramdisk --profile rescue`, for the stories of rescues
    #[arg(long)]
    pub rescue_ramdisk: Option<PathBuf>,
    /// Debian's root file system as a partition image, for the stories of those
    #[arg(long)]
    pub debian_root: Option<PathBuf>,
    /// Python environment that holds Ironic, for the stories with Ironic as the peer
    #[arg(long)]
    pub ironic: Option<PathBuf>,
    /// Folder with the ramdisk of ironic-python-agent, for the stories with that as the peer
    #[arg(long)]
    pub ipa: Option<PathBuf>,
    /// The executable hardware manager of the stories with Ironic as the peer
    #[arg(long)]
    pub interop_manager: Option<PathBuf>,
    /// Folder that takes logs and first sectors of disks of failed stories
    #[arg(long)]
    pub evidence: PathBuf,
}

impl Artifacts {
    /// The same paths as arguments of this program.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let pairs: [(&str, &Path); 6] = [
            ("--ferricd", &self.ferricd),
            ("--ramdisk", &self.ramdisk),
            ("--debian", &self.debian),
            ("--sushy", &self.sushy),
            ("--baremetal", &self.baremetal),
            ("--evidence", &self.evidence),
        ];
        let interop = [
            ("--server-ramdisk", &self.server_ramdisk),
            ("--rescue-ramdisk", &self.rescue_ramdisk),
            ("--debian-root", &self.debian_root),
            ("--ironic", &self.ironic),
            ("--interop-manager", &self.interop_manager),
        ];
        let interop = interop.into_iter().filter_map(|(name, path)| Some((name, path.as_deref()?)));
        pairs.into_iter().chain(interop).flat_map(|(name, path)| [name.into(), path.into()]).collect()
    }

    /// The same with the ramdisk of ironic-python-agent in place of ours.
    ///
    /// # Errors
    /// When there is none.
    pub fn with_ipa(&self) -> Result<Self> {
        let Some(ramdisk) = self.ipa.clone() else { bail!("--ipa is missing: `cargo xtask interop ipa` makes it") };
        Ok(Self { ramdisk, ..self.clone() })
    }

    /// Checks that everything is there before any time is spent.
    ///
    /// # Errors
    /// Names the first path that is missing and the verb that makes it.
    pub fn check(&self) -> Result<()> {
        let wanted = [
            (self.ferricd.clone(), "cargo build --release -p driver --bin ferricd"),
            (self.ramdisk.join("vmlinuz"), "cargo xtask ramdisk --out DIR"),
            (self.debian.join("debian.raw.zst"), "cargo xtask image debian"),
            (self.sushy.join("bin/sushy-emulator"), "cargo xtask e2e"),
            (self.baremetal.join("bin/baremetal"), "cargo xtask e2e"),
        ];
        for (path, remedy) in wanted {
            if !path.is_file() {
                bail!("{} is missing: `{remedy}` makes it", path.display());
            }
        }
        Ok(())
    }
}
