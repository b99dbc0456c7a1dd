//! Erases that take time, and what may go wrong with them.

use super::self_test::SelfTests;
use super::{Interruption, SimClock, media::Media};
use std::ops::Range;
use std::time::Duration;

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveFault {
    /// The erase is refused.
    Aborts,
    /// The time of the command that begins the erase runs out, and nothing was begun.
    TimesOut,
    /// The time of that command runs out, and the drive is at it nevertheless.
    TimesOutAtWork,
    /// In the end the drive says that the erase failed, and it has.
    Fails,
    /// Three fifths of the way it stays where it is.
    Sticks,
    /// Half way the drive is reset, and goes on.
    ResetGoesOn,
    /// Half way the drive is reset, and begins anew.
    ResetBeginsAnew,
    /// Half way the drive is reset, and forgets what it was doing.
    ResetForgets,
    /// From the beginning of the erase the drive answers nothing any more.
    GoesSilent,
    /// It says that all went well and does nothing. A drive like this can only be caught by looking.
    Lies,
    /// It says that all went well and erases the first half. A drive like this can only be caught by looking.
    ErasesHalf,
    /// What removes a password is accepted, and the password stays.
    KeepsPassword,
    /// Discards are accepted and free nothing.
    DiscardsNothing,
    /// This byte cannot be written.
    WriteError(u64),
    /// Writes are accepted and lost. A drive like this can only be caught by looking.
    LosesWrites,
}

impl DriveFault {
    /// All of them, with some byte for those that name one.
    pub const ALL: [Self; 15] = [
        Self::Aborts,
        Self::TimesOut,
        Self::TimesOutAtWork,
        Self::Fails,
        Self::Sticks,
        Self::ResetGoesOn,
        Self::ResetBeginsAnew,
        Self::ResetForgets,
        Self::GoesSilent,
        Self::Lies,
        Self::ErasesHalf,
        Self::KeepsPassword,
        Self::DiscardsNothing,
        Self::WriteError(3 << 20),
        Self::LosesWrites,
    ];

    /// Whether the drive says what is not true, in a way that only a look at its data shows.
    pub fn is_lie(self) -> bool {
        matches!(self, Self::Lies | Self::ErasesHalf | Self::LosesWrites)
    }

    fn is_of_erase(self) -> bool {
        !matches!(self, Self::KeepsPassword | Self::DiscardsNothing | Self::WriteError(_) | Self::LosesWrites)
    }
}

/// What happens to a drive between its erase and the proof of it. Whoever erases sees nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// It is gone.
    Vanishes,
    /// It has this many bytes.
    HasSize(u64),
    /// The way to it breaks down whenever this byte is read.
    ReadError(u64),
    /// Its cache cannot be emptied.
    FlushFails,
}

/// What an erase does to the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Erase {
    Crypto,
    Zero,
}

/// How the last background erase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Never,
    Done,
    Failed,
}

struct Operation {
    erase: Erase,
    began: Duration,
    length: Duration,
    fault: Option<DriveFault>,
    reset: bool,
}

/// How a command that begins an erase comes back.
pub(crate) enum Begin {
    Refused,
    Begun,
    Lost(Interruption),
}

/// The inside of a drive: its medium, what it is doing, and what will go wrong.
pub(crate) struct Works {
    pub(crate) media: Media,
    pub(crate) silent: bool,
    pub(crate) last: Last,
    pub(crate) begun: Vec<String>,
    /// Whether anything was written since the last erase.
    pub(crate) written: bool,
    pub(crate) tests: SelfTests,
    pub(crate) clock: SimClock,
    pub(crate) mishap: Option<Mishap>,
    pub(crate) refuses_writes: bool,
    /// What of the medium is worn out.
    pub(crate) bad: Vec<Range<u64>>,
    /// Whether whoever erases has begun.
    pub(crate) touched: bool,
    operation: Option<Operation>,
    faults: Vec<(DriveFault, bool)>,
}

/// Half of all, and three fifths.
const HALF: u32 = 1 << 15;
const STUCK: u32 = (1 << 16) * 3 / 5;

impl Works {
    pub(crate) fn new(media: Media, clock: SimClock) -> Self {
        Self {
            media,
            silent: false,
            last: Last::Never,
            begun: Vec::new(),
            written: true,
            tests: SelfTests::default(),
            clock,
            mishap: None,
            refuses_writes: false,
            bad: Vec::new(),
            touched: false,
            operation: None,
            faults: Vec::new(),
        }
    }

    pub(crate) fn inject(&mut self, fault: DriveFault, always: bool) {
        self.faults.push((fault, always));
    }

    fn take(&mut self, wanted: impl Fn(DriveFault) -> bool) -> Option<DriveFault> {
        let place = self.faults.iter().position(|(fault, _)| wanted(*fault))?;
        let (fault, always) = self.faults[place];
        if !always {
            self.faults.remove(place);
        }
        Some(fault)
    }

    /// Whether the fault concerns this command.
    pub(crate) fn has(&mut self, fault: DriveFault) -> bool {
        self.take(|other| other == fault).is_some()
    }

    /// Every command takes a moment.
    pub(crate) fn tick(&self) {
        self.clock.advance(Duration::from_millis(1));
    }

    /// Whether the drive answers at all.
    pub(crate) fn answer(&mut self, limit: Duration) -> Result<(), Interruption> {
        self.tick();
        if self.silent {
            self.clock.advance(limit);
            return Err(Interruption::TimedOut);
        }
        Ok(())
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.operation.is_some()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.last == Last::Failed
    }

    fn apply(&mut self, erase: Erase, fault: Option<DriveFault>) {
        let end = match fault {
            Some(DriveFault::Lies) => 0,
            Some(DriveFault::ErasesHalf | DriveFault::Fails) => self.media.len() / 2,
            _ => self.media.len(),
        };
        match erase {
            Erase::Zero => self.media.zero(end),
            Erase::Crypto => self.media.scramble(end),
        }
        self.written = false;
    }

    /// Begins an erase that goes on in the background for `length`.
    pub(crate) fn begin(&mut self, name: &str, erase: Erase, length: Duration, limit: Duration) -> Begin {
        self.touched = true;
        self.begun.push(name.to_owned());
        let fault = self.take(DriveFault::is_of_erase);
        match fault {
            Some(DriveFault::Aborts) => return Begin::Refused,
            Some(DriveFault::TimesOut) => {
                self.clock.advance(limit);
                return Begin::Lost(Interruption::TimedOut);
            }
            _ => {}
        }
        self.operation = Some(Operation { erase, began: self.clock.now(), length, fault, reset: false });
        match fault {
            Some(DriveFault::TimesOutAtWork) => {
                self.clock.advance(limit);
                Begin::Lost(Interruption::TimedOut)
            }
            Some(DriveFault::GoesSilent) => {
                self.silent = true;
                Begin::Begun
            }
            _ => Begin::Begun,
        }
    }

    /// Does what has to be done by now. A reset is told once.
    pub(crate) fn progress(&mut self) -> Result<Option<u16>, Interruption> {
        let now = self.clock.now();
        let Some(operation) = &mut self.operation else { return Ok(None) };
        let passed = now.saturating_sub(operation.began).as_millis();
        let mut done = u32::try_from((passed << 16) / operation.length.as_millis().max(1)).unwrap_or(u32::MAX);
        if operation.fault == Some(DriveFault::Sticks) {
            done = done.min(STUCK);
        }
        let resets = [DriveFault::ResetGoesOn, DriveFault::ResetBeginsAnew, DriveFault::ResetForgets];
        if let Some(fault) = operation.fault
            && resets.contains(&fault)
            && !operation.reset
            && done >= HALF
        {
            operation.reset = true;
            match fault {
                DriveFault::ResetBeginsAnew => operation.began = now,
                DriveFault::ResetForgets => self.operation = None,
                _ => {}
            }
            return Err(Interruption::Reset);
        }
        if let Ok(done) = u16::try_from(done) {
            return Ok(Some(done));
        }
        let (erase, fault) = (operation.erase, operation.fault);
        self.operation = None;
        self.apply(erase, fault);
        self.last = if fault == Some(DriveFault::Fails) { Last::Failed } else { Last::Done };
        Ok(None)
    }

    /// Does what has to be done by now, for somebody who looks from outside.
    pub(crate) fn settle(&mut self) {
        let _ = self.progress();
    }

    /// Carries out an erase during the command itself. `true` is success.
    pub(crate) fn erase_now(
        &mut self,
        name: &str,
        erase: Erase,
        length: Duration,
        limit: Duration,
    ) -> Result<bool, Interruption> {
        self.touched = true;
        self.begun.push(name.to_owned());
        self.written = true;
        let fault = self.take(DriveFault::is_of_erase);
        match fault {
            Some(DriveFault::Aborts) => return Ok(false),
            Some(DriveFault::TimesOut | DriveFault::Sticks) => {
                self.clock.advance(limit);
                return Err(Interruption::TimedOut);
            }
            Some(DriveFault::GoesSilent) => {
                self.clock.advance(limit);
                self.silent = true;
                return Err(Interruption::TimedOut);
            }
            Some(DriveFault::ResetBeginsAnew | DriveFault::ResetForgets) => {
                self.clock.advance(length / 2);
                return Err(Interruption::Reset);
            }
            _ => self.clock.advance(length),
        }
        self.apply(erase, fault);
        match fault {
            Some(DriveFault::Fails) => Ok(false),
            Some(DriveFault::TimesOutAtWork) => {
                self.clock.advance(limit);
                Err(Interruption::TimedOut)
            }
            Some(DriveFault::ResetGoesOn) => Err(Interruption::Reset),
            _ => Ok(true),
        }
    }

    /// Whether the erase that was just interrupted was done nevertheless, and the drive knows it.
    pub(crate) fn was_done(&self) -> bool {
        !self.written
    }

    /// A write of whoever has the drive open.
    pub(crate) fn write(&mut self, data: &[u8], offset: u64) -> Result<(), String> {
        self.touched = true;
        let range = offset..offset + data.len() as u64;
        if self.take(|fault| matches!(fault, DriveFault::WriteError(at) if range.contains(&at))).is_some() {
            return Err("unrecovered write error".to_owned());
        }
        if self.has(DriveFault::LosesWrites) {
            return Ok(());
        }
        self.written = true;
        self.put(data, offset)
    }

    /// A write to the medium, as far as it takes any.
    pub(crate) fn put(&mut self, data: &[u8], offset: u64) -> Result<(), String> {
        if self.refuses_writes {
            return Err("the drive takes no writes here".to_owned());
        }
        if self.is_bad(offset, data.len() as u64) {
            return Err("unrecovered write error".to_owned());
        }
        self.media.write(data, offset)
    }

    /// A read of the medium, as far as it gives any.
    pub(crate) fn get(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), String> {
        if self.is_bad(offset, buffer.len() as u64) {
            return Err("unrecovered read error".to_owned());
        }
        self.media.read(buffer, offset)
    }

    pub(crate) fn is_bad(&self, offset: u64, length: u64) -> bool {
        self.bad.iter().any(|bad| bad.start < offset + length && offset < bad.end)
    }

    /// A discard: freed blocks read as zeros.
    pub(crate) fn discard(&mut self, offset: u64, length: u64) -> Result<(), String> {
        self.touched = true;
        if self.has(DriveFault::DiscardsNothing) || self.has(DriveFault::LosesWrites) {
            return Ok(());
        }
        self.put(&vec![0; length as usize], offset)
    }
}
