//! The clock that goes on while the machine is off.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// `struct rtc_time` of `linux/rtc.h`: as `struct tm` of C, without its time zone.
#[repr(C)]
struct RtcTime {
    second: libc::c_int,
    minute: libc::c_int,
    hour: libc::c_int,
    /// From 1.
    day: libc::c_int,
    /// From 0.
    month: libc::c_int,
    /// From 1900.
    year: libc::c_int,
    week_day: libc::c_int,
    year_day: libc::c_int,
    is_summer: libc::c_int,
}

/// `RTC_SET_TIME`, `_IOW('p', 0x0a, struct rtc_time)`.
const RTC_SET_TIME: libc::Ioctl = 0x4024_700a;

impl RtcTime {
    /// UTC of seconds since 1970.
    #[allow(unsafe_code, reason = "the C library knows the calendar")]
    fn at(unix: i64) -> Option<Self> {
        let mut broken = MaybeUninit::<libc::tm>::uninit();
        // SAFETY: both pointers are to values that live until the call returns; the function writes all of `broken` or
        // returns null.
        let done = unsafe { libc::gmtime_r(&raw const unix, broken.as_mut_ptr()) };
        if done.is_null() {
            return None;
        }
        // SAFETY: the call above did not fail, so it has written the whole structure.
        let broken = unsafe { broken.assume_init() };
        Some(Self {
            second: broken.tm_sec,
            minute: broken.tm_min,
            hour: broken.tm_hour,
            day: broken.tm_mday,
            month: broken.tm_mon,
            year: broken.tm_year,
            week_day: broken.tm_wday,
            year_day: broken.tm_yday,
            is_summer: 0,
        })
    }
}

/// Sets the clock behind a device of the kernel's `rtc` class to UTC of `unix`, seconds since 1970.
#[allow(unsafe_code, reason = "no library wraps this request")]
pub(crate) fn set_rtc(device: &File, unix: i64) -> io::Result<()> {
    let time = RtcTime::at(unix).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: `time` has the layout of `struct rtc_time` and lives until the call returns; the kernel only reads it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), RTC_SET_TIME, &raw const time) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_size_of_its_structure() {
        assert_eq!((RTC_SET_TIME >> 16) & 0x3fff, size_of::<RtcTime>() as libc::Ioctl);
    }

    #[test]
    fn seconds_become_a_date_in_utc() {
        let at = |unix: i64| {
            let time = RtcTime::at(unix).unwrap();
            [time.year + 1900, time.month + 1, time.day, time.hour, time.minute, time.second, time.week_day]
        };
        assert_eq!(at(0), [1970, 1, 1, 0, 0, 0, 4]);
        assert_eq!(at(951_827_696), [2000, 2, 29, 12, 34, 56, 2]);
        assert_eq!(at(4_102_444_799), [2099, 12, 31, 23, 59, 59, 4]);
        assert!(RtcTime::at(i64::MAX).is_none());
    }
}
