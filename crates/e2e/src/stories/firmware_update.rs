//! Firmware is updated over Redfish: the image is checked before the BMC sees it, the versions before and after are recorded, and
//! a setting beside it shares its restart; an image with another digest and a part that there is not are refused.

use super::World;
use super::bios_attribute::{NODE, clean, clean_with, history, starts};
use crate::api::Api;
use crate::server::{ServerSpec, VirtualServer};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut ferricd = world.start_ferricd().await?;
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    let redfish = Api::new(server.redfish_address());
    world.enroll(&server, NODE).await?;
    world.drive(&mut ferricd, "manage", NODE, &[]).await?;
    let before = component(world, "bios").await?;
    let version = before["current_version"].as_str().context("the BIOS has no version")?.to_owned();
    let path = world.lab.dir().join("bios.bin");
    std::fs::write(&path, vec![0xb1; 1 << 20])?;
    let image = world.offer("bios.bin", &path)?;
    let update = |component: &str, checksum: &str| {
        let settings = json!([{"component": component, "url": image.url, "checksum": checksum}]);
        json!({"interface": "firmware", "step": "update", "args": {"settings": settings}})
    };

    world.console.begin("update the BIOS");
    clean(world, &mut ferricd, &update("bios", &image.sha256), "manageable").await?;
    let after = component(world, "bios").await?;
    let told = redfish.get(&server.redfish_system()).await?["BiosVersion"].clone();
    ensure!(after["current_version"] == told && told != version.as_str(), "the version is {after}, the BMC has {told}");
    ensure!(after["initial_version"] == version.as_str(), "the first version was not kept: {after}");
    ensure!(after["last_version_flashed"] == told, "the update is not told: {after}");
    let said = history(world).await?;
    let line = format!("bios was updated from {version} to {}", told.as_str().unwrap_or_default());
    ensure!(said.contains(&line), "the history does not tell the versions: {said}");
    ensure!(starts(&said) == 1, "the machine was started {} times", starts(&said));
    world.console.end(&line);

    world.console.begin("a setting and an update in one request");
    let setting = json!({"interface": "bios", "step": "apply_configuration",
        "args": {"settings": [{"name": "ProcTurboMode", "value": "Disabled"}]}});
    let both = json!([setting, update("bios", &image.sha256)]);
    clean_with(world, &mut ferricd, &both, "manageable").await?;
    let newer = redfish.get(&server.redfish_system()).await?["BiosVersion"].clone();
    ensure!(newer != told, "the version is still {newer}");
    let told = newer;
    let said = history(world).await?;
    for line in
        ["BIOS settings are as wanted: ProcTurboMode".to_owned(), format!("to {}", told.as_str().unwrap_or_default())]
    {
        ensure!(said.contains(&line), "{line} is not in the history: {said}");
    }
    ensure!(starts(&said) == 2, "the machine was started {} times for both", starts(&said) - 1);
    world.console.end("one start for both, and both are read back");

    world.console.begin("an image with another digest");
    let other = "0".repeat(64);
    clean(world, &mut ferricd, &update("bios", &other), "clean failed").await?;
    let error = last_error(world).await?;
    ensure!(error.contains(&image.sha256) && error.contains(&other), "the refusal does not name the digests: {error}");
    let now = redfish.get(&server.redfish_system()).await?["BiosVersion"].clone();
    ensure!(now == told, "the BMC was given the image: its version is {now}");
    world.baremetal.run(&["node", "manage", NODE]).await?;
    world.console.end("the BMC never saw it");

    world.console.begin("a part that there is not");
    clean(world, &mut ferricd, &update("nic:none", &image.sha256), "clean failed").await?;
    let error = last_error(world).await?;
    ensure!(error.contains("there is no firmware of nic:none; there is of bios"), "{error}");
    world.console.end(&error);
    Ok(())
}

async fn last_error(world: &World) -> Result<String> {
    Ok(world.api.node(NODE).await?["last_error"].as_str().unwrap_or_default().to_owned())
}

/// A part's firmware as the API shows it.
async fn component(world: &World, name: &str) -> Result<Value> {
    let document = world.api.get(&format!("/v1/nodes/{NODE}/firmware")).await?;
    let parts = document["firmware"].as_array().context("no list of firmware")?;
    parts.iter().find(|part| part["component"] == name).cloned().with_context(|| format!("no {name} in {document}"))
}
