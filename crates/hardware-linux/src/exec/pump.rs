//! Input into a program and output out of it, at the same time and without threads, until it has ended or its time is up.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::time::{Duration, Instant};

/// What is read at once, in bytes.
const PIECE: usize = 16 << 10;
/// The most that a pipe holds, in bytes, unless a privileged process has asked for more (pipe(7)).
const PIPE: usize = 1 << 20;

/// How the pumping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The program has ended; its status has not been taken.
    Ended,
    /// Its time is up. It may still run.
    Deadline,
    /// Whoever listened has heard enough. It may still run.
    HeardEnough,
}

/// What is known at the end.
#[derive(Debug)]
pub(super) struct Pumped {
    pub(super) end: End,
    pub(super) stderr: Vec<u8>,
}

/// A line is longer than it may be.
#[derive(Debug)]
pub(super) struct TooLong;

/// Writes `input`, hands output to `output` as it comes and keeps the last `most` bytes of complaints, until the program
/// has ended, `output` breaks or the deadline passes. Whoever still holds the pipes open after that is not listened to.
pub(super) fn pump(
    child: &mut Child,
    input: &[u8],
    deadline: Duration,
    most: u64,
    output: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<Pumped> {
    let end = Instant::now() + deadline;
    let process = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pipes = [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
    for pipe in pipes.into_iter().flatten() {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    let mut left = input;
    let mut complaints = Vec::new();
    let pumped = |end, stderr| Ok(Pumped { end, stderr });
    loop {
        let pipes =
            [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
        let ended = match wait(process.as_fd(), pipes, end.saturating_duration_since(Instant::now()))? {
            Waited::TimeIsUp => return pumped(End::Deadline, complaints),
            Waited::Ended => true,
            Waited::Something => false,
        };
        if let Some(pipe) = &mut stdin {
            match write_some(pipe, &mut left) {
                Ok(()) if !left.is_empty() => {}
                // All is written, or nobody reads it: the program has closed its input. What it says will tell.
                Ok(()) | Err(_) => stdin = None,
            }
        }
        // Complaints first: they explain what the output breaks off at.
        let mut keep = |bytes: &[u8]| {
            complaints.extend_from_slice(bytes);
            let excess = complaints.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
            complaints.drain(..excess);
            ControlFlow::Continue(())
        };
        let pieces = if ended {
            // The rest of its group would hold the pipes open. The process has not been waited for, so its number is its own.
            super::kill_group(child);
            PIPE / PIECE
        } else {
            1
        };
        let _ = read_some(&mut stderr, pieces, &mut keep);
        if read_some(&mut stdout, pieces, output).is_break() {
            return pumped(End::HeardEnough, complaints);
        }
        if ended {
            return pumped(End::Ended, complaints);
        }
    }
}

enum Waited {
    Ended,
    Something,
    TimeIsUp,
}

/// Waits for the end of the process, for room in the first pipe or for something to read in the others.
fn wait(process: BorrowedFd<'_>, pipes: [Option<BorrowedFd<'_>>; 3], left: Duration) -> io::Result<Waited> {
    let flags = [PollFlags::OUT, PollFlags::IN, PollFlags::IN];
    let mut watched = vec![PollFd::from_borrowed_fd(process, PollFlags::IN)];
    watched
        .extend(pipes.into_iter().zip(flags).filter_map(|(pipe, flags)| Some(PollFd::from_borrowed_fd(pipe?, flags))));
    let limit =
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    match rustix::event::poll(&mut watched, Some(&limit)) {
        Ok(0) => Ok(Waited::TimeIsUp),
        // Checked here too: a program that never stops talking always has something to read.
        Ok(_) if left.is_zero() => Ok(Waited::TimeIsUp),
        Ok(_) if watched.first().is_some_and(|process| !process.revents().is_empty()) => Ok(Waited::Ended),
        Ok(_) | Err(Errno::INTR) => Ok(Waited::Something),
        Err(error) => Err(error.into()),
    }
}

/// Writes as much of `left` as there is room for.
fn write_some(pipe: &mut impl Write, left: &mut &[u8]) -> io::Result<()> {
    loop {
        match pipe.write(left) {
            Ok(written) => *left = left.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if left.is_empty() {
            return Ok(());
        }
    }
}

/// Reads what is there, at most so many pieces: somebody who has left the group may write for ever. A pipe that has come
/// to its end is closed.
fn read_some(
    pipe: &mut Option<impl Read>,
    pieces: usize,
    into: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut buffer = [0_u8; PIECE];
    for _ in 0..pieces {
        let Some(open) = pipe else { break };
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(read) => into(buffer.get(..read).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => *pipe = None,
        }
    }
    ControlFlow::Continue(())
}

/// Appends to `kept` until it has `most` bytes; the rest is dropped.
pub(super) fn keep(kept: &mut Vec<u8>, bytes: &[u8], most: u64) {
    let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(kept.len());
    kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
}

/// Output cut into lines of at most so many bytes.
#[derive(Debug)]
pub(super) struct Lines {
    most: usize,
    line: Vec<u8>,
    too_long: bool,
    enough: bool,
}

impl Lines {
    pub(super) fn new(most: u64) -> Self {
        Self { most: usize::try_from(most).unwrap_or(usize::MAX), line: Vec::new(), too_long: false, enough: false }
    }

    pub(super) fn feed(&mut self, bytes: &[u8], listener: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            if self.line.len() + text.len() > self.most {
                self.too_long = true;
                return ControlFlow::Break(());
            }
            self.line.extend_from_slice(text);
            if text.len() < piece.len() && listener(&std::mem::take(&mut self.line)).is_break() {
                self.enough = true;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// The end of the output: what is left is a line too.
    pub(super) fn end(&mut self, listener: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), TooLong> {
        if self.too_long {
            return Err(TooLong);
        }
        if !self.enough && !self.line.is_empty() {
            // Nothing comes after it, whatever the listener thinks of it.
            let _ = listener(&std::mem::take(&mut self.line));
        }
        Ok(())
    }
}
