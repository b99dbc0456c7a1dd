//! What the agent was told: the raw words of the kernel command line ([`cmdline`]) and of virtual media ([`vmedia`]), and
//! what they mean together ([`settings`]).

pub mod cmdline;
pub mod containers;
pub mod files;
pub mod parameters;
pub mod settings;
pub mod vmedia;

pub use cmdline::Words;
pub use containers::Containers;
pub use settings::{Mdns, Settings};
