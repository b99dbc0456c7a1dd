//! What the system boots next, by its `Boot` object.

use crate::error::RedfishError;
use crate::redfish::Redfish;
use crate::resource::Resource;
use serde_json::{Map, Value};
use tokio::time::Instant;

/// What to boot (DSP0268, ComputerSystem.BootSource).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootTarget {
    /// Network, PXE.
    Pxe,
    /// Network, UEFI HTTP.
    UefiHttp,
    /// Virtual CD.
    Cd,
    /// Disk.
    Hdd,
}

impl BootTarget {
    /// The names of it, best first. A virtual CD is a USB CD to some BMCs, and the plain name means a real drive.
    fn names(self) -> &'static [&'static str] {
        match self {
            BootTarget::Pxe => &["Pxe"],
            BootTarget::UefiHttp => &["UefiHttp"],
            BootTarget::Cd => &["Cd", "UsbCd"],
            BootTarget::Hdd => &["Hdd"],
        }
    }
}

/// How the firmware boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootMode {
    /// UEFI.
    Uefi,
    /// BIOS.
    Legacy,
}

impl BootMode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            BootMode::Uefi => "UEFI",
            BootMode::Legacy => "Legacy",
        }
    }
}

/// A wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootRequest {
    /// What to boot.
    pub target: BootTarget,
    /// For the next boot only. Some BMCs keep it for good all the same: see [`BootOverride::once`].
    pub once: bool,
    /// Boot mode to set with it; `None` leaves it.
    pub mode: Option<BootMode>,
}

/// What the BMC says about the next boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOverride {
    /// `BootSourceOverrideTarget`.
    pub target: String,
    /// Whether it is for the next boot only. When `once` was asked and this is false, the boot device has to be set
    /// back by hand after the boot, or the machine goes on booting this.
    pub once: bool,
    /// `BootSourceOverrideMode`, where the BMC tells.
    pub mode: Option<String>,
}

impl BootOverride {
    fn of(system: &Resource) -> Self {
        let text = |key| system.text(&["Boot", key]);
        Self {
            target: text("BootSourceOverrideTarget").unwrap_or("None").to_owned(),
            once: text("BootSourceOverrideEnabled") == Some("Once"),
            mode: text("BootSourceOverrideMode").map(str::to_owned),
        }
    }
}

impl Redfish {
    /// What is set now.
    ///
    /// # Errors
    /// When the BMC does not answer.
    pub async fn boot_override(&self) -> Result<BootOverride, RedfishError> {
        Ok(BootOverride::of(&self.system().await?))
    }

    /// Sets what is booted next, and reads it back.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] when the BMC does not know the device, [`RedfishError::Late`] when it accepts and
    /// then shows something else.
    pub async fn set_boot(&self, request: BootRequest) -> Result<BootOverride, RedfishError> {
        let system = self.system().await?;
        let (name, body) = body(&system, request)?;
        tracing::info!(bmc = system.bmc, target = name, once = request.once, "setting the boot device");
        let hint = match request.target {
            BootTarget::Cd => "; some BMCs take Cd only while media is inserted, so insert it first",
            BootTarget::Pxe | BootTarget::UefiHttp | BootTarget::Hdd => "",
        };
        self.connection.patch(&system, &body).await.map_err(|error| error.with_hint(hint))?;
        let start = Instant::now();
        loop {
            let now = self.boot_override().await?;
            if now.target == name {
                if request.once && !now.once {
                    tracing::warn!(bmc = system.bmc, target = name, "the BMC keeps the boot device for good");
                }
                return Ok(now);
            }
            if start.elapsed() >= self.limits.settle {
                return Err(RedfishError::Late {
                    bmc: system.bmc,
                    resource: system.path,
                    wanted: format!("boot device {name}"),
                    seen: now.target,
                    within: self.limits.settle,
                });
            }
            tokio::time::sleep(self.limits.poll).await;
        }
    }
}

/// The change to ask for, and the name of the device in it.
fn body(system: &Resource, request: BootRequest) -> Result<(&'static str, Value), RedfishError> {
    const TARGET: &str = "BootSourceOverrideTarget";
    if system.at(&["Boot"]).is_none_or(|boot| !boot.is_object()) {
        return Err(system.unsupported("it has no Boot settings, so its boot device cannot be chosen"));
    }
    let names = request.target.names();
    let allowed = system.texts(&["Boot", &format!("{TARGET}@Redfish.AllowableValues")]);
    let name = match &allowed {
        None => names.first(),
        Some(allowed) => names.iter().find(|name| allowed.contains(name)),
    };
    let Some(&name) = name else {
        let allowed = allowed.unwrap_or_default().join(", ");
        return Err(system.unsupported(format!("it cannot boot from {:?}, only from: {allowed}", request.target)));
    };
    let mut boot = Map::new();
    boot.insert(TARGET.to_owned(), name.into());
    boot.insert("BootSourceOverrideEnabled".to_owned(), if request.once { "Once" } else { "Continuous" }.into());
    // Only where the BMC has the property and it differs: many refuse to be told what they are.
    if let (Some(mode), Some(now)) = (request.mode, system.text(&["Boot", "BootSourceOverrideMode"]))
        && now != mode.name()
    {
        boot.insert("BootSourceOverrideMode".to_owned(), mode.name().into());
    }
    Ok((name, serde_json::json!({ "Boot": boot })))
}
