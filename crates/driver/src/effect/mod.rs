//! Effects on machines from outside: power, boot device, virtual media. Each is safe to be run twice.
//!
//! [`Machines`] finds the [`OutOfBand`] side of a node by its interfaces; what implements it is a BMC, a fake, or a
//! simulated machine in tests.

pub mod cmdline;
pub mod machines;
pub mod media;

use futures::future::BoxFuture;
use hardware::{BootControl, BootDevice, OutOfBandError, Power, PowerState, VirtualMedia};
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

    /// Whether there is no real machine whose power follows what an agent does.
    fn is_fake(&self) -> bool {
        false
    }
}

impl<T: Power + BootControl + VirtualMedia> OutOfBand for T {
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
}

/// Finds the machine of a node.
pub trait Machines: Send + Sync {
    /// The machine, as the node's settings say now.
    fn of<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, Result<Arc<dyn OutOfBand>, OutOfBandError>>;

    /// Nothing is wanted of the node's machine for the time being: sessions with its BMC end.
    fn release(&self, node: Uuid) -> BoxFuture<'_, ()>;
}
