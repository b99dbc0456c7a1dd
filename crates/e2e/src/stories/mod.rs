//! Stories: what somebody wants to happen, on real programs from end to end. One file each.

pub mod bios_attribute;
pub mod clean_power_cut;
pub mod cli_operator;
pub mod client_lifecycle;
pub mod deploy_debian;
pub mod driver_killed;
pub mod driver_killed_often;
pub mod erase_every_bus;
pub mod erase_lying_device;
pub mod fast_track;
pub mod firmware_update;
pub mod image_server_gone;
pub mod interop;
pub mod ipa;
pub mod lab_works;
mod login;
pub mod machine_reset;
mod operator;
pub mod partition_image;
pub mod rescue_login;
pub mod server_hardware;
pub mod session_nat;
pub mod session_only;
pub mod session_rough;
pub mod small_memory;
pub mod wrong_checksum;

pub use operator::{Image, Service, World};

use anyhow::{Result, bail};

/// A story's name and what it shows.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// What to type.
    pub name: &'static str,
    /// One line for the list.
    pub about: &'static str,
}

/// All stories with our own programs, in the order in which they run. Those with a peer in place of one of them are in
/// [`interop`] and [`ipa`].
pub const STORIES: &[Story] = &[
    Story {
        name: "lab_works",
        about: "the virtual server, its Redfish service and both firmwares do what stories rely on",
    },
    Story {
        name: "deploy_debian",
        about: "from powered off to a Debian that takes its name and key from the config drive",
    },
    Story { name: "wrong_checksum", about: "an image with another checksum never boots, and the next deploy works" },
    Story { name: "client_lifecycle", about: "the real client through the whole life of a node without hardware" },
    Story {
        name: "cli_operator",
        about: "the command `ferric` through the whole life of three nodes without hardware",
    },
    Story { name: "driver_killed", about: "kill -9 of ferricd in the middle of the image write; the deploy goes on" },
    Story {
        name: "driver_killed_often",
        about: "kill -9 of ferricd at random times in inspection, cleaning, deploy and service",
    },
    Story { name: "fast_track", about: "inspection, cleaning and deploy with one pass of the firmware" },
    Story {
        name: "image_server_gone",
        about: "the image server is away for half a minute in the middle of the write; the deploy goes on from there",
    },
    Story {
        name: "bios_attribute",
        about: "virtualization is switched on in the BIOS: one restart, no ramdisk, read back; wrong values are refused",
    },
    Story {
        name: "firmware_update",
        about: "the BIOS is updated by its BMC from a checked image; versions before and after are recorded",
    },
    Story {
        name: "machine_reset",
        about: "the machine is reset in the middle of the write: it boots nothing, and the next deploy works",
    },
    Story {
        name: "partition_image",
        about: "a root file system becomes a Debian that boots; a rebuild preserves its ephemeral partition",
    },
    Story { name: "partition_image_bios", about: "the same for a machine that boots its system by a BIOS, with GRUB" },
    Story {
        name: "rescue_login",
        about: "a rescue: the owner logs in by SSH and looks at the disk, then the installed system boots again",
    },
    Story {
        name: "session_only",
        about: "an agent that does not listen is deployed through the session that it dialled; the write is watched live",
    },
    Story {
        name: "session_nat",
        about: "the same through a slow and lossy relay that is cut for a minute in the middle of the write",
    },
    Story {
        name: "session_rough",
        about: "the same behind a router that starts anew elsewhere, and through a cut of five minutes in which the write ends",
    },
    Story {
        name: "server_hardware",
        about: "profile server erases disks behind nine kinds of controllers and talks over seven kinds of network cards",
    },
    Story {
        name: "small_memory",
        about: "a node with 256 MiB boots profile server and gets a qcow2 that is larger than its memory",
    },
    Story {
        name: "erase_every_bus",
        about: "disks full of data behind NVMe, AHCI, virtio-scsi and virtio-blk are erased; nothing is left, seen from outside",
    },
    Story { name: "erase_lying_device", about: "a disk that keeps data and says that it was erased fails the clean" },
    Story {
        name: "clean_power_cut",
        about: "the power is cut in the middle of an overwrite; the clean goes on afterwards",
    },
];

/// Tells one story in `world`.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn tell(name: &str, world: &mut World) -> Result<()> {
    match name {
        "lab_works" => lab_works::run(world).await,
        "client_lifecycle" => client_lifecycle::run(world).await,
        "cli_operator" => cli_operator::run(world).await,
        "deploy_debian" => deploy_debian::run(world).await,
        "wrong_checksum" => wrong_checksum::run(world).await,
        "driver_killed" => driver_killed::run(world).await,
        "driver_killed_often" => driver_killed_often::run(world).await,
        "fast_track" => fast_track::run(world).await,
        "image_server_gone" => image_server_gone::run(world).await,
        "rescue_login" => rescue_login::run(world).await,
        "server_hardware" => server_hardware::run(world).await,
        "session_nat" => session_nat::run(world).await,
        "session_only" => session_only::run(world).await,
        "small_memory" => small_memory::run(world).await,
        "session_rough" => session_rough::run(world).await,
        "erase_every_bus" => erase_every_bus::run(world).await,
        "erase_lying_device" => erase_lying_device::run(world).await,
        "clean_power_cut" => clean_power_cut::run(world).await,
        "bios_attribute" => bios_attribute::run(world).await,
        "firmware_update" => firmware_update::run(world).await,
        "machine_reset" => machine_reset::run(world).await,
        "partition_image" => partition_image::run(world).await,
        "partition_image_bios" => partition_image::run_bios(world).await,
        _ => {
            if let Some(name) = name.strip_prefix(interop::IRONIC_PREFIX) {
                return interop::tell(name, world).await;
            }
            match name.strip_prefix(ipa::IPA_PREFIX) {
                Some(name) => ipa::tell(name, world).await,
                None => bail!("there is no story {name}; `cargo xtask e2e --list` shows them"),
            }
        }
    }
}
