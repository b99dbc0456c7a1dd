//! The console log: every line goes to all consoles of the kernel and into the kernel's own log.
//!
//! A server may have a screen and a serial line (`console=tty0 console=ttyS0`); `/dev/console` is only the last of them.
//! The kernel's log keeps the lines of kernel and agent together, in order, for whoever collects logs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

/// A record of the kernel's log has 1024 bytes at most, its prefix included (`PRINTKRB_RECORD_MAX`).
const LONGEST_RECORD: usize = 900;

/// Facility "user" and level "debug", so that the kernel does not print on the consoles what is there already.
const PRIORITY: &str = "<15>";

/// Where log lines go. Cheap to clone; a clone is a writer that takes whole lines.
#[derive(Debug, Clone)]
pub struct Console(Arc<Sinks>);

#[derive(Debug)]
struct Sinks {
    terminals: Vec<File>,
    kernel: Option<File>,
}

impl Console {
    /// Opens the consoles that the kernel uses and its log. What cannot be opened is left out.
    pub(super) fn open() -> Self {
        // Without this the kernel drops what a program logs quickly.
        let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
        let list = fs::read_to_string("/proc/consoles").unwrap_or_default();
        let mut terminals: Vec<File> = names(&list).filter_map(|name| terminal(&format!("/dev/{name}"))).collect();
        if terminals.is_empty() {
            terminals.extend(terminal("/dev/console"));
        }
        let kernel = OpenOptions::new().write(true).open("/dev/kmsg").ok();
        Self(Arc::new(Sinks { terminals, kernel }))
    }

    fn line(&self, line: &[u8]) {
        for terminal in &self.0.terminals {
            write_patiently(terminal, line);
            write_patiently(terminal, b"\n");
        }
        if let Some(mut kernel) = self.0.kernel.as_ref() {
            for part in line.chunks(LONGEST_RECORD) {
                let mut record = Vec::with_capacity(part.len() + 16);
                record.extend_from_slice(PRIORITY.as_bytes());
                record.extend_from_slice(b"ferric: ");
                record.extend_from_slice(part);
                // One write is one record. A log that is full or slow must not stop the work.
                let _ = kernel.write(&record);
            }
        }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            self.line(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names of consoles in `/proc/consoles`.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.split_whitespace().next())
}

/// A terminal that never blocks and does not become ours: a serial line without anybody at the other end may stop taking
/// characters.
fn terminal(path: &str) -> Option<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path).ok()
}

/// Writes, waiting a little for a slow terminal to take more, and drops the rest of the line when it does not.
fn write_patiently(mut terminal: &File, mut bytes: &[u8]) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    while !bytes.is_empty() {
        match terminal.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(terminal, PollFlags::OUT)];
                if !matches!(poll(&mut ready, Some(&PATIENCE)), Ok(1)) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_consoles_of_the_kernel_are_named() {
        let list = "ttyS0                -W- (EC p a)    4:64\ntty0                 -WU (E  p  )    4:1\n";
        assert_eq!(names(list).collect::<Vec<_>>(), ["ttyS0", "tty0"]);
    }
}
