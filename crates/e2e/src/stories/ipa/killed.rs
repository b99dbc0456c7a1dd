//! kill -9 of `ferricd` at random times while ironic-python-agent is inspected, cleans, deploys, and is serviced.

use super::super::World;
use super::super::driver_killed_often::Reaper;
use super::super::interop::disk;
use super::site::{BOOT, CLEAN_STEP, DEPLOY_STEP, NODE, SERVICE_STEP, Site};
use anyhow::{Result, bail, ensure};
use std::time::Duration;

/// Longest life of a driver; a boot of this ramdisk takes much longer.
const LIFE: Duration = Duration::from_secs(25);
const SERVICE: &str = r#"[{"interface": "deploy", "step": "inject_files", "args": {"files":
    [{"path": "/serviced.txt", "partition": "1", "content": "cHV0IGhlcmU="}]}}]"#;
const IMAGE: &str = "new.raw";

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;
    let mut reaper = Reaper::new(&site.world.console, LIFE)?;

    for (verb, state, step, times) in
        [("inspect", "manageable", CLEAN_STEP, 0), ("provide", "available", CLEAN_STEP, 1)]
    {
        let before = site.server.serial_len();
        reaper.drive(site.world, &mut site.ferricd, (verb, NODE), &[], state).await?;
        site.said(BOOT, 1, before)?;
        site.said(step, times, before)?;
    }
    disk::has_no_table(&site.server)?;

    let offered = site.choose(IMAGE, 96, 2).await?;
    let before = site.server.serial_len();
    reaper.drive(site.world, &mut site.ferricd, ("deploy", NODE), &[], "active").await?;
    site.boots_disk(before).await?;
    site.said(BOOT, 1, before)?;
    site.said(DEPLOY_STEP, 1, before)?;
    if let Some(range) = site.world.images.sent_twice(IMAGE) {
        bail!("bytes {range:?} of the image were sent twice");
    }
    disk::holds(&site.server, &offered.path)?;

    let before = site.server.serial_len();
    let steps = ["--service-steps", SERVICE];
    reaper.drive(site.world, &mut site.ferricd, ("service", NODE), &steps, "active").await?;
    site.said(BOOT, 1, before)?;
    site.said(SERVICE_STEP, 1, before)?;
    site.boots_disk(before).await?;
    let node = site.expect("active").await?;
    ensure!(node["last_error"].is_null(), "last_error after servicing: {}", node["last_error"]);
    Ok(())
}
