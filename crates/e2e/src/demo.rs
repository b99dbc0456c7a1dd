//! The main job, for people: the path of [`deploy_debian`], with a table at the end and a way to look
//! further.

use crate::console::mib;
use crate::stories::World;
use crate::stories::deploy_debian::{self, NODE, Running, SSH_OPTIONS};
use anyhow::Result;
use std::fmt::Write as _;

/// Runs the demo and returns what it started and what to print.
///
/// # Errors
/// Whatever did not happen as promised.
pub async fn run(world: &mut World) -> Result<(Running, String)> {
    let running = deploy_debian::install(world).await?;
    world.console.finish();
    let artifacts = world.lab.artifacts();
    let size =
        |path: std::path::PathBuf| std::fs::metadata(path).map_or_else(|_| "?".to_owned(), |meta| mib(meta.len()));
    let text = format!(
        "\nFrom powered off to a running, verified Debian:\n\n{}\n\
         sizes: ramdisk {}, image {} (raw {}), memory of the server {} MiB\n",
        world.console.table(),
        size(artifacts.ramdisk.join("ferric.efi")),
        size(artifacts.debian.join("debian.raw.zst")),
        size(artifacts.debian.join("debian.raw")),
        running.server.memory_mib
    );
    Ok((running, text))
}

/// How to look further at a demo that was kept; `PID` stands for the first process of its namespaces.
///
/// # Errors
/// Never; writing into a string cannot fail.
pub fn hints(world: &World, running: &Running) -> Result<String> {
    let enter = "nsenter --target PID --net --mount --pid --";
    let mut text = "\nEverything is still running. To look further (as root):\n\n".to_owned();
    writeln!(
        text,
        "  log in to Debian   {enter} ssh {} -i {} debian@{}",
        SSH_OPTIONS.join(" "),
        running.key.display(),
        running.server.address
    )?;
    writeln!(
        text,
        "  ask the driver     {enter} env OS_AUTH_TYPE=none OS_ENDPOINT=http://127.0.0.1:6385 \\\n\
         {:21}{} node show {NODE}",
        "",
        world.lab.artifacts().baremetal.join("bin/baremetal").display()
    )?;
    writeln!(
        text,
        "  ask the BMC        {enter} curl -s {}{}",
        running.server.redfish_address(),
        running.server.redfish_system()
    )?;
    writeln!(text, "  read the logs      {}", world.lab.logs().display())?;
    writeln!(text, "  stop everything    kill PID")?;
    Ok(text)
}
