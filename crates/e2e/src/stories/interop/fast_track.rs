//! One boot of the ramdisk for inspection, cleaning and deploy.

use super::super::World;
use super::disk;
use super::site::{BOOT_LIMIT, NODE, SERVING, Site};
use crate::witness::Witness;
use anyhow::{Result, ensure};
use std::time::Duration;

/// From the end of the inspection until the agent has checked in again.
const CHECK_IN_LIMIT: Duration = Duration::from_secs(120);

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
    let url = crate::until("the agent's heartbeat after the inspection", CHECK_IN_LIMIT, async || {
        let node = api.node(NODE).await?;
        Ok(node["driver_internal_info"]["agent_url"].as_str().map(str::to_owned))
    })
    .await?;
    let wanted = format!("https://{}:9999", site.server.address);
    ensure!(url == wanted, "the agent's address is {url}, expected {wanted}");
    site.world.console.end(&url);

    site.world.console.begin("provide: clean with the agent that is there");
    site.drive("provide", &[]).await?;
    site.expect("available").await?;
    disk::has_no_table(&site.server)?;
    site.world.console.end("");

    let offered = site.choose("new.raw", 64, 2).await?;
    site.world.console.begin("deploy with the agent that is there");
    let before = site.server.serial_len();
    site.drive("deploy", &[]).await?;
    site.expect("active").await?;
    site.says(Witness::Uefi.text(), before, BOOT_LIMIT).await?;
    disk::holds(&site.server, &offered.path)?;
    let boots = site.server.serial_since(0).matches(SERVING).count();
    ensure!(boots == 1, "the ramdisk was booted {boots} times");
    site.world.console.end("the ramdisk was booted once");
    Ok(())
}
