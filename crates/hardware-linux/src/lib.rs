//! The in-band implementation of hardware: what a machine tells about itself in sysfs, procfs and SMBIOS, and what is done
//! to it through ioctls and firmware variables.
//!
//! It is the only crate that runs a program ([`exec`]) and, in [`sys`], the only one with `unsafe` code. No `udev` is needed:
//! a ramdisk has none.

pub mod block;
pub mod bmc;
pub mod boot;
pub mod clock;
pub mod contents;
mod cpu;
mod device;
pub mod exec;
mod holders;
mod interfaces;
pub mod lldp;
mod machine;
mod maintain;
mod medium;
pub mod power;
mod pstore;
pub mod signature;
pub mod smbios;
mod sys;
mod tree;

pub use exec::{Exec, ExecError, Finished};
pub use lldp::Lldp;
pub use machine::LinuxMachine;
pub use tree::Tree;
