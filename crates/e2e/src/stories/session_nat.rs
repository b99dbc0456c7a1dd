//! An agent behind a router: the driver cannot reach it, its session goes through a relay that takes 200 ms each way and
//! loses one packet in twenty, and in the middle of the write nothing goes through for a minute. The deploy ends well, with
//! one boot and one write.

use super::World;
use super::session_only::{NODE, SESSION, active, boots_its_system};
use crate::ferricd::Ferricd;
use crate::lab::{GATEWAY, output};
use crate::relay::Relay;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::WitnessImage;
use anyhow::{Result, ensure};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep_until};

const IMAGE_MIB: u64 = 128;
/// Slow enough that the write lasts over the cut.
const RATE: u64 = 1 << 20;
pub(super) const DELAY: Duration = Duration::from_millis(200);
const CUT: Duration = Duration::from_secs(60);
/// Where the relay is, and where the driver takes sessions.
pub(super) const RELAY: u16 = 7387;
pub(super) const SESSIONS: u16 = 6387;
pub(super) const SETTINGS: [(&str, &str); 2] = [
    ("FERRIC_KERNEL_APPEND_PARAMS", "ferric.listen=no"),
    // `GATEWAY`, as agents reach it.
    ("FERRIC_SESSION_URL", "https://10.77.0.1:7387"),
];

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    world.console.begin("start ferricd behind a slow and lossy relay");
    ensure!(SETTINGS[1].1 == format!("https://{GATEWAY}:{RELAY}"), "the relay is not where agents look for it");
    let mut ferricd = Ferricd::start_with(&world.lab, &SETTINGS).await?;
    let at = |port| SocketAddr::from((GATEWAY, port));
    let relay = Relay::start(at(RELAY), at(SESSIONS), DELAY).await?;
    let (to, from) = (port("--dport"), port("--sport"));
    let lossy = ["-m", "statistic", "--mode", "random", "--probability", "0.05"];
    rule("-A", "INPUT", &to, &lossy).await?;
    rule("-A", "OUTPUT", &from, &lossy).await?;
    world.console.end("200 ms each way, one packet of twenty is lost");
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    // What a router that translates addresses lets through from outside: nothing.
    let machine = server.address.to_string();
    rule("-A", "OUTPUT", &["-p", "tcp", "-d", &machine, "--syn"].map(str::to_owned), &[]).await?;
    world.enroll(&server, NODE).await?;
    world.make_available(&mut ferricd, NODE).await?;

    let path = world.lab.dir().join("system.raw");
    WitnessImage { mib: IMAGE_MIB, seed: 12 }.write(&path)?;
    let image = world.offer("system.raw", &path)?;
    world.choose_image(NODE, &image).await?;
    world.images.throttle(Some(RATE));
    let before = server.serial_len();
    world.console.begin("deploy until a quarter is written");
    world.baremetal.run(&["node", "deploy", NODE]).await?;
    until("a quarter of the image to be written", Duration::from_secs(400), async || {
        ferricd.check()?;
        let report = world.api.get(&format!("/v1/nodes/{NODE}/progress")).await?;
        let percent = report["percent"].as_f64().filter(|_| report["stage"] == "write");
        world.console.update(&format!("{} %", percent.unwrap_or_default()));
        Ok(percent.filter(|percent| *percent >= 25.0).map(drop))
    })
    .await?;
    let node = world.api.node(NODE).await?;
    let url = node["driver_internal_info"]["agent_url"].as_str().unwrap_or_default();
    ensure!(url.starts_with(SESSION), "the agent is at {url}, which is no session");
    let connections = relay.connections();
    world.console.end("");

    world.console.begin("nothing goes through the relay");
    rule("-I", "INPUT", &to, &[]).await?;
    rule("-I", "OUTPUT", &from, &[]).await?;
    let back = Instant::now() + CUT;
    let reason = until("the node to say why nothing is heard", CUT, async || {
        ferricd.check()?;
        let report = world.api.get(&format!("/v1/nodes/{NODE}/progress")).await?;
        Ok(report["stalled"].as_str().map(str::to_owned))
    })
    .await?;
    sleep_until(back).await;
    rule("-D", "INPUT", &to, &[]).await?;
    rule("-D", "OUTPUT", &from, &[]).await?;
    world.console.end(&format!("for {} s; the node says: {reason}", CUT.as_secs()));

    world.console.begin("the session goes on, the deploy ends");
    world.images.throttle(None);
    active(world, &mut ferricd).await?;
    boots_its_system(&server, before).await?;
    let after = relay.connections();
    ensure!(after > connections, "the cut broke no connection: the story shows nothing");
    ensure!(ferricd.log().contains("resumed=true"), "the session was not resumed");
    world.console.end(&format!("with {} more connections", after - connections));
    Ok(())
}

pub(super) fn port(which: &str) -> [String; 4] {
    ["-p", "tcp", which, &RELAY.to_string()].map(str::to_owned)
}

/// Adds, inserts or deletes a rule that drops packets, in the network namespace of the story.
pub(super) async fn rule(verb: &str, chain: &str, packets: &[String], when: &[&str]) -> Result<()> {
    let mut command = Command::new("iptables");
    command.args([verb, chain]).args(packets).args(when).args(["-j", "DROP"]);
    output(&mut command).await.map(drop)
}
