//! `cargo xtask e2e [STORY…]`: makes what stories need and starts the `e2e` program.

use crate::python::{self, System};
use crate::{cmd, image, release, root_image, setup};
use anyhow::{Context as _, Result};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// Stories to tell; all of them if none is named
    stories: Vec<String>,
    /// Show which stories there are
    #[arg(long)]
    list: bool,
    /// Folder that takes logs and first sectors of disks of failed stories
    #[arg(long, default_value = "target/e2e")]
    evidence: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    if args.list {
        return list(&[]);
    }
    const WANT_ALL: [&str; 5] =
        ["partition_image", "partition_image_bios", "rescue_login", "server_hardware", "small_memory"];
    let wants_all = |story: &String| WANT_ALL.contains(&story.as_str());
    let all = args.stories.is_empty() || args.stories.iter().any(wants_all);
    let (program, artifacts) = prepare(&args.evidence, if all { Parts::All } else { Parts::Usual })?;
    // From here on this process is the stories: a signal to it reaches what they started.
    Err(Command::new(program).arg("run").args(artifacts).arg("--").args(&args.stories).exec().into())
}

/// Prints names and meanings of stories.
pub fn list(arguments: &[&str]) -> Result<()> {
    let mut list = cargo();
    list.args(["run", "--quiet", "--locked", "--package", "e2e", "--bin", "e2e", "--", "list"]).args(arguments);
    cmd::run(&mut list)
}

/// Which parts are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// What nearly every story needs.
    Usual,
    /// And those that few need: a partition image, the ramdisk for physical servers, which has mke2fs, and that for rescues.
    All,
}

/// Installs, builds and downloads whatever the stories and the demo need, and returns the `e2e` program and the
/// arguments that tell it where everything is. What is there already costs nothing.
pub fn prepare(evidence: &PathBuf, parts: Parts) -> Result<(PathBuf, Vec<OsString>)> {
    setup::packages()?;
    let sushy = python::environment("sushy-emulator", System::Visible)?;
    let baremetal = python::environment("baremetal", System::Hidden)?;
    let debian = image::debian(false)?;
    eprintln!("[build] ramdisk");
    let ramdisk = cmd::root().join("target/ramdisk");
    let xtask = std::env::current_exe().context("find this program")?;
    let build = |profile: &str, out: &PathBuf| {
        cmd::run(Command::new(&xtask).args(["ramdisk", "--profile", profile, "--out"]).arg(out))
    };
    build("vm", &ramdisk)?;
    let mut more = Vec::new();
    if parts == Parts::All {
        let server = cmd::root().join("target/ramdisk-server");
        build("server", &server)?;
        let rescue = cmd::root().join("target/ramdisk-rescue");
        build("rescue", &rescue)?;
        more.extend([("--server-ramdisk", server), ("--rescue-ramdisk", rescue)]);
        more.push(("--debian-root", root_image::debian()?));
    }
    eprintln!("[build] ferricd and the stories");
    let release = release::tools()?;
    let evidence = cmd::root().join(evidence);
    let paths = [
        ("--ferricd", release.join("ferricd")),
        ("--ramdisk", ramdisk),
        ("--debian", debian),
        ("--sushy", sushy),
        ("--baremetal", baremetal),
        ("--evidence", evidence),
    ];
    let arguments =
        paths.into_iter().chain(more).flat_map(|(name, path)| [OsString::from(name), path.into()]).collect();
    Ok((release.join("e2e"), arguments))
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(cmd::root());
    command
}
