//! Events: what a network service tells of its ports.

use super::request::{self, Arguments, Call, short};
use super::{Api, reply};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::Value;
use store::Store;
use uuid::Uuid;

const KNOWN: &[&str] = &["network.bind_port", "network.unbind_port", "network.delete_port"];
/// Most events of a request.
const MAX_EVENTS: usize = 1000;

fn invalid(why: impl std::fmt::Display) -> Fault {
    Fault::Invalid(format!("Schema error for events: {why}"))
}

impl<S: Store> Api<S> {
    /// `POST /v1/events`. Nothing here waits for a network service, so what is well-formed is noted in the log.
    pub(super) fn take_events(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut body = Arguments::new(call.object(false)?);
        let Some(Value::Array(events)) = body.take("events") else {
            return Err(invalid("'events' is a required property and must be a list"));
        };
        body.finish()?;
        if events.is_empty() || events.len() > MAX_EVENTS {
            return Err(invalid(format_args!("'events' must have 1 to {MAX_EVENTS} entries, not {}", events.len())));
        }
        for event in events {
            let Value::Object(event) = event else { return Err(invalid("each event must be an object")) };
            let mut event = Arguments::new(event);
            let name = event.required("event")?;
            if !KNOWN.contains(&name.as_str()) {
                return Err(invalid(format_args!("'{}' is none of {}", short(&name), KNOWN.join(", "))));
            }
            let (port, mac) = (event.required("port_id")?, event.required("mac_address")?);
            let status = event.required("status")?;
            for (name, text) in [("port_id", Some(port.clone())), ("device_id", event.text("device_id")?)] {
                if text.as_ref().is_some_and(|text| Uuid::try_parse(text).is_err()) {
                    return Err(invalid(format_args!("{name} must be a UUID")));
                }
            }
            if request::mac(&mac).is_none() {
                return Err(invalid(format_args!("mac_address '{}' is no MAC address", short(&mac))));
            }
            for name in ["binding:host_id", "binding:vnic_type"] {
                event.text(name)?;
            }
            event.finish()?;
            tracing::info!(event = name, port, mac, status = short(&status), "a network service told of a port");
        }
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }
}
