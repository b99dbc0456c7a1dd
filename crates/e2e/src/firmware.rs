//! Plain QEMU, without libvirt: does KVM work here, and does a disk alone boot?

use crate::lab::{output, tail};
use crate::witness::{self, Witness};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

const QEMU: &str = "qemu-system-x86_64";
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Template of the UEFI variables of a machine.
pub(crate) const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What runs the guests' instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accelerator {
    /// The kernel's virtual machines.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

impl Accelerator {
    /// Boots a guest of a few instructions with KVM. A device node that opens proves nothing: there are machines where
    /// a guest is made and never runs.
    ///
    /// # Errors
    /// When the guest cannot be written.
    pub async fn probe(dir: &Path) -> Result<Self> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let disk = dir.join("kvm-probe.raw");
        fs::write(&disk, witness::boot_sector()).context("write the KVM probe")?;
        let mut qemu = Command::new(QEMU);
        qemu.args(["-accel", "kvm", "-cpu", "host", "-m", "16", "-display", "none", "-nic", "none", "-no-reboot"])
            .args(["-serial", "none", "-monitor", "none", "-device", "isa-debug-exit"])
            .args(["-drive", &format!("file={},format=raw,if=ide,snapshot=on", disk.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut guest = qemu.spawn().context("start qemu-system-x86_64")?;
        let ran = match timeout(Duration::from_secs(5), guest.wait()).await {
            Ok(status) => status?.code() == Some(Witness::Bios.exit_code()),
            Err(_) => {
                guest.kill().await.context("end the KVM probe")?;
                false
            }
        };
        fs::remove_file(&disk).ok();
        Ok(if ran { Self::Kvm } else { Self::Tcg })
    }

    /// Value of QEMU's `-accel`.
    #[must_use]
    pub fn qemu(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    /// Type of a libvirt domain.
    #[must_use]
    pub fn libvirt(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "qemu",
        }
    }
}

impl std::str::FromStr for Accelerator {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err(format!("{name} is not an accelerator; there are kvm and tcg")),
        }
    }
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// The two firmwares that a server may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Firmware {
    /// UEFI
    Ovmf,
    /// Legacy BIOS
    SeaBios,
}

/// What came of a disk that was the only thing to boot from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Boot {
    /// Code from the disk ran; the text is what it showed.
    Booted(String),
    /// The firmware found nothing that it could start; the text is what it said.
    Nothing(String),
}

/// What code of a disk says on the serial console: our witness, a kernel, a boot loader.
const RUNNING: [&str; 4] = ["WITNESS-", "Linux version", "EFI stub:", "GRUB"];

/// What the firmwares say when they have given up. OVMF goes on to its built-in shell, SeaBIOS tells its debug port.
const GIVEN_UP: [&str; 4] = ["UEFI Interactive Shell", "BdsDxe: No bootable option", "Shell>", "No bootable device"];

/// Starts a machine that has `disk` and nothing else (no network, no other media), and tells whether the disk
/// booted. The disk is not written to. Logs go to `logs`.
///
/// # Errors
/// When QEMU cannot be started, ends unexpectedly, or nothing is decided within `limit`.
pub async fn boot_alone(
    disk: &Path,
    firmware: Firmware,
    accelerator: Accelerator,
    logs: &Path,
    limit: Duration,
) -> Result<Boot> {
    let name = match firmware {
        Firmware::Ovmf => "ovmf",
        Firmware::SeaBios => "seabios",
    };
    let stem = format!("alone-{name}-{}", disk.file_stem().unwrap_or_default().to_string_lossy());
    let serial = logs.join(format!("{stem}.serial.log"));
    let debug = logs.join(format!("{stem}.firmware.log"));
    let said = logs.join(format!("{stem}.qemu.log"));
    let vars = logs.join(format!("{stem}.vars.fd"));
    fs::write(&serial, "")?;
    fs::write(&debug, "")?;
    let mut qemu = Command::new(QEMU);
    qemu.args(["-accel", accelerator.qemu(), "-cpu", "max", "-machine", "q35", "-m", "256", "-display", "none"])
        .args(["-nic", "none", "-no-reboot", "-monitor", "none", "-device", "isa-debug-exit"])
        .args(["-device", "virtio-rng-pci"])
        .args(["-serial", &format!("file:{}", serial.display())])
        .args(["-debugcon", &format!("file:{}", debug.display()), "-global", "isa-debugcon.iobase=0x402"])
        .args(["-drive", &format!("file={},format=raw,if=virtio,snapshot=on", disk.display())]);
    if firmware == Firmware::Ovmf {
        fs::copy(OVMF_VARS, &vars).with_context(|| format!("copy {OVMF_VARS}"))?;
        qemu.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={OVMF_CODE}")])
            .args(["-drive", &format!("if=pflash,format=raw,file={}", vars.display())]);
    }
    let out = fs::File::create(&said)?;
    qemu.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).kill_on_drop(true);
    let mut guest = qemu.spawn().context("start qemu-system-x86_64")?;
    let deadline = Instant::now() + limit;
    let verdict = loop {
        let ended = guest.try_wait()?;
        let text = tail(&serial, 64 * 1024) + &tail(&debug, 64 * 1024);
        if let Some(line) = find(&text, &RUNNING) {
            break Boot::Booted(line);
        }
        if let Some(line) = find(&text, &GIVEN_UP) {
            break Boot::Nothing(line);
        }
        ensure!(ended.is_none(), "QEMU ended before anything was decided: {}", tail(&said, 800));
        ensure!(
            Instant::now() < deadline,
            "{name} neither started {} nor gave it up within {} s; its console ends with {:?}",
            disk.display(),
            limit.as_secs(),
            tail(&serial, 300)
        );
        sleep(Duration::from_millis(200)).await;
    };
    guest.kill().await.context("end QEMU")?;
    fs::remove_file(&vars).ok();
    Ok(verdict)
}

fn find(text: &str, needles: &[&str]) -> Option<String> {
    text.lines().find(|line| needles.iter().any(|needle| line.contains(needle))).map(|line| line.trim().to_owned())
}

/// Bytes of a disk image that really take space, by qemu-img.
///
/// # Errors
/// When qemu-img fails.
pub(crate) async fn allocated(disk: &Path) -> Result<u64> {
    let info = output(Command::new("qemu-img").args(["info", "--force-share", "--output=json"]).arg(disk)).await?;
    let info: serde_json::Value = serde_json::from_str(&info).context("read qemu-img's answer")?;
    info["actual-size"].as_u64().context("qemu-img names no actual-size")
}
