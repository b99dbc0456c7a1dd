//! An image whose bytes are not those that were promised: the node says so, its disk boots nothing, not even what it held
//! before, and the next deploy works.

use super::{Image, World};
use crate::firmware::Firmware;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

const NODE: &str = "node-1";

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut ferricd = world.start_ferricd().await?;
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    world.enroll(&server, NODE).await?;
    world.make_available(&mut ferricd, NODE).await?;

    world.console.begin("put an older system on the disk, which boots");
    server.pull_the_plug().await?;
    let old = world.lab.dir().join("old.raw");
    WitnessImage { mib: 64, seed: 1 }.write(&old)?;
    put_on_disk(&old, &server)?;
    world.boots(&server, Firmware::Ovmf, Some(Witness::Uefi)).await?;
    world.boots(&server, Firmware::SeaBios, Some(Witness::Bios)).await?;
    world.console.end("");

    let path = world.lab.dir().join("new.raw");
    WitnessImage { mib: 48, seed: 2 }.write(&path)?;
    let image = world.offer("new.raw", &path)?;
    let zeros = "0".repeat(128);
    let wrong = Image { sha512: zeros.clone(), sha256: zeros[..64].to_owned(), ..image.clone() };
    world.choose_image(NODE, &wrong).await?;
    world.console.begin("deploy with a wrong checksum fails");
    let refused = world.drive(&mut ferricd, "deploy", NODE, &[]).await;
    ensure!(refused.is_err(), "`baremetal node deploy --wait` ended well with a wrong checksum");
    let node = world.expect_state(NODE, "deploy failed").await?;
    let error = node["last_error"].as_str().context("the node has no last_error")?;
    for part in [&zeros[..16], &image.sha512[..16]] {
        ensure!(error.contains(part), "last_error names no digest {part}…: {error}");
    }
    world.console.end(error);

    world.console.begin("that disk alone boots nothing");
    server.pull_the_plug().await?;
    world.boots(&server, Firmware::Ovmf, None).await?;
    world.boots(&server, Firmware::SeaBios, None).await?;
    world.console.end("");

    world.console.begin("the next deploy works");
    world.choose_image(NODE, &image).await?;
    let before = server.serial_len();
    world.drive(&mut ferricd, "deploy", NODE, &[]).await?;
    world.expect_state(NODE, "active").await?;
    until("the new system on the serial port", Duration::from_secs(180), async || {
        Ok(server.serial_since(before).contains(Witness::Uefi.text()).then_some(()))
    })
    .await?;
    world.console.end("it boots from disk");
    Ok(())
}

/// Writes an image over the start of a server's disk.
pub(super) fn put_on_disk(image: &std::path::Path, server: &VirtualServer) -> Result<()> {
    let mut from = std::fs::File::open(image)?;
    let mut to = std::fs::File::options().write(true).open(&server.disk)?;
    std::io::copy(&mut from, &mut to).with_context(|| format!("write the disk of {}", server.name))?;
    to.sync_all()?;
    Ok(())
}
