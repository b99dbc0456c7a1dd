//! The log, sent to a driver that follows it. It has a call of its own: at most one batch is under way, and none without
//! credit. Nothing is logged here that would not end: each line would be one more to send.

use super::Client;
use crate::logs::LogBuffer;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;
use uuid::Uuid;
use wire::rpc::{LogBatch, LogLine};
use wire::session::{LOG_BYTES, LOG_LINES};

/// Wait before a call that ended is made anew.
const AGAIN: Duration = Duration::from_secs(10);
/// Between two batches: lines come in swarms, and each swarm is one batch.
const GATHER: Duration = Duration::from_millis(200);

/// Sends the log until the connection ends or the driver does not want it.
pub(super) async fn run(client: Client, logs: LogBuffer, node: Uuid, session: Uuid) {
    loop {
        let Err(status) = call(client.clone(), &logs, node, session).await;
        if status.code() == tonic::Code::Unimplemented {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn call(mut client: Client, logs: &LogBuffer, node: Uuid, session: Uuid) -> Result<Infallible, Status> {
    let (batches, mut waiting) = mpsc::channel(1);
    let gone = || Status::unavailable("the call has ended");
    let hello = LogBatch { node_uuid: node.to_string(), session_id: session.to_string(), ..LogBatch::default() };
    batches.send(hello).await.map_err(|_| gone())?;
    let outgoing = futures::stream::poll_fn(move |context| waiting.poll_recv(context));
    let mut credits = client.telemetry(outgoing).await?.into_inner();
    let mut news = logs.news();
    let mut credit = credits.message().await?.ok_or_else(gone)?;
    // The last line that was sent; the next batch waits until it has arrived.
    let mut sent = None;
    loop {
        let may_send = credit.lines > 0 && sent.is_none_or(|last| credit.received_through >= last);
        if may_send {
            news.mark_unchanged();
            let room = usize::try_from(credit.lines).unwrap_or(LOG_LINES).min(LOG_LINES);
            let tail = logs.after(credit.received_through, room, LOG_BYTES);
            if let Some((last, _)) = tail.lines.last() {
                sent = Some(*last);
                let lines = tail.lines.into_iter().map(|(number, text)| LogLine { number, text }).collect();
                let batch = LogBatch { lines, dropped: tail.dropped, ..LogBatch::default() };
                batches.send(batch).await.map_err(|_| gone())?;
                continue;
            }
        }
        tokio::select! {
            // The buffer outlives this call.
            _ = news.changed(), if may_send => tokio::time::sleep(GATHER).await,
            next = credits.message() => credit = next?.ok_or_else(gone)?,
        }
    }
}
