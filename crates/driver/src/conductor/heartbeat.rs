//! What happens on a heartbeat.
//!
//! 1. The agent is checked: its address is the one it gave before, its token the one that it was given, its certificate
//!    the one that it presented first.
//! 2. What it says is saved in `driver_internal_info`, and the deadline of a waiting node begins anew.
//! 3. In a waiting state the node's worker is rung; it reads the node and goes on with the flow: a plan that waits for
//!    an agent sees its address, one that waits for a command asks how that is.
//!
//! In other states the heartbeat is recorded or ignored, as the table of `lifecycle` says. Nothing here waits for a
//! flow, so a slow BMC never delays an answer.

use super::Conductor;
use super::change::Draft;
use super::secret::same;
use crate::command::NodeIdent;
use crate::fault::Fault;
use lifecycle::provision::{HeartbeatEffect, Kind};
use serde_json::Value;
use std::sync::Arc;
use store::{Durability, Node, Store};
use uuid::Uuid;
use wire::ironic::Version;
use wire::ramdisk::Heartbeat;
use wire::session::CALLBACK_SCHEME;

/// The first version whose heartbeats carry `agent_version`.
const WITH_AGENT_VERSION: Version = Version(36);

impl<S: Store> Conductor<S> {
    /// Takes a heartbeat.
    ///
    /// # Errors
    /// [`Fault`]; nothing is saved then.
    pub async fn heartbeat(
        self: &Arc<Self>,
        ident: &NodeIdent,
        version: Version,
        heartbeat: Heartbeat,
    ) -> Result<(), Fault> {
        let taken = self.take_heartbeat(ident, version, heartbeat).await;
        self.metrics.heartbeat(&taken);
        taken.map(drop)
    }

    async fn take_heartbeat(
        self: &Arc<Self>,
        ident: &NodeIdent,
        version: Version,
        heartbeat: Heartbeat,
    ) -> Result<HeartbeatEffect, Fault> {
        self.check_shape(version, &heartbeat)?;
        let (this, ident) = (self.clone(), ident.clone());
        self.detached(async move {
            let uuid = this.find_shared(&ident).await?.uuid;
            let record = |draft: &mut Draft| {
                if is_another_boot(&draft.node, &heartbeat) {
                    this.boots.has_token(uuid, draft.now);
                }
                let fast_track = this.settings.fast_track_of(&draft.node);
                record(draft, &heartbeat, fast_track)
            };
            let (_, _, effect) = this.change(uuid, record).await?;
            match effect {
                HeartbeatEffect::Act => this.wake(uuid),
                HeartbeatEffect::Record => {}
                HeartbeatEffect::Ignore => tracing::info!(node = %uuid, "a heartbeat came that nobody waits for"),
            }
            Ok(effect)
        })
        .await
    }

    /// What is wrong with a heartbeat whatever its node.
    fn check_shape(&self, version: Version, heartbeat: &Heartbeat) -> Result<(), Fault> {
        let invalid = |text: &str| Err(Fault::Invalid(text.to_owned()));
        match heartbeat.callback_url.split_once("://") {
            // An agent that does not listen names its session.
            None if is_session(&heartbeat.callback_url) => {}
            Some(("https", rest)) if !rest.is_empty() => {}
            Some(("http", rest)) if !rest.is_empty() => {
                if self.settings.require_tls {
                    return invalid(
                        "TLS is required by configuration: the \"callback_url\" of the ramdisk must be HTTPS.",
                    );
                }
            }
            _ => return invalid("An issue with the supplied \"callback_url\" has been detected."),
        }
        if heartbeat.callback_url.parse::<http::Uri>().is_err() {
            return invalid("An issue with the supplied \"callback_url\" has been detected.");
        }
        if let Some(status) = &heartbeat.agent_status
            && !matches!(status.as_str(), "start" | "end" | "error")
        {
            return invalid("Agent status is invalid. Valid states are start,end,error.");
        }
        if heartbeat.agent_version.is_none() && version >= WITH_AGENT_VERSION {
            return invalid(
                "Agent did not transmit a version, and a version is required. Please update the agent being used.",
            );
        }
        Ok(())
    }
}

/// Whether this is no URL, but the name of a session.
pub(super) fn is_session(url: &str) -> bool {
    let session = url.strip_prefix(CALLBACK_SCHEME).and_then(|rest| rest.strip_prefix(':'));
    session.is_some_and(|session| Uuid::try_parse(session).is_ok())
}

/// Whether this comes from somebody who has the node's token, and another certificate than the agent that called first.
fn is_another_boot(node: &Node, heartbeat: &Heartbeat) -> bool {
    let stored = |key: &str| node.driver_internal_info.get(key).and_then(Value::as_str);
    let token = stored("agent_secret_token").zip(heartbeat.agent_token.as_deref());
    let certificate = stored("agent_verify_ca").zip(heartbeat.agent_verify_ca.as_deref());
    token.is_some_and(|(stored, told)| same(stored, told)) && certificate.is_some_and(|(stored, told)| stored != told)
}

fn record(draft: &mut Draft, heartbeat: &Heartbeat, fast_track: bool) -> Result<HeartbeatEffect, Fault> {
    let info = &draft.node.driver_internal_info;
    let stored = |key: &str| info.get(key).and_then(Value::as_str);
    let invalid = |text: &str| Err(Fault::Invalid(text.to_owned()));
    // Not even where it is a session: an agent that listens says so before anything else, and whoever has only seen the token
    // would have the driver call elsewhere once the session breaks.
    if stored("agent_url").is_some_and(|url| url != heartbeat.callback_url) {
        return invalid("Detected change in ramdisk provided \"callback_url\".");
    }
    let Some(token) = &heartbeat.agent_token else {
        return invalid("Agent token is required for heartbeat processing.");
    };
    if !stored("agent_secret_token").is_some_and(|own| same(own, token)) {
        return invalid("Invalid or missing agent token received.");
    }
    if let (Some(known), Some(now)) = (stored("agent_verify_ca"), &heartbeat.agent_verify_ca)
        && known != now
    {
        return invalid("Detected change in ramdisk provided \"agent_verify_ca\".");
    }
    let told = [
        ("agent_url", Some(&heartbeat.callback_url)),
        ("agent_version", heartbeat.agent_version.as_ref()),
        ("agent_verify_ca", heartbeat.agent_verify_ca.as_ref()),
        ("agent_status", heartbeat.agent_status.as_ref()),
        ("agent_status_message", heartbeat.agent_status_message.as_ref()),
    ];
    Ok(heard(draft, fast_track, &told))
}

/// The agent was heard of, and told this.
pub(super) fn heard(draft: &mut Draft, fast_track: bool, told: &[(&str, Option<&String>)]) -> HeartbeatEffect {
    let effect = draft.node.provision_state.heartbeat(fast_track);
    draft.durability = match effect {
        HeartbeatEffect::Act => Some(Durability::Now),
        // Nothing follows from it, and the agent says it again. A conductor that starts counts deadlines anew.
        HeartbeatEffect::Record => Some(Durability::Soon),
        HeartbeatEffect::Ignore => None,
    };
    if effect == HeartbeatEffect::Ignore {
        return effect;
    }
    for (key, value) in told {
        if let Some(value) = value {
            draft.node.driver_internal_info.insert((*key).to_owned(), Value::from(value.as_str()));
        }
    }
    let last = draft.now.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    draft.node.driver_internal_info.insert("agent_last_heartbeat".to_owned(), Value::from(last));
    // A hold waits for a person, and nothing else waits in a stable state: neither is put off by a machine.
    if matches!(draft.node.provision_state.kind(), Kind::Working | Kind::Waiting) {
        draft.node.provision_updated_at = Some(draft.now);
    }
    effect
}
