//! NVMe: Sanitize and Format.

use super::{Finished, Follow, Meter, Offer, Run};
use crate::nvme::{self, Controller, FormatErase, Namespace, SanitizeAction, SanitizeLog, SanitizeState, status};
use crate::{Failure, Method, Options};
use hardware::{Device, DeviceError, NvmeCommand, Transfer};
use std::time::Duration;

/// For a command that the controller answers from its memory.
const QUICK: Duration = Duration::from_secs(60);

/// What a drive says of itself.
pub(crate) struct Drive {
    number: u32,
    controller: Controller,
    namespace: Namespace,
    /// Namespaces of the NVM subsystem, this one among them.
    namespaces: Vec<u32>,
    log: Option<SanitizeLog>,
}

impl Drive {
    pub(crate) fn look(device: &dyn Device, number: u32) -> Result<Self, Failure> {
        let controller = Controller::parse(&receive(device, &nvme::identify_controller(), nvme::IDENTIFY_LENGTH)?);
        let controller = controller.map_err(|error| Failure::NotDone(error.to_string()))?;
        let log = if controller.sanitize.any() { Some(sanitize_log(device)?.0) } else { None };
        Ok(Self { number, namespace: namespace(device, number)?.0, namespaces: namespaces(device)?, controller, log })
    }

    /// Namespaces of the drive that nobody has granted. They need not be attached to be there.
    fn not_granted(&self, options: &Options) -> Vec<String> {
        let others = self.namespaces.iter().filter(|number| **number != self.number);
        others.filter(|number| !options.granted_namespaces.contains(number)).map(u32::to_string).collect()
    }

    /// The sanitize that is running.
    pub(crate) fn running(&self) -> Option<Method> {
        let log = self.log.as_ref().filter(|log| log.state == SanitizeState::InProgress)?;
        let method = [SanitizeAction::Crypto, SanitizeAction::Block, SanitizeAction::Overwrite]
            .into_iter()
            .find(|action| action.code() == log.command & 7)
            .map(method_of);
        method.or(Some(Method::NvmeSanitizeOverwrite))
    }

    pub(crate) fn offers(&self, options: &Options) -> Vec<Offer> {
        let support = self.controller.sanitize;
        let others = self.not_granted(options);
        let alone = others.is_empty();
        let with = format!(
            "the drive has {} namespaces and this would erase all of them, also those that are not to be erased: {}",
            self.namespaces.len(),
            others.join(", ")
        );
        let sanitize = |method, there| match (there, alone) {
            (true, false) => Offer::new(method, false, &with),
            _ => Offer::new(method, there, "the controller does not offer it (SANICAP)"),
        };
        let format = |method, there, missing| match (there, alone || !self.controller.format_erases_all) {
            (true, false) => Offer::new(method, false, &with),
            _ => Offer::new(method, there, missing),
        };
        let crypto = self.controller.format && self.controller.format_crypto;
        vec![
            sanitize(Method::NvmeSanitizeCrypto, support.crypto),
            sanitize(Method::NvmeSanitizeBlock, support.block),
            sanitize(Method::NvmeSanitizeOverwrite, support.overwrite),
            format(Method::NvmeFormatCrypto, crypto, "the controller has no cryptographic erase (FNA)"),
            format(Method::NvmeFormatUserData, self.controller.format, "the controller has no Format NVM (OACS)"),
        ]
    }

    pub(crate) fn carry_out(&self, run: Run<'_>) -> Result<Finished, Failure> {
        match run.method {
            Method::NvmeFormatCrypto => self.format(run, FormatErase::Crypto),
            Method::NvmeFormatUserData => self.format(run, FormatErase::UserData),
            _ => self.sanitize(run),
        }
    }

    fn sanitize(&self, run: Run<'_>) -> Result<Finished, Failure> {
        let action = action_of(run.method);
        let command = nvme::sanitize(action);
        match run.device.nvme_admin(&command, Transfer::None, QUICK) {
            Ok(answer) => match status::code(answer.status) {
                0 | status::SANITIZE_IN_PROGRESS => {}
                _ => return Err(refused("Sanitize", answer.status)),
            },
            // It may have begun: the log knows.
            Err(error @ (DeviceError::TimedOut { .. } | DeviceError::Reset { .. })) => {
                tracing::warn!(device = %run.device.id(), %error, "starting the sanitize got no answer");
            }
            Err(error) => return Err(error.into()),
        }
        let done = self.follow(run, false);
        if matches!(done, Err(Failure::NotDone(_))) {
            leave_failure(run.device);
        }
        done
    }

    /// Takes up a sanitize that is running.
    pub(crate) fn take_up(&self, run: Run<'_>) -> Result<Finished, Failure> {
        self.follow(run, true)
    }

    fn follow(&self, run: Run<'_>, mut seen: bool) -> Result<Finished, Failure> {
        let action = action_of(run.method);
        let estimates = self.log.as_ref().map(|log| log.estimates).unwrap_or_default();
        let seconds = match action {
            SanitizeAction::Overwrite => estimates[0],
            SanitizeAction::Block => estimates[1],
            SanitizeAction::Crypto | SanitizeAction::ExitFailureMode => estimates[2],
        };
        let mut follow = Follow::new(run, seconds.map(|seconds| Duration::from_secs(seconds.into())));
        loop {
            let (log, answer) = match sanitize_log(run.device) {
                Ok(read) => read,
                Err(failure) => {
                    // It may forget what it was doing: it has to be seen at it again.
                    seen = false;
                    follow.silent(failure)?;
                    continue;
                }
            };
            let not_done = |text: &str| Err(Failure::NotDone(format!("sanitize status log: {text}")));
            match log.state {
                SanitizeState::InProgress => {
                    seen = true;
                    follow.busy(Some(log.progress))?;
                }
                SanitizeState::Completed | SanitizeState::CompletedDeallocated => {
                    if log.command & 7 != action.code() {
                        return not_done("it tells of another kind of sanitize");
                    }
                    // A log that was there before, and a drive that was written since, say nothing of this sanitize.
                    if !seen && !log.nothing_written_since && self.log.as_ref() == Some(&log) {
                        return not_done("it is still that of an earlier sanitize");
                    }
                    let evidence = "sanitize status log: completed successfully".to_owned();
                    return Ok(Finished { evidence, answer: answer.get(..32).unwrap_or(&answer).to_vec() });
                }
                SanitizeState::Failed => return not_done("failed"),
                SanitizeState::Never => return not_done("the drive was never sanitized"),
                SanitizeState::Other(number) => return not_done(&format!("unknown state {number}")),
            }
        }
    }

    fn format(&self, run: Run<'_>, erase: FormatErase) -> Result<Finished, Failure> {
        Meter::new(run, None).report(None);
        let command = nvme::format(self.number, &self.namespace, erase);
        let mut follow = Follow::new(run, None);
        loop {
            let answer = run.device.nvme_admin(&command, Transfer::None, run.options.patience)?;
            match status::code(answer.status) {
                0 => break,
                // Since before we came, perhaps with other settings: it is waited for, and then done anew.
                status::FORMAT_IN_PROGRESS => follow.busy(None)?,
                _ => return Err(refused("Format NVM", answer.status)),
            }
        }
        let (now, answer) = namespace(run.device, self.number)?;
        if let Some(remaining) = now.format_remaining {
            return Err(Failure::NotDone(format!("Identify Namespace: {remaining} % of the format remain")));
        }
        if (now.blocks, now.block_size) != (self.namespace.blocks, self.namespace.block_size) {
            let text = format!("the namespace has {} blocks of {} bytes now", now.blocks, now.block_size);
            return Err(Failure::NotDone(text));
        }
        let evidence = "Format NVM succeeded; Identify Namespace: no format is running, size and format are the same";
        Ok(Finished { evidence: evidence.to_owned(), answer: answer[..192].to_vec() })
    }
}

/// Why a drive gives no data now, where an erase helps.
pub(crate) fn withheld(device: &dyn Device) -> Result<Option<&'static str>, Failure> {
    let controller = Controller::parse(&receive(device, &nvme::identify_controller(), nvme::IDENTIFY_LENGTH)?);
    let controller = controller.map_err(|error| Failure::NotDone(error.to_string()))?;
    if !controller.sanitize.any() {
        return Ok(None);
    }
    Ok(match sanitize_log(device)?.0.state {
        SanitizeState::InProgress => Some(super::SANITIZING),
        SanitizeState::Failed => Some(super::SANITIZE_FAILED),
        _ => None,
    })
}

fn method_of(action: SanitizeAction) -> Method {
    match action {
        SanitizeAction::Crypto => Method::NvmeSanitizeCrypto,
        SanitizeAction::Block => Method::NvmeSanitizeBlock,
        SanitizeAction::Overwrite | SanitizeAction::ExitFailureMode => Method::NvmeSanitizeOverwrite,
    }
}

fn action_of(method: Method) -> SanitizeAction {
    match method {
        Method::NvmeSanitizeCrypto => SanitizeAction::Crypto,
        Method::NvmeSanitizeBlock => SanitizeAction::Block,
        _ => SanitizeAction::Overwrite,
    }
}

fn refused(command: &str, status: u16) -> Failure {
    Failure::Refused { command: command.to_owned(), answer: nvme::status_text(status) }
}

/// Makes the drive usable again after a sanitize that failed. What it does not do is in the log only: the failure counts.
fn leave_failure(device: &dyn Device) {
    let failed = sanitize_log(device).is_ok_and(|(log, _)| log.state == SanitizeState::Failed);
    if failed && let Err(error) = send(device, &nvme::sanitize(SanitizeAction::ExitFailureMode)) {
        tracing::warn!(device = %device.id(), %error, "the drive does not leave the failure mode of sanitize");
    }
}

fn send(device: &dyn Device, command: &NvmeCommand) -> Result<(), Failure> {
    let answer = device.nvme_admin(command, Transfer::None, QUICK)?;
    if answer.status == 0 { Ok(()) } else { Err(refused("Sanitize", answer.status)) }
}

fn receive(device: &dyn Device, command: &NvmeCommand, length: usize) -> Result<Vec<u8>, Failure> {
    let mut buffer = vec![0; length];
    let answer = device.nvme_admin(command, Transfer::FromDevice(&mut buffer), QUICK)?;
    let name = if command.opcode == 0x02 { "Get Log Page" } else { "Identify" };
    if answer.status == 0 { Ok(buffer) } else { Err(refused(name, answer.status)) }
}

fn sanitize_log(device: &dyn Device) -> Result<(SanitizeLog, Vec<u8>), Failure> {
    let command = nvme::get_log(SanitizeLog::PAGE, nvme::ALL_NAMESPACES, SanitizeLog::LENGTH);
    let bytes = receive(device, &command, SanitizeLog::LENGTH as usize)?;
    let log = SanitizeLog::parse(&bytes).map_err(|error| Failure::NotDone(error.to_string()))?;
    Ok((log, bytes))
}

fn namespace(device: &dyn Device, number: u32) -> Result<(Namespace, Vec<u8>), Failure> {
    let bytes = receive(device, &nvme::identify_namespace(number), nvme::IDENTIFY_LENGTH)?;
    let namespace = Namespace::parse(&bytes).map_err(|error| Failure::NotDone(error.to_string()))?;
    Ok((namespace, bytes))
}

/// Those that there are, attached to this controller or not, where it can say so.
fn namespaces(device: &dyn Device) -> Result<Vec<u32>, Failure> {
    let allocated = receive(device, &nvme::identify_allocated(0), nvme::IDENTIFY_LENGTH);
    let bytes = match allocated {
        Ok(bytes) => bytes,
        Err(Failure::Refused { .. }) => receive(device, &nvme::identify_active(0), nvme::IDENTIFY_LENGTH)?,
        Err(failure) => return Err(failure),
    };
    Ok(nvme::active_namespaces(&bytes))
}
