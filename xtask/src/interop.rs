//! `cargo xtask interop PEER [STORY…]`: stories with a program that people run today in place of one of ours.

use crate::python::{self, System};
use crate::{e2e, sdk};
use anyhow::Result;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// Who stands in for one of our programs
    peer: Peer,
    /// Stories to tell; all of them if none is named
    stories: Vec<String>,
    /// Show which stories there are
    #[arg(long)]
    list: bool,
    /// Folder that takes logs and first sectors of disks of failed stories
    #[arg(long, default_value = "target/e2e")]
    evidence: PathBuf,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Peer {
    /// Ironic, in place of ferricd: it drives our ramdisk
    Ironic,
    /// openstacksdk's own functional tests of bare metal, against ferricd; a story is a part of a test's name
    Sdk,
}

impl Peer {
    /// Its name for the `e2e` program.
    fn name(self) -> &'static str {
        match self {
            Self::Ironic => "ironic",
            Self::Sdk => "sdk",
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    if let Peer::Sdk = args.peer {
        return sdk::run(&args.stories, args.list);
    }
    let peer = args.peer.name();
    if args.list {
        return e2e::list(&["--peer", peer]);
    }
    let environment = match args.peer {
        Peer::Ironic | Peer::Sdk => python::environment("ironic", System::Hidden)?,
    };
    let (program, artifacts) = e2e::prepare(&args.evidence)?;
    // Built beside the stories.
    let manager = program.with_file_name("interop-manager");
    let mut stories = Command::new(program);
    stories.args(["run", "--peer", peer]).args(artifacts).arg(format!("--{peer}")).arg(environment);
    stories.arg("--interop-manager").arg(manager);
    Err(stories.arg("--").args(&args.stories).exec().into())
}
