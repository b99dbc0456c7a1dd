//! The root documents and the status.

use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const DOCS: &str = "https://docs.openstack.org/ironic-python-agent/";
const MEDIA_TYPE: &str = "application/vnd.openstack.ironic-python-agent.v1+json";

fn version(root: &str) -> Value {
    json!({
        "id": "v1",
        "links": [
            {"href": format!("{root}/v1"), "rel": "self"},
            {"href": DOCS, "rel": "describedby", "type": "text/html"},
        ],
    })
}

/// `GET /`. `root` is scheme, host and port as the client used them.
pub(super) fn root(root: &str) -> Value {
    json!({
        "name": "OpenStack Ironic Python Agent API",
        "description": "Ironic Python Agent is a provisioning agent for OpenStack Ironic",
        "versions": [version(root)],
        "default_version": version(root),
    })
}

/// `GET /v1/`.
pub(super) fn v1(root: &str) -> Value {
    let links = |resource: &str| {
        json!([
            {"href": format!("{root}/v1/{resource}"), "rel": "self"},
            {"href": format!("{root}/{resource}"), "rel": "bookmark"},
        ])
    };
    let mut document = version(root);
    document["commands"] = links("commands");
    document["status"] = links("status");
    document["media_types"] = json!([{"base": "application/json", "type": MEDIA_TYPE}]);
    document
}

/// `GET /v1/status`.
pub(super) fn status(started_at: SystemTime) -> Value {
    let seconds = started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    json!({"started_at": seconds, "version": wire::agent::AGENT_VERSION})
}
