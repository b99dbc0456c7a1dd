//! How an erase ends when it does not end well.

use crate::Method;
use hardware::{DeviceError, DeviceId};
use serde::{Serialize, Serializer};

/// How one method did not work on one device.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The device does not have it. Not a fault of anybody: the next method is tried.
    #[error("not possible: {0}")]
    Unsupported(String),
    /// The device has it and cannot do it now; the text has the remedy.
    #[error("{0}")]
    Blocked(String),
    /// The device refused a command that it says it has.
    #[error("the device refused {command}: {answer}")]
    Refused {
        /// The command.
        command: String,
        /// What the device said.
        answer: String,
    },
    /// It was accepted, and the device says that it was not done.
    #[error("the device says that it was not done: {0}")]
    NotDone(String),
    /// Nothing moves any more.
    #[error("no progress for {minutes} minutes, at {at}; the device still says that it is busy")]
    Stalled {
        /// Where it stuck, such as `60.0 %`.
        at: String,
        /// Minutes without progress.
        minutes: u64,
    },
    /// It read back other than it should.
    #[error("{0}")]
    Remains(String),
    /// There was no answer.
    #[error("no answer from the device")]
    Device(#[from] DeviceError),
    /// It was told to stop. The text says whether the device is still at it.
    #[error("stopped on request; {0}")]
    Cancelled(&'static str),
    /// Our password is still set on the device, after everything was tried to remove it.
    #[error(
        "the ATA user password {password:?} is still set on the device and could not be removed ({why}); remove it with \
         hdparm --user-master u --security-disable {password} after a power cycle of the drive"
    )]
    PasswordLeft {
        /// The password: it is no secret, it is always the same.
        password: &'static str,
        /// Why it is still there.
        why: String,
    },
}

/// A method that was tried, or was not there, and why it did not do.
#[derive(Debug, Serialize)]
pub struct Attempt {
    /// The method.
    pub method: Method,
    /// Why it did not do, with its causes.
    #[serde(serialize_with = "in_words")]
    pub failure: Failure,
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.method, chain(&self.failure))
    }
}

/// Why a device was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The opened device is not the granted one.
    #[error("{granted} was granted, but {opened} was opened: nothing was touched")]
    OtherDevice {
        /// Who was granted.
        granted: Box<DeviceId>,
        /// Who was opened.
        opened: Box<DeviceId>,
    },
    /// The device cannot be written.
    #[error("{0} is read-only: it cannot be erased; set agent_erase_skip_read_only to leave it out")]
    ReadOnly(Box<DeviceId>),
    /// What the device can do could not be found out.
    #[error("cannot find out what {device} can do")]
    Look {
        /// The device.
        device: Box<DeviceId>,
        /// Cause.
        #[source]
        source: Failure,
    },
    /// Every allowed method was tried, or the last that may be.
    #[error("{device} is not erased: {}", listed(attempts))]
    NotErased {
        /// The device.
        device: Box<DeviceId>,
        /// What was tried, in order; never empty but where nothing is allowed.
        attempts: Vec<Attempt>,
    },
    /// The metadata could not be overwritten.
    #[error("cannot overwrite the metadata of {device}")]
    Metadata {
        /// The device.
        device: Box<DeviceId>,
        /// Cause.
        #[source]
        source: Failure,
    },
    /// It was told to stop.
    #[error("erasing {device} by {method} was stopped on request; {state}")]
    Cancelled {
        /// The device.
        device: Box<DeviceId>,
        /// The method.
        method: Method,
        /// Whether the device is still at it.
        state: &'static str,
    },
}

fn listed(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "no method is allowed that it has".to_owned();
    }
    attempts.iter().map(Attempt::to_string).collect::<Vec<_>>().join("; ")
}

fn in_words<S: Serializer>(failure: &Failure, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&chain(failure))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
