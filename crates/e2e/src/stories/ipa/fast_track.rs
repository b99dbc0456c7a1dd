//! One boot of the ramdisk for inspection, cleaning and deploy.

use super::super::World;
use super::super::fast_track::FIRMWARE_START;
use super::super::interop::disk;
use super::site::{BOOT, NODE, STATE_LIMIT, Site};
use crate::wait::until;
use crate::witness::Witness;
use anyhow::{Context as _, Result, ensure};

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;
    site.client(&["node", "set", NODE, "--driver-info", "fast_track=true"]).await?;

    site.world.console.begin("inspect: boot the ramdisk, which stays");
    site.drive("inspect", &[]).await?;
    site.expect("manageable").await?;
    let api = site.world.api.clone();
    let url = until("the agent's heartbeat after the inspection", STATE_LIMIT, async || {
        Ok(api.node(NODE).await?["driver_internal_info"]["agent_url"].as_str().map(str::to_owned))
    })
    .await?;
    site.world.console.end(&url);

    site.world.console.begin("provide: clean with the agent that is there");
    site.drive("provide", &[]).await?;
    site.expect("available").await?;
    disk::has_no_table(&site.server)?;
    site.world.console.end("");

    let offered = site.choose("new.raw", 64, 2).await?;
    site.world.console.begin("deploy with the agent that is there");
    site.drive("deploy", &[]).await?;
    site.expect("active").await?;
    site.boots_disk(0).await?;
    disk::holds(&site.server, &offered.path)?;
    site.said(BOOT, 1, 0)?;
    let console = site.server.serial_since(0);
    let until_disk = console.split(Witness::Uefi.text()).next().context("the console is empty")?;
    let starts = until_disk.matches(FIRMWARE_START).count();
    ensure!(starts == 2, "the firmware started something {starts} times, expected the ramdisk and the disk");
    site.world.console.end("the firmware started the ramdisk once and the disk once");
    Ok(())
}
