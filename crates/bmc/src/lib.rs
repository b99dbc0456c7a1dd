//! Out-of-band: a machine's BMC, spoken to with Redfish, behind the traits of `hardware`.
//!
//! * [`Settings`] is what `driver_info` of a node says, checked; every error names the key.
//! * [`Redfish`] is one BMC and one system of it. It starts at the service root and follows links; it never builds a
//!   Redfish path, because no two vendors agree on them.
//! * Credentials go to the origin in `redfish_address` and nowhere else: a link or a redirect that leads elsewhere is
//!   an error. They are never part of a log line, an error or a `Debug` text.
//! * A BMC answers before it has done what was asked. Every change is read back until it is true or a deadline ends.

mod bios;
mod bios_change;
mod boot;
mod connection;
mod error;
mod firmware;
mod identity;
mod indicators;
mod media;
mod mode;
mod power;
mod redfish;
mod resource;
mod settings;
mod update;

pub use boot::{BootMode, BootOverride, BootRequest, BootTarget};
pub use error::RedfishError;
pub use identity::Identity;
pub use power::ReportedPower;
pub use redfish::{Limits, Redfish};
pub use settings::{AuthType, Credentials, Origin, Secret, Settings, SettingsError, SystemId, Verify};
