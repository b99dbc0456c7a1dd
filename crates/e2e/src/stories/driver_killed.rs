//! kill -9 of `ferricd` in the middle of the image write: the agent goes on, the next `ferricd` finds its place, and the
//! deploy ends well with the same boot of the ramdisk, one write command and no byte fetched twice.

use super::World;
use crate::console::mib;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Result, bail, ensure};
use std::time::Duration;

const NODE: &str = "node-1";
const IMAGE: &str = "system.raw";
const IMAGE_MIB: u64 = 160;
/// Slow enough that the write lasts over the death and the return of the driver.
const RATE: u64 = 4 << 20;

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut ferricd = world.start_ferricd().await?;
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    world.enroll(&server, NODE).await?;
    world.make_available(&mut ferricd, NODE).await?;

    let path = world.lab.dir().join(IMAGE);
    WitnessImage { mib: IMAGE_MIB, seed: 3 }.write(&path)?;
    let image = world.offer(IMAGE, &path)?;
    world.choose_image(NODE, &image).await?;
    world.images.throttle(Some(RATE));
    let before = server.serial_len();
    world.console.begin("deploy until the image is being written");
    world.baremetal.run(&["node", "deploy", NODE]).await?;
    fetched(world, image.bytes / 5).await?;
    world.console.end(&format!("{} fetched", mib(sent(world))));

    world.console.begin("kill -9 ferricd; the agent goes on without it");
    ferricd.kill().await?;
    let at_death = sent(world);
    fetched(world, at_death + 2 * RATE).await?;
    world.console.end(&format!("{} fetched", mib(sent(world))));

    world.console.begin("start ferricd again; the deploy goes on");
    ferricd.start_again().await?;
    let at_return = sent(world);
    ensure!(at_return < image.bytes, "the write was over before ferricd was back: the story shows nothing");
    world.images.throttle(None);
    let active = async || {
        ferricd.check()?;
        let node = world.api.node(NODE).await?;
        match node["provision_state"].as_str().unwrap_or_default() {
            "active" => Ok(Some(())),
            state if state.ends_with("failed") => bail!("the node ended in {state}: {}", node["last_error"]),
            _ => Ok(None),
        }
    };
    until("the node to be active", Duration::from_secs(400), active).await?;
    world.console.end(&format!("{} of {} were left when it came back", mib(image.bytes - at_return), mib(image.bytes)));

    world.console.begin("one boot, one write, no byte twice");
    until("the new system on the serial port", Duration::from_secs(180), async || {
        Ok(server.serial_since(before).contains(Witness::Uefi.text()).then_some(()))
    })
    .await?;
    let console = server.serial_since(before);
    let boots = console.matches(RAMDISK_BOOT).count();
    ensure!(boots == 1, "the ramdisk was booted {boots} times in one deploy");
    if let Some(range) = world.images.sent_twice(IMAGE) {
        bail!("bytes {range:?} of the image were sent twice: {:?}", world.images.fetches(IMAGE));
    }
    let sent = sent(world);
    ensure!(sent == image.bytes, "{sent} bytes of {} were fetched", image.bytes);
    let writes = console.matches(WRITE_COMMAND).count();
    ensure!(writes == 1, "the agent took {writes} commands to write an image");
    world.console.end(&format!("{} requests", world.images.fetches(IMAGE).len()));
    Ok(())
}

/// What the agent's console shows once a boot.
pub(super) const RAMDISK_BOOT: &str = "INFO ferric-agent version=";
/// What the agent's console shows for each command to write an image that it takes.
pub(super) const WRITE_COMMAND: &str = "INFO step step=\"write_image\"";

fn sent(world: &World) -> u64 {
    world.images.fetches(IMAGE).iter().map(|fetch| fetch.sent).sum()
}

async fn fetched(world: &World, bytes: u64) -> Result<()> {
    until("the agent to fetch the image", Duration::from_secs(400), async || {
        world.console.update(&format!("{} fetched", mib(sent(world))));
        Ok((sent(world) >= bytes).then_some(()))
    })
    .await
}
