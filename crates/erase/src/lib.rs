//! Erasing a disk by the best that it can do, and knowing from the device itself that it is done.
//!
//! [`erase`] looks at what the device can do, picks the best allowed method, starts it, or takes up one that is already
//! running since before a reset, follows the device's own progress, and then asks the device how it ended. A command that was
//! accepted is never taken for a command that was done. What it returns is the device's word and nothing more: whether
//! the data is gone is for a proof to find out, which shares no code with this crate.
//!
//! No files, no sockets, no clock and no random numbers: the device is a [`hardware::Device`], and time, progress and cancelling
//! come in through [`Control`]. The codecs of commands and answers ([`nvme`], [`ata`], [`scsi`]) are of use to others too:
//! firmware, health, self-tests.

pub mod ata;
mod control;
mod engine;
mod error;
mod metadata;
mod method;
pub mod nvme;
mod options;
mod run;
pub mod scsi;
mod words;

pub use control::{Control, Progress};
pub use engine::{Done, erase, methods, release, withheld};
pub use error::{Attempt, EraseError, Failure};
pub use metadata::erase_metadata;
pub use method::{Method, Nist};
pub use options::{OptionError, Options};
pub use words::Malformed;

/// What a device is to do about testing itself: the same three on NVMe, ATA and SCSI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestAction {
    /// Begin the short self-test: minutes.
    Short,
    /// Begin the extended one, which reads everything: hours.
    Extended,
    /// End the one that runs.
    Abort,
}
