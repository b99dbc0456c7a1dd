//! A qcow2 of compressed clusters, which the agent converts, and a service step that puts a file into what it wrote.

use super::super::World;
use super::super::interop::disk;
use super::site::{BOOT, NODE, SERVICE_STEP, Site};
use crate::console::mib;
use crate::lab::output;
use crate::witness::WitnessImage;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::io::Read as _;
use tokio::process::Command;

const NAME: &str = "new.qcow2";
const FILE: &str = "serviced.txt";
const CONTENT: &str = "put here by a service step";
/// The same in base64 (RFC 4648, section 4), as the step takes it.
const ENCODED: &str = "cHV0IGhlcmUgYnkgYSBzZXJ2aWNlIHN0ZXA=";

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
    convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&path);
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
    site.boots_disk(before).await?;
    disk::holds(&site.server, &raw)?;
    site.world.console.end("its content is on the disk and boots");

    site.world.console.begin("service: a file for the first partition");
    let files = json!([{"path": format!("/{FILE}"), "partition": "1", "content": ENCODED}]);
    let steps = json!([{"interface": "deploy", "step": "inject_files", "args": {"files": files}}]).to_string();
    let before = site.server.serial_len();
    site.drive("service", &["--service-steps", &steps]).await?;
    site.saw("service wait")?;
    let node = site.expect("active").await?;
    ensure!(node["last_error"].is_null(), "last_error after servicing: {}", node["last_error"]);
    site.said(BOOT, 1, before)?;
    site.said(SERVICE_STEP, 1, before)?;
    site.boots_disk(before).await?;
    let esp = disk::partition(&site.server, 1)?;
    let volume = fatfs::FileSystem::new(std::io::Cursor::new(esp), fatfs::FsOptions::new()).context("read the ESP")?;
    let mut found = String::new();
    let file = volume.root_dir().open_file(FILE).with_context(|| format!("open {FILE} in the ESP"));
    file?.read_to_string(&mut found)?;
    ensure!(found == CONTENT, "{FILE} holds {found:?}");
    site.world.console.end("it is on the disk, and the instance boots as before");
    Ok(())
}
