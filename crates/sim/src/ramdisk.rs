//! A ramdisk on a simulated machine: what is on the virtual CD tells the agent where its driver is, as in the real one.

use crate::machine::Machine;
use agent::config::Words;
use agent::state::Closing;
use agent::{Agent, Settings, session};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hardware::Interface;
use hardware_sim::SimMachine;
use http::Request;
use http_body_util::Full;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use transport::client::chain;

/// Between two tries to read a CD: a BMC's connection to where it lies may break.
const MEDIUM_PAUSE: Duration = Duration::from_secs(1);
/// The least memory with which an image is written: it is a small one, and a thousand are written at once.
const IMAGE_BUDGET: u64 = 8 << 20;
/// Wait before a session that failed is begun anew, as in the ramdisk.
const SESSION_PAUSE: Duration = Duration::from_secs(5);

/// Runs until the machine ends, which drops this.
pub(crate) async fn run(machine: Arc<Machine>, boot: u64, medium: String) {
    let span = tracing::info_span!("machine", name = machine.name, boot);
    boot_from(machine, boot, medium).instrument(span).await;
}

async fn boot_from(machine: Arc<Machine>, boot: u64, medium: String) {
    let line = loop {
        match read(&machine, &medium).await {
            Ok(line) => break line,
            Err(error) => tracing::warn!("the CD cannot be read: {error:#}"),
        }
        tokio::time::sleep(MEDIUM_PAUSE).await;
    };
    let settings = settings(&machine, &line);
    let hardware = Arc::new(hardware(&machine, boot));
    let (agent, dispatcher) = match Agent::builder(hardware, settings).build() {
        Ok(built) => built,
        Err(error) => return tracing::error!("there is no agent: {}", chain(&error)),
    };
    machine.carries_out(boot, &dispatcher);
    // What the ramdisk does with a session that has ended (`agent::ramdisk`), without a process to end.
    let stop = CancellationToken::new();
    loop {
        match session::run(&agent, &dispatcher, &stop).await {
            Ok(Some(Closing::Lockdown | Closing::Rescue)) => return std::future::pending().await,
            Ok(None) => return tracing::error!("the session ended without being told to"),
            Err(error) if error.is_locked_out() => {
                tracing::error!("locked down: {}", chain(&error));
                return std::future::pending().await;
            }
            Err(error) => tracing::warn!("{}; trying again", chain(&error)),
        }
        tokio::time::sleep(SESSION_PAUSE).await;
    }
}

/// What the kernel's command line on the CD says, and where this machine is in the network of all.
fn settings(machine: &Machine, line: &str) -> Settings {
    let (address, site) = (machine.address, &machine.site);
    let own = format!(
        "ipa-listen-host={address} ipa-listen-port={} ipa-advertise-host={address} ipa-advertise-port={}",
        site.agent_port, site.callback_port
    );
    let settings = Settings::resolve(&Words::parse(&format!("{line} {own}")), &Words::default());
    Settings { image_budget: IMAGE_BUDGET, ..settings }
}

fn hardware(machine: &Arc<Machine>, boot: u64) -> SimMachine {
    let end = Arc::downgrade(machine);
    let hardware = SimMachine::new().ending_with(move |action| {
        if let Some(machine) = end.upgrade() {
            machine.ended(boot, action);
        }
    });
    let (mac, address) = (machine.mac.clone(), machine.address.to_string());
    hardware.change(|inventory| {
        inventory.interfaces = vec![Interface {
            name: "eth0".to_owned(),
            mac_address: mac,
            ipv4_address: Some(address),
            has_carrier: true,
            ..Interface::default()
        }];
        inventory.hostname.clone_from(&machine.name);
        inventory.cpu.count = 16;
        inventory.cpu.architecture = "x86_64".to_owned();
        inventory.memory.physical_mb = Some(65_536);
        inventory.system_vendor.serial_number.clone_from(&machine.name);
    });
    hardware.set_boot_labels(&["ironic1"]);
    if let Err(error) = hardware.add_file_disk("/dev/vda", machine.disk()) {
        tracing::error!(%error, "the machine has no disk");
    }
    hardware
}

/// Reads the kernel command line from a CD: El Torito's boot image is a file system with one EFI program.
async fn read(machine: &Machine, medium: &str) -> Result<String> {
    let request = Request::get(medium).body(Full::new(Bytes::new()))?;
    let reply = machine.site.client.send(request).await?;
    ensure!(reply.status.is_success(), "{medium} gave {}", reply.status);
    let iso = reply.body;
    tokio::task::spawn_blocking(move || command_line(&iso)).await?
}

/// Bytes of a sector of a CD.
const SECTOR: usize = 2048;

fn command_line(iso: &[u8]) -> Result<String> {
    let number = |at: usize| -> Result<usize> {
        let bytes: [u8; 4] = iso.get(at..at + 4).context("the CD is cut short")?.try_into()?;
        Ok(u32::from_le_bytes(bytes) as usize * SECTOR)
    };
    // El Torito 1.0: the boot record in sector 17 names the catalogue, its second entry the image.
    let catalogue = number(17 * SECTOR + 0x47)?;
    let image = number(catalogue + 40)?;
    let mut esp = iso.get(image..).context("the CD has no boot image")?.to_vec();
    let files = fatfs::FileSystem::new(std::io::Cursor::new(&mut esp), fatfs::FsOptions::new())?;
    let mut program = Vec::new();
    files.root_dir().open_file(media::boot::REMOVABLE_LOADER)?.read_to_end(&mut program)?;
    let line = String::from_utf8(media::pe::cmdline(&program)?.to_vec())?;
    Ok(line.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_from_a_cd_as_ferricd_makes_it() {
        let program = crate::site::boot_program().unwrap();
        let program = media::pe::replace_cmdline(&program, "quiet ipa-api-url=http://a ipa-agent-token=t").unwrap();
        let iso = media::boot::uefi_iso(&program, &[], "VMEDIA_BOOT_ISO").unwrap();
        assert_eq!(command_line(&iso).unwrap(), "quiet ipa-api-url=http://a ipa-agent-token=t");
        assert!(command_line(&iso[..40_000]).is_err());
    }
}
