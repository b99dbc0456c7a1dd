//! ATA: Sanitize Device and Security Erase.

use super::{Finished, Follow, Meter, Offer, Run};
use crate::ata::{self, AtaError, Command, Identify, Registers, SanitizeAction, SanitizeStatus, Security};
use crate::{Failure, Method};
use hardware::{Device, DeviceError, Transfer};
use std::time::Duration;

/// The password of every erase. It protects nothing and is no secret: whoever finds a drive with it knows what happened.
pub(crate) const PASSWORD: &str = "ferric-erase";
/// What else is tried on a drive that has a password: ironic-python-agent's, which is no characters at all.
const EMPTY: &str = "";
/// What hdparm calls it.
const EMPTY_OF_HDPARM: &str = "NULL";
const KEPT: &str = "the drive accepted the command and says that it is still set";

const FROZEN: &str = "the drive's security is frozen, as the firmware of many machines does when it starts. Take the freeze \
    off in the firmware's setup (security freeze lock), or unplug the drive's power for a moment while the machine runs, \
    or suspend the machine to memory and wake it; then erase again";
const LOCKED: &str = "the drive is locked with a password that is neither ours nor ironic-python-agent's. Unlock it with \
    hdparm --user-master u --security-unlock PASSWORD, or m with the master password; a drive whose passwords are lost \
    may be reverted with the PSID on its label";
const EXPIRED: &str = "the drive is locked and takes no more passwords until it is switched off and on again";
const FOREIGN: &str = "the drive has a user password that is neither ours nor ironic-python-agent's. Whatever erases it, the drive \
    locks itself with that password when it is switched off. Remove it with hdparm --user-master u --security-disable PASSWORD, \
    or in the firmware's setup";
const FROZEN_WITH_PASSWORD: &str = "the drive has a user password, with which it locks itself when it is switched off, and its security is \
    frozen, so that no password can be removed. Take the freeze off in the firmware's setup (security freeze lock), or unplug the \
    drive's power for a moment while the machine runs; then erase again";
const SANITIZE_FROZEN: &str = "the drive's sanitize commands are frozen (SANITIZE FREEZE LOCK), until it is switched off and on \
    again; the firmware of the machine does that when it starts";

/// How the sanitize of a drive stands.
enum Sanitize {
    /// As it says.
    Status(SanitizeStatus),
    /// The last one failed.
    Failed,
    /// It cannot be found out.
    Unknown(String),
}

/// What a drive says of itself.
pub(crate) struct Drive {
    pub(crate) identify: Identify,
    sanitize: Option<Sanitize>,
    hidden: u64,
}

impl Drive {
    /// Looks at a drive; `None` where something on the way does not translate ATA commands.
    pub(crate) fn look(device: &dyn Device) -> Result<Option<Self>, Failure> {
        let identify = match identify(device) {
            Ok(identify) => identify.0,
            Err(Problem::Ata(AtaError::NotPassed { answer, .. })) => {
                tracing::info!(device = %device.id(), answer, "an ATA drive, and no ATA commands get to it");
                return Ok(None);
            }
            Err(problem) => return Err(problem.into()),
        };
        let any = identify.sanitize.crypto || identify.sanitize.block || identify.sanitize.overwrite;
        let sanitize = if any { Some(sanitize_state(device)?) } else { None };
        let hidden = ata::hidden_blocks(device, &identify).map_err(Problem::Ata)?;
        Ok(Some(Self { identify, sanitize, hidden }))
    }

    /// Blocks that nobody but the drive itself gets at.
    pub(crate) fn hidden(&self) -> u64 {
        self.hidden
    }

    /// Whether a sanitize is running. Which kind it is, the drive does not say.
    pub(crate) fn is_sanitizing(&self) -> bool {
        matches!(self.sanitize, Some(Sanitize::Status(SanitizeStatus { running: true, .. })))
    }

    /// The kind that a running sanitize counts as: the best that the drive has, since all of them are worth the same.
    pub(crate) fn running(&self) -> Option<Method> {
        let support = self.identify.sanitize;
        let methods = [
            (support.crypto, Method::AtaSanitizeCrypto),
            (support.block, Method::AtaSanitizeBlock),
            (true, Method::AtaSanitizeOverwrite),
        ];
        methods.into_iter().find(|(there, _)| self.is_sanitizing() && *there).map(|(_, method)| method)
    }

    pub(crate) fn offers(&self) -> Vec<Offer> {
        let support = self.identify.sanitize;
        let sanitize = |method, there| match &self.sanitize {
            Some(Sanitize::Status(SanitizeStatus { frozen: true, .. })) if there => {
                Offer::blocked(method, SANITIZE_FROZEN)
            }
            Some(Sanitize::Unknown(why)) if there => Offer::new(method, false, why),
            _ => Offer::new(method, there, "the drive does not offer it (IDENTIFY word 59)"),
        };
        let security = self.identify.security;
        let erase = |method, there| match (there, security) {
            (false, _) => Offer::new(method, false, "the drive does not offer it (IDENTIFY words 82 and 128)"),
            (_, Security { frozen: true, .. }) => Offer::blocked(method, FROZEN),
            (_, Security { enabled: true, .. }) => Offer::blocked(method, FOREIGN),
            // It ends at the native maximum at best, and what an overlay hides lies behind that.
            _ => Offer { method, failure: (self.hidden > 0).then(|| hidden_from(self.hidden)) },
        };
        vec![
            sanitize(Method::AtaSanitizeCrypto, support.crypto),
            sanitize(Method::AtaSanitizeBlock, support.block),
            sanitize(Method::AtaSanitizeOverwrite, support.overwrite),
            erase(Method::AtaSecurityEnhanced, security.supported && security.enhanced),
            erase(Method::AtaSecurityNormal, security.supported),
        ]
    }

    pub(crate) fn carry_out(&self, run: Run<'_>) -> Result<Finished, Failure> {
        match run.method {
            Method::AtaSecurityEnhanced => self.security_erase(run, true),
            Method::AtaSecurityNormal => self.security_erase(run, false),
            _ => self.start_sanitize(run),
        }
    }

    fn start_sanitize(&self, run: Run<'_>) -> Result<Finished, Failure> {
        let action = match run.method {
            Method::AtaSanitizeCrypto => SanitizeAction::Crypto,
            Method::AtaSanitizeBlock => SanitizeAction::Block,
            _ => SanitizeAction::Overwrite,
        };
        let command = ata::sanitize(action);
        let mut fresh = true;
        match ata::send(run.device, &command, Transfer::None) {
            Ok(_) => {}
            Err(AtaError::Failed { command, registers }) => {
                let answer = format!("{}: {}", registers.text(), ata::sanitize_error(&registers));
                return Err(Failure::Refused { command: command.to_owned(), answer });
            }
            Err(AtaError::Device {
                source: error @ (DeviceError::TimedOut { .. } | DeviceError::Reset { .. }),
                ..
            }) => {
                // It may have begun.
                tracing::warn!(device = %run.device.id(), %error, "starting the sanitize got no answer");
                fresh = self.had_completed_none();
            }
            Err(error) => return Err(Problem::Ata(error).into()),
        }
        self.follow(run, fresh)
    }

    /// Whether "completed" cannot tell of a sanitize before this one.
    fn had_completed_none(&self) -> bool {
        matches!(self.sanitize, Some(Sanitize::Status(SanitizeStatus { completed: false, .. })))
    }

    /// Takes up a sanitize that is running.
    pub(crate) fn take_up(&self, run: Run<'_>) -> Result<Finished, Failure> {
        self.follow(run, true)
    }

    fn follow(&self, run: Run<'_>, mut fresh: bool) -> Result<Finished, Failure> {
        let mut follow = Follow::new(run, None);
        loop {
            let not_done = |text: &str| Err(Failure::NotDone(format!("SANITIZE STATUS EXT: {text}")));
            match ata::send(run.device, &ata::sanitize_status(false), Transfer::None) {
                Ok(Some(registers)) => match SanitizeStatus::of(&registers) {
                    Some(SanitizeStatus { running: true, progress, .. }) => {
                        fresh = true;
                        follow.busy(Some(progress))?;
                    }
                    Some(SanitizeStatus { completed: true, .. }) if fresh => {
                        let evidence = "SANITIZE STATUS EXT: completed without error".to_owned();
                        return Ok(Finished { evidence, answer: bytes(&registers) });
                    }
                    Some(SanitizeStatus { completed: true, .. }) => {
                        return not_done("it may tell of an earlier sanitize");
                    }
                    Some(_) => return not_done("none is running, and none was completed"),
                    None => return not_done("the upper half of the count was lost on the way"),
                },
                Ok(None) => return not_done("the registers were lost on the way"),
                Err(AtaError::Failed { registers, .. }) => {
                    // Where the drive may, it forgets the failure, and can be used again.
                    let _ = ata::send(run.device, &ata::sanitize_status(true), Transfer::None);
                    return not_done(ata::sanitize_error(&registers));
                }
                Err(error @ AtaError::Device { .. }) => {
                    // It may forget what it was doing: it has to be seen at it again.
                    fresh = self.had_completed_none();
                    follow.silent(Problem::Ata(error).into())?;
                }
                Err(error @ AtaError::NotPassed { .. }) => return not_done(&error.to_string()),
            }
        }
    }

    fn security_erase(&self, run: Run<'_>, enhanced: bool) -> Result<Finished, Failure> {
        let security = self.identify.security;
        let estimate =
            security.minutes[usize::from(enhanced)].map(|minutes| Duration::from_secs(60 * u64::from(minutes)));
        let limit = match estimate {
            // Drives count up to 508 minutes in the short form, whatever it takes.
            Some(estimate) => (estimate * 2 + Duration::from_secs(3600)).max(Duration::from_secs(8 * 3600)),
            None => Duration::from_secs(48 * 3600),
        };
        Meter::new(run, estimate).report(None);
        let mut begun = false;
        let outcome = erase_unit(run.device, enhanced, limit, &mut begun);
        if let Err(problem) = &outcome {
            tracing::warn!(device = %run.device.id(), error = %problem, "the security erase did not end well");
        }
        // Whatever happened, the password is not left behind, and the drive itself says how it went.
        let (after, answer) = settle(run)?;
        if after.security.enabled {
            remove_password(run.device, &after.security)?;
            return Err(match outcome {
                Err(problem) => problem.into(),
                Ok(()) => Failure::NotDone(
                    "IDENTIFY DEVICE: the password was still set, which a finished erase removes".to_owned(),
                ),
            });
        }
        match outcome {
            Ok(()) => {}
            // The answer was lost; only a finished erase removes the password that was seen set before it.
            Err(Problem::Ata(AtaError::Device { .. })) if begun => {}
            Err(problem) => return Err(problem.into()),
        }
        let evidence = "IDENTIFY DEVICE: security is neither enabled nor locked, so that the erase, before which the \
                        password was seen set, was finished";
        Ok(Finished { evidence: evidence.to_owned(), answer })
    }
}

/// Why a drive gives no data now, where an erase helps.
pub(crate) fn withheld(device: &dyn Device) -> Result<Option<&'static str>, Failure> {
    let identify = identify(device)?.0;
    if identify.security.locked {
        return Ok(Some("a password locks it"));
    }
    let any = identify.sanitize.crypto || identify.sanitize.block || identify.sanitize.overwrite;
    Ok(match any.then(|| sanitize_state(device)).transpose()? {
        Some(Sanitize::Status(SanitizeStatus { running: true, .. })) => Some(super::SANITIZING),
        Some(Sanitize::Failed) => Some(super::SANITIZE_FAILED),
        _ => None,
    })
}

/// Removes a password that an erase has left, ours or ironic-python-agent's. Fails where it stays, or where the drive has another.
pub(crate) fn release(device: &dyn Device, security: &Security) -> Result<(), Failure> {
    if security.locked && security.attempts_expired {
        return Err(Failure::Blocked(EXPIRED.to_owned()));
    }
    if security.frozen {
        // Nothing can be given to it now.
        let why = if security.locked { LOCKED } else { FROZEN_WITH_PASSWORD };
        return Err(Failure::Blocked(why.to_owned()));
    }
    for (password, name) in [(PASSWORD, PASSWORD), (EMPTY, EMPTY_OF_HDPARM)] {
        if disable(device, security.locked, password).is_err() {
            continue;
        }
        // It is the right one, and has to be gone.
        let why = match identify(device) {
            Ok((identify, _)) if !identify.security.enabled => {
                tracing::warn!(device = %device.id(), "an interrupted erase had left a password; it is removed");
                return Ok(());
            }
            Ok(_) => KEPT.to_owned(),
            Err(problem) => problem.to_string(),
        };
        return Err(Failure::PasswordLeft { password: name, why });
    }
    Err(Failure::Blocked(if security.locked { LOCKED } else { FOREIGN }.to_owned()))
}

/// Why what does not reach all blocks is not done.
pub(crate) fn hidden_from(hidden: u64) -> Failure {
    Failure::Blocked(format!(
        "{hidden} blocks of the drive are hidden by a host protected area or a configuration overlay, and this would not reach them. \
         Lift it with hdparm -N or --dco-restore, switch the drive off and on, and erase again"
    ))
}

fn sector_of(password: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(password.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

fn disable(device: &dyn Device, locked: bool, password: &str) -> Result<(), Problem> {
    let sector = ata::password_sector(&sector_of(password));
    if locked {
        ata::send(device, &ata::security_unlock(), Transfer::ToDevice(&sector))?;
    }
    ata::send(device, &ata::security_disable_password(), Transfer::ToDevice(&sector))?;
    Ok(())
}

/// Removes our password after an erase; the drive has to say that it is gone.
fn remove_password(device: &dyn Device, security: &Security) -> Result<(), Failure> {
    let left = |why: String| Failure::PasswordLeft { password: PASSWORD, why };
    let asked = disable(device, security.locked, PASSWORD);
    match (identify(device), asked) {
        (Ok((identify, _)), _) if !identify.security.enabled => Ok(()),
        (_, Err(problem)) => Err(left(problem.to_string())),
        (Err(problem), Ok(())) => Err(left(problem.to_string())),
        (Ok(_), Ok(())) => Err(left(KEPT.to_owned())),
    }
}

/// Sets the password, sees it set, and erases. `begun` is set right before the erase itself.
fn erase_unit(device: &dyn Device, enhanced: bool, limit: Duration, begun: &mut bool) -> Result<(), Problem> {
    let password = sector_of(PASSWORD);
    let to_drive = |command: &Command, sector: &[u8]| ata::send(device, command, Transfer::ToDevice(sector));
    to_drive(&ata::security_set_password(), &ata::set_password_sector(&password))?;
    if !identify(device)?.0.security.enabled {
        return Err(Problem::Other("the drive accepted a password and says that none is set".to_owned()));
    }
    ata::send(device, &ata::security_erase_prepare(), Transfer::None)?;
    *begun = true;
    to_drive(&ata::security_erase_unit(limit), &ata::erase_sector(&password, enhanced))?;
    Ok(())
}

/// Reads IDENTIFY data once the drive answers: one that lost the command to a time limit or a reset may be busy for long.
fn settle(run: Run<'_>) -> Result<(Identify, Vec<u8>), Failure> {
    let started = run.control.now();
    loop {
        match identify(run.device) {
            Ok(read) => return Ok(read),
            Err(problem) if run.control.now().saturating_sub(started) > run.options.patience => {
                return Err(Failure::PasswordLeft { password: PASSWORD, why: problem.to_string() });
            }
            Err(problem) => {
                tracing::warn!(device = %run.device.id(), error = %problem, "the drive does not identify itself; it is asked again");
                run.control.sleep(Duration::from_secs(5));
            }
        }
    }
}

/// What went wrong with a command to a drive.
#[derive(Debug)]
enum Problem {
    Ata(AtaError),
    Other(String),
}

impl From<AtaError> for Problem {
    fn from(error: AtaError) -> Self {
        Self::Ata(error)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ata(AtaError::Device { command, source }) => write!(f, "{command}: {source}"),
            Self::Ata(error) => error.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Ata(AtaError::Failed { command, registers }) => {
                Self::Refused { command: command.to_owned(), answer: registers.text() }
            }
            Problem::Ata(AtaError::NotPassed { command, answer }) => {
                Self::Unsupported(format!("{command} did not get to the drive: {answer}"))
            }
            Problem::Ata(AtaError::Device { source, .. }) => Self::Device(source),
            Problem::Other(text) => Self::NotDone(text),
        }
    }
}

fn identify(device: &dyn Device) -> Result<(Identify, Vec<u8>), Problem> {
    let mut sector = vec![0; ata::SECTOR];
    ata::send(device, &ata::identify(), Transfer::FromDevice(&mut sector))?;
    let identify = Identify::parse(&sector).map_err(|error| Problem::Other(error.to_string()))?;
    Ok((identify, sector))
}

fn sanitize_state(device: &dyn Device) -> Result<Sanitize, Failure> {
    let lost = "the way to the drive loses the registers in which it says how a sanitize went";
    match ata::send(device, &ata::sanitize_status(false), Transfer::None) {
        Ok(registers) => Ok(match registers.as_ref().and_then(SanitizeStatus::of) {
            Some(status) => Sanitize::Status(status),
            None => Sanitize::Unknown(lost.to_owned()),
        }),
        Err(AtaError::Failed { registers, .. }) if registers.lba & 0xff == 1 => Ok(Sanitize::Failed),
        Err(error @ (AtaError::Failed { .. } | AtaError::NotPassed { .. })) => Ok(Sanitize::Unknown(error.to_string())),
        Err(error) => Err(Problem::Ata(error).into()),
    }
}

/// The registers for a record: status, error, count, LBA.
fn bytes(registers: &Registers) -> Vec<u8> {
    let mut bytes = vec![registers.status, registers.error];
    bytes.extend(registers.count.unwrap_or_default().to_be_bytes());
    bytes.extend(&registers.lba.to_be_bytes()[2..]);
    bytes
}
