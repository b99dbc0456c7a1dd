//! `ferric node logs`: what a ramdisk logs, once or as it comes. Whoever follows it outlives a service that is started
//! anew and a network that breaks.

use super::Session;
use crate::api::events::Lines;
use crate::api::{ApiError, path};
use crate::connect::Format;
use crate::error::Error;
use crate::{output, table};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// Between two tries to reach the service again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the service may be away from somebody who follows; a driver that is started anew is back sooner.
const AWAY: Duration = Duration::from_secs(120);
/// Lines that are known again when they come again: more than the service keeps of a running ramdisk.
const REMEMBERED: usize = 1 << 16;

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Name or UUID of a node
    node: String,
    /// Stay, and show lines as they come
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the newest lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Those of an earlier ramdisk: 1 is the one before the last
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    earlier: Option<u64>,
}

/// What was shown, so that nothing is shown twice when the service begins anew.
#[derive(Debug, Default)]
struct Shown {
    known: BTreeSet<u64>,
    order: VecDeque<u64>,
    /// When the first line was logged, where not all were asked for: what is older was not wanted.
    since: Option<Timestamp>,
    again: bool,
}

impl Shown {
    /// Whether a line is new.
    fn is_new(&mut self, line: &str, tail: Option<u64>) -> bool {
        let (mark, time) = mark(line);
        if self.again && (self.known.contains(&mark) || time.is_some_and(|time| Some(time) < self.since)) {
            return false;
        }
        if self.since.is_none() && tail.is_some() {
            self.since = time;
        }
        if self.known.insert(mark) {
            self.order.push_back(mark);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// What tells a line from others, and when it was logged. Its number is not part of that: a service that was started anew
/// counts from one.
fn mark(line: &str) -> (u64, Option<Timestamp>) {
    let mut hasher = DefaultHasher::new();
    let time = match wire::json::read::<Value>(line.as_bytes()) {
        Ok(Value::Object(mut fields)) => {
            fields.remove("number");
            let time = fields.get("time").and_then(Value::as_str).and_then(|time| time.parse().ok());
            Value::Object(fields).to_string().hash(&mut hasher);
            time
        }
        _ => {
            line.hash(&mut hasher);
            line.split(' ').next().and_then(|time| time.parse().ok())
        }
    };
    (hasher.finish(), time)
}

/// Shows them.
pub(super) async fn run(session: &Session, args: &LogsArgs) -> Result<(), Error> {
    let failed = |error: ApiError| Error::of(&args.node, error);
    // One for all the time: a signal between two lines is heard as well.
    let mut interrupts = signal(SignalKind::interrupt()).ok();
    let mut interrupted = pin!(async {
        match &mut interrupts {
            Some(interrupts) => drop(interrupts.recv().await),
            None => std::future::pending().await,
        }
    });
    let mut lines = open(session, args, args.tail).await.map_err(failed)?;
    let mut shown = Shown::default();
    loop {
        let next = tokio::select! {
            line = lines.next() => line,
            () = &mut interrupted => return Ok(()),
        };
        let Some(line) = next else {
            if args.follow {
                // A service ends what is followed when it stops, and never else.
                let reopened = tokio::select! {
                    reopened = reopen(session, args, lines.broken()) => reopened,
                    () = &mut interrupted => return Ok(()),
                };
                lines = reopened.map_err(failed)?;
                shown.again = true;
                continue;
            }
            if let Some(reason) = lines.broken() {
                let url = session.api.endpoint().url.clone();
                return Err(failed(ApiError::CutOff { url, reason: reason.to_owned() }));
            }
            break;
        };
        if !shown.is_new(&line, args.tail) {
            continue;
        }
        let line = if session.output.format == Format::Table { table::plain(&line) } else { line };
        if !output::line(&line) {
            return Ok(());
        }
    }
    if shown.order.is_empty() && session.output.format == Format::Table {
        output::note(&format!("there are no logs of {:?}: no ramdisk has sent any", args.node));
    }
    Ok(())
}

/// Asks for them.
async fn open(session: &Session, args: &LogsArgs, tail: Option<u64>) -> Result<Lines, ApiError> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if args.follow {
        query.append_pair("follow", "true");
    }
    if let Some(tail) = tail {
        query.append_pair("tail", &tail.to_string());
    }
    if let Some(earlier) = args.earlier {
        query.append_pair("earlier", &earlier.to_string());
    }
    let query = query.finish();
    let part = if query.is_empty() { "logs".to_owned() } else { format!("logs?{query}") };
    let at = format!("{}/{part}", path(&["v1", "nodes", &args.node]));
    // The rest is for services that do not have this at all, and then answer in a form of their own.
    let form = if session.output.format == Format::Table { "text/plain, */*" } else { "application/x-ndjson, */*" };
    match session.api.lines(&at, form).await {
        Err(
            missing @ (ApiError::NotFound { .. } | ApiError::NoRoute { .. } | ApiError::Refused { status: 400, .. }),
        ) => {
            let instead = "the conductor of an Ironic keeps the logs of ramdisks in its deploy_logs_local_path; \
                           `ferric node history NODE` shows errors";
            // That there is no such ramdisk is an answer.
            let what = if args.earlier.is_some() { "logs/earlier" } else { "logs" };
            Err(session.api.lacking(&args.node, what, instead, missing).await)
        }
        other => other,
    }
}

/// Asks for all of them again as soon as the service is there, for as long as it may be away.
async fn reopen(session: &Session, args: &LogsArgs, broken: Option<&str>) -> Result<Lines, ApiError> {
    let since = Instant::now();
    let mut told = false;
    loop {
        tokio::time::sleep(PAUSE).await;
        let error = match open(session, args, None).await {
            Ok(lines) => {
                if told {
                    output::note("the service is back");
                }
                return Ok(lines);
            }
            Err(error @ (ApiError::Unreachable { .. } | ApiError::Refused { status: 503, .. })) => error,
            Err(error) => return Err(error),
        };
        if since.elapsed() >= AWAY {
            return Err(error);
        }
        if !told {
            told = true;
            let why =
                broken.map_or("the service has ended the logs".to_owned(), |why| format!("the logs broke off: {why}"));
            output::note(&format!("{why}; trying to go on with them"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_known_again_though_the_service_counts_anew() {
        let line = |number: u64, second: u64, text: &str| {
            serde_json::json!({"number": number, "time": format!("2026-01-02T03:04:0{second}Z"), "message": text})
                .to_string()
        };
        let mut shown = Shown::default();
        assert!(shown.is_new(&line(7, 5, "b"), Some(1)));
        // The same words at the same time, of a service that is still the same, are another line.
        assert!(shown.is_new(&line(8, 5, "b"), Some(1)));
        shown.again = true;
        assert!(!shown.is_new(&line(1, 4, "a"), Some(1)), "older than what was asked for");
        assert!(!shown.is_new(&line(2, 5, "b"), Some(1)));
        assert!(shown.is_new(&line(3, 6, "c"), Some(1)));
        assert!(!shown.is_new("2026-01-02T03:04:01.000Z  INFO a: b", Some(1)));
        assert!(shown.is_new("2026-01-02T03:04:07.000Z  INFO a: b", Some(1)));
        assert!(shown.is_new("[3 lines went before they were read]", Some(1)));
    }
}
