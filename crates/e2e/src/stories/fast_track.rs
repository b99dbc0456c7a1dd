//! A node that was inspected and cleaned stays in its ramdisk and is deployed there: its firmware runs once until the new
//! system boots.

use super::World;
use super::driver_killed::RAMDISK_BOOT;
use super::interop::disk;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

const NODE: &str = "node-1";
/// What the firmware says on the serial port when it starts something (OVMF).
pub(super) const FIRMWARE_START: &str = "BdsDxe: starting Boot";
/// From the end of the inspection until the agent has checked in.
const CHECK_IN_LIMIT: Duration = Duration::from_secs(180);
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut ferricd = world.start_ferricd().await?;
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    let old = world.lab.dir().join("old.raw");
    WitnessImage { mib: 64, seed: 1 }.write(&old)?;
    disk::put(&old, &server)?;
    world.enroll(&server, NODE).await?;
    world.baremetal.run(&["node", "set", NODE, "--driver-info", "fast_track=true"]).await?;
    world.drive(&mut ferricd, "manage", NODE, &[]).await?;

    world.console.begin("inspect: boot the ramdisk, which stays");
    world.drive(&mut ferricd, "inspect", NODE, &[]).await?;
    world.expect_state(NODE, "manageable").await?;
    let api = world.api.clone();
    until("the agent's heartbeat after the inspection", CHECK_IN_LIMIT, async || {
        ferricd.check()?;
        let node = api.node(NODE).await?;
        Ok(node["driver_internal_info"]["agent_url"].is_string().then_some(()))
    })
    .await?;
    world.console.end("the agent has checked in");

    world.console.begin("provide: clean with the agent that is there");
    world.drive(&mut ferricd, "provide", NODE, &[]).await?;
    world.expect_state(NODE, "available").await?;
    disk::has_no_table(&server)?;
    ensure!(server.state().await? == "running", "the server was switched off after cleaning");
    world.console.end("the disk is clean, the ramdisk stays");

    let path = world.lab.dir().join("system.raw");
    WitnessImage { mib: 64, seed: 2 }.write(&path)?;
    let image = world.offer("system.raw", &path)?;
    world.choose_image(NODE, &image).await?;
    world.console.begin("deploy with the agent that is there");
    world.drive(&mut ferricd, "deploy", NODE, &[]).await?;
    world.expect_state(NODE, "active").await?;
    until("the new system on the serial port", BOOT_LIMIT, async || {
        Ok(server.serial_since(0).contains(Witness::Uefi.text()).then_some(()))
    })
    .await?;
    disk::holds(&server, &path)?;
    let console = server.serial_since(0);
    let boots = console.matches(RAMDISK_BOOT).count();
    ensure!(boots == 1, "the ramdisk was booted {boots} times");
    let before_system = console.split(Witness::Uefi.text()).next().context("the console is empty")?;
    let starts = before_system.matches(FIRMWARE_START).count();
    ensure!(starts == 2, "the firmware started something {starts} times, expected the ramdisk and the new system");
    world.console.end("the firmware started the ramdisk once and the new system once");
    Ok(())
}
