//! Errors as the agent protocol knows them: one table of class name, HTTP code and text.
//!
//! The classes are those of ironic-python-agent's `errors.py`. A driver decides by `type` and by substrings of the text,
//! so both are part of the protocol. [`Class::CommandCancelled`] is ours.

use serde_json::Value;
use wire::agent::{CommandError, HttpFault};

/// What kind of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Anything else.
    RestError,
    /// The request's body cannot be used.
    InvalidContentError,
    /// No such thing.
    NotFound,
    /// No such extension or command result.
    RequestedObjectNotFoundError,
    /// A command failed.
    CommandExecutionError,
    /// There is no such command.
    InvalidCommandError,
    /// The parameters of a command cannot be used.
    InvalidCommandParamsError,
    /// Another command runs.
    AgentIsBusy,
    /// A container image that may not run here.
    ContainerNotPermittedError,
    /// The image could not be fetched.
    ImageDownloadError,
    /// There was no room for the image.
    ImageDownloadOutofSpaceError,
    /// The image could not be fetched, and trying again is of no use.
    ImageDownloadFatalError,
    /// The image took longer than it may.
    ImageDownloadTimeoutError,
    /// The image is not what its digest says.
    ImageChecksumError,
    /// The image could not be written.
    ImageWriteError,
    /// The machine could not be restarted or switched off.
    SystemRebootError,
    /// A block device could not be erased.
    BlockDeviceEraseError,
    /// A block device did something unexpected.
    BlockDeviceError,
    /// Software RAID.
    SoftwareRaidError,
    /// Virtual media that cannot be read.
    VirtualMediaBootError,
    /// Extensions are not there.
    ExtensionError,
    /// The agent does not know its node.
    UnknownNodeError,
    /// No hardware manager knows the machine.
    HardwareManagerNotFound,
    /// No hardware manager implements the step.
    HardwareManagerMethodNotFound,
    /// A hardware manager is set up wrongly.
    HardwareManagerConfigurationError,
    /// The manager cannot do this on this hardware.
    IncompatibleHardwareMethodError,
    /// The managers are not those that the driver listed steps of.
    VersionMismatch,
    /// A clean step failed.
    CleaningError,
    /// A deploy step failed.
    DeploymentError,
    /// A service step failed.
    ServicingError,
    /// A device holds something that must not be erased.
    ProtectedDeviceError,
    /// The image is of no use.
    InvalidImage,
    /// No device to deploy to.
    DeviceNotFound,
    /// A file system that is not supported.
    FileSystemNotSupported,
    /// The clock could not be set.
    ClockSyncError,
    /// NUMA data that cannot be read.
    IncompatibleNumaFormatError,
    /// An unknown parameter of a synchronous command. Python's name for it; a driver looks for it.
    TypeError,
    /// The command was stopped on request. Ours.
    CommandCancelled,
}

/// All classes, for tests and for [`Class::named`].
pub const CLASSES: [Class; 38] = [
    Class::RestError,
    Class::InvalidContentError,
    Class::NotFound,
    Class::RequestedObjectNotFoundError,
    Class::CommandExecutionError,
    Class::InvalidCommandError,
    Class::InvalidCommandParamsError,
    Class::AgentIsBusy,
    Class::ContainerNotPermittedError,
    Class::ImageDownloadError,
    Class::ImageDownloadOutofSpaceError,
    Class::ImageDownloadFatalError,
    Class::ImageDownloadTimeoutError,
    Class::ImageChecksumError,
    Class::ImageWriteError,
    Class::SystemRebootError,
    Class::BlockDeviceEraseError,
    Class::BlockDeviceError,
    Class::SoftwareRaidError,
    Class::VirtualMediaBootError,
    Class::ExtensionError,
    Class::UnknownNodeError,
    Class::HardwareManagerNotFound,
    Class::HardwareManagerMethodNotFound,
    Class::HardwareManagerConfigurationError,
    Class::IncompatibleHardwareMethodError,
    Class::VersionMismatch,
    Class::CleaningError,
    Class::DeploymentError,
    Class::ServicingError,
    Class::ProtectedDeviceError,
    Class::InvalidImage,
    Class::DeviceNotFound,
    Class::FileSystemNotSupported,
    Class::ClockSyncError,
    Class::IncompatibleNumaFormatError,
    Class::TypeError,
    Class::CommandCancelled,
];

impl Class {
    /// Name, HTTP code and text. No `_` arm: a new class needs its row.
    const fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::RestError => ("RESTError", 500, "An error occurred"),
            Self::InvalidContentError => ("InvalidContentError", 400, "Invalid request body"),
            Self::NotFound => ("NotFound", 404, "Not found"),
            Self::RequestedObjectNotFoundError => ("RequestedObjectNotFoundError", 404, "Not found"),
            Self::CommandExecutionError => ("CommandExecutionError", 500, "Command execution failed"),
            Self::InvalidCommandError => ("InvalidCommandError", 400, "Invalid command"),
            Self::InvalidCommandParamsError => ("InvalidCommandParamsError", 400, "Invalid command parameters"),
            Self::AgentIsBusy => ("AgentIsBusy", 409, "Agent is busy"),
            Self::ContainerNotPermittedError => ("ContainerNotPermittedError", 500, "Container image not permitted"),
            Self::ImageDownloadError => ("ImageDownloadError", 500, "Error downloading image"),
            Self::ImageDownloadOutofSpaceError => ("ImageDownloadOutofSpaceError", 500, "Error downloading image"),
            Self::ImageDownloadFatalError => ("ImageDownloadFatalError", 500, "Error downloading image"),
            Self::ImageDownloadTimeoutError => ("ImageDownloadTimeoutError", 408, "Image download timeout"),
            Self::ImageChecksumError => ("ImageChecksumError", 500, "Error verifying image checksum"),
            Self::ImageWriteError => ("ImageWriteError", 500, "Error writing image to device"),
            Self::SystemRebootError => ("SystemRebootError", 500, "Error rebooting system"),
            Self::BlockDeviceEraseError => ("BlockDeviceEraseError", 500, "Error erasing block device"),
            Self::BlockDeviceError => ("BlockDeviceError", 500, "Block device caused unknown error"),
            Self::SoftwareRaidError => ("SoftwareRAIDError", 500, "Software RAID caused unknown error"),
            Self::VirtualMediaBootError => {
                ("VirtualMediaBootError", 500, "Configuring agent from virtual media failed")
            }
            Self::ExtensionError => ("ExtensionError", 500, "An error occurred"),
            Self::UnknownNodeError => ("UnknownNodeError", 500, "Agent is not associated with an Ironic node"),
            Self::HardwareManagerNotFound => ("HardwareManagerNotFound", 500, "No valid HardwareManager found"),
            Self::HardwareManagerMethodNotFound => {
                ("HardwareManagerMethodNotFound", 500, "No HardwareManager found to handle method")
            }
            Self::HardwareManagerConfigurationError => {
                ("HardwareManagerConfigurationError", 500, "Hardware manager configuration error")
            }
            Self::IncompatibleHardwareMethodError => {
                ("IncompatibleHardwareMethodError", 500, "HardwareManager method is not compatible with hardware")
            }
            Self::VersionMismatch => {
                ("VersionMismatch", 409, "Hardware managers version mismatch, reload agent with correct version")
            }
            Self::CleaningError => ("CleaningError", 500, "Clean step failed"),
            Self::DeploymentError => ("DeploymentError", 500, "Deploy step failed"),
            Self::ServicingError => ("ServicingError", 500, "Service step failed"),
            Self::ProtectedDeviceError => ("ProtectedDeviceError", 500, "Protected device located, cleaning aborted."),
            Self::InvalidImage => ("InvalidImage", 500, "The provided image is not valid for use"),
            Self::DeviceNotFound => {
                ("DeviceNotFound", 404, "Error finding the disk or partition device to deploy the image onto")
            }
            Self::FileSystemNotSupported => ("FileSystemNotSupported", 500, "File system is not supported"),
            Self::ClockSyncError => ("ClockSyncError", 500, "Error syncing system clock"),
            Self::IncompatibleNumaFormatError => ("IncompatibleNumaFormatError", 500, "Error in NUMA node data format"),
            Self::TypeError => ("TypeError", 500, "Command execution failed"),
            Self::CommandCancelled => ("CommandCancelled", 500, "Command cancelled"),
        }
    }

    /// The protocol's name, the `type` of an error.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP code.
    pub const fn code(self) -> u16 {
        self.row().1
    }

    /// The text that begins every message of this class.
    pub const fn message(self) -> &'static str {
        self.row().2
    }

    /// Whether it is an InvalidContentError or one of its descendants: those are answered at once, whatever command
    /// raises them, and nothing is recorded.
    pub const fn refuses_content(self) -> bool {
        matches!(self, Self::InvalidContentError | Self::InvalidCommandError | Self::InvalidCommandParamsError)
    }

    /// The class of that name; [`Class::RestError`] for a name that is not in the table.
    pub fn named(name: &str) -> Self {
        CLASSES.into_iter().find(|class| class.name() == name).unwrap_or(Self::RestError)
    }
}

/// An error of the agent. It prints as the protocol wants it: `<text of the class>: <details>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {details}", .class.message())]
pub struct AgentError {
    /// Its class.
    pub class: Class,
    /// What happened, for people.
    pub details: String,
    /// What the command did all the same: its record keeps it as its result.
    pub result: Option<Box<Value>>,
}

impl AgentError {
    /// An error of a class.
    pub fn new(class: Class, details: impl Into<String>) -> Self {
        Self { class, details: details.into(), result: None }
    }

    /// The same error, with what the command did all the same.
    #[must_use]
    pub fn with_result(self, result: Value) -> Self {
        Self { result: Some(Box::new(result)), ..self }
    }

    /// A command failed, and no other class fits.
    pub fn failed(details: impl Into<String>) -> Self {
        Self::new(Class::CommandExecutionError, details)
    }

    /// A parameter of a command cannot be used.
    pub fn params(details: impl Into<String>) -> Self {
        Self::new(Class::InvalidCommandParamsError, details)
    }

    /// There is no `what` with this id.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(Class::RequestedObjectNotFoundError, format!("{what} with id {id} not found."))
    }

    /// The error as a command records it.
    pub fn to_record(&self) -> CommandError {
        CommandError {
            class: self.class.name().to_owned(),
            code: self.class.code(),
            message: self.class.message().to_owned(),
            details: self.details.clone(),
        }
    }

    /// The body of the HTTP answer.
    pub fn to_fault(&self) -> HttpFault {
        HttpFault::new(self.class.code(), self.to_string())
    }
}

impl From<hardware::MachineError> for AgentError {
    fn from(error: hardware::MachineError) -> Self {
        Self::failed(transport::client::chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_name_of_its_own_a_code_and_a_text() {
        let table: Vec<String> =
            CLASSES.iter().map(|class| format!("{} | {} | {}", class.name(), class.code(), class.message())).collect();
        insta::assert_snapshot!(table.join("\n"));
        for class in CLASSES {
            assert_eq!(Class::named(class.name()), class);
        }
    }

    #[test]
    fn an_error_is_text_and_record_in_the_words_of_the_protocol() {
        let error = AgentError::new(Class::AgentIsBusy, "executing command prepare_image");
        assert_eq!(error.to_string(), "Agent is busy: executing command prepare_image");
        assert_eq!(error.to_fault().faultcode, "Client");
        assert_eq!(error.to_record().class, "AgentIsBusy");
    }
}
