//! `cargo xtask bench driver`: ferricd beside a real Ironic of a pinned Python environment, both with SQLite.

use crate::python::{self, System};
use crate::{cmd, release, setup};
use anyhow::Result;
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// Fewer nodes and one short turn of each load, while developing: the bars are for the full run
    #[arg(long)]
    quick: bool,
}

pub fn run(args: &Args) -> Result<()> {
    setup::packages()?;
    let ironic = python::environment("ironic", System::Hidden)?;
    let programs = release::bench_driver()?;
    let mut bench = Command::new(programs.join("bench-driver"));
    bench.current_dir(cmd::root()).arg("--ferricd").arg(programs.join("ferricd")).arg("--ironic").arg(ironic);
    if args.quick {
        bench.args(["--nodes", "100", "--rounds", "1", "--seconds", "2"]);
    }
    cmd::run(&mut bench)
}
