//! How an agent finds out which node it runs on, and gets its token.
//!
//! Whatever does not lead to a node that expects an agent is answered in the same words, so that a stranger on the
//! network learns nothing.

use super::Conductor;
use super::change::{Draft, RESCUE_KEYS};
use super::secret::{masked, new_token};
use crate::command::LookupRequest;
use crate::fault::Fault;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use store::{Node, Page, PortFilter, Store};
use uuid::Uuid;
use wire::authorized_keys;
use wire::ramdisk::{Lookup, LookupConfig, LookupNode, MASK};

/// Key of an agent's token in `driver_internal_info`.
const TOKEN: &str = "agent_secret_token";

fn not_found() -> Fault {
    Fault::NotFound("Resource could not be found.".to_owned())
}

impl<S: Store> Conductor<S> {
    /// Answers a look-up.
    ///
    /// # Errors
    /// [`Fault::Invalid`] when the request names nothing, [`Fault::NotFound`] for everything else.
    pub async fn lookup(self: &Arc<Self>, request: LookupRequest) -> Result<Lookup, Fault> {
        if request.addresses.is_empty() && request.node.is_none() {
            let text = "At least one of 'addresses' and 'node_uuid' parameters is required";
            return Err(Fault::Invalid(text.to_owned()));
        }
        let found = self.look_up(request).await;
        self.metrics.lookup(found.is_ok());
        found
    }

    async fn look_up(self: &Arc<Self>, request: LookupRequest) -> Result<Lookup, Fault> {
        let uuid = match request.node {
            Some(uuid) => uuid,
            None => self.node_of_addresses(&request.addresses).await?.ok_or_else(not_found)?,
        };
        let answer = async {
            let node = self.store.shared_node(uuid).await?;
            self.may_look_up(&node)?;
            // Most look-ups change nothing and are answered from what is there.
            match known_token(&node, request.token) {
                Some(token) => {
                    self.boots.looked_up(uuid, self.parts.clock.now());
                    Ok((node, token))
                }
                None => self.make_token(uuid, request.peer).await,
            }
        };
        let (node, token) = answer.await.map_err(|fault| match fault {
            Fault::NotFound(_) => not_found(),
            other => other,
        })?;
        tracing::debug!(node = %uuid, peer = ?request.peer, "an agent has looked its node up");
        Ok(self.lookup_answer(&node, token))
    }

    /// Whether an agent may find this node now.
    fn may_look_up(&self, node: &Node) -> Result<(), Fault> {
        let fast_track = self.settings.fast_track_of(node);
        let may = !self.settings.restrict_lookup || node.provision_state.allows_lookup(fast_track);
        if may { Ok(()) } else { Err(not_found()) }
    }

    /// Makes the token of a node that has none, unless somebody was quicker; saved whatever becomes of the request.
    async fn make_token(
        self: &Arc<Self>,
        uuid: Uuid,
        peer: Option<IpAddr>,
    ) -> Result<(Arc<Node>, Option<String>), Fault> {
        let this = self.clone();
        self.detached(async move {
            let (node, _, token) = this
                .change(uuid, |draft| {
                    this.may_look_up(&draft.node)?;
                    if draft.node.driver_internal_info.contains_key(TOKEN) {
                        draft.durability = None;
                    } else {
                        tracing::info!(node = %uuid, ?peer, "an agent gets its token");
                    }
                    Ok(give_token(draft, true))
                })
                .await?;
            Ok((node, token))
        })
        .await
    }

    /// The one node whose ports have these addresses.
    pub(super) async fn node_of_addresses(&self, addresses: &[String]) -> Result<Option<Uuid>, Fault> {
        let addresses: Vec<String> = addresses.iter().map(|address| address.to_ascii_lowercase()).collect();
        let filter = PortFilter { addresses: Some(addresses), ..PortFilter::default() };
        let ports = self.store.ports(&filter, &Page::default()).await?;
        let mut nodes: Vec<Uuid> = ports.iter().map(|port| port.node_uuid).collect();
        nodes.sort();
        nodes.dedup();
        match nodes.as_slice() {
            [only] => Ok(Some(*only)),
            [] => Ok(None),
            several => {
                tracing::warn!(?several, "an agent has the addresses of more than one node");
                Ok(None)
            }
        }
    }

    pub(super) fn lookup_answer(&self, node: &Node, token: Option<String>) -> Lookup {
        let mut other = Map::new();
        other.insert("properties".to_owned(), Value::Object(node.properties.clone()));
        let mut instance = masked(&node.instance_info);
        if let Some(keys) = node.driver_internal_info.get(RESCUE_KEYS) {
            instance.insert(authorized_keys::KEY.to_owned(), keys.clone());
        }
        other.insert("instance_info".to_owned(), Value::Object(instance));
        other.insert("driver_internal_info".to_owned(), Value::Object(masked(&node.driver_internal_info)));
        let config = LookupConfig {
            heartbeat_timeout: Some(self.settings.heartbeat_timeout),
            agent_token: token,
            agent_token_required: Some(true),
            tls_min_version: Some("1.3".to_owned()),
            agent_md5_checksum_enable: Some(false),
            ferric_session: self.settings.session.clone(),
            other: agent_settings(node.driver == "redfish"),
        };
        Lookup { node: LookupNode { uuid: node.uuid.to_string(), other }, config }
    }
}

/// The token for the answer: a new one the first time, else as [`known_token`] says.
pub(super) fn give_token(draft: &mut Draft, may_make: bool) -> Option<String> {
    known_token(&draft.node, may_make).unwrap_or_else(|| {
        let token = new_token();
        draft.node.driver_internal_info.insert(TOKEN.to_owned(), Value::from(token.as_str()));
        Some(token)
    })
}

/// The token for the answer, where none has to be made: a mask when there is one already, and what there is for agents
/// that are older than tokens.
fn known_token(node: &Node, may_make: bool) -> Option<Option<String>> {
    let stored = node.driver_internal_info.get(TOKEN).and_then(Value::as_str);
    let pregenerated = node.driver_internal_info.contains_key("agent_secret_token_pregenerated");
    match (stored, may_make) {
        (Some(_), true) => Some(Some(MASK.to_owned())),
        // A token that came with the ramdisk is never told: whoever asks for it is not that ramdisk.
        (Some(_), false) if pregenerated => Some(Some(MASK.to_owned())),
        (Some(token), false) => Some(Some(token.to_owned())),
        (None, false) => Some(None),
        (None, true) => None,
    }
}

/// Settings for agents that the driver has no settings of its own for: Ironic's defaults.
static AGENT_SETTINGS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let settings = json!({
        "metrics": {
            "backend": "noop", "prepend_host": false, "prepend_uuid": false, "prepend_host_reverse": true,
            "global_prefix": null,
        },
        "metrics_statsd": {"statsd_host": "localhost", "statsd_port": 8125},
        "agent_containers": {
            "allow_arbitrary_containers": false, "allowed_containers": [],
            "container_steps_file": "/etc/ironic-python-agent.d/mysteps.yaml", "runner": "podman",
            "pull_options": ["--tls-verify=false"], "run_options": ["--rm", "--network=host", "--tls-verify=false"],
        },
        "disable_deep_image_inspection": false,
        "permitted_image_formats": ["raw", "gpt", "qcow2", "iso"],
        "enable_bios_bootloader_install": false,
        "tls_cipher_suites": null,
    });
    settings.as_object().cloned().unwrap_or_default()
});

fn agent_settings(skip_bmc_detect: bool) -> Map<String, Value> {
    let mut settings = AGENT_SETTINGS.clone();
    settings.insert("agent_skip_bmc_detect".to_owned(), Value::from(skip_bmc_detect));
    settings
}
