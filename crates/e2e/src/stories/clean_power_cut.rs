//! The power is cut in the middle of a clean that overwrites a disk. Once the machine has power again, the clean goes on, and in
//! the end nothing of the data is left.

use super::World;
use super::erase_every_bus::{fill, left};
use super::server_hardware::define;
use crate::ferricd::Ferricd;
use crate::lab::virsh;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use anyhow::{Result, bail, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const NODE: &str = "node-1";
const MIB: u64 = 192;
/// Slow enough that the cut comes in the middle; a pass of random data and one of zeros.
const RATE: u64 = 6 << 20;

/// The driver calls a machine lost after so long without a heartbeat. It has to boot within that time, too.
const SETTINGS: [(&str, &str); 2] =
    [("FERRIC_DEADLINES", "clean_callback_timeout=240"), ("FERRIC_HEARTBEAT_TIMEOUT", "60")];

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    world.console.begin("start ferricd");
    let mut ferricd = Ferricd::start_with(&world.lab, &SETTINGS).await?;
    world.console.end("machines are lost after 240 s of silence");
    let spec = ServerSpec { disk_mib: 16, ..ServerSpec::default() };
    let server = VirtualServer::define(&world.lab, &spec).await?;
    let disk = slow_disk(world, &server).await?;
    world.enroll(&server, NODE).await?;
    world.drive(&mut ferricd, "manage", NODE, &[]).await?;

    world.console.begin("provide, and cut the power in the middle of the overwrite");
    world.baremetal.run(&["node", "provide", NODE]).await?;
    let third = until("a third of the disk to be overwritten", Duration::from_secs(600), async || {
        let node = standing(world, &mut ferricd).await?;
        let done = node["driver_internal_info"]["progress"]["done"].as_u64().unwrap_or(0);
        let stage = node["driver_internal_info"]["progress"]["stage"].as_str().unwrap_or_default();
        world.console.update(stage);
        Ok((stage.contains("overwrite") && done > (MIB << 20) / 3).then(|| stage.to_owned()))
    })
    .await?;
    server.pull_the_plug().await?;
    ensure!(left(&disk).is_err() || left(&disk)? > 0, "the disk was empty before the cut: the story shows nothing");
    world.console.end(&third);

    // Whether somebody gives it power, and what it boots then, is all the same: the driver boots the ramdisk that it knows.
    world.console.begin("the power comes back: the clean goes on");
    virsh(&["start", server.name]).await?;
    until("the node to be available", Duration::from_secs(900), async || {
        let node = standing(world, &mut ferricd).await?;
        world.console.update(node["driver_internal_info"]["progress"]["stage"].as_str().unwrap_or("waiting"));
        Ok((node["provision_state"] == "available").then_some(()))
    })
    .await?;
    let left = left(&disk)?;
    ensure!(left == 0, "{left} sectors are not zero");
    world.console.end("not one byte of data, seen from outside");
    Ok(())
}

/// The node; an error when its clean has failed.
async fn standing(world: &World, ferricd: &mut Ferricd) -> Result<Value> {
    ferricd.check()?;
    let node = world.api.node(NODE).await?;
    if node["provision_state"] == "clean failed" {
        bail!("the clean failed: {}", node["last_error"]);
    }
    Ok(node)
}

/// A disk that takes nothing but writes, slowly, full of known data.
async fn slow_disk(world: &World, server: &VirtualServer) -> Result<PathBuf> {
    let path = world.lab.disks().join("SLOW.raw");
    fill(&path, MIB)?;
    let drive = format!("if=none,id=slow,format=raw,cache=unsafe,throttling.bps-write={RATE},file={}", path.display());
    let device = "virtio-blk-pci,bus=pcie.0,addr=0x13,drive=slow,serial=SLOW,discard=off,write-zeroes=off".to_owned();
    define(world, server, &[("-drive", drive), ("-device", device)]).await?;
    Ok(path)
}
