//! Streams: server-sent events (WHATWG HTML, 9.2) and lines, each read with a cap on what a piece may be.

use super::{Api, ApiError};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

/// Longest line of a stream, bytes; a peer that sends more is not followed any further.
const LONGEST: usize = 1 << 20;

/// The lines of a reply that goes on.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
    broken: Option<String>,
}

impl Lines {
    /// The next line, without its end; `None` when there are no more. Then [`Self::broken`] tells whether there should be.
    pub(crate) async fn next(&mut self) -> Option<String> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=searched + at).collect();
                return Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            searched = self.buffer.len();
            if searched > LONGEST {
                self.broken = Some(format!("a line has more than {LONGEST} bytes"));
                self.ended = true;
            }
            if self.ended {
                let rest = std::mem::take(&mut self.buffer);
                // Of what broke off, the last line is a part of one.
                let last = self.broken.is_none() && !rest.is_empty();
                return last.then(|| String::from_utf8_lossy(&rest).into_owned());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
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
    pub(crate) data: Value,
}

/// A stream of events.
pub(crate) struct Events(Lines);

impl Events {
    /// The next event; `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let mut parser = Parser::default();
        loop {
            let line = self.0.next().await?;
            if let Some(event) = parser.line(&line) {
                return Some(event);
            }
        }
    }
}

/// What is gathered of an event.
#[derive(Debug, Default)]
struct Parser {
    kind: String,
    data: String,
}

impl Parser {
    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let Self { kind, data } = std::mem::take(self);
            if data.is_empty() {
                return None;
            }
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return Some(Event { kind, data: wire::json::read(data.as_bytes()).unwrap_or_default() });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.kind = value.to_owned(),
            "data" if self.data.len() + value.len() <= LONGEST => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
        None
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
        Ok(Lines { body: response.into_body(), buffer: Vec::new(), ended: false, broken: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_read_as_the_standard_has_them() {
        let mut parser = Parser::default();
        let text = "retry: 3000\n: hello\n\nid: 1-2\nevent: state\ndata: {\"node\":\n\
                    data: \"n1\"}\n\nevent: none\n\ndata:no JSON\n\n";
        let events: Vec<Event> = text.lines().filter_map(|line| parser.line(line)).collect();
        let event = |kind: &str, data| Event { kind: kind.to_owned(), data };
        assert_eq!(events, [event("state", json!({"node": "n1"})), event("message", Value::Null)]);
    }
}
