//! The image server is away for half a minute in the middle of the write: the node says why nothing moves, and the deploy
//! goes on from where it was, in the same boot of the ramdisk and with the same command.

use super::World;
use crate::console::mib;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Context as _, Result, bail, ensure};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

const NODE: &str = "node-1";
const IMAGE: &str = "system.raw";
const IMAGE_MIB: u64 = 128;
/// Slow enough that the write is still going on when the server goes away.
const RATE: u64 = 4 << 20;
/// How long the server is away.
const OUTAGE: Duration = Duration::from_secs(30);
/// Bytes that a connection may have taken without their having arrived when it broke: buffers on both sides.
const IN_FLIGHT: u64 = 16 << 20;

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
    WitnessImage { mib: IMAGE_MIB, seed: 4 }.write(&path)?;
    let image = world.offer(IMAGE, &path)?;
    world.choose_image(NODE, &image).await?;
    world.images.throttle(Some(RATE));
    let before = server.serial_len();
    world.console.begin("deploy until half of the image is fetched");
    world.baremetal.run(&["node", "deploy", NODE]).await?;
    until("the agent to fetch the image", Duration::from_secs(400), async || {
        world.console.update(&format!("{} fetched", mib(sent(world))));
        Ok((sent(world) >= image.bytes / 2).then_some(()))
    })
    .await?;
    world.console.end(&format!("{} fetched", mib(sent(world))));

    world.console.begin("the image server is gone");
    world.images.go_away().await?;
    let back = Instant::now() + OUTAGE;
    let at_break = sent(world);
    let before_break = world.images.fetches(IMAGE).len();
    ensure!(at_break < image.bytes, "the image was fetched before the server was gone: the story shows nothing");
    let reason = until("the node to say why the write stands still", OUTAGE, async || {
        let node = world.api.node(NODE).await?;
        let stalled = &node["driver_internal_info"]["progress"]["stalled"];
        Ok(stalled.as_str().map(str::to_owned))
    })
    .await?;
    ensure!(reason.contains("attempt"), "the node says {reason:?}, which names no attempt");
    sleep_until(back).await;
    world.console.end(&format!("for {} s; the node says: {reason}", OUTAGE.as_secs()));

    world.console.begin("it is back; the deploy goes on");
    world.images.throttle(None);
    world.images.come_back().await?;
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
    let fetches = world.images.fetches(IMAGE);
    let resumed = fetches.get(before_break).context("no request came after the server was back")?;
    ensure!(
        (at_break.saturating_sub(IN_FLIGHT)..=at_break).contains(&resumed.asked.start),
        "{at_break} bytes were sent before the break, and the transfer went on at {}: {fetches:?}",
        resumed.asked.start
    );
    ensure!(fetches.len() == before_break + 1, "the rest took more than one request: {fetches:?}");
    world.console.end(&format!("from byte {}", resumed.asked.start));

    world.console.begin("one boot, one write, a system that boots");
    until("the new system on the serial port", Duration::from_secs(180), async || {
        Ok(server.serial_since(before).contains(Witness::Uefi.text()).then_some(()))
    })
    .await?;
    let console = server.serial_since(before);
    for (said, what) in [(super::driver_killed::RAMDISK_BOOT, "boots"), (super::driver_killed::WRITE_COMMAND, "writes")]
    {
        let times = console.matches(said).count();
        ensure!(times == 1, "the ramdisk's console tells of {times} {what} in one deploy");
    }
    world.console.end("");
    Ok(())
}

fn sent(world: &World) -> u64 {
    world.images.fetches(IMAGE).iter().map(|fetch| fetch.sent).sum()
}
