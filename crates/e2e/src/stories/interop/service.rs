//! A service step on a node that is in use: one that a vendor's manager in the ramdisk offers.

use super::super::World;
use super::disk;
use super::site::{BOOT_LIMIT, NODE, Site};
use crate::lab::output;
use crate::witness::Witness;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use tokio::process::Command;

/// Where the step leaves its mark.
const MARK_AT: u64 = 512 << 10;
const MARK: &str = "serviced by the interop story";

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;
    site.provide_uncleaned().await?;
    let offered = site.choose("new.raw", 64, 2).await?;
    site.world.console.begin("deploy");
    site.drive("deploy", &[]).await?;
    site.expect("active").await?;
    disk::holds(&site.server, &offered.path)?;
    site.world.console.end("");

    site.world.console.begin("service: the step of a manager that was added to the ramdisk");
    let url = site.world.images.offer("initramfs-with-manager", &ramdisk_with_manager(&site).await?);
    site.client(&["node", "set", NODE, "--driver-info", &format!("deploy_ramdisk={url}")]).await?;
    let arguments = json!({"disk": "/dev/vda", "text": MARK});
    let steps = json!([{"interface": "deploy", "step": "leave_mark", "args": arguments}]).to_string();
    let before = site.server.serial_len();
    site.drive("service", &["--service-steps", &steps]).await?;
    site.saw("service wait")?;
    let node = site.expect("active").await?;
    ensure!(node["last_error"].is_null(), "last_error after servicing: {}", node["last_error"]);
    let found = site.server.read_disk(MARK_AT, MARK.len())?;
    ensure!(found == MARK.as_bytes(), "the disk holds {:?} where the step writes", String::from_utf8_lossy(&found));
    site.says(Witness::Uefi.text(), before, BOOT_LIMIT).await?;
    disk::holds(&site.server, &offered.path)?;
    site.world.console.end("the mark is on the disk, and the image boots as before");
    Ok(())
}

/// Our initramfs with one more archive behind it, as an operator adds files: the kernel unpacks both
/// (Documentation/driver-api/early-userspace/buffer-format.rst). It is compressed as ours is: Ironic decompresses a ramdisk
/// that begins like zstd before it builds a medium, and stops at anything else in it.
async fn ramdisk_with_manager(site: &Site<'_>) -> Result<PathBuf> {
    let artifacts = site.world.lab.artifacts();
    let manager = artifacts.interop_manager.as_ref().context("no manager: `cargo xtask interop ironic` builds it")?;
    let root = site.world.lab.dir().join("overlay");
    let folder = root.join("usr/libexec/ferric/managers");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    fs::copy(manager, folder.join("interop")).with_context(|| format!("copy {}", manager.display()))?;
    fs::set_permissions(folder.join("interop"), fs::Permissions::from_mode(0o755))?;
    let names = site.world.lab.dir().join("overlay.names");
    fs::write(
        &names,
        "usr\nusr/libexec\nusr/libexec/ferric\nusr/libexec/ferric/managers\nusr/libexec/ferric/managers/interop\n",
    )?;
    let archive = site.world.lab.dir().join("overlay.cpio");
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format=newc", "--quiet", "--owner=0:0", "-F"]).arg(&archive).current_dir(&root);
    let ended = cpio.stdin(fs::File::open(&names)?).status().await.context("start cpio")?;
    ensure!(ended.success(), "cpio ended with {ended}");
    let packed = archive.with_extension("cpio.zst");
    output(Command::new("zstd").args(["-q", "-f"]).arg(&archive).arg("-o").arg(&packed)).await?;
    let both = site.world.lab.dir().join("initramfs-with-manager");
    let base = artifacts.ramdisk.join("initramfs");
    let mut bytes = fs::read(&base).with_context(|| format!("read {}", base.display()))?;
    bytes.extend(fs::read(&packed)?);
    fs::write(&both, bytes)?;
    Ok(both)
}
