//! A machine seen from outside: what a BMC can do, as traits that Redfish, fakes and simulators implement.

use std::future::Future;
use std::time::Duration;

/// Whether a machine has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    /// It runs.
    On,
    /// It does not.
    Off,
}

/// What a machine boots from next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDevice {
    /// Network.
    Pxe,
    /// Its disk.
    Disk,
    /// Virtual media.
    Cdrom,
}

/// How a BMC call failed.
#[derive(Debug, thiserror::Error)]
pub enum OutOfBandError {
    /// The settings in `driver_info` are wrong; the message names the key and the remedy.
    #[error("{0}")]
    Settings(String),
    /// The BMC did not answer, or not in time. Trying again may help.
    #[error("{0}")]
    Unreachable(String),
    /// The BMC refused the credentials.
    #[error("{0}")]
    Denied(String),
    /// The BMC answered, and it was not what was asked for.
    #[error("{0}")]
    Failed(String),
    /// The BMC cannot do it.
    #[error("{0}")]
    Unsupported(String),
}

/// Power of a machine.
pub trait Power: Send + Sync {
    /// What it is now.
    fn power_state(&self) -> impl Future<Output = Result<PowerState, OutOfBandError>> + Send;

    /// Makes it so, and returns when it is so.
    fn set_power(&self, state: PowerState) -> impl Future<Output = Result<(), OutOfBandError>> + Send;

    /// Asks the operating system to shut down, and returns when the machine is off; fails when it is not within that
    /// time.
    fn shut_down(&self, within: Duration) -> impl Future<Output = Result<(), OutOfBandError>> + Send;
}

/// Choice of what a machine boots.
pub trait BootControl: Send + Sync {
    /// Sets the boot device, for the next boot only or for good.
    fn set_boot_device(
        &self,
        device: BootDevice,
        persistent: bool,
    ) -> impl Future<Output = Result<(), OutOfBandError>> + Send;

    /// What it boots next, and whether for good; `None` where the BMC does not say or names something else.
    fn boot_device(&self) -> impl Future<Output = Result<Option<(BootDevice, bool)>, OutOfBandError>> + Send;
}

/// Media that a machine can boot from without having them.
pub trait VirtualMedia: Send + Sync {
    /// Inserts the image at `url` as a CD; done when it is inserted already.
    fn insert(&self, url: &str) -> impl Future<Output = Result<(), OutOfBandError>> + Send;

    /// Takes out whatever is inserted; done when nothing is.
    fn eject(&self) -> impl Future<Output = Result<(), OutOfBandError>> + Send;
}
