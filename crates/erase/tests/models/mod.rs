//! Drives to erase, and somebody who waits for them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use erase::{Control, Done, EraseError, Options, Progress};
use hardware::{EraseGrant, Plan};
use hardware_sim::drive::{AtaProfile, NvmeProfile, ScsiProfile, SimClock, SimDrive};
use std::sync::Mutex;
use std::time::Duration;

/// Waits by moving the clock; may cancel at a time.
pub(crate) struct Waiter {
    pub(crate) clock: SimClock,
    pub(crate) cancel_at: Option<Duration>,
    pub(crate) heard: Mutex<Vec<Progress>>,
}

impl Control for Waiter {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn sleep(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn is_cancelled(&self) -> bool {
        self.cancel_at.is_some_and(|time| self.clock.now() >= time)
    }

    fn progress(&self, progress: Progress) {
        self.heard.lock().unwrap().push(progress);
    }
}

/// A drive on its bench.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) clock: SimClock,
    pub(crate) drive: SimDrive,
}

impl Bench {
    pub(crate) fn nvme(profile: NvmeProfile) -> Self {
        Self::of(|clock| SimDrive::nvme(profile, "/dev/nvme0n1", clock))
    }

    pub(crate) fn ata(profile: AtaProfile) -> Self {
        Self::of(|clock| SimDrive::ata(profile, "/dev/sda", clock))
    }

    pub(crate) fn scsi(profile: ScsiProfile) -> Self {
        Self::of(|clock| SimDrive::scsi(profile, "/dev/sdb", clock))
    }

    pub(crate) fn virtio() -> Self {
        Self::of(|clock| SimDrive::virtio("/dev/vda", clock))
    }

    fn of(drive: impl FnOnce(&SimClock) -> SimDrive) -> Self {
        let clock = SimClock::default();
        let drive = drive(&clock);
        Self { clock, drive }
    }

    pub(crate) fn grant(&self) -> EraseGrant {
        let disk = self.drive.disk();
        Plan::new("erase_devices", vec![disk.clone()]).erase(&disk.name).unwrap()
    }

    pub(crate) fn waiter(&self) -> Waiter {
        Waiter { clock: self.clock.clone(), cancel_at: None, heard: Mutex::default() }
    }

    pub(crate) fn erase(&self, options: &Options) -> Result<Done, EraseError> {
        erase::erase(&self.drive, &self.grant(), options, &self.waiter())
    }

    /// Erases, and is told to stop after `time`.
    pub(crate) fn erase_until(&self, options: &Options, time: Duration) -> Result<Done, EraseError> {
        let waiter = Waiter { cancel_at: Some(self.clock.now() + time), ..self.waiter() };
        erase::erase(&self.drive, &self.grant(), options, &waiter)
    }
}
