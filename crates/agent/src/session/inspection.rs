//! Inspection: collect what is known of the machine and send it to the driver.

use super::collectors::Collected;
use super::ironic::{Ironic, refusal};
use crate::logs;
use crate::root_disk;
use crate::state::Agent;
use bytes::Bytes;
use hardware::Inventory;
use hardware_linux::Tree;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use std::time::Duration;
use wire::ramdisk::Inspection;

/// How often the callback is tried.
const ATTEMPTS: u32 = 5;

/// Why an inspection did not reach the driver.
#[derive(Debug, thiserror::Error)]
pub enum InspectionError {
    /// The inventory could not be read, so there is nothing to send.
    #[error("read the inventory")]
    Inventory(#[source] hardware::MachineError),
    /// It could not be written as JSON.
    #[error("write the inspection as JSON")]
    Write(#[source] serde_json::Error),
    /// The driver refused it, or was not there.
    #[error("send it after {attempts} attempts: {reason}")]
    Refused {
        /// How often.
        attempts: u32,
        /// The last answer.
        reason: String,
    },
}

/// Collects and sends; returns the UUID of the node when the driver tells it.
pub async fn inspect(agent: &Agent, ironic: &Ironic) -> Result<Option<String>, InspectionError> {
    let settings = agent.shared.settings();
    let document = collect(agent).await?;
    let body = Bytes::from(serde_json::to_vec(&document).map_err(InspectionError::Write)?);
    tracing::info!(bytes = body.len(), "inspection");
    let mut last = String::new();
    let mut attempts = 0;
    while attempts < ATTEMPTS {
        attempts += 1;
        for url in &settings.inspection_callback_urls {
            // No version header: without one the driver takes the document in its first, oldest form.
            match ironic.send(Method::POST, url, None, Some(body.clone())).await {
                Ok(reply) if reply.status.is_success() => {
                    let node = reply.json::<Value>().ok();
                    let uuid = node.as_ref().and_then(|node| node.get("uuid")).and_then(Value::as_str);
                    return Ok(uuid.map(str::to_owned));
                }
                Ok(reply) if reply.status.is_server_error() || reply.status == StatusCode::CONFLICT => {
                    last = refusal(&reply);
                }
                Ok(reply) => return Err(InspectionError::Refused { attempts, reason: refusal(&reply) }),
                Err(error) => last = transport::client::chain(&error),
            }
            tracing::warn!(attempts, of = ATTEMPTS, "inspection was not taken: {last}");
        }
        if attempts < ATTEMPTS {
            tokio::time::sleep(wait_after(attempts)).await;
        }
    }
    Err(InspectionError::Refused { attempts, reason: last })
}

/// 1.5 × 2ⁿ⁻¹ seconds, between 5 and 30.
fn wait_after(attempts: u32) -> Duration {
    Duration::from_secs_f64((1.5 * 2_f64.powi(attempts.saturating_sub(1).min(16).cast_signed())).clamp(5.0, 30.0))
}

/// The inspection, and what its collectors add to it.
async fn collect(agent: &Agent) -> Result<Value, InspectionError> {
    let settings = agent.shared.settings();
    let mut collected = Collected::default();
    agent.shared.devices_ready().await;
    let inventory = agent.shared.on_machine(|machine| machine.inventory()).await.map_err(InspectionError::Inventory)?;
    let root_disk = match root_disk::select(&agent.shared, inventory.disks.clone()).await {
        Ok((disk, _)) => Some(disk),
        Err(error) => {
            tracing::info!(%error, "no root disk");
            None
        }
    };
    let mut packed = None;
    let mut unknown = Vec::new();
    for collector in &settings.inspection_collectors {
        match collector.as_str() {
            "default" => {}
            "logs" => match logs::collect(&agent.logs, &[], None) {
                Ok(text) => packed = Some(text),
                Err(error) => collected.problems.push(format!("collector logs failed: {error}")),
            },
            "lldp" => drop(collected.data.insert("lldp_raw".to_owned(), lldp(&inventory))),
            "health" => match agent.shared.on_machine(crate::health::report).await {
                Ok(report) => drop(collected.data.insert("health".to_owned(), report)),
                Err(error) => {
                    collected.problems.push(format!("collector health failed: {}", transport::client::chain(&error)))
                }
            },
            other if collected.collect(other, &Tree::at("/")) => {}
            other => unknown.push(format!("'{other}'")),
        }
    }
    if !unknown.is_empty() {
        // As in the field, this fails the node's inspection; but the rest is sent, to be looked at.
        collected.problems.insert(0, format!("Failed to load collector {{{}}}", unknown.join(", ")));
    }
    let Collected { data, problems } = collected;
    problems.iter().for_each(|problem| tracing::error!("inspection: {problem}"));
    let managers: Vec<Value> = agent
        .managers
        .versions()
        .into_iter()
        .map(|(name, version)| json!({"name": name, "version": version}))
        .collect();
    let inspection = Inspection {
        boot_interface: inventory.boot.pxe_interface.clone().or_else(|| settings.boot_interface.clone()),
        root_disk,
        configuration: Some(json!({"collectors": settings.inspection_collectors, "managers": managers})),
        error: error(&problems),
        logs: packed,
        inventory,
    };
    let mut document = serde_json::to_value(inspection).map_err(InspectionError::Write)?;
    if let Some(document) = document.as_object_mut() {
        document.extend(data);
    }
    Ok(document)
}

/// What went wrong, as drivers are told; nothing when nothing did.
pub(super) fn error(problems: &[String]) -> Option<String> {
    (!problems.is_empty()).then(|| format!("The following errors were encountered:\n* {}", problems.join("\n* ")))
}

/// What was heard of switches, by interface: pairs of type and hexadecimal text.
fn lldp(inventory: &Inventory) -> Value {
    let interfaces = inventory.interfaces.iter();
    let heard = interfaces.filter_map(|interface| Some((interface.name.clone(), json!(interface.lldp.as_ref()?))));
    Value::Object(heard.collect::<Map<String, Value>>())
}
