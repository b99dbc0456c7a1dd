//! A SCSI disk (SPC-4, SBC-3). Without additions it is QEMU's scsi-hd, whose FORMAT UNIT says that it succeeded and erases nothing.

use super::operation::{Begin, Erase, Works};
use super::self_test::{FAILING, Outcome};
use super::{BLOCK, Interruption, give, given, recorded};
use hardware::{ScsiCompletion, Transfer};
use std::time::Duration;

/// What a SCSI disk can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScsiProfile {
    /// SANITIZE: overwrite 1, block erase 2, cryptographic erase 4.
    pub sanitize: u8,
    /// It tells which commands it has.
    pub reports_operations: bool,
    /// Self-tests in the background, and the log of them.
    pub self_test: bool,
}

impl ScsiProfile {
    /// QEMU's: none of it.
    pub fn qemu() -> Self {
        Self { sanitize: 0, reports_operations: false, self_test: false }
    }

    /// A disk that has everything.
    pub fn full() -> Self {
        Self { sanitize: 7, reports_operations: true, self_test: true }
    }
}

pub(crate) struct Scsi {
    profile: ScsiProfile,
    was_reset: bool,
}

const CRYPTO_TIME: Duration = Duration::from_secs(5);
const BLOCK_TIME: Duration = Duration::from_secs(300);
const OVERWRITE_TIME: Duration = Duration::from_secs(12 * 3600);

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;

/// Sense data in fixed format.
fn sense(key: u8, code: u8, qualifier: u8) -> Vec<u8> {
    vec![0x70, 0, key, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0]
}

fn failed(sense: Vec<u8>) -> ScsiCompletion {
    ScsiCompletion { status: CHECK_CONDITION, sense, residual: 0 }
}

/// A command (20h) or a field (24h) that the device does not have.
pub(crate) fn illegal(code: u8) -> ScsiCompletion {
    failed(sense(5, code, 0))
}

fn good() -> ScsiCompletion {
    ScsiCompletion { status: GOOD, ..ScsiCompletion::default() }
}

impl Scsi {
    pub(crate) fn new(profile: ScsiProfile) -> Self {
        Self { profile, was_reset: false }
    }

    pub(crate) fn was_reset(&mut self) {
        self.was_reset = true;
    }

    /// What the device has to say of itself, but for that it was reset.
    fn state(works: &Works, progress: Option<u16>) -> Option<Vec<u8>> {
        if let Some(progress) = progress {
            let mut sense = sense(2, 0x04, 0x1b);
            let [high, low] = progress.to_be_bytes();
            sense[15..18].copy_from_slice(&[0x80, high, low]);
            return Some(sense);
        }
        works.has_failed().then(|| sense(3, 0x31, 0x03))
    }

    pub(crate) fn scsi(
        &mut self,
        works: &mut Works,
        cdb: &[u8],
        mut data: Transfer<'_>,
    ) -> Result<ScsiCompletion, Interruption> {
        let progress = works.progress().inspect_err(|_| self.was_reset = true)?;
        let opcode = cdb.first().copied().unwrap_or_default();
        if !matches!(opcode, 0x03 | 0x12) && std::mem::take(&mut self.was_reset) {
            return Ok(failed(sense(6, 0x29, 0)));
        }
        let state = Self::state(works, progress);
        let testing = works.tests.running(&works.clock);
        match (opcode, state) {
            (0x03, _) if std::mem::take(&mut self.was_reset) => give(&mut data, 252, &sense(6, 0x29, 0)),
            (0x03, None) if let Some((_, percent)) = testing => {
                let mut told = sense(0, 0x04, 0x09);
                let [high, low] = (u32::from(percent) * 0xffff / 100).to_be_bytes()[2..] else { return Ok(good()) };
                told[15..18].copy_from_slice(&[0x80, high, low]);
                give(&mut data, 252, &told);
            }
            (0x03, state) => give(&mut data, 252, &state.unwrap_or_else(|| sense(0, 0, 0)[..8].to_vec())),
            (0x12, _) => return Ok(self.inquiry(cdb, &mut data)),
            (0x48, _) if self.profile.sanitize != 0 => return self.sanitize(works, cdb, &data, progress),
            // While it is sanitized, or after that has failed, that is the answer to nearly everything.
            (_, Some(state)) => return Ok(failed(state)),
            (0x00, None) => {}
            // It lies: "good", and nothing is touched.
            (0x04, None) => {}
            (0x9e, None) => give(&mut data, 32, &recorded::data("scsi", "read capacity (16)")),
            (0xa3, None) if self.profile.reports_operations => return Ok(self.operations(cdb, &mut data)),
            (0x1d, None) if self.profile.self_test => return Ok(diagnose(works, cdb)),
            (0x4d, None) if self.profile.self_test => return Ok(log(works, cdb, &mut data)),
            (0x42, None) => return Ok(unmap(works, &data)),
            (0x93, None) => return Ok(write_same(works, cdb)),
            _ => return Ok(illegal(0x20)),
        }
        Ok(good())
    }

    fn inquiry(&self, cdb: &[u8], data: &mut Transfer<'_>) -> ScsiCompletion {
        let asked = usize::from(cdb[3]) << 8 | usize::from(cdb[4]);
        let name = if cdb[1] & 1 == 0 { "inquiry".to_owned() } else { format!("vital data {:02x}h", cdb[2]) };
        let mut answer = recorded::data("scsi", &name);
        if answer.iter().all(|byte| *byte == 0) {
            return illegal(0x24);
        }
        if name == "inquiry" && self.profile.sanitize != 0 {
            // SPC-4, as a disk with SANITIZE is.
            answer[2] = 6;
        }
        give(data, asked, &answer);
        good()
    }

    /// REPORT SUPPORTED OPERATION CODES about one service action (SPC-4, 6.35.3).
    fn operations(&self, cdb: &[u8], data: &mut Transfer<'_>) -> ScsiCompletion {
        let service_action = cdb[5];
        let bit = service_bit(service_action);
        let known = cdb[1] & 0x1f == 0x0c && cdb[2] & 7 == 2 && cdb[3] == 0x48 && self.profile.sanitize & bit != 0;
        let mut answer = vec![0, if known { 3 } else { 1 }, 0, 0];
        if known {
            answer[3] = 10;
            answer.extend([0x48, 0x80 | service_action, 0, 0, 0, 0, 0, 0xff, 0xff, 0]);
        }
        give(data, usize::from(cdb[9]), &answer);
        good()
    }

    fn sanitize(
        &mut self,
        works: &mut Works,
        cdb: &[u8],
        data: &Transfer<'_>,
        progress: Option<u16>,
    ) -> Result<ScsiCompletion, Interruption> {
        const EXIT_FAILURE_MODE: u8 = 0x1f;
        let action = cdb[1] & 0x1f;
        if progress.is_some() {
            return Ok(failed(Self::state(works, progress).unwrap_or_default()));
        }
        if action == EXIT_FAILURE_MODE {
            if works.has_failed() {
                works.last = super::operation::Last::Never;
            }
            return Ok(good());
        }
        let bit = service_bit(action);
        let (name, erase, length) = match action {
            1 => ("sanitize overwrite", Erase::Zero, OVERWRITE_TIME),
            2 => ("sanitize block", Erase::Zero, BLOCK_TIME),
            3 => ("sanitize crypto", Erase::Crypto, CRYPTO_TIME),
            _ => return Ok(illegal(0x24)),
        };
        // Returning at once is the only form that there is a model of.
        let immediate = cdb[1] & 1 << 7 != 0;
        let list = usize::from(cdb[7]) << 8 | usize::from(cdb[8]);
        let pattern = given(data);
        let listed = match action {
            1 => {
                list == pattern.len()
                    && pattern.len() >= 5
                    && pattern[0] & 0x1f != 0
                    && usize::from(pattern[3]) == list - 4
            }
            _ => list == 0,
        };
        if self.profile.sanitize & bit == 0 || !immediate || !listed {
            return Ok(illegal(0x24));
        }
        match works.begin(name, erase, length, Duration::from_secs(60)) {
            Begin::Refused => Ok(failed(sense(4, 0x44, 0))),
            Begin::Begun => Ok(good()),
            Begin::Lost(interruption) => Err(interruption),
        }
    }
}

fn service_bit(service_action: u8) -> u8 {
    match service_action {
        1..=3 => 1 << (service_action - 1),
        _ => 0,
    }
}

/// Zeros in blocks, as far as they are there.
fn zero(works: &mut Works, lba: u64, blocks: u64) -> ScsiCompletion {
    let length = usize::try_from(blocks).unwrap_or(usize::MAX).saturating_mul(BLOCK);
    if length > works.media.len() {
        return illegal(0x21);
    }
    match works.write(&vec![0; length], lba.saturating_mul(BLOCK as u64)) {
        Ok(()) => good(),
        Err(_) => illegal(0x21),
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn unmap(works: &mut Works, data: &Transfer<'_>) -> ScsiCompletion {
    let list = given(data);
    let Some(range) = list.get(8..24) else { return illegal(0x26) };
    zero(works, number(&range[..8]), number(&range[8..12]))
}

fn write_same(works: &mut Works, cdb: &[u8]) -> ScsiCompletion {
    zero(works, number(&cdb[2..10]), number(&cdb[10..14]))
}

/// SEND DIAGNOSTIC (SPC-4, 6.42): self-tests in the background.
fn diagnose(works: &mut Works, cdb: &[u8]) -> ScsiCompletion {
    match cdb[1] >> 5 {
        code @ 1..=2 if works.tests.begin(&works.clock, code == 2) => good(),
        // Not ready: a self-test is in progress.
        1..=2 => failed(sense(2, 0x04, 0x09)),
        4 => {
            works.tests.abort(&works.clock);
            good()
        }
        _ => illegal(0x24),
    }
}

/// LOG SENSE: which pages there are, and that of self-tests (SPC-4, 7.3.21).
fn log(works: &mut Works, cdb: &[u8], data: &mut Transfer<'_>) -> ScsiCompletion {
    const SELF_TESTS: u8 = 0x10;
    let asked = usize::from(cdb[7]) << 8 | usize::from(cdb[8]);
    let answer = match cdb[2] & 0x3f {
        0 => vec![0, 0, 0, 2, 0, SELF_TESTS],
        SELF_TESTS => {
            let running = works.tests.running(&works.clock);
            let code = |extended| if extended { 2_u8 } else { 1 } << 5;
            let running = running.map(|(extended, _)| (code(extended) | 15, 0, u64::MAX));
            let kept = works.tests.kept.iter().map(|kept| match kept.outcome {
                Outcome::Passed => (code(kept.extended), kept.hours, u64::MAX),
                Outcome::Aborted => (code(kept.extended) | 1, kept.hours, u64::MAX),
                Outcome::Failed => (code(kept.extended) | 7, kept.hours, u64::from(FAILING)),
            });
            let mut page = vec![SELF_TESTS, 0, 0x01, 0x90];
            for (number, (first, hours, block)) in (1_u8..=20).zip(running.into_iter().chain(kept)) {
                page.extend([0, number, 3, 16, first, 0]);
                page.extend((hours as u16).to_be_bytes());
                page.extend(block.to_be_bytes());
                page.extend([0; 4]);
            }
            for number in (page.len() / 20) as u8 + 1..=20 {
                page.extend([0, number, 3, 16]);
                page.extend([0; 16]);
            }
            page
        }
        _ => return illegal(0x24),
    };
    give(data, asked, &answer);
    good()
}
