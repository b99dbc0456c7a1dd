//! A service step on a node that is in use, by the agent.

use super::super::World;
use super::disk;
use super::site::{BOOT_LIMIT, Site};
use crate::witness::Witness;
use anyhow::{Result, ensure};

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;
    site.provide_uncleaned().await?;
    let first = site.choose("first.raw", 64, 2).await?;
    site.world.console.begin("deploy");
    site.drive("deploy", &[]).await?;
    site.expect("active").await?;
    disk::holds(&site.server, &first.path)?;
    site.world.console.end("");

    let second = site.offer("second.raw", 64, 3)?;
    site.world.console.begin("service: write another image in place");
    let before = site.server.serial_len();
    site.drive("service", &["--service-steps", &second.as_service_steps()]).await?;
    site.saw("service wait")?;
    let node = site.expect("active").await?;
    ensure!(node["last_error"].is_null(), "last_error after servicing: {}", node["last_error"]);
    site.says(Witness::Uefi.text(), before, BOOT_LIMIT).await?;
    disk::holds(&site.server, &second.path)?;
    site.world.console.end("the second image is on the disk and boots");
    Ok(())
}
