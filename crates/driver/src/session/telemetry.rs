//! The log of an agent, as it comes: its lines go to the bounded memory of [`crate::logs`], at the pace that the credit
//! allows. Nothing of a session waits for this.

use super::authority::Presented;
use super::calls::Calls;
use super::connection::word;
use super::service::Down;
use crate::conductor::Conductor;
use crate::logs::{Line, printable};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use uuid::Uuid;
use wire::rpc::{LogBatch, LogCredit, LogLine};
use wire::session::{LOG_BYTES, LOG_LINES, Reason, Violation};

/// How long the first batch may take.
const FIRST: Duration = Duration::from_secs(20);
/// Lines for which there is room at once.
const CREDIT: u32 = LOG_LINES as u32;
/// Most lines of an agent in a second, on average: what is logged faster waits at the agent.
const LINES_PER_SECOND: u32 = 2000;
/// How long a credit may wait to be written.
const WRITE: Duration = Duration::from_secs(60);

/// A call that has been accepted.
pub(super) struct Log<S: Store> {
    pub(super) conductor: Arc<Conductor<S>>,
    pub(super) calls: Arc<Calls<Uuid>>,
    pub(super) presented: Presented,
    pub(super) up: Streaming<LogBatch>,
    pub(super) down: Down<LogCredit>,
    pub(super) stop: CancellationToken,
}

impl<S: Store> Log<S> {
    /// Takes lines until the call ends.
    pub(super) async fn run(mut self) {
        let node = self.presented.node;
        if let Err(violation) = self.take().await {
            tracing::info!(%node, reason = word(violation.reason), text = violation.text, "the log of an agent is not taken any more");
            self.conductor.metrics.telemetry_ends(word(violation.reason));
            let status: Status = violation.to_status();
            let _ = tokio::time::timeout(Duration::from_secs(1), self.down.send(Err(status))).await;
        }
    }

    async fn take(&mut self) -> Result<(), Violation> {
        let first = match tokio::time::timeout(FIRST, self.up.message()).await {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None) | Err(_)) => return Ok(()),
            Err(_) => {
                return Err(Violation::new(Reason::Silent, format!("no batch came within {} s", FIRST.as_secs())));
            }
        };
        let (node, session) = self.admitted(&first).await?;
        let place = self.calls.begin(node);
        let boot = session.to_string();
        let mut received = self.conductor.log_received(node, &boot);
        let mut allowed = room_after(received)?;
        self.credit(received).await?;
        let expiry = self.presented.not_after.duration_since(Timestamp::now());
        let expiry = tokio::time::sleep(Duration::try_from(expiry).unwrap_or_default());
        tokio::pin!(expiry);
        loop {
            let batch = tokio::select! {
                batch = self.up.message() => match batch {
                    Ok(Some(batch)) => batch,
                    Ok(None) | Err(_) => return Ok(()),
                },
                () = place.over.cancelled() => {
                    return Err(Violation::new(Reason::Superseded, "the node has a newer call for its log"));
                }
                () = &mut expiry => {
                    let text = "the certificate is not valid any more; enrol again";
                    return Err(Violation::new(Reason::Identity, text));
                }
                () = self.stop.cancelled() => {
                    return Err(Violation::new(Reason::GoingAway, "the driver stops; connect again"));
                }
            };
            // Logging is slowed down by the one who logs: what comes next comes after the next credit.
            let number = u32::try_from(batch.lines.len()).unwrap_or(u32::MAX);
            let lines = check(&batch, received, allowed)?;
            // What a boot says that is over meanwhile is not the log of the one that there is now.
            self.known(node, session).await?;
            if place.over.is_cancelled() {
                continue;
            }
            if let Some(last) = batch.lines.last() {
                received = last.number;
            }
            self.conductor.log_lines(node, &boot, received, lines);
            tokio::time::sleep(Duration::from_secs(1) * number.min(CREDIT) / LINES_PER_SECOND).await;
            allowed = room_after(received)?;
            self.credit(received).await?;
        }
    }

    /// Whether the session is that of the node's present boot.
    async fn known(&self, node: Uuid, session: Uuid) -> Result<(), Violation> {
        let known = self.conductor.knows_session(node, session, &self.presented.key).await;
        known.map_err(|text| Violation::new(Reason::Identity, text))
    }

    /// Who sends, when it may.
    async fn admitted(&self, first: &LogBatch) -> Result<(Uuid, Uuid), Violation> {
        let wrong = |text: &str| Violation::new(Reason::Malformed, text);
        let id = |field: &str, text: &str| Uuid::try_parse(text).map_err(|_| wrong(&format!("{field} is not a UUID")));
        let node = id("LogBatch.node_uuid", &first.node_uuid)?;
        let session = id("LogBatch.session_id", &first.session_id)?;
        if !first.lines.is_empty() {
            return Err(wrong("the first batch has lines"));
        }
        if node != self.presented.node {
            return Err(Violation::new(Reason::Identity, "LogBatch.node_uuid is not the node of the certificate"));
        }
        self.known(node, session).await?;
        Ok((node, session))
    }

    async fn credit(&self, received_through: u64) -> Result<(), Violation> {
        let credit = LogCredit { received_through, lines: CREDIT };
        match tokio::time::timeout(WRITE, self.down.send(Ok(credit))).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Violation::new(Reason::Silent, "credits are not read")),
        }
    }
}

/// The number of the last line for which there is room.
fn room_after(received: u64) -> Result<u64, Violation> {
    let none = || Violation::new(Reason::Sequence, "there are no numbers left for lines");
    received.checked_add(CREDIT.into()).ok_or_else(none)
}

/// The lines of a batch, when they are what may come behind line `received` while there is room up to line `allowed`.
///
/// # Errors
/// What is wrong with it.
pub fn check(batch: &LogBatch, received: u64, allowed: u64) -> Result<Vec<Line>, Violation> {
    if batch.lines.len() > LOG_LINES {
        let text = format!("{} lines in a batch, {LOG_LINES} are the most", batch.lines.len());
        return Err(Violation::new(Reason::TooLarge, text));
    }
    let bytes: usize = batch.lines.iter().map(|line| line.text.len()).sum();
    if bytes > LOG_BYTES {
        return Err(Violation::new(Reason::TooLarge, format!("{bytes} bytes in a batch, {LOG_BYTES} are the most")));
    }
    let mut last = received;
    let mut lines = Vec::with_capacity(batch.lines.len() + 1);
    if batch.dropped > 0 {
        let message = format!("[the ramdisk had no room for {} lines]", batch.dropped);
        let (level, target) = ("WARN".to_owned(), String::new());
        lines.push(Line { number: 0, time: None, level, target, message });
    }
    for line in &batch.lines {
        if line.number <= last {
            let text = format!("line {} came after line {last}", line.number);
            return Err(Violation::new(Reason::Sequence, text));
        }
        last = line.number;
        lines.push(parse(line));
    }
    let skipped = last - received - batch.lines.len() as u64;
    if batch.dropped > skipped {
        let text = format!("{} lines are said to be dropped, but {skipped} numbers were skipped", batch.dropped);
        return Err(Violation::new(Reason::Malformed, text));
    }
    // Lines that the agent had no room for have numbers too, which take no room here.
    if last.saturating_sub(batch.dropped) > allowed {
        let text = format!("line {last} came while there was room up to line {allowed}");
        return Err(Violation::new(Reason::Flood, text));
    }
    Ok(lines)
}

/// A line as `tracing` writes it, `<time> <level> <target>: <message>`, or any other as nothing but a message.
fn parse(line: &LogLine) -> Line {
    let text = printable(&line.text);
    let parsed = (|| {
        let (time, rest) = text.split_once(' ')?;
        let time = time.parse().ok()?;
        let (level, rest) = rest.trim_start().split_once(' ')?;
        if !["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level) {
            return None;
        }
        let rest = rest.trim_start();
        let is_target = |target: &str| !target.is_empty() && !target.contains(' ');
        let (target, message) = rest.split_once(": ").filter(|(target, _)| is_target(target)).unwrap_or(("", rest));
        let (level, target, message) = (level.to_owned(), target.to_owned(), message.to_owned());
        Some(Line { number: 0, time: Some(time), level, target, message })
    })();
    let plain = || Line { number: 0, time: None, level: String::new(), target: String::new(), message: text.clone() };
    parsed.unwrap_or_else(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(numbers: &[u64], dropped: u64) -> LogBatch {
        let lines = numbers.iter().map(|number| LogLine { number: *number, text: "x".to_owned() }).collect();
        LogBatch { lines, dropped, ..LogBatch::default() }
    }

    fn reason(batch: &LogBatch, received: u64, allowed: u64) -> Option<Reason> {
        check(batch, received, allowed).err().map(|violation| violation.reason)
    }

    #[test]
    fn lines_come_in_order_and_no_faster_than_there_is_room() {
        assert_eq!(check(&batch(&[1, 2, 5], 0), 0, 512).unwrap().len(), 3);
        assert_eq!(reason(&batch(&[3], 0), 3, 512), Some(Reason::Sequence));
        assert_eq!(reason(&batch(&[4, 4], 0), 3, 512), Some(Reason::Sequence));
        assert_eq!(reason(&batch(&[513], 0), 0, 512), Some(Reason::Flood));
        let dropped = check(&batch(&[9001], 9000), 0, 512).unwrap();
        assert_eq!(dropped[0].message, "[the ramdisk had no room for 9000 lines]");
        assert_eq!(reason(&batch(&(1..=513).collect::<Vec<_>>(), 0), 0, 1000), Some(Reason::TooLarge));
        // What was dropped has numbers, and those of all lines end somewhere.
        assert_eq!(reason(&batch(&[9001], 9001), 0, 512), Some(Reason::Malformed));
        assert_eq!(reason(&batch(&[], 1), 0, 512), Some(Reason::Malformed));
        assert_eq!(reason(&batch(&[u64::MAX], u64::MAX), 0, 512), Some(Reason::Malformed));
        assert!(check(&batch(&[u64::MAX], u64::MAX - 1), 0, 512).is_ok());
        assert_eq!(room_after(u64::MAX).unwrap_err().reason, Reason::Sequence);
        let mut long = batch(&[1], 0);
        long.lines[0].text = "x".repeat(LOG_BYTES + 1);
        assert_eq!(reason(&long, 0, 1000), Some(Reason::TooLarge));
    }

    #[test]
    fn a_line_of_tracing_is_taken_apart_and_any_other_is_kept_as_it_is() {
        let parse = |text: &str| {
            let line = parse(&LogLine { number: 1, text: text.to_owned() });
            (line.time.is_some(), line.level, line.target, line.message)
        };
        let text = |text: &str| text.to_owned();
        assert_eq!(
            parse("2026-01-01T00:00:00.123456Z  INFO agent::write: written bytes=3"),
            (true, text("INFO"), text("agent::write"), text("written bytes=3"))
        );
        assert_eq!(parse("[    1.0] kernel: x"), (false, text(""), text(""), text("[    1.0] kernel: x")));
        assert!(!parse("2026-01-01T00:00:00Z LOUD x: y").0);
        assert_eq!(parse("").3, "");
    }
}
