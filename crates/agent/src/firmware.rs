//! `update_firmware`: firmware of devices, from inside the machine, as a manifest says. docs/firmware-manifest.md describes it.
//!
//! The order is what makes it safe: the manifest is checked as a whole, devices are asked what they have, what is older is
//! refused, everything is fetched and compared with its digest, and only then is the first device touched. Each device is asked
//! afterwards which version it runs.

mod manifest;
mod nvme;
mod program;

use crate::command::{AgentError, Class};
use crate::files::fetch;
use crate::maintenance::{self, argsinfo, broken, params};
use crate::root_disk;
use crate::state::Shared;
use bytes::Bytes;
use hardware::{Disk, Machine, Progress, StepCall, StepError};
use manifest::{Component, Manifest, Tool};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use transport::client::chain;

/// Bytes of a manifest, and of all firmware of one step: it is held in memory until it is installed.
const MOST_MANIFEST: usize = 1 << 20;
const MOST_FIRMWARE: usize = 64 << 20;

pub(crate) fn arguments() -> Value {
    argsinfo(&[
        (
            "manifest",
            "What is to be installed: a manifest as an object, or the URL of one (docs/firmware-manifest.md)",
            true,
        ),
        ("checksum", "Digest of the manifest when that is a URL, such as sha256:…", false),
        ("dry_run", "Only tells what would be done; false unless given", false),
        ("allow_downgrade", "Whether older versions may be installed, too; false unless given", false),
        ("verify_ca", "Whether to verify TLS certificates. Global agent options are used by default.", false),
    ])
}

/// A device with firmware.
#[derive(Debug, Clone)]
struct Device {
    /// Who installs it.
    tool: Tool,
    /// What the tool calls it; a disk's name, or as a program said.
    name: String,
    vendor: String,
    model: String,
    version: String,
    /// The disk, where it is one.
    disk: Option<Disk>,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, vendor, model, version, .. } = self;
        let vendor = if vendor.is_empty() { String::new() } else { format!("{vendor} ") };
        write!(f, "{name} ({vendor}{model}, {version})")
    }
}

/// What is to be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Install,
    Downgrade,
    /// It has that version.
    Current,
}

/// What came of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Installed {
    /// The version that runs now.
    version: String,
    /// The new one runs after the next start of the machine.
    reboot: bool,
}

pub(crate) async fn update(shared: &Shared, call: StepCall) -> Result<Value, StepError> {
    let args = maintenance::arguments(&call, &arguments())?;
    let dry_run = maintenance::truth(args, "dry_run", false)?;
    let downgrade = maintenance::truth(args, "allow_downgrade", false)?;
    let verify = maintenance::truth(args, "verify_ca", true)?;
    let manifest = read(shared, args.get("manifest"), args.get("checksum"), verify).await?;
    let tools = manifest.programs();
    shared.devices_ready().await;
    let devices = shared.on_machine(move |machine| Ok(devices(machine, &tools, Path::new(program::FOLDER)))).await;
    let devices = devices.map_err(|error| broken(call.kind, chain(&error)))?;
    let devices = devices.map_err(|details| broken(call.kind, details))?;
    let work = plan(&manifest, &devices, downgrade).map_err(|details| broken(call.kind, details))?;
    let unused = unused(&manifest, &devices);
    if !unused.is_empty() {
        tracing::warn!(
            components = unused.join(", "),
            "these components of the manifest fit no device of this machine"
        );
    }
    if dry_run {
        let told = work.iter().map(|(component, device, action)| tell(component, device, *action, None));
        return Ok(json!({"dry_run": true, "devices": told.collect::<Vec<_>>(), "unused": unused}));
    }
    root_disk::may_write(shared, "update_firmware").map_err(|error| maintenance::failed(&error))?;
    let images = images(shared, &work, verify).await.map_err(|details| broken(call.kind, details))?;
    let mut told = install(shared, &call, work, &images).await?;
    told["unused"] = json!(unused);
    Ok(told)
}

/// The manifest from the step's arguments, checked.
async fn read(
    shared: &Shared,
    given: Option<&Value>,
    checksum: Option<&Value>,
    verify: bool,
) -> Result<Manifest, StepError> {
    let checksum = match checksum {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => {
            let digest = text.parse::<disk_image::Digest>();
            Some(digest.map_err(|error| params(format!("checksum: {error}")))?)
        }
        Some(other) => return Err(params(format!("checksum must be a text such as sha256:…, not {other}"))),
    };
    let document = match given {
        Some(Value::String(url)) if url.contains("://") => {
            let bytes = fetch(shared, url, verify, MOST_MANIFEST).await;
            let bytes =
                bytes.map_err(|why| maintenance::failed(&AgentError::failed(format!("the manifest: {why}"))))?;
            if let Some(digest) = checksum.filter(|digest| !digest.is_of(&bytes)) {
                return Err(params(format!(
                    "the manifest at {url} does not have the digest {digest}; nothing was touched"
                )));
            }
            wire::json::read(&bytes).map_err(|error| params(format!("the manifest at {url}: {error}")))?
        }
        Some(document @ Value::Object(_)) => document.clone(),
        _ => return Err(params("manifest must be an object or an http(s) URL")),
    };
    Manifest::read(document).map_err(|why| params(format!("the manifest is refused, and nothing was touched: {why}")))
}

/// Devices of the machine with the versions of their firmware: NVMe drives, and what the programs know.
fn devices(machine: &dyn Machine, programs: &[String], folder: &Path) -> Result<Vec<Device>, String> {
    let mut found = nvme::devices(machine).map_err(|error| chain(&error))?;
    for name in programs {
        found.extend(program::devices(folder, name)?);
    }
    Ok(found)
}

/// What is to be done with which device. An error names all that must not be done.
fn plan<'a>(
    manifest: &'a Manifest,
    devices: &'a [Device],
    downgrade: bool,
) -> Result<Vec<(&'a Component, &'a Device, Action)>, String> {
    let mut work = Vec::new();
    let mut refused = Vec::new();
    for device in devices {
        let mut fitting = manifest.components.iter().filter(|component| component.fits(device));
        let Some(component) = fitting.next() else { continue };
        if let Some(other) = fitting.next() {
            let (one, other) = (&component.component, &other.component);
            refused.push(format!("{device} fits both {one:?} and {other:?}: name its model in one of them"));
            continue;
        }
        let action = match versions(&device.version, &component.version) {
            Ordering::Equal => Action::Current,
            Ordering::Less => Action::Install,
            Ordering::Greater if downgrade => Action::Downgrade,
            Ordering::Greater => {
                let (have, want) = (&device.version, &component.version);
                refused.push(format!(
                    "{device} has {have}, which is newer than {want}: allow_downgrade installs it anyway"
                ));
                continue;
            }
        };
        work.push((component, device, action));
    }
    if !refused.is_empty() {
        return Err(format!("nothing was touched: {}", refused.join("; ")));
    }
    if work.is_empty() {
        let here: Vec<String> = devices.iter().map(ToString::to_string).collect();
        let here = if here.is_empty() { "none".to_owned() } else { here.join(", ") };
        return Err(format!("the manifest fits no device of this machine; devices with firmware are {here}"));
    }
    Ok(work)
}

/// Components that fit no device, by name and model: a slip of the pen, or a manifest for machines of several kinds.
fn unused(manifest: &Manifest, devices: &[Device]) -> Vec<String> {
    let fits_none = |component: &&Component| !devices.iter().any(|device| component.fits(device));
    manifest.components.iter().filter(fits_none).map(|one| format!("{} ({})", one.component, one.model)).collect()
}

/// Compares versions piece by piece: numbers as numbers, letters as letters; what stands between them does not count.
fn versions(one: &str, other: &str) -> Ordering {
    fn pieces(text: &str) -> Vec<(bool, String)> {
        let mut pieces: Vec<(bool, String)> = Vec::new();
        let mut last = None;
        for c in text.chars() {
            let kind = c.is_ascii_alphanumeric().then_some(c.is_ascii_digit());
            match (kind, pieces.last_mut()) {
                (Some(digit), Some((same, piece))) if last == kind && *same == digit => {
                    piece.push(c.to_ascii_lowercase())
                }
                (Some(digit), _) => pieces.push((digit, c.to_ascii_lowercase().to_string())),
                (None, _) => {}
            }
            last = kind;
        }
        pieces
    }
    let (one, other) = (pieces(one), pieces(other));
    let number = |text: &str| text.trim_start_matches('0').to_owned();
    for ((digits, left), (also, right)) in one.iter().zip(&other) {
        let order = if *digits && *also {
            let (left, right) = (number(left), number(right));
            left.len().cmp(&right.len()).then(left.cmp(&right))
        } else {
            left.cmp(right)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    one.len().cmp(&other.len())
}

/// Fetches what is to be installed, and compares it with the digests, all before anything is touched.
async fn images(
    shared: &Shared,
    work: &[(&Component, &Device, Action)],
    verify: bool,
) -> Result<BTreeMap<String, Bytes>, String> {
    let mut images = BTreeMap::new();
    let mut left = MOST_FIRMWARE;
    for (component, _, action) in work {
        let Component { url, digest, .. } = component;
        if *action == Action::Current {
            continue;
        }
        let known = images.get(url).cloned();
        let bytes = match known {
            Some(bytes) => bytes,
            None => fetch(shared, url, verify, left).await.map_err(|why| format!("nothing was touched: {why}"))?,
        };
        if !digest.is_of(&bytes) {
            return Err(format!("{url} does not have the digest {digest} of the manifest; nothing was touched"));
        }
        let length = bytes.len();
        if images.insert(url.clone(), bytes).is_none() {
            left -= length;
        }
    }
    Ok(images)
}

async fn install(
    shared: &Shared,
    call: &StepCall,
    work: Vec<(&Component, &Device, Action)>,
    images: &BTreeMap<String, Bytes>,
) -> Result<Value, StepError> {
    let mut told = Vec::new();
    let total = work.len() as u64;
    for (done, (component, device, action)) in work.into_iter().enumerate() {
        if action == Action::Current {
            told.push(tell(component, device, action, None));
            continue;
        }
        // Between two devices is the safe point: half a firmware is none.
        if call.control.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        let stage = format!("firmware {}", device.name);
        call.control.report(Progress {
            stage,
            done: done as u64,
            total: Some(total),
            rate: 0,
            eta: None,
            stalled: None,
        });
        let image = images.get(&component.url).cloned().unwrap_or_default();
        let (one, version, control) = (device.clone(), component.version.clone(), call.control.clone());
        let installed = shared.on_machine(move |machine| {
            Ok(match &one.tool {
                Tool::Nvme => nvme::install(machine, &one, &image, &version),
                Tool::Program(name) => {
                    let folder = Path::new(program::FOLDER);
                    program::install(folder, name, &one, &image, &version, control.as_ref())
                }
            })
        });
        let failed = |why: String| {
            let done = if told.is_empty() { String::new() } else { format!("; done before: {}", json!(told)) };
            let details = format!("firmware of {device} was not updated to {}: {why}{done}", component.version);
            maintenance::failed(&AgentError::new(Class::CommandExecutionError, details))
        };
        let installed = installed.await.map_err(|error| chain(&error)).and_then(|installed| installed);
        let installed = installed.map_err(failed)?;
        tracing::info!(%device, version = installed.version, reboot = installed.reboot, "firmware installed");
        told.push(tell(component, device, action, Some(installed)));
    }
    let reboot = told.iter().any(|one| one["reboot_required"] == true);
    Ok(json!({"dry_run": false, "reboot_required": reboot, "devices": told}))
}

/// One device in the step's result.
fn tell(component: &Component, device: &Device, action: Action, installed: Option<Installed>) -> Value {
    let mut told = json!({
        "component": component.component, "device": device.name, "model": device.model, "tool": device.tool.name(),
        "before": device.version, "wanted": component.version,
        "action": match action {
            Action::Install => "install",
            Action::Downgrade => "downgrade",
            Action::Current => "none",
        },
    });
    if let Some(Installed { version, reboot }) = installed {
        told["after"] = json!(version);
        told["reboot_required"] = json!(reboot);
    }
    told
}

#[cfg(test)]
mod tests;
