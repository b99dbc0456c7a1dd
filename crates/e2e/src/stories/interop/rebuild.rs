//! A second image over a first, without a release in between.

use super::super::World;
use super::disk;
use super::site::{BOOT_LIMIT, Site};
use crate::witness::Witness;
use anyhow::{Result, ensure};
use serde_json::json;

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

    let second = site.choose("second.raw", 96, 3).await?;
    site.world.console.begin("rebuild with another image and a config drive");
    let before = site.server.serial_len();
    let config_drive = json!({"meta_data": {"hostname": "rebuilt"}}).to_string();
    site.drive("rebuild", &["--config-drive", &config_drive]).await?;
    site.saw("wait call-back")?;
    site.expect("active").await?;
    site.says(Witness::Uefi.text(), before, BOOT_LIMIT).await?;
    disk::holds(&site.server, &second.path)?;
    let scratch = site.world.lab.dir().to_owned();
    let metadata = disk::config_drive(&site.server, "/openstack/latest/meta_data.json", &scratch).await?;
    ensure!(metadata.contains("rebuilt"), "the config drive's meta data are {metadata}");
    site.world.console.end("the second image is on the disk and boots");
    Ok(())
}
