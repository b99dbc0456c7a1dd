//! Hardware types: which implementation of each interface a node may have, and which it gets when nobody chooses.
//!
//! A node is composed when it is enrolled and again when its driver or an interface changes; what is composed is saved
//! with it, so that a later default does not change a node behind its owner's back.

mod enabled;
mod validate;

pub use enabled::{Enabled, Refused};
pub use validate::{Validation, validate};

use store::Node;

/// The kinds of interface of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interface {
    /// BIOS settings.
    Bios,
    /// How the ramdisk and the instance boot.
    Boot,
    /// Console.
    Console,
    /// How an instance is put on the machine.
    Deploy,
    /// Firmware updates.
    Firmware,
    /// How the machine is inspected.
    Inspect,
    /// Boot device and the like.
    Management,
    /// Networks.
    Network,
    /// Power.
    Power,
    /// RAID.
    Raid,
    /// Rescue.
    Rescue,
    /// Remote storage.
    Storage,
    /// Vendor calls.
    Vendor,
}

impl Interface {
    /// All of them, in the order in which the API lists them.
    pub const ALL: [Self; 13] = [
        Self::Bios,
        Self::Boot,
        Self::Console,
        Self::Deploy,
        Self::Firmware,
        Self::Inspect,
        Self::Management,
        Self::Network,
        Self::Power,
        Self::Raid,
        Self::Rescue,
        Self::Storage,
        Self::Vendor,
    ];

    /// `boot`, `deploy`, …: the key in `Node::interfaces`, and with `_interface` the field of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Boot => "boot",
            Self::Console => "console",
            Self::Deploy => "deploy",
            Self::Firmware => "firmware",
            Self::Inspect => "inspect",
            Self::Management => "management",
            Self::Network => "network",
            Self::Power => "power",
            Self::Raid => "raid",
            Self::Rescue => "rescue",
            Self::Storage => "storage",
            Self::Vendor => "vendor",
        }
    }

    /// Reads `boot`, `deploy`, ….
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|interface| interface.as_str() == name)
    }
}

/// A hardware type: a driver in the words of the API.
#[derive(Debug, Clone, Copy)]
pub struct HardwareType {
    /// Its name.
    pub name: &'static str,
    implementations: fn(Interface) -> &'static [&'static str],
}

impl HardwareType {
    /// The implementations that a node of this type may have, best first. Which of them a site lets nodes have is for
    /// [`Enabled`] to say.
    pub fn supported(&self, interface: Interface) -> &'static [&'static str] {
        (self.implementations)(interface)
    }

    /// The keys of `driver_info` that it knows, each with a line for people.
    pub fn properties(&self) -> &'static [(&'static str, &'static str)] {
        match self.name {
            "redfish" => REDFISH_PROPERTIES,
            "fake-hardware" => FAKE_PROPERTIES,
            _ => &[],
        }
    }
}

const FAST_TRACK: (&str, &str) = (
    "fast_track",
    "true or false: whether a ramdisk stays on after inspection and cleaning. The site's setting when it is not there.",
);
const FAKE_PROPERTIES: &[(&str, &str)] = &[FAST_TRACK];

const REDFISH_PROPERTIES: &[(&str, &str)] = &[
    ("redfish_address", "URL of the BMC, such as https://bmc.example. Required."),
    ("redfish_auth_type", "auto (default), basic or session."),
    ("redfish_password", "Password. Required where the BMC asks for one."),
    ("redfish_system_id", "Path or Id of the system. Required where the BMC has more than one."),
    ("redfish_username", "User. Required where the BMC asks for one."),
    ("redfish_verify_ca", "true (default), false, or the path of a PEM file with the certificates to trust."),
    ("kernel_append_params", "Further parameters of the ramdisk's kernel; %default% stands for the site's."),
    FAST_TRACK,
];

const FAKE: HardwareType = HardwareType { name: "fake-hardware", implementations: fake };
const REDFISH: HardwareType = HardwareType { name: "redfish", implementations: redfish };

const MANUAL: HardwareType = HardwareType { name: "manual-management", implementations: manual };

/// All hardware types, by name.
pub const HARDWARE_TYPES: &[HardwareType] = &[FAKE, MANUAL, REDFISH];

const fn fake(interface: Interface) -> &'static [&'static str] {
    match interface {
        Interface::Boot | Interface::Management | Interface::Power => &["fake"],
        Interface::Deploy => &["fake", "direct"],
        Interface::Inspect => &["fake", "agent", "no-inspect"],
        Interface::Rescue => &["fake", "no-rescue", "agent"],
        Interface::Bios => &["fake", "no-bios"],
        Interface::Console => &["fake", "no-console"],
        Interface::Firmware => &["fake", "no-firmware"],
        Interface::Raid => &["fake", "no-raid"],
        Interface::Storage => &["fake", "noop"],
        Interface::Vendor => &["fake", "no-vendor"],
        Interface::Network => &["noop"],
    }
}

/// A machine that people switch on, off and over to the ramdisk by hand.
const fn manual(interface: Interface) -> &'static [&'static str] {
    match interface {
        Interface::Boot | Interface::Power => &["fake"],
        Interface::Management => &["noop", "fake"],
        Interface::Deploy => &["direct", "fake"],
        Interface::Inspect => &["no-inspect", "agent"],
        Interface::Rescue => &["no-rescue", "agent"],
        other => optional(other),
    }
}

const fn redfish(interface: Interface) -> &'static [&'static str] {
    match interface {
        Interface::Boot => &["redfish-virtual-media"],
        Interface::Management | Interface::Power => &["redfish"],
        Interface::Deploy => &["direct"],
        Interface::Inspect => &["agent", "no-inspect"],
        Interface::Rescue => &["no-rescue", "agent"],
        Interface::Bios => &["redfish", "no-bios"],
        Interface::Firmware => &["redfish", "no-firmware"],
        other => optional(other),
    }
}

const fn optional(interface: Interface) -> &'static [&'static str] {
    match interface {
        Interface::Bios => &["no-bios"],
        Interface::Console => &["no-console"],
        Interface::Firmware => &["no-firmware"],
        Interface::Network | Interface::Storage => &["noop"],
        Interface::Raid => &["no-raid"],
        Interface::Rescue => &["no-rescue"],
        Interface::Vendor => &["no-vendor"],
        Interface::Boot | Interface::Deploy | Interface::Inspect | Interface::Management | Interface::Power => &[],
    }
}

/// The implementation that a node has.
pub fn interface_of(node: &Node, interface: Interface) -> &str {
    node.interfaces.get(interface.as_str()).map_or("", String::as_str)
}
