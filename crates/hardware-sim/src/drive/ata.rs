//! An ATA drive behind the kernel's translation (ACS-3, SAT-3 as libata of Linux 6.1 does it). Without additions it is QEMU's.

use super::operation::{Begin, DriveFault, Erase, Last, Works};
use super::self_test::{FAILING, Outcome};
use super::{Interruption, give, given, recorded};
use hardware::{ScsiCompletion, Transfer};
use std::time::Duration;

/// What an ATA drive can do, and how the machine's firmware left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtaProfile {
    /// The security feature set is there.
    pub security: bool,
    /// With the enhanced erase.
    pub enhanced: bool,
    /// The firmware freezes security whenever the machine starts.
    pub frozen: bool,
    /// Word 59: crypto scramble 1, overwrite 2, block erase 4.
    pub sanitize: u16,
    /// The firmware freezes sanitize whenever the machine starts.
    pub sanitize_frozen: bool,
    /// Blocks in a host protected area.
    pub hidden: u64,
    /// It does not spin.
    pub solid_state: bool,
    /// SMART self-tests take their time, as those of drives do. QEMU's are done at once.
    pub self_test: bool,
}

impl AtaProfile {
    /// QEMU's: none of it.
    pub fn qemu() -> Self {
        Self {
            security: false,
            enhanced: false,
            frozen: false,
            sanitize: 0,
            sanitize_frozen: false,
            hidden: 0,
            solid_state: false,
            self_test: false,
        }
    }

    /// A drive with both security erases, as most are.
    pub fn security() -> Self {
        Self { security: true, enhanced: true, self_test: true, ..Self::qemu() }
    }

    /// A drive that has everything.
    pub fn full() -> Self {
        Self { sanitize: 7, solid_state: true, ..Self::security() }
    }
}

pub(crate) struct Ata {
    profile: AtaProfile,
    password: Option<[u8; 32]>,
    locked: bool,
    attempts: u8,
    prepared: bool,
}

/// The registers of a command.
struct Registers {
    feature: u16,
    count: u16,
    lba: u64,
    device: u8,
    command: u8,
    extended: bool,
    check: bool,
    input: bool,
}

/// How a command ended: the LBA and count that come back, or that it was aborted with this LBA.
enum End {
    Done { count: u16, lba: u64 },
    Data(Vec<u8>),
    Aborted { lba: u64 },
}

const DONE: End = End::Done { count: 0, lba: 0 };
const ATTEMPTS: u8 = 5;
const ERASE_TIME: Duration = Duration::from_secs(120 * 60);
const CRYPTO_TIME: Duration = Duration::from_secs(2);
const BLOCK_TIME: Duration = Duration::from_secs(60);
const OVERWRITE_TIME: Duration = Duration::from_secs(10 * 3600);

impl Ata {
    pub(crate) fn new(profile: AtaProfile) -> Self {
        Self { profile, password: None, locked: false, attempts: ATTEMPTS, prepared: false }
    }

    pub(crate) fn power_cut(&mut self) {
        self.locked = self.password.is_some();
        self.attempts = ATTEMPTS;
    }

    pub(crate) fn has_password(&self) -> bool {
        self.password.is_some()
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.locked
    }

    pub(crate) fn set_password(&mut self, password: [u8; 32]) {
        self.password = Some(password);
    }

    pub(crate) fn scsi(
        &mut self,
        works: &mut Works,
        cdb: &[u8],
        mut data: Transfer<'_>,
        limit: Duration,
    ) -> Result<ScsiCompletion, Interruption> {
        if let Some(registers) = pass_through(cdb) {
            let end = self.command(works, &registers, &data, limit)?;
            return Ok(completed(&registers, end, &mut data));
        }
        // The rest is the kernel's translation, which answers from what it knows.
        let known = recorded::exchanges("ahci").into_iter().find(|exchange| {
            let asked = recorded::bytes(exchange.ask["cdb"].as_str().unwrap_or_default());
            let inquiry = cdb.first() == Some(&0x12) && asked.get(..3) == cdb.get(..3);
            asked == cdb || inquiry
        });
        let Some(known) = known else { return Ok(super::scsi::illegal(0x20)) };
        let answer = recorded::data("ahci", known.ask["name"].as_str().unwrap_or_default());
        give(&mut data, answer.len(), &answer);
        Ok(ScsiCompletion {
            status: known.answer["status"].as_u64().unwrap_or_default() as u8,
            sense: recorded::bytes(known.answer["sense"].as_str().unwrap_or_default()),
            residual: 0,
        })
    }

    fn command(
        &mut self,
        works: &mut Works,
        registers: &Registers,
        data: &Transfer<'_>,
        limit: Duration,
    ) -> Result<End, Interruption> {
        let prepared = std::mem::take(&mut self.prepared);
        let progress = works.progress()?;
        let aborted = Ok(End::Aborted { lba: registers.lba });
        let sector = given(data);
        // During a sanitize, and after one that failed, there is little else (ACS-3, 4.17.10).
        let always = matches!(registers.command, 0xec | 0xb4);
        if !always && (progress.is_some() || works.has_failed()) {
            return aborted;
        }
        match registers.command {
            0xec => Ok(End::Data(self.identify())),
            0xb4 if self.profile.sanitize != 0 => self.sanitize(works, registers, progress, limit),
            0x27 => Ok(End::Done { count: 0, lba: self.blocks() + self.profile.hidden - 1 }),
            0xb0 if registers.feature == 0xda => Ok(End::Done { count: 0, lba: registers.lba }),
            0xb0 if registers.feature == 0xd0 => Ok(End::Data(self.smart_data(works))),
            0xb0 if registers.feature == 0xd4 && self.profile.self_test => match registers.lba & 0xff {
                code @ 1..=2 if works.tests.begin(&works.clock, code == 2) => Ok(DONE),
                0x7f => {
                    works.tests.abort(&works.clock);
                    Ok(DONE)
                }
                _ => aborted,
            },
            0xb0 if registers.feature == 0xd5 && registers.lba & 0xff == 6 && self.profile.self_test => {
                Ok(End::Data(self_test_log(works)))
            }
            0xf1 | 0xf2 | 0xf3 | 0xf4 | 0xf6 if self.profile.security && !self.profile.frozen => {
                self.security(works, registers, sector, prepared, limit)
            }
            _ => aborted,
        }
    }

    fn security(
        &mut self,
        works: &mut Works,
        registers: &Registers,
        sector: &[u8],
        prepared: bool,
        limit: Duration,
    ) -> Result<End, Interruption> {
        let aborted = Ok(End::Aborted { lba: registers.lba });
        let mut password = [0; 32];
        if registers.command != 0xf3 {
            let Some(given) = sector.get(2..34) else { return aborted };
            password.copy_from_slice(given);
        }
        let right = self.password == Some(password);
        match registers.command {
            0xf1 if !self.locked => self.password = Some(password),
            0xf2 if self.password.is_some() && self.attempts > 0 => {
                if !right {
                    self.attempts -= 1;
                    return aborted;
                }
                self.locked = false;
            }
            0xf3 => self.prepared = true,
            0xf4 if prepared && right && (self.profile.enhanced || sector[0] & 2 == 0) => {
                let name = if sector[0] & 2 == 0 { "security erase" } else { "security erase enhanced" };
                let done = works.erase_now(name, Erase::Zero, ERASE_TIME, limit);
                if done == Ok(true) || done.is_err() && works.was_done() {
                    if !works.has(DriveFault::KeepsPassword) {
                        (self.password, self.locked) = (None, false);
                    }
                } else if done.is_err() {
                    // The drive was reset with the erase unfinished.
                    self.locked = true;
                }
                if !done? {
                    return aborted;
                }
            }
            0xf6 if !self.locked && right => {
                if !works.has(DriveFault::KeepsPassword) {
                    self.password = None;
                }
            }
            _ => return aborted,
        }
        Ok(DONE)
    }

    fn sanitize(
        &mut self,
        works: &mut Works,
        registers: &Registers,
        progress: Option<u16>,
        limit: Duration,
    ) -> Result<End, Interruption> {
        const FAILED: End = End::Aborted { lba: 1 };
        const UNSUPPORTED: End = End::Aborted { lba: 2 };
        const FROZEN: End = End::Aborted { lba: 3 };
        if self.locked {
            return Ok(UNSUPPORTED);
        }
        if registers.feature == 0 {
            if works.has_failed() && registers.count & 1 == 0 {
                return Ok(FAILED);
            }
            if works.has_failed() {
                works.last = Last::Never;
            }
            let completed = u16::from(works.last == Last::Done && progress.is_none()) << 15;
            let running = u16::from(progress.is_some()) << 14;
            let frozen = u16::from(self.profile.sanitize_frozen) << 13;
            return Ok(End::Done { count: completed | running | frozen, lba: progress.unwrap_or(0xffff).into() });
        }
        let (bit, name, key, erase, length) = match registers.feature {
            0x11 => (1, "sanitize crypto", 0x4372_7970, Erase::Crypto, CRYPTO_TIME),
            0x12 => (4, "sanitize block", 0x426b_4572, Erase::Zero, BLOCK_TIME),
            0x14 => {
                (2, "sanitize overwrite", registers.lba & 0xffff_ffff | 0x4f57_0000_0000, Erase::Zero, OVERWRITE_TIME)
            }
            _ => return Ok(UNSUPPORTED),
        };
        if self.profile.sanitize_frozen {
            return Ok(FROZEN);
        }
        if self.profile.sanitize & bit == 0 || registers.lba != key || progress.is_some() {
            return Ok(UNSUPPORTED);
        }
        let begun = works.begin(name, erase, length, limit);
        if works.is_busy() {
            works.last = Last::Never;
        }
        match begun {
            Begin::Refused => Ok(End::Aborted { lba: 0 }),
            Begin::Begun => Ok(DONE),
            Begin::Lost(interruption) => Err(interruption),
        }
    }

    /// SMART READ DATA: QEMU's, with the self-test that runs or was the last.
    fn smart_data(&self, works: &mut Works) -> Vec<u8> {
        let mut data = recorded::data("ahci", "smart read data");
        if self.profile.self_test {
            data[363] = match (works.tests.running(&works.clock), works.tests.kept.first()) {
                // Tenths that remain, of which the drive says at least one while it is at it.
                (Some((_, percent)), _) => 0xf0 | (10 - percent / 10).max(1),
                (None, last) => last.map_or(0, |last| result(last.outcome) << 4),
            };
            data[367] |= 1 << 4;
            (data[372], data[373]) = (2, 90);
            data[511] = 0;
            data[511] = data.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        }
        data
    }

    fn blocks(&self) -> u64 {
        recorded::limits("ahci").size / super::BLOCK as u64
    }

    /// IDENTIFY DEVICE data: QEMU's, with the additions.
    fn identify(&self) -> Vec<u8> {
        let mut data = recorded::data("ahci", "identify device");
        let AtaProfile { security, enhanced, frozen, sanitize, hidden, solid_state, .. } = self.profile;
        let mut set = |word: usize, bits: u16| {
            let old = u16::from_le_bytes([data[2 * word], data[2 * word + 1]]);
            data[2 * word..2 * word + 2].copy_from_slice(&(old | bits).to_le_bytes());
        };
        if sanitize != 0 {
            // Bits 13 to 15 are crypto scramble, overwrite and block erase.
            set(59, 1 << 12 | sanitize << 13);
        }
        if hidden != 0 {
            set(82, 1 << 10);
        }
        if solid_state {
            set(217, 1);
        }
        if security {
            let enabled = self.password.is_some();
            set(82, 1 << 1);
            set(85, u16::from(enabled) << 1);
            // In units of two minutes.
            let units = (ERASE_TIME.as_secs() / 120) as u16;
            set(89, units);
            set(90, if enhanced { units } else { 0 });
            set(92, 0xfffe);
            let expired = u16::from(self.attempts == 0) << 4;
            let state = 1 | u16::from(enabled) << 1 | u16::from(self.locked) << 2 | u16::from(frozen) << 3 | expired;
            set(128, state | u16::from(enhanced) << 5);
        }
        if self.profile == AtaProfile::qemu() {
            // QEMU's has no checksum.
            return data;
        }
        data[510] = 0xa5;
        data[511] = data[..511].iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        data
    }
}

/// The registers of an ATA PASS-THROUGH (16) (SAT-3, 12.2.2.3).
fn pass_through(cdb: &[u8]) -> Option<Registers> {
    if cdb.len() != 16 || cdb[0] != 0x85 {
        return None;
    }
    let parts = [cdb[8], cdb[10], cdb[12], cdb[7], cdb[9], cdb[11]];
    let extended = cdb[1] & 1 != 0;
    let wide = |high: u8, low: u8| u16::from(if extended { high } else { 0 }) << 8 | u16::from(low);
    let lba = parts.iter().rev().fold(0, |sum, part| sum << 8 | u64::from(*part));
    Some(Registers {
        feature: wide(cdb[3], cdb[4]),
        count: wide(cdb[5], cdb[6]),
        lba: if extended { lba } else { lba & 0xff_ffff },
        device: cdb[13],
        command: cdb[14],
        extended,
        check: cdb[2] & 1 << 5 != 0,
        input: cdb[2] & 1 << 3 != 0,
    })
}

/// The answer as libata of Linux 6.1 makes it: registers in descriptors after a success, in fixed format after an error, and there
/// from the eighth byte on.
fn completed(registers: &Registers, end: End, data: &mut Transfer<'_>) -> ScsiCompletion {
    let good = ScsiCompletion::default();
    let extended = u8::from(registers.extended);
    match end {
        End::Data(answer) if registers.input => {
            give(data, 512, &answer);
            good
        }
        End::Data(_) => good,
        End::Done { .. } if !registers.check => good,
        End::Done { count, lba } => {
            let ([high, low], lba) = (count.to_be_bytes(), lba.to_le_bytes());
            let mut sense = vec![0x72, 0x01, 0, 0x1d, 0, 0, 0, 14, 9, 12];
            sense.extend([
                extended,
                0,
                high,
                low,
                lba[3],
                lba[0],
                lba[4],
                lba[1],
                lba[5],
                lba[2],
                registers.device,
                0x50,
            ]);
            ScsiCompletion { status: 2, sense, residual: 0 }
        }
        End::Aborted { lba } => {
            let mut sense = vec![0x70, 0, 0x0b, 0, 0, 0, 0, 0x0a, 4, 0x41, registers.device, registers.count as u8];
            let upper = u8::from(registers.count > 0xff) << 6 | u8::from(lba > 0xff_ffff) << 5;
            sense.extend([0, 0, 0, 0, if registers.extended { 0x80 | upper } else { 0 }, lba as u8]);
            ScsiCompletion { status: 2, sense, residual: 0 }
        }
    }
}

fn result(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Passed => 0,
        Outcome::Aborted => 1,
        Outcome::Failed => 7,
    }
}

/// The SMART self-test log (A.13). It is filled from the front, as the model keeps fewer tests than there is room for.
fn self_test_log(works: &mut Works) -> Vec<u8> {
    works.tests.running(&works.clock);
    let mut log = vec![1, 0];
    for kept in works.tests.kept.iter().rev() {
        let hours = (kept.hours as u16).to_le_bytes();
        let block = if kept.outcome == Outcome::Failed { FAILING } else { u32::MAX }.to_le_bytes();
        log.extend([if kept.extended { 2 } else { 1 }, result(kept.outcome) << 4, hours[0], hours[1], 0]);
        log.extend(block);
        log.extend([0; 15]);
    }
    log.resize(512, 0);
    log[508] = works.tests.kept.len() as u8;
    log[511] = log.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    log
}
