//! The real client through the whole life of a node without hardware: every verb, and what it says when it is refused.

use super::World;
use anyhow::{Result, ensure};
use serde_json::Value;

const NODE: &str = "fake-1";
const CONFIG_DRIVE: &str = r##"{"meta_data": {"hostname": "fake-1"}, "user_data": "#cloud-config\n"}"##;

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let _ferricd = world.start_ferricd().await?;
    let client = world.baremetal.clone();

    world.console.begin("enroll by the client");
    let drivers = client.json(&["driver", "list"]).await?;
    ensure!(drivers.to_string().contains("fake-hardware"), "driver list shows no fake-hardware: {drivers}");
    let node = client.json(&["node", "create", "--driver", "fake-hardware", "--name", NODE]).await?;
    let uuid = node["uuid"].as_str().unwrap_or_default().to_owned();
    ensure!(node["provision_state"] == "enroll", "a new node is in {}", node["provision_state"]);
    let port = client.json(&["port", "create", "--node", &uuid, "52:54:00:00:00:99"]).await?;
    ensure!(port["node_uuid"] == uuid.as_str(), "the port belongs to {}", port["node_uuid"]);
    refused(world, &["node", "create", "--driver", "fake-hardware", "--name", NODE], NODE).await?;
    refused(world, &["node", "provide", NODE], "manage").await?;
    world.console.end(&uuid);

    world.console.begin("manage, inspect, provide, deploy, rebuild, undeploy");
    for (verb, extra, state) in [
        ("manage", &[][..], "manageable"),
        ("inspect", &[], "manageable"),
        ("provide", &[], "available"),
        ("deploy", &["--config-drive", CONFIG_DRIVE], "active"),
        ("rebuild", &[], "active"),
        ("undeploy", &[], "available"),
    ] {
        client.run(&[&["node", verb, NODE, "--wait", "60"], extra].concat()).await?;
        expect(world, "provision_state", &Value::from(state)).await?;
    }
    world.console.end("each state was reached");

    world.console.begin("power, maintenance, settings, removal");
    client.run(&["node", "power", "on", NODE]).await?;
    client.run(&["node", "maintenance", "set", "--reason", "a new fan", NODE]).await?;
    expect(world, "maintenance_reason", &Value::from("a new fan")).await?;
    client.run(&["node", "maintenance", "unset", NODE]).await?;
    expect(world, "maintenance", &Value::from(false)).await?;
    client.run(&["node", "set", NODE, "--driver-info", "some_password=canary-5f1d", "--extra", "rack=7"]).await?;
    let shown = client.json(&["node", "show", NODE]).await?;
    ensure!(shown["extra"]["rack"].as_str().or(shown["extra"]["rack"].as_i64().map(|_| "7")) == Some("7"), "{shown}");
    ensure!(!shown.to_string().contains("canary-5f1d"), "node show tells a password: {shown}");
    client.run(&["node", "validate", NODE]).await?;
    client.run(&["port", "delete", port["uuid"].as_str().unwrap_or_default()]).await?;
    client.run(&["node", "manage", NODE, "--wait", "60"]).await?;
    client.run(&["node", "delete", NODE]).await?;
    refused(world, &["node", "show", NODE], NODE).await?;
    world.console.end("done");
    Ok(())
}

async fn expect(world: &World, field: &str, value: &Value) -> Result<()> {
    let node = world.baremetal.json(&["node", "show", NODE]).await?;
    ensure!(&node[field] == value, "{field} is {} where {value} was expected: {node}", node[field]);
    Ok(())
}

/// The client ends with an error that has `word` in it.
async fn refused(world: &World, arguments: &[&str], word: &str) -> Result<()> {
    match world.baremetal.run(arguments).await {
        Ok(printed) => anyhow::bail!("baremetal {} was not refused: {printed}", arguments.join(" ")),
        Err(error) => {
            let text = format!("{error:#}");
            // The first line of the chain repeats the arguments; the word has to come from the service.
            let said = text.split_once(&arguments.join(" ")).map_or(text.as_str(), |(_, said)| said);
            ensure!(said.contains(word), "the refusal does not name {word}: {text}");
            Ok(())
        }
    }
}
