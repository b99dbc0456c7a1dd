//! A libvirt of the story's own, and sushy-emulator over it: a Redfish service that we did not write.
//!
//! libvirt's folders are covered by folders of the lab in the story's own mount namespace, so that a libvirt of the
//! machine sees and loses nothing.

use super::process::{Process, output, tail};
use crate::wait::until;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Where sushy-emulator listens; the network namespace is the story's own, so the port is free.
pub(crate) const REDFISH: &str = "http://127.0.0.1:8000";

/// Settings of QEMU processes: no user to change to, no security module, no cgroups, serial ports into plain files.
const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\n\
    stdio_handler = \"file\"\nremember_owner = 0\nnamespaces = []\n";

const LIBVIRTD_CONF: &str = "unix_sock_group = \"root\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n";

const SUSHY_CONF: &str = "SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\n\
    SUSHY_EMULATOR_LISTEN_PORT = 8000\n\
    SUSHY_EMULATOR_LIBVIRT_URI = 'qemu:///system'\n\
    SUSHY_EMULATOR_VMEDIA_VERIFY_SSL = False\n\
    SUSHY_EMULATOR_BOOT_LOADER_MAP = {'UEFI': {'x86_64': '/usr/share/OVMF/OVMF_CODE_4M.fd'}, 'Legacy': {'x86_64': None}}\n\
    SUSHY_EMULATOR_SECURE_BOOT_DISABLED_NVRAM = '/usr/share/OVMF/OVMF_VARS_4M.fd'\n\
    SUSHY_EMULATOR_SECURE_BOOT_ENABLED_NVRAM = '/usr/share/OVMF/OVMF_VARS_4M.ms.fd'\n";

/// The running daemons.
#[derive(Debug)]
pub(super) struct Libvirt {
    virtlogd: Process,
    libvirtd: Process,
    sushy: Process,
}

impl Libvirt {
    /// Starts libvirtd and sushy-emulator with their files below `dir`.
    pub(super) async fn start(dir: &Path, logs: &Path, sushy: &Path) -> Result<Self> {
        cover(dir, "etc", "/etc/libvirt")?;
        // All of /run: libvirt keeps sockets and process files there, and must not find the machine's D-Bus.
        cover(dir, "run", "/run")?;
        cover(dir, "lib", "/var/lib/libvirt")?;
        cover(dir, "log", "/var/log/libvirt")?;
        cover(dir, "cache", "/var/cache/libvirt")?;
        fs::create_dir_all("/run/libvirt")?;
        fs::write("/etc/libvirt/qemu.conf", QEMU_CONF)?;
        fs::write("/etc/libvirt/libvirtd.conf", LIBVIRTD_CONF)?;
        let virtlogd = Process::start("virtlogd", &mut Command::new("virtlogd"), &logs.join("virtlogd.log"))?;
        let mut libvirtd = Process::start("libvirtd", &mut Command::new("libvirtd"), &logs.join("libvirtd.log"))?;
        let answers = async || {
            libvirtd.check()?;
            Ok(virsh(&["version"]).await.ok())
        };
        until("libvirtd to answer", Duration::from_secs(60), answers).await?;
        let pool = dir.join("pool");
        fs::create_dir_all(&pool)?;
        // sushy-emulator puts the images of virtual media into the pool of this name.
        let pool = pool.to_str().context("the lab's folder is not UTF-8")?;
        virsh(&["pool-define-as", "default", "dir", "--target", pool]).await?;
        virsh(&["pool-start", "default"]).await?;

        let config = dir.join("sushy.conf");
        fs::write(&config, SUSHY_CONF)?;
        let media = dir.join("media");
        fs::create_dir_all(&media)?;
        let mut command = Command::new(sushy.join("bin/sushy-emulator"));
        command.arg("--config").arg(&config).env("TMPDIR", &media).env("PYTHONUNBUFFERED", "1");
        let log = logs.join("sushy-emulator.log");
        let mut sushy = Process::start("sushy-emulator", &mut command, &log)?;
        let listens = async || {
            sushy.check()?;
            Ok(tokio::net::TcpStream::connect("127.0.0.1:8000").await.ok())
        };
        until("sushy-emulator to listen", Duration::from_secs(60), listens).await.with_context(|| tail(&log, 800))?;
        Ok(Self { virtlogd, libvirtd, sushy })
    }

    /// Fails if one of the daemons has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        self.virtlogd.check()?;
        self.libvirtd.check()?;
        self.sushy.check()
    }
}

/// Runs virsh against the lab's libvirt.
pub(crate) async fn virsh(arguments: &[&str]) -> Result<String> {
    output(Command::new("virsh").args(["--quiet", "-c", "qemu:///system"]).args(arguments)).await
}

/// Mounts `dir/name` over `target`; the mount is seen in this mount namespace only.
fn cover(dir: &Path, name: &str, target: &str) -> Result<()> {
    let own: PathBuf = dir.join(name);
    fs::create_dir_all(&own).with_context(|| format!("create {}", own.display()))?;
    fs::create_dir_all(target).with_context(|| format!("create {target}"))?;
    rustix::mount::mount_bind(&own, target).with_context(|| format!("mount {} over {target}", own.display()))
}
