//! What a write tells its caller while it runs: counters that the stages count up, read a few times a second.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Time between two reports: three a second and one at the end make at most four in any second.
pub(crate) const INTERVAL: Duration = Duration::from_millis(340);
/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(5);
/// Without a byte for so long, a write is called stalled.
const STALL: Duration = Duration::from_secs(5);
/// "Unknown" in an atomic total.
const UNKNOWN: u64 = u64::MAX;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Opening the source and looking at the head of the image; nothing is written yet.
    Open,
    /// Data goes to the disk.
    Write,
    /// Config drive and partition tables are written.
    Seal,
    /// What was written is read back.
    Verify,
    /// All of it is done.
    Done,
}

impl Stage {
    /// A word for it, as in the `stage` of the agent protocol's progress.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Write => "write",
            Self::Seal => "seal",
            Self::Verify => "verify",
            Self::Done => "done",
        }
    }

    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Open,
            1 => Self::Write,
            2 => Self::Seal,
            3 => Self::Verify,
            _ => Self::Done,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a write is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes transported so far.
    pub done: u64,
    /// Bytes to transport in all, once the source has said so.
    pub total: Option<u64>,
    /// Bytes of the unpacked image that went to the disk.
    pub written: u64,
    /// Bytes of the unpacked image, where known in advance.
    pub written_total: Option<u64>,
    /// Transported bytes a second over the last five seconds.
    pub rate: u64,
    /// Seconds left until the last byte is transported.
    pub eta: Option<u64>,
    /// Why nothing moves, when nothing moved for a while.
    pub stalled: Option<String>,
}

/// The counters. Stages add, the reporter reads.
pub(crate) struct Meters {
    stage: AtomicU8,
    transported: AtomicU64,
    transport_total: AtomicU64,
    written: AtomicU64,
    written_total: AtomicU64,
    /// What the source is waiting for, while it waits.
    waiting: Mutex<Option<String>>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            stage: AtomicU8::new(0),
            transported: AtomicU64::new(0),
            transport_total: AtomicU64::new(UNKNOWN),
            written: AtomicU64::new(0),
            written_total: AtomicU64::new(UNKNOWN),
            waiting: Mutex::new(None),
        }
    }

    /// A write that starts over counts from zero.
    pub(crate) fn restart(&self) {
        self.stage(Stage::Open);
        self.transported.store(0, Relaxed);
        self.written.store(0, Relaxed);
        self.transport_total.store(UNKNOWN, Relaxed);
        self.written_total.store(UNKNOWN, Relaxed);
    }

    pub(crate) fn stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Relaxed);
    }

    pub(crate) fn transported(&self, bytes: u64) {
        self.transported.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn transport_total(&self, total: Option<u64>) {
        self.transport_total.store(total.unwrap_or(UNKNOWN), Relaxed);
    }

    pub(crate) fn known_transport_total(&self) -> Option<u64> {
        known(&self.transport_total)
    }

    pub(crate) fn written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn written_total(&self, total: Option<u64>) {
        self.written_total.store(total.unwrap_or(UNKNOWN), Relaxed);
    }

    pub(crate) fn waiting(&self, reason: Option<String>) {
        *self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = reason;
    }
}

fn known(total: &AtomicU64) -> Option<u64> {
    Some(total.load(Relaxed)).filter(|&total| total != UNKNOWN)
}

/// Turns counters into reports: rate, time left, stalls.
pub(crate) struct Reporter {
    samples: VecDeque<(Instant, u64)>,
    moved: (Instant, u64),
}

impl Reporter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { samples: VecDeque::new(), moved: (now, 0) }
    }

    pub(crate) fn report(&mut self, meters: &Meters, now: Instant) -> Progress {
        let (done, written) = (meters.transported.load(Relaxed), meters.written.load(Relaxed));
        let stage = Stage::from_u8(meters.stage.load(Relaxed));
        if done.wrapping_add(written) != self.moved.1 || stage > Stage::Write {
            self.moved = (now, done.wrapping_add(written));
        }
        if self.samples.back().is_some_and(|&(_, last)| done < last) {
            self.samples.clear();
        }
        self.samples.push_back((now, done));
        while self.samples.len() > 2 && self.samples.front().is_some_and(|&(at, _)| now - at > WINDOW) {
            self.samples.pop_front();
        }
        let total = known(&meters.transport_total);
        let rate = self.rate(now, done);
        let left = total.map(|total| total.saturating_sub(done));
        Progress {
            stage,
            done,
            total,
            written,
            written_total: known(&meters.written_total),
            rate,
            eta: left.and_then(|left| if left == 0 { Some(0) } else { (left + rate - 1).checked_div(rate) }),
            stalled: self.stalled(meters, now),
        }
    }

    fn rate(&self, now: Instant, done: u64) -> u64 {
        let Some(&(at, first)) = self.samples.front() else { return 0 };
        let seconds = (now - at).as_secs_f64();
        if seconds > 0.0 { ((done - first) as f64 / seconds) as u64 } else { 0 }
    }

    fn stalled(&self, meters: &Meters, now: Instant) -> Option<String> {
        let waiting = meters.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let still = now - self.moved.0;
        waiting.or_else(|| (still >= STALL).then(|| format!("no byte moved for {} s", still.as_secs())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_come_from_the_last_seconds() {
        let (meters, start) = (Meters::new(), Instant::now());
        let mut reporter = Reporter::new(start);
        meters.transport_total(Some(10_000));
        assert_eq!(reporter.report(&meters, start).eta, None);
        for second in 1..=6 {
            meters.transported(1000);
            let progress = reporter.report(&meters, start + Duration::from_secs(second));
            assert_eq!((progress.rate, progress.eta), (1000, Some(10 - second)));
        }
    }

    #[test]
    fn five_silent_seconds_are_a_stall_and_a_reason_is_one_at_once() {
        let (meters, start) = (Meters::new(), Instant::now());
        let mut reporter = Reporter::new(start);
        meters.transported(1);
        assert_eq!(reporter.report(&meters, start).stalled, None);
        assert_eq!(reporter.report(&meters, start + Duration::from_secs(4)).stalled, None);
        let stalled = reporter.report(&meters, start + Duration::from_secs(6)).stalled;
        assert_eq!(stalled.as_deref(), Some("no byte moved for 6 s"));
        meters.transported(1);
        assert_eq!(reporter.report(&meters, start + Duration::from_secs(7)).stalled, None);
        meters.waiting(Some("server gone".into()));
        let stalled = reporter.report(&meters, start + Duration::from_secs(8)).stalled;
        assert_eq!(stalled.as_deref(), Some("server gone"));
    }

    #[test]
    fn a_write_that_starts_over_reports_from_zero() {
        let (meters, start) = (Meters::new(), Instant::now());
        let mut reporter = Reporter::new(start);
        meters.transported(5000);
        reporter.report(&meters, start);
        meters.restart();
        let progress = reporter.report(&meters, start + Duration::from_secs(1));
        assert_eq!((progress.done, progress.rate), (0, 0));
    }
}
