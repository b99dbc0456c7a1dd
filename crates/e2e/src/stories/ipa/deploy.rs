//! The life that most nodes lead: inspected, cleaned, deployed with a config drive, released, cleaned.

use super::super::World;
use super::super::interop::disk;
use super::site::{BOOT, CLEAN_STEP, DEPLOY_STEP, NODE, Site};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;

    site.world.console.begin("inspect: boot the ramdisk from virtual media, read the hardware");
    site.drive("inspect", &[]).await?;
    site.saw("inspect wait")?;
    site.expect("manageable").await?;
    let found = inspected(&site).await?;
    site.world.console.end(&found);

    site.world.console.begin("provide: automated cleaning");
    let before = site.server.serial_len();
    site.drive("provide", &[]).await?;
    site.saw("clean wait")?;
    site.expect("available").await?;
    disk::has_no_table(&site.server)?;
    site.said(CLEAN_STEP, 1, before)?;
    site.world.console.end("the older system's partition table is gone");

    let offered = site.choose("new.raw", 96, 2).await?;
    site.world.console.begin("deploy: raw image and config drive");
    let config_drive = json!({
        "meta_data": {"uuid": site.server.uuid, "hostname": "interop-1"},
        "user_data": "#cloud-config\n",
    });
    let before = site.server.serial_len();
    site.drive("deploy", &["--config-drive", &config_drive.to_string()]).await?;
    site.saw("wait call-back")?;
    site.expect("active").await?;
    site.boots_disk(before).await?;
    disk::holds(&site.server, &offered.path)?;
    let scratch = site.world.lab.dir().to_owned();
    let metadata = disk::config_drive(&site.server, "/openstack/latest/meta_data.json", &scratch).await?;
    let metadata: Value = serde_json::from_str(&metadata).context("read the config drive's meta data")?;
    ensure!(metadata["hostname"] == "interop-1", "the config drive's meta data are {metadata}");
    site.said(BOOT, 1, before)?;
    site.said(DEPLOY_STEP, 1, before)?;
    // A raw image goes straight to the disk, so it is fetched once and nothing of it is kept in the ramdisk.
    let sent: u64 = site.world.images.fetches("new.raw").iter().map(|fetch| fetch.sent).sum();
    ensure!(sent == offered.image.bytes, "{sent} bytes of {} were fetched", offered.image.bytes);
    site.world.console.end("the image is on the disk and boots");

    site.world.console.begin("undeploy: automated cleaning");
    site.drive("undeploy", &[]).await?;
    site.saw("clean wait")?;
    site.expect("available").await?;
    disk::has_no_table(&site.server)?;
    site.world.console.end("");
    Ok(())
}

/// Checks what was stored of the inspection, and says it in a few words.
async fn inspected(site: &Site<'_>) -> Result<String> {
    let text = site.client(&["node", "inventory", "save", NODE]).await?;
    let found: Value = serde_json::from_str(&text).with_context(|| format!("the client printed no JSON: {text}"))?;
    let inventory = &found["inventory"];
    let disks = inventory["disks"].as_array().context("the inventory has no list of disks")?;
    ensure!(disks.len() == 1, "the server has one disk, its inventory shows {disks:?}");
    let interfaces = inventory["interfaces"].as_array().context("the inventory has no list of interfaces")?;
    let ours = interfaces.iter().any(|one| one["mac_address"] == site.server.mac.as_str());
    ensure!(ours, "the inventory does not show {}: {interfaces:?}", site.server.mac);
    let memory = inventory["memory"]["physical_mb"].as_u64().context("the inventory has no memory")?;
    ensure!(memory == u64::from(site.server.memory_mib), "the inventory shows {memory} MiB of memory");
    let node = site.expect("manageable").await?;
    let architecture = &node["properties"]["cpu_arch"];
    ensure!(architecture == "x86_64", "the node's cpu_arch is {architecture}");
    Ok(format!("{} CPUs, {memory} MiB, {} disk", inventory["cpu"]["count"], disks.len()))
}
