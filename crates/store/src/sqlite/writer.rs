//! The one task that writes. What is asked for while it writes goes into its next transaction together, so that many
//! changes share one wait for the disk; each is in a savepoint of its own and fails alone.

use super::image::Image;
use super::statements::{Write, carry_out, save_node};
use super::{Shared, failed, newest_epoch};
use crate::model::Node;
use crate::{Epoch, SOON, StoreError};
use sqlx::{Acquire as _, Sqlite, Transaction};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Most changes in one transaction.
const AT_ONCE: usize = 128;
/// Most nodes that are saved in one transaction because their time has come: nobody waits for long behind them.
const SAVED_AT_ONCE: usize = 256;
/// How long after the first unsaved change saving begins; it ends within [`SOON`].
const PUT_OFF: std::time::Duration = SOON.saturating_sub(std::time::Duration::from_millis(250));

/// A change that somebody waits for.
pub(super) struct Job {
    pub(super) epoch: Epoch,
    pub(super) write: Write,
    pub(super) answer: oneshot::Sender<Result<(), StoreError>>,
}

/// Writes until nobody can ask for anything any more, or the store is closed.
pub(super) async fn run(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job>) {
    let mut due: Option<Instant> = None;
    loop {
        let first = tokio::select! {
            job = jobs.recv() => match job {
                Some(job) => Some(job),
                None => break,
            },
            () = shared.closing.notified() => {
                // Those that wait already are heard.
                jobs.close();
                continue;
            }
            () = shared.unsaved.notified(), if due.is_none() => {
                due = Some(Instant::now() + PUT_OFF);
                continue;
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => None,
        };
        let mut batch: Vec<Job> = first.into_iter().collect();
        while batch.len() < AT_ONCE
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        let save = due.is_some_and(|due| due <= Instant::now());
        let saved = write(&shared, batch, save).await;
        if save {
            let left = shared.with_image(|image| !image.unsaved.is_empty()).unwrap_or_default();
            // What cannot be written is tried again in a while, the rest of much at once.
            due = left.then(|| Instant::now() + if saved { std::time::Duration::ZERO } else { SOON });
        }
    }
    while shared.with_image(|image| !image.unsaved.is_empty()).unwrap_or_default() {
        if !write(&shared, Vec::new(), true).await {
            break;
        }
    }
}

/// Makes one transaction of some changes and, where `save` says so, of nodes that are unsaved. Whether it was made.
async fn write(shared: &Shared, batch: Vec<Job>, save: bool) -> bool {
    let mut outcomes = Vec::with_capacity(batch.len());
    let done = attempt(shared, &batch, save, &mut outcomes).await;
    let made = done.is_ok();
    let mut image = shared.image();
    match done {
        Ok((newest, saved)) => {
            if image.as_ref().is_some_and(|image| image.epoch != newest) {
                *image = None;
            }
            if let Some(image) = image.as_mut() {
                image.broken = None;
                apply(image, &batch, &outcomes, &saved);
            }
        }
        Err(error) => {
            let reason = chain(&error);
            tracing::error!(error = reason, "the database could not be written");
            outcomes = batch.iter().map(|_| Err(again(&reason))).collect();
            if let Some(image) = image.as_mut() {
                image.broken = Some(reason);
            }
        }
    }
    if let Some(image) = image.as_mut() {
        batch.iter().filter_map(|job| job.write.node()).for_each(|node| image.end(node));
    }
    drop(image);
    for (job, outcome) in batch.into_iter().zip(outcomes) {
        // Who asked may have gone away.
        let _ = job.answer.send(outcome);
    }
    made
}

/// The newest epoch and the nodes that were saved; the outcome of each change is pushed.
async fn attempt(
    shared: &Shared,
    batch: &[Job],
    save: bool,
    outcomes: &mut Vec<Result<(), StoreError>>,
) -> Result<(Epoch, Vec<Arc<Node>>), StoreError> {
    let mut transaction = shared.begin().await?;
    let newest = newest_epoch(&mut *transaction).await?;
    let unsaved =
        shared.with_image(|image| if image.epoch == newest { to_save(image, batch, save) } else { Vec::new() });
    let unsaved = unsaved.unwrap_or_default();
    for node in &unsaved {
        save_node(&mut transaction, node).await?;
    }
    for job in batch {
        let outcome = match job.epoch == newest {
            true => one(&mut transaction, &job.write, batch.len() + unsaved.len() > 1).await?,
            false => Err(StoreError::Fenced { newest: newest.0, mine: job.epoch.0 }),
        };
        outcomes.push(outcome);
    }
    // A single change that was refused leaves nothing to commit.
    let nothing = unsaved.is_empty() && outcomes.iter().all(Result::is_err);
    let ended = if nothing { transaction.rollback().await } else { transaction.commit().await };
    ended.map_err(failed("commit a change"))?;
    Ok((newest, unsaved))
}

/// Carries out one change, so that it can fail without the others where there are any.
async fn one(
    transaction: &mut Transaction<'static, Sqlite>,
    write: &Write,
    others: bool,
) -> Result<Result<(), StoreError>, StoreError> {
    if !others {
        return Ok(carry_out(transaction, write).await);
    }
    let mut savepoint = transaction.begin().await.map_err(failed("begin a change"))?;
    let outcome = carry_out(&mut savepoint, write).await;
    let ended = if outcome.is_ok() { savepoint.commit().await } else { savepoint.rollback().await };
    ended.map_err(failed("end a change"))?;
    Ok(outcome)
}

/// The nodes that have to be in the file before these changes, and those whose time has come.
fn to_save(image: &Image, batch: &[Job], save: bool) -> Vec<Arc<Node>> {
    let first = batch.iter().filter_map(|job| job.write.node()).filter(|node| image.unsaved.contains(node));
    let mut uuids: Vec<_> = first.collect();
    if save {
        uuids.extend(image.unsaved.iter().take(SAVED_AT_ONCE));
    }
    uuids.sort_unstable();
    uuids.dedup();
    uuids.into_iter().filter_map(|uuid| image.tables.node(uuid).ok().cloned()).collect()
}

/// Brings the image up to what is in the file now.
fn apply(image: &mut Image, batch: &[Job], outcomes: &[Result<(), StoreError>], saved: &[Arc<Node>]) {
    for node in saved {
        if image.tables.node(node.uuid).is_ok_and(|now| now.version == node.version) {
            image.unsaved.remove(&node.uuid);
        }
    }
    for (job, _) in batch.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok()) {
        job.write.apply(image);
    }
}

fn again(reason: &str) -> StoreError {
    StoreError::Database { doing: "write to the database", source: reason.into() }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
