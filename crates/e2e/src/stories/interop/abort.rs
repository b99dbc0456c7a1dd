//! `abort` in every state that waits for the agent, and what works afterwards.

use super::super::World;
use super::disk;
use super::site::{BOOT_LIMIT, NODE, Site};
use crate::witness::Witness;
use anyhow::{Result, ensure};
use std::time::Duration;

/// From a verb until Ironic waits for the agent: it builds and inserts a medium before that.
const WAIT_LIMIT: Duration = Duration::from_secs(180);
/// From `abort` until the node is in the state that follows.
const ABORT_LIMIT: Duration = Duration::from_secs(180);
/// From power-on until the agent writes the image.
const WRITE_LIMIT: Duration = Duration::from_secs(240);
/// Bytes a second: slow enough to be in the middle of the write for a while.
const SLOW: u64 = 2 << 20;
const ERASE: &str = r#"[{"interface": "deploy", "step": "erase_devices_metadata"}]"#;
const WRITE: &str = r#"[{"interface": "deploy", "step": "write_image"}]"#;

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;

    site.world.console.begin("abort while inspect wait");
    abort_early(&mut site, &["node", "inspect", NODE], "inspect wait", "inspect failed").await?;
    site.drive("manage", &[]).await?;
    site.expect("manageable").await?;
    site.world.console.end("");

    site.world.console.begin("abort while clean wait");
    abort_early(&mut site, &["node", "clean", "--clean-steps", ERASE, NODE], "clean wait", "clean failed").await?;
    site.client(&["node", "maintenance", "unset", NODE]).await?;
    site.drive("manage", &[]).await?;
    site.expect("manageable").await?;
    ensure!(disk::has_no_table(&site.server).is_err(), "the disk was erased by a cleaning that was aborted");
    site.world.console.end("");

    site.provide_uncleaned().await?;
    let offered = site.choose("new.raw", 64, 2).await?;
    site.world.console.begin("abort while wait call-back, in the middle of the write");
    let before = site.server.serial_len();
    site.world.images.throttle(Some(SLOW));
    site.client(&["node", "deploy", NODE]).await?;
    site.says("writing image", before, WRITE_LIMIT).await?;
    site.expect("wait call-back").await?;
    site.client(&["node", "abort", NODE]).await?;
    site.reaches("deploy failed", ABORT_LIMIT).await?;
    site.free(ABORT_LIMIT).await?;
    site.world.images.throttle(None);
    site.expect("deploy failed").await?;
    let history = site.history().await?;
    ensure!(history.contains("abort"), "the node's history does not speak of an abort: {history}");
    disk::has_no_table(&site.server)?;
    site.world.console.end("the disk has no partition table");

    site.world.console.begin("the next deploy works");
    site.drive("deploy", &[]).await?;
    site.expect("active").await?;
    disk::holds(&site.server, &offered.path)?;
    site.world.console.end("");

    site.world.console.begin("abort while service wait");
    let before = site.server.serial_len();
    abort_early(&mut site, &["node", "service", "--service-steps", WRITE, NODE], "service wait", "active").await?;
    site.says(Witness::Uefi.text(), before, BOOT_LIMIT).await?;
    disk::holds(&site.server, &offered.path)?;
    site.world.console.end("the installed system boots as before");
    Ok(())
}

/// Asks for a verb, aborts as soon as Ironic waits for the agent, and waits for the state after that.
async fn abort_early(site: &mut Site<'_>, verb: &[&str], wait: &str, after: &str) -> Result<()> {
    site.client(verb).await?;
    site.reaches(wait, WAIT_LIMIT).await?;
    site.client(&["node", "abort", NODE]).await?;
    site.reaches(after, ABORT_LIMIT).await?;
    site.free(ABORT_LIMIT).await?;
    site.expect(after).await.map(drop)
}
