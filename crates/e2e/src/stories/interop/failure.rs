//! An image with another checksum: the node says so, the agent's logs are stored, the disk boots nothing, and the next
//! deploy works.

use super::super::World;
use super::disk;
use super::site::{BOOT_LIMIT, NODE, Site};
use crate::firmware::Firmware;
use crate::lab::output;
use crate::stories::Image;
use crate::witness::Witness;
use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;
    site.provide_uncleaned().await?;
    let offered = site.offer("new.raw", 64, 2)?;
    let zeros = "0".repeat(128);
    let wrong = Image { sha512: zeros.clone(), sha256: zeros[..64].to_owned(), ..offered.image.clone() };
    site.world.choose_image(NODE, &wrong).await?;

    site.world.console.begin("deploy with a wrong checksum fails");
    let refused = site.drive("deploy", &[]).await;
    ensure!(refused.is_err(), "`baremetal node deploy --wait` ended well with a wrong checksum");
    let node = site.expect("deploy failed").await?;
    let history = site.history().await?;
    for part in [&zeros[..16], &offered.image.sha512[..16]] {
        ensure!(history.contains(part), "the node's history names no digest {part}…: {history}");
    }
    site.world.console.end("the node's history names both digests");

    site.world.console.begin("the agent's logs are stored");
    let uuid = node["uuid"].as_str().context("the node has no uuid")?.to_owned();
    let archives = site.ironic.collected_logs()?;
    ensure!(archives.len() == 1, "Ironic stored these logs: {archives:?}");
    let name = archives[0].file_name().unwrap_or_default().to_string_lossy().into_owned();
    ensure!(name.contains(&uuid), "the archive {name} does not name the node {uuid}");
    let log = output(Command::new("tar").args(["-xzOf"]).arg(&archives[0]).arg("journal")).await?;
    ensure!(log.contains(&offered.image.sha512[..16]), "the stored log does not tell which digest was found: {log}");
    ensure!(log.contains(&uuid), "the stored log does not name the node: {log}");
    site.world.console.end(&name);

    site.world.console.begin("that disk alone boots nothing");
    site.server.pull_the_plug().await?;
    site.world.boots(&site.server, Firmware::Ovmf, None).await?;
    site.world.boots(&site.server, Firmware::SeaBios, None).await?;
    site.world.console.end("");

    site.world.console.begin("the next deploy works");
    site.world.choose_image(NODE, &offered.image).await?;
    let before = site.server.serial_len();
    site.drive("deploy", &[]).await?;
    site.expect("active").await?;
    site.says(Witness::Uefi.text(), before, BOOT_LIMIT).await?;
    disk::holds(&site.server, &offered.path)?;
    site.world.console.end("it boots from disk");
    Ok(())
}
