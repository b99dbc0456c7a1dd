//! Worse days of a network: in the middle of a write the router starts anew and calls from another address, and then nothing
//! goes through for five minutes, in which the write ends. The deploy ends well, with one boot and one write.

use super::World;
use super::session_nat::{DELAY, RELAY, SESSIONS, SETTINGS, port, rule};
use super::session_only::{NODE, active, boots_its_system};
use crate::ferricd::Ferricd;
use crate::lab::GATEWAY;
use crate::relay::Relay;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::WitnessImage;
use anyhow::{Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

const IMAGE_MIB: u64 = 128;
/// Slow enough that the write lasts into the cut, and ends in it.
const RATE: u64 = 1 << 20;
const CUT: Duration = Duration::from_secs(300);
/// From where the router calls the driver after it was started anew.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    world.console.begin("start ferricd behind a slow relay");
    let mut ferricd = Ferricd::start_with(&world.lab, &SETTINGS).await?;
    let at = |port| SocketAddr::from((GATEWAY, port));
    let mut relay = Relay::start(at(RELAY), at(SESSIONS), DELAY).await?;
    world.console.end("200 ms each way");
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    world.enroll(&server, NODE).await?;
    world.make_available(&mut ferricd, NODE).await?;
    let path = world.lab.dir().join("system.raw");
    WitnessImage { mib: IMAGE_MIB, seed: 13 }.write(&path)?;
    let image = world.offer("system.raw", &path)?;
    world.choose_image(NODE, &image).await?;
    world.images.throttle(Some(RATE));
    let before = server.serial_len();
    world.console.begin("deploy until some of it is written");
    world.baremetal.run(&["node", "deploy", NODE]).await?;
    let started = percent(world, &mut ferricd, 10.0).await?;
    world.console.end(&format!("{started} %"));

    world.console.begin("the router starts anew, and calls from another address");
    let resumed = |ferricd: &Ferricd| ferricd.log().matches("resumed=true").count();
    let times = resumed(&ferricd);
    relay.restart_from(OTHER).await?;
    until("the session to go on", Duration::from_secs(90), async || {
        ferricd.check()?;
        Ok((resumed(&ferricd) > times).then_some(()))
    })
    .await?;
    let moved = percent(world, &mut ferricd, started + 5.0).await?;
    world.console.end(&format!("the session goes on: {moved} %"));

    world.console.begin("nothing goes through");
    let back = Instant::now() + CUT;
    let (to, from) = (port("--dport"), port("--sport"));
    rule("-I", "INPUT", &to, &[]).await?;
    rule("-I", "OUTPUT", &from, &[]).await?;
    sleep_until(back).await;
    ferricd.check()?;
    let node = world.api.node(NODE).await?;
    ensure!(node["provision_state"] == "wait call-back", "after the cut the node is in {}", node["provision_state"]);
    let sent = world.images.fetches("system.raw").iter().map(|fetch| fetch.sent).sum::<u64>();
    ensure!(sent >= IMAGE_MIB << 20, "the write did not end in the cut: {sent} bytes were sent");
    let times = resumed(&ferricd);
    rule("-D", "INPUT", &to, &[]).await?;
    rule("-D", "OUTPUT", &from, &[]).await?;
    world.console.end(&format!("for {} s, in which the write has ended", CUT.as_secs()));

    world.console.begin("the session tells how it ended");
    active(world, &mut ferricd).await?;
    boots_its_system(&server, before).await?;
    ensure!(resumed(&ferricd) > times, "the session was not resumed after the cut");
    world.console.end("the new system runs");
    Ok(())
}

/// Waits until so much is written.
async fn percent(world: &World, ferricd: &mut Ferricd, least: f64) -> Result<f64> {
    until(&format!("{least} % to be written"), Duration::from_secs(400), async || {
        ferricd.check()?;
        let report = world.api.get(&format!("/v1/nodes/{NODE}/progress")).await?;
        let percent = report["percent"].as_f64().filter(|_| report["stage"] == "write");
        world.console.update(&format!("{} %", percent.unwrap_or_default()));
        Ok(percent.filter(|percent| *percent >= least))
    })
    .await
}
