//! The two that are compared, each as its users run it on one machine: one process (of Ironic: one service), SQLite, no
//! authentication, plain HTTP on loopback, power not looked at.

use crate::lab::{Process, output};
use anyhow::{Context as _, Result, bail};
use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Which server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Ironic,
    Ferricd,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ironic => "Ironic",
            Self::Ferricd => "ferricd",
        }
    }
}

/// A server at work.
pub(super) struct Server {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    /// The program of ferricd, or the environment of Ironic.
    program: PathBuf,
    dir: PathBuf,
    process: Process,
}

/// What a server has used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Its share of memory, KiB: pages that processes share are counted once.
    pub(super) pss: u64,
    /// The most that was resident, KiB, added up over its processes.
    pub(super) peak_rss: u64,
    /// Seconds of processor time.
    pub(super) cpu: f64,
}

impl Server {
    pub(super) async fn start(kind: Kind, program: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("tmp")).with_context(|| format!("create {}", dir.display()))?;
        // Nobody else is given this port before the server takes it, but for a server that asks for the same one.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        if kind == Kind::Ironic {
            fs::write(dir.join("ironic.conf"), ironic_settings(dir, address.port()))?;
            output(ironic(program, dir, "ironic-dbsync").arg("create_schema")).await.context("make the database")?;
        }
        let process = launch(kind, program, dir, address)?;
        let mut server = Self { kind, address, program: program.to_owned(), dir: dir.to_owned(), process };
        server.wait().await?;
        Ok(server)
    }

    async fn wait(&mut self) -> Result<()> {
        let api = self.api();
        crate::until("an API with a conductor", Duration::from_secs(120), async || {
            self.process.check()?;
            let drivers = api.get("/v1/drivers").await.unwrap_or_default();
            Ok(drivers["drivers"].as_array().is_some_and(|drivers| !drivers.is_empty()).then_some(()))
        })
        .await
    }

    pub(super) fn api(&self) -> crate::Api {
        crate::Api::new(&format!("http://{}", self.address))
    }

    /// kill -9, and a start over what was left.
    pub(super) async fn kill_and_start(mut self) -> Result<Self> {
        self.process.kill().await?;
        self.process = launch(self.kind, &self.program, &self.dir, self.address)?;
        self.wait().await?;
        Ok(self)
    }

    pub(super) async fn stop(self) -> Result<()> {
        let processes = self.processes()?;
        self.process.stop(Duration::from_secs(20)).await?;
        // Ironic's workers outlive a service that had to be killed.
        for pid in processes {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
        Ok(())
    }

    /// Its process and all that descend from it.
    fn processes(&self) -> Result<Vec<i32>> {
        let root = self.process.id().context("it has ended")?;
        let mut parents = HashMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse::<i32>().ok()) {
                parents.insert(pid, parent);
            }
        }
        let mut found = vec![root];
        let mut looked = 0;
        while let Some(parent) = found.get(looked).copied() {
            found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
            looked += 1;
        }
        Ok(found)
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        for pid in self.processes()? {
            // One that has ended meanwhile uses nothing.
            let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            usage.pss += kib(&memory, "Pss:");
            usage.peak_rss += kib(&status, "VmHWM:");
            let times = stat(pid).unwrap_or_default();
            // utime and stime, fields 14 and 15 of proc(5); the first two are cut off.
            let time =
                |field: usize| times.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
            usage.cpu += (time(14) + time(15)) / ticks;
        }
        Ok(usage)
    }

    /// Waits until it works no more: what it has promised is done.
    pub(super) async fn rest(&self) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(250);
        let mut before = self.usage()?.cpu;
        for _ in 0..1200 {
            tokio::time::sleep(LOOK).await;
            let now = self.usage()?.cpu;
            if now - before < 0.1 * LOOK.as_secs_f64() {
                return Ok(());
            }
            before = now;
        }
        bail!("{} was still busy five minutes after the load", self.kind.name())
    }
}

/// The fields of `/proc/PID/stat` from the third on: the second, a name, may hold spaces.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

fn ironic(environment: &Path, dir: &Path, program: &str) -> Command {
    let mut command = Command::new(environment.join("bin").join(program));
    command.arg("--config-file").arg(dir.join("ironic.conf")).env("no_proxy", "*").env("HOME", dir).current_dir(dir);
    command
}

fn launch(kind: Kind, program: &Path, dir: &Path, address: SocketAddr) -> Result<Process> {
    let mut command = match kind {
        Kind::Ironic => ironic(program, dir, "ironic"),
        Kind::Ferricd => {
            let mut command = Command::new(program);
            command.env("NO_COLOR", "1").arg("--listen").arg(address.to_string()).arg("--data-dir").arg(dir);
            command.args(["--fast-track", "true", "--restrict-lookup", "false", "--sync-power-state-interval", "0"]);
            command
        }
    };
    Process::start(kind.name(), &mut command, &dir.join("log"))
}

/// The settings of Ironic. What is not here is its default.
fn ironic_settings(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "[DEFAULT]\n\
         auth_strategy = noauth\n\
         host = bench\n\
         my_ip = 127.0.0.1\n\
         rpc_transport = none\n\
         state_path = {dir}\n\
         tempdir = {dir}/tmp\n\
         enabled_hardware_types = fake-hardware\n\
         enabled_bios_interfaces = no-bios\n\
         enabled_boot_interfaces = fake\n\
         enabled_console_interfaces = no-console\n\
         enabled_deploy_interfaces = direct\n\
         enabled_firmware_interfaces = no-firmware\n\
         enabled_inspect_interfaces = no-inspect\n\
         enabled_management_interfaces = fake\n\
         enabled_network_interfaces = noop\n\
         enabled_power_interfaces = fake\n\
         enabled_raid_interfaces = no-raid\n\
         enabled_rescue_interfaces = no-rescue\n\
         enabled_storage_interfaces = noop\n\
         enabled_vendor_interfaces = no-vendor\n\
         [api]\n\
         host_ip = 127.0.0.1\n\
         port = {port}\n\
         restrict_lookup = False\n\
         [conductor]\n\
         sync_power_state_interval = 0\n\
         [database]\n\
         connection = sqlite:///{dir}/ironic.sqlite\n\
         [deploy]\n\
         fast_track = True\n\
         http_root = {dir}/http\n\
         [oslo_concurrency]\n\
         lock_path = {dir}/tmp\n"
    )
}
