//! Developer verbs. Each verb is one file; CI runs only these.

use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod cmd;
mod debian;
mod demo;
mod e2e;
mod fuzz;
mod image;
mod interop;
mod ipa_tests;
mod peer;
mod python;
mod ramdisk;
mod release;
mod root_image;
mod sdk;
mod setup;
mod sim;
mod tempest;
mod wire;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer verbs of Ferric")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The main job: a virtual server from powered off to a running, verified Debian
    Demo(demo::Args),
    /// Build kernel, initramfs, UKI and ISO of a ramdisk profile
    Ramdisk(ramdisk::Args),
    /// Build a test system's disk image
    Image(image::Args),
    /// Run end-to-end stories on virtual servers
    E2e(e2e::Args),
    /// Feed the fuzz targets with what libFuzzer makes up
    Fuzz(fuzz::Args),
    /// Take simulated machines from enrolled to active, by the real agent and a real ferricd
    Sim(sim::Args),
    /// Run stories with a program that people run today in place of one of ours
    Interop(interop::Args),
    /// Measure ours beside a named peer
    Bench(bench::Args),
    /// Everything that decides whether a change lands
    Ci(ci::Args),
    /// Format the code
    Fmt {
        /// Only tell whether it is formatted
        #[arg(long)]
        check: bool,
    },
    /// Clippy with warnings as errors
    Lint,
    /// Unit and contract tests
    Test,
    /// Write generated pages
    Docs {
        /// Only tell whether they are up to date
        #[arg(long)]
        check: bool,
    },
    /// Write the code of `ferric.agent.v1` from its description; refuses what an older peer would misread
    Wire {
        /// Only tell whether it is up to date
        #[arg(long)]
        check: bool,
    },
    /// Install the Debian packages of ci/packages.txt that are missing
    Setup(setup::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Ramdisk(args) => ramdisk::run(&args),
        Verb::Image(args) => image::run(&args),
        Verb::E2e(args) => e2e::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Sim(args) => sim::run(&args),
        Verb::Interop(args) => interop::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Ci(args) => ci::run(&args),
        Verb::Fmt { check } => ci::fmt(check),
        Verb::Lint => ci::lint(),
        Verb::Test => ci::test(),
        Verb::Docs { check } => ci::docs(check),
        Verb::Wire { check } => wire::run(check),
        Verb::Setup(args) => setup::run(&args),
    }
}
