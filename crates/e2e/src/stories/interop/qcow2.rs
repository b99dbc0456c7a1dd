//! A qcow2, which Ironic hands to the agent as it is: what the disk holds in the end is what qemu-img put into the file.

use super::super::World;
use super::disk;
use super::site::{BOOT_LIMIT, NODE, Site};
use crate::console::mib;
use crate::lab::output;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Result, ensure};
use tokio::process::Command;

const NAME: &str = "new.qcow2";

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut site = Site::start(world).await?;
    site.provide_uncleaned().await?;

    site.world.console.begin("make a qcow2 of compressed clusters");
    let (raw, path) = (site.world.lab.dir().join("new.raw"), site.world.lab.dir().join(NAME));
    WitnessImage { mib: 96, seed: 2 }.write(&raw)?;
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd"]).arg(&raw).arg(&path);
    output(&mut convert).await?;
    let image = site.world.offer(NAME, &path)?;
    site.world.choose_image(NODE, &image).await?;
    site.client(&["node", "set", NODE, "--instance-info", "image_disk_format=qcow2"]).await?;
    site.world.console.end(&mib(image.bytes));

    site.world.console.begin("deploy it");
    let before = site.server.serial_len();
    site.drive("deploy", &[]).await?;
    site.saw("wait call-back")?;
    site.expect("active").await?;
    site.says(Witness::Uefi.text(), before, BOOT_LIMIT).await?;
    disk::holds(&site.server, &raw)?;
    let fetches = site.world.images.fetches(NAME);
    // Ironic looks at the address with HEAD at most, so all that was fetched went to the agent: tables first, by ranges,
    // then the file once.
    let whole = fetches.iter().filter(|fetch| fetch.asked == (0..image.bytes) && fetch.sent == image.bytes).count();
    ensure!(whole == 1, "the image was fetched as a whole {whole} times: {fetches:?}");
    let sent: u64 = fetches.iter().map(|fetch| fetch.sent).sum();
    site.world.console.end(&format!("{} in {} requests; it boots", mib(sent), fetches.len()));
    Ok(())
}
