//! What an agent and a driver say to each other on the driver's API: lookup, heartbeat, inspection.

use hardware::Inventory;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Reply to `GET /v1/lookup`, and to an accepted inspection since 1.84.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// The node; secrets are masked. Open-ended but for `uuid`.
    pub node: LookupNode,
    /// Settings for the agent.
    pub config: LookupConfig,
}

/// The node in a lookup reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LookupNode {
    /// UUID of the node.
    pub uuid: String,
    /// `properties`, `instance_info`, `driver_internal_info`, `links`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Settings in a lookup reply. Missing ones keep the agent's own, and so do those of a type that nobody expected: a node is
/// not lost over one of them. Only the token has to be one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct LookupConfig {
    /// Seconds after which the driver misses a heartbeat.
    pub heartbeat_timeout: Option<u64>,
    /// A token, `******` when one was given before, or null.
    pub agent_token: Option<String>,
    /// Whether commands need the token.
    pub agent_token_required: Option<bool>,
    /// Lowest TLS version of the agent's server, such as `1.3`.
    pub tls_min_version: Option<String>,
    /// Whether MD5 checksums are accepted.
    pub agent_md5_checksum_enable: Option<bool>,
    /// Where the driver takes sessions. Ours: absent under a real Ironic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ferric_session: Option<crate::session::Offer>,
    /// Everything else, and what is of an unexpected type, as sent.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl TryFrom<Map<String, Value>> for LookupConfig {
    type Error = String;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, String> {
        let agent_token = match map.remove("agent_token") {
            None | Some(Value::Null) => None,
            Some(Value::String(token)) => Some(token),
            Some(_) => return Err("agent_token is neither a text nor null".to_owned()),
        };
        Ok(Self {
            agent_token,
            heartbeat_timeout: take(&mut map, "heartbeat_timeout"),
            agent_token_required: take(&mut map, "agent_token_required"),
            tls_min_version: take(&mut map, "tls_min_version"),
            agent_md5_checksum_enable: take(&mut map, "agent_md5_checksum_enable"),
            ferric_session: take(&mut map, crate::session::OFFER_KEY),
            other: map,
        })
    }
}

impl LookupConfig {
    /// The settings that are not used because their type is not the expected one.
    pub fn misfits(&self) -> impl Iterator<Item = (&String, &Value)> {
        let known = [
            "heartbeat_timeout",
            "agent_token_required",
            "tls_min_version",
            "agent_md5_checksum_enable",
            crate::session::OFFER_KEY,
        ];
        self.other.iter().filter(move |(key, _)| known.contains(&key.as_str()))
    }
}

/// Takes a setting out of `map`, which keeps it when it is not a `T`.
fn take<T: serde::de::DeserializeOwned>(map: &mut Map<String, Value>, key: &str) -> Option<T> {
    let value = Option::<T>::deserialize(map.get(key)?).ok()?;
    map.remove(key);
    value
}

/// The text that stands for a secret that is not told.
pub const MASK: &str = "******";

/// Body of `POST /v1/heartbeat/<node>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Base URL of the agent's API.
    pub callback_url: String,
    /// [`crate::agent::AGENT_VERSION`]. Since 1.36.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The agent's token. Since 1.62.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_token: Option<String>,
    /// Certificate of the agent's server, PEM. Since 1.68.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_verify_ca: Option<String>,
    /// `start`, `end` or `error`. Since 1.72.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_status: Option<String>,
    /// Text for the status. Since 1.72.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_status_message: Option<String>,
}

/// Body of `POST /v1/continue_inspection`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The inventory.
    pub inventory: Inventory,
    /// The disk that the root device hints choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<hardware::Disk>,
    /// The interface booted from, in the form of `BOOTIF`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_interface: Option<String>,
    /// Collectors and managers that took part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Value>,
    /// What went wrong while collecting.
    #[serde(default)]
    pub error: Option<String>,
    /// Logs: base64 of a gzipped tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_setting_of_an_odd_type_costs_neither_the_node_nor_the_other_settings() {
        let odd = [
            json!({"heartbeat_timeout": 300.0}),
            json!({"heartbeat_timeout": -1}),
            json!({"agent_token_required": "yes"}),
            json!({"tls_min_version": 1.3}),
            json!({"agent_md5_checksum_enable": [], "something": {"new": true}}),
            json!({"ferric_session": {"url": "https://driver:6386"}}),
        ];
        for odd in odd {
            let mut config = odd.clone();
            config["agent_token"] = json!("secret");
            let lookup: Lookup = serde_json::from_value(json!({"node": {"uuid": "u"}, "config": config})).unwrap();
            let expected = LookupConfig {
                agent_token: Some("secret".to_owned()),
                other: odd.as_object().unwrap().clone(),
                ..LookupConfig::default()
            };
            assert_eq!(lookup.config, expected);
            assert_eq!(lookup.config.misfits().count(), 1);
        }
        let null = json!({"heartbeat_timeout": null, "agent_token": null, "tls_min_version": null});
        assert_eq!(serde_json::from_value::<LookupConfig>(null).unwrap(), LookupConfig::default());
    }

    #[test]
    fn settings_come_back_as_they_were_written() {
        let config = json!({
            "heartbeat_timeout": 300, "agent_token": "t", "agent_token_required": true, "tls_min_version": "1.3",
            "agent_md5_checksum_enable": false, "agent_containers": {"x": 1},
            "ferric_session": {"url": "https://driver:6386", "ca": "PEM"},
        });
        let read: LookupConfig = serde_json::from_value(config.clone()).unwrap();
        assert_eq!(read.heartbeat_timeout, Some(300));
        assert_eq!(serde_json::to_value(&read).unwrap(), config);
    }

    #[test]
    fn a_token_that_is_no_text_is_refused() {
        for token in [json!(1), json!(["t"]), json!(true)] {
            assert!(serde_json::from_value::<LookupConfig>(json!({"agent_token": token})).is_err());
        }
    }
}
