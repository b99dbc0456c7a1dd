//! How far the erasing of several disks is, told as one progress; and the way in which whoever waits for it stops it.

use hardware::{Disk, Progress, StepControl};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// How often progress is told at most.
const PACE: Duration = Duration::from_millis(500);
/// The stretch over which a rate is taken.
const WINDOW: Duration = Duration::from_secs(5);
/// Disks that are named in a line of progress.
const NAMED: usize = 8;

/// What happens to a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    Marking,
    Erasing(&'static str),
    Reading,
    Done,
    Failed,
}

#[derive(Debug)]
struct Standing {
    name: String,
    size: u64,
    stage: Stage,
    /// Thousandths of the stage; `None` where the device does not tell.
    permille: Option<u16>,
    eta: Option<Duration>,
}

impl Standing {
    /// Bytes that count as done. Reading what is left is part of it, yet no bytes are added by it.
    fn done(&self) -> u64 {
        match self.stage {
            Stage::Waiting | Stage::Marking => 0,
            Stage::Erasing(_) => self.size / 1000 * u64::from(self.permille.unwrap_or(0).min(1000)),
            Stage::Reading | Stage::Done | Stage::Failed => self.size,
        }
    }

    fn describe(&self) -> String {
        let percent = self.permille.map(|permille| format!(" {}.{} %", permille / 10, permille % 10));
        let percent = percent.unwrap_or_default();
        match self.stage {
            Stage::Waiting => format!("{} waits", self.name),
            Stage::Marking => format!("{} is marked", self.name),
            Stage::Erasing(method) => format!("{}{percent} {method}", self.name),
            Stage::Reading => format!("{}{percent} read back", self.name),
            Stage::Done => format!("{} erased", self.name),
            Stage::Failed => format!("{} FAILED", self.name),
        }
    }
}

#[derive(Debug)]
struct Told {
    at: Option<Instant>,
    window: (Instant, u64),
    rate: u64,
}

/// All disks of one step.
#[derive(Debug)]
pub(super) struct Fleet {
    control: Arc<dyn StepControl>,
    disks: Mutex<(Vec<Standing>, Told)>,
}

impl Fleet {
    /// The disks of a step, none of them begun.
    pub(super) fn new(control: Arc<dyn StepControl>, disks: &[Disk]) -> Arc<Self> {
        let standing = |disk: &Disk| Standing {
            name: disk.name.trim_start_matches("/dev/").to_owned(),
            size: disk.size,
            stage: Stage::Waiting,
            permille: None,
            eta: None,
        };
        let told = Told { at: None, window: (Instant::now(), 0), rate: 0 };
        Arc::new(Self { control, disks: Mutex::new((disks.iter().map(standing).collect(), told)) })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.control.is_cancelled()
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Standing>, Told)> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, number: usize, stage: Stage, permille: Option<u16>, eta: Option<Duration>) {
        let mut guard = self.lock();
        let (disks, told) = &mut *guard;
        let Some(disk) = disks.get_mut(number) else { return };
        let turned = disk.stage != stage;
        (disk.stage, disk.permille, disk.eta) = (stage, permille, eta);
        let now = Instant::now();
        if turned || told.at.is_none_or(|at| now.duration_since(at) >= PACE) {
            told.at = Some(now);
            self.control.report(progress(disks, told, now));
        }
    }
}

fn progress(disks: &[Standing], told: &mut Told, now: Instant) -> Progress {
    let total: u64 = disks.iter().map(|disk| disk.size).sum();
    let done: u64 = disks.iter().map(Standing::done).sum();
    let (since, before) = told.window;
    let passed = now.duration_since(since);
    if passed >= WINDOW {
        told.rate =
            u64::try_from(u128::from(done.saturating_sub(before)) * 1000 / passed.as_millis().max(1)).unwrap_or(0);
        told.window = (now, done);
    }
    // The slowest disk says when it is over; those that wait come on top, at the pace of now.
    let devices = disks.iter().filter_map(|disk| disk.eta).max().map(|eta| eta.as_secs());
    let waiting = disks.iter().any(|disk| disk.stage == Stage::Waiting);
    let by_rate = total.saturating_sub(done).checked_div(told.rate);
    let eta = if waiting { by_rate.max(devices) } else { devices.or(by_rate) };
    let mut stage = "erase".to_owned();
    // What is going on comes before what is over.
    let going = |disk: &&Standing| !matches!(disk.stage, Stage::Done | Stage::Waiting);
    let named: Vec<&Standing> = disks.iter().filter(going).take(NAMED).collect();
    for (number, disk) in named.iter().enumerate() {
        let _ = write!(stage, "{} {}", if number == 0 { ":" } else { "," }, disk.describe());
    }
    if disks.len() > named.len() {
        let over = disks.iter().filter(|disk| disk.stage == Stage::Done).count();
        let _ = write!(stage, " ({over} of {} disks erased)", disks.len());
    }
    Progress { stage, done, total: Some(total), rate: told.rate, eta, stalled: None }
}

/// One disk of a fleet, for whoever works on it on a thread for blocking work.
pub(super) struct Watch {
    pub(super) fleet: Arc<Fleet>,
    pub(super) number: usize,
    runtime: Handle,
    began: Instant,
}

impl Watch {
    /// To be called on a runtime.
    pub(super) fn new(fleet: &Arc<Fleet>, number: usize) -> Self {
        Self { fleet: Arc::clone(fleet), number, runtime: Handle::current(), began: Instant::now() }
    }

    pub(super) fn stage(&self, stage: Stage) {
        self.fleet.set(self.number, stage, None, None);
    }

    /// Tells the thousandths of the reading; `false` when it is to stop.
    pub(super) fn read(&self, bytes: u64, total: u64) -> bool {
        let permille = u128::from(bytes) * 1000 / u128::from(total.max(1));
        self.fleet.set(self.number, Stage::Reading, u16::try_from(permille.min(1000)).ok(), None);
        !self.fleet.is_cancelled()
    }
}

impl erase::Control for Watch {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn sleep(&self, time: Duration) {
        self.runtime.block_on(async {
            // Cut short when the step is cancelled; nobody cares which it was.
            let _ = tokio::time::timeout(time, self.fleet.control.cancelled()).await;
        });
    }

    fn is_cancelled(&self) -> bool {
        self.fleet.is_cancelled()
    }

    fn progress(&self, progress: erase::Progress) {
        self.fleet.set(self.number, Stage::Erasing(progress.method.name()), progress.permille, progress.eta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hardware::Unattended;

    fn fleet(count: u64) -> Arc<Fleet> {
        let disks: Vec<Disk> = (0..count)
            .map(|number| Disk { name: format!("/dev/sd{number}"), size: 1000 << 20, ..Disk::default() })
            .collect();
        Fleet::new(Arc::new(Unattended), &disks)
    }

    fn shown(fleet: &Fleet) -> Progress {
        let mut guard = fleet.lock();
        let (disks, told) = &mut *guard;
        progress(disks, told, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn every_disk_is_told_with_its_percent_and_the_slowest_says_how_long() {
        let fleet = fleet(3);
        fleet.set(0, Stage::Erasing("overwrite"), Some(435), Some(Duration::from_secs(90)));
        fleet.set(1, Stage::Erasing("nvme_sanitize_block"), None, Some(Duration::from_secs(20)));
        fleet.set(2, Stage::Reading, Some(10), None);
        let progress = shown(&fleet);
        assert_eq!(progress.stage, "erase: sd0 43.5 % overwrite, sd1 nvme_sanitize_block, sd2 1.0 % read back");
        assert_eq!((progress.done, progress.total, progress.eta), (1435 << 20, Some(3000 << 20), Some(90)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_of_the_last_seconds_and_disks_that_wait_are_counted() {
        let fleet = fleet(2);
        fleet.set(0, Stage::Erasing("overwrite"), Some(500), Some(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(10)).await;
        let progress = shown(&fleet);
        assert_eq!((progress.rate, progress.eta), (50 << 20, Some(30)));
        assert_eq!(progress.stage, "erase: sd0 50.0 % overwrite (0 of 2 disks erased)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shelf_of_disks_fits_into_a_line() {
        let fleet = fleet(60);
        for number in 0..60 {
            let stage = if number < 20 { Stage::Done } else { Stage::Erasing("ata_security_enhanced") };
            fleet.set(number, stage, Some(1), None);
        }
        let progress = shown(&fleet);
        assert!(progress.stage.len() < 512 && progress.stage.ends_with("(20 of 60 disks erased)"), "{progress:?}");
    }
}
