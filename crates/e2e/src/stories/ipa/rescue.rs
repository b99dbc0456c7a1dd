//! A rescue as far as the driver has a part in it: the agent takes the password's hash and serves no more, and the way
//! back boots the instance. What logs people in is not ironic-python-agent but the system around it, which the peer's
//! ramdisk does not have.

use super::super::World;
use super::super::interop::disk;
use super::site::{BOOT, NODE, Site};
use anyhow::{Result, ensure};

const PASSWORD: &str = "a word of the operator";

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;
    site.client(&["node", "set", NODE, "--rescue-interface", "agent"]).await?;
    site.provide_uncleaned().await?;
    let offered = site.choose("new.raw", 64, 2).await?;
    site.world.console.begin("deploy");
    site.drive("deploy", &[]).await?;
    site.expect("active").await?;
    site.world.console.end("");

    site.world.console.begin("rescue");
    let before = site.server.serial_len();
    site.drive("rescue", &["--rescue-password", PASSWORD]).await?;
    site.saw("rescue wait")?;
    let node = site.expect("rescue").await?;
    ensure!(!node.to_string().contains(PASSWORD), "the node tells the password: {node}");
    site.said(BOOT, 1, before)?;
    ensure!(site.server.state().await? == "running", "the server is off");
    let console = site.server.serial_since(before);
    ensure!(!console.contains(PASSWORD), "the ramdisk's console tells the password");
    ensure!(
        console.contains("Synchronous command finalize_rescue completed"),
        "the agent's console does not tell that it took the password"
    );
    site.world.console.end("the agent has taken the password's hash");

    site.world.console.begin("unrescue");
    let before = site.server.serial_len();
    site.drive("unrescue", &[]).await?;
    let node = site.expect("active").await?;
    ensure!(!node.to_string().contains("rescue_password"), "something of the password is left: {node}");
    site.boots_disk(before).await?;
    disk::holds(&site.server, &offered.path)?;
    site.said(BOOT, 0, before)?;
    site.world.console.end("the instance boots as before");
    Ok(())
}
