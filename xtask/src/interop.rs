//! `cargo xtask interop PEER [STORY…]`: stories with a program that people run today in place of one of ours.

use crate::e2e::{self, Parts};
use crate::python::{self, System};
use crate::{ipa_tests, peer, sdk, setup, tempest};
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
pub enum Peer {
    /// Ironic, in place of ferricd: it drives our ramdisk
    Ironic,
    /// ironic-python-agent in a Debian ramdisk, in place of ours: ferricd drives it
    Ipa,
    /// openstacksdk's own functional tests of bare metal, against ferricd; a story is a part of a test's name
    Sdk,
    /// ironic-tempest-plugin's API tests, against ferricd; a story is a part of a test's name
    Tempest,
    /// ironic-python-agent's own functional tests, against ferric-agent over http and https; they are not chosen from
    IpaTests,
}

impl Peer {
    /// Its name for the `e2e` program.
    fn name(self) -> &'static str {
        match self {
            Self::Ironic => "ironic",
            Self::Ipa => "ipa",
            Self::Sdk => "sdk",
            Self::Tempest => "tempest",
            Self::IpaTests => "ipa-tests",
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    match args.peer {
        Peer::Sdk => return sdk::run(&args.stories, args.list),
        Peer::Tempest => return tempest::run(&args.stories, args.list),
        Peer::IpaTests => return ipa_tests::run(&args.stories),
        Peer::Ironic | Peer::Ipa => {}
    }
    if args.list {
        return e2e::list(&["--peer", args.peer.name()]);
    }
    let all = args.stories.is_empty()
        || args
            .stories
            .iter()
            .any(|story| ["partition", "partition_bios", "rescue", "vlan_bond"].contains(&story.as_str()));
    let mut stories = prepare(args.peer, &args.evidence, if all { Parts::All } else { Parts::Usual })?;
    Err(stories.arg("--").args(&args.stories).exec().into())
}

/// The command that tells stories with `peer`, with all that it needs made; names of stories follow `--`.
pub fn prepare(peer: Peer, evidence: &PathBuf, parts: Parts) -> Result<Command> {
    let name = peer.name();
    let place = match peer {
        Peer::Ipa => {
            setup::packages()?;
            peer::ipa_ramdisk()?
        }
        Peer::Ironic | Peer::Sdk | Peer::Tempest | Peer::IpaTests => python::environment("ironic", System::Hidden)?,
    };
    let (program, artifacts) = e2e::prepare(evidence, parts)?;
    // Built beside the stories.
    let manager = program.with_file_name("interop-manager");
    let mut stories = Command::new(program);
    stories.args(["run", "--peer", name]).args(artifacts).arg(format!("--{name}")).arg(place);
    stories.arg("--interop-manager").arg(manager);
    Ok(stories)
}
