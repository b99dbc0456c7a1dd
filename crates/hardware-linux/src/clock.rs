//! The clock of the machine that goes on while it is off.

use crate::sys;
use crate::tree::Tree;
use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The clock by which the kernel sets its own when it boots.
const DEVICE: &str = "/dev/rtc0";

/// How long to wait before [`save`] is called, for the least error: a PC's clock begins its next second half a second after
/// it was set (`set_offset_nsec` of `drivers/rtc/rtc-cmos.c`), so it is set in the middle of one.
pub fn until_best(now: SystemTime) -> Duration {
    let nanoseconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    Duration::from_nanos(u64::from((1_500_000_000 - nanoseconds) % 1_000_000_000))
}

/// Sets the machine's clock to the second of `now`, as UTC: the time of day in the firmware's setup, and that of the system
/// that boots next.
///
/// # Errors
///
/// `NotFound` where the machine has none; others are of the kernel or the device.
pub fn save(tree: &Tree, now: SystemTime) -> io::Result<()> {
    let device = File::open(tree.path(DEVICE))?;
    let seconds = now.duration_since(UNIX_EPOCH).map_err(|_| io::ErrorKind::InvalidInput)?.as_secs();
    sys::set_rtc(&device, i64::try_from(seconds).map_err(|_| io::ErrorKind::InvalidInput)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_set_in_the_middle_of_a_second() {
        let wait = |milliseconds| until_best(UNIX_EPOCH + Duration::from_millis(milliseconds)).as_millis();
        assert_eq!([wait(7_000), wait(7_499), wait(7_500), wait(7_501), wait(7_999)], [500, 1, 0, 999, 501]);
    }

    #[test]
    fn a_machine_without_a_clock_says_so() {
        let root = tempfile::tempdir().unwrap();
        let error = save(&Tree::at(root.path()), SystemTime::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
