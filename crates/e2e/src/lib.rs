//! The QEMU harness as a library and one file per story.
//!
//! A [`story`](stories) runs in a world of its own: [`isolate`] starts it in fresh network, mount and process
//! namespaces, so that addresses, ports and paths are the story's alone, and the end of its first process ends all
//! that it started, whatever happened. In there a [`Lab`] has a bridge with DHCP, a libvirt of its own behind
//! sushy-emulator (a third-party Redfish service), [`VirtualServer`]s, an [`ImageServer`] that knows which bytes were
//! fetched, and [`Ferricd`], which is driven through the real `baremetal` command ([`Baremetal`]) or plain requests
//! ([`Api`]).
//!
//! Nothing here knows the inside of Ferric: it starts programs and looks at what they do.

mod api;
mod artifacts;
mod baremetal;
pub mod bench;
pub mod console;
pub mod demo;
mod evidence;
mod ferricd;
mod firmware;
mod image_server;
mod ironic;
pub mod isolate;
mod lab;
mod relay;
mod server;
pub mod stories;
mod trunk;
mod varstore;
mod wait;
mod witness;

pub use api::Api;
pub use artifacts::Artifacts;
pub use baremetal::Baremetal;
pub use evidence::keep as keep_evidence;
pub use ferricd::Ferricd;
pub use firmware::{Accelerator, Boot, Firmware, boot_alone};
pub use image_server::{Fetch, ImageServer};
pub use ironic::Ironic;
pub use lab::{Lab, Process};
pub use server::{Cables, DiskBus, ServerSpec, VirtualServer};
pub use trunk::Trunk;
pub use wait::until;
pub use witness::{Witness, WitnessImage};
