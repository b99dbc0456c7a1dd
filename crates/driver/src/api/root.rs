//! The root and `v1` documents, from which clients learn the versions.

use super::document::links;
use super::reply;
use super::request::Call;
use super::routes::RESOURCES;
use super::versions;
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use wire::ironic::Version;

fn version(base: &str) -> Value {
    json!({
        "id": "v1",
        "links": [{"rel": "self", "href": format!("{base}/v1/")}],
        "status": "CURRENT",
        "min_version": Version::MIN.to_string(),
        "version": Version::MAX.to_string(),
    })
}

/// `GET /`. The name is Ironic's, since clients tell by it what they talk to.
pub(super) fn root(call: Call) -> Result<Response<Body>, Fault> {
    call.query.finish()?;
    let version = version(&call.base);
    let document = json!({
        "name": "OpenStack Ironic API",
        "description": "Ferric serves the Ironic API: provisioning and management of bare-metal machines.",
        "default_version": version,
        "versions": [version],
    });
    Ok(reply::json(StatusCode::OK, &document))
}

/// `GET /v1`.
pub(super) fn v1(call: Call) -> Result<Response<Body>, Fault> {
    let documentation = "https://docs.openstack.org/ironic/latest/contributor/webapi.html";
    let mut document = json!({
        "id": "v1",
        "links": [
            {"rel": "self", "href": format!("{}/v1/", call.base)},
            {"rel": "describedby", "href": documentation, "type": "text/html"},
        ],
        "media_types": {"base": "application/json", "type": "application/vnd.openstack.ironic.v1+json"},
        "version": version(&call.base),
    });
    for (name, _) in RESOURCES.iter().filter(|(_, since)| versions::has(call.version, *since)) {
        document[*name] = links(&call.base, &format!("{name}/"));
    }
    call.query.finish()?;
    Ok(reply::json(StatusCode::OK, &document))
}
