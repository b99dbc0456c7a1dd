//! Waiting for something with a deadline and a reason.

use anyhow::{Context as _, Result, bail};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(200);

/// Calls `probe` until it gives a value, and fails once `limit` has passed, naming `what`. An error of `probe` ends
/// the wait at once: it means that what is waited for cannot come any more.
///
/// # Errors
/// When the deadline passes or `probe` fails.
pub async fn until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await.with_context(|| format!("wait for {what}"))? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        sleep(PERIOD).await;
    }
}
