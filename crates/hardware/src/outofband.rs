//! A machine seen from outside: what a BMC can do, as traits that Redfish, fakes and simulators implement.

use crate::inventory::BootMode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
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
    /// The BMC answered that it will not, at least not now: it has done nothing.
    #[error("{0}")]
    Refused(String),
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

/// What a light says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Light {
    /// It is lit.
    On,
    /// It is not.
    Off,
    /// It blinks.
    Blinking,
    /// Nobody knows; it cannot be asked for.
    Unknown,
}

/// A light by which people find a machine or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indicator {
    /// What it is on: `system`, `chassis` or `disk`.
    pub component: String,
    /// Its name, unique on its component.
    pub name: String,
    /// Whether it can only be looked at.
    pub readonly: bool,
    /// What it can say.
    pub states: Vec<Light>,
}

/// A setting of a machine's firmware, as its BMC tells it. What the BMC does not say is unset.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BiosSetting {
    /// Its name.
    pub name: String,
    /// Its value: a text, a number, a flag or null.
    pub value: Value,
    /// `Enumeration`, `String`, `Integer`, `Boolean` or `Password`.
    pub attribute_type: Option<String>,
    /// The values of an enumeration; none for other types.
    pub allowable_values: Option<Vec<String>>,
    /// The smallest integer.
    pub lower_bound: Option<i64>,
    /// The largest integer.
    pub upper_bound: Option<i64>,
    /// The shortest text, in characters.
    pub min_length: Option<i64>,
    /// The longest text, in characters.
    pub max_length: Option<i64>,
    /// Whether it cannot be changed.
    pub read_only: Option<bool>,
    /// Whether a change needs a restart.
    pub reset_required: Option<bool>,
    /// Whether it belongs to this one machine and must not be copied to another.
    pub unique: Option<bool>,
}

/// Firmware of a part of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FirmwareComponent {
    /// `bios`, `bmc`, or `nic:` and the card's serial number or name.
    pub component: String,
    /// The version that it has.
    pub version: String,
    /// Who made the part.
    pub vendor: Option<String>,
    /// The part's model.
    pub model: Option<String>,
    /// The part's serial number.
    pub serial_number: Option<String>,
}

/// What a BMC knows of a machine besides its power and what it boots, and what it can change of that.
pub trait Management: Send + Sync {
    /// How its firmware boots; `None` where the BMC does not say.
    fn boot_mode(&self) -> impl Future<Output = Result<Option<BootMode>, OutOfBandError>> + Send;

    /// Makes it boot so, and returns when the BMC says that it will.
    fn set_boot_mode(&self, mode: BootMode) -> impl Future<Output = Result<(), OutOfBandError>> + Send;

    /// Whether secure boot is switched on; `None` where the BMC does not say.
    fn secure_boot(&self) -> impl Future<Output = Result<Option<bool>, OutOfBandError>> + Send;

    /// Switches secure boot, and returns when the BMC says that it is so.
    fn set_secure_boot(&self, on: bool) -> impl Future<Output = Result<(), OutOfBandError>> + Send;

    /// Sends the machine a non-maskable interrupt.
    fn inject_nmi(&self) -> impl Future<Output = Result<(), OutOfBandError>> + Send;

    /// Its lights.
    fn indicators(&self) -> impl Future<Output = Result<Vec<Indicator>, OutOfBandError>> + Send;

    /// What one of them says; `None` where there is no such light.
    fn indicator(
        &self,
        component: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<Light>, OutOfBandError>> + Send;

    /// Switches one; `false` where there is no such light.
    fn set_indicator(
        &self,
        component: &str,
        name: &str,
        light: Light,
    ) -> impl Future<Output = Result<bool, OutOfBandError>> + Send;

    /// The settings of its firmware, by name.
    fn bios_settings(&self) -> impl Future<Output = Result<Vec<BiosSetting>, OutOfBandError>> + Send;

    /// The firmware of its parts.
    fn firmware(&self) -> impl Future<Output = Result<Vec<FirmwareComponent>, OutOfBandError>> + Send;
}
