//! `cargo xtask demo`: makes what the demo needs and starts it.

use crate::e2e;
use anyhow::Result;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// Leave everything running, and say how to look further and how to stop it
    #[arg(long)]
    keep: bool,
    /// Folder that takes logs and first sectors of disks if it fails
    #[arg(long, default_value = "target/e2e")]
    evidence: PathBuf,
}

/// Becomes the demo: a signal to this process is one to it.
pub fn run(args: &Args) -> Result<()> {
    let (program, artifacts) = e2e::prepare(&args.evidence, e2e::Parts::Usual)?;
    let mut demo = Command::new(program);
    demo.arg("demo").args(artifacts);
    if args.keep {
        demo.arg("--keep");
    }
    Err(demo.exec().into())
}
