//! Our ramdisk under the Ironic that people run today: one file per story, told by `cargo xtask interop ironic`.

pub mod abort;
pub mod clean;
pub mod cli;
pub mod deploy;
pub(super) mod disk;
pub mod failure;
pub mod fast_track;
pub mod partition;
pub mod pxe;
pub mod qcow2;
pub mod rebuild;
pub mod rescue;
pub mod service;
mod site;
pub mod vlan_bond;

use super::{Story, World};
use anyhow::{Result, bail};

/// What the name of a story with Ironic begins with where all stories are told apart.
pub const IRONIC_PREFIX: &str = "ironic_";

/// The stories with Ironic as the peer, in the order in which they run.
pub const IRONIC: &[Story] = &[
    Story {
        name: "deploy",
        about: "inspection by agent, automated cleaning, a raw image with config drive, cleaning again",
    },
    Story { name: "clean", about: "cleaning by hand, with a step that the agent offers and one that nobody does" },
    Story { name: "cli", about: "the command `ferric` as the client of an Ironic with nodes without hardware" },
    Story { name: "rebuild", about: "a second image over a first" },
    Story { name: "qcow2", about: "a qcow2 of compressed clusters, which Ironic leaves to the agent" },
    Story { name: "service", about: "a service step on a node that is in use" },
    Story { name: "fast_track", about: "one boot of the ramdisk for inspection, cleaning and deploy" },
    Story { name: "abort", about: "abort in every state that waits for the agent" },
    Story { name: "partition", about: "a partition image with swap space and config drive; a rebuild of it" },
    Story {
        name: "partition_bios",
        about: "the same on a BIOS that boots from the network; the rebuild has a DOS table",
    },
    Story { name: "pxe", about: "a BIOS, iPXE and Ironic's own boot scripts: inspection, cleaning, deploy" },
    Story {
        name: "vlan_bond",
        about: "static addresses on a VLAN of a bond, by virtual media; one of the two cables is cut",
    },
    Story {
        name: "rescue",
        about: "abort while Ironic waits for a rescue; the owner logs in; back to the installed system",
    },
    Story { name: "failure", about: "a wrong checksum: the error, the agent's logs, a disk that boots nothing" },
];

/// Tells one story in `world`.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn tell(name: &str, world: &mut World) -> Result<()> {
    match name {
        "deploy" => deploy::run(world).await,
        "clean" => clean::run(world).await,
        "cli" => cli::run(world).await,
        "rebuild" => rebuild::run(world).await,
        "qcow2" => qcow2::run(world).await,
        "service" => service::run(world).await,
        "fast_track" => fast_track::run(world).await,
        "abort" => abort::run(world).await,
        "partition" => partition::run(world).await,
        "partition_bios" => partition::run_bios(world).await,
        "pxe" => pxe::run(world).await,
        "vlan_bond" => vlan_bond::run(world).await,
        "rescue" => rescue::run(world).await,
        "failure" => failure::run(world).await,
        _ => bail!("there is no story {name}; `cargo xtask interop ironic --list` shows them"),
    }
}
