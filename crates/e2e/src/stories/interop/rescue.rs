//! `abort` while Ironic waits for the ramdisk to rescue a node, and the way back; a ramdisk that has no rescue system; and one
//! that has, to which the owner logs in. The ramdisk is booted from the network: with virtual media Ironic 39 switches the machine off
//! when the rescue was finalized (`RedfishVirtualMediaBoot.clean_up_ramdisk`).

use super::super::World;
use super::super::login::{key_pair, opens_late, owner_looks_at_disk};
use super::disk;
use super::site::{BOOT_LIMIT, NODE, Site};
use crate::firmware::Firmware;
use crate::server::ServerSpec;
use crate::witness::Witness;
use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// From a verb until Ironic waits for the agent: it builds and inserts a medium before that.
const WAIT_LIMIT: Duration = Duration::from_secs(180);
/// From `abort` until the node is in the state that follows.
const ABORT_LIMIT: Duration = Duration::from_secs(180);

const PASSWORD: &str = "a word of the operator";

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let spec = ServerSpec { firmware: Firmware::SeaBios, ..ServerSpec::default() };
    let mut site = Site::start_with(world, spec).await?;
    // The same two files, under the names that a rescue has for them.
    let files = site.ironic.driver_info().iter().filter_map(|pair| pair.strip_prefix("deploy_"));
    let files: Vec<String> = files.map(|pair| format!("rescue_{pair}")).collect();
    ensure!(files.len() == 2, "a rescue boots a kernel and a ramdisk, not {files:?}");
    let mut change = vec!["node", "set", NODE, "--rescue-interface", "agent"];
    change.extend(files.iter().flat_map(|pair| ["--driver-info", pair]));
    site.client(&change).await?;
    site.provide_uncleaned().await?;
    let offered = site.choose("new.raw", 64, 2).await?;
    site.world.console.begin("deploy");
    site.drive("deploy", &[]).await?;
    site.expect("active").await?;
    disk::holds(&site.server, &offered.path)?;
    site.world.console.end("");

    site.world.console.begin("abort while rescue wait");
    site.client(&["node", "rescue", "--rescue-password", PASSWORD, NODE]).await?;
    site.reaches("rescue wait", WAIT_LIMIT).await?;
    site.client(&["node", "abort", NODE]).await?;
    site.reaches("rescue failed", ABORT_LIMIT).await?;
    site.free(ABORT_LIMIT).await?;
    let node = site.expect("rescue failed").await?;
    ensure!(node["maintenance"] == false, "the node is in maintenance: {}", node["maintenance_reason"]);
    site.world.console.end("");

    back(&mut site).await?;

    site.world.console.begin("rescue, and let the ramdisk refuse it");
    site.client(&["node", "rescue", "--rescue-password", PASSWORD, NODE]).await?;
    site.reaches("rescue failed", BOOT_LIMIT + WAIT_LIMIT).await?;
    site.free(ABORT_LIMIT).await?;
    let node = site.expect("rescue failed").await?;
    site.world.console.end(node["last_error"].as_str().unwrap_or_default());

    back(&mut site).await?;
    disk::holds(&site.server, &offered.path)?;
    log_in(&mut site, &offered.path).await?;
    back(&mut site).await?;
    disk::holds(&site.server, &offered.path)?;
    Ok(())
}

/// The same with the ramdisk of profile rescue.
async fn log_in(site: &mut Site<'_>, image: &Path) -> Result<()> {
    site.world.console.begin("rescue: the owner logs in and looks at the disk");
    let ramdisk = site.world.lab.artifacts().rescue_ramdisk.clone();
    let ramdisk = ramdisk.context("--rescue-ramdisk is missing: `cargo xtask interop ironic rescue` makes it")?;
    let (key, public) = key_pair(site.world.lab.dir()).await?;
    let mut change = vec!["node".to_owned(), "set".to_owned(), NODE.to_owned()];
    for (name, file) in [("rescue_kernel", "vmlinuz"), ("rescue_ramdisk", "initramfs")] {
        let url = site.world.images.offer(&format!("rescue-{file}"), &ramdisk.join(file));
        change.extend(["--driver-info".to_owned(), format!("{name}={url}")]);
    }
    change.extend(["--instance-info".to_owned(), format!("rescue_authorized_keys={public}")]);
    site.client(&change.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mark = site.server.serial_len();
    site.client(&["node", "rescue", "--rescue-password", PASSWORD, NODE]).await?;
    let server = site.server.clone();
    tokio::try_join!(site.reaches("rescue", BOOT_LIMIT + WAIT_LIMIT), opens_late(&server, mark))?;
    site.free(ABORT_LIMIT).await?;
    let node = site.expect("rescue").await?;
    ensure!(node["last_error"].is_null(), "last_error after the rescue: {}", node["last_error"]);
    let seen = owner_looks_at_disk(&server, image, PASSWORD, &key, mark).await?;
    site.world.console.end(&seen);
    Ok(())
}

/// `unrescue`, after which the installed system runs.
async fn back(site: &mut Site<'_>) -> Result<()> {
    site.world.console.begin("unrescue: the installed system boots as before");
    let before = site.server.serial_len();
    site.drive("unrescue", &[]).await?;
    site.expect("active").await?;
    site.says(Witness::Bios.text(), before, BOOT_LIMIT).await?;
    site.world.console.end("");
    Ok(())
}
