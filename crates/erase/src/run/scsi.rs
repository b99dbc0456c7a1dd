//! SCSI: Sanitize.

use super::{Finished, Follow, Offer, Run};
use crate::scsi::{self, Inquiry, SanitizeAction, ScsiError, Sense};
use crate::{Failure, Method};
use hardware::{Device, DeviceError};

/// The first version of SPC that goes with a standard that has SANITIZE (SBC-3).
const SPC_4: u8 = 6;

/// What a device says of itself.
pub(crate) struct Drive {
    supported: [Option<bool>; 3],
    sanitizing: bool,
}

const ACTIONS: [(SanitizeAction, Method); 3] = [
    (SanitizeAction::Crypto, Method::ScsiSanitizeCrypto),
    (SanitizeAction::Block, Method::ScsiSanitizeBlock),
    (SanitizeAction::Overwrite, Method::ScsiSanitizeOverwrite),
];

impl Drive {
    pub(crate) fn look(device: &dyn Device, inquiry: &Inquiry) -> Result<Self, Failure> {
        let told = told(device)?;
        let sanitizing = told.is_some_and(|sense| sense.is_sanitizing());
        let mut supported = [None; 3];
        for (found, (action, _)) in supported.iter_mut().zip(ACTIONS) {
            // A device that does not tell what it has is asked the hard way, if it is new enough to have it.
            *found = operation(device, action)?.or((inquiry.version >= SPC_4).then_some(true));
        }
        Ok(Self { supported, sanitizing })
    }

    /// The kind that a running sanitize counts as: the device does not say which it is, and all are worth the same.
    pub(crate) fn running(&self) -> Option<Method> {
        let best = ACTIONS.iter().zip(self.supported).find(|(_, supported)| *supported == Some(true));
        self.sanitizing.then(|| best.map_or(Method::ScsiSanitizeOverwrite, |((_, method), _)| *method))
    }

    pub(crate) fn offers(&self) -> Vec<Offer> {
        let missing = "the device does not offer it (REPORT SUPPORTED OPERATION CODES)";
        let offers = ACTIONS.iter().zip(self.supported);
        offers.map(|((_, method), supported)| Offer::new(*method, supported == Some(true), missing)).collect()
    }

    pub(crate) fn carry_out(&self, run: Run<'_>) -> Result<Finished, Failure> {
        let action =
            ACTIONS.iter().find(|(_, method)| *method == run.method).map_or(SanitizeAction::Overwrite, |of| of.0);
        let data = (action == SanitizeAction::Overwrite).then_some(&scsi::OVERWRITE_ZEROS[..]);
        let mut sure = true;
        match scsi::send(run.device, &scsi::sanitize(action), data) {
            Ok(()) => {}
            Err(error) if error.is_unsupported() => return Err(Failure::Unsupported(error.to_string())),
            // Somebody was faster, or an earlier run.
            Err(ScsiError::Failed { sense, .. }) if sense.is_sanitizing() => {}
            Err(ScsiError::Device {
                source: error @ (DeviceError::TimedOut { .. } | DeviceError::Reset { .. }),
                ..
            }) => {
                tracing::warn!(device = %run.device.id(), %error, "starting the sanitize got no answer");
                sure = false;
            }
            Err(error) => return Err(failure(error)),
        }
        let done = follow(run, sure);
        if matches!(done, Err(Failure::NotDone(_)))
            && let Err(error) = scsi::send(run.device, &scsi::sanitize(SanitizeAction::ExitFailureMode), None)
        {
            tracing::warn!(device = %run.device.id(), %error, "the device does not leave the failure mode of sanitize");
        }
        done
    }

    /// Takes up a sanitize that is running.
    pub(crate) fn take_up(&self, run: Run<'_>) -> Result<Finished, Failure> {
        follow(run, true)
    }
}

/// Follows a sanitize. It is `sure` to have begun, unless its answer was lost: then it has to be seen running.
///
/// SCSI has no word for a sanitize that was completed: there is only that none is running and none has failed. So a reset after
/// which it is not seen running again leaves nothing to go by.
fn follow(run: Run<'_>, mut sure: bool) -> Result<Finished, Failure> {
    let mut follow = Follow::new(run, None);
    let mut seen = false;
    let mut attentions = 0;
    loop {
        let (sense, answer) = match sense(run.device) {
            Ok(read) => read,
            Err(failure) => {
                if let Failure::Device(_) = failure {
                    sure = false;
                }
                follow.silent(failure)?;
                continue;
            }
        };
        let not_done = |text: &str| Err(Failure::NotDone(format!("REQUEST SENSE: {text}")));
        match sense {
            Some(sense) if sense.is_sanitizing() => {
                (sure, seen) = (true, true);
                follow.busy(sense.progress)?;
            }
            Some(sense) if sense.is_sanitize_failure() => return not_done("sanitize failed"),
            Some(sense) if sense.key == Sense::UNIT_ATTENTION => {
                sure &= !is_reset(&sense);
                attentions += 1;
                // It is told once; what it hides is asked for at once, as it may be over soon.
                if attentions > scsi::ATTENTIONS {
                    follow.busy(None)?;
                }
            }
            Some(sense) if sense.key == Sense::NOT_READY => follow.busy(None)?,
            Some(sense) if sense.key != Sense::NONE => return not_done(&sense.text()),
            _ => match scsi::send_once(run.device, &scsi::test_unit_ready()) {
                Ok(()) if !sure => {
                    return not_done(
                        "no sanitize is running, and whether one was completed is not to be known: the \
                                     device was reset meanwhile",
                    );
                }
                Ok(()) => {
                    let seen = if seen { "it was seen running, and" } else { "it was never seen running;" };
                    let evidence =
                        format!("REQUEST SENSE: {seen} none is running any more, none has failed; the unit is ready");
                    return Ok(Finished { evidence, answer });
                }
                Err(ScsiError::Failed { sense, .. }) if sense.key == Sense::UNIT_ATTENTION => {
                    sure &= !is_reset(&sense);
                    follow.busy(None)?;
                }
                Err(ScsiError::Failed { sense, .. }) if sense.key == Sense::NOT_READY => follow.busy(sense.progress)?,
                Err(error) => return Err(failure(error)),
            },
        }
    }
}

/// What the device says of itself now. What happened to it since, such as a power cut, is told first, once for each.
fn told(device: &dyn Device) -> Result<Option<Sense>, Failure> {
    let mut told = sense(device)?.0;
    for _ in 0..scsi::ATTENTIONS {
        if told.is_some_and(|sense| sense.key == Sense::UNIT_ATTENTION) {
            told = sense(device)?.0;
        }
    }
    Ok(told)
}

/// Why a device gives no data now, where an erase helps.
pub(crate) fn withheld(device: &dyn Device) -> Result<Option<&'static str>, Failure> {
    Ok(match told(device)? {
        Some(sense) if sense.is_sanitizing() => Some(super::SANITIZING),
        Some(sense) if sense.is_sanitize_failure() => Some(super::SANITIZE_FAILED),
        _ => None,
    })
}

/// Power on, reset, or a device that was exchanged (29h).
fn is_reset(sense: &Sense) -> bool {
    sense.code == 0x29
}

fn sense(device: &dyn Device) -> Result<(Option<Sense>, Vec<u8>), Failure> {
    let answer = scsi::receive(device, &scsi::request_sense(), 252).map_err(failure)?;
    Ok((Sense::parse(&answer), answer))
}

/// Whether the device says that it has a kind of sanitize; `None` where it does not tell.
fn operation(device: &dyn Device, action: SanitizeAction) -> Result<Option<bool>, Failure> {
    match scsi::receive(device, &scsi::report_operation(0x48, action.code()), 64) {
        Ok(answer) => Ok(scsi::operation_supported(&answer)),
        Err(ScsiError::Failed { .. } | ScsiError::Status { .. }) => Ok(None),
        // vmw_pvscsi has an answer that is shorter than its buffer for an error of the host, and so gives none to this command.
        Err(ScsiError::Device { source: DeviceError::Io { .. }, .. }) => Ok(None),
        Err(error) => Err(failure(error)),
    }
}

pub(crate) fn failure(error: ScsiError) -> Failure {
    match error {
        ScsiError::Device { source, .. } => Failure::Device(source),
        ScsiError::Failed { command, sense } => Failure::Refused { command: command.to_owned(), answer: sense.text() },
        ScsiError::Status { command, status } => {
            Failure::Refused { command: command.to_owned(), answer: scsi::status_text(status) }
        }
    }
}
