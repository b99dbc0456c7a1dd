//! Self-tests of drives: how they end, and what is kept of them.

use super::SimClock;
use std::time::Duration;

/// How the self-tests of a drive end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SelfTestEnd {
    /// Well.
    #[default]
    Passes,
    /// With a block that cannot be read.
    Fails,
    /// Not at all: half of the way it stays where it is.
    Hangs,
    /// The command is accepted and nothing is done.
    Ignored,
}

/// The block that fails.
pub(crate) const FAILING: u32 = 4711;
const SHORT: Duration = Duration::from_secs(120);
const EXTENDED: Duration = Duration::from_secs(90 * 60);
/// Hours before the model was made.
const HOURS: u64 = 1000;

/// What is kept of a test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) extended: bool,
    pub(crate) outcome: Outcome,
    pub(crate) hours: u64,
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Aborted,
}

/// The tests of one drive.
#[derive(Debug, Default)]
pub(crate) struct SelfTests {
    pub(crate) end: SelfTestEnd,
    running: Option<(Duration, bool)>,
    /// Newest first.
    pub(crate) kept: Vec<Kept>,
}

impl SelfTests {
    /// Begins one; `false` while another runs.
    pub(crate) fn begin(&mut self, clock: &SimClock, extended: bool) -> bool {
        if self.running(clock).is_some() {
            return false;
        }
        if self.end != SelfTestEnd::Ignored {
            self.running = Some((clock.now(), extended));
        }
        true
    }

    /// Ends the one that runs.
    pub(crate) fn abort(&mut self, clock: &SimClock) {
        if let Some((extended, _)) = self.running(clock) {
            self.keep(clock, extended, Outcome::Aborted);
        }
    }

    fn keep(&mut self, clock: &SimClock, extended: bool, outcome: Outcome) {
        self.running = None;
        self.kept.insert(0, Kept { extended, outcome, hours: HOURS + clock.now().as_secs() / 3600 });
        self.kept.truncate(20);
    }

    /// Whether the one that runs is the extended one, and how many percent of it are done.
    pub(crate) fn running(&mut self, clock: &SimClock) -> Option<(bool, u8)> {
        let (began, extended) = self.running?;
        let all = if extended { EXTENDED } else { SHORT };
        let percent = (clock.now().saturating_sub(began).as_secs() * 100 / all.as_secs()).min(100) as u8;
        match (self.end, percent) {
            (SelfTestEnd::Hangs, _) => return Some((extended, percent.min(50))),
            (_, 0..100) => return Some((extended, percent)),
            (SelfTestEnd::Fails, _) => self.keep(clock, extended, Outcome::Failed),
            _ => self.keep(clock, extended, Outcome::Passed),
        }
        None
    }
}
