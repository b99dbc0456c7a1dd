//! The processor's virtualization is switched on over Redfish: one restart, no ramdisk, read back and shown by the API; asked
//! for again, nothing is restarted; a value that there is not is refused with those that there are.

use super::World;
use crate::api::Api;
use crate::ferricd::Ferricd;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use anyhow::{Context as _, Result, bail, ensure};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) const NODE: &str = "node-1";
/// The setting of the example: what is called VT-x or AMD-V.
const SWITCH: &str = "ProcVirtualization";
const LIMIT: Duration = Duration::from_secs(120);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut ferricd = world.start_ferricd().await?;
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    let redfish = Api::new(server.redfish_address());
    // The service knows whatever settings it is given; as delivered, this machine has virtualization off.
    let settings = format!("{}/BIOS/Settings", server.redfish_system());
    let delivered = json!({"Attributes": {SWITCH: "Disabled"}});
    let (status, body) = redfish.request(Method::PATCH, &settings, Some(&delivered)).await?;
    ensure!(status == 204, "the BMC refuses the settings as delivered: {status} {body}");

    world.enroll(&server, NODE).await?;
    world.drive(&mut ferricd, "manage", NODE, &[]).await?;
    ensure!(shown(world, SWITCH).await? == "Disabled", "the API shows another setting than the BMC has");

    world.console.begin("switch virtualization on");
    let before = server.serial_len();
    apply(world, &mut ferricd, SWITCH, json!("Enabled"), "manageable").await?;
    ensure!(shown(world, SWITCH).await? == "Enabled", "the API does not show the new setting");
    let bios = redfish.get(&format!("{}/BIOS", server.redfish_system())).await?;
    ensure!(bios["Attributes"][SWITCH] == "Enabled", "the BMC has {}", bios["Attributes"][SWITCH]);
    ensure!(server.state().await? == "shut off", "a machine that was off stays on");
    let history = history(world).await?;
    ensure!(
        history.contains(&format!("BIOS settings are as wanted: {SWITCH}")),
        "the history does not tell: {history}"
    );
    ensure!(starts(&history) == 1, "the machine was started {} times: {history}", starts(&history));
    ensure!(!server.serial_since(before).contains("Linux version"), "a ramdisk was booted");
    world.console.end("one start, no ramdisk");

    world.console.begin("ask for the same again");
    apply(world, &mut ferricd, SWITCH, json!("Enabled"), "manageable").await?;
    let after = self::history(world).await?;
    ensure!(starts(&after) == 1, "the machine was started for settings that it has");
    world.console.end("nothing is restarted");

    world.console.begin("ask for a value that there is not");
    apply(world, &mut ferricd, "ProcTurboMode", json!("Maybe"), "clean failed").await?;
    let node = world.api.node(NODE).await?;
    let error = node["last_error"].as_str().unwrap_or_default();
    ensure!(
        error.contains("\"Maybe\" is none of Enabled, Disabled"),
        "the refusal does not name what is valid: {error}"
    );
    ensure!(node["maintenance"] == false, "the node was set aside although nothing was touched");
    world.console.end(error);
    Ok(())
}

/// Has a setting applied, and waits for a state.
async fn apply(world: &World, ferricd: &mut Ferricd, name: &str, value: Value, end: &str) -> Result<()> {
    let step = json!({"interface": "bios", "step": "apply_configuration",
        "args": {"settings": [{"name": name, "value": value}]}});
    clean(world, ferricd, &step, end).await
}

/// Runs a clean step without saying anything of a ramdisk, and waits for a state.
pub(super) async fn clean(world: &World, ferricd: &mut Ferricd, step: &Value, end: &str) -> Result<()> {
    clean_with(world, ferricd, &json!([step]), end).await
}

/// The same with a list of steps.
pub(super) async fn clean_with(world: &World, ferricd: &mut Ferricd, steps: &Value, end: &str) -> Result<()> {
    let body = json!({"target": "clean", "clean_steps": steps});
    let path = format!("/v1/nodes/{NODE}/states/provision");
    let (status, body) = world.api.request(Method::PUT, &path, Some(&body)).await?;
    ensure!(status == 202, "the clean was refused: {status} {body}");
    until(&format!("the node to be {end}"), LIMIT, async || {
        ferricd.check()?;
        let node = world.api.node(NODE).await?;
        match node["provision_state"].as_str().unwrap_or_default() {
            state if state == end => Ok(Some(())),
            state if state.ends_with("failed") => bail!("the node ended in {state}: {}", node["last_error"]),
            _ => Ok(None),
        }
    })
    .await
}

/// A setting as the API shows it.
async fn shown(world: &World, name: &str) -> Result<String> {
    let document = world.api.get(&format!("/v1/nodes/{NODE}/bios/{name}")).await?;
    Ok(document[name]["value"].as_str().context("the setting has no value")?.to_owned())
}

/// The node's history as text.
pub(super) async fn history(world: &World) -> Result<String> {
    Ok(world.api.get(&format!("/v1/nodes/{NODE}/history?detail=true")).await?.to_string())
}

/// How often the history says that power went on.
pub(super) fn starts(history: &str) -> usize {
    history.matches("power off -> power on").count()
}
