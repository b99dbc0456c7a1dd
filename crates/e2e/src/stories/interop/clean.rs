//! Cleaning by hand: a step that the agent offers, and one that nobody does.

use super::super::World;
use super::disk;
use super::site::{NODE, Site};
use anyhow::{Context as _, Result, ensure};

const ERASE: &str = r#"[{"interface": "deploy", "step": "erase_devices_metadata"}]"#;
const UNKNOWN: &str = r#"[{"interface": "deploy", "step": "erase_everything_twice"}]"#;

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;

    site.world.console.begin("clean by hand: a step that nobody offers");
    let refused = site.drive("clean", &["--clean-steps", UNKNOWN]).await;
    ensure!(refused.is_err(), "`baremetal node clean --wait` ended well with a step that nobody offers");
    let node = site.expect("clean failed").await?;
    let error = node["last_error"].as_str().context("the node has no last_error")?.to_owned();
    ensure!(error.contains("erase_everything_twice"), "last_error does not name the step: {error}");
    ensure!(disk::has_no_table(&site.server).is_err(), "the disk was erased by a cleaning that was refused");
    site.world.console.end(&error);

    site.world.console.begin("clean by hand: erase_devices_metadata");
    site.client(&["node", "maintenance", "unset", NODE]).await?;
    site.drive("manage", &[]).await?;
    site.drive("clean", &["--clean-steps", ERASE]).await?;
    site.saw("clean wait")?;
    let node = site.expect("manageable").await?;
    ensure!(node["last_error"].is_null(), "last_error after cleaning: {}", node["last_error"]);
    disk::has_no_table(&site.server)?;
    site.world.console.end("the older system's partition table is gone");
    Ok(())
}
