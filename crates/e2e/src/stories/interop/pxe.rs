//! A server with a BIOS that boots the ramdisk from the network: iPXE of its network card, and Ironic's boot scripts.

use super::super::World;
use super::disk;
use super::site::{BOOT_LIMIT, SERVING, Site};
use crate::firmware::Firmware;
use crate::server::ServerSpec;
use crate::witness::Witness;
use anyhow::{Result, ensure};

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let spec = ServerSpec { firmware: Firmware::SeaBios, ..ServerSpec::default() };
    let mut site = Site::start_with(world, spec).await?;

    site.world.console.begin("inspect: boot the ramdisk from the network, read the hardware");
    site.drive("inspect", &[]).await?;
    site.saw("inspect wait")?;
    site.expect("manageable").await?;
    let stored = site.inventory().await?;
    let boot = &stored["inventory"]["boot"];
    ensure!(boot["current_boot_mode"] == "bios", "the boot mode is {boot}");
    // Ironic's script says BOOTIF=${mac}.
    ensure!(boot["pxe_interface"] == site.server.mac.as_str(), "the interface that was booted from is {boot}");
    site.world.console.end(&boot.to_string());

    site.world.console.begin("provide: automated cleaning");
    site.drive("provide", &[]).await?;
    site.saw("clean wait")?;
    site.expect("available").await?;
    disk::has_no_table(&site.server)?;
    site.world.console.end("the older system's partition table is gone");

    let offered = site.choose("new.raw", 96, 2).await?;
    site.world.console.begin("deploy: raw image");
    let before = site.server.serial_len();
    site.drive("deploy", &[]).await?;
    site.saw("wait call-back")?;
    site.expect("active").await?;
    site.says(Witness::Bios.text(), before, BOOT_LIMIT).await?;
    disk::holds(&site.server, &offered.path)?;
    site.world.console.end("the image is on the disk, and the BIOS boots it");

    let boots = site.server.serial_since(0).matches(SERVING).count();
    ensure!(boots == 2, "the ramdisk was booted to be commanded {boots} times; cleaning and deploy are two");
    let fetched = site.ironic.fetched()?;
    let own = format!("/pxelinux.cfg/{}", site.server.mac.replace(':', "-"));
    for file in ["/boot.ipxe", &own, "/deploy_kernel", "/deploy_ramdisk"] {
        ensure!(fetched.contains(file), "nobody fetched {file} from Ironic: {fetched}");
    }
    Ok(())
}
