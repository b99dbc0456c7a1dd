//! Everything that crosses the network, as values: the agent protocol ([`agent`]), what agent and driver say to each
//! other on the driver's API ([`ramdisk`]) and in a session ([`session`], [`rpc`]), microversions and error bodies of the Ironic API ([`ironic`]), lines and events
//! of a reply that goes on ([`events`]), and a JSON reader with caps ([`json`]). No sockets here.

pub mod agent;
pub mod authorized_keys;
pub mod events;
pub mod ironic;
pub mod jcs;
pub mod json;
pub mod ramdisk;
pub mod rpc;
pub mod session;
