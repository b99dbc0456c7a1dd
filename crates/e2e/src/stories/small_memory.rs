//! A node with 256 MiB of memory and the ramdisk for physical servers, the largest of those that provision: it is cleaned, and
//! a qcow2 of the largest clusters is written, unpacked on the way; the agent keeps to its memory.

use super::World;
use super::deploy_debian::{BUSY_MEMORY, IDLE_MEMORY, memory_at_most};
use super::interop::disk;
use crate::console::mib;
use crate::ferricd::Ferricd;
use crate::lab::output;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Context as _, Result};
use std::time::Duration;
use tokio::process::Command;

const NODE: &str = "node-1";
const MEMORY_MIB: u32 = 256;
const NAME: &str = "new.qcow2";
/// More than the memory, so that nothing can keep it whole.
const IMAGE_MIB: u64 = 320;
/// The most that the format has (qcow2 specification, `cluster_bits` of QEMU), each packed as one piece.
const CLUSTER: &str = "2M";

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let ramdisk = world.lab.artifacts().server_ramdisk.clone();
    let ramdisk = ramdisk.context("--server-ramdisk is missing: `cargo xtask e2e small_memory` makes it")?;
    let mut ferricd = Ferricd::start_with_ramdisk(&world.lab, &ramdisk).await?;
    let server =
        VirtualServer::define(&world.lab, &ServerSpec { memory_mib: MEMORY_MIB, ..ServerSpec::default() }).await?;
    world.enroll(&server, NODE).await?;
    world.make_available(&mut ferricd, NODE).await?;

    world.console.begin("make a qcow2 of compressed clusters");
    let (raw, path) = (world.lab.dir().join("new.raw"), world.lab.dir().join(NAME));
    WitnessImage { mib: IMAGE_MIB, seed: 2 }.write(&raw)?;
    let options = format!("compression_type=zstd,cluster_size={CLUSTER}");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options]).arg(&raw).arg(&path);
    output(&mut convert).await?;
    let image = world.offer(NAME, &path)?;
    world.choose_image(NODE, &image).await?;
    world.baremetal.run(&["node", "set", NODE, "--instance-info", "image_disk_format=qcow2"]).await?;
    world.console.end(&mib(image.bytes));

    world.console.begin("deploy it with 256 MiB of memory");
    let idle = memory_at_most(&server, "memory_kib", IDLE_MEMORY)?;
    let before = server.serial_len();
    world.drive(&mut ferricd, "deploy", NODE, &[]).await?;
    world.expect_state(NODE, "active").await?;
    let busy = memory_at_most(&server, "peak_memory_kib", BUSY_MEMORY)?;
    until("the new system on the serial port", Duration::from_secs(180), async || {
        Ok(server.serial_since(before).contains(Witness::Uefi.text()).then_some(()))
    })
    .await?;
    disk::holds(&server, &raw)?;
    world.console.end(&format!("agent {} while it waits, {} at most; it boots", mib(idle), mib(busy)));
    Ok(())
}
