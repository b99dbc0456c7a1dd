//! `GET /v1/nodes/<node>/logs`: what the node's ramdisk logs, as it happens or as it was kept. An addition of ours.

use super::events::{no_seat, streamed};
use super::request::{Call, short};
use super::{Api, reply};
use crate::fault::Fault;
use crate::logs::{Line, Logs};
use axum::body::Body;
use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use http::{HeaderValue, Response, StatusCode, header};
use std::convert::Infallible;
use std::sync::Arc;
use store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Lines of one piece of a reply.
const PIECE: usize = 256;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

impl Form {
    fn of(call: &Call) -> Self {
        let accept = call.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let kind = |range: &str| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let wanted = accept.split(',').map(kind).find_map(|kind| match kind.as_str() {
            "application/x-ndjson" | "application/jsonl" | "application/json" => Some(Self::Json),
            "text/plain" | "text/*" | "*/*" => Some(Self::Text),
            _ => None,
        });
        wanted.unwrap_or(Self::Text)
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/x-ndjson",
        }
    }

    fn write(self, line: &Line) -> String {
        match self {
            Self::Text => line.text(),
            Self::Json => line.json(),
        }
    }

    /// What is written where lines went before they were read.
    fn gap(self, lost: u64) -> String {
        match self {
            Self::Text => format!("[{lost} lines went before they were read]\n"),
            Self::Json => format!("{{\"lost\":{lost}}}\n"),
        }
    }
}

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/logs`
    pub(super) async fn show_logs(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let follow = query.flag("follow")?.unwrap_or_default();
        let mut number = |name: &str, of: &str| {
            let Some(text) = query.take(name) else { return Ok(None) };
            let wrong =
                || Fault::Invalid(format!("Invalid value for {name}: \"{}\" is no number of {of}.", short(&text)));
            text.parse::<usize>().map(Some).map_err(|_| wrong())
        };
        let tail = number("tail", "lines")?;
        let earlier = number("earlier", "ramdisks")?.filter(|earlier| *earlier > 0);
        query.finish()?;
        if follow && earlier.is_some() {
            let text = "Nothing is added to the logs of an earlier ramdisk: give either earlier or follow.";
            return Err(Fault::Invalid(text.to_owned()));
        }
        let form = Form::of(&call);
        let node = self.node(&call).await?.uuid;
        let logs = self.conductor.logs().clone();
        let is_running = logs.has(node);
        if let Some(earlier) = earlier {
            // The newest of all is in no file while it runs.
            let kept = kept(&logs, node, earlier - usize::from(is_running)).await?.ok_or_else(|| {
                Fault::NotFound(format!(
                    "Logs of the ramdisk {earlier} before the last one of node {node} could not be found."
                ))
            })?;
            return Ok(answered(form, Body::from(newest(&kept, tail, form))));
        }
        let mut first = match is_running {
            true => String::new(),
            false => newest(&kept(&logs, node, 0).await?.unwrap_or_default(), tail, form),
        };
        let from = logs.start(node, tail);
        let body = if follow {
            let seat = self.conductor.events().seat().ok_or_else(no_seat)?;
            let changed = logs.subscribe();
            let lines = Following { logs, changed, node, from, form, first, end: self.access.draining.clone() };
            Body::from_stream(streamed(lines.stream(), seat))
        } else {
            let mut from = from;
            loop {
                let batch = logs.read(node, from, PIECE);
                if batch.lines.is_empty() {
                    break;
                }
                from = batch.next;
                batch.lines.iter().for_each(|line| first.push_str(&form.write(line)));
            }
            Body::from(first)
        };
        Ok(answered(form, body))
    }
}

/// The lines of a file of the node; see [`Logs::kept`].
async fn kept(logs: &Arc<Logs>, node: Uuid, before: usize) -> Result<Option<Vec<Line>>, Fault> {
    let kept = tokio::task::spawn_blocking({
        let logs = logs.clone();
        move || logs.kept(node, before)
    });
    let kept = kept.await.map_err(|error| error.to_string()).and_then(|kept| kept.map_err(|error| error.to_string()));
    kept.map_err(|error| {
        tracing::error!(%node, error, "read the logs that are kept");
        Fault::Internal("The logs that are kept cannot be read; the log of the driver has details.".to_owned())
    })
}

/// The newest `tail` of these lines; all of them without it.
fn newest(lines: &[Line], tail: Option<usize>, form: Form) -> String {
    let skip = lines.len().saturating_sub(tail.unwrap_or(usize::MAX));
    lines.iter().skip(skip).map(|line| form.write(line)).collect()
}

fn answered(form: Form, body: Body) -> Response<Body> {
    let mut response = reply::empty(StatusCode::OK);
    *response.body_mut() = body;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A reader who stays.
struct Following {
    logs: Arc<Logs>,
    changed: watch::Receiver<u64>,
    node: Uuid,
    from: u64,
    form: Form,
    /// What is written first.
    first: String,
    end: CancellationToken,
}

impl Following {
    fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        unfold(self, async |mut this| {
            let piece = this.next().await?;
            Some((Ok(Bytes::from(piece)), this))
        })
    }

    async fn next(&mut self) -> Option<String> {
        if !self.first.is_empty() {
            return Some(std::mem::take(&mut self.first));
        }
        loop {
            self.changed.mark_unchanged();
            let batch = self.logs.read(self.node, self.from, PIECE);
            self.from = batch.next;
            if batch.lost > 0 || !batch.lines.is_empty() {
                let mut text = if batch.lost > 0 { self.form.gap(batch.lost) } else { String::new() };
                batch.lines.iter().for_each(|line| text.push_str(&self.form.write(line)));
                return Some(text);
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = self.end.cancelled() => return None,
            }
        }
    }
}
