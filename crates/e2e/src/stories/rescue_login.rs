//! A rescue as the owner of a machine sees it: the node boots the rescue system, the owner logs in over the network and looks
//! at the disk, and the installed system boots again.

use super::World;
use super::interop::disk;
use super::login::{Proof, key_pair, opens_late, owner_looks_at_disk, ssh};
use crate::ferricd::Ferricd;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Context as _, Result, bail, ensure};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const NODE: &str = "node-1";
const PASSWORD: &str = "a word of the owner";
/// From `unrescue` until code of the disk runs.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let rescue = world.lab.artifacts().rescue_ramdisk.clone();
    let rescue = rescue.context("--rescue-ramdisk is missing: `cargo xtask e2e rescue_login` makes it")?;
    let mut ferricd = Ferricd::start_with_rescue_ramdisk(&world.lab, &rescue).await?;
    let server = VirtualServer::define(&world.lab, &ServerSpec { memory_mib: 512, ..ServerSpec::default() }).await?;
    world.enroll(&server, NODE).await?;
    let interface = ["--rescue-interface", "agent", "--no-automated-clean"];
    world.baremetal.run(&[&["node", "set", NODE][..], &interface].concat()).await?;
    world.console.begin("deploy");
    world.drive(&mut ferricd, "manage", NODE, &[]).await?;
    world.drive(&mut ferricd, "provide", NODE, &[]).await?;
    let path = world.lab.dir().join("new.raw");
    WitnessImage { mib: 64, seed: 2 }.write(&path)?;
    let image = world.offer("new.raw", &path)?;
    world.choose_image(NODE, &image).await?;
    world.drive(&mut ferricd, "deploy", NODE, &[]).await?;
    world.expect_state(NODE, "active").await?;
    disk::holds(&server, &path)?;
    world.console.end("");

    world.console.begin("rescue: boot the rescue system");
    let (key, public) = key_pair(world.lab.dir()).await?;
    let keys = format!("rescue_authorized_keys={public}");
    world.baremetal.run(&["node", "set", NODE, "--instance-info", &keys]).await?;
    let before = server.serial_len();
    let rescue = ["--rescue-password", PASSWORD];
    tokio::try_join!(world.drive(&mut ferricd, "rescue", NODE, &rescue), opens_late(&server, before))?;
    let node = world.expect_state(NODE, "rescue").await?;
    ensure!(!node.to_string().contains(PASSWORD), "the node tells the password: {node}");
    ensure!(!ferricd.log().contains(PASSWORD), "the driver's log tells the password");
    world.console.end("nothing listened before");

    world.console.begin("the owner logs in and looks at the disk");
    let seen = owner_looks_at_disk(&server, &path, PASSWORD, &key, before).await?;
    world.console.end(&seen);

    world.console.begin("unrescue: the installed system boots as before");
    let before = server.serial_len();
    world.drive(&mut ferricd, "unrescue", NODE, &[]).await?;
    world.expect_state(NODE, "active").await?;
    let text = Witness::Uefi.text();
    until(&format!("{text:?} on the server's console"), BOOT_LIMIT, async || {
        ferricd.check()?;
        Ok(server.serial_since(before).contains(text).then_some(()))
    })
    .await?;
    disk::holds(&server, &path)?;
    world.console.end("");

    world.console.begin("rescue by a key of the request alone");
    world.baremetal.run(&["node", "unset", NODE, "--instance-info", "rescue_authorized_keys"]).await?;
    by_key_alone(world, &mut ferricd, &server, &key, &public).await?;
    world.drive(&mut ferricd, "unrescue", NODE, &[]).await?;
    world.expect_state(NODE, "active").await?;
    world.console.end("no password lets anybody in");
    Ok(())
}

/// Rescues the node without a password. Nobody but the owner of the key gets in.
async fn by_key_alone(
    world: &World,
    ferricd: &mut Ferricd,
    server: &VirtualServer,
    key: &Path,
    public: &str,
) -> Result<()> {
    let verb = async |body: Value| {
        let path = format!("/v1/nodes/{NODE}/states/provision");
        world.api.request(Method::PUT, &path, Some(&body)).await
    };
    let (status, body) = verb(json!({"target": "rescue"})).await?;
    ensure!(status == 400, "a rescue that nobody could log in to is accepted: {status} {body}");
    let (status, body) = verb(json!({"target": "rescue", "rescue_authorized_keys": public})).await?;
    ensure!(status == 202, "a rescue by a key is refused: {status} {body}");
    until("the node to be rescued", BOOT_LIMIT, async || {
        ferricd.check()?;
        let node = world.api.node(NODE).await?;
        match node["provision_state"].as_str() {
            Some("rescue") => Ok(Some(())),
            Some("rescue failed") => bail!("the rescue failed: {}", node["last_error"]),
            _ => Ok(None),
        }
    })
    .await?;
    until("the owner to log in with the key", BOOT_LIMIT, async || {
        ferricd.check()?;
        Ok(ssh(server, "rescue", Proof::Key(key), &["true"]).await.ok())
    })
    .await?;
    for password in [PASSWORD, ""] {
        let refused = ssh(server, "rescue", Proof::Password(password), &["true"]).await;
        ensure!(refused.is_err(), "somebody logs in with the password {password:?}");
    }
    let node = world.api.node(NODE).await?;
    ensure!(!node.to_string().contains(public), "the key of the request stays with the node: {node}");
    Ok(())
}
