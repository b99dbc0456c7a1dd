//! `cargo xtask bench boot`: from power-on to the first heartbeat, ours and, when given, a peer's.

use clap::Parser;
use e2e::bench::boot::{Plan, Subject, run};
use std::path::PathBuf;
use std::time::Duration;

/// Boot ramdisks by `-kernel`/`-initrd` and print when they check in.
#[derive(Parser)]
struct Args {
    /// Folder with `vmlinuz` and `initramfs` of ours
    #[arg(long)]
    ramdisk: PathBuf,
    /// Guest memory for ours, MiB
    #[arg(long, default_value_t = 256)]
    memory: u32,
    /// Kernel to compare with
    #[arg(long, requires = "peer_initrd")]
    peer_kernel: Option<PathBuf>,
    /// Initramfs to compare with
    #[arg(long, requires = "peer_kernel")]
    peer_initrd: Option<PathBuf>,
    /// Guest memory for the peer, MiB
    #[arg(long, default_value_t = 3072)]
    peer_memory: u32,
    /// Boots of each; they take turns
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds that one boot may take
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Folder for serial logs
    #[arg(long, default_value = "target/bench/boot")]
    logs: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut subjects = vec![Subject {
        name: "ferric".to_owned(),
        kernel: args.ramdisk.join("vmlinuz"),
        initrd: args.ramdisk.join("initramfs"),
        memory: args.memory,
    }];
    if let (Some(kernel), Some(initrd)) = (args.peer_kernel, args.peer_initrd) {
        subjects.push(Subject { name: "peer".to_owned(), kernel, initrd, memory: args.peer_memory });
    }
    let plan = Plan { runs: args.runs, limit: Duration::from_secs(args.limit), logs: args.logs };
    let table = run(&subjects, &plan).await?;
    #[expect(clippy::print_stdout, reason = "the table is what was asked for")]
    {
        print!("{table}");
    }
    Ok(())
}
