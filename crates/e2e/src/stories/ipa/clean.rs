//! Cleaning by hand, held in the middle for a look at how agent and driver know each other, and with a step that the
//! agent does not have.

use super::super::World;
use super::super::interop::disk;
use super::site::{BOOT, CLEAN_STEP, NODE, Site};
use crate::Api;
use crate::lab::{GATEWAY, output};
use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

const STEPS: &str = r#"[{"interface": "deploy", "step": "hold"},
    {"interface": "deploy", "step": "erase_devices_metadata"}]"#;
const UNKNOWN: &str = r#"[{"interface": "deploy", "step": "erase_everything_twice"}]"#;

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;

    site.world.console.begin("clean by hand, on hold before the first step");
    let before = site.server.serial_len();
    site.client(&["node", "clean", NODE, "--clean-steps", STEPS]).await?;
    let node = site.reaches("clean hold").await?;
    ensure!(disk::has_no_table(&site.server).is_err(), "the disk was erased before the hold ended");
    site.world.console.end("");

    site.world.console.begin("who may speak to the agent, and who for it");
    let certificate = known(&site, &node)?;
    strangers(&site, &certificate).await?;
    site.world.console.end("by the certificate of the first heartbeat and by the token alone");

    site.world.console.begin("unhold: erase_devices_metadata");
    site.client(&["node", "unhold", NODE]).await?;
    let node = site.reaches("manageable").await?;
    ensure!(node["last_error"].is_null(), "last_error after cleaning: {}", node["last_error"]);
    disk::has_no_table(&site.server)?;
    site.said(BOOT, 1, before)?;
    site.said(CLEAN_STEP, 1, before)?;
    let left = &node["driver_internal_info"];
    for key in ["agent_url", "agent_verify_ca", "agent_secret_token"] {
        ensure!(left[key].is_null(), "{key} is still there after the agent is gone: {left}");
    }
    site.world.console.end("the older system's partition table is gone");

    site.world.console.begin("clean by hand: a step that the agent does not have");
    let refused = site.drive("clean", &["--clean-steps", UNKNOWN]).await;
    ensure!(refused.is_err(), "`baremetal node clean --wait` ended well with a step that the agent does not have");
    let node = site.expect("clean failed").await?;
    let error = node["last_error"].as_str().context("the node has no last_error")?.to_owned();
    ensure!(error.contains("erase_everything_twice"), "last_error does not name the step: {error}");
    site.world.console.end(&error);
    Ok(())
}

/// What is known of the agent: its address, its certificate, and no token for anybody to read. Returns the certificate.
fn known(site: &Site<'_>, node: &Value) -> Result<String> {
    let info = &node["driver_internal_info"];
    let url = format!("https://{}:9999", site.server.address);
    ensure!(info["agent_url"] == url.as_str(), "the agent's address is {}, expected {url}", info["agent_url"]);
    ensure!(info["agent_secret_token"] == "******", "the agent's token is shown: {}", info["agent_secret_token"]);
    let version = info["agent_version"].as_str().unwrap_or_default();
    ensure!(version.starts_with("13."), "the agent is {version:?}: not the peer that this story is about");
    let certificate = info["agent_verify_ca"].as_str().unwrap_or_default();
    ensure!(certificate.starts_with("-----BEGIN CERTIFICATE"), "the agent's certificate is {certificate:?}");
    Ok(certificate.to_owned())
}

/// The agent is who the driver thinks it is, and neither it nor the driver listens to somebody without the token.
async fn strangers(site: &Site<'_>, certificate: &str) -> Result<()> {
    let trust = site.world.lab.dir().join("agent.pem");
    std::fs::write(&trust, certificate)?;
    let url = format!("https://{}:9999/v1/commands/?agent_token=somebody-elses", site.server.address);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"]);
    curl.args(["--write-out", "%{http_code}", "--output", "/dev/null"]);
    let status = output(curl.arg("--cacert").arg(&trust).arg(&url)).await.context("ask the agent")?;
    ensure!(status == "401", "the agent answered {status} to a token that is not its own");

    let heartbeat = json!({
        "callback_url": format!("https://{}:9999", site.server.address),
        "agent_version": "13.0.0",
        "agent_token": "somebody-elses",
        "agent_verify_ca": certificate,
    });
    let node = site.world.api.node(NODE).await?;
    let path = format!("/v1/heartbeat/{}", node["uuid"].as_str().context("the node has no uuid")?);
    let agents = Api::new(&format!("http://{GATEWAY}:6386"));
    let (status, answer) = agents.request(Method::POST, &path, Some(&heartbeat)).await?;
    ensure!(status == 400, "a heartbeat with a wrong token was answered {status}: {answer}");
    ensure!(answer.to_string().contains("Invalid or missing agent token"), "the refusal does not say why: {answer}");
    Ok(())
}
