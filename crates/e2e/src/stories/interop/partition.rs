//! A partition image under Ironic: swap space and config drive around a root file system, and a rebuild of it. For UEFI, and for
//! a BIOS that boots the ramdisk from the network: first with a GUID partition table, then with one of DOS.

use super::super::World;
use super::disk;
use super::site::{NODE, Site};
use crate::firmware::Firmware;
use crate::server::ServerSpec;
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

/// From the end of a verb until the installed Debian asks for a login; emulated, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    tell(world, Firmware::Ovmf).await
}

/// Tells it of a machine with a BIOS.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run_bios(world: &mut World) -> Result<()> {
    tell(world, Firmware::SeaBios).await
}

async fn tell(world: &mut World, firmware: Firmware) -> Result<()> {
    let root = world.lab.artifacts().debian_root.clone();
    let root = root.context("--debian-root is missing: `cargo xtask interop ironic partition` makes it")?;
    // GRUB is in profile server.
    let (spec, physical) = (ServerSpec { firmware, ..ServerSpec::default() }, firmware == Firmware::SeaBios);
    let mut site = Site::start_on(world, spec, physical).await?;
    site.provide_uncleaned().await?;
    let image = site.world.offer("debian-root.raw.zst", &root)?;
    site.world.choose_image(NODE, &image).await?;
    let mut arguments = vec!["node", "set", NODE];
    for pair in ["image_type=partition", "root_gb=2", "swap_mb=128"] {
        arguments.extend(["--instance-info", pair]);
    }
    site.client(&arguments).await?;
    for (verb, hostname) in [("deploy", "partition-1"), ("rebuild", "partition-2")] {
        site.world.console.begin(&format!("{verb}: root file system, boot loader, swap, config drive"));
        if (firmware, verb) == (Firmware::SeaBios, "rebuild") {
            let capabilities = "capabilities=boot_mode:bios,disk_label:msdos";
            site.client(&["node", "set", NODE, "--property", capabilities]).await?;
        }
        let before = site.server.serial_len();
        let config_drive = serde_json::json!({"meta_data": {"uuid": hostname, "hostname": hostname}}).to_string();
        site.drive(verb, &["--config-drive", &config_drive]).await?;
        site.expect("active").await?;
        let scratch = site.world.lab.dir().to_owned();
        let metadata = disk::config_drive(&site.server, "/openstack/latest/meta_data.json", &scratch).await?;
        ensure!(metadata.contains(hostname), "the config drive's meta data are {metadata}");
        site.says(&format!("{hostname} login:"), before, BOOT_LIMIT).await?;
        site.world.console.end("Debian boots with the name of its config drive");
    }
    Ok(())
}
