//! What a handler gives back, and the shape of every error.

use crate::fault::Fault;
use crate::tag::Tag;
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::json;
use wire::ironic::{ErrorBody, MAX_VERSION_HEADER, MIN_VERSION_HEADER, VERSION_HEADER, Version, VersionError};

/// A reply with a JSON body.
pub(super) fn json(status: StatusCode, document: &(impl Serialize + ?Sized)) -> Response<Body> {
    match serde_json::to_vec(document) {
        Ok(bytes) => json_bytes(status, Body::from(bytes)),
        Err(error) => unwritten(&error),
    }
}

/// A reply whose body is JSON already.
pub(super) fn json_bytes(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The reply in place of a document that could not be written. Those of ours have texts for keys, so this is a flaw of this
/// program.
pub(super) fn unwritten(error: &serde_json::Error) -> Response<Body> {
    tracing::error!(%error, "a document could not be written");
    empty(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A reply without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Adds where to look.
pub(super) fn located(mut response: Response<Body>, location: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// Adds the tag of what is in the reply, for `If-Match` of a later change.
pub(super) fn tagged(mut response: Response<Body>, tag: Tag) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(&tag.to_string()) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// The reply to a request that was not done. Errors of the API itself and of its router have two shapes, which clients
/// tell apart; both are JSON text inside JSON.
pub(super) fn fault(fault: &Fault) -> Response<Body> {
    let status = StatusCode::from_u16(fault.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = if is_router(fault) {
        let title = status.canonical_reason().unwrap_or_default();
        let inner = json!({"code": status.as_u16(), "title": title, "description": fault.to_string()});
        ErrorBody { error_message: inner.to_string() }
    } else {
        ErrorBody::fault(status.as_u16(), &fault.to_string())
    };
    let mut response = json(status, &json!(body));
    if matches!(fault, Fault::Unauthorized(_)) {
        let realm = HeaderValue::from_static("Basic realm=\"Baremetal API\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    }
    // Which there are is said in words when there is none yet.
    if let Fault::MethodNotAllowed { allowed, .. } = fault
        && allowed.split(", ").all(|method| method.parse::<http::Method>().is_ok())
        && let Ok(value) = HeaderValue::from_str(allowed)
    {
        response.headers_mut().insert(header::ALLOW, value);
    }
    if let Fault::Range { length } = fault
        && let Ok(value) = HeaderValue::from_str(&format!("bytes */{length}"))
    {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// Whether the fault is the router's, found before a resource was asked.
fn is_router(fault: &Fault) -> bool {
    match fault {
        Fault::NoRoute
        | Fault::Unauthorized(_)
        | Fault::BadPath(_)
        | Fault::Version(_)
        | Fault::MethodNotAllowed { .. }
        | Fault::TooLarge(_)
        | Fault::Range { .. } => true,
        Fault::Invalid(_)
        | Fault::WrongState { .. }
        | Fault::NotFound(_)
        | Fault::Conflict(_)
        | Fault::Forbidden(_)
        | Fault::NotAcceptable(_)
        | Fault::Unavailable(_)
        | Fault::Changed { .. }
        | Fault::MethodNotYet { .. }
        | Fault::Internal(_) => false,
    }
}

/// Adds the version headers: all three where a resource answered, the range where a version is out of it, and none
/// where the router alone answered. So does Ironic, and clients renegotiate by them.
pub(super) fn add_versions(headers: &mut HeaderMap, version: Option<Version>, outcome: Result<(), &Fault>) {
    let (range, own) = match outcome {
        Err(Fault::Version(VersionError::Unsupported(_))) => (true, false),
        Err(fault) if is_router(fault) => (false, false),
        Ok(()) | Err(_) => (true, true),
    };
    let mut add = |name: &'static str, version: Version| {
        if let Ok(value) = HeaderValue::from_str(&version.to_string()) {
            headers.insert(name, value);
        }
    };
    if range {
        add(MIN_VERSION_HEADER, Version::MIN);
        add(MAX_VERSION_HEADER, Version::MAX);
    }
    if let Some(version) = version.filter(|_| own) {
        add(VERSION_HEADER, version);
    }
}

/// Adds the number of the request, by both of its names.
pub(super) fn add_request_id(headers: &mut HeaderMap, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert("x-openstack-request-id", value.clone());
        headers.insert("openstack-request-id", value);
    }
}
