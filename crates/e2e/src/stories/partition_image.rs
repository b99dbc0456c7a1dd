//! A partition image: Debian's root file system alone becomes a machine that boots, with swap space, scratch space and
//! config drive around it; a rebuild brings the system anew and preserves what is in the scratch space.
//!
//! Told for UEFI and for a BIOS. Our driver boots the ramdisk by UEFI; a machine that is to boot its system by a BIOS is one
//! that has both, and is switched over in between, by hand.

use super::World;
use super::deploy_debian::{NODE, first_login, ssh};
use crate::ferricd::Ferricd;
use crate::firmware::Firmware;
use crate::lab::output;
use crate::server::{ServerSpec, VirtualServer};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::path::Path;
use tokio::process::Command;

/// Profile `server` of the ramdisk is larger than `vm`; it has mke2fs.
const MEMORY_MIB: u32 = 512;
/// What the installed system keeps in its scratch space.
const MARKER: &str = "kept by the tenant";

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    tell(world, Firmware::Ovmf, "/dev/vda2", "/dev/vda3").await
}

/// Tells it of a machine that boots its system by a BIOS: in place of one ESP there are GRUB's two partitions.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run_bios(world: &mut World) -> Result<()> {
    tell(world, Firmware::SeaBios, "/dev/vda3", "/dev/vda4").await
}

async fn tell(world: &mut World, firmware: Firmware, scratch: &str, swap: &str) -> Result<()> {
    let artifacts = world.lab.artifacts().clone();
    let remedy = "`cargo xtask e2e partition_image` makes it";
    let ramdisk = artifacts.server_ramdisk.with_context(|| format!("--server-ramdisk is missing: {remedy}"))?;
    let root = artifacts.debian_root.with_context(|| format!("--debian-root is missing: {remedy}"))?;
    let mut ferricd = Ferricd::start_with_ramdisk(&world.lab, &ramdisk).await?;
    let server =
        VirtualServer::define(&world.lab, &ServerSpec { memory_mib: MEMORY_MIB, ..ServerSpec::default() }).await?;
    world.enroll(&server, NODE).await?;
    world.make_available(&mut ferricd, NODE).await?;
    let key = world.lab.dir().join("id_ed25519");
    output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).await?;

    choose(world, &root, firmware).await?;
    world.console.begin("deploy: root file system, boot loader, swap, ephemeral, config drive");
    let drive = config_drive(&server, &key, "first")?;
    world.drive(&mut ferricd, "deploy", NODE, &["--config-drive", &drive]).await?;
    world.expect_state(NODE, "active").await?;
    world.console.end("");

    world.console.begin("boot Debian from disk and log in");
    switch(world, &server, Firmware::Ovmf, firmware).await?;
    let hostname = first_login(world, &server, &key).await?;
    ensure!(hostname == "first", "the installed system calls itself {hostname:?}");
    let on = async |command: &str| sudo(&server, &key, command).await;
    let uefi = on("find /sys/firmware -maxdepth 1 -name efi").await?;
    ensure!(uefi.is_empty() == (firmware == Firmware::SeaBios), "the installed system says of UEFI: {uefi:?}");
    let first = on("findmnt -no PARTUUID /").await?;
    let found = on("blkid -L swap1").await?;
    ensure!(found == swap, "the swap space is {found:?}");
    let found = on("blkid -L ephemeral0").await?;
    ensure!(found == scratch, "the scratch space is {found:?}");
    let sound = on(&format!("e2fsck -f -n {scratch}")).await?;
    ensure!(sound.contains("ephemeral0"), "e2fsck says {sound:?}");
    on(&format!("mount {scratch} /mnt")).await?;
    let user = on("tee /mnt/marker < /etc/marker").await?;
    ensure!(user == MARKER, "the user data of the config drive were not applied: {user:?}");
    on("umount /mnt").await?;
    on("sync").await?;
    world.console.end(&format!("host name {hostname}, root {first}, swap {swap}, ephemeral {scratch}"));

    world.console.begin("rebuild, and preserve the ephemeral partition");
    switch(world, &server, firmware, Firmware::Ovmf).await?;
    world.baremetal.run(&["node", "set", NODE, "--instance-info", "preserve_ephemeral=true"]).await?;
    let drive = config_drive(&server, &key, "second")?;
    world.drive(&mut ferricd, "rebuild", NODE, &["--config-drive", &drive]).await?;
    world.expect_state(NODE, "active").await?;
    world.console.end("");
    world.console.begin("boot the second system and look for the marker");
    switch(world, &server, Firmware::Ovmf, firmware).await?;
    let hostname = first_login(world, &server, &key).await?;
    ensure!(hostname == "second", "the installed system calls itself {hostname:?}");
    let second = sudo(&server, &key, "findmnt -no PARTUUID /").await?;
    ensure!(second != first, "the root partition is still {first}");
    sudo(&server, &key, &format!("mount {scratch} /mnt")).await?;
    let marker = sudo(&server, &key, "cat /mnt/marker").await?;
    ensure!(marker == MARKER, "the marker in the scratch space is {marker:?}");
    world.console.end(&format!("host name {hostname}, root {second}, the marker is there"));
    Ok(())
}

/// Switches the machine over, and on.
async fn switch(world: &World, server: &VirtualServer, from: Firmware, to: Firmware) -> Result<()> {
    if from == to {
        return Ok(());
    }
    server.pull_the_plug().await?;
    server.change_firmware(&world.lab, from, to).await?;
    server.press_power().await
}

/// Tells the node to take the image.
async fn choose(world: &World, root: &Path, firmware: Firmware) -> Result<()> {
    let image = world.offer("debian-root.raw.zst", root)?;
    world.choose_image(NODE, &image).await?;
    let mut arguments = vec!["node", "set", NODE];
    for pair in ["image_type=partition", "root_gb=2", "swap_mb=256", "ephemeral_gb=1"] {
        arguments.extend(["--instance-info", pair]);
    }
    if firmware == Firmware::SeaBios {
        arguments.extend(["--instance-info", r#"capabilities={"boot_mode": "bios"}"#]);
    }
    world.baremetal.run(&arguments).await.map(drop)
}

fn config_drive(server: &VirtualServer, key: &Path, name: &str) -> Result<String> {
    let public = std::fs::read_to_string(key.with_extension("pub")).context("read the public key")?;
    let user_data = format!("#cloud-config\nwrite_files:\n- path: /etc/marker\n  content: {MARKER}\n");
    let meta_data = json!({"uuid": format!("{}-{name}", server.uuid), "name": name, "hostname": name,
        "public_keys": {"demo": public.trim()}});
    Ok(json!({"meta_data": meta_data, "user_data": user_data}).to_string())
}

/// Runs a command on the installed system as root.
async fn sudo(server: &VirtualServer, key: &Path, command: &str) -> Result<String> {
    let said = ssh(server, key, &["sudo", command]).await.with_context(|| format!("run {command:?}"))?;
    Ok(said.trim().to_owned())
}
