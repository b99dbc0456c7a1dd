//! How far the erasing of several disks is, told as one progress; and the way in which whoever waits for it stops it.
//!
//! What is counted is bytes: those that are to be erased, and those that are to be read back. A disk is through when both are; one
//! that failed is out of the count, and named.

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
/// Disks at work, and disks that failed, that are named in a line of progress.
const NAMED: usize = 4;
/// Reading back so small a part of a disk takes no time that anybody would plan with.
const SMALL_PART: u64 = 50;

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
    /// Bytes that are erased, and that are read back afterwards.
    work: [u64; 2],
    stage: Stage,
    /// Since when it is at that stage.
    since: Instant,
    /// Thousandths of the stage; `None` where the device does not tell.
    permille: Option<u16>,
    /// Time left of the stage, when it was told.
    eta: Option<(Instant, Duration)>,
    /// What the device says that a stage takes of which it does not tell how far it is.
    estimate: Option<Duration>,
    /// Bytes a second that the host itself wrote; nothing where the device erased itself.
    written: Option<u64>,
}

/// `bytes` of which so many thousandths are done.
fn part(bytes: u64, permille: Option<u16>) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(permille.unwrap_or(0).min(1000)) / 1000).unwrap_or(bytes)
}

/// Bytes a second.
fn rate(bytes: u64, time: Duration) -> Option<u64> {
    let rate = u128::from(bytes) * 1000 / time.as_millis().max(1);
    u64::try_from(rate).ok().filter(|rate| *rate > 0)
}

/// A time as people say it.
fn said(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

impl Standing {
    fn done(&self) -> u64 {
        let [erase, read] = self.work;
        match self.stage {
            Stage::Waiting | Stage::Marking | Stage::Failed => 0,
            Stage::Erasing(_) => part(erase, self.permille),
            Stage::Reading => erase + part(read, self.permille),
            Stage::Done => erase + read,
        }
    }

    fn is_at_work(&self) -> bool {
        matches!(self.stage, Stage::Marking | Stage::Erasing(_) | Stage::Reading)
    }

    /// Time until the disk is through, where `reading` is how many bytes a second are read back.
    fn left(&self, reading: Option<u64>, now: Instant) -> Option<Duration> {
        let stage = self.eta.map(|(then, eta)| eta.saturating_sub(now.duration_since(then)));
        let [erase, read] = self.work;
        match self.stage {
            Stage::Reading => stage,
            Stage::Erasing(_) if read <= erase / SMALL_PART => stage,
            Stage::Erasing(_) => {
                let pace = reading.or(self.written)?;
                Some(stage? + Duration::from_secs(read / pace.max(1)))
            }
            Stage::Waiting | Stage::Marking | Stage::Done | Stage::Failed => None,
        }
    }

    fn describe(&self, now: Instant) -> String {
        let name = &self.name;
        let percent = self.permille.map(|permille| format!("{}.{} %", permille / 10, permille % 10));
        match (&self.stage, percent) {
            (Stage::Waiting, _) => format!("{name} waits"),
            (Stage::Marking, _) => format!("{name} is marked"),
            (Stage::Erasing(method), Some(percent)) => format!("{name} {percent} {method}"),
            (Stage::Erasing(method), None) => {
                let mut text = format!("{name} {method} for {}", said(now.duration_since(self.since)));
                if let Some(estimate) = self.estimate {
                    let _ = write!(text, " of about {}", said(estimate));
                }
                text + " (it tells no percentage)"
            }
            (Stage::Reading, percent) => format!("{name} {} read back", percent.unwrap_or_default()),
            (Stage::Done, _) => format!("{name} erased"),
            (Stage::Failed, _) => format!("{name} FAILED"),
        }
    }
}

#[derive(Debug)]
struct Told {
    at: Option<Instant>,
    window: (Instant, u64),
    rate: u64,
    /// Bytes a second at which a disk is read back, as last seen.
    reading: Option<u64>,
}

/// All disks of one step.
#[derive(Debug)]
pub(super) struct Fleet {
    control: Arc<dyn StepControl>,
    disks: Mutex<(Vec<Standing>, Told)>,
}

impl Fleet {
    /// The disks of a step, none of them begun. `work` says how many bytes of a disk are erased, and how many read back.
    pub(super) fn new(control: Arc<dyn StepControl>, disks: &[Disk], work: impl Fn(&Disk) -> [u64; 2]) -> Arc<Self> {
        let now = Instant::now();
        let standing = |disk: &Disk| Standing {
            name: disk.name.trim_start_matches("/dev/").to_owned(),
            work: work(disk),
            stage: Stage::Waiting,
            since: now,
            permille: None,
            eta: None,
            estimate: None,
            written: None,
        };
        let told = Told { at: None, window: (now, 0), rate: 0, reading: None };
        Arc::new(Self { control, disks: Mutex::new((disks.iter().map(standing).collect(), told)) })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.control.is_cancelled()
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Standing>, Told)> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how it stands, though nothing was heard of any disk: time passes.
    pub(super) fn tell(&self) {
        let mut guard = self.lock();
        let (disks, told) = &mut *guard;
        let now = Instant::now();
        told.at = Some(now);
        self.control.report(progress(disks, told, now));
    }

    fn set(&self, number: usize, stage: Stage, permille: Option<u16>, eta: Option<Duration>) {
        let mut guard = self.lock();
        let (disks, told) = &mut *guard;
        let Some(disk) = disks.get_mut(number) else { return };
        let now = Instant::now();
        let turned = disk.stage != stage;
        if turned {
            (disk.stage, disk.since) = (stage, now);
        }
        (disk.permille, disk.eta) = (permille, eta.map(|eta| (now, eta)));
        disk.estimate = eta.filter(|_| permille.is_none()).or(disk.estimate.filter(|_| !turned));
        let passed = now.duration_since(disk.since);
        match disk.stage {
            Stage::Erasing(method) if writes(method) => disk.written = rate(disk.done(), passed).or(disk.written),
            Stage::Reading => told.reading = rate(part(disk.work[1], permille), passed).or(told.reading),
            _ => {}
        }
        if turned || told.at.is_none_or(|at| now.duration_since(at) >= PACE) {
            told.at = Some(now);
            self.control.report(progress(disks, told, now));
        }
    }
}

/// Whether a method is a matter of bytes that go to the device.
fn writes(method: &str) -> bool {
    [erase::Method::Overwrite, erase::Method::WriteZeroes].iter().any(|writing| writing.name() == method)
}

fn progress(disks: &[Standing], told: &mut Told, now: Instant) -> Progress {
    let counted = || disks.iter().filter(|disk| disk.stage != Stage::Failed);
    let total: u64 = counted().flat_map(|disk| disk.work).sum();
    let done: u64 = counted().map(Standing::done).sum();
    let (since, before) = told.window;
    let passed = now.duration_since(since);
    if passed >= WINDOW {
        told.rate = rate(done.saturating_sub(before), passed).unwrap_or(0);
        told.window = (now, done);
    }
    Progress {
        stage: line(disks, now),
        done,
        total: Some(total),
        rate: told.rate,
        eta: eta(disks, told, total - done, now),
        stalled: None,
    }
}

/// Seconds until all of it is over; `None` as long as one disk does not let it be known.
fn eta(disks: &[Standing], told: &Told, left: u64, now: Instant) -> Option<u64> {
    let mut slowest = None;
    for disk in disks.iter().filter(|disk| disk.is_at_work()) {
        slowest = slowest.max(Some(disk.left(told.reading, now)?));
    }
    let slowest = slowest?.as_secs();
    if disks.iter().any(|disk| disk.stage == Stage::Waiting) {
        // Those that wait come on top, at the pace of now.
        return left.checked_div(told.rate).map(|all| all.max(slowest));
    }
    Some(slowest)
}

/// What is going on, then what is over, waits or went wrong; of several disks all are counted.
fn line(disks: &[Standing], now: Instant) -> String {
    let mut text = "erase".to_owned();
    let list = |chosen: &dyn Fn(&Standing) -> bool, tell: &dyn Fn(&Standing) -> String| {
        let all: Vec<&Standing> = disks.iter().filter(|disk| chosen(disk)).collect();
        let mut named: Vec<String> = all.iter().take(NAMED).map(|disk| tell(disk)).collect();
        if all.len() > NAMED {
            named.push(format!("{} more", all.len() - NAMED));
        }
        (all.len(), named.join(", "))
    };
    let (busy, what) = list(&Standing::is_at_work, &|disk| disk.describe(now));
    if busy > 0 {
        let _ = write!(text, ": {what}");
    }
    let count = |stage: &Stage| disks.iter().filter(|disk| disk.stage == *stage).count();
    let mut rest = Vec::new();
    if disks.len() > 1 {
        rest.push(format!("{} of {} disks erased", count(&Stage::Done), disks.len()));
    }
    let waiting = count(&Stage::Waiting);
    if waiting > 0 {
        rest.push(format!("{waiting} wait{}", if waiting == 1 { "s" } else { "" }));
    }
    let (failed, names) = list(&|disk| disk.stage == Stage::Failed, &|disk| disk.name.clone());
    if failed > 0 {
        rest.push(format!("FAILED: {names}"));
    }
    if !rest.is_empty() {
        let _ = write!(text, "{} {}", if busy > 0 { ";" } else { ":" }, rest.join(", "));
    }
    text
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

    /// Begins to read back; the rest of it is [`Self::read`].
    pub(super) fn reading(&self) -> Reading<'_> {
        self.fleet.set(self.number, Stage::Reading, Some(0), None);
        Reading { watch: self, began: Instant::now() }
    }
}

/// A reading that is going on.
pub(super) struct Reading<'a> {
    watch: &'a Watch,
    began: Instant,
}

impl Reading<'_> {
    /// Tells how much was read; `false` when it is to stop.
    pub(super) fn read(&self, bytes: u64, total: u64) -> bool {
        let permille = u128::from(bytes) * 1000 / u128::from(total.max(1));
        let left = Duration::from_secs_f64(
            self.began.elapsed().as_secs_f64() * total.saturating_sub(bytes) as f64 / bytes.max(1) as f64,
        );
        let Watch { fleet, number, .. } = self.watch;
        fleet.set(*number, Stage::Reading, u16::try_from(permille.min(1000)).ok(), Some(left));
        !fleet.is_cancelled()
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

    const GIB: u64 = 1 << 30;
    const HOUR: Duration = Duration::from_secs(3600);

    /// Disks of 1000 GiB, `read` GiB of which are read back.
    fn fleet(count: usize, read: u64) -> Arc<Fleet> {
        let disks: Vec<Disk> = (0..count)
            .map(|number| Disk { name: format!("/dev/sd{number}"), size: 1000 * GIB, ..Disk::default() })
            .collect();
        Fleet::new(Arc::new(Unattended), &disks, |disk| [disk.size, read * GIB])
    }

    fn shown(fleet: &Fleet) -> Progress {
        let mut guard = fleet.lock();
        let (disks, told) = &mut *guard;
        progress(disks, told, Instant::now())
    }

    /// Percent as a driver shows them, and what is left.
    fn counted(progress: &Progress) -> (u64, Option<u64>) {
        (progress.done * 100 / progress.total.unwrap(), progress.eta)
    }

    #[tokio::test(start_paused = true)]
    async fn every_disk_is_told_with_its_percent_and_the_slowest_says_how_long() {
        let fleet = fleet(3, 10);
        fleet.set(0, Stage::Erasing("overwrite"), Some(435), Some(Duration::from_secs(90)));
        fleet.set(1, Stage::Erasing("nvme_sanitize_block"), Some(500), Some(Duration::from_secs(20)));
        fleet.set(2, Stage::Reading, Some(10), Some(Duration::from_secs(30)));
        let progress = shown(&fleet);
        insta::assert_snapshot!(progress.stage, @"erase: sd0 43.5 % overwrite, sd1 50.0 % nvme_sanitize_block, sd2 1.0 % read back; 0 of 3 disks erased");
        assert_eq!(counted(&progress), (63, Some(90)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_of_the_last_seconds_and_disks_that_wait_are_counted() {
        let fleet = fleet(2, 10);
        tokio::time::advance(Duration::from_secs(10)).await;
        fleet.set(0, Stage::Erasing("overwrite"), Some(500), Some(Duration::from_secs(10)));
        let progress = shown(&fleet);
        // 1520 of 2020 GiB are left.
        assert_eq!((progress.rate, progress.eta), (50 * GIB, Some(30)));
        insta::assert_snapshot!(progress.stage, @"erase: sd0 50.0 % overwrite; 0 of 2 disks erased, 1 waits");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_read_back_as_a_whole_is_half_done_when_it_is_erased() {
        let fleet = fleet(1, 1000);
        tokio::time::advance(HOUR).await;
        fleet.set(0, Stage::Erasing("overwrite"), Some(0), None);
        tokio::time::advance(HOUR).await;
        fleet.set(0, Stage::Erasing("overwrite"), Some(500), Some(HOUR));
        // Reading will take as long as writing: one hour for the rest, and two for that.
        let (percent, eta) = counted(&shown(&fleet));
        assert_eq!((percent, eta.map(|eta| eta / 60)), (25, Some(180)));
        fleet.set(0, Stage::Reading, Some(0), None);
        assert_eq!(counted(&shown(&fleet)), (50, None));
        tokio::time::advance(HOUR).await;
        fleet.set(0, Stage::Reading, Some(500), Some(HOUR));
        let progress = shown(&fleet);
        assert_eq!((counted(&progress), &*progress.stage), ((75, Some(3600)), "erase: sd0 50.0 % read back"));
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_a_reading_takes_that_nobody_can_know_is_not_told() {
        let fleet = fleet(2, 1000);
        fleet.set(0, Stage::Erasing("nvme_sanitize_block"), Some(500), Some(Duration::from_secs(60)));
        assert_eq!(shown(&fleet).eta, None);
        // Another disk has shown it.
        fleet.set(1, Stage::Reading, Some(0), None);
        tokio::time::advance(Duration::from_secs(100)).await;
        fleet.set(1, Stage::Reading, Some(100), Some(Duration::from_secs(900)));
        fleet.set(0, Stage::Erasing("nvme_sanitize_block"), Some(500), Some(Duration::from_secs(60)));
        assert_eq!(shown(&fleet).eta, Some(1060));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_disk_is_not_counted_as_done_and_is_named() {
        let fleet = fleet(3, 0);
        fleet.set(0, Stage::Erasing("overwrite"), Some(500), None);
        fleet.set(1, Stage::Failed, None, None);
        fleet.set(2, Stage::Done, None, None);
        let progress = shown(&fleet);
        assert_eq!(counted(&progress).0, 75);
        insta::assert_snapshot!(progress.stage, @"erase: sd0 50.0 % overwrite; 1 of 3 disks erased, FAILED: sd1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_tells_no_percentage_is_told_with_its_time() {
        let fleet = fleet(1, 10);
        fleet.set(0, Stage::Erasing("ata_security_enhanced"), None, Some(Duration::from_secs(120 * 60)));
        tokio::time::advance(Duration::from_secs(30 * 60)).await;
        let progress = shown(&fleet);
        insta::assert_snapshot!(progress.stage, @"erase: sd0 ata_security_enhanced for 30 min of about 2 h 0 min (it tells no percentage)");
        assert_eq!(counted(&progress), (0, Some(90 * 60)));
        tokio::time::advance(2 * HOUR).await;
        let progress = shown(&fleet);
        insta::assert_snapshot!(progress.stage, @"erase: sd0 ata_security_enhanced for 2 h 30 min of about 2 h 0 min (it tells no percentage)");
        assert_eq!(counted(&progress), (0, Some(0)));
        let unknown = super::tests::fleet(1, 10);
        unknown.set(0, Stage::Erasing("nvme_format_crypto"), None, None);
        tokio::time::advance(Duration::from_secs(7)).await;
        insta::assert_snapshot!(shown(&unknown).stage, @"erase: sd0 nvme_format_crypto for 7 s (it tells no percentage)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shelf_of_disks_fits_into_a_line() {
        let fleet = fleet(60, 10);
        for number in 0..40 {
            let stage = match number {
                0..20 => Stage::Done,
                20..28 => Stage::Failed,
                _ => Stage::Erasing("ata_security_enhanced"),
            };
            fleet.set(number, stage, Some(1), None);
        }
        insta::assert_snapshot!(shown(&fleet).stage, @"erase: sd28 0.1 % ata_security_enhanced, sd29 0.1 % ata_security_enhanced, sd30 0.1 % ata_security_enhanced, sd31 0.1 % ata_security_enhanced, 8 more; 20 of 60 disks erased, 20 wait, FAILED: sd20, sd21, sd22, sd23, 4 more");
    }
}
