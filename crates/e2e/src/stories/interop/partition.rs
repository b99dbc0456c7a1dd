//! A partition image under Ironic: swap space and config drive around a root file system, and a rebuild of it.

use super::super::World;
use super::disk;
use super::site::{NODE, Site};
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

/// From the end of a verb until the installed Debian asks for a login; emulated, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let root = world.lab.artifacts().debian_root.clone();
    let root = root.context("--debian-root is missing: `cargo xtask interop ironic partition` makes it")?;
    let mut site = Site::start(world).await?;
    site.provide_uncleaned().await?;
    let image = site.world.offer("debian-root.raw.zst", &root)?;
    site.world.choose_image(NODE, &image).await?;
    let mut arguments = vec!["node", "set", NODE];
    for pair in ["image_type=partition", "root_gb=2", "swap_mb=128"] {
        arguments.extend(["--instance-info", pair]);
    }
    site.client(&arguments).await?;
    for (verb, hostname) in [("deploy", "partition-1"), ("rebuild", "partition-2")] {
        site.world.console.begin(&format!("{verb}: root file system, ESP, swap, config drive"));
        let before = site.server.serial_len();
        let config_drive = serde_json::json!({"meta_data": {"uuid": hostname, "hostname": hostname}}).to_string();
        site.drive(verb, &["--config-drive", &config_drive]).await?;
        site.expect("active").await?;
        let scratch = site.world.lab.dir().to_owned();
        let metadata = disk::config_drive(&site.server, "/openstack/latest/meta_data.json", &scratch).await?;
        ensure!(metadata.contains(hostname), "the config drive's meta data are {metadata}");
        site.says(&format!("{hostname} login:"), before, BOOT_LIMIT).await?;
        site.world.console.end("Debian boots with the name of its config drive");
    }
    Ok(())
}
