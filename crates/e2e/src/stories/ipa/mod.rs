//! `ferricd` over the ramdisk that people run today, Debian with ironic-python-agent: one file per story, told by
//! `cargo xtask interop ipa`.

pub mod clean;
pub mod deploy;
pub mod fast_track;
pub mod killed;
pub mod qcow2;
pub mod rescue;
mod site;

use super::{Story, World};
use anyhow::{Result, bail};

/// What the name of a story with ironic-python-agent begins with where all stories are told apart.
pub const IPA_PREFIX: &str = "ipa_";

/// The stories with ironic-python-agent as the peer, in the order in which they run.
pub const IPA: &[Story] = &[
    Story { name: "deploy", about: "inspection, automated cleaning, a raw image with config drive, cleaning again" },
    Story { name: "qcow2", about: "a qcow2 that the agent converts, and a service step that puts a file into it" },
    Story { name: "clean", about: "cleaning by hand: a hold with a look at certificate and token, an unknown step" },
    Story { name: "fast_track", about: "one boot of the ramdisk for inspection, cleaning and deploy" },
    Story { name: "rescue", about: "the agent takes the rescue password, and the way back to the instance" },
    Story { name: "killed", about: "kill -9 of ferricd at random times in inspection, cleaning, deploy and service" },
];

/// Tells one story in `world`.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn tell(name: &str, world: &mut World) -> Result<()> {
    match name {
        "deploy" => deploy::run(world).await,
        "qcow2" => qcow2::run(world).await,
        "clean" => clean::run(world).await,
        "fast_track" => fast_track::run(world).await,
        "rescue" => rescue::run(world).await,
        "killed" => killed::run(world).await,
        _ => bail!("there is no story {name}; `cargo xtask interop ipa --list` shows them"),
    }
}
