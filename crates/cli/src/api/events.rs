//! Streams: server-sent events and lines, each read with a cap on what a piece may be.

use super::{Api, ApiError};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use wire::events;

/// The lines of a reply that goes on.
pub(crate) struct Lines {
    body: Incoming,
    lines: events::Lines,
    ended: bool,
    broken: Option<String>,
}

impl Lines {
    /// The next line, without its end; `None` when there are no more. Then [`Self::broken`] tells whether there should be.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            match self.lines.next_line() {
                Ok(Some(line)) => return Some(line),
                // Of what broke off, the last line is a part of one.
                Ok(None) if self.ended => return self.lines.rest().filter(|_| self.broken.is_none()),
                Ok(None) => {}
                Err(error) => {
                    self.broken = Some(error.to_string());
                    self.ended = true;
                    return None;
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(&data);
                    }
                }
                Some(Err(error)) => {
                    self.broken = Some(transport::client::chain(&error));
                    self.ended = true;
                }
                None => self.ended = true,
            }
        }
    }

    /// Why the lines broke off, when it was no end.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: String,
    /// Null when it is no JSON.
    pub(crate) data: Value,
}

/// A stream of events.
pub(crate) struct Events(Lines);

impl Events {
    /// The next event; `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let mut gathered = events::Events::default();
        loop {
            let line = self.0.next().await?;
            if let Some(events::Event { kind, data }) = gathered.line(&line) {
                return Some(Event { kind, data: wire::json::read(data.as_bytes()).unwrap_or_default() });
            }
        }
    }
}

impl Api {
    /// What happens to nodes, or to one of them. Ferric's own; an Ironic answers with an error.
    pub(crate) async fn events(&self, node: Option<&str>) -> Result<Events, ApiError> {
        let mut path = "/v1/events".to_owned();
        if let Some(node) = node {
            let query = form_urlencoded::Serializer::new(String::new()).append_pair("node", node).finish();
            path = format!("{path}?{query}");
        }
        Ok(Events(self.lines(&path, "text/event-stream, */*").await?))
    }

    /// The lines of a reply.
    pub(crate) async fn lines(&self, path: &str, accept: &'static str) -> Result<Lines, ApiError> {
        let response = self.open(path, accept).await?;
        Ok(Lines { body: response.into_body(), lines: events::Lines::default(), ended: false, broken: None })
    }
}
