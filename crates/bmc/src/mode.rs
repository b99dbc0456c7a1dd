//! How the firmware boots: UEFI or BIOS, with secure boot or without.

use crate::boot::BootMode as Name;
use crate::error::RedfishError;
use crate::redfish::Redfish;
use crate::resource::Resource;
use hardware::BootMode;
use serde_json::json;
use tokio::time::Instant;

impl Redfish {
    /// How the system boots; `None` where the BMC does not say.
    ///
    /// # Errors
    /// When the BMC does not answer.
    pub async fn read_boot_mode(&self) -> Result<Option<BootMode>, RedfishError> {
        Ok(mode_of(&self.system().await?))
    }

    /// Makes the system boot so, and returns when the BMC says it.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] when the BMC tells no mode and takes none, [`RedfishError::Late`] when it takes it
    /// and goes on saying another: some apply it when the machine starts the next time.
    pub async fn change_boot_mode(&self, mode: BootMode) -> Result<(), RedfishError> {
        let system = self.system().await?;
        let now = mode_of(&system);
        if now == Some(mode) {
            return Ok(());
        }
        tracing::info!(bmc = system.bmc, ?mode, "setting the boot mode");
        let body = json!({"Boot": {"BootSourceOverrideMode": word(mode)}});
        match self.connection.patch(&system, &body).await {
            Err(error @ RedfishError::Refused { .. }) if now.is_none() => {
                let reason = transport::client::chain(&error);
                return Err(system.unsupported(format!("it tells no boot mode and takes none: {reason}")));
            }
            other => other?,
        }
        if now.is_none() {
            tracing::warn!(bmc = system.bmc, "the BMC took the boot mode and does not say which it is");
            return Ok(());
        }
        let wanted = format!("boot mode {}", word(mode));
        self.settled(&system, wanted, |system| (mode_of(system) == Some(mode), shown(mode_of(system)))).await
    }

    /// Whether secure boot is switched on; `None` where the BMC does not say.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] when the system has no secure boot, else what went wrong.
    pub async fn read_secure_boot(&self) -> Result<Option<bool>, RedfishError> {
        let system = self.system().await?;
        Ok(enabled(&self.secure_boot_of(&system).await?))
    }

    /// Switches secure boot, and returns when the BMC says that it is so.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] when the system has none or boots by BIOS, [`RedfishError::Late`] when the BMC takes
    /// it and goes on saying otherwise: some apply it when the machine starts the next time.
    pub async fn change_secure_boot(&self, on: bool) -> Result<(), RedfishError> {
        let system = self.system().await?;
        let secure = self.secure_boot_of(&system).await?;
        if enabled(&secure) == Some(on) {
            return Ok(());
        }
        if mode_of(&system) == Some(BootMode::Bios) {
            return Err(system.unsupported("secure boot needs UEFI and the boot mode is BIOS; set the boot mode first"));
        }
        tracing::info!(bmc = system.bmc, on, "switching secure boot");
        self.connection.patch(&secure, &json!({"SecureBootEnable": on})).await?;
        let wanted = format!("secure boot {}", if on { "on" } else { "off" });
        let seen = |value: Option<bool>| value.map_or("nothing", |on| if on { "on" } else { "off" }).to_owned();
        self.settled(&secure, wanted, |secure| (enabled(secure) == Some(on), seen(enabled(secure)))).await
    }

    async fn secure_boot_of(&self, system: &Resource) -> Result<Resource, RedfishError> {
        let link = system.link(&["SecureBoot"]).ok_or_else(|| system.unsupported("it has no SecureBoot"))?;
        self.connection.get(&system.path, link).await
    }

    /// Reads a resource until something is true of it, for `limits.settle`.
    async fn settled(
        &self,
        resource: &Resource,
        wanted: String,
        look: impl Fn(&Resource) -> (bool, String),
    ) -> Result<(), RedfishError> {
        let start = Instant::now();
        loop {
            let now = self.connection.get(&resource.path, &resource.path).await?;
            let (done, seen) = look(&now);
            if done {
                return Ok(());
            }
            if start.elapsed() >= self.limits.settle {
                return Err(RedfishError::Late {
                    bmc: now.bmc,
                    resource: now.path,
                    wanted,
                    seen: format!("{seen}; the BMC took it and may apply it when the machine is started again"),
                    within: self.limits.settle,
                });
            }
            tokio::time::sleep(self.limits.poll).await;
        }
    }
}

fn word(mode: BootMode) -> &'static str {
    match mode {
        BootMode::Uefi => Name::Uefi.name(),
        BootMode::Bios => Name::Legacy.name(),
    }
}

fn mode_of(system: &Resource) -> Option<BootMode> {
    let told = system.text(&["Boot", "BootSourceOverrideMode"])?;
    [BootMode::Uefi, BootMode::Bios].into_iter().find(|mode| word(*mode) == told)
}

fn shown(mode: Option<BootMode>) -> String {
    mode.map_or("nothing", word).to_owned()
}

fn enabled(secure: &Resource) -> Option<bool> {
    secure.at(&["SecureBootEnable"])?.as_bool()
}
