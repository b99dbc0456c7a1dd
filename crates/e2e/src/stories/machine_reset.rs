//! The machine is reset in the middle of the image write: its disk boots nothing, not even what it held before, the driver
//! notices when the machine's next boot calls, and the next deploy works.

use super::World;
use super::wrong_checksum::put_on_disk;
use crate::console::mib;
use crate::ferricd::Ferricd;
use crate::firmware::Firmware;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Context as _, Result, bail, ensure};
use std::time::Duration;

const NODE: &str = "node-1";
const IMAGE: &str = "system.raw";
const IMAGE_MIB: u64 = 96;
/// Slow enough that the reset comes in the middle.
const RATE: u64 = 4 << 20;
/// Boots take long here. The deadline of a deploy is the usual one, which this story has no time to wait for.
const SETTINGS: [(&str, &str); 1] = [("FERRIC_HEARTBEAT_TIMEOUT", "60")];
/// The boot entry of a loader without a name of its own.
const LABEL: &str = "ironic1";
/// The machine boots, calls, and is switched off.
const NOTICED: Duration = Duration::from_secs(900);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    world.console.begin("start ferricd");
    let mut ferricd = Ferricd::start_with(&world.lab, &SETTINGS).await?;
    world.console.end("a deploy has 1800 s between two signs of life");
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

    let path = world.lab.dir().join(IMAGE);
    WitnessImage { mib: IMAGE_MIB, seed: 5 }.write(&path)?;
    let image = world.offer(IMAGE, &path)?;
    world.choose_image(NODE, &image).await?;
    world.images.throttle(Some(RATE));
    world.console.begin("deploy, and press reset in the middle of the write");
    let before = server.serial_len();
    world.baremetal.run(&["node", "deploy", NODE]).await?;
    until("the agent to fetch the image", Duration::from_secs(400), async || {
        world.console.update(&format!("{} fetched", mib(sent(world))));
        Ok((sent(world) >= image.bytes / 3).then_some(()))
    })
    .await?;
    server.press_reset().await?;
    let at_reset = sent(world);
    ensure!(at_reset < image.bytes, "the image was fetched before the reset: the story shows nothing");
    world.console.end(&format!("{} of {} fetched", mib(at_reset), mib(image.bytes)));

    world.console.begin("the driver notices");
    let failed = async || {
        ferricd.check()?;
        let node = world.api.node(NODE).await?;
        world.console.update(node["provision_state"].as_str().unwrap_or_default());
        match node["provision_state"].as_str().unwrap_or_default() {
            "deploy failed" => Ok(Some(node)),
            "active" => bail!("the deploy ended well although the machine was reset"),
            _ => Ok(None),
        }
    };
    let node = until("the node to be deploy failed", NOTICED, failed).await?;
    let error = node["last_error"].as_str().context("the node has no last_error")?.to_owned();
    ensure!(error.contains("write_image"), "last_error does not say what was going on: {error}");
    ensure!(error.contains("started anew"), "last_error does not say what happened: {error}");
    let console = server.serial_since(before);
    ensure!(!console.contains(Witness::Uefi.text()), "the reset machine booted from its disk");
    world.console.end(&error);

    world.console.begin("that disk alone boots nothing");
    // The driver switches it off; to do so here as well would be a race.
    until("the machine to be switched off", Duration::from_secs(60), async || {
        Ok((server.state().await? == "shut off").then_some(()))
    })
    .await?;
    world.boots(&server, Firmware::Ovmf, None).await?;
    world.boots(&server, Firmware::SeaBios, None).await?;
    world.console.end("");

    world.console.begin("the next deploy works");
    world.images.throttle(None);
    let before = server.serial_len();
    world.drive(&mut ferricd, "deploy", NODE, &[]).await?;
    world.expect_state(NODE, "active").await?;
    until("the new system on the serial port", Duration::from_secs(180), async || {
        Ok(server.serial_since(before).contains(Witness::Uefi.text()).then_some(()))
    })
    .await?;
    server.pull_the_plug().await?;
    // Two deploys, one entry. OVMF puts what QEMU is told to boot before it; where it was put is not seen any more.
    let order = server.boot_order()?;
    let ours = order.iter().filter(|(_, label)| label == LABEL).count();
    ensure!(ours == 1, "the firmware's boot order has {ours} entries {LABEL:?}: {order:?}");
    world.console.end(&format!("it boots from disk; the firmware's boot order is {order:?}"));
    Ok(())
}

fn sent(world: &World) -> u64 {
    world.images.fetches(IMAGE).iter().map(|fetch| fetch.sent).sum()
}
