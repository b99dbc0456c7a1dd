//! Several zstd frames at the same time.
//!
//! Where a frame ends, its block headers say: this thread reads them, and deals the frames out to others, each in parts
//! as they arrive. Where on the disk a frame's content belongs is only known when all frames before it are unpacked (many
//! programs do not write into a frame how long its content is). So the way to the disk goes from frame to frame like a
//! baton: who has it unpacks into the blocks themselves, who waits for it unpacks [`AHEAD`] bytes into memory of its own.
//!
//! Nobody waits for a later frame: all parts of a frame are dealt out before the next one begins, and what waits there
//! for its turn holds no block. An image of one frame is unpacked by one thread, as if this were not here.

use super::{Halt, Input, Straight, Stream, step};
use crate::decompress::{Compression, DecompressError, Detected, Place, Scanner, Zstd};
use crate::fetch::Piece;
use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that are unpacked before their place is known, by each thread.
const AHEAD: usize = 8 << 20;
/// Bytes that are unpacked between two looks for the baton.
const STEP: usize = 256 << 10;
/// More threads than this do not help: one after the other, blocks go to one disk.
const MOST: u64 = 8;

/// A part of a frame.
enum Share {
    Header(Vec<u8>),
    Piece(Arc<Piece>, Range<usize>),
    /// That was all of it.
    End,
}

/// A frame to unpack.
struct Job {
    /// Which one it is, from 0, and where it starts in the transported bytes.
    number: u64,
    at: u64,
    shares: Receiver<Share>,
}

struct State<'a> {
    /// The frame whose turn it is, and the way to the disk unless it was taken.
    turn: u64,
    baton: Option<Straight<'a>>,
    stopped: Option<Halt>,
}

/// What the threads share.
struct Crew<'a> {
    jobs: Mutex<Receiver<Job>>,
    state: Mutex<State<'a>>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Crew<'a> {
    /// The baton, if it is the turn of this frame.
    fn take(&self, number: u64) -> Option<Straight<'a>> {
        let mut state = lock(&self.state);
        if state.turn == number { state.baton.take() } else { None }
    }

    /// The baton, when it is the turn of this frame.
    fn wait(&self, number: u64) -> Result<Straight<'a>, Halt> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped.is_some() {
                return Err(Halt::Gone);
            }
            if state.turn == number
                && let Some(baton) = state.baton.take()
            {
                return Ok(baton);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next frame's turn.
    fn hand_on(&self, baton: Straight<'a>) {
        let mut state = lock(&self.state);
        state.turn += 1;
        state.baton = Some(baton);
        self.changed.notify_all();
    }

    /// The first reason counts: the others follow from it.
    fn stop(&self, halt: Halt) {
        lock(&self.state).stopped.get_or_insert(halt);
        self.changed.notify_all();
    }
}

/// Unpacks frames on several threads while that fits the memory and pays. Returns the way to the disk if the rest of
/// the stream is for one thread; `None`: all is unpacked.
pub(super) fn run<'a>(
    stream: &mut Stream,
    detected: &mut Detected,
    straight: Straight<'a>,
    memory: u64,
) -> Result<Option<Straight<'a>>, Halt> {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    // Frames of one image are alike. A very short one needs next to nothing and says little about the others.
    let workers = (memory / (detected.need.max(2 << 20) + AHEAD as u64)).min(threads).min(MOST);
    if detected.compression != Compression::Zstd || workers < 2 {
        return Ok(Some(straight));
    }
    let limit = memory / workers - AHEAD as u64;
    let (sender, jobs) = sync_channel(0);
    let state = Mutex::new(State { turn: 0, baton: Some(straight), stopped: None });
    let crew = Crew { jobs: Mutex::new(jobs), state, changed: Condvar::new() };
    let dealt = std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(&crew, limit));
        }
        let dealt = deal(stream, &crew, sender, limit);
        if dealt.is_err() {
            crew.stop(Halt::Gone);
        }
        dealt
    });
    let state = crew.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (state.stopped, dealt) {
        (Some(Halt::Failed(cause)), _) => return Err(Halt::Failed(cause)),
        (_, Err(halt)) | (Some(halt), Ok(_)) => return Err(halt),
        (None, Ok(Dealt::All)) => {
            if let Some(mut straight) = state.baton {
                straight.out.pass()?;
            }
            return Ok(None);
        }
        (None, Ok(Dealt::TooLarge { at })) => {
            let mut zstd = Zstd::new(memory)?;
            zstd.go_to(at);
            detected.decoder = Box::new(zstd);
        }
    }
    Ok(state.baton)
}

/// How dealing out ended well.
enum Dealt {
    All,
    /// With a frame, put back into the stream, that needs the memory of all threads.
    TooLarge {
        at: u64,
    },
}

/// Deals the frames out until there are no more. The threads end when `jobs` is dropped.
fn deal(stream: &mut Stream, crew: &Crew<'_>, jobs: SyncSender<Job>, limit: u64) -> Result<Dealt, Halt> {
    let mut scanner = Scanner::new(limit);
    let mut frame: Option<Sender<Share>> = None;
    let mut number = 0;
    // What has come of a header that is not whole.
    let mut seen = Vec::new();
    loop {
        let input = stream.next()?;
        let (bytes, mut done) = (input.part().bytes(), 0);
        while done < bytes.len() {
            let (taken, place) = match scanner.run(&bytes[done..]) {
                Ok(found) => found,
                Err(DecompressError::Window { at, .. }) => {
                    // Judged again by what one thread may use.
                    seen.extend_from_slice(&bytes[done..]);
                    stream.back.push_front(Input::Loose(seen));
                    return Ok(Dealt::TooLarge { at });
                }
                Err(error) => return Err(error.into()),
            };
            let range = done..done + taken;
            done += taken;
            match (&frame, place) {
                (_, Place::Begun) => {
                    let (sender, shares) = channel();
                    let at = scanner.at() - scanner.header().len() as u64;
                    let job = Job { number, at, shares };
                    if lock(&crew.state).stopped.is_some() || jobs.send(job).is_err() {
                        return Err(Halt::Gone);
                    }
                    // Who unpacks may be gone; the reason is with the crew.
                    let _ = sender.send(Share::Header(scanner.header().to_vec()));
                    frame = Some(sender);
                    seen = Vec::new();
                    number += 1;
                }
                (None, _) => seen.extend_from_slice(&bytes[range]),
                (Some(sender), place) => {
                    let share = match &input {
                        Input::Piece(piece, from) => Share::Piece(piece.clone(), from + range.start..from + range.end),
                        Input::Loose(_) | Input::End => Share::Header(bytes[range].to_vec()),
                    };
                    let _ = sender.send(share);
                    if place == Place::Ended {
                        let _ = sender.send(Share::End);
                        frame = None;
                    }
                }
            }
        }
        if matches!(input, Input::End) {
            let whole = !scanner.in_frame() && number > 0;
            let at = scanner.at();
            return if whole { Ok(Dealt::All) } else { Err(DecompressError::Truncated { packing: "zstd", at }.into()) };
        }
    }
}

/// A thread that is lost takes the others along.
struct Leave<'c, 'a>(&'c Crew<'a>);

impl Drop for Leave<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(Halt::Gone);
        }
    }
}

/// Unpacks frames until there are no more.
fn work(crew: &Crew<'_>, limit: u64) {
    let _leave = Leave(crew);
    let mut ahead = Vec::new();
    let result = Zstd::new(limit).map_err(Halt::from).and_then(|mut zstd| {
        loop {
            let Ok(job) = lock(&crew.jobs).recv() else { return Ok(()) };
            if ahead.is_empty() {
                // Pages that nobody wrote to take no memory.
                ahead = vec![0; AHEAD];
            }
            unpack(crew, &job, &mut zstd, &mut ahead)?;
        }
    });
    if let Err(halt) = result {
        crew.stop(halt);
        // Who deals out must not wait for a thread that has ended.
        while lock(&crew.jobs).recv().is_ok() {}
    }
}

fn unpack(crew: &Crew<'_>, job: &Job, zstd: &mut Zstd, ahead: &mut [u8]) -> Result<(), Halt> {
    zstd.go_to(job.at);
    let wanted = zstd.frames().map(|frames| frames + 1);
    let (mut baton, mut len) = (None, 0);
    loop {
        let share = job.shares.recv().map_err(|_| Halt::Gone)?;
        let mut input = match &share {
            Share::Header(bytes) => &bytes[..],
            Share::Piece(piece, range) => &piece[range.clone()],
            Share::End => break,
        };
        loop {
            if baton.is_none() {
                baton = if len == ahead.len() { Some(crew.wait(job.number)?) } else { crew.take(job.number) };
                if let Some(straight) = &mut baton {
                    straight.write(&ahead[..len])?;
                }
            }
            let (taken, more) = match &mut baton {
                Some(straight) => straight.step(zstd, input)?,
                None => {
                    let room = STEP.min(ahead.len() - len);
                    let (taken, given, more) = step(zstd, input, &mut ahead[len..len + room])?;
                    len += given;
                    (taken, more)
                }
            };
            input = &input[taken..];
            if !more {
                break;
            }
        }
    }
    if zstd.frames() != wanted {
        let source = io::Error::new(io::ErrorKind::InvalidData, "its blocks are not as long as they say");
        return Err(DecompressError::Corrupt { packing: "zstd", at: job.at, source }.into());
    }
    let straight = match baton {
        Some(straight) => straight,
        None => {
            let mut straight = crew.wait(job.number)?;
            straight.write(&ahead[..len])?;
            straight
        }
    };
    crew.hand_on(straight);
    Ok(())
}
