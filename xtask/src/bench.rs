//! `cargo xtask bench …`: ours beside a named peer in the same run.

use crate::{ci, cmd, peer, release, setup};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

mod driver;
mod image;
mod serve;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// From power-on to the first heartbeat, by QEMU's -kernel and -initrd
    Boot {
        /// Folder with vmlinuz and initramfs of ours; built when it is not given
        #[arg(long)]
        ramdisk: Option<PathBuf>,
        /// Build the ramdisk with ironic-python-agent (kept in the cache) and compare with it
        #[arg(long, conflicts_with = "peer_kernel")]
        ipa: bool,
        /// Kernel to compare with
        #[arg(long, requires = "peer_initrd")]
        peer_kernel: Option<PathBuf>,
        /// Initramfs to compare with
        #[arg(long, requires = "peer_kernel")]
        peer_initrd: Option<PathBuf>,
        /// Boots of each; they take turns
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// Writing an image, by `ferric image write` and by curl, zstd, dd and qemu-img
    Image(image::Args),
    /// Heartbeats, look-ups and lists of ferricd and of a real Ironic; ends with 1 when a bar is missed
    Driver(driver::Args),
}

pub fn run(args: &Args) -> Result<()> {
    let (ramdisk, ipa, peer_kernel, peer_initrd, runs) = match &args.what {
        What::Boot { ramdisk, ipa, peer_kernel, peer_initrd, runs } => (ramdisk, ipa, peer_kernel, peer_initrd, runs),
        What::Image(args) => return image::run(args),
        What::Driver(args) => return driver::run(args),
    };
    setup::packages()?;
    let mut bench = Command::new(release::programs(&["-p", "e2e", "--bin", "bench-boot"])?.join("bench-boot"));
    bench.current_dir(cmd::root());
    bench.arg("--runs").arg(runs.to_string()).arg("--ramdisk");
    match ramdisk {
        Some(dir) => bench.arg(dir),
        None => {
            ci::build_ramdisk()?;
            bench.arg(ci::vm_ramdisk())
        }
    };
    let peer = match (peer_kernel, peer_initrd) {
        (Some(kernel), Some(initrd)) => Some((kernel.clone(), initrd.clone())),
        _ if *ipa => {
            let dir = peer::ipa_ramdisk()?;
            Some((dir.join("vmlinuz"), dir.join("initramfs")))
        }
        _ => None,
    };
    if let Some((kernel, initrd)) = peer {
        bench.arg("--peer-kernel").arg(kernel).arg("--peer-initrd").arg(initrd);
    }
    cmd::run(&mut bench)
}
