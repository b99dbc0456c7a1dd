//! What a story finds around it: a folder, a bridge with DHCP, a libvirt, a Redfish service.

mod libvirt;
mod process;

pub(crate) use libvirt::{REDFISH, virsh};
pub use process::Process;
pub(crate) use process::{output, tail};

use crate::artifacts::Artifacts;
use crate::firmware::Accelerator;
use anyhow::{Context as _, Result};
use libvirt::Libvirt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Bridge that the virtual servers are plugged into.
pub(crate) const BRIDGE: &str = "br0";

/// Our address on that bridge. The network namespace has no way out, so the subnet can collide with nothing.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The surroundings of one story. Dropping it ends its programs; the end of the story's namespaces ends the rest.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    artifacts: Artifacts,
    accelerator: Accelerator,
    libvirt: Libvirt,
    dnsmasq: Process,
}

impl Lab {
    /// Sets everything up in `dir`. Must run in namespaces of its own, see [`crate::isolate`].
    ///
    /// # Errors
    /// When a program is missing or does not come up; the error carries what it said.
    pub async fn start(dir: &Path, artifacts: &Artifacts, accelerator: Accelerator) -> Result<Self> {
        for name in ["logs", "disks", "libvirt"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let logs = dir.join("logs");
        network().await?;
        let dnsmasq = dhcp(dir, &logs)?;
        let libvirt = Libvirt::start(&dir.join("libvirt"), &logs, &artifacts.sushy).await?;
        Ok(Self { dir: dir.to_owned(), artifacts: artifacts.clone(), accelerator, libvirt, dnsmasq })
    }

    /// Fails if one of the lab's own daemons has ended, so that a story does not wait for what cannot come.
    ///
    /// # Errors
    /// Names the daemon and the end of its output.
    pub fn check(&mut self) -> Result<()> {
        self.dnsmasq.check()?;
        self.libvirt.check()
    }

    /// The story's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Folder of all logs: it is kept when the story fails.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Folder of the virtual servers' disks: their first sectors are kept when the story fails.
    #[must_use]
    pub fn disks(&self) -> PathBuf {
        self.dir.join("disks")
    }

    /// What was built for the story.
    #[must_use]
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// How virtual servers are run here.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// Tells DHCP which address a server gets.
    pub(crate) fn reserve(&self, mac: &str, address: Ipv4Addr, name: &str) -> Result<()> {
        // Any client identifier: firmware, ramdisk and installed system each send their own.
        fs::write(self.dir.join("dhcp-hosts").join(name), format!("{mac},id:*,{address}\n"))
            .context("write a DHCP reservation")
    }

    /// Tells DHCP what iPXE is to fetch.
    pub(crate) fn boot_script(&self, url: &str) -> Result<()> {
        // RFC 2132, 9.5: option 67, the boot file.
        fs::write(self.dir.join("dhcp-options").join("ipxe"), format!("tag:ipxe,67,{url}\n"))
            .context("write the DHCP option for iPXE")
    }
}

async fn network() -> Result<()> {
    let gateway = format!("{GATEWAY}/24");
    for arguments in [
        &["link", "set", "lo", "up"][..],
        &["link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "stp_state", "0"],
        &["addr", "add", &gateway, "dev", BRIDGE],
        &["link", "set", BRIDGE, "up"],
    ] {
        output(Command::new("ip").args(arguments)).await?;
    }
    // /sys shows the network of whoever mounted it; libvirt looks up the bridge there.
    rustix::mount::mount("sysfs", "/sys", "sysfs", rustix::mount::MountFlags::empty(), None)
        .context("mount /sys for the story's network")
}

fn dhcp(dir: &Path, logs: &Path) -> Result<Process> {
    let hosts = dir.join("dhcp-hosts");
    fs::create_dir_all(&hosts)?;
    let options = dir.join("dhcp-options");
    fs::create_dir_all(&options)?;
    let mut dnsmasq = Command::new("dnsmasq");
    dnsmasq
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--log-dhcp",
            "--log-facility=-",
        ])
        .args([&format!("--interface={BRIDGE}"), "--bind-interfaces", "--except-interface=lo", "--pid-file="])
        .arg("--dhcp-range=10.77.0.50,10.77.0.199,255.255.255.0,1h")
        // No router: nothing is reachable beyond the bridge.
        .arg("--dhcp-option=3")
        .arg("--dhcp-authoritative")
        .arg(format!("--dhcp-hostsdir={}", hosts.display()))
        // Network cards that iPXE drives name the features that it has (https://ipxe.org/howto/dhcpd, option 175).
        .args(["--dhcp-match=set:ipxe,175", &format!("--dhcp-optsdir={}", options.display())])
        .arg(format!("--dhcp-leasefile={}", dir.join("dhcp-leases").display()));
    Process::start("dnsmasq", &mut dnsmasq, &logs.join("dnsmasq.log"))
}
