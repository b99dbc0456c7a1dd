//! What can be asked of the conductor. The API makes commands and nothing else: a handler parses, checks versions and
//! shapes, sends one of these, and renders what comes back. The life of a command is the conductor's, never the request's.

use crate::tag::Tag;
use hardware::{BootMode, Light};
use lifecycle::provision::Verb;
use serde_json::{Map, Value};
use std::net::IpAddr;
use uuid::Uuid;

/// How a node is named in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeIdent {
    /// UUID.
    Uuid(Uuid),
    /// Name.
    Name(String),
}

/// Something to do to one node. Accepted means saved; it then goes on by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `PUT states/provision`.
    Provision {
        /// What to do.
        verb: Verb,
        /// Its arguments, checked for shape.
        arguments: ProvisionArguments,
    },
    /// `PUT states/power`.
    Power {
        /// What to do.
        target: PowerTarget,
        /// Seconds.
        timeout: Option<u64>,
    },
    /// `PUT` and `DELETE maintenance`.
    Maintenance {
        /// On or off.
        on: bool,
        /// Why.
        reason: Option<String>,
    },
    /// `PUT management/boot_device`.
    BootDevice {
        /// `pxe`, `disk`, `cdrom`, ….
        device: String,
        /// For good or for the next boot only.
        persistent: bool,
    },
    /// `PUT` and `DELETE traits`: all of the node's traits, checked for shape.
    Traits(Vec<String>),
    /// `PATCH` of the node: RFC 6902 operations `add`, `replace`, `remove`, checked for shape and version.
    Patch {
        /// The operations in order.
        operations: Vec<PatchOperation>,
        /// Recompute interfaces that are not named.
        reset_interfaces: bool,
        /// What the node has to be for it; anything when unset.
        expected: Option<Vec<Tag>>,
    },
    /// `POST vmedia`: the image becomes a CD of the machine.
    InsertMedia {
        /// Where the BMC gets it from.
        url: String,
    },
    /// `DELETE vmedia`: whatever is inserted is taken out.
    EjectMedia,
    /// `PUT states/raid`: the configuration that cleaning shall make.
    TargetRaid(Map<String, Value>),
    /// `PUT states/boot_mode`.
    BootMode(BootMode),
    /// `PUT states/secure_boot`: on or off.
    SecureBoot(bool),
    /// `PUT management/inject_nmi`.
    InjectNmi,
    /// `PUT management/indicators`.
    Indicator {
        /// What it is on.
        component: String,
        /// Its name.
        name: String,
        /// What it shall say.
        light: Light,
    },
    /// `PUT states/console`.
    Console {
        /// On or off.
        on: bool,
    },
}

/// Arguments of provision verbs; which verb takes which is checked by the API.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProvisionArguments {
    /// Config drive: text (base64 or URL) or an object with `meta_data`, `network_data`, `user_data`, `vendor_data`.
    pub configdrive: Option<Value>,
    /// Steps of `clean`.
    pub clean_steps: Option<Vec<Map<String, Value>>>,
    /// Steps of `active` and `rebuild`.
    pub deploy_steps: Option<Vec<Map<String, Value>>>,
    /// Steps of `service`.
    pub service_steps: Option<Vec<Map<String, Value>>>,
    /// Runbook whose steps `clean` and `service` take: its UUID or name.
    pub runbook: Option<String>,
    /// Password of `rescue`; without one nobody logs in by password.
    pub rescue_password: Option<String>,
    /// Public keys of `rescue`, checked, in the place of those of the node.
    pub rescue_authorized_keys: Option<Vec<String>>,
    /// Do not boot a ramdisk for `clean` and `service`.
    pub disable_ramdisk: Option<bool>,
}

/// Targets of `PUT states/power`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerTarget {
    /// `power on`
    On,
    /// `power off`
    Off,
    /// `rebooting`
    Reboot,
    /// `soft power off`
    SoftOff,
    /// `soft rebooting`
    SoftReboot,
}

/// One operation of a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchOperation {
    /// What.
    pub op: PatchOp,
    /// Where, as its parts, unescaped; never empty.
    pub path: Vec<String>,
    /// With what.
    pub value: Option<Value>,
}

/// Operations of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchOp {
    /// Add or replace.
    Add,
    /// Replace what is there.
    Replace,
    /// Remove what is there.
    Remove,
}

/// What an agent says that it is when it looks its node up. The source address is for logs; it is never an identity.
#[derive(Debug, Clone, PartialEq)]
pub struct LookupRequest {
    /// MAC addresses, lower case, valid ones only.
    pub addresses: Vec<String>,
    /// UUID, when the agent was told.
    pub node: Option<Uuid>,
    /// Whether a token may be made (since 1.62).
    pub token: bool,
    /// Where from.
    pub peer: Option<IpAddr>,
}
