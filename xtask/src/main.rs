//! Developer verbs. Each verb is one file; CI runs only these.

use clap::{Parser, Subcommand};

mod cmd;
mod image;
mod python;
mod ramdisk;
mod setup;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer verbs of Ferric")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build kernel, initramfs, UKI and ISO of a ramdisk profile
    Ramdisk(ramdisk::Args),
    /// Build a test system's disk image
    Image(image::Args),
    /// Install the Debian packages of ci/packages.txt that are missing
    Setup(setup::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Ramdisk(args) => ramdisk::run(&args),
        Verb::Image(args) => image::run(&args),
        Verb::Setup(args) => setup::run(&args),
    }
}
