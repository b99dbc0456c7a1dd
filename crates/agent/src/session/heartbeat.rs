//! Heartbeats: where the agent is, that it lives, and that it has something to tell.

use super::ironic::{AGENT_VERSION_VERSION, Ironic, TOKEN_VERSION, VERIFY_CA_VERSION, refusal};
use crate::state::Agent;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::ops::RangeInclusive;
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
const SHARE: RangeInclusive<f64> = 0.3..=0.6;
/// Seconds after a failed heartbeat, times 1 to 2.
const SOON: f64 = 5.0;
/// What a driver may say of its time-out, seconds: neither does an agent storm it, nor is it silent for a day.
const TIMEOUTS: RangeInclusive<f64> = 5.0..=86_400.0;

/// Sends heartbeats until `stop`: the first at once, then at random intervals, and at once when an asynchronous command
/// has ended. Commands that end while one is on its way cause one more, not several. There is no giving up.
///
/// One that tells of a command is followed by another one soon: a driver that is still busy with the node, as it is when
/// the command was a short one, accepts it (202) and looks at nothing.
pub async fn run(agent: &Agent, ironic: &Ironic, announcement: Announcement, stop: &CancellationToken) {
    let mut tells = false;
    loop {
        let sent = tokio::select! {
            sent = send(agent, ironic, &announcement) => sent,
            () = stop.cancelled() => return,
        };
        if let Err(reason) = &sent {
            tracing::warn!("heartbeat failed: {reason}");
        }
        let timeout = agent.shared.settings().heartbeat_timeout;
        let seconds = rand::random_range(wait_after(sent.is_ok() && !tells, timeout));
        tracing::debug!("next heartbeat in {seconds:.0} s");
        tells = tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => false,
            () = agent.command_ended.notified() => {
                tracing::debug!("a command has ended: heartbeat");
                true
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Seconds until the next heartbeat: a share of the driver's time-out when all is well, else soon.
fn wait_after(well: bool, timeout: Duration) -> RangeInclusive<f64> {
    let (unit, share) = match well {
        true => (timeout.as_secs_f64().clamp(*TIMEOUTS.start(), *TIMEOUTS.end()), SHARE),
        false => (SOON, 1.0..=2.0),
    };
    unit * share.start()..=unit * share.end()
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
        tracing::info!(node, memory_kib = crate::memory::resident().now, "heartbeat");
        Ok(())
    } else {
        Err(refusal(&reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_heartbeat_is_due_after_a_share_of_the_time_out_and_soon_after_a_failure() {
        let waits = |well, seconds| wait_after(well, Duration::from_secs(seconds));
        assert_eq!(waits(true, 300), 90.0..=180.0);
        assert_eq!(waits(false, 300), 5.0..=10.0);
        // A time-out of nothing does not make the agent storm its driver, and one of ages does not silence it.
        assert_eq!(waits(true, 0), 1.5..=3.0);
        assert_eq!(waits(true, u64::MAX), 25_920.0..=51_840.0);
    }
}
