//! Heartbeats: where the agent is, that it lives, and that it has something to tell.

use super::ironic::{AGENT_VERSION_VERSION, Ironic, TOKEN_VERSION, VERIFY_CA_VERSION, refusal};
use crate::state::Agent;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use wire::ramdisk::Heartbeat;

/// What every heartbeat says.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// Base URL of the agent's API.
    pub callback_url: String,
    /// The certificate that it presents, PEM, when it made one itself.
    pub certificate: Option<String>,
}

/// Part of the driver's time-out after which the next heartbeat is due, at random: agents that started together drift
/// apart.
const SHARE: std::ops::RangeInclusive<f64> = 0.3..=0.6;
/// Seconds after a failed heartbeat, times 1 to 2.
const AFTER_FAILURE: f64 = 5.0;

/// Sends heartbeats until `stop`: the first at once, then at random intervals, and at once when an asynchronous command
/// has ended. Commands that end while one is on its way cause one more, not several. There is no giving up.
pub async fn run(agent: &Agent, ironic: &Ironic, announcement: Announcement, stop: &CancellationToken) {
    loop {
        let sent = tokio::select! {
            sent = send(agent, ironic, &announcement) => sent,
            () = stop.cancelled() => return,
        };
        let seconds = match sent {
            Ok(()) => agent.shared.settings().heartbeat_timeout.as_secs_f64() * rand::random_range(SHARE),
            Err(reason) => {
                tracing::warn!("heartbeat failed: {reason}");
                AFTER_FAILURE * rand::random_range(1.0..=2.0)
            }
        };
        tracing::debug!("next heartbeat in {seconds:.0} s");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {}
            () = agent.command_ended.notified() => tracing::debug!("a command has ended: heartbeat"),
            () = stop.cancelled() => return,
        }
    }
}

async fn send(agent: &Agent, ironic: &Ironic, announcement: &Announcement) -> Result<(), String> {
    let node = agent.node_uuid().ok_or("the node is not known")?;
    let version = ironic.version().await;
    let token = agent.token();
    let body = Heartbeat {
        callback_url: announcement.callback_url.clone(),
        agent_version: (version >= AGENT_VERSION_VERSION).then(|| wire::agent::AGENT_VERSION.to_owned()),
        agent_token: token.filter(|_| version >= TOKEN_VERSION).map(|token| token.reveal().to_owned()),
        agent_verify_ca: announcement.certificate.clone().filter(|_| version >= VERIFY_CA_VERSION),
        agent_status: None,
        agent_status_message: None,
    };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    let path = format!("/v1/heartbeat/{node}");
    let version = version.min(VERIFY_CA_VERSION);
    let reply = ironic.request(Method::POST, &path, Some(version), Some(Bytes::from(body))).await;
    let reply = reply.map_err(|error| transport::client::chain(&error))?;
    if reply.status == StatusCode::ACCEPTED {
        tracing::info!(node, "heartbeat");
        Ok(())
    } else {
        Err(refusal(&reply))
    }
}
