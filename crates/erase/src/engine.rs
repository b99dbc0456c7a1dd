//! The choice of the method and what happens when one fails.

use crate::run::{self, Finished, Offer, Run};
use crate::scsi::{self, Inquiry};
use crate::words::hex;
use crate::{Attempt, Control, EraseError, Failure, Method, Nist, Options, ata};
use hardware::{Bus, Device, DeviceId, EraseGrant};
use serde::Serialize;

/// What was done, as the device told it. It is not a proof: see `hardware::EraseProof`.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The device.
    pub device: DeviceId,
    /// How it was erased.
    pub method: Method,
    /// What that is worth if the device told the truth.
    pub nist: Nist,
    /// Whether it was running before we came, since before a reset or a power cut, and was taken up.
    pub resumed: bool,
    /// How long it took, in milliseconds, from where we came in.
    pub milliseconds: u64,
    /// The better methods that did not do, and why: the device does not have them, or they failed and going on was allowed.
    pub passed_over: Vec<Attempt>,
    /// By which answer of the device completion was found, in words, such as `sanitize status log: completed successfully`.
    pub evidence: String,
    /// That answer itself, as lower-case hexadecimal digits; empty where it was data that was read back.
    pub answer: String,
}

/// What a device says of itself.
enum Drive {
    Nvme(run::nvme::Drive),
    Ata(run::ata::Drive),
    Scsi(run::scsi::Drive),
    Block,
}

impl Drive {
    fn look(device: &dyn Device) -> Result<Self, Failure> {
        match device.bus() {
            Bus::Nvme { namespace } => run::nvme::Drive::look(device, namespace).map(Self::Nvme),
            Bus::Block => Ok(Self::Block),
            Bus::Scsi => {
                let (inquiry, is_ata) = inquire(device)?;
                if is_ata && let Some(drive) = run::ata::Drive::look(device)? {
                    return Ok(Self::Ata(drive));
                }
                run::scsi::Drive::look(device, &inquiry).map(Self::Scsi)
            }
        }
    }

    /// The methods in their order, those that do not do with the reason.
    fn offers(&self, device: &dyn Device, options: &Options) -> Vec<Offer> {
        let (mut offers, allowed, hidden) = match self {
            Self::Nvme(drive) => (drive.offers(options), options.nvme_secure_erase, 0),
            Self::Ata(drive) => (drive.offers(), options.ata_secure_erase, drive.hidden()),
            Self::Scsi(drive) => (drive.offers(), options.ata_secure_erase, 0),
            Self::Block => (Vec::new(), false, 0),
        };
        if !allowed {
            offers.clear();
        }
        if !options.secure_only {
            offers.extend(run::block::offers(&device.limits(), options, hidden));
        }
        offers
    }

    /// The sanitize that is running.
    fn running(&self) -> Option<Method> {
        match self {
            Self::Nvme(drive) => drive.running(),
            Self::Ata(drive) => drive.running(),
            Self::Scsi(drive) => drive.running(),
            Self::Block => None,
        }
    }

    fn take_up(&self, run: Run<'_>) -> Result<Finished, Failure> {
        match self {
            Self::Nvme(drive) => drive.take_up(run),
            Self::Ata(drive) => drive.take_up(run),
            Self::Scsi(drive) => drive.take_up(run),
            Self::Block => Err(Failure::Unsupported("nothing runs by itself".to_owned())),
        }
    }

    fn carry_out(&self, run: Run<'_>) -> Result<Finished, Failure> {
        match self {
            _ if !run.method.is_secure() => run::block::carry_out(run),
            Self::Nvme(drive) => drive.carry_out(run),
            Self::Ata(drive) => drive.carry_out(run),
            Self::Scsi(drive) => drive.carry_out(run),
            Self::Block => Err(Failure::Unsupported("the device takes no commands".to_owned())),
        }
    }

    fn rotational(&self, device: &dyn Device) -> bool {
        match self {
            Self::Ata(drive) => !drive.identify.solid_state,
            _ => device.limits().rotational,
        }
    }
}

/// Asks a SCSI device who it is, and whether an ATA drive is behind it.
fn inquire(device: &dyn Device) -> Result<(Inquiry, bool), Failure> {
    let answer = scsi::receive(device, &scsi::inquiry(96), 96).map_err(run::scsi::failure)?;
    let inquiry = Inquiry::parse(&answer).map_err(|error| Failure::NotDone(error.to_string()))?;
    // A device without the page has none of the others either.
    let pages = scsi::receive(device, &scsi::vital_data(0, 252), 252);
    let pages = pages.ok().and_then(|answer| scsi::supported_pages(&answer).ok()).unwrap_or_default();
    let is_ata = ata::is_ata(&inquiry, &pages);
    Ok((inquiry, is_ata))
}

fn looked(device: &dyn Device) -> Result<Drive, EraseError> {
    Drive::look(device).map_err(|source| EraseError::Look { device: Box::new(device.id().clone()), source })
}

/// The methods that `device` says it has and `options` allow, best first. Changes nothing on the device.
pub fn methods(device: &dyn Device, options: &Options) -> Result<Vec<Method>, EraseError> {
    let offers = looked(device)?.offers(device, options);
    Ok(offers.into_iter().filter(|offer| offer.failure.is_none()).map(|offer| offer.method).collect())
}

/// Why `device` gives its data to nobody now although an erase gets it out of that: a sanitize is running, the last one failed, or
/// a password locks it. `None` where it is none of these. Sends questions only.
///
/// # Errors
/// The device does not answer them.
pub fn withheld(device: &dyn Device) -> Result<Option<&'static str>, EraseError> {
    let asked = match device.bus() {
        Bus::Nvme { .. } => run::nvme::withheld(device),
        Bus::Block => Ok(None),
        Bus::Scsi => inquire(device).and_then(|(_, is_ata)| match is_ata {
            true => run::ata::withheld(device),
            false => run::scsi::withheld(device),
        }),
    };
    asked.map_err(|source| EraseError::Look { device: Box::new(device.id().clone()), source })
}

/// Removes the password that an interrupted erase has left on an ATA drive, so that it can be written to. Nothing to a drive
/// without one, to one that is sanitizing, or to any other device. [`erase`] does it too.
///
/// # Errors
/// Another device, or the password stays: no method does for this drive.
pub fn release(device: &dyn Device, grant: &EraseGrant) -> Result<(), EraseError> {
    is_granted(device, grant)?;
    if device.bus() != Bus::Scsi {
        return Ok(());
    }
    let drive = looked(device)?;
    if drive.running().is_some() {
        return Ok(());
    }
    let not_erased = |attempt| EraseError::NotErased { device: Box::new(device.id().clone()), attempts: vec![attempt] };
    release_password(device, &drive).map(drop).map_err(not_erased)
}

/// Removes a password that an interrupted erase left; `false` where there is none. No method does for a drive that keeps one: it
/// would be handed on as erased, and lock itself.
fn release_password(device: &dyn Device, drive: &Drive) -> Result<bool, Attempt> {
    let Drive::Ata(found) = drive else { return Ok(false) };
    let security = &found.identify.security;
    if !security.enabled {
        return Ok(false);
    }
    let attempt = |failure| Attempt { method: Method::AtaSecurityNormal, failure };
    run::ata::release(device, security).map(|()| true).map_err(attempt)
}

pub(crate) fn is_granted(device: &dyn Device, grant: &EraseGrant) -> Result<(), EraseError> {
    if device.id() != grant.device() {
        let (granted, opened) = (Box::new(grant.device().clone()), Box::new(device.id().clone()));
        return Err(EraseError::OtherDevice { granted, opened });
    }
    if device.limits().read_only {
        return Err(EraseError::ReadOnly(Box::new(device.id().clone())));
    }
    Ok(())
}

/// Erases `device` by the best method that it has and `options` allow. Blocks for as long as that takes, hours for a
/// large disk. Refuses a device other than the granted one.
///
/// An error means that the device is not erased, or that it does not say so; it names every method that was tried. After
/// an error nothing of ours is left on the device; where that failed too, the error says what is left.
pub fn erase(
    device: &dyn Device,
    grant: &EraseGrant,
    options: &Options,
    control: &dyn Control,
) -> Result<Done, EraseError> {
    is_granted(device, grant)?;
    let mut erasing = Erasing { device, options, control, passed_over: Vec::new() };
    let mut drive = looked(device)?;
    if let Some(method) = drive.running() {
        tracing::info!(device = %device.id(), %method, "a sanitize is running; it is taken up");
        if let Some(done) = erasing.attempt(&drive, method, true)? {
            // A password outlives a sanitize.
            erasing.release(&drive)?;
            return Ok(done);
        }
        drive = looked(device)?;
    }
    if erasing.release(&drive)? {
        drive = looked(device)?;
    }
    for Offer { method, failure } in drive.offers(device, options) {
        if let Some(failure) = failure {
            let go_on = matches!(failure, Failure::Unsupported(_)) || options.continue_if_failed;
            erasing.pass_over(method, failure);
            if !go_on {
                return Err(erasing.not_erased());
            }
            continue;
        }
        if let Some(done) = erasing.attempt(&drive, method, false)? {
            return Ok(done);
        }
    }
    Err(erasing.not_erased())
}

struct Erasing<'a> {
    device: &'a dyn Device,
    options: &'a Options,
    control: &'a dyn Control,
    passed_over: Vec<Attempt>,
}

impl Erasing<'_> {
    /// Tries a method. Nothing where the next one may be tried.
    fn attempt(&mut self, drive: &Drive, method: Method, resumed: bool) -> Result<Option<Done>, EraseError> {
        let Self { device, options, control, .. } = *self;
        let cancelled = |state| EraseError::Cancelled { device: Box::new(device.id().clone()), method, state };
        if control.is_cancelled() && !resumed {
            return Err(cancelled("this method was not begun"));
        }
        let started = control.now();
        let run = Run { device, options, control, method, resumed };
        tracing::info!(device = %device.id(), %method, resumed, "erasing");
        let failure = match if resumed { drive.take_up(run) } else { drive.carry_out(run) } {
            Ok(Finished { evidence, answer }) => {
                tracing::info!(device = %device.id(), %method, evidence, "the device says that it is erased");
                return Ok(Some(Done {
                    device: device.id().clone(),
                    method,
                    nist: method.nist(drive.rotational(device)),
                    resumed,
                    milliseconds: control.now().saturating_sub(started).as_millis().try_into().unwrap_or(u64::MAX),
                    passed_over: std::mem::take(&mut self.passed_over),
                    evidence,
                    answer: hex(&answer),
                }));
            }
            Err(Failure::Cancelled(state)) => return Err(cancelled(state)),
            Err(failure) => failure,
        };
        let go_on = match &failure {
            Failure::Unsupported(_) => true,
            // Nothing else is to be had from a drive that is locked, or busy.
            Failure::PasswordLeft { .. } | Failure::Stalled { .. } => false,
            // What failed was begun by somebody else; now it is our turn.
            Failure::NotDone(_) if resumed => true,
            // The setting is about secure methods. What follows one of the others is worth as much or more.
            _ => options.continue_if_failed || !method.is_secure(),
        };
        self.pass_over(method, failure);
        if go_on { Ok(None) } else { Err(self.not_erased()) }
    }

    fn release(&mut self, drive: &Drive) -> Result<bool, EraseError> {
        release_password(self.device, drive).map_err(|Attempt { method, failure }| {
            self.pass_over(method, failure);
            self.not_erased()
        })
    }

    fn pass_over(&mut self, method: Method, failure: Failure) {
        let attempt = Attempt { method, failure };
        tracing::info!(device = %self.device.id(), "{attempt}");
        self.passed_over.push(attempt);
    }

    fn not_erased(&mut self) -> EraseError {
        EraseError::NotErased {
            device: Box::new(self.device.id().clone()),
            attempts: std::mem::take(&mut self.passed_over),
        }
    }
}
