//! Effects on machines from outside: power, boot device, virtual media. Each is safe to be run twice.
//!
//! [`Machines`] finds the [`OutOfBand`] side of a node by its interfaces; what implements it is a BMC, a fake, or a
//! simulated machine in tests.

pub mod cd;
pub mod cmdline;
pub mod firmware_image;
pub mod machines;
pub mod media;

use futures::future::BoxFuture;
use hardware::{
    BiosControl, BiosDifference, BiosSetting, BiosValues, BootControl, BootDevice, BootMode, FirmwareComponent,
    FirmwareControl, FirmwareUpdate, Indicator, Light, Management, OutOfBandError, Power, PowerState, StagedBios,
    UpdateState, VirtualMedia,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::Node;
use uuid::Uuid;

/// A machine from outside. The traits of `hardware` in a form that can be chosen at run time.
pub trait OutOfBand: Send + Sync {
    /// What the power is now.
    fn power_state(&self) -> BoxFuture<'_, Result<PowerState, OutOfBandError>>;

    /// Makes it so, and returns when it is so.
    fn set_power(&self, state: PowerState) -> BoxFuture<'_, Result<(), OutOfBandError>>;

    /// Asks the operating system to shut down, and returns when the machine is off.
    fn shut_down(&self, within: Duration) -> BoxFuture<'_, Result<(), OutOfBandError>>;

    /// What is booted next and whether for good, as far as it is known.
    fn boot_device(&self) -> BoxFuture<'_, Result<Option<(BootDevice, bool)>, OutOfBandError>>;

    /// Chooses what is booted, the next time or for good.
    fn set_boot_device(&self, device: BootDevice, persistent: bool) -> BoxFuture<'_, Result<(), OutOfBandError>>;

    /// Inserts a CD; done when it is in already.
    fn insert(&self, url: &str) -> BoxFuture<'_, Result<(), OutOfBandError>>;

    /// Takes out whatever is in.
    fn eject(&self) -> BoxFuture<'_, Result<(), OutOfBandError>>;

    /// How its firmware boots; `None` where nobody says.
    fn boot_mode(&self) -> BoxFuture<'_, Result<Option<BootMode>, OutOfBandError>> {
        unsupported("get_boot_mode")
    }

    /// Makes it boot so.
    fn set_boot_mode(&self, _mode: BootMode) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        unsupported("set_boot_mode")
    }

    /// Whether secure boot is on; `None` where nobody says.
    fn secure_boot(&self) -> BoxFuture<'_, Result<Option<bool>, OutOfBandError>> {
        unsupported("get_secure_boot_state")
    }

    /// Switches secure boot.
    fn set_secure_boot(&self, _on: bool) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        unsupported("set_secure_boot_state")
    }

    /// Sends it a non-maskable interrupt.
    fn inject_nmi(&self) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        unsupported("inject_nmi")
    }

    /// Its lights.
    fn indicators(&self) -> BoxFuture<'_, Result<Vec<Indicator>, OutOfBandError>> {
        unsupported("get_supported_indicators")
    }

    /// What a light says; `None` where there is no such light.
    fn indicator<'a>(
        &'a self,
        _component: &'a str,
        _name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Light>, OutOfBandError>> {
        unsupported("get_indicator_state")
    }

    /// Switches a light; `false` where there is no such light.
    fn set_indicator<'a>(
        &'a self,
        _component: &'a str,
        _name: &'a str,
        _light: Light,
    ) -> BoxFuture<'a, Result<bool, OutOfBandError>> {
        unsupported("set_indicator_state")
    }

    /// The settings of its firmware.
    fn bios_settings(&self) -> BoxFuture<'_, Result<Vec<BiosSetting>, OutOfBandError>> {
        unsupported("cache_bios_settings")
    }

    /// The firmware of its parts.
    fn firmware(&self) -> BoxFuture<'_, Result<Vec<FirmwareComponent>, OutOfBandError>> {
        unsupported("cache_firmware_components")
    }

    /// Checks settings of its firmware, and returns them in the types that it wants.
    fn check_bios<'a>(&'a self, _wanted: &'a BiosValues) -> BoxFuture<'a, Result<BiosValues, OutOfBandError>> {
        unsupported("apply_configuration")
    }

    /// Makes them so at the next start; returns those that are otherwise until then.
    fn stage_bios<'a>(&'a self, _wanted: &'a BiosValues) -> BoxFuture<'a, Result<StagedBios, OutOfBandError>> {
        unsupported("apply_configuration")
    }

    /// Whether they can be made as the maker had them.
    fn check_reset(&self) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        unsupported("factory_reset")
    }

    /// Makes them all as the maker had them, at the next start; returns those of which it is known how that is.
    fn reset_bios(&self) -> BoxFuture<'_, Result<BiosValues, OutOfBandError>> {
        unsupported("factory_reset")
    }

    /// Those that are not as wanted, and what the BMC says about that.
    fn bios_differences<'a>(&'a self, _wanted: &'a BiosValues) -> BoxFuture<'a, Result<Differences, OutOfBandError>> {
        unsupported("apply_configuration")
    }

    /// Whether these updates can be made.
    fn check_updates<'a>(&'a self, _updates: &'a [FirmwareUpdate]) -> BoxFuture<'a, Result<(), OutOfBandError>> {
        unsupported("update")
    }

    /// Whether it fetches images by itself.
    fn fetches_images(&self) -> BoxFuture<'_, Result<bool, OutOfBandError>> {
        unsupported("update")
    }

    /// Starts an update; returns where it can be followed.
    fn start_update<'a>(
        &'a self,
        _update: &'a FirmwareUpdate,
        _image: Option<&'a Path>,
    ) -> BoxFuture<'a, Result<Option<String>, OutOfBandError>> {
        unsupported("update")
    }

    /// The tasks that it lists; none where it has no such list.
    fn tasks(&self) -> BoxFuture<'_, Result<Option<Vec<String>>, OutOfBandError>> {
        unsupported("update")
    }

    /// Those that came since `known` and may be updates.
    fn updates_since<'a>(&'a self, _known: &'a [String]) -> BoxFuture<'a, Result<Option<Vec<String>>, OutOfBandError>> {
        unsupported("update")
    }

    /// How an update goes on.
    fn update_state<'a>(&'a self, _task: &'a str) -> BoxFuture<'a, Result<UpdateState, OutOfBandError>> {
        unsupported("update")
    }

    /// Whether there is no real machine whose power follows what an agent does.
    fn is_fake(&self) -> bool {
        false
    }
}

/// Settings that are not as wanted, and what a BMC says about that.
pub type Differences = (Vec<BiosDifference>, Vec<String>);

/// What a machine cannot do. The word is the one by which Ironic calls it.
fn unsupported<'a, T: 'a>(word: &'static str) -> BoxFuture<'a, Result<T, OutOfBandError>> {
    Box::pin(async move { Err(OutOfBandError::Unsupported(word.to_owned())) })
}

impl<T: Power + BootControl + VirtualMedia + Management + BiosControl + FirmwareControl> OutOfBand for T {
    fn power_state(&self) -> BoxFuture<'_, Result<PowerState, OutOfBandError>> {
        Box::pin(Power::power_state(self))
    }

    fn set_power(&self, state: PowerState) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(Power::set_power(self, state))
    }

    fn shut_down(&self, within: Duration) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(Power::shut_down(self, within))
    }

    fn boot_device(&self) -> BoxFuture<'_, Result<Option<(BootDevice, bool)>, OutOfBandError>> {
        Box::pin(BootControl::boot_device(self))
    }

    fn set_boot_device(&self, device: BootDevice, persistent: bool) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(BootControl::set_boot_device(self, device, persistent))
    }

    fn insert(&self, url: &str) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        let url = url.to_owned();
        Box::pin(async move { VirtualMedia::insert(self, &url).await })
    }

    fn eject(&self) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(VirtualMedia::eject(self))
    }

    fn boot_mode(&self) -> BoxFuture<'_, Result<Option<BootMode>, OutOfBandError>> {
        Box::pin(Management::boot_mode(self))
    }

    fn set_boot_mode(&self, mode: BootMode) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(Management::set_boot_mode(self, mode))
    }

    fn secure_boot(&self) -> BoxFuture<'_, Result<Option<bool>, OutOfBandError>> {
        Box::pin(Management::secure_boot(self))
    }

    fn set_secure_boot(&self, on: bool) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(Management::set_secure_boot(self, on))
    }

    fn inject_nmi(&self) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(Management::inject_nmi(self))
    }

    fn indicators(&self) -> BoxFuture<'_, Result<Vec<Indicator>, OutOfBandError>> {
        Box::pin(Management::indicators(self))
    }

    fn indicator<'a>(
        &'a self,
        component: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Light>, OutOfBandError>> {
        Box::pin(Management::indicator(self, component, name))
    }

    fn set_indicator<'a>(
        &'a self,
        component: &'a str,
        name: &'a str,
        light: Light,
    ) -> BoxFuture<'a, Result<bool, OutOfBandError>> {
        Box::pin(Management::set_indicator(self, component, name, light))
    }

    fn bios_settings(&self) -> BoxFuture<'_, Result<Vec<BiosSetting>, OutOfBandError>> {
        Box::pin(Management::bios_settings(self))
    }

    fn firmware(&self) -> BoxFuture<'_, Result<Vec<FirmwareComponent>, OutOfBandError>> {
        Box::pin(Management::firmware(self))
    }

    fn check_bios<'a>(&'a self, wanted: &'a BiosValues) -> BoxFuture<'a, Result<BiosValues, OutOfBandError>> {
        Box::pin(BiosControl::check_bios(self, wanted))
    }

    fn stage_bios<'a>(&'a self, wanted: &'a BiosValues) -> BoxFuture<'a, Result<StagedBios, OutOfBandError>> {
        Box::pin(BiosControl::stage_bios(self, wanted))
    }

    fn check_reset(&self) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(BiosControl::check_reset(self))
    }

    fn reset_bios(&self) -> BoxFuture<'_, Result<BiosValues, OutOfBandError>> {
        Box::pin(BiosControl::reset_bios(self))
    }

    fn bios_differences<'a>(&'a self, wanted: &'a BiosValues) -> BoxFuture<'a, Result<Differences, OutOfBandError>> {
        Box::pin(BiosControl::bios_differences(self, wanted))
    }

    fn check_updates<'a>(&'a self, updates: &'a [FirmwareUpdate]) -> BoxFuture<'a, Result<(), OutOfBandError>> {
        Box::pin(FirmwareControl::check_updates(self, updates))
    }

    fn fetches_images(&self) -> BoxFuture<'_, Result<bool, OutOfBandError>> {
        Box::pin(FirmwareControl::fetches_images(self))
    }

    fn start_update<'a>(
        &'a self,
        update: &'a FirmwareUpdate,
        image: Option<&'a Path>,
    ) -> BoxFuture<'a, Result<Option<String>, OutOfBandError>> {
        Box::pin(FirmwareControl::start_update(self, update, image))
    }

    fn tasks(&self) -> BoxFuture<'_, Result<Option<Vec<String>>, OutOfBandError>> {
        Box::pin(FirmwareControl::tasks(self))
    }

    fn updates_since<'a>(&'a self, known: &'a [String]) -> BoxFuture<'a, Result<Option<Vec<String>>, OutOfBandError>> {
        Box::pin(FirmwareControl::updates_since(self, known))
    }

    fn update_state<'a>(&'a self, task: &'a str) -> BoxFuture<'a, Result<UpdateState, OutOfBandError>> {
        Box::pin(FirmwareControl::update_state(self, task))
    }
}

/// Finds the machine of a node.
pub trait Machines: Send + Sync {
    /// The machine, as the node's settings say now.
    fn of<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, Result<Arc<dyn OutOfBand>, OutOfBandError>>;

    /// Nothing is wanted of the node's machine for the time being: sessions with its BMC end.
    fn release(&self, node: Uuid) -> BoxFuture<'_, ()>;
}
