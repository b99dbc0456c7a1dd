//! An agent that does not listen: it dials its driver, is deployed through that session alone, and the write is watched over
//! the API while it goes on.

use super::World;
use crate::ferricd::Ferricd;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Result, bail, ensure};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::net::TcpStream;

pub(super) const NODE: &str = "node-1";
const IMAGE_MIB: u64 = 96;
/// Slow enough that the write can be watched.
const RATE: u64 = 4 << 20;
/// The agents of the site do not listen.
const SETTINGS: [(&str, &str); 1] = [("FERRIC_KERNEL_APPEND_PARAMS", "ferric.listen=no")];
/// Where an agent listens that does.
const PORT: u16 = 9999;
/// The scheme of an agent's address that is a session.
pub(super) const SESSION: &str = "ferric-session:";

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    world.console.begin("start ferricd");
    let mut ferricd = Ferricd::start_with(&world.lab, &SETTINGS).await?;
    world.console.end("its agents do not listen");
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    world.enroll(&server, NODE).await?;
    world.make_available(&mut ferricd, NODE).await?;

    let path = world.lab.dir().join("system.raw");
    WitnessImage { mib: IMAGE_MIB, seed: 11 }.write(&path)?;
    let image = world.offer("system.raw", &path)?;
    world.choose_image(NODE, &image).await?;
    world.images.throttle(Some(RATE));
    let before = server.serial_len();
    world.console.begin("deploy, and watch the write");
    world.baremetal.run(&["node", "deploy", NODE]).await?;
    let mut percents: Vec<f64> = Vec::new();
    until("half of the image to be written", Duration::from_secs(400), async || {
        ferricd.check()?;
        let report = world.api.get(&format!("/v1/nodes/{NODE}/progress")).await?;
        let step = report["step"]["step"].as_str().unwrap_or_default();
        if let Some(percent) = report["percent"].as_f64().filter(|_| step == "deploy.write_image") {
            world.console.update(&format!("{percent} %, {} B/s", report["rate"]));
            if percents.last().is_none_or(|last| *last < percent) {
                percents.push(percent);
            }
            return Ok((percent >= 50.0).then_some(()));
        }
        Ok(None)
    })
    .await?;
    ensure!(percents.len() >= 3, "the progress was told in {percents:?} only");
    let node = world.api.node(NODE).await?;
    let url = node["driver_internal_info"]["agent_url"].as_str().unwrap_or_default();
    ensure!(url.starts_with(SESSION), "the agent is at {url}, which is no session");
    match TcpStream::connect((server.address, PORT)).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        other => bail!("port {PORT} of a machine whose agent does not listen: {other:?}"),
    }
    let log = world.api.text(&format!("/v1/nodes/{NODE}/logs")).await?;
    ensure!(log.contains("write_image"), "the log over the API does not speak of the write: {log}");
    world.console.end(&format!("{} readings, up to {} %", percents.len(), percents.last().unwrap_or(&0.0)));

    world.console.begin("the deploy ends");
    world.images.throttle(None);
    active(world, &mut ferricd).await?;
    boots_its_system(&server, before).await?;
    let history = world.baremetal.json(&["node", "history", "list", "--long", NODE]).await?.to_string();
    ensure!(
        history.contains("deploy.write_image ended after"),
        "the history does not tell how long it took: {history}"
    );
    let kept = world.api.text(&format!("/v1/nodes/{NODE}/logs?tail=1000")).await?;
    ensure!(kept.contains("write_image"), "the log was not kept when the ramdisk ended");
    world.console.end("the log of the ramdisk is kept");
    Ok(())
}

/// Waits until the node is active.
pub(super) async fn active(world: &World, ferricd: &mut Ferricd) -> Result<()> {
    until("the node to be active", Duration::from_secs(400), async || {
        ferricd.check()?;
        let node = world.api.node(NODE).await?;
        match node["provision_state"].as_str().unwrap_or_default() {
            "active" => Ok(Some(())),
            state if state.ends_with("failed") => bail!("the node ended in {state}: {}", node["last_error"]),
            _ => Ok(None),
        }
    })
    .await
}

/// Waits for the new system, which one boot of the ramdisk has written with one command.
pub(super) async fn boots_its_system(server: &VirtualServer, since: u64) -> Result<()> {
    until("the new system on the serial port", Duration::from_secs(180), async || {
        Ok(server.serial_since(since).contains(Witness::Uefi.text()).then_some(()))
    })
    .await?;
    let console = server.serial_since(since);
    for (said, what) in [(super::driver_killed::RAMDISK_BOOT, "boots"), (super::driver_killed::WRITE_COMMAND, "writes")]
    {
        let times = console.matches(said).count();
        ensure!(times == 1, "the ramdisk's console tells of {times} {what} in one deploy");
    }
    Ok(())
}
