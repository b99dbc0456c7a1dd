//! `cargo xtask sim N`: simulated machines by the real agent against a real ferricd, from enrolled to active.

use crate::{cmd, release};
use anyhow::Result;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// How many machines, and options of the simulation: `cargo xtask sim 1000 --help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    given: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let programs = release::tools()?;
    let mut sim = Command::new(programs.join("sim"));
    sim.current_dir(cmd::root()).arg("--ferricd").arg(programs.join("ferricd")).args(&args.given);
    // From here on this process is the simulation: a signal to it ends ferricd as well.
    Err(sim.exec().into())
}
