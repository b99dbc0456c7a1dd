//! Firmware that a vendor's program installs: an executable of the ramdisk that answers JSON lines as hardware managers do
//! (docs/firmware-manifest.md).

use super::{Device, Installed, Tool};
use crate::external;
use hardware::StepControl;
use hardware_linux::exec::Stopper;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use transport::client::chain;

/// The folder of the programs.
pub(super) const FOLDER: &str = "/usr/libexec/ferric/firmware";
/// How long a program may look for devices, and install one firmware.
const LOOK: Duration = Duration::from_secs(120);
const INSTALL: Duration = Duration::from_secs(3600);
/// Devices of one program.
const MOST_DEVICES: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    id: String,
    #[serde(default)]
    vendor: String,
    model: String,
    version: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    version: String,
    #[serde(default)]
    reboot: bool,
}

fn program(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let there = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut there: Vec<String> = there.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    there.sort();
    there.push("nvme, which is built in".to_owned());
    Err(format!("there is no tool {name} in {} of this ramdisk; there are {}", folder.display(), there.join(", ")))
}

fn call(
    program: &Path,
    method: &str,
    params: Value,
    limit: Duration,
    control: Option<&dyn StepControl>,
) -> Result<Value, String> {
    // It is not stopped half-way: a device with half a firmware may be lost.
    let mut tell = |progress| {
        if let Some(control) = control {
            control.report(progress);
        }
    };
    external::call(program, method, params, limit, &Stopper::default(), &mut tell).map_err(|error| chain(&error))
}

/// The devices that a program knows.
pub(super) fn devices(folder: &Path, name: &str) -> Result<Vec<Device>, String> {
    let answer = call(&program(folder, name)?, "inventory", json!({}), LOOK, None)
        .map_err(|why| format!("tool {name} cannot tell which devices there are: {why}"))?;
    let listed: Vec<Listed> = serde_json::from_value(answer.get("devices").cloned().unwrap_or_default())
        .map_err(|error| format!("tool {name} has a wrong list of devices: {error}"))?;
    if listed.len() > MOST_DEVICES {
        return Err(format!("tool {name} has {} devices, and {MOST_DEVICES} are the most", listed.len()));
    }
    let device = |Listed { id, vendor, model, version }| Device {
        tool: Tool::Program(name.to_owned()),
        name: id,
        vendor,
        model,
        version,
        disk: None,
    };
    Ok(listed.into_iter().map(device).collect())
}

/// Has a program install firmware, and asks it again afterwards which version there is.
pub(super) fn install(
    folder: &Path,
    name: &str,
    device: &Device,
    image: &[u8],
    version: &str,
    control: &dyn StepControl,
) -> Result<Installed, String> {
    let file = Image::write(image)?;
    let params = json!({"id": device.name, "file": file.0, "version": version});
    let done = call(&program(folder, name)?, "install", params, INSTALL, Some(control))?;
    let Done { version: said, reboot } = serde_json::from_value(done)
        .map_err(|error| format!("tool {name} did not say which version there is now: {error}"))?;
    let now = devices(folder, name)?.into_iter().find(|other| other.name == device.name);
    let now = now.ok_or_else(|| format!("tool {name} does not find the device any more"))?.version;
    match (now == version, reboot) {
        (true, _) => Ok(Installed { version: now, reboot }),
        // It says itself that it has stored what is to run after the next start.
        (false, true) if said == version => Ok(Installed { version: now, reboot: true }),
        (false, _) => Err(format!("tool {name} says that it is done, and the device runs {now}")),
    }
}

/// A file in memory that is there as long as this value.
struct Image(PathBuf);

impl Image {
    fn write(bytes: &[u8]) -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("firmware-{}", uuid::Uuid::new_v4()));
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let image = Self(path);
        file.and_then(|mut file| file.write_all(bytes)).map_err(|error| format!("{}: {error}", image.0.display()))?;
        Ok(image)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // It is in memory, and goes with the machine at the latest.
        let _ = std::fs::remove_file(&self.0);
    }
}
