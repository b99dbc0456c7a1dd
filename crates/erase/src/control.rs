//! What comes from outside while a device is erased: time, and somebody who watches and may stop it.

use crate::Method;
use serde::Serialize;
use std::time::Duration;

/// How far the erasing of one device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The method that runs.
    pub method: Method,
    /// Thousandths that are done, from the device's own percentage or from the bytes that were written; `None` where the device
    /// does not tell.
    pub permille: Option<u16>,
    /// Time left, from the pace so far or from the device's own estimate.
    pub eta: Option<Duration>,
    /// Whether it was running before we came and was taken up.
    pub resumed: bool,
}

/// Time, progress and cancelling of one erase. May be called from two threads at the same time.
pub trait Control: Sync {
    /// Time since any fixed moment. It never goes back.
    fn now(&self) -> Duration;

    /// Waits. May return early when the work is cancelled.
    fn sleep(&self, time: Duration);

    /// Whether the work is to stop at the next point where it can.
    fn is_cancelled(&self) -> bool;

    /// Takes a sign of progress. It is called often, and must not wait.
    fn progress(&self, progress: Progress);
}
