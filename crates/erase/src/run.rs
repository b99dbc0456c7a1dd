//! Carrying a method out: what all of them share.

pub(crate) mod ata;
pub(crate) mod block;
pub(crate) mod nvme;
pub(crate) mod scsi;

use crate::{Control, Failure, Method, Options, Progress};
use hardware::Device;
use std::time::Duration;

/// A device that says nothing at all, as during a reset, is waited for so long.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// Resets that a running operation may survive by beginning anew.
const RESTARTS: u32 = 8;
/// All of it, where parts are counted.
const WHOLE: u32 = 1 << 16;

/// Why a device gives no data.
const SANITIZING: &str = "a sanitize is running";
const SANITIZE_FAILED: &str = "its last sanitize failed";

/// What a sanitize that was stopped on request leaves behind.
const GOES_ON: &str =
    "the device goes on by itself, cannot be used until it is done, and the next erase takes it up where it is";

/// One method on one device.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) options: &'a Options,
    pub(crate) control: &'a dyn Control,
    pub(crate) method: Method,
    pub(crate) resumed: bool,
}

/// The device's word that it is done.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) evidence: String,
    pub(crate) answer: Vec<u8>,
}

/// A method, and why it cannot be used, if so.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) method: Method,
    pub(crate) failure: Option<Failure>,
}

impl Offer {
    pub(crate) fn new(method: Method, there: bool, missing: &str) -> Self {
        Self { method, failure: (!there).then(|| Failure::Unsupported(missing.to_owned())) }
    }

    pub(crate) fn blocked(method: Method, why: &str) -> Self {
        Self { method, failure: Some(Failure::Blocked(why.to_owned())) }
    }
}

/// Reports progress, and tells the time left from the pace.
pub(crate) struct Meter<'a> {
    run: Run<'a>,
    estimate: Option<Duration>,
    first: Option<(Duration, u32)>,
}

impl<'a> Meter<'a> {
    /// `estimate` is what the device says that all of it takes.
    pub(crate) fn new(run: Run<'a>, estimate: Option<Duration>) -> Self {
        Self { run, estimate, first: None }
    }

    /// Takes how many 65536ths are done; nothing where the device does not tell.
    pub(crate) fn report(&mut self, done: Option<u32>) {
        let eta = done.map_or(self.estimate, |done| self.left(done.min(WHOLE)));
        let permille = done.map(|done| (u64::from(done.min(WHOLE)) * 1000 / u64::from(WHOLE)) as u16);
        let Run { control, method, resumed, .. } = self.run;
        control.progress(Progress { method, permille, eta, resumed });
    }

    fn left(&mut self, done: u32) -> Option<Duration> {
        let now = self.run.control.now();
        let (then, before) = *self.first.get_or_insert((now, done));
        if done < before {
            // It began anew.
            self.first = Some((now, done));
        }
        let (passed, gone) = (now.saturating_sub(then), done.saturating_sub(before));
        if gone == 0 || passed.is_zero() {
            return self.estimate.map(|all| all * (WHOLE - done) / WHOLE);
        }
        Some(Duration::from_secs_f64(passed.as_secs_f64() * f64::from(WHOLE - done) / f64::from(gone)))
    }
}

/// Follows an operation that the device carries out by itself.
pub(crate) struct Follow<'a> {
    run: Run<'a>,
    meter: Meter<'a>,
    started: Duration,
    answered: Duration,
    furthest: Option<u16>,
    moved: Duration,
    restarts: u32,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(run: Run<'a>, estimate: Option<Duration>) -> Self {
        let now = run.control.now();
        let meter = Meter::new(run, estimate);
        Self { run, meter, started: now, answered: now, furthest: None, moved: now, restarts: 0 }
    }

    /// The device says that it is busy, and perhaps how far it is, in 65536ths. Waits for the time of the next question.
    pub(crate) fn busy(&mut self, progress: Option<u16>) -> Result<(), Failure> {
        let now = self.run.control.now();
        self.answered = now;
        if let Some(progress) = progress {
            let furthest = self.furthest.unwrap_or_default();
            let back = self.furthest.is_some() && progress < furthest;
            if back {
                self.restarts += 1;
                tracing::warn!(device = %self.run.device.id(), restarts = self.restarts, "the erase began anew");
            }
            if self.furthest.is_none() || progress > furthest || back && self.restarts <= RESTARTS {
                (self.furthest, self.moved) = (Some(progress), now);
            }
        }
        let still = now.saturating_sub(self.moved);
        if still > self.run.options.patience {
            let at = self.furthest.map_or("an unknown place".to_owned(), |at| {
                format!("{:.1} %", f64::from(at) * 100.0 / f64::from(WHOLE))
            });
            return Err(Failure::Stalled { at, minutes: still.as_secs() / 60 });
        }
        self.meter.report(progress.map(u32::from));
        self.wait()
    }

    /// The device did not answer. Waits, unless it has not answered for too long: then it is that failure.
    pub(crate) fn silent(&mut self, failure: Failure) -> Result<(), Failure> {
        let silence = self.run.control.now().saturating_sub(self.answered);
        if silence > SILENCE {
            return Err(failure);
        }
        tracing::warn!(device = %self.run.device.id(), %failure, "no answer; it is asked again");
        self.wait()
    }

    fn wait(&self) -> Result<(), Failure> {
        if self.run.control.is_cancelled() {
            return Err(Failure::Cancelled(GOES_ON));
        }
        let minutes = self.run.control.now().saturating_sub(self.started).as_secs() / 60;
        let pause = match minutes {
            0 => 1,
            1..60 => 5,
            _ => 30,
        };
        self.run.control.sleep(Duration::from_secs(pause));
        Ok(())
    }
}
