//! One BMC and the system that is meant, behind the traits of `hardware`.

use crate::boot::{BootMode, BootRequest, BootTarget};
use crate::connection::Connection;
use crate::error::RedfishError;
use crate::power::ReportedPower;
use crate::resource::Resource;
use crate::settings::{Settings, SystemId};
use hardware::{
    BiosControl, BiosDifference, BiosSetting, BiosValues, BootControl, BootDevice, FirmwareComponent, FirmwareControl,
    FirmwareUpdate, Indicator, Light, Management, OutOfBandError, Power, PowerState, StagedBios, UpdateState,
    VirtualMedia,
};
use std::path::Path;
use std::time::Duration;
use tokio::sync::OnceCell;

/// How patient to be with a BMC.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To make a connection.
    pub connect: Duration,
    /// To answer one request. BMCs fetch an image before they answer that it is inserted.
    pub request: Duration,
    /// To take a file.
    pub push: Duration,
    /// Largest answer, bytes.
    pub reply_bytes: usize,
    /// How often a repeatable request is sent, at least 1.
    pub tries: u32,
    /// Pause before the second try; the third waits twice as long, and so on.
    pub pause: Duration,
    /// Longest pause, also when the BMC asks for more (`Retry-After`).
    pub longest_pause: Duration,
    /// Between two looks at whether a change has become true.
    pub poll: Duration,
    /// For a power change to become true (Ironic: `power_state_change_timeout`).
    pub power: Duration,
    /// For boot settings and media to become true.
    pub settle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(60),
            push: Duration::from_secs(500),
            reply_bytes: 4 << 20,
            tries: 4,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(15),
            poll: Duration::from_secs(1),
            power: Duration::from_secs(60),
            settle: Duration::from_secs(60),
        }
    }
}

/// One system of one BMC. Keeps its session and connections: make it once for a node and use it again.
pub struct Redfish {
    pub(crate) connection: Connection,
    pub(crate) limits: Limits,
    wanted: Option<SystemId>,
    system: OnceCell<String>,
}

impl std::fmt::Debug for Redfish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redfish").field("bmc", &self.connection.bmc()).field("system", &self.wanted).finish()
    }
}

impl Redfish {
    /// Prepares to talk to a BMC; nothing is sent yet.
    ///
    /// # Errors
    /// [`RedfishError::CaFile`] or [`RedfishError::Trust`] when `redfish_verify_ca` is not usable.
    pub async fn new(settings: Settings, limits: Limits) -> Result<Self, RedfishError> {
        let connection = Connection::new(&settings, limits).await?;
        Ok(Self { connection, limits, wanted: settings.system, system: OnceCell::new() })
    }

    /// Looks whether the BMC answers, the credentials are good and the system is there; for the verification of a node.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn check(&self) -> Result<(), RedfishError> {
        self.system().await.map(drop)
    }

    /// Ends the session at the BMC. A BMC has few sessions, so call this when a node is let go.
    pub async fn close(&self) {
        self.connection.close().await;
    }

    /// The system's document, fresh.
    pub(crate) async fn system(&self) -> Result<Resource, RedfishError> {
        let path = self.system.get_or_try_init(|| self.find_system()).await?;
        self.connection.get(path, path).await
    }

    async fn find_system(&self) -> Result<String, RedfishError> {
        if let Some(SystemId::Path(path)) = &self.wanted {
            return Ok(path.clone());
        }
        let root = self.connection.root().await?;
        let systems =
            root.link(&["Systems"]).ok_or_else(|| root.unsupported("it has no Systems; is it a server's BMC?"))?;
        let members = self.connection.members(&root.path, systems).await?;
        let unclear = |problem: String| RedfishError::System {
            bmc: self.connection.bmc(),
            problem,
            members: members.iter().take(20).cloned().collect::<Vec<_>>().join(", "),
        };
        match &self.wanted {
            Some(SystemId::Path(path)) => Ok(path.clone()),
            None => match members.as_slice() {
                [only] => Ok(only.clone()),
                [] => Err(root.unsupported("its Systems are empty; is the chassis populated?")),
                _ => Err(unclear(format!("it has {} systems", members.len()))),
            },
            Some(SystemId::Name(name)) => {
                let last_part = |path: &&String| path.trim_end_matches('/').rsplit('/').next() == Some(name);
                if let Some(path) = members.iter().find(last_part) {
                    return Ok(path.clone());
                }
                for path in &members {
                    let member = self.connection.get(path, path).await?;
                    let is_it = |key| member.text(&[key]).is_some_and(|text| text.eq_ignore_ascii_case(name));
                    if ["Id", "UUID", "Name"].into_iter().any(is_it) {
                        return Ok(path.clone());
                    }
                }
                Err(unclear(format!("none of its systems is {name:?}")))
            }
        }
    }
}

impl Power for Redfish {
    async fn power_state(&self) -> Result<PowerState, OutOfBandError> {
        // On the way means not there yet.
        match self.reported_power().await? {
            ReportedPower::On | ReportedPower::PoweringOff | ReportedPower::Paused => Ok(PowerState::On),
            ReportedPower::Off | ReportedPower::PoweringOn => Ok(PowerState::Off),
        }
    }

    async fn set_power(&self, state: PowerState) -> Result<(), OutOfBandError> {
        Ok(self.turn(state).await?)
    }

    async fn shut_down(&self, within: Duration) -> Result<(), OutOfBandError> {
        Ok(Redfish::shut_down(self, within).await?)
    }
}

impl BootControl for Redfish {
    async fn set_boot_device(&self, device: BootDevice, persistent: bool) -> Result<(), OutOfBandError> {
        let target = match device {
            BootDevice::Pxe => BootTarget::Pxe,
            BootDevice::Disk => BootTarget::Hdd,
            BootDevice::Cdrom => BootTarget::Cd,
        };
        self.set_boot(BootRequest { target, once: !persistent, mode: Some(BootMode::Uefi) }).await?;
        Ok(())
    }

    async fn boot_device(&self) -> Result<Option<(BootDevice, bool)>, OutOfBandError> {
        let set = self.boot_override().await?;
        let device = match set.target.as_str() {
            "Pxe" => BootDevice::Pxe,
            "Hdd" => BootDevice::Disk,
            "Cd" => BootDevice::Cdrom,
            _ => return Ok(None),
        };
        Ok(Some((device, !set.once)))
    }
}

impl VirtualMedia for Redfish {
    async fn insert(&self, url: &str) -> Result<(), OutOfBandError> {
        Ok(self.insert_cd(url).await?)
    }

    async fn eject(&self) -> Result<(), OutOfBandError> {
        Ok(self.eject_cd().await?)
    }
}

impl Management for Redfish {
    async fn boot_mode(&self) -> Result<Option<hardware::BootMode>, OutOfBandError> {
        Ok(self.read_boot_mode().await?)
    }

    async fn set_boot_mode(&self, mode: hardware::BootMode) -> Result<(), OutOfBandError> {
        Ok(self.change_boot_mode(mode).await?)
    }

    async fn secure_boot(&self) -> Result<Option<bool>, OutOfBandError> {
        Ok(self.read_secure_boot().await?)
    }

    async fn set_secure_boot(&self, on: bool) -> Result<(), OutOfBandError> {
        Ok(self.change_secure_boot(on).await?)
    }

    async fn inject_nmi(&self) -> Result<(), OutOfBandError> {
        Ok(self.send_nmi().await?)
    }

    async fn indicators(&self) -> Result<Vec<Indicator>, OutOfBandError> {
        Ok(self.read_indicators().await?)
    }

    async fn indicator(&self, component: &str, name: &str) -> Result<Option<Light>, OutOfBandError> {
        Ok(self.read_indicator(component, name).await?)
    }

    async fn set_indicator(&self, component: &str, name: &str, light: Light) -> Result<bool, OutOfBandError> {
        Ok(self.switch_indicator(component, name, light).await?)
    }

    async fn bios_settings(&self) -> Result<Vec<BiosSetting>, OutOfBandError> {
        Ok(self.read_bios_settings().await?)
    }

    async fn firmware(&self) -> Result<Vec<FirmwareComponent>, OutOfBandError> {
        Ok(self.read_firmware().await?)
    }
}

impl BiosControl for Redfish {
    async fn check_bios(&self, wanted: &BiosValues) -> Result<BiosValues, OutOfBandError> {
        Ok(self.check_bios_values(wanted).await?)
    }

    async fn stage_bios(&self, wanted: &BiosValues) -> Result<StagedBios, OutOfBandError> {
        Ok(self.stage_bios_values(wanted).await?)
    }

    async fn check_reset(&self) -> Result<(), OutOfBandError> {
        Ok(self.check_bios_reset().await?)
    }

    async fn reset_bios(&self) -> Result<BiosValues, OutOfBandError> {
        Ok(self.reset_bios_values().await?)
    }

    async fn bios_differences(
        &self,
        wanted: &BiosValues,
    ) -> Result<(Vec<BiosDifference>, Vec<String>), OutOfBandError> {
        Ok(self.bios_differences_from(wanted).await?)
    }
}

impl FirmwareControl for Redfish {
    async fn check_updates(&self, updates: &[FirmwareUpdate]) -> Result<(), OutOfBandError> {
        Ok(self.check_update_of(updates).await?)
    }

    async fn fetches_images(&self) -> Result<bool, OutOfBandError> {
        Ok(self.update_service().await?.fetches())
    }

    async fn start_update(
        &self,
        update: &FirmwareUpdate,
        image: Option<&Path>,
    ) -> Result<Option<String>, OutOfBandError> {
        Ok(self.begin_update(update, image).await?)
    }

    async fn tasks(&self) -> Result<Option<Vec<String>>, OutOfBandError> {
        Ok(self.list_tasks().await?)
    }

    async fn updates_since(&self, known: &[String]) -> Result<Option<Vec<String>>, OutOfBandError> {
        Ok(self.list_updates_since(known).await?)
    }

    async fn update_state(&self, task: &str) -> Result<UpdateState, OutOfBandError> {
        Ok(self.read_update(task).await?)
    }
}
