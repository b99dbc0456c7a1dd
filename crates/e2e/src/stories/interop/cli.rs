//! The `ferric` command as the client of an Ironic that has nodes without hardware: its plain verbs work, and what only
//! Ferric has says so.

use super::super::{World, cli_operator};
use crate::api::Api;
use crate::ferricd::API;
use crate::lab::{Lab, Process, output, tail};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    world.console.begin("start Ironic");
    let mut ironic = start(&world.lab).await?;
    world.console.end(API);
    cli_operator::operate(world, false).await?;
    ironic.check()
}

/// Ironic with hardware type `fake-hardware` alone.
async fn start(lab: &Lab) -> Result<Process> {
    let python = lab.artifacts().ironic.clone().context("no Ironic: `cargo xtask interop ironic` installs it")?;
    let dir = lab.dir().join("ironic");
    for name in ["http", "certificates", "tmp"] {
        fs::create_dir_all(dir.join(name)).with_context(|| format!("create {}", dir.join(name).display()))?;
    }
    let config = dir.join("ironic.conf");
    fs::write(&config, settings(&dir, &lab.logs()))?;
    let program = |name: &str| {
        let mut command = Command::new(python.join("bin").join(name));
        command.arg("--config-file").arg(&config).env("no_proxy", "*").env("HOME", &dir).current_dir(&dir);
        command
    };
    output(program("ironic-dbsync").arg("create_schema")).await.context("make Ironic's database")?;
    let mut process = Process::start("ironic", &mut program("ironic"), &lab.logs().join("ironic.out.log"))?;
    let log: PathBuf = lab.logs().join("ironic.log");
    let api = Api::new(API);
    crate::until("Ironic with a conductor", Duration::from_secs(120), async || {
        process.check().with_context(|| format!("its log ends with: {}", tail(&log, 1500)))?;
        let drivers = api.get("/v1/drivers").await.unwrap_or_default();
        Ok(drivers["drivers"].as_array().is_some_and(|drivers| !drivers.is_empty()).then_some(()))
    })
    .await?;
    Ok(process)
}

fn settings(dir: &Path, logs: &Path) -> String {
    let (dir, logs) = (dir.display(), logs.display());
    let fake =
        ["bios", "boot", "console", "deploy", "firmware", "inspect", "management", "power", "raid", "rescue", "vendor"];
    let fake: String = fake.map(|interface| format!("enabled_{interface}_interfaces = fake\n")).concat();
    format!(
        "[DEFAULT]\n\
         auth_strategy = noauth\n\
         host = interop\n\
         my_ip = 127.0.0.1\n\
         # API and conductor in one process talk without a message queue.\n\
         rpc_transport = none\n\
         log_file = {logs}/ironic.log\n\
         state_path = {dir}\n\
         tempdir = {dir}/tmp\n\
         enabled_hardware_types = fake-hardware\n\
         {fake}\
         enabled_network_interfaces = noop\n\
         enabled_storage_interfaces = noop\n\
         [agent]\n\
         certificates_path = {dir}/certificates\n\
         [api]\n\
         host_ip = 127.0.0.1\n\
         port = 6385\n\
         [database]\n\
         connection = sqlite:///{dir}/ironic.sqlite\n\
         [deploy]\n\
         http_root = {dir}/http\n\
         [dhcp]\n\
         dhcp_provider = none\n\
         [inventory]\n\
         data_backend = database\n\
         [oslo_concurrency]\n\
         lock_path = {dir}/tmp\n"
    )
}
