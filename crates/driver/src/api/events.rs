//! Events: what a network service tells of its ports; and, an addition of ours, what happens to nodes, as a stream of
//! server-sent events (WHATWG HTML, 9.2).

use super::request::{self, Arguments, Call, short};
use super::{Api, reply};
use crate::conductor::Conductor;
use crate::events::{Event, Place, Seat, WATCHERS};
use crate::fault::Fault;
use axum::body::Body;
use bytes::Bytes;
use futures::stream::unfold;
use futures::{Stream, StreamExt as _};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often something is sent while nothing happens, so that both ends learn when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events of one piece of a stream.
const PIECE: usize = 128;
/// Milliseconds after which a client whose stream ended comes again.
const RETRY: u32 = 3000;

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

/// The answer to one watcher too many.
pub(super) fn no_seat() -> Fault {
    Fault::Unavailable(format!(
        "{WATCHERS} clients watch already, which is as many as may; end one of them, or try again later."
    ))
}

/// A stream that holds a place as long as it is read.
pub(super) fn streamed(
    stream: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
    seat: Seat,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream.map(move |piece| {
        let _held = &seat;
        piece
    })
}

impl<S: Store> Api<S> {
    /// `GET /v1/events`
    pub(super) async fn stream_events(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let node = query.take("node");
        let asked = query.take("last_event_id");
        query.finish()?;
        let node = match node {
            None => None,
            Some(text) => Some(self.find_node(&request::node_ident(&text, true)?).await?.uuid),
        };
        let header = call.headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let events = self.conductor.events();
        let seat = events.seat().ok_or_else(no_seat)?;
        let place = match header.or(asked).filter(|id| !id.is_empty()) {
            None => Ok(events.now()),
            Some(id) => id.parse::<Place>().map_err(|()| {
                Fault::Invalid(format!("Last-Event-ID \"{}\" is none that this stream has given.", short(&id)))
            }),
        };
        let watcher = Watcher::new(self.conductor.clone(), place?, node, self.access.draining.clone());
        let mut response = reply::empty(StatusCode::OK);
        *response.body_mut() = Body::from_stream(streamed(server_sent(watcher), seat));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // A proxy that collects answers would hold events back (nginx reads this).
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }
}

/// Somebody who watches. It reads when there is room to write to it, so a slow one costs nothing.
pub(super) struct Watcher<S: Store> {
    conductor: Arc<Conductor<S>>,
    newest: watch::Receiver<u64>,
    place: Place,
    node: Option<Uuid>,
    begun: bool,
    over: bool,
    end: CancellationToken,
}

/// Something that a watcher is told.
pub(super) struct Told {
    /// The place behind it.
    pub(super) id: Place,
    /// The word for what it is.
    pub(super) kind: &'static str,
    /// What it says: a JSON object.
    pub(super) data: String,
}

impl<S: Store> Watcher<S> {
    pub(super) fn new(conductor: Arc<Conductor<S>>, place: Place, node: Option<Uuid>, end: CancellationToken) -> Self {
        let newest = conductor.events().subscribe();
        Self { conductor, newest, place, node, begun: false, over: false, end }
    }

    /// What is to be told next; nothing at all while nothing happens; [`None`] behind the end.
    pub(super) async fn next(&mut self) -> Option<Vec<Told>> {
        if self.over {
            return None;
        }
        if !self.begun {
            self.begun = true;
            return Some(self.one("begin", &json!({"conductor": self.conductor.hostname()})));
        }
        loop {
            self.newest.mark_unchanged();
            match self.conductor.events().read(self.place, self.node, PIECE) {
                Err(lost) => {
                    self.over = true;
                    self.place = self.conductor.events().now();
                    return Some(self.one("lost", &json!({"reason": lost.to_string()})));
                }
                Ok((events, place)) => {
                    self.place = place;
                    if !events.is_empty() {
                        return Some(events.iter().map(|event| told(place.epoch, event)).collect());
                    }
                }
            }
            tokio::select! {
                changed = self.newest.changed() => changed.ok()?,
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(Vec::new()),
                () = self.end.cancelled() => {
                    self.over = true;
                    return Some(self.one("end", &json!({"reason": "the driver stops"})));
                }
            }
        }
    }

    fn one(&self, kind: &'static str, data: &Value) -> Vec<Told> {
        vec![Told { id: self.place, kind, data: data.to_string() }]
    }
}

fn told(epoch: u64, event: &Event) -> Told {
    Told { id: Place { epoch, number: event.number }, kind: event.kind.as_str(), data: event.data.clone() }
}

/// The stream of a watcher as server-sent events.
fn server_sent<S: Store>(watcher: Watcher<S>) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let begin = Some(format!("retry: {RETRY}\n"));
    unfold((watcher, begin), |(mut watcher, begin)| async move {
        let told = watcher.next().await?;
        let mut text = begin.unwrap_or_default();
        if told.is_empty() {
            text.push_str(": nothing happened\n\n");
        }
        for Told { id, kind, data } in told {
            // The data is JSON, which has no line breaks.
            text.push_str(&format!("id: {id}\nevent: {kind}\ndata: {data}\n\n"));
        }
        Some((Ok(Bytes::from(text)), (watcher, None)))
    })
}
