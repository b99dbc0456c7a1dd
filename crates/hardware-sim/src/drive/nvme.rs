//! An NVMe drive (NVM Express Base 2.0). Without additions it is QEMU's.

use super::operation::{Begin, Erase, Last, Works};
use super::self_test::{FAILING, Outcome};
use super::{Interruption, give, recorded};
use hardware::{NvmeCommand, NvmeCompletion, Transfer};
use std::time::Duration;

/// What an NVMe drive can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeProfile {
    /// SANICAP: crypto erase 1, block erase 2, overwrite 4.
    pub sanitize: u32,
    /// Format NVM is there.
    pub format: bool,
    /// FNA: secure erase of all namespaces 2, cryptographic erase 4.
    pub format_attributes: u8,
    /// The namespaces of the drive; the model is number 1.
    pub namespaces: Vec<u32>,
    /// The revision of the firmware that runs, 8 characters at most.
    pub firmware: Option<&'static str>,
    /// Device Self-test is there.
    pub self_test: bool,
}

impl NvmeProfile {
    /// QEMU's: Format, and no Sanitize.
    pub fn qemu() -> Self {
        Self { sanitize: 0, format: true, format_attributes: 0, namespaces: vec![1], firmware: None, self_test: false }
    }

    /// A drive that has everything.
    pub fn full() -> Self {
        Self { sanitize: 7, format_attributes: 4, self_test: true, ..Self::qemu() }
    }
}

pub(crate) struct Nvme {
    profile: NvmeProfile,
    pub(crate) siblings_erased: bool,
    command: u32,
}

/// Status codes; all with the bit "do not retry", as QEMU sends them.
const INVALID_OPCODE: u16 = 0x4001;
const INVALID_FIELD: u16 = 0x4002;
const INTERNAL: u16 = 0x4006;
const INVALID_NAMESPACE: u16 = 0x400b;
const SANITIZE_FAILED: u16 = 0x401c;
const SANITIZE_IN_PROGRESS: u16 = 0x401d;

const CRYPTO_TIME: Duration = Duration::from_secs(4);
const BLOCK_TIME: Duration = Duration::from_secs(180);
const OVERWRITE_TIME: Duration = Duration::from_secs(5 * 3600);
const FORMAT_TIME: Duration = Duration::from_secs(10);

fn answered(status: u16) -> Result<NvmeCompletion, Interruption> {
    Ok(NvmeCompletion { status, result: 0 })
}

impl Nvme {
    pub(crate) fn new(profile: NvmeProfile) -> Self {
        Self { profile, siblings_erased: false, command: 0 }
    }

    pub(crate) fn admin(
        &mut self,
        works: &mut Works,
        command: &NvmeCommand,
        mut data: Transfer<'_>,
        limit: Duration,
    ) -> Result<NvmeCompletion, Interruption> {
        works.progress()?;
        let NvmeCommand { opcode, namespace, cdw10, .. } = *command;
        // What is allowed during a sanitize (figure 624), as far as there is a model of it.
        let restricted = !matches!(opcode, 0x02 | 0x06 | 0x84);
        if restricted && works.is_busy() {
            return answered(SANITIZE_IN_PROGRESS);
        }
        if restricted && works.has_failed() {
            return answered(SANITIZE_FAILED);
        }
        match opcode {
            0x06 => self.identify(namespace, cdw10[0] & 0xff, &mut data),
            0x02 => self.log(works, cdw10, &mut data),
            0x84 if self.profile.sanitize != 0 => self.sanitize(works, cdw10[0], limit),
            0x14 if self.profile.self_test => answered(self_test(works, cdw10[0])),
            0x80 if self.profile.format => self.format(works, namespace, cdw10[0], limit),
            _ => answered(INVALID_OPCODE),
        }
    }

    fn identify(
        &self,
        namespace: u32,
        structure: u32,
        data: &mut Transfer<'_>,
    ) -> Result<NvmeCompletion, Interruption> {
        let mut answer = match structure {
            0 if self.profile.namespaces.contains(&namespace) => recorded::data("nvme", "identify namespace"),
            0 if namespace == 0 || namespace > 256 => return answered(INVALID_NAMESPACE),
            0 => Vec::new(),
            1 => recorded::data("nvme", "identify controller"),
            2 | 0x10 => {
                let after = self.profile.namespaces.iter().filter(|number| **number > namespace);
                after.flat_map(|number| number.to_le_bytes()).collect()
            }
            _ => return answered(INVALID_FIELD),
        };
        if structure == 1 {
            if !self.profile.format {
                answer[256] &= !(1 << 1);
            }
            answer[256] |= u8::from(self.profile.self_test) << 4;
            answer[328..332].copy_from_slice(&self.profile.sanitize.to_le_bytes());
            answer[524] = self.profile.format_attributes;
            if let Some(firmware) = self.profile.firmware {
                answer[64..72].fill(b' ');
                answer[64..64 + firmware.len()].copy_from_slice(firmware.as_bytes());
            }
        }
        give(data, 4096, &answer);
        answered(0)
    }

    fn log(&self, works: &mut Works, cdw10: [u32; 6], data: &mut Transfer<'_>) -> Result<NvmeCompletion, Interruption> {
        let length = 4 * (1 + (cdw10[0] >> 16) as usize + ((cdw10[1] & 0xffff) as usize) * 0x1_0000);
        let answer = match cdw10[0] & 0xff {
            0x02 => recorded::data("nvme", "log: health"),
            0x03 => recorded::data("nvme", "log: firmware slots"),
            0x06 if self.profile.self_test => self_test_log(works),
            0x81 if self.profile.sanitize != 0 => self.sanitize_log(works)?,
            _ => return answered(INVALID_FIELD),
        };
        give(data, length, &answer);
        answered(0)
    }

    /// Page 81h (figure 223).
    fn sanitize_log(&self, works: &mut Works) -> Result<Vec<u8>, Interruption> {
        let progress = works.progress()?;
        let state: u16 = match (progress, works.last) {
            (Some(_), _) => 2,
            (None, Last::Done) => 1,
            (None, Last::Failed) => 3,
            (None, Last::Never) => 0,
        };
        let erased: u16 = if works.written || progress.is_some() { 0 } else { 1 << 8 };
        let mut log = Vec::new();
        log.extend(progress.unwrap_or(0xffff).to_le_bytes());
        log.extend((state | erased).to_le_bytes());
        log.extend(self.command.to_le_bytes());
        for time in [OVERWRITE_TIME, BLOCK_TIME, CRYPTO_TIME] {
            log.extend((time.as_secs() as u32).to_le_bytes());
        }
        log.resize(512, 0);
        Ok(log)
    }

    fn sanitize(&mut self, works: &mut Works, cdw10: u32, limit: Duration) -> Result<NvmeCompletion, Interruption> {
        const EXIT_FAILURE_MODE: u32 = 1;
        const UNRESTRICTED: u32 = 1 << 3;
        let action = cdw10 & 7;
        if works.is_busy() {
            return answered(SANITIZE_IN_PROGRESS);
        }
        if action == EXIT_FAILURE_MODE {
            if works.has_failed() && self.command & UNRESTRICTED == 0 {
                return answered(SANITIZE_FAILED);
            }
            if works.has_failed() {
                works.last = Last::Never;
            }
            return answered(0);
        }
        let (bit, name, erase, length) = match action {
            4 => (1, "sanitize crypto", Erase::Crypto, CRYPTO_TIME),
            2 => (2, "sanitize block", Erase::Zero, BLOCK_TIME),
            3 => (4, "sanitize overwrite", Erase::Zero, OVERWRITE_TIME),
            _ => return answered(INVALID_FIELD),
        };
        if self.profile.sanitize & bit == 0 {
            return answered(INVALID_FIELD);
        }
        match works.begin(name, erase, length, limit) {
            Begin::Refused => answered(INTERNAL),
            Begin::Lost(Interruption::TimedOut) if !works.is_busy() => Err(Interruption::TimedOut),
            begun => {
                self.command = cdw10;
                self.siblings_erased |= self.profile.namespaces.len() > 1;
                match begun {
                    Begin::Lost(interruption) => Err(interruption),
                    Begin::Begun | Begin::Refused => answered(0),
                }
            }
        }
    }

    fn format(
        &mut self,
        works: &mut Works,
        namespace: u32,
        cdw10: u32,
        limit: Duration,
    ) -> Result<NvmeCompletion, Interruption> {
        const ALL: u32 = 0xffff_ffff;
        if namespace != ALL && !self.profile.namespaces.contains(&namespace) {
            return answered(INVALID_NAMESPACE);
        }
        // QEMU takes a cryptographic erase although it does not offer it, and does the same for it.
        let crypto = self.profile.format_attributes & 1 << 2 != 0;
        let (name, erase) = match cdw10 >> 9 & 7 {
            2 if crypto => ("format crypto", Erase::Crypto),
            0..=2 => ("format", Erase::Zero),
            _ => return answered(INVALID_FIELD),
        };
        let all = namespace == ALL || self.profile.format_attributes & 1 << 1 != 0;
        self.siblings_erased |= all && self.profile.namespaces.len() > 1;
        if works.erase_now(name, erase, FORMAT_TIME, limit)? { answered(0) } else { answered(INTERNAL) }
    }
}

/// Device Self-test (5.9).
fn self_test(works: &mut Works, cdw10: u32) -> u16 {
    const SELF_TEST_IN_PROGRESS: u16 = 0x411d;
    match cdw10 & 0xf {
        code @ 1..=2 if works.tests.begin(&works.clock, code == 2) => 0,
        1..=2 => SELF_TEST_IN_PROGRESS,
        0xf => {
            works.tests.abort(&works.clock);
            0
        }
        _ => INVALID_FIELD,
    }
}

/// Page 06h (figure 213).
fn self_test_log(works: &mut Works) -> Vec<u8> {
    let running = works.tests.running(&works.clock);
    let code = |extended| if extended { 2 } else { 1 };
    let mut log = running.map_or(vec![0; 4], |(extended, percent)| vec![code(extended), percent, 0, 0]);
    for kept in &works.tests.kept {
        let (result, valid) = match kept.outcome {
            Outcome::Passed => (0, 0),
            Outcome::Aborted => (1, 0),
            Outcome::Failed => (7, 1 << 1),
        };
        log.extend([code(kept.extended) << 4 | result, 0, valid, 0]);
        log.extend(kept.hours.to_le_bytes());
        log.extend([0; 4]);
        log.extend(if valid == 0 { [0; 8] } else { u64::from(FAILING).to_le_bytes() });
        log.extend([0; 4]);
    }
    while log.len() < 564 {
        log.push(0xf);
        log.extend([0; 27]);
    }
    log
}
