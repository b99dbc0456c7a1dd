//! The life that most nodes of an Ironic lead: inspected, cleaned, deployed with a config drive, released, cleaned.

use super::super::World;
use super::disk;
use super::site::{BOOT_LIMIT, NODE, SERVING, Site};
use crate::witness::Witness;
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
    site.drive("provide", &[]).await?;
    site.saw("clean wait")?;
    site.expect("available").await?;
    disk::has_no_table(&site.server)?;
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
    site.says(Witness::Uefi.text(), before, BOOT_LIMIT).await?;
    disk::holds(&site.server, &offered.path)?;
    let scratch = site.world.lab.dir().to_owned();
    let metadata = disk::config_drive(&site.server, "/openstack/latest/meta_data.json", &scratch).await?;
    let metadata: Value = serde_json::from_str(&metadata).context("read the config drive's meta data")?;
    ensure!(metadata["hostname"] == "interop-1", "the config drive's meta data are {metadata}");
    ensure!(site.server.serial_since(before).contains(SERVING), "the agent's console does not say {SERVING:?}");
    site.world.console.end("the image is on the disk and boots");

    site.world.console.begin("undeploy: automated cleaning");
    site.drive("undeploy", &[]).await?;
    site.saw("clean wait")?;
    site.expect("available").await?;
    disk::has_no_table(&site.server)?;
    site.world.console.end("");
    Ok(())
}

/// Checks what Ironic stored of the inspection, and says it in a few words.
async fn inspected(site: &Site<'_>) -> Result<String> {
    let stored = site.inventory().await?;
    let inventory = &stored["inventory"];
    let disk = &inventory["disks"][0];
    ensure!(disk["name"] == "/dev/vda", "the inventory's first disk is {disk}");
    ensure!(disk["size"] == 4_u64 << 30, "the disk's size is {}", disk["size"]);
    let interface = &inventory["interfaces"][0];
    ensure!(interface["mac_address"] == site.server.mac.as_str(), "the inventory's first interface is {interface}");
    ensure!(interface["ipv4_address"] == site.server.address.to_string(), "the interface's address is {interface}");
    ensure!(inventory["boot"]["current_boot_mode"] == "uefi", "the boot mode is {}", inventory["boot"]);
    let node = site.show().await?;
    ensure!(node["properties"]["cpu_arch"] == "x86_64", "the node's properties are {}", node["properties"]);
    let ports = site.world.baremetal.json(&["port", "list", "--node", NODE]).await?;
    ensure!(ports.as_array().map(Vec::len) == Some(1), "the node has one interface and these ports: {ports}");
    Ok(format!("{} CPUs, {} MiB", inventory["cpu"]["count"], inventory["memory"]["physical_mb"]))
}
